//! Keyword arguments of `run` and `register`.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use super::error::gears_error;
use crate::engine::Mode;

/// Keyword arguments; unknown ones are ignored, as in RedisGears 1.x.
pub(super) struct Options<'a, 'py>(pub(super) Option<&'a Bound<'py, PyDict>>);

impl<'py> Options<'_, 'py> {
    /// The value of an argument, if it was given.
    pub(super) fn get(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.map_or(Ok(None), |kargs| kargs.get_item(name))
    }

    /// The names of all that were given.
    pub(super) fn names(&self) -> PyResult<Vec<String>> {
        let names = self.0.map(|kargs| kargs.keys().extract());
        Ok(names.transpose()?.unwrap_or_default())
    }

    /// A boolean.
    pub(super) fn flag(&self, name: &str, default: bool, error: &str) -> PyResult<bool> {
        match self.get(name)? {
            None => Ok(default),
            Some(value) => match value.cast::<PyBool>() {
                Ok(flag) => Ok(flag.is_true()),
                Err(_) => Err(gears_error(error)),
            },
        }
    }

    /// The mode, if it was given.
    pub(super) fn mode(&self) -> PyResult<Option<Mode>> {
        let Some(mode) = self.get("mode")? else {
            return Ok(None);
        };
        match mode.cast::<PyString>() {
            Ok(mode) => match mode.to_str()? {
                "async" => Ok(Some(Mode::Async)),
                "async_local" => Ok(Some(Mode::AsyncLocal)),
                "sync" => Ok(Some(Mode::Sync)),
                _ => Err(gears_error("unknown execution mode")),
            },
            Err(_) => Err(gears_error("execution mode must be a string")),
        }
    }
}
