//! The server outside of commands: its lock, its log, and running commands on it.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use redis_module::raw as api;

use super::events::{past_hooks, run_jobs_behind, waiting_jobs};
use super::{OK, RedisModuleCtx, RedisModuleString, c_string, string};
use crate::engine::{self, LogLevel, Reply};

/// A context that lives as long as the module, for work outside of commands.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Server(NonNull<RedisModuleCtx>);

// SAFETY: used under the server lock only, but for logging and the lock itself, which the API
// allows anywhere.
unsafe impl Send for Server {}
// SAFETY: as above.
unsafe impl Sync for Server {}

impl Server {
    /// Made once, when the module loads.
    pub(in crate::redis) fn new(ctx: *mut RedisModuleCtx) -> Option<Self> {
        MAIN_THREAD.get_or_init(|| std::thread::current().id());
        // SAFETY: `ctx` is what the server gave to the load function.
        let raw = unsafe { call!(RedisModule_GetDetachedThreadSafeContext, ctx) };
        NonNull::new(raw).map(Self)
    }

    pub(super) fn raw(self) -> *mut RedisModuleCtx {
        self.0.as_ptr()
    }

    /// Takes the server lock.
    pub(in crate::redis) fn lock(self) {
        // SAFETY: the context is valid for ever; `lock.rs` sees to it that no thread locks twice.
        unsafe { call!(RedisModule_ThreadSafeContextLock, self.raw()) }
    }

    /// Takes the server lock if nobody has it.
    pub(in crate::redis) fn try_lock(self) -> bool {
        // SAFETY: as `lock`.
        unsafe { call!(RedisModule_ThreadSafeContextTryLock, self.raw()) == OK }
    }

    /// Gives the server lock back.
    pub(in crate::redis) fn unlock(self) {
        // SAFETY: as `lock`; only called by who holds it.
        unsafe { call!(RedisModule_ThreadSafeContextUnlock, self.raw()) }
    }

