//! What a callback gives instead of a result: a coroutine, or what `gearsFuture` returned.

use std::cell::{Cell, RefCell};
use std::ffi::c_ulong;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyGeneratorExit;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::api::get_gears_session;
use super::error::{ForceStopped, error_text, gears_error, record_error};
use super::interpreter::{prelude, world};
use super::link;
use super::session::{current, interrupt_thread, swallow};
use crate::engine::{Asked, Instead, LogLevel, Promise, RecordError};

type Promised = Promise<Py<PyAny>>;

/// What the callback that this thread is in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is none: a script, another thread.
    Outside,
    /// Promise its result.
    Open,
    /// Only return it.
    Closed,
    /// It has made a future, [`FUTURE`].
    Made,
}

thread_local! {
    static STEP: Cell<Step> = const { Cell::new(Step::Outside) };
    static FUTURE: RefCell<Option<Py<Future>>> = const { RefCell::new(None) };
}

/// What becomes of a callback that made a future and returned something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// That counts.
    Counts,
    /// None, as in RedisGears 1.x, even if it raised.
    IsNone,
}

/// Calls a callback that may promise its result.
#[inline]
pub(super) fn ask<'py>(
    py: Python<'py>,
    otherwise: Otherwise,
    call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> Asked<Bound<'py, PyAny>, Py<PyAny>> {
    let before = STEP.replace(Step::Open);
    let outer = (before == Step::Made).then(|| FUTURE.take());
    let made = call();
    let after = STEP.replace(before);
    let future = (after == Step::Made).then(|| FUTURE.take()).flatten();
    if let Some(outer) = outer {
        FUTURE.set(outer);
    }
    match (made, future) {
        (Ok(made), None) if !link::is_coroutine(&made) => Ok(made),
        (Ok(made), None) => Err(run(made)),
        (Err(error), None) => Err(record_error(py, error).into()),
        (made, Some(future)) => returned(py, otherwise, made, future.bind(py)),
    }
}

/// Calls a callback that has to return its result.
#[inline]
pub(super) fn ask_at_once<'py>(
    call: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    refusal: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let made = closed(call)?;
    if link::is_coroutine(&made) {
        made.call_method0("close")?;
        return Err(gears_error(refusal));
    }
    Ok(made)
}

/// Runs code that makes no futures.
#[inline]
pub(super) fn closed<T>(code: impl FnOnce() -> T) -> T {
    let before = STEP.replace(Step::Closed);
    let made = code();
    STEP.set(before);
    made
}

/// Whether the callback that this thread is in may promise its result.
pub(super) fn is_allowed() -> bool {
    matches!(STEP.get(), Step::Open | Step::Made) && may_wait()
}

fn may_wait() -> bool {
    current().is_some_and(|current| current.caller.is_none_or(|caller| caller.may_wait()))
}

const NOT_HERE: &str = "Creating async record is not allowed";
/// Where results are returned at once.
pub(super) const NO_ASYNC: &str = "Step does not support async";

fn run(coroutine: Bound<'_, PyAny>) -> Instead<Py<PyAny>> {
    let py = coroutine.py();
    let start = || {
        if !may_wait() {
            coroutine.call_method0("close")?;
            return Err(gears_error(NOT_HERE));
        }
        let promise = Promise::new();
        let keeper = Keeper {
            promise: promise.clone(),
            _future: None,
        };
        let start = prelude(py, "_start")?;
        let started = start.call1((&coroutine, keeper, get_gears_session()));
        if started.is_err() {
            // It may have been interrupted when the coroutine was on its way.
            promise.call_off();
        }
        started.map(|_| promise)
    };
    match start() {
        Ok(promise) => Instead::Promise(promise),
        Err(error) => record_error(py, error).into(),
    }
}

