//! Functions that read streams: at least once, in order, each entry by every function.
//!
//! What was processed is remembered by a consumer group of the stream, so that it is saved and
//! replicated with it: everything up to its last delivered id is done, but for what it lists as
//! pending. A batch is read without the group knowing. When it is done the group moves past it; when it
//! failed its entries are delivered to the group, and stay pending until they are read again.
//!
//! ```text
//! found or first entry -> pending entries -> batch -> batch ... idle -> entry -> batch
//! ```
//!
//! All of this runs with the server lock held.

mod groups;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use groups::entries_after;

use super::index::Names;
use super::keys::Active;
use super::{Function, Registrations};
use crate::engine::{
    Chunk, KeyType, Lane, Launch, Mode, Need, OnFailed, Reader, RecordError, Source, StreamTrigger,
};
use crate::python::Cpython;
use crate::redis::MODULE;
use crate::redis::raw::{self, EntryId, EventCtx, Key, Scan, Server, Visitor};

const CONSUMER: &[u8] = b"__gears_client__";

/// The consumer group of the first, second, ... function on a stream.
pub(super) fn group_name(number: usize) -> String {
    match number {
        1 => "__gears_consumer_group__".into(),
        _ => format!("__gears_consumer_group__{number}"),
    }
}

/// A function that runs at once may work off a backlog for so long before clients get a turn.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Processed entries that may stay in a stream while more are being processed.
const TRIM_AT: u64 = 100;

/// Whether the groups are changed by us. Under the server lock.
static OWN: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Aborted,
    Waiting,
    Paused,
}

/// One stream of a consumer.
struct Stream {
    /// Which of several lives of this stream: it is forgotten and found again.
    life: u64,
    /// All up to here is processed; unknown before the first batch was read.
    position: Option<EntryId>,
    /// A batch is under way.
    busy: bool,
    /// The pending entries of the group are next.
    pending_first: bool,
    /// There may be entries that nobody counted: they came before it was found.
    backlog: bool,
    /// Entries that came since.
    waiting: u64,
    /// When the first of them came.
    since: Option<Instant>,
    /// The newest entry that is not a new one: where `$` begins.
    old: EntryId,
    /// Whether a timer runs for it.
    timed: bool,
    /// Processed entries that were not removed yet.
    untrimmed: u64,
    /// Whole batches that follow the position, read together with one before: to find an entry in the
    /// middle of a stream's node takes longer than to read on.
    ahead: VecDeque<Ahead>,
}

/// A batch that was read before its turn.
struct Ahead {
    /// The position that it follows.
    after: EntryId,
    chunk: Chunk,
    content: Content,
}

struct State {
    status: Status,
    streams: HashMap<Vec<u8>, Stream>,
    /// Batches under way, by their stream. They stay here when the stream is forgotten.
    running: HashMap<Vec<u8>, Vec<Arc<Batch>>>,
    lives: u64,
    /// Changes when all streams are forgotten.
    epoch: u64,
    /// Whether it looked for its streams.
    started: bool,
    closed: bool,
}

impl State {
    /// The stream that a batch is of, unless it was forgotten meanwhile.
    fn stream_of(&mut self, batch: &Batch) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(&batch.key);
        stream.filter(|stream| stream.life == batch.life)
    }

    fn begins(&mut self, batch: &Arc<Batch>) {
        let running = self.running.entry(batch.key.clone()).or_default();
        running.push(batch.clone());
    }

    fn ends(&mut self, batch: &Batch) {
        if let Some(running) = self.running.get_mut(&batch.key) {
            running.retain(|other| !std::ptr::eq(&**other, batch));
            if running.is_empty() {
                self.running.remove(&batch.key);
            }
        }
    }
}

/// A registration of a StreamReader, with its streams.
pub(super) struct Consumer {
    registrations: &'static Registrations,
    function: Arc<Function>,
    trigger: StreamTrigger,
    names: Names,
    need: Need,
    lane: Arc<Lane<Cpython>>,
    state: Mutex<State>,
    /// Whether it runs at once just now: what it adds to its own streams does not trigger it.
    active: AtomicBool,
    this: Weak<Self>,
}

/// What was read for an execution.
enum Content {
    /// Entries after the position, and whether there were more.
    New {
        last: EntryId,
        count: u64,
        more: bool,
    },
    /// Entries that are pending in the group.
    Pending(Vec<Vec<u8>>),
}

/// An execution's entries of one stream.
struct Batch {
    consumer: Arc<Consumer>,
    key: Vec<u8>,
    life: u64,
    pending: bool,
    since: Option<Instant>,
    content: Mutex<Option<Content>>,
    /// The stream is another one now: nothing of this batch is acknowledged. Under the server lock.
    void: AtomicBool,
}

impl Batch {
    fn is_void(&self) -> bool {
        self.void.load(Ordering::Relaxed)
    }

    fn content(&self) -> MutexGuard<'_, Option<Content>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    pub(super) fn new(
        registrations: &'static Registrations,
        function: Arc<Function>,
        trigger: StreamTrigger,
        lane: Arc<Lane<Cpython>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            registrations,
            names: Names::of(&trigger.prefix),
            need: function.need(),
            function,
            trigger,
            lane,
            state: Mutex::new(State {
                status: Status::Ok,
                streams: HashMap::new(),
                running: HashMap::new(),
                lives: 0,
                epoch: 0,
                started: false,
                closed: false,
            }),
            active: AtomicBool::new(false),
            this: this.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn group(&self) -> &str {
        &self.trigger.group
    }

