"""Coroutines as callbacks: where they may be, what they see, what becomes of their errors."""

import pytest
from env import one_shard
from later import ASLEEP, begin
from server import wait_until
from wire import Error, Simple

TRIGGER = "GB('CommandReader')"


def trigger(env, script, steps, mode="async_local"):
    env.register(f"{script}\n{TRIGGER}.{steps}.register(trigger='t', mode='{mode}')")


STEPS = {
    "map(later)": ["1", "0", "2"],
    "filter(later)": ["1", "2"],
    "foreach(later)": ["1", "0", "2"],
    "flatmap(later)": ["1", "0", "2"],
    "accumulate(fold)": ["3"],
    "localgroupby(lambda x: 'k', fold_by)": ["{'key': 'k', 'value': 3}"],
    "groupby(lambda x: 'k', fold_by)": ["{'key': 'k', 'value': 3}"],
    "aggregate(0, fold, fold)": ["3"],
    "aggregateby(lambda x: 'k', 0, fold_by, fold_by)": ["{'key': 'k', 'value': 3}"],
}
FOLDS = """
async def fold(a, r):
    return await later((a or 0) + r)
async def fold_by(k, a, r):
    return await later((a or 0) + r)
"""


@pytest.mark.parametrize("step", STEPS)
def test_steps(env, step):
    assert env.results(f"{ASLEEP}{FOLDS}{one_shard([1, 0, 2])}.{step}.run()") == STEPS[step]


def test_a_flatmap_of_lists(env):
    script = f"{ASLEEP}{one_shard([[1, [2]], [], (3,), 'ab'])}"
    assert env.results(f"{script}.flatmap(later).run()") == ["[2]", "1", "(3,)", "ab"]


@pytest.mark.parametrize("step", ["map", "filter", "foreach", "flatmap"])
def test_a_coroutine_that_returns_a_coroutine(env, step):
    """What it returns is the value, whatever that is."""
    results, errors = env.run(
        f"""{ASLEEP}
async def twice(x):
    return later(x)
{one_shard([1])}.{step}(twice).map(lambda x: type(x).__name__).run()
"""
    )
    assert errors == []
    assert results == ["int" if step in ("filter", "foreach") else "coroutine"]


@pytest.mark.parametrize("step", ["map", "flatmap", "filter", "foreach"])
def test_futures_of_asyncio_are_values(env, step):
    """Only coroutines and gears futures are waited for."""
    script = f"{one_shard([1])}.{step}(lambda x: createFuture()).map(lambda x: 'went on').run()"
    assert env.results(script) == ["went on"]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("repartition(later)", "coroutine are not allow on extractor"),
        ("groupby(later, lambda k, a, r: 1)", "coroutine are not allow on extractor"),
        ("batchgroupby(later, lambda k, r: 1)", "coroutine are not allow on extractor"),
        ("localgroupby(later, lambda k, a, r: 1)", "coroutine are not allow on extractor"),
        ("aggregateby(later, 0, lambda k, a, r: 1, lambda k, a, r: 1)", "on extractor"),
        ("batchgroupby(lambda r: 'k', later2)", "coroutine are not allow on reduce"),
    ],
)
def test_where_they_are_not_allowed(env, step, text):
    script = f"{ASLEEP}\nasync def later2(k, r):\n    pass\n"
    (error,) = env.errors(f"{script}{one_shard([1])}.{step}.run()")
    assert text in error


@pytest.mark.parametrize("generator", ["async def read():\n    yield 1", "async def read(): pass"])
def test_an_asynchronous_reader(env, generator):
    """It is no generator; whatever becomes of it is said, and nothing waits for ever."""
    results, errors = env.run(f"{generator}\nGB('PythonReader').run(read)")
    assert results or errors
    assert env.still_runs()


def test_on_registered(env):
    offset = env.server.log_size()
    env.register(f"{ASLEEP}\nasync def ready():\n    pass\nGB().register('k*', onRegistered=ready)")
    assert "Coroutines are not allow" in env.server.log(offset)
    assert len(env.registrations()) == 1


