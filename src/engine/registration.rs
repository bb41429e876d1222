//! A registration: a plan that waits for its trigger, how it runs then, and what became of it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::pipeline::Flushed;
use super::pipeline::Pipeline;
use super::planner::{For, Prepared, compile};
use super::wire::{RegistrationWire, Shipped};
use super::{Behalf, Caller, Chunk, Id, Language, Limits, Need, Outcome, Plan, Results, Ticket};

/// Where and when an execution of a registration runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// On the pool, on all shards.
    Async,
    /// On the pool of this shard.
    AsyncLocal,
    /// At once, before the command that triggered it is answered.
    Sync,
}

impl Mode {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::AsyncLocal => "async_local",
            Self::Sync => "sync",
        }
    }
}

/// What happens to the entries of a stream whose execution failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailed {
    /// They count as processed.
    Continue,
    /// They stay; nothing runs any more.
    Abort,
    /// They stay, and are read again after a while.
    Retry,
}

impl OnFailed {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Abort => "abort",
            Self::Retry => "retry",
        }
    }
}

/// Which events of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysTrigger {
    /// Name of a key, or the beginning of names if a `*` follows.
    pub prefix: String,
    /// Names of events, as the user wrote them.
    pub event_types: Option<Vec<String>>,
    /// Names of types.
    pub key_types: Option<Vec<String>>,
    /// Whether records carry type and value.
    pub read_value: bool,
    /// Whether values of sets, sorted sets and streams are read too.
    pub all_values: bool,
    /// The commands that events must come from.
    pub commands: Option<Vec<String>>,
}

/// Which entries of streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTrigger {
    /// Name of a stream, or the beginning of names if a `*` follows.
    pub prefix: String,
    /// Entries of one execution.
    pub batch: u64,
    /// Milliseconds to wait for a whole batch; 0: for ever.
    pub duration: u64,
    /// Whether processed entries are removed.
    pub trim: bool,
    /// What a failure does.
    pub on_failed: OnFailed,
    /// Seconds until a retry.
    pub retry_interval: u64,
    /// Where a stream begins that no function has read before.
    pub start: String,
    /// The consumer group that remembers what was processed. Chosen when it is registered.
    pub group: String,
}

/// Which command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandTrigger {
    /// RG.TRIGGER with this name.
    Named(String),
    /// A command of the server.
    Hook {
        /// Its name.
        command: String,
        /// How a key of it must begin.
        key_prefix: Option<String>,
    },
}

/// What a registration waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// Changes of keys.
    Keys(KeysTrigger),
    /// New entries of streams.
    Stream(StreamTrigger),
    /// Commands.
    Command {
        /// Which.
        what: CommandTrigger,
        /// Whether executions run one after another.
        in_order: bool,
    },
}

impl Trigger {
    /// The name of the reader.
    pub fn reader(&self) -> &'static str {
        match self {
            Self::Keys(_) => "KeysReader",
            Self::Stream(_) => "StreamReader",
            Self::Command { .. } => "CommandReader",
        }
    }
}

/// How often a registration ran, and how it went. Written by whoever ran it.
#[derive(Debug, Default)]
pub struct Statistics {
    triggered: AtomicI64,
    success: AtomicI64,
    failures: AtomicI64,
    aborted: AtomicI64,
    last_run: AtomicU64,
    total_run: AtomicU64,
    last_lag: AtomicU64,
    total_lag: AtomicU64,
    failed_last: AtomicBool,
    last_error: Mutex<Option<String>>,
}

