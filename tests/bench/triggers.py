"""RG.TRIGGER beside the server's own scripts."""

import contextlib
import json
import statistics
import subprocess
import sys
import time

from process import Helper, Repeater, check, connect
from rows import Load, Registered, compare, in_turn, is_int, middle, row
from table import Row, si

CONSTANT = "GB('CommandReader').map(lambda x: 'OK').register(trigger='constant', mode='{mode}')"
INCR = (
    "GB('CommandReader').map(lambda x: execute('INCR', 'bench:count'))"
    ".register(trigger='incr', mode='sync')"
)
EVAL_CONSTANT = ("EVAL", "return 'OK'", 0)
EVAL_INCR = ("EVAL", "return redis.call('INCR', KEYS[1])", 1, "bench:count")
LIBRARY = """#!lua name=bench
redis.register_function('bench_constant', function() return 'OK' end)
redis.register_function('bench_incr', function(keys) return redis.call('INCR', keys[1]) end)
"""


@contextlib.contextmanager
def functions(b):
    """The server's own functions, for FCALL."""
    b.r.function_load(LIBRARY, replace=True)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            b.r.function_delete("bench")


def calls(b, name, script, trigger, yardsticks, clients, pipeline, more=(), **row):
    """A row for RG.TRIGGER against the first of the yardsticks; the others stand in the note.

    The counters of the registration tell whether each call ran, once and well.
    """
    requests = b.a.requests * (5 if pipeline > 1 else 1)
    load = Load(b)

    def run(*command):
        return load.benchmark(requests, clients, pipeline, *command)

    def triggered():
        with Registered(b.server, script) as registered:
            reply = run("RG.TRIGGER", trigger)
            check(registered.wait() == requests, "calls are missing")
        return reply

    runs = {name: lambda command=command: run(*command) for name, command in yardsticks.items()}
    if not b.a.yardsticks:
        with Registered(b.server, script):
            for answer in more:
                reply = b.r.execute_command("RG.TRIGGER", trigger)
                check(reply == answer, f"RG.TRIGGER {trigger} answered {reply}")
        runs["RG.TRIGGER"] = triggered
    results = in_turn(b, runs)
    first, *others = yardsticks
    note = "; ".join(f"{o} {si(middle(results[o]))}/s" for o in others)
    work = results.get("RG.TRIGGER", [])
    if work:
        note += (
            f"; p99 {middle(work, 'p99'):.3f} ms, {first} {middle(results[first], 'p99'):.3f} ms"
        )
    compare(b, name, work, results[first], first, note=note.strip("; "), **row)


@row(has_yardstick=True)
def trigger_constant(b):
    """A function that returns a constant, mode sync."""
    yardsticks = {"EVAL": EVAL_CONSTANT, "FCALL": ("FCALL", "bench_constant", 0)}
    sync = CONSTANT.format(mode="sync")
    with functions(b):
        for pipeline, target in ((50, 1.0), (1, 0.95)):
            calls(
                b,
                f"RG.TRIGGER constant, sync, 50 clients, pipeline {pipeline}",
                sync,
                "constant",
                yardsticks,
                50,
                pipeline,
                more=[["OK"]],
                target=target,
            )


@row(has_yardstick=True)
def trigger_incr(b):
    """A function that runs one command, mode sync."""
    b.r.delete("bench:count")
    more = [] if b.a.yardsticks else [["1"], ["2"]]
    with functions(b):
        calls(
            b,
            "RG.TRIGGER with execute('INCR'), sync, 50 clients, pipeline 50",
            INCR,
            "incr",
            {"EVAL": EVAL_INCR, "FCALL": ("FCALL", "bench_incr", 1, "bench:count")},
            50,
            50,
            more=more,
            target=0.85,
        )
    runs = b.a.rounds * (2 if b.a.yardsticks else 3)
    expected = runs * b.a.requests * 5 + len(more)
    got = int(b.r.get("bench:count"))
    check(got == expected, f"{got} increments, not {expected}")


@row(has_yardstick=True)
def trigger_async_local(b):
    """A function that returns a constant, in the background."""
    calls(
        b,
        "RG.TRIGGER constant, async_local, 50 clients",
        CONSTANT.format(mode="async_local"),
        "constant",
        {"PING": ("PING",), "EVAL": EVAL_CONSTANT},
        50,
        1,
        more=[["OK"]],
        target=0.6,
    )


def busy_functions(b):
    """name -> batch function (script, right) that keeps a processor busy."""
    n = 4 * b.a.ints
    return {
        "many short callbacks": (
            f"def numbers():\n    for i in range({n}):\n        yield i\n"
            "GB('PythonReader').map(lambda x: x * 2).count().run(numbers)",
            is_int(n),
        ),
        "one long callback": (
            f"def loop(x):\n    a = 0\n    for i in range({10 * n}):\n        a += i % 3\n"
            "    return a\n"
            "GB('ShardsIDReader').map(loop).run()",
            is_int(sum(i % 3 for i in range(10 * n))),
        ),
    }


@row(has_yardstick=True)
def trigger_p99(b):
    """One client calls a sync trigger in a loop while a batch function computes."""
    seconds = 0.5 if b.a.quick else 3
    client = connect(b.port)
    commands = {"EVAL": (r"$2\r\nOK\r\n", *EVAL_CONSTANT)}
    if not b.a.yardsticks:
        commands["RG.TRIGGER"] = (r"*1\r\n$2\r\nOK\r\n", "RG.TRIGGER", "constant")

    def called(command):
        helper = Helper(sys.executable, "caller", b.port, *commands[command])
        time.sleep(seconds)
        figures = json.loads(helper.finish())
        check("wrong" not in figures, f"{command} answered {figures.get('wrong')}")
        return figures

    def crowded(command):
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            return called(command)
        finally:
            burner.kill()
            burner.wait()

    def during(script, right):
        def once():
            check(right(b.server.run(script, client)), "wrong result")

        with Repeater(once):
            return called("RG.TRIGGER")

    busy = {} if b.a.yardsticks else busy_functions(b)
    runs = {
        f"{c} {s}": lambda c=c, f=f: f(c)
        for c in commands
        for s, f in (("idle", called), ("beside a process that only computes", crowded))
    }
    runs |= {name: lambda f=f: during(*f) for name, f in busy.items()}
    with contextlib.ExitStack() as stack:
        if not b.a.yardsticks:
            stack.enter_context(Registered(b.server, CONSTANT.format(mode="sync")))
        results = in_turn(b, runs)

    def mid(name, figure="p99"):
        return statistics.median(x[figure] for x in results[name])

    base = "; ".join(f"{name} p99 {mid(name):.3f} ms" for name in runs if name not in busy)
    if not busy:
        b.add(Row("p99 of a call", "", base, raw=results))
    for name in busy:
        b.add(
            Row(
                f"p99 of a sync trigger during a batch function, {name}",
                f"{mid(name):.3f} ms",
                f"idle {mid('RG.TRIGGER idle'):.3f} ms",
                mid(name),
                min(x["p99"] for x in results[name]),
                "ms",
                target=1,
                less=True,
                note=f"p50 {mid(name, 'p50'):.3f} ms, max {mid(name, 'max'):.1f} ms, "
                f"{mid(name, 'calls') / seconds:.0f} calls/s; {base}",
                raw=results,
            )
        )
