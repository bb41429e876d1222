//! An execution: one run of a plan on this shard, as a state machine.
//!
//! It holds a worker only while there is something to do. When its reader has nothing yet it is
//! parked and put back on the pool when a chunk comes.
//!
//! ```text
//! created -> running (<-> parked) -> done          created -> aborted
//!
//! with parts on other shards, on the one that was asked, and on the others:
//! created -> pending_receive -> running -> pending_cluster -> done
//!            pending_run -> running -> pending_termination -> done
//! any of them, while parked -> aborted
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::pipeline::{Flushed, Pipeline};
use super::promise::Wake;
use super::read_ahead::{Fed, Feed};
use super::remote::{MAX_IDLE, Remote, Todo};
use super::{
    Batch, Behalf, Caller, Chunk, Context, Error, Id, Language, Limits, Need, Next, Parcel, Part,
    Plan, Pool, ReadAhead, Reader, ReaderSpec, Readers, RecordError, Registration, Results, Shards,
    Source, Spent, Task, Team, Ticket, Values,
};

/// Records a generator yields in one attached section.
const SECTION: usize = 1000;
/// Of these so many are timed one by one.
const SAMPLE: u32 = 64;
/// And all others as well, unless those took less: reading the clock would take as long as they do.
const QUICK: Duration = Duration::from_micros(320);
/// A worker leaves an execution that takes longer to the back of the queue.
const TURN: Duration = Duration::from_millis(500);

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Queued; no worker has seen it.
    Created,
    /// At work, or waiting for its reader.
    Running,
    /// Asked; not all other shards have the plan.
    PendingReceive,
    /// Has the plan; the shard that was asked has not said to begin.
    PendingRun,
    /// Asked, and done here; other shards are not.
    PendingCluster,
    /// Done here; the shard that was asked has not said that all are.
    PendingTermination,
    /// Ended; results can be read.
    Done,
    /// Stopped before its end.
    Aborted,
}

impl Status {
    /// The word in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::PendingReceive => "pending_receive",
            Self::PendingRun => "pending_run",
            Self::PendingCluster => "pending_cluster",
            Self::PendingTermination => "pending_termination",
            Self::Done => "done",
            Self::Aborted => "aborted",
        }
    }

    /// Whether results can be read.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Done | Self::Aborted)
    }
}

/// What an ended execution leaves.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Final records, encoded.
    pub results: Results,
    /// Texts of error records.
    pub errors: Vec<String>,
    /// At work on this shard: neither queued, nor waiting for promises or other shards.
    pub total: Duration,
    /// Of it spent in the reader.
    pub read: Duration,
    /// Time that each operation of the plan took; empty if it was not measured.
    pub steps: Vec<Spent>,
    /// Whether it was stopped before its end.
    pub aborted: bool,
}

impl Outcome {
    /// Bytes it occupies.
    pub fn size(&self) -> usize {
        self.results.size() + self.errors.iter().map(String::len).sum::<usize>()
    }
}

/// An execution as a listing shows it.
#[derive(Debug)]
pub struct Snapshot {
    /// Where it stands.
    pub status: Status,
    /// What it left, once it ended.
    pub outcome: Option<Arc<Outcome>>,
}

/// What happened to a request to abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// It had ended already, or never starts now.
    Ended,
    /// It is at work: it was asked to stop, and [`Execution::interrupt`] insists.
    Running,
    /// The same, but it was asked before.
    Asked,
}

/// Called when an execution has ended.
pub type Listener = Box<dyn FnOnce(&Arc<Outcome>) + Send>;

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const NOTIFIED: u8 = 3;

/// What executions run on.
pub struct Machinery {
    /// Runs them.
    pub pool: Arc<Pool>,
    /// Reads for them.
    pub read_ahead: ReadAhead,
    /// Opens the server's data.
    pub readers: Box<dyn Readers>,
    /// The other shards.
    pub shards: Arc<dyn Shards>,
}

