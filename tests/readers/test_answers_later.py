"""Registrations whose steps answer later: who waits, and who does not."""

import pytest
from later import ASLEEP, KEEP, begin, release
from server import wait_until
from wire import Error, Simple

pytestmark = pytest.mark.lopsided

MODES = ["sync", "async_local", "async"]
WAITS = f"""{ASLEEP}
async def work(r):
    await wait_for()
    execute('rpush', 'log', r.get('id') or r['key'])
"""


def held(env):
    return env.client.exists(env.shards[0].key("held"))


# ------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("mode", MODES)
def test_the_writer_does_not_wait(env, mode):
    env.register(f"{WAITS}GB().foreach(work).register('k*', mode='{mode}')")
    for i in range(5):
        assert env.call("SET", f"k{i}", i) == Simple("OK")
    wait_until(lambda: held(env))
    assert env.data()["numTriggered"] == 5
    assert env.log_list() == []
    env.go()
    wait_until(lambda: sorted(env.log_list()) == [f"k{i}" for i in range(5)])
    assert env.settled()["numSuccess"] == 5


@pytest.mark.parametrize("mode", MODES)
def test_many_events_in_one_command(env, mode):
    env.register(f"{WAITS}GB().foreach(work).register('k*', mode='{mode}', eventTypes=['del'])")
    names = [f"k{i}" for i in range(50)]
    env.client.mset(dict.fromkeys(names, 1))
    assert env.client.delete(*names) == 50
    env.go()
    wait_until(lambda: sorted(env.log_list()) == sorted(names))


@pytest.mark.parametrize("mode", MODES)
def test_events_within_a_transaction(env, mode):
    """What a function answers later is of no concern to the transaction, which is over then."""
    env.register(f"{WAITS}GB().foreach(work).register('k*', mode='{mode}')")
    env.call("MULTI")
    env.call("SET", "k", 1)
    env.call("SET", "k", 2)
    assert env.call("EXEC") == [Simple("OK")] * 2
    env.go()
    data = env.settled()
    assert (data["numTriggered"], data["numSuccess"]) == (2, 2)
    assert env.log_list() == ["k", "k"]


def test_events_of_scripts_of_the_server(env):
    env.register(f"{WAITS}GB().foreach(work).register('k*', mode='sync')")
    env.call("EVAL", "redis.call('SET', KEYS[1], 1) return 5", 1, "k")
    env.go()
    wait_until(lambda: env.log_list() == ["k"])


def test_an_expired_key(env):
    env.register(f"{WAITS}GB().foreach(work).register('k*', mode='sync', eventTypes=['expired'])")
    env.client.set("k", 1, px=1)
    env.go()
    wait_until(lambda: env.log_list() == ["k"])


@pytest.mark.parametrize("mode", MODES)
def test_errors_are_counted(env, mode):
    env.register(
        f"""{ASLEEP}
async def work(r):
    await later(1)
    raise Exception('failed')
GB().foreach(work).register('k*', mode='{mode}')
"""
    )
    env.client.set("k1", 1)
    env.client.set("k2", 1)
    data = env.settled()
    assert (data["numFailures"], data["lastError"]) == (2, "failed")


@pytest.mark.parametrize("mode", MODES)
def test_with_commands_the_client_waits(env, mode):
    """Other clients do not."""
    env.register(f"{WAITS}GB().foreach(work).register('k*', commands=['set'], mode='{mode}')")
    with begin(env.server, "SET", "k", 1) as first, begin(env.server, "SET", "k", 2) as second:
        wait_until(lambda: env.client.get("k") and held(env))
        wait_until(lambda: env.data()["numTriggered"] == 2)
        assert env.client.get("k") in ("1", "2")
        for wire in (first, second):
            wire.socket.settimeout(0.05)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
            wire.socket.settimeout(60)
        env.go()
        assert wait_reply(first) == wait_reply(second) == b"+OK\r\n"


def wait_reply(wire):
    return wire.socket.recv(100)


@pytest.mark.parametrize("mode", MODES)
def test_commands_of_a_transaction_do_not_wait(env, mode):
    env.register(f"{WAITS}GB().foreach(work).register('k*', commands=['set'], mode='{mode}')")
    env.call("MULTI")
    env.call("SET", "k", 1)
    reply = env.call("EXEC")
    assert reply == [Simple("OK")]
    env.go()
    data = env.settled()
    # A sync function is asked while nothing may wait.
    failed = mode == "sync"
    assert (data["numFailures"], data["numSuccess"]) == (int(failed), int(not failed))


