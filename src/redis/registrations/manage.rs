//! Commands that manage registrations.

use std::sync::Arc;

use super::{Fires, Function, Registrations};
use crate::engine::{Id, ShardId, Trigger};
use crate::redis::raw::{Args, Ctx};

impl Registrations {
    /// `RG.UNREGISTER id [ABORTPENDING]`, also as replicas and AOF get it.
    pub(in crate::redis) fn unregister(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        let (id, option) = match args.rest() {
            [id] => (id, None),
            [id, option] => (id, Some(option)),
            _ => return ctx.wrong_arity(),
        };
        let abort = option.is_some_and(|option| option.eq_ignore_ascii_case(b"abortpending"));
        let Some(id) = Id::parse(id).filter(|&id| self.remove(id, abort)) else {
            return ctx.error(b"execution is not registered");
        };
        let id = id.to_string();
        let words: &[&[u8]] = if abort {
            &[id.as_bytes(), b"abortpending"]
        } else {
            &[id.as_bytes()]
        };
        self.server.replicate(c"RG.INNERUNREGISTER", words);
        self.listen();
        ctx.status(b"OK");
    }

    /// `RG.INNERUNREGISTER id [abortpending]`: the same from the master or the AOF.
    pub(in crate::redis) fn inner_unregister(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERUNREGISTER is internal: use RG.UNREGISTER");
        }
        let [id, rest @ ..] = args.rest() else {
            return ctx.wrong_arity();
        };
        if let Some(id) = Id::parse(id) {
            self.remove(id, !rest.is_empty());
        }
        self.listen();
        ctx.replicate_verbatim();
        ctx.status(b"OK");
    }

    /// Registrations of these ids, all or none. The error names the first that is missing.
    pub(super) fn find_all(&self, ids: &[&[u8]]) -> Result<Vec<(Arc<Function>, Fires)>, String> {
        let state = self.state();
        let find = |id: &&[u8]| {
            let order = Id::parse(id).and_then(|id| state.order_of.get(&id));
            let entry = order.and_then(|order| state.entries.get(order));
            entry
                .map(|entry| (entry.function.clone(), entry.fires.clone()))
                .ok_or_else(|| {
                    format!(
                        "Execution {} does not exists on shard {}",
                        String::from_utf8_lossy(id),
                        ShardId::ALONE
                    )
                })
        };
        ids.iter().map(find).collect()
    }

    /// `RG.PAUSEREGISTRATIONS id ...` and `RG.UNPAUSEREGISTRATIONS id ...`: all or none.
    pub(in crate::redis) fn pause(&self, ctx: Ctx<'_>, args: &Args<'_>, pauses: bool) {
        let ids = match args.rest() {
            [ids @ .., option] if pauses && option.eq_ignore_ascii_case(b"abortpending") => {
                if ids.is_empty() {
                    return ctx.error(b"ERR no registration to pause");
                }
                ids
            }
            [] => return ctx.wrong_arity(),
            ids => ids,
        };
        let found = match self.find_all(ids) {
            Ok(found) => found,
            Err(error) => return ctx.error(error.as_bytes()),
        };
        let mut consumers = Vec::new();
        for (function, fires) in found {
            match fires {
                Fires::Stream(consumer) => consumers.push(consumer),
                Fires::Broken if matches!(function.trigger, Trigger::Stream(_)) => {
                    let error = function.broken.as_deref().unwrap_or_default();
                    return ctx.error(format!("ERR {error}").as_bytes());
                }
                _ => {
                    let what = if pauses { "pause" } else { "unpause" };
                    let reader = function.trigger.reader();
                    let error = format!("Reader {reader} does not support {what}");
                    return ctx.error(error.as_bytes());
                }
            }
        }
        for consumer in consumers {
            if pauses {
                consumer.pause();
            } else {
                consumer.unpause();
            }
        }
        ctx.status(b"OK");
    }

    /// `RG.CLEARREGISTRATIONSSTATS`
    pub(in crate::redis) fn clear_statistics(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !args.rest().is_empty() {
            return ctx.wrong_arity();
        }
        for entry in self.state().entries.values() {
            entry.function.statistics.clear();
        }
        ctx.status(b"OK");
    }
}
