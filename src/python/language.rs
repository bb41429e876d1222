//! Python as the engine's language.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList};

use super::error::record_error;
use super::function::Function;
use super::link;
use super::object;
use super::packing;
use super::profile;
use super::promise;
use super::session::{Current, Session, bind};
use super::watch;
use crate::engine::{
    Asked, Behalf, Calls, Groups, Instead, Language, Many, Native, Next, Packed, RecordError,
    Results, Ticket, Values,
};

/// CPython.
pub(crate) struct Cpython;

/// Threads that wait for Python while the server waits for them.
static URGENT: AtomicUsize = AtomicUsize::new(0);

/// Nobody waits for them longer than this: the switch interval is the rule for all others.
const LONGEST_BREATH: Duration = Duration::from_millis(1);

/// Until it is dropped, workers give way between two records.
struct Urgent;

impl Urgent {
    fn new() -> Self {
        URGENT.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        URGENT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A reader that is a Python function.
pub(crate) enum Generator {
    /// Not called yet.
    Callable(Py<PyAny>),
    /// What it returned.
    Iterator(Py<PyIterator>),
    /// Nothing comes any more.
    Ended,
}

/// The elements of a list that flatmap passes on: from its end.
pub(crate) struct FromEnd {
    list: Py<PyList>,
    left: usize,
}

impl Iterator for FromEnd {
    type Item = Py<PyAny>;

    fn next(&mut self) -> Option<Py<PyAny>> {
        self.left = self.left.checked_sub(1)?;
        Python::attach(|py| {
            // A callback may have shortened the list meanwhile.
            let list = self.list.bind(py);
            self.left = self.left.min(list.len().checked_sub(1)?);
            list.get_item(self.left).ok().map(Bound::unbind)
        })
    }
}

impl Language for Cpython {
    type Context = Arc<Session>;
    type Generator = Generator;

    fn attach<R>(
        behalf: &Behalf<'_, Arc<Session>>,
        body: impl for<'a> FnOnce(Python<'a>) -> R,
    ) -> R {
        let session = behalf.context;
        let urgent = matches!(behalf.ticket, Ticket::Watched).then(Urgent::new);
        Python::attach(|py| {
            drop(urgent);
            let before = bind(Some(Current {
                caller: behalf.caller.cloned(),
                ..Current::of_session((**session).clone())
            }));
            let (ticket, watch) = match behalf.ticket {
                Ticket::Number(number) => (Some(number), None),
                Ticket::Watched => {
                    let watch = watch::begin(session);
                    (watch.as_ref().map(watch::Watch::ticket), watch)
                }
            };
            let measured = profile::begin(py, session);
            let section = session.begin(py, ticket);
            let out = body(py);
            drop(watch);
            drop(section);
            drop(measured);
            bind(before);
            out
        })
    }

    fn generate(py: Python<'_>, generator: &mut Generator) -> Next<Py<PyAny>> {
        match generate(py, generator) {
            Ok(Some(record)) => Next::Record(record.unbind()),
            Ok(None) => Next::End,
            Err(error) => Next::Failed(record_error(py, error)),
        }
    }
}

fn generate<'py>(
    py: Python<'py>,
    generator: &mut Generator,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Generator::Callable(callable) = generator {
        let callable = callable.bind(py).clone();
        *generator = Generator::Ended;
        let made = promise::ask_at_once(|| callable.call0(), promise::NO_ASYNC)?;
        if !link::is_generator(&made) {
            return Ok(Some(made));
        }
        *generator = Generator::Iterator(made.try_iter()?.unbind());
    }
    let Generator::Iterator(iterator) = generator else {
        return Ok(None);
    };
    promise::closed(|| iterator.bind(py).clone().next().transpose())
}

impl Values for Cpython {
    type Scope<'a> = Python<'a>;
    type Object = Py<PyAny>;

    #[inline]
    fn breathe(py: Python<'_>) {
        if URGENT.load(Ordering::Relaxed) > 0 {
            py.detach(|| {
                let begin = Instant::now();
                while URGENT.load(Ordering::Relaxed) > 0 && begin.elapsed() < LONGEST_BREATH {
                    std::thread::yield_now();
                }
            });
        }
    }

    fn object(py: Python<'_>, record: &Native<'_>) -> Result<Py<PyAny>, RecordError> {
        object::record(py, record)
            .map(Bound::unbind)
            .map_err(|error| record_error(py, error))
    }

    fn number(py: Python<'_>, number: u64) -> Py<PyAny> {
        match number.into_pyobject(py) {
            Ok(number) => number.into_any().unbind(),
            Err(never) => match never {},
        }
    }

    fn pair(py: Python<'_>, key: Py<PyAny>, value: Py<PyAny>) -> Result<Py<PyAny>, RecordError> {
        let pair = PyDict::new(py);
        let set = pair
            .set_item("key", key)
            .and_then(|()| pair.set_item("value", value));
        set.map_err(|error| record_error(py, error))?;
        Ok(pair.into_any().unbind())
    }

