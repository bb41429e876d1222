//! What Python may ask of the server: the modules `redisgears` and `redisAI`.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyInt, PyList, PyString, PyTuple};

use super::builder::{Builder, SessionHandle, SessionName, gears_ctx};
use super::error::{FlatError, ForceStopped, GearsError, gears_error, lossy};
use super::function::Function;
use super::interpreter::{SESSION_NAME, world};
use super::object;
use super::promise::{self, Future, Keeper, Work, gears_future};
use super::session::{self, Current, bind_code, current, current_session};
use super::shipping;
use super::watch;
use crate::engine::{Caller, Command, LogLevel, Results, TimeEvent};

/// execute(command, *args): runs a command of the server and returns its reply.
///
/// Arguments: bytes and bytearray as they are, anything else as str. Replies: str where it is
/// UTF-8, else bytearray; int; list; None. An error reply raises GearsError.
#[pyfunction]
#[pyo3(signature = (*args), name = "executeCommand")]
fn execute<'py>(py: Python<'py>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let Some(first) = args.iter().next() else {
        return Ok(pyo3::types::PyList::empty(py).into_any());
    };
    if !first.is_instance_of::<PyString>() {
        return Err(gears_error("the given command must be a string"));
    }
    let session = current_session()
        .ok_or_else(|| gears_error("execute can only be called on registered gears thread"))?;
    // The buffer is out of its place while the command runs: an argument's __str__ may run another.
    let mut command = COMMAND.take();
    command.clear();
    for arg in args {
        object::push_argument(&mut command, &arg)?;
    }
    let host = &world().host;
    // A thread never waits for the server lock while attached. Where it need not wait it stays so:
    // to detach costs as much as a short command, and another thread may keep Python for long.
    let reply = match host.try_call(&session.user, &command) {
        Some(reply) => reply,
        None => py.detach(|| host.call(&session.user, &command)),
    };
    COMMAND.set(command);
    object::reply(py, reply.map_err(gears_error)?)
}

thread_local! {
    /// The buffer for the commands of this thread.
    static COMMAND: RefCell<Command> = RefCell::default();
}

/// atomic(): a context manager; the commands in its block run with no other in between.
#[pyclass(name = "PyAtomic", module = "redisgears", frozen)]
struct Atomic;

#[pyfunction]
#[pyo3(name = "atomicCtx")]
fn atomic() -> Atomic {
    Atomic
}

