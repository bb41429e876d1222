//! Contexts of commands: their words, their replies, their clients.

use std::ffi::{CString, c_int, c_long};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use redis_module::raw as api;

use super::{CallReply, Client, RedisModuleCtx, RedisModuleString, bytes};

/// The words of a command.
pub(in crate::redis) struct Args<'a> {
    words: Vec<&'a [u8]>,
    /// Whether the command filter rewrote it.
    carried: bool,
}

impl<'a> Args<'a> {
    /// # Safety contract of the caller (callbacks of the server only)
    /// `argv` holds `argc` strings that live as long as the callback.
    fn new(argv: *mut *mut RedisModuleString, argc: c_int) -> Self {
        let count = usize::try_from(argc).unwrap_or(0);
        // SAFETY: see above.
        let words = (0..count).map(|at| unsafe { bytes(*argv.add(at)) });
        let first = if count > 0 {
            // SAFETY: as above; only the address is looked at.
            unsafe { *argv }
        } else {
            ptr::null_mut()
        };
        Self {
            words: words.collect(),
            carried: super::events::is_carrier(first),
        }
    }

    /// Whether the command filter rewrote it, rather than a client having sent it.
    pub(in crate::redis) fn is_carried(&self) -> bool {
        self.carried
    }

    /// Words after the command's name.
    pub(in crate::redis) fn rest(&self) -> &[&'a [u8]] {
        self.words.get(1..).unwrap_or_default()
    }

    /// All words.
    pub(in crate::redis) fn all(&self) -> &[&'a [u8]] {
        &self.words
    }
}

/// A context of the server: where replies go.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Ctx<'a> {
    raw: *mut RedisModuleCtx,
    scope: PhantomData<&'a ()>,
}

impl<'a> Ctx<'a> {
    /// The context of a callback, valid while that runs.
    pub(in crate::redis) fn of_callback(raw: *mut RedisModuleCtx) -> Self {
        Self {
            raw,
            scope: PhantomData,
        }
    }

    pub(super) fn raw(self) -> *mut RedisModuleCtx {
        self.raw
    }

