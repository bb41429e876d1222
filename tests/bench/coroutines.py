"""Steps that answer later."""

import statistics

from process import check
from rows import Load, Registered, compare, in_turn, is_int, row, timed
from table import Row

PLAIN = """
GB('CommandReader').map(lambda x: 'OK').register(trigger='plain', mode='async_local')
"""
AWAITS = """
async def answer(x):
    finished = createFuture()
    finished.set_result('OK')
    return await finished

GB('CommandReader').map(answer).register(trigger='awaits', mode='async_local')
"""
SLEEPS = """
def numbers():
    for number in range(1000):
        yield number

async def sleep(x):
    await asyncio.sleep(0.1)
    return x

GB('PythonReader').map(sleep).count().run(numbers)
"""
SLEEPERS, SLEEP = 1000, 0.1


@row()
def trigger_await(b):
    """A function that awaits what is there already, beside one that does not."""
    load = Load(b)

    def run(script, trigger):
        with Registered(b.server, script) as registered:
            reply = load.benchmark(b.a.requests, 50, 1, "RG.TRIGGER", trigger)
            check(registered.wait() == b.a.requests, "calls are missing")
        return reply

    results = in_turn(
        b, {"plain": lambda: run(PLAIN, "plain"), "awaits": lambda: run(AWAITS, "awaits")}
    )
    compare(
        b,
        "RG.TRIGGER that awaits a finished future, async_local, 50 clients",
        results["awaits"],
        results["plain"],
        "without await",
        target=0.5,
    )


@row()
def coroutines_sleep(b):
    """Many coroutines that sleep at the same time."""
    right = is_int(SLEEPERS)

    def once():
        got = b.server.run(SLEEPS)
        check(right(got), f"wrong result: {str(got)[:120]}")

    times = [timed(once) for _ in range(b.a.rounds)]
    b.add(
        Row(
            f"{SLEEPERS} coroutines that each sleep {SLEEP:g} s",
            f"{statistics.median(times):.3f} s",
            f"{SLEEP:g} s",
            statistics.median(times) / SLEEP,
            min(times) / SLEEP,
            target=5,
            less=True,
            raw={"workload_s": times},
        )
    )