/// What an execution is made of.
pub struct Launch<L: Language> {
    /// What it runs.
    pub plan: Arc<Plan<L>>,
    /// Where its records come from.
    pub source: Source<L>,
    /// The registration that starts it.
    pub registration: Option<Arc<Registration<L>>>,
    /// Whether one does, here or on another shard.
    pub registered: bool,
    /// The command that it answers.
    pub caller: Option<Arc<dyn Caller>>,
    /// Called when a worker begins with it.
    pub begins: Option<Begins>,
    /// What other shards are told to run, if they are to.
    pub everywhere: Option<Arc<[u8]>>,
    /// Who gets its results as values. Nobody else sees them then.
    pub taker: Option<Taker<L>>,
}

/// Called by a worker with the results and errors of an execution that ended.
pub type Taker<L> = Box<dyn FnOnce(Vec<<L as Values>::Object>, &[String]) + Send>;

/// Called when a worker begins with an execution.
pub type Begins = Box<dyn FnOnce() + Send>;

impl<L: Language> Launch<L> {
    /// A run that somebody asked for.
    pub fn of_plan(plan: Plan<L>, source: Source<L>) -> Self {
        Self {
            plan: Arc::new(plan),
            source,
            registration: None,
            registered: false,
            caller: None,
            begins: None,
            everywhere: None,
            taker: None,
        }
    }

    /// The part of a run that a registration starts on another shard: it counts there.
    pub fn of_part(registration: &Registration<L>, source: Source<L>) -> Self {
        Self {
            plan: registration.plan.clone(),
            source,
            registration: None,
            registered: true,
            caller: None,
            begins: None,
            everywhere: None,
            taker: None,
        }
    }

    /// A run that a registration starts.
    pub fn of_registration(registration: &Arc<Registration<L>>, source: Source<L>) -> Self {
        Self {
            plan: registration.plan.clone(),
            source,
            registration: Some(registration.clone()),
            registered: true,
            caller: None,
            begins: None,
            everywhere: None,
            taker: None,
        }
    }
}

/// One run of a plan. Crosses threads: commands look at it, workers run it, the reader wakes it.
pub struct Execution<L: Language> {
    /// Its name.
    pub id: Id,
    /// How many were made here before it.
    pub(super) order: u64,
    /// What it runs.
    pub plan: Arc<Plan<L>>,
    /// The registration that started it, on the shard where that counts.
    pub registration: Option<Arc<Registration<L>>>,
    /// Whether a registration started it, here or on another shard.
    pub registered: bool,
    /// The command that it answers.
    caller: Option<Arc<dyn Caller>>,
    /// Its parts on other shards.
    remote: Option<Arc<Remote>>,
    everywhere: Option<Arc<[u8]>>,
    /// Whether its results are kept when it has ended.
    pub(super) kept: AtomicBool,
    machinery: Arc<Machinery>,
    schedule: AtomicU8,
    abort: AtomicBool,
    shared: Mutex<Shared<L>>,
    this: Weak<Self>,
}

struct Shared<L: Language> {
    status: Status,
    /// Here while no worker has it.
    work: Option<Box<Work<L>>>,
    outcome: Option<Arc<Outcome>>,
    listeners: Vec<Listener>,
}

struct Work<L: Language> {
    pipeline: Pipeline<L>,
    input: Input<L>,
    clock: Clock,
    begins: Option<Begins>,
    read: Duration,
    taker: Option<Taker<L>>,
    /// It reads keys, of which other shards read others.
    reads_keys: bool,
    /// The cut that is behind this shard, and may not be behind all others.
    crossing: Option<usize>,
    aborted: bool,
}

/// How long an execution was at work.
struct Clock {
    spent: Duration,
    since: Option<Instant>,
}

