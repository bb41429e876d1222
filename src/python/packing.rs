//! Values on their way between shards, many at once.
//!
//! ```text
//! packed = 0 pickle of a list | 1 the same, shipped as callbacks are
//! ```
//!
//! What plain pickle can not take, such as an object of a class that the script defines, travels as
//! callbacks do. Both ends run the same Python.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyModule, PyString};

use super::error::{gears_error, record_error};
use super::session::current_session;
use super::shipping;
use crate::engine::{Packed, RecordError};

const PICKLED: u8 = 0;
const SHIPPED: u8 = 1;
/// The protocol of pickle.
const PROTOCOL: u8 = 5;

/// Reads the text of a key.
pub(super) fn read_key<R>(key: &Bound<'_, PyAny>, read: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    Ok(read(key.cast::<PyString>()?.to_str()?.as_bytes()))
}

/// Values as bytes. Those that can not be are left out; with `pairs` both of a pair are.
pub(super) fn pack(py: Python<'_>, values: Vec<Py<PyAny>>, pairs: bool) -> Packed {
    let len = values.len();
    let all = PyList::new(py, &values).and_then(|list| pack_list(py, &list));
    if let Ok(bytes) = all {
        return Packed {
            bytes,
            len,
            failed: Vec::new(),
        };
    }
    // One by one: which are they?
    let width = if pairs { 2 } else { 1 };
    let mut good = Vec::new();
    let mut failed = Vec::new();
    for record in values.chunks(width) {
        let packed = PyList::new(py, record).and_then(|list| pack_list(py, &list));
        match packed {
            Ok(_) => good.extend(record.iter().map(|value| value.clone_ref(py))),
            Err(error) => failed.push(record_error(py, error)),
        }
    }
    let rest = PyList::new(py, &good).and_then(|list| pack_list(py, &list));
    match rest {
        Ok(bytes) => Packed {
            bytes,
            len: good.len(),
            failed,
        },
        Err(error) => {
            let error = record_error(py, error);
            failed.extend((0..good.len() / width).map(|_| RecordError::new(error.text.clone())));
            Packed {
                failed,
                ..Packed::default()
            }
        }
    }
}

fn pack_list(py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<Vec<u8>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let dumps = DUMPS.import(py, "_pickle", "dumps")?;
    let (how, bytes) = match dumps.call1((list, PROTOCOL)) {
        Ok(pickled) => (PICKLED, pickled.cast_into::<PyBytes>()?),
        // A module is no record, though its name could be sent.
        Err(error) if list.iter().any(|value| value.is_instance_of::<PyModule>()) => {
            return Err(error);
        }
        Err(_) => {
            let session = current_session().ok_or_else(|| gears_error("the session is gone"))?;
            let shipped = shipping::ship_value(py, list.as_any(), &session)?;
            (SHIPPED, shipped)
        }
    };
    let bytes = bytes.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 1);
    out.push(how);
    out.extend_from_slice(bytes);
    Ok(out)
}

/// What [`pack`] made, on another shard of the cluster.
pub(super) fn unpack(py: Python<'_>, packed: &[u8]) -> PyResult<Vec<Py<PyAny>>> {
    let Some((&how, bytes)) = packed.split_first() else {
        return Err(gears_error("nothing was sent"));
    };
    let bytes = PyBytes::new(py, bytes);
    let list = if how == PICKLED {
        static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        LOADS.import(py, "_pickle", "loads")?.call1((bytes,))?
    } else {
        let session = current_session().ok_or_else(|| gears_error("the session is gone"))?;
        shipping::receive_value(py, &bytes, &session)?
    };
    let list = list.cast_into::<PyList>()?;
    Ok(list.iter().map(Bound::unbind).collect())
}
