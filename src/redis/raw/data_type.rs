//! What is saved beside the keys: registrations, and keys that hold time events.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use redis_module::raw as api;

use super::{FAILED, OK, RedisModuleCtx, RedisModuleString, Server, c_string, string};
use crate::redis::guard::guard;

/// Blobs that are saved with the data.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Aux {
    /// Writes them, in the child that saves: `false` if it can not.
    pub(in crate::redis) save: fn(&mut Writer) -> bool,
    /// Takes them; the error says what is wrong with them.
    pub(in crate::redis) load: fn(Loaded, c_int) -> Result<(), String>,
    /// Whether there is nothing to write.
    pub(in crate::redis) is_empty: fn() -> bool,
    /// What comes before the keys.
    pub(in crate::redis) before: Before,
}

/// The same for what is saved before the keys.
#[derive(Clone, Copy)]
pub(in crate::redis) struct Before {
    /// Writes it: `false` if some of it is missing.
    pub(in crate::redis) save: fn(&mut Writer) -> bool,
    /// Takes it.
    pub(in crate::redis) load: fn(&mut Loaded) -> Result<(), String>,
    /// Whether there is nothing to write.
    pub(in crate::redis) is_empty: fn() -> bool,
}

fn is_before(when: c_int) -> bool {
    when == api::REDISMODULE_AUX_BEFORE_RDB as c_int
}

/// The keys that hold time events.
#[derive(Clone, Copy)]
pub(in crate::redis) struct TimerKeys {
    /// A time event that was loaded: its number, or why it can not be.
    pub(in crate::redis) load: fn(&[u8]) -> Result<u64, String>,
    /// Its key is gone.
    pub(in crate::redis) free: fn(u64),
    /// The command that makes it anew from its key and what is saved.
    pub(in crate::redis) command: &'static CStr,
}

static AUX: OnceLock<Aux> = OnceLock::new();
static TIMERS: OnceLock<TimerKeys> = OnceLock::new();

struct Type(NonNull<api::RedisModuleType>);

// SAFETY: a handle that the server made for us, used under its lock.
unsafe impl Send for Type {}
// SAFETY: as above.
unsafe impl Sync for Type {}

static TIMER_TYPE: OnceLock<Type> = OnceLock::new();

/// Writes blobs into the file that is saved.
pub(in crate::redis) struct Writer(*mut api::RedisModuleIO);

impl Writer {
    /// How many follow.
    pub(in crate::redis) fn number(&mut self, number: usize) {
        // SAFETY: valid while the callback runs.
        unsafe { call!(RedisModule_SaveUnsigned, self.0, number as u64) }
    }

    /// A blob.
    pub(in crate::redis) fn blob(&mut self, blob: &[u8]) {
        // SAFETY: as `number`.
        unsafe {
            call!(
                RedisModule_SaveStringBuffer,
                self.0,
                blob.as_ptr().cast(),
                blob.len()
            )
        }
    }
}

/// Reads them.
pub(in crate::redis) struct Loaded(*mut api::RedisModuleIO);

const SHORT: &str = "the file ends early";

impl Loaded {
    fn check(&self) -> Result<(), String> {
        // SAFETY: valid while the callback runs.
        match unsafe { call!(RedisModule_IsIOError, self.0) } {
            0 => Ok(()),
            _ => Err(SHORT.into()),
        }
    }

    /// How many follow.
    pub(in crate::redis) fn number(&mut self) -> Result<u64, String> {
        // SAFETY: as `check`.
        let number = unsafe { call!(RedisModule_LoadUnsigned, self.0) };
        self.check().map(|()| number)
    }

    /// A blob.
    pub(in crate::redis) fn blob(&mut self) -> Result<Vec<u8>, String> {
        let mut len = 0;
        // SAFETY: as `check`; the buffer is ours and freed.
        unsafe {
            let start = call!(RedisModule_LoadStringBuffer, self.0, &raw mut len);
            self.check()?;
            if start.is_null() {
                return Err(SHORT.into());
            }
            let blob = std::slice::from_raw_parts(start.cast::<u8>(), len).to_vec();
            call!(RedisModule_Free, start.cast());
            Ok(blob)
        }
    }
}