@pytest.mark.single("time events work on the keys of their server")
def test_a_time_event(new_env):
    env = new_env()
    env.execute(
        f"""{ASLEEP}
async def tick():
    await asyncio.sleep(0)
    execute('incr', 'n')
    await GB('ShardsIDReader').foreach(lambda r: execute('incr', 'm')).run()
    execute('incr', 'o')
registerTE(1, tick)
"""
    )
    wait_until(lambda: env.client.mget("n", "m", "o") == ["2"] * 3)


@pytest.mark.parametrize("mode", ["async", "async_local", "sync"])
def test_a_trigger(env, mode):
    trigger(env, ASLEEP, "map(later)", mode)
    expected = [str(["t", "x"])] * (env.shard_count if mode == "async" else 1)
    assert env.trigger("t", "x") == expected
    assert env.settled()["numSuccess"] == 1


@pytest.mark.parametrize("made", ["later(1)", "gearsFuture()"])
def test_inside_multi(env, made):
    trigger(env, ASLEEP, f"map(lambda r: {made})", "sync")
    env.call("MULTI")
    env.call("RG.TRIGGER", "t")
    env.call("PING")
    (error, pong) = env.call("EXEC")
    assert isinstance(error, Error)
    assert "Creating async record is not allowed" in error
    assert pong == Simple("PONG")
    assert env.settled()["numFailures"] == 1


@pytest.mark.parametrize("made", ["later(1)", "gearsFuture()"])
def test_inside_lua(env, made):
    trigger(env, ASLEEP, f"map(lambda r: {made})", "sync")
    reply = env.call("EVAL", "return redis.pcall('RG.TRIGGER', 't')", "0")
    assert isinstance(reply, Error)
    assert "Creating async record is not allowed" in reply


def test_inside_execute(env):
    """A callback that calls a trigger can not be made to wait."""
    trigger(env, ASLEEP, "map(later)", "sync")
    (error,) = env.errors(f"{one_shard([1])}.map(lambda r: execute('RG.TRIGGER', 't')).run()")
    assert "Creating async record is not allowed" in error


def test_is_async_allowed(env):
    """Not in a coroutine, which runs outside of the step."""
    (result,) = env.results(
        f"""
        async def inside(before):
            return [before, isAsyncAllow()]
        {one_shard([1])}.map(lambda x: inside(isAsyncAllow())).run()
        """
    )
    assert result == "[True, False]"
    assert env.execute("assert not isAsyncAllow()") == "OK"


# ---------------------------------------------------------------------------------------- errors

ERRORS = {
    "Exception('failed')": "failed",
    "ValueError(1, 2)": "(1, 2)",
    "KeyError('k')": "'k'",
    "TimeoutError()": "",
    "Exception('')": "",
    "redisgears.GearsFlatError('flat')": "flat",
    "SystemExit(3)": "3",
    "KeyboardInterrupt('stop')": "stop",
    "asyncio.CancelledError('given up')": "given up",
    "asyncio.CancelledError()": "",
    "BaseException('base')": "base",
    "Exception('\\ud800')": None,
    "Exception('a\\nb')": "a\nb",
    "Exception('x' * 100000)": "x" * 100000,
    "BadText()": None,
    "BadTextToo()": None,
    "GeneratorExit('over')": None,
    "StopIteration(7)": "coroutine raised StopIteration",
    "StopAsyncIteration()": "",
    "ExceptionGroup('all', [ValueError(1)])": "all (1 sub-exception)",
}
RAISING = """
import asyncio, redisgears
class BadText(Exception):
    def __str__(self):
        raise ValueError('no text')
class BadTextToo(Exception):
    def __str__(self):
        return 5
    __repr__ = __str__
def make():
    return {}
"""


@pytest.mark.parametrize("moment", ["at once", "later"])
@pytest.mark.parametrize("error", ERRORS)
def test_what_a_coroutine_raises(env, error, moment):
    wait = "await asyncio.sleep(0)" if moment == "later" else "pass"
    errors = env.errors(
        f"""{RAISING.format(error)}
async def fails(r):
    {wait}
    raise make()
{one_shard([1])}.map(fails).run()
"""
    )
    (text,) = errors
    if ERRORS[error] is None:
        assert text
    else:
        assert text == ERRORS[error]
    assert env.results(f"{ASLEEP}{one_shard([1])}.map(later).run()") == ["1"]