    /// Writes a line to the server's log. Needs no lock.
    pub(in crate::redis) fn log(self, level: LogLevel, message: &str) {
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
    pub(in crate::redis) fn call(
        self,
        user: &str,
        command: &engine::Command,
    ) -> Result<Reply, String> {
        let user = self.user(user)?;
        let no_writes = IS_REPLICA.load(Ordering::Relaxed) || self.is_paused();
        let format = match (user.bind(), no_writes) {
            (true, false) => c"!Cv",
            (true, true) => c"!CWv",
            (false, _) => c"!v",
        };
        self.call_bound(format, command)
    }

    /// Runs a command that only reads, with all rights and past all hooks. The server lock is held.
    pub(in crate::redis) fn read(self, command: &engine::Command) -> Result<Reply, String> {
        past_hooks(|| self.call_bound(c"v", command))
    }

    /// Whether commands that may write must wait: clients are paused, or a failover or shutdown is
    /// under way. The server lock is held.
    pub(in crate::redis) fn is_paused(self) -> bool {
        // SAFETY: takes nothing.
        unsafe { api::RedisModule_AvoidReplicaTraffic.is_some_and(|avoid| avoid() != 0) }
    }

    /// Whether a Lua script runs just now.
    pub(in crate::redis) fn runs_script(self) -> bool {
        // SAFETY: the context is valid; this flag is of the server, not of its client.
        let flags = unsafe { call!(RedisModule_GetContextFlags, self.raw()) };
        flags.cast_unsigned() & api::REDISMODULE_CTX_FLAGS_LUA != 0
    }

    /// The user of this name. The server lock is held while the result lives.
    pub(in crate::redis) fn user(self, name: impl AsRef<[u8]>) -> Result<User, String> {
        // SAFETY: the lock is held.
        unsafe { User::find(self, name.as_ref()) }
    }

    /// Writes to the keyspace as the server itself, past all hooks, replicated. The server lock is
    /// held.
    pub(in crate::redis) fn write(self, words: &[&[u8]]) -> Result<Reply, String> {
        if self.is_paused() {
            return Err(NO_WRITES_NOW.into());
        }
        past_hooks(|| self.call_bound(c"!v", &engine::Command::of(words)))
    }

    /// Runs a command in a client's place: with its rights, database and protocol. The server lock
    /// is held.
    pub(in crate::redis) fn call_for(
        self,
        client: &Client,
        command: &engine::Command,
    ) -> Result<CallReply, String> {
        let user = match &client.user {
            Some(name) => Some(self.user(name)?),
            None => None,
        };
        let bound = user.as_ref().is_some_and(User::bind);
        let format = match (bound, client.resp3, self.is_paused()) {
            (true, false, false) => c"!Cv",
            (true, true, false) => c"!C3v",
            (true, false, true) => c"!CWv",
            (true, true, true) => c"!C3Wv",
            (false, false, _) => c"!v",
            (false, true, _) => c"!3v",
        };
        self.call_raw(format, command, client.db)
    }

    /// Tells replicas and AOF to run a command of ours, in database 0. The server lock is held.
    pub(in crate::redis) fn replicate(self, name: &CStr, words: &[&[u8]]) {
        // SAFETY: the lock is held; the strings are freed after the call, which takes references.
        unsafe {
            let strings: Vec<_> = words.iter().map(|word| string(word)).collect();
            (api::RedisModule_Replicate.expect("every server has RedisModule_Replicate"))(
                self.raw(),
                name.as_ptr(),
                c"v".as_ptr(),
                strings.as_ptr(),
                strings.len(),
            );
            for string in strings {
                call!(RedisModule_FreeString, ptr::null_mut(), string);
            }
        }
    }

    fn call_bound(self, format: &CStr, command: &engine::Command) -> Result<Reply, String> {
        let reply = self.call_raw(format, command, 0)?;
        match reply.error() {
            Some(text) => Err(text),
            None => Ok(reply.value()),
        }
    }

    fn call_raw(
        self,
        format: &CStr,
        command: &engine::Command,
        db: c_int,
    ) -> Result<CallReply, String> {
        let Some(name) = command.name() else {
            return Err("no command was given".into());
        };
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            return Err(no_such_command());
        };
        if let Some(error) = self.refuses(name.to_bytes(), command) {
            return Err(error);
        }
        let jobs = waiting_jobs();
        // SAFETY: the lock is held (see above); strings are freed, and the reply by its owner.
        let (reply, errno) = unsafe {
            let strings: Vec<_> = command.words().skip(1).map(string).collect();
            let in_database = Database::select(self, db);
            set_errno(0);
            let reply = (api::RedisModule_Call.expect("every server has RedisModule_Call"))(
                self.raw(),
                name.as_ptr(),
                format.as_ptr(),
                strings.as_ptr(),
                strings.len(),
            );
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            // What functions do because of it is done in the usual one.
            drop(in_database);
            for string in strings {
                call!(RedisModule_FreeString, ptr::null_mut(), string);
            }
            (NonNull::new(reply), errno)
        };
        // Functions that react to it at once are done before who ran it goes on.
        run_jobs_behind(jobs);
        match reply {
            Some(reply) => Ok(CallReply(reply)),
            None => Err(refusal(errno, &name.to_string_lossy())),
        }
    }
}

impl Server {
    /// Why a command is not run here, where the server ends if it is.
    fn refuses(self, name: &[u8], command: &engine::Command) -> Option<String> {
        let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
        let sub = || command.words().nth(1).unwrap_or_default();
        let sub_is = |other: &[u8]| sub().eq_ignore_ascii_case(other);
        let text = || {
            let sub = String::from_utf8_lossy(sub());
            format!("{} {sub}", String::from_utf8_lossy(name)).to_uppercase()
        };
        if ENDS_SERVER.iter().any(is) {
            let name = String::from_utf8_lossy(name);
            return Some(format!(
                "ERR {name} can not be run by a script: it needs a client"
            ));
        }
        if is(&b"CLIENT".as_slice()) {
            // What was written before would be sent while nothing may be.
            if sub_is(b"PAUSE") {
                return Some("ERR CLIENT PAUSE can not be run by a function".into());
            }
            // It may free the client that is served just now.
            if sub_is(b"KILL") && is_main_thread() {
                let text = "ERR CLIENT KILL can not be run by a function that the server waits for";
                return Some(text.into());
            }
        }
        if is(&b"CLUSTER".as_slice()) && sub_is(b"SLOTS") && self.slots_need_client() {
            let text = "ERR CLUSTER SLOTS ends this version of Valkey where no client stands \
                        behind it: use CLUSTER SHARDS";
            return Some(text.into());
        }
        if let Some(text) = self.refuses_slot(command) {
            return Some(text);
        }
        let scripts = SCRIPTS.iter().any(is);
        if (scripts || MANAGES_SCRIPTS.iter().any(is)) && self.runs_script() {
            return Some(format!(
                "ERR {} can not be run inside of another script",
                if scripts {
                    String::from_utf8_lossy(name).into_owned()
                } else {
                    text()
                }
            ));
        }
        ((scripts || may_replicate(name)) && self.is_paused()).then(|| NO_WRITES_NOW.into())
    }
}

