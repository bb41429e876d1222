//! What events say of streams.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::Registrations;
use super::{Consumer, OWN, Status};
use crate::redis::raw::{self, EntryId, EventCtx};

/// What an event says of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Happened {
    /// An entry came.
    Added,
    /// Entries went.
    Removed,
    /// Something happened to one of its groups.
    Grouped,
    /// It is gone, or there is something else now.
    Gone,
    /// It is there, with what it holds.
    Came,
}

impl Happened {
    fn of(event: &[u8]) -> Option<Self> {
        if event.eq_ignore_ascii_case(b"xadd") {
            return Some(Self::Added);
        }
        if OWN.load(Ordering::Relaxed) {
            return None;
        }
        match event {
            b"xdel" | b"xtrim" => Some(Self::Removed),
            b"xgroup-create" | b"xgroup-destroy" | b"xgroup-setid" => Some(Self::Grouped),
            b"del" | b"expired" | b"evicted" | b"rename_from" | b"move_from" | b"set" => {
                Some(Self::Gone)
            }
            b"rename_to" | b"move_to" | b"copy_to" | b"restore" => Some(Self::Came),
            _ => None,
        }
    }
}

impl Consumer {
    /// An entry came.
    fn added(&self, ctx: EventCtx, key: &[u8]) {
        let mut state = self.state();
        if state.status != Status::Ok || state.closed || !state.started {
            return;
        }
        let Some(stream) = state.streams.get_mut(key) else {
            drop(state);
            // The entry that makes it known is a new one.
            let newest = raw::last_entry(self.registrations.server, key);
            let old = newest.and_then(EntryId::before).unwrap_or_default();
            self.begin(key, old, false);
            return self.launch(key, Some(ctx));
        };
        stream.waiting += 1;
        stream.since.get_or_insert_with(Instant::now);
        if stream.busy {
            return;
        }
        if stream.backlog || stream.waiting >= self.trigger.batch {
            drop(state);
            return self.launch(key, Some(ctx));
        }
        self.arm(key, stream);
    }

    /// Entries of a stream went: what was read of it before its turn may be among them.
    fn removed(&self, key: &[u8]) {
        if let Some(stream) = self.state().streams.get_mut(key) {
            stream.ahead.clear();
        }
    }

    /// A stream that is known may be another one now.
    fn changed(&self, key: &[u8]) {
        let mut state = self.state();
        state.streams.remove(key);
        for batch in state.running.get(key).into_iter().flatten() {
            batch.void.store(true, Ordering::Relaxed);
        }
    }

    /// A group of a stream was made, moved or destroyed; whether it was ours.
    fn group_changed(&self, key: &[u8]) -> bool {
        let position = match self.state().streams.get(key) {
            Some(stream) => stream.position,
            None => return false,
        };
        let ours = !self.group_is_the_same(key, position);
        if ours {
            self.changed(key);
        }
        ours
    }
}

impl Registrations {
    /// Something happened to a key that may be a stream. The server lock is held.
    pub(in super::super) fn on_stream_event(&self, ctx: EventCtx, event: &[u8], key: &[u8]) {
        let Some(happened) = Happened::of(event) else {
            return;
        };
        if ctx.database() != 0 {
            return;
        }
        let mut found = Vec::new();
        self.state().streams_by_name.find(key, &mut found);
        if found.len() > 1 {
            found.sort_unstable_by_key(|&(order, _)| order);
        }
        for (_, consumer) in found {
            match happened {
                Happened::Added if consumer.active.load(Ordering::Relaxed) => {}
                Happened::Added => consumer.added(ctx, key),
                Happened::Removed => consumer.removed(key),
                Happened::Gone => consumer.changed(key),
                Happened::Came => {
                    consumer.changed(key);
                    consumer.look_at(key);
                }
                Happened::Grouped => {
                    if consumer.group_changed(key) {
                        consumer.look_at(key);
                    }
                }
            }
        }
    }
}
