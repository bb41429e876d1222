"""Functions on a cluster of three shards, beside a script on one server with the same data."""

import ast
import collections
import statistics
import subprocess
import sys
import time

from batch import FAMILY, OVER_30, is_groups
from people import families, over_30
from process import Repeater, check, redis_benchmark
from rows import in_turn, is_int, row
from table import Row, si

LOCAL = f"GB().localgroupby({FAMILY}, lambda k, a, r: (a or 0) + 1).run('person:*')"
SHUFFLE = f"GB().groupby({FAMILY}, lambda k, a, r: (a or 0) + 1).run('person:*')"
REPARTITION = f"GB().repartition({FAMILY}).{LOCAL[5:]}"
AGGREGATE = (
    f"GB().aggregateby({FAMILY}, 0, lambda k, a, r: a + 1, lambda k, a, r: a + r).run('person:*')"
)
COLLECT = "GB().collect().filter(lambda r: int(r['value']['age']) >= 0).count().run('person:*')"


def check_moved(cluster, moves, expected):
    """So many whole records come from another shard by the step `moves`."""
    script = (
        f"GB().map(lambda r: (hashtag(), r)).{moves}.filter(lambda x: x[0] != hashtag() and "
        "sorted(x[1]['value']) == ['age', 'name']).count().run('person:*')"
    )
    check(is_int(expected)(cluster.run(script)), f"not {expected} records move by {moves}")


def beside_eval(b, name, script, right, target):
    """A row for a plan over the shards; EVAL does its work over the same hashes on one server."""
    n = b.a.keys
    b.people(n)
    cluster = b.cluster(3)
    cluster.people(n)
    name = f"3 shards: {name}"
    b.versus(name, n, script, right, b.by_eval, "EVAL on one server", on=cluster, target=target)


@row()
def cluster_count(b):
    n = b.a.keys
    beside_eval(b, "count(), nothing moves", "GB().count().run('person:*')", is_int(n), 2.5)


@row()
def cluster_map_filter_count(b):
    beside_eval(b, "map(age) + filter + count", OVER_30, is_int(over_30(b.a.keys)), 1.5)


@row()
def cluster_groups(b):
    right = is_groups(families(b.a.keys))
    beside_eval(b, "aggregateby family name", AGGREGATE, right, 1.3)
    beside_eval(b, "repartition + localgroupby, two thirds move", REPARTITION, right, 0.9)
    beside_eval(b, "groupby family name, two thirds move", SHUFFLE, right, 0.9)


@row()
def cluster_collect(b):
    """Whole records go to the shard that was asked, which looks into each of them."""
    n = b.a.keys
    beside_eval(b, "collect of whole records + filter + count", COLLECT, is_int(n), 0.9)
    cluster = b.cluster(3)
    check_moved(cluster, "collect()", n - cluster.servers[0].r.dbsize())


def is_groups_in_parts(expected):
    """Each result is a group of one shard; together they are the expected groups."""

    def right(got):
        sums = collections.Counter()
        for pair in map(ast.literal_eval, got):
            sums[pair["key"]] += pair["value"]
        return sums == expected

    return right


@row()
def cluster_moving(b):
    """The CPU time of a plan that moves records, less that of the same plan without moving."""
    n = b.a.keys
    cluster = b.cluster(3)
    cluster.people(n)
    moved = cluster.moved()
    check_moved(cluster, f"repartition(lambda x: ({FAMILY})(x[1]))", moved)
    plans = {
        "groupby": b.workload(SHUFFLE, is_groups(families(n)), cluster),
        "localgroupby": b.workload(LOCAL, is_groups_in_parts(families(n)), cluster),
    }
    runs = in_turn(b, plans)
    cpus = {name: [cpu for _, cpu in both] for name, both in runs.items()}
    mid = {name: statistics.median(cpu) for name, cpu in cpus.items()}
    b.add(
        Row(
            "3 shards: CPU time of moving a record",
            f"groupby {mid['groupby'] / n * 1e6:.2f} us/record",
            f"localgroupby {mid['localgroupby'] / n * 1e6:.2f} us/record",
            (mid["groupby"] - mid["localgroupby"]) / moved * 1e6,
            (min(cpus["groupby"]) - min(cpus["localgroupby"])) / moved * 1e6,
            "us",
            target=2.5,
            less=True,
            note=f"per record that moves, {moved} of {n}; all servers, all threads",
            raw={"runs": runs, "moved": moved},
        )
    )


