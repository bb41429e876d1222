"""SyncTimeLimit: a sync function that does not end is stopped, and the server goes on."""

import textwrap
import threading
import time

import pytest
from server import wait_until

pytestmark = pytest.mark.lopsided

LIMIT = 200
ROOM = 3.0
"""Seconds after the limit by which the server must answer again."""

ENDLESS = {
    "loop": """
        def work(x):
            while True: pass
        """,
    "swallow": """
        def work(x):
            while True:
                try:
                    pass
                except Exception:
                    pass
        """,
    "swallow within": """
        def work(x):
            while True:
                try:
                    while True: pass
                except Exception:
                    pass
        """,
    "swallow with work": """
        def work(x):
            n = 0
            while True:
                try:
                    n += sum(i for i in range(100))
                except Exception as error:
                    n = len(str(error))
        """,
    "computation": """
        def work(x):
            return sum(i * i % 7 for i in range(10 ** 11))
        """,
    "recursion": """
        def slow(n):
            return n if n < 2 else slow(n - 1) + slow(n - 2)
        def work(x):
            return slow(60)
        """,
    "commands": """
        def work(x):
            while True: execute('PING')
        """,
}

TRIGGER = "GB('CommandReader').map(work).register(trigger='work', mode='sync')"
KEYS = "GB().foreach(work).register('k:*', mode='sync', eventTypes=['set'])"
HOOK = "GB('CommandReader').map(work).register(hook='hget', mode='sync')"
STREAM = "GB('StreamReader').foreach(work).register('s', mode='sync')"


def script(body, *registers):
    return "\n".join([textwrap.dedent(body), *registers])


@pytest.fixture
def limited(env):
    """A server with the limit."""
    env.config("SyncTimeLimit", LIMIT)
    return env


def timed(call, *words):
    """(reply, seconds)"""
    start = time.monotonic()
    reply = call(*words)
    return reply, time.monotonic() - start


def in_time(seconds):
    assert LIMIT / 1000 <= seconds < LIMIT / 1000 + ROOM


def stopped(env):
    data = env.data()
    assert "forcestopped" in data["lastError"]
    assert (data["numTriggered"], data["numSuccess"], data["numFailures"]) == (1, 0, 1)


def goes_on(env):
    """Commands, functions and batches work as before."""
    assert env.client.ping()
    fine = "GB('CommandReader').map(lambda x: x[1]).register(trigger='fine', mode='sync')"
    env.register(fine)
    for i in range(100):
        assert env.trigger("fine", i) == [str(i)]
    assert env.still_runs()


@pytest.mark.parametrize("body", ENDLESS)
def test_a_trigger(limited, body):
    limited.register(script(ENDLESS[body], TRIGGER))
    error, seconds = timed(limited.error, "RG.TRIGGER", "work")
    assert "forcestopped" in error
    in_time(seconds)
    stopped(limited)
    goes_on(limited)


@pytest.mark.parametrize("body", ENDLESS)
def test_a_key_function(limited, body):
    """The writer gets its reply, and the write is done."""
    limited.register(script(ENDLESS[body], KEYS))
    reply, seconds = timed(limited.call, "SET", "k:1", "v")
    assert reply == "OK"
    in_time(seconds)
    stopped(limited)
    assert limited.client.get("k:1") == "v"
    goes_on(limited)


@pytest.mark.parametrize("body", ENDLESS)
def test_a_hook(limited, body):
    limited.client.hset("h", "f", "v")
    limited.register(script(ENDLESS[body], HOOK))
    error, seconds = timed(limited.error, "HGET", "h", "f")
    assert "forcestopped" in error
    in_time(seconds)
    stopped(limited)
    limited.unregister(limited.identifier())
    assert limited.client.hget("h", "f") == "v"
    goes_on(limited)


