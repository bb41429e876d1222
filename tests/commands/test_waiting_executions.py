"""Commands on executions that wait for a coroutine or a future: abort, drop, dump, unregister."""

import pytest
from env import pairs
from later import ASLEEP, KEEP, begin, release
from server import wait_until

TRIGGER = "GB('CommandReader')"
WAITING = f"""{ASLEEP}
async def wait(x):
    await wait_for()
    return x
"""


def waiting_run(env, steps="map(wait)", words=""):
    """The id of a run of which every shard waits."""
    identifier = env.start(f"{WAITING}GB('ShardsIDReader').{steps}.run({words})")
    wait_until(env.all_held)
    wait_until(lambda: env.status(identifier) == "running")
    wait_until(env.rests)
    return identifier


def status(shard, identifier):
    return shard.executions().get(identifier)


def test_status(env):
    identifier = waiting_run(env)
    assert all(s == "running" for s in env.each(lambda shard: status(shard, identifier)))
    assert env.error("RG.GETRESULTS", identifier) == "execution is still running"
    assert env.error("RG.DROPEXECUTION", identifier)
    env.go()
    assert env.wait(identifier)[1] == []
    assert env.status(identifier) == "done"


def test_getexecution(env):
    identifier = waiting_run(env)
    replies = env.client.execute_command("RG.GETEXECUTION", identifier)
    assert len(replies) == env.shard_count
    for reply in replies:
        plan = pairs(pairs(reply)["execution_plan"])
        assert plan["status"] == "running"
        assert plan["errors"] == []
    env.go()
    env.wait(identifier)


@pytest.mark.parametrize(
    "steps",
    [
        "map(wait)",
        "filter(wait)",
        "foreach(wait)",
        "flatmap(wait)",
        "accumulate(lambda a, r: wait(r))",
        "localgroupby(lambda x: 'k', lambda k, a, r: wait(r))",
        "foreach(wait).count()",
        "foreach(wait).repartition(lambda x: x)",
        "foreach(wait).collect().map(lambda x: x)",
    ],
)
def test_abort(env, steps):
    identifier = waiting_run(env, steps)
    assert env.abort(identifier) == "OK"
    assert env.status(identifier) == "aborted"
    assert env.wait(identifier) == ([], [])
    wait_until(lambda: set(env.each(lambda s: status(s, identifier))) <= {"aborted", None})
    assert env.drop(identifier) == "OK"
    env.go()
    assert env.still_runs()


