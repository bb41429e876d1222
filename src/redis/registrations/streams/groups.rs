//! The consumer groups of streams: what is read, and what is remembered of it.

use std::collections::VecDeque;

use super::super::keys::Active;
use super::{Ahead, Batch, CONSUMER, Consumer, Content, OWN};
use crate::engine::{Chunk, Command, Context, KeyType, LogLevel, Need, Reply};
use crate::redis::raw;
use crate::redis::raw::{EntryId, Fields, Server};

/// Entries that are read at once, at the most: a node of a stream has so many by default.
const AHEAD: u64 = 100;
/// And so many bytes of them.
const AHEAD_BYTES: usize = 64 << 10;

/// A batch while it is read.
struct Part {
    chunk: Chunk,
    after: EntryId,
    last: EntryId,
    count: u64,
}

impl Part {
    fn new(chunk: Chunk, after: EntryId) -> Self {
        Self {
            chunk,
            after,
            last: after,
            count: 0,
        }
    }

    fn add(&mut self, key: &[u8], id: EntryId, fields: &mut Fields<'_>) {
        let chunk = &mut self.chunk;
        if chunk.is_counted() {
            chunk.count_on(1);
        } else {
            let text = id.to_string();
            let mark = chunk.begin_entry(key, text.as_bytes(), fields.len());
            fields.write(chunk);
            chunk.end_record(mark);
        }
        self.last = id;
        self.count += 1;
    }

    /// Whether there is `more` behind it.
    fn end(self, more: bool) -> Ahead {
        Ahead {
            after: self.after,
            chunk: self.chunk,
            content: Content::New {
                last: self.last,
                count: self.count,
                more,
            },
        }
    }
}

impl Consumer {
    /// Reads the entries of a batch.
    pub(super) fn read(&self, server: Server, batch: &Batch) -> Result<Chunk, String> {
        let key = &batch.key;
        self.check_rights(server, key)?;
        let nothing = || Ok(self.chunk());
        let known = {
            match self.state().stream_of(batch) {
                Some(stream) => stream.position,
                // Forgotten meanwhile: nothing to read.
                None => return nothing(),
            }
        };
        let shared = self.registrations.settings.shares_stream_groups();
        if batch.pending || shared || known.is_none() {
            let Some(group) = self.open_group(server, key)? else {
                return nothing();
            };
            let position = group.position;
            let mut state = self.state();
            if let Some(stream) = state.stream_of(batch) {
                stream.position = Some(position);
                if batch.pending {
                    // Those that came since it was found were counted; more are a backlog.
                    let most = stream.waiting + 2;
                    stream.waiting = entries_after(server, key, position, most);
                    stream.backlog |= stream.waiting == most;
                }
            }
            drop(state);
            if batch.pending {
                // What is pending in a shared group may be somebody else's, who is at it.
                let own = !shared || self.has_backlog(batch);
                return if group.pending > 0 && own {
                    self.read_group(server, batch, b"0")
                } else {
                    nothing()
                };
            }
            if shared {
                return self.read_group(server, batch, b">");
            }
            return Ok(self.read_new(server, batch, position));
        }
        if let Some(chunk) = self.take_ahead(batch) {
            return Ok(chunk);
        }
        Ok(self.read_new(server, batch, known.unwrap_or_default()))
    }

    fn has_backlog(&self, batch: &Batch) -> bool {
        self.state().stream_of(batch).is_some_and(|s| s.backlog)
    }

    fn chunk(&self) -> Chunk {
        match self.need {
            Need::Number => Chunk::counted(0),
            _ => Chunk::entries(),
        }
    }

    /// Entries after a position, by the stream itself. Whole batches that come after them are kept
    /// for later.
    fn read_new(&self, server: Server, batch: &Batch, position: EntryId) -> Chunk {
        let size = self.trigger.batch;
        let (mut whole, mut bytes) = (VecDeque::new(), 0);
        let mut part = Part::new(self.chunk(), position);
        let key = &batch.key;
        raw::with_stream(server, key, |stream| {
            stream.entries(Some(position), &mut |id, fields| {
                if part.count == size {
                    bytes += part.chunk.size();
                    let next = Part::new(self.chunk(), part.last);
                    whole.push_back(std::mem::replace(&mut part, next).end(true));
                    if whole.len() as u64 * size >= AHEAD || bytes >= AHEAD_BYTES {
                        return false;
                    }
                }
                part.add(key, id, fields);
                true
            });
        });
        // What follows whole batches may have become one of its own when its turn comes.
        if part.count == size || whole.is_empty() {
            whole.push_back(part.end(false));
        }
        let first = whole.pop_front();
        if let Some(stream) = self.state().stream_of(batch) {
            stream.ahead = whole;
        }
        match first {
            Some(first) if !first.chunk.is_empty() => {
                *batch.content() = Some(first.content);
                first.chunk
            }
            _ => self.chunk(),
        }
    }