#[pymethods]
impl Atomic {
    fn __enter__(this: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        let session = current_session()
            .ok_or_else(|| gears_error("atomic can only be used on registered gears thread"))?;
        let host = &world().host;
        if host.in_atomic() {
            return Err(gears_error("Already inside an atomic block"));
        }
        this.py().detach(|| host.enter_atomic());
        watch::begin_block(this.py(), &session);
        Ok(this)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<bool> {
        watch::end_block(py);
        // Giving the lock back may take a rest.
        if !py.detach(|| world().host.leave_atomic()) {
            return Err(gears_error("Not inside an atomic block"));
        }
        Ok(false)
    }
}

/// isInAtomicBlock(): whether this thread is inside an atomic block.
#[pyfunction(name = "isInAtomicBlock")]
fn is_in_atomic_block() -> bool {
    world().host.in_atomic()
}

/// isAsyncAllow(): whether this callback may answer later.
#[pyfunction(name = "isAsyncAllow")]
fn is_async_allow() -> bool {
    promise::is_allowed()
}

/// The calling thread runs the event loop.
#[pyfunction(name = "_ownLoop")]
fn own_loop() {
    session::own_loop();
}

/// log(message, level='notice'): writes a line to the server's log.
#[pyfunction]
#[pyo3(signature = (*args, level=None))]
fn log(args: &Bound<'_, PyTuple>, level: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let environment = &world().environment;
    let (message, level) = match args.len() {
        1 => (args.get_item(0)?, level.cloned()),
        2 => {
            let text = "log(level, message) is deprecated, use log(message, level=level)";
            environment.log(LogLevel::Warning, text);
            (args.get_item(1)?, Some(args.get_item(0)?))
        }
        _ => return Err(gears_error("log function must get a log message as input")),
    };
    let message = message
        .cast_into::<PyString>()
        .map_err(|_| gears_error("Log message must be a string"))?;
    let level = match level {
        None => LogLevel::Notice,
        Some(level) => {
            let level = level.cast_into::<PyString>().map_err(|_| {
                gears_error("Log level must be a sting (debug/verbose/notice/warning)")
            })?;
            match lossy(&level).to_lowercase().as_str() {
                "debug" => LogLevel::Debug,
                "verbose" => LogLevel::Verbose,
                "notice" => LogLevel::Notice,
                "warning" => LogLevel::Warning,
                _ => {
                    return Err(gears_error(
                        "Log level should be one of the following : debug,verbose,notice,warning",
                    ));
                }
            }
        }
    };
    environment.log(level, &format!("GEARS: {}", lossy(&message)));
    Ok(())
}

/// configGet(key): a setting of the user's own, as str, or None.
#[pyfunction]
#[pyo3(signature = (*args))]
fn config_get(args: &Bound<'_, PyTuple>) -> PyResult<Option<String>> {
    if args.len() != 1 {
        return Err(gears_error(
            "get_config function must get a single key input",
        ));
    }
    let key = args.get_item(0)?.cast_into::<PyString>();
    let key = key.map_err(|_| gears_error("get_config key must be a string"))?;
    let value = world().environment.extra_setting(&lossy(&key));
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

/// hashtag(): a short text that, in braces, hashes to a slot of this shard.
#[pyfunction(name = "getMyHashTag")]
fn hash_tag() -> String {
    world().environment.hash_tag()
}

/// The id of this shard in its cluster, or None.
#[pyfunction(name = "_shardId")]
fn shard_id() -> Option<String> {
    world().environment.shard_id()
}

/// flat_error(message): raises an error whose text is the message and nothing else.
#[pyfunction]
#[pyo3(signature = (*args), name = "flatError")]
fn flat_error(args: &Bound<'_, PyTuple>) -> PyResult<()> {
    if args.len() != 1 {
        return Err(gears_error("not enough arguments for time flat error"));
    }
    Err(FlatError::new_err((args.get_item(0)?.unbind(),)))
}

/// getGearsSession(): the session of this thread, or None.
#[pyfunction(name = "getGearsSession")]
pub(super) fn get_gears_session() -> Option<SessionHandle> {
    let current = current().filter(|current| !current.hidden)?;
    Some(SessionHandle::new(current.session, current.caller, false))
}

/// setGearsSession(session): binds a session, or None, to this thread. With None it can still use the
/// server, but build no functions.
#[pyfunction]
#[pyo3(signature = (*args), name = "setGearsSession")]
fn set_gears_session(py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
    if args.len() != 1 {
        return Err(gears_error("Wrong number of args given to setGearsSession"));
    }
    let session = args.get_item(0)?;
    if session.is_none() {
        return match current() {
            Some(current) => bind_code(
                py,
                Current {
                    hidden: true,
                    ..current
                },
            ),
            None => Ok(()),
        };
    }
    let Ok(handle) = session.cast::<SessionHandle>() else {
        return Err(gears_error("Given object is not of type GearsSession"));
    };
    let handle = handle.get();
    let before = current().filter(|current| Arc::ptr_eq(&current.session, &handle.session));
    // Where the thread runs code of this session already, its script and step go on.
    let now = before.unwrap_or_else(|| Current::of_session(handle.session.clone()));
    let now = Current {
        caller: handle.caller.clone(),
        hidden: false,
        ..now
    };
    bind_code(py, now)
}

/// registerGearsThread(): once on a thread of the user's own, before it uses the server. The thread
/// runs for the session whose script defines the calling function.
#[pyfunction(name = "registerGearsThread")]
fn register_gears_thread(py: Python<'_>) -> PyResult<()> {
    if current_session().is_some() {
        return Ok(());
    }
    let frame = py.import("sys")?.call_method0("_getframe")?;
    let globals = frame.getattr("f_globals")?.cast_into::<PyDict>()?;
    let session = globals.get_item(SESSION_NAME)?.and_then(|session| {
        session
            .cast::<SessionName>()
            .ok()
            .and_then(|session| session.get().0.upgrade())
    });
    let Some(session) = session else {
        return Err(gears_error(
            "registerGearsThread must be called by a function that a script defines",
        ));
    };
    bind_code(py, Current::of_session(session))
}

fn caller(error: &str) -> PyResult<Arc<dyn Caller>> {
    current()
        .and_then(|current| current.caller)
        .ok_or_else(|| gears_error(error))
}

/// call_next(*args): inside a command hook, runs the next hook on the same command, or the command
/// itself, with these arguments. Its reply as `execute` gives it.
#[pyfunction]
#[pyo3(signature = (*args), name = "callNext")]
fn call_next<'py>(py: Python<'py>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let caller = caller("Can not get CommandHook ctx")?;
    let session = current_session().ok_or_else(|| gears_error("Can not get CommandHook ctx"))?;
    let mut command = Command::default();
    for arg in args {
        object::push_argument(&mut command, &arg)?;
    }
    let reply = py.detach(|| caller.call_next(&session.user, &command));
    object::reply(py, reply.map_err(gears_error)?)
}

/// get_command(): the command that a KeysReader function with `commands` reacts to, as a list.
#[pyfunction(name = "getCommand")]
fn get_command(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    const NO_COMMAND: &str = "Can not get command ctx";
    let caller = caller(NO_COMMAND)?;
    let words = caller.command().ok_or_else(|| gears_error(NO_COMMAND))?;
    let list = PyList::empty(py);
    for word in words {
        list.append(object::text(py, word))?;
    }
    Ok(list.into_any())
}

/// override_reply(value): what the client gets instead of the reply of its command.
#[pyfunction]
#[pyo3(signature = (*args), name = "overrideReply")]
fn override_reply(args: &Bound<'_, PyTuple>) -> PyResult<()> {
    let caller = caller("Can not get command ctx")?;
    if args.len() != 1 {
        return Err(gears_error("Override reply must get a single argument"));
    }
    let mut reply = Results::default();
    object::emit(&args.get_item(0)?, &mut reply)?;
    caller.override_reply(reply).map_err(gears_error)
}

/// registerTE(seconds, callback[, key]): calls the callback every so many seconds on this shard. A
/// key given for it holds it: it lives as long as the key. False if the key exists already.
#[pyfunction]
#[pyo3(signature = (*args), name = "registerTimeEvent")]
fn register_time_event(py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<bool> {
    let session = current_session()
        .ok_or_else(|| gears_error("can not create time event on a python created thread"))?;
    if args.len() < 2 || args.len() > 3 {
        return Err(gears_error("not enough arguments for time event"));
    }
    let (seconds, callback) = (args.get_item(0)?, args.get_item(1)?);
    let Ok(callback) = callback.cast_into::<PyFunction>() else {
        return Err(gears_error("callback must be a function"));
    };
    if !seconds.is_instance_of::<PyInt>() {
        return Err(gears_error("time argument must be a long"));
    }
    let Some(seconds) = seconds.extract::<u32>().ok().filter(|&seconds| seconds > 0) else {
        return Err(gears_error(
            "time argument must be a long, of seconds, greater than 0",
        ));
    };
    let callback = Arc::new(Function::new(&callback)?);
    let key = match args.get_item(2) {
        Err(_) => None,
        Ok(key) => match key.cast::<PyString>() {
            Ok(key) => Some(key.to_str()?.as_bytes().to_vec()),
            Err(_) => return Err(gears_error("key argument must be a string")),
        },
    };
    let shipped = match key {
        Some(_) => Some(shipping::ship(py, &callback, &session)?),
        None => None,
    };
    let event = TimeEvent {
        session,
        seconds: seconds.into(),
        callback,
        shipped,
        key,
    };
    py.detach(|| world().registrar.every(event))
        .map_err(gears_error)
}

/// _saveGlobals(): RedisGears called it once for itself.
#[pyfunction]
#[pyo3(signature = (*_args, **_kargs), name = "_saveGlobals")]
fn save_globals(_args: &Bound<'_, PyTuple>, _kargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    Err(gears_error(
        "_saveGlobals was internal to RedisGears: there is nothing for it to do here",
    ))
}

