//! Finding streams: when a function begins, and when streams come without an entry.

use std::sync::Arc;
use std::time::Instant;

use super::super::index::Names;
use super::{Consumer, Status};
use crate::engine::KeyType;
use crate::redis::MODULE;
use crate::redis::raw::{self, Key, Scan, Visitor};

impl Consumer {
    /// Looks for its streams, unless it did so.
    pub(in super::super) fn start(&self) {
        let epoch = {
            let mut state = self.state();
            if state.started || state.closed || state.status != Status::Ok {
                return;
            }
            state.started = true;
            state.epoch
        };
        self.look(epoch);
    }

    /// Looks for streams that came without an event for each.
    pub(in super::super) fn look_again(&self) {
        let epoch = {
            let state = self.state();
            if !state.started || state.closed || state.status != Status::Ok {
                return;
            }
            state.epoch
        };
        self.look(epoch);
    }

    fn look(&self, epoch: u64) {
        if let Names::Exact(key) = &self.names {
            return self.found(key, epoch);
        }
        let (Some(this), Some(module)) = (self.this.upgrade(), MODULE.get()) else {
            return;
        };
        module.run(Box::new(move || this.find_streams(epoch)));
    }

    /// Finds the streams that are there, a slice of the lock at a time, on a thread of its own.
    fn find_streams(self: Arc<Self>, epoch: u64) {
        let lock = &self.registrations.lock;
        let mut scan = Some(Scan::new());
        while let Some(mut walk) = scan.take() {
            let this = self.clone();
            let (rest, keys) = lock.slice(move |server, until| {
                let mut found = Found {
                    names: &this.names,
                    keys: Vec::new(),
                };
                let mut more = true;
                while more && found.keys.is_empty() && Instant::now() < until {
                    more = walk.step(server, &mut found);
                }
                (more.then_some(walk), found.keys)
            });
            scan = rest;
            // A function that runs at once may write, which waits while clients are paused.
            for key in keys {
                lock.with(|_| self.found(&key, epoch));
            }
        }
    }

    /// A stream may be there.
    fn found(&self, key: &[u8], epoch: u64) {
        if raw::key_type(self.registrations.server, 0, key) != KeyType::Stream {
            return;
        }
        let state = self.state();
        let current = state.epoch == epoch && state.status == Status::Ok && !state.closed;
        let known = state.streams.contains_key(key);
        drop(state);
        if current && !known && !raw::is_replica() {
            let newest = raw::last_entry(self.registrations.server, key);
            self.begin(key, newest.unwrap_or_default(), true);
            self.launch(key, None);
        }
    }

    /// Looks at a stream that may have come without an entry. Not in the event: functions may run.
    pub(super) fn look_at(&self, key: &[u8]) {
        // Most keys that come whole are none: they cost no job.
        if raw::key_type(self.registrations.server, 0, key) != KeyType::Stream {
            return;
        }
        let (Some(this), Some(module)) = (self.this.upgrade(), MODULE.get()) else {
            return;
        };
        let epoch = {
            let state = self.state();
            if !state.started || state.closed || state.status != Status::Ok {
                return;
            }
            state.epoch
        };
        let key = key.to_vec();
        module.run(Box::new(move || {
            let lock = &this.registrations.lock;
            lock.with(|_| this.found(&key, epoch));
        }));
    }
}

/// Streams found in a walk.
struct Found<'a> {
    names: &'a Names,
    keys: Vec<Vec<u8>>,
}

impl Visitor for Found<'_> {
    fn key(&mut self, name: &[u8], key: &Key<'_>) {
        if self.names.matches(name) && key.kind() == KeyType::Stream {
            self.keys.push(name.to_vec());
        }
    }
}
