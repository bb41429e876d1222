//! How long callbacks of a session take, with `ProfileExecutions`: Python's own profilers.
//!
//! A profiler measures one thread, so that a session has one for each thread that its callbacks run
//! on; they are put together when somebody looks. A section is measured as a whole: between its
//! callbacks no Python code runs. Where a callback runs a command that triggers another function on
//! the same thread, the profiler of that one takes over until it has returned.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_ulong;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::error::error_text;
use super::interpreter::world;
use super::link;
use super::session::Session;

const SOURCE: &str = include_str!("../../python/prelude/profiling.py");

/// What the statistics are sorted by unless somebody says.
const ORDER: &str = "tottime";

static MODULE: OnceLock<Py<PyModule>> = OnceLock::new();

/// The prelude's part, loaded at its first use.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    if let Some(module) = MODULE.get() {
        return Ok(module.bind(py));
    }
    let module = PyModule::new(py, "_geartrain_profiling")?;
    let builtins = py.import("builtins")?;
    module.setattr("__builtins__", &builtins)?;
    let code = builtins.call_method1("compile", (SOURCE, "<geartrain>", "exec"))?;
    builtins.call_method1("exec", (code, module.dict()))?;
    Ok(MODULE.get_or_init(|| module.unbind()).bind(py))
}

type Profiler = Py<PyAny>;

/// The profilers of a session by thread. Workers add theirs, commands look at all.
#[derive(Default)]
pub(super) struct Profile(Mutex<HashMap<c_ulong, Profiler>>);

impl Profile {
    fn profilers(&self) -> MutexGuard<'_, HashMap<c_ulong, Profiler>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of this thread.
    fn own(&self, py: Python<'_>) -> PyResult<Profiler> {
        let thread = link::thread_ident(py);
        let known = {
            let profilers = self.profilers();
            profilers.get(&thread).map(|own| own.clone_ref(py))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let made = module(py)?.getattr("profiler")?.call0()?.unbind();
        self.profilers().insert(thread, made.clone_ref(py));
        Ok(made)
    }

    /// Begins anew.
    fn reset(&self) {
        // Callbacks that run go on with what nobody looks at any more.
        let gone = std::mem::take(&mut *self.profilers());
        drop(gone);
    }
}

thread_local! {
    /// What measures the section that this thread is in.
    static ACTIVE: RefCell<Option<Profiler>> = const { RefCell::new(None) };
}

/// A section that is measured until this is dropped, after the section.
pub(super) struct Measured<'py> {
    py: Python<'py>,
    profiler: Profiler,
    /// What measured this thread before.
    outer: Option<Profiler>,
}

/// Measures a section of a session that is about to begin, if that is wanted.
#[inline]
pub(super) fn begin<'py>(py: Python<'py>, session: &Session) -> Option<Measured<'py>> {
    let wanted = &world().registry.limits().profile;
    if wanted.load(Ordering::Relaxed) {
        return start(py, session);
    }
    None
}

fn start<'py>(py: Python<'py>, session: &Session) -> Option<Measured<'py>> {
    let started = session.profile.own(py).and_then(|profiler| {
        // One that is active already goes on.
        profiler.call_method0(py, "enable")?;
        Ok(profiler)
    });
    match started {
        Ok(profiler) => {
            let outer = ACTIVE.replace(Some(profiler.clone_ref(py)));
            Some(Measured {
                py,
                profiler,
                outer,
            })
        }
        Err(error) => {
            error.write_unraisable(py, None);
            None
        }
    }
}

impl Drop for Measured<'_> {
    /// The end of the section has taken profilers off this thread.
    fn drop(&mut self) {
        let (py, outer) = (self.py, self.outer.take());
        let goes_on = outer.as_ref().is_some_and(|o| o.is(&self.profiler));
        if !goes_on {
            call(py, &self.profiler, "disable");
        }
        if let Some(outer) = &outer {
            call(py, outer, "enable");
        }
        drop(ACTIVE.replace(outer));
    }
}

fn call(py: Python<'_>, profiler: &Profiler, method: &str) {
    if let Err(error) = profiler.call_method0(py, method) {
        error.write_unraisable(py, None);
    }
}

/// What was measured of a session, as text. The error is the text for the client.
pub(crate) fn profile_text(session: &Session, order: Option<&str>) -> Result<String, String> {
    Python::attach(|py| {
        let text = || -> PyResult<String> {
            let module = module(py)?;
            let order = match order {
                Some(order) if module.call_method1("is_order", (order,))?.is_truthy()? => order,
                // RedisGears 1.x took any word, and always sorted by this.
                _ => ORDER,
            };
            let profilers: Vec<_> = {
                let profilers = session.profile.profilers();
                profilers.values().map(|one| one.clone_ref(py)).collect()
            };
            let text = module.call_method1("stats", (profilers, order))?;
            text.extract()
        };
        text().map_err(|error| error_text(py, &error))
    })
}

/// Forgets what was measured of a session.
pub(crate) fn reset_profile(session: &Arc<Session>) {
    session.profile.reset();
}
