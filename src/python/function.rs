//! Callbacks: a Python function with what is known of it.

use std::sync::OnceLock;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFunction, PyList, PySet, PyTuple};

use super::error::{lossy, record_error};
use super::interpreter::prelude;
use super::promise::{Otherwise, ask, ask_at_once};
use super::{object, text};
use crate::engine::{Asked, Function as EngineFunction, Hint};

/// A callback of a step.
pub(crate) struct Function {
    callable: Py<PyAny>,
    twin: Twin,
    text: String,
    /// Whether it looks at values: found out when somebody asks.
    looks: OnceLock<bool>,
}

/// What does the same as a callback of the prelude without calling it.
enum Twin {
    /// Nothing: it is called.
    None,
    /// `str(record)`
    Str,
    /// Counts records.
    Count,
    /// A step from a zero.
    Zero {
        zero: Py<PyAny>,
        immutable: bool,
        step: Py<PyAny>,
        twin: StepTwin,
    },
}

/// The same for a step from a zero.
#[derive(Clone, Copy)]
enum StepTwin {
    None,
    CountOne,
    Append,
    Add,
}

impl Function {
    /// A callback. Its description is what `str` says of it.
    pub(super) fn new(callable: &Bound<'_, PyFunction>) -> PyResult<Self> {
        Ok(Self {
            twin: twin(callable.as_any())?,
            text: lossy(&callable.str()?),
            callable: callable.clone().into_any().unbind(),
            looks: OnceLock::new(),
        })
    }

    /// The Python function.
    pub(super) fn callable<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.callable.bind(py)
    }

    /// `f(x)`
    #[inline]
    pub(super) fn call<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> Asked<Bound<'py, PyAny>, Py<PyAny>> {
        match self.twin {
            Twin::Str => text::str(x)
                .map(Bound::into_any)
                .map_err(|error| record_error(py, error).into()),
            _ => ask(py, Otherwise::Counts, || self.callable.bind(py).call1((x,))),
        }
    }

    /// `f(accumulator, x)`
    #[inline]
    pub(super) fn accumulate<'py>(
        &self,
        py: Python<'py>,
        accumulator: Option<Bound<'py, PyAny>>,
        x: Bound<'py, PyAny>,
    ) -> Asked<Bound<'py, PyAny>, Py<PyAny>> {
        ask(py, Otherwise::IsNone, || {
            self.accumulate_by_twin(py, accumulator, x)
        })
    }

    #[inline]
    fn accumulate_by_twin<'py>(
        &self,
        py: Python<'py>,
        accumulator: Option<Bound<'py, PyAny>>,
        x: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Twin::Zero {
            zero,
            immutable,
            step,
            twin,
        } = &self.twin
        {
            let accumulator = or_zero(py, accumulator, zero, *immutable)?;
            match twin {
                StepTwin::Append => {
                    if let Ok(list) = accumulator.cast_exact::<PyList>() {
                        list.append(x)?;
                        return Ok(accumulator);
                    }
                }
                StepTwin::Add => {
                    // What can not be added is tried again in Python: its error tells where.
                    if let Ok(set) = accumulator.cast_exact::<PySet>()
                        && set.add(&x).is_ok()
                    {
                        return Ok(accumulator);
                    }
                }
                StepTwin::CountOne | StepTwin::None => {}
            }
            return step.bind(py).call1((accumulator, x));
        }
        let accumulator = accumulator.unwrap_or_else(|| py.None().into_bound(py));
        self.callable.bind(py).call1((accumulator, x))
    }

    /// `f(key, accumulator, x)`
    #[inline]
    pub(super) fn accumulate_by_key<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        accumulator: Option<Bound<'py, PyAny>>,
        x: Bound<'py, PyAny>,
    ) -> Asked<Bound<'py, PyAny>, Py<PyAny>> {
        ask(py, Otherwise::IsNone, || {
            self.accumulate_by_key_by_twin(py, key, accumulator, x)
        })
    }

    #[inline]
    fn accumulate_by_key_by_twin<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        accumulator: Option<Bound<'py, PyAny>>,
        x: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Twin::Zero {
            zero,
            immutable,
            step,
            twin,
        } = &self.twin
        {
            let accumulator = or_zero(py, accumulator, zero, *immutable)?;
            if matches!(twin, StepTwin::CountOne) {
                return accumulator.add(1);
            }
            return step.bind(py).call1((key, accumulator, x));
        }
        let accumulator = accumulator.unwrap_or_else(|| py.None().into_bound(py));
        self.callable.bind(py).call1((key, accumulator, x))
    }

    /// `f(key, records)`
    pub(super) fn reduce<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        records: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = || self.callable.bind(py).call1((key, records));
        ask_at_once(call, "coroutine are not allow on reduce")
    }

    /// `f(x)`, which names the key of a record.
    #[inline]
    pub(super) fn key<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = || self.callable.bind(py).call1((x,));
        object::key(ask_at_once(call, "coroutine are not allow on extractor")?)
    }
}

