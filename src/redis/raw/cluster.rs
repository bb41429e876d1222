//! The cluster that the server is a node of: who it is, its bus, and a look at it now and then.

use std::ffi::{c_char, c_int, c_uchar};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use redis_module::raw as api;

use super::{Ctx, OK, RedisModuleCtx, Server, string};
use crate::engine::{self, ShardId};
use crate::redis::guard::guard;

/// Tells our messages on the bus from those of other modules.
const BUS_TYPE: u8 = 0x47;

/// What is called with a message of the bus: who sent it, and what it is.
pub(in crate::redis) type OnBus = fn(ShardId, &[u8]);

static ON_BUS: OnceLock<OnBus> = OnceLock::new();

/// Length of a node id, which no NUL ends.
const NODE_ID: usize = 40;

impl Server {
    /// The id of this node, if the server is one of a cluster.
    pub(in crate::redis) fn node_id(self) -> Option<ShardId> {
        // SAFETY: takes nothing; what it returns is null or forty characters that stay.
        unsafe {
            let id = call!(RedisModule_GetMyClusterID);
            if id.is_null() {
                return None;
            }
            ShardId::parse(std::slice::from_raw_parts(id.cast(), NODE_ID))
        }
    }

    /// Sends a message to a node over the cluster bus, if that is connected to it. The server lock is
    /// held.
    pub(in crate::redis) fn send_to_node(self, node: ShardId, message: &[u8]) -> bool {
        let Ok(len) = u32::try_from(message.len()) else {
            return false;
        };
        // The server reads forty characters, and some versions a NUL behind them.
        let mut target = [0u8; NODE_ID + 1];
        target[..NODE_ID].copy_from_slice(node.as_str().as_bytes());
        // SAFETY: the context is valid, the lock is held; the server copies what it is given.
        unsafe {
            call!(
                RedisModule_SendClusterMessage,
                self.raw(),
                target.as_ptr().cast(),
                BUS_TYPE,
                message.as_ptr().cast(),
                len,
            ) == OK
        }
    }
}

/// Has the server call us with messages of the bus.
pub(in crate::redis) fn listen_to_bus(ctx: *mut RedisModuleCtx, callback: OnBus) {
    /// # Safety
    /// Called by the server with the id of a node and a message of that length.
    unsafe extern "C" fn heard(
        _ctx: *mut RedisModuleCtx,
        sender: *const c_char,
        _kind: u8,
        payload: *const c_uchar,
        len: u32,
    ) {
        let Some(callback) = ON_BUS.get() else { return };
        // SAFETY: see above.
        let (sender, payload) = unsafe {
            let len = usize::try_from(len).unwrap_or(0);
            let payload = if payload.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(payload, len)
            };
            (
                std::slice::from_raw_parts(sender.cast::<u8>(), NODE_ID),
                payload,
            )
        };
        if let Some(sender) = ShardId::parse(sender) {
            guard(|| callback(sender, payload));
        }
    }
    ON_BUS.get_or_init(|| callback);
    // SAFETY: the context is that of the load.
    unsafe {
        call!(
            RedisModule_RegisterClusterMessageReceiver,
            ctx,
            BUS_TYPE,
            Some(heard)
        );
    }
}

/// The slot of the keys of the command that runs, where that matters; else -1. Changed by the main thread,
/// under the server lock.
static SLOT: AtomicI32 = AtomicI32::new(-1);

/// Runs `body`, which answers a command with this key.
///
/// A server of a cluster that keeps its keys by slot (Redis 7.4, Valkey 8 and newer) takes the slot of
/// that command for the slot of every key that code inside of it names: what it would write to another
/// slot could never be found again.
pub(in crate::redis) fn in_slot_of<R>(
    server: Server,
    key: Option<&[u8]>,
    body: impl FnOnce() -> R,
) -> R {
    let slot = key.filter(|_| server.node_id().is_some() && server.keeps_keys_by_slot());
    let slot = slot.map_or(-1, |key| i32::from(crate::cluster::slot_of(key)));
    let before = SLOT.swap(slot, Ordering::Relaxed);
    let out = body();
    SLOT.store(before, Ordering::Relaxed);
    out
}

impl Server {
    /// The keys of a command. The server lock is held.
    pub(in crate::redis) fn keys_of(self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        // The server looks at the first word without asking whether there is one.
        if words.is_empty() {
            return Vec::new();
        }
        let count = |len: usize| c_int::try_from(len).unwrap_or(0);
        let mut found: c_int = 0;
        // SAFETY: the strings live until they are freed below; the server's list is freed by it.
        unsafe {
            let Some(get) = api::RedisModule_GetCommandKeys else {
                return Vec::new();
            };
            let mut strings: Vec<_> = words.iter().map(|word| string(word)).collect();
            let (argv, argc) = (strings.as_mut_ptr(), count(strings.len()));
            let places = get(self.raw(), argv, argc, &raw mut found);
            let mut keys = Vec::new();
            if !places.is_null() {
                for at in 0..usize::try_from(found).unwrap_or(0) {
                    let place = usize::try_from(*places.add(at)).ok();
                    keys.extend(
                        place
                            .and_then(|place| words.get(place))
                            .map(|key| key.to_vec()),
                    );
                }
                call!(RedisModule_Free, places.cast());
            }
            for string in strings {
                call!(RedisModule_FreeString, std::ptr::null_mut(), string);
            }
            keys
        }
    }

    /// Why a command can not be run inside of the one that is answered, if so.
    pub(super) fn refuses_slot(self, command: &engine::Command) -> Option<String> {
        let slot = u16::try_from(SLOT.load(Ordering::Relaxed)).ok()?;
        let words: Vec<_> = command.words().collect();
        let keys = self.keys_of(&words);
        let other = keys
            .iter()
            .find(|key| crate::cluster::slot_of(key) != slot)?;
        let key = String::from_utf8_lossy(other);
        Some(format!(
            "ERR the key '{key}' is in another slot than the key of the command that this function \
             answers, where this server would not find it: use keys of one slot, mode async_local, \
             or RG.TRIGGER without a key"
        ))
    }
}

impl Ctx<'_> {
    /// Tells the connection that a command came over from all others, past and future.
    pub(in crate::redis) fn client_id(self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_GetClientId, self.raw()) }
    }
}
