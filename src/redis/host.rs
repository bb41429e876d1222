//! The server as [`crate::engine::Host`] and [`crate::engine::Environment`].

use std::sync::Arc;
use std::time::Duration;

use super::config::Settings;
use super::lock::Lock;
use super::raw::Server;
use crate::engine::{Command, Environment, Host, LogLevel, Reply};

/// Runs commands on the server.
pub(super) struct ServerHost {
    pub(super) lock: Arc<Lock>,
}

impl Host for ServerHost {
    fn call(&self, user: &str, command: &Command) -> Result<Reply, String> {
        self.lock.with(|server| server.call(user, command))
    }

    fn try_call(&self, user: &str, command: &Command) -> Option<Result<Reply, String>> {
        self.lock.try_with(|server| server.call(user, command))
    }

    fn enter_atomic(&self) -> bool {
        self.lock.enter_atomic()
    }

    fn leave_atomic(&self) -> bool {
        self.lock.leave_atomic()
    }

    fn in_atomic(&self) -> bool {
        self.lock.is_atomic()
    }
}

/// Log and settings.
pub(super) struct ServerEnvironment {
    pub(super) server: Server,
    pub(super) settings: Arc<Settings>,
}

/// Hashes to slot 0, the first one of a server that has them all. Redis publishes it for its own
/// benchmark, and keys written by old scripts contain it.
const TAG_OF_SLOT_0: &str = "06S";

impl Environment for ServerEnvironment {
    fn log(&self, level: LogLevel, message: &str) {
        self.server.log(level, message);
    }

    fn extra_setting(&self, name: &str) -> Option<Vec<u8>> {
        self.settings.extra(name.as_bytes())
    }

    fn tracebacks(&self) -> bool {
        self.settings.tracebacks()
    }

    fn sync_limit(&self) -> Option<Duration> {
        self.settings.sync_limit()
    }

    fn hash_tag(&self) -> String {
        TAG_OF_SLOT_0.into()
    }

    fn shard_id(&self) -> Option<String> {
        None
    }
}
