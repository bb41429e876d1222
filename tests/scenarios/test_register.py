"""Acceptance scenarios of registrations: key events, streams, triggers and hooks."""

import ast
import time

import pytest
from env import HOLD, pairs
from server import wait_until
from wire import Error, Simple


def registered(env):
    """id -> status of the executions that registrations made."""
    dumps = env.each(lambda shard: shard.client.execute_command("RG.DUMPEXECUTIONS"))
    entries = [pairs(entry) for dump in dumps for entry in dump]
    return {entry["executionId"]: entry["status"] for entry in entries if entry["registered"] == 1}


SEEN = """
GB().repartition(lambda r: 'seen').foreach(lambda r: execute('sadd', 'seen', r['key'])) \\
    .register('k*')
"""


def test_reg_01_a_key_event(env):
    """On a cluster the set is on another shard than the key."""
    env.register(SEEN)
    env.client.set("k1", 1)
    wait_until(lambda: env.client.smembers("seen") == {"k1"})
    assert len(env.registrations()) == 1
    wait_until(lambda: set(registered(env).values()) == {"done"})


def test_reg_02_unregister(env):
    env.register(SEEN)
    env.client.set("k1", 1)
    wait_until(lambda: env.client.smembers("seen") == {"k1"})
    env.unregister(env.identifier())
    assert env.registrations() == []
    env.register(
        """
        GB().repartition(lambda r: 'after').foreach(lambda r: execute('set', 'after', 1)) \\
            .register('k*')
        """
    )
    env.client.set("k2", 1)
    wait_until(lambda: env.client.exists("after"))
    assert env.client.smembers("seen") == {"k1"}


def test_reg_03_kept_executions_of_a_stream(env):
    env.config("MaxExecutionsPerRegistration", 1)
    env.register("GB('StreamReader').register('s', mode='async_local')")
    env.add("s", 20)
    wait_until(lambda: env.client.xlen("s") == 0)
    wait_until(lambda: len(env.executions()) == 1)


def test_reg_04_kept_executions_of_keys(env):
    env.config("MaxExecutionsPerRegistration", 1)
    env.register("GB().register('k*', mode='async_local')")
    for i in range(20):
        env.client.set(f"k{i}", i)
    env.wait_data(numSuccess=20)
    wait_until(lambda: set(env.each(lambda shard: len(shard.executions()))) == {1})


def test_a_lower_bound_does_not_shorten_what_is_kept(env):
    env.register("GB().register('k', mode='async_local')")
    for number in range(1, 4):
        env.client.set("k", number)
        env.wait_data(numSuccess=number)
    kept = list(env.executions())
    env.config("MaxExecutionsPerRegistration", 1)
    assert list(env.executions()) == kept
    env.client.set("k", 4)
    env.wait_data(numSuccess=4)
    wait_until(lambda: kept[0] not in env.executions())
    assert len(env.executions()) == len(kept)


STUCK = """
import time
calls = 0
def work(r):
    global calls
    calls += 1
    while calls >= 4:
        time.sleep(0.005)
"""


def check_abort_pending(env):
    """One execution of a registration runs for ever, another plan waits behind it."""
    statuses = list(registered(env).values())
    assert statuses.count("running") == 1
    (running,) = [i for i, status in registered(env).items() if status == "running"]
    other = env.start("GB('ShardsIDReader').run()")
    env.unregister(env.identifier(), "abortpending")
    assert env.registrations() == []
    wait_until(lambda: set(env.executions().values()) <= {"running", "created", "done"})
    unfinished = {i for i, status in registered(env).items() if status != "done"}
    assert unfinished == {running}
    assert env.executions()[running] == "running"
    assert env.executions()[other] == "created"
    assert env.abort(running) == "OK"
    env.wait_status(other, "done")
    wait_until(lambda: list(env.executions()) == [other])


def test_reg_05_abort_pending_executions_of_keys(new_env):
    env = new_env("ExecutionThreads", 1)
    env.register(STUCK + "GB().foreach(work).register('k*', mode='async_local')")
    for i in range(5):
        env.client.set(f"k{i}", i)
    wait_until(lambda: sorted(registered(env).values()) == ["created", *["done"] * 3, "running"])
    check_abort_pending(env)


