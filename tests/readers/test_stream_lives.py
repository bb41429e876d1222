"""Streams that become others while functions read them, and functions that replace each other."""

import pytest
from env import HOLD
from server import wait_until

pytestmark = pytest.mark.lopsided

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
    wait_until(env.held)
    env.client.delete("s")
    add(env, *[f"5-{i}" for i in range(batch)])
    env.go()
    if outcome == "fail" and policy == "abort":
        env.wait_data(status="ABORTED")
        assert env.client.xlen("s") == batch
        env.client.delete(env.key("held"))
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
    wait_until(env.held)
    env.pause(env.identifier())
    env.client.delete("s")
    add(env, "5-0")
    env.go()
    env.wait_log(["100-0"])
    env.settled()
    env.unpause(env.identifier())
    env.wait_log(["100-0", "5-0"])


def test_a_position_that_others_set_back(env):
    """XGROUP SETID while a batch runs: what comes after the position is read again."""
    env.register(SEES + "('s', mode='async_local', trimStream=False)")
    add(env, "1-1", "2-1")
    wait_until(env.held)
    env.go()
    env.wait_log(["1-1", "2-1"])
    env.settled()
    env.client.xgroup_setid("s", "__gears_consumer_group__", "1-1")
    add(env, "3-1")
    env.wait_log(["1-1", "2-1", "2-1", "3-1"])


@pytest.mark.parametrize("command", ["FLUSHDB", "FLUSHALL"])
def test_a_flush_while_a_batch_runs(env, command):
    env.register(SEES + "('s', mode='async_local')")
    add(env, "100-0")
    wait_until(env.held)
    env.call(command)
    add(env, "5-0")
    env.go()
    env.wait_log(["100-0", "5-0"])


@pytest.mark.single("databases")
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


@pytest.mark.single("databases")
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


SLOW = (
    HOLD
    + """
def slow(r):
    execute('rpush', 'log', r['id'])
    hold()
GB('StreamReader').foreach(slow).register('s', mode='async_local', trimStream=TRIM)
"""
)

STRANGERS = {
    "create": [("XGROUP", "CREATE", "s", "other", "0")],
    "setid": [("XGROUP", "CREATE", "s", "o", "0"), ("XGROUP", "SETID", "s", "o", "1-1")],
    "destroy": [("XGROUP", "CREATE", "s", "o", "0"), ("XGROUP", "DESTROY", "s", "o")],
    "consumer": [("XGROUP", "CREATECONSUMER", "s", "__gears_consumer_group__", "c")],
    "xsetid": [("XSETID", "s", "99-1")],
    "rename": [("RENAME", "s", "{s}t"), ("RENAME", "{s}t", "s")],
}
OTHER_DATABASE = [("SELECT", "1"), ("SET", "s", "x"), ("DEL", "s"), ("SELECT", "0")]


@pytest.mark.parametrize("what", STRANGERS)
def test_a_backlog_goes_on_whatever_others_do(env, what):
    check_backlog(env, STRANGERS[what], twice=what == "rename")


@pytest.mark.single("databases")
def test_a_backlog_goes_on_whatever_happens_in_another_database(env):
    check_backlog(env, OTHER_DATABASE)


def check_backlog(env, commands, twice=False):
    env.register(SLOW.replace("TRIM", "False"))
    expected = [f"{i}-1" for i in range(1, 7)]
    add(env, *expected)
    wait_until(env.held)
    for words in commands:
        assert "ERR" not in str(env.call(*words))
    env.go()
    wait_until(lambda: env.log_list()[-1:] == ["6-1"])
    seen = env.log_list()
    # What was under way may come again where the stream was another one in between.
    assert list(dict.fromkeys(seen)) == expected
    if not twice:
        assert seen == expected


@pytest.mark.parametrize("what", ["create", "setid", "destroy", "xsetid"])
@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_a_partial_batch_waits_for_its_time_whatever_others_do(env, what, mode):
    check_partial_batch(env, mode, STRANGERS[what])


@pytest.mark.single("databases")
@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_a_partial_batch_waits_whatever_happens_in_another_database(env, mode):
    check_partial_batch(env, mode, OTHER_DATABASE)


def check_partial_batch(env, mode, commands):
    env.register(
        f"GB('StreamReader').{LOG_ID}.register('s', mode='{mode}', batch=3, duration=1500)"
    )
    add(env, "1-1", "2-1")
    for words in commands:
        env.call(*words)
    assert env.log_list() == []
    env.wait_log(["1-1", "2-1"])


