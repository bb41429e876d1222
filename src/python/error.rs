//! An exception becomes text at the border; the object never leaves Python.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::interpreter::world;
use crate::engine::RecordError;

/// The classes that users see. Their names are lower case in RedisGears 1.x.
#[expect(non_camel_case_types, reason = "the names that users see")]
mod classes {
    use super::PyException;
    pyo3::create_exception!(gears, error, PyException);
    pyo3::create_exception!(gears, forcestopped, PyException);
    pyo3::create_exception!(gears, flat_error, PyException);
}
pub(super) use classes::{
    error as GearsError, flat_error as FlatError, forcestopped as ForceStopped,
};

/// Raised for wrong use.
pub(super) fn gears_error(text: impl Into<String>) -> PyErr {
    GearsError::new_err(text.into())
}

/// `str` of a value, whatever it contains.
pub(super) fn lossy(text: &Bound<'_, PyString>) -> String {
    text.to_string_lossy().into_owned()
}

fn text_of(value: &Bound<'_, PyAny>) -> String {
    match value.str() {
        Ok(text) => lossy(&text),
        Err(_) => "<the exception can not be shown: its __str__ failed>".into(),
    }
}

/// A text with class or traceback is cut at so many bytes: one that quotes another one doubles its
/// backslashes, and functions may call each other many levels deep.
const LONGEST: usize = 1 << 20;

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let rest = text.len() - end;
        text.truncate(end);
        text.push_str(&format!(" ... ({rest} bytes more)"));
    }
    text
}

/// The text of an exception, in the three forms of RedisGears 1.x: the bare message of a flat
/// error; the list of lines of the traceback; class and message where there is none.
pub(super) fn error_text(py: Python<'_>, error: &PyErr) -> String {
    if error.is_instance_of::<FlatError>(py) {
        return text_of(error.value(py).as_any());
    }
    bounded(whole_text(py, error))
}

fn whole_text(py: Python<'_>, error: &PyErr) -> String {
    let value = error.value(py);
    if world().environment.tracebacks()
        && let Some(traceback) = error.traceback(py)
        && let Ok(lines) = py.import("traceback").and_then(|module| {
            module.call_method1("format_exception", (error.get_type(py), value, traceback))
        })
    {
        return text_of(&lines);
    }
    let class = text_of(error.get_type(py).as_any());
    format!("Error type: {class}, Value: {}", text_of(value.as_any()))
}

/// An exception as the error of a record.
pub(super) fn record_error(py: Python<'_>, error: PyErr) -> RecordError {
    let text = error_text(py, &error);
    // A traceback holds the frames, the frames hold the records: let go of them now.
    drop(error);
    RecordError::new(text)
}
