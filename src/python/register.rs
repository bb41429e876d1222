//! `register`: its arguments, and what a script registers.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFunction, PyInt, PyIterator, PyString};

use super::error::gears_error;
use super::function::Function;
use super::interpreter::world;
use super::language::Cpython;
use super::options::Options;
use super::session::{Current, Session};
use super::shipping;
use crate::engine::wire::RegistrationWire;
use crate::engine::{
    Change, CommandTrigger, Joining, KeyType, KeysTrigger, LogLevel, Mode, OnFailed, Parts, Plan,
    Registration, StreamTrigger, Trigger,
};

/// Keyword arguments that every reader takes.
const COMMON: [&str; 5] = ["mode", "prefix", "onRegistered", "onUnregistered", "regex"];
const OF_KEYS: &[&str] = &[
    "eventTypes",
    "keyTypes",
    "readValue",
    "allValues",
    "commands",
    "noScan",
];
const OF_STREAM: &[&str] = &[
    "batch",
    "duration",
    "onFailedPolicy",
    "onFailedRetryInterval",
    "trimStream",
    "startId",
];
const OF_COMMAND: &[&str] = &["trigger", "hook", "keyprefix", "inorder"];

/// Types that `keyTypes` may name.
const KEY_TYPES: [KeyType; 8] = [
    KeyType::Empty,
    KeyType::String,
    KeyType::List,
    KeyType::Hash,
    KeyType::Set,
    KeyType::Zset,
    KeyType::Module,
    KeyType::Stream,
];

