//! Executions: listed, described, their results, and how they are forgotten.

use std::sync::Arc;

use crate::engine::{Execution, Outcome, ShardId};
use crate::python::Cpython;
use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};
use crate::redis::reply;

/// A reply larger than this is put together off the main thread, where the client may wait.
const LARGE_REPLY: usize = 256 << 10;

/// The host's text for commands that would have to wait.
pub(super) const WOULD_BLOCK: &[u8] = b"ERR Blocking module command called from transaction";

fn find(module: &'static Module, ctx: Ctx<'_>, id: &[u8]) -> Option<Arc<Execution<Cpython>>> {
    match module.registry.find(id) {
        Ok(execution) => Some(execution),
        Err(error) => {
            ctx.error(error.to_string().as_bytes());
            None
        }
    }
}

/// `RG.GETRESULTS id`
pub(super) fn get_results(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id, ..] = args.rest() else {
        return ctx.wrong_arity();
    };
    let Some(execution) = find(module, ctx, id) else {
        return;
    };
    match execution.outcome() {
        Ok(outcome) => send(module, ctx, outcome),
        Err(error) => ctx.error(error.to_string().as_bytes()),
    }
}

/// `RG.GETRESULTSBLOCKING id`
pub(super) fn get_results_blocking(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    let Some(execution) = find(module, ctx, id) else {
        return;
    };
    if let Ok(outcome) = execution.outcome() {
        return send(module, ctx, outcome);
    }
    if !ctx.may_block() {
        return ctx.error(WOULD_BLOCK);
    }
    let client = ctx.block();
    execution.when_done(Box::new(move |outcome| {
        client.reply(|ctx| reply::outcome(ctx, outcome));
    }));
}

fn send(module: &'static Module, ctx: Ctx<'_>, outcome: Arc<Outcome>) {
    if outcome.size() < LARGE_REPLY || !ctx.may_block() {
        return reply::outcome(ctx, &outcome);
    }
    let client = ctx.block();
    module.run(Box::new(move || {
        client.reply(|ctx| reply::outcome(ctx, &outcome))
    }));
}

/// `RG.DUMPEXECUTIONS`
pub(super) fn dump_executions(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    let executions = module.registry.list();
    ctx.array(executions.len());
    for execution in executions {
        ctx.array(6);
        reply::field(ctx, "executionId", &execution.id.to_string());
        reply::field(ctx, "status", execution.snapshot().status.name());
        reply::number(ctx, "registered", execution.registration.is_some().into());
    }
}

/// `RG.GETEXECUTION id [SHARD|CLUSTER]`
pub(super) fn get_execution(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let (id, scope) = match args.rest() {
        [id] => (id, None),
        [id, scope] => (id, Some(scope.to_ascii_uppercase())),
        _ => return ctx.wrong_arity(),
    };
    let Some(execution) = find(module, ctx, id) else {
        return;
    };
    match scope.as_deref() {
        None | Some(b"SHARD") => {}
        Some(b"CLUSTER") => {
            return ctx.error(b"no cluster detected - use `RG.GETEXECUTION <id> [SHARD]` instead");
        }
        Some(_) => return ctx.error(b"unknown subcommand"),
    }
    let large = execution
        .outcome()
        .is_ok_and(|outcome| outcome.size() >= LARGE_REPLY);
    if !large || !ctx.may_block() {
        return describe(ctx, &execution);
    }
    let client = ctx.block();
    module.run(Box::new(move || {
        client.reply(|ctx| describe(ctx, &execution))
    }));
}

fn describe(ctx: Ctx<'_>, execution: &Execution<Cpython>) {
    let snapshot = execution.snapshot();
    let nothing = Outcome::default();
    let outcome = snapshot.outcome.as_deref().unwrap_or(&nothing);
    ctx.array(1);
    ctx.array(4);
    reply::field(ctx, "shard_id", ShardId::ALONE.as_str());
    reply::text(ctx, "execution_plan");
    ctx.array(16);
    reply::field(ctx, "status", snapshot.status.name());
    reply::number(ctx, "shards_received", 0);
    reply::number(ctx, "shards_completed", 0);
    reply::text(ctx, "results");
    let results = i64::try_from(outcome.results.len()).unwrap_or(i64::MAX);
    ctx.integer(if snapshot.outcome.is_some() {
        results
    } else {
        -1
    });
    reply::text(ctx, "errors");
    ctx.array(outcome.errors.len());
    for error in &outcome.errors {
        reply::text(ctx, error);
    }
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(0);
    reply::number(ctx, "total_duration", milliseconds(outcome.total));
    reply::number(ctx, "read_duration", milliseconds(outcome.read));
    reply::text(ctx, "steps");
    let steps = execution.plan.describe();
    ctx.array(steps.len());
    // RedisGears 1.x lists them from the last.
    for step in steps.iter().rev() {
        ctx.array(8);
        reply::field(ctx, "type", step.kind);
        let spent = step.timed.and_then(|at| outcome.steps.get(at)).copied();
        reply::number(ctx, "duration", milliseconds(spent.unwrap_or_default()));
        reply::field(ctx, "name", step.name);
        reply::field(ctx, "arg", &step.arg);
    }
}

/// `RG.DROPEXECUTION id`
pub(super) fn drop_execution(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    match module.registry.drop_finished(id) {
        Ok(()) => ctx.status(b"OK"),
        Err(error) => ctx.error(error.to_string().as_bytes()),
    }
}