@pytest.mark.single("databases")
@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_entries_of_another_database_complete_no_batch(env, mode):
    env.register(f"GB('StreamReader').{LOG_ID}.register('s', mode='{mode}', batch=3)")
    add(env, "1-1", "2-1")
    with env.server.wire() as other:
        other.call("SELECT", 1)
        other.call("XADD", "s", "*", "f", "v")
        other.call("FLUSHDB")
    add(env, "3-1")
    env.wait_log(["1-1", "2-1", "3-1"])
    assert env.settled()["numTriggered"] == 2


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize("way", ["rename", "copy", "restore"])
def test_a_stream_that_comes_whole(env, mode, way):
    """Its entries are read at once: nobody has to add one first."""
    env.register(f"GB('StreamReader').{LOG_ID}.register('s*', mode='{mode}')")
    add(env, "1-1", "2-1", stream="{s1}other")
    if way == "rename":
        env.client.rename("{s1}other", "s1")
    elif way == "copy":
        env.client.copy("{s1}other", "s1")
    else:
        env.call("RESTORE", "s1", "0", env.binary.dump("{s1}other"))
    env.wait_log(["1-1", "2-1"])


def test_a_stream_that_comes_in_place_of_one_in_work(env):
    """The batch of the old stream neither acknowledges nor trims the new one's entries."""
    env.register(SLOW.replace("TRIM", "True"))
    add(env, "100-1")
    add(env, *[f"{i}-1" for i in range(1, 6)], stream="{s}other")
    wait_until(env.held)
    env.client.rename("{s}other", "s")
    env.go()
    env.wait_log(["100-1", *[f"{i}-1" for i in range(1, 6)]])


@pytest.mark.parametrize("outcome", ["pass", "fail"])
def test_an_upgrade_while_a_batch_runs(durable, outcome):
    """The batch that was under way comes twice; it does not move the group of the new function."""
    env = durable
    fails = "continue" if outcome == "pass" else "abort"
    env.register(
        HOLD
        + f"""
def old(r):
    hold()
    if '{outcome}' == 'fail': raise ValueError('no')
GB('StreamReader').foreach(old).register('s', mode='async_local', batch=2, trimStream=False,
    onFailedPolicy='{fails}')
""",
        *("ID", "x"),
    )
    entries = [f"{i}-1" for i in range(1, 11)]
    add(env, *entries)
    wait_until(env.held)
    new = f"GB('StreamReader').{LOG_ID}.register('s', mode='async_local', trimStream=False)"
    env.register(new, "ID", "x", "UPGRADE")
    env.wait_log(entries)
    env.settled()
    env.go()
    wait_until(lambda: all(status == "done" for status in env.executions().values()))
    add(env, "11-1")
    env.wait_log([*entries, "11-1"])
    env.settled()
    (group,) = env.client.xinfo_groups("s")
    assert (group["last-delivered-id"], group["pending"]) == ("11-1", 0)
    env.reload()
    add(env, "12-1")
    env.wait_log([*entries, "11-1", "12-1"])


def test_functions_of_one_upgrade_have_groups_of_their_own(env):
    """The first took the group that the second one was to take over: entries were lost."""
    env.register("GB('StreamReader').register('s', mode='async_local')", "ID", "x")
    env.register(
        """
def c(r):
    if execute('get', 'repaired') is None: raise ValueError('not yet')
    execute('rpush', 'c', r['id'])
GB('StreamReader').foreach(c).register('s*', mode='async_local', onFailedPolicy='retry')
GB('StreamReader').foreach(lambda r: execute('rpush', 'd', r['id'])).register(
    's', mode='async_local')
""",
        *("ID", "x", "UPGRADE"),
    )
    entries = [f"{i}-1" for i in range(2, 12)]
    add(env, *entries)
    env.wait_log(entries, "d")
    assert len(groups(env)) == 2
    assert env.client.xlen("s") == 10
    env.client.set("repaired", 1)
    env.wait_log(entries, "c")
    wait_until(lambda: env.client.xlen("s") == 0)


@pytest.mark.parametrize("batch", [1, 7, 40, 100, 130])
@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_entries_that_go_while_a_backlog_is_read(env, batch, mode):
    """What others delete is not seen, whatever was read before its turn."""
    add(env, *[f"{i}-1" for i in range(1, 301)])
    env.register(
        f"""
def see(r):
    execute('rpush', 'log', r['id'])
    number = int(r['id'].split('-')[0])
    if number % 50 == 10 and number < 160:
        execute('xdel', 's', *[f'{{i}}-1' for i in range(number + {batch}, number + {batch} + 5)])
GB('StreamReader').foreach(see).register('s', mode='{mode}', batch={batch}, trimStream=False)
"""
    )
    wait_until(lambda: env.log_list()[-1:] == ["300-1"])
    seen = [int(i.split("-")[0]) for i in env.log_list()]
    left = [int(i.split("-")[0]) for i, _ in env.client.xrange("s")]
    assert seen == sorted(set(seen))
    assert set(left) <= set(seen)
    if batch == 1:
        assert seen == left
