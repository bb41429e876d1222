//! The server lock for background threads, and the one place that knows how long they may keep it.
//!
//! The lock is an unfair mutex: a thread that takes it again at once starves the clients. So a
//! thread keeps it for a slice at most, and while clients wait it stays away as long as it held it.
//! Whether clients wait is asked of the server's own poll descriptor, which reports what the main
//! thread has not read yet.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::raw::{self, Server};

/// The longest time to hold the lock without a pause.
pub(super) const SLICE: Duration = Duration::from_micros(200);
/// After so much holding on an idle server somebody else gets a chance all the same.
const IDLE_STRETCH: Duration = Duration::from_millis(2);
/// That chance.
const IDLE_PAUSE: Duration = Duration::from_micros(50);

/// The lock. Shared by all background threads.
pub(super) struct Lock {
    server: Server,
    /// The server's poll descriptor.
    clients: Option<i32>,
}

thread_local! {
    /// Time this thread held the lock since it last rested.
    static HELD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The same since it last slept at all.
    static STRETCH: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The atomic block this thread is in.
    static ATOMIC: RefCell<Option<Instant>> = const { RefCell::new(None) };
}

impl Lock {
    /// Found when the module loads, while the server has one poll descriptor.
    pub(super) fn new(server: Server) -> Self {
        Self {
            server,
            clients: poll_descriptor(),
        }
    }

    /// Runs `body` with the lock held, inside the atomic block of this thread if it is in one.
    pub(super) fn with<R>(&self, body: impl FnOnce(Server) -> R) -> R {
        if self.is_atomic() {
            return body(self.server);
        }
        self.server.lock();
        let _release = Release {
            lock: self,
            begin: Instant::now(),
        };
        body(self.server)
    }

    /// Takes the lock for as long as an atomic block lasts. `false` if the thread is in one.
    pub(super) fn enter_atomic(&self) -> bool {
        if self.is_atomic() {
            return false;
        }
        self.server.lock();
        ATOMIC.set(Some(Instant::now()));
        true
    }

    /// Ends the atomic block. `false` if the thread is in none.
    pub(super) fn leave_atomic(&self) -> bool {
        let Some(begin) = ATOMIC.take() else {
            return false;
        };
        drop(Release { lock: self, begin });
        true
    }

    /// Whether this thread is in an atomic block.
    pub(super) fn is_atomic(&self) -> bool {
        ATOMIC.with_borrow(Option::is_some)
    }

    fn release(&self, begin: Instant) {
        let held = begin.elapsed();
        let since = HELD.get() + held;
        let stretch = STRETCH.get() + held;
        if since < SLICE {
            self.server.unlock();
            HELD.set(since);
            STRETCH.set(stretch);
            return;
        }
        let waiting = self.clients.is_none_or(raw::is_readable);
        self.server.unlock();
        HELD.set(Duration::ZERO);
        if waiting {
            STRETCH.set(Duration::ZERO);
            std::thread::sleep(since);
        } else if stretch >= IDLE_STRETCH {
            STRETCH.set(Duration::ZERO);
            std::thread::sleep(IDLE_PAUSE);
        } else {
            STRETCH.set(stretch);
        }
    }
}

struct Release<'a> {
    lock: &'a Lock,
    begin: Instant,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.lock.release(self.begin);
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
