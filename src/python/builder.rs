//! The function builder that Python calls: `PyFlatExecution`, behind every GearsBuilder.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyInt, PyList, PyString, PyTuple};

use super::error::gears_error;
use super::function::Function;
use super::interpreter::world;
use super::language::{Cpython, Generator};
use super::options::Options;
use super::register::register;
use super::session::{Session, current};
use super::shipping;
use crate::engine::{
    Caller, KeysRange, Launch, Mode, PlanBuilder, ReaderSpec, Source, Step, Taker,
};

const READERS: [&str; 5] = [
    "KeysReader",
    "StreamReader",
    "PythonReader",
    "CommandReader",
    "ShardIDReader",
];

/// A plan in the making.
#[pyclass(name = "PyFlatExecution", module = "redisgears", frozen)]
pub(super) struct Builder {
    plan: Mutex<PlanBuilder<Cpython>>,
    /// Called with the results and errors of its run.
    when_done: Mutex<Option<Py<PyAny>>>,
}

/// `gearsCtx(reader='KeysReader', desc=None)`: a new builder.
#[pyfunction]
#[pyo3(signature = (*args), name = "gearsCtx")]
pub(super) fn gears_ctx(args: &Bound<'_, PyTuple>) -> PyResult<Builder> {
    match current() {
        None => {
            return Err(gears_error(
                "Can only create a gearsCtx on registered gears thread",
            ));
        }
        Some(current) if current.hidden => {
            return Err(gears_error(
                "Can not create a gearsCtx on a python created thread",
            ));
        }
        Some(_) => {}
    }
    if args.len() > 2 {
        return Err(gears_error("gearsCtx takes a reader and a description"));
    }
    let mut args = args.iter();
    let reader = match args.next() {
        None => "KeysReader".to_owned(),
        Some(reader) => match reader.cast::<PyString>() {
            Ok(reader) => reader.to_str()?.to_owned(),
            Err(_) => return Err(gears_error("reader argument must be a string")),
        },
    };
    let desc = args.next().filter(|desc| !desc.is_none());
    let desc = match desc {
        None => None,
        Some(desc) => match desc.cast::<PyString>() {
            Ok(desc) => Some(desc.to_str()?.to_owned()),
            Err(_) => return Err(gears_error("desc argument must be a string")),
        },
    };
    if !READERS.contains(&reader.as_str()) {
        return Err(gears_error("The given reader does not exists"));
    }
    // Every builder takes an id, as in RedisGears 1.x: the first registration has number 1.
    world().registrar.next_id();
    Ok(Builder {
        plan: Mutex::new(PlanBuilder::new(reader, desc)),
        when_done: Mutex::default(),
    })
}

fn function(value: &Bound<'_, PyAny>, what: &str) -> PyResult<Arc<Function>> {
    match value.cast::<PyFunction>() {
        Ok(function) => Ok(Arc::new(Function::new(function)?)),
        Err(_) => Err(gears_error(format!("{what} argument must be a function"))),
    }
}

fn arity(step: &str) -> PyErr {
    gears_error(format!("wrong number of args to {step} function"))
}

/// The one callback of a step.
fn callback(args: &Bound<'_, PyTuple>, step: &str) -> PyResult<Arc<Function>> {
    if args.len() != 1 {
        return Err(arity(step));
    }
    function(&args.get_item(0)?, step)
}

/// Extractor and reducer of a step.
fn callbacks(
    args: &Bound<'_, PyTuple>,
    step: &str,
    shown: &str,
) -> PyResult<(Arc<Function>, Arc<Function>)> {
    if args.len() != 2 {
        return Err(arity(step));
    }
    let extract = function(&args.get_item(0)?, &format!("{shown} extractor"))?;
    let reduce = function(&args.get_item(1)?, &format!("{shown} reducer"))?;
    Ok((extract, reduce))
}

fn amount(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if !value.is_instance_of::<PyInt>() {
        return Err(gears_error("limit argument must be a number"));
    }
    if value.lt(0)? {
        return Err(gears_error("limit argument must not be negative"));
    }
    // More than there can be records means no limit.
    Ok(value.extract().unwrap_or(u64::MAX))
}

