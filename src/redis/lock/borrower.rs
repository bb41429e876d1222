//! A loan of the server lock, between the main thread and one other.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// A thread that wants the lock, or has it on loan. Touched by that thread and the main thread.
pub(super) struct Borrower {
    pub(super) state: AtomicU8,
    pub(super) thread: Thread,
    /// Length of the loan in nanoseconds.
    pub(super) loan: AtomicU64,
}

/// Wants nothing; a loan was given back.
pub(super) const IDLE: u8 = 0;
/// Waits for the main thread.
pub(super) const ASKS: u8 = 1;
/// Looks whether the lock is free.
pub(super) const LOOKING: u8 = 2;
/// Has the lock on loan and works.
pub(super) const BORROWED: u8 = 3;
/// Has the lock on loan and may want it again.
pub(super) const LINGERING: u8 = 4;

impl Borrower {
    /// The current thread, which wants nothing yet.
    pub(super) fn current() -> Self {
        Self {
            state: AtomicU8::new(IDLE),
            thread: thread::current(),
            loan: AtomicU64::new(0),
        }
    }

    /// Gives it the lock, if it waits.
    pub(super) fn lend(&self, loan: Duration) -> bool {
        self.loan.store(
            u64::try_from(loan.as_nanos()).unwrap_or(0),
            Ordering::Relaxed,
        );
        self.moves(ASKS, BORROWED)
    }

    /// Changes its state, if it is as expected.
    pub(super) fn moves(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}
