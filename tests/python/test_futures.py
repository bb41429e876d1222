"""gearsFuture and createFuture: who continues them, when, and what is refused."""

import pytest
from env import one_shard
from later import ASLEEP, KEEP, SOON, begin, release
from server import wait_until

TRIGGER = "GB('CommandReader')"


def trigger(env, script, steps, mode="async_local"):
    env.register(f"{script}\n{TRIGGER}.{steps}.register(trigger='t', mode='{mode}')")


# ------------------------------------------------------------------------------------ gearsFuture


STEPS = {
    "map(lambda x: soon(x + 1))": ["2", "1", "3"],
    "filter(lambda x: soon(x))": ["1", "2"],
    "foreach(lambda x: soon(7))": ["1", "0", "2"],
    "flatmap(lambda x: soon([x, 5]))": ["5", "1", "5", "0", "5", "2"],
    "flatmap(lambda x: soon((x, 5)))": ["(1, 5)", "(0, 5)", "(2, 5)"],
    "accumulate(lambda a, r: soon((a or 0) + r))": ["3"],
    "localgroupby(lambda x: 'k', lambda k, a, r: soon((a or 0) + r))": ["{'key': 'k', 'value': 3}"],
    "groupby(lambda x: 'k', lambda k, a, r: soon((a or 0) + r))": ["{'key': 'k', 'value': 3}"],
    "aggregate(0, lambda a, r: soon(a + r), lambda a, r: soon(a + r))": ["3"],
}


@pytest.mark.parametrize("step", STEPS)
def test_steps(env, step):
    assert env.results(f"{SOON}{one_shard([1, 0, 2])}.{step}.run()") == STEPS[step]


@pytest.mark.parametrize(
    "step",
    [
        "map(lambda x: fails_soon('no'))",
        "filter(lambda x: fails_soon('no'))",
        "foreach(lambda x: fails_soon('no'))",
        "flatmap(lambda x: fails_soon('no'))",
        "accumulate(lambda a, r: fails_soon('no'))",
        "localgroupby(lambda x: 'k', lambda k, a, r: fails_soon('no'))",
    ],
)
def test_steps_that_fail(env, step):
    results, errors = env.run(f"{SOON}{one_shard([1])}.{step}.run()")
    assert (results, errors) == ([], ["no"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("'text'", "text"),
        ("5", "5"),
        ("None", "None"),
        ("Exception('an exception')", "an exception"),
        ("[1]", "[1]"),
        ("b'x'", "b'x'"),
    ],
)
def test_what_a_future_fails_with(env, given, text):
    assert env.errors(f"{SOON}{one_shard([1])}.map(lambda x: fails_soon({given})).run()") == [text]


ATTEMPT = """
import gc, threading
futures, said = [], []
def attempt(code):
    try:
        return repr(eval(code))
    except Exception as error:
        return str(error)
GB('CommandReader').map(lambda r: attempt(r[1])).register(trigger='attempt', mode='sync')
"""
"""A trigger that tries something, such as with the futures that steps have made."""

EARLY = "Can not handle future untill it returned from the callback"
TWICE = "Can not continue with the same future twice"
ARITY = "Continue function expect an object"


@pytest.fixture
def attempt(env):
    def attempt(code):
        (result,) = env.trigger("attempt", code)
        return result

    return attempt


KEPT = """
def work(r):
    futures.append(gearsFuture())
    return futures[-1]
"""


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize("method", ["continueRun", "continueFailed"])
def test_continue(env, attempt, method, mode):
    trigger(env, ATTEMPT + KEPT, "map(work)", mode)
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(lambda: attempt("len(futures)") == "1")
        assert attempt(f"futures[0].{method}()") == ARITY
        assert attempt(f"futures[0].{method}(1, 2)") == ARITY
        wait_until(lambda: attempt(f"futures[0].{method}('x')") != EARLY)
        for again in ("continueRun", "continueFailed"):
            assert attempt(f"futures[0].{again}('y')") == TWICE
        reply = wire.receive()
        assert reply == ([b"x"] if method == "continueRun" else "x")
    assert attempt("futures[0].continueRun(1)") == TWICE