    /// The next batch, if it was read already and its user may still have it.
    pub(super) fn take_ahead(&self, batch: &Batch) -> Option<Chunk> {
        let ahead = {
            let mut state = self.state();
            let stream = state.stream_of(batch).filter(|_| !batch.pending)?;
            let position = stream.position;
            let next = stream.ahead.pop_front()?;
            if position != Some(next.after) {
                stream.ahead.clear();
                return None;
            }
            next
        };
        self.check_rights(self.registrations.server, &batch.key)
            .ok()?;
        *batch.content() = Some(ahead.content);
        Some(ahead.chunk)
    }

    fn check_rights(&self, server: Server, key: &[u8]) -> Result<(), String> {
        let user = Context::user(&*self.function.plan.context);
        if server.user(user)?.may_change(key) {
            return Ok(());
        }
        let key = String::from_utf8_lossy(key);
        Err(format!(
            "NOPERM the user '{user}' may not read and trim the stream '{key}'"
        ))
    }

    /// Entries that the group delivers: pending ones from `0`, or new ones for `>`.
    fn read_group(&self, server: Server, batch: &Batch, from: &[u8]) -> Result<Chunk, String> {
        let (key, group) = (batch.key.as_slice(), self.group().as_bytes());
        let count = self.trigger.batch.to_string();
        let mut words: Vec<&[u8]> = vec![b"XREADGROUP", b"GROUP", group, CONSUMER];
        if from == b">" {
            words.extend([b"COUNT".as_slice(), count.as_bytes()]);
        }
        words.extend([b"STREAMS".as_slice(), key, from]);
        let reply = server.write(&words)?;
        let mut chunk = self.chunk();
        let mut ids = Vec::new();
        for entry in crate::redis::readers::entries(reply).unwrap_or_default() {
            let Some((id, fields)) = crate::redis::readers::split(entry) else {
                continue;
            };
            // One that was deleted meanwhile has no fields: it is done.
            if !fields.is_empty() {
                if chunk.is_counted() {
                    chunk.count_on(1);
                } else {
                    crate::redis::readers::write_entry(&mut chunk, key, &id, &fields);
                }
            }
            ids.push(id);
        }
        if !ids.is_empty() {
            *batch.content() = Some(Content::Pending(ids));
        }
        Ok(chunk)
    }

    /// Whether the group is still where it was left.
    pub(super) fn group_is_the_same(&self, key: &[u8], position: Option<EntryId>) -> bool {
        let server = self.registrations.server;
        let group = group_of(server, key, self.group().as_bytes());
        // One that does not exist will be made when the first batch is read.
        group.is_ok_and(|group| group.map(|group| group.position) == position)
    }

    /// The state of the group, which is made if it is not there; `None` without a stream.
    fn open_group(&self, server: Server, key: &[u8]) -> Result<Option<Group>, String> {
        if raw::key_type(server, 0, key) != KeyType::Stream {
            return Ok(None);
        }
        let group = self.group().as_bytes();
        if let Some(found) = group_of(server, key, group)? {
            return Ok(Some(found));
        }
        let _own = Active::begin(&OWN);
        let old = self.state().streams.get(key).map(|stream| stream.old);
        let start = match (self.trigger.start.as_str(), old) {
            ("$", Some(old)) => old.to_string(),
            (start, _) => start.to_owned(),
        };
        server.write(&[b"XGROUP", b"CREATE", key, group, start.as_bytes()])?;
        server.write(&[b"XGROUP", b"CREATECONSUMER", key, group, CONSUMER])?;
        group_of(server, key, group)
    }

    /// The entries of a failed batch are delivered to the group, which keeps them.
    pub(super) fn leave_pending(&self, server: Server, batch: &Batch, content: Option<&Content>) {
        let Some(Content::New { count, .. }) = content else {
            return;
        };
        let count = count.to_string();
        let group = self.group().as_bytes();
        let words: &[&[u8]] = &[
            b"XREADGROUP",
            b"GROUP",
            group,
            CONSUMER,
            b"COUNT",
            count.as_bytes(),
            b"STREAMS",
            &batch.key,
            b">",
        ];
        if let Err(error) = server.write(words) {
            self.complain("can not keep the entries of a failed batch", batch, &error);
        }
    }

