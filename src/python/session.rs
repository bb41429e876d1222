//! A session: one RG.PYEXECUTE, its code and for whom it runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_ulong;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::ForceStopped;
use super::interpreter::world;
use super::language::Cpython;
use super::link;
use crate::engine::{Context, Execution, LogLevel};

/// An attached section at work.
struct Running {
    thread: c_ulong,
    interrupted: bool,
}

/// One RG.PYEXECUTE. Crosses threads: its callbacks run on workers, commands look at it.
pub(crate) struct Session {
    /// Given by the user, or random.
    pub(super) id: String,
    /// Given by the user.
    pub(super) description: Option<String>,
    /// With whose rights its commands run.
    pub(super) user: String,
    /// The globals of its script, shared by all its callbacks.
    globals: Option<Py<PyDict>>,
    /// Attached sections by ticket, with the thread that runs them.
    running: Mutex<HashMap<u64, Running>>,
}

impl Session {
    pub(super) fn new(
        id: String,
        description: Option<String>,
        user: String,
        globals: Py<PyDict>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            description,
            user,
            globals: Some(globals),
            running: Mutex::default(),
        })
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a section on this thread. Until it ends, interrupts for `ticket` hit this thread, and
    /// context variables are its own.
    pub(super) fn begin<'py>(&'py self, py: Python<'py>, ticket: u64) -> PyResult<Section<'py>> {
        let context = link::enter_context(py)?;
        let running = Running {
            thread: link::thread_ident(py),
            interrupted: false,
        };
        self.running().insert(ticket, running);
        let was_atomic = world().host.in_atomic();
        Ok(Section {
            py,
            session: self,
            ticket,
            context,
            was_atomic,
        })
    }
}

/// A section; ends also when its body panics.
pub(super) struct Section<'py> {
    py: Python<'py>,
    session: &'py Session,
    ticket: u64,
    context: link::EnteredContext<'py>,
    /// An atomic block that was open before is not this section's to close.
    was_atomic: bool,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let ran = self.session.running().remove(&self.ticket);
        if ran.is_some_and(|ran| ran.interrupted) {
            // One that came too late is taken back.
            link::raise_in(self.py, link::thread_ident(self.py), None);
        }
        link::stop_tracing(self.py);
        self.context.leave();
        let left_open = !self.was_atomic && world().host.in_atomic();
        // Giving the lock back may take a rest.
        if left_open && self.py.detach(|| world().host.leave_atomic()) {
            let message = format!(
                "an atomic block was left open by code of session {} and has been closed",
                self.session
            );
            world().environment.log(LogLevel::Warning, &message);
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.description {
            Some(description) => write!(f, "{} ({description})", self.id),
            None => f.write_str(&self.id),
        }
    }
}

impl Drop for Session {
    /// Functions and the globals they were defined in hold each other: take them apart. Not here,
    /// which may be the main thread.
    fn drop(&mut self) {
        let Some(globals) = self.globals.take() else {
            return;
        };
        (world().background)(Box::new(move || {
            Python::attach(|py| globals.into_bound(py).clear());
        }));
    }
}

impl Context for Arc<Session> {
    fn user(&self) -> &str {
        &self.user
    }

    fn interrupt(&self, ticket: u64) {
        Python::attach(|py| {
            // Held while the exception is set, so that it can only hit this section.
            let mut running = self.running();
            if let Some(section) = running.get_mut(&ticket) {
                section.interrupted = true;
                link::raise_in(
                    py,
                    section.thread,
                    Some(py.get_type::<ForceStopped>().as_any()),
                );
            }
        });
    }
}

/// What the current thread runs.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) session: Arc<Session>,
    /// The script whose top level runs, rather than a callback.
    pub(super) script: Option<Arc<TopLevel>>,
}

/// What the top level of a script has made so far.
#[derive(Default)]
pub(super) struct TopLevel {
    run: Mutex<Option<Arc<Execution<Cpython>>>>,
}

impl TopLevel {
    fn run(&self) -> MutexGuard<'_, Option<Arc<Execution<Cpython>>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has made an execution.
    pub(super) fn has_run(&self) -> bool {
        self.run().is_some()
    }

    /// It has made this execution.
    pub(super) fn set_run(&self, execution: Arc<Execution<Cpython>>) {
        *self.run() = Some(execution);
    }

    /// The execution it has made.
    pub(super) fn take_run(&self) -> Option<Arc<Execution<Cpython>>> {
        self.run().take()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// What this thread runs, if it runs code of a session.
pub(super) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// The session of this thread.
pub(super) fn current_session() -> Option<Arc<Session>> {
    CURRENT.with_borrow(|current| current.as_ref().map(|current| current.session.clone()))
}

/// Binds this thread to what it runs; returns what it was bound to.
pub(super) fn bind(current: Option<Current>) -> Option<Current> {
    CURRENT.replace(current)
}
