//! The cluster: described, read anew, and what its shards say to each other.

use crate::redis::Module;
use crate::redis::config::ReplyVersion;
use crate::redis::raw::{Args, Ctx};
use crate::redis::reply;

/// `RG.INFOCLUSTER`
pub(super) fn info_cluster(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    let cluster = module.cluster();
    let known = cluster.and_then(|cluster| Some((cluster, cluster.topology()?)));
    let several = known.filter(|(_, topology)| topology.listed().len() > 1);
    let Some((cluster, topology)) = several else {
        return ctx.bulk(b"no cluster mode");
    };
    let runs = module.settings.reply_version() >= ReplyVersion::V1_2_1;
    ctx.array(if runs { 5 } else { 3 });
    reply::field(ctx, "MyId", topology.me.as_str());
    if runs {
        reply::field(ctx, "MyRunId", cluster.run_id());
    }
    let shards = cluster.list();
    ctx.array(shards.len());
    for listed in shards {
        ctx.array(if runs { 16 } else { 14 });
        reply::field(ctx, "id", listed.shard.id.as_str());
        reply::field(ctx, "ip", &listed.shard.host);
        reply::number(ctx, "port", listed.shard.port.into());
        reply::field(ctx, "unixSocket", "None");
        reply::text(ctx, "runid");
        match &listed.run_id {
            Some(run_id) => reply::text(ctx, run_id),
            None => ctx.null(),
        }
        let (first, last) = listed.shard.ranges.first().copied().unwrap_or_default();
        reply::number(ctx, "minHslot", first.into());
        reply::number(ctx, "maxHslot", last.into());
        if runs {
            reply::number(ctx, "pendingMessages", listed.pending as u64);
        }
    }
}

/// `RG.REFRESHCLUSTER`: reads the cluster at once. It is followed anyway.
pub(super) fn refresh_cluster(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    if ctx.is_part_of_more() {
        return ctx.would_block();
    }
    module.read_cluster();
    ctx.status(b"OK");
}

/// `RG.NETWORKTEST`
pub(super) fn network_test(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    if let Some(cluster) = module.cluster() {
        cluster.test();
    }
    ctx.status(b"OK");
}

/// `RG.HELLO`, between shards.
pub(super) fn hello(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let Some(cluster) = module.cluster() else {
        return ctx.error(b"ERRCLUSTER NULL cluster state on hello msg");
    };
    match cluster.hello(ctx.client_id(), args.rest()) {
        Ok(run_id) => ctx.bulk(run_id.as_bytes()),
        Err(error) => ctx.error(error.as_bytes()),
    }
}

/// `RG.INNERMSGCOMMAND sender run-id function payload number`, between shards.
pub(super) fn message(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    if args.rest().len() != 5 {
        return ctx.wrong_arity();
    }
    let Some(cluster) = module.cluster() else {
        return ctx.error(b"ERRCLUSTER NULL cluster state");
    };
    match cluster.message(ctx.client_id(), args.rest()) {
        Ok(status) => ctx.status(status.as_bytes()),
        Err(error) => ctx.error(error.as_bytes()),
    }
}
