//! What can go wrong: a record (data, it travels to the end of the plan) or the engine itself.

use thiserror::Error;

/// A record that failed. Only its text travels: the exception stays with the language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// The message that the user sees in the second array of the reply.
    pub text: String,
}

impl RecordError {
    /// An error of a record with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// A failure of the engine.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No execution with this id is known here.
    #[error("execution plan does not exist")]
    NoSuchExecution,
    /// Its results are not there yet.
    #[error("execution is still running")]
    StillRunning,
    /// Only finished executions can be dropped.
    #[error("can not drop a not yet finished execution, abort it first.")]
    NotFinished,
    /// The pool no longer takes work: the server is going down.
    #[error("the execution pool is shut down")]
    PoolClosed,
}
