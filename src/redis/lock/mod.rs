//! The server lock for background threads, and the one place that knows how long they may keep it.
//!
//! The lock is an unfair mutex. A thread that takes it again at once starves the clients; a main
//! thread with much to do gives it back for an instant only, and starves the threads. So:
//!
//! - A thread takes the lock if it is free, for a slice. While clients wait it then stays away as
//!   long as it held it. Whether they wait is asked of the server's poll descriptor, which reports
//!   what the main thread has not read yet.
//! - One background thread at a time has its turn; the others wait for theirs. If the lock is not
//!   free then, it asks the main thread. Before that waits for clients the next time, it serves the
//!   request, for a share of the time that it worked itself. A job (a part of a scan) it does on
//!   the spot. To a thread that wants to run commands it lends the lock: it keeps still, with the
//!   lock held, until the thread is done.
//! - Who has borrowed the lock for one short command may want it again at once: the loan lingers
//!   for a moment, and ends when the main thread takes it back.

use std::cell::{Cell, RefCell};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::raw::{self, Server};
use crate::engine::LogLevel;

mod borrower;
mod turn;

use borrower::{ASKS, BORROWED, Borrower, IDLE, LINGERING, LOOKING};
use turn::Turn;

/// The longest time to hold a free lock without a pause.
const SLICE: Duration = Duration::from_micros(200);
/// The shortest and the longest time that the main thread gives at once.
const SHORT_LOAN: Duration = Duration::from_micros(50);
const LONG_LOAN: Duration = Duration::from_millis(2);
/// A main thread with short rounds works twice as long as it serves, and serves briefly: its
/// clients wait for each round. One with rounds longer than this has pipelines to work off, whose
/// clients wait for many commands anyway: it serves as long as it works.
const LONG_ROUND: Duration = Duration::from_micros(150);
const SHORT_ROUND_LOAN: Duration = Duration::from_micros(60);
/// How often the main thread looks whether a loan is over, unless it is told.
const GLANCE: Duration = Duration::from_micros(100);
/// How long a loan lingers.
const LINGER: Duration = Duration::from_micros(20);
/// Who held it for very long, in an atomic block, need not stay away as long.
const LONGEST_REST: Duration = Duration::from_millis(100);
/// Between two looks whether the server takes writes again.
const PAUSED: Duration = Duration::from_millis(2);
/// After so much holding on an idle server somebody else gets a chance all the same.
const IDLE_STRETCH: Duration = Duration::from_millis(2);
/// That chance.
const IDLE_PAUSE: Duration = Duration::from_micros(50);
/// How often who asks the main thread looks whether the lock is free after all.
const LOOK: Duration = Duration::from_micros(100);

/// The lock. Shared by all background threads; the main thread lends it.
pub(super) struct Lock {
    server: Server,
    /// The server's poll descriptor.
    clients: Option<i32>,
    /// Whether the main thread tells when it is about to wait for clients.
    lends: bool,
    turn: Turn,
    request: Mutex<Option<Request>>,
    asked: AtomicBool,
    main: OnceLock<Thread>,
    loans: Mutex<Loans>,
}

/// What the main thread is asked for.
enum Request {
    Loan(Arc<Borrower>),
    Job(Arc<Job>),
}

/// Something to do with the lock held. Done by the main thread, or by who wants it done.
type Work = Box<dyn FnOnce(Server, Instant) + Send>;

struct Job {
    /// Taken by who does it.
    work: Mutex<Option<Work>>,
    owner: Thread,
}

/// What the main thread knows of its own time.
struct Loans {
    awake_since: Instant,
    /// Time it worked since the last loan.
    worked: Duration,
}

