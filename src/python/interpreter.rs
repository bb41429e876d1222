//! The interpreter: its start, the names that scripts see, and running a script.

use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::api::LogStream;
use super::builder::SessionName;
use super::error::error_text;
use super::language::Cpython;
use super::link::{self, Allocator};
use super::session::{Current, Session, TopLevel, bind};
use crate::engine::{Environment, Execution, Host, LogLevel, Registry};

const PRELUDE: &str = include_str!("../../python/prelude/builder.py");

/// Sections of scripts are numbered apart from executions: from the top.
const SCRIPT_TICKET: u64 = u64::MAX;

/// Where the globals of a script name its session.
pub(super) const SESSION_NAME: &str = "__gears_session__";

/// Seconds after which a thread that runs Python lets others have a turn.
const SWITCH_INTERVAL: f64 = 0.0005;

/// What scripts reach. One per process, since the interpreter is.
pub(crate) struct World {
    /// Runs commands.
    pub(crate) host: Box<dyn Host>,
    /// Everything else of the server.
    pub(crate) environment: Box<dyn Environment>,
    /// The executions.
    pub(crate) registry: Arc<Registry<Cpython>>,
    /// Runs a job soon, on a thread that may wait.
    pub(crate) background: Background,
}

/// Runs a job on another thread.
pub(crate) type Background = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

static WORLD: OnceLock<World> = OnceLock::new();
static PROTOTYPE: OnceLock<Py<PyDict>> = OnceLock::new();

/// What scripts reach.
pub(super) fn world() -> &'static World {
    WORLD
        .get()
        .expect("the world is set before the interpreter runs anything")
}

/// Memory that Python took: in all, at most, now; in bytes.
pub(crate) fn memory() -> [usize; 3] {
    link::memory()
}

/// Starts the interpreter, with the server's memory if it is to be accounted there. Threads may
/// enter it from now on.
pub(crate) fn start(allocator: Option<Allocator>) -> Result<(), String> {
    link::initialize(allocator)
}

/// Gives scripts their world, and the names they see.
pub(crate) fn open(world: World) -> Result<(), String> {
    if WORLD.set(world).is_err() {
        return Err("the interpreter was started already".into());
    }
    Python::attach(|py| {
        let prototype = load_prelude(py).map_err(|error| error_text(py, &error))?;
        PROTOTYPE
            .set(prototype)
            .map_err(|_| "the prelude was loaded already".to_owned())
    })
}

fn load_prelude(py: Python<'_>) -> PyResult<Py<PyDict>> {
    let sys = py.import("sys")?;
    sys.setattr("stdout", Py::new(py, LogStream::new(LogLevel::Notice))?)?;
    sys.setattr("stderr", Py::new(py, LogStream::new(LogLevel::Warning))?)?;
    sys.call_method1("setswitchinterval", (SWITCH_INTERVAL,))?;
    let globals = PyDict::new(py);
    let builtins = py.import("builtins")?;
    globals.set_item("__builtins__", &builtins)?;
    // Not an importable name: what a script defines travels by value.
    globals.set_item("__name__", "not_main")?;
    let code = builtins.call_method1("compile", (PRELUDE, "<geartrain>", "exec"))?;
    builtins.call_method1("exec", (code, &globals))?;
    Ok(globals.unbind())
}

/// A name of the prelude.
pub(super) fn prelude<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let found = PROTOTYPE
        .get()
        .map(|names| names.bind(py).get_item(name))
        .transpose()?
        .flatten();
    found.ok_or_else(|| PyValueError::new_err(format!("the prelude has no {name}")))
}

/// Runs a thread's loop with a thread state that it keeps for life: attaching again is cheap.
pub(crate) fn enter_thread(body: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(body));
}

/// A script to run.
pub(crate) struct Script {
    /// Its source, as the client sent it.
    pub(crate) source: Vec<u8>,
    /// The id of its session.
    pub(crate) id: String,
    /// What the user says of it.
    pub(crate) description: Option<String>,
    /// With whose rights it runs.
    pub(crate) user: String,
}

/// How a script ended.
pub(crate) enum ScriptEnd {
    /// It neither ran nor registered anything.
    Nothing,
    /// It made an execution, which was not started yet.
    Run(Arc<Execution<Cpython>>),
}

/// Runs the top level of a script. The error is the text for the client.
pub(crate) fn run_script(script: Script) -> Result<ScriptEnd, String> {
    Python::attach(|py| {
        let prototype = PROTOTYPE.get().ok_or("the interpreter was not started")?;
        let globals = prototype
            .bind(py)
            .copy()
            .map_err(|error| error_text(py, &error))?;
        let session = Session::new(
            script.id,
            script.description,
            script.user,
            globals.clone().unbind(),
        );
        let own = prelude(py, "_own_classes").and_then(|own| own.call1((&globals,)));
        own.map_err(|error| error_text(py, &error))?;
        let name = SessionName(Arc::downgrade(&session));
        globals
            .set_item(SESSION_NAME, name)
            .map_err(|error| error_text(py, &error))?;
        let top_level = Arc::new(TopLevel::default());
        let before = bind(Some(Current {
            session: session.clone(),
            script: Some(top_level.clone()),
        }));
        let section = session.begin(py, SCRIPT_TICKET);
        let ran = run_source(py, &script.source, &globals);
        drop(section);
        bind(before);
        let run = top_level.take_run();
        match (ran, run) {
            (Ok(()), None) => Ok(ScriptEnd::Nothing),
            (Ok(()), Some(execution)) => Ok(ScriptEnd::Run(execution)),
            (Err(error), run) => {
                if let Some(execution) = run {
                    world().registry.discard(&execution);
                }
                Err(error_text(py, &error))
            }
        }
    })
}

fn run_source(py: Python<'_>, source: &[u8], globals: &Bound<'_, PyDict>) -> PyResult<()> {
    let source = std::str::from_utf8(source).map_err(|error| {
        PyValueError::new_err(format!(
            "the script is not valid UTF-8 at byte {}",
            error.valid_up_to()
        ))
    })?;
    let source = PyString::new(py, source);
    // The prelude's own names: a script may have taken those of builtins away.
    let code = prelude(py, "_compile")?.call1((source, "<string>", "exec"))?;
    prelude(py, "_exec")?.call1((code, globals)).map(drop)
}
