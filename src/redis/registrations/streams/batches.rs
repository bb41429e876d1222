//! One batch of a stream after the other: launched, run, acknowledged or left, and what comes then.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::keys::Active;
use super::groups::entries_after;
use super::{AT_ONCE, Batch, Consumer, Content, Status, Stream, TRIM_AT};
use crate::engine::{Chunk, Execution, Launch, Mode, OnFailed, Reader, RecordError, Source};
use crate::python::Cpython;
use crate::redis::raw::{self, EventCtx, Server};

/// Reads a batch when its execution runs.
struct BatchReader {
    batch: Arc<Batch>,
    read: bool,
}

impl Reader for BatchReader {
    fn read(&mut self) -> Result<Option<Chunk>, RecordError> {
        if std::mem::replace(&mut self.read, true) {
            return Ok(None);
        }
        let batch = &self.batch;
        let lock = &batch.consumer.registrations.lock;
        let chunk = lock.with(|server| batch.consumer.read(server, batch));
        chunk.map(Some).map_err(RecordError::new)
    }
}

/// What comes after a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Batch,
    Nothing,
}

impl Consumer {
    /// Runs a partial batch when its time has come.
    pub(super) fn arm(&self, key: &[u8], stream: &mut Stream) {
        if self.trigger.duration == 0 || stream.timed {
            return;
        }
        stream.timed = true;
        let waited = stream.since.map(|since| since.elapsed());
        let duration = Duration::from_millis(self.trigger.duration);
        let rest = duration.saturating_sub(waited.unwrap_or_default());
        let (this, key, life) = (self.this.clone(), key.to_vec(), stream.life);
        let task = move || {
            let Some(this) = this.upgrade() else { return };
            this.registrations.lock.with(|_| this.timed_out(&key, life));
        };
        self.registrations.timers.after(rest, Box::new(task));
    }

    fn timed_out(&self, key: &[u8], life: u64) {
        let mut state = self.state();
        let Some(stream) = state.streams.get_mut(key).filter(|s| s.life == life) else {
            return;
        };
        stream.timed = false;
        if !stream.busy && stream.waiting > 0 {
            drop(state);
            self.launch(key, None);
        }
    }

    /// The next batch of a stream, which is under way from now on.
    fn next_batch(&self, key: &[u8]) -> Option<Arc<Batch>> {
        let consumer = self.this.upgrade()?;
        let mut state = self.state();
        let stream = state.streams.get_mut(key)?;
        stream.busy = true;
        let batch = Arc::new(Batch {
            consumer,
            key: key.to_vec(),
            life: stream.life,
            pending: std::mem::take(&mut stream.pending_first),
            since: stream.since,
            content: Mutex::default(),
            void: AtomicBool::new(false),
        });
        state.begins(&batch);
        drop(state);
        self.function.statistics.trigger();
        Some(batch)
    }

    /// Starts an execution over the next batch of a stream.
    pub(super) fn launch(&self, key: &[u8], event: Option<EventCtx>) {
        let Some(batch) = self.next_batch(key) else {
            return;
        };
        let this = batch.consumer.clone();
        if self.function.mode == Mode::Sync {
            let job = move || this.run_here(batch);
            return match event {
                Some(ctx) => raw::after_event(ctx, Box::new(job)),
                None => job(),
            };
        }
        let source = match self.take_ahead(&batch) {
            Some(chunk) => Source::Records(chunk),
            None => Source::Direct(Box::new(BatchReader {
                batch: batch.clone(),
                read: false,
            })),
        };
        let launch = self.registrations.launch_here(&self.function, source);
        let execution = this.create(launch, &batch);
        let registry = &self.registrations.registry;
        registry.start_in(&self.lane, execution, true);
    }

    /// An execution over a batch, which is followed by the next one.
    fn create(
        self: &Arc<Self>,
        launch: Launch<Cpython>,
        batch: &Arc<Batch>,
    ) -> Arc<Execution<Cpython>> {
        let execution = self.registrations.registry.create(launch);
        let (this, batch) = (self.clone(), batch.clone());
        execution.when_done(Box::new(move |outcome| {
            this.registrations.lock.with(|_| {
                if this.done(&batch, &outcome.errors, outcome.aborted) == Next::Batch {
                    this.launch(&batch.key, None);
                }
            });
        }));
        execution
    }

    /// Runs batches one after another, and lets clients in if there are many.
    fn run_here(self: Arc<Self>, mut batch: Arc<Batch>) {
        let begin = Instant::now();
        loop {
            // Nothing is pending as a rule: then what was added is next, before the reply.
            let quick = batch.pending || begin.elapsed() < AT_ONCE;
            if self.run_batch(&batch) == Next::Nothing {
                return;
            }
            if !quick {
                break;
            }
            let Some(next) = self.next_batch(&batch.key) else {
                return;
            };
            batch = next;
        }
        let (this, key) = (self.clone(), batch.key.clone());
        let task = move || this.registrations.lock.with(|_| this.launch(&key, None));
        self.registrations.timers.after(AT_ONCE, Box::new(task));
    }

