//! Registrations: triggered, listed, paused, removed.

use crate::engine::{CommandTrigger, Figures, Trigger};
use crate::redis::Module;
use crate::redis::config::ReplyVersion;
use crate::redis::raw::{self, Args, Ctx, Info};
use crate::redis::registrations::Listed;
use crate::redis::reply;

/// `RG.TRIGGER name argument ...`
pub(super) fn trigger(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.trigger(ctx, args.rest());
}

/// `RG.TRIGGERONKEY name key argument ...`
pub(super) fn trigger_on_key(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let key = args.rest().get(1).copied();
    raw::in_slot_of(module.server, key, || {
        module.registrations.trigger(ctx, args.rest());
    });
}

/// `RG.UNREGISTER id [ABORTPENDING]`
pub(super) fn unregister(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.unregister(ctx, args);
}

/// `RG.PAUSEREGISTRATIONS id ...`
pub(super) fn pause(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.pause(ctx, args, true);
}

/// `RG.UNPAUSEREGISTRATIONS id ...`
pub(super) fn unpause(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.pause(ctx, args, false);
}

/// `RG.CLEARREGISTRATIONSSTATS`
pub(super) fn clear_statistics(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.clear_statistics(ctx, args);
}

/// `RG.INNERHOOK command ...`
pub(super) fn inner_hook(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    if module.cluster().is_none() || ctx.asks_for_keys() {
        return module.registrations.hooked(ctx, args);
    }
    let keys = module.server.keys_of(args.rest());
    let key = keys.first().map(Vec::as_slice);
    raw::in_slot_of(module.server, key, || {
        module.registrations.hooked(ctx, args);
    });
}

/// `RG.INNERREGISTER blob`
pub(super) fn inner_register(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.inner_register(ctx, args);
}

/// `RG.INNERUNREGISTER id [abortpending]`
pub(super) fn inner_unregister(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.inner_unregister(ctx, args);
}

/// `RG.INNERTIMEEVENT key blob`
pub(super) fn inner_time_event(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.registrations.inner_time_event(ctx, args);
}

/// `RG.PYSESSIONSOURCE session`
pub(super) fn session_source(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [id] = args.rest() else {
        return ctx.wrong_arity();
    };
    let id = String::from_utf8_lossy(id);
    match module.registrations.source(&id) {
        Some(source) => ctx.bulk(&source),
        None => ctx.error(format!("Session {id} does not exists").as_bytes()),
    }
}

/// `RG.DUMPREGISTRATIONS`
pub(super) fn dump_registrations(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    let version = module.settings.reply_version();
    let list = module.registrations.list();
    ctx.array(list.len());
    for listed in &list {
        describe(ctx, listed, version, true);
    }
}

/// A registration; `session` says whether with the text about that.
pub(super) fn describe(ctx: Ctx<'_>, listed: &Listed, version: ReplyVersion, session: bool) {
    let function = &listed.function;
    let pool = version >= ReplyVersion::V1_2_1;
    ctx.array(8 + if session { 2 } else { 0 } + if pool { 2 } else { 0 });
    reply::field(ctx, "id", &function.id.to_string());
    reply::field(ctx, "reader", function.trigger.reader());
    reply::text(ctx, "desc");
    text_or_null(ctx, function.plan.description.as_deref());
    reply::text(ctx, "RegistrationData");
    data(ctx, listed, version);
    if session {
        reply::field(ctx, "PD", &listed.session);
    }
    if pool {
        reply::field(ctx, "ExecutionThreadPool", "DefaultPool");
    }
}

/// Text, or nothing.
pub(super) fn text_or_null(ctx: Ctx<'_>, text: Option<&str>) {
    match text {
        Some(text) => reply::text(ctx, text),
        None => ctx.null(),
    }
}

fn data(ctx: Ctx<'_>, listed: &Listed, version: ReplyVersion) {
    let function = &listed.function;
    let figures = function.statistics.figures();
    let newest = version == ReplyVersion::V1_2_13;
    let stream = matches!(function.trigger, Trigger::Stream(_));
    let durations = if newest { 6 } else { 0 };
    let lags = if newest && stream { 4 } else { 0 };
    let status = if stream { 2 } else { 0 };
    ctx.array(14 + durations + lags + status);
    reply::field(ctx, "mode", function.mode.name());
    for (name, value) in counters(&figures) {
        reply::text(ctx, name);
        ctx.integer(value);
    }
    if newest {
        reply::number(ctx, "lastRunDurationMS", figures.last_run);
        reply::number(ctx, "totalRunDurationMS", figures.total_run);
        reply::text(ctx, "avgRunDurationMS");
        ctx.double(figures.average_run);
        if stream {
            reply::number(ctx, "lastEstimatedLagMS", figures.last_lag);
            reply::text(ctx, "avgEstimatedLagMS");
            ctx.double(figures.average_lag);
        }
    }
    reply::text(ctx, "lastError");
    text_or_null(ctx, figures.last_error.as_deref());
    reply::text(ctx, "args");
    arguments(ctx, &function.trigger);
    if stream {
        reply::field(ctx, "status", listed.status);
    }
}