def test_an_error_of_a_filter_that_is_neither_true_nor_false(env):
    (error,) = env.errors(
        f"""
        class Neither:
            def __bool__(self):
                raise ValueError('neither')
        async def test(r):
            return Neither()
        {one_shard([1])}.filter(test).run()
        """
    )
    assert "neither" in error


def test_nothing_of_a_coroutine_that_was_not_waited_for(env):
    """Warnings of Python would go to the log."""
    offset = env.server.log_size()
    env.run(f"{ASLEEP}{one_shard([1])}.repartition(later).run()")
    trigger(env, ASLEEP, "map(later)", "sync")
    env.call("MULTI")
    env.call("RG.TRIGGER", "t")
    env.call("EXEC")
    env.execute("import gc; gc.collect()")
    assert "never awaited" not in env.server.log(offset)


# --------------------------------------------------------------------------------- atomic blocks


ATOMIC = {
    "a future": "await createFuture()",
    "a moment": "await asyncio.sleep(0)",
    "a while": "await asyncio.sleep(0.01)",
    "a task": "await asyncio.create_task(asyncio.sleep(0))",
    "a task that is done": "task = asyncio.create_task(asyncio.sleep(0)); await task",
    "a run": "await GB('ShardsIDReader').run()",
    "gather": "await asyncio.gather(later(1), later(2))",
    "wait_for": "await asyncio.wait_for(later(1), 10)",
    "a thread": "await asyncio.to_thread(len, [])",
    "an executor": "await loop.run_in_executor(None, len, [])",
    "a coroutine": "await later(1)",
    "a lock": "lock = asyncio.Lock(); await lock.acquire(); await lock.acquire()",
    "an event": "await asyncio.Event().wait()",
    "a queue": "await asyncio.Queue().get()",
    "a shield": "await asyncio.shield(later(1))",
    "async for": """
        async def numbers():
            await asyncio.sleep(0)
            yield 1
        async for _ in numbers():
            pass""",
    "a bare yield": """
        import types
        @types.coroutine
        def bare():
            yield
        await bare()""",
}


@pytest.mark.parametrize("what", ATOMIC)
def test_nothing_is_awaited_in_an_atomic_block(env, what):
    errors = env.errors(
        f"""{ASLEEP}
async def work(r):
    with atomic():
        execute('set', 'before{{%s}}' % hashtag(), 1)
        {ATOMIC[what]}
        execute('set', 'after{{%s}}' % hashtag(), 1)
{one_shard([1])}.map(work).run()
"""
    )
    assert errors == ["await is not allow inside atomic block"]
    assert env.source.client.exists(env.source.key("before"))
    assert not env.source.client.exists(env.source.key("after"))
    assert env.still_runs()


@pytest.mark.parametrize("again", ["asyncio.sleep(0)", "createFuture()", "later(1)"])
def test_who_does_not_listen_holds_the_server_no_longer(env, again):
    """A coroutine that goes on after the refusal gets it each time; then the block ends."""
    assert env.results(
        f"""{ASLEEP}
async def work(r):
    refusals = []
    with atomic():
        for _ in range(5):
            try:
                await {again}
            except Exception as error:
                refusals.append(str(error))
    assert refusals == ['await is not allow inside atomic block'] * 5, refusals
    await asyncio.sleep(0)
    return isInAtomicBlock()
{one_shard([1])}.map(work).run()
"""
    ) == ["False"]


def test_a_block_is_of_the_coroutine_alone(env):
    """Others run on the same thread, but not within it."""
    assert env.results(
        f"""{ASLEEP}
async def work(r):
    for _ in range(20):
        assert not isInAtomicBlock()
        with atomic():
            assert isInAtomicBlock()
            execute('incr', 'n{{%s}}' % hashtag())
        await asyncio.sleep(0)
    return r
{one_shard(list(range(50)))}.map(work).count().run()
"""
    ) == ["50"]
    assert env.source.client.get(env.source.key("n")) == "1000"


