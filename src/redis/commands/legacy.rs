//! Commands that clients of RedisGears 1.x still send, and that have nothing to do any more.

use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};

/// `RG.DUMPPLUGINS`: the one plugin that there was, and its version.
pub(super) fn dump_plugins(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    ctx.array(1);
    ctx.array(2);
    ctx.bulk(b"GearsPythonPlugin");
    ctx.integer(10000);
}

/// `RG.PYFREEINTERPRETER`
pub(super) fn free_interpreter(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    ctx.bulk(b"Free interpreter is not longer supported");
}

/// `RG.PYEXECUTEREMOTE`
pub(super) fn execute_remote(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    ctx.bulk(b"Execute remote is not longer supported");
}