def test_before_it_is_returned(env):
    """As often as somebody tries; it can be continued all the same when it is returned."""
    trigger(
        env,
        f"""{ATTEMPT}{SOON}
def work(r):
    future = gearsFuture()
    futures.append(future)
    for call in ('continueRun(1)', 'continueFailed(1)', 'continueRun()'):
        said.append(attempt('futures[-1].' + call))
    threading.Thread(target=tell, args=(future, 'continueRun', said)).start()
    return future
""",
        "map(work)",
    )
    assert env.trigger("t") == [str([EARLY, EARLY, ARITY])]


def test_twice_in_a_step(env):
    """The first one still counts."""
    results = env.results(
        f"""{SOON}
def work(r):
    future = soon(r)
    try:
        gearsFuture()
    except Exception as error:
        assert 'Can not create async record twice on the same step' in str(error), error
    else:
        assert False
    return future
{one_shard([1, 2])}.map(work).run()
"""
    )
    assert results == ["1", "2"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("gearsFuture(1)", "Future gets no arguments"),
        ("gearsFuture(1, 2)", "Future gets no arguments"),
        ("(gearsFuture(), gearsFuture())", "Can not create async record twice on the same step"),
    ],
)
def test_making_one(env, call, text):
    (error,) = env.errors(f"{one_shard([1])}.map(lambda x: {call}).run()")
    assert text in error


OUTSIDE = "Future object can only be created inside certain execution steps"


def test_outside_of_steps(env):
    assert OUTSIDE in env.refused("gearsFuture()")


def test_in_a_reader(env):
    errors = env.errors("GB('PythonReader').run(lambda: (gearsFuture() for x in range(2)))")
    assert ["Step does not support async" in error for error in errors] == [True] * env.shard_count


def test_in_a_coroutine(env):
    (error,) = env.errors(
        f"""
        async def work(r):
            gearsFuture()
        {one_shard([1])}.map(work).run()
        """
    )
    assert error == OUTSIDE


def test_in_another_thread(env):
    assert env.results(
        f"""
        import threading
        said = []
        def make():
            try:
                gearsFuture()
            except Exception as error:
                said.append(str(error))
        def work(r):
            thread = threading.Thread(target=make)
            thread.start()
            thread.join()
            return said[0]
        {one_shard([1])}.map(work).run()
        """
    ) == [OUTSIDE]


def test_while_registering(env):
    offset = env.server.log_size()
    env.register("GB().register('k*', onRegistered=lambda: gearsFuture())")
    assert OUTSIDE in env.server.log(offset)


@pytest.mark.parametrize(
    "step",
    [
        "repartition(lambda x: gearsFuture())",
        "groupby(lambda x: gearsFuture(), lambda k, a, r: 1)",
        "localgroupby(lambda x: gearsFuture(), lambda k, a, r: 1)",
        "batchgroupby(lambda x: gearsFuture(), lambda k, r: 1)",
        "batchgroupby(lambda x: 'k', lambda k, r: gearsFuture())",
    ],
)
def test_steps_that_make_none(env, step):
    (error,) = env.errors(f"{one_shard([1])}.{step}.run()")
    assert "Step does not support async" in error


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize(
    "step",
    [
        "map(lambda r: gearsFuture())",
        "filter(lambda r: gearsFuture())",
        "foreach(lambda r: gearsFuture())",
        "flatmap(lambda r: gearsFuture())",
        "accumulate(lambda a, r: gearsFuture())",
        "localgroupby(lambda r: 'k', lambda k, a, r: gearsFuture())",
    ],
)
def test_dropped(env, step, mode):
    trigger(env, "", step, mode)
    assert env.error("RG.TRIGGER", "t") == "Async record did not called continue"
    assert env.settled()["numFailures"] == 1


def test_dropped_later(env, attempt):
    trigger(env, ATTEMPT + KEPT, "map(work)")
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(lambda: attempt("len(futures)") == "1")
        wait_until(lambda: "running" in env.shards[0].executions().values())
        assert attempt("futures.clear()") == "None"
        attempt("gc.collect()")
        assert wire.receive() == "Async record did not called continue"