def test_a_coroutine_inside_of_a_block_inside_of_a_step(env):
    """The step itself may hold the server; what it starts runs when that is over."""
    assert env.results(
        f"""{ASLEEP}
def work(r):
    with atomic():
        coroutine = later(r)
        execute('ping')
    return coroutine
{one_shard([1, 2])}.map(work).run()
"""
    ) == ["1", "2"]


# -------------------------------------------------------------------------- what asyncio offers


TOOLS = {
    "gather": "await asyncio.gather(*[later(i) for i in range(3)])",
    "gather of errors": """[str(e) for e in
        await asyncio.gather(fail('a'), fail('b'), return_exceptions=True)]""",
    "wait_for": "await asyncio.wait_for(later(1), 10)",
    "create_task": "await asyncio.create_task(later(1))",
    "ensure_future": "await asyncio.ensure_future(later(1))",
    "to_thread": "await asyncio.to_thread(execute, 'ping')",
    "run_in_executor": "[await loop.run_in_executor(None, len, 'a'), execute('ping')]",
    "wait": "len((await asyncio.wait([asyncio.create_task(later(i)) for i in range(3)]))[0])",
    "as_completed": "sorted([await f for f in asyncio.as_completed([later(2), later(1)])])",
    "get_running_loop": "asyncio.get_running_loop() is loop",
    "current_task": "asyncio.current_task() is not None",
    "a lock": "await locked(asyncio.Lock())",
    "a semaphore": "await locked(asyncio.Semaphore(1))",
    "a task group": "await group()",
    "a timeout": "await too_late()",
    "shield": "await asyncio.shield(later(1))",
    "call_soon": "await soon()",
    "cancel": "await cancelled()",
    "async comprehension": "[x async for x in numbers()]",
    "a subprocess": "await shell()",
    "a socket": "await spoken()",
    "run_coroutine_threadsafe": """await asyncio.to_thread(
        lambda: asyncio.run_coroutine_threadsafe(later(1), loop).result(10))""",
}
EXPECTED = {
    "gather": "[0, 1, 2]",
    "gather of errors": "['a', 'b']",
    "to_thread": "PONG",
    "run_in_executor": "[1, 'PONG']",
    "wait": "3",
    "as_completed": "[1, 2]",
    "get_running_loop": "True",
    "current_task": "True",
    "async comprehension": "[0, 1, 2]",
    "a subprocess": "b'hello\\n'",
    "a socket": "b'+PONG\\r\\n'",
}
WITH_TOOLS = """
async def fail(text):
    await asyncio.sleep(0)
    raise Exception(text)
async def locked(lock):
    async with lock:
        return await later(1)
async def group():
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(later(1))
    return task.result()
async def too_late():
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(600)
    except TimeoutError:
        return 1
async def soon():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 1)
    return await future
async def cancelled():
    task = asyncio.create_task(asyncio.sleep(600))
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return 1
async def numbers():
    for i in range(3):
        await asyncio.sleep(0)
        yield i
async def shell():
    process = await asyncio.create_subprocess_exec('echo', 'hello', stdout=-1)
    return (await process.communicate())[0]
async def spoken():
    port = int(execute('config', 'get', 'port')[1])
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(b'PING\\r\\n')
    answer = await reader.readline()
    writer.close()
    return answer
"""


@pytest.mark.parametrize("tool", TOOLS)
def test_asyncio(env, tool):
    assert env.results(
        f"""{ASLEEP}{WITH_TOOLS}
async def work(r):
    return {TOOLS[tool]}
{one_shard([1])}.map(work).run()
"""
    ) == [EXPECTED.get(tool, "1")]


