//! Keys: walking over them, and reading their values into a chunk.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use redis_module::raw as api;

use super::events::past_hooks;
use super::server::{Database, User};
use super::{OK, RedisModuleCtx, RedisModuleString, Server, bytes, string};
use crate::engine::{Chunk, KeyType};

/// Where a walk is.
struct Cursor(NonNull<api::RedisModuleScanCursor>);

// SAFETY: a cursor is plain memory; it is used under the server lock.
unsafe impl Send for Cursor {}

impl Cursor {
    fn new() -> Self {
        // SAFETY: takes nothing.
        let cursor = unsafe { call!(RedisModule_ScanCursorCreate) };
        Self(NonNull::new(cursor).expect("the server's allocator never returns null"))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // SAFETY: the cursor is ours.
        unsafe { call!(RedisModule_ScanCursorDestroy, self.0.as_ptr()) }
    }
}

thread_local! {
    /// For the fields of one key at a time.
    static FIELDS: Cursor = Cursor::new();
    /// Whether this thread opens a key: what that does to the key is nobody's event.
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

/// Whether an event of a missing key is due to this thread opening it for a record.
pub(in crate::redis) fn is_opening() -> bool {
    OPENING.get()
}

/// A walk over all keys, in steps.
pub(in crate::redis) struct Scan(Cursor);

/// What a walk does with each key.
pub(in crate::redis) trait Visitor {
    /// A key that is there.
    fn key(&mut self, name: &[u8], key: &Key<'_>);
}

struct Visit<'a> {
    server: Server,
    visitor: &'a mut dyn Visitor,
}

impl Scan {
    /// A walk from the beginning.
    pub(in crate::redis) fn new() -> Self {
        Self(Cursor::new())
    }

    /// One step; `false` when all keys were seen. The server lock is held.
    pub(in crate::redis) fn step(&mut self, server: Server, visitor: &mut dyn Visitor) -> bool {
        /// # Safety
        /// Called by the server inside `step`, with what that handed over.
        unsafe extern "C" fn visit(
            _ctx: *mut RedisModuleCtx,
            name: *mut RedisModuleString,
            key: *mut api::RedisModuleKey,
            data: *mut c_void,
        ) {
            // SAFETY: see above.
            unsafe {
                let visit = &mut *data.cast::<Visit<'_>>();
                if let Some(raw) = NonNull::new(key) {
                    let key = Key {
                        server: visit.server,
                        raw,
                        name,
                        scope: PhantomData,
                    };
                    visit.visitor.key(bytes(name), &key);
                }
            }
        }
        let mut visit_data = Visit { server, visitor };
        // SAFETY: the lock is held; `visit_data` outlives the call.
        unsafe {
            let data = (&raw mut visit_data).cast();
            call!(
                RedisModule_Scan,
                server.raw(),
                self.0.0.as_ptr(),
                Some(visit),
                data
            ) != 0
        }
    }
}

/// Longer strings are never packed by any server: as an integer, or in one piece with their object.
const LONGEST_PACKED: usize = 256;

const NO_EXPIRE: i64 = api::REDISMODULE_NO_EXPIRE as i64;

/// An open key.
pub(in crate::redis) struct Key<'a> {
    server: Server,
    raw: NonNull<api::RedisModuleKey>,
    name: *mut RedisModuleString,
    scope: PhantomData<&'a ()>,
}

