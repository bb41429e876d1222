//! A result that comes later.
//!
//! A callback may promise its result. The record then waits at its stage, and the execution goes on
//! with others; when it has nothing else to do it is parked, and holds no worker until the bell
//! rings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::RecordError;

/// What becomes of a record. Crosses threads: whoever has the result keeps it, a worker takes it.
pub struct Promise<O> {
    state: Mutex<State<O>>,
}

enum State<O> {
    /// Nothing yet; who is told, and how work on it is called off.
    Open(Option<Arc<Bell>>, Option<CallOff>),
    Kept(Result<O, RecordError>),
    Taken,
    /// Nobody wants it any more.
    CalledOff,
}

/// Ends the work on a promise that nobody waits for any more.
pub(super) type CallOff = Box<dyn FnOnce() + Send>;

impl<O> std::fmt::Debug for Promise<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.state() {
            State::Open(..) => "Promise (open)",
            State::Kept(_) => "Promise (kept)",
            State::Taken => "Promise (taken)",
            State::CalledOff => "Promise (called off)",
        })
    }
}

impl<O> Promise<O> {
    /// One that is not kept.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Open(None, None)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it. One that is kept already gives the result back; one that was called off drops it.
    pub fn keep(&self, result: Result<O, RecordError>) -> Option<Result<O, RecordError>> {
        let mut state = self.state();
        match &mut *state {
            State::Kept(_) | State::Taken => return Some(result),
            State::CalledOff => return None,
            State::Open(..) => {}
        }
        let open = std::mem::replace(&mut *state, State::Kept(result));
        drop(state);
        if let State::Open(Some(bell), _) = open {
            bell.ring();
        }
        None
    }

    /// How the work on it is called off, by whoever does it; at once if it was.
    pub fn ends_by(&self, end: CallOff) {
        let mut state = self.state();
        match &mut *state {
            State::Open(_, ends) => *ends = Some(end),
            State::CalledOff => {
                drop(state);
                end();
            }
            State::Kept(_) | State::Taken => {}
        }
    }

    /// Nobody waits for it any more: what works on it ends.
    pub fn call_off(&self) {
        let mut state = self.state();
        if !matches!(&*state, State::Open(..)) {
            return;
        }
        let open = std::mem::replace(&mut *state, State::CalledOff);
        drop(state);
        if let State::Open(_, Some(end)) = open {
            end();
        }
    }

    /// Rings when it is kept, at once if it is.
    pub(super) fn listen(&self, bell: &Arc<Bell>) {
        let mut state = self.state();
        match &mut *state {
            State::Open(listener, _) => *listener = Some(bell.clone()),
            State::Kept(_) | State::Taken | State::CalledOff => {
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
    fn work_on_what_is_called_off_ends_once() {
        let (count, end) = counted();
        let (early, late, kept) = (Promise::new(), Promise::new(), Promise::new());
        let end = Arc::new(end);
        let ending = || {
            let end = end.clone();
            Box::new(move || end()) as CallOff
        };
        early.ends_by(ending());
        early.call_off();
        early.call_off();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        late.call_off();
        late.ends_by(ending());
        assert_eq!(count.load(Ordering::SeqCst), 2);
        // What comes all the same is nobody's, and no mistake.
        assert_eq!(late.keep(Ok(1)), None);
        assert_eq!(late.take(), None);
        kept.ends_by(ending());
        kept.keep(Ok(1));
        kept.call_off();
        assert_eq!(kept.take(), Some(Ok(1)));
        assert_eq!(count.load(Ordering::SeqCst), 2);
        early.keep(Ok(1));
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
