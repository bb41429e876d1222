//! The interpreter: its start, the names that scripts see, and running a script.

use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::api::LogStream;
use super::error::{error_text, gears_error};
use super::function::Function;
use super::language::Cpython;
use super::link::{self, Allocator};
use super::object;
use super::session::{Current, Needs, Run, Session, TopLevel, bind};
use crate::engine::{
    Behalf, Change, Environment, Execution, Host, Language, LogLevel, Registrar, Registry, Ticket,
    random_id,
};

/// Run in this order, in the same names.
const PRELUDE: [&str; 2] = [
    include_str!("../../python/prelude/builder.py"),
    include_str!("../../python/prelude/futures.py"),
];

/// Sections of scripts are numbered apart from executions: from the top.
const SCRIPT_TICKET: u64 = u64::MAX;

/// Where the globals of a script name its session.
pub(super) const SESSION_NAME: &str = "__gears_session__";

/// Seconds after which a thread that runs Python lets others have a turn. Short, since the server may
/// wait for it: a function that runs at once beside a busy one starts that much later.
const SWITCH_INTERVAL: f64 = 0.0002;

/// Bytes of a script whose code is kept for the next one that is the same.
const SHORT_SCRIPT: usize = 16 << 10;

/// What scripts reach. One per process, since the interpreter is.
pub(crate) struct World {
    /// Runs commands.
    pub(crate) host: Box<dyn Host>,
    /// Everything else of the server.
    pub(crate) environment: Box<dyn Environment>,
    /// The executions.
    pub(crate) registry: Arc<Registry<Cpython>>,
    /// The registrations.
    pub(crate) registrar: Box<dyn Registrar<Cpython>>,
    /// Runs a job soon, on a thread that may wait.
    pub(crate) background: Background,
    /// Folders where modules are looked for before all others.
    pub(crate) python_path: Vec<String>,
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
    for folder in world().python_path.iter().rev() {
        if !std::path::Path::new(folder).is_dir() {
            let message = format!("PythonPath names {folder}, which is no folder");
            world().environment.log(LogLevel::Warning, &message);
        }
        sys.getattr("path")?.call_method1("insert", (0, folder))?;
    }
    let globals = PyDict::new(py);
    let builtins = py.import("builtins")?;
    globals.set_item("__builtins__", &builtins)?;
    // Not an importable name: what a script defines travels by value.
    globals.set_item("__name__", "not_main")?;
    for source in PRELUDE {
        let code = builtins.call_method1("compile", (source, "<geartrain>", "exec"))?;
        builtins.call_method1("exec", (code, &globals))?;
    }
    // Modules take them from there, as in RedisGears 1.x: `from __main__ import GB`.
    let main = py.import("__main__")?.dict();
    for (name, value) in &globals {
        if !name.cast::<PyString>()?.to_cow()?.starts_with('_') {
            main.set_item(name, value)?;
        }
    }
    Ok(globals.unbind())
}

/// The names of the prelude.
pub(super) fn prototype(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    let names = PROTOTYPE.get().map(|names| names.bind(py));
    names.ok_or_else(|| PyValueError::new_err("the interpreter was not started"))
}

/// A name of the prelude.
pub(super) fn prelude<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let found = prototype(py)?.get_item(name)?;
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
    /// The id of a session that it replaces if it registers something.
    pub(crate) replaces: Option<String>,
    /// What it needs, installed.
    pub(crate) needs: Needs,
}

/// How a script ended.
pub(crate) enum ScriptEnd {
    /// It neither ran nor registered anything.
    Nothing,
    /// It made an execution, which was not started yet.
    Run(Arc<Execution<Cpython>>),
    /// It registered something, which is not done yet; and it may have made an execution.
    Registered(Change<Cpython>, Option<Arc<Execution<Cpython>>>),
}