/// Called with an element of a hash or set, and its value if it has one.
type EachElement<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// Opens a key of a database by name, for `read`; it may not exist. `None` if `user` may not read it.
/// The server lock is held.
pub(in crate::redis) fn with_key<R>(
    server: Server,
    user: &User,
    database: c_int,
    name: &[u8],
    read: impl FnOnce(Option<&Key<'_>>) -> R,
) -> Option<R> {
    let _database = Database::select(server, database);
    // SAFETY: the lock is held; the name is released after `read`.
    unsafe {
        let string = string(name);
        let mode = api::REDISMODULE_READ;
        let out = user
            .may_read(string)
            .then(|| open(server, string, mode, read));
        call!(RedisModule_FreeString, ptr::null_mut(), string);
        out
    }
}

/// Opens a key, for `read`.
///
/// # Safety
/// The server lock is held; `name` is a string of the server.
unsafe fn open<R>(
    server: Server,
    name: *mut RedisModuleString,
    mode: u32,
    read: impl FnOnce(Option<&Key<'_>>) -> R,
) -> R {
    // SAFETY: as the caller promises; the key is closed after `read`.
    unsafe {
        let before = OPENING.replace(true);
        let raw = call!(RedisModule_OpenKey, server.raw(), name, mode as c_int);
        OPENING.set(before);
        let key = NonNull::new(raw.cast()).map(|raw| Key {
            server,
            raw,
            name,
            scope: PhantomData,
        });
        let out = read(key.as_ref());
        if let Some(key) = key {
            call!(RedisModule_CloseKey, key.raw.as_ptr());
        }
        out
    }
}

/// The type of a key of a database, without touching it. The server lock is held.
pub(in crate::redis) fn key_type(server: Server, database: c_int, name: &[u8]) -> KeyType {
    let _database = Database::select(server, database);
    look(server, name, |key| key.map_or(KeyType::Empty, Key::kind))
}

/// Opens a stream as the server itself, without touching it; not called if there is none. The
/// server lock is held.
pub(in crate::redis) fn with_stream(server: Server, name: &[u8], read: impl FnOnce(&Key<'_>)) {
    look(server, name, |key| {
        if let Some(key) = key.filter(|key| key.kind() == KeyType::Stream) {
            read(key);
        }
    });
}

/// The newest entry of a stream. The server lock is held.
pub(in crate::redis) fn last_entry(server: Server, name: &[u8]) -> Option<EntryId> {
    look(server, name, |key| {
        let key = key.filter(|key| key.kind() == KeyType::Stream)?;
        let mut id = api::RedisModuleStreamID { ms: 0, seq: 0 };
        let (mut fields, null) = (0, ptr::null_mut());
        // SAFETY: the key is open and holds a stream.
        unsafe {
            let raw = key.raw.as_ptr();
            let reverse = api::REDISMODULE_STREAM_ITERATOR_REVERSE as c_int;
            if call!(RedisModule_StreamIteratorStart, raw, reverse, null, null) != OK {
                return None;
            }
            let found = call!(
                RedisModule_StreamIteratorNextID,
                raw,
                &raw mut id,
                &raw mut fields
            ) == OK;
            call!(RedisModule_StreamIteratorStop, raw);
            found.then_some(EntryId(id.ms, id.seq))
        }
    })
}

fn look<R>(server: Server, name: &[u8], read: impl FnOnce(Option<&Key<'_>>) -> R) -> R {
    // Servers before 7.2 know only some of these; they ignore the others.
    let mode = api::REDISMODULE_READ
        | api::REDISMODULE_OPEN_KEY_NOTOUCH
        | api::REDISMODULE_OPEN_KEY_NONOTIFY
        | api::REDISMODULE_OPEN_KEY_NOSTATS
        | api::REDISMODULE_OPEN_KEY_NOEXPIRE
        | api::REDISMODULE_OPEN_KEY_NOEFFECTS;
    // SAFETY: the lock is held; the string is ours and freed.
    unsafe {
        let string = string(name);
        let out = open(server, string, mode, read);
        call!(RedisModule_FreeString, ptr::null_mut(), string);
        out
    }
}

impl Key<'_> {
    /// Whether a user may read it.
    pub(in crate::redis) fn is_readable_by(&self, user: &User) -> bool {
        // SAFETY: the name lives as long as the key is open.
        unsafe { user.may_read(self.name) }
    }

    /// Whether its time is over although it was not removed yet.
    #[inline]
    pub(in crate::redis) fn is_expired(&self) -> bool {
        // SAFETY: the key is open.
        unsafe { call!(RedisModule_GetExpire, self.raw.as_ptr()) == 0 }
    }

    /// Its type. Streams are [`KeyType::Stream`].
    #[inline]
    pub(in crate::redis) fn kind(&self) -> KeyType {
        // SAFETY: the key is open.
        let kind = unsafe { call!(RedisModule_KeyType, self.raw.as_ptr()) };
        match isize::try_from(kind).unwrap_or(-1) {
            api::REDISMODULE_KEYTYPE_STRING => KeyType::String,
            api::REDISMODULE_KEYTYPE_LIST => KeyType::List,
            api::REDISMODULE_KEYTYPE_HASH => KeyType::Hash,
            api::REDISMODULE_KEYTYPE_SET => KeyType::Set,
            api::REDISMODULE_KEYTYPE_ZSET => KeyType::Zset,
            api::REDISMODULE_KEYTYPE_MODULE => KeyType::Module,
            api::REDISMODULE_KEYTYPE_STREAM => KeyType::Stream,
            api::REDISMODULE_KEYTYPE_EMPTY => KeyType::Empty,
            _ => KeyType::Unknown,
        }
    }

    /// Writes the value of a string.
    ///
    /// The direct way unpacks a short one, which stays so: it then takes more memory, and the command
    /// whose event is handled may still use what it was before (INCRBYFLOAT does). GET changes nothing;
    /// but it removes an open key whose time ends just now, which it does not while a command runs.
    pub(in crate::redis) fn string(&self, chunk: &mut Chunk) {
        // SAFETY: the key is open and holds a string.
        let (len, expires) = unsafe {
            let key = self.raw.as_ptr();
            let expires = call!(RedisModule_GetExpire, key);
            (call!(RedisModule_ValueLength, key), expires)
        };
        let packed = len <= LONGEST_PACKED;
        if packed
            && (super::events::in_event() || expires == NO_EXPIRE)
            && let Some(value) = self.get()
        {
            return chunk.string(&value);
        }
        let mut len = 0;
        // SAFETY: as above; the buffer is valid until the key changes.
        unsafe {
            let mode = api::REDISMODULE_READ as c_int;
            let start = call!(RedisModule_StringDMA, self.raw.as_ptr(), &raw mut len, mode);
            let value = if start.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(start.cast::<u8>(), len)
            };
            chunk.string(value);
        }
    }

    /// The value of a string by the command GET, past all hooks. `None` if the server does not run it:
    /// the slot of the key is not, or not only, of this node.
    fn get(&self) -> Option<Vec<u8>> {
        // SAFETY: the lock is held and the name valid; the reply is ours and freed.
        past_hooks(|| unsafe {
            let call = api::RedisModule_Call.expect("every server has RedisModule_Call");
            let reply = call(self.server.raw(), c"GET".as_ptr(), c"s".as_ptr(), self.name);
            if reply.is_null() {
                return None;
            }
            let mut len = 0;
            let kind = call!(RedisModule_CallReplyType, reply);
            let start = call!(RedisModule_CallReplyStringPtr, reply, &raw mut len);
            let value = if start.is_null() || kind != api::REDISMODULE_REPLY_STRING as c_int {
                None
            } else {
                Some(std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec())
            };
            call!(RedisModule_FreeCallReply, reply);
            value
        })
    }

    /// Writes fields and values of a hash; their number.
    pub(in crate::redis) fn hash(&self, chunk: &mut Chunk) -> usize {
        self.scan(&mut |field, value| chunk.pair(field, value.unwrap_or_default()))
    }

    /// Writes the members of a set; their number.
    pub(in crate::redis) fn set(&self, chunk: &mut Chunk) -> usize {
        self.scan(&mut |member, _| chunk.item(member))
    }

    fn scan(&self, each: &mut EachElement<'_>) -> usize {
        struct Each<'a, 'b> {
            each: &'a mut EachElement<'b>,
            count: usize,
        }
        /// # Safety
        /// Called by the server inside `scan`, with what that handed over.
        unsafe extern "C" fn visit(
            _key: *mut api::RedisModuleKey,
            field: *mut RedisModuleString,
            value: *mut RedisModuleString,
            data: *mut c_void,
        ) {
            // SAFETY: see above; a set's elements have no value.
            unsafe {
                let data = &mut *data.cast::<Each<'_, '_>>();
                data.count += 1;
                let value = if value.is_null() {
                    None
                } else {
                    Some(bytes(value))
                };
                (data.each)(bytes(field), value);
            }
        }
        let mut data = Each { each, count: 0 };
        // SAFETY: the key is open and a hash or set; the cursor is used for one key at a time.
        FIELDS.with(|fields| unsafe {
            let (key, cursor) = (self.raw.as_ptr(), fields.0.as_ptr());
            call!(RedisModule_ScanCursorRestart, cursor);
            while call!(
                RedisModule_ScanKey,
                key,
                cursor,
                Some(visit),
                (&raw mut data).cast()
            ) != 0
            {}
        });
        data.count
    }

    /// Writes the elements of a list; their number.
    pub(in crate::redis) fn list(&self, chunk: &mut Chunk) -> usize {
        // SAFETY: the key is open and holds a list; each element is ours and freed.
        unsafe {
            let key = self.raw.as_ptr();
            let len = call!(RedisModule_ValueLength, key);
            let mut written = 0;
            for at in 0..len {
                let at = c_long::try_from(at).unwrap_or(c_long::MAX);
                let element = call!(RedisModule_ListGet, key, at);
                if element.is_null() {
                    break;
                }
                chunk.item(bytes(element));
                call!(RedisModule_FreeString, ptr::null_mut(), element);
                written += 1;
            }
            written
        }
    }

    /// Writes members and scores of a sorted set, lowest first; their number.
    pub(in crate::redis) fn zset(&self, chunk: &mut Chunk) -> usize {
        let mut count = 0;
        // SAFETY: the key is open and holds a sorted set; each member is ours and freed.
        unsafe {
            let key = self.raw.as_ptr();
            call!(
                RedisModule_ZsetFirstInScoreRange,
                key,
                f64::NEG_INFINITY,
                f64::INFINITY,
                0,
                0
            );
            while call!(RedisModule_ZsetRangeEndReached, key) == 0 {
                let mut score = 0.0;
                let member = call!(RedisModule_ZsetRangeCurrentElement, key, &raw mut score);
                if !member.is_null() {
                    chunk.pair(bytes(member), score.to_string().as_bytes());
                    call!(RedisModule_FreeString, ptr::null_mut(), member);
                    count += 1;
                }
                call!(RedisModule_ZsetRangeNext, key);
            }
            call!(RedisModule_ZsetRangeStop, key);
        }
        count
    }

    /// Writes the entries of a stream; their number.
    pub(in crate::redis) fn stream(&self, chunk: &mut Chunk) -> usize {
        let mut count = 0;
        self.entries(None, &mut |id, fields| {
            chunk.stream_entry(id.to_string().as_bytes(), fields.len());
            fields.write(chunk);
            count += 1;
            true
        });
        count
    }

    /// Calls `each` with the entries after an id, for as long as it says so.
    pub(in crate::redis) fn entries(
        &self,
        after: Option<EntryId>,
        each: &mut dyn FnMut(EntryId, &mut Fields<'_>) -> bool,
    ) {
        // SAFETY: the key is open and holds a stream.
        unsafe {
            let key = self.raw.as_ptr();
            let mut start = after.map(|id| api::RedisModuleStreamID {
                ms: id.0,
                seq: id.1,
            });
            let start = start.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
            let exclusive = if after.is_some() {
                api::REDISMODULE_STREAM_ITERATOR_EXCLUSIVE as c_int
            } else {
                0
            };
            if call!(
                RedisModule_StreamIteratorStart,
                key,
                exclusive,
                start,
                ptr::null_mut()
            ) != OK
            {
                return;
            }
            let mut id = api::RedisModuleStreamID { ms: 0, seq: 0 };
            let mut fields = 0;
            while call!(
                RedisModule_StreamIteratorNextID,
                key,
                &raw mut id,
                &raw mut fields
            ) == OK
            {
                let count = usize::try_from(fields).unwrap_or(0);
                let mut fields = Fields {
                    key,
                    count,
                    left: count,
                    scope: PhantomData,
                };
                if !each(EntryId(id.ms, id.seq), &mut fields) {
                    break;
                }
                // The iterator goes on only behind the last field.
                fields.skip();
            }
            call!(RedisModule_StreamIteratorStop, key);
        }
    }
}

/// The id of an entry: milliseconds and sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::redis) struct EntryId(pub(in crate::redis) u64, pub(in crate::redis) u64);

impl EntryId {
    /// Reads an id; the sequence number may be missing.
    pub(in crate::redis) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        Some(Self(ms.parse().ok()?, seq.parse().ok()?))
    }

    /// The highest id below it, if there is one.
    pub(in crate::redis) fn before(self) -> Option<Self> {
        match self.1.checked_sub(1) {
            Some(seq) => Some(Self(self.0, seq)),
            None => Some(Self(self.0.checked_sub(1)?, u64::MAX)),
        }
    }

    /// The lowest id above it, if there is one.
    pub(in crate::redis) fn next(self) -> Option<Self> {
        match self.1.checked_add(1) {
            Some(seq) => Some(Self(self.0, seq)),
            None => Some(Self(self.0.checked_add(1)?, 0)),
        }
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// The fields of the entry that an iterator is at.
pub(in crate::redis) struct Fields<'a> {
    key: *mut api::RedisModuleKey,
    count: usize,
    /// How many were not read.
    left: usize,
    scope: PhantomData<&'a ()>,
}

impl Fields<'_> {
    /// How many there are.
    pub(in crate::redis) fn len(&self) -> usize {
        self.count
    }

    /// Passes over those that were not read.
    fn skip(&mut self) {
        for _ in 0..std::mem::take(&mut self.left) {
            // SAFETY: the iterator is at this entry; nothing is asked for.
            unsafe {
                let null = ptr::null_mut();
                call!(RedisModule_StreamIteratorNextField, self.key, null, null);
            }
        }
    }

    /// Writes fields and values.
    pub(in crate::redis) fn write(&mut self, chunk: &mut Chunk) {
        for _ in 0..std::mem::take(&mut self.left) {
            // SAFETY: the iterator is at this entry; fields and values are ours and freed.
            unsafe {
                let (mut field, mut value) = (ptr::null_mut(), ptr::null_mut());
                let (field_at, value_at) = (&raw mut field, &raw mut value);
                if call!(
                    RedisModule_StreamIteratorNextField,
                    self.key,
                    field_at,
                    value_at
                ) != OK
                {
                    // The entry said how many: keep the promise made to the chunk.
                    chunk.pair(b"", b"");
                    continue;
                }
                chunk.pair(bytes(field), bytes(value));
                call!(RedisModule_FreeString, ptr::null_mut(), field);
                call!(RedisModule_FreeString, ptr::null_mut(), value);
            }
        }
    }
}
