#!/usr/bin/env python3
"""Batch workloads measured beside what a user would do without the module: `make bench`.

    bench.py                                  every row, about five minutes on two cores
    bench.py --only count,sort --rounds 3     some rows (bench.py --list names them)
    bench.py --quick                          small data, one round: does it run, is it right
    bench.py --markdown docs/benchmarks.md --json bench.json

It starts its own server on loopback (own port, temporary directory, no persistence), loads hashes
`person:N` {name, age} and, row by row, runs a yardstick and a workload in turn (yardstick,
workload, yardstick, workload, ...), so that a noisy minute on the machine hits both. Rows run one
after the other. The ratio that counts is that of the medians; the ratio of the best times stands
beside it. Every result is compared with what the generator of the data knows; a wrong result or a
refused command makes the exit status 1. A missed target does not: nothing here fails on seconds.

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

Units: records/s = records read by the reader per elapsed second, client round trip included;
us/record = CPU time of the whole server process (all threads) per record; x = ratio of records/s to
the yardstick's (more is better) unless the row says that it is a ratio of times or latencies
(less is better); s = seconds; ms = milliseconds; MiB = 2**20 bytes of resident set.
"""

import argparse
import ast
import collections
import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
FAMILIES = 500
MIB = 2**20
FLOOR_PYTHON = os.environ.get("GEARTRAIN_PYTHON", "/usr/bin/python3")

AGE = "lambda x: int(x['value']['age'])"
FAMILY = "lambda x: x['value']['name'].split(' ')[1]"
OVER_30 = f"GB().map({AGE}).filter(lambda a: a > 30).count().run('person:*')"
SCAN_HGET = """
local cursor, over = '0', 0
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', 'person:*', 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
        if tonumber(redis.call('HGET', key, 'age')) > 30 then over = over + 1 end
    end
until cursor == '0'
return over
"""
SUM_VISITS = """
local cursor, sum = '0', 0
repeat
    local page = redis.call('SCAN', cursor, 'MATCH', 'person:*', 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do sum = sum + (redis.call('HGET', key, 'visits') or 0) end
until cursor == '0'
return sum
"""


class Wrong(Exception):
    """A result differs from what the data says, or the server reported an error."""


def check(ok, what):
    if not ok:
        raise Wrong(what)


# ---------------------------------------------------------------------------------------- data


def person(i):
    """The i-th hash; loading, checking and the plain loop all take it from here."""
    return {"name": f"First{i % 1000} Family{i % FAMILIES}", "age": str(i % 100)}


def over_30(n):
    """How many of the first n persons are older than 30."""
    return sum(1 for i in range(n) if i % 100 > 30)


def families(n):
    """Family name -> number of persons, of the first n."""
    return collections.Counter(f"Family{i % FAMILIES}" for i in range(n))


# --------------------------------------------------------- helper processes (no redis-py in them)


def floor_loops(keys, ints):
    """Plain loops, by name, each returning its result. Records are built here, outside the time."""
    records = [
        {"event": None, "key": f"person:{i}", "type": "hash", "value": person(i)}
        for i in range(keys)
    ]
    age = lambda x: int(x["value"]["age"])  # noqa: E731
    over = lambda a: a > 30  # noqa: E731
    family = lambda x: x["value"]["name"].split(" ")[1]  # noqa: E731
    add_one = lambda a, r: 1 + (a if a else 0)  # noqa: E731
    add_group = lambda k, a, r: a + 1  # noqa: E731
    double = lambda x: x * 2  # noqa: E731
    third = lambda x: x % 3 == 0  # noqa: E731

    def map_filter_count():
        acc = None
        for r in records:
            a = age(r)
            if over(a):
                acc = add_one(acc, a)
        return acc

    def count():
        acc = None
        for r in records:
            acc = add_one(acc, r)
        return acc

    def aggregateby():
        accs = {}
        for r in records:
            k = family(r)
            accs[k] = add_group(k, accs.get(k, 0), r)
        return len(accs)

    def numbers():
        for i in range(ints):  # noqa: UP028, as the workload writes it
            yield i

    def int_loop():
        acc = None
        for x in numbers():
            y = double(x)
            if third(y):
                acc = add_one(acc, y)
        return acc

    return {
        "map_filter_count": map_filter_count,
        "count": count,
        "aggregateby": aggregateby,
        "ints": int_loop,
    }


