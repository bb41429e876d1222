//! Readers: where records come from.

use serde::{Deserialize, Serialize};

use super::{Chunk, Language, Need, RecordError, Unfinished};

/// Makes records, on the reader thread, a chunk at a time.
pub trait Reader: Send {
    /// The next chunk, `None` at the end. A failure becomes an error record and ends the reading.
    fn read(&mut self) -> Result<Option<Chunk>, RecordError>;
}

/// Opens readers of the server's data.
pub trait Readers: Send + Sync {
    /// A reader that takes no more from the server than `need` asks for and `user` may read.
    fn open(&self, spec: &ReaderSpec, need: Need, user: &str) -> Box<dyn Reader>;
}

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeysRange {
    /// All that match a pattern.
    Pattern(Vec<u8>),
    /// The one of this name, even if it does not exist.
    Exact(Vec<u8>),
}

/// What to read from the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReaderSpec {
    /// Keys and, if asked for, their values.
    Keys {
        /// Which.
        range: KeysRange,
        /// With type and value.
        read_value: bool,
        /// With the values of sets, sorted sets and streams too.
        all_values: bool,
    },
    /// Names of keys that match a pattern.
    KeyNames {
        /// The pattern.
        pattern: Vec<u8>,
    },
    /// All entries of a stream after an id.
    Stream {
        /// The stream.
        key: Vec<u8>,
        /// The id before the first entry.
        after: Vec<u8>,
    },
}

/// Where the records of an execution come from.
pub enum Source<L: Language> {
    /// The server's data.
    Server(ReaderSpec),
    /// A generator.
    Generator(L::Generator),
    /// These records.
    Records(Chunk),
    /// A reader that the worker itself asks: it has little to read, and never keeps it waiting.
    Direct(Box<dyn Reader>),
    /// A run that was begun on the calling thread, and waits for what was promised there.
    Unfinished(Box<Unfinished<L>>),
}
