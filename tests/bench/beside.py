"""Batch functions while clients work: what they do to each other."""

import collections
import json
import socket
import statistics
import subprocess
import sys
import time

from batch import OVER_30
from people import over_30
from process import Helper, Repeater, check, connect, encode, redis_benchmark, tool
from rows import is_int, row, timed
from table import Row, si


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
        helper = Helper(sys.executable, "prober", b.port)
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
