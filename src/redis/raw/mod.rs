//! The server's module API, made safe: contexts, arguments, replies, keys, blocked clients. The
//! room's only unsafe. Calls that not every server has are looked up when they are used.
#![expect(
    unsafe_code,
    reason = "the border to the server; every block says why it is sound"
)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::fd::AsRawFd;

use redis_module::raw as api;

use crate::python::Allocator;

/// Calls a function of the API that every server we load in has.
macro_rules! call {
    ($function:ident $(, $argument:expr)* $(,)?) => {
        (api::$function.expect(concat!("every server has ", stringify!($function))))($($argument),*)
    };
}

const OK: c_int = api::REDISMODULE_OK as c_int;

mod cluster;
mod context;
mod data_type;
mod events;
mod keys;
mod register;
mod server;

pub(super) use api::{RedisModuleCtx, RedisModuleInfoCtx, RedisModuleString};
pub(super) use cluster::{in_slot_of, listen_to_bus};
pub(super) use context::{Args, BlockedClient, Ctx};
pub(super) use data_type::{Aux, Before, Loaded, TimerKeys, Writer, create_type};
pub(super) use events::{
    EventCtx, Filtered, after_command, after_event, filter_commands, goes_past_hooks, has_jobs,
    has_waiting_jobs, past_hooks, run_jobs, run_jobs_before_command, subscribe_to_keys,
};
pub(super) use keys::{
    EntryId, Fields, Key, Scan, Visitor, is_opening, key_type, last_entry, with_key, with_stream,
};
pub(super) use register::{
    AFTER_SLEEP, Argument, BEFORE_SLEEP, CommandCallback, Event, FORKED, Info, LOAD_FAILED, LOADED,
    NOW_REPLICA, create_command, flushes_first_database, register_info, subscribe_to_cron,
    subscribe_to_event_loop, subscribe_to_flush, subscribe_to_fork, subscribe_to_loading,
    subscribe_to_role, subscribe_to_swap, swaps_first_database,
};
pub(super) use server::{
    CallReply, Client, NO_WRITES_NOW, NOT_HERE, Server, User, is_replica, may_replicate,
    set_replica,
};

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

/// A new string of the server, which the caller frees.
fn string(text: &[u8]) -> *mut RedisModuleString {
    let (start, len) = (text.as_ptr().cast(), text.len());
    // SAFETY: the server copies the text.
    unsafe { call!(RedisModule_CreateString, std::ptr::null_mut(), start, len) }
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

/// Has the server report a file that ends early instead of ending itself. Every load is checked.
pub(super) fn handle_io_errors(ctx: *mut RedisModuleCtx) {
    let option = api::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS as c_int;
    // SAFETY: the context is that of the load.
    unsafe { call!(RedisModule_SetModuleOptions, ctx, option) }
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

/// Lowers the priority of the calling thread by this many steps of nice (Linux keeps one for each
/// thread).
pub(super) fn give_way(steps: c_int) {
    // SAFETY: it takes a number; a refusal leaves the priority as it is.
    unsafe { libc::nice(steps) };
}

/// Locks a file for as long as it is open, or until this process ends; `false` if another one has it.
pub(super) fn lock_file(file: &std::fs::File) -> bool {
    // SAFETY: the descriptor is open for as long as the file is borrowed.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

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
