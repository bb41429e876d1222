//! KeysReader and KeysOnlyReader: keys by pattern or by name, with values or without.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::glob::Pattern;
use crate::engine::{Chunk, KeyType, KeysRange, Need, Reader, RecordError};

use crate::redis::lock::Lock;
use crate::redis::raw::{self, Key, Scan, Server, User, Visitor};

/// A chunk is handed on when it has so many records or bytes, or when the slice of the lock ends.
const MOST_RECORDS: usize = 5000;
const MOST_BYTES: usize = 1 << 20;
/// Keys between two looks at the clock.
const BETWEEN_LOOKS: usize = 16;

/// Which values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::redis) enum Values {
    /// None, nor types.
    None,
    /// Those that RedisGears 1.x reads: strings, lists and hashes.
    Common,
    /// Those of sets, sorted sets and streams as well.
    All,
}

impl Values {
    /// By the arguments of `run`.
    pub(in crate::redis) fn of(read: bool, all: bool) -> Self {
        match (read, all) {
            (false, _) => Self::None,
            (true, false) => Self::Common,
            (true, true) => Self::All,
        }
    }
}

/// Reads keys, a slice of the server lock at a time.
pub(super) struct KeysReader {
    lock: Arc<Lock>,
    what: Arc<What>,
    /// `None` at the end, and while a slice has it.
    scan: Option<Scan>,
}

struct What {
    /// With whose rights.
    user: String,
    keys: Keys,
    /// `None`: names only.
    values: Option<Values>,
    need: Need,
}

enum Keys {
    Matching(Pattern),
    Named(Vec<u8>),
}

impl KeysReader {
    /// A reader at its beginning. Without `values` its records are names.
    pub(super) fn new(
        lock: Arc<Lock>,
        user: String,
        range: &KeysRange,
        need: Need,
        values: Option<Values>,
    ) -> Self {
        let keys = match range {
            KeysRange::Pattern(pattern) => Keys::Matching(Pattern::new(pattern)),
            KeysRange::Exact(name) => Keys::Named(name.clone()),
        };
        let what = Arc::new(What {
            user,
            keys,
            values,
            need,
        });
        Self {
            lock,
            what,
            scan: Some(Scan::new()),
        }
    }
}

impl Reader for KeysReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        let Some(mut scan) = self.scan.take() else {
            return Ok(None);
        };
        let what = self.what.clone();
        let (filled, scan) = self.lock.slice(move |server, until| {
            let mut chunk = what.chunk();
            match what.fill(&mut chunk, server, &mut scan, until) {
                Ok(more) => (Ok(chunk), more.then_some(scan)),
                Err(error) => (Err(error), None),
            }
        });
        self.scan = scan;
        filled.map(Some).map_err(RecordError::new)
    }
}

impl What {
    fn chunk(&self) -> Chunk {
        match (self.need, self.values) {
            (Need::Number, _) => Chunk::counted(0),
            (_, None) => Chunk::names(),
            (_, Some(_)) => Chunk::keys(),
        }
    }

    /// Fills a chunk; `false` when there is no more.
    fn fill(
        &self,
        chunk: &mut Chunk,
        server: Server,
        scan: &mut Scan,
        until: Instant,
    ) -> Result<bool, String> {
        let user = server.user(&self.user)?;
        match &self.keys {
            Keys::Matching(pattern) => {
                // Names are no secret: SCAN tells them to everybody.
                let restricted = self.values.is_some() && !user.may_read_all();
                let mut slice = Slice {
                    pattern,
                    need: self.need,
                    values: self.values,
                    user: restricted.then_some(&user),
                    chunk,
                };
                Ok(slice.fill(server, scan, until))
            }
            Keys::Named(name) => {
                let write = |key: Option<&Key<'_>>| {
                    write(chunk, self.need, self.values, name, key);
                };
                raw::with_key(server, &user, 0, name, write).ok_or_else(|| {
                    let name = String::from_utf8_lossy(name);
                    format!(
                        "NOPERM the user '{}' may not read the key '{name}'",
                        self.user
                    )
                })?;
                Ok(false)
            }
        }
    }
}