@row()
def cluster_empty_run(b):
    """Round trip of a run with a record per shard, on the cluster and on one server."""
    times = 50 if b.a.quick else 500
    cluster = b.cluster(3)
    right = {"3 shards": (cluster, sorted(cluster.ids())), "one server": (b.server, ["1"])}
    trips = collections.defaultdict(list)

    def trip(server, ids):
        t = time.perf_counter()
        got = server.run("GB('ShardsIDReader').run()")
        t = time.perf_counter() - t
        check(sorted(got) == ids, f"wrong shards {got}")
        return t * 1000

    for _ in range(10):
        for name, (server, ids) in right.items():
            trips[name] += [trip(server, ids) for _ in range(times // 10)]
    for name, target in (("3 shards", 0.5), ("one server", None)):
        ms = sorted(trips[name])
        b.add(
            Row(
                f"{name}: empty run, round trip",
                f"{statistics.median(ms):.3f} ms",
                "",
                statistics.median(ms),
                ms[0],
                "ms",
                target=target,
                less=True,
                note=f"the median of {times}; p99 {ms[int(times * 0.99)]:.3f} ms",
                raw={"ms": ms},
            )
        )


@row()
def cluster_get_p99(b):
    """GET by 50 clients on one shard after the other, without and with a shuffle on all of them.

    The shuffle is repeated all the time. For comparison also beside processes that only burn CPU,
    as many as there are shards: on few cores that alone raises the latency.
    """
    n = b.a.big_keys
    requests = 50_000 if b.a.quick else 300_000
    cluster = b.cluster(3)
    cluster.people(n)
    keys = [cluster.key(number) for number in range(3)]
    for server, key in zip(cluster.servers, keys, strict=True):
        server.r.set(key, "xxx")
    cluster.loaded = 0

    def shuffle():
        got = cluster.run(f"GB().repartition({FAMILY}).count().run('person:*')")
        check(is_int(n)(got), f"wrong count {got}")

    def gets():
        """The loads of the shards, in their order."""
        return [
            redis_benchmark(server.port, "-c", 50, "-n", requests, "GET", key)
            for server, key in zip(cluster.servers, keys, strict=True)
        ]

    alone, crowded, during, shuffles = [], [], [], []
    for _ in range(min(3, b.a.rounds)):
        alone.append(gets())
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in keys]
        try:
            crowded.append(gets())
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        with Repeater(shuffle) as repeater:
            during.append(gets())
        shuffles += repeater.seconds

    def mid(runs, shard, figure="p99"):
        return statistics.median(loads[shard][figure] for loads in runs)

    def best(runs, shard):
        return min(loads[shard]["p99"] for loads in runs)

    def shown(runs, shard):
        return f"{mid(runs, shard):.3f} ms at {si(mid(runs, shard, 'rps'))} GET/s"

    for against, yard, target in (
        ("without", alone, 2),
        ("beside three CPU-bound processes instead", crowded, None),
    ):
        ratios = [mid(during, shard) / mid(yard, shard) for shard in range(3)]
        worst = ratios.index(max(ratios))
        b.add(
            Row(
                f"3 shards: GET p99, 50 clients, during a shuffle of {si(n)} records (latency)",
                shown(during, worst),
                f"{against} {shown(yard, worst)}",
                ratios[worst],
                best(during, worst) / best(yard, worst),
                target=target,
                less=True,
                note=f"the worst shard of {', '.join(f'{x:.2f}' for x in ratios)} x; "
                f"max {mid(during, worst, 'max'):.1f} ms, {against} "
                f"{mid(yard, worst, 'max'):.1f} ms; shuffle "
                f"{si(n / statistics.median(shuffles))} records/s",
                raw={"yardstick": yard, "during": during, "shuffle_s": shuffles},
            )
        )


COUNTERS = "rg_cluster_messages_sent", "rg_cluster_bytes_sent", "total_net_input_bytes"
"""Of INFO; the last one is the server's own, of clients and of the shards' messages."""


@row()
def cluster_growth(b):
    """What the same plan over the same data sends on 3, 6 and 12 shards, per record that moves."""
    n = b.a.keys
    sizes = (3, 6, 12)
    messages, sent = {}, {}
    for size in sizes:
        cluster = b.cluster(size)
        for field in COUNTERS:
            cluster.counter(field)  # A missing one is known before anything else is done.
        cluster.people(n)
        once = b.workload(SHUFFLE, is_groups(families(n)), cluster)
        moved = cluster.moved()
        runs = []
        for _ in range(min(3, b.a.rounds)):
            before = [cluster.counter(field) for field in COUNTERS]
            t, cpu = once()
            after = [cluster.counter(field) for field in COUNTERS]
            count, total, arrived = (y - x for x, y in zip(before, after, strict=True))
            near = 0.8 * arrived < total < 1.2 * arrived
            check(near, f"{total} bytes were sent, the servers received {arrived}")
            runs.append((t, cpu, count, total))
        t, cpu, count, total = (statistics.median(x) for x in zip(*runs, strict=True))
        messages[size], sent[size] = count / moved, total / moved
        b.add(
            Row(
                f"{size} shards: groupby family name",
                f"{messages[size] * 1000:.3g} messages per 1000 moved",
                "",
                sent[size],
                unit="bytes/moved",
                cpu_us=cpu / n * 1e6,
                note=f"{moved} of {n} records move; {count:.0f} messages, {si(n / t)} records/s",
                raw={"runs": runs, "moved": moved},
            )
        )
    b.drop_cluster()
    few, many = sizes[0], sizes[-1]
    for name, cost, target, note in (
        ("bytes", sent, 1.5, "grows with the data: 1 x"),
        ("messages", messages, 4, "with the shards: 4 x; with their square: 16 x"),
    ):
        b.add(
            Row(
                f"{name} per moved record, {many} shards against {few}",
                f"{cost[many]:.3g}",
                f"{cost[few]:.3g}",
                cost[many] / cost[few],
                target=target,
                less=True,
                note=note,
                raw={str(size): cost[size] for size in sizes},
            )
        )