    /// The words of the command.
    pub(in crate::redis) fn args(self, argv: *mut *mut RedisModuleString, argc: c_int) -> Args<'a> {
        Args::new(argv, argc)
    }

    /// A bulk string.
    pub(in crate::redis) fn bulk(self, text: &[u8]) {
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
    pub(in crate::redis) fn status(self, text: &[u8]) {
        let line = line(text);
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithSimpleString, self.raw, line.as_ptr());
        }
    }

    /// An error line, as it is.
    pub(in crate::redis) fn error(self, text: &[u8]) {
        let line = line(text);
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithError, self.raw, line.as_ptr());
        }
    }

    /// An integer.
    pub(in crate::redis) fn integer(self, number: i64) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithLongLong, self.raw, number);
        }
    }

    /// The head of an array; its elements follow.
    pub(in crate::redis) fn array(self, len: usize) {
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
    pub(in crate::redis) fn wrong_arity(self) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_WrongArity, self.raw);
        }
    }

    /// A null.
    pub(in crate::redis) fn null(self) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithNull, self.raw);
        }
    }

    /// A double; in RESP2 its shortest exact text.
    pub(in crate::redis) fn double(self, number: f64) {
        // SAFETY: as `bulk`.
        unsafe {
            call!(RedisModule_ReplyWithDouble, self.raw, number);
        }
    }

    fn flags(self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_GetContextFlags, self.raw) }.cast_unsigned()
    }

    /// Whether this server follows another one.
    pub(in crate::redis) fn is_replica(self) -> bool {
        self.flags() & api::REDISMODULE_CTX_FLAGS_SLAVE != 0
    }

    /// Whether the client may be blocked: no transaction, no script.
    pub(in crate::redis) fn may_block(self) -> bool {
        let no = api::REDISMODULE_CTX_FLAGS_MULTI
            | api::REDISMODULE_CTX_FLAGS_LUA
            | api::REDISMODULE_CTX_FLAGS_DENY_BLOCKING;
        self.flags() & no == 0
    }

    /// Whether the command is part of a transaction or a script, where the server lets nobody wait.
    pub(in crate::redis) fn is_part_of_more(self) -> bool {
        let parts = api::REDISMODULE_CTX_FLAGS_MULTI | api::REDISMODULE_CTX_FLAGS_LUA;
        self.flags() & parts != 0
    }

    /// The server's own error for a command that would have to wait where nobody can.
    pub(in crate::redis) fn would_block(self) {
        let within_script = self.flags() & api::REDISMODULE_CTX_FLAGS_LUA != 0;
        self.error(if within_script {
            b"ERR Blocking module command called from Lua script"
        } else {
            b"ERR Blocking module command called from transaction"
        });
    }

    /// Whether the command comes from the server that this one follows, or out of the AOF.
    pub(in crate::redis) fn is_replayed(self) -> bool {
        let replayed = api::REDISMODULE_CTX_FLAGS_REPLICATED | api::REDISMODULE_CTX_FLAGS_LOADING;
        self.flags() & replayed != 0
    }

    /// Whether the server takes more memory than it may.
    pub(in crate::redis) fn is_out_of_memory(self) -> bool {
        self.flags() & api::REDISMODULE_CTX_FLAGS_OOM != 0
    }

    /// Who sent the command, for commands that are run in its place.
    pub(in crate::redis) fn client(self) -> Client {
        Client {
            user: (!self.is_replayed()).then(|| self.user()),
            // SAFETY: the context is valid.
            db: unsafe { call!(RedisModule_GetSelectedDb, self.raw) },
            resp3: self.flags() & api::REDISMODULE_CTX_FLAGS_RESP3 != 0,
        }
    }

    /// Whether the server only asks where the keys of the command are.
    pub(in crate::redis) fn asks_for_keys(self) -> bool {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_IsKeysPositionRequest, self.raw) != 0 }
    }

    /// A key of the command is this word.
    pub(in crate::redis) fn key_at(self, at: usize) {
        let at = c_int::try_from(at).unwrap_or(c_int::MAX);
        // No right to the key is asked for here: what runs the command looks at them.
        let flags = api::REDISMODULE_CMD_KEY_RO as c_int;
        // SAFETY: as `asks_for_keys`, which said so.
        unsafe {
            match api::RedisModule_KeyAtPosWithFlags {
                Some(key_at) => key_at(self.raw, at, flags),
                None => call!(RedisModule_KeyAtPos, self.raw, at),
            }
        }
    }

    /// Sends the command on to replicas and AOF as it is.
    pub(in crate::redis) fn replicate_verbatim(self) {
        // SAFETY: the context is valid.
        unsafe {
            call!(RedisModule_ReplicateVerbatim, self.raw);
        }
    }

    /// A reply of the server.
    pub(in crate::redis) fn call_reply(self, reply: &CallReply) {
        // SAFETY: both are valid; the server copies the reply.
        unsafe {
            call!(RedisModule_ReplyWithCallReply, self.raw, reply.raw());
        }
    }

    /// The name of the user that sent the command, which a client did: what comes from the master has
    /// no user. Any bytes.
    pub(in crate::redis) fn user(self) -> Vec<u8> {
        // SAFETY: the context is valid; the string is ours and freed.
        unsafe {
            let Some(name) = api::RedisModule_GetCurrentUserName else {
                return b"default".to_vec();
            };
            let name = name(self.raw);
            if name.is_null() {
                return b"default".to_vec();
            }
            let user = bytes(name).to_vec();
            call!(RedisModule_FreeString, ptr::null_mut(), name);
            user
        }
    }

    /// Blocks the client; who holds the result answers it.
    pub(in crate::redis) fn block(self) -> BlockedClient {
        // SAFETY: the context is valid; without callbacks the reply is made through a context of
        // the blocked client.
        let client = unsafe { call!(RedisModule_BlockClient, self.raw, None, None, None, 0) };
        BlockedClient(NonNull::new(client))
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
pub(in crate::redis) struct BlockedClient(Option<NonNull<api::RedisModuleBlockedClient>>);

// SAFETY: the API allows to unblock a client, and to reply to it, from any thread.
unsafe impl Send for BlockedClient {}

impl BlockedClient {
    /// Replies, and lets the client go on.
    pub(in crate::redis) fn reply(mut self, reply: impl FnOnce(Ctx<'_>)) {
        self.unblock(reply);
    }

    /// What it waits for begins now, as far as the server's statistics go.
    pub(in crate::redis) fn begins(&self) {
        // SAFETY: the client is blocked; whoever has it is the only one that measures.
        unsafe {
            if let (Some(client), Some(start)) =
                (self.0, api::RedisModule_BlockedClientMeasureTimeStart)
            {
                start(client.as_ptr());
            }
        }
    }

    /// It ends.
    pub(in crate::redis) fn ends(&self) {
        // SAFETY: as `begins`. Without a beginning nothing happens.
        unsafe {
            if let (Some(client), Some(end)) =
                (self.0, api::RedisModule_BlockedClientMeasureTimeEnd)
            {
                end(client.as_ptr());
            }
        }
    }

    fn unblock(&mut self, reply: impl FnOnce(Ctx<'_>)) {
        let Some(client) = self.0.take() else {
            return;
        };
        // SAFETY: the client is blocked until `UnblockClient`, which is called once, here (it was
        // just taken). Replies collect in a buffer of this client's own.
        unsafe {
            let raw = call!(RedisModule_GetThreadSafeContext, client.as_ptr());
            reply(Ctx {
                raw,
                scope: PhantomData,
            });
            call!(RedisModule_FreeThreadSafeContext, raw);
            call!(RedisModule_UnblockClient, client.as_ptr(), ptr::null_mut());
        }
    }
}

impl Drop for BlockedClient {
    /// Whoever held it is gone: nobody waits for ever.
    fn drop(&mut self) {
        self.unblock(|ctx| ctx.error(b"ERR internal error in geartrain; the server log has more"));
    }
}
