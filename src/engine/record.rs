//! A record as it came from the server: what a chunk holds, decoded where it lies. Damaged bytes end
//! the decoding early; they never panic.

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

    /// The type that a word names.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

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

/// What the records of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counted,
    Names,
    Keys,
    Events,
    Entries,
    Words,
}

impl Kind {
    /// All, each at the place of its number.
    pub(super) const ALL: [Self; 6] = [
        Self::Counted,
        Self::Names,
        Self::Keys,
        Self::Events,
        Self::Entries,
        Self::Words,
    ];
}

pub(super) const TAG_NONE: u8 = 0;
pub(super) const TAG_BYTES: u8 = 1;
pub(super) const TAG_LIST: u8 = 2;
pub(super) const TAG_HASH: u8 = 3;
pub(super) const TAG_SET: u8 = 4;
pub(super) const TAG_ZSET: u8 = 5;
pub(super) const TAG_STREAM: u8 = 6;

#[derive(Debug, Clone)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

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
        /// What happened to it, for one that an event named.
        event: Option<&'a [u8]>,
        /// Its name.
        key: &'a [u8],
        /// Its type and value.
        body: Option<KeyBody<'a>>,
    },
    /// The words of a command.
    Words(Items<'a>),
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

impl<'a> Records<'a> {
    pub(super) fn new(kind: Kind, left: usize, cursor: Cursor<'a>) -> Self {
        Self { kind, left, cursor }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Native<'a>;

    #[inline]
    fn next(&mut self) -> Option<Native<'a>> {
        self.with_bytes().map(|(record, _)| record)
    }
}

/// The same with the bytes of each.
#[derive(Debug, Clone)]
pub(super) struct RecordsWithBytes<'a>(pub(super) Records<'a>);

impl<'a> Iterator for RecordsWithBytes<'a> {
    type Item = (Native<'a>, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.with_bytes()
    }
}

impl<'a> Records<'a> {
    #[inline]
    fn with_bytes(&mut self) -> Option<(Native<'a>, &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        let bytes = self.cursor.bytes()?;
        let mut record = Cursor(bytes);
        let native = match self.kind {
            Kind::Counted => None,
            Kind::Names => Some(Native::Name(record.bytes()?)),
            Kind::Keys | Kind::Events => {
                let event = match self.kind {
                    Kind::Events => Some(record.bytes()?),
                    _ => None,
                };
                let key = record.bytes()?;
                let body = match record.byte()? {
                    0 => None,
                    _ => Some(key_body(&mut record)?),
                };
                Some(Native::Key { event, key, body })
            }
            Kind::Words => Some(Native::Words(items(&mut record)?)),
            Kind::Entries => {
                let (key, id) = (record.bytes()?, record.bytes()?);
                Some(Native::Entry {
                    key,
                    id,
                    fields: pairs(&mut record)?,
                })
            }
        };
        native.map(|native| (native, bytes))
    }
}

impl<'a> Native<'a> {
    /// The same without what takes long to make a value of.
    pub(super) fn without_value(&self) -> Self {
        match self {
            Self::Key {
                event,
                key,
                body: Some(body),
            } => Self::Key {
                event: *event,
                key,
                body: Some(KeyBody {
                    kind: body.kind,
                    value: Value::None,
                }),
            },
            other => other.clone(),
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