    fn read_key<R>(
        py: Python<'_>,
        key: &Py<PyAny>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, RecordError> {
        packing::read_key(key.bind(py), read).map_err(|error| record_error(py, error))
    }

    fn pack(py: Python<'_>, values: Vec<Py<PyAny>>, pairs: bool) -> Packed {
        packing::pack(py, values, pairs)
    }

    fn unpack(py: Python<'_>, bytes: &[u8]) -> Result<Vec<Py<PyAny>>, RecordError> {
        packing::unpack(py, bytes).map_err(|error| record_error(py, error))
    }

    fn size(py: Python<'_>, value: &Py<PyAny>) -> usize {
        object::size(value.bind(py))
    }

    fn emit(py: Python<'_>, record: Py<PyAny>, results: &mut Results) -> Result<(), RecordError> {
        object::emit(record.bind(py), results).map_err(|error| record_error(py, error))
    }
}

fn is_true(value: &Bound<'_, PyAny>) -> Result<bool, RecordError> {
    value
        .is_truthy()
        .map_err(|error| record_error(value.py(), error))
}

fn several(value: Bound<'_, PyAny>) -> Many<Py<PyAny>, FromEnd> {
    match value.cast_into::<PyList>() {
        Ok(list) => Many::Several(FromEnd {
            left: list.len(),
            list: list.unbind(),
        }),
        Err(other) => Many::One(other.into_inner().unbind()),
    }
}

impl Calls for Cpython {
    type Function = Function;
    type Several = FromEnd;

    #[inline]
    fn map(py: Python<'_>, f: &Function, x: Py<PyAny>) -> Asked<Py<PyAny>, Py<PyAny>> {
        f.call(py, x.bind(py)).map(Bound::unbind)
    }

    #[inline]
    fn test(py: Python<'_>, f: &Function, x: &Py<PyAny>) -> Asked<bool, Py<PyAny>> {
        let answer = f.call(py, x.bind(py))?;
        Ok(is_true(&answer)?)
    }

    fn is_true(py: Python<'_>, value: &Py<PyAny>) -> Result<bool, RecordError> {
        is_true(value.bind(py))
    }

    #[inline]
    fn visit(py: Python<'_>, f: &Function, x: &Py<PyAny>) -> Asked<(), Py<PyAny>> {
        f.call(py, x.bind(py)).map(drop)
    }

    fn expand(
        py: Python<'_>,
        f: &Function,
        x: Py<PyAny>,
    ) -> Asked<Many<Py<PyAny>, FromEnd>, Py<PyAny>> {
        f.call(py, x.bind(py)).map(several)
    }

    fn several(py: Python<'_>, value: Py<PyAny>) -> Many<Py<PyAny>, FromEnd> {
        several(value.into_bound(py))
    }

    #[inline]
    fn accumulate(
        py: Python<'_>,
        f: &Function,
        accumulator: Option<Py<PyAny>>,
        x: Py<PyAny>,
    ) -> Asked<Py<PyAny>, Py<PyAny>> {
        let accumulator = accumulator.map(|accumulator| accumulator.into_bound(py));
        let made = f.accumulate(py, accumulator, x.into_bound(py));
        made.map(Bound::unbind)
    }

    #[inline]
    fn key(py: Python<'_>, f: &Function, x: &Py<PyAny>) -> Result<Py<PyAny>, RecordError> {
        let key = f.key(py, x.bind(py));
        key.map(Bound::unbind)
            .map_err(|error| record_error(py, error))
    }
}

impl Groups for Cpython {
    type Groups = Py<PyDict>;

    fn groups(py: Python<'_>) -> Py<PyDict> {
        PyDict::new(py).unbind()
    }

    #[inline]
    fn fold(
        py: Python<'_>,
        groups: &mut Py<PyDict>,
        f: &Function,
        key: Py<PyAny>,
        x: Py<PyAny>,
    ) -> Result<(), (Instead<Py<PyAny>>, Py<PyAny>)> {
        let (groups, name) = (groups.bind(py), key.bind(py));
        let failed = |error| Instead::Error(record_error(py, error));
        let made = groups
            .get_item(name)
            .map_err(failed)
            .and_then(|accumulator| f.accumulate_by_key(py, name, accumulator, x.into_bound(py)))
            .and_then(|made| groups.set_item(name, made).map_err(failed));
        let Err(instead) = made else { return Ok(()) };
        if let Instead::Error(_) = instead {
            // Fails only if there was none.
            let _ = groups.del_item(name);
        }
        Err((instead, key))
    }

    fn put(
        py: Python<'_>,
        groups: &mut Py<PyDict>,
        key: Py<PyAny>,
        value: Py<PyAny>,
    ) -> Result<(), RecordError> {
        let put = groups.bind(py).set_item(key, value);
        put.map_err(|error| record_error(py, error))
    }

    fn remove(py: Python<'_>, groups: &mut Py<PyDict>, key: Py<PyAny>) {
        // Fails only if there was none.
        let _ = groups.bind(py).del_item(key);
    }

    fn gather(
        py: Python<'_>,
        groups: &mut Py<PyDict>,
        key: Py<PyAny>,
        x: Py<PyAny>,
    ) -> Result<(), RecordError> {
        let groups = groups.bind(py);
        let gather = || match groups.get_item(&key)? {
            Some(list) => list.cast_into::<PyList>().map_err(PyErr::from)?.append(x),
            None => groups.set_item(&key, PyList::new(py, [x])?),
        };
        gather().map_err(|error| record_error(py, error))
    }

    fn reduce(
        py: Python<'_>,
        f: &Function,
        key: &Py<PyAny>,
        records: Py<PyAny>,
    ) -> Result<Py<PyAny>, RecordError> {
        let made = f.reduce(py, key.bind(py), records.into_bound(py));
        made.map(Bound::unbind)
            .map_err(|error| record_error(py, error))
    }

    fn drain(py: Python<'_>, groups: Py<PyDict>) -> Vec<(Py<PyAny>, Py<PyAny>)> {
        groups
            .bind(py)
            .iter()
            .map(|(key, value)| (key.unbind(), value.unbind()))
            .collect()
    }
}