    fn run_batch(self: &Arc<Self>, batch: &Arc<Batch>) -> Next {
        let _active = Active::begin(&self.active);
        let errors = match self.read(self.registrations.server, batch) {
            Ok(chunk) => {
                let ran = self
                    .function
                    .run_here(&chunk, None, |_, errors| errors.to_vec());
                match ran {
                    Ok(errors) => errors,
                    Err(unfinished) => {
                        // The next batch waits for what was promised.
                        let source = Source::Unfinished(unfinished);
                        let launch = Launch::of_registration(&self.function, source);
                        let execution = self.create(launch, batch);
                        self.registrations.registry.start(&execution, true);
                        return Next::Nothing;
                    }
                }
            }
            Err(error) => {
                let errors = vec![error];
                self.function
                    .statistics
                    .finish(&errors, false, Duration::ZERO);
                errors
            }
        };
        self.done(batch, &errors, false)
    }

    /// An execution over a batch has ended: what comes next.
    fn done(&self, batch: &Batch, errors: &[String], aborted: bool) -> Next {
        self.state().ends(batch);
        if let Some(since) = batch.since {
            self.function.statistics.lag(since.elapsed());
        }
        if raw::is_replica() || self.registrations.is_loading() {
            return Next::Nothing;
        }
        let server = self.registrations.server;
        let content = batch.content().take();
        if aborted && errors.is_empty() {
            // Not processed; it comes again with the next entry.
            self.idle(batch, true);
            return Next::Nothing;
        }
        let (status, closed) = {
            let state = self.state();
            (state.status, state.closed)
        };
        let shared = self.registrations.settings.shares_stream_groups();
        if closed && !shared && self.registrations.has_group(&batch.key, self.group()) {
            // A function that replaced this one goes on from where the group is.
            return Next::Nothing;
        }
        if let Some(error) = errors.first() {
            let pauses = error.starts_with("PAUSE") || status == Status::Paused;
            // Where another shard failed in the middle, it was not processed, whatever the policy is.
            if pauses || aborted || self.trigger.on_failed != OnFailed::Continue {
                if !batch.is_void() {
                    self.leave_pending(server, batch, content.as_ref());
                    let left = self.state().stream_of(batch).map(|s| s.untrimmed);
                    if self.trigger.trim && left > Some(0) {
                        self.trim(server, batch, None);
                    }
                }
                if !closed {
                    self.stop(status, pauses);
                }
                return Next::Nothing;
            }
        }
        if batch.is_void() {
            // What is there now under this name is seen by itself.
            return Next::Nothing;
        }
        self.acknowledge(server, batch, content.as_ref());
        let next = if closed || status != Status::Ok {
            Next::Nothing
        } else if content.is_none() && !errors.is_empty() {
            // It could not even be read.
            self.idle(batch, true);
            Next::Nothing
        } else {
            self.next(server, batch, content.as_ref())
        };
        if self.trigger.trim {
            // To remove entries one by one is slow: many at once while there is more to do.
            let left = self.state().stream_of(batch).map(|s| s.untrimmed);
            let due = left.is_none_or(|left| left >= TRIM_AT) && content.is_some();
            if due || next == Next::Nothing && (content.is_some() || left > Some(0)) {
                self.trim(server, batch, content.as_ref());
            }
        }
        next
    }

    /// Nothing runs on the stream until the next entry.
    fn idle(&self, batch: &Batch, backlog: bool) {
        if let Some(stream) = self.state().stream_of(batch) {
            stream.busy = false;
            stream.ahead.clear();
            stream.backlog |= backlog;
            stream.pending_first |= batch.pending;
        }
    }

    /// A batch was not processed, or failed under a policy that does not let it pass.
    fn stop(&self, status: Status, pauses: bool) {
        let next = match (pauses, self.trigger.on_failed) {
            (true, _) => Status::Paused,
            (false, OnFailed::Retry | OnFailed::Continue) => Status::Waiting,
            (false, OnFailed::Abort) => Status::Aborted,
        };
        if status == Status::Aborted {
            return;
        }
        self.forget(Some(next));
        if next != Status::Waiting {
            return;
        }
        let (this, epoch) = (self.this.clone(), self.state().epoch);
        let task = move || {
            let Some(this) = this.upgrade() else { return };
            this.registrations.lock.with(|_| {
                let state = this.state();
                let due = state.status == Status::Waiting && state.epoch == epoch;
                drop(state);
                if due {
                    this.restart();
                }
            });
        };
        let time = Duration::from_secs(self.trigger.retry_interval);
        self.registrations.timers.after(time, Box::new(task));
    }

    /// What comes after a batch that is processed.
    fn next(&self, server: Server, batch: &Batch, content: Option<&Content>) -> Next {
        let mut state = self.state();
        let Some(stream) = state.stream_of(batch) else {
            return Next::Nothing;
        };
        stream.busy = false;
        if let Some(Content::New { count, .. }) = content {
            stream.waiting = stream.waiting.saturating_sub(*count);
        }
        let fresh = !batch.pending;
        if stream.backlog || (fresh && content.is_none()) {
            let more = match content {
                Some(Content::New { more: true, .. }) => true,
                _ => {
                    let position = stream.position.unwrap_or_default();
                    entries_after(server, &batch.key, position, 1) > 0
                }
            };
            stream.backlog &= more;
            if more {
                return Next::Batch;
            }
            stream.waiting = 0;
        }
        if stream.waiting == 0 {
            stream.since = None;
            return Next::Nothing;
        }
        if content.is_some() {
            // What is left came while this batch ran.
            stream.since = Some(Instant::now());
        }
        let since = *stream.since.get_or_insert_with(Instant::now);
        let duration = Duration::from_millis(self.trigger.duration);
        let late = !duration.is_zero() && since.elapsed() >= duration;
        if late || stream.waiting >= self.trigger.batch {
            return Next::Batch;
        }
        self.arm(&batch.key, stream);
        Next::Nothing
    }
}
