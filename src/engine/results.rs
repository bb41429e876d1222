//! Results as they are sent to a client: encoded once, when a record reaches the end of its plan,
//! so that what is kept needs no interpreter, has a known size and is freed at once.

use thiserror::Error;

/// Lists nested deeper than this are not sent: they contain themselves, or might as well.
pub const MAX_DEPTH: usize = 128;

/// More memory than this is not kept for the next run.
const MUCH: usize = 64 << 10;

/// A result nested deeper than [`MAX_DEPTH`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "a list nested deeper than {MAX_DEPTH} levels, or one that contains itself, can not be sent"
)]
pub struct ResultsTooDeep;

/// An element of a reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'a> {
    /// A bulk string.
    Bulk(&'a [u8]),
    /// A simple string.
    Status(&'a [u8]),
    /// An error line.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// An array of so many elements, which follow.
    Array(usize),
}

const BULK: u8 = 0;
const STATUS: u8 = 1;
const ERROR: u8 = 2;
const INTEGER: u8 = 3;
const ARRAY: u8 = 4;

/// Encoded results: `tag(u8) number(u64) payload` each.
#[derive(Debug, Default, Clone)]
pub struct Results {
    len: usize,
    bytes: Vec<u8>,
}

impl Results {
    /// Number of results (elements of arrays not counted).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes they occupy.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Gives back room that is not used, if it is much.
    pub fn fit(&mut self) {
        if self.bytes.capacity() - self.bytes.len() > MUCH {
            self.bytes.shrink_to_fit();
        }
    }

    /// The elements, for [`Results::from_bytes`].
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Elements that were encoded before, as one result. Damaged ones end early.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { len: 1, bytes }
    }

    fn put(&mut self, tag: u8, number: u64, payload: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&number.to_le_bytes());
        self.bytes.extend_from_slice(payload);
    }

    /// Forgets all and keeps the memory, unless it is much.
    pub fn clear(&mut self) {
        self.len = 0;
        self.bytes.clear();
        self.bytes.shrink_to(MUCH);
    }

    /// Appends an element. Elements of an array follow it, as many as it says.
    pub fn push(&mut self, item: Item<'_>) {
        match item {
            Item::Bulk(text) => self.put(BULK, text.len() as u64, text),
            Item::Status(text) => self.put(STATUS, text.len() as u64, text),
            Item::Error(text) => self.put(ERROR, text.len() as u64, text),
            Item::Integer(number) => self.put(INTEGER, number.cast_unsigned(), b""),
            Item::Array(len) => self.put(ARRAY, len as u64, b""),
        }
    }

    /// Counts what was pushed since as one result.
    pub fn end_result(&mut self) {
        self.len += 1;
    }

    /// Where the next element goes; [`Results::rewind`] takes back what came after.
    pub fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Takes back all elements pushed after `position`.
    pub fn rewind(&mut self, position: usize) {
        self.bytes.truncate(position);
    }

    /// All elements, depth first.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (&tag, tail) = rest.split_first()?;
            let (number, tail) = tail.split_first_chunk::<8>()?;
            let number = u64::from_le_bytes(*number);
            let len = if tag <= ERROR {
                usize::try_from(number).ok()?
            } else {
                0
            };
            let (text, tail) = tail.split_at_checked(len)?;
            rest = tail;
            Some(match tag {
                BULK => Item::Bulk(text),
                STATUS => Item::Status(text),
                ERROR => Item::Error(text),
                INTEGER => Item::Integer(number.cast_signed()),
                _ => Item::Array(usize::try_from(number).ok()?),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_and_a_failed_result_leaves_nothing() {
        let mut results = Results::default();
        let items = [
            Item::Array(3),
            Item::Bulk(b"a\0b"),
            Item::Integer(-7),
            Item::Array(1),
            Item::Error(b"ERR no"),
            Item::Status(b"OK"),
        ];
        for item in items {
            results.push(item);
        }
        results.end_result();
        let position = results.position();
        results.push(Item::Bulk(b"half"));
        results.rewind(position);
        assert_eq!(results.items().collect::<Vec<_>>(), items);
        assert_eq!(results.len(), 1);
    }
}