impl Clock {
    fn goes_on(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn stops(&mut self) {
        self.spent = self.read();
        self.since = None;
    }

    fn read(&self) -> Duration {
        self.spent + self.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

enum Input<L: Language> {
    Closed(ReaderSpec, Need),
    Feed(Arc<Feed>),
    Generator(L::Generator),
    Records(Chunk),
    Direct(Box<dyn Reader>),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    More,
    /// For its own reader, which is at work.
    Read,
    /// For promises or other shards.
    Wait,
    End,
}

/// Measures what a generator takes of a section.
struct ReadClock {
    begin: Instant,
    records: u32,
    timed: u32,
    spent: Duration,
    quick: bool,
}

impl ReadClock {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            records: 0,
            timed: 0,
            spent: Duration::ZERO,
            quick: false,
        }
    }

    fn time<R>(&mut self, read: impl FnOnce() -> R) -> R {
        self.records += 1;
        if self.quick {
            return read();
        }
        self.timed += 1;
        let begin = Instant::now();
        let record = read();
        self.spent += begin.elapsed();
        self.quick = self.timed == SAMPLE && self.begin.elapsed() < QUICK;
        record
    }

    /// How long all took, if those that were not timed took as long as the others.
    fn spent(&self) -> Duration {
        self.spent * self.records / self.timed.max(1)
    }
}

impl<L: Language> Execution<L> {
    /// An execution that has not started.
    pub(super) fn new(
        id: Id,
        order: u64,
        launch: Launch<L>,
        team: Option<Team>,
        machinery: Arc<Machinery>,
        limits: &Limits,
    ) -> Arc<Self> {
        let prepared = launch.plan.prepared(team.is_some());
        let mut unfinished = None;
        let input = match launch.source {
            Source::Generator(generator) => Input::Generator(generator),
            Source::Server(spec) => Input::Closed(spec, prepared.need),
            Source::Records(chunk) => Input::Records(chunk),
            Source::Direct(reader) => Input::Direct(reader),
            Source::Unfinished(begun) => {
                unfinished = Some(begun);
                Input::Ended
            }
        };
        let remote = team.map(|team| {
            let cuts = prepared.stages.iter().filter_map(|placed| placed.cut());
            let collects: Vec<_> = cuts.map(|(_, collects)| collects).collect();
            Arc::new(Remote::new(team, &collects))
        });
        let spent = unfinished.as_ref().map(|unfinished| unfinished.spent);
        let mut pipeline = match (unfinished, &remote) {
            (Some(unfinished), _) => unfinished.pipeline,
            (None, Some(remote)) => Pipeline::shared(&prepared.stages, limits, remote.clone()),
            (None, None) => Pipeline::new(&prepared.stages, limits),
        };
        if launch.taker.is_some() {
            pipeline.objects = Some(Vec::new());
        }
        let work = Work {
            pipeline,
            input,
            clock: Clock {
                spent: spent.unwrap_or_default(),
                since: None,
            },
            taker: launch.taker,
            begins: launch.begins,
            read: Duration::ZERO,
            reads_keys: false,
            crossing: None,
            aborted: false,
        };
        Arc::new_cyclic(|this| Self {
            id,
            order,
            plan: launch.plan,
            registered: launch.registered,
            registration: launch.registration,
            caller: launch.caller,
            remote,
            everywhere: launch.everywhere,
            kept: AtomicBool::new(false),
            machinery,
            schedule: AtomicU8::new(IDLE),
            abort: AtomicBool::new(false),
            shared: Mutex::new(Shared {
                status: Status::Created,
                work: Some(Box::new(work)),
                outcome: None,
                listeners: Vec::new(),
            }),
            this: this.clone(),
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared<L>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues it. With parts on other shards it tells them first, or says that this one is ready.
    pub fn start(&self) {
        match &self.remote {
            Some(remote) if remote.team.is_initiator() => self.announce(remote),
            Some(remote) => {
                remote.tell_initiator(Parcel::Ready);
                // There may be something to do already, if only to hear that it is over.
                self.notify();
            }
            None => self.notify(),
        }
    }

    fn announce(&self, remote: &Remote) {
        if let (Some(run), true) = (&self.everywhere, remote.announces()) {
            let (run, keep) = (run.clone(), self.kept.load(Ordering::Relaxed));
            remote.tell_all(&Parcel::Prepare { run, keep });
        }
    }

    /// How many shards have its plan, and how many are done, besides this one that was asked.
    pub fn shards(&self) -> (usize, usize) {
        let asked = self.remote.as_ref();
        let asked = asked.filter(|remote| remote.team.is_initiator());
        asked.map(|remote| remote.counts()).unwrap_or_default()
    }

    /// Whether it has parts on other shards.
    pub fn is_shared(&self) -> bool {
        self.remote.is_some()
    }

    /// Where it stands, and what it left.
    pub fn snapshot(&self) -> Snapshot {
        let shared = self.shared();
        let status = match &self.remote {
            Some(remote) => remote.status(shared.status),
            None => shared.status,
        };
        Snapshot {
            status,
            outcome: shared.outcome.clone(),
        }
    }

    /// What it left.
    pub fn outcome(&self) -> Result<Arc<Outcome>, Error> {
        self.shared().outcome.clone().ok_or(Error::StillRunning)
    }

    /// Calls `listener` when it has ended, at once if it has.
    pub fn when_done(&self, listener: Listener) {
        let outcome = {
            let mut shared = self.shared();
            match &shared.outcome {
                Some(outcome) => outcome.clone(),
                None => return shared.listeners.push(listener),
            }
        };
        listener(&outcome);
    }

    /// Asks it to stop.
    pub fn abort(&self) -> Abort {
        let shared = self.shared();
        match shared.status {
            Status::Done | Status::Aborted => Abort::Ended,
            Status::Created => {
                // Its work goes when a worker comes to it: values are dropped attached, and this
                // may be a thread that must not wait for that.
                let outcome = Outcome {
                    aborted: true,
                    ..Outcome::default()
                };
                self.tell_of_abort();
                Self::finish(shared, Status::Aborted, outcome);
                if self.remote.is_some() {
                    // It was waiting for others, and is in no queue.
                    self.notify();
                }
                Abort::Ended
            }
            _ if shared
                .work
                .as_ref()
                .is_some_and(|work| self.may_end_parked(work)) =>
            {
                self.tell_of_abort();
                self.end_parked(shared, None);
                Abort::Ended
            }
            _ => {
                drop(shared);
                let again = self.abort.swap(true, Ordering::SeqCst);
                self.notify();
                if again { Abort::Asked } else { Abort::Running }
            }
        }
    }

    /// Whether it ends at once where it is parked: others, or what was promised, may never come.
    fn may_end_parked(&self, work: &Work<L>) -> bool {
        self.remote.is_some() || work.pipeline.is_waiting()
    }

    fn tell_of_abort(&self) {
        if let Some(remote) = &self.remote
            && remote.team.is_initiator()
        {
            remote.tell_all(&Parcel::Abort);
        }
    }

    /// Ends an execution that no worker is at, with what it came to so far.
    fn end_parked(&self, mut shared: MutexGuard<'_, Shared<L>>, error: Option<&str>) {
        let Some(work) = &mut shared.work else { return };
        if let Some(error) = error {
            work.pipeline.fail_here(RecordError::new(error));
        }
        work.aborted = true;
        let outcome = self.outcome_of(work);
        Self::finish(shared, Status::Aborted, outcome);
        // Values are dropped by a worker.
        self.notify();
    }

    fn outcome_of(&self, work: &mut Work<L>) -> Outcome {
        let total = work.clock.read();
        work.pipeline.results.fit();
        Outcome {
            results: std::mem::take(&mut work.pipeline.results),
            errors: std::mem::take(&mut work.pipeline.errors),
            total,
            // Partly an estimate.
            read: work.read.min(total),
            steps: work.pipeline.spent(self.plan.steps.len()),
            aborted: work.aborted,
        }
    }

    /// Lets go of an execution that was never started.
    pub(super) fn discard(&self) {
        self.abort();
        let work = self.shared().work.take();
        if let Some(work) = work {
            self.drop_attached(work);
        }
    }

    /// Interrupts the callback that an aborted execution is in. Waits for the interpreter.
    pub fn interrupt(&self) {
        self.plan.context.interrupt(self.order);
    }

    /// Puts it on the pool unless it is there already.
    fn notify(&self) {
        let changed = self
            .schedule
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |was| match was {
                IDLE => Some(QUEUED),
                RUNNING => Some(NOTIFIED),
                _ => None,
            });
        if changed == Ok(IDLE) {
            self.enqueue();
        }
    }

    fn enqueue(&self) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        if self.machinery.pool.submit(this).is_err() {
            self.schedule.store(IDLE, Ordering::Release);
        }
    }

    fn turn(&self, work: &mut Work<L>) -> Turn {
        if self.abort.load(Ordering::Relaxed) {
            if work.pipeline.is_waiting() {
                self.tell_of_abort();
                self.end_input(work);
                work.aborted = true;
                return Turn::End;
            }
            if work.pipeline.wants_more() {
                let text = "gears.forcestopped: the execution was aborted";
                work.pipeline.fail_here(RecordError::new(text));
            }
        }
        if self.moves_on(&mut work.pipeline) {
            return Turn::More;
        }
        let turn = match &self.remote {
            Some(remote) => self.turn_together(remote, work),
            None => self.waits(&work.pipeline).then_some(Turn::Wait),
        };
        if let Some(turn) = turn {
            return turn;
        }
        if !work.pipeline.wants_more() {
            self.end_input(work);
        }
        match std::mem::replace(&mut work.input, Input::Ended) {
            Input::Closed(spec, need) => {
                let of_stream = matches!(spec, ReaderSpec::Stream { .. });
                work.reads_keys = self.remote.is_some() && !of_stream;
                if self.find_moved(work) {
                    return Turn::More;
                }
                work.input = Input::Feed(self.open(&spec, need));
                Turn::More
            }
            Input::Feed(feed) => {
                let fed = feed.take();
                work.read = feed.spent();
                match fed {
                    Fed::Chunk(chunk) => {
                        work.input = Input::Feed(feed);
                        self.feed(&mut work.pipeline, chunk);
                        Turn::More
                    }
                    Fed::End(end) => {
                        if let Err(error) = end {
                            work.pipeline.fail(error);
                        }
                        self.find_moved(work);
                        Turn::More
                    }
                    Fed::Later => {
                        work.input = Input::Feed(feed);
                        Turn::Read
                    }
                }
            }
            Input::Generator(generator) => {
                let (input, read) = self.generate(&mut work.pipeline, generator);
                work.input = input;
                work.read += read;
                Turn::More
            }
            Input::Records(chunk) if self.remote.is_none() => {
                self.feed_all(&mut work.pipeline, &chunk)
            }
            Input::Records(chunk) => {
                self.feed(&mut work.pipeline, chunk);
                Turn::More
            }
            Input::Direct(mut reader) => {
                let begin = Instant::now();
                let read = reader.read();
                work.read += begin.elapsed();
                match read {
                    Ok(Some(chunk)) => {
                        work.input = Input::Direct(reader);
                        self.feed(&mut work.pipeline, chunk);
                    }
                    Ok(None) => {}
                    Err(error) => work.pipeline.fail(error),
                }
                Turn::More
            }
            Input::Ended => match &self.remote {
                Some(remote) => self.flush_together(remote, work),
                None => self.flush(&mut work.pipeline),
            },
        }
    }

    /// Goes on with records whose promises are kept, and with what waited for room, if there is any. It
    /// is woken when other promises are kept.
    fn moves_on(&self, pipeline: &mut Pipeline<L>) -> bool {
        if !pipeline.is_waiting() && !pipeline.is_paused() {
            return false;
        }
        pipeline.wakes(|| self.wake());
        pipeline.refresh();
        if !pipeline.may_settle() && !pipeline.is_paused() {
            return false;
        }
        self.attach(|s| {
            let settled = pipeline.settle(s);
            pipeline.resume(s) || settled
        })
    }

    /// Whether nothing more may come in for now.
    fn waits(&self, pipeline: &Pipeline<L>) -> bool {
        pipeline.is_paused() || pipeline.clogged(0).is_some()
    }

    /// What the other shards make this one do, if anything.
    fn turn_together(&self, remote: &Remote, work: &mut Work<L>) -> Option<Turn> {
        self.announce(remote);
        remote.say_alive();
        match remote.todo(work.pipeline.clogged_cuts()) {
            Todo::Own => {
                work.pipeline.refresh();
                if self.waits(&work.pipeline) {
                    remote.waits_for_promises(work.pipeline.is_waiting());
                    return Some(Turn::Wait);
                }
                if remote.take_moved() {
                    self.find_moved(work);
                }
                None
            }
            Todo::Take(batch) => {
                self.arrive(work, batch);
                Some(Turn::More)
            }
            Todo::Wait => {
                remote.waits_for_promises(work.pipeline.is_waiting());
                Some(Turn::Wait)
            }
            Todo::Over => {
                if remote.team.is_initiator() && self.kept.load(Ordering::Relaxed) {
                    remote.tell_all(&Parcel::Terminate);
                }
                Some(Turn::End)
            }
            Todo::Failed(why) => {
                self.end_input(work);
                if remote.team.is_initiator() {
                    remote.tell_all(&Parcel::Abort);
                }
                work.pipeline.fail_here(RecordError::new(why));
                work.aborted = true;
                Some(Turn::End)
            }
            Todo::Stopped => {
                self.end_input(work);
                work.aborted = true;
                Some(Turn::End)
            }
        }
    }

    /// Keys that move while they are read may be read twice, or not at all: whether some do.
    fn find_moved(&self, work: &mut Work<L>) -> bool {
        if !work.reads_keys {
            return false;
        }
        let moved = self.machinery.shards.moved(self.id);
        if let Some(what) = &moved {
            work.reads_keys = false;
            let text = format!("{what}: keys of it may be missing, or there twice");
            work.pipeline.fail(RecordError::new(text));
            self.end_input(work);
        }
        moved.is_some()
    }

    /// Takes in records of another shard.
    fn arrive(&self, work: &mut Work<L>, batch: Batch) {
        work.pipeline.refresh();
        self.attach(|s| {
            if work.pipeline.is_paused() {
                work.pipeline.resume(s);
            }
            work.pipeline.arrive(s, batch);
        });
    }

    /// Flushes as far as the other shards let it.
    fn flush_together(&self, remote: &Remote, work: &mut Work<L>) -> Turn {
        if let Some(cut) = work.crossing {
            if !remote.has_all(cut) {
                remote.waits_for_promises(work.pipeline.is_waiting());
                return Turn::Wait;
            }
            work.crossing = None;
        }
        let flushed = self.attach(|s| {
            loop {
                match work.pipeline.flush(s) {
                    // Between two parts of much others may have a word.
                    Flushed::Some if work.pipeline.is_draining() => return Flushed::Some,
                    Flushed::Some if work.pipeline.is_paused() => return Flushed::Some,
                    Flushed::Some => {}
                    // What one collects for the initiator alone is behind it at once.
                    Flushed::Cut(cut) if remote.has_all(cut) => {}
                    flushed => return flushed,
                }
            }
        });
        match flushed {
            Flushed::Some => {}
            Flushed::Waits => {
                remote.waits_for_promises(true);
                return self.wait_for_promises(&mut work.pipeline);
            }
            Flushed::Cut(cut) => work.crossing = Some(cut),
            Flushed::All => {
                remote.done_here();
                if self.ends_alone(remote) {
                    return Turn::End;
                }
            }
        }
        Turn::More
    }

    fn wait_for_promises(&self, pipeline: &mut Pipeline<L>) -> Turn {
        pipeline.wakes(|| self.wake());
        Turn::Wait
    }

    /// Whether nobody can ask for what this part came to: then it need not wait for the others.
    fn ends_alone(&self, remote: &Remote) -> bool {
        !remote.team.is_initiator() && !self.kept.load(Ordering::Relaxed)
    }

    /// Feeds the only chunk there is, and flushes.
    fn feed_all(&self, pipeline: &mut Pipeline<L>, chunk: &Chunk) -> Turn {
        if chunk.is_counted() {
            pipeline.feed_counted(chunk.len() as u64);
        }
        if chunk.is_counted() && pipeline.is_empty() {
            return Turn::End;
        }
        let flushed = self.attach(|s| pipeline.feed_and_flush(s, chunk));
        self.after_flush(pipeline, flushed)
    }

    /// What is to be done after all was flushed that could be.
    fn after_flush(&self, pipeline: &mut Pipeline<L>, flushed: Flushed) -> Turn {
        match flushed {
            Flushed::All => Turn::End,
            Flushed::Some | Flushed::Cut(_) | Flushed::Waits => self.wait_for_promises(pipeline),
        }
    }

    /// Begins to read. The reader wakes this execution when it waits.
    fn open(&self, spec: &ReaderSpec, need: Need) -> Arc<Feed> {
        let user = self.plan.context.user();
        let reader = self.machinery.readers.open(spec, need, user);
        self.machinery.read_ahead.open(reader, self.wake())
    }

    /// Puts it on the pool.
    fn wake(&self) -> Wake {
        let this = self.this.clone();
        Box::new(move || {
            if let Some(execution) = this.upgrade() {
                execution.notify();
            }
        })
    }

    fn end_input(&self, work: &mut Work<L>) {
        match std::mem::replace(&mut work.input, Input::Ended) {
            Input::Feed(feed) => {
                feed.cancel();
                work.read = feed.spent();
            }
            Input::Generator(generator) => self.attach(|_| drop(generator)),
            Input::Closed(..) | Input::Records(_) | Input::Direct(_) | Input::Ended => {}
        }
    }

    fn attach<R>(&self, body: impl for<'a> FnOnce(L::Scope<'a>) -> R) -> R {
        let behalf = Behalf {
            context: &self.plan.context,
            ticket: Ticket::Number(self.order),
            caller: self.caller.as_ref(),
        };
        L::attach(&behalf, body)
    }

