//! Plans and registrations as bytes: for the RDB, the AOF, replicas and other shards.
//!
//! ```text
//! sealed = "geartrain" format(u8) crc32(u32 of the payload, little-endian) payload
//! ```
//!
//! The payload is MessagePack with named fields, so that a later version can add some. Callbacks are
//! what the language makes of them, which only the very same language may open: damaged or foreign
//! ones could do harm, hence the checksum and the tag.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use thiserror::Error;

use super::{Chunk, Language, Mode, ReaderSpec, Source, Step, Trigger};

const MAGIC: &[u8] = b"geartrain";
/// Changes when older versions can not read what this one writes.
const FORMAT: u8 = 1;

/// Bytes that are not what they should be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Damage {
    /// Something else.
    #[error("these are not bytes of geartrain")]
    Foreign,
    /// Of a newer version.
    #[error("written in format {0}, which is newer than {FORMAT}: load it with a newer geartrain")]
    Newer(u8),
    /// Cut off.
    #[error("cut off after {0} bytes")]
    Truncated(usize),
    /// Changed.
    #[error("damaged: the checksum does not match")]
    Checksum,
    /// Of the right checksum, but no sense.
    #[error("can not be decoded: {0}")]
    Undecodable(String),
}

/// A callback as its language ships it.
pub type Shipped = ByteBuf;

/// A requirement of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequirementWire {
    /// As it was asked for.
    pub name: String,
    /// Tells it from others of the same name, installed before or after.
    pub build: String,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionWire {
    /// Its id.
    pub id: String,
    /// What the user says of it.
    pub description: Option<String>,
    /// With whose rights it runs.
    pub user: String,
    /// The script.
    pub source: ByteBuf,
    /// What it needs, in the order in which it was asked for.
    pub requirements: Vec<RequirementWire>,
    /// Whether some of that was installed for it.
    #[serde(default)]
    pub installed: bool,
    /// The language its callbacks are shipped in, with its version: `python 3.11`.
    pub language: String,
    /// The version of the module that shipped them.
    pub module: String,
    /// Tells it from others of the same id, of which code runs at the same time or ran before.
    #[serde(default)]
    pub instance: String,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanWire {
    /// Name of the reader.
    pub reader: String,
    /// What the user says of it.
    pub description: Option<String>,
    /// The operations.
    pub steps: Vec<Step<Shipped>>,
}

/// A registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationWire {
    /// Its id.
    pub id: String,
    /// The id of its session.
    pub session: String,
    /// What it runs.
    pub plan: PlanWire,
    /// What it waits for.
    pub trigger: Trigger,
    /// How it runs.
    pub mode: Mode,
    /// Called when it becomes active.
    pub on_registered: Option<Shipped>,
    /// Called right before it is removed.
    pub on_unregistered: Option<Shipped>,
}

/// What changes at once: sessions, and registrations that go and come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleWire {
    /// The sessions of those that come.
    pub sessions: Vec<SessionWire>,
    /// Ids of sessions that others replace.
    pub unlink: Vec<String>,
    /// Ids of registrations that go.
    pub remove: Vec<String>,
    /// Registrations that come, in this order.
    pub add: Vec<RegistrationWire>,
    /// What all shards have after that.
    #[serde(default)]
    pub version: Option<Version>,
}

/// The state of all registrations: of two with the same lineage, the one of more generations is the
/// newer one.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// How often they changed.
    pub generation: u64,
    /// Where they come from.
    pub lineage: String,
}

/// What other shards are told to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunWire {
    /// The plan.
    pub what: WhatWire,
    /// Where its records come from there.
    pub source: SourceWire,
}

/// The plan of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhatWire {
    /// That of a registration, which all shards have.
    Registration(String),
    /// Any.
    Plan {
        /// It.
        plan: Box<PlanWire>,
        /// Its session.
        session: SessionWire,
    },
}