def test_reg_06_abort_pending_executions_of_streams(new_env):
    env = new_env("ExecutionThreads", 1)
    policy = "mode='async_local', onFailedPolicy='abort'"
    env.register(STUCK + f"GB('StreamReader').foreach(work).register('s*', {policy})")
    for i in range(5):
        env.add(f"s{i}")
    wait_until(lambda: env.data()["numTriggered"] >= 5)
    wait_until(lambda: "running" in registered(env).values())
    wait_until(lambda: sum(env.client.exists(f"s{i}") for i in range(5)) == 5)
    wait_until(lambda: sum(env.client.xlen(f"s{i}") for i in range(5)) == 2)
    check_abort_pending(env)


COUNT = "{}.repartition(lambda r: 'n').foreach(lambda r: execute('incr', 'n')).register({})"


def test_reg_07_a_prefix_of_streams(env):
    env.register(COUNT.format("GB('StreamReader')", "'s*'"))
    env.add("s1")
    env.add("s2")
    env.add("other")
    env.add("s3")
    wait_until(lambda: env.client.get("n") == "3")
    assert env.settled()["numFailures"] == 0
    assert (env.client.xlen("other"), env.client.get("n")) == (1, "3")


def test_reg_08_fields_as_keys(env):
    env.register(
        """
        GB('StreamReader').flatmap(lambda r: [(k, v) for k, v in r['value'].items()]) \\
            .repartition(lambda x: x[0]).foreach(lambda x: execute('set', x[0], x[1])).register('s')
        """
    )
    env.client.xadd("s", {"a": 1, "b": 2})
    wait_until(lambda: env.client.mget("a", "b") == ["1", "2"])


def test_reg_09_once_per_event_over_every_reload(durable):
    durable.register(
        """
        def count(r):
            execute('incrby', 'n', {'set': 1, 'del': -1}.get(r['event'], 0))
        GB().filter(lambda r: r['key'] != 'n').foreach(count).register('*', mode='async_local')
        """
    )
    names = [f"k{i}" for i in range(20)]
    for _ in durable.lives():
        for name in names:
            durable.client.set(name, 1)
        wait_until(lambda: durable.client.get("n") == "20")
        durable.client.delete(*names)
        wait_until(lambda: durable.client.get("n") == "0")
        assert durable.settled()["numFailures"] == 0
        assert durable.client.get("n") == "0"


