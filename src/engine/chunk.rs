//! Records that came from the server and were not touched by a callback yet.
//!
//! They travel in chunks: one byte buffer, records one behind the other. Nothing is allocated per
//! record, and a chunk can be counted, cut or sent without opening it.
//!
//! ```text
//! record  = length(u64 of what follows) body
//! name    = bytes                                        KeysOnlyReader
//! key     = bytes has_body(u8) [type(u8) value]          KeysReader
//! event   = bytes key                                    KeysReader, registered
//! entry   = key(bytes) id(bytes) pairs                   StreamReader
//! words   = items                                        CommandReader
//! value   = 0 | 1 bytes | 2 items | 3 pairs | 4 items | 5 pairs | 6 count(u64) {id(bytes) pairs}
//! items   = count(u64) bytes*      pairs = count(u64) {bytes bytes}*      bytes = length(u64) ...
//! ```

use super::KeyType;
use super::record::{
    Cursor, Kind, Records, RecordsWithBytes, TAG_BYTES, TAG_HASH, TAG_LIST, TAG_NONE, TAG_SET,
    TAG_STREAM, TAG_ZSET,
};

/// Records of one reader, about a thousand at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    kind: Kind,
    len: usize,
    bytes: Vec<u8>,
}

/// Bytes that a chunk of one record has room for at first.
const ROOM: usize = 256;

/// A length that is filled in when what it measures is written.
#[derive(Debug)]
pub struct Mark(usize);