/// The same at one moment. Durations are in milliseconds.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Figures {
    /// How often it was triggered.
    pub triggered: i64,
    /// Executions without an error.
    pub success: i64,
    /// Executions with errors.
    pub failures: i64,
    /// Executions that did not run to their end.
    pub aborted: i64,
    /// Time that the last execution took.
    pub last_run: u64,
    /// Time that all took.
    pub total_run: u64,
    /// The average.
    pub average_run: f64,
    /// Time from a stream's entry to the end of its execution.
    pub last_lag: u64,
    /// The average.
    pub average_lag: f64,
    /// The first error of the last execution, if it failed.
    pub last_error: Option<String>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Statistics {
    /// It is triggered.
    pub fn trigger(&self) {
        self.triggered.fetch_add(1, Ordering::Relaxed);
    }

    /// What it was triggered for could not even start.
    pub fn abort(&self, why: Option<String>) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
        if why.is_some() {
            self.set_error(why);
        }
    }

    /// It can not run at all, and says why.
    pub fn fail(&self, why: String) {
        self.set_error(Some(why));
    }

    fn set_error(&self, error: Option<String>) {
        *self.error() = error;
        self.failed_last.store(true, Ordering::Relaxed);
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An execution ended.
    pub fn finish(&self, errors: &[String], aborted: bool, took: Duration) {
        let took = micros(took);
        self.last_run.store(took, Ordering::Relaxed);
        self.total_run.fetch_add(took, Ordering::Relaxed);
        match errors.first() {
            Some(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.set_error(Some(error.clone()));
            }
            None if aborted => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                self.success.fetch_add(1, Ordering::Relaxed);
                if self.failed_last.swap(false, Ordering::Relaxed) {
                    *self.error() = None;
                }
            }
        }
    }

    /// So long did an entry of a stream wait for the end of its execution.
    pub fn lag(&self, lag: Duration) {
        let lag = micros(lag);
        self.last_lag.store(lag, Ordering::Relaxed);
        self.total_lag.fetch_add(lag, Ordering::Relaxed);
    }

    /// Back to zero; what is under way stays counted as triggered.
    pub fn clear(&self) {
        let mut ended = 0;
        for counter in [&self.success, &self.failures, &self.aborted] {
            ended += counter.swap(0, Ordering::Relaxed);
        }
        self.triggered.fetch_sub(ended, Ordering::Relaxed);
        for duration in [
            &self.last_run,
            &self.total_run,
            &self.last_lag,
            &self.total_lag,
        ] {
            duration.store(0, Ordering::Relaxed);
        }
        self.failed_last.store(false, Ordering::Relaxed);
        *self.error() = None;
    }

    /// All at this moment.
    pub fn figures(&self) -> Figures {
        let count = |counter: &AtomicI64| counter.load(Ordering::Relaxed);
        let millis = |time: &AtomicU64| time.load(Ordering::Relaxed) / 1000;
        let (success, failures) = (count(&self.success), count(&self.failures));
        let aborted = count(&self.aborted);
        let ended = success + failures + aborted;
        let average = |total: u64| {
            if ended > 0 {
                total as f64 / ended as f64
            } else {
                0.0
            }
        };
        Figures {
            triggered: count(&self.triggered),
            success,
            failures,
            aborted,
            last_run: millis(&self.last_run),
            total_run: millis(&self.total_run),
            average_run: average(millis(&self.total_run)),
            last_lag: millis(&self.last_lag),
            average_lag: average(millis(&self.total_lag)),
            last_error: self.error().clone(),
        }
    }
}

/// A plan bound to a trigger. Crosses threads: events fire it, workers run it, commands list it.
pub struct Registration<L: Language> {
    /// Its name.
    pub id: Id,
    /// What it runs.
    pub plan: Arc<Plan<L>>,
    /// What it waits for.
    pub trigger: Trigger,
    /// How it runs.
    pub mode: Mode,
    /// How often it ran.
    pub statistics: Statistics,
    /// Why it can not run here, if so.
    pub broken: Option<String>,
    /// Called when it becomes active on a shard.
    pub on_registered: Option<Arc<L::Function>>,
    /// Called right before it is removed.
    pub on_unregistered: Option<Arc<L::Function>>,
    limits: Arc<Limits>,
    /// What runs on the calling thread. The results of what reacts to keys and streams are nobody's.
    here: OnceLock<Prepared<L>>,
    /// For runs on the calling thread, kept between them.
    spare: Mutex<Vec<Pipeline<L>>>,
    pub(super) kept: Mutex<Kept>,
}

/// Executions of a registration that a listing shows.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Ended, oldest first.
    pub(super) ended: VecDeque<Id>,
    /// Not ended.
    pub(super) live: usize,
    /// Whether the registration is gone.
    pub(super) gone: bool,
}

/// Functions that run at once call each other no deeper than this: each level takes much of the
/// stack.
const DEEPEST: u32 = 50;

thread_local! {
    /// How deep this thread is.
    static LEVEL: Cell<u32> = const { Cell::new(0) };
}

/// One level, until it is dropped.
struct Level;

