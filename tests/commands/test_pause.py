"""RG.PAUSEREGISTRATIONS and RG.UNPAUSEREGISTRATIONS."""

import pytest
from env import HOLD
from server import wait_until
from wire import Error, Simple

PAUSE, UNPAUSE = "RG.PAUSEREGISTRATIONS", "RG.UNPAUSEREGISTRATIONS"
BOTH = pytest.mark.parametrize("command", [PAUSE, UNPAUSE])
ZEROS = "0" * 40
UNKNOWN = f"{ZEROS}-999999"

pytestmark = pytest.mark.lopsided


def register(env, *streams, more=""):
    """A registration per stream, which counts in key `n <stream>`; their ids."""
    for stream in streams:
        env.register(
            "GB('StreamReader').foreach(lambda r: execute('incr', 'n ' + r['key']))"
            f".register('{stream}', mode='async_local', {more})"
        )
    return [entry["id"] for entry in env.registrations()]


def statuses(env):
    return [entry["RegistrationData"].get("status") for entry in env.registrations()]


@BOTH
def test_no_id(env, command):
    text = f"ERR wrong number of arguments for '{command.lower()}' command"
    assert env.error(command).lower() == text.lower()


@BOTH
@pytest.mark.parametrize("identifier", [UNKNOWN, "x", "", f"{ZEROS}-"])
def test_an_unknown_id(env, command, identifier):
    shards = [ZEROS] if env.shard_count == 1 else env.ids
    texts = [f"Execution {identifier} does not exists on shard {shard}" for shard in shards]
    assert env.error(command, identifier) in texts


@BOTH
@pytest.mark.parametrize(
    ("script", "reader"),
    [
        ("GB().register('k*')", "KeysReader"),
        ("GB('CommandReader').register(trigger='t')", "CommandReader"),
        ("GB('CommandReader').register(hook='get')", "CommandReader"),
    ],
)
def test_readers_that_do_not_pause(env, command, script, reader):
    env.register(script)
    verb = "pause" if command == PAUSE else "unpause"
    text = f"Reader {reader} does not support {verb}"
    assert env.error(command, env.identifier()) == text


def test_many_ids(env):
    ids = register(env, *(f"s{i}" for i in range(10)))
    assert env.call(PAUSE, *ids) == Simple("OK")
    assert statuses(env) == ["PAUSED"] * 10
    assert env.call(UNPAUSE, *ids[:5]) == Simple("OK")
    assert statuses(env) == ["OK"] * 5 + ["PAUSED"] * 5


def test_an_id_twice(env):
    ids = register(env, "s")
    env.pause(*ids, *ids)
    assert statuses(env) == ["PAUSED"]
    env.unpause(*ids, *ids)
    assert statuses(env) == ["OK"]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_all_or_none(env, position):
    ids = register(env, "s1", "s2")
    for wrong in (UNKNOWN, "keys"):
        if wrong == "keys":
            env.register("GB().register('k*')")
            wrong = env.registrations()[-1]["id"]
        words = [*ids[:position], wrong, *ids[position:]]
        assert isinstance(env.call(PAUSE, *words), Error)
        assert statuses(env)[:2] == ["OK", "OK"]
    env.pause(*ids)
    for wrong in (UNKNOWN, env.registrations()[-1]["id"]):
        words = [*ids[:position], wrong, *ids[position:]]
        assert isinstance(env.call(UNPAUSE, *words), Error)
        assert statuses(env)[:2] == ["PAUSED", "PAUSED"]


def test_pausing_twice(env):
    ids = register(env, "s")
    env.pause(*ids)
    env.pause(*ids)
    env.add("s", 2)
    assert statuses(env) == ["PAUSED"]
    env.unpause(*ids)
    wait_until(lambda: env.client.get("n s") == "2")


def test_unpausing_a_running_one_changes_nothing(env):
    """It acknowledges and trims what it had begun, and goes on."""
    env.register(
        HOLD
        + "GB('StreamReader').foreach(lambda r: hold()).foreach(lambda r: execute('incr', 'n'))"
        + ".register('s', mode='async_local')"
    )
    env.add("s")
    wait_until(env.held)
    before = env.data()["numTriggered"]
    env.unpause(env.identifier())
    assert env.data()["numTriggered"] == before
    env.go()
    wait_until(lambda: env.client.xlen("s") == 0)
    env.add("s", 3)
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.client.get("n") == "4"
    assert all(group["pending"] == 0 for group in env.client.xinfo_groups("s"))


def test_paused_and_running_ones_together(env):
    ids = register(env, "s1", "s2")
    env.pause(ids[0])
    env.add("s1")
    env.unpause(*ids)
    wait_until(lambda: env.client.get("n s1") == "1")
    assert statuses(env) == ["OK", "OK"]


def test_order_over_a_pause(env):
    env.register(
        "GB('StreamReader').foreach(lambda r: execute('rpush', 'log', r['value']['n']))"
        ".register('s', mode='async_local', batch=7, duration=5)"
    )
    identifier = env.identifier()
    for n in range(200):
        env.client.xadd("s", {"n": n})
        if n % 20 == 0:
            env.pause(identifier)
        if n % 20 == 10:
            env.unpause(identifier)
    wait_until(lambda: env.client.xlen("s") == 0)
    seen = env.log_list()
    assert list(dict.fromkeys(seen)) == [str(n) for n in range(200)]


def test_a_paused_one_can_be_unregistered(env):
    (identifier,) = register(env, "s")
    env.pause(identifier)
    env.unregister(identifier)
    assert env.registrations() == []
    assert env.error(UNPAUSE, identifier).startswith(f"Execution {identifier} does not exists")


def test_a_pause_is_not_kept_over_a_reload(env):
    (identifier,) = register(env, "s")
    env.pause(identifier)
    env.add("s")
    env.reload()
    assert statuses(env) == ["OK"]
    wait_until(lambda: env.client.get("n s") == "1")


def test_waiting_timers_of_a_paused_one(env):
    """An incomplete batch does not run when its time comes after the pause."""
    (paused,) = register(env, "s", more="batch=10, duration=50")
    env.add("s")
    env.pause(paused)
    register(env, "t", more="batch=10, duration=100")
    env.add("t")
    wait_until(lambda: env.client.get("n t") == "1")
    assert env.client.get("n s") in (None, "1")
    before = env.client.get("n s")
    env.add("t")
    wait_until(lambda: env.client.get("n t") == "2")
    assert env.client.get("n s") == before
    env.unpause(paused)
    wait_until(lambda: env.client.get("n s") == "1")