/// Registers a plan for the session of this thread; the id.
pub(super) fn register(
    py: Python<'_>,
    current: &Current,
    plan: Plan<Cpython>,
    prefix: Option<&Bound<'_, PyAny>>,
    kargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<String> {
    let options = Options(kargs);
    let mode = options.mode()?.unwrap_or(Mode::Async);
    let (trigger, known) = match plan.reader.as_str() {
        "KeysReader" => (keys(prefix, &options)?, OF_KEYS),
        "StreamReader" => (stream(prefix, &options, mode)?, OF_STREAM),
        "CommandReader" => (command(&options)?, OF_COMMAND),
        _ => {
            return Err(gears_error(
                "given reader does not exists or does not support register",
            ));
        }
    };
    let on_registered = options.function("onRegistered", "OnRegistered")?;
    let on_unregistered = options.function("onUnregistered", "OnUnregistered")?;
    warn_of_unknown(&options, known, &plan.reader)?;
    let registrar = &world().registrar;
    let id = registrar.next_id();
    let session = &current.session;
    let wire = RegistrationWire {
        id: id.to_string(),
        session: session.id.clone(),
        plan: shipping::ship_plan(py, &plan, session)?,
        trigger: trigger.clone(),
        mode,
        on_registered: ship_one(py, on_registered.as_deref(), session)?,
        on_unregistered: ship_one(py, on_unregistered.as_deref(), session)?,
    };
    let parts = Parts {
        id,
        plan: Arc::new(plan),
        trigger,
        mode,
        broken: None,
        on_registered,
        on_unregistered,
    };
    let limits = world().registry.limits().clone();
    let joining = Joining {
        registration: Registration::new(parts, limits),
        wire,
    };
    match &current.script {
        Some(script) => {
            let mut change = script.change(session);
            change.add.push(joining);
            // It may have to ask the server.
            let verified = py.detach(|| registrar.verify(&change));
            if verified.is_err() {
                change.add.pop();
            }
            script.set_change(change);
            verified.map_err(gears_error)?;
        }
        None => {
            let change = Change {
                session: session.clone(),
                replaces: None,
                add: vec![joining],
            };
            py.detach(|| registrar.apply(change)).map_err(gears_error)?;
        }
    }
    Ok(id.to_string())
}

fn ship_one(
    py: Python<'_>,
    f: Option<&Function>,
    session: &Session,
) -> PyResult<Option<crate::engine::wire::Shipped>> {
    f.map(|f| shipping::ship(py, f, session)).transpose()
}

fn warn_of_unknown(options: &Options<'_, '_>, known: &[&str], reader: &str) -> PyResult<()> {
    let mut unknown = Vec::new();
    for name in options.names()? {
        if !COMMON.contains(&name.as_str()) && !known.contains(&name.as_str()) {
            unknown.push(name);
        }
    }
    let environment = &world().environment;
    if !unknown.is_empty() {
        let message = format!(
            "register of a {reader} was given arguments that it does not know and ignores: {}",
            unknown.join(", ")
        );
        environment.log(LogLevel::Warning, &message);
    }
    if options.get("regex")?.is_some() {
        let message = "the argument regex of register is deprecated, use prefix";
        environment.log(LogLevel::Warning, message);
    }
    Ok(())
}

/// What stands first, by either of its names or by none.
fn prefix(given: Option<&Bound<'_, PyAny>>, options: &Options<'_, '_>) -> PyResult<String> {
    let (regex, named) = (options.get("regex")?, options.get("prefix")?);
    match regex.as_ref().or(given).or(named.as_ref()) {
        None => Ok("*".to_owned()),
        Some(prefix) => text(prefix, "regex argument must be a string"),
    }
}

fn text(value: &Bound<'_, PyAny>, error: &str) -> PyResult<String> {
    match value.cast::<PyString>() {
        Ok(text) => Ok(text.to_str()?.to_owned()),
        Err(_) => Err(gears_error(error)),
    }
}

/// The elements of an iterable of strings; `None` where the argument was not given.
fn texts(
    options: &Options<'_, '_>,
    name: &str,
    not_iterable: &str,
    not_text: &str,
) -> PyResult<Option<Vec<String>>> {
    let Some(value) = options.get(name)?.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    let Ok(items) = PyIterator::from_object(&value) else {
        return Err(gears_error(not_iterable));
    };
    let texts = items.map(|item| text(&item?, not_text));
    texts.collect::<PyResult<Vec<_>>>().map(Some)
}

fn keys(given: Option<&Bound<'_, PyAny>>, options: &Options<'_, '_>) -> PyResult<Trigger> {
    let prefix = prefix(given, options)?;
    let event_types = texts(
        options,
        "eventTypes",
        "given eventTypes is not iterable",
        "given event type is not string",
    )?;
    let key_types = texts(
        options,
        "keyTypes",
        "given keyTypes is not iterable",
        "given key type is not string",
    )?;
    let known = |name: &String| KEY_TYPES.iter().any(|kind| kind.name() == name);
    if key_types.iter().flatten().any(|name| !known(name)) {
        return Err(gears_error("unknown key type"));
    }
    let commands = texts(
        options,
        "commands",
        "given commands is not iterable",
        "given command type is not string",
    )?;
    Ok(Trigger::Keys(KeysTrigger {
        prefix,
        event_types,
        key_types,
        read_value: options.flag("readValue", true, "readValue is not boolean")?,
        all_values: options.flag("allValues", false, "allValues is not boolean")?,
        // An empty list hooks nothing.
        commands: commands.filter(|commands| !commands.is_empty()),
    }))
}

fn number(options: &Options<'_, '_>, name: &str, called: &str, default: u64) -> PyResult<u64> {
    let Some(value) = options.get(name)? else {
        return Ok(default);
    };
    let wrong = || gears_error(format!("{called} argument must be a number"));
    if !value.is_instance_of::<PyInt>() {
        return Err(wrong());
    }
    if value.lt(0)? {
        let text = format!("{called} argument must be a number that is not negative");
        return Err(gears_error(text));
    }
    // Bounded, so that no sum of times overflows.
    let number: u64 = value
        .extract()
        .map_err(|_| gears_error(format!("{called} argument must be a number below 2**40")))?;
    if number >= 1 << 40 {
        let text = format!("{called} argument must be a number below 2**40");
        return Err(gears_error(text));
    }
    Ok(number)
}

fn stream(
    given: Option<&Bound<'_, PyAny>>,
    options: &Options<'_, '_>,
    mode: Mode,
) -> PyResult<Trigger> {
    let prefix = prefix(given, options)?;
    let batch = number(options, "batch", "batch", 1)?;
    if batch == 0 {
        return Err(gears_error(
            "batch argument must be a number greater than 0",
        ));
    }
    let duration = number(options, "duration", "duration", 0)?;
    let on_failed = match options.get("onFailedPolicy")? {
        None => OnFailed::Continue,
        Some(policy) => {
            let not_text = "onFailedPolicy must be a string (Continue/Abort/Retry)";
            match text(&policy, not_text)?.to_lowercase().as_str() {
                "continue" => OnFailed::Continue,
                "abort" => OnFailed::Abort,
                "retry" => OnFailed::Retry,
                _ => return Err(gears_error("onFailedPolicy must be Continue/Abort/Retry")),
            }
        }
    };
    if mode == Mode::Sync && on_failed != OnFailed::Continue {
        return Err(gears_error(
            "ExecutionMode sync can only be combined with OnFailedPolicy Continue",
        ));
    }
    let start = match options.get("startId")? {
        None => "0-0".to_owned(),
        Some(start) => {
            let start = text(&start, "startId argument must be a string")?;
            if start != "$" && !is_entry_id(&start) {
                return Err(gears_error(
                    "startId argument must be the id of an entry, such as 0-0, or $ for new \
                     entries only",
                ));
            }
            start
        }
    };
    Ok(Trigger::Stream(StreamTrigger {
        prefix,
        batch,
        duration,
        trim: options.flag(
            "trimStream",
            true,
            "pyTrimmStream argument must be a boolean",
        )?,
        on_failed,
        retry_interval: number(options, "onFailedRetryInterval", "retryInterval", 1)?,
        start,
        group: String::new(),
    }))
}

fn is_entry_id(text: &str) -> bool {
    let digits = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && part.parse::<u64>().is_ok()
    };
    match text.split_once('-') {
        Some((ms, seq)) => digits(ms) && digits(seq),
        None => digits(text),
    }
}

