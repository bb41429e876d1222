//! RG.PYSTATS: the memory that Python takes.

use crate::python;
use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};
use crate::redis::reply;

/// `RG.PYSTATS`
pub(super) fn pystats(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    let [total, peak, current] = python::memory();
    ctx.array(6);
    reply::number(ctx, "TotalAllocated", total as u64);
    reply::number(ctx, "PeakAllocated", peak as u64);
    reply::number(ctx, "CurrAllocated", current as u64);
}
