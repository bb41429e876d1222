"""Streams that become others while functions read them, and functions that replace each other."""

import pytest
from env import HOLD
from server import wait_until

LOG_ID = "foreach(lambda r: execute('rpush', 'log', r['id']))"
SEES = f"{HOLD}GB('StreamReader').foreach(lambda r: hold()).{LOG_ID}.register"


def add(env, *identifiers, stream="s"):
    for identifier in identifiers:
        env.client.xadd(stream, {"f": "v"}, id=identifier)


def groups(env, stream="s"):
    return {group["name"]: group for group in env.client.xinfo_groups(stream)}


@pytest.mark.parametrize("mode", ["async_local", "async"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("outcome", ["pass", "fail"])
@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_a_new_stream_under_the_name_of_one_in_work(env, mode, batch, outcome, policy):
    """What the old batch had is not acknowledged in the new stream, nor trimmed from it."""
    env.register(
        HOLD
        + f"""
def see(r):
    execute('rpush', 'log', r['id'])
    hold()
    if {outcome == "fail"}: raise ValueError('no')
GB('StreamReader').foreach(see).register('s', mode='{mode}', batch={batch},
    onFailedPolicy='{policy}')
"""
    )
    add(env, *[f"100-{i}" for i in range(batch)])
    wait_until(lambda: env.client.exists("held"))
    env.client.delete("s")
    add(env, *[f"5-{i}" for i in range(batch)])
    env.client.set("go", 1)
    if outcome == "fail" and policy == "abort":
        env.wait_data(status="ABORTED")
        assert env.client.xlen("s") == batch
        env.client.delete("held")
        env.unpause(env.identifier())
    wait_until(lambda: f"5-{batch - 1}" in env.log_list() or "5-0" in env.log_list())
    if outcome == "pass":
        wait_until(lambda: [i for i in env.log_list() if i[0] == "5"] == new(batch))
        wait_until(lambda: env.client.xlen("s") == 0)


def new(batch):
    return [f"5-{i}" for i in range(batch)]


def test_a_paused_function_and_a_new_stream(env):
    """The batch that runs on after a pause is of the old stream."""
    env.register(SEES + "('s', mode='async_local')")
    add(env, "100-0")
    wait_until(lambda: env.client.exists("held"))
    env.pause(env.identifier())
    env.client.delete("s")
    add(env, "5-0")
    env.client.set("go", 1)
    env.wait_log(["100-0"])
    env.settled()
    env.unpause(env.identifier())
    env.wait_log(["100-0", "5-0"])


def test_a_position_that_others_set_back(env):
    """XGROUP SETID while a batch runs: what comes after the position is read again."""
    env.register(SEES + "('s', mode='async_local', trimStream=False)")
    add(env, "1-1", "2-1")
    wait_until(lambda: env.client.exists("held"))
    env.client.set("go", 1)
    env.wait_log(["1-1", "2-1"])
    env.settled()
    env.client.xgroup_setid("s", "__gears_consumer_group__", "1-1")
    add(env, "3-1")
    env.wait_log(["1-1", "2-1", "2-1", "3-1"])


@pytest.mark.parametrize("command", ["FLUSHDB", "FLUSHALL"])
def test_a_flush_while_a_batch_runs(env, command):
    env.register(SEES + "('s', mode='async_local')")
    add(env, "100-0")
    wait_until(lambda: env.client.exists("held"))
    env.call(command)
    add(env, "5-0")
    env.client.set("go", 1)
    env.wait_log(["100-0", "5-0"])


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_other_databases_do_not_matter(env, mode):
    """FLUSHDB, DEL and XADD elsewhere: the streams here go on, each entry once."""
    env.register(f"GB('StreamReader').{LOG_ID}.register('s*', mode='{mode}', batch=2)")
    add(env, "1-1")
    with env.server.wire() as other:
        other.call("SELECT", 3)
        other.call("XADD", "s", "9-9", "f", "v")
        other.call("DEL", "s")
        other.call("XADD", "s2", "9-9", "f", "v")
        other.call("FLUSHDB")
        other.call("SWAPDB", 4, 5)
    add(env, "2-1")
    env.wait_log(["1-1", "2-1"])
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("prefix", ["s", "s*"])
@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_streams_come_with_a_database(env, prefix, mode):
    """After SWAPDB the streams that are here now are read, those that went are not."""
    env.register(
        f"GB('StreamReader').{LOG_ID}.register('{prefix}', mode='{mode}', batch=2, duration=50)"
    )
    add(env, "1-1")
    with env.server.wire() as other:
        other.call("SELECT", 1)
        for identifier in ["5-1", "6-1", "7-1"]:
            other.call("XADD", "s", identifier, "f", "v")
        other.call("SWAPDB", 0, 1)
        wait_until(lambda: env.client.xlen("s") == 0)
        assert env.log_list() == ["5-1", "6-1", "7-1"]
        other.call("SWAPDB", 0, 1)
    add(env, "2-1")
    wait_until(lambda: env.client.xlen("s") == 0)
    wait_until(lambda: env.log_list() == ["1-1", "2-1"])
    env.call("SWAPDB", 0, 1)
    env.client.flushall()


COLLECT = "GB('StreamReader').foreach(lambda r: execute('rpush', '{0}', r['id']))"
KEEPS = COLLECT + ".register('s', mode='async_local', trimStream=False)"


def test_an_upgrade_takes_over_its_own_group(env):
    """A and B on a stream, A goes, B is upgraded: B goes on where it stopped, not where A did."""
    env.register(KEEPS.format("a"), "ID", "a")
    env.register(KEEPS.format("b"), "ID", "b")
    add(env, "1-1", "2-1")
    for name in "ab":
        env.wait_log(["1-1", "2-1"], name)
    env.unregister(env.registrations()[0]["id"])
    before = set(groups(env))
    env.register(KEEPS.format("b"), "ID", "b", "UPGRADE")
    add(env, "3-1")
    env.wait_log(["1-1", "2-1", "3-1"], "b")
    assert env.log_list("a") == ["1-1", "2-1"]
    assert set(groups(env)) == before


def test_a_replaced_session_goes_on_where_the_old_one_stopped(env):
    env.register(KEEPS.format("a"), "ID", "first")
    add(env, "1-1")
    env.wait_log(["1-1"], "a")
    env.settled()
    env.register(KEEPS.format("a"), "ID", "second", "REPLACE_WITH", "first")
    add(env, "2-1")
    env.wait_log(["1-1", "2-1"], "a")