    /// The word in listings.
    pub(super) fn status(&self) -> &'static str {
        match self.state().status {
            Status::Ok => "OK",
            Status::Aborted => "ABORTED",
            Status::Waiting => "WAITING_FOR_RETRY_ON_FAILURE",
            Status::Paused => "PAUSED",
        }
    }

    /// Forgets all streams, and aborts what waits for a worker.
    fn forget(&self, status: Option<Status>) {
        {
            let mut state = self.state();
            state.streams.clear();
            state.epoch += 1;
            state.status = status.unwrap_or(state.status);
        }
        self.registrations.drop_queued(&self.lane);
    }

    /// It is unregistered.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.forget(None);
    }

    pub(super) fn pause(&self) {
        let status = self.state().status;
        if matches!(status, Status::Ok | Status::Waiting) {
            self.forget(Some(Status::Paused));
        }
    }

    pub(super) fn unpause(&self) {
        if self.state().status == Status::Ok {
            return;
        }
        self.restart();
    }

    /// This server's role is another one now.
    pub(super) fn role_changed(&self) {
        let waits = self.state().status == Status::Waiting;
        self.forget(waits.then_some(Status::Ok));
        self.state().started = false;
    }

    /// Its streams are gone or others, without an event for each.
    pub(super) fn forget_streams(&self) {
        for batch in self.state().running.values().flatten() {
            batch.void.store(true, Ordering::Relaxed);
        }
        self.forget(None);
    }

    fn restart(&self) {
        {
            let mut state = self.state();
            state.status = Status::Ok;
            state.started = false;
        }
        self.start();
    }

    /// Looks for its streams, unless it did so.
    pub(super) fn start(&self) {
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
    pub(super) fn look_again(&self) {
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

    /// A stream that was not known. A `backlog`, entries that nobody saw coming, waits for no full
    /// batch.
    fn begin(&self, key: &[u8], old: EntryId, backlog: bool) {
        let mut state = self.state();
        state.lives += 1;
        let stream = Stream {
            life: state.lives,
            position: None,
            busy: false,
            pending_first: true,
            backlog,
            waiting: 0,
            since: (!backlog).then(Instant::now),
            old,
            timed: false,
            untrimmed: 0,
            ahead: VecDeque::new(),
        };
        state.streams.insert(key.to_vec(), stream);
    }

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

    /// Runs a partial batch when its time has come.
    fn arm(&self, key: &[u8], stream: &mut Stream) {
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

    /// Starts an execution over the next batch of a stream.
    fn launch(&self, key: &[u8], event: Option<EventCtx>) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        let batch = {
            let mut state = self.state();
            let Some(stream) = state.streams.get_mut(key) else {
                return;
            };
            stream.busy = true;
            Arc::new(Batch {
                consumer: this.clone(),
                key: key.to_vec(),
                life: stream.life,
                pending: std::mem::take(&mut stream.pending_first),
                since: stream.since,
                content: Mutex::default(),
                void: AtomicBool::new(false),
            })
        };
        self.state().begins(&batch);
        self.function.statistics.trigger();
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
        let launch = Launch::of_registration(&self.function, source);
        let execution = self.registrations.registry.create(launch);
        execution.when_done(Box::new(move |outcome| {
            this.registrations.lock.with(|_| {
                if this.done(&batch, &outcome.errors, outcome.aborted) == Next::Batch {
                    this.launch(&batch.key, None);
                }
            });
        }));
        let registry = &self.registrations.registry;
        registry.start_in(&self.lane, execution, true);
    }

    /// Runs batches one after another, and lets clients in if there are many.
    fn run_here(self: Arc<Self>, batch: Arc<Batch>) {
        let begin = Instant::now();
        let server = self.registrations.server;
        let next = {
            let _active = Active::begin(&self.active);
            let errors = match self.read(server, &batch) {
                Ok(chunk) => self
                    .function
                    .run_here(&chunk, None, |_, errors| errors.to_vec()),
                Err(error) => {
                    let errors = vec![error];
                    self.function
                        .statistics
                        .finish(&errors, false, Duration::ZERO);
                    errors
                }
            };
            self.done(&batch, &errors, false)
        };
        if next == Next::Nothing {
            return;
        }
        // Each batch on the stack of its own, not inside of the one before.
        let key = batch.key.clone();
        drop(batch);
        let time = if begin.elapsed() < AT_ONCE {
            Duration::ZERO
        } else {
            AT_ONCE
        };
        let this = self.clone();
        let task = move || this.registrations.lock.with(|_| this.launch(&key, None));
        self.registrations.timers.after(time, Box::new(task));
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
            if pauses || self.trigger.on_failed != OnFailed::Continue {
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

    /// A batch failed under a policy that does not let it pass.
    fn stop(&self, status: Status, pauses: bool) {
        let next = match (pauses, self.trigger.on_failed) {
            (true, _) => Status::Paused,
            (false, OnFailed::Retry) => Status::Waiting,
            (false, _) => Status::Aborted,
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

    /// Looks at a stream that may have come without an entry. Not in the event: functions may run.
    fn look_at(&self, key: &[u8]) {
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

impl Registrations {
    /// Something happened to a key that may be a stream. The server lock is held.
    pub(super) fn on_stream_event(&self, ctx: EventCtx, event: &[u8], key: &[u8]) {
        let Some(happened) = Happened::of(event) else {
            return;
        };
        if ctx.database() != 0 {
            return;
        }
        let consumers = self.state().streams.clone();
        for consumer in consumers {
            if !consumer.names.matches(key) {
                continue;
            }
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
