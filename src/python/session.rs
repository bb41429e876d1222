//! A session: one RG.PYEXECUTE, its code and for whom it runs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_ulong;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::builder::{SessionHandle, SessionName};
use super::error::ForceStopped;
use super::interpreter::{SESSION_NAME, prelude, world};
use super::language::Cpython;
use super::link;
use super::profile::Profile;
use super::requirements::{Requirement, Uses};
use super::shipping;
use super::watch;
use crate::engine::wire::SessionWire;
use crate::engine::{Caller, Change, Context, Execution, LogLevel};

/// An attached section at work.
struct Running {
    thread: c_ulong,
    interrupted: bool,
}

/// The requirements of a session.
#[derive(Default)]
pub(crate) struct Needs {
    /// They.
    pub(crate) uses: Uses,
    /// Whether some of them were installed for it.
    pub(crate) installed: bool,
}

/// One RG.PYEXECUTE. Crosses threads: its callbacks run on workers, commands look at it.
pub(crate) struct Session {
    /// Given by the user, or random.
    pub(super) id: String,
    /// Given by the user.
    pub(super) description: Option<String>,
    /// With whose rights its commands run.
    pub(super) user: String,
    /// The script.
    source: Vec<u8>,
    /// Tells it from others of the same id.
    instance: String,
    /// What it needs.
    needs: Needs,
    /// The globals of its script, shared by all its callbacks.
    globals: Option<Py<PyDict>>,
    /// Attached sections by ticket, with the thread that runs them.
    running: Mutex<HashMap<u64, Running>>,
    /// How many handles of it code holds.
    pub(super) handles: AtomicUsize,
    /// How long its callbacks take.
    pub(super) profile: Profile,
}

impl Session {
    /// A session with the names of the prelude, for a script that is run or was shipped.
    pub(super) fn open(
        py: Python<'_>,
        id: String,
        description: Option<String>,
        user: String,
        source: Vec<u8>,
        instance: String,
        needs: Needs,
    ) -> PyResult<Arc<Self>> {
        let globals = prelude(py, "_names_of_script")?.call0()?;
        let globals = globals.cast_into::<PyDict>()?;
        let session = Arc::new(Self {
            id,
            description,
            user,
            source,
            instance,
            needs,
            globals: Some(globals.clone().unbind()),
            running: Mutex::default(),
            handles: AtomicUsize::new(0),
            profile: Profile::default(),
        });
        globals.set_item(SESSION_NAME, SessionName(Arc::downgrade(&session)))?;
        Ok(session)
    }

    /// The id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// With whose rights it runs.
    pub(crate) fn user_name(&self) -> &str {
        &self.user
    }

    /// What tells it from others of the same id, on all shards.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Whether it is what was shipped, here or before.
    pub(crate) fn is_of(&self, wire: &SessionWire) -> bool {
        self.id == wire.id && self.user == wire.user && self.instance == wire.instance
    }

    /// What the user says of it.
    pub(crate) fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// How many handles of it code holds, each of which keeps it.
    pub(crate) fn handles(&self) -> usize {
        self.handles.load(Ordering::Relaxed)
    }

    /// The script.
    pub(crate) fn source(&self) -> &[u8] {
        &self.source
    }

    /// What it needs, in the order in which it was asked for.
    pub(crate) fn requirements(&self) -> &[Arc<Requirement>] {
        self.needs.uses.list()
    }

    /// Whether some of that was installed for it.
    pub(crate) fn needed_installation(&self) -> bool {
        self.needs.installed
    }

    /// What of that is missing here, so that its code can not be loaded.
    pub(super) fn missing(&self) -> Option<&Requirement> {
        let mut all = self.requirements().iter();
        all.find(|requirement| !requirement.is_installed())
            .map(|found| &**found)
    }

    /// The globals of its script.
    pub(super) fn globals<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyDict>> {
        self.globals
            .as_ref()
            .map(|globals| globals.bind(py).clone())
    }

    /// What is shipped of it.
    pub(crate) fn wire(&self) -> SessionWire {
        SessionWire {
            source: self.source.clone().into(),
            ..Python::attach(|py| self.run_wire(py))
        }
    }

    /// What is shipped of it with something that it runs: all but the script.
    pub(super) fn run_wire(&self, py: Python<'_>) -> SessionWire {
        SessionWire {
            id: self.id.clone(),
            description: self.description.clone(),
            user: self.user.clone(),
            source: serde_bytes::ByteBuf::new(),
            requirements: self.requirements().iter().map(|one| one.wire()).collect(),
            installed: self.needs.installed,
            language: shipping::language_of(py),
            module: env!("CARGO_PKG_VERSION").into(),
            instance: self.instance.clone(),
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interrupts for this ticket hit this thread from now on.
    pub(super) fn interruptible(&self, py: Python<'_>, ticket: u64) {
        let running = Running {
            thread: link::thread_ident(py),
            interrupted: false,
        };
        self.running().insert(ticket, running);
    }

    /// They do not any more; one that came too late is taken back.
    pub(super) fn uninterruptible(&self, py: Python<'_>, ticket: u64) {
        let ran = self.running().remove(&ticket);
        if ran.is_some_and(|ran| ran.interrupted) {
            swallow(py);
        }
    }

    /// Begins a section on this thread. Until it ends, interrupts for `ticket`, if it has one, hit
    /// this thread, and context variables are its own.
    pub(super) fn begin<'py>(
        &'py self,
        py: Python<'py>,
        ticket: Option<u64>,
    ) -> PyResult<Section<'py>> {
        let context = link::enter_context(py)?;
        if let Some(ticket) = ticket {
            self.interruptible(py, ticket);
        }
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
    ticket: Option<u64>,
    context: link::EnteredContext<'py>,
    /// An atomic block that was open before is not this section's to close.
    was_atomic: bool,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        link::stop_tracing(self.py);
        if let Some(ticket) = self.ticket {
            self.session.uninterruptible(self.py, ticket);
        }
        self.context.leave();
        let left_open = !self.was_atomic && world().host.in_atomic();
        if left_open {
            watch::end_block(self.py);
        }
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
                interrupt_thread(py, section.thread);
            }
        });
    }
}

