"""What many executions that wait, and coroutines that do as they like, mean for the server."""

import pathlib
import signal
import threading
import time

import pytest
from later import ASLEEP, KEEP, begin, release
from server import wait_until
from wire import Error, Simple

TRIGGER = "GB('CommandReader')"
MANY = 10_000


def used(env):
    env.execute("import gc; gc.collect()")
    return env.client.info("memory")["used_memory"]


def blocks(env):
    """Objects of Python, about."""
    count = "map(lambda x: sys.getallocatedblocks())"
    script = f"import gc, sys; gc.collect(); GB('ShardsIDReader').{count}.run()"
    return int(env.results(script)[0])


def threads(server):
    return len(list(pathlib.Path(f"/proc/{server.pid}/task").iterdir()))


def waiting(env):
    return list(env.shards[0].executions().values()).count("running")


def hold_many(env, count, round_=0):
    """So many executions of a Keys registration that wait."""
    with env.client.pipeline(transaction=False) as pipe:
        for i in range(count):
            pipe.set(f"k{round_}:{i}", i)
        pipe.execute()
    wait_until(lambda: waiting(env) == count, timeout=60)


@pytest.mark.single("so many executions of one server")
@pytest.mark.parametrize("how", ["coroutines", "futures"])
def test_ten_thousand_executions_wait(new_env, how):
    env = new_env("MaxExecutions", 0, "MaxExecutionsPerRegistration", 1)
    work = {
        "coroutines": "async def work(r):\n    await gate.wait()\n",
        "futures": "def work(r):\n    return keep(r)\n",
    }[how]
    env.register(
        f"""{KEEP}
import asyncio
gate = None
{work}
async def open_gate(r):
    gate.set()
async def new_gate(r):
    global gate
    gate = asyncio.Event()
GB().foreach(work).register('k*', mode='async_local', eventTypes=['set'])
{TRIGGER}.foreach(new_gate).register(trigger='new', mode='async_local')
{TRIGGER}.foreach(open_gate).register(trigger='open', mode='async_local')
{TRIGGER}.map(lambda r: 'sync').register(trigger='sync', mode='sync')
{TRIGGER}.map(lambda r: 'pool').register(trigger='pool', mode='async_local')
"""
    )
    keys = env.registrations()[1]["id"]

    def round_trip(number):
        env.trigger("new")
        before = threads(env.server)
        hold_many(env, MANY, number)
        assert threads(env.server) <= before + 4
        for _ in range(20):
            assert env.call("PING") == Simple("PONG")
            assert env.call("GET", f"k{number}:7") == b"7"
            assert env.trigger("sync") == ["sync"]
            assert env.trigger("pool") == ["pool"]
        assert env.results("GB().count().run()") == [str(MANY)]
        if how == "futures":
            release(env, MANY)
        else:
            env.trigger("open")
        wait_until(lambda: waiting(env) == 0, timeout=60)
        env.client.flushall()

    round_trip(0)
    first, objects = used(env), blocks(env)
    round_trip(1)
    assert env.settled(keys)["numSuccess"] == 2 * MANY
    wait_until(lambda: blocks(env) - objects < MANY / 2, what="objects given back")
    # The allocator of Python keeps a page for as long as there is one object on it.
    wait_until(lambda: used(env) - first < 12 << 20, what="memory given back")


@pytest.mark.parametrize(
    "script",
    [
        f"{ASLEEP}GB().map(later).run()",
        f"{ASLEEP}GB().flatmap(lambda r: later([r] * 5)).filter(later).count().run()",
        "GB().map(lambda r: gearsFuture()).run()",
        "def work(r):\n    gearsFuture()\n    return r\nGB().map(work).run()",
        "async def work(r):\n    nope\nGB().map(work).run()",
        """
async def work(r):
    return await GB('ShardsIDReader').run()
GB().map(work).run()
""",
        """
async def work(r):
    GB('ShardsIDReader').run()
GB().map(work).run()
""",
        "future = createFuture()",
        "async def never(): await createFuture()\nrunCoroutine(never())",
        "future = GB('ShardsIDReader').run()",
        "async def wait(): await future\nrunCoroutine(wait())\nfuture = GB('ShardsIDReader').run()",
    ],
)
def test_nothing_grows(env, script):
    env.client.mset({f"key:{i}": "value" for i in range(5)})

    def run(count):
        with env.client.pipeline(transaction=False) as pipe:
            for _ in range(count):
                pipe.execute_command("RG.PYEXECUTE", script)
            pipe.execute(raise_on_error=False)

    run(300)
    before = used(env)
    run(900)
    wait_until(lambda: used(env) - before < 1 << 20, what="memory given back")