DISCARDED = {
    "map": (["7"] * 3, []),
    "filter": (["1", "0", "2"], []),
    "foreach": (["1", "0", "2"], []),
    "flatmap": (["7"] * 3, []),
    "accumulate": (["None"], []),
    "localgroupby": (["{'key': 'k', 'value': None}"], []),
    "groupby": (["{'key': 'k', 'value': None}"], []),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", DISCARDED)
def test_discarded(env, step, late):
    """What is returned counts, not the future, whatever becomes of that."""
    make = "soon(5)" if late else "gearsFuture()"
    key = "lambda x: 'k', " if "groupby" in step else ""
    script = f"""{SOON}
def work(*args):
    {make}
    return 7
{one_shard([1, 0, 2])}.{step}({key}work).run()
"""
    assert env.run(script) == DISCARDED[step]


@pytest.mark.parametrize("step", ["map", "filter", "foreach", "flatmap", "accumulate"])
def test_discarded_for_a_coroutine(env, step):
    results, errors = env.run(
        f"""{ASLEEP}
def work(*args):
    gearsFuture()
    return later(7)
{one_shard([1])}.{step}(work).run()
"""
    )
    value = {"filter": "1", "foreach": "1", "accumulate": "None"}.get(step, "7")
    assert (results, errors) == ([value], [])


@pytest.mark.parametrize("step", ["map", "filter", "foreach", "flatmap"])
def test_a_future_of_another_record(env, step):
    """One that is returned a second time is not the future of that record."""
    results, errors = env.run(
        f"""{SOON}
first = []
def work(x):
    if not first:
        first.append(soon(x))
    return first[0]
{one_shard([1, 2])}.{step}(work).map(lambda x: type(x).__name__).run()
"""
    )
    other = "int" if step in ("filter", "foreach") else "Future"
    assert (results, errors) == (["int", other], [])


def test_continued_with_anything(env):
    values = ["None", "[1, 2]", "{'a': 1}", "b'x'", "(1,)", "print", "5"]
    for value in values:
        (result,) = env.results(f"{SOON}{one_shard([1])}.map(lambda x: soon({value})).run()")
        assert result == str(eval(value))


def test_continued_with_a_coroutine_or_a_future(env):
    """That is its value then, which nobody waits for."""
    results = env.results(
        f"""{SOON}
async def nobody():
    pass
def work(x):
    value = nobody()
    value.close()
    return soon(value)
{one_shard([1])}.map(work).map(lambda x: type(x).__name__).run()
"""
    )
    assert results == ["coroutine"]


@pytest.mark.parametrize("method", ["continueRun", "continueFailed"])
def test_continued_after_the_execution_was_aborted(env, attempt, method):
    trigger(env, ATTEMPT + KEPT, "map(work)")
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(lambda: attempt("len(futures)") == "1")
        wait_until(lambda: "running" in env.shards[0].executions().values())
        (identifier,) = env.shards[0].executions()
        env.call("RG.ABORTEXECUTION", identifier)
        wire.receive()
    assert attempt(f"futures[0].{method}('x')") == "None"
    assert attempt(f"futures[0].{method}('x')") == TWICE
    assert env.settled(env.registrations()[-1]["id"])["numAborted"] == 1


def test_a_future_within_a_future(env):
    """A callback that runs a hook, which makes a future of its own, or may not."""
    trigger(
        env,
        f"""{SOON}
def outer(r):
    future = gearsFuture()
    try:
        execute('RG.TRIGGER', 'inner')
    except Exception as error:
        assert 'Creating async record is not allowed' in str(error), error
    threading.Thread(target=tell, args=(future, 'continueRun', 'outer')).start()
    return future
{TRIGGER}.map(lambda r: gearsFuture()).register(trigger='inner', mode='sync')
""",
        "map(outer)",
        "sync",
    )
    assert env.trigger("t") == ["outer"]


def test_continued_by_a_later_record(env):
    """The first record waits for the last one, which comes after it in the same step."""
    assert env.results(
        f"""
import threading
held = []
def work(x):
    future = gearsFuture()
    held.append((future, x))
    if x == 9:
        threading.Thread(target=tell).start()
    return future
def tell():
    while held:
        try:
            held[-1][0].continueRun(held[-1][1])
        except Exception as error:
            assert 'untill' in str(error), error
        else:
            held.pop()
{one_shard(list(range(10)))}.map(work).run()
"""
    ) == [str(i) for i in range(10)]


# --------------------------------------------------------- createFuture and setFutureResults


def test_futures_to_await(env):
    assert env.results(
        f"""
        import threading
        async def work(r):
            future = createFuture()
            assert isinstance(future, GearsFuture)
            threading.Thread(target=setFutureResults, args=(future, r * 2)).start()
            return await future
        {one_shard(list(range(50)))}.map(work).run()
        """
    ) == [str(2 * i) for i in range(50)]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("ValueError('an error')", "an error"),
        ("'text'", "text"),
        ("5", "5"),
        ("None", "None"),
        ("KeyboardInterrupt('no')", "no"),
        ("asyncio.CancelledError('no')", "no"),
        ("StopIteration('no')", "no"),
        ("ValueError", "<class 'ValueError'>"),
    ],
)
def test_futures_that_fail(env, given, text):
    (error,) = env.errors(
        f"""
        import asyncio, threading
        async def work(r):
            future = createFuture()
            threading.Thread(target=setFutureException, args=(future, {given})).start()
            await asyncio.wait_for(future, 20)
        {one_shard([1])}.map(work).run()
        """
    )
    assert text in error


