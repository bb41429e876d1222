//! The time limit for code that the server waits for: a thread that watches it, and interrupts it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::interpreter::{enter_thread, world};
use super::session::Session;
use crate::engine::{Context, LogLevel};

/// Between two attempts to interrupt what goes on all the same.
const AGAIN: Duration = Duration::from_millis(1);

/// Tickets of watched sections, apart from those of executions.
static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
static WATCHED: Mutex<BTreeMap<u64, Watched>> = Mutex::new(BTreeMap::new());
static CAME: Condvar = Condvar::new();
static STARTED: Once = Once::new();

struct Watched {
    session: Arc<Session>,
    deadline: Instant,
    told: bool,
}

fn watched() -> MutexGuard<'static, BTreeMap<u64, Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A section that is watched until this is dropped.
pub(super) struct Watch(u64);

impl Watch {
    /// The number for [`Context::interrupt`].
    pub(super) fn ticket(&self) -> u64 {
        self.0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Outside the lock: the last of a session takes time.
        let gone = watched().remove(&self.0);
        drop(gone);
    }
}

/// Watches a section that begins now, if there is a limit.
pub(super) fn begin(session: &Arc<Session>) -> Option<Watch> {
    let limit = world().environment.sync_limit()?;
    STARTED.call_once(|| {
        let thread = std::thread::Builder::new().name("geartrain-watch".into());
        if let Err(error) = thread.spawn(|| enter_thread(&mut watch)) {
            let message = format!("could not start the thread that stops slow functions: {error}");
            world().environment.log(LogLevel::Warning, &message);
        }
    });
    let ticket = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut all = watched();
    let first = all.is_empty();
    all.insert(
        ticket,
        Watched {
            session: session.clone(),
            deadline: Instant::now() + limit,
            told: false,
        },
    );
    drop(all);
    if first {
        CAME.notify_one();
    }
    Some(Watch(ticket))
}

/// An atomic block that is watched.
struct Block {
    watch: Watch,
    session: Arc<Session>,
}

thread_local! {
    /// The one of this thread.
    static BLOCK: RefCell<Option<Block>> = const { RefCell::new(None) };
}

/// Watches the atomic block of this thread that begins now, if there is a limit.
pub(super) fn begin_block(py: Python<'_>, session: &Arc<Session>) {
    if let Some(watch) = begin(session) {
        session.interruptible(py, watch.ticket());
        let session = session.clone();
        BLOCK.set(Some(Block { watch, session }));
    }
}

/// The atomic block of this thread ends.
pub(super) fn end_block(py: Python<'_>) {
    if let Some(Block { watch, session }) = BLOCK.take() {
        session.uninterruptible(py, watch.ticket());
    }
}

/// The loop of the watching thread.
fn watch() {
    loop {
        let late = late();
        for (ticket, session, first) in late {
            if first {
                let message = format!(
                    "a function of session {session} ran longer than SyncTimeLimit while the \
                     server waited for it, and is stopped"
                );
                world().environment.log(LogLevel::Warning, &message);
            }
            session.interrupt(ticket);
        }
    }
}

/// Waits until some are late; whether each is so for the first time.
fn late() -> Vec<(u64, Arc<Session>, bool)> {
    let mut all = watched();
    loop {
        let now = Instant::now();
        let mut late = Vec::new();
        for (&ticket, watched) in all.iter_mut() {
            if watched.deadline <= now {
                let first = !std::mem::replace(&mut watched.told, true);
                watched.deadline = now + AGAIN;
                late.push((ticket, watched.session.clone(), first));
            }
        }
        if !late.is_empty() {
            return late;
        }
        let next = all.values().map(|watched| watched.deadline).min();
        all = match next {
            None => CAME.wait(all).unwrap_or_else(PoisonError::into_inner),
            // One with an earlier deadline may come meanwhile: all limits are the same, but for a
            // change of the setting.
            Some(next) => {
                CAME.wait_timeout(all, next - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
    }
}
