//! Threads for work that must not wait for the pool: the top level of scripts, and stopping what
//! keeps the pool busy. Started when none is free, ended when idle for a while.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::guard::guard;
use crate::engine::Enter;

/// More jobs than this wait for one another.
const MOST: usize = 128;
const IDLE: Duration = Duration::from_secs(30);
const STACK: usize = 16 << 20;

/// Something to do.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The threads. Jobs come from any thread.
pub(super) struct Threads {
    enter: Enter,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    started: usize,
    idle: usize,
}

impl Threads {
    /// Each thread does its jobs inside `enter`.
    pub(super) fn new(enter: Enter) -> Self {
        let queue = Arc::default();
        Self { enter, queue }
    }

    /// Runs a job as soon as a thread has time. The error says why none was started for it: the
    /// job waits for another one.
    pub(super) fn run(&self, job: Job) -> std::io::Result<()> {
        let mut state = self.queue.state();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.started >= MOST {
            // Whoever wakes up wants the lock.
            drop(state);
            self.queue.came.notify_one();
            return Ok(());
        }
        state.started += 1;
        drop(state);
        let (queue, enter) = (self.queue.clone(), self.enter.clone());
        let thread = thread::Builder::new()
            .name("geartrain-job".into())
            .stack_size(STACK);
        let spawned = thread.spawn(move || enter(&mut || queue.serve()));
        if spawned.is_err() {
            self.queue.state().started -= 1;
        }
        spawned.map(drop)
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until there was none for a while.
    fn serve(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                guard(job);
                state = self.state();
                continue;
            }
            state.idle += 1;
            let waited = self.came.wait_timeout(state, IDLE);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.started -= 1;
                return;
            }
        }
    }
}
