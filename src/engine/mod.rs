//! The pure core: records, plans, executions, the pool that runs them and the registry that keeps
//! them. It knows no server, no language and no socket; it asks for them through small traits:
//! [`Language`] (callbacks and their values), [`Reader`] and [`Readers`] (records from outside),
//! [`Shards`] and [`Exchange`] (the other shards).

#![forbid(unsafe_code)]

mod chunk;
mod error;
mod exchange;
mod execution;
pub mod glob;
mod host;
mod id;
mod lane;
mod language;
mod outgoing;
mod pipeline;
mod plan;
mod planner;
mod pool;
mod promise;
mod read_ahead;
mod reader;
mod record;
mod registration;
mod registry;
mod remote;
mod results;
#[cfg(test)]
mod team_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod waiting;
#[cfg(test)]
mod waiting_tests;
pub mod wire;

pub use chunk::{Chunk, Mark};
pub use error::{Error, RecordError};
pub use exchange::{Alone, Batch, Body, Exchange, Packed, Parcel, Part, Shards, Team};
pub use execution::{
    Abort, Begins, Execution, Launch, Listener, Machinery, Outcome, Snapshot, Status, Taker,
};
pub use host::{Caller, Command, Environment, Host, LogLevel, Reply};
pub use id::{Id, ShardId, random_id};
pub use lane::Lane;
pub use language::{
    Behalf, Calls, Context, Function, Groups, Hint, Language, Many, Next, Ticket, Values,
};
pub use pipeline::Spent;
pub use plan::{Plan, PlanBuilder, Step, StepInfo, Steps, Timed};
pub use planner::Need;
pub use pool::{Enter, Pool, Task};
pub use promise::{Asked, Instead, Promise};
pub use read_ahead::ReadAhead;
pub use reader::{KeysRange, Reader, ReaderSpec, Readers, Source};
pub use record::{Entries, Items, KeyBody, KeyType, Native, Pairs, Value};
pub use registration::{
    Change, CommandTrigger, Figures, Joining, KeysTrigger, Mode, OnFailed, Parts, Registrar,
    Registration, Statistics, StreamTrigger, TimeEvent, Trigger, Unfinished,
};
pub use registry::{Limits, Registry};
pub use remote::MAX_IDLE;
pub use results::{Item, MAX_DEPTH, Results, ResultsTooDeep};
