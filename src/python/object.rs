//! Values: from the server to Python, and from Python to a reply.

use std::cell::RefCell;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PySet, PyString, PyTuple,
};

use crate::engine::{
    Command, Item, KeyBody, MAX_DEPTH, Native, Pairs, Reply, Results, ResultsTooDeep, Value,
};

use super::error::gears_error;

/// Bytes as `str` where they are UTF-8, else as `bytearray`.
pub(super) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyAny> {
    match std::str::from_utf8(bytes) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyByteArray::new(py, bytes).into_any(),
    }
}

/// The same for keys of a dict and members of a set, which must be hashable: else `bytes`.
fn hashable<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyAny> {
    match std::str::from_utf8(bytes) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyBytes::new(py, bytes).into_any(),
    }
}

const CACHED: usize = 128;
const CACHED_LEN: usize = 40;

/// A name of a field with its object.
type Field = (Box<[u8]>, Py<PyAny>);

thread_local! {
    /// Names of fields seen lately: a hash of twenty fields would make twenty strings each time.
    static FIELDS: RefCell<Vec<Option<Field>>> =
        RefCell::new((0..CACHED).map(|_| None).collect());
}

fn slot(name: &[u8]) -> usize {
    let edge = |at: usize| name.get(at).copied().map_or(0, usize::from);
    let last = name.len().wrapping_sub(1);
    (name.len() + 7 * edge(0) + 31 * edge(last) + 17 * edge(name.len() / 2)) % CACHED
}

fn field<'py>(py: Python<'py>, name: &[u8]) -> Bound<'py, PyAny> {
    if name.len() > CACHED_LEN {
        return hashable(py, name);
    }
    FIELDS.with_borrow_mut(|fields| {
        let Some(entry) = fields.get_mut(slot(name)) else {
            return hashable(py, name);
        };
        match entry {
            Some((cached, object)) if **cached == *name => object.bind(py).clone(),
            _ => {
                let object = hashable(py, name);
                *entry = Some((name.into(), object.clone().unbind()));
                object
            }
        }
    })
}

fn dict<'py>(py: Python<'py>, pairs: Pairs<'_>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in pairs {
        dict.set_item(field(py, name), text(py, value))?;
    }
    Ok(dict)
}

fn scored<'py>(py: Python<'py>, pairs: Pairs<'_>) -> PyResult<Bound<'py, PyAny>> {
    let list = PyList::empty(py);
    for (member, score) in pairs {
        let score = std::str::from_utf8(score)
            .ok()
            .and_then(|score| score.parse::<f64>().ok());
        list.append((text(py, member), score.unwrap_or(f64::NAN)))?;
    }
    Ok(list.into_any())
}

fn value<'py>(py: Python<'py>, value: &Value<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Bytes(bytes) => text(py, bytes),
        Value::Hash(pairs) => dict(py, pairs.clone())?.into_any(),
        Value::List(items) => {
            let list = PyList::empty(py);
            for item in items.clone() {
                list.append(text(py, item))?;
            }
            list.into_any()
        }
        Value::Set(items) => {
            let set = PySet::empty(py)?;
            for item in items.clone() {
                set.add(hashable(py, item))?;
            }
            set.into_any()
        }
        Value::Zset(pairs) => scored(py, pairs.clone())?,
        Value::Stream(entries) => {
            let list = PyList::empty(py);
            for (id, fields) in entries.clone() {
                list.append((text(py, id), dict(py, fields)?))?;
            }
            list.into_any()
        }
    })
}

/// The word for a type, the same object each time.
fn type_name<'py>(py: Python<'py>, body: &KeyBody<'_>) -> Bound<'py, PyString> {
    use crate::engine::KeyType::{Hash, List, String};
    match body.kind {
        Hash => intern!(py, "hash").clone(),
        List => intern!(py, "list").clone(),
        String => intern!(py, "string").clone(),
        other => PyString::new(py, other.name()),
    }
}

/// A record of the server. The order of the fixed keys is that of RedisGears 1.x, since replies
/// show it.
pub(super) fn record<'py>(py: Python<'py>, record: &Native<'_>) -> PyResult<Bound<'py, PyAny>> {
    let out = match record {
        Native::Name(name) => return Ok(text(py, name)),
        Native::Words(words) => {
            let list = PyList::empty(py);
            for word in words.clone() {
                list.append(text(py, word))?;
            }
            return Ok(list.into_any());
        }
        Native::Key { event, key, body } => {
            let out = PyDict::new(py);
            match event {
                // The same few again and again, as names of fields.
                Some(event) => out.set_item(intern!(py, "event"), field(py, event))?,
                None => out.set_item(intern!(py, "event"), py.None())?,
            }
            out.set_item(intern!(py, "key"), text(py, key))?;
            if let Some(body) = body {
                out.set_item(intern!(py, "type"), type_name(py, body))?;
                out.set_item(intern!(py, "value"), value(py, &body.value)?)?;
            }
            out
        }
        Native::Entry { key, id, fields } => {
            let out = PyDict::new(py);
            out.set_item(intern!(py, "key"), text(py, key))?;
            out.set_item(intern!(py, "id"), text(py, id))?;
            out.set_item(intern!(py, "value"), dict(py, fields.clone())?)?;
            out
        }
    };
    Ok(out.into_any())
}

