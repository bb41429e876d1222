//! What shards say to each other, as bytes.
//!
//! ```text
//! RG.INNERMSGCOMMAND <sender> <link> <function> <payload> <number>
//!
//! parcels = shard(40) number(u64) parcel*          of one execution, by its id
//! parcel  = length(u32 of what follows) tag(u8) rest
//! rest    = cut(u32) native chunk                  Records of the server
//!         | cut(u32) keyed(u8) number(u64) packed values
//!         | cut(u32) [batches(u32)] | text         the others
//! ask     = call(u64) question     answer = call(u64) ok(u8) text
//! prepare, tell = MessagePack
//! ```
//!
//! Numbers are little-endian.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::topology::SlotsWire;
use crate::engine::{Batch, Body, Chunk, Id, Parcel, ShardId};

/// Changes when shards of older versions can not understand what this one says.
pub const PROTOCOL: u32 = 1;

/// What one shard says to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// Make the part of an execution.
    Prepare(Prepare),
    /// Parcels of an execution.
    Parcels(Id, Vec<Parcel>),
    /// A question.
    Ask(u64, Vec<u8>),
    /// The answer.
    Answer(u64, Result<Vec<u8>, String>),
    /// Something to be known.
    Tell(Vec<u8>),
    /// Nothing: RG.NETWORKTEST.
    Test,
}

/// What an execution is made of on a shard that was not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prepare {
    /// Its id.
    pub id: String,
    /// The shards that take part, the first of them by position, with their slots.
    pub slots: SlotsWire,
    /// Milliseconds that they may be silent.
    pub idle: u64,
    /// Whether its results are kept for whoever asks later.
    pub keep: bool,
    /// What is run.
    pub run: ByteBuf,
}

const READY: u8 = 0;
const RUN: u8 = 1;
const NATIVE: u8 = 2;
const VALUES: u8 = 3;
const ERRORS: u8 = 4;
const END: u8 = 5;
const ENOUGH: u8 = 6;
const CREDIT: u8 = 7;
const ALIVE: u8 = 8;
const FINISHED: u8 = 9;
const TERMINATE: u8 = 10;
const FAILED: u8 = 11;
const ABORT: u8 = 12;

