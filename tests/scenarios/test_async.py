"""Acceptance scenarios of steps that answer later."""

import pytest
from env import one_shard
from later import ASLEEP, KEEP, SOON, begin, release
from server import wait_until
from wire import Error, Simple

TRIGGER = "GB('CommandReader')"


def test_asy_01_a_key_continues_a_future(env):
    env.register(
        KEEP
        + f"""
GB().foreach(let_go).register('go*', mode='async_local')
{TRIGGER}.map(lambda r: keep('continued')).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(lambda: env.shards[0].executions())
        # It may have been before the future was made.
        number = iter(range(1000000))
        wait_until(
            lambda: (
                [s.client.set(s.key(f"go{next(number)}"), 1) for s in env.shards]
                and "running" not in env.executions().values()
            )
        )
        assert wire.receive() == [b"continued"]


@pytest.mark.parametrize("step", ["map", "flatmap"])
def test_asy_02_a_future_that_is_not_returned(env, step):
    env.register(
        f"""
        def work(r):
            future = gearsFuture()
            return r
        {TRIGGER}.{step}(work).register(trigger='t', mode='async_local')
        """
    )
    results = {"map": [str(["t", "x"])], "flatmap": ["x", "t"]}
    assert env.trigger("t", "x") == results[step]


def test_asy_02_what_happens_to_it_later(env):
    env.register(
        KEEP
        + f"""
def work(r):
    keep('other')
    return 'normal'
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    assert env.trigger("t") == ["normal"]
    release(env)
    assert env.trigger("t") == ["normal"]


RAISES = "def work(*args):\n    gearsFuture()\n    raise Exception('failed')\n"


@pytest.mark.parametrize("step", ["foreach", "filter", "map", "flatmap"])
def test_asy_03_a_step_that_makes_a_future_and_raises(env, step):
    env.register(f"{RAISES}{TRIGGER}.{step}(work).register(trigger='t', mode='async_local')")
    assert "failed" in env.error("RG.TRIGGER", "t")


@pytest.mark.parametrize(
    ("step", "result"),
    [
        ("accumulate(work)", "None"),
        ("groupby(lambda x: 'k', work)", "{'key': 'k', 'value': None}"),
        ("localgroupby(lambda x: 'k', work)", "{'key': 'k', 'value': None}"),
    ],
)
def test_asy_04_an_accumulator_that_makes_a_future_and_raises(env, step, result):
    env.register(f"{RAISES}{TRIGGER}.{step}.register(trigger='t', mode='async_local')")
    assert env.trigger("t") == [result]


@pytest.mark.parametrize("mode", ["async_local", "sync"])
def test_asy_05_a_future_that_nobody_keeps(env, mode):
    env.register(f"{TRIGGER}.map(lambda r: gearsFuture()).register(trigger='t', mode='{mode}')")
    assert env.error("RG.TRIGGER", "t") == "Async record did not called continue"


def test_asy_06_continued_before_it_is_returned(env):
    env.register(
        f"""
        def work(r):
            future = gearsFuture()
            future.continueRun(1)
            return future
        {TRIGGER}.map(work).register(trigger='t', mode='async_local')
        """
    )
    text = env.error("RG.TRIGGER", "t")
    assert "Can not handle future untill it returned from the callback" in text


@pytest.mark.parametrize("mode", ["async_local", "sync"])
def test_asy_07_08_block_and_unblock(env, mode):
    env.register(f"{KEEP}{TRIGGER}.map(keep).register(trigger='block', mode='{mode}')")
    for i in range(5):
        with begin(env.server, "RG.TRIGGER", "block", i) as wire:
            release(env)
            assert wire.receive() == [str(["block", str(i)]).encode()]


@pytest.mark.single("the second key continues the first one")
def test_asy_09_a_key_waits_for_the_next_one(env):
    env.register(
        """
        held = None
        def hold_it(r):
            global held
            before, held = held, (gearsFuture(), r)
            if before:
                before[0].continueRun(before[1])
            return held[0]
        GB().map(hold_it).foreach(lambda r: execute('del', r['key'])) \\
            .register('k*', eventTypes=['set'], mode='async_local')
        """
    )
    env.client.set("k1", 1)
    wait_until(lambda: env.data()["numTriggered"] == 1)
    wait_until(lambda: list(env.executions().values()) == ["running"])
    assert env.client.exists("k1")
    env.client.set("k2", 1)
    wait_until(lambda: not env.client.exists("k1"))
    wait_until(lambda: sorted(env.executions().values()) == ["done", "running"])
    assert env.client.exists("k2")
    (held,) = [i for i, status in env.executions().items() if status == "running"]
    assert env.abort(held) == "OK"
    assert env.status(held) == "aborted"
    assert env.drop(held) == "OK"
    assert held not in env.executions()


@pytest.mark.cluster
def test_asy_10_before_and_after_a_count_over_all_shards(env):
    env.register(f"{KEEP}{TRIGGER}.map(keep).count().map(keep).register(trigger='block')")
    for _ in range(5):
        with begin(env.server, "RG.TRIGGER", "block") as wire:
            release(env, env.shard_count + 1)
            assert wire.receive() == [str(env.shard_count).encode()]


def test_asy_11_a_filter(env):
    env.client.mset({"x": 1, "y": 2, "z": 3})
    script = f"{SOON}GB().map(lambda r: r['key']).filter(lambda r: soon(True)).run()"
    assert sorted(env.results(script)) == ["x", "y", "z"]


def test_asy_12_a_flatmap(env):
    words = ["one", "two", "three", "four", "five", "six"]
    reader = f"{SOON}{one_shard([1])}.flatmap(lambda r: soon({words}))"
    assert env.results(f"{reader}.run()") == words[::-1]
    assert env.results(f"{reader}.distinct().count().run()") == ["6"]


def test_asy_13_accumulate(env):
    assert env.results(
        f"""{SOON}
GB('PythonReader').accumulate(lambda a, r: soon((a or 0) + r)).collect() \\
    .accumulate(lambda a, r: soon((a or 0) + r)).run(lambda: (x for x in range(10)))
"""
    ) == [str(45 * env.shard_count)]


def test_asy_14_groupby(env):
    """Of the records that all shards make each group is counted on one of them."""
    results = env.results(
        f"""{SOON}
GB('PythonReader').groupby(lambda r: r % 3, lambda k, a, r: soon((a or 0) + 1)) \\
    .run(lambda: (x for x in range(10)))
"""
    )
    counts = {"0": 4, "1": 3, "2": 3}
    expected = [{"key": key, "value": n * env.shard_count} for key, n in counts.items()]
    assert sorted(results) == sorted(map(str, expected))


@pytest.mark.parametrize(
    "step",
    ["repartition(lambda r: soon('k'))", "batchgroupby(lambda r: 'k', lambda k, r: soon(1))"],
)
def test_asy_15_steps_that_make_no_futures(env, step):
    errors = env.errors(f"{SOON}{one_shard([1, 2])}.{step}.run()")
    assert all("Step does not support async" in error for error in errors)


def test_asy_16_an_async_function_in_every_step(env):
    reader = f"{ASLEEP}GB('ShardsIDReader')"
    steps = ".map(later).flatmap(later).foreach(later).filter(later).count().run()"
    assert env.results(reader + steps) == [str(env.shard_count)]


def test_asy_17_is_async_allowed(env):
    env.register(
        f"""{ASLEEP}
{TRIGGER}.map(lambda r: later('later') if isAsyncAllow() else 'at once') \\
    .register(trigger='t', mode='sync')
"""
    )
    assert env.call("RG.TRIGGER", "t") == [b"later"]
    env.call("MULTI")
    assert env.call("RG.TRIGGER", "t") == Simple("QUEUED")
    assert env.call("EXEC") == [[b"at once"]]


def test_asy_18_an_extractor(env):
    (error,) = env.errors(f"{ASLEEP}{one_shard([1])}.repartition(later).run()")
    assert "coroutine are not allow on extractor" in error


def test_asy_19_sleeps_and_raises(env):
    script = """
import asyncio
async def fails(r):
    await asyncio.sleep(0.01)
    raise Exception('failed')
"""
    assert env.errors(f"{script}{one_shard([1])}.map(fails).run()") == ["failed"]


@pytest.mark.single("on a cluster the shards unregister what others have unregistered already")
def test_asy_20_unregisters_itself(env):
    env.register("GB().register('k*')")
    env.register(
        f"""
        async def unregister_all(r):
            for entry in execute('RG.DUMPREGISTRATIONS'):
                execute('RG.UNREGISTER', entry[1], 'abortpending')
            return 'gone'
        {TRIGGER}.map(unregister_all).register(trigger='t')
        """
    )
    assert env.trigger("t") == ["gone"]
    assert env.registrations() == []


def test_asy_21_an_asynchronous_trigger_in_multi(env):
    env.register(f"{TRIGGER}.register(trigger='t', mode='async')")
    env.call("MULTI")
    assert env.call("RG.TRIGGER", "t") == Simple("QUEUED")
    (error,) = env.call("EXEC")
    assert isinstance(error, Error)
    assert "non-sync" in error.lower() or "none sync" in error.lower()
    assert "MULTI" in error.upper()


def test_asy_22_a_reader_that_pauses(env):
    assert env.results(
        """
        import time
        def slow():
            yield 1
            time.sleep(0.01)
            yield 2
        async def at_once(r):
            return r
        GB('PythonReader').map(at_once).count().run(slow)
        """
    ) == [str(2 * env.shard_count)]


def test_reg_22_a_trigger_awaits_a_run(env):
    env.client.mset({"a": 1, "b": 2, "c": 3})
    env.register(
        f"""
        async def keys(r):
            results, errors = await GB().map(lambda r: r['key']).run()
            assert errors == []
            return results
        {TRIGGER}.flatmap(keys).sort().register(trigger='t', mode='async_local')
        """
    )
    assert env.trigger("t") == ["a", "b", "c"]


MISSES = """
async def work(r):
    (count,), errors = await GB('ShardsIDReader').count().run(convertToStr=False)
    override_reply(count)
GB().foreach(work).register('{}', eventTypes=['keymiss'], commands=['get'], mode='{}')
"""


@pytest.mark.parametrize("mode", ["async", "async_local", "sync"])
def test_reg_29_override_a_reply_after_an_await(env, mode):
    env.register(MISSES.format("*", mode))
    assert env.call("GET", "x") == env.shard_count
    env.client.set("x", 1)
    assert env.call("GET", "x") == b"1"


@pytest.mark.parametrize("mode", ["async", "async_local", "sync"])
def test_reg_30_override_replies_of_a_prefix(env, mode):
    env.register(MISSES.format("in:*", mode))
    assert env.call("GET", "x") is None
    assert env.call("GET", "in:x") == env.shard_count


def test_ses_14_an_upgrade_while_a_plan_of_the_old_session_waits(env):
    """What dead sessions there are is not told yet: RG.PYDUMPSESSIONS is not there."""
    script = f"""{ASLEEP}
name = 'NAME'
async def wait(r):
    await wait_for()
    execute('set', 'ended{{%s}}' % hashtag(), name)
{TRIGGER}.map(lambda r: name).register(trigger='t', mode='sync')
GB('ShardsIDReader').foreach(wait).run()
"""
    env.execute(script.replace("NAME", "old"), "ID", "test1", "UNBLOCKING")
    wait_until(env.all_held)
    env.execute(f"{TRIGGER}.register(trigger='t', mode='sync')", "ID", "test1", "UPGRADE")
    assert env.trigger("t") == ["['t']"]
    env.each(lambda shard: shard.execute("import gc; gc.collect()"))
    env.go()
    wait_until(
        lambda: env.each(lambda s: s.client.get(s.key("ended"))) == ["old"] * env.shard_count
    )
    assert len(env.registrations()) == 1


def test_err_53_call_next_without_a_hook(env):
    (error,) = env.errors(
        f"""
        async def work(r):
            return call_next(r)
        {one_shard([1])}.map(work).run()
        """
    )
    assert error == "Can not get CommandHook ctx"


@pytest.mark.parametrize("what", ["asyncio.sleep(0)", "asyncio.sleep(0.01)", "createFuture()"])
def test_err_54_await_in_an_atomic_block(env, what):
    errors = env.errors(
        f"""
        import asyncio
        async def work(r):
            with atomic():
                await {what}
        {one_shard([1])}.map(work).run()
        """
    )
    assert errors == ["await is not allow inside atomic block"]
    assert env.still_runs()