def test_a_coroutine_that_blocks_holds_only_coroutines(env):
    env.register(
        f"""
        import time
        async def block(r):
            execute('set', 'held{{%s}}' % hashtag(), 1)
            while execute('get', 'go{{%s}}' % hashtag()) is None:
                time.sleep(0.005)
            return 'blocked'
        async def wait(r):
            return 'waited'
        {TRIGGER}.map(block).register(trigger='block', mode='async_local')
        {TRIGGER}.map(wait).register(trigger='wait', mode='async_local')
        {TRIGGER}.map(lambda r: 'at once').register(trigger='sync', mode='sync')
        """
    )
    with begin(env.server, "RG.TRIGGER", "block") as block:
        wait_until(env.held)
        with begin(env.server, "RG.TRIGGER", "wait") as wait:
            for _ in range(20):
                assert env.call("PING") == Simple("PONG")
                assert env.trigger("sync") == ["at once"]
            assert env.still_runs()
            assert "running" in env.shards[0].executions().values()
            env.go()
            assert wait.receive() == [b"waited"]
            assert block.receive() == [b"blocked"]


# -------------------------------------------------------------------------------------- sessions


def test_the_session_of_a_coroutine(env):
    assert env.results(
        f"""
        import asyncio
        async def work(r):
            before = getGearsSession()
            assert before is not None
            await asyncio.sleep(0)
            assert getGearsSession() is not None
            with GearsSession(before):
                await asyncio.sleep(0)
                assert getGearsSession() is not None
                execute('ping')
            setGearsSession(None)
            assert getGearsSession() is None
            await asyncio.sleep(0)
            assert getGearsSession() is None
            setGearsSession(before)
            await asyncio.sleep(0)
            assert getGearsSession() is not None
            return r
        {one_shard(list(range(20)))}.map(work).count().run()
        """
    ) == ["20"]


def test_a_session_does_not_leak_into_other_coroutines(env):
    """Some hide theirs; the others, and those that come after, have theirs all the same."""
    assert env.results(
        f"""
        import asyncio
        async def work(r):
            if r % 2:
                setGearsSession(None)
            for _ in range(5):
                await asyncio.sleep(0)
                assert (getGearsSession() is None) == bool(r % 2)
            return r
        {one_shard(list(range(50)))}.map(work).count().run()
        """
    ) == ["50"]
    assert env.results(
        f"""
        async def work(r):
            return getGearsSession() is None
        {one_shard([1])}.map(work).run()
        """
    ) == ["False"]


def test_the_loop_itself_has_no_session(env):
    assert env.results(
        f"""
        import asyncio, contextvars
        async def work(r):
            seen = loop.create_future()
            def look():
                seen.set_result(getGearsSession())
            loop.call_soon(look, context=contextvars.Context())
            return await seen
        {one_shard([1])}.map(work).run()
        """
    ) == ["None"]


def test_a_session_of_its_own_for_each_script(env):
    """Names of one script are not seen by coroutines of another one."""
    for name in ("a", "b"):
        env.register(
            f"""{ASLEEP}
name = '{name}'
async def work(r):
    await later(1)
    (results, errors) = await GB('ShardsIDReader').map(lambda r: name).run()
    return results
{TRIGGER}.flatmap(work).register(trigger='{name}', mode='async_local')
""",
            "ID",
            name,
        )
    wires = [(name, begin(env.server, "RG.TRIGGER", name)) for name in "ab" * 10]
    for name, wire in wires:
        with wire:
            assert wire.receive() == [name.encode()] * env.shard_count


@pytest.mark.lopsided
@pytest.mark.parametrize("mode", ["sync", "async", "async_local"])
def test_a_hook_goes_on_after_an_await(env, mode):
    env.register(
        f"""{ASLEEP}
async def work(r):
    await later(1)
    reply = call_next(*r[1:], 'more', 'yes')
    await later(1)
    return reply
{TRIGGER}.map(work).register(hook='hset', mode='{mode}', convertToStr=False)
"""
    )
    assert env.call("HSET", "h", "f", "v") == 2
    assert env.client.hgetall("h") == {"f": "v", "more": "yes"}
    wires = [begin(env.server, "HSET", f"h{i}", "f", i) for i in range(20)]
    for wire in wires:
        with wire:
            assert wire.receive() == 2
    assert env.client.hget("h7", "f") == "7"