/// One hold of the lock.
struct Slice<'a> {
    pattern: &'a Pattern,
    need: Need,
    values: Option<Values>,
    /// Where it may not read every key.
    user: Option<&'a User>,
    chunk: &'a mut Chunk,
}

impl Slice<'_> {
    /// Walks until there is enough; `false` when all keys were seen.
    fn fill(&mut self, server: Server, scan: &mut Scan, until: Instant) -> bool {
        let mut looked = (0, 0);
        let mut steps = 0;
        while scan.step(server, self) {
            steps += 1;
            let (records, bytes) = (self.chunk.len(), self.chunk.size());
            if records >= MOST_RECORDS || bytes >= MOST_BYTES {
                return true;
            }
            // Large values take long to copy: look after each of them.
            if steps - looked.0 >= BETWEEN_LOOKS || bytes - looked.1 >= MOST_BYTES / 32 {
                if Instant::now() >= until {
                    return true;
                }
                looked = (steps, bytes);
            }
        }
        false
    }
}

impl Visitor for Slice<'_> {
    #[inline]
    fn key(&mut self, name: &[u8], key: &Key<'_>) {
        // A key whose time is over is gone, even if nobody came by to remove it.
        let readable = || self.user.is_none_or(|user| key.is_readable_by(user));
        if self.pattern.matches(name) && !key.is_expired() && readable() {
            write(self.chunk, self.need, self.values, name, Some(key));
        }
    }
}

#[inline]
fn write(
    chunk: &mut Chunk,
    need: Need,
    values: Option<Values>,
    name: &[u8],
    key: Option<&Key<'_>>,
) {
    if chunk.is_counted() {
        return chunk.count_on(1);
    }
    let Some(values) = values else {
        return chunk.push_name(name);
    };
    write_key(chunk, need, values, None, name, key);
}

/// Writes a key, as far as it is needed, with the event that named it, if one did.
#[inline]
pub(in crate::redis) fn write_key(
    chunk: &mut Chunk,
    need: Need,
    values: Values,
    event: Option<&[u8]>,
    name: &[u8],
    key: Option<&Key<'_>>,
) {
    let mut begin = |body| match event {
        Some(event) => chunk.begin_event(event, name, body),
        None => chunk.begin_key(name, body),
    };
    if values == Values::None {
        let mark = begin(None);
        return chunk.end_record(mark);
    }
    let kind = key.map_or(KeyType::Empty, Key::kind);
    let shown = match kind {
        // What RedisGears 1.x calls it.
        KeyType::Stream if values != Values::All => KeyType::Unknown,
        other => other,
    };
    let mark = begin(Some(shown));
    match key {
        Some(key) if need == Need::Records => value(chunk, values, kind, key),
        _ => chunk.no_value(),
    }
    chunk.end_record(mark);
}

#[inline]
fn value(chunk: &mut Chunk, values: Values, kind: KeyType, key: &Key<'_>) {
    let all = values == Values::All;
    let (mark, count) = match kind {
        KeyType::String => return key.string(chunk),
        KeyType::Hash => {
            let mark = chunk.begin_hash();
            (mark, key.hash(chunk))
        }
        KeyType::List => {
            let mark = chunk.begin_list();
            (mark, key.list(chunk))
        }
        KeyType::Set if all => {
            let mark = chunk.begin_set();
            (mark, key.set(chunk))
        }
        KeyType::Zset if all => {
            let mark = chunk.begin_zset();
            (mark, key.zset(chunk))
        }
        KeyType::Stream if all => {
            let mark = chunk.begin_stream();
            (mark, key.stream(chunk))
        }
        KeyType::Set
        | KeyType::Zset
        | KeyType::Stream
        | KeyType::Module
        | KeyType::Empty
        | KeyType::Unknown => return chunk.no_value(),
    };
    chunk.end_value(&mark, count);
}
