//! The exchange: what shards of one execution say to each other, and who they are.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Chunk, Id, RecordError, ShardId};

/// Records on their way to another shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The cut of the plan that they cross, by its position among the cuts.
    pub cut: usize,
    /// What they are.
    pub body: Body,
}

/// The records of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// As they came from the server.
    Native(Chunk),
    /// Values, as the language packs them.
    Values {
        /// Packed.
        bytes: Vec<u8>,
        /// How many, keys included.
        len: usize,
        /// Whether each has the key that it moved by before it.
        keyed: bool,
    },
    /// Texts of error records.
    Errors(Vec<String>),
}

/// What one shard of an execution says to another.
#[derive(Debug, Clone, PartialEq)]
pub enum Parcel {
    /// What is to be run. From the initiator; the answer is [`Parcel::Ready`] or a failure.
    Prepare {
        /// A [`super::wire::RunWire`].
        run: Arc<[u8]>,
        /// Whether its results are kept for whoever asks later.
        keep: bool,
    },
    /// The shard has it.
    Ready,
    /// All have it: begin.
    Run,
    /// Records.
    Records(Batch),
    /// No more records cross this cut.
    End {
        /// The cut.
        cut: usize,
    },
    /// The shard drops whatever still crosses this cut.
    Enough {
        /// The cut.
        cut: usize,
    },
    /// So many batches were taken out of the inbox: there is room for as many.
    Credit {
        /// The cut.
        cut: usize,
        /// How many.
        batches: usize,
    },
    /// The shard is at work.
    Alive,
    /// The part of the shard is done.
    Finished,
    /// The parts of all shards are done.
    Terminate,
    /// It can not go on, and why.
    Failed(String),
    /// It was stopped.
    Abort,
}

/// Carries parcels of one execution. Never waits.
pub trait Exchange: Send + Sync {
    /// The shard, by its position in the team, that owns a key. The error says why there is none.
    fn owner(&self, key: &[u8]) -> Result<usize, String>;
    /// Sends parcels; those to one shard arrive in order, once. If that can not be, the execution is
    /// told: [`Part::lost`].
    fn send(&self, to: usize, parcels: Vec<Parcel>);
    /// How errors name a shard.
    fn name(&self, shard: usize) -> String;
}

/// The shards of one execution.
pub struct Team {
    /// How many there are.
    pub size: usize,
    /// This one.
    pub me: usize,
    /// The one that was asked.
    pub initiator: usize,
    /// How long they may be silent.
    pub idle: Duration,
    /// What carries their words.
    pub exchange: Box<dyn Exchange>,
}

impl Team {
    /// Whether this shard was asked.
    pub fn is_initiator(&self) -> bool {
        self.me == self.initiator
    }

    /// All shards but this one.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.size).filter(move |&shard| shard != me)
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "shard {} of {}, {} was asked",
            self.me, self.size, self.initiator
        )
    }
}

/// The part of an execution that runs on this shard, for whoever carries parcels.
pub trait Part: Send + Sync {
    /// Parcels of another shard of the team came.
    fn receive(&self, from: usize, parcels: Vec<Parcel>);
    /// Nothing comes from a shard any more.
    fn lost(&self, why: &str);
    /// Slots have other owners than when it began.
    fn moved(&self);
    /// Whether the others are silent for too long.
    fn is_silent(&self, now: Instant) -> bool;
    /// Does what is to be done then; says who was silent if that ends it.
    fn look(&self, now: Instant) -> Option<String>;
}

/// The cluster, as executions and ids need it.
pub trait Shards: Send + Sync {
    /// The id of this shard; zeros while it is the only one.
    fn id(&self) -> ShardId;
    /// All shards, for an execution that starts here; `None` if this is the only one.
    fn team(&self, id: Id) -> Option<Team>;
    /// Parcels for this execution have somebody to go to.
    fn attend(&self, id: Id, part: Weak<dyn Part>);
    /// They have not any more.
    fn leave(&self, id: Id);
    /// Which slot is not, or not for sure, where this execution takes it to be, if there is one. As
    /// the server sees it at this very moment.
    fn moved(&self, id: Id) -> Option<String>;
}

/// A server that is in no cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Shards for Alone {
    fn id(&self) -> ShardId {
        ShardId::ALONE
    }

    fn team(&self, _id: Id) -> Option<Team> {
        None
    }

    fn attend(&self, _id: Id, _part: Weak<dyn Part>) {}

    fn leave(&self, _id: Id) {}

    fn moved(&self, _id: Id) -> Option<String> {
        None
    }
}

/// Values as a language packs them, with those that it could not.
#[derive(Debug, Default)]
pub struct Packed {
    /// All others.
    pub bytes: Vec<u8>,
    /// How many these are.
    pub len: usize,
    /// Why some are not among them.
    pub failed: Vec<RecordError>,
}
