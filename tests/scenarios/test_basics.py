"""Acceptance scenarios of running plans."""

import ast
import time

import pytest
from env import pairs
from server import wait_until
from wire import Error


def hundred(env):
    env.client.mset({str(i): str(i) for i in range(100)})


def pairs_of(results):
    return sorted(
        (record["key"], record["value"]) for record in (ast.literal_eval(r) for r in results)
    )


ADD = "lambda a, r: a + r"
BY_HALF = "lambda r: 0 if int(r['value']) < 50 else 100"


def test_bas_01_a_sum_over_shards(env):
    hundred(env)
    script = f"""
    GB('ShardsIDReader').map(lambda x: int(execute('dbsize'))).aggregate(0, {ADD}, {ADD}).run()
    """
    assert env.results(script) == ["100"]


def test_bas_02_a_sum_over_key_names(env):
    hundred(env)
    script = f"""
    GB('KeysOnlyReader').map(lambda k: int(execute('get', k))).aggregate(0, {ADD}, {ADD}).run()
    """
    assert env.results(script) == ["4950"]


def test_bas_03_aggregate(env):
    hundred(env)
    script = f"GearsBuilder().map(lambda r: int(r['value'])).aggregate(0, {ADD}, {ADD}).run()"
    assert env.run(script) == (["4950"], [])


def test_bas_04_count(env):
    hundred(env)
    assert env.results("GearsBuilder().count().run()") == ["100"]


def test_bas_05_countby(env):
    hundred(env)
    results = env.results(f"GB().map({BY_HALF}).countby(lambda x: x).collect().run()")
    assert pairs_of(results) == [("0", 50), ("100", 50)]


@pytest.mark.single("one record per group and shard")
def test_bas_06_aggregation_per_shard(env):
    hundred(env)
    script = f"""
    GB().map({BY_HALF}).__localAggregateby__(lambda x: x, 0, lambda k, a, r: 1 + a).run()
    """
    assert pairs_of(env.results(script)) == [("0", 50), ("100", 50)]


def test_bas_07_filter_unblocking(env):
    hundred(env)
    identifier = env.start("GB().filter(lambda r: int(r['value']) >= 50).run()")
    results, errors = env.wait(identifier)
    assert errors == []
    values = sorted(int(ast.literal_eval(r)["value"]) for r in results)
    assert values == list(range(50, 100))


def test_bas_08_map_unblocking(env):
    hundred(env)
    results, errors = env.wait(env.start("GB().map(lambda r: r['value']).run()"))
    assert errors == []
    assert set(results) == {str(i) for i in range(100)}


def test_bas_09_accumulate(env):
    hundred(env)
    script = """
    GB().map(lambda r: int(r['value'])).accumulate(lambda a, r: r + (a or 0)).collect() \\
        .accumulate(lambda a, r: r + (a or 0)).map(lambda r: str(r)).run()
    """
    assert env.results(script) == ["4950"]


def test_bas_10_repartition_and_bytes(env):
    env.client.set("x", 1)
    env.results(
        """
        GB().repartition(lambda r: 'y') \\
            .foreach(lambda r: execute('set', 'y', bytes([1, 2, 3]))).run()
        """
    )
    assert env.binary.get("y") == b"\1\2\3"


@pytest.mark.parametrize(
    "call",
    [
        "GB('KeysOnlyReader').run()",
        "GB('KeysOnlyReader', defaultArg='*').run()",
        "GB('KeysOnlyReader').run('*')",
    ],
)
def test_bas_11_keys_only(env, call):
    env.client.mset({"xx": 1, "xy": 1, "y": 1})
    assert sorted(env.results(call)) == ["xx", "xy", "y"]


@pytest.mark.parametrize(
    ("pattern", "expected"), [("x*", ["xx", "xy"]), ("xx*", ["xx"]), ("xx", ["xx"])]
)
def test_bas_12_keys_only_with_a_pattern(env, pattern, expected):
    env.client.mset({"xx": 1, "xy": 1, "y": 1})
    assert sorted(env.results(f"GB('KeysOnlyReader').run('{pattern}')")) == expected
    assert sorted(env.results(f"GB('KeysOnlyReader', defaultArg='{pattern}').run()")) == expected


def test_bas_13_flatmap_and_limit(env):
    env.client.lpush("l", "a", "b", "c")
    results = env.results("GB().flatmap(lambda r: r['value']).limit(1).collect().run('l')")
    assert results == ["a"]


def test_bas_14_limit_with_an_offset(env):
    env.client.lpush("l", "1", "2", "3", "4", "5")
    assert env.results("GB().flatmap(lambda r: r['value']).limit(1, 3).run('l')") == ["4"]


