//! A result that comes later.
//!
//! A callback may promise its result. The record then waits at its stage, and the execution goes on
//! with others; when it has nothing else to do it is parked, and holds no worker until the bell
//! rings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::RecordError;

/// What becomes of a record. Crosses threads: whoever has the result keeps it, a worker takes it.
#[derive(Debug)]
pub struct Promise<O> {
    state: Mutex<State<O>>,
}

#[derive(Debug)]
enum State<O> {
    /// Nothing yet; who is told.
    Open(Option<Arc<Bell>>),
    Kept(Result<O, RecordError>),
    Taken,
}

impl<O> Promise<O> {
    /// One that is not kept.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Open(None)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it. One that is kept already gives the result back.
    pub fn keep(&self, result: Result<O, RecordError>) -> Option<Result<O, RecordError>> {
        let mut state = self.state();
        let bell = match &mut *state {
            State::Open(bell) => bell.take(),
            State::Kept(_) | State::Taken => return Some(result),
        };
        *state = State::Kept(result);
        drop(state);
        if let Some(bell) = bell {
            bell.ring();
        }
        None
    }

    /// Rings when it is kept, at once if it is.
    pub(super) fn listen(&self, bell: &Arc<Bell>) {
        let mut state = self.state();
        match &mut *state {
            State::Open(listener) => *listener = Some(bell.clone()),
            State::Kept(_) | State::Taken => {
                drop(state);
                bell.ring();
            }
        }
    }

    /// The result, if it is there.
    pub(super) fn take(&self) -> Option<Result<O, RecordError>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Kept(result) => Some(result),
            other => {
                *state = other;
                None
            }
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(&*self.state(), State::Kept(_))
    }
}

/// What a callback gave that is no result.
#[derive(Debug)]
pub enum Instead<O> {
    /// It failed.
    Error(RecordError),
    /// It promises one.
    Promise(Arc<Promise<O>>),
}

/// What asking a callback comes to.
pub type Asked<T, O> = Result<T, Instead<O>>;

impl<O> From<RecordError> for Instead<O> {
    fn from(error: RecordError) -> Self {
        Self::Error(error)
    }
}

/// Called when there is something to do again.
pub(super) type Wake = Box<dyn Fn() + Send + Sync>;

/// Rung by promises that are kept. Who is woken may turn up later.
pub(super) struct Bell {
    wake: OnceLock<Wake>,
    rung: AtomicBool,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("rung", &self.rung).finish()
    }
}

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            wake: OnceLock::new(),
            rung: AtomicBool::new(false),
        })
    }

    fn ring(&self) {
        // Before looking for who is woken: whoever comes in between sees it.
        self.rung.store(true, Ordering::SeqCst);
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Whether somebody is woken.
    pub(super) fn is_heard(&self) -> bool {
        self.wake.get().is_some()
    }

    /// Wakes by `wake` from now on, and at once if it was rung already.
    pub(super) fn wakes(&self, wake: Wake) {
        if self.wake.set(wake).is_ok()
            && self.rung.load(Ordering::SeqCst)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn counted() -> (Arc<AtomicUsize>, Wake) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (count, Box::new(wake))
    }

    #[test]
    fn a_promise_is_kept_and_taken_once() {
        let promise = Promise::new();
        assert!(!promise.is_kept() && promise.take().is_none());
        assert!(promise.keep(Ok(1)).is_none());
        assert_eq!(promise.keep(Ok(2)), Some(Ok(2)));
        assert_eq!(promise.take(), Some(Ok(1)));
        assert_eq!(promise.take(), None);
        assert_eq!(promise.keep(Ok(3)), Some(Ok(3)));
    }

    #[test]
    fn whoever_comes_late_hears_of_it_all_the_same() {
        let (count, wake) = counted();
        let (early, late, bell) = (Promise::new(), Promise::new(), Bell::new());
        early.keep(Ok(()));
        early.listen(&bell);
        late.listen(&bell);
        assert!(!bell.is_heard());
        bell.wakes(wake);
        assert_eq!(count.load(Ordering::SeqCst), 1);
        late.keep(Ok(()));
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
