//! StreamReader: the entries of one stream after an id.

use std::sync::Arc;

use crate::engine::{Chunk, Command, Reader, RecordError, Reply};
use crate::redis::lock::Lock;
use crate::redis::raw::{EntryId, NOT_HERE};

/// Entries that are read in one hold of the lock.
const PAGE: &[u8] = b"200";

/// Reads a stream page by page, by XREAD: its errors are the server's own.
pub(super) struct StreamReader {
    lock: Arc<Lock>,
    user: String,
    key: Vec<u8>,
    after: Vec<u8>,
    /// The last entry when the reading began; what is added later is not read.
    last: Option<EntryId>,
}

impl StreamReader {
    /// A reader that begins after an id.
    pub(super) fn new(lock: Arc<Lock>, user: String, key: Vec<u8>, after: Vec<u8>) -> Self {
        Self {
            lock,
            user,
            key,
            after,
            last: None,
        }
    }
}

impl Reader for StreamReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        let command = Command::of(&[b"XREAD", b"COUNT", PAGE, b"STREAMS", &self.key, &self.after]);
        let newest = Command::of(&[b"XREVRANGE", &self.key, b"+", b"-", b"COUNT", b"1"]);
        let (first, user) = (self.last.is_none(), &self.user);
        let (newest, reply) = self.lock.with(|server| {
            // Whether the user may read the stream is for XREAD to say.
            let newest = first.then(|| server.read(&newest));
            (newest, server.call(user, &command))
        });
        let reply = match reply {
            Ok(reply) => reply,
            // Another shard has the stream, and reads it.
            Err(text) if text == NOT_HERE => return Ok(None),
            Err(text) => return Err(RecordError::new(text)),
        };
        if let Some(Ok(Reply::Array(newest))) = newest {
            let id = newest
                .into_iter()
                .next()
                .and_then(split)
                .and_then(|(id, _)| EntryId::parse(&id));
            self.last = id;
        }
        let Some(entries) = entries(reply) else {
            return Ok(None);
        };
        let mut chunk = Chunk::entries();
        for entry in entries {
            let Some((id, fields)) = split(entry) else {
                continue;
            };
            if EntryId::parse(&id) > self.last {
                break;
            }
            write_entry(&mut chunk, &self.key, &id, &fields);
            self.after = id;
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

/// Writes an entry of a reply.
pub(in crate::redis) fn write_entry(chunk: &mut Chunk, key: &[u8], id: &[u8], fields: &[Reply]) {
    let mark = chunk.begin_entry(key, id, fields.len() / 2);
    for pair in fields.chunks_exact(2) {
        if let [Reply::Bytes(field), Reply::Bytes(value)] = pair {
            chunk.pair(field, value);
        } else {
            chunk.pair(b"", b"");
        }
    }
    chunk.end_record(mark);
}

/// The entries in `[[key, [entry...]]]`; nothing for no reply.
pub(in crate::redis) fn entries(reply: Reply) -> Option<Vec<Reply>> {
    let Reply::Array(streams) = reply else {
        return None;
    };
    let Some(Reply::Array(mut stream)) = streams.into_iter().next() else {
        return None;
    };
    match stream.pop() {
        Some(Reply::Array(entries)) => Some(entries),
        _ => None,
    }
}

/// Id and fields of `[id, [field, value...]]`.
pub(in crate::redis) fn split(entry: Reply) -> Option<(Vec<u8>, Vec<Reply>)> {
    let Reply::Array(parts) = entry else {
        return None;
    };
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(Reply::Bytes(id)), Some(Reply::Array(fields))) => Some((id, fields)),
        (Some(Reply::Bytes(id)), _) => Some((id, Vec::new())),
        _ => None,
    }
}
