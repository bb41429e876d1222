//! The server's module API, made safe: contexts, arguments, replies, keys, blocked clients. The
//! room's only unsafe. Calls that not every server has are looked up when they are used.
#![expect(
    unsafe_code,
    reason = "the border to the server; every block says why it is sound"
)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int, c_long, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use redis_module::raw as api;

use super::commands::Command;
use crate::engine::{self, Chunk, KeyType, LogLevel, Reply};
use crate::python::Allocator;

pub(super) use api::{RedisModuleCtx, RedisModuleInfoCtx, RedisModuleString};

/// Calls a function of the API that every server we load in has.
macro_rules! call {
    ($function:ident $(, $argument:expr)* $(,)?) => {
        (api::$function.expect(concat!("every server has ", stringify!($function))))($($argument),*)
    };
}

const OK: c_int = api::REDISMODULE_OK as c_int;

/// Called by the server when it loads the module.
#[unsafe(no_mangle)]
extern "C" fn RedisModule_OnLoad(
    ctx: *mut RedisModuleCtx,
    argv: *mut *mut RedisModuleString,
    argc: c_int,
) -> c_int {
    super::on_load(ctx, argv, argc)
}

/// Called by the server to unload the module, which would leave the interpreter behind: refused.
#[unsafe(no_mangle)]
extern "C" fn RedisModule_OnUnload(_ctx: *mut RedisModuleCtx) -> c_int {
    FAILED
}

/// The result of a callback that went well.
pub(super) const DONE: c_int = OK;

/// The result of a load that failed.
pub(super) const FAILED: c_int = api::REDISMODULE_ERR as c_int;

/// The bytes of a string of the server.
///
/// # Safety
/// `string` is valid for as long as the slice is used.
unsafe fn bytes<'a>(string: *const RedisModuleString) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: as the caller promises; the pointer and length describe the string's buffer.
    unsafe {
        let start = call!(RedisModule_StringPtrLen, string, &raw mut len);
        if start.is_null() {
            &[]
        } else {
            std::slice::from_raw_parts(start.cast(), len)
        }
    }
}

fn c_string(text: &str) -> CString {
    let clean: Vec<u8> = text.bytes().filter(|&byte| byte != 0).collect();
    CString::new(clean).unwrap_or_default()
}

/// Tells the server who we are and fetches its API.
pub(super) fn init(ctx: *mut RedisModuleCtx, name: &CStr, version: c_int) -> bool {
    // SAFETY: `ctx` is what the server gave to the load function.
    unsafe {
        let apiver = api::REDISMODULE_APIVER_1 as c_int;
        api::Export_RedisModule_Init(ctx, name.as_ptr(), version, apiver) == OK
    }
}

/// The server's allocator, for Python's memory to be accounted there.
pub(super) fn allocator() -> Option<Allocator> {
    /// # Safety
    /// `pointer` came from the server's allocator.
    unsafe extern "C" fn size(pointer: *mut c_void) -> usize {
        // SAFETY: as the caller promises; only handed out where the function exists.
        unsafe { api::RedisModule_MallocSize.map_or(0, |size| size(pointer)) }
    }
    // SAFETY: the API's statics are set at load and never after.
    unsafe {
        api::RedisModule_MallocSize?;
        Some(Allocator {
            alloc: api::RedisModule_TryAlloc?,
            free: api::RedisModule_Free?,
            size,
        })
    }
}

/// The words of a command.
pub(super) struct Args<'a>(Vec<&'a [u8]>);

impl<'a> Args<'a> {
    /// # Safety contract of the caller (callbacks of the server only)
    /// `argv` holds `argc` strings that live as long as the callback.
    fn new(argv: *mut *mut RedisModuleString, argc: c_int) -> Self {
        let count = usize::try_from(argc).unwrap_or(0);
        // SAFETY: see above.
        let words = (0..count).map(|at| unsafe { bytes(*argv.add(at)) });
        Self(words.collect())
    }

    /// Words after the command's name.
    pub(super) fn rest(&self) -> &[&'a [u8]] {
        self.0.get(1..).unwrap_or_default()
    }

    /// All words.
    pub(super) fn all(&self) -> &[&'a [u8]] {
        &self.0
    }
}

/// A context of the server: where replies go.
#[derive(Clone, Copy)]
pub(super) struct Ctx<'a> {
    raw: *mut RedisModuleCtx,
    scope: PhantomData<&'a ()>,
}