fn command(options: &Options<'_, '_>) -> PyResult<Trigger> {
    let argument = |name: &str| match options.get(name)?.filter(|value| !value.is_none()) {
        None => Ok(None),
        Some(value) => text(&value, &format!("{name} argument is not string")).map(Some),
    };
    let (trigger, hook) = (argument("trigger")?, argument("hook")?);
    let key_prefix = argument("keyprefix")?;
    let in_order = match options.get("inorder")? {
        None => false,
        Some(value) => match value.cast::<PyBool>() {
            Ok(flag) => flag.is_true(),
            Err(_) => return Err(gears_error("inorder argument is be boolean")),
        },
    };
    let what = match (trigger, hook) {
        (Some(_), hook) if hook.is_some() || key_prefix.is_some() => {
            return Err(gears_error(
                "trigger argument can not be given with keyprefix or hook",
            ));
        }
        (Some(trigger), _) => CommandTrigger::Named(trigger),
        (None, Some(command)) => CommandTrigger::Hook {
            command,
            key_prefix,
        },
        (None, None) => return Err(gears_error("no trigger or hook argument was given")),
    };
    Ok(Trigger::Command { what, in_order })
}

impl Options<'_, '_> {
    fn function(&self, name: &str, called: &str) -> PyResult<Option<Arc<Function>>> {
        let Some(value) = self.get(name)?.filter(|value| !value.is_none()) else {
            return Ok(None);
        };
        match value.cast::<PyFunction>() {
            Ok(function) => Ok(Some(Arc::new(Function::new(function)?))),
            Err(_) => Err(gears_error(format!("{called} argument must be a function"))),
        }
    }
}