def test_bas_15_a_stream(env):
    env.client.xadd("s", {"a": "1", "b": "2"})
    record = ast.literal_eval(env.result("GB('StreamReader').run('s')"))
    assert record["value"] == {"a": "1", "b": "2"}


def test_bas_18_nul_bytes(env):
    env.binary.set(b"{k}x", b"a\0b")
    env.results("GB().foreach(lambda r: execute('SET', '{k}y', r['value'])).run('{k}x')")
    assert env.binary.get(b"{k}y") == b"a\0b"


def test_bas_20_every_key_once(env):
    env.client.mset({f"pre{i}": 1 for i in range(2000)})
    env.client.set("other", 1)
    assert env.results("GB().count().run('pre*')") == ["2000"]
    assert env.results("GB().count().run('other')") == ["1"]


def test_bas_21_globals_are_per_script(env):
    script = """
    if 'counter' not in globals():
        counter = 0
    def count(x):
        global counter
        counter += 1
        return counter
    GB('ShardsIDReader').map(count).run()
    """
    assert env.results(script) == env.results(script) == ["1"] * env.shard_count


ENDLESS = """
def forever(x):
    while True:
        pass
GB('ShardsIDReader').map(forever).run()
"""


def running_and_queued(new_env):
    env = new_env("ExecutionThreads", 1)
    running = env.start(ENDLESS)
    queued = env.start(ENDLESS)
    env.wait_status(running, "running")
    return env, running, queued


def test_bas_22_running_and_queued(new_env):
    env, running, queued = running_and_queued(new_env)
    assert env.plan(running)["status"] == "running"
    assert env.plan(queued)["status"] == "created"


def test_bas_23_abort_a_running_plan(new_env):
    env, running, queued = running_and_queued(new_env)
    assert env.abort(running) == "OK"
    env.wait_status(running, "done")
    assert len(env.plan(running)["errors"]) == 1
    env.wait_status(queued, "running")
    assert env.abort(queued) == "OK"
    env.wait_status(queued, "done", "aborted")
    assert env.drop(running) == "OK"
    assert env.drop(queued) == "OK"
    assert env.executions() == {}


def test_bas_25_a_key_of_the_start(env):
    (reply,) = env.call("RG.CONFIGSET", "DependenciesSha256", "/")
    assert isinstance(reply, Error)
    assert "(error)" in reply
    assert env.call("RG.CONFIGSET", "MaxExecutions", "10") == ["OK"]


def test_bas_26_an_unknown_key(env):
    (reply,) = env.call("RG.CONFIGGET", "unknown")
    assert isinstance(reply, Error)
    assert reply.startswith("(error)")


def test_bas_27_an_unknown_key_is_saved(env):
    saved, ok = env.call("RG.CONFIGSET", "unknown27", "1", "MaxExecutions", "10")
    assert saved == "OK - value was saved in extra config dictionary"
    assert ok == "OK"
    assert env.call("RG.CONFIGGET", "MaxExecutions") == [10]


def test_bas_28_an_unknown_execution(env):
    assert env.error("RG.GETEXECUTION", "0" * 40 + "-12345") == "execution plan does not exist"


def test_bas_29_profiling_is_off(env):
    assert env.call("RG.CONFIGGET", "ProfileExecutions") == [0]


def test_bas_30_steps_are_not_timed(env):
    hundred(env)
    identifier = env.start("GB().map(lambda r: r['value']).count().run()")
    env.wait(identifier)
    durations = [step[3] for step in env.plan(identifier)["steps"]]
    assert len(durations) >= 1
    assert sum(durations) == 0


def test_bas_31_shard_in_any_case(env):
    identifier = env.start("GB('ShardsIDReader').run()")
    env.wait(identifier)
    assert len(env.call("RG.GETEXECUTION", identifier, "sHARD")) == 1


@pytest.mark.cluster
@pytest.mark.parametrize("word", ["Cluster", "CLUSTER", "cluster"])
def test_bas_32_cluster_in_any_case(env, word):
    identifier = env.start("GB('ShardsIDReader').run()")
    env.wait(identifier)
    entries = [pairs(entry) for entry in env.call("RG.GETEXECUTION", identifier, word)]
    assert sorted(entry[b"shard_id"].decode() for entry in entries) == env.ids


@pytest.mark.cluster
@pytest.mark.parametrize("value", ["_thread.allocate_lock()", "(i for i in [1])"])
def test_bas_33_records_that_do_not_travel(env, value):
    """One error for each other shard; the record of the first one makes no journey."""
    script = f"""
    import _thread
    GB('ShardsIDReader').map(lambda x: {value}).collect().map(lambda x: 'here').run()
    """
    results, errors = env.run(script)
    assert results == ["here"]
    assert len(errors) == env.shard_count - 1