fn returned<'py>(
    py: Python<'py>,
    otherwise: Otherwise,
    made: PyResult<Bound<'py, PyAny>>,
    future: &Bound<'py, Future>,
) -> Asked<Bound<'py, PyAny>, Py<PyAny>> {
    if made.as_ref().is_ok_and(|made| made.is(future)) {
        return Err(Instead::Promise(future.get().wait()));
    }
    future.get().discard();
    if made
        .as_ref()
        .is_err_and(|error| error.is_instance_of::<ForceStopped>(py))
    {
        future.get().promise.call_off();
    }
    match (otherwise, made) {
        (Otherwise::IsNone, _) => Ok(py.None().into_bound(py)),
        (Otherwise::Counts, Ok(made)) if link::is_coroutine(&made) => Err(run(made)),
        (Otherwise::Counts, made) => made.map_err(|error| Instead::Error(record_error(py, error))),
    }
}

/// The text of what a coroutine raised: the bare message, as in RedisGears 1.x, even an empty one.
fn bare_text(error: &Bound<'_, PyAny>) -> String {
    let py = error.py();
    if error.is_instance_of::<PyGeneratorExit>() {
        // Nobody is left who could have gone on with it.
        return NOT_CONTINUED.into();
    }
    match error.str() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(error) => error_text(py, &error),
    }
}

const NOT_CONTINUED: &str = "Async record did not called continue";

/// Gives a promise what a coroutine comes to.
#[pyclass(name = "_Promise", module = "redisgears", frozen)]
pub(super) struct Keeper {
    promise: Arc<Promised>,
    /// Whose promise it is, which has to live as long.
    _future: Option<Py<Future>>,
}

#[pymethods]
impl Keeper {
    fn keep(&self, value: Py<PyAny>) {
        self.promise.keep(Ok(value));
    }

    fn fail(&self, error: &Bound<'_, PyAny>) {
        self.promise.keep(Err(RecordError::new(bare_text(error))));
    }

    /// The work on it.
    fn work(&self) -> Work {
        Work(self.promise.clone())
    }
}

/// What works on a promise: a coroutine, and those that it starts.
#[pyclass(name = "_Work", module = "redisgears", frozen)]
pub(super) struct Work(Arc<Promised>);

#[pymethods]
impl Work {
    /// That of a coroutine that no record waits for.
    #[new]
    fn new() -> Self {
        Self(Promise::new())
    }

    /// What to call, on any thread, when nobody waits for the promise any more.
    fn ends_by(&self, end: Py<PyAny>) {
        self.0.ends_by(Box::new(move || {
            Python::attach(|py| {
                if let Err(error) = end.call0(py) {
                    let text = format!("a coroutine goes on: {}", error_text(py, &error));
                    world().environment.log(LogLevel::Warning, &text);
                }
            });
        }));
    }

    /// Lets a coroutine run, which interrupts may hit: whether it has ended, and what it waits for or
    /// returns.
    fn send<'py>(
        &self,
        coroutine: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        self.interruptible(coroutine.py(), || link::send(coroutine, value))
    }

    /// Has a coroutine fail with an exception, in the same way.
    fn throw<'py>(
        &self,
        coroutine: &Bound<'py, PyAny>,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let throw = || coroutine.call_method1("throw", (error,));
        self.interruptible(coroutine.py(), throw)
    }

    /// Interrupts what runs for it; whether something does.
    fn interrupt(&self, py: Python<'_>) -> bool {
        // Held while the exception is set, so that it can only hit this section.
        let mut section = section();
        let section = section.as_mut();
        let Some(section) = section.filter(|section| Arc::ptr_eq(&section.promise, &self.0)) else {
            return false;
        };
        section.interrupted = true;
        interrupt_thread(py, section.thread);
        true
    }
}

impl Work {
    fn interruptible<T>(&self, py: Python<'_>, body: impl FnOnce() -> T) -> T {
        *section() = Some(Section {
            promise: self.0.clone(),
            thread: link::thread_ident(py),
            interrupted: false,
        });
        let made = body();
        let ran = section().take();
        if ran.is_some_and(|ran| ran.interrupted) {
            // It may have come too late.
            swallow(py);
        }
        made
    }
}