/// Runs the top level of a script. The error is the text for the client.
pub(crate) fn run_script(script: Script) -> Result<ScriptEnd, String> {
    Python::attach(|py| {
        let Script {
            source,
            id,
            description,
            user,
            replaces,
            needs,
        } = script;
        let session = Session::open(py, id, description, user, source, random_id(), needs)
            .map_err(|error| error_text(py, &error))?;
        let globals = session.globals(py).ok_or("the session is gone")?;
        let top_level = Arc::new(TopLevel::new(replaces));
        let before = bind(Some(Current {
            script: Some(top_level.clone()),
            ..Current::of_session(session.clone())
        }));
        let section = session.begin(py, Some(SCRIPT_TICKET));
        let ran = run_source(py, session.source(), &globals);
        drop(section);
        bind(before);
        let (run, change) = (top_level.take_run(), top_level.take_change());
        if let (Ok(()), Some(run)) = (&ran, &run) {
            tell_when_done(py, run);
        }
        let run = run.map(|run| run.execution);
        match (ran, change, run) {
            (Ok(()), Some(change), run) => Ok(ScriptEnd::Registered(change, run)),
            (Ok(()), None, None) => Ok(ScriptEnd::Nothing),
            (Ok(()), None, Some(execution)) => Ok(ScriptEnd::Run(execution)),
            (Err(error), _, run) => {
                if let Some(execution) = run {
                    world().registry.discard(&execution);
                }
                Err(error_text(py, &error))
            }
        }
    })
}

/// Has a future of the run of a script get its results, if the script has kept it.
fn tell_when_done(py: Python<'_>, run: &Run) {
    let Some(when_done) = &run.when_done else {
        return;
    };
    let awaited = when_done.bind(py).call_method0("is_awaited");
    if awaited.is_ok_and(|awaited| awaited.is_truthy().is_ok_and(|awaited| !awaited)) {
        return;
    }
    let when_done = when_done.clone_ref(py);
    run.execution.when_done(Box::new(move |outcome| {
        let outcome = outcome.clone();
        (world().background)(Box::new(move || {
            Python::attach(|py| {
                let told = object::results(py, &outcome.results)
                    .and_then(|results| when_done.call1(py, (results, outcome.errors.clone())));
                if let Err(error) = told {
                    error.write_unraisable(py, None);
                }
            });
        }));
    }));
}

/// Calls a function of a session, without arguments, while the server waits for it. The error is
/// the text of the exception. What it returns is not waited for: a coroutine is an error, or
/// `starts_coroutines` and runs by itself.
pub(crate) fn call(
    session: &Arc<Session>,
    f: &Function,
    starts_coroutines: bool,
) -> Result<(), String> {
    let context = Arc::new(session.clone());
    let behalf = Behalf {
        context: &context,
        ticket: Ticket::Watched,
        caller: None,
    };
    Cpython::attach(&behalf, |py| {
        call0(py, f, starts_coroutines).map_err(|error| error_text(py, &error))
    })
}

fn call0(py: Python<'_>, f: &Function, starts_coroutines: bool) -> PyResult<()> {
    let made = f.callable(py).call0()?;
    if !link::is_coroutine(&made) {
        return Ok(());
    }
    if starts_coroutines {
        return prelude(py, "runCoroutine")?.call1((made,)).map(drop);
    }
    made.call_method0("close")?;
    Err(gears_error("Coroutines are not allow"))
}

fn run_source(py: Python<'_>, source: &[u8], globals: &Bound<'_, PyDict>) -> PyResult<()> {
    // The prelude's own names: a script may have taken those of builtins away.
    let compile = if source.len() <= SHORT_SCRIPT {
        "_compile_short"
    } else {
        "_compile"
    };
    // As bytes, as Python reads a file: with the mark of an editor, or a line that names an encoding.
    let source = PyBytes::new(py, source);
    let code = prelude(py, compile)?.call1((source, "<string>", "exec"))?;
    prelude(py, "_exec")?.call1((code, globals)).map(drop)
}