impl<'a> Ctx<'a> {
    /// The context of a callback, valid while that runs.
    pub(super) fn of_callback(raw: *mut RedisModuleCtx) -> Self {
        Self {
            raw,
            scope: PhantomData,
        }
    }

    /// The words of the command.
    pub(super) fn args(self, argv: *mut *mut RedisModuleString, argc: c_int) -> Args<'a> {
        Args::new(argv, argc)
    }

    /// A bulk string.
    pub(super) fn bulk(self, text: &[u8]) {
        // SAFETY: the context is valid; the server copies the text.
        unsafe {
            call!(
                RedisModule_ReplyWithStringBuffer,
                self.raw,
                text.as_ptr().cast(),
                text.len()
            );
        }
    }

    /// A simple string. Line ends and NUL, which the protocol does not allow, become blanks.
    pub(super) fn status(self, text: &[u8]) {
        let line = line(text);
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithSimpleString, self.raw, line.as_ptr());
        }
    }

    /// An error line, as it is.
    pub(super) fn error(self, text: &[u8]) {
        let line = line(text);
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithError, self.raw, line.as_ptr());
        }
    }

    /// An integer.
    pub(super) fn integer(self, number: i64) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithLongLong, self.raw, number);
        }
    }

    /// The head of an array; its elements follow.
    pub(super) fn array(self, len: usize) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(
                RedisModule_ReplyWithArray,
                self.raw,
                c_long::try_from(len).unwrap_or(c_long::MAX)
            );
        }
    }

    /// The host's error for a wrong number of words.
    pub(super) fn wrong_arity(self) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_WrongArity, self.raw);
        }
    }

    /// Whether the client may be blocked: no transaction, no script.
    pub(super) fn may_block(self) -> bool {
        let no = api::REDISMODULE_CTX_FLAGS_MULTI
            | api::REDISMODULE_CTX_FLAGS_LUA
            | api::REDISMODULE_CTX_FLAGS_DENY_BLOCKING;
        // SAFETY: the context is valid.
        let flags = unsafe { call!(RedisModule_GetContextFlags, self.raw) };
        flags & no as c_int == 0
    }

    /// The name of the user that sent the command.
    pub(super) fn user(self) -> String {
        // SAFETY: the context is valid; the string is ours and freed.
        unsafe {
            let Some(name) = api::RedisModule_GetCurrentUserName else {
                return "default".into();
            };
            let name = name(self.raw);
            if name.is_null() {
                return "default".into();
            }
            let user = String::from_utf8_lossy(bytes(name)).into_owned();
            call!(RedisModule_FreeString, ptr::null_mut(), name);
            user
        }
    }

    /// Blocks the client; who holds the result answers it.
    pub(super) fn block(self) -> BlockedClient {
        // SAFETY: the context is valid; without callbacks the reply is made through a context of
        // the blocked client.
        let client = unsafe { call!(RedisModule_BlockClient, self.raw, None, None, None, 0) };
        BlockedClient(client)
    }
}

/// Text as one line of the protocol.
fn line(text: &[u8]) -> CString {
    let clean: Vec<u8> = text
        .iter()
        .map(|&byte| {
            if b"\r\n\0".contains(&byte) {
                b' '
            } else {
                byte
            }
        })
        .collect();
    CString::new(clean).unwrap_or_default()
}

/// A client that waits for its reply. Any thread may give it, without the server lock.
pub(super) struct BlockedClient(*mut api::RedisModuleBlockedClient);

// SAFETY: the API allows to unblock a client, and to reply to it, from any thread.
unsafe impl Send for BlockedClient {}

impl BlockedClient {
    /// Replies, and lets the client go on.
    pub(super) fn reply(self, reply: impl FnOnce(Ctx<'_>)) {
        // SAFETY: the client is blocked until `UnblockClient`, which is called once, here (`self`
        // is consumed). Replies collect in a buffer of this client's own.
        unsafe {
            let raw = call!(RedisModule_GetThreadSafeContext, self.0);
            reply(Ctx {
                raw,
                scope: PhantomData,
            });
            call!(RedisModule_FreeThreadSafeContext, raw);
            call!(RedisModule_UnblockClient, self.0, ptr::null_mut());
        }
    }
}

/// A context that lives as long as the module, for work outside of commands.
#[derive(Clone, Copy)]
pub(super) struct Server(NonNull<RedisModuleCtx>);

// SAFETY: used under the server lock only, but for logging and the lock itself, which the API
// allows anywhere.
unsafe impl Send for Server {}
// SAFETY: as above.
unsafe impl Sync for Server {}

impl Server {
    /// Made once, when the module loads.
    pub(super) fn new(ctx: *mut RedisModuleCtx) -> Option<Self> {
        // SAFETY: `ctx` is what the server gave to the load function.
        let raw = unsafe { call!(RedisModule_GetDetachedThreadSafeContext, ctx) };
        NonNull::new(raw).map(Self)
    }