def floor_worker(keys, ints):
    """Reads names of loops from stdin, answers one JSON line each: [seconds, result]."""
    loops = floor_loops(keys, ints)
    print("ready", flush=True)
    for line in sys.stdin:
        t = time.perf_counter()
        result = loops[line.strip()]()
        print(json.dumps([time.perf_counter() - t, result]), flush=True)


def prober_worker(port):
    """PINGs every millisecond until stdin closes; prints gaps between replies, in milliseconds.

    A gap is the time from one reply to the next, so about 1.1 ms on a quiet machine. It runs at
    a raised priority where that is allowed, or the scheduler's delays would be counted as the
    server's.
    """
    with contextlib.suppress(OSError):
        os.nice(-15)
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gaps = []
        last = None
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            s.sendall(b"PING\r\n")
            s.recv(64)
            now = time.perf_counter()
            if last is not None:
                gaps.append((now - last) * 1000)
            last = now
            time.sleep(0.001)
    gaps.sort()
    print(
        json.dumps(
            {
                "pings": len(gaps),
                "p50": gaps[len(gaps) // 2],
                "p99": gaps[int(len(gaps) * 0.99)],
                "max": gaps[-1],
            }
        )
    )


class Helper:
    """A child process running one of the workers above."""

    def __init__(self, python, *args):
        self.process = subprocess.Popen(
            [python, os.path.abspath(__file__), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        check(self.process.stdout.readline().strip() == "ready", f"{args[0]} did not start")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def finish(self):
        """Closes its stdin and returns the rest of its output."""
        return self.process.communicate()[0]


# -------------------------------------------------------------------------------------- server


def connect(port):
    """A redis-py client that waits for a batch up to ten minutes and never sends it twice."""
    try:
        import redis
    except ImportError:
        sys.exit("redis-py is missing: pip install -r tests/requirements.txt")
    return redis.Redis(
        host="127.0.0.1",
        port=port,
        decode_responses=True,
        socket_timeout=600,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tool(name):
    """The client tool of Redis or Valkey, whichever is installed: tool('benchmark')."""
    for family in ("redis", "valkey"):
        path = shutil.which(f"{family}-{name}")
        if path:
            return path
    sys.exit(f"neither redis-{name} nor valkey-{name} is on PATH")


class Server:
    """A server of our own: loopback, free port, temporary directory, no persistence."""

    def __init__(self, module=None):
        self.dir = tempfile.mkdtemp(prefix="geartrain-bench-")
        self.port = free_port()
        argv = [
            os.environ.get("GEARTRAIN_SERVER", "redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self.dir,
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        if module:
            argv += ["--loadmodule", str(module)]
        self.log = pathlib.Path(self.dir, "log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.r = connect(self.port)
        self.wait_until_up()
        self.pid = self.r.info("server")["process_id"]

    def wait_until_up(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Exception):
                self.r.ping()
                return
            if self.process.poll() is not None or time.monotonic() > end:
                tail = self.tail()
                self.stop()
                sys.exit(f"the server did not start:\n{tail}")
            time.sleep(0.05)

    def tail(self, lines=30):
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def alive(self):
        with contextlib.suppress(Exception):
            return self.process.poll() is None and self.r.ping()
        return False

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu(self):
        """CPU seconds used so far by all its threads."""
        info = self.r.info("cpu")
        return info["used_cpu_user"] + info["used_cpu_sys"]

    def status(self, field):
        """VmRSS, VmHWM (peak) ... of /proc/PID/status, in bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(field)

    def settled_rss(self):
        """VmRSS in bytes once it has stood still for a second (rehashing, freed pages)."""
        last = self.status("VmRSS")
        for _ in range(20):
            time.sleep(1)
            now = self.status("VmRSS")
            if abs(now - last) < 256 * 1024:
                return now
            last = now
        return last

    def reset_peak(self):
        """VmHWM starts again from the present VmRSS."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def errors(self):
        """Number of error replies sent since the start."""
        return self.r.info("stats")["total_error_replies"]

    def run(self, script, client=None):
        """RG.PYEXECUTE; its results. An error record is an exception."""
        results, errors = (client or self.r).execute_command("RG.PYEXECUTE", script)
        check(not errors, f"errors: {str(errors[:2])[:300]}")
        return results


def encode(*words):
    """One command in RESP; words are bytes or str."""
    out = [b"*%d\r\n" % len(words)]
    for w in words:
        w = w if isinstance(w, bytes) else str(w).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(w), w))
    return b"".join(out)


def feed(server, commands):
    """Sends encoded commands without reading replies; raises if one was answered by an error."""
    before = server.errors()
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(encode("CLIENT", "REPLY", "OFF"))
        buffer, size = [], 0
        for c in commands:
            buffer.append(c)
            size += len(c)
            if size > 256 * 1024:
                s.sendall(b"".join(buffer))
                buffer, size = [], 0
        s.sendall(b"".join(buffer) + encode("CLIENT", "REPLY", "ON"))
        check(s.recv(64) == b"+OK\r\n", "loading did not end well")
    check(server.errors() == before, "loading was answered by errors")


def redis_benchmark(port, *args):
    """One test by redis-benchmark: {'rps': operations/s, 'p50', 'p99', 'max': milliseconds}."""
    argv = [tool("benchmark"), "-p", str(port), "--csv", *map(str, args)]
    out = subprocess.run(argv, capture_output=True, text=True, check=False)
    rows = list(csv.DictReader(io.StringIO(out.stdout)))
    check(
        out.returncode == 0 and rows and "rror" not in out.stdout + out.stderr,
        f"redis-benchmark: {(out.stderr or out.stdout)[-300:]}",
    )
    row = rows[-1]
    return {
        "test": row["test"],
        "rps": float(row["rps"]),
        **{k: float(row[f"{k}_latency_ms"]) for k in ("p50", "p99", "max")},
    }


class Repeater(threading.Thread):
    """Repeats a call from the start of the with block to its end; the last one is waited for."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call = call
        self.going = True
        self.seconds = []
        self.error = None

    def run(self):
        try:
            while self.going:
                t = time.perf_counter()
                self.call()
                self.seconds.append(time.perf_counter() - t)
        except Exception as e:
            self.error = e

    def __enter__(self):
        self.start()
        time.sleep(0.2)
        return self

    def __exit__(self, kind, *_):
        self.going = False
        self.join()
        if self.error and kind is None:
            raise self.error


# --------------------------------------------------------------------------------- measurements


def timed(call, *args):
    """Elapsed seconds of a call that checks its own result."""
    t = time.perf_counter()
    call(*args)
    return time.perf_counter() - t


def si(x, unit=""):
    """1270000 -> '1.27M'."""
    for step, letter in ((1e6, "M"), (1e3, "k")):
        if x >= step:
            return f"{x / step:.3g}{letter}{unit}"
    return f"{x:.3g}{unit}"


@dataclasses.dataclass
class Row:
    """A line of the table. Figures are medians over the rounds."""

    name: str
    measured: str
    yardstick: str = ""
    reached: float | None = None
    best: float | None = None
    unit: str = "x"
    target: float | None = None
    aim: float | None = None
    less: bool = False
    note: str = ""
    cpu_us: float | None = None
    raw: dict = dataclasses.field(default_factory=dict)
    error: str = ""

    def meets(self, bound):
        return self.reached <= bound if self.less else self.reached >= bound

    @property
    def verdict(self):
        if self.error:
            return "WRONG"
        if self.target is None or self.reached is None:
            return "-"
        if not self.meets(self.target):
            return "missed"
        return "aim" if self.aim is not None and self.meets(self.aim) else "reached"

    def bound(self, value):
        if value is None:
            return ""
        return f"{'<=' if self.less else '>='} {self.figure(value)}"

    def figure(self, value):
        if value is None:
            return ""
        return f"{value:.2f} x" if self.unit == "x" else f"{value:.3g} {self.unit}"

    def cells(self):
        cpu = f"{self.cpu_us:.2f}" if self.cpu_us is not None else ""
        return [
            self.name,
            self.measured,
            self.yardstick,
            self.figure(self.reached),
            self.figure(self.best),
            self.bound(self.target),
            self.bound(self.aim),
            "WRONG: " + self.error if self.error else self.verdict,
            cpu,
            self.note,
        ]


HEAD = [
    "workload",
    "measured",
    "yardstick",
    "reached",
    "best",
    "target",
    "aim",
    "verdict",
    "us/record",
    "note",
]


class Bench:
    """The server, the data in it, the rows so far."""

    def __init__(self, args):
        self.a = args
        self.module = None if args.yardsticks else module_path()
        self.server = Server(self.module)
        self.loaded = 0
        self.rows = []
        self._floor = None

    def close(self):
        if self._floor:
            self._floor.finish()
        self.server.stop()

    @property
    def r(self):
        return self.server.r

    @property
    def port(self):
        return self.server.port

    def add(self, row):
        self.rows.append(row)
        print(" | ".join(c or "-" for c in row.cells()).rstrip(" |-"), flush=True)

    def revive(self):
        """A new server if the last row ended the old one."""
        if not self.server.alive():
            print(f"the server is gone; its log ends:\n{self.server.tail()}", flush=True)
            self.server.stop()
            self.server = Server(self.module)
            self.loaded = 0

    def people(self, n, fresh=False, server=None):
        """Exactly the first n persons in the database."""
        server = server or self.server
        main = server is self.server
        if main and self.loaded == n and not fresh:
            return
        server.r.flushall()
        feed(server, (encode("HSET", f"person:{i}", *sum(person(i).items(), ())) for i in range(n)))
        check(server.r.dbsize() == n, "loading")
        if main:
            self.loaded = n
        time.sleep(0.5)

    # Yardsticks: each checks its result and returns elapsed seconds.

    def by_eval(self):
        return timed(lambda: check(self.r.eval(SCAN_HGET, 0) == over_30(self.loaded), "EVAL"))

    def by_hgetall(self):
        def client():
            over, cursor = 0, 0
            while True:
                cursor, keys = self.r.scan(cursor, match="person:*", count=1000)
                pipe = self.r.pipeline(transaction=False)
                for k in keys:
                    pipe.hgetall(k)
                over += sum(1 for v in pipe.execute() if int(v["age"]) > 30)
                if cursor == 0:
                    return over

        return timed(lambda: check(client() == over_30(self.loaded), "HGETALL"))

    def by_scan(self):
        def names():
            return sum(1 for _ in self.r.scan_iter("person:*", count=1000))

        return timed(lambda: check(names() == self.loaded, "SCAN"))

    def by_plain_loop(self, name):
        if not self._floor:
            self._floor = Helper(FLOOR_PYTHON, "--floor-worker", self.a.keys, self.a.ints)
        return self._floor.ask(name)[0]

    # Workloads.

    def workload(self, script, right):
        """-> a call that runs the script once, checks it, returns elapsed and server CPU seconds"""

        def once():
            cpu, t = self.server.cpu(), time.perf_counter()
            got = self.server.run(script)
            t = time.perf_counter() - t
            cpu = self.server.cpu() - cpu
            check(right(got), f"wrong result: {str(got)[:120]}")
            return t, cpu

        return once

    def versus(
        self,
        name,
        n,
        script,
        right,
        yardstick,
        yardstick_name,
        rounds=None,
        before=None,
        yardstick_n=None,
        **row,
    ):
        """Yardstick and workload in turn; a row with the ratio of their records/s."""
        once = None if self.a.yardsticks else self.workload(script, right)
        yard, work, cpus = [], [], []
        for _ in range(rounds or self.a.rounds):
            if before:
                before()
            yard.append(yardstick())
            if once:
                t, cpu = once()
                work.append(t)
                cpus.append(cpu)
        yn = yardstick_n or n
        yard_rate = yn / statistics.median(yard)
        if not once:
            return self.add(
                Row(name, "", f"{yardstick_name} {si(yard_rate)}/s", raw={"yardstick_s": yard})
            )
        rate = n / statistics.median(work)
        return self.add(
            Row(
                name,
                f"{si(rate)} records/s",
                f"{yardstick_name} {si(yard_rate)}/s",
                rate / yard_rate,
                (n / min(work)) / (yn / min(yard)),
                cpu_us=statistics.median(cpus) / n * 1e6,
                raw={"workload_s": work, "yardstick_s": yard, "server_cpu_s": cpus},
                **row,
            )
        )


def module_path():
    path = pathlib.Path(
        os.environ.get("GEARTRAIN_MODULE", REPO / "target/release/libgeartrain.so")
    ).resolve()
    if not path.exists():
        sys.exit(f"{path} does not exist: run `make build` first")
    return path


# ---------------------------------------------------------------------------------------- rows

ROWS = {}


def row(has_yardstick=False):
    """Registers a function of a Bench under its name; --yardsticks runs some of them."""

    def register(f):
        f.has_yardstick = has_yardstick
        ROWS[f.__name__.replace("_", "-")] = f
        return f

    return register


def is_int(n):
    """The result is the one number n."""
    return lambda got: len(got) == 1 and int(got[0]) == n


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
def under_get(b):
    """A batch while 50 clients send GET with pipeline 50, and what those still get."""
    n = b.a.keys
    b.people(n)
    once = b.workload(OVER_30, is_int(over_30(n)))

    def gets():
        return b.r.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]

    def rate(call):
        c, t = gets(), time.perf_counter()
        call()
        t = time.perf_counter() - t
        return (gets() - c) / t

    def batches(seconds=1.5):
        end = time.perf_counter() + seconds
        while True:
            busy.append(once()[0])
            if time.perf_counter() > end:
                return

    idle, busy, alone, during = [], [], [], []
    for _ in range(b.a.rounds):
        idle.append(once()[0])
        load = subprocess.Popen(
            [
                tool("benchmark"),
                "-p",
                str(b.port),
                "-q",
                "-c",
                "50",
                "-P",
                "50",
                "-n",
                "2000000000",
                "-t",
                "get",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.5)
            alone.append(rate(lambda: time.sleep(1.5)))
            during.append(rate(batches))
        finally:
            load.kill()
            load.wait()
        time.sleep(0.2)
    raw = {"idle_s": idle, "busy_s": busy, "gets_alone": alone, "gets_during": during}
    b.add(
        Row(
            "map + filter + count under GET, 50 clients, pipeline 50 (time)",
            f"{statistics.median(busy):.3f} s",
            f"idle {statistics.median(idle):.3f} s",
            statistics.median(busy) / statistics.median(idle),
            min(busy) / min(idle),
            target=3,
            less=True,
            raw=raw,
        )
    )
    b.add(
        Row(
            "the GET rate meanwhile",
            f"{si(statistics.median(during))} GET/s",
            f"without the batch {si(statistics.median(alone))}/s",
            statistics.median(during) / statistics.median(alone),
            max(during) / max(alone),
            target=0.5,
            raw=raw,
        )
    )


class RawClient:
    """RG.PYEXECUTE over a bare socket: reads bytes, parses them after the clock has stopped.

    A client that parses 200k replies in Python would take a core from the server while the
    server's standstill is measured.
    """

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port))

    def run(self, script, n):
        """The n results (bytes without line ends in them) of a run that has no errors."""
        self.s.sendall(encode("RG.PYEXECUTE", script))
        data = bytearray()
        while not (data.endswith(b"\r\n*0\r\n") or (data.startswith(b"-") and b"\n" in data)):
            piece = self.s.recv(1 << 20)
            check(piece, "connection closed")
            data += piece
        lines = bytes(data).split(b"\r\n")
        check(lines[:2] == [b"*2", b"*%d" % n], f"wrong reply: {bytes(data[:200])!r}")
        return lines[3:-2:2]


@row()
def standstill(b):
    """The longest gap between replies to a PING every ms, while 200k results are returned."""
    n = b.a.keys
    b.people(n)
    client = RawClient(b.port)
    everyone = {b"person:%d" % i for i in range(n)}

    def probe(call):
        helper = Helper(sys.executable, "--prober-worker", b.port)
        time.sleep(0.3)
        t = timed(call)
        time.sleep(0.2)
        return json.loads(helper.finish()), t

    def returning():
        got.append(client.run("GB().map(lambda x: x['key']).run('person:*')", n))

    def counting():
        got.append(client.run("GB().map(lambda x: x['key']).count().run('person:*')", 1))

    figures = collections.defaultdict(list)
    for _ in range(b.a.rounds):
        got = []
        back, seconds = probe(returning)
        check(len(got[0]) == n and set(got[0]) == everyone, "wrong keys")
        quiet, _ = probe(lambda seconds=seconds: time.sleep(seconds))
        counted, _ = probe(counting)
        check(got[1] == [b"%d" % n], f"wrong count {got[1]}")
        figures["returning_max_ms"].append(back["max"])
        figures["idle_max_ms"].append(quiet["max"])
        figures["counting_max_ms"].append(counted["max"])
        figures["standstill_ms"].append(back["max"] - quiet["max"])
        figures["seconds"].append(seconds)
    mid = {k: statistics.median(v) for k, v in figures.items()}
    b.add(
        Row(
            f"returning {si(n)} results: main thread stands still",
            f"longest gap {mid['returning_max_ms']:.1f} ms",
            f"idle {mid['idle_max_ms']:.1f} ms",
            mid["standstill_ms"],
            min(figures["standstill_ms"]),
            "ms",
            target=10,
            less=True,
            note=f"worst round {max(figures['standstill_ms']):.1f} ms; a batch that returns "
            f"a count: longest gap {mid['counting_max_ms']:.1f} ms; "
            f"run {mid['seconds']:.2f} s",
            raw=dict(figures),
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


@row(has_yardstick=True)
def get_p99(b):
    """GET by 50 clients without and with a batch over many keys, repeated all the time.

    For comparison also beside a process that only burns CPU and never speaks to the server: on few
    cores that alone raises the latency.
    """
    n = b.a.big_keys
    b.people(n)
    b.r.set("key:__rand_int__", "xxx")
    right = is_int(over_30(n))
    client = connect(b.port)
    requests = 50_000 if b.a.quick else 500_000

    def gets():
        return redis_benchmark(b.port, "-c", 50, "-n", requests, "-t", "get")

    def batch():
        check(right(b.server.run(OVER_30, client)), "wrong result")

    alone, during, batches, crowded = [], [], [], []
    for _ in range(min(3, b.a.rounds)):
        alone.append(gets())
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            crowded.append(gets())
        finally:
            burner.kill()
            burner.wait()
        if not b.a.yardsticks:
            with Repeater(batch) as repeater:
                during.append(gets())
            batches += repeater.seconds

    def mid(runs, k):
        return statistics.median(x[k] for x in runs)

    b.loaded = 0
    base = f"without {mid(alone, 'p99'):.3f} ms at {si(mid(alone, 'rps'))} GET/s"
    beside = (
        f"beside a CPU-bound process of no concern to the server {mid(crowded, 'p99'):.3f} ms at "
        f"{si(mid(crowded, 'rps'))} GET/s"
    )
    if not during:
        raw = {"alone": alone, "beside_burner": crowded}
        return b.add(Row("GET p99, 50 clients", "", base, note=beside, raw=raw))
    return b.add(
        Row(
            f"GET p99, 50 clients, during a batch over {si(n)} keys (latency)",
            f"{mid(during, 'p99'):.3f} ms at {si(mid(during, 'rps'))} GET/s",
            base,
            mid(during, "p99") / mid(alone, "p99"),
            min(x["p99"] for x in during) / min(x["p99"] for x in alone),
            target=2,
            aim=1.3,
            less=True,
            note=f"max {mid(during, 'max'):.1f} ms, without {mid(alone, 'max'):.1f} ms; batch "
            f"{si(n / statistics.median(batches))} records/s; {beside}",
            raw={
                "alone": alone,
                "during": during,
                "beside_burner": crowded,
                "batch_s": batches,
            },
        )
    )


@row()
def memory_count(b):
    """Peak resident set during count() over many hashes, minus the one before; a fresh server."""
    n = b.a.big_keys
    with Server(b.module) as server:
        b.people(n, server=server)
        server.run("GB().map(lambda x: x).count().run('nobody:*')")
        for name, script, expected, target in (
            ("count()", "GB().count().run('person:*')", n, 64),
            ("map + filter + count", OVER_30, over_30(n), None),
        ):
            before = server.settled_rss()
            server.reset_peak()
            for _ in range(3):
                check(is_int(expected)(server.run(script)), "wrong result")
            peak, after = server.status("VmHWM"), server.settled_rss()
            b.add(
                Row(
                    f"memory: {name} over {si(n)} hashes",
                    f"peak {peak / MIB:.0f} MiB",
                    f"before {before / MIB:.0f} MiB",
                    (peak - before) / MIB,
                    unit="MiB",
                    target=target,
                    less=True,
                    note=f"{(after - before) / MIB:+.1f} MiB left afterwards; three runs",
                    raw={"before": before, "peak": peak, "after": after},
                )
            )


@row()
def memory_repeat(b):
    """Resident set after the first tenth of the repetitions and after the last; a fresh server."""
    times = b.a.repeat
    sizes = []
    with Server(b.module) as server:
        b.people(100, server=server)
        script = (
            "def family(x):\n    return x['value']['name'].split(' ')[1]\n"
            "GB().map(lambda x: x).filter(lambda x: int(x['value']['age']) > 30)"
            ".countby(family).count().run('person:*')"
        )
        right = is_int(over_30(100))
        t = time.perf_counter()
        for i in range(times):
            check(right(server.run(script)), "wrong result")
            if (i + 1) % max(1, times // 10) == 0:
                sizes.append(server.status("VmRSS") / MIB)
        t = time.perf_counter() - t
    b.add(
        Row(
            f"memory: a function over 100 hashes repeated {times:,} times",
            f"{sizes[-1]:.1f} MiB",
            f"after the first tenth {sizes[0]:.1f} MiB",
            sizes[-1] - sizes[0],
            unit="MiB",
            target=4,
            less=True,
            note=f"{times / t:.0f} runs/s; every tenth: " + " ".join(f"{s:.1f}" for s in sizes),
            raw={"rss_mib": sizes},
        )
    )


# -------------------------------------------------------------------------------------- report


def cpu_model():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def describe(b, seconds):
    """What was measured on what."""
    info = b.r.info("server")
    name = info.get("server_name", "redis")
    version = info.get("valkey_version") if name == "valkey" else info["redis_version"]
    import redis

    client = redis.__version__
    with contextlib.suppress(ImportError):
        import hiredis

        client += f" with hiredis {hiredis.__version__}"
    floor = subprocess.run([FLOOR_PYTHON, "-V"], capture_output=True, text=True, check=False)
    return {
        "server": f"{name} {version}",
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "redis-py": client,
        "plain loop": floor.stdout.strip(),
        "keys": b.a.keys,
        "big keys": b.a.big_keys,
        "ints": b.a.ints,
        "rounds": b.a.rounds,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
    }


def markdown_table(head, rows):
    def line(cells):
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def markdown(meta, rows):
    """The page docs/benchmarks.md."""
    facts = "\n".join(f"- {k}: {v}" for k, v in meta.items())
    return f"""# Benchmarks

One run of `make bench` (`tests/bench/bench.py`), client and server on one machine. Repeat it with
the same command; the header of the script explains units and yardsticks. Yardstick and workload
run in turn, *reached* is the ratio of their medians, *best* that of their best times. A ratio
compares records per second (more is better) unless the row names a time or a latency (less is
better). *us/record* is the CPU time of the whole server process per record. Rows without a
target are there for comparison.

{markdown_table(HEAD, [r.cells() for r in rows])}

{facts}
"""


def print_table(rows):
    cells = [HEAD[:-1]] + [r.cells()[:-1] for r in rows]
    widths = [max(len(c[i]) for c in cells) for i in range(len(HEAD) - 1)]
    for c in cells:
        print("  ".join(x.ljust(w) for x, w in zip(c, widths, strict=True)).rstrip())


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
    p.add_argument("--floor-worker", nargs=2, type=int, help=argparse.SUPPRESS)
    p.add_argument("--prober-worker", type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick:
        a.keys, a.big_keys, a.ints, a.repeat, a.rounds = 20_000, 100_000, 50_000, 1_000, 1
    a.names = a.only.split(",") if a.only else list(ROWS)
    unknown = [n for n in a.names if n not in ROWS]
    if unknown:
        p.error(f"no such row: {', '.join(unknown)} (there are: {', '.join(ROWS)})")
    return a


def main():
    a = arguments()
    if a.floor_worker:
        return floor_worker(*a.floor_worker)
    if a.prober_worker:
        return prober_worker(a.prober_worker)
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