impl Level {
    fn enter() -> Option<Self> {
        let level = LEVEL.get() + 1;
        (level <= DEEPEST).then(|| {
            LEVEL.set(level);
            Self
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        LEVEL.set(LEVEL.get() - 1);
    }
}

/// A run on the calling thread that waits for what was promised.
pub struct Unfinished<L: Language> {
    pub(super) pipeline: Pipeline<L>,
    /// How long it was at work so far.
    pub(super) worked: Duration,
}

/// What a registration is made of.
pub struct Parts<L: Language> {
    /// Its name.
    pub id: Id,
    /// What it runs.
    pub plan: Arc<Plan<L>>,
    /// What it waits for.
    pub trigger: Trigger,
    /// How it runs.
    pub mode: Mode,
    /// Why it can not run here, if so.
    pub broken: Option<String>,
    /// Called when it becomes active on a shard.
    pub on_registered: Option<Arc<L::Function>>,
    /// Called right before it is removed.
    pub on_unregistered: Option<Arc<L::Function>>,
}

/// A registration on its way in, with what is shipped of it.
pub struct Joining<L: Language> {
    /// What runs here.
    pub registration: Arc<Registration<L>>,
    /// What is kept, and sent to others.
    pub wire: RegistrationWire,
}

/// What a script changes: all of it, or nothing.
pub struct Change<L: Language> {
    /// The session of the script.
    pub session: L::Context,
    /// The id of a session that it replaces, with all its registrations.
    pub replaces: Option<String>,
    /// Registrations that come, in this order.
    pub add: Vec<Joining<L>>,
}

/// Keeps registrations and fires them.
pub trait Registrar<L: Language>: Send + Sync {
    /// An id that no plan or registration had before.
    fn next_id(&self) -> Id;
    /// Why the last registration of a change can not join the others, if so. May wait for the server
    /// lock.
    fn verify(&self, change: &Change<L>) -> Result<(), String>;
    /// Makes it. May wait for the server lock.
    fn apply(&self, change: Change<L>) -> Result<(), String>;
    /// Calls a function every so many seconds, on this shard; `false` if its key exists already.
    fn every(&self, event: TimeEvent<L>) -> Result<bool, String>;
}

/// A function that is called again and again.
pub struct TimeEvent<L: Language> {
    /// For whom.
    pub session: L::Context,
    /// Seconds between two calls.
    pub seconds: u64,
    /// What is called, without arguments.
    pub callback: Arc<L::Function>,
    /// The same, shipped; only where a key holds it.
    pub shipped: Option<Shipped>,
    /// The key that holds it: without it, it ends.
    pub key: Option<Vec<u8>>,
}

impl<L: Language> Registration<L> {
    /// A registration that was not triggered yet.
    pub fn new(parts: Parts<L>, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            id: parts.id,
            plan: parts.plan,
            trigger: parts.trigger,
            mode: parts.mode,
            statistics: Statistics::default(),
            broken: parts.broken,
            on_registered: parts.on_registered,
            on_unregistered: parts.on_unregistered,
            limits,
            here: OnceLock::new(),
            spare: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discards(&self) -> bool {
        self.mode == Mode::Sync && !matches!(self.trigger, Trigger::Command { .. })
    }

    fn here(&self) -> &Prepared<L> {
        let whom = if self.discards() {
            For::Nobody
        } else {
            For::Alone
        };
        self.here.get_or_init(|| compile(&self.plan, whom))
    }

    /// How much of its records it looks at.
    pub fn need(&self) -> Need {
        self.here().need
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Pipeline<L>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs it here and now over these records. `read` gets results and errors; if some are only
    /// promised, the run has to go on elsewhere.
    pub fn run_here<R>(
        &self,
        chunk: &Chunk,
        caller: Option<&Arc<dyn Caller>>,
        read: impl FnOnce(&Results, &[String]) -> R,
    ) -> Result<R, Box<Unfinished<L>>> {
        let begin = Instant::now();
        let Some(_level) = Level::enter() else {
            let errors = [format!(
                "functions that run at once call each other more than {DEEPEST} levels deep"
            )];
            self.statistics.finish(&errors, false, Duration::ZERO);
            return Ok(read(&Results::default(), &errors));
        };
        let spare = self.spare().pop();
        let profiles = self.limits.profile.load(Ordering::Relaxed);
        let mut pipeline = spare.filter(|_| !profiles).unwrap_or_else(|| {
            let stages = &self.here().stages;
            if self.discards() {
                Pipeline::discarding(stages, &self.limits)
            } else {
                Pipeline::new(stages, &self.limits)
            }
        });
        let behalf = Behalf {
            context: &self.plan.context,
            ticket: Ticket::Watched,
            caller,
        };
        if chunk.is_counted() {
            pipeline.feed_counted(chunk.len() as u64);
        }
        if !chunk.is_counted() || !pipeline.is_empty() {
            let flushed = L::attach(&behalf, |s| pipeline.feed_and_flush(s, chunk));
            if flushed == Flushed::Waits {
                return Err(Box::new(Unfinished {
                    pipeline,
                    worked: begin.elapsed(),
                }));
            }
        }
        self.statistics
            .finish(&pipeline.errors, false, begin.elapsed());
        let read = read(&pipeline.results, &pipeline.errors);
        if pipeline.is_empty() && !profiles {
            pipeline.reset();
            self.spare().push(pipeline);
        } else {
            L::attach(&behalf, |_| drop(pipeline));
        }
        Ok(read)
    }

    /// An execution of it ended; how many of it are kept is bounded.
    pub(super) fn ended(&self, outcome: &Outcome) {
        self.statistics
            .finish(&outcome.errors, outcome.aborted, outcome.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trigger_ends_in_one_counter_and_a_success_clears_the_error() {
        let statistics = Statistics::default();
        for _ in 0..4 {
            statistics.trigger();
        }
        statistics.finish(&["first".into(), "second".into()], false, Duration::ZERO);
        let failed = statistics.figures();
        assert_eq!(
            (failed.failures, failed.last_error),
            (1, Some("first".into()))
        );
        statistics.finish(&[], true, Duration::ZERO);
        statistics.finish(&[], false, Duration::from_millis(3));
        let figures = statistics.figures();
        assert_eq!(figures.last_error, None);
        assert_eq!((figures.success, figures.aborted), (1, 1));
        assert_eq!((figures.last_run, figures.average_run), (3, 1.0));
        statistics.clear();
        // One is under way.
        assert_eq!(statistics.figures().triggered, 1);
    }
}