impl Message {
    /// The name on the wire.
    pub(super) fn function(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Parcels(..) => "parcels",
            Self::Ask(..) => "ask",
            Self::Answer(..) => "answer",
            Self::Tell(_) => "tell",
            Self::Test => "RG_NetworkTest",
        }
    }

    /// The payload.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Prepare(prepare) => {
                rmp_serde::to_vec_named(prepare).expect("plain data can always be encoded")
            }
            Self::Parcels(id, parcels) => encode_parcels(*id, parcels),
            Self::Ask(call, question) => {
                let mut out = call.to_le_bytes().to_vec();
                out.extend_from_slice(question);
                out
            }
            Self::Answer(call, answer) => {
                let mut out = call.to_le_bytes().to_vec();
                match answer {
                    Ok(bytes) => {
                        out.push(1);
                        out.extend_from_slice(bytes);
                    }
                    Err(text) => {
                        out.push(0);
                        out.extend_from_slice(text.as_bytes());
                    }
                }
                out
            }
            Self::Tell(word) => word.clone(),
            Self::Test => b"test".to_vec(),
        }
    }

    /// The message of this name with this payload. The error says what is wrong.
    pub(super) fn decode(function: &[u8], payload: &[u8]) -> Result<Self, String> {
        let cut_off = || format!("a message of {} bytes is damaged", payload.len());
        match function {
            b"prepare" => rmp_serde::from_slice(payload)
                .map(Self::Prepare)
                .map_err(|error| format!("a plan can not be read: {error}")),
            b"parcels" => decode_parcels(payload).ok_or_else(cut_off),
            b"ask" => {
                let (call, question) = number(payload).ok_or_else(cut_off)?;
                Ok(Self::Ask(call, question.to_vec()))
            }
            b"answer" => {
                let (call, rest) = number(payload).ok_or_else(cut_off)?;
                let (&ok, text) = rest.split_first().ok_or_else(cut_off)?;
                let answer = if ok == 1 {
                    Ok(text.to_vec())
                } else {
                    Err(String::from_utf8_lossy(text).into_owned())
                };
                Ok(Self::Answer(call, answer))
            }
            b"tell" => Ok(Self::Tell(payload.to_vec())),
            b"RG_NetworkTest" => Ok(Self::Test),
            _ => Err("can not find the callback requested".into()),
        }
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn encode_parcels(id: Id, parcels: &[Parcel]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(id.shard.as_str().as_bytes());
    out.extend_from_slice(&id.number.to_le_bytes());
    for parcel in parcels {
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        encode_parcel(&mut out, parcel);
        // Records are cut long before that.
        let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(slot) = out.get_mut(at..at + 4) {
            slot.copy_from_slice(&len.to_le_bytes());
        }
    }
    out
}

fn encode_parcel(out: &mut Vec<u8>, parcel: &Parcel) {
    let cut = |out: &mut Vec<u8>, tag: u8, cut: usize| {
        out.push(tag);
        out.extend_from_slice(&u32::try_from(cut).unwrap_or(u32::MAX).to_le_bytes());
    };
    match parcel {
        Parcel::Ready => out.push(READY),
        Parcel::Run => out.push(RUN),
        Parcel::Records(batch) => match &batch.body {
            Body::Native(chunk) => {
                cut(out, NATIVE, batch.cut);
                chunk.encode(out);
            }
            Body::Values { bytes, len, keyed } => {
                out.reserve(bytes.len() + 16);
                cut(out, VALUES, batch.cut);
                out.push((*keyed).into());
                out.extend_from_slice(&(*len as u64).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Body::Errors(errors) => {
                cut(out, ERRORS, batch.cut);
                for error in errors {
                    out.extend_from_slice(&(error.len() as u64).to_le_bytes());
                    out.extend_from_slice(error.as_bytes());
                }
            }
        },
        Parcel::End { cut: at } => cut(out, END, *at),
        Parcel::Enough { cut: at } => cut(out, ENOUGH, *at),
        Parcel::Credit { cut: at, batches } => {
            cut(out, CREDIT, *at);
            let batches = u32::try_from(*batches).unwrap_or(u32::MAX);
            out.extend_from_slice(&batches.to_le_bytes());
        }
        Parcel::Alive => out.push(ALIVE),
        Parcel::Finished => out.push(FINISHED),
        Parcel::Terminate => out.push(TERMINATE),
        Parcel::Failed(why) => {
            out.push(FAILED);
            out.extend_from_slice(why.as_bytes());
        }
        Parcel::Abort => out.push(ABORT),
        // Travels as a message of its own.
        Parcel::Prepare { .. } => {}
    }
}

fn decode_parcels(bytes: &[u8]) -> Option<Message> {
    let (shard, rest) = bytes.split_at_checked(40)?;
    let (number, mut rest) = number(rest)?;
    let shard = ShardId::parse(shard)?;
    let mut parcels = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (parcel, tail) = tail.split_at_checked(len)?;
        parcels.push(decode_parcel(parcel)?);
        rest = tail;
    }
    Some(Message::Parcels(Id { shard, number }, parcels))
}

fn decode_parcel(bytes: &[u8]) -> Option<Parcel> {
    let (&tag, rest) = bytes.split_first()?;
    let cut = || {
        let (cut, rest) = rest.split_first_chunk::<4>()?;
        Some((usize::try_from(u32::from_le_bytes(*cut)).ok()?, rest))
    };
    let records = |cut: usize, body: Body| Parcel::Records(Batch { cut, body });
    Some(match tag {
        READY => Parcel::Ready,
        RUN => Parcel::Run,
        NATIVE => {
            let (cut, chunk) = cut()?;
            records(cut, Body::Native(Chunk::decode(chunk)?))
        }
        VALUES => {
            let (cut, rest) = cut()?;
            let (&keyed, rest) = rest.split_first()?;
            let (len, bytes) = self::number(rest)?;
            let body = Body::Values {
                bytes: bytes.to_vec(),
                len: usize::try_from(len).ok()?,
                keyed: keyed != 0,
            };
            records(cut, body)
        }
        ERRORS => {
            let (cut, mut rest) = cut()?;
            let mut errors = Vec::new();
            while !rest.is_empty() {
                let (len, tail) = self::number(rest)?;
                let (text, tail) = tail.split_at_checked(usize::try_from(len).ok()?)?;
                errors.push(String::from_utf8_lossy(text).into_owned());
                rest = tail;
            }
            records(cut, Body::Errors(errors))
        }
        END => Parcel::End { cut: cut()?.0 },
        ENOUGH => Parcel::Enough { cut: cut()?.0 },
        CREDIT => {
            let (cut, rest) = cut()?;
            let (batches, _) = rest.split_first_chunk::<4>()?;
            let batches = usize::try_from(u32::from_le_bytes(*batches)).ok()?;
            Parcel::Credit { cut, batches }
        }
        ALIVE => Parcel::Alive,
        FINISHED => Parcel::Finished,
        TERMINATE => Parcel::Terminate,
        FAILED => Parcel::Failed(String::from_utf8_lossy(rest).into_owned()),
        ABORT => Parcel::Abort,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let id = Id {
            shard: ShardId::ALONE,
            number: 7,
        };
        let mut chunk = Chunk::names();
        chunk.push_name(b"a\0b");
        let batch = |body| Parcel::Records(Batch { cut: 3, body });
        let parcels = [
            Parcel::Ready,
            Parcel::Run,
            batch(Body::Native(chunk)),
            batch(Body::Values {
                bytes: vec![1, 2, 3],
                len: 2,
                keyed: true,
            }),
            batch(Body::Errors(vec!["one".into(), String::new(), "é".into()])),
            Parcel::End { cut: 1 },
            Parcel::Enough { cut: 2 },
            Parcel::Credit { cut: 3, batches: 4 },
            Parcel::Alive,
            Parcel::Finished,
            Parcel::Terminate,
            Parcel::Failed("why".into()),
            Parcel::Abort,
        ];
        let mut messages = vec![
            Message::Parcels(id, Vec::new()),
            Message::Parcels(id, parcels.to_vec()),
        ];
        messages.extend(parcels.map(|parcel| Message::Parcels(id, vec![parcel])));
        messages.push(Message::Prepare(Prepare {
            id: id.to_string(),
            slots: SlotsWire {
                shards: vec![ShardId::ALONE.to_string()],
                ranges: vec![(0, 16383, 0)],
            },
            idle: 5000,
            keep: true,
            run: ByteBuf::from(vec![9; 5]),
        }));
        messages.extend([
            Message::Ask(1, b"q".to_vec()),
            Message::Answer(1, Ok(b"a".to_vec())),
            Message::Answer(2, Err("no".into())),
            Message::Tell(b"t".to_vec()),
            Message::Test,
        ]);
        messages
    }

    #[test]
    fn what_is_said_is_heard() {
        for message in messages() {
            let (function, payload) = (message.function(), message.encode());
            let heard = Message::decode(function.as_bytes(), &payload);
            assert_eq!(heard, Ok(message));
        }
    }

    #[test]
    fn damage_never_panics() {
        for message in messages() {
            let payload = message.encode();
            for cut in 0..payload.len() {
                let _ = Message::decode(message.function().as_bytes(), &payload[..cut]);
            }
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 0xff;
                let _ = Message::decode(message.function().as_bytes(), &damaged);
            }
        }
        assert!(Message::decode(b"nothing", b"").is_err());
    }
}
