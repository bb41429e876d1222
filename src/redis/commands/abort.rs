//! RG.ABORTEXECUTION: stops an execution, also inside a callback that loops for ever.

use std::time::Duration;

use crate::engine::{Abort, ShardId, Status};
use crate::redis::Module;
use crate::redis::questions::Question;
use crate::redis::raw::{Args, Ctx};

/// Between two attempts to interrupt a callback.
const AGAIN: Duration = Duration::from_millis(1);

/// The text of RedisGears 1.x.
const UNKNOWN: &str = "execution does not exist";

/// `RG.ABORTEXECUTION id`
pub(super) fn abort_execution(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    if ctx.is_part_of_more() {
        return ctx.would_block();
    }
    let found = module.registry.find(id);
    let everywhere = module.has_shards() && !found.as_ref().is_ok_and(|known| !known.is_shared());
    if found.is_err() && !everywhere {
        return ctx.error(UNKNOWN.as_bytes());
    }
    let waits = everywhere
        || found.as_ref().is_ok_and(|known| {
            let status = known.snapshot().status;
            !status.is_finished() && status != Status::Created
        });
    if waits && !ctx.may_block() {
        return ctx.would_block();
    }
    if !waits {
        // Nobody is at work for it.
        if let Ok(execution) = found
            && execution.abort() != Abort::Ended
        {
            // It began to run just now: it was asked to stop, but nobody can wait for it here.
            return ctx.would_block();
        }
        return ctx.status(b"OK");
    }
    let client = ctx.block();
    let text = String::from_utf8_lossy(id).into_owned();
    let id = text.clone();
    let reply = move |here: Result<(), String>| {
        let done = move |answers: Vec<(ShardId, Result<Vec<u8>, String>)>| {
            let mut all = vec![here];
            all.extend(answers.into_iter().map(|(_, answer)| answer.map(drop)));
            client.reply(|ctx| match verdict(all) {
                Ok(()) => ctx.status(b"OK"),
                Err(error) => ctx.error(error.as_bytes()),
            });
        };
        if everywhere {
            module.ask_all(&Question::Abort(text), Box::new(done));
        } else {
            done(Vec::new());
        }
    };
    abort(module, id.as_bytes(), Box::new(reply));
}

/// An execution is stopped if all shards that know it have stopped it, and one did.
fn verdict(all: Vec<Result<(), String>>) -> Result<(), String> {
    let known = all.iter().any(|shard| shard.is_ok());
    let errors = all.into_iter().filter_map(Result::err);
    let error = errors.into_iter().find(|error| !known || error != UNKNOWN);
    error.map_or(Ok(()), Err)
}

/// Stops an execution, or its part, on this shard; `done` is called when it has ended.
pub(in crate::redis) fn abort(
    module: &'static Module,
    id: &[u8],
    done: Box<dyn FnOnce(Result<(), String>) + Send>,
) {
    let Ok(execution) = module.registry.find(id) else {
        return done(Err(UNKNOWN.into()));
    };
    let asked = execution.abort();
    if asked == Abort::Ended {
        return done(Ok(()));
    }
    // Other shards are stopped as well, and it ends when all have.
    done_when_stopped(module, execution, asked, done);
}

fn done_when_stopped(
    module: &'static Module,
    execution: std::sync::Arc<crate::engine::Execution<crate::python::Cpython>>,
    asked: Abort,
    done: Box<dyn FnOnce(Result<(), String>) + Send>,
) {
    if execution.is_shared() {
        // It may wait for others to end, which are told by whoever tells this one.
        done(Ok(()));
    } else {
        execution.when_done(Box::new(move |_| done(Ok(()))));
    }
    if asked == Abort::Running {
        module.run(Box::new(move || {
            while !execution.snapshot().status.is_finished() {
                execution.interrupt();
                std::thread::sleep(AGAIN);
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::{UNKNOWN, verdict};

    #[test]
    fn a_shard_that_does_not_know_an_execution_is_no_error_if_another_does() {
        let unknown = || Err(UNKNOWN.to_owned());
        let failed = || Err("Execution max idle reached".to_owned());
        assert_eq!(verdict(vec![unknown(), unknown()]), unknown());
        assert_eq!(verdict(vec![unknown(), Ok(()), unknown()]), Ok(()));
        assert_eq!(verdict(vec![unknown(), Ok(()), failed()]), failed());
    }
}
