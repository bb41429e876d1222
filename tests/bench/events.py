"""SET with functions registered on keys, by 50 clients of redis-benchmark."""

from process import check
from rows import Load, Registered, compare, in_turn, row

KEYS = 100_000
NOTHING = "GB().foreach(lambda x: None).register({prefix}, mode='{mode}')"


def on_set(mode):
    """A function that does nothing, on the keys that redis-benchmark sets."""
    return NOTHING.format(prefix="'key:*'", mode=mode)


def elsewhere(count):
    """Functions on keys that nobody sets."""
    script = NOTHING.format(prefix="f'other:{i}:*'", mode="sync")
    return f"for i in range({count}): {script}"


class Sets:
    """Runs of SET over the same keys, which exist before the first of them."""

    def __init__(self, b, pipeline):
        self.b = b
        self.pipeline = pipeline
        self.requests = b.a.requests * (5 if pipeline > 1 else 1)
        self.load = Load(b)
        b.r.flushall()
        b.loaded = 0
        self.plain()

    def plain(self):
        return self.load.benchmark(self.requests, 50, self.pipeline, "-r", KEYS, "-t", "set")

    def registered(self, script, fires):
        """While the functions of a script are registered; their counters must be right."""
        with Registered(self.b.server, script) as registered:
            load = self.plain()
            ended = registered.wait()
            check(ended == (self.requests if fires else 0), f"{ended} functions ran")
        return load

    def plain_elapsed(self):
        return self.load.elapsed(self.requests, self.plain)

    def until_done(self, script):
        """From the first SET until the last function has ended."""
        with Registered(self.b.server, script) as registered:

            def call():
                self.plain()
                check(registered.wait() == self.requests, "events are missing")

            return self.load.elapsed(self.requests, call)


def pipelines(pipeline):
    return f", pipeline {pipeline}" if pipeline > 1 else ""


@row(has_yardstick=True)
def set_sync(b):
    """With a sync function on each key; the row with a pipeline has no target."""
    for pipeline in (1, 50):
        sets = Sets(b, pipeline)
        runs = {"SET": sets.plain}
        if not b.a.yardsticks:
            runs["sync"] = lambda sets=sets: sets.registered(on_set("sync"), True)
        results = in_turn(b, runs)
        compare(
            b,
            f"SET with a sync no-op registration on it, 50 clients{pipelines(pipeline)}",
            results.get("sync", []),
            results["SET"],
            "SET",
            target=0.9 if pipeline == 1 else None,
        )


@row()
def set_elsewhere(b):
    """With functions on other keys: a thousand against one."""
    for pipeline in (1, 50):
        sets = Sets(b, pipeline)
        runs = {
            "SET": sets.plain,
            "one": lambda sets=sets: sets.registered(elsewhere(1), False),
            "thousand": lambda sets=sets: sets.registered(elsewhere(1000), False),
        }
        results = in_turn(b, runs)
        for name, target in (("one", None), ("thousand", 0.98)):
            compare(
                b,
                f"SET with {name} registration{'s' if target else ''} on other prefixes, "
                f"50 clients{pipelines(pipeline)}",
                results[name],
                results["one" if target else "SET"],
                "with one" if target else "SET",
                target=target if pipeline == 1 else None,
            )


@row()
def set_async_local(b):
    """With a function in the background on each key, until the last one has ended."""
    sets = Sets(b, 1)
    results = in_turn(
        b,
        {"SET": sets.plain_elapsed, "all": lambda: sets.until_done(on_set("async_local"))},
    )
    compare(
        b,
        "SET with an async_local no-op on it, until all are done, 50 clients",
        results["all"],
        results["SET"],
        "SET",
        target=0.6,
        note="elapsed time of both, the start of redis-benchmark included",
    )