fn counters(figures: &Figures) -> [(&'static str, i64); 4] {
    [
        ("numTriggered", figures.triggered),
        ("numSuccess", figures.success),
        ("numFailures", figures.failures),
        ("numAborted", figures.aborted),
    ]
}

fn arguments(ctx: Ctx<'_>, trigger: &Trigger) {
    match trigger {
        Trigger::Keys(keys) => {
            ctx.array(8);
            reply::field(ctx, "regex", &keys.prefix);
            for (name, words) in [
                ("eventTypes", &keys.event_types),
                ("keyTypes", &keys.key_types),
                ("hookCommands", &keys.commands),
            ] {
                reply::text(ctx, name);
                match words {
                    None => ctx.null(),
                    Some(words) => {
                        ctx.array(words.len());
                        for word in words {
                            reply::text(ctx, word);
                        }
                    }
                }
            }
        }
        Trigger::Stream(stream) => {
            ctx.array(12);
            reply::number(ctx, "batchSize", stream.batch);
            reply::number(ctx, "durationMS", stream.duration);
            reply::field(ctx, "stream", &stream.prefix);
            reply::number(ctx, "trimStream", stream.trim.into());
            reply::field(ctx, "onFailedPolicy", stream.on_failed.name());
            reply::number(ctx, "retryInterval", stream.retry_interval);
        }
        Trigger::Command { what, in_order } => {
            ctx.array(4);
            let name = match what {
                CommandTrigger::Named(name) => name,
                CommandTrigger::Hook { command, .. } => command,
            };
            reply::field(ctx, "trigger", name);
            reply::number(ctx, "inorder", (*in_order).into());
        }
    }
}

/// A registration as a line of INFO: its name and its text.
pub(in crate::redis) fn info(info: &Info, listed: &Listed) {
    let function = &listed.function;
    let figures = function.statistics.figures();
    let or_none = |text: Option<&str>| text.unwrap_or("None").to_owned();
    let list = |words: &Option<Vec<String>>| match words {
        Some(words) => format!("[{}]", words.join("|")),
        None => "None".into(),
    };
    let mut fields = vec![
        ("desc", or_none(function.plan.description.as_deref())),
        ("reader", function.trigger.reader().into()),
        ("mode", function.mode.name().into()),
    ];
    for (name, value) in counters(&figures) {
        fields.push((name, value.to_string()));
    }
    fields.push(("lastRunDurationMS", figures.last_run.to_string()));
    fields.push(("totalRunDurationMS", figures.total_run.to_string()));
    fields.push(("avgRunDurationMS", figures.average_run.to_string()));
    let error = or_none(figures.last_error.as_deref());
    match &function.trigger {
        Trigger::Keys(keys) => {
            fields.push(("lastError", error));
            fields.push(("regex", keys.prefix.clone()));
            fields.push(("eventTypes", list(&keys.event_types)));
            fields.push(("keyTypes", list(&keys.key_types)));
            fields.push(("hookCommands", list(&keys.commands)));
        }
        Trigger::Stream(stream) => {
            fields.push(("lastEstimatedLagMS", figures.last_lag.to_string()));
            fields.push(("avgEstimatedLagMS", figures.average_lag.to_string()));
            fields.push(("lastError", error));
            fields.push(("batchSize", stream.batch.to_string()));
            fields.push(("durationMS", stream.duration.to_string()));
            fields.push(("stream", stream.prefix.clone()));
            fields.push(("status", listed.status.into()));
            fields.push(("trimStream", u8::from(stream.trim).to_string()));
            fields.push(("onFailedPolicy", stream.on_failed.name().into()));
            fields.push(("retryInterval", stream.retry_interval.to_string()));
        }
        Trigger::Command { what, in_order } => {
            let name = match what {
                CommandTrigger::Named(name) => name,
                CommandTrigger::Hook { command, .. } => command,
            };
            fields.push(("lastError", error));
            fields.push(("trigger", name.clone()));
            fields.push(("inorder", u8::from(*in_order).to_string()));
        }
    }
    fields.push(("PD", listed.session.clone()));
    // A comma or a line end in a value would break the line apart.
    let clean = |value: &str| value.replace(',', "|").replace(['\r', '\n'], " ");
    let text: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", clean(value)))
        .collect();
    info.named_text(&function.id.to_string(), &text.join(","));
}