@pytest.mark.lopsided
@pytest.mark.parametrize("mode", ["sync", "async", "async_local"])
def test_what_belongs_to_the_command_after_an_await(env, mode):
    """Many commands at once; each has its own reply."""
    env.register(
        f"""{ASLEEP}
async def work(r):
    await later(1)
    words = get_command()
    await later(1)
    override_reply([*words, r['key']])
    await later(1)
    try:
        override_reply(1)
    except Exception as error:
        assert 'Can only override reply once' in str(error), error
GB().foreach(work).register('*', eventTypes=['keymiss'], commands=['get'], mode='{mode}')
"""
    )
    wires = [begin(env.server, "GET", f"k{i}") for i in range(30)]
    for i, wire in enumerate(wires):
        with wire:
            assert wire.receive() == [b"GET", f"k{i}".encode(), f"k{i}".encode()]
    assert env.settled()["numFailures"] == 0


@pytest.mark.lopsided
def test_the_command_in_other_threads_of_a_coroutine(env):
    env.register(
        """
        import asyncio
        async def work(r):
            words = await asyncio.to_thread(get_command)
            await asyncio.to_thread(override_reply, words)
        GB().foreach(work).register('*', eventTypes=['keymiss'], commands=['get'], mode='sync')
        """
    )
    assert env.call("GET", "k") == [b"GET", b"k"]


@pytest.mark.lopsided
def test_override_a_reply_when_the_command_is_over(env):
    """A coroutine of its own may come too late; it is told, or nothing happens."""
    env.register(
        """
        import asyncio
        async def too_late():
            while execute('get', 'go') is None:
                await asyncio.sleep(0.002)
            try:
                override_reply('late')
                execute('set', 'said', 'nothing')
            except Exception as error:
                execute('set', 'said', str(error))
        GB().foreach(lambda r: runCoroutine(too_late())) \\
            .register('k*', eventTypes=['keymiss'], commands=['get'], mode='async_local')
        """
    )
    assert env.call("GET", "k") is None
    env.client.set("go", 1)
    wait_until(lambda: env.client.get("said"))


@pytest.mark.parametrize("unregister", [True, False])
def test_a_coroutine_outlives_its_session(env, unregister):
    """It has the names of its script until it ends."""
    env.register(
        f"""{ASLEEP}
name = 'global'
async def work():
    await wait_for()
    results, errors = await GB('ShardsIDReader').map(lambda x: name).run()
    execute('set', 'out{{%s}}' % hashtag(), str([name, *results]))
runCoroutine(work())
if {unregister}:
    {TRIGGER}.register(trigger='t', mode='sync')
"""
    )
    shard = env.shards[0]
    wait_until(env.held)
    if unregister:
        env.unregister(env.identifier())
    env.execute("import gc; gc.collect()")
    env.go()
    out = wait_until(lambda: shard.client.get(shard.key("out")))
    assert out == str(["global"] * (env.shard_count + 1))


def test_a_coroutine_registers(env):
    env.register(
        f"""{ASLEEP}
async def work(r):
    await later(1)
    return {TRIGGER}.map(lambda r: 'inner').register(trigger='inner', mode='sync')
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    (identifier,) = env.trigger("t")
    assert env.trigger("inner") == ["inner"]
    assert env.registration(identifier)["reader"] == "CommandReader"


def test_a_coroutine_that_was_awaited_already(env):
    results, errors = env.run(
        f"""{ASLEEP}
made = []
def work(x):
    if not made:
        made.append(later(x))
    return made[0]
{one_shard([1, 2])}.map(work).run()
"""
    )
    (error,) = errors
    assert results == ["1"]
    assert "await" in error


@pytest.mark.single("a time event is of its server")
def test_a_coroutine_starts_a_time_event(new_env):
    env = new_env()
    env.execute(
        f"""{ASLEEP}
async def work():
    await later(1)
    registerTE(1, lambda: execute('incr', 'n'))
runCoroutine(work())
"""
    )
    wait_until(lambda: env.client.get("n") == "2")