def test_two_functions_for_a_command(env):
    """The reply waits for both; who is first may override it."""
    for name in ("a", "b"):
        env.register(
            f"""{ASLEEP}
async def work(r):
    await wait_for('{name}')
    try:
        override_reply('{name}')
    except Exception as error:
        execute('set', 'said', str(error))
GB().foreach(work).register('k*', commands=['set'], mode='sync')
"""
        )
    with begin(env.server, "SET", "k", 1) as wire:
        wait_until(lambda: held(env))
        env.client.set(env.shards[0].key("b"), 1)
        wait_until(lambda: env.data(env.registrations()[1]["id"])["numSuccess"] == 1)
        env.client.set(env.shards[0].key("a"), 1)
        assert wire.receive() == b"b"
    assert "Can only override reply once" in env.client.get("said")


@pytest.mark.single("a clients's id is of its server")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["keys", "trigger", "hook"])
def test_a_waiting_client_that_goes(env, kind, mode):
    """Its execution goes on; the reply is nobody's."""
    function = {
        "keys": f"GB().foreach(work).register('k*', commands=['set'], mode='{mode}')",
        "trigger": f"GB('CommandReader').foreach(work).register(trigger='t', mode='{mode}')",
        "hook": f"GB('CommandReader').foreach(work).register(hook='append', mode='{mode}')",
    }[kind]
    script = f"""{ASLEEP}
async def work(r):
    await wait_for()
    try:
        override_reply('x') if '{kind}' == 'keys' else None
    finally:
        execute('rpush', 'log', 'went on')
"""
    env.register(script + function)
    words = {"trigger": ["RG.TRIGGER", "t"], "hook": ["APPEND", "k", "x"]}
    words = words.get(kind, ["SET", "k", 1])
    wires = []
    for how in ("closed", "killed"):
        wire = env.server.wire()
        number = wire.call("CLIENT", "ID")
        wire.send(*words)
        wait_until(lambda wires=wires: env.data()["numTriggered"] == len(wires) + 1)
        wires.append(wire)
        if how == "closed":
            wire.close()
        else:
            assert env.call("CLIENT", "KILL", "ID", number) == 1
            wire.close()
    env.go()
    wait_until(lambda: env.log_list() == ["went on"] * 2)
    env.settled()
    assert env.call("PING") == Simple("PONG")


@pytest.mark.single("a clients's id is of its server")
def test_a_waiting_client_that_is_unblocked(env):
    """CLIENT UNBLOCK is for commands that time out."""
    env.register(f"{KEEP}GB('CommandReader').map(keep).register(trigger='t', mode='sync')")
    with env.server.wire() as wire:
        number = wire.call("CLIENT", "ID")
        wire.send("RG.TRIGGER", "t")
        wait_until(lambda: "running" in env.executions().values())
        reply = env.call("CLIENT", "UNBLOCK", number)
        assert reply == 0
        release(env)
        assert wire.receive() == [b"['t']"]


# ---------------------------------------------------------------------------------------- streams


def add(env, count=1, start=1):
    for i in range(start, start + count):
        env.client.xadd("s", {"f": "v"}, id=f"{i}-1")


def ids(*numbers):
    return [f"{i}-1" for i in numbers]


@pytest.mark.parametrize("mode", MODES)
def test_the_next_batch_waits(env, mode):
    env.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(env, 3)
    wait_until(lambda: held(env))
    assert env.client.xlen("s") == 3
    assert env.data()["numTriggered"] - env.data()["numSuccess"] == 1
    env.go()
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.log_list() == ids(1, 2, 3)
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_batches(env, mode):
    env.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}', batch=3)")
    add(env, 7)
    env.go()
    wait_until(lambda: env.client.xlen("s") == 1)
    assert sorted(env.log_list(), key=int_id) == ids(*range(1, 7))
    assert env.settled()["numFailures"] == 0


def int_id(text):
    return int(text.split("-")[0])


@pytest.mark.parametrize("mode", MODES)
def test_no_batch_begins_before_the_one_before_ended(env, mode):
    env.register(
        f"""{ASLEEP}
active = most = 0
async def work(r):
    global active, most
    active += 1
    most = max(most, active)
    await asyncio.sleep(0.001)
    active -= 1
    execute('set', 'most', most)
GB('StreamReader').foreach(work).register('s', mode='{mode}')
"""
    )
    add(env, 20)
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.client.get("most") == "1"