impl Chunk {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            len: 0,
            bytes: Vec::new(),
        }
    }

    /// So many records of which nothing but their number is needed.
    pub fn counted(len: usize) -> Self {
        Self {
            len,
            ..Self::new(Kind::Counted)
        }
    }

    /// For names of keys.
    pub fn names() -> Self {
        Self::new(Kind::Names)
    }

    /// For keys with their values.
    pub fn keys() -> Self {
        Self::new(Kind::Keys)
    }

    /// For keys that events named: [`Chunk::begin_event`].
    pub fn events() -> Self {
        Self::with_room(Kind::Events)
    }

    /// For one record, most likely: no chunk grows in small steps.
    fn with_room(kind: Kind) -> Self {
        Self {
            bytes: Vec::with_capacity(ROOM),
            ..Self::new(kind)
        }
    }

    /// One record, the words of a command.
    pub fn words<'a>(words: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let mut chunk = Self::with_room(Kind::Words);
        let mark = chunk.mark();
        chunk
            .bytes
            .extend_from_slice(&(words.len() as u64).to_le_bytes());
        for word in words {
            chunk.bytes(word);
        }
        chunk.end_record(mark);
        chunk
    }

    /// For entries of a stream.
    pub fn entries() -> Self {
        Self::with_room(Kind::Entries)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Payload in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether only the number of records is known.
    pub fn is_counted(&self) -> bool {
        self.kind == Kind::Counted
    }

    fn mark(&mut self) -> Mark {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 8]);
        Mark(at)
    }

    fn fill(&mut self, mark: &Mark, value: u64) {
        if let Some(slot) = self.bytes.get_mut(mark.0..mark.0 + 8) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    /// So many more records that are only counted.
    pub fn count_on(&mut self, records: usize) {
        self.len += records;
    }

    /// One more name of a key.
    pub fn push_name(&mut self, name: &[u8]) {
        let mark = self.mark();
        self.bytes(name);
        self.end_record(mark);
    }

    /// Begins a key. Its value, if any, is written next, then [`Chunk::end_record`].
    pub fn begin_key(&mut self, name: &[u8], body: Option<KeyType>) -> Mark {
        let mark = self.mark();
        self.key(name, body);
        mark
    }

    /// The same with what happened to it.
    pub fn begin_event(&mut self, event: &[u8], name: &[u8], body: Option<KeyType>) -> Mark {
        let mark = self.mark();
        self.bytes(event);
        self.key(name, body);
        mark
    }

    fn key(&mut self, name: &[u8], body: Option<KeyType>) {
        self.bytes(name);
        match body {
            None => self.bytes.push(0),
            Some(kind) => self.bytes.extend_from_slice(&[1, kind as u8]),
        }
    }

    /// Begins an entry of a stream; [`Chunk::pair`]s follow.
    pub fn begin_entry(&mut self, key: &[u8], id: &[u8], fields: usize) -> Mark {
        let mark = self.mark();
        self.bytes(key);
        self.bytes(id);
        self.bytes.extend_from_slice(&(fields as u64).to_le_bytes());
        mark
    }

    /// Ends what `begin_key` or `begin_entry` began.
    pub fn end_record(&mut self, mark: Mark) {
        let body = (self.bytes.len() - mark.0 - 8) as u64;
        self.fill(&mark, body);
        self.len += 1;
    }

    /// A key without a value.
    pub fn no_value(&mut self) {
        self.bytes.push(TAG_NONE);
    }

    /// The value of a string.
    pub fn string(&mut self, value: &[u8]) {
        self.bytes.push(TAG_BYTES);
        self.bytes(value);
    }

    fn begin(&mut self, tag: u8) -> Mark {
        self.bytes.push(tag);
        self.mark()
    }

    /// Begins the value of a list; [`Chunk::item`]s follow, then [`Chunk::end_value`].
    pub fn begin_list(&mut self) -> Mark {
        self.begin(TAG_LIST)
    }

    /// Begins the value of a hash; [`Chunk::pair`]s follow.
    pub fn begin_hash(&mut self) -> Mark {
        self.begin(TAG_HASH)
    }

    /// Begins the value of a set; [`Chunk::item`]s follow.
    pub fn begin_set(&mut self) -> Mark {
        self.begin(TAG_SET)
    }

    /// Begins the value of a sorted set; [`Chunk::pair`]s of member and score follow.
    pub fn begin_zset(&mut self) -> Mark {
        self.begin(TAG_ZSET)
    }

    /// Begins the value of a stream; [`Chunk::stream_entry`]s follow.
    pub fn begin_stream(&mut self) -> Mark {
        self.begin(TAG_STREAM)
    }

    /// Ends a value that was begun, with the number of its elements.
    pub fn end_value(&mut self, mark: &Mark, count: usize) {
        self.fill(mark, count as u64);
    }

    /// An element of a list or set.
    pub fn item(&mut self, item: &[u8]) {
        self.bytes(item);
    }

    /// A field and its value, or a member and its score.
    pub fn pair(&mut self, field: &[u8], value: &[u8]) {
        self.bytes(field);
        self.bytes(value);
    }

    /// Begins an entry in the value of a stream; [`Chunk::pair`]s follow.
    pub fn stream_entry(&mut self, id: &[u8], fields: usize) {
        self.bytes(id);
        self.bytes.extend_from_slice(&(fields as u64).to_le_bytes());
    }

    /// The records, in the order in which they were written. A damaged chunk ends early.
    pub fn records(&self) -> Records<'_> {
        Records::new(self.kind, self.len, Cursor(&self.bytes))
    }

    /// The same, each with its bytes, for [`Chunk::push_bytes`] of a chunk of the same kind.
    pub(super) fn records_with_bytes(&self) -> RecordsWithBytes<'_> {
        RecordsWithBytes(self.records())
    }

    /// An empty one for records of the same kind.
    pub(super) fn same_kind(&self) -> Self {
        Self::new(self.kind)
    }

    /// One more record, as it was in another chunk.
    pub(super) fn push_bytes(&mut self, record: &[u8]) {
        self.bytes(record);
        self.len += 1;
    }

    /// As it travels: kind, number of records, records.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len() + 9);
        out.push(self.kind as u8);
        out.extend_from_slice(&(self.len as u64).to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// What [`Chunk::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let kind = *Kind::ALL.get(usize::from(kind))?;
        let (len, bytes) = rest.split_first_chunk::<8>()?;
        Some(Self {
            kind,
            len: usize::try_from(u64::from_le_bytes(*len)).ok()?,
            bytes: bytes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Native, Value};
    use super::*;

    #[test]
    fn every_kind_of_value_comes_back() {
        let mut chunk = Chunk::keys();
        let mark = chunk.begin_key(b"h", Some(KeyType::Hash));
        let hash = chunk.begin_hash();
        chunk.pair(b"f", b"v\0w");
        chunk.pair(b"", b"");
        chunk.end_value(&hash, 2);
        chunk.end_record(mark);
        let mark = chunk.begin_key(b"st", Some(KeyType::Stream));
        let stream = chunk.begin_stream();
        chunk.stream_entry(b"1-1", 1);
        chunk.pair(b"a", b"b");
        chunk.stream_entry(b"1-2", 0);
        chunk.end_value(&stream, 2);
        chunk.end_record(mark);
        let mark = chunk.begin_key(b"", None);
        chunk.end_record(mark);

        let mut records = chunk.records();
        let Some(Native::Key {
            event: None,
            key: b"h",
            body: Some(body),
        }) = records.next()
        else {
            panic!()
        };
        let Value::Hash(pairs) = body.value else {
            panic!()
        };
        let want: Vec<(&[u8], &[u8])> = vec![(b"f", b"v\0w"), (b"", b"")];
        assert_eq!(pairs.collect::<Vec<_>>(), want);
        let Some(Native::Key {
            event: None,
            key: b"st",
            body: Some(body),
        }) = records.next()
        else {
            panic!()
        };
        let Value::Stream(entries) = body.value else {
            panic!()
        };
        let ids: Vec<_> = entries.map(|(id, fields)| (id, fields.count())).collect();
        assert_eq!(ids, [(b"1-1".as_slice(), 1), (b"1-2".as_slice(), 0)]);
        assert!(matches!(
            records.next(),
            Some(Native::Key {
                event: None,
                key: b"",
                body: None
            })
        ));
        assert!(records.next().is_none());
        assert_eq!(chunk.len(), 3);
    }

    #[test]
    fn events_and_words_come_back() {
        let mut chunk = Chunk::events();
        let mark = chunk.begin_event(b"hset", b"k", None);
        chunk.end_record(mark);
        assert!(matches!(
            chunk.records().next(),
            Some(Native::Key {
                event: Some(b"hset"),
                key: b"k",
                body: None
            })
        ));
        let words: [&[u8]; 2] = [b"name", b"a\0b"];
        let chunk = Chunk::words(words.into_iter());
        let Some(Native::Words(items)) = chunk.records().next() else {
            panic!()
        };
        assert_eq!(items.collect::<Vec<_>>(), words);
        assert_eq!(chunk.len(), 1);
    }

    #[test]
    fn a_damaged_chunk_ends_early_and_never_panics() {
        let mut chunk = Chunk::entries();
        let mark = chunk.begin_entry(b"s", b"1-1", 1);
        chunk.pair(b"f", b"v");
        chunk.end_record(mark);
        for cut in 0..chunk.bytes.len() {
            let damaged = Chunk {
                bytes: chunk.bytes[..cut].to_vec(),
                ..Chunk::entries()
            };
            let damaged = Chunk { len: 3, ..damaged };
            assert!(damaged.records().count() <= 1);
        }
        let wild = Chunk {
            kind: Kind::Keys,
            len: 9,
            bytes: vec![0xff; 64],
        };
        assert_eq!(wild.records().count(), 0);
    }
}