def test_the_first_outcome_counts(env):
    assert env.results(
        f"""
        import asyncio
        async def work(r):
            future = createFuture()
            setFutureResults(future, 1)
            setFutureResults(future, 2)
            setFutureException(future, 'no')
            await asyncio.sleep(0)
            setFutureResults(future, 3)
            return await future
        {one_shard([1])}.map(work).run()
        """
    ) == ["1"]


@pytest.mark.parametrize("call", ["setFutureResults({}, 1)", "setFutureException({}, 'x')"])
@pytest.mark.parametrize("value", ["None", "5", "'x'"])
def test_what_is_no_future(env, call, value):
    assert "a future is expected" in env.refused(call.format(value))


def test_futures_of_a_script(env):
    assert env.execute("future = createFuture()\nsetFutureResults(future, 1)") == "OK"


def test_futures_from_many_threads(env):
    assert (
        env.results(
            f"""
        import threading
        async def work(r):
            futures = [createFuture() for _ in range(20)]
            for i, future in enumerate(futures):
                threading.Thread(target=setFutureResults, args=(future, i)).start()
            return sum([await future for future in futures])
        {one_shard(list(range(20)))}.map(work).run()
        """
        )
        == ["190"] * 20
    )


# ------------------------------------------------------------------------------- runCoroutine


RUNS = """
import asyncio
async def note(text, fails=False):
    await asyncio.sleep(0)
    execute('rpush', 'log{%s}' % hashtag(), text)
    if fails:
        raise Exception('failed: ' + text)
    return text
"""


def log_of(env):
    return env.shards[0].client.lrange(env.shards[0].key("log"), 0, -1)


def test_run_coroutine_at_top_level(env):
    assert env.execute(f"{RUNS}runCoroutine(note('ran'))") == "OK"
    wait_until(lambda: log_of(env) == ["ran"])


def test_run_coroutine_in_a_step(env):
    trigger(env, RUNS, "foreach(lambda r: runCoroutine(note(r[1])))", "sync")
    assert env.trigger("t", "ran") == [str(["t", "ran"])]
    wait_until(lambda: log_of(env) == ["ran"])


def test_run_coroutine_from_a_coroutine(env):
    script = f"{RUNS}async def outer():\n    runCoroutine(note('ran'))\nrunCoroutine(outer())"
    assert env.execute(script) == "OK"
    wait_until(lambda: log_of(env) == ["ran"])


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize("delay", ["", "delay=0.01", "delay=0", "delay=None"])
def test_run_coroutine_for_a_future(env, mode, delay):
    trigger(
        env,
        f"""{RUNS}
def work(r):
    future = gearsFuture()
    runCoroutine(note(r[1], r[1] == 'bad'), future, {delay})
    return future
""",
        "map(work)",
        mode,
    )
    assert env.trigger("t", "good") == ["good"]
    assert env.error("RG.TRIGGER", "t", "bad") == "failed: bad"