    fn raw(self) -> *mut RedisModuleCtx {
        self.0.as_ptr()
    }

    /// Takes the server lock.
    pub(super) fn lock(self) {
        // SAFETY: the context is valid for ever; `lock.rs` sees to it that no thread locks twice.
        unsafe { call!(RedisModule_ThreadSafeContextLock, self.raw()) }
    }

    /// Takes the server lock if nobody has it.
    pub(super) fn try_lock(self) -> bool {
        // SAFETY: as `lock`.
        unsafe { call!(RedisModule_ThreadSafeContextTryLock, self.raw()) == OK }
    }

    /// Gives the server lock back.
    pub(super) fn unlock(self) {
        // SAFETY: as `lock`; only called by who holds it.
        unsafe { call!(RedisModule_ThreadSafeContextUnlock, self.raw()) }
    }

    /// Writes a line to the server's log. Needs no lock.
    pub(super) fn log(self, level: LogLevel, message: &str) {
        let level = match level {
            LogLevel::Debug => c"debug",
            LogLevel::Verbose => c"verbose",
            LogLevel::Notice => c"notice",
            LogLevel::Warning => c"warning",
        };
        let message = c_string(message);
        // SAFETY: the context only names the module here; the format takes one string.
        unsafe {
            call!(
                RedisModule_Log,
                self.raw(),
                level.as_ptr(),
                c"%s".as_ptr(),
                message.as_ptr()
            );
        }
    }

    /// Runs a command as `user`, replicated. The server lock is held. The error is the text of an
    /// error reply, or says why the server did not run the command.
    pub(super) fn call(self, user: &str, command: &engine::Command) -> Result<Reply, String> {
        // SAFETY: the lock is held.
        let user = unsafe { User::find(self, user)? };
        self.call_bound(if user.bind() { c"!Cv" } else { c"!v" }, command)
    }

    /// Runs a command that only reads, with all rights. The server lock is held.
    pub(super) fn read(self, command: &engine::Command) -> Result<Reply, String> {
        self.call_bound(c"v", command)
    }

    fn call_bound(self, format: &CStr, command: &engine::Command) -> Result<Reply, String> {
        let Some(name) = command.name() else {
            return Err("no command was given".into());
        };
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            return Err(no_such_command());
        };
        // SAFETY: the lock is held (see above); strings and reply are freed before the end.
        unsafe {
            let strings: Vec<_> = command
                .words()
                .skip(1)
                .map(|arg| {
                    call!(
                        RedisModule_CreateString,
                        ptr::null_mut(),
                        arg.as_ptr().cast(),
                        arg.len()
                    )
                })
                .collect();
            set_errno(0);
            let reply = (api::RedisModule_Call.expect("every server has RedisModule_Call"))(
                self.raw(),
                name.as_ptr(),
                format.as_ptr(),
                strings.as_ptr(),
                strings.len(),
            );
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            for string in strings {
                call!(RedisModule_FreeString, ptr::null_mut(), string);
            }
            if reply.is_null() {
                return Err(refusal(errno, &name.to_string_lossy()));
            }
            let kind = call!(RedisModule_CallReplyType, reply);
            let value = convert(reply);
            call!(RedisModule_FreeCallReply, reply);
            match value {
                Reply::Error(text) if kind == api::REDISMODULE_REPLY_ERROR as c_int => {
                    Err(String::from_utf8_lossy(&text).trim_end().to_owned())
                }
                value => Ok(value),
            }
        }
    }
}

thread_local! {
    /// The name that this thread asked for last: one thread runs many commands of one user.
    static USER_NAME: RefCell<Option<(String, *mut RedisModuleString)>> = RefCell::default();
}

/// A name as a string of the server, which stays this thread's.
fn user_name(name: &str) -> *mut RedisModuleString {
    USER_NAME.with_borrow_mut(|cached| match cached {
        Some((cached, string)) if cached == name => *string,
        _ => {
            // SAFETY: the new string is ours; the one before was only ever used on this thread.
            unsafe {
                let null = ptr::null_mut();
                let string = call!(
                    RedisModule_CreateString,
                    null,
                    name.as_ptr().cast(),
                    name.len()
                );
                if let Some((_, before)) = cached.replace((name.to_owned(), string)) {
                    call!(RedisModule_FreeString, null, before);
                }
                string
            }
        }
    })
}

