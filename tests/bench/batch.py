"""Batch functions over the whole keyspace and over generators."""

import ast
import math
import statistics
import threading

from people import families, over_30
from process import check, connect
from rows import is_int, row, timed
from table import Row, si

AGE = "lambda x: int(x['value']['age'])"
FAMILY = "lambda x: x['value']['name'].split(' ')[1]"
OVER_30 = f"GB().map({AGE}).filter(lambda a: a > 30).count().run('person:*')"


SUM_VISITS = """
local cursor, sum = '0', 0
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', 'person:*', 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do sum = sum + (redis.call('HGET', key, 'visits') or 0) end
until cursor == '0'
return sum
"""


def is_groups(expected):
    """The results are {'key': group, 'value': number} for exactly these groups."""

    def right(got):
        pairs = [ast.literal_eval(g) for g in got]
        return len(pairs) == len(expected) and {p["key"]: p["value"] for p in pairs} == expected

    return right


@row(has_yardstick=True)
def map_filter_count(b):
    n = b.a.keys
    b.people(n)
    right = is_int(over_30(n))
    b.versus("map(age) + filter + count", n, OVER_30, right, b.by_eval, "EVAL", target=1.3, aim=1.8)
    b.versus(
        "map(age) + filter + count",
        n,
        OVER_30,
        right,
        b.by_hgetall,
        "redis-py HGETALL",
        rounds=min(3, b.a.rounds),
    )
    b.versus(
        "map(age) + filter + count",
        n,
        OVER_30,
        right,
        lambda: b.by_plain_loop("map_filter_count"),
        "plain loop",
    )


@row(has_yardstick=True)
def count(b):
    n = b.a.keys
    b.people(n)
    script = "GB().count().run('person:*')"
    b.versus("count()", n, script, is_int(n), b.by_eval, "EVAL", target=3, aim=3.8)
    b.versus("count()", n, script, is_int(n), lambda: b.by_plain_loop("count"), "plain loop")


@row()
def five_maps(b):
    n = b.a.keys
    b.people(n)
    b.versus(
        "5 maps + count",
        n,
        f"GB(){'.map(lambda x: x)' * 5}.count().run('person:*')",
        is_int(n),
        b.by_eval,
        "EVAL",
        target=1.1,
        aim=1.6,
    )


@row()
def groups(b):
    n = b.a.keys
    b.people(n)
    right = is_groups(families(n))
    for name, steps in (
        ("aggregateby", f"aggregateby({FAMILY}, 0, lambda k, a, r: a + 1, lambda k, a, r: a + r)"),
        ("countby", f"countby({FAMILY})"),
        ("groupby", f"groupby({FAMILY}, lambda k, a, r: (a or 0) + 1)"),
    ):
        b.versus(
            f"{name} family name",
            n,
            f"GB().{steps}.run('person:*')",
            right,
            b.by_eval,
            "EVAL",
            target=1.0,
            aim=1.4,
        )


@row(has_yardstick=True)
def keys_only(b):
    n = b.a.keys
    b.people(n)
    b.versus(
        "KeysOnlyReader count",
        n,
        "GB('KeysOnlyReader').count().run('person:*')",
        is_int(n),
        b.by_scan,
        "redis-py SCAN",
        target=4,
        aim=6,
    )


@row(has_yardstick=True)
def python_reader(b):
    n = b.a.ints
    script = (
        f"def gen():\n    for i in range({n}):\n        yield i\n"
        "GB('PythonReader').map(lambda x: x * 2).filter(lambda x: x % 3 == 0)"
        ".count().run(gen)"
    )
    b.versus(
        f"PythonReader {si(n)} ints, map + filter + count",
        n,
        script,
        is_int(len(range(0, n, 3))),
        lambda: b.by_plain_loop("ints"),
        "plain loop",
        target=0.5,
        aim=0.7,
    )


@row()
def foreach_hincrby(b):
    n = b.a.keys
    b.versus(
        "foreach(execute HINCRBY) + count",
        n,
        "GB().foreach(lambda x: execute('HINCRBY', x['key'], 'visits', 1)).count().run('person:*')",
        lambda got: is_int(n)(got) and b.r.eval(SUM_VISITS, 0) == n,
        b.by_hgetall,
        "redis-py HGETALL",
        rounds=min(3, b.a.rounds),
        before=lambda: b.people(n, fresh=True),
        target=5,
    )
    b.loaded = 0


@row()
def two_at_once(b):
    """Both clients' batches together against one after the other; the row is a ratio of times."""
    n = b.a.keys
    b.people(n)
    right = is_int(over_30(n))
    clients = [connect(b.port) for _ in range(2)]
    wrong = []

    def one(client):
        try:
            check(right(b.server.run(OVER_30, client)), "wrong result")
        except Exception as e:
            wrong.append(e)

    def in_turn():
        for c in clients:
            one(c)

    def together():
        threads = [threading.Thread(target=one, args=(c,)) for c in clients]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    serial, parallel = [], []
    for _ in range(b.a.rounds):
        serial.append(timed(in_turn))
        parallel.append(timed(together))
    if wrong:
        raise wrong[0]
    b.add(
        Row(
            "two map + filter + count at once (time)",
            f"{statistics.median(parallel):.3f} s",
            f"one after the other {statistics.median(serial):.3f} s",
            statistics.median(parallel) / statistics.median(serial),
            min(parallel) / min(serial),
            target=1.0,
            aim=0.8,
            less=True,
            raw={"parallel_s": parallel, "serial_s": serial},
        )
    )


@row()
def sort(b):
    """map(age).sort().limit(10) over databases of several sizes."""
    sizes = [max(1000, b.a.keys * k // 8) for k in (1, 2, 4, 8)]
    costs = []
    for n in sizes:
        b.people(n)
        ages = sorted(i % 100 for i in range(n))[:10]
        once = b.workload(
            f"GB().map({AGE}).sort().limit(10).run('person:*')",
            lambda got, ages=ages: [int(x) for x in got] == ages,
        )
        runs = [once() for _ in range(min(3, b.a.rounds))]
        seconds, cpu = (statistics.median(x) for x in zip(*runs, strict=True))
        costs.append(cpu / (n * math.log2(n)) * 1e9)
        last = n == sizes[-1]
        b.add(
            Row(
                f"sort + limit(10), {si(n)} records",
                f"{si(n / seconds)} records/s",
                "",
                cpu,
                min(r[1] for r in runs),
                "s",
                target=2.0 if last else None,
                less=True,
                cpu_us=cpu / n * 1e6,
                note=f"server CPU seconds; {costs[-1]:.0f} ns per n log2 n; {seconds:.3f} s",
                raw={"runs": runs},
            )
        )
    distinct = b.server.run(
        "GB().map(lambda x: int(x['key'][7:])).sort().limit(10).run('person:*')"
    )
    check([int(x) for x in distinct] == list(range(10)), f"wrong order {distinct}")
    b.add(
        Row(
            f"sort: cost per n log n, {si(sizes[-1])} against {si(sizes[0])}",
            f"{costs[-1]:.0f} ns",
            f"{costs[0]:.0f} ns",
            costs[-1] / costs[0],
            target=1.5,
            less=True,
            note="1.0 x grows as n log n, 6.8 x grows as n squared",
            raw={"sizes": sizes, "ns_per_nlogn": costs},
        )
    )
