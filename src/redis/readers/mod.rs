//! Records out of the keyspace.

mod keys;
mod stream;

use std::sync::Arc;

use super::lock::Lock;
use crate::engine::{Need, Reader, ReaderSpec, Readers};
pub(super) use keys::{Values, write_key};
pub(super) use stream::{entries, split, write_entry};

/// Opens readers of the server's data.
pub(super) struct ServerReaders {
    pub(super) lock: Arc<Lock>,
}

impl Readers for ServerReaders {
    fn open(&self, spec: &ReaderSpec, need: Need, user: &str) -> Box<dyn Reader> {
        let (lock, user) = (self.lock.clone(), user.to_owned());
        match spec {
            ReaderSpec::Keys {
                range,
                read_value,
                all_values,
            } => {
                let values = keys::Values::of(*read_value, *all_values);
                Box::new(keys::KeysReader::new(lock, user, range, need, Some(values)))
            }
            ReaderSpec::KeyNames { pattern } => {
                let range = crate::engine::KeysRange::Pattern(pattern.clone());
                Box::new(keys::KeysReader::new(lock, user, &range, need, None))
            }
            ReaderSpec::Stream { key, after } => Box::new(stream::StreamReader::new(
                lock,
                user,
                key.clone(),
                after.clone(),
            )),
        }
    }
}
