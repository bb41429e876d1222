//! StreamReader: the entries of one stream after an id.

use std::sync::Arc;

use crate::engine::{Chunk, Command, Reader, RecordError, Reply};
use crate::redis::lock::Lock;

/// Entries that are read in one hold of the lock.
const PAGE: &[u8] = b"200";

/// Reads a stream page by page, by XREAD: its errors are the server's own.
pub(super) struct StreamReader {
    lock: Arc<Lock>,
    user: String,
    key: Vec<u8>,
    after: Vec<u8>,
}

impl StreamReader {
    /// A reader that begins after an id.
    pub(super) fn new(lock: Arc<Lock>, user: String, key: Vec<u8>, after: Vec<u8>) -> Self {
        Self {
            lock,
            user,
            key,
            after,
        }
    }
}

impl Reader for StreamReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        let command = Command::of(&[b"XREAD", b"COUNT", PAGE, b"STREAMS", &self.key, &self.after]);
        let reply = self
            .lock
            .with(|server| server.call(&self.user, &command))
            .map_err(RecordError::new)?;
        let Some(entries) = entries(reply) else {
            return Ok(None);
        };
        let mut chunk = Chunk::entries();
        for entry in entries {
            let Some((id, fields)) = split(entry) else {
                continue;
            };
            let mark = chunk.begin_entry(&self.key, &id, fields.len() / 2);
            for pair in fields.chunks_exact(2) {
                if let [Reply::Bytes(field), Reply::Bytes(value)] = pair {
                    chunk.pair(field, value);
                } else {
                    chunk.pair(b"", b"");
                }
            }
            chunk.end_record(mark);
            self.after = id;
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

/// The entries in `[[key, [entry...]]]`; nothing for no reply.
fn entries(reply: Reply) -> Option<Vec<Reply>> {
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
fn split(entry: Reply) -> Option<(Vec<u8>, Vec<Reply>)> {
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