impl Builder {
    fn plan(&self) -> MutexGuard<'_, PlanBuilder<Cpython>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, step: Step<Arc<Function>>) {
        self.plan().push(step);
    }

    /// Starts a run, on all shards or on this one.
    fn start(&self, py: Python<'_>, source: Source<Cpython>, everywhere: bool) -> PyResult<()> {
        let Some(current) = current() else {
            return Err(gears_error(
                "Can only run execution on registered gears thread",
            ));
        };
        if current
            .script
            .as_ref()
            .is_some_and(|script| script.has_run())
        {
            return Err(gears_error(
                "Can not run more then 1 executions in a single script",
            ));
        }
        // The builder itself knows no session: it may be one of its globals.
        let plan = self.plan().build(Arc::new(current.session.clone()));
        let registry = &world().registry;
        let run = if everywhere && registry.has_shards() {
            let run = shipping::ship_run(py, &plan, &source, &current.session)?;
            Some(run.encode().into())
        } else {
            None
        };
        let mut launch = Launch::of_plan(plan, source);
        launch.everywhere = run;
        let when_done = self.when_done();
        match current.script {
            Some(script) => script.set_run(registry.create(launch), when_done),
            // Inside a callback: it runs at once, and nobody will ask for it by its id.
            None => {
                let inside = Inside::begin()?;
                launch.taker = when_done.map(taker);
                let execution = registry.create(launch);
                execution.when_done(Box::new(move |_| drop(inside)));
                registry.start(&execution, false);
            }
        }
        Ok(())
    }

    fn when_done(&self) -> Option<Py<PyAny>> {
        let mut when_done = self
            .when_done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        when_done.take()
    }
}

/// Runs that code inside of others has started, and that have not ended.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Functions that wait for runs of themselves without end would take all memory.
const MOST_INSIDE: usize = 50_000;

/// One of them.
struct Inside;

impl Inside {
    fn begin() -> PyResult<Self> {
        let before = INSIDE.fetch_add(1, Ordering::Relaxed);
        let one = Self;
        if before >= MOST_INSIDE {
            return Err(gears_error(format!(
                "{MOST_INSIDE} runs that functions started have not ended yet: no more can begin"
            )));
        }
        Ok(one)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hands results over to a Python function.
fn taker(when_done: Py<PyAny>) -> Taker<Cpython> {
    Box::new(move |results, errors| {
        Python::attach(|py| {
            let told = PyList::new(py, results)
                .and_then(|results| when_done.call1(py, (results, errors.to_vec())));
            if let Err(error) = told {
                error.write_unraisable(py, None);
            }
        });
    })
}

#[pymethods]
impl Builder {
    /// The next run calls this with its results and errors.
    #[pyo3(name = "_whenDone")]
    fn call_when_done(&self, call: Py<PyAny>) {
        let mut when_done = self
            .when_done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *when_done = Some(call);
    }

    /// map(f): every record becomes f(record).
    #[pyo3(signature = (*args))]
    fn map(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::Map(callback(args, "map")?));
        Ok(())
    }

    /// filter(f): keeps the records for which f(record) is true.
    #[pyo3(signature = (*args))]
    fn filter(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::Filter(callback(args, "filter")?));
        Ok(())
    }

    /// flatmap(f): f(record); a list is passed on element by element, from its end.
    #[pyo3(signature = (*args))]
    fn flatmap(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::FlatMap(callback(args, "flatmap")?));
        Ok(())
    }

    /// foreach(f): calls f(record) and passes the record on.
    #[pyo3(signature = (*args))]
    fn foreach(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::ForEach(callback(args, "foreach")?));
        Ok(())
    }

    /// accumulate(f): f(accumulator, record), from None; one record at the end, if there was any.
    #[pyo3(signature = (*args))]
    fn accumulate(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::Accumulate(callback(args, "accumulate")?));
        Ok(())
    }

    /// repartition(extractor): moves every record to the shard that owns the key extractor(record).
    #[pyo3(signature = (*args))]
    fn repartition(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.push(Step::Repartition(callback(args, "repartition")?));
        Ok(())
    }

    /// groupby(extractor, reducer): reducer(key, accumulator, record) by key, over all shards.
    #[pyo3(signature = (*args))]
    fn groupby(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let (extract, f) = callbacks(args, "groupby", "groupby")?;
        self.push(Step::AccumulateByKey {
            extract,
            f,
            repartition: true,
        });
        Ok(())
    }

    /// localgroupby(extractor, reducer): as groupby, on every shard for itself.
    #[pyo3(signature = (*args))]
    fn localgroupby(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let (extract, f) = callbacks(args, "groupby", "groupby")?;
        self.push(Step::AccumulateByKey {
            extract,
            f,
            repartition: false,
        });
        Ok(())
    }

    /// batchgroupby(extractor, reducer): reducer(key, [records]) by key, over all shards.
    #[pyo3(signature = (*args))]
    fn batchgroupby(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let (extract, f) = callbacks(args, "batchgroupby", "batchgroupby")?;
        self.push(Step::Group { extract, f });
        Ok(())
    }

    /// collect(): brings all records to the shard that was asked.
    #[pyo3(signature = (*args))]
    fn collect(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        if !args.is_empty() {
            return Err(arity("collect"));
        }
        self.push(Step::Collect);
        Ok(())
    }

    /// limit(length, start=0): passes on length records after the first start, on every shard.
    #[pyo3(signature = (*args))]
    fn limit(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        if args.is_empty() || args.len() > 2 {
            return Err(arity("limit"));
        }
        let take = amount(&args.get_item(0)?)?;
        let skip = if args.len() == 2 {
            amount(&args.get_item(1)?)?
        } else {
            0
        };
        self.push(Step::Limit { skip, take });
        Ok(())
    }

    /// run(arg, **kargs): runs the function as it stands.
    #[pyo3(signature = (arg=None, **kargs))]
    fn run(
        &self,
        py: Python<'_>,
        arg: Option<&Bound<'_, PyAny>>,
        kargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let options = Options(kargs);
        let mode = options.mode()?.unwrap_or(Mode::Async);
        if mode == Mode::Sync {
            return Err(gears_error("unknown execution mode"));
        }
        let reader = self.plan().reader().to_owned();
        let source = match reader.as_str() {
            "KeysReader" => Source::Server(keys(arg, &options)?),
            "StreamReader" => Source::Server(stream(arg, &options)?),
            "PythonReader" => Source::Generator(generator(arg)?),
            _ => return Err(gears_error("Given reader do not support run or not exists")),
        };
        self.start(py, source, mode == Mode::Async)
    }

    /// The names of keys, for KeysOnlyReader.
    #[pyo3(name = "_runKeyNames")]
    fn run_key_names(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        let pattern = pattern.as_bytes().to_vec();
        self.start(py, Source::Server(ReaderSpec::KeyNames { pattern }), true)
    }

    /// register(prefix='*', **kargs): registers the function as it stands; the id.
    #[pyo3(signature = (*args, **kargs))]
    fn register(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        if args.len() > 1 {
            return Err(gears_error(
                "register takes a prefix, and all else by its name",
            ));
        }
        let Some(current) = current() else {
            return Err(gears_error(
                "Can only register execution on registered gears thread",
            ));
        };
        let plan = self.plan().build(Arc::new(current.session.clone()));
        register(py, &current, plan, args.iter().next().as_ref(), kargs)
    }
}

