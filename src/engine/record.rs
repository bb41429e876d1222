//! Records that came from the server and were not touched by a callback yet.
//!
//! They travel in chunks: one byte buffer, records one behind the other. Nothing is allocated per
//! record, and a chunk can be counted, cut or sent without opening it.
//!
//! ```text
//! record  = length(u64 of what follows) body
//! name    = bytes                                        KeysOnlyReader
//! key     = bytes has_body(u8) [type(u8) value]          KeysReader
//! entry   = key(bytes) id(bytes) pairs                   StreamReader
//! value   = 0 | 1 bytes | 2 items | 3 pairs | 4 items | 5 pairs | 6 count(u64) {id(bytes) pairs}
//! items   = count(u64) bytes*      pairs = count(u64) {bytes bytes}*      bytes = length(u64) ...
//! ```

/// The type of a key as records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyType {
    /// No such key.
    Empty,
    /// A string.
    String,
    /// A list.
    List,
    /// A hash.
    Hash,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// A value of a module.
    Module,
    /// A stream whose entries were asked for.
    Stream,
    /// Anything else; RedisGears 1.x says so of streams.
    Unknown,
}

impl KeyType {
    const ALL: [Self; 9] = [
        Self::Empty,
        Self::String,
        Self::List,
        Self::Hash,
        Self::Set,
        Self::Zset,
        Self::Module,
        Self::Stream,
        Self::Unknown,
    ];

    /// The word in `record['type']`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::String => "string",
            Self::List => "list",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::Zset => "zset",
            Self::Module => "module",
            Self::Stream => "stream",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counted,
    Names,
    Keys,
    Entries,
}

/// Records of one reader, about a thousand at a time.
#[derive(Debug)]
pub struct Chunk {
    kind: Kind,
    len: usize,
    bytes: Vec<u8>,
}

const TAG_NONE: u8 = 0;
const TAG_BYTES: u8 = 1;
const TAG_LIST: u8 = 2;
const TAG_HASH: u8 = 3;
const TAG_SET: u8 = 4;
const TAG_ZSET: u8 = 5;
const TAG_STREAM: u8 = 6;

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

    /// For entries of a stream.
    pub fn entries() -> Self {
        Self::new(Kind::Entries)
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
        self.bytes(name);
        match body {
            None => self.bytes.push(0),
            Some(kind) => self.bytes.extend_from_slice(&[1, kind as u8]),
        }
        mark
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
        Records {
            kind: self.kind,
            left: self.len,
            cursor: Cursor(&self.bytes),
        }
    }
}

#[derive(Debug, Clone)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, tail) = self.0.split_first()?;
        self.0 = tail;
        Some(first)
    }

    fn number(&mut self) -> Option<usize> {
        let (head, tail) = self.0.split_first_chunk::<8>()?;
        self.0 = tail;
        usize::try_from(u64::from_le_bytes(*head)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(len)
    }
}

/// One record as it came from the server.
#[derive(Debug, Clone)]
pub enum Native<'a> {
    /// The name of a key.
    Name(&'a [u8]),
    /// A key; without body where values were not asked for.
    Key {
        /// Its name.
        key: &'a [u8],
        /// Its type and value.
        body: Option<KeyBody<'a>>,
    },
    /// An entry of a stream.
    Entry {
        /// The stream.
        key: &'a [u8],
        /// The id of the entry.
        id: &'a [u8],
        /// Its fields.
        fields: Pairs<'a>,
    },
}

/// Type and value of a key.
#[derive(Debug, Clone)]
pub struct KeyBody<'a> {
    /// The type.
    pub kind: KeyType,
    /// The value.
    pub value: Value<'a>,
}

/// The value of a key.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// None, or one that is not read.
    None,
    /// A string.
    Bytes(&'a [u8]),
    /// A list.
    List(Items<'a>),
    /// A hash.
    Hash(Pairs<'a>),
    /// A set.
    Set(Items<'a>),
    /// A sorted set: members with their scores as text, lowest first.
    Zset(Pairs<'a>),
    /// A stream.
    Stream(Entries<'a>),
}

/// Iterates over the records of a chunk.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    kind: Kind,
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Native<'a>;

    #[inline]
    fn next(&mut self) -> Option<Native<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut record = Cursor(self.cursor.bytes()?);
        match self.kind {
            Kind::Counted => None,
            Kind::Names => Some(Native::Name(record.bytes()?)),
            Kind::Keys => {
                let key = record.bytes()?;
                let body = match record.byte()? {
                    0 => None,
                    _ => Some(key_body(&mut record)?),
                };
                Some(Native::Key { key, body })
            }
            Kind::Entries => {
                let (key, id) = (record.bytes()?, record.bytes()?);
                Some(Native::Entry {
                    key,
                    id,
                    fields: pairs(&mut record)?,
                })
            }
        }
    }
}

fn key_body<'a>(record: &mut Cursor<'a>) -> Option<KeyBody<'a>> {
    let kind = *KeyType::ALL.get(usize::from(record.byte()?))?;
    let value = match record.byte()? {
        TAG_NONE => Value::None,
        TAG_BYTES => Value::Bytes(record.bytes()?),
        TAG_LIST => Value::List(items(record)?),
        TAG_HASH => Value::Hash(pairs(record)?),
        TAG_SET => Value::Set(items(record)?),
        TAG_ZSET => Value::Zset(pairs(record)?),
        TAG_STREAM => Value::Stream(Entries {
            left: record.number()?,
            cursor: record.clone(),
        }),
        _ => return None,
    };
    Some(KeyBody { kind, value })
}

fn items<'a>(record: &mut Cursor<'a>) -> Option<Items<'a>> {
    Some(Items {
        left: record.number()?,
        cursor: record.clone(),
    })
}

fn pairs<'a>(record: &mut Cursor<'a>) -> Option<Pairs<'a>> {
    Some(Pairs {
        left: record.number()?,
        cursor: record.clone(),
    })
}

/// Elements of a list or set.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.bytes()
    }
}

/// Fields with values, or members with scores.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.cursor.bytes()?, self.cursor.bytes()?))
    }
}

/// The entries in the value of a stream.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Pairs<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let id = self.cursor.bytes()?;
        let fields = pairs(&mut self.cursor)?;
        let mut rest = fields.clone();
        while rest.next().is_some() {}
        self.cursor = rest.cursor;
        Some((id, fields))
    }
}

#[cfg(test)]
mod tests {
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
                key: b"",
                body: None
            })
        ));
        assert!(records.next().is_none());
        assert_eq!(chunk.len(), 3);
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