@pytest.mark.parametrize("body", ENDLESS)
def test_a_stream_function(limited, body):
    limited.client.xadd("other", {"f": "v"})
    limited.register(script(ENDLESS[body], STREAM))
    reply, seconds = timed(limited.call, "XADD", "s", "1-1", "f", "v")
    assert reply == b"1-1"
    # a new stream may be looked at in the background
    wait_until(lambda: limited.data()["numFailures"], what="the end of the function")
    assert seconds < LIMIT / 1000 + ROOM
    data = limited.data()
    assert "forcestopped" in data["lastError"]
    assert data["numFailures"] == 1
    goes_on(limited)


def test_off_by_default(new_env):
    env = new_env()
    assert env.client.execute_command("RG.CONFIGGET", "SyncTimeLimit") == [0]
    slow = """
        import time
        def work(x):
            end = time.monotonic() + 1.5
            while time.monotonic() < end: pass
            return 'done'
        """
    env.register(script(slow, TRIGGER))
    assert env.trigger("work") == ["done"]


def test_given_when_loading(new_env):
    env = new_env("SyncTimeLimit", LIMIT)
    assert env.client.execute_command("RG.CONFIGGET", "SyncTimeLimit") == [LIMIT]
    env.register(script(ENDLESS["loop"], TRIGGER))
    error, seconds = timed(env.error, "RG.TRIGGER", "work")
    assert "forcestopped" in error
    in_time(seconds)


def test_changed_while_functions_are_registered(env):
    """The limit that stands when the function starts is the one that counts."""
    slow = """
        import time
        def work(x):
            end = time.monotonic() + 0.6
            while time.monotonic() < end: pass
            return 'done'
        """
    env.register(script(slow, TRIGGER))
    for limit, ends in ((0, True), (100, False), (5000, True), (100, False), (0, True)):
        env.config("SyncTimeLimit", limit)
        if ends:
            assert env.trigger("work") == ["done"], limit
        else:
            assert "forcestopped" in env.error("RG.TRIGGER", "work"), limit


@pytest.mark.parametrize("value", ["-1", "soon", "1.5", ""])
def test_a_bad_value(env, value):
    (reply,) = env.call("RG.CONFIGSET", "SyncTimeLimit", value)
    assert "SyncTimeLimit" in reply
    assert not reply.startswith("OK")
    assert env.client.execute_command("RG.CONFIGGET", "SyncTimeLimit") == [0]


def test_many_fast_functions_are_not_hit(limited):
    """Together they take much longer than the limit."""
    busy = """
        import time
        def work(x):
            end = time.monotonic() + 0.005
            while time.monotonic() < end: pass
            return 'done'
        """
    limited.register(script(busy, TRIGGER, KEYS))
    for i in range(300):
        assert limited.trigger("work") == ["done"]
        assert limited.client.set(f"k:{i % 10}", i)
    pipe = limited.client.pipeline(transaction=False)
    for _ in range(200):
        pipe.execute_command("RG.TRIGGER", "work")
    assert pipe.execute() == [["done"]] * 200
    for data in (entry["RegistrationData"] for entry in limited.registrations()):
        assert data["lastError"] is None
        assert data["numSuccess"] == data["numTriggered"] >= 300


def test_functions_about_as_long_as_the_limit(env):
    """The blow that comes too late must not hit the next function."""
    around = """
        import time
        def work(x):
            end = time.monotonic() + float(x[1])
            while time.monotonic() < end: pass
            return 'done'
        """
    fine = "GB('CommandReader').map(lambda x: sum(range(50))).register(trigger='fine', mode='sync')"
    env.register(script(around, TRIGGER, fine))
    # Long enough that a busy machine does not keep the short function waiting so long.
    env.config("SyncTimeLimit", 100)
    outcomes = set()
    with env.server.wire() as wire:
        for i in range(100):
            wire.send("RG.TRIGGER", "work", 0.097 + i % 40 * 0.0001)
            for _ in range(20):
                wire.send("RG.TRIGGER", "fine")
            reply = wire.receive()
            outcomes.add("done" if reply == [b"done"] else str(reply))
            for _ in range(20):
                assert wire.receive() == [b"1225"]
    assert all(o == "done" or "forcestopped" in o for o in outcomes)
    assert "done" in outcomes


