//! `str` of plain values, as Python makes it, without a detour over the text of each part.

use std::cell::RefCell;
use std::fmt::Write;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyList, PyString};

thread_local! {
    /// Room for a text in the making.
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Deeper values are left to Python, and so are those that contain themselves.
const DEEPEST: usize = 8;

/// `str(x)`. A record as the server gave it, and what resembles it, is written here.
pub(super) fn str<'py>(x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    if x.cast_exact::<PyDict>().is_err() {
        return x.str();
    }
    // Not borrowed while Python runs, which may come here again.
    let mut text = BUFFER.take();
    text.clear();
    let made = plain(&mut text, x, 0).then(|| PyString::new(x.py(), &text));
    BUFFER.set(text);
    made.map_or_else(|| x.str(), Ok)
}

/// Appends the `repr` of a value; `false` if it is not one of the plain ones. Runs no code of
/// Python's that could change the value meanwhile.
fn plain(text: &mut String, x: &Bound<'_, PyAny>, depth: usize) -> bool {
    if let Ok(x) = x.cast_exact::<PyString>() {
        let Ok(x) = x.to_str() else { return false };
        // What Python shows as it is.
        let shown = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'\'' && byte != b'\\';
        if !x.bytes().all(shown) {
            return false;
        }
        text.push('\'');
        text.push_str(x);
        text.push('\'');
        return true;
    }
    if x.is_none() {
        text.push_str("None");
        return true;
    }
    if let Ok(x) = x.cast_exact::<PyInt>() {
        let number = x.extract::<i64>();
        return number.is_ok_and(|number| write!(text, "{number}").is_ok());
    }
    if let Ok(x) = x.cast_exact::<PyBool>() {
        text.push_str(if x.is_true() { "True" } else { "False" });
        return true;
    }
    if depth == DEEPEST {
        return false;
    }
    if let Ok(x) = x.cast_exact::<PyDict>() {
        text.push('{');
        for (at, (key, value)) in x.iter().enumerate() {
            if at > 0 {
                text.push_str(", ");
            }
            if !plain(text, &key, depth + 1) {
                return false;
            }
            text.push_str(": ");
            if !plain(text, &value, depth + 1) {
                return false;
            }
        }
        text.push('}');
        return true;
    }
    if let Ok(x) = x.cast_exact::<PyList>() {
        text.push('[');
        for (at, item) in x.iter().enumerate() {
            if at > 0 {
                text.push_str(", ");
            }
            if !plain(text, &item, depth + 1) {
                return false;
            }
        }
        text.push(']');
        return true;
    }
    false
}
