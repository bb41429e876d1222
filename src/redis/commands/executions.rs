//! Executions: listed, described, their results, and how they are forgotten.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Execution, Item, Outcome, Results};
use crate::python::Cpython;
use crate::redis::Module;
use crate::redis::questions::{self, Question, Word};
use crate::redis::raw::{Args, Ctx};
use crate::redis::reply;

/// A reply larger than this is put together off the main thread, where the client may wait.
const LARGE_REPLY: usize = 256 << 10;

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
        return ctx.would_block();
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
        reply::number(ctx, "registered", execution.registered.into());
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
    let everywhere = match scope.as_deref() {
        None => module.has_shards() && (ctx.may_block() || ctx.is_part_of_more()),
        Some(b"SHARD") => false,
        Some(b"CLUSTER") if !module.has_shards() => {
            return ctx.error(b"no cluster detected - use `RG.GETEXECUTION <id> [SHARD]` instead");
        }
        Some(b"CLUSTER") => true,
        Some(_) => return ctx.error(b"unknown subcommand"),
    };
    if everywhere && !ctx.may_block() {
        return ctx.would_block();
    }
    let large = execution
        .outcome()
        .is_ok_and(|outcome| outcome.size() >= LARGE_REPLY);
    if !everywhere && (!large || !ctx.may_block()) {
        return send_described(ctx, &[describe(module, &execution)]);
    }
    let client = ctx.block();
    let question = Question::Describe(execution.id.to_string());
    module.run(Box::new(move || {
        let here = describe(module, &execution);
        if !everywhere {
            return client.reply(|ctx| send_described(ctx, &[here]));
        }
        let done = move |answers| {
            let mut all = vec![here];
            all.extend(questions::described(answers));
            client.reply(|ctx| send_described(ctx, &all));
        };
        module.ask_all(&question, Box::new(done));
    }));
}

fn send_described(ctx: Ctx<'_>, shards: &[Results]) {
    ctx.array(shards.len());
    for shard in shards {
        reply::items_of_array(ctx, shard);
    }
}

/// An execution as this shard sees it, as one result.
pub(in crate::redis) fn describe(module: &Module, execution: &Execution<Cpython>) -> Results {
    let snapshot = execution.snapshot();
    let nothing = Outcome::default();
    let outcome = snapshot.outcome.as_deref().unwrap_or(&nothing);
    let mut out = Results::default();
    let text = |out: &mut Results, text: &str| out.push(Item::Bulk(text.as_bytes()));
    let number = |out: &mut Results, name: &str, value: usize| {
        out.push(Item::Bulk(name.as_bytes()));
        out.push(Item::Integer(i64::try_from(value).unwrap_or(i64::MAX)));
    };
    out.push(Item::Array(4));
    text(&mut out, "shard_id");
    text(&mut out, module.registry.shard_id().as_str());
    text(&mut out, "execution_plan");
    out.push(Item::Array(16));
    text(&mut out, "status");
    text(&mut out, snapshot.status.name());
    let (received, completed) = execution.shards();
    number(&mut out, "shards_received", received);
    number(&mut out, "shards_completed", completed);
    text(&mut out, "results");
    let results = i64::try_from(outcome.results.len()).unwrap_or(i64::MAX);
    let ended = snapshot.outcome.is_some();
    out.push(Item::Integer(if ended { results } else { -1 }));
    text(&mut out, "errors");
    out.push(Item::Array(outcome.errors.len()));
    for error in &outcome.errors {
        text(&mut out, error);
    }
    let milliseconds = |time: Duration| usize::try_from(time.as_millis()).unwrap_or(0);
    number(&mut out, "total_duration", milliseconds(outcome.total));
    number(&mut out, "read_duration", milliseconds(outcome.read));
    text(&mut out, "steps");
    let steps = execution.plan.describe();
    out.push(Item::Array(steps.len()));
    // RedisGears 1.x lists them from the last.
    for step in steps.iter().rev() {
        out.push(Item::Array(8));
        text(&mut out, "type");
        text(&mut out, step.kind);
        let spent = step.timed.map(|timed| timed.of(&outcome.steps));
        number(
            &mut out,
            "duration",
            milliseconds(spent.unwrap_or_default()),
        );
        text(&mut out, "name");
        text(&mut out, step.name);
        text(&mut out, "arg");
        text(&mut out, &step.arg);
    }
    out.end_result();
    out
}

/// `RG.DROPEXECUTION id`
pub(super) fn drop_execution(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    let found = module.registry.find(id);
    let dropped = found.and_then(|execution| {
        let shared = execution.is_shared();
        module
            .registry
            .drop_finished(id)
            .map(|()| (shared, execution.id))
    });
    match dropped {
        Ok((shared, id)) => {
            if shared {
                module.tell_all(&Word::Drop(id.to_string()));
            }
            ctx.status(b"OK");
        }
        Err(error) => ctx.error(error.to_string().as_bytes()),
    }
}
