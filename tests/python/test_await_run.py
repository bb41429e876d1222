"""`await GB()...run()` in coroutines: results as values, errors as text."""

import ast

import pytest
from env import HOLD, one_shard
from later import ASLEEP, begin
from server import wait_until

TRIGGER = "GB('CommandReader')"
MODES = ["async", "async_local"]


def awaited(env, run, before=""):
    """repr of what a coroutine gets from a run, by the shard that is asked."""
    env.register(
        f"""{ASLEEP}{before}
async def work(r):
    return repr(await {run})
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    (text,) = env.trigger("t")
    for entry in env.registrations():
        env.unregister(entry["id"])
    return text


def value(env, run, before=""):
    return ast.literal_eval(awaited(env, run, before))


@pytest.fixture
def three(env):
    env.client.mset({"a": 1, "b": 2, "c": 3})
    return env


@pytest.mark.parametrize("mode", MODES)
def test_keys(three, mode):
    results, errors = value(three, f"GB().map(lambda r: r['key']).run(mode='{mode}')")
    owners = {"a", "b", "c"}
    if mode == "async_local":
        owners = set(three.shards[0].client.keys())
    assert (set(results), len(results), errors) == (owners, len(owners), [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("convert", [True, False])
def test_every_kind_of_value(env, mode, convert):
    values = [1, 1.5, "x", b"x", None, True, [1, [2]], (1,), {"a": 1}, {1}, 10**30]
    results, errors = value(
        env,
        f"GB('PythonReader', read).run(mode='{mode}', convertToStr={convert})",
        f"\ndef read():\n    if configGet('source') or '{mode}' == 'async_local':\n"
        f"        yield from {values!r}\n",
    )
    assert errors == []
    assert results == (list(map(str, values)) if convert else values)


def test_any_object_of_this_shard(env):
    """Nothing has to be sent."""
    text = awaited(
        env,
        "GB('PythonReader', read).run(mode='async_local', convertToStr=False)",
        "\nclass Thing:\n    __repr__ = lambda self: 'a thing'\ndef read():\n    yield Thing()\n",
    )
    assert text == "[[a thing], []]"


READERS = {
    "GB().map(lambda r: r['key'])": ["a", "b", "c"],
    "GB('KeysReader').count()": ["3"],
    "GB('KeysOnlyReader')": ["a", "b", "c"],
    "GB('StreamReader', 's').map(lambda r: r['value']['f'])": ["v", "v"],
    "GB('PythonReader', lambda: (x for x in [1, 2])).count()": None,
    "GB('ShardsIDReader').count()": None,
}


@pytest.mark.parametrize("reader", READERS)
def test_readers(three, reader):
    if "Stream" in reader:
        three.add("s", 2)
    results, errors = value(three, f"{reader}.run()")
    many = {"Python": 2, "Shards": 1}
    expected = READERS[reader] or [
        str(three.shard_count * n) for name, n in many.items() if name in reader
    ]
    assert (sorted(results), errors) == (expected, [])


def test_without_collect(env):
    """What the other shards have stays there."""
    results, errors = value(env, "GB('ShardsIDReader').run(collect=False)")
    assert (len(results), errors) == (1, [])


@pytest.mark.parametrize("mode", MODES)
def test_errors(env, mode):
    results, errors = value(
        env,
        f"GB('PythonReader', read).map(lambda x: 6 // x).run(mode='{mode}')",
        f"""
def read():
    if configGet('source') or '{mode}' == 'async_local':
        yield from (1, 2, 0)
""",
    )
    assert results == ["6", "3"]
    assert len(errors) == 1
    assert "ZeroDivisionError" in errors[0]


def test_errors_of_a_coroutine(env):
    results, errors = value(
        env,
        "GB('PythonReader', lambda: (x for x in [1])).map(fails).run(mode='async_local')",
        "\nasync def fails(x):\n    raise Exception('failed')\n",
    )
    assert (results, errors) == ([], ["failed"])


def test_nothing(env):
    assert value(env, "GB().run()") == [[], []]


def test_two_lists(env):
    text = awaited(env, "GB().run()")
    assert text == "[[], []]"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ("GB('CommandReader').run()", "do not support run"),
        ("GB('nope').run()", "reader"),
        ("GB().run(mode='sync')", "unknown execution mode"),
        ("GB().run(5)", "regex argument must be a string"),
        ("GB().map(1).run()", "argument must be a function"),
    ],
)
def test_a_run_that_is_refused(env, run, text):
    env.register(
        f"""
        async def work(r):
            return await {run}
        {TRIGGER}.map(work).register(trigger='t', mode='async_local')
        """
    )
    assert text in env.error("RG.TRIGGER", "t")


@pytest.mark.cluster
def test_a_run_that_can_not_be_sent(env):
    env.register(
        f"""
        async def work(r):
            import threading
            lock = threading.Lock()
            return await GB('ShardsIDReader').map(lambda x: lock and x).run()
        {TRIGGER}.map(work).register(trigger='t', mode='async_local')
        """
    )
    assert "Error occured when serialized a python callback" in env.error("RG.TRIGGER", "t")


@pytest.mark.parametrize("mode", MODES)
def test_aborted(env, mode):
    """Of what a shard of the run did so far nothing is promised; whoever waits goes on."""
    env.register(
        f"""{ASLEEP}
async def work(r):
    results, errors = await GB('ShardsIDReader').foreach(lambda x: wait_for()).run(mode='{mode}')
    return 'went on'
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.held if mode == "async_local" else env.all_held)
        _, second = sorted(env.shards[0].executions(), key=lambda i: int(i.split("-")[1]))
        env.call("RG.ABORTEXECUTION", second)
        assert wire.receive() == [b"went on"]
    env.go()
    wait_until(lambda: "running" not in env.executions().values())