thread_local! {
    /// Time this thread held the lock since it last rested.
    static HELD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The same since it last slept at all.
    static STRETCH: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The hold that lasts as long as the atomic block this thread is in.
    static ATOMIC: RefCell<Option<AtomicBlock>> = const { RefCell::new(None) };
    static BORROWER: Arc<Borrower> = Arc::new(Borrower::current());
    /// How many times over this thread holds the lock, or has it on loan.
    static HOLDING: Cell<u32> = const { Cell::new(0) };
    /// The main thread holds it whenever it runs code of ours.
    static IS_MAIN: Cell<bool> = const { Cell::new(false) };
    /// When the loan of this thread ends.
    static LOAN_END: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether this thread holds the lock.
fn holds() -> bool {
    IS_MAIN.get() || HOLDING.get() > 0
}

/// How this thread has the lock.
enum Hold {
    /// Taken.
    Taken(Instant),
    /// On loan until then.
    Loan(Instant, Arc<Borrower>),
    /// Inside of a hold that was there before.
    Nested,
}

/// An atomic block of a thread.
struct AtomicBlock {
    lock: Arc<Lock>,
    /// `None` once it was left.
    hold: Option<Hold>,
}

impl Drop for AtomicBlock {
    /// The thread ends: without this the server would stand still for ever.
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.lock.end(&hold, false, false);
            let message = "a thread ended inside an atomic block, which has been closed";
            self.lock.server.log(LogLevel::Warning, message);
        }
    }
}

impl Lock {
    /// Made by the main thread when the module loads, while the server has one poll descriptor. `lends`: the main
    /// thread will call [`Lock::before_sleep`] and [`Lock::after_sleep`].
    pub(super) fn new(server: Server, lends: bool) -> Self {
        IS_MAIN.set(true);
        Self {
            server,
            clients: poll_descriptor(),
            lends,
            turn: Turn::default(),
            request: Mutex::default(),
            asked: AtomicBool::new(false),
            main: OnceLock::new(),
            loans: Mutex::new(Loans {
                awake_since: Instant::now(),
                worked: Duration::ZERO,
            }),
        }
    }

    /// Runs a short `body` with the lock held; at once if this thread holds it already. The thread
    /// may want the lock again soon.
    pub(super) fn with<R>(&self, body: impl FnOnce(Server) -> R) -> R {
        if holds() {
            return body(self.server);
        }
        let _release = Release::new(self, self.acquire_unpaused(), true, true);
        body(self.server)
    }

    /// The same without ever waiting: `None` if the lock is not free, or if it is time to rest.
    pub(super) fn try_with<R>(&self, body: impl FnOnce(Server) -> R) -> Option<R> {
        if holds() {
            return Some(body(self.server));
        }
        if HELD.get() >= SLICE {
            return None;
        }
        let hold = self.try_acquire()?;
        if self.server.is_paused() {
            self.release(&hold, false, false);
            return None;
        }
        let _release = Release::new(self, hold, false, true);
        Some(body(self.server))
    }

