//! Callbacks as bytes, by the prelude's `shipping` module.

use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFunction, PyModule};

use super::error::{error_text, gears_error, lossy};
use super::function::Function;
use super::interpreter::prototype;
use super::language::{Cpython, Generator};
use super::requirements::{load_own_cloudpickle, prefer, shown};
use super::session::{Needs, Session};
use crate::engine::wire::{
    PlanWire, RegistrationWire, RunWire, SessionWire, Shipped, SourceWire, WhatWire,
};
use crate::engine::{Id, Launch, Limits, Parts, Plan, Registration, Source};

const SOURCE: &str = include_str!("../../python/prelude/shipping.py");
/// Where functions of the module are found again when a callback arrives.
const MODULE_NAME: &str = "_geartrain_shipping";

static MODULE: OnceLock<Py<PyModule>> = OnceLock::new();

/// The module, loaded at its first use: a server that registers nothing needs no cloudpickle.
fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    if let Some(module) = MODULE.get() {
        return Ok(module.bind(py));
    }
    load_own_cloudpickle(py).map_err(|error| {
        gears_error(format!(
            "registering functions, and running them on several shards, needs the Python package \
             cloudpickle, which can not be imported: {}. Install it for the Python of the server, as by: apt-get install \
             python3-cloudpickle",
            error.value(py)
        ))
    })?;
    let module = PyModule::new(py, MODULE_NAME)?;
    let builtins = py.import("builtins")?;
    module.setattr("__builtins__", &builtins)?;
    let code = builtins.call_method1("compile", (SOURCE, "<geartrain>", "exec"))?;
    builtins.call_method1("exec", (code, module.dict()))?;
    // Another thread may have been as quick: all use the first one, and only when it is whole.
    let modules = py.import("sys")?.getattr("modules")?;
    let module = modules.call_method1("setdefault", (MODULE_NAME, module))?;
    let module = module.cast_into::<PyModule>()?;
    Ok(MODULE.get_or_init(|| module.unbind()).bind(py))
}

/// The language of shipped callbacks with its version: only the same one may open them.
pub(super) fn language_of(py: Python<'_>) -> String {
    let version = py.version_info();
    format!("python {}.{}", version.major, version.minor)
}

/// The same.
pub(crate) fn language() -> String {
    Python::attach(language_of)
}

/// What another shard needs to run a plan.
pub(super) fn ship_run(
    py: Python<'_>,
    plan: &Plan<Cpython>,
    source: &Source<Cpython>,
    session: &Session,
) -> PyResult<RunWire> {
    let source = match source {
        Source::Server(spec) => SourceWire::Server(spec.clone()),
        Source::Generator(Generator::Callable(callable)) => {
            let callable = callable.bind(py).cast::<PyFunction>()?;
            SourceWire::Callback(ship(py, &Function::new(callable)?, session)?)
        }
        _ => SourceWire::Nothing,
    };
    Ok(RunWire {
        what: WhatWire::Plan {
            plan: Box::new(ship_plan(py, plan, session)?),
            session: session.run_wire(py),
        },
        source,
    })
}

/// A plan as it travels.
pub(super) fn ship_plan(
    py: Python<'_>,
    plan: &Plan<Cpython>,
    session: &Session,
) -> PyResult<PlanWire> {
    let steps = plan
        .steps
        .iter()
        .map(|step| step.try_map(|f| ship(py, f, session)));
    Ok(PlanWire {
        reader: plan.reader.clone(),
        description: plan.description.clone(),
        steps: steps.collect::<PyResult<_>>()?,
    })
}

fn names<'py>(py: Python<'py>, session: &Session) -> PyResult<Bound<'py, PyDict>> {
    session
        .globals(py)
        .ok_or_else(|| gears_error("the session is gone"))
}

/// Any value as bytes, as callbacks travel.
pub(super) fn ship_value<'py>(
    py: Python<'py>,
    value: &Bound<'py, PyAny>,
    session: &Session,
) -> PyResult<Bound<'py, PyBytes>> {
    let arguments = (value, names(py, session)?, prototype(py)?);
    let shipped = module(py)?.getattr("ship")?.call1(arguments)?;
    Ok(shipped.cast_into::<PyBytes>()?)
}

/// What [`ship_value`] made.
pub(super) fn receive_value<'py>(
    py: Python<'py>,
    shipped: &Bound<'py, PyBytes>,
    session: &Session,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = (shipped, names(py, session)?, prototype(py)?);
    module(py)?.getattr("receive")?.call1(arguments)
}

/// A callback as bytes.
pub(super) fn ship(py: Python<'_>, f: &Function, session: &Session) -> PyResult<Shipped> {
    let callable = f.callable(py);
    match ship_value(py, callable, session) {
        Ok(bytes) => Ok(Shipped::from(bytes.as_bytes().to_vec())),
        Err(error) => {
            let name = callable.getattr("__name__").and_then(|name| name.str());
            let name = name.map(|name| lossy(&name)).unwrap_or_default();
            Err(gears_error(format!(
                "Error occured when serialized a python callback, callback={name} error={}",
                error_text(py, &error)
            )))
        }
    }
}