def test_aborted_while_it_runs(env):
    env.register(
        f"""{HOLD}
async def work(r):
    results, errors = await GB('ShardsIDReader').foreach(lambda x: hold()).run(mode='async_local')
    return errors
{TRIGGER}.flatmap(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.held)
        second = max(env.shards[0].executions(), key=lambda i: int(i.split("-")[1]))
        env.call("RG.ABORTEXECUTION", second)
        (error,) = wire.receive()
        assert b"GearsForceStopped" in error or b"forcestopped" in error


def test_who_waits_is_aborted(env):
    """The run that is awaited goes on by itself."""
    env.register(
        f"""{ASLEEP}
async def inner(x):
    await wait_for()
    execute('set', 'ended{{%s}}' % hashtag(), 1)
async def work(r):
    await GB('ShardsIDReader').foreach(inner).run(mode='async_local')
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.held)
        first, _ = sorted(env.shards[0].executions(), key=lambda i: int(i.split("-")[1]))
        env.call("RG.ABORTEXECUTION", first)
        wire.receive()
    env.go()
    wait_until(lambda: env.shards[0].client.exists(env.shards[0].key("ended")))
    wait_until(lambda: env.shards[0].executions() == {})


def test_the_garbage_collector(env):
    """Who waits for a run is held by nothing but what it waits for."""
    env.register(
        f"""{ASLEEP}
async def work(r):
    await GB('ShardsIDReader').foreach(lambda x: wait_for()).run()
    return 'went on'
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.all_held)
        env.each(lambda shard: shard.execute("import gc; gc.collect()"))
        env.go()
        assert wire.receive() == [b"went on"]


NESTED = """
async def nested(depth):
    if depth == 0:
        return 1
    (result,), errors = await GB('PythonReader').map(lambda x: nested(depth - 1)) \\
        .run(lambda: (x for x in [1]), mode='async_local', convertToStr=False)
    assert errors == [], errors
    return result + 1
"""


def test_runs_within_runs(env):
    assert awaited(env, "nested(20)", NESTED) == "21"


def test_many_runs_at_once(env):
    """More than there are threads, each with runs inside."""
    text = awaited(env, "asyncio.gather(*[nested(3) for _ in range(50)])", NESTED)
    assert text == str([4] * 50)


def test_runs_on_all_shards_within_each_other(env):
    """Every record of each shard asks all shards."""
    env.register(
        f"""
        async def count(x):
            (count,), errors = await GB('ShardsIDReader').count().run(convertToStr=False)
            assert errors == [], errors
            return count
        async def work(r):
            (total,), errors = await GB('ShardsIDReader').map(count).aggregate(
                0, lambda a, r: a + r, lambda a, r: a + r).run(convertToStr=False)
            assert errors == [], errors
            return total
        {TRIGGER}.map(work).register(trigger='t', mode='async_local')
        """
    )
    wires = [begin(shard.server, "RG.TRIGGER", "t") for shard in env.shards for _ in range(10)]
    for wire in wires:
        with wire:
            assert wire.receive() == [str(env.shard_count**2).encode()]
    wait_until(lambda: env.executions() == {})


def test_a_run_of_which_nobody_waits(env):
    """It is no coroutine, and needs no await."""
    env.register(
        f"""
        async def work(r):
            GB('ShardsIDReader').foreach(
                lambda x: execute('set', 'ran{{%s}}' % hashtag(), 1)).run()
            return 'ok'
        {TRIGGER}.map(work).register(trigger='t', mode='async_local')
        """
    )
    assert env.trigger("t") == ["ok"]
    wait_until(lambda: all(env.each(lambda s: s.client.exists(s.key("ran")))))
    wait_until(lambda: env.executions() == {})


@pytest.mark.parametrize("mode", MODES)
def test_it_is_gone_when_the_one_that_waited_goes_on(env, mode):
    """Only the one that waits is left."""
    assert awaited(
        env,
        "often()",
        f"""
async def often():
    listed = set()
    for _ in range(50):
        await GB('ShardsIDReader').run(mode='{mode}')
        listed.add(len(execute('RG.DUMPEXECUTIONS')))
    return listed
""",
    ) == str({1})


def test_a_run_that_is_awaited_later(env):
    """And more than once."""
    assert awaited(
        env,
        "long()",
        """
async def long():
    future = GB('PythonReader', lambda: (x for x in [1])).run(mode='async_local')
    for _ in range(20):
        await asyncio.sleep(0.002)
    return [await future, await future, future.done()]
""",
    ) == str([[["1"], []], [["1"], []], True])


def test_a_run_that_is_no_longer_waited_for(env):
    assert awaited(
        env,
        "long()",
        """
async def long():
    try:
        await asyncio.wait_for(GB('ShardsIDReader').foreach(lambda r: wait_for()).run(), 0.01)
    except TimeoutError:
        return 'gave up'
""",
    ) == repr("gave up")
    env.go()
    wait_until(lambda: env.executions() == {})


def test_a_run_of_the_script_itself(env):
    """Its future may be kept by what the script defines."""
    result = env.results(
        f"""
        future = None
        async def wait():
            while future is None:
                await asyncio.sleep(0)
            results, errors = await future
            execute('set', 'seen{{%s}}' % hashtag(), str([results, errors]))
        import asyncio
        runCoroutine(wait())
        future = {one_shard([1, 2])}.run()
        """
    )
    assert result == ["1", "2"]
    seen = wait_until(lambda: env.shards[0].client.get(env.shards[0].key("seen")))
    assert ast.literal_eval(seen) == [["1", "2"], []]


def test_a_run_started_by_a_step(env):
    """A callback can not await; a coroutine that it starts can."""
    env.register(
        f"""
        async def wait(future):
            return len((await future)[0])
        def work(r):
            return wait(GB('ShardsIDReader').run())
        {TRIGGER}.map(work).register(trigger='t', mode='sync')
        """
    )
    assert env.trigger("t") == [str(env.shard_count)]


def test_results_that_are_too_large(env):
    env.config("MaxResultsMemory", 1 << 20)
    results, errors = value(
        env,
        "short()",
        """
async def short():
    results, errors = await GB('PythonReader', lambda: ('x' * 10000 for _ in range(1000))).run(
        mode='async_local')
    return [len(results), errors]
""",
    )
    assert 50 < results < 1000
    assert any("MaxResultsMemory" in error for error in errors)


@pytest.mark.cluster
def test_results_that_can_not_be_sent(env):
    """Those of the other shards are errors."""
    results, errors = value(
        env,
        "short()",
        """
import threading
async def short():
    results, errors = await GB('ShardsIDReader').map(lambda x: threading.Lock()).run(
        convertToStr=False)
    return [len(results), errors]
""",
    )
    assert (results, len(errors)) == (1, env.shard_count - 1)
    assert all("lock" in error for error in errors)


def test_idle_timeout(new_cluster):
    """A shard that is gone is noticed by whoever awaits."""
    env = new_cluster()
    env.config("ExecutionMaxIdleTime", 300)
    env.register(
        f"""{ASLEEP}
async def work(r):
    results, errors = await GB('ShardsIDReader').foreach(lambda x: wait_for()).run()
    return errors
{TRIGGER}.flatmap(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.all_held)
        env.servers[2].kill()
        env.shards[0].go()
        env.shards[1].go()
        errors = wire.receive()
        assert errors


@pytest.mark.single("each shard counts its own")
def test_runs_of_itself_without_end(env):
    """They stop before they have taken all memory."""
    script = """
async def work(r):
    try:
        await GB('ShardsIDReader').map(work).run()
    except Exception as error:
        execute('set', 'why', str(error))
    return r
GB('ShardsIDReader').map(work).run()
"""
    assert env.results(script) == env.ids
    text = "50000 runs that functions started have not ended yet: no more can begin"
    assert env.client.get("why") == text
    env.client.delete("why")
    assert env.results(
        "async def work(r): return await GB('ShardsIDReader').run()\n"
        "GB('ShardsIDReader').map(work).count().run()"
    ) == ["1"]
    assert env.client.get("why") is None
