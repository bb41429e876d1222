//! Commands that manage registrations.

use std::sync::Arc;

use super::{Fires, Function, Registrations};
use crate::engine::{Id, ShardId, Trigger};
use crate::redis::questions::{Question, Word};
use crate::redis::raw::{Args, Ctx};
use crate::redis::{MODULE, Module};

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
        self.replicate_removal(id, abort);
        self.bury(id);
        let version = self.next_version();
        if let Some(module) = MODULE.get() {
            module.tell_all(&Word::Unregister {
                id: id.to_string(),
                abort_pending: abort,
                version,
            });
        }
        self.listen();
        ctx.status(b"OK");
    }

    /// Tells replicas and AOF that a registration is gone. The server lock is held.
    pub(super) fn replicate_removal(&self, id: Id, abort_pending: bool) {
        let id = id.to_string();
        let words: &[&[u8]] = if abort_pending {
            &[id.as_bytes(), b"abortpending"]
        } else {
            &[id.as_bytes()]
        };
        self.server.replicate(c"RG.INNERUNREGISTER", words);
    }

    /// `RG.INNERUNREGISTER id [abortpending]`: the same from the master or the AOF.
    pub(in crate::redis) fn inner_unregister(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        let (id, abort) = match args.rest() {
            [id] => (id, false),
            [id, _] => (id, true),
            _ => return ctx.wrong_arity(),
        };
        if !ctx.is_replayed() {
            return ctx.error(b"ERR RG.INNERUNREGISTER is internal: use RG.UNREGISTER");
        }
        if let Some(id) = Id::parse(id) {
            self.remove(id, abort);
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
                        self.registry.shard_id()
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
        if ctx.is_part_of_more() {
            return ctx.would_block();
        }
        let (may_block, module) = (ctx.may_block(), MODULE.get());
        let ids: Vec<_> = ids
            .iter()
            .map(|id| String::from_utf8_lossy(id).into_owned())
            .collect();
        let here = self.pause_here(&ids, pauses);
        let question = Question::Pause { ids, pauses };
        everywhere(ctx, may_block, module, here, &question);
    }

    /// The same on this shard. The server lock is held.
    pub(in crate::redis) fn pause_here(&self, ids: &[String], pauses: bool) -> Result<(), String> {
        let ids: Vec<_> = ids.iter().map(String::as_bytes).collect();
        let mut consumers = Vec::new();
        for (function, fires) in self.find_all(&ids)? {
            match fires {
                Fires::Stream(consumer) => consumers.push(consumer),
                Fires::Broken if matches!(function.trigger, Trigger::Stream(_)) => {
                    let error = function.broken.as_deref().unwrap_or_default();
                    return Err(format!("ERR {error}"));
                }
                _ => {
                    let what = if pauses { "pause" } else { "unpause" };
                    let reader = function.trigger.reader();
                    return Err(format!("Reader {reader} does not support {what}"));
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
        Ok(())
    }

    /// `RG.CLEARREGISTRATIONSSTATS`
    pub(in crate::redis) fn clear_statistics(&self, ctx: Ctx<'_>, args: &Args<'_>) {
        if !args.rest().is_empty() {
            return ctx.wrong_arity();
        }
        if ctx.is_part_of_more() {
            return ctx.would_block();
        }
        self.clear_statistics_here();
        let (may_block, module) = (ctx.may_block(), MODULE.get());
        everywhere(ctx, may_block, module, Ok(()), &Question::ClearStatistics);
    }

    /// The same on this shard. The server lock is held.
    pub(in crate::redis) fn clear_statistics_here(&self) {
        for entry in self.state().entries.values() {
            entry.function.statistics.clear();
        }
    }
}

/// Replies what was done here, after all other shards have done the same.
fn everywhere(
    ctx: Ctx<'_>,
    may_block: bool,
    module: Option<&'static Module>,
    here: Result<(), String>,
    question: &Question,
) {
    let module = module.filter(|module| module.has_shards());
    let (Some(module), Ok(())) = (module, &here) else {
        return match here {
            Ok(()) => ctx.status(b"OK"),
            Err(error) => ctx.error(error.as_bytes()),
        };
    };
    if !may_block {
        // Nobody can wait for the others.
        module.ask_all(question, Box::new(|_| {}));
        return ctx.status(b"OK");
    }
    let client = ctx.block();
    let done = move |answers: Vec<(ShardId, Result<Vec<u8>, String>)>| {
        let error = answers.into_iter().find_map(|(_, answer)| answer.err());
        client.reply(|ctx| match error {
            Some(error) => ctx.error(error.as_bytes()),
            None => ctx.status(b"OK"),
        });
    };
    module.ask_all(question, Box::new(done));
}