/// Has what a thread runs fail with GearsForceStopped.
pub(super) fn interrupt_thread(py: Python<'_>, thread: c_ulong) {
    let stopped = py.get_type::<ForceStopped>();
    link::raise_in(py, thread, stopped.as_any());
}

/// Raises an interrupt that came too late, and drops it. Just to take it back would leave CPython
/// 3.11 looking for it before each instruction, for ever.
pub(super) fn swallow(py: Python<'_>) {
    interrupt_thread(py, link::thread_ident(py));
    // It is raised somewhere in there.
    let _ = prelude(py, "_swallow").and_then(|swallow| swallow.call0());
}

/// What the current thread runs.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) session: Arc<Session>,
    /// The script whose top level runs, rather than a callback.
    pub(super) script: Option<Arc<TopLevel>>,
    /// The command that is answered.
    pub(super) caller: Option<Arc<dyn Caller>>,
    /// The thread goes on with the rights of the session, but does not show it: setGearsSession(None).
    pub(super) hidden: bool,
}

impl Current {
    /// Code of a session outside of its steps.
    pub(super) fn of_session(session: Arc<Session>) -> Self {
        Self {
            session,
            script: None,
            caller: None,
            hidden: false,
        }
    }
}

/// An execution that a script has made.
pub(super) struct Run {
    pub(super) execution: Arc<Execution<Cpython>>,
    /// Called with its results and errors.
    pub(super) when_done: Option<Py<PyAny>>,
}

/// What the top level of a script has made so far.
#[derive(Default)]
pub(super) struct TopLevel {
    run: Mutex<Option<Run>>,
    change: Mutex<Option<Change<Cpython>>>,
    /// The session that it replaces if it registers something.
    replaces: Option<String>,
}

impl TopLevel {
    /// Of a script that may replace a session.
    pub(super) fn new(replaces: Option<String>) -> Self {
        Self {
            replaces,
            ..Self::default()
        }
    }

    fn pending(&self) -> MutexGuard<'_, Option<Change<Cpython>>> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has registered so far, to be added to and given back.
    pub(super) fn change(&self, session: &Arc<Session>) -> Change<Cpython> {
        self.take_change().unwrap_or_else(|| Change {
            session: session.clone(),
            replaces: self.replaces.clone(),
            add: Vec::new(),
        })
    }

    /// It has registered this so far.
    pub(super) fn set_change(&self, change: Change<Cpython>) {
        *self.pending() = (!change.add.is_empty()).then_some(change);
    }

    /// What it has registered, if anything.
    pub(super) fn take_change(&self) -> Option<Change<Cpython>> {
        self.pending().take()
    }

    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has made an execution.
    pub(super) fn has_run(&self) -> bool {
        self.run().is_some()
    }

    /// It has made this execution.
    pub(super) fn set_run(&self, execution: Arc<Execution<Cpython>>, when_done: Option<Py<PyAny>>) {
        *self.run() = Some(Run {
            execution,
            when_done,
        });
    }

    /// The execution it has made.
    pub(super) fn take_run(&self) -> Option<Run> {
        self.run().take()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    static COROUTINES: Cell<bool> = const { Cell::new(false) };
}

/// What this thread runs, if it runs code of a session.
pub(super) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone).or_else(of_coroutine)
}

/// The session of this thread.
pub(super) fn current_session() -> Option<Arc<Session>> {
    CURRENT
        .with_borrow(|current| current.as_ref().map(|current| current.session.clone()))
        .or_else(|| of_coroutine().map(|current| current.session))
}

/// What a coroutine runs, or what it has asked another thread to do: in a context variable.
fn of_coroutine() -> Option<Current> {
    Python::attach(|py| {
        let bound = prelude(py, "_SESSION").ok()?.call_method0("get").ok()?;
        let handle = bound.cast_into::<SessionHandle>().ok()?;
        let SessionHandle {
            session,
            caller,
            hidden,
        } = handle.get();
        Some(Current {
            caller: caller.clone(),
            hidden: *hidden,
            ..Current::of_session(session.clone())
        })
    })
}

/// This thread runs all coroutines from now on: none of them may leave a session to the others.
pub(super) fn own_loop() {
    COROUTINES.set(true);
}

/// Binds the code that calls this to what it runs: the coroutine, or the thread.
pub(super) fn bind_code(py: Python<'_>, current: Current) -> PyResult<()> {
    if !COROUTINES.get() {
        bind(Some(current));
        return Ok(());
    }
    let handle = SessionHandle::new(current.session, current.caller, current.hidden);
    prelude(py, "_SESSION")?
        .call_method1("set", (handle,))
        .map(drop)
}

/// Binds this thread to what it runs; returns what it was bound to.
pub(super) fn bind(current: Option<Current>) -> Option<Current> {
    CURRENT.replace(current)
}