fn string(value: Option<&Bound<'_, PyAny>>, error: &str) -> PyResult<Vec<u8>> {
    let text = value.and_then(|value| value.cast::<PyString>().ok());
    match text {
        Some(text) => Ok(text.to_str()?.as_bytes().to_vec()),
        None => Err(gears_error(error)),
    }
}

fn keys(arg: Option<&Bound<'_, PyAny>>, options: &Options<'_, '_>) -> PyResult<ReaderSpec> {
    let name = string(arg, "regex argument must be a string")?;
    let exact = options.flag("noScan", false, "exactMatch value is not boolean")?;
    Ok(ReaderSpec::Keys {
        range: if exact {
            KeysRange::Exact(name)
        } else {
            KeysRange::Pattern(name)
        },
        read_value: options.flag("readValue", true, "readValue value is not boolean")?,
        all_values: options.flag("allValues", false, "allValues value is not boolean")?,
    })
}

fn stream(arg: Option<&Bound<'_, PyAny>>, options: &Options<'_, '_>) -> PyResult<ReaderSpec> {
    let key = string(arg, "regex argument must be a string")?;
    let after = match options.get("fromId")? {
        None => b"0-0".to_vec(),
        Some(id) => string(Some(&id), "fromId argument must be a string")?,
    };
    Ok(ReaderSpec::Stream { key, after })
}

fn generator(arg: Option<&Bound<'_, PyAny>>) -> PyResult<Generator> {
    let Some(arg) = arg else {
        return Err(gears_error("python reader function is not given"));
    };
    if !arg.is_instance_of::<PyFunction>() {
        return Err(gears_error("pyreader argument must be a function"));
    }
    Ok(Generator::Callable(arg.clone().unbind()))
}

/// An opaque session, as `getGearsSession` gives it, with the command that was answered then.
#[pyclass(name = "PyExecutionSession", module = "redisgears", frozen)]
pub(super) struct SessionHandle {
    pub(super) session: Arc<Session>,
    pub(super) caller: Option<Arc<dyn Caller>>,
    /// Bound to a coroutine that does not show it.
    pub(super) hidden: bool,
}

impl SessionHandle {
    /// A handle, which listings count.
    pub(super) fn new(
        session: Arc<Session>,
        caller: Option<Arc<dyn Caller>>,
        hidden: bool,
    ) -> Self {
        session.handles.fetch_add(1, Ordering::Relaxed);
        Self {
            session,
            caller,
            hidden,
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.session.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

#[pymethods]
impl SessionHandle {
    fn __repr__(&self) -> String {
        format!("<gears session {}>", self.session)
    }
}

/// The session of a script, in its globals. Does not keep it alive.
#[pyclass(name = "_SessionName", module = "redisgears", frozen)]
pub(super) struct SessionName(pub(super) Weak<Session>);
