"""What all rows share: the server, the data in it, the yardsticks, running things in turn."""

import statistics
import time

from people import over_30
from process import (
    FLOOR_PYTHON,
    Helper,
    Server,
    check,
    fill,
    module_path,
    redis_benchmark,
)
from shards import Cluster
from table import Row, si

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


def timed(call, *args):
    """Elapsed seconds of a call that checks its own result."""
    t = time.perf_counter()
    call(*args)
    return time.perf_counter() - t


class Bench:
    """The server, the data in it, the rows so far."""

    def __init__(self, args):
        self.a = args
        self.module = None if args.yardsticks else module_path()
        self.server = Server(self.module)
        self.loaded = 0
        self.rows = []
        self._cluster = None
        self._floor = None

    def close(self):
        if self._floor:
            self._floor.finish()
        self.drop_cluster()
        self.server.stop()

    def cluster(self, shards):
        """So many servers that are a cluster; kept until another number is asked for."""
        if self._cluster and len(self._cluster.servers) != shards:
            self.drop_cluster()
        if not self._cluster:
            self._cluster = Cluster(self.module, shards)
        return self._cluster

    def drop_cluster(self):
        if self._cluster:
            self._cluster.stop()
        self._cluster = None

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
        """A new server if the last row ended the old one; the cluster comes with its next row."""
        if self._cluster and not self._cluster.alive():
            print(f"a shard is gone; its log ends:\n{self._cluster.tail()}", flush=True)
            self.drop_cluster()
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
        fill(server, range(n))
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
            self._floor = Helper(FLOOR_PYTHON, "floor", self.a.keys, self.a.ints)
        return self._floor.ask(name)[0]

    # Workloads.

    def workload(self, script, right, on=None):
        """-> a call that runs the script once, checks it, returns elapsed and server CPU seconds

        `on` may be another server or a cluster, as in `versus`.
        """
        server = on or self.server

        def once():
            cpu, t = server.cpu(), time.perf_counter()
            got = server.run(script)
            t = time.perf_counter() - t
            cpu = server.cpu() - cpu
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
        on=None,
        **row,
    ):
        """Yardstick and workload in turn; a row with the ratio of their records/s."""
        once = None if self.a.yardsticks else self.workload(script, right, on)
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


def in_turn(b, runs):
    """Calls each of `runs`, by name, once per round -> name: what its calls returned."""
    results = {name: [] for name in runs}
    for _ in range(b.a.rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


def middle(loads, figure="rps"):
    return statistics.median(load[figure] for load in loads)


def compare(b, name, work, yard, yardstick, unit="op/s", **row):
    """A row with the ratio of the rates of two lists of loads (see `Load`)."""
    measured = f"{yardstick} {si(middle(yard))}/s"
    raw = {"workload": work, "yardstick": yard}
    if not work:
        return b.add(Row(name, "", measured, raw=raw))
    return b.add(
        Row(
            name,
            f"{si(middle(work))} {unit}",
            measured,
            middle(work) / middle(yard),
            max(x["rps"] for x in work) / max(x["rps"] for x in yard),
            cpu_us=middle(work, "cpu_us"),
            raw=raw,
            **row,
        )
    )


class Load:
    """Measures calls: operations per second and the server's CPU time per operation."""

    def __init__(self, b):
        self.server = b.server

    def benchmark(self, requests, clients, pipeline, *command):
        """redis-benchmark's own figures and the CPU time."""
        cpu = self.server.cpu()
        load = redis_benchmark(
            self.server.port, "-n", requests, "-c", clients, "-P", pipeline, *command
        )
        return {**load, "cpu_us": (self.server.cpu() - cpu) / requests * 1e6}

    def elapsed(self, operations, call):
        """From the start of a call to its end."""
        cpu, t = self.server.cpu(), time.perf_counter()
        call()
        t = time.perf_counter() - t
        return {"rps": operations / t, "cpu_us": (self.server.cpu() - cpu) / operations * 1e6}


class Registered:
    """Functions that a script registers, from the start of a with block to its end."""

    FINISHED = ("numSuccess", "numFailures", "numAborted")

    def __init__(self, server, script):
        self.server = server
        self.script = script

    def __enter__(self):
        reply = self.server.r.execute_command("RG.PYEXECUTE", self.script)
        check(reply == "OK", f"not registered: {str(reply)[:200]}")
        return self

    def __exit__(self, kind, *_):
        if kind is None or self.server.alive():
            pipe = self.server.r.pipeline(transaction=False)
            for registration in self.dump():
                pipe.execute_command("RG.UNREGISTER", registration["id"])
            pipe.execute()
            check(self.dump() == [], "registrations are left")

    def dump(self):
        """RG.DUMPREGISTRATIONS as dicts."""
        flat = [
            dict(zip(e[::2], e[1::2], strict=True))
            for e in self.server.r.execute_command("RG.DUMPREGISTRATIONS")
        ]
        for e in flat:
            data = e["RegistrationData"]
            e["RegistrationData"] = dict(zip(data[::2], data[1::2], strict=True))
        return flat

    def counted(self):
        """(triggered, finished, finished well), the sums over all of them."""
        data = [e["RegistrationData"] for e in self.dump()]
        return (
            sum(d["numTriggered"] for d in data),
            sum(d[k] for d in data for k in self.FINISHED),
            sum(d["numSuccess"] for d in data),
        )

    def wait(self, seconds=300):
        """Until all that was triggered has ended; the number, which all must have ended well."""
        end = time.monotonic() + seconds
        while True:
            triggered, finished, well = self.counted()
            if triggered == finished:
                check(well == finished, f"{finished - well} of {finished} failed")
                return finished
            check(time.monotonic() < end, f"{triggered - finished} of {triggered} did not end")
            time.sleep(0.005)