fn log_failure(io: *mut api::RedisModuleIO, error: &str) {
    let message = c_string(error);
    // SAFETY: valid while the callback runs; the format takes one string.
    unsafe {
        call!(
            RedisModule_LogIOError,
            io,
            c"warning".as_ptr(),
            c"%s".as_ptr(),
            message.as_ptr()
        );
    }
}

extern "C" fn aux_save(io: *mut api::RedisModuleIO, when: c_int) {
    let writer = &mut Writer(io);
    let saved = guard(|| match AUX.get() {
        Some(aux) if is_before(when) => (aux.before.save)(writer),
        Some(aux) => (aux.save)(writer),
        None => false,
    });
    if saved != Some(true) && is_before(when) {
        log_failure(
            io,
            "geartrain: some requirements could not be saved and are missing in this file",
        );
    } else if saved != Some(true) {
        log_failure(
            io,
            "geartrain: the registrations could not be saved and are missing in this file",
        );
    }
}

/// Writes nothing where there is nothing: the file then loads without the module.
extern "C" fn aux_save2(io: *mut api::RedisModuleIO, when: c_int) {
    let is_empty = |aux: &Aux| match is_before(when) {
        true => (aux.before.is_empty)(),
        false => (aux.is_empty)(),
    };
    if AUX.get().is_some_and(|aux| !is_empty(aux)) {
        aux_save(io, when);
    }
}

extern "C" fn aux_load(io: *mut api::RedisModuleIO, version: c_int, when: c_int) -> c_int {
    let loaded = guard(|| {
        if version > AUX_VERSION {
            return Err(format!(
                "its registrations are of version {version}, newer than {AUX_VERSION}: load it with a \
                 newer geartrain"
            ));
        }
        match AUX.get() {
            Some(aux) if is_before(when) => (aux.before.load)(&mut Loaded(io)),
            Some(aux) => (aux.load)(Loaded(io), version),
            None => Ok(()),
        }
    });
    match loaded {
        Some(Ok(())) => OK,
        Some(Err(error)) => {
            log_failure(
                io,
                &format!("geartrain: the registrations in this file can not be loaded: {error}"),
            );
            FAILED
        }
        None => FAILED,
    }
}

extern "C" fn timer_load(io: *mut api::RedisModuleIO, version: c_int) -> *mut c_void {
    let loaded = guard(|| {
        if version != VERSION {
            return Err(format!(
                "a time event of version {version}; this module reads {VERSION}"
            ));
        }
        let blob = Loaded(io).blob()?;
        let timers = TIMERS.get().ok_or("the module is not loaded")?;
        let number = (timers.load)(&blob)?;
        Ok(Timer::into_raw(number, blob))
    });
    match loaded {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            log_failure(
                io,
                &format!("geartrain: a time event can not be loaded: {error}"),
            );
            ptr::null_mut()
        }
        None => ptr::null_mut(),
    }
}

/// The value of a key of our type. What is saved is ready: a child that saves has no Python, and
/// waits for no lock.
struct Timer {
    number: u64,
    saved: Vec<u8>,
}

impl Timer {
    fn into_raw(number: u64, saved: Vec<u8>) -> *mut c_void {
        Box::into_raw(Box::new(Self { number, saved })).cast()
    }

    /// # Safety
    /// `value` is one of ours, and lives as long as the result is used.
    unsafe fn of_raw<'a>(value: *mut c_void) -> &'a Self {
        // SAFETY: as the caller promises.
        unsafe { &*value.cast::<Self>() }
    }
}

/// # Safety
/// Called by the server.
unsafe extern "C" fn timer_save(io: *mut api::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server hands over a value of ours.
    let timer = unsafe { Timer::of_raw(value) };
    Writer(io).blob(&timer.saved);
}