def test_a_session_that_waits_and_goes(env):
    """What a waiting execution holds goes with it when it is aborted."""
    script = f"""{ASLEEP}
big = 'x' * 1000000
async def work(r):
    await wait_for()
    return len(big)
GB('ShardsIDReader').map(work).run()
"""

    def round_trip():
        wires = [begin(env.server, "RG.PYEXECUTE", script) for _ in range(10)]
        wait_until(lambda: waiting(env) == 10)
        for identifier in env.executions():
            env.call("RG.ABORTEXECUTION", identifier)
        for wire in wires:
            with wire:
                assert wire.receive() == [[], []]
        wait_until(lambda: env.executions() == {})

    round_trip()
    before = used(env)
    for _ in range(3):
        round_trip()
    wait_until(lambda: used(env) - before < 2 << 20, what="memory given back")


# ------------------------------------------------------------------------------- called off


def begin_and_abort(env, script):
    """Runs a function, aborts it as soon as all shards are at it."""
    with begin(env.server, "RG.PYEXECUTE", script) as wire:
        wait_until(env.all_held)
        running = [i for i, status in env.executions().items() if status == "running"]
        first = min(running, key=lambda i: int(i.split("-")[1]))
        assert env.call("RG.ABORTEXECUTION", first) == Simple("OK")
        wire.receive()


WAITS = {
    "asleep": "await asyncio.sleep(3600)",
    "future": "await createFuture()",
    "run": "await GB('ShardsIDReader').foreach(keep).run(mode='async_local')",
    "busy": "while True: await asyncio.sleep(0)",
    "children": "await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))",
    "never gives way": "while True: sum(i for i in range(100_000))",
    "a child never gives way": "await asyncio.create_task(endless())",
    "shielded": "await asyncio.shield(asyncio.sleep(3600))",
}


@pytest.mark.parametrize("step", ["map(work)", "foreach(lambda r: runs(r))"])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_coroutines_of_what_is_aborted_end(env, wait, step):
    """Where they wait, or in what they are at; others go on."""
    begin_and_abort(
        env,
        f"""{ASLEEP}{KEEP}
async def endless():
    while True: pass
async def work(r):
    try:
        execute('set', 'held{{%s}}' % hashtag(), 1)
        {wait}
    except BaseException as error:
        execute('set', 'ended{{%s}}' % hashtag(), type(error).__name__)
        raise
def runs(r):
    future = gearsFuture()
    runCoroutine(work(r), future)
    return future
GB('ShardsIDReader').{step}.run()
""",
    )
    wanted = {"CancelledError"}
    if "while" in wait or "endless" in wait:
        wanted = {"forcestopped", "CancelledError"}

    def ends():
        return set(env.each(lambda shard: shard.client.get(shard.key("ended"))))

    wait_until(lambda: None not in ends())
    assert ends() <= wanted
    others = f"{ASLEEP}\nGB('ShardsIDReader').map(later).count().run()"
    assert env.results(others) == [str(env.shard_count)]


def test_who_catches_an_interrupt_gets_another(env):
    begin_and_abort(
        env,
        """
async def work(r):
    execute('set', 'held{%s}' % hashtag(), 1)
    for _ in range(3):
        try:
            while True: sum(i for i in range(100_000))
        except Exception:
            execute('incr', 'caught{%s}' % hashtag())
GB('ShardsIDReader').map(work).run()
""",
    )

    def caught():
        return env.each(lambda shard: shard.client.get(shard.key("caught")))

    wait_until(lambda: caught() == ["3"] * env.shard_count)
    script = "async def work(r): return r\nGB('ShardsIDReader').map(work).run()"
    assert sorted(env.results(script)) == env.ids


def test_what_a_coroutine_started_beside_the_step_goes_on(env):
    begin_and_abort(
        env,
        f"""{ASLEEP}
async def beside():
    await wait_for()
    execute('set', 'ended{{%s}}' % hashtag(), 1)
async def work(r):
    runCoroutine(beside())
    await asyncio.sleep(3600)
GB('ShardsIDReader').map(work).run()
""",
    )
    env.go()
    wait_until(lambda: all(env.each(lambda shard: shard.client.get(shard.key("ended")))))


# ------------------------------------------------------------------------------------- the end


ENDLESS = {
    "asleep": "await asyncio.sleep(3600)",
    "never": "await asyncio.Event().wait()",
    "busy": "while True: await asyncio.sleep(0)",
    "commands": "while True:\n        execute('incr', 'n')\n        await asyncio.sleep(0)",
    "stubborn": """
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:
            pass""",
    "spins": "while True: pass",
    "spins on commands": "while True: execute('incr', 'n')",
    "blocks": "time.sleep(3600)",
    "a thread": "await asyncio.to_thread(time.sleep, 3600)",
    "a run": "await GB('PythonReader').run(endless)",
    "a lock": "threading.Event().wait()",
    "an atomic block": """
    while True:
        with atomic():
            execute('incr', 'n')
        await asyncio.sleep(0)""",
}


