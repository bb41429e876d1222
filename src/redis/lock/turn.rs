//! Whose turn it is to ask for the server lock.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Whose turn it is among the background threads. A mutex that can be given back by other means
/// than dropping a guard.
#[derive(Default)]
pub(super) struct Turn {
    taken: AtomicBool,
    waiting: AtomicUsize,
    sleepers: Mutex<()>,
    free: Condvar,
}

impl Turn {
    /// Takes it if nobody has it.
    pub(super) fn try_take(&self) -> bool {
        self.taken
            .compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Waits for it.
    pub(super) fn take(&self) {
        if self.try_take() {
            return;
        }
        let mut sleeper = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while !self.try_take() {
            sleeper = self
                .free
                .wait(sleeper)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives it to the next.
    pub(super) fn give(&self) {
        self.taken.store(false, Ordering::SeqCst);
        // Waking nobody would be a system call all the same.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Whoever is about to sleep either sees that it is free or sleeps by now.
            drop(self.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
            self.free.notify_one();
        }
    }
}
