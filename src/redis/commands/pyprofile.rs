//! RG.PYPROFILE: how long the callbacks of a session take, with `ProfileExecutions`.

use std::sync::Arc;

use crate::python::{self, Session};
use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};
use crate::redis::reply;

/// `RG.PYPROFILE STATS session [order]` and `RG.PYPROFILE RESET session`
pub(super) fn profile(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let Some((subcommand, words)) = args.rest().split_first() else {
        return ctx.wrong_arity();
    };
    match (subcommand.to_ascii_uppercase().as_slice(), words) {
        (b"STATS", [id]) => stats(module, ctx, id, None),
        (b"STATS", [id, order]) => stats(module, ctx, id, Some(order)),
        (b"RESET", [id]) => {
            if let Some(session) = find(module, ctx, id) {
                python::reset_profile(&session);
                ctx.status(b"OK");
            }
        }
        (b"STATS" | b"RESET", _) => ctx.wrong_arity(),
        _ => ctx.error(b"Wrong subcommand given to RG.PYPROFILE"),
    }
}

fn find(module: &'static Module, ctx: Ctx<'_>, id: &[u8]) -> Option<Arc<Session>> {
    let session = module.registrations.session(&String::from_utf8_lossy(id));
    if session.is_none() {
        ctx.error(b"session does not exists");
    }
    session
}

/// Python sorts and writes: not where the server waits for it.
fn stats(module: &'static Module, ctx: Ctx<'_>, id: &[u8], order: Option<&[u8]>) {
    let Some(session) = find(module, ctx, id) else {
        return;
    };
    let order = order.map(|order| String::from_utf8_lossy(order).into_owned());
    let answer = move |ctx: Ctx<'_>, text: Result<String, String>| match text {
        Ok(text) => reply::text(ctx, &text),
        Err(error) => ctx.error(error.as_bytes()),
    };
    if !ctx.may_block() {
        return answer(ctx, python::profile_text(&session, order.as_deref()));
    }
    let client = ctx.block();
    module.run(Box::new(move || {
        let text = python::profile_text(&session, order.as_deref());
        client.reply(|ctx| answer(ctx, text));
    }));
}