@pytest.mark.cluster
def test_bas_35_shards_that_are_silent(env):
    env.config("ExecutionMaxIdleTime", 500)
    script = f"""
    import time
    def work(x):
        if x != '{env.server.id}':
            time.sleep(1)
    GB('ShardsIDReader').foreach(work).run()
    """
    results, errors = env.run(script)
    assert results == [env.server.id]
    assert errors == ["Execution max idle reached"]


def test_bas_34_atomic(env):
    script = """
    def work(x):
        with atomic():
            execute('set', 'x{%s}' % hashtag(), 1)
            execute('set', 'y{%s}' % hashtag(), 2)
    GB('ShardsIDReader').foreach(work).run()
    """
    env.results(script)
    assert sorted(env.results("GB().map(lambda r: r['value']).distinct().run()")) == ["1", "2"]


def test_bas_36_stream_from_an_id(env):
    first = env.client.xadd("s", {"n": 1})
    second = env.client.xadd("s", {"n": 2})
    script = "GB('StreamReader').map(lambda r: r['id']).run('s'{})"
    assert env.results(script.format("")) == [first, second]
    assert env.results(script.format(f", fromId='{first}'")) == [second]


def test_bas_37_a_missing_key(env):
    assert (
        env.results("GB().map(lambda r: r['type']).run('no', noScan=True)")
        == ["empty"] * env.shard_count
    )


def test_bas_38_without_value(env):
    env.client.set("x", 1)
    record = ast.literal_eval(env.result("GB().run('x', readValue=False)"))
    assert record == {"key": "x", "event": None}


def test_bas_39_keys_only_of_one_name(env):
    env.client.mset({"xx": 1, "xy": 1, "y": 1})
    assert env.results("GB('KeysOnlyReader').sort().run('xy')") == ["xy"]


def test_bas_40_keys_only_in_small_steps(env):
    env.client.mset({"xx": 1, "xy": 1, "y": 1})
    assert env.results("GB('KeysOnlyReader').sort().run(count=1)") == ["xx", "xy", "y"]


def test_bas_41_a_pattern_generator(env):
    env.each(lambda shard: shard.client.set(f"{{{shard.tag}}}", 1))
    env.client.set("other", 1)
    script = """
    GB('KeysOnlyReader').count().run(patternGenerator=lambda: ('{%s}' % hashtag(), True))
    """
    assert env.results(script) == [str(env.shard_count)]


def test_bas_42_in_multi(env):
    env.call("MULTI")
    assert env.call("RG.PYEXECUTE", "GB().run()") == "QUEUED"
    (reply,) = env.call("EXEC")
    assert isinstance(reply, Error)


def test_bas_43_aggregateby_with_a_mutable_zero(env):
    env.client.mset({"a1": 1, "a2": 2, "a3": 3, "b1": 4, "b2": 5, "b3": 6})
    script = """
    def add(k, a, r):
        a['sum'] += int(r['value'])
        a['product'] *= int(r['value'])
        return a
    def combine(k, a, r):
        a['sum'] += r['sum']
        a['product'] *= r['product']
        return a
    GB().aggregateby(lambda r: r['key'][0], {'sum': 0, 'product': 1}, add, combine).run()
    """
    assert pairs_of(env.results(script)) == [
        ("a", {"sum": 6, "product": 6}),
        ("b", {"sum": 15, "product": 120}),
    ]


@pytest.mark.cluster
def test_bas_44_net_10_a_refresh_of_one_shard(env):
    hundred(env)
    for shard in env.shards:
        assert shard.call("RG.REFRESHCLUSTER") == "OK"
        begin = time.monotonic()
        assert env.results("GB().count().run()") == ["100"]
        assert time.monotonic() - begin < 2


def test_bas_45_a_user_key(env):
    saved = "OK - value was saved in extra config dictionary"
    assert env.call("RG.CONFIGSET", "user45", "value") == [saved]
    assert env.call("RG.CONFIGGET", "user45") == [b"value"]


@pytest.mark.single("time events work on the keys of their server")
def test_bas_16_a_time_event(env):
    env.client.mset({"x": 1, "y": 1, "z": 1})
    env.execute(
        """
        def tick():
            GB().filter(lambda r: r['key'] != 'timer') \\
                .foreach(lambda r: execute('incr', r['key'])).run()
        registerTE(1, tick, 'timer')
        """
    )
    assert env.client.mget("x", "y", "z") == ["1", "1", "1"]
    wait_until(lambda: min(map(int, env.client.mget("x", "y", "z"))) > 1)


