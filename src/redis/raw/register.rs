//! What the module registers at the server: commands, INFO, events.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use redis_module::raw as api;

use super::{OK, RedisModuleCtx, RedisModuleInfoCtx, RedisModuleString, c_string};
use crate::redis::commands::Command;

/// A callback for a command.
pub(in crate::redis) type CommandCallback =
    unsafe extern "C" fn(*mut RedisModuleCtx, *mut *mut RedisModuleString, c_int) -> c_int;

/// A word of a command, for COMMAND DOCS.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Argument {
    /// Its name.
    pub(in crate::redis) name: &'static CStr,
    /// The word that comes before it, or that it is.
    pub(in crate::redis) token: Option<&'static CStr>,
    /// Whether it is a word that stands for itself.
    pub(in crate::redis) flag: bool,
    /// Whether it may be left out.
    pub(in crate::redis) optional: bool,
    /// Whether it may come several times.
    pub(in crate::redis) multiple: bool,
}

/// Registers a command, with what the server can tell of it.
pub(in crate::redis) fn create_command(
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
            info.key,
            info.key,
            c_int::from(info.key != 0)
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
pub(in crate::redis) struct Info(*mut RedisModuleInfoCtx);

impl Info {
    /// The context of the callback, valid while that runs.
    pub(in crate::redis) fn of_callback(raw: *mut RedisModuleInfoCtx) -> Self {
        Self(raw)
    }

    /// Begins a section; `false` if it was not asked for.
    pub(in crate::redis) fn section(&self, name: &CStr) -> bool {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_InfoAddSection, self.0, name.as_ptr()) == OK }
    }

    /// A number.
    pub(in crate::redis) fn number(&self, name: &CStr, value: u64) {
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

    /// Text under a name that is made up.
    pub(in crate::redis) fn named_text(&self, name: &str, value: &str) {
        self.text(&c_string(name), value);
    }

    /// Text.
    pub(in crate::redis) fn text(&self, name: &CStr, value: &str) {
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
pub(in crate::redis) fn register_info(
    ctx: *mut RedisModuleCtx,
    callback: unsafe extern "C" fn(*mut RedisModuleInfoCtx, c_int),
) -> bool {
    // SAFETY: the context is that of the load.
    unsafe { call!(RedisModule_RegisterInfoFunc, ctx, Some(callback)) == OK }
}

/// A callback for an event.
type EventCallback = unsafe extern "C" fn(*mut RedisModuleCtx, Event, u64, *mut c_void);

fn subscribe(ctx: *mut RedisModuleCtx, id: u64, callback: EventCallback) -> bool {
    let event = Event { id, dataver: 1 };
    // SAFETY: the context is that of the load; unknown events are refused.
    unsafe {
        api::RedisModule_SubscribeToServerEvent
            .is_some_and(|subscribe| subscribe(ctx, event, Some(callback)) == OK)
    }
}

/// Has the server call us before and after it waits for clients; whether it can.
pub(in crate::redis) fn subscribe_to_event_loop(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_EVENTLOOP, callback)
}

pub(in crate::redis) use api::RedisModuleEvent as Event;

/// Has the server call us when it begins or ceases to follow another one.
pub(in crate::redis) fn subscribe_to_role(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(
        ctx,
        api::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED,
        callback,
    )
}

/// Has the server call us when it begins and ends to load a data set.
pub(in crate::redis) fn subscribe_to_loading(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_LOADING, callback)
}

/// The loading event: all is loaded. A lower one: it begins.
pub(in crate::redis) const LOADED: u64 = api::REDISMODULE_SUBEVENT_LOADING_ENDED;
/// It could not be loaded.
pub(in crate::redis) const LOAD_FAILED: u64 = api::REDISMODULE_SUBEVENT_LOADING_FAILED;

/// Has the server call us when it makes a child to save the data.
pub(in crate::redis) fn subscribe_to_fork(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_FORK_CHILD, callback)
}

/// The child is there.
pub(in crate::redis) const FORKED: u64 = api::REDISMODULE_SUBEVENT_FORK_CHILD_BORN;

/// Has the server call us when it drops all keys.
pub(in crate::redis) fn subscribe_to_flush(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_FLUSHDB, callback)
}

/// Has the server call us when it swaps databases.
pub(in crate::redis) fn subscribe_to_swap(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_SWAPDB, callback)
}

/// Has the server call us as often as it looks after itself: ten times a second by default.
pub(in crate::redis) fn subscribe_to_cron(
    ctx: *mut RedisModuleCtx,
    callback: EventCallback,
) -> bool {
    subscribe(ctx, api::REDISMODULE_EVENT_CRON_LOOP, callback)
}

/// Whether a flush event is about the database that functions work on.
pub(in crate::redis) fn flushes_first_database(data: *mut c_void) -> bool {
    // SAFETY: with this event the server hands over such a structure, or nothing.
    let info = unsafe { data.cast::<api::RedisModuleFlushInfo>().as_ref() };
    // -1 is all of them.
    info.is_none_or(|info| info.dbnum <= 0)
}

/// The same of a swap event.
pub(in crate::redis) fn swaps_first_database(data: *mut c_void) -> bool {
    // SAFETY: as above.
    let info = unsafe { data.cast::<api::RedisModuleSwapDbInfo>().as_ref() };
    info.is_none_or(|info| info.dbnum_first == 0 || info.dbnum_second == 0)
}

/// The role event: it follows now.
pub(in crate::redis) const NOW_REPLICA: u64 = api::REDISMODULE_EVENT_REPLROLECHANGED_NOW_REPLICA;

/// Before the server waits for clients.
pub(in crate::redis) const BEFORE_SLEEP: u64 = api::REDISMODULE_SUBEVENT_EVENTLOOP_BEFORE_SLEEP;
/// After it did.
pub(in crate::redis) const AFTER_SLEEP: u64 = api::REDISMODULE_SUBEVENT_EVENTLOOP_AFTER_SLEEP;