def test_reg_10_a_replica_runs_nothing(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register("GB().foreach(lambda r: execute('incr', 'n')).register('k*')")
    for i in range(20):
        master.client.set(f"k{i}", i)
    wait_until(lambda: master.client.get("n") == "20")
    replica.wait_synced(master)
    assert replica.identifier() == master.identifier()
    assert replica.data()["numTriggered"] == 0
    assert replica.client.get("n") == "20"
    master.unregister(master.identifier())
    wait_until(lambda: replica.registrations() == [])


def test_reg_11_on_registered(env):
    ready = "execute('set', 'ready{%s}' % hashtag(), 1)"
    env.register(f"GB().register('k*', onRegistered=lambda: {ready})")
    assert env.each(lambda shard: shard.client.get(shard.key("ready"))) == ["1"] * env.shard_count


@pytest.mark.lopsided
def test_reg_12_the_rest_of_a_batch_after_a_reload(env):
    env.register(
        "GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s', batch=5)"
    )
    env.add("s", 5)
    wait_until(lambda: env.client.get("n") == "5")
    env.settled()
    env.add("s", 4)
    assert env.client.get("n") == "5"
    env.reload()
    wait_until(lambda: env.client.get("n") == "9")


def test_reg_13_processed_entries_are_removed(env):
    env.register("GB('StreamReader').register('s', batch=3)")
    env.add("s", 3)
    wait_until(lambda: env.client.exists("s") and env.client.xlen("s") == 0)


def test_reg_14_a_promoted_replica_takes_over(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.client.set("fail", 1)
    master.register(
        """
        def work(r):
            if execute('get', 'n') == '3' and execute('get', 'fail'):
                raise Exception('in the middle')
            execute('incr', 'n')
        GB('StreamReader').foreach(work).register('s', batch=5, onFailedPolicy='abort')
        """
    )
    master.add("s", 5)
    wait_until(lambda: master.data()["status"] == "ABORTED")
    assert master.client.get("n") == "3"
    master.client.delete("fail")
    replica.wait_synced(master)
    assert replica.client.get("n") == "3"
    replica.promote()
    wait_until(lambda: replica.client.get("n") == "8")
    assert replica.settled()["numFailures"] == 0
    assert replica.client.xlen("s") == 0


def test_reg_15_key_types(env):
    env.register(COUNT.format("GB()", "'*', keyTypes=['list']"))
    env.client.lpush("l", 1)
    env.client.rpush("l", 1)
    env.client.set("x", 1)
    env.wait_data(numSuccess=2)
    assert env.data()["numTriggered"] == 2
    assert env.client.get("n") == "2"


def test_reg_16_policy_abort(env):
    env.register(
        "GB('StreamReader').foreach(lambda r: nope).register('s', onFailedPolicy='abort', batch=3)"
    )
    env.add("s", 3)
    wait_until(lambda: env.data()["status"] == "ABORTED")
    assert env.client.xlen("s") == 3
    env.unregister(env.identifier())
    assert env.registrations() == []


@pytest.mark.parametrize("mode", ["async", "sync", "async_local"])
def test_reg_17_a_trigger_in_every_mode(env, mode):
    env.register(
        f"""
        GB('CommandReader').flatmap(lambda x: x).distinct().sort() \\
            .register(trigger='test', mode='{mode}')
        """
    )
    assert env.trigger("test", "this", "is", "a", "word") == ["a", "is", "test", "this", "word"]


def test_reg_18_an_asynchronous_trigger_runs_on_every_shard(env):
    env.register("GB('CommandReader').count().register(trigger='test')")
    for shard in env.shards:
        assert shard.trigger("test") == [str(env.shard_count)]


@pytest.mark.lopsided
def test_reg_19_without_values(env):
    env.register(
        """
        GB().foreach(lambda r: execute('rpush', 'log', str(r))) \\
            .register('k*', readValue=False, eventTypes=['set'], mode='sync')
        """
    )
    for i in range(3):
        env.client.set(f"k{i}", 1)
    env.wait_log([str({"event": "set", "key": f"k{i}"}) for i in range(3)])


def test_reg_20_a_hook(env):
    env.register(
        """
        GB('CommandReader').map(lambda r: call_next(*r[1:], 'modified', 'now')) \\
            .register(hook='hset', mode='sync')
        """
    )
    for i in range(3):
        env.client.hset(f"h{i}", "f", "v")
        assert env.client.hgetall(f"h{i}") == {"f": "v", "modified": "now"}


def test_reg_21_two_hooks_and_a_prefix(env):
    env.register(
        """
        def add_one(r):
            return call_next(*r[1:], 'one', 'x')
        def add_two(r):
            return call_next(*r[1:], 'two', 'x')
        GB('CommandReader').map(add_one).register(hook='hset', keyprefix='person:', mode='sync')
        GB('CommandReader').map(add_two).register(hook='hset', keyprefix='person:', mode='sync')
        """
    )
    env.client.hset("person:1", "f", "v")
    env.client.hset("other", "f", "v")
    assert env.client.hgetall("person:1") == {"f": "v", "one": "x", "two": "x"}
    assert env.client.hgetall("other") == {"f": "v"}


def test_reg_23_one_keys_builder_twice(env):
    env.register(
        """
        gb = GB().filter(lambda r: r['value'] is not None)
        gb.foreach(lambda r: execute('del', r['key']))
        gb.register('a*')
        gb.register('b*')
        """
    )
    env.client.set("a1", 1)
    env.client.set("b1", 1)
    wait_until(lambda: env.client.exists("a1", "b1") == 0)
    first, second = env.registrations()
    assert first["id"] != second["id"]
    # The deletion was an event as well: what it queued would find the key of later.
    env.settled(first["id"])
    env.unregister(first["id"])
    env.client.set("a1", 1)
    env.client.set("b1", 1)
    wait_until(lambda: not env.client.exists("b1"))
    assert env.client.exists("a1")


def test_reg_24_one_stream_builder_twice(env):
    env.register(
        """
        gb = GB('StreamReader').repartition(lambda r: 'n').foreach(lambda r: execute('incr', 'n'))
        gb.register('s')
        gb.register('t')
        """
    )
    env.add("s")
    env.add("t")
    wait_until(lambda: env.client.get("n") == "2")


def test_reg_25_flushall_in_the_middle_of_a_batch(env):
    """The function waits for `go`, which FLUSHALL removes with all other keys."""
    env.register(HOLD + "GB('StreamReader').foreach(lambda r: hold()).register('s')")
    env.add("s", 3)
    wait_until(env.held)
    env.client.flushall()
    env.go()
    data = env.settled()
    assert data["numTriggered"] > 0
    assert data["numTriggered"] == data["numSuccess"]


@pytest.mark.parametrize("mode", ["sync", "async", "async_local"])
def test_reg_26_27_override_a_reply(env, mode):
    env.register(
        f"""
        GB().foreach(lambda r: override_reply('instead')) \\
            .register('*', eventTypes=['keymiss'], commands=['get', 'mget'], mode='{mode}')
        """
    )
    assert env.call("GET", "x") == b"instead"
    env.client.set("x", 1)
    assert env.call("GET", "x") == b"1"


@pytest.mark.lopsided
def test_reg_28_no_reply_to_override_in_multi(env):
    env.register(
        """
        GB().foreach(lambda r: override_reply('instead')) \\
            .register('*', eventTypes=['keymiss'], commands=['get'], mode='async_local')
        """
    )
    env.call("MULTI")
    env.call("GET", "x")
    assert env.call("EXEC") == [None]
    wait_until(lambda: env.data()["numFailures"] == 1)
    assert "Can not get command ctx" in env.data()["lastError"]


def test_reg_31_execute_inside_of_nested_hooks(env):
    env.register(
        """
        def add_time(r):
            return call_next(*r[1:], 'time', 'now')
        def count(r):
            execute('hincrby', r[1], 'counter', 1)
            return call_next(*r[1:])
        GB('CommandReader').map(add_time).register(hook='hset', mode='sync')
        GB('CommandReader').map(count).register(hook='hset', mode='sync')
        """
    )
    assert env.call("HSET", "h", "f", "v") == b"2"
    assert env.client.hgetall("h") == {"counter": "1", "f": "v", "time": "now"}


def test_reg_32_triggers_in_order(durable):
    durable.register(
        HOLD
        + """
def work(r):
    if r[1] == 'slow':
        hold()
    execute('rpush', 'log', r[1])
GB('CommandReader').foreach(work).register(trigger='free', mode='async_local')
GB('CommandReader').foreach(work).register(trigger='queue', mode='async_local', inorder=True)
"""
    )
    for _ in durable.lives():
        check_order(durable, "free", ["fast", "slow"])
        check_order(durable, "queue", ["slow", "fast"])


def check_order(env, name, expected):
    env.client.delete("log", env.key("held"), env.key("go"))
    with env.server.wire() as slow, env.server.wire() as fast:
        slow.send("RG.TRIGGER", name, "slow")
        wait_until(env.held)
        fast.send("RG.TRIGGER", name, "fast")
        if expected[0] == "fast":
            wait_until(lambda: env.log_list() == ["fast"])
        else:
            wait_until(lambda: "created" in env.executions().values())
        env.go()
        assert slow.receive() == [str([name, "slow"]).encode()]
        assert fast.receive() == [str([name, "fast"]).encode()]
    assert env.log_list() == expected


@pytest.mark.lopsided
def test_reg_33_entries_of_before_a_sync_registration(env):
    env.add("s", 3)
    env.register(
        "GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s', mode='sync')"
    )
    wait_until(lambda: env.client.get("n") == "3")
    wait_until(lambda: env.client.xlen("s") == 0)


def test_reg_36_one_dictionary_of_globals(durable):
    durable.register(
        """
        x = 1
        def helper():
            global x
            x += 1
        def work(r):
            global x
            x += 1
            helper()
            return x
        GB('CommandReader').map(work).register(trigger='one', mode='sync')
        GB('CommandReader').map(work).register(trigger='two', mode='sync')
        """
    )
    for _ in durable.lives():
        assert durable.trigger("one") == ["3"]
        assert durable.trigger("two") == ["5"]


SLOW = "import time\ndef slow(r): time.sleep(0.03)\n"


def test_reg_37_durations_of_keys(env):
    env.register(SLOW + "GB().foreach(slow).register('k*', mode='sync')")
    env.client.set("k", 1)
    data = env.data()
    assert data["lastRunDurationMS"] >= 30
    assert data["totalRunDurationMS"] >= 30
    assert float(data["avgRunDurationMS"]) >= 30


def test_reg_38_durations_of_streams(env):
    env.register(SLOW + "GB('StreamReader').foreach(slow).register('s', mode='sync')")
    env.add("s")
    wait_until(lambda: env.data()["numSuccess"] > 0)
    data = env.data()
    for name in ("totalRunDurationMS", "avgRunDurationMS"):
        assert float(data[name]) > 0
    for name in ("lastRunDurationMS", "lastEstimatedLagMS", "avgEstimatedLagMS"):
        assert float(data[name]) >= 0


def test_reg_39_clear_statistics(env):
    env.register(
        SLOW
        + """
GB().foreach(slow).foreach(lambda r: nope).register('k*', mode='sync')
GB('StreamReader').foreach(slow).foreach(lambda r: nope).register('s', mode='sync')
GB('CommandReader').foreach(slow).foreach(lambda r: nope).register(trigger='t', mode='sync')
"""
    )
    env.client.set("k", 1)
    env.add("s")
    assert isinstance(env.call("RG.TRIGGER", "t"), Error)
    for entry in env.registrations():
        data = env.settled(entry["id"])
        assert data["numFailures"] >= 1
        assert "nope" in data["lastError"]
    assert env.call("RG.CLEARREGISTRATIONSSTATS") == Simple("OK")
    for entry in [entry for shard in env.shards for entry in shard.registrations()]:
        data = entry["RegistrationData"]
        assert data["lastError"] is None
        numbers = [n for n in data if n.startswith(("num", "last", "total", "avg"))]
        assert all(float(data[name]) == 0 for name in numbers if name != "lastError"), data


@pytest.mark.lopsided
def test_reg_40_pause(env):
    env.register(
        "GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s', mode='sync')"
    )
    identifier = env.identifier()
    env.pause(identifier)
    env.add("s", 3)
    assert env.data()["status"] == "PAUSED"
    assert (env.client.get("n"), env.client.xlen("s")) == (None, 3)
    env.unpause(identifier)
    wait_until(lambda: env.client.get("n") == "3")
    wait_until(lambda: env.client.xlen("s") == 0)


def test_reg_41_keys_do_not_pause(env):
    env.register("GB().register('k*')")
    identifier = env.identifier()
    assert env.error("RG.PAUSEREGISTRATIONS", identifier) == (
        "Reader KeysReader does not support pause"
    )
    assert env.error("RG.UNPAUSEREGISTRATIONS", identifier) == (
        "Reader KeysReader does not support unpause"
    )


@pytest.mark.lopsided
def test_reg_42_a_function_pauses_itself(env):
    env.register(
        """
        def work(r):
            if execute('get', 'flag'):
                flat_error('PAUSE for a while')
            execute('incr', 'n')
        GB('StreamReader').foreach(work).register('s', mode='sync')
        """
    )
    env.client.set("flag", 1)
    env.add("s")
    env.client.delete("flag")
    wait_until(lambda: env.data()["status"] == "PAUSED")
    assert env.data()["lastError"] == "PAUSE for a while"
    assert (env.client.get("n"), env.client.xlen("s")) == (None, 1)
    env.unpause(env.identifier())
    wait_until(lambda: env.client.get("n") == "1")
    wait_until(lambda: env.client.xlen("s") == 0)


@pytest.mark.lopsided
def test_reg_43_unregister_before_the_timer(env):
    """The timer of the second registration starts later, so the first one's is over then."""
    env.register("GB('StreamReader').register('s', batch=2, duration=200)")
    first = env.identifier()
    env.add("s")
    env.register(
        """
        GB('StreamReader').foreach(lambda r: execute('set', 'fired', r['key'])) \\
            .register('t', batch=2, duration=300)
        """
    )
    env.add("t")
    env.unregister(first)
    wait_until(lambda: env.client.get("fired") == "t")
    assert env.client.xlen("s") == 1


HELD_STREAM = (
    HOLD
    + """
def work(r):
    hold()
    execute('rpush', 'log', r['id'])
GB('StreamReader').foreach(work).register('s', mode='async_local')
"""
)


@pytest.mark.lopsided
def test_reg_44_pause_while_an_entry_is_processed(env):
    env.register(HELD_STREAM)
    env.client.xadd("s", {"f": "v"}, id="1-1")
    env.client.xadd("s", {"f": "v"}, id="2-1")
    wait_until(env.held)
    env.pause(env.identifier())
    env.go()
    wait_until(lambda: env.client.xlen("s") == 1)
    env.settled()
    assert env.client.xrange("s") == [("2-1", {"f": "v"})]
    assert env.log_list() == ["1-1"]
    assert env.data()["status"] == "PAUSED"


@pytest.mark.lopsided
def test_reg_45_pause_and_unpause_at_once(env):
    env.register(HELD_STREAM)
    env.add("s", 2)
    wait_until(env.held)
    env.pause(env.identifier())
    env.unpause(env.identifier())
    env.go()
    wait_until(lambda: env.client.xlen("s") == 0)
    assert env.data()["status"] == "OK"
    assert env.client.llen("log") >= 2


def test_reg_46_pause_while_waiting_for_a_retry(env):
    env.register(
        """
        GB('StreamReader').foreach(lambda r: nope) \\
            .register('s', onFailedPolicy='retry', onFailedRetryInterval=3)
        """
    )
    env.add("s")
    wait_until(lambda: env.data()["status"] == "WAITING_FOR_RETRY_ON_FAILURE")
    env.pause(env.identifier())
    assert env.data()["status"] == "PAUSED"


HUNDRED = [f"s{i}" for i in range(100)]


@pytest.mark.lopsided
def test_reg_47_retry_of_many_streams(env):
    env.register(
        HOLD
        + """
def work(r):
    if execute('get', 'failed') is None:
        hold()
        execute('set', 'failed', 1)
        raise Exception('slow failure')
GB('StreamReader').foreach(work).register('s*', mode='async_local', onFailedPolicy='retry',
    onFailedRetryInterval=1)
"""
    )
    for name in HUNDRED:
        env.add(name)
    wait_until(env.held)
    wait_until(lambda: env.data()["numTriggered"] >= 100)
    env.go()
    wait_until(lambda: env.data()["numFailures"] == 1)
    assert env.settled()["numAborted"] > 0
    wait_until(lambda: env.data()["lastError"] is None)
    wait_until(lambda: sum(map(env.client.xlen, HUNDRED)) == 0)
    data = env.settled()
    assert (data["numFailures"], data["status"]) == (1, "OK")


def test_reg_48_pause_of_many_streams(env):
    env.register(
        HOLD + "GB('StreamReader').foreach(lambda r: hold()).register('s*', mode='async_local')"
    )
    for name in HUNDRED:
        env.add(name)
    wait_until(env.held)
    wait_until(lambda: env.data()["numTriggered"] >= 100)
    env.pause(env.identifier())
    wait_until(lambda: env.data()["numAborted"] > 0)
    env.go()
    before = env.settled()
    env.unpause(env.identifier())
    wait_until(lambda: sum(map(env.client.xlen, HUNDRED)) == 0)
    after = env.settled()
    assert after["numTriggered"] > before["numTriggered"]
    assert after["numSuccess"] > before["numSuccess"]


def test_reg_49_ids_grow_over_restarts(durable):
    script = "GB('StreamReader').register('s')"
    for _ in range(200):
        durable.register(script, "ID", "test", "UPGRADE")
    last = durable.identifier()
    durable.save_and_restart()
    assert durable.identifier() == last
    durable.register(script, "ID", "test", "UPGRADE")
    assert int(durable.identifier().split("-")[1]) > int(last.split("-")[1])


def test_slow_triggers_do_not_hold_other_clients(env):
    env.register(HOLD + "GB('CommandReader').foreach(lambda r: hold()).register(trigger='t')")
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_until(env.held)
        begin = time.monotonic()
        for _ in range(100):
            env.client.ping()
        assert time.monotonic() - begin < 5
        env.go()
        assert [ast.literal_eval(r.decode()) for r in wire.receive()] == [["t"]] * env.shard_count