/// A place where text that a script prints goes: the server's log, line by line.
#[pyclass(name = "LogStream", module = "redisgears")]
pub(super) struct LogStream {
    level: LogLevel,
    line: String,
}

impl LogStream {
    pub(super) fn new(level: LogLevel) -> Self {
        Self {
            level,
            line: String::new(),
        }
    }
}

/// A line longer than this is written in pieces: the server cuts longer ones.
const LONGEST_LINE: usize = 900;

#[pymethods]
impl LogStream {
    fn write(&mut self, text: &Bound<'_, PyString>) -> PyResult<usize> {
        let printed = lossy(text);
        let mut lines = printed.split('\n');
        // What follows the last line end is the beginning of the next line.
        let rest = lines.next_back().unwrap_or_default();
        for line in lines {
            self.line.push_str(line);
            self.flush();
        }
        self.line.push_str(rest);
        if self.line.len() > LONGEST_LINE {
            self.flush();
        }
        text.len()
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.trim_end();
        while !line.is_empty() {
            let mut end = line.len().min(LONGEST_LINE);
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            let (head, tail) = line.split_at(end);
            world().environment.log(self.level, head);
            line = tail;
        }
    }

    fn writelines(&mut self, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(line?.cast::<PyString>()?)?;
        }
        Ok(())
    }

    fn isatty(&self) -> bool {
        false
    }

    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }
}

/// The functions of RedisGears 1.x under the names that packages import.
#[pymodule]
pub(super) mod redisgears {
    #[pymodule_export]
    use super::{
        Atomic, Builder, Future, Keeper, SessionHandle, Work, atomic, call_next, config_get,
        execute, flat_error, gears_ctx, gears_future, get_command, get_gears_session, hash_tag,
        is_async_allow, is_in_atomic_block, log, override_reply, own_loop, register_gears_thread,
        register_time_event, save_globals, set_gears_session, shard_id,
    };

    use super::{FlatError, ForceStopped, GearsError};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("PyFuture", py.get_type::<super::Future>())?;
        module.add("GearsError", py.get_type::<GearsError>())?;
        module.add("GearsForceStopped", py.get_type::<ForceStopped>())?;
        module.add("GearsFlatError", py.get_type::<FlatError>())
    }
}

/// Importable, for scripts that do so without using it.
#[pymodule(name = "redisAI")]
pub(super) mod redis_ai {
    use pyo3::prelude::*;

    const SOURCE: &str = include_str!("../../python/prelude/redisai.py");

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let builtins = module.py().import("builtins")?;
        module.setattr("__builtins__", &builtins)?;
        let code = builtins.call_method1("compile", (SOURCE, "<geartrain>", "exec"))?;
        builtins.call_method1("exec", (code, module.dict()))?;
        Ok(())
    }
}