/// What runs of a coroutine: there is one thread for all of them.
static SECTION: Mutex<Option<Section>> = Mutex::new(None);

struct Section {
    promise: Arc<Promised>,
    thread: c_ulong,
    interrupted: bool,
}

fn section() -> MutexGuard<'static, Option<Section>> {
    SECTION.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.promise.keep(Err(RecordError::new(NOT_CONTINUED)));
    }
}

/// The callback has not returned it.
const FRESH: u8 = 0;
/// Its record waits.
const WAITED_FOR: u8 = 1;
/// Its record went on.
const CONTINUED: u8 = 2;
/// The callback returned something else.
const DISCARDED: u8 = 3;

/// gearsFuture(): returned by a callback instead of a result, which is given later from any thread.
#[pyclass(name = "Future", module = "redisgears", frozen)]
pub(super) struct Future {
    promise: Arc<Promised>,
    state: AtomicU8,
}

impl Future {
    /// The callback returned it.
    fn wait(&self) -> Arc<Promised> {
        self.state.store(WAITED_FOR, Ordering::SeqCst);
        self.promise.clone()
    }

    fn discard(&self) {
        self.state.store(DISCARDED, Ordering::SeqCst);
    }

    fn go_on(&self, result: Result<Py<PyAny>, RecordError>) -> PyResult<()> {
        let state =
            self.state
                .compare_exchange(WAITED_FOR, CONTINUED, Ordering::SeqCst, Ordering::SeqCst);
        match state {
            Ok(_) if self.promise.keep(result).is_none() => Ok(()),
            Ok(_) | Err(CONTINUED) => {
                Err(gears_error("Can not continue with the same future twice"))
            }
            Err(FRESH) => Err(gears_error(
                "Can not handle future untill it returned from the callback",
            )),
            // Nobody waits for it.
            Err(_) => Ok(()),
        }
    }
}

fn only<'py>(args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    if args.len() != 1 {
        return Err(gears_error("Continue function expect an object"));
    }
    args.get_item(0)
}

#[pymethods]
impl Future {
    /// continueRun(value): the result.
    #[pyo3(signature = (*args), name = "continueRun")]
    fn continue_run(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let value = only(args)?;
        self.go_on(Ok(value.unbind()))
    }

    /// continueFailed(error): the record fails with this text.
    #[pyo3(signature = (*args), name = "continueFailed")]
    fn continue_failed(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let error = only(args)?;
        self.go_on(Err(RecordError::new(bare_text(&error))))
    }

    /// What a coroutine gives its outcome to, also before the callback has returned.
    fn _promise(this: Bound<'_, Self>) -> Keeper {
        Keeper {
            promise: this.get().promise.clone(),
            _future: Some(this.unbind()),
        }
    }
}

impl Drop for Future {
    fn drop(&mut self) {
        if self.state.load(Ordering::SeqCst) == WAITED_FOR {
            self.promise.keep(Err(RecordError::new(NOT_CONTINUED)));
        }
    }
}

/// gearsFuture(): inside a callback of a step.
#[pyfunction]
#[pyo3(signature = (*args), name = "gearsFutureCtx")]
pub(super) fn gears_future(py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Py<Future>> {
    if !args.is_empty() {
        return Err(gears_error("Future gets no arguments"));
    }
    match STEP.get() {
        Step::Outside => {
            return Err(gears_error(
                "Future object can only be created inside certain execution steps",
            ));
        }
        Step::Closed => return Err(gears_error(NO_ASYNC)),
        Step::Made => {
            return Err(gears_error(
                "Can not create async record twice on the same step",
            ));
        }
        Step::Open if !may_wait() => return Err(gears_error(NOT_HERE)),
        Step::Open => {}
    }
    let future = Future {
        promise: Promise::new(),
        state: AtomicU8::new(FRESH),
    };
    let future = Py::new(py, future)?;
    FUTURE.set(Some(future.clone_ref(py)));
    STEP.set(Step::Made);
    Ok(future)
}
