#!/usr/bin/env python3
"""Functions measured beside what a user would do without the module: `make bench`.

    bench.py                                  every row, about ten minutes on two cores
    bench.py --only count,sort --rounds 3     some rows (bench.py --list names them)
    bench.py --quick                          small data, one round: does it run, is it right
    bench.py --markdown docs/benchmarks.md --json bench.json

It starts its own server on loopback (own port, temporary directory, no persistence) and, row by
row, runs a yardstick and a workload in turn (yardstick, workload, yardstick, workload, ...), so
that a noisy minute on the machine hits both. Batch rows read hashes `person:N` {name, age}. The
rows named cluster-* start shards on loopback as well, on which the same hashes are spread; their
yardsticks run on the one server. Rows run one after the other. The ratio that counts is that of
the medians; the ratio of the best times stands beside it. Every result is compared with what the
generator of the data knows, every call and event with the counters of the registration; a wrong
result or a refused command makes the exit status 1. A missed target does not: nothing here fails
on seconds.

The rows of requirements install them from PyPI.

Environment: GEARTRAIN_SERVER (default redis-server), GEARTRAIN_MODULE (default
target/release/libgeartrain.so of this repository), GEARTRAIN_PYTHON (default /usr/bin/python3, for
the plain loop: the interpreter of the version that the module embeds). Needs redis-py >= 5 and
redis-benchmark (or valkey-benchmark) on PATH.

Yardsticks, all over the same data, all elapsed seconds at the client:
    EVAL        one Lua script: SCAN COUNT 1000 + HGET age, counts the ages above 30. The server
                serves nobody else meanwhile.
    HGETALL     redis-py: SCAN COUNT 1000, a pipeline of HGETALL per page, the same count in the
                client.
    SCAN        redis-py: scan_iter, names counted in the client.
    plain loop  a Python process without a server: the same lambdas called by a for loop over
                records that already are dicts (or over a generator of ints). Building the
                records is not in the time. What the callbacks alone cost.
and for triggers, key events and streams, on the same server:
    EVAL, FCALL a constant, or one INCR, by redis-benchmark with the same clients and pipeline.
    PING, SET   plain, by redis-benchmark with the same clients and pipeline.
    XREADGROUP  a redis-py consumer: XREADGROUP COUNT 100 and one XACK per reply, over an equal
                stream, until it is empty.

Units: records/s = records read by the reader per elapsed second, client round trip included; op/s =
commands answered per second, as redis-benchmark counts them, where a row does not say more;
us/record = CPU time of the whole server process (all threads; of a cluster all servers) per record;
x = ratio of records/s to the yardstick's (more is better) unless the row says that it is a ratio of
times or latencies (less is better); s = seconds; ms = milliseconds; MiB = 2**20 bytes of resident
set.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
import time

import batch  # noqa: F401, an import brings the rows
import beside  # noqa: F401
import coroutines  # noqa: F401
import events  # noqa: F401
import memory  # noqa: F401
import requirements  # noqa: F401
import streams  # noqa: F401
import triggers  # noqa: F401
from rows import ROWS, Bench
from table import Row, describe, markdown, print_table

import cluster  # noqa: F401


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", metavar="NAME,...", help="these rows only (see --list)")
    p.add_argument("--list", action="store_true", help="name the rows and exit")
    p.add_argument("--keys", type=int, default=200_000, help="hashes (default 200000)")
    p.add_argument(
        "--big-keys",
        type=int,
        default=1_000_000,
        help="hashes for the latency and memory rows (default 1000000)",
    )
    p.add_argument(
        "--requests",
        type=int,
        default=200_000,
        help="triggers and key events without pipeline; five times as many with (default 200000)",
    )
    p.add_argument("--entries", type=int, default=200_000, help="of the streams (default 200000)")
    p.add_argument("--ints", type=int, default=500_000, help="PythonReader (default 500000)")
    p.add_argument(
        "--repeat", type=int, default=10_000, help="repetitions of the memory row (default 10000)"
    )
    p.add_argument("--rounds", type=int, default=5, help="rounds per row (default 5)")
    p.add_argument("--quick", action="store_true", help="a tenth of the data, one round")
    p.add_argument(
        "--yardsticks", action="store_true", help="measure the yardsticks alone, without the module"
    )
    p.add_argument("--markdown", metavar="FILE")
    p.add_argument("--json", metavar="FILE")
    a = p.parse_args()
    if a.quick:
        a.keys, a.big_keys, a.ints, a.repeat, a.rounds = 20_000, 100_000, 50_000, 1_000, 1
        a.requests, a.entries = 20_000, 20_000
    a.names = a.only.replace("_", "-").split(",") if a.only else list(ROWS)
    unknown = [n for n in a.names if n not in ROWS]
    if unknown:
        p.error(f"no such row: {', '.join(unknown)} (there are: {', '.join(ROWS)})")
    return a


def main():
    a = arguments()
    if a.list:
        return print("\n".join(ROWS))
    b = Bench(a)
    start = time.perf_counter()
    try:
        for name in a.names:
            if a.yardsticks and not ROWS[name].has_yardstick:
                continue
            try:
                ROWS[name](b)
            except Exception as e:
                b.add(Row(name, "", error=f"{type(e).__name__}: {e}"[:300].replace("\n", " ")))
                b.revive()
        meta = describe(b, time.perf_counter() - start)
    finally:
        b.close()
    print()
    print_table(b.rows)
    tally = collections.Counter(r.verdict for r in b.rows)
    print(
        f"\n{meta['server']}, {meta['cpu']}, {meta['seconds']} s; "
        + ", ".join(f"{v}: {n}" for v, n in sorted(tally.items()) if v != "-")
    )
    if a.markdown:
        pathlib.Path(a.markdown).write_text(markdown(meta, b.rows))
    if a.json:
        rows = [{**dataclasses.asdict(r), "verdict": r.verdict} for r in b.rows]
        pathlib.Path(a.json).write_text(json.dumps({"meta": meta, "rows": rows}, indent=1))
    return 1 if tally["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
