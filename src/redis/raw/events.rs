//! Events of the keyspace, jobs after them, and the filter that sees every command.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use redis_module::raw as api;

use super::{OK, RedisModuleCtx, RedisModuleString, Server, bytes, string};
use crate::redis::guard::guard;

/// All events of keys, misses included; not those of loading.
const EVENTS: c_int = api::REDISMODULE_NOTIFY_ALL | api::REDISMODULE_NOTIFY_KEY_MISS;

/// What is called with an event: its context, its name and the key.
pub(in crate::redis) type OnEvent = fn(EventCtx, &[u8], &[u8]);

static ON_EVENT: OnceLock<OnEvent> = OnceLock::new();

/// The context of an event, valid while its callback runs.
#[derive(Clone, Copy)]
pub(in crate::redis) struct EventCtx(*mut RedisModuleCtx);

impl EventCtx {
    /// The database that the key is in.
    pub(in crate::redis) fn database(self) -> c_int {
        // SAFETY: valid while the event's callback runs.
        unsafe { call!(RedisModule_GetSelectedDb, self.0) }
    }
}

/// Whether an event is handled: the command that caused it is not done. Changed under the server lock.
static IN_EVENT: AtomicBool = AtomicBool::new(false);

/// Whether an event is handled. The server lock is held.
pub(super) fn in_event() -> bool {
    IN_EVENT.load(Ordering::Relaxed)
}

/// Has the server call us for every event of a key. The server lock is held.
pub(in crate::redis) fn subscribe_to_keys(server: Server, callback: OnEvent) -> bool {
    /// # Safety
    /// Called by the server with valid strings.
    unsafe extern "C" fn event(
        ctx: *mut RedisModuleCtx,
        _kind: c_int,
        event: *const c_char,
        key: *mut RedisModuleString,
    ) -> c_int {
        if FLUSHING.load(Ordering::Relaxed) {
            return OK;
        }
        if let Some(callback) = ON_EVENT.get() {
            // SAFETY: see above.
            let (event, key) = unsafe { (CStr::from_ptr(event).to_bytes(), bytes(key)) };
            let before = IN_EVENT.swap(true, Ordering::Relaxed);
            guard(|| callback(EventCtx(ctx), event, key));
            IN_EVENT.store(before, Ordering::Relaxed);
        }
        OK
    }
    if ON_EVENT.set(callback).is_err() {
        return true;
    }
    // SAFETY: the context is valid.
    unsafe {
        call!(
            RedisModule_SubscribeToKeyspaceEvents,
            server.raw(),
            EVENTS,
            Some(event)
        ) == OK
    }
}

/// Something to do when the command that caused an event is done.
pub(in crate::redis) type Job = Box<dyn FnOnce() + Send>;

/// Jobs in the order of their events. Touched under the server lock only, by any thread.
static JOBS: Mutex<VecDeque<Job>> = Mutex::new(VecDeque::new());
static WAITING: AtomicUsize = AtomicUsize::new(0);
static SCHEDULED: AtomicBool = AtomicBool::new(false);
/// Whether a job runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

fn jobs() -> MutexGuard<'static, VecDeque<Job>> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the server itself runs jobs after events.
pub(in crate::redis) fn has_jobs() -> bool {
    // SAFETY: the API's statics are set at load and never after.
    unsafe {
        let add = api::RedisModule_AddPostNotificationJob;
        add.is_some()
    }
}

/// Runs a job when the command that caused this event is done. To write in the event itself would
/// reach replicas and AOF before the command. A server without such jobs (Redis 7.0) has it run by
/// [`run_jobs`]: before the next command, or before the replies are sent.
pub(in crate::redis) fn after_event(ctx: EventCtx, job: Job) {
    after_command(job);
    // SAFETY: called inside the event; nothing is handed over.
    unsafe {
        if let Some(add) = api::RedisModule_AddPostNotificationJob
            && !SCHEDULED.swap(true, Ordering::Relaxed)
            && add(ctx.0, Some(scheduled), ptr::null_mut(), None) != OK
        {
            SCHEDULED.store(false, Ordering::Relaxed);
        }
    }
}

