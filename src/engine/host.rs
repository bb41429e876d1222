//! The server, as code that runs for a session may use it.

use std::time::Duration;

use super::Results;

/// Importance of a line in the server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// Much of little use.
    Verbose,
    /// As a rule.
    Notice,
    /// Somebody should look.
    Warning,
}

/// A reply of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// No value.
    Nil,
    /// An integer.
    Integer(i64),
    /// A bulk or simple string.
    Bytes(Vec<u8>),
    /// An error inside an array.
    Error(Vec<u8>),
    /// An array.
    Array(Vec<Reply>),
}

/// The words of a command, one behind the other in one buffer.
#[derive(Debug, Default)]
pub struct Command {
    bytes: Vec<u8>,
    /// Where each word ends; a NUL follows.
    ends: Vec<usize>,
}

impl Command {
    /// A command of these words.
    pub fn of(words: &[&[u8]]) -> Self {
        let mut command = Self::default();
        for word in words {
            command.push(word);
        }
        command
    }

    /// Appends a word.
    pub fn push(&mut self, word: &[u8]) {
        self.bytes.extend_from_slice(word);
        self.ends.push(self.bytes.len());
        self.bytes.push(0);
    }

    /// The words.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|end| end + 1));
        starts
            .zip(&self.ends)
            .map(|(start, &end)| self.bytes.get(start..end).unwrap_or_default())
    }

    /// The first word with the NUL behind it.
    pub fn name(&self) -> Option<&[u8]> {
        self.bytes.get(..=*self.ends.first()?)
    }

    /// Forgets the words and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Runs commands on the server.
pub trait Host: Send + Sync {
    /// Runs a command as `user`, under the server lock, replicated. Waits for the lock unless this
    /// thread holds it. The error is the text that the server gives.
    fn call(&self, user: &str, command: &Command) -> Result<Reply, String>;
    /// The same if it need not wait: `None` otherwise, and nothing was done.
    fn try_call(&self, user: &str, command: &Command) -> Option<Result<Reply, String>>;
    /// Takes the server lock for several commands. `false` if this thread holds it already.
    fn enter_atomic(&self) -> bool;
    /// Gives it back. `false` if this thread does not hold it.
    fn leave_atomic(&self) -> bool;
    /// Whether this thread holds it.
    fn in_atomic(&self) -> bool;
}

/// What else code may ask of the server, without its lock.
pub trait Environment: Send + Sync {
    /// Writes a line to the server's log.
    fn log(&self, level: LogLevel, message: &str);
    /// A setting that the module does not know itself, or that was given explicitly.
    fn extra_setting(&self, name: &str) -> Option<Vec<u8>>;
    /// Whether errors carry a traceback.
    fn tracebacks(&self) -> bool;
    /// How long code may run that the server waits for.
    fn sync_limit(&self) -> Option<Duration>;
    /// A short text that, in braces, hashes to this shard.
    fn hash_tag(&self) -> String;
    /// The id of this shard in its cluster.
    fn shard_id(&self) -> Option<String>;
}

/// The command of a client that an execution answers.
pub trait Caller: Send + Sync {
    /// Whether the answer may come later. Not in a transaction or script.
    fn may_wait(&self) -> bool;
    /// The words of the command, where the function reacts to one.
    fn command(&self) -> Option<&[Vec<u8>]> {
        None
    }
    /// Replies this instead, where the function reacts to a command. The error says why not.
    fn override_reply(&self, _reply: Results) -> Result<(), String> {
        Err("Can not get command ctx".into())
    }
    /// Runs the next function on the same command, or the command itself, with these arguments as
    /// `user`.
    fn call_next(&self, user: &str, arguments: &Command) -> Result<Reply, String>;
}
