//! A lane: executions that run one after another, in the order in which they came.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Execution, Language, Pool, Task};

/// A worker leaves a lane that takes longer to the back of the queue.
const TURN: Duration = Duration::from_millis(100);

/// Executions in a row. Filled by events, emptied by one worker at a time.
pub struct Lane<L: Language> {
    pool: Arc<Pool>,
    state: Mutex<State<L>>,
    this: Weak<Self>,
}

struct State<L: Language> {
    waiting: VecDeque<Arc<Execution<L>>>,
    /// Whether it is queued on the pool, or at work.
    busy: bool,
}

impl<L: Language> Lane<L> {
    /// An empty lane.
    pub fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            pool,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                busy: false,
            }),
            this: this.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an execution.
    pub fn push(&self, execution: Arc<Execution<L>>) {
        let mut state = self.state();
        state.waiting.push_back(execution);
        let idle = !std::mem::replace(&mut state.busy, true);
        drop(state);
        if idle {
            self.submit();
        }
    }

    /// Takes out all that did not start.
    pub fn drain(&self) -> VecDeque<Arc<Execution<L>>> {
        std::mem::take(&mut self.state().waiting)
    }

    fn submit(&self) {
        // Fails only when the server goes down.
        if let Some(this) = self.this.upgrade()
            && self.pool.submit(this).is_err()
        {
            self.state().busy = false;
        }
    }

    fn next(&self) -> Option<Arc<Execution<L>>> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        state.busy = next.is_some();
        next
    }
}

impl<L: Language> Task for Lane<L> {
    fn run(self: Arc<Self>) {
        let begin = Instant::now();
        while let Some(execution) = self.next() {
            execution.run_through();
            if begin.elapsed() >= TURN {
                return self.submit();
            }
        }
    }
}
