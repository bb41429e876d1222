"""A stream that is full already when a function is registered on it, until it is empty."""

import math
import time

from process import check, encode, feed
from rows import Load, Registered, compare, in_turn, row

STREAM = "bench:stream"
DONE = "bench:done"
COUNT = (
    f"GB('StreamReader').count().foreach(lambda c: execute('INCRBY', '{DONE}', c))"
    f".register('{STREAM}', batch=%d)"
)
INCR = (
    f"GB('StreamReader').foreach(lambda x: execute('INCR', '{DONE}'))"
    f".register('{STREAM}', batch=%d)"
)
EACH = COUNT.replace(".count()", ".filter(lambda x: True).count()")
ONLY_COUNT = f"GB('StreamReader').count().register('{STREAM}', batch=%d)"


class Streams:
    """Equal streams of entries of two fields."""

    def __init__(self, b):
        self.b = b
        self.load = Load(b)
        self.entries = b.a.entries
        self.commands = [
            encode("XADD", STREAM, "*", "i", i, "name", "x") for i in range(self.entries)
        ]

    def fill(self):
        self.b.r.flushall()
        self.b.loaded = 0
        feed(self.b.server, self.commands)
        check(self.b.r.xlen(STREAM) == self.entries, "loading")
        time.sleep(0.2)

    def consumer(self):
        """A consumer written with redis-py."""
        self.fill()

        def consume():
            r, seen = self.b.r, 0
            while reply := r.xreadgroup("group", "consumer", {STREAM: ">"}, count=100):
                ids = [identifier for identifier, _ in reply[0][1]]
                seen += len(ids)
                check(r.xack(STREAM, "group", *ids) == len(ids), "XACK")
            check(seen == self.entries, f"{seen} entries read")

        self.b.r.xgroup_create(STREAM, "group", 0)
        return self.load.elapsed(self.entries, consume)

    def drain(self, script, batch, counts):
        """Until the function has seen, acknowledged and trimmed all entries.

        `counts`: the function writes down how many it saw.
        """
        self.fill()
        r = self.b.r

        def wait():
            end = time.monotonic() + 300
            while r.xlen(STREAM):
                check(time.monotonic() < end, f"{r.xlen(STREAM)} entries are left after 300 s")
                time.sleep(0.002)

        registered = Registered(self.b.server, script % batch)

        def call():
            registered.__enter__()
            wait()

        try:
            load = self.load.elapsed(self.entries, call)
            ended = registered.wait(seconds=10)
            least = math.ceil(self.entries / batch)
            check(ended >= least, f"{ended} executions, at least {least} are needed")
            if counts:
                check(int(r.get(DONE)) == self.entries, f"{r.get(DONE)} entries seen")
        finally:
            registered.__exit__(None)
        return load


@row(has_yardstick=True)
def stream_drain(b):
    """Several functions, each over an equal stream; one yardstick for all in each round."""
    streams = Streams(b)
    kinds = {
        f"stream of {b.a.entries // 1000}k entries drained by a function (batch 100, count)": (
            COUNT,
            100,
            True,
            {"target": 9, "aim": 12, "note": "one INCRBY per batch, to check the sum"},
        ),
        "same, without the INCRBY": (ONLY_COUNT, 100, False, {}),
        "same, each entry through a callback": (
            EACH,
            100,
            True,
            {"note": "filter(lambda x: True) before the count, which alone needs no entry"},
        ),
        "same, batch 1": (
            COUNT,
            1,
            True,
            {"target": 2, "note": "one INCRBY per entry, to check the sum"},
        ),
        "same, batch 1, without the INCRBY": (ONLY_COUNT, 1, False, {}),
        "same, batch 100, one execute('INCR') per entry": (INCR, 100, True, {"target": 4}),
    }
    runs = {"XREADGROUP": streams.consumer}
    if not b.a.yardsticks:
        for name, (script, batch, counts, _) in kinds.items():
            runs[name] = lambda s=script, n=batch, c=counts: streams.drain(s, n, c)
    results = in_turn(b, runs)
    b.r.flushall()
    yard = results["XREADGROUP"]
    for name, (*_, more) in kinds.items():
        compare(
            b,
            name,
            results.get(name, []),
            yard,
            "redis-py XREADGROUP COUNT 100 + XACK",
            unit="entries/s",
            **more,
        )
        if b.a.yardsticks:
            return