impl EngineFunction for Function {
    fn hint(&self) -> Hint {
        match self.twin {
            Twin::Str => Hint::MakesText,
            Twin::Count => Hint::Counts,
            Twin::Zero {
                twin: StepTwin::CountOne,
                ..
            } => Hint::CountsByKey,
            _ => Hint::None,
        }
    }

    fn looks_at_value(&self) -> bool {
        // The callbacks of the prelude take records of any kind as a whole.
        !matches!(self.twin, Twin::None)
            || *self
                .looks
                .get_or_init(|| Python::attach(|py| looks_at_value(self.callable.bind(py))))
    }

    fn describe(&self) -> &str {
        &self.text
    }
}

fn mark<'py>(callable: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let mark = callable.getattr_opt(intern!(callable.py(), "__geartrain__"))?;
    let Some(mark) = mark.and_then(|mark| mark.cast_into::<PyTuple>().ok()) else {
        return Ok(None);
    };
    // Only the prelude has the token: nobody else's attribute of this name means anything.
    let token = prelude(callable.py(), "_TOKEN")?;
    Ok(mark
        .iter()
        .next()
        .is_some_and(|first| first.is(&token))
        .then_some(mark))
}

fn name(mark: &Bound<'_, PyTuple>) -> PyResult<String> {
    mark.get_item(1)?.extract()
}

fn twin(callable: &Bound<'_, PyAny>) -> PyResult<Twin> {
    let Some(mark) = mark(callable)? else {
        return Ok(Twin::None);
    };
    Ok(match name(&mark)?.as_str() {
        "str" => Twin::Str,
        "count" => Twin::Count,
        "zero" => {
            let (zero, step) = (mark.get_item(2)?, mark.get_item(3)?);
            Twin::Zero {
                immutable: object::is_immutable(&zero),
                twin: step_twin(&step)?,
                zero: zero.unbind(),
                step: step.unbind(),
            }
        }
        _ => Twin::None,
    })
}

fn step_twin(step: &Bound<'_, PyAny>) -> PyResult<StepTwin> {
    if !step.is_instance_of::<PyFunction>() {
        return Ok(StepTwin::None);
    }
    let Some(mark) = mark(step)? else {
        return Ok(StepTwin::None);
    };
    Ok(match name(&mark)?.as_str() {
        "count_one" => StepTwin::CountOne,
        "append" => StepTwin::Append,
        "add" => StepTwin::Add,
        _ => StepTwin::None,
    })
}

/// What the prelude finds out about a callback; not to know is to look.
fn looks_at_value(callable: &Bound<'_, PyAny>) -> bool {
    let ask = || {
        prelude(callable.py(), "_looks_at_value")?
            .call1((callable,))?
            .extract()
    };
    ask().unwrap_or(true)
}

/// The accumulator, or a copy of zero for one that is falsy.
#[inline]
fn or_zero<'py>(
    py: Python<'py>,
    accumulator: Option<Bound<'py, PyAny>>,
    zero: &Py<PyAny>,
    immutable: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(accumulator) = accumulator
        && accumulator.is_truthy()?
    {
        return Ok(accumulator);
    }
    let zero = zero.bind(py);
    if immutable {
        return Ok(zero.clone());
    }
    // An empty one of the usual kinds needs no deep copy.
    if let Ok(list) = zero.cast_exact::<PyList>()
        && list.is_empty()
    {
        return Ok(PyList::empty(py).into_any());
    }
    if let Ok(dict) = zero.cast_exact::<PyDict>()
        && dict.is_empty()
    {
        return Ok(PyDict::new(py).into_any());
    }
    prelude(py, "_deepcopy")?.call1((zero,))
}