    /// Runs `body` with the lock held, here or on the main thread; it is told when it should end.
    pub(super) fn slice<R: Send + 'static>(
        &self,
        body: impl FnOnce(Server, Instant) -> R + Send + 'static,
    ) -> R {
        if holds() {
            return body(self.server, Instant::now() + SLICE);
        }
        self.turn.take();
        if self.server.try_lock() {
            return self.run_slice(body);
        }
        if !self.lends {
            self.server.lock();
            return self.run_slice(body);
        }
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        let work: Work = Box::new(move |server, until| {
            let made = body(server, until);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        });
        let job = Arc::new(Job {
            work: Mutex::new(Some(work)),
            owner: thread::current(),
        });
        self.ask(Request::Job(job.clone()));
        loop {
            thread::park_timeout(LOOK);
            // Before the result: it is there when nobody can write it any more.
            let abandoned = Arc::strong_count(&result) == 1;
            let made = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            if abandoned || made.is_some() {
                self.turn.give();
                return made.expect("the main thread gave the job up");
            }
            if self.server.try_lock() {
                if let Some(work) = job.take() {
                    self.ask_no_more();
                    self.run_slice(work);
                    let made = result.lock().unwrap_or_else(PoisonError::into_inner).take();
                    return made.expect("the job was just done");
                }
                self.server.unlock();
            }
        }
    }

    /// The lock was just taken.
    fn run_slice<R>(&self, body: impl FnOnce(Server, Instant) -> R) -> R {
        let begin = Instant::now();
        let _release = Release::new(self, Hold::Taken(begin), true, false);
        body(self.server, begin + SLICE)
    }

    /// Takes the lock for as long as an atomic block lasts. `false` if the thread is in one.
    pub(super) fn enter_atomic(self: &Arc<Self>) -> bool {
        if self.is_atomic() {
            return false;
        }
        let hold = if holds() {
            Hold::Nested
        } else {
            let hold = self.acquire_unpaused();
            HOLDING.set(HOLDING.get() + 1);
            hold
        };
        let block = AtomicBlock {
            lock: self.clone(),
            hold: Some(hold),
        };
        ATOMIC.set(Some(block));
        true
    }

    /// Ends the atomic block. `false` if the thread is in none.
    pub(super) fn leave_atomic(&self) -> bool {
        let Some(hold) = ATOMIC.take().and_then(|mut block| block.hold.take()) else {
            return false;
        };
        self.end(&hold, true, true);
        true
    }

    /// Releases what made this thread a holder.
    fn end(&self, hold: &Hold, rests: bool, lingers: bool) {
        // Functions that react to events may run while the lock is released: they hold it still.
        self.release(hold, rests, lingers);
        if !matches!(hold, Hold::Nested) {
            HOLDING.set(HOLDING.get().saturating_sub(1));
        }
    }

    /// Whether this thread is in an atomic block.
    pub(super) fn is_atomic(&self) -> bool {
        ATOMIC.with_borrow(Option::is_some)
    }

    /// Takes the lock when the server takes writes: not while clients are paused.
    fn acquire_unpaused(&self) -> Hold {
        loop {
            let hold = self.acquire();
            if !self.server.is_paused() {
                return hold;
            }
            self.release(&hold, false, false);
            thread::sleep(PAUSED);
        }
    }

    /// The loan of this thread, if it lingers.
    fn loan(&self) -> Option<Hold> {
        let end = LOAN_END.take()?;
        BORROWER.with(|borrower| {
            borrower
                .moves(LINGERING, BORROWED)
                .then(|| Hold::Loan(end, borrower.clone()))
        })
    }

    fn try_acquire(&self) -> Option<Hold> {
        if let Some(loan) = self.loan() {
            return Some(loan);
        }
        if !self.turn.try_take() {
            return None;
        }
        if self.server.try_lock() {
            return Some(Hold::Taken(Instant::now()));
        }
        self.turn.give();
        None
    }

    /// Takes the turn and the lock.
    fn acquire(&self) -> Hold {
        if let Some(loan) = self.loan() {
            return loan;
        }
        self.turn.take();
        if self.server.try_lock() {
            return Hold::Taken(Instant::now());
        }
        if self.lends {
            return BORROWER.with(|borrower| self.borrow(borrower));
        }
        self.server.lock();
        Hold::Taken(Instant::now())
    }

    fn request(&self) -> MutexGuard<'_, Option<Request>> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: Request) {
        *self.request() = Some(request);
        self.asked.store(true, Ordering::Release);
    }

    fn ask_no_more(&self) {
        self.asked.store(false, Ordering::Release);
        *self.request() = None;
    }

    fn borrow(&self, borrower: &Arc<Borrower>) -> Hold {
        borrower.state.store(ASKS, Ordering::Release);
        self.ask(Request::Loan(borrower.clone()));
        loop {
            thread::park_timeout(LOOK);
            if borrower.state.load(Ordering::Acquire) == BORROWED {
                // The loan is between the main thread and this one from now on.
                self.turn.give();
                let loan = Duration::from_nanos(borrower.loan.load(Ordering::Relaxed));
                return Hold::Loan(Instant::now() + loan, borrower.clone());
            }
            if borrower.moves(ASKS, LOOKING) {
                if self.server.try_lock() {
                    self.ask_no_more();
                    borrower.state.store(IDLE, Ordering::Release);
                    return Hold::Taken(Instant::now());
                }
                borrower.state.store(ASKS, Ordering::Release);
            }
        }
    }

    fn release(&self, hold: &Hold, rests: bool, lingers: bool) {
        match *hold {
            Hold::Nested => {}
            Hold::Taken(begin) => self.unlock(begin.elapsed(), rests),
            Hold::Loan(end, ref borrower) if lingers && Instant::now() < end => {
                // The main thread looks by itself: waking it costs more than a command.
                LOAN_END.set(Some(end));
                borrower.state.store(LINGERING, Ordering::Release);
            }
            Hold::Loan(_, ref borrower) => {
                borrower.state.store(IDLE, Ordering::Release);
                if let Some(main) = self.main.get() {
                    main.unpark();
                }
            }
        }
    }

    fn unlock(&self, held: Duration, rests: bool) {
        let since = HELD.get() + held;
        let stretch = STRETCH.get() + held;
        if since < SLICE || !rests {
            self.server.unlock();
            self.turn.give();
            HELD.set(since);
            STRETCH.set(stretch);
            return;
        }
        let waiting = self.clients.is_none_or(raw::is_readable);
        self.server.unlock();
        self.turn.give();
        HELD.set(Duration::ZERO);
        if waiting {
            STRETCH.set(Duration::ZERO);
            thread::sleep(since.min(LONGEST_REST));
        } else if stretch >= IDLE_STRETCH {
            STRETCH.set(Duration::ZERO);
            thread::sleep(IDLE_PAUSE);
        } else {
            STRETCH.set(stretch);
        }
    }

    /// `None` while the main thread serves a request.
    fn loans(&self) -> Option<MutexGuard<'_, Loans>> {
        match self.loans.try_lock() {
            Ok(loans) => Some(loans),
            Err(TryLockError::Poisoned(loans)) => Some(loans.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The main thread begins to work.
    pub(super) fn after_sleep(&self) {
        if let Some(mut loans) = self.loans() {
            loans.awake_since = Instant::now();
        }
    }

    /// The main thread is about to wait for clients, with the lock held: it lends it.
    pub(super) fn before_sleep(&self) {
        let Some(mut loans) = self.loans() else {
            return;
        };
        let now = Instant::now();
        let worked = now - loans.awake_since;
        loans.worked += worked;
        loans.awake_since = now;
        if !self.asked.load(Ordering::Acquire) {
            loans.worked = loans.worked.min(LONG_LOAN);
            return;
        }
        let loan = if worked >= LONG_ROUND {
            loans.worked.min(LONG_LOAN)
        } else {
            (loans.worked / 2).min(SHORT_ROUND_LOAN)
        };
        if loan < SHORT_LOAN {
            return;
        }
        self.main.get_or_init(thread::current);
        match self.next(loan) {
            Some(Next::Loan(borrower)) => self.lend(&borrower),
            Some(Next::Work(work, owner)) => {
                work(self.server, now + loan);
                owner.unpark();
            }
            None => return,
        }
        loans.worked = Duration::ZERO;
        loans.awake_since = Instant::now();
    }

    /// The request, if it can be served: not while its thread looks whether the lock is free.
    fn next(&self, loan: Duration) -> Option<Next> {
        let mut request = self.request();
        let next = match request.as_ref()? {
            Request::Loan(borrower) => borrower.lend(loan).then(|| Next::Loan(borrower.clone())),
            Request::Job(job) => job.take().map(|work| Next::Work(work, job.owner.clone())),
        }?;
        *request = None;
        self.asked.store(false, Ordering::Release);
        Some(next)
    }

    /// Keeps still until the loan is over.
    fn lend(&self, borrower: &Borrower) {
        borrower.thread.unpark();
        let mut lingers_since: Option<Instant> = None;
        loop {
            match borrower.state.load(Ordering::Acquire) {
                BORROWED => {
                    lingers_since = None;
                    thread::park_timeout(GLANCE);
                }
                LINGERING => {
                    let since = *lingers_since.get_or_insert_with(Instant::now);
                    if since.elapsed() < LINGER {
                        spin_loop();
                    } else if borrower.moves(LINGERING, IDLE) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }
}

/// What the main thread does next.
enum Next {
    Loan(Arc<Borrower>),
    Work(Work, Thread),
}

impl Job {
    fn take(&self) -> Option<Work> {
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

struct Release<'a> {
    lock: &'a Lock,
    hold: Hold,
    /// Whether the thread may stay away now if it is time to.
    rests: bool,
    /// Whether a loan may linger.
    lingers: bool,
}

impl<'a> Release<'a> {
    /// This thread holds the lock until this is dropped.
    fn new(lock: &'a Lock, hold: Hold, rests: bool, lingers: bool) -> Self {
        HOLDING.set(HOLDING.get() + 1);
        Self {
            lock,
            hold,
            rests,
            lingers,
        }
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.lock.end(&self.hold, self.rests, self.lingers);
    }
}

/// The first poll descriptor of this process: that of the server's event loop.
fn poll_descriptor() -> Option<i32> {
    let mut found: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found.first().copied()
}
