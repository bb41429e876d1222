//! RG.ABORTEXECUTION: stops an execution, also inside a callback that loops for ever.

use std::time::Duration;

use super::executions::WOULD_BLOCK;
use crate::engine::Abort;
use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};

/// Between two attempts to interrupt a callback.
const AGAIN: Duration = Duration::from_millis(1);

/// `RG.ABORTEXECUTION id`
pub(super) fn abort_execution(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    let Ok(execution) = module.registry.find(id) else {
        return ctx.error(b"execution does not exist");
    };
    let running = execution.snapshot().status == crate::engine::Status::Running;
    if running && !ctx.may_block() {
        return ctx.error(WOULD_BLOCK);
    }
    let asked = execution.abort();
    if asked == Abort::Ended {
        return ctx.status(b"OK");
    }
    if !ctx.may_block() {
        // It began to run just now: it was asked to stop, but nobody can wait for it here.
        return ctx.error(WOULD_BLOCK);
    }
    let client = ctx.block();
    execution.when_done(Box::new(move |_| client.reply(|ctx| ctx.status(b"OK"))));
    if asked == Abort::Running {
        module.run(Box::new(move || {
            while !execution.snapshot().status.is_finished() {
                execution.interrupt();
                std::thread::sleep(AGAIN);
            }
        }));
    }
}