impl Server {
    /// Whether CLUSTER SLOTS looks at the connection of a client that is not there: Valkey 8.0 to 9.0.0.
    fn slots_need_client(self) -> bool {
        let (valkey, version) = self.version();
        valkey && matches!(version, [8, ..] | [9, 0, 0])
    }

    /// Whether keys of a cluster are kept by slot: Redis 7.4, Valkey 8 and newer.
    pub(super) fn keeps_keys_by_slot(self) -> bool {
        let (valkey, version) = self.version();
        *version >= if valkey { [8, 0, 0] } else { [7, 4, 0] }
    }

    /// Whether a Lua script runs that takes an error inside of an array for its own, after which no
    /// script of this server can call commands: Valkey 9.
    pub(in crate::redis) fn script_fails_at_errors_in_arrays(self) -> bool {
        if !is_main_thread() || !self.runs_script() {
            return false;
        }
        let (valkey, version) = self.version();
        valkey && *version >= [9, 0, 0]
    }

    /// Whether it is Valkey, and which version. The server lock is held.
    fn version(self) -> (bool, &'static [u32; 3]) {
        static VERSION: OnceLock<(bool, [u32; 3])> = OnceLock::new();
        let (valkey, version) = VERSION.get_or_init(|| {
            let info = engine::Command::of(&[b"INFO", b"server"]);
            let Ok(Reply::Bytes(info)) = self.read(&info) else {
                return (false, [0; 3]);
            };
            let info = String::from_utf8_lossy(&info).into_owned();
            let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
            // Valkey names a version of Redis as well.
            let valkey = field("valkey_version:");
            let mut version = [0; 3];
            let text = valkey.or(field("redis_version:")).unwrap_or_default();
            for (part, text) in version.iter_mut().zip(text.split('.')) {
                *part = text.parse().unwrap_or(0);
            }
            (valkey.is_some(), version)
        });
        (*valkey, version)
    }
}

/// A database that is selected until this is dropped. The server lock is held meanwhile.
pub(super) struct Database {
    server: Server,
    before: c_int,
}

impl Database {
    pub(super) fn select(server: Server, number: c_int) -> Option<Self> {
        // SAFETY: the context is valid, and the lock is held.
        unsafe {
            let before = call!(RedisModule_GetSelectedDb, server.raw());
            if before == number {
                return None;
            }
            call!(RedisModule_SelectDb, server.raw(), number);
            Some(Self { server, before })
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { call!(RedisModule_SelectDb, self.server.raw(), self.before) };
    }
}

/// The thread that serves clients: the one that loads the module.
static MAIN_THREAD: OnceLock<ThreadId> = OnceLock::new();

fn is_main_thread() -> bool {
    MAIN_THREAD.get() == Some(&std::thread::current().id())
}

/// Commands that may take a script away that runs.
const MANAGES_SCRIPTS: [&[u8]; 2] = [b"SCRIPT", b"FUNCTION"];

/// Commands that run scripts: the server ends when one is run inside of another one.
const SCRIPTS: [&[u8]; 6] = [
    b"EVAL",
    b"EVALSHA",
    b"EVAL_RO",
    b"EVALSHA_RO",
    b"FCALL",
    b"FCALL_RO",
];

/// Commands that reach replicas although they do not count as writing, which the server does not tell of
/// them; scripts may too. The server ends when they are run while clients are paused.
const MAY_REPLICATE: [&[u8]; 3] = [b"PUBLISH", b"SPUBLISH", b"PFCOUNT"];

/// Whether a command reaches replicas although it does not count as writing.
pub(in crate::redis) fn may_replicate(name: &[u8]) -> bool {
    let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    MAY_REPLICATE.iter().any(is)
}

/// Why nothing is written while clients are paused, which would end the server.
pub(in crate::redis) const NO_WRITES_NOW: &str = "ERR the server takes no writes now: clients are \
                                                  paused, or a failover or shutdown is under way";

/// Whom a command is run for.
#[derive(Debug, Clone)]
pub(in crate::redis) struct Client {
    /// With whose rights; with all where there is no user, as for what comes from the master.
    pub(in crate::redis) user: Option<Vec<u8>>,
    /// In which database.
    pub(in crate::redis) db: c_int,
    /// In which protocol it wants the reply.
    pub(in crate::redis) resp3: bool,
}

/// A reply of the server as it came.
pub(in crate::redis) struct CallReply(NonNull<api::RedisModuleCallReply>);

// SAFETY: plain memory of the server's; nobody else has it.
unsafe impl Send for CallReply {}
// SAFETY: reading a reply parses it lazily; only its owner, who has it behind a mutex, does so.
unsafe impl Sync for CallReply {}

impl CallReply {
    pub(super) fn raw(&self) -> *mut api::RedisModuleCallReply {
        self.0.as_ptr()
    }

