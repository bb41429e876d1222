//! The cluster that the server is a node of: who it is, its bus, and a look at it now and then.

use std::ffi::{c_char, c_uchar};
use std::sync::OnceLock;

use redis_module::raw as api;

use super::{Ctx, OK, RedisModuleCtx, Server};
use crate::engine::ShardId;
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

impl Ctx<'_> {
    /// Tells the connection that a command came over from all others, past and future.
    pub(in crate::redis) fn client_id(self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { call!(RedisModule_GetClientId, self.raw()) }
    }
}
