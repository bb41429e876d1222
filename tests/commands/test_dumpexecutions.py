import pytest
from env import HOLD, pairs
from server import wait_until

ENDLESS = """
def forever(x):
    while True:
        pass
GB('ShardsIDReader').foreach(forever).run()
"""


def test_empty(env):
    assert env.call("RG.DUMPEXECUTIONS") == []


def test_shape(env):
    identifier = env.start("GB('ShardsIDReader').run()")
    env.wait(identifier)
    entry = [b"executionId", identifier.encode(), b"status", b"done", b"registered", 0]
    assert env.call("RG.DUMPEXECUTIONS") == [entry]
    assert env.call("RG.DUMPEXECUTIONS", "more", "words") == [entry]


def test_a_running_execution(env):
    identifier = env.start(ENDLESS)
    env.wait_status(identifier, "running")


def test_a_running_blocking_execution_is_listed(env):
    with env.server.wire() as wire:
        wire.send("RG.PYEXECUTE", ENDLESS)
        while not env.executions():
            pass
        (identifier,) = env.executions()
        env.wait_status(identifier, "running")
        assert env.abort(identifier) == "OK"
        results, errors = wire.receive()
    assert results == []
    assert 1 <= len(errors) <= env.shard_count
    wait_until(lambda: env.executions() == {})


def test_errors_do_not_change_the_status(env):
    identifier = env.start("GB('ShardsIDReader').map(lambda x: nope).run()")
    env.wait(identifier)
    assert env.status(identifier) == "done"


@pytest.mark.parametrize("bound", [1, 3])
def test_max_executions(env, bound):
    env.config("MaxExecutions", bound)
    identifiers = []
    for _ in range(6):
        identifiers.append(env.start("GB('ShardsIDReader').run()"))
        env.wait(identifiers[-1])
    assert sorted(env.executions()) == sorted(identifiers[-bound:])
    assert env.error("RG.GETRESULTS", identifiers[0]) == "execution plan does not exist"


@pytest.mark.parametrize("bound", [0, -1])
def test_no_bound(env, bound):
    env.config("MaxExecutions", bound)
    for _ in range(20):
        env.wait(env.start("GB('ShardsIDReader').run()"))
    assert len(env.executions()) == 20


def test_a_running_execution_beyond_the_bound_goes_on(env):
    env.config("MaxExecutions", 1)
    first = env.start(
        HOLD
        + """
def wait(x):
    hold()
    execute('set', 'end{%s}' % hashtag(), 1)
GB('ShardsIDReader').foreach(wait).run()
"""
    )
    env.wait_status(first, "running")
    second = env.start("GB('ShardsIDReader').run()")
    env.wait(second)
    assert env.status(first) == "running"
    with env.server.wire() as wire:
        wire.send("RG.GETRESULTSBLOCKING", first)
        wait_until(lambda: env.client.info("clients")["blocked_clients"], what="a blocked client")
        env.go()
        results, errors = wire.receive()
        assert (sorted(r.decode() for r in results), errors) == (env.ids, [])
    assert env.each(lambda shard: shard.client.get(shard.key("end"))) == ["1"] * env.shard_count
    wait_until(lambda: first not in env.executions(), what="the drop of the first execution")


def test_executions_of_several_scripts(env):
    identifiers = {env.start("GB('ShardsIDReader').run()") for _ in range(10)}
    for identifier in identifiers:
        env.wait(identifier)
    dump = [pairs(entry) for entry in env.client.execute_command("RG.DUMPEXECUTIONS")]
    assert {entry["executionId"] for entry in dump} == identifiers
    assert len(dump) == 10