/// A reply of the server to `execute`.
pub(super) fn reply<'py>(py: Python<'py>, reply: Reply) -> PyResult<Bound<'py, PyAny>> {
    Ok(match reply {
        Reply::Nil => py.None().into_bound(py),
        Reply::Integer(number) => number.into_pyobject(py)?.into_any(),
        Reply::Bytes(bytes) | Reply::Error(bytes) => text(py, &bytes),
        Reply::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(self::reply(py, item)?)?;
            }
            list.into_any()
        }
    })
}

/// Appends an argument of `execute`: bytes as they are, anything else as text.
pub(super) fn push_argument(command: &mut Command, value: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        command.push(text.to_str()?.as_bytes());
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        command.push(bytes.as_bytes());
    } else if let Ok(bytes) = value.cast::<PyByteArray>() {
        command.push(&bytes.to_vec());
    } else {
        command.push(value.str()?.to_str()?.as_bytes());
    }
    Ok(())
}

/// The key of a record, a plain `str`: the text of a `str` or of a subclass such as an enumeration's,
/// the `repr` of anything else.
pub(super) fn key<'py>(key: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if key.is_exact_instance_of::<PyString>() {
        return Ok(key);
    }
    let shown = if key.is_instance_of::<PyString>() {
        key
    } else {
        key.repr()?.into_any()
    };
    // What it holds, whatever its class says of itself.
    let class = shown.py().get_type::<PyString>();
    class.call_method1(intern!(shown.py(), "__str__"), (shown,))
}

/// Encodes a final record by the rules of RedisGears 1.x.
pub(super) fn emit(record: &Bound<'_, PyAny>, results: &mut Results) -> PyResult<()> {
    let position = results.position();
    match emit_item(record, results, 0) {
        Ok(()) => {
            results.end_result();
            Ok(())
        }
        Err(error) => {
            results.rewind(position);
            Err(error)
        }
    }
}

fn emit_item(record: &Bound<'_, PyAny>, results: &mut Results, depth: usize) -> PyResult<()> {
    if let Ok(text) = record.cast::<PyString>() {
        let text = text.to_str()?.as_bytes();
        results.push(match text {
            [b'+', rest @ ..] if !rest.is_empty() => Item::Status(rest),
            [b'-', rest @ ..] if !rest.is_empty() => Item::Error(rest),
            _ => Item::Bulk(text),
        });
    } else if let Ok(flag) = record.cast::<PyBool>() {
        results.push(Item::Integer(flag.is_true().into()));
    } else if let Ok(number) = record.cast::<PyInt>() {
        match number.extract::<i64>() {
            Ok(number) => results.push(Item::Integer(number)),
            Err(_) => results.push(Item::Bulk(number.str()?.to_str()?.as_bytes())),
        }
    } else if let Ok(number) = record.cast::<PyFloat>() {
        let number = number.value();
        let text = match number {
            _ if number.is_nan() => "nan".into(),
            _ => format!("{number:.6}"),
        };
        results.push(Item::Bulk(text.as_bytes()));
    } else if let Ok(bytes) = record.cast::<PyBytes>() {
        results.push(Item::Bulk(bytes.as_bytes()));
    } else if let Ok(list) = record.cast::<PyList>() {
        if depth >= MAX_DEPTH {
            return Err(gears_error(ResultsTooDeep.to_string()));
        }
        // A fixed view: nothing runs between its length and its elements that could change it.
        let items: Vec<_> = list.iter().collect();
        results.push(Item::Array(items.len()));
        for item in &items {
            emit_item(item, results, depth + 1)?;
        }
    } else {
        results.push(Item::Bulk(b"PY RECORD"));
    }
    Ok(())
}

/// Results that were encoded for a reply, as values again.
pub(super) fn results<'py>(py: Python<'py>, results: &Results) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    let mut items = results.items();
    while let Some(item) = items.next() {
        list.append(of_item(py, item, &mut items)?)?;
    }
    Ok(list)
}

fn of_item<'py, 'a>(
    py: Python<'py>,
    item: Item<'a>,
    items: &mut impl Iterator<Item = Item<'a>>,
) -> PyResult<Bound<'py, PyAny>> {
    let marked = |mark: &[u8], rest: &[u8]| text(py, &[mark, rest].concat());
    Ok(match item {
        Item::Bulk(bytes) => text(py, bytes),
        Item::Status(rest) => marked(b"+", rest),
        Item::Error(rest) => marked(b"-", rest),
        Item::Integer(number) => number.into_pyobject(py)?.into_any(),
        Item::Array(len) => {
            let list = PyList::empty(py);
            for _ in 0..len {
                let Some(item) = items.next() else { break };
                list.append(of_item(py, item, items)?)?;
            }
            list.into_any()
        }
    })
}

/// About how many bytes a value occupies, not counting what it refers to.
pub(super) fn size(value: &Bound<'_, PyAny>) -> usize {
    const OBJECT: usize = 64;
    if let Ok(text) = value.cast::<PyString>() {
        OBJECT + text.len().unwrap_or_default()
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        OBJECT + bytes.as_bytes().len()
    } else {
        OBJECT + 8 * value.len().unwrap_or_default()
    }
}

/// Whether a value never changes, so that it need not be copied.
pub(super) fn is_immutable(value: &Bound<'_, PyAny>) -> bool {
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return tuple.iter().all(|item| is_immutable(&item));
    }
    value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBytes>()
}