def test_functions_in_the_background_have_no_limit(limited):
    slow = """
        import time
        def work(x):
            end = time.monotonic() + 1
            while time.monotonic() < end: pass
            return 'done'
        """
    background = TRIGGER.replace("'sync'", "'async_local'")
    limited.register(script(slow, background))
    assert limited.trigger("work") == ["done"]
    run = "GB('ShardsIDReader').map(work).run()"
    assert limited.results(script(slow, run)) == ["done"] * limited.shard_count


def test_a_key_function_that_a_batch_sets_off(limited):
    """It runs on a worker that holds the server; the batch goes on after it."""
    limited.register(script(ENDLESS["loop"], KEYS))
    write = "GB('ShardsIDReader').map(lambda x: execute('SET', 'k:1', 'v'))"
    batch = f"{write}.run(mode='async_local')"
    results, seconds = timed(limited.results, batch)
    assert results == ["OK"]
    in_time(seconds)
    stopped(limited)
    goes_on(limited)


def test_a_trigger_within_a_script(limited):
    """A function called from Lua and from MULTI is stopped too."""
    limited.register(script(ENDLESS["loop"], TRIGGER))
    lua = "local r = redis.pcall('RG.TRIGGER', 'work') return r.err"
    (error, seconds) = timed(limited.client.eval, lua, 0)
    assert "forcestopped" in error
    in_time(seconds)
    pipe = limited.client.pipeline(transaction=True)
    pipe.execute_command("RG.TRIGGER", "work")
    pipe.set("after", 1)
    first, second = pipe.execute(raise_on_error=False)
    assert "forcestopped" in str(first)
    assert second
    goes_on(limited)


def test_while_a_batch_computes(limited):
    """The limit counts although another thread has Python most of the time."""
    running = limited.start(
        "def f(x):\n    while True: pass\nGB('ShardsIDReader').foreach(f).run()"
    )
    try:
        limited.register(script(ENDLESS["loop"], TRIGGER))
        for _ in range(3):
            error, seconds = timed(limited.error, "RG.TRIGGER", "work")
            assert "forcestopped" in error
            in_time(seconds)
        assert limited.status(running) == "running"
    finally:
        limited.abort(running)


def test_others_are_served_after_the_stop(limited):
    """Clients that waited meanwhile get their replies."""
    limited.register(script(ENDLESS["loop"], TRIGGER))
    replies = []

    def ping():
        with limited.server.wire() as wire:
            replies.append(wire.call("PING"))

    with limited.server.wire() as wire:
        wire.send("RG.TRIGGER", "work")
        threads = [threading.Thread(target=ping) for _ in range(10)]
        for thread in threads:
            thread.start()
        assert "forcestopped" in wire.receive()
        for thread in threads:
            thread.join(10)
    assert replies == ["PONG"] * 10


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_an_atomic_block_that_does_not_end(new_env, mode):
    """The server waits for it as for a sync function."""
    env = new_env("SyncTimeLimit", LIMIT)
    env.register(
        f"""
        def work(x):
            with atomic():
                execute('set', 'in', 1)
                while True: pass
        GB('CommandReader').map(work).register(trigger='work', mode='{mode}')
        """
    )
    assert "gears.forcestopped" in env.error("RG.TRIGGER", "work")
    assert env.client.get("in") == "1"
    env.register(
        """
        import time
        def short(x):
            with atomic(): execute('incr', 'n')
            time.sleep(0.5)
            with atomic(): execute('incr', 'n')
            return isInAtomicBlock()
        GB('CommandReader').map(short).register(trigger='short')
        """
    )
    assert env.trigger("short") == ["False"]
    assert env.client.get("n") == "2"
