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

mod batches;
mod events;
mod finding;
mod groups;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::index::Names;
use super::{Function, Registrations};
use crate::engine::{Chunk, Lane, Need, StreamTrigger};
use crate::python::Cpython;
use crate::redis::raw::EntryId;

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

/// Whether an event is the module's own note of what a function has processed. In RedisGears 1.x no
/// event came of that.
pub(super) fn is_own_note(event: &[u8]) -> bool {
    event == b"xgroup-setid" && OWN.load(Ordering::Relaxed)
}

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

    /// Which streams it reads.
    pub(super) fn names(&self) -> &Names {
        &self.names
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
}