@pytest.mark.single("time events work on the keys of their server")
def test_bas_17_the_end_of_a_time_event(env):
    """The second timer is the clock that shows that the first one stopped."""
    env.execute("registerTE(1, lambda: execute('incr', 'n'), 'timer')")
    wait_until(lambda: env.client.get("n") == "1")
    assert env.client.delete("timer") == 1
    assert not env.client.exists("timer")
    before = env.client.get("n")
    env.execute("registerTE(1, lambda: execute('incr', 'm'), 'clock')")
    wait_until(lambda: env.client.get("m") == "2")
    assert env.client.get("n") == before


def test_bas_19_the_oldest_execution_goes(new_env):
    env = new_env("MaxExecutions", 3)
    env.register("GB().register('k*')")
    for i in range(3):
        env.client.set(f"k{i}", i)
    wait_until(lambda: list(env.executions().values()) == ["done"] * 3)
    before = set(env.executions())
    env.client.set("k3", 1)
    env.wait_data(numSuccess=4)
    after = set(env.executions())
    assert len(after) == 3
    (gone,) = before - after
    assert gone == min(before, key=lambda identifier: int(identifier.split("-")[1]))


@pytest.mark.single("time events work on the keys of their server")
def test_bas_24_time_events_of_two_sessions(env):
    for name in ("one", "two"):
        env.execute(
            f"""
            n = 0
            def tick():
                global n
                n += 1
                execute('set', '{name}', n)
            registerTE(1, tick, 'timer {name}')
            """
        )
    wait_until(lambda: env.client.mget("one", "two") == ["1", "1"])
    wait_until(lambda: env.client.mget("one", "two") == ["2", "2"])


def test_bas_46_info(env):
    env.register(
        """
        GB().register('k*', eventTypes=['set', 'del'], keyTypes=['string', 'list'],
            commands=['set'])
        GB('StreamReader').register('s')
        GB('CommandReader').register(trigger='t')
        """
    )
    info = env.call("INFO", "rg").decode()
    assert "rg_nexecutions:" in info
    assert "rg_nregistrations:3" in info
    assert "rg_TotalAllocated:" in info
    assert "rg_CurrAllocated:" in info


@pytest.mark.parametrize("mode", ["async", "sync", "async_local"])
def test_bas_47_the_slow_log(env, mode):
    """The time that the function ran is what the slow log shows, in all modes."""
    env.client.config_set("slowlog-log-slower-than", 50_000)
    env.client.slowlog_reset()
    env.register(
        f"""
        import time
        GB('CommandReader').foreach(lambda r: time.sleep(0.1)).register(trigger='t', mode='{mode}')
        """
    )
    env.client.slowlog_reset()
    env.trigger("t")
    entry = wait_until(lambda: env.client.execute_command("SLOWLOG", "GET", "1"))[0]
    env.client.config_set("slowlog-log-slower-than", 10_000)
    assert [word.upper() for word in slow_command(entry)] == ["RG.TRIGGER", "T"]


def slow_command(entry):
    command = entry["command"] if isinstance(entry, dict) else entry[3]
    if isinstance(command, bytes):
        command = command.decode()
    return command.split() if isinstance(command, str) else command


def test_bas_48_a_stream_emptied_after_an_abort(env):
    script = "GB('StreamReader').foreach(lambda r: nope).register('s', onFailedPolicy='abort')"
    env.register(script)
    env.add("s")
    wait_until(lambda: env.data()["status"] == "ABORTED")
    env.client.xtrim("s", maxlen=0)
    env.register(script)
    assert len(env.registrations()) == 2
    env.add("s")
    wait_until(
        lambda: {e["RegistrationData"]["status"] for e in env.registrations()} == {"ABORTED"}
    )


@pytest.mark.parametrize("mode", ["async", "async_local"])
def test_bas_49_an_asynchronous_hook_and_execute(env, mode):
    env.register(
        f"GB('CommandReader').map(lambda r: call_next(*r[1:])).register(hook='set', mode='{mode}')"
    )
    write = "execute('set', 'x{%s}' % hashtag(), 1)"
    errors = env.errors(f"GB('ShardsIDReader').foreach(lambda x: {write}).run()")
    assert ["blocking is not allowed" in error for error in errors] == [True] * env.shard_count


def test_bas_50_a_reply_that_becomes_an_error(env):
    env.register(
        """
        GB().foreach(lambda r: override_reply('-ERR no')) \\
            .register('*', commands=['set'], mode='async_local')
        """
    )
    assert env.call("SET", "x", "1") == Error("ERR no")
    script = "GB('ShardsIDReader').map(lambda x: execute('ping')).run()"
    assert env.results(script) == ["PONG"] * env.shard_count