def test_delay(env):
    """Those that wait longer come later."""
    assert (
        env.execute(
            f"""{RUNS}
for delay, text in ((0.3, 'c'), (0.15, 'b'), (0, 'a')):
    runCoroutine(note(text), delay=delay)
"""
        )
        == "OK"
    )
    wait_until(lambda: len(log_of(env)) == 3)
    assert log_of(env) == ["a", "b", "c"]


def test_errors_without_a_future_are_logged(env):
    offset = env.server.log_size()
    env.execute(f"{RUNS}runCoroutine(note('x', fails=True))")
    wait_until(lambda: "failed: x" in env.server.log(offset))
    for error in ("SystemExit(1)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException('b')"):
        env.execute(f"async def f():\n    raise {error}\nrunCoroutine(f())")
    env.execute(f"{RUNS}runCoroutine(note('end'))")
    wait_until(lambda: log_of(env) == ["x", "end"])


def test_a_session_of_another_script(env):
    """`s` is the session that it runs in; the own one if that is not given."""
    assert env.results(
        f"""
        import asyncio
        async def inside():
            return getGearsSession() is not None
        def work(r):
            future = gearsFuture()
            session = getGearsSession()
            setGearsSession(None)
            try:
                runCoroutine(inside(), future, s=session)
            finally:
                setGearsSession(session)
            return future
        {one_shard([1])}.map(work).run()
        """
    ) == ["True"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("None", "runCoroutine takes a coroutine"),
        ("lambda: 1", "runCoroutine takes a coroutine"),
        ("later", "runCoroutine takes a coroutine"),
        ("later(1), f=1", "runCoroutine takes what gearsFuture returns"),
        ("later(1), f=createFuture()", "runCoroutine takes what gearsFuture returns"),
        ("later(1), s=1", "Given object is not of type GearsSession"),
    ],
)
def test_arguments_of_run_coroutine(env, arguments, text):
    assert text in env.refused(f"{ASLEEP}runCoroutine({arguments})")


@pytest.mark.parametrize("delay", ["'x'", "-1", "float('nan')", "10 ** 400", "object()"])
def test_a_delay_that_is_none(env, delay):
    """Refused, logged, or taken as nothing: but the loop goes on."""
    env.call("RG.PYEXECUTE", f"{RUNS}runCoroutine(note('odd'), delay={delay})")
    env.execute(f"{RUNS}runCoroutine(note('end'), delay=0.05)")
    wait_until(lambda: "end" in log_of(env))


def test_a_delay_that_is_no_number_is_in_nobodys_way(new_env):
    """Behind timers of others it would hold up all that come after it."""
    env = new_env()
    env.execute(f"{RUNS}[runCoroutine(note('later'), delay=3600 + i) for i in range(20)]")
    env.execute(f"{RUNS}[runCoroutine(note('odd'), delay=float('nan')) for _ in range(20)]")
    env.execute(f"{RUNS}[runCoroutine(note('end'), delay=0.05) for _ in range(9)]")
    wait_until(lambda: log_of(env).count("end") == 9)


def test_a_future_for_two_coroutines(env):
    trigger(
        env,
        f"""{RUNS}
def work(r):
    future = gearsFuture()
    runCoroutine(note('a'), future)
    runCoroutine(note('b'), future)
    return future
""",
        "map(work)",
    )
    assert env.trigger("t") == ["a"]
    wait_until(lambda: log_of(env) == ["a", "b"])


def test_release_of_many(env):
    """Futures of many executions, continued at once."""
    trigger(env, KEEP, "map(lambda r: keep(r[1]))")
    wires = [begin(env.server, "RG.TRIGGER", "t", i) for i in range(100)]
    release(env, 100)
    for i, wire in enumerate(wires):
        with wire:
            assert wire.receive() == [str(i).encode()]
    assert env.settled(env.registrations()[-1]["id"])["numSuccess"] == 100
