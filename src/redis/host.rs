//! The server as [`crate::engine::Host`] and [`crate::engine::Environment`].

use std::sync::Arc;
use std::time::Duration;

use super::config::Settings;
use super::lock::Lock;
use super::raw::Server;
use crate::cluster::Cluster;
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
    pub(super) cluster: Option<Arc<Cluster>>,
}

/// Hashes to slot 0, the first one of a server that has them all.
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
        let topology = self.cluster.as_ref().and_then(|cluster| cluster.topology());
        topology.map_or_else(
            || TAG_OF_SLOT_0.into(),
            |topology| topology.tag().to_owned(),
        )
    }

    fn shard_id(&self) -> Option<String> {
        let others = self.cluster.as_ref().and_then(|cluster| cluster.others());
        others.map(|topology| topology.me.to_string())
    }
}
