//! RG.INFOCLUSTER and RG.REFRESHCLUSTER, on a server that is in no cluster.

use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};

/// `RG.INFOCLUSTER`
pub(super) fn info_cluster(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    ctx.bulk(b"no cluster mode");
}

/// `RG.REFRESHCLUSTER`
pub(super) fn refresh_cluster(_module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    ctx.status(b"OK");
}
