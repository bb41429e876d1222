//! Keys: walking over them, and reading their values into a chunk.

use std::ffi::{c_int, c_long, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use redis_module::raw as api;

use super::server::User;
use super::{OK, RedisModuleCtx, RedisModuleString, Server, bytes, string};
use crate::engine::{Chunk, KeyType};

/// A walk over all keys, in steps.
pub(in crate::redis) struct Scan {
    keys: NonNull<api::RedisModuleScanCursor>,
    fields: NonNull<api::RedisModuleScanCursor>,
}

// SAFETY: a cursor is plain memory; it is used under the server lock.
unsafe impl Send for Scan {}

/// What a walk does with each key.
pub(in crate::redis) trait Visitor {
    /// A key that is there.
    fn key(&mut self, name: &[u8], key: &Key<'_>);
}

struct Visit<'a> {
    visitor: &'a mut dyn Visitor,
    fields: NonNull<api::RedisModuleScanCursor>,
}

impl Scan {
    /// A walk from the beginning.
    pub(in crate::redis) fn new() -> Self {
        let cursor = || {
            // SAFETY: takes nothing.
            let cursor = unsafe { call!(RedisModule_ScanCursorCreate) };
            NonNull::new(cursor).expect("the server's allocator never returns null")
        };
        Self {
            keys: cursor(),
            fields: cursor(),
        }
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
                        raw,
                        name,
                        fields: visit.fields,
                        scope: PhantomData,
                    };
                    visit.visitor.key(bytes(name), &key);
                }
            }
        }
        let mut visit_data = Visit {
            visitor,
            fields: self.fields,
        };
        // SAFETY: the lock is held; `visit_data` outlives the call.
        unsafe {
            let data = (&raw mut visit_data).cast();
            call!(
                RedisModule_Scan,
                server.raw(),
                self.keys.as_ptr(),
                Some(visit),
                data
            ) != 0
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // SAFETY: both cursors are ours.
        unsafe {
            call!(RedisModule_ScanCursorDestroy, self.keys.as_ptr());
            call!(RedisModule_ScanCursorDestroy, self.fields.as_ptr());
        }
    }
}

/// An open key.
pub(in crate::redis) struct Key<'a> {
    raw: NonNull<api::RedisModuleKey>,
    name: *mut RedisModuleString,
    fields: NonNull<api::RedisModuleScanCursor>,
    scope: PhantomData<&'a ()>,
}

/// Called with an element of a hash or set, and its value if it has one.
type EachElement<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// Opens a key by name, for `read`; it may not exist. `None` if `user` may not read it. The server
/// lock is held.
pub(in crate::redis) fn with_key<R>(
    server: Server,
    scan: &Scan,
    user: &User,
    name: &[u8],
    read: impl FnOnce(Option<&Key<'_>>) -> R,
) -> Option<R> {
    // SAFETY: the lock is held; name and key are released after `read`.
    unsafe {
        let null = ptr::null_mut();
        let string = string(name);
        let out = user.may_read(string).then(|| {
            let mode = api::REDISMODULE_READ as c_int;
            let raw = call!(RedisModule_OpenKey, server.raw(), string, mode);
            let key = NonNull::new(raw.cast()).map(|raw| Key {
                raw,
                name: string,
                fields: scan.fields,
                scope: PhantomData,
            });
            let out = read(key.as_ref());
            if let Some(key) = key {
                call!(RedisModule_CloseKey, key.raw.as_ptr());
            }
            out
        });
        call!(RedisModule_FreeString, null, string);
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
    pub(in crate::redis) fn string(&self, chunk: &mut Chunk) {
        let mut len = 0;
        // SAFETY: the key is open and holds a string; the buffer is valid until the key changes.
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
        unsafe {
            let (key, cursor) = (self.raw.as_ptr(), self.fields.as_ptr());
            call!(RedisModule_ScanCursorRestart, cursor);
            while call!(
                RedisModule_ScanKey,
                key,
                cursor,
                Some(visit),
                (&raw mut data).cast()
            ) != 0
            {}
        }
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
        // SAFETY: the key is open and holds a stream; fields and values are ours and freed.
        unsafe {
            let key = self.raw.as_ptr();
            if call!(
                RedisModule_StreamIteratorStart,
                key,
                0,
                ptr::null_mut(),
                ptr::null_mut()
            ) != OK
            {
                return 0;
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
                let name = format!("{}-{}", id.ms, id.seq);
                chunk.stream_entry(name.as_bytes(), usize::try_from(fields).unwrap_or(0));
                for _ in 0..fields {
                    let (mut field, mut value) = (ptr::null_mut(), ptr::null_mut());
                    let (field_at, value_at) = (&raw mut field, &raw mut value);
                    if call!(RedisModule_StreamIteratorNextField, key, field_at, value_at) != OK {
                        // The entry said how many: keep the promise made to the chunk.
                        chunk.pair(b"", b"");
                        continue;
                    }
                    chunk.pair(bytes(field), bytes(value));
                    call!(RedisModule_FreeString, ptr::null_mut(), field);
                    call!(RedisModule_FreeString, ptr::null_mut(), value);
                }
                count += 1;
            }
            call!(RedisModule_StreamIteratorStop, key);
        }
        count
    }
}