    fn feed(&self, pipeline: &mut Pipeline<L>, chunk: Chunk) {
        if chunk.is_counted() {
            pipeline.feed_counted(chunk.len() as u64);
        } else {
            self.attach(|s| pipeline.feed(s, &chunk));
        }
    }

    /// What is left of the generator, and how long it took.
    fn generate(
        &self,
        pipeline: &mut Pipeline<L>,
        mut generator: L::Generator,
    ) -> (Input<L>, Duration) {
        self.attach(|s| {
            let mut clock = ReadClock::new();
            for _ in 0..SECTION {
                let stopped = self.abort.load(Ordering::Relaxed);
                if stopped || !pipeline.wants_more() || pipeline.is_full(0) {
                    break;
                }
                L::breathe(s);
                match clock.time(|| L::generate(s, &mut generator)) {
                    Next::Record(record) => pipeline.feed_object(s, record),
                    Next::Failed(error) => {
                        pipeline.fail(error);
                        return (Input::Ended, clock.spent());
                    }
                    Next::End => return (Input::Ended, clock.spent()),
                }
            }
            (Input::Generator(generator), clock.spent())
        })
    }

    fn flush(&self, pipeline: &mut Pipeline<L>) -> Turn {
        if pipeline.is_empty() {
            return Turn::End;
        }
        let flushed = self.attach(|s| pipeline.flush_all(s));
        self.after_flush(pipeline, flushed)
    }