    /// The text, if it is an error.
    pub(in crate::redis) fn error(&self) -> Option<String> {
        // SAFETY: the reply is valid.
        let kind = unsafe { call!(RedisModule_CallReplyType, self.raw()) };
        if kind != api::REDISMODULE_REPLY_ERROR as c_int {
            return None;
        }
        match self.value() {
            Reply::Error(text) => Some(String::from_utf8_lossy(&text).trim_end().to_owned()),
            _ => None,
        }
    }

    /// As a value of ours.
    pub(in crate::redis) fn value(&self) -> Reply {
        // SAFETY: the reply is valid.
        unsafe { convert(self.raw()) }
    }
}

impl Drop for CallReply {
    fn drop(&mut self) {
        // SAFETY: the reply is ours. It was made through the context that lives for ever.
        unsafe { call!(RedisModule_FreeCallReply, self.raw()) }
    }
}

thread_local! {
    /// The name that this thread asked for last: one thread runs many commands of one user.
    static USER_NAME: RefCell<Option<(Vec<u8>, *mut RedisModuleString)>> = RefCell::default();
}

/// A name as a string of the server, which stays this thread's.
fn user_name(name: &[u8]) -> *mut RedisModuleString {
    USER_NAME.with_borrow_mut(|cached| match cached {
        Some((cached, string)) if cached == name => *string,
        _ => {
            // SAFETY: the new string is ours; the one before was only ever used on this thread.
            unsafe {
                let null = ptr::null_mut();
                let string = string(name);
                if let Some((_, before)) = cached.replace((name.to_vec(), string)) {
                    call!(RedisModule_FreeString, null, before);
                }
                string
            }
        }
    })
}

const DEFAULT_NAME: &[u8] = b"default";

/// A user of the server, looked up for one hold of the lock.
pub(in crate::redis) struct User {
    server: Server,
    user: Option<NonNull<api::RedisModuleUser>>,
    /// Whether the handle is freed with this.
    owned: bool,
}

/// Whether this server follows another one: its data is not ours to change.
static IS_REPLICA: AtomicBool = AtomicBool::new(false);

/// The server began, or ceased, to follow another one.
pub(in crate::redis) fn set_replica(follows: bool) {
    IS_REPLICA.store(follows, Ordering::Relaxed);
}

/// Whether this server follows another one.
pub(in crate::redis) fn is_replica() -> bool {
    IS_REPLICA.load(Ordering::Relaxed)
}

/// Commands that turn their client into something else, wait in it, or pause all others: the server ends
/// when a module runs them (WAIT in Redis 7.0 only; FAILOVER after a write).
const ENDS_SERVER: [&[u8]; 6] = [
    b"SYNC",
    b"PSYNC",
    b"WAIT",
    b"WAITAOF",
    b"REPLCONF",
    b"FAILOVER",
];

/// The handle of the one user that cannot be deleted. Used under the server lock only.
struct DefaultUser(NonNull<api::RedisModuleUser>);

// SAFETY: see above.
unsafe impl Send for DefaultUser {}
// SAFETY: see above.
unsafe impl Sync for DefaultUser {}

static DEFAULT_USER: OnceLock<DefaultUser> = OnceLock::new();

impl User {
    /// Looked up each time, since a user may be deleted at any moment; the default user cannot.
    ///
    /// # Safety
    /// The server lock is held while the result lives.
    unsafe fn find(server: Server, name: &[u8]) -> Result<Self, String> {
        // SAFETY: as the caller promises; the name is a string of ours.
        unsafe {
            let Some(find) = api::RedisModule_GetModuleUserFromUserName else {
                return Ok(Self {
                    server,
                    user: None,
                    owned: false,
                });
            };
            if let (DEFAULT_NAME, Some(user)) = (name, DEFAULT_USER.get()) {
                return Ok(Self {
                    server,
                    user: Some(user.0),
                    owned: false,
                });
            }
            let user = find(user_name(name));
            let user = NonNull::new(user).ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                format!("NOPERM the user '{name}' that this code runs as is gone")
            })?;
            let kept = name == DEFAULT_NAME && DEFAULT_USER.set(DefaultUser(user)).is_ok();
            Ok(Self {
                server,
                user: Some(user),
                owned: !kept,
            })
        }
    }

    /// Whether it may read every key: only a pattern for all keys matches the empty name.
    pub(in crate::redis) fn may_read_all(&self) -> bool {
        // SAFETY: the string is ours and freed.
        unsafe {
            let null = ptr::null_mut();
            let empty = string(b"");
            let may = self.may_read(empty);
            call!(RedisModule_FreeString, null, empty);
            may
        }
    }

    /// Whether it may run a command with these words.
    pub(in crate::redis) fn may_run(&self, words: &[&[u8]]) -> bool {
        // SAFETY: the user is valid; the strings are ours and freed.
        unsafe {
            let (Some(user), Some(check)) =
                (self.user, api::RedisModule_ACLCheckCommandPermissions)
            else {
                return true;
            };
            let mut strings: Vec<_> = words.iter().map(|word| string(word)).collect();
            let count = c_int::try_from(strings.len()).unwrap_or(c_int::MAX);
            let may = check(user.as_ptr(), strings.as_mut_ptr(), count) == OK;
            for string in strings {
                call!(RedisModule_FreeString, ptr::null_mut(), string);
            }
            may
        }
    }

    /// Whether it may read and change a key.
    pub(in crate::redis) fn may_change(&self, key: &[u8]) -> bool {
        let access = api::REDISMODULE_CMD_KEY_ACCESS | api::REDISMODULE_CMD_KEY_UPDATE;
        // SAFETY: the user is valid; the string is ours and freed.
        unsafe {
            let (Some(user), Some(check)) = (self.user, api::RedisModule_ACLCheckKeyPermissions)
            else {
                return true;
            };
            let key = string(key);
            let may = check(user.as_ptr(), key, access as c_int) == OK;
            call!(RedisModule_FreeString, ptr::null_mut(), key);
            may
        }
    }

    /// Whether it may read a key.
    ///
    /// # Safety
    /// `key` is a string of the server.
    pub(super) unsafe fn may_read(&self, key: *mut RedisModuleString) -> bool {
        let access = api::REDISMODULE_CMD_KEY_ACCESS as c_int;
        // SAFETY: the user is valid, and so is the key.
        unsafe {
            match (self.user, api::RedisModule_ACLCheckKeyPermissions) {
                (Some(user), Some(check)) => check(user.as_ptr(), key, access) == OK,
                _ => true,
            }
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
            if self.owned {
                call!(RedisModule_FreeModuleUser, user.as_ptr());
            }
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
/// Why a command is not run on a key that another node of the cluster has.
pub(in crate::redis) const NOT_HERE: &str = "Operation not permitted";

fn refusal(errno: c_int, name: &str) -> String {
    match errno {
        libc::ENOENT => "No such file or directory".into(),
        libc::EINVAL => "Invalid argument".into(),
        libc::EPERM => NOT_HERE.into(),
        libc::EACCES => format!(
            "NOPERM the user that this code runs as has no permissions to run '{name}' with these \
             arguments"
        ),
        // So the server says that the W flag forbids it.
        libc::ENOSPC | libc::EROFS if IS_REPLICA.load(Ordering::Relaxed) => {
            "READONLY You can't write against a read only replica.".into()
        }
        libc::ENOSPC | libc::EROFS => NO_WRITES_NOW.into(),
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