/// Runs a job when the command that the server is in, if any, is done, and before its reply is sent.
/// What is written while the command runs makes the server replicate the command itself: DEBUG RELOAD,
/// PSYNC. The server lock is held.
pub(in crate::redis) fn after_command(job: Job) {
    jobs().push_back(job);
    WAITING.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn scheduled(_ctx: *mut RedisModuleCtx, _data: *mut c_void) {
    SCHEDULED.store(false, Ordering::Relaxed);
    run_jobs();
}

/// Whether jobs wait. The server lock is held.
#[inline]
pub(in crate::redis) fn has_waiting_jobs() -> bool {
    waiting_jobs() > 0
}

/// How many jobs wait. The server lock is held.
#[inline]
pub(super) fn waiting_jobs() -> usize {
    WAITING.load(Ordering::Relaxed)
}

/// Runs the jobs that wait, unless this is called inside of one. The server lock is held.
#[inline]
pub(in crate::redis) fn run_jobs() {
    if !RUNNING.load(Ordering::Relaxed) {
        run_jobs_behind(0);
    }
}

/// The same before a command that the filter sees. What the jobs wrote is sent at once: if the server
/// refuses the command (MOVED, NOPERM, a wrong number of words), nothing else sends it before the server
/// looks after itself, where it ends if something is left. An event of our own makes it do so.
pub(in crate::redis) fn run_jobs_before_command(server: Server) {
    if !has_waiting_jobs() || RUNNING.load(Ordering::Relaxed) {
        return;
    }
    run_jobs_behind(0);
    let nothing = string(b"");
    FLUSHING.store(true, Ordering::Relaxed);
    // SAFETY: the lock is held; the string is freed after the call.
    unsafe {
        let kind = api::REDISMODULE_NOTIFY_MODULE as c_int;
        let event = c"geartrain".as_ptr();
        call!(
            RedisModule_NotifyKeyspaceEvent,
            server.raw(),
            kind,
            event,
            nothing
        );
        call!(RedisModule_FreeString, ptr::null_mut(), nothing);
    }
    FLUSHING.store(false, Ordering::Relaxed);
}

/// Whether an event is only there to have the server send what was written.
static FLUSHING: AtomicBool = AtomicBool::new(false);

/// Runs those behind so many: a command that a job runs causes jobs of its own, which are done
/// before the command returns, and before the jobs that waited already.
#[inline]
pub(super) fn run_jobs_behind(others: usize) {
    while WAITING.load(Ordering::Relaxed) > others {
        let Some(job) = jobs().remove(others) else {
            return;
        };
        WAITING.fetch_sub(1, Ordering::Relaxed);
        let before = RUNNING.swap(true, Ordering::Relaxed);
        guard(job);
        RUNNING.store(before, Ordering::Relaxed);
    }
}

/// Set while a command is run that no hook concerns: the next one that the filter sees. Changed under
/// the server lock.
static PAST_HOOKS: AtomicBool = AtomicBool::new(false);

/// Runs `call`, whose command goes past all hooks; commands that it causes do not.
pub(in crate::redis) fn past_hooks<R>(call: impl FnOnce() -> R) -> R {
    PAST_HOOKS.store(true, Ordering::Relaxed);
    let out = call();
    PAST_HOOKS.store(false, Ordering::Relaxed);
    out
}

/// Whether the command that the filter sees goes past all hooks.
pub(in crate::redis) fn goes_past_hooks() -> bool {
    PAST_HOOKS.swap(false, Ordering::Relaxed)
}

/// A command that is about to run.
pub(in crate::redis) struct Filtered(*mut api::RedisModuleCommandFilterCtx);

/// What is called with every command.
pub(in crate::redis) type OnCommand = fn(Filtered);

static ON_COMMAND: OnceLock<OnCommand> = OnceLock::new();
static FILTER: AtomicPtr<api::RedisModuleCommandFilter> = AtomicPtr::new(ptr::null_mut());

/// The first word of a command that was rewritten: told from what a client types by its address.
struct Carrier(*mut RedisModuleString);

// SAFETY: the string lives for ever; its count of references changes under the server lock only.
unsafe impl Send for Carrier {}
// SAFETY: as above.
unsafe impl Sync for Carrier {}

/// Of commands that read, and of those that write.
static CARRIERS: [OnceLock<Carrier>; 2] = [OnceLock::new(), OnceLock::new()];

/// Has the server call us with every command, or no more. The server lock is held.
pub(in crate::redis) fn filter_commands(server: Server, callback: Option<OnCommand>) {
    let ctx = server.raw();
    extern "C" fn filter(raw: *mut api::RedisModuleCommandFilterCtx) {
        if let Some(callback) = ON_COMMAND.get() {
            guard(|| callback(Filtered(raw)));
        }
    }
    let registered = FILTER.load(Ordering::Relaxed);
    // SAFETY: the context is valid; a filter is removed once.
    unsafe {
        match callback {
            Some(callback) if registered.is_null() => {
                ON_COMMAND.get_or_init(|| callback);
                let filter = call!(RedisModule_RegisterCommandFilter, ctx, Some(filter), 0);
                FILTER.store(filter, Ordering::Relaxed);
            }
            None if !registered.is_null() => {
                call!(RedisModule_UnregisterCommandFilter, ctx, registered);
                FILTER.store(ptr::null_mut(), Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

impl Filtered {
    /// Number of its words.
    pub(in crate::redis) fn len(&self) -> usize {
        // SAFETY: valid while the filter runs.
        let len = unsafe { call!(RedisModule_CommandFilterArgsCount, self.0) };
        usize::try_from(len).unwrap_or(0)
    }

    /// A word of it.
    pub(in crate::redis) fn word(&self, at: usize) -> &[u8] {
        let at = c_int::try_from(at).unwrap_or(c_int::MAX);
        // SAFETY: as `len`; the string lives as long as the command.
        unsafe {
            let word = call!(RedisModule_CommandFilterArgGet, self.0, at);
            if word.is_null() { &[] } else { bytes(word) }
        }
    }

    /// Has a carrier run instead, with this command as its arguments: the one of `names` that reads, or
    /// the one that writes.
    pub(in crate::redis) fn carry(&self, names: [&str; 2], writes: bool) {
        let at = usize::from(writes);
        let first = CARRIERS[at].get_or_init(|| Carrier(string(names[at].as_bytes())));
        // SAFETY: as `len`; the server takes the reference that is made for it.
        unsafe {
            call!(RedisModule_RetainString, ptr::null_mut(), first.0);
            call!(RedisModule_CommandFilterArgInsert, self.0, 0, first.0);
        }
    }
}

/// Whether this is the first word of a command that [`Filtered::carry`] rewrote.
pub(super) fn is_carrier(word: *mut RedisModuleString) -> bool {
    CARRIERS
        .iter()
        .any(|carrier| carrier.get().is_some_and(|carrier| carrier.0 == word))
}