def test_abort_keeps_what_is_there(env):
    env.register(
        f"""{KEEP}
{TRIGGER}.flatmap(lambda r: r[:0:-1]).map(lambda x: keep(x) if x == 'c' else x) \\
    .register(trigger='t', mode='async_local')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t", "a", "b", "c", "d") as wire:
        wait_until(lambda: "running" in env.shards[0].executions().values())
        (identifier,) = env.shards[0].executions()
        env.call("RG.ABORTEXECUTION", identifier)
        reply = wire.receive()
        assert reply in ([b"a", b"b"], []) or "abort" in reply
    assert env.settled(env.registrations()[-1]["id"])["numAborted"] == 1
    release(env)


def test_abort_of_a_client_that_waits(env):
    """A run and its client: who started it is told."""
    with begin(
        env.server, "RG.PYEXECUTE", f"{WAITING}GB('ShardsIDReader').map(wait).run()"
    ) as wire:
        wait_until(env.all_held)
        wait_until(env.rests)
        (identifier,) = env.executions()
        env.call("RG.ABORTEXECUTION", identifier)
        assert wire.receive() == [[], []]
    env.go()


def test_abort_twice_and_after(env):
    identifier = waiting_run(env)
    assert env.abort(identifier) == "OK"
    assert env.abort(identifier) == "OK"
    env.go()
    assert env.abort(identifier) == "OK"
    assert env.status(identifier) == "aborted"


def test_abort_all_of_many(env):
    env.register(f"{KEEP}{TRIGGER}.map(keep).register(trigger='t', mode='async_local')")
    wires = [begin(env.server, "RG.TRIGGER", "t", i) for i in range(200)]
    wait_until(lambda: len(env.shards[0].executions()) == 200)
    wait_until(lambda: "created" not in env.shards[0].executions().values())
    for identifier in env.shards[0].executions():
        env.call("RG.ABORTEXECUTION", identifier)
    for wire in wires:
        with wire:
            wire.receive()
    assert env.settled(env.registrations()[-1]["id"])["numAborted"] == 200
    release(env, 200)


@pytest.mark.lopsided
@pytest.mark.parametrize("words", [[], ["abortpending"]])
@pytest.mark.parametrize("mode", ["sync", "async_local", "async"])
@pytest.mark.parametrize("kind", ["keys", "stream", "trigger"])
def test_unregister(env, kind, mode, words):
    """With abortpending only those go that have not begun; one that waits has."""
    reader = {
        "keys": "GB().foreach(work).register('k', ",
        "stream": "GB('StreamReader').foreach(work).register('s', ",
        "trigger": "GB('CommandReader').foreach(work).register(trigger='t', ",
    }[kind]
    env.register(
        f"""{ASLEEP}
async def work(r):
    await wait_for()
    execute('incr', 'ended')
{reader}mode='{mode}')
"""
    )
    wire = None
    if kind == "trigger":
        wire = begin(env.server, "RG.TRIGGER", "t")
    elif kind == "keys":
        env.client.set("k", 1)
    else:
        env.add("s")
    wait_until(lambda: env.client.exists(env.shards[0].key("held")))
    env.unregister(env.identifier(), *words)
    assert env.registrations() == []
    env.go()
    wait_until(lambda: not {"running", "created"} & set(env.executions().values()))
    if wire:
        with wire:
            wire.receive()
    assert env.still_runs()
    wait_until(lambda: set(env.executions().values()) <= {"done", "aborted"})
    if not words:
        wait_until(lambda: env.client.get("ended"))


@pytest.mark.lopsided
def test_statistics(env):
    env.register(
        f"""{ASLEEP}
async def work(r):
    await wait_for()
    if r['value'] == 'bad':
        raise Exception('bad')
GB().foreach(work).register('k*', mode='async_local')
"""
    )
    env.client.set("k1", "good")
    env.client.set("k2", "bad")
    wait_until(lambda: list(env.executions().values()).count("running") == 2)
    data = env.data()
    assert (data["numTriggered"], data["numSuccess"], data["numFailures"]) == (2, 0, 0)
    env.call("RG.CLEARREGISTRATIONSSTATS")
    assert env.data()["numTriggered"] == 2
    env.go()
    data = env.settled()
    assert (data["numSuccess"], data["numFailures"]) == (1, 1)
    assert data["lastError"] in ("bad", None)


def test_waiting_ones_are_not_pushed_out(env):
    """More than are kept: those that wait leave the list, but go on."""
    env.config("MaxExecutions", 10)
    env.register(f"{KEEP}{TRIGGER}.map(keep).register(trigger='t', mode='async_local')")
    wires = [begin(env.server, "RG.TRIGGER", "t", i) for i in range(50)]
    release(env, 50)
    for i, wire in enumerate(wires):
        with wire:
            assert wire.receive() == [str(["t", str(i)]).encode()]


def test_profiles(env):
    env.config("ProfileExecutions", 1)
    identifier = waiting_run(env, "map(wait).count()")
    env.go()
    env.wait(identifier)
    assert all(step for step in env.plan(identifier)["steps"])
    assert sorted(env.results(f"{ASLEEP}GB('ShardsIDReader').map(later).run()")) == env.ids


def test_a_local_run(env):
    identifier = env.start(f"{WAITING}GB('ShardsIDReader').map(wait).run(mode='async_local')")
    wait_until(env.held)
    env.go()
    results, errors = env.wait(identifier)
    assert (results, errors) == ([env.shard_id if env.shard_count > 1 else "1"], [])