ONCE = f"""{ASLEEP}
async def work(r):
    await later(1)
    if execute('get', 'fail') == r['id']:
        execute('incr', 'failed')
        raise Exception('failed')
    execute('rpush', 'log', r['id'])
"""


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_policy_abort(env, mode):
    env.client.set("fail", "2-1")
    env.register(
        f"{ONCE}GB('StreamReader').foreach(work)"
        f".register('s', mode='{mode}', onFailedPolicy='abort')"
    )
    add(env, 3)
    wait_until(lambda: env.data()["status"] == "ABORTED")
    assert env.log_list() == ids(1)
    assert env.client.xlen("s") == 2
    assert env.data()["lastError"] == "failed"


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_policy_retry(env, mode):
    env.client.set("fail", "2-1")
    env.register(
        f"{ONCE}GB('StreamReader').foreach(work)"
        f".register('s', mode='{mode}', onFailedPolicy='retry', onFailedRetryInterval=1)"
    )
    add(env, 3)
    wait_until(lambda: env.client.get("failed") == "2")
    env.client.delete("fail")
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.log_list() == ids(1, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_policy_continue(env, mode):
    env.client.set("fail", "2-1")
    env.register(f"{ONCE}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(env, 3)
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.log_list() == ids(1, 3)
    assert env.settled()["numFailures"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_coroutine_that_pauses_the_registration(env, mode):
    env.client.set("flag", 1)
    env.register(
        f"""{ASLEEP}
async def work(r):
    await later(1)
    if execute('get', 'flag'):
        flat_error('PAUSE for a while')
    execute('rpush', 'log', r['id'])
GB('StreamReader').foreach(work).register('s', mode='{mode}')
"""
    )
    add(env, 2)
    wait_until(lambda: env.data()["status"] == "PAUSED")
    assert (env.client.xlen("s"), env.log_list()) == (2, [])
    env.client.delete("flag")
    env.unpause(env.identifier())
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.log_list() == ids(1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_pause_while_a_batch_waits(env, mode):
    env.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(env, 2)
    wait_until(lambda: held(env))
    env.pause(env.identifier())
    env.go()
    wait_until(lambda: env.client.xlen("s") == 1)
    env.settled()
    assert env.log_list() == ids(1)
    env.unpause(env.identifier())
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.log_list() == ids(1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_unregister_while_a_batch_waits(env, mode):
    """What has begun ends."""
    env.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(env, 2)
    wait_until(lambda: held(env))
    env.unregister(env.identifier())
    env.go()
    wait_until(lambda: env.log_list())
    wait_until(lambda: "running" not in env.executions().values())
    assert env.log_list() in (ids(1), ids(1, 2))


@pytest.mark.parametrize("mode", MODES)
def test_the_stream_is_gone_when_a_batch_ends(env, mode):
    env.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(env, 2)
    wait_until(lambda: held(env))
    env.client.delete("s")
    env.client.set("s", "other")
    env.go()
    env.settled()
    env.client.delete("s")
    add(env, 1, start=5)
    wait_until(lambda: env.log_list() and env.log_list()[-1] == "5-1")
    env.settled()


@pytest.mark.parametrize("mode", MODES)
def test_killed_while_a_batch_waits(durable, mode):
    """It is processed again: at least once."""
    durable.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(durable, 3)
    wait_until(lambda: held(durable))
    durable.crash()
    assert durable.client.xlen("s") == 3
    wait_until(lambda: held(durable))
    durable.go()
    wait_until(lambda: durable.client.xlen("s") == 0)
    assert durable.log_list() == ids(1, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_replica_takes_over_what_waits(new_env, mode):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(master, 3)
    wait_until(lambda: held(master))
    replica.wait_synced(master)
    assert replica.data()["numTriggered"] == 0
    master.server.kill()
    replica.promote()
    replica.client.delete(replica.key("held"))
    wait_until(lambda: replica.data()["numTriggered"])
    replica.go()
    wait_until(lambda: replica.client.xlen("s") == 0)
    assert replica.log_list() == ids(1, 2, 3)


@pytest.mark.parametrize("mode", MODES)
def test_a_master_that_becomes_a_replica_while_a_batch_waits(new_env, mode):
    """The coroutine may not write there; the new master has the entries."""
    first, second = new_env(), new_env()
    second.follow(first)
    first.register(f"{WAITS}GB('StreamReader').foreach(work).register('s', mode='{mode}')")
    add(first, 3)
    wait_until(lambda: held(first))
    second.wait_synced(first)
    second.promote()
    first.follow(second)
    second.go()
    wait_until(lambda: second.client.xlen("s") == 0)
    assert second.log_list() == ids(1, 2, 3)
    first.wait_synced(second)
    wait_until(lambda: "running" not in first.executions().values())
    assert first.client.xlen("s") == 0
    assert first.log_list() == ids(1, 2, 3)


# ------------------------------------------------------------------------------ triggers and hooks


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_waits_alone(env, mode):
    env.register(f"{KEEP}GB('CommandReader').map(keep).register(trigger='t', mode='{mode}')")
    with begin(env.server, "RG.TRIGGER", "t") as first:
        wait_until(lambda: "running" in env.executions().values())
        assert env.call("PING") == Simple("PONG")
        release(env, 1 if mode != "async" else env.shard_count)
        assert first.receive() == [b"['t']"] * (1 if mode != "async" else env.shard_count)


def test_triggers_in_order(env):
    """One that is parked lets the next one begin."""
    env.register(
        f"""{KEEP}
def work(r):
    execute('rpush', 'log', r[1])
    return keep(r[1])
GB('CommandReader').map(work).register(trigger='t', mode='async_local', inorder=True)
"""
    )
    wires = [begin(env.server, "RG.TRIGGER", "t", name) for name in "abc"]
    wait_until(lambda: len(env.log_list()) == 3)
    release(env, 3)
    for name, wire in zip("abc", wires, strict=True):
        with wire:
            assert wire.receive() == [name.encode()]


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_a_hook_waits_alone(env, mode):
    env.register(
        f"""{KEEP}
GB('CommandReader').map(keep).map(lambda r: call_next(*r[1:])) \\
    .register(hook='set', mode='{mode}')
"""
    )
    with begin(env.server, "SET", "k", "v") as wire:
        wait_until(lambda: "running" in env.executions().values())
        assert env.client.get("k") is None
        release(env)
        assert wire.receive() == b"OK"
    assert env.client.get("k") == "v"


def test_a_hook_in_multi(env):
    env.register(
        f"""{ASLEEP}
async def work(r):
    return call_next(*r[1:])
GB('CommandReader').map(lambda r: work(r) if isAsyncAllow() else call_next(*r[1:])) \\
    .register(hook='set', mode='sync')
"""
    )
    assert env.call("SET", "k", 1) == b"OK"
    env.call("MULTI")
    env.call("SET", "k", 2)
    assert env.call("EXEC") == [b"OK"]
    assert env.client.get("k") == "2"


def test_a_hook_that_answers_later_in_multi(env):
    env.register(
        f"""{ASLEEP}
GB('CommandReader').map(later).register(hook='set', mode='sync')
"""
    )
    env.call("MULTI")
    env.call("SET", "k", 2)
    (error,) = env.call("EXEC")
    assert isinstance(error, Error)
    assert "Creating async record is not allowed" in error


def test_hooks_on_top_of_each_other(env):
    """The inner one can not make the outer one wait."""
    env.register(
        f"""{ASLEEP}
async def outer(r):
    await later(1)
    return call_next(*r[1:])
GB('CommandReader').map(lambda r: later(call_next(*r[1:]))).register(hook='hset', mode='sync')
GB('CommandReader').map(outer).register(hook='hset', mode='sync')
"""
    )
    reply = env.call("HSET", "h", "f", "v")
    assert isinstance(reply, Error)
    assert "Creating async record is not allowed" in reply
    env.unregister(env.registrations()[0]["id"])
    assert env.call("HSET", "h", "g", "v") == b"1" if env.client.exists("h") else b"1"


def test_a_hook_whose_registration_goes_while_it_waits(env):
    env.register(
        f"""{KEEP}
GB('CommandReader').map(keep).map(lambda r: call_next(*r[1:])).register(hook='set', mode='sync')
"""
    )
    with begin(env.server, "SET", "k", "v") as wire:
        wait_until(lambda: "running" in env.executions().values())
        env.unregister(env.registrations()[1]["id"])
        assert env.call("SET", "other", 1) == Simple("OK")
        release(env)
        assert wire.receive() == b"OK"
    assert env.client.get("k") == "v"


@pytest.mark.parametrize("mode", MODES)
def test_results_that_are_not_one(env, mode):
    env.register(f"{ASLEEP}GB('CommandReader').flatmap(later).register(hook='set', mode='{mode}')")
    error = env.error("SET", "k", "v")
    assert "Command hook must return exactly one result" in error