/// A callback from bytes.
fn receive(py: Python<'_>, shipped: &[u8], session: &Session) -> PyResult<Arc<Function>> {
    let made = receive_value(py, &PyBytes::new(py, shipped), session)?;
    match made.cast::<PyFunction>() {
        Ok(function) => Ok(Arc::new(Function::new(function)?)),
        Err(_) => Err(PyTypeError::new_err("what was shipped is no function")),
    }
}

/// A callback that was shipped alone. The error says why it can not be opened.
pub(crate) fn receive_function(
    shipped: &[u8],
    session: &Session,
    shipped_in: &str,
) -> Result<Arc<Function>, String> {
    Python::attach(|py| {
        let here = language_of(py);
        if shipped_in != here {
            return Err(format!(
                "it is of {shipped_in}, and this server runs {here}"
            ));
        }
        receive(py, shipped, session).map_err(|error| error_text(py, &error))
    })
}

/// What another shard wants run, in a session of this one. The error says why it can not.
pub(crate) fn receive_run(
    plan: &PlanWire,
    source: &SourceWire,
    session: &Arc<Session>,
    shipped_in: &str,
) -> Result<Launch<Cpython>, String> {
    Python::attach(|py| {
        let here = language_of(py);
        if shipped_in != here {
            return Err(format!(
                "its callbacks are of {shipped_in}, and this shard runs {here}"
            ));
        }
        let source = match source {
            SourceWire::Callback(shipped) => receive(py, shipped, session).map(|function| {
                let callable = function.callable(py).clone();
                Source::Generator(Generator::Callable(callable.unbind()))
            }),
            other => Ok(other.source().ok_or("its records are damaged")?),
        };
        let launch = source.and_then(|source| {
            let plan = receive_plan(py, plan, session)?;
            Ok(Launch::of_plan(plan, source))
        });
        launch.map_err(|error| {
            format!(
                "Error occured when deserialized a python callback, error={}",
                error_text(py, &error)
            )
        })
    })
}

fn receive_plan(
    py: Python<'_>,
    wire: &PlanWire,
    session: &Arc<Session>,
) -> PyResult<Plan<Cpython>> {
    let receive = |shipped: &Shipped| receive(py, shipped, session);
    let steps = wire.steps.iter().map(|step| step.try_map(receive));
    Ok(Plan::new(
        wire.reader.clone(),
        wire.description.clone(),
        steps.collect::<PyResult<_>>()?,
        Arc::new(session.clone()),
    ))
}

/// A session that was shipped, with its requirements here; not linked to anything yet.
pub(crate) fn receive_session(wire: &SessionWire, needs: Needs) -> Result<Arc<Session>, String> {
    Python::attach(|py| {
        let session = Session::open(
            py,
            wire.id.clone(),
            wire.description.clone(),
            wire.user.clone(),
            wire.source.to_vec(),
            wire.instance.clone(),
            needs,
        );
        session.map_err(|error| error_text(py, &error))
    })
}

/// A registration that was shipped. One whose callbacks can not be opened here is made as well: it
/// says why it can not run, and is kept as it came.
pub(crate) fn receive_registration(
    wire: &RegistrationWire,
    id: Id,
    session: &Arc<Session>,
    shipped_in: &str,
    limits: Arc<Limits>,
) -> Arc<Registration<Cpython>> {
    Python::attach(|py| {
        let here = language_of(py);
        let parts = if let Some(missing) = session.missing() {
            let name = shown(missing.name());
            let why = format!("its requirement {name} is not installed, the log has more");
            Err(why_broken(wire, session, &why))
        } else if shipped_in == here {
            // What it imports comes from there, whatever others needed since.
            prefer(session.requirements());
            receive_parts(py, wire, id, session).map_err(|error| {
                let why = format!(
                    "Error occured when deserialized a python callback, error={}",
                    error_text(py, &error)
                );
                why_broken(wire, session, &why)
            })
        } else {
            let why = format!("its callbacks are of {shipped_in}, and this server runs {here}");
            Err(why_broken(wire, session, &why))
        };
        let parts = parts.unwrap_or_else(|broken| {
            let plan = Plan::new(
                wire.plan.reader.clone(),
                wire.plan.description.clone(),
                Vec::new(),
                Arc::new(session.clone()),
            );
            Parts {
                id,
                plan: Arc::new(plan),
                trigger: wire.trigger.clone(),
                mode: wire.mode,
                broken: Some(broken),
                on_registered: None,
                on_unregistered: None,
            }
        });
        Registration::new(parts, limits)
    })
}

fn why_broken(wire: &RegistrationWire, session: &Session, why: &str) -> String {
    format!(
        "registration {} of session {} can not run: {why}. Send its script again, with UPGRADE; \
         RG.PYSESSIONSOURCE {} returns it",
        wire.id, session.id, session.id
    )
}

fn receive_parts(
    py: Python<'_>,
    wire: &RegistrationWire,
    id: Id,
    session: &Arc<Session>,
) -> PyResult<Parts<Cpython>> {
    let receive = |shipped: &Shipped| receive(py, shipped, session);
    let plan = receive_plan(py, &wire.plan, session)?;
    Ok(Parts {
        id,
        plan: Arc::new(plan),
        trigger: wire.trigger.clone(),
        mode: wire.mode,
        broken: None,
        on_registered: wire.on_registered.as_ref().map(receive).transpose()?,
        on_unregistered: wire.on_unregistered.as_ref().map(receive).transpose()?,
    })
}