/// The records of a run on another shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceWire {
    /// What is there.
    Server(ReaderSpec),
    /// What a callback makes.
    Callback(Shipped),
    /// These: an encoded chunk.
    Records(ByteBuf),
    /// None but those of the shard that was asked.
    Nothing,
}

impl SourceWire {
    /// The records on this shard, unless a callback makes them; `None` also for damaged ones.
    pub fn source<L: Language>(&self) -> Option<Source<L>> {
        Some(match self {
            Self::Server(spec) => Source::Server(spec.clone()),
            Self::Records(bytes) => Source::Records(Chunk::decode(bytes)?),
            Self::Nothing => Source::Records(Chunk::names()),
            Self::Callback(_) => return None,
        })
    }
}

impl RunWire {
    /// As bytes. What one shard sends to another is not sealed: the connection sees to that.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("plain data can always be encoded")
    }

    /// What [`RunWire::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        rmp_serde::from_slice(bytes).map_err(|error| Damage::Undecodable(error.to_string()))
    }
}

/// Encodes a value.
pub fn seal(value: &impl Serialize) -> Vec<u8> {
    let payload = rmp_serde::to_vec_named(value).expect("plain data can always be encoded");
    let mut sealed = Vec::with_capacity(MAGIC.len() + 5 + payload.len());
    sealed.extend_from_slice(MAGIC);
    sealed.push(FORMAT);
    sealed.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    sealed.extend_from_slice(&payload);
    sealed
}

/// Decodes what [`seal`] made.
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    let cut = Damage::Truncated(bytes.len());
    let rest = match bytes.strip_prefix(MAGIC) {
        Some(rest) => rest,
        None if MAGIC.starts_with(bytes) => return Err(cut),
        None => return Err(Damage::Foreign),
    };
    let Some((&format, rest)) = rest.split_first() else {
        return Err(cut);
    };
    if format > FORMAT {
        return Err(Damage::Newer(format));
    }
    let Some((checksum, payload)) = rest.split_first_chunk::<4>() else {
        return Err(cut);
    };
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    rmp_serde::from_slice(payload).map_err(|error| Damage::Undecodable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::{CommandTrigger, Trigger};
    use super::*;

    fn bundle() -> BundleWire {
        let plan = PlanWire {
            reader: "CommandReader".into(),
            description: None,
            steps: vec![
                Step::Open,
                Step::Map(ByteBuf::from(b"\0pickle".to_vec())),
                Step::Limit { skip: 1, take: 2 },
            ],
        };
        BundleWire {
            add: vec![RegistrationWire {
                id: "x-1".into(),
                session: "s".into(),
                plan,
                trigger: Trigger::Command {
                    what: CommandTrigger::Named("t".into()),
                    in_order: true,
                },
                mode: Mode::Sync,
                on_registered: None,
                on_unregistered: Some(ByteBuf::new()),
            }],
            remove: vec!["x-0".into()],
            ..BundleWire::default()
        }
    }

    #[test]
    fn what_is_sealed_comes_back() {
        assert_eq!(unseal(&seal(&bundle())), Ok(bundle()));
    }

    #[test]
    fn damage_is_told_apart_and_never_panics() {
        let sealed = seal(&bundle());
        for cut in 0..sealed.len() {
            assert!(unseal::<BundleWire>(&sealed[..cut]).is_err());
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x41;
            assert!(unseal::<BundleWire>(&damaged).is_err(), "{at}");
        }
        let mut newer = sealed.clone();
        newer[MAGIC.len()] = FORMAT + 1;
        assert_eq!(unseal::<BundleWire>(&newer), Err(Damage::Newer(FORMAT + 1)));
        assert_eq!(unseal::<BundleWire>(b"MZ"), Err(Damage::Foreign));
        assert_eq!(unseal::<BundleWire>(b"gear"), Err(Damage::Truncated(4)));
        let nonsense = seal(&"a text");
        assert!(matches!(
            unseal::<BundleWire>(&nonsense),
            Err(Damage::Undecodable(_))
        ));
    }
}