    /// Drops what may hold values of the language while attached.
    fn drop_attached(&self, work: Box<Work<L>>) {
        self.attach(|_| {
            if work.aborted {
                work.pipeline.call_off();
            }
            drop(work);
        });
    }

    /// Gives up what a worker finds of an execution that has ended.
    fn give_up(&self, mut work: Box<Work<L>>) {
        let taker = work.taker.take();
        self.drop_attached(work);
        if let (Some(taker), Ok(outcome)) = (taker, self.outcome()) {
            taker(Vec::new(), &outcome.errors);
        }
    }

    fn end(&self, mut work: Box<Work<L>>) {
        let outcome = self.outcome_of(&mut work);
        let taker = work.taker.take();
        let objects = work.pipeline.objects.take().unwrap_or_default();
        // Values first: who waits for the end may look at memory.
        if !work.pipeline.is_empty() {
            self.drop_attached(work);
        }
        let status = if outcome.aborted {
            Status::Aborted
        } else {
            Status::Done
        };
        let outcome = Self::finish(self.shared(), status, outcome);
        // Who goes on with the results finds that it has ended.
        if let Some(taker) = taker {
            taker(objects, &outcome.errors);
        }
    }

    fn finish(
        mut shared: MutexGuard<'_, Shared<L>>,
        status: Status,
        outcome: Outcome,
    ) -> Arc<Outcome> {
        let outcome = Arc::new(outcome);
        shared.status = status;
        shared.outcome = Some(outcome.clone());
        let listeners = std::mem::take(&mut shared.listeners);
        drop(shared);
        for listener in listeners {
            listener(&outcome);
        }
        outcome
    }