/// The user a command runs as, bound to the context while it lives.
struct User {
    server: Server,
    user: Option<NonNull<api::RedisModuleUser>>,
}

impl User {
    /// Looked up each time: a user may be deleted at any moment.
    ///
    /// # Safety
    /// The server lock is held while the result lives.
    unsafe fn find(server: Server, name: &str) -> Result<Self, String> {
        // SAFETY: as the caller promises; the name is a string of ours.
        unsafe {
            let Some(find) = api::RedisModule_GetModuleUserFromUserName else {
                return Ok(Self { server, user: None });
            };
            let user = find(user_name(name));
            let user = NonNull::new(user).ok_or_else(|| {
                format!("NOPERM the user '{name}' that this code runs as is gone")
            })?;
            Ok(Self {
                server,
                user: Some(user),
            })
        }
    }

    /// Binds it, where the server can; whether it did.
    fn bind(&self) -> bool {
        let Some(user) = self.user else { return false };
        // SAFETY: user and context are valid.
        unsafe {
            match api::RedisModule_SetContextUser {
                Some(set) => {
                    set(self.server.raw(), user.as_ptr());
                    true
                }
                None => false,
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let Some(user) = self.user else { return };
        // SAFETY: the user is ours (the handle, not the account) and bound nowhere afterwards.
        unsafe {
            if let Some(set) = api::RedisModule_SetContextUser {
                set(self.server.raw(), ptr::null());
            }
            call!(RedisModule_FreeModuleUser, user.as_ptr());
        }
    }
}

fn set_errno(value: c_int) {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = value }
}

fn no_such_command() -> String {
    refusal(libc::ENOENT, "")
}

/// Why the server did not run a command: the texts that scripts of RedisGears 1.x know.
fn refusal(errno: c_int, name: &str) -> String {
    match errno {
        libc::ENOENT => "No such file or directory".into(),
        libc::EINVAL => "Invalid argument".into(),
        libc::EPERM => "Operation not permitted".into(),
        libc::EACCES => format!(
            "NOPERM the user that this code runs as has no permissions to run '{name}' with these \
             arguments"
        ),
        libc::EROFS => "READONLY You can't write against a read only replica.".into(),
        libc::ENETDOWN => "CLUSTERDOWN The cluster is down".into(),
        libc::ENOTSUP => "the server does not support this call".into(),
        _ => "Failed executing command".into(),
    }
}

/// A reply as a value of ours.
///
/// # Safety
/// `reply` is valid, and the server lock is held.
unsafe fn convert(reply: *mut api::RedisModuleCallReply) -> Reply {
    // SAFETY: as the caller promises; elements are valid as long as their array.
    unsafe {
        let kind = call!(RedisModule_CallReplyType, reply);
        if kind == api::REDISMODULE_REPLY_INTEGER as c_int {
            return Reply::Integer(call!(RedisModule_CallReplyInteger, reply));
        }
        if kind == api::REDISMODULE_REPLY_ARRAY as c_int {
            let len = call!(RedisModule_CallReplyLength, reply);
            let elements = (0..len).map(|at| {
                let element = call!(RedisModule_CallReplyArrayElement, reply, at);
                if element.is_null() {
                    Reply::Nil
                } else {
                    convert(element)
                }
            });
            return Reply::Array(elements.collect());
        }
        let text = kind == api::REDISMODULE_REPLY_STRING as c_int;
        let error = kind == api::REDISMODULE_REPLY_ERROR as c_int;
        if !text && !error {
            return Reply::Nil;
        }
        let mut len = 0;
        let start = call!(RedisModule_CallReplyStringPtr, reply, &raw mut len);
        let bytes = if start.is_null() {
            Vec::new()
        } else {
            std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec()
        };
        if error {
            Reply::Error(bytes)
        } else {
            Reply::Bytes(bytes)
        }
    }
}

/// A walk over all keys, in steps.
pub(super) struct Scan {
    keys: NonNull<api::RedisModuleScanCursor>,
    fields: NonNull<api::RedisModuleScanCursor>,
}

// SAFETY: a cursor is plain memory; it is used under the server lock.
unsafe impl Send for Scan {}

/// What a walk does with each key.
pub(super) trait Visitor {
    /// A key that is there.
    fn key(&mut self, name: &[u8], key: &Key<'_>);
}

struct Visit<'a> {
    visitor: &'a mut dyn Visitor,
    fields: NonNull<api::RedisModuleScanCursor>,
}

impl Scan {
    /// A walk from the beginning.
    pub(super) fn new() -> Self {
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
    pub(super) fn step(&mut self, server: Server, visitor: &mut dyn Visitor) -> bool {
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
pub(super) struct Key<'a> {
    raw: NonNull<api::RedisModuleKey>,
    fields: NonNull<api::RedisModuleScanCursor>,
    scope: PhantomData<&'a ()>,
}

/// Called with an element of a hash or set, and its value if it has one.
type EachElement<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// Opens a key by name, for `read`; it may not exist. The server lock is held.
pub(super) fn with_key<R>(
    server: Server,
    scan: &Scan,
    name: &[u8],
    read: impl FnOnce(Option<&Key<'_>>) -> R,
) -> R {
    // SAFETY: the lock is held; name and key are released after `read`.
    unsafe {
        let string = call!(
            RedisModule_CreateString,
            ptr::null_mut(),
            name.as_ptr().cast(),
            name.len()
        );
        let raw = call!(
            RedisModule_OpenKey,
            server.raw(),
            string,
            api::REDISMODULE_READ as c_int
        );
        let key = NonNull::new(raw.cast()).map(|raw| Key {
            raw,
            fields: scan.fields,
            scope: PhantomData,
        });
        let out = read(key.as_ref());
        if let Some(key) = key {
            call!(RedisModule_CloseKey, key.raw.as_ptr());
        }
        call!(RedisModule_FreeString, ptr::null_mut(), string);
        out
    }
}

impl Key<'_> {
    /// Whether its time is over although it was not removed yet.
    #[inline]
    pub(super) fn is_expired(&self) -> bool {
        // SAFETY: the key is open.
        unsafe { call!(RedisModule_GetExpire, self.raw.as_ptr()) == 0 }
    }

    /// Its type. Streams are [`KeyType::Stream`].
    #[inline]
    pub(super) fn kind(&self) -> KeyType {
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
    pub(super) fn string(&self, chunk: &mut Chunk) {
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
    pub(super) fn hash(&self, chunk: &mut Chunk) -> usize {
        self.scan(&mut |field, value| chunk.pair(field, value.unwrap_or_default()))
    }

    /// Writes the members of a set; their number.
    pub(super) fn set(&self, chunk: &mut Chunk) -> usize {
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
    pub(super) fn list(&self, chunk: &mut Chunk) -> usize {
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
    pub(super) fn zset(&self, chunk: &mut Chunk) -> usize {
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
    pub(super) fn stream(&self, chunk: &mut Chunk) -> usize {
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

/// A callback for a command.
pub(super) type CommandCallback =
    unsafe extern "C" fn(*mut RedisModuleCtx, *mut *mut RedisModuleString, c_int) -> c_int;

/// A word of a command, for COMMAND DOCS.
#[derive(Clone, Copy)]
pub(super) struct Argument {
    /// Its name.
    pub(super) name: &'static CStr,
    /// The word that comes before it, or that it is.
    pub(super) token: Option<&'static CStr>,
    /// Whether it is a word that stands for itself.
    pub(super) flag: bool,
    /// Whether it may be left out.
    pub(super) optional: bool,
    /// Whether it may come several times.
    pub(super) multiple: bool,
}

/// Registers a command, with what the server can tell of it.
pub(super) fn create_command(
    ctx: *mut RedisModuleCtx,
    info: &Command,
    callback: CommandCallback,
) -> bool {
    let (name, flags) = (c_string(info.name), c_string(info.flags));
    // SAFETY: the context is that of the load; the server copies all that is handed over.
    unsafe {
        let create = call!(
            RedisModule_CreateCommand,
            ctx,
            name.as_ptr(),
            Some(callback),
            flags.as_ptr(),
            0,
            0,
            0
        );
        if create != OK {
            return false;
        }
        let Some(get) = api::RedisModule_GetCommand else {
            return true;
        };
        let command = get(ctx, name.as_ptr());
        if command.is_null() {
            return true;
        }
        if let Some(set) = api::RedisModule_SetCommandACLCategories {
            let categories = c_string(info.categories);
            if set(command, categories.as_ptr()) != OK {
                return false;
            }
        }
        if let Some(set) = api::RedisModule_SetCommandInfo {
            let (summary, complexity) = (c_string(info.summary), c_string(info.complexity));
            let mut arguments: Vec<_> = info.arguments.iter().map(argument).collect();
            arguments.push(std::mem::zeroed());
            let version = api::RedisModuleCommandInfoVersion {
                version: 1,
                sizeof_historyentry: size_of::<api::RedisModuleCommandHistoryEntry>(),
                sizeof_keyspec: size_of::<api::RedisModuleCommandKeySpec>(),
                sizeof_arg: size_of::<api::RedisModuleCommandArg>(),
            };
            let details = api::RedisModuleCommandInfo {
                version: &raw const version,
                summary: summary.as_ptr(),
                complexity: complexity.as_ptr(),
                since: c"0.1.0".as_ptr(),
                history: ptr::null_mut(),
                tips: ptr::null(),
                arity: -1,
                key_specs: ptr::null_mut(),
                args: arguments.as_mut_ptr(),
            };
            return set(command, &raw const details) == OK;
        }
        true
    }
}

fn argument(argument: &Argument) -> api::RedisModuleCommandArg {
    let kind = if argument.flag {
        api::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN
    } else {
        api::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING
    };
    let mut flags = 0;
    if argument.optional {
        flags |= api::REDISMODULE_CMD_ARG_OPTIONAL as c_int;
    }
    if argument.multiple {
        flags |= api::REDISMODULE_CMD_ARG_MULTIPLE as c_int;
    }
    api::RedisModuleCommandArg {
        name: argument.name.as_ptr(),
        type_: kind,
        key_spec_index: -1,
        token: argument.token.map_or(ptr::null(), CStr::as_ptr),
        summary: ptr::null(),
        since: ptr::null(),
        flags,
        deprecated_since: ptr::null(),
        subargs: ptr::null_mut(),
        display_text: ptr::null(),
    }
}

/// Writes fields of INFO.
pub(super) struct Info(*mut RedisModuleInfoCtx);

impl Info {
    /// The context of the callback, valid while that runs.
    pub(super) fn of_callback(raw: *mut RedisModuleInfoCtx) -> Self {
        Self(raw)
    }

    /// Begins a section; `false` if it was not asked for.
    pub(super) fn section(&self, name: &CStr) -> bool {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_InfoAddSection, self.0, name.as_ptr()) == OK }
    }

    /// A number.
    pub(super) fn number(&self, name: &CStr, value: u64) {
        // SAFETY: as `section`.
        unsafe {
            call!(
                RedisModule_InfoAddFieldULongLong,
                self.0,
                name.as_ptr(),
                value
            );
        }
    }

    /// Text.
    pub(super) fn text(&self, name: &CStr, value: &str) {
        let value = c_string(value);
        // SAFETY: as `section`; the server copies the text.
        unsafe {
            call!(
                RedisModule_InfoAddFieldCString,
                self.0,
                name.as_ptr(),
                value.as_ptr()
            );
        }
    }
}

/// Has INFO ask us.
pub(super) fn register_info(
    ctx: *mut RedisModuleCtx,
    callback: unsafe extern "C" fn(*mut RedisModuleInfoCtx, c_int),
) -> bool {
    // SAFETY: the context is that of the load.
    unsafe { call!(RedisModule_RegisterInfoFunc, ctx, Some(callback)) == OK }
}

/// Has the server call us before and after it waits for clients; whether it can.
pub(super) fn subscribe_to_event_loop(
    ctx: *mut RedisModuleCtx,
    callback: unsafe extern "C" fn(*mut RedisModuleCtx, api::RedisModuleEvent, u64, *mut c_void),
) -> bool {
    let event = api::RedisModuleEvent {
        id: api::REDISMODULE_EVENT_EVENTLOOP,
        dataver: 1,
    };
    // SAFETY: the context is that of the load; unknown events are refused.
    unsafe {
        api::RedisModule_SubscribeToServerEvent
            .is_some_and(|subscribe| subscribe(ctx, event, Some(callback)) == OK)
    }
}

pub(super) use api::RedisModuleEvent as Event;

/// Before the server waits for clients.
pub(super) const BEFORE_SLEEP: u64 = api::REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP;
/// After it did.
pub(super) const AFTER_SLEEP: u64 = api::REDISMODULE_SUBEVENT_EVENTLOOP_AFTER_SLEEP;

/// Whether a poll descriptor has something to report, without waiting.
pub(super) fn is_readable(descriptor: c_int) -> bool {
    let mut poll = libc::pollfd {
        fd: descriptor,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure is handed over, and one is promised.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}