/// # Safety
/// Called by the server with the key's name.
unsafe extern "C" fn timer_rewrite(
    io: *mut api::RedisModuleIO,
    key: *mut RedisModuleString,
    value: *mut c_void,
) {
    let Some(timers) = TIMERS.get() else {
        return;
    };
    // SAFETY: valid while the callback runs; the value is one of ours.
    unsafe {
        let blob = &Timer::of_raw(value).saved;
        call!(
            RedisModule_EmitAOF,
            io,
            timers.command.as_ptr(),
            c"sb".as_ptr(),
            key,
            blob.as_ptr(),
            blob.len()
        );
    }
}

/// # Safety
/// Called by the server with a value of ours, which nobody uses any more.
unsafe extern "C" fn timer_free(value: *mut c_void) {
    // SAFETY: see above.
    let timer = unsafe { Box::from_raw(value.cast::<Timer>()) };
    guard(|| {
        if let Some(timers) = TIMERS.get() {
            (timers.free)(timer.number);
        }
    });
}

/// Of the time events that we write; RedisGears 1.x wrote 2.
const VERSION: c_int = 3;

/// Of what is saved beside the keys.
const AUX_VERSION: c_int = 5;

/// Registers both types. Only while the module loads.
pub(in crate::redis) fn create_type(ctx: *mut RedisModuleCtx, aux: Aux, timers: TimerKeys) -> bool {
    AUX.get_or_init(|| aux);
    TIMERS.get_or_init(|| timers);
    // SAFETY: the context is that of the load; the server copies the structures.
    unsafe {
        let mut methods: api::RedisModuleTypeMethods = std::mem::zeroed();
        methods.version = api::REDISMODULE_TYPE_METHOD_VERSION.into();
        methods.aux_load = Some(aux_load);
        methods.aux_save = Some(aux_save);
        methods.aux_save2 = Some(aux_save2);
        let triggers = api::REDISMODULE_AUX_BEFORE_RDB | api::REDISMODULE_AUX_AFTER_RDB;
        methods.aux_save_triggers = triggers as c_int;
        let name = c"geartrain".as_ptr();
        if call!(
            RedisModule_CreateDataType,
            ctx,
            name,
            AUX_VERSION,
            &raw mut methods
        )
        .is_null()
        {
            return false;
        }
        let mut methods: api::RedisModuleTypeMethods = std::mem::zeroed();
        methods.version = api::REDISMODULE_TYPE_METHOD_VERSION.into();
        methods.rdb_load = Some(timer_load);
        methods.rdb_save = Some(timer_save);
        methods.aof_rewrite = Some(timer_rewrite);
        methods.free = Some(timer_free);
        let name = c"rg_timeev".as_ptr();
        let made = call!(
            RedisModule_CreateDataType,
            ctx,
            name,
            VERSION,
            &raw mut methods
        );
        NonNull::new(made).is_some_and(|made| TIMER_TYPE.set(Type(made)).is_ok())
    }
}

impl Server {
    /// Makes a key that holds a time event; `false` if it exists already. The server lock is held.
    pub(in crate::redis) fn hold_timer(self, key: &[u8], number: u64, saved: Vec<u8>) -> bool {
        let Some(kind) = TIMER_TYPE.get() else {
            return false;
        };
        // SAFETY: the lock is held; the string is ours and freed, the key closed.
        unsafe {
            let name = string(key);
            let mode = (api::REDISMODULE_READ | api::REDISMODULE_WRITE) as c_int;
            let open = call!(RedisModule_OpenKey, self.raw(), name, mode).cast();
            let empty = call!(RedisModule_KeyType, open) as isize == api::REDISMODULE_KEYTYPE_EMPTY;
            if empty {
                let value = Timer::into_raw(number, saved);
                call!(RedisModule_ModuleTypeSetValue, open, kind.0.as_ptr(), value);
            }
            call!(RedisModule_CloseKey, open);
            call!(RedisModule_FreeString, ptr::null_mut(), name);
            empty
        }
    }
}