    /// Runs it on this thread for as long as there is something to do, without yielding to others.
    pub(super) fn run_through(&self) {
        self.run_for(Duration::MAX);
    }

    fn run_turns(&self, work: &mut Work<L>, most: Duration) -> Turn {
        let begin = Instant::now();
        if let Some(begins) = work.begins.take() {
            begins();
        }
        work.clock.goes_on();
        loop {
            if let Some(remote) = &self.remote {
                remote.gather();
            }
            let turn = self.turn(work);
            if let Some(remote) = &self.remote {
                remote.flush();
            }
            match turn {
                Turn::More if begin.elapsed() < most => continue,
                Turn::More | Turn::Wait => work.clock.stops(),
                Turn::Read | Turn::End => {}
            }
            return turn;
        }
    }

    fn run_for(&self, most: Duration) {
        self.schedule.store(RUNNING, Ordering::Release);
        let work = {
            let mut shared = self.shared();
            let work = shared.work.take();
            if shared.status == Status::Created {
                shared.status = Status::Running;
            }
            if shared.status.is_finished() {
                // It was aborted in the queue, or while it was parked.
                drop(shared);
                if let Some(work) = work {
                    self.give_up(work);
                }
                return;
            }
            work
        };
        let Some(mut work) = work else { return };
        let turn = catch_unwind(AssertUnwindSafe(|| self.run_turns(&mut work, most)));
        match turn {
            Ok(Turn::End) => return self.end(work),
            Err(_) => {
                let text = "internal error in the execution; the server log has more";
                work.pipeline.fail_here(RecordError::new(text));
                self.end_input(&mut work);
                if let Some(remote) = &self.remote {
                    self.report(remote, text);
                    work.aborted = true;
                }
                return self.end(work);
            }
            Ok(Turn::More | Turn::Read | Turn::Wait) => self.shared().work = Some(work),
        }
        let wait = matches!(turn, Ok(Turn::Read | Turn::Wait));
        let parked = wait
            && self
                .schedule
                .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if !parked {
            self.schedule.store(QUEUED, Ordering::Release);
            self.enqueue();
        }
    }
}

impl<L: Language> Execution<L> {
    /// Tells the shards that have to know that it can not go on.
    fn report(&self, remote: &Remote, why: &str) {
        let team = &remote.team;
        if team.is_initiator() {
            remote.tell_all(&Parcel::Abort);
        } else {
            let why = format!("{}: {why}", team.exchange.name(team.me));
            remote.tell_initiator(Parcel::Failed(why));
        }
    }
}

impl<L: Language> Part for Execution<L> {
    fn receive(&self, from: usize, parcels: Vec<Parcel>) {
        let Some(remote) = &self.remote else { return };
        let mut news = false;
        for parcel in parcels {
            news |= remote.receive(from, parcel);
        }
        if news {
            self.notify();
        }
    }

    fn lost(&self, why: &str) {
        let Some(remote) = &self.remote else { return };
        if !remote.fail(why) {
            return;
        }
        if !remote.team.is_initiator() {
            remote.tell_initiator(Parcel::Failed(why.to_owned()));
        }
        self.notify();
    }

    fn moved(&self) {
        if let Some(remote) = &self.remote {
            remote.moved();
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        let remote = self.remote.as_ref();
        remote.is_some_and(|remote| remote.silent(now).is_some())
    }

    fn look(&self, now: Instant) -> Option<String> {
        let remote = self.remote.as_ref()?;
        let silent = remote.silent(now)?;
        if !remote.team.is_initiator() {
            // It answers if it knows nothing of this any more.
            remote.wait_on();
            remote.tell_initiator(Parcel::Alive);
            return None;
        }
        let shared = self.shared();
        if shared.status.is_finished() {
            return None;
        }
        if shared.work.is_some() {
            remote.tell_all(&Parcel::Abort);
            self.end_parked(shared, Some(MAX_IDLE));
            return Some(silent);
        }
        None
    }
}

impl<L: Language> Task for Execution<L> {
    fn run(self: Arc<Self>) {
        self.run_for(TURN);
    }
}