    pub(super) fn complain(&self, what: &str, batch: &Batch, error: &str) {
        let (id, key) = (self.function.id, String::from_utf8_lossy(&batch.key));
        let message = format!("registration {id} {what} of stream '{key}': {error}");
        self.registrations.log(LogLevel::Warning, &message);
    }

    /// The entries of a batch are processed.
    pub(super) fn acknowledge(&self, server: Server, batch: &Batch, content: Option<&Content>) {
        let (key, group) = (batch.key.as_slice(), self.group().as_bytes());
        let _own = Active::begin(&OWN);
        let written = match content {
            None => return,
            Some(Content::New { last, .. }) => {
                let last = last.to_string();
                server.write(&[b"XGROUP", b"SETID", key, group, last.as_bytes()])
            }
            Some(Content::Pending(ids)) => {
                let mut words: Vec<&[u8]> = vec![b"XACK", key, group];
                words.extend(ids.iter().map(Vec::as_slice));
                server.write(&words)
            }
        };
        if let Err(error) = written {
            // The stream went, or its group did: there is nothing to remember.
            self.complain("can not acknowledge entries", batch, &error);
            let mut state = self.state();
            if state.stream_of(batch).is_some() {
                state.streams.remove(key);
            }
            return;
        }
        let mut state = self.state();
        let Some(stream) = state.stream_of(batch) else {
            return;
        };
        match content {
            Some(Content::New { last, count, .. }) => {
                stream.position = Some(*last);
                stream.untrimmed += count;
            }
            Some(Content::Pending(ids)) => stream.untrimmed += ids.len() as u64,
            None => {}
        }
    }

    /// Removes what all functions on the stream have processed.
    pub(super) fn trim(&self, server: Server, batch: &Batch, content: Option<&Content>) {
        let key = &batch.key;
        if let Some(stream) = self.state().stream_of(batch) {
            stream.untrimmed = 0;
        }
        let others = self.registrations.other_groups(key, self.group());
        let mut done = match content {
            Some(Content::New { last, .. }) if others.is_empty() => *last,
            _ => match done_by(server, key, self.group().as_bytes()) {
                Some(done) => done,
                None => return,
            },
        };
        for other in others {
            match done_by(server, key, other.as_bytes()) {
                Some(theirs) => done = done.min(theirs),
                // It has not begun.
                None => return,
            }
        }
        let Some(first) = done.next() else { return };
        let first = first.to_string();
        let _own = Active::begin(&OWN);
        if let Err(error) = server.write(&[b"XTRIM", key, b"MINID", first.as_bytes()]) {
            self.complain("can not trim entries", batch, &error);
        }
    }
}

/// What a group remembers.
struct Group {
    position: EntryId,
    pending: i64,
}

fn group_of(server: Server, key: &[u8], group: &[u8]) -> Result<Option<Group>, String> {
    let reply = server.read(&Command::of(&[b"XINFO", b"GROUPS", key]))?;
    let Reply::Array(groups) = reply else {
        return Ok(None);
    };
    for found in groups {
        let Reply::Array(fields) = found else {
            continue;
        };
        let value = |name: &[u8]| {
            fields
                .chunks_exact(2)
                .find(|pair| matches!(&pair[0], Reply::Bytes(field) if field == name))
                .map(|pair| &pair[1])
        };
        if !matches!(value(b"name"), Some(Reply::Bytes(name)) if name == group) {
            continue;
        }
        let position = match value(b"last-delivered-id") {
            Some(Reply::Bytes(id)) => EntryId::parse(id),
            _ => None,
        };
        let pending = match value(b"pending") {
            Some(Reply::Integer(pending)) => *pending,
            _ => 0,
        };
        return Ok(Some(Group {
            position: position.unwrap_or_default(),
            pending,
        }));
    }
    Ok(None)
}

/// The last entry up to which a group has processed all; `None` without the group.
fn done_by(server: Server, key: &[u8], group: &[u8]) -> Option<EntryId> {
    let found = group_of(server, key, group).ok().flatten()?;
    if found.pending == 0 {
        return Some(found.position);
    }
    let reply = server.read(&Command::of(&[b"XPENDING", key, group])).ok()?;
    let Reply::Array(summary) = reply else {
        return None;
    };
    let Some(Reply::Bytes(first)) = summary.get(1) else {
        return None;
    };
    EntryId::parse(first)?.before()
}

/// How many entries there are after a position, counted no further than to `most`.
pub(super) fn entries_after(server: Server, key: &[u8], position: EntryId, most: u64) -> u64 {
    let mut count = 0;
    raw::with_stream(server, key, |stream| {
        stream.entries(Some(position), &mut |_, _| {
            count += 1;
            count < most
        });
    });
    count
}