@pytest.mark.parametrize("how", ENDLESS)
def test_shutdown(new_env, how):
    env = new_env()
    env.register(
        f"""{ASLEEP}
import time, threading
def endless():
    while True:
        yield 1
async def work(r):
    execute('set', 'begun', 1)
    {ENDLESS[how]}
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t"):
        wait_until(lambda: env.client.get("begun"))
        begun = time.monotonic()
        env.close()
        assert env.server.stop() == 0
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "how", ["asleep", "busy", "commands", "spins", "blocks", "an atomic block"]
)
def test_the_server_goes_on(new_env, how):
    """Whatever a coroutine does; saving and rewriting are done by children of the process."""
    env = new_env(options=["--appendonly", "yes"])
    env.register(
        f"""{ASLEEP}
import time, threading
async def work(r):
    execute('set', 'begun', 1)
    {ENDLESS[how]}
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
{TRIGGER}.map(lambda r: 'sync').register(trigger='sync', mode='sync')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t"):
        wait_until(lambda: env.client.get("begun"))
        for command in ("BGSAVE", "BGREWRITEAOF"):
            wait_until(env.aof_is_written)
            assert isinstance(env.call(command), Simple)
            wait_until(lambda: not env.client.info("persistence")["rdb_bgsave_in_progress"])
            wait_until(env.aof_is_written)
        info = env.client.info("persistence")
        assert info["rdb_last_bgsave_status"] == info["aof_last_bgrewrite_status"] == "ok"
        assert env.client.save()
        env.reload()
        assert env.trigger("sync") == ["sync"]
        env.client.flushall()
        assert env.still_runs()


@pytest.mark.parametrize(
    "call",
    [
        "loop.stop()",
        "loop.close()",
        "loop.call_soon(lambda: 1 / 0)",
        "loop.call_soon(exit)",
        "loop.call_soon_threadsafe(loop.stop)",
        "asyncio.get_running_loop().stop()",
        "[t.cancel() for t in asyncio.all_tasks()]",
        "loop.set_exception_handler(None)",
        "loop.set_debug(True)",
        "loop.set_default_executor(None)",
        "asyncio.set_event_loop(None)",
        "loop.set_task_factory(None)",
        "loop.shutdown_default_executor()",
        "asyncio.current_task().cancel()",
        "asyncio.run(later(1))",
        "loop.run_until_complete(later(1))",
        "loop.run_forever()",
        "raise_(SystemExit(1))",
        "raise_(KeyboardInterrupt())",
        "sys.setrecursionlimit(60)",
        "recurse()",
        "signal.set_wakeup_fd(-1)",
        "_thread.interrupt_main()",
        "gc.collect()",
        "sys.exit(1)",
    ],
)
def test_what_a_script_does_to_the_loop(new_env, call):
    """It is all scripts' loop: other coroutines go on."""
    env = new_env()
    env.call(
        "RG.PYEXECUTE",
        f"""{ASLEEP}
import sys, signal, _thread, gc
def raise_(error):
    raise error
def recurse():
    return recurse()
async def work(r):
    {call}
GB('ShardsIDReader').map(work).run()
""",
    )
    script = f"{ASLEEP}GB('ShardsIDReader').map(later).run()"
    assert env.results(script) == ["1"]
    (error,) = env.errors(
        f"""{ASLEEP}
async def work(r):
    with atomic():
        await later(1)
GB('ShardsIDReader').map(work).run()
"""
    )
    assert error == "await is not allow inside atomic block"


def test_reload_while_executions_wait(new_env):
    env = new_env(options=["--appendonly", "yes"])
    env.register(
        f"""{KEEP}
GB().foreach(lambda r: keep(r)).register('k*', mode='async_local', eventTypes=['set'])
{TRIGGER}.map(lambda r: keep(r)).register(trigger='t', mode='async_local')
"""
    )
    env.client.set("k1", 1)
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(lambda: waiting(env) == 2)
        env.reload()
        # Another session is loaded in the place of the one that made the futures.
        assert len(env.registrations()) == 3
        wire.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        for identifier in env.executions():
            env.call("RG.ABORTEXECUTION", identifier)
        wire.socket.settimeout(60)
        wire.receive()
    env.client.set("k2", 1)
    wait_until(lambda: waiting(env) == 1)
    release(env)
    wait_until(lambda: waiting(env) == 0)


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
def test_flush_while_executions_wait(env, command):
    env.register(
        f"""{KEEP}
GB().foreach(lambda r: keep(r)).register('k*', mode='sync', eventTypes=['set'])
GB('StreamReader').foreach(lambda r: keep(r)).register('s*', mode='sync')
"""
    )
    env.client.set("k1", 1)
    env.add("s")
    wait_until(lambda: list(env.executions().values()).count("running") == 2)
    assert env.client.execute_command(command) in (True, "OK", b"OK")
    release(env, 2)
    wait_until(lambda: "running" not in env.executions().values())
    env.add("s")
    wait_until(lambda: list(env.executions().values()).count("running") == 1)
    release(env)
    wait_until(lambda: env.client.xlen("s") == 0)


def test_killed_while_executions_wait(durable):
    durable.register(f"{KEEP}{TRIGGER}.map(keep).register(trigger='t', mode='async_local')")
    wires = [begin(durable.server, "RG.TRIGGER", "t") for _ in range(50)]
    wait_until(lambda: waiting(durable) == 50)
    durable.crash()
    for wire in wires:
        wire.close()
    assert durable.executions() == {}
    with begin(durable.server, "RG.TRIGGER", "t", "x") as wire:
        release(durable)
        assert wire.receive() == [str(["t", "x"]).encode()]


def test_a_replica_with_coroutines(new_env):
    """Coroutines of a server that became a replica write no more."""
    master, replica = new_env(), new_env()
    master.register(
        f"""{ASLEEP}
async def work(r):
    await wait_for()
    execute('set', 'written', 1)
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(master.server, "RG.TRIGGER", "t") as wire:
        wait_until(master.held)
        replica.client.set("x", 1)
        replica.client.set(master.key("go"), 1)
        master.follow(replica)
        reply = wire.receive()
        assert isinstance(reply, Error)
    assert master.client.get("written") is None


def test_failover_while_executions_wait(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(
        f"{ASLEEP}async def work(r):\n    await wait_for()\n"
        f"{TRIGGER}.map(work).register(trigger='t', mode='async_local')"
    )
    wires = [begin(master.server, "RG.TRIGGER", "t") for _ in range(20)]
    wait_until(master.held)
    replica.wait_synced(master)
    master.server.process.send_signal(signal.SIGKILL)
    master.server.wait()
    for wire in wires:
        wire.close()
    replica.promote()
    with begin(replica.server, "RG.TRIGGER", "t") as wire:
        replica.go()
        assert wire.receive() == [b"None"]


def test_out_of_memory(new_env):
    """Coroutines that write are refused as functions are; nobody is left waiting."""
    env = new_env()
    env.register(
        f"""{ASLEEP}
async def work(r):
    await wait_for()
    return execute('set', 'x', 'y' * 100)
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.held)
        env.go()
        env.client.config_set("maxmemory", 1)
        wire.receive()
    env.client.config_set("maxmemory", 0)
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        assert wire.receive() in ([b"OK"], [b"True"])


def test_paused_clients(new_env):
    """A coroutine that writes during CLIENT PAUSE WRITE waits for its end."""
    env = new_env()
    env.register(
        f"""{ASLEEP}
async def work(r):
    await wait_for()
    return execute('set', 'x', 1)
{TRIGGER}.map(work).register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t") as wire:
        wait_until(env.held)
        env.go()
        assert env.call("CLIENT", "PAUSE", 100000, "WRITE") == Simple("OK")
        assert env.call("PING") == Simple("PONG")
        assert env.call("CLIENT", "UNPAUSE") == Simple("OK")
        wire.receive()


def test_threads_of_all_kinds_at_once(env):
    """Futures from threads, coroutines, runs, sync triggers and events for a while."""
    env.register(
        f"""{ASLEEP}
import threading, random
def tell(future, value):
    while True:
        try:
            return future.continueRun(value)
        except Exception as error:
            assert 'untill' in str(error)
def by_thread(r):
    future = gearsFuture()
    threading.Thread(target=tell, args=(future, r)).start()
    return future
async def by_coroutine(r):
    await asyncio.sleep(random.random() / 1000)
    return r
async def by_run(r):
    results, errors = await GB('ShardsIDReader').map(by_coroutine).count().run()
    assert errors == [], errors
    return r
def by_any(r):
    return random.choice([by_thread, by_coroutine, by_run, lambda r: r])(r)
for mode in ('sync', 'async_local'):
    {TRIGGER}.map(by_any).filter(by_any).foreach(by_any).flatmap(lambda r: r[1:]) \\
        .map(by_any).register(trigger=mode, mode=mode)
"""
    )
    failures = []

    def client(shard, mode):
        with shard.server.wire() as wire:
            for i in range(60):
                reply = wire.call("RG.TRIGGER", mode, i, "x")
                if reply != [b"x", str(i).encode()]:
                    failures.append(reply)

    clients = [
        threading.Thread(target=client, args=(shard, mode))
        for shard in env.shards
        for mode in ("sync", "async_local")
        for _ in range(2)
    ]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert failures == []
    wait_until(lambda: env.executions() == {})
