"""KeysReader registrations: which events fire, in which order, and what the function gets."""

import pytest
from env import HOLD
from server import wait_until

pytestmark = pytest.mark.lopsided

MODES = ["sync", "async_local", "async"]
LOG = "foreach(lambda r: execute('rpush', 'log', str(r)))"


def listen(env, arguments="", prefix="k*", mode="sync", log=LOG):
    """Register a function that writes its records to the list `log`."""
    env.register(f"GB().{log}.register('{prefix}', mode='{mode}', {arguments})")


def events(env):
    return [eval(record)["event"] for record in env.log_list()]


def names(env):
    return [eval(record)["key"] for record in env.log_list()]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "regex argument must be a string"),
        ("prefix=None", "regex argument must be a string"),
        ("regex=1", "regex argument must be a string"),
        ("eventTypes=1", "given eventTypes is not iterable"),
        ("eventTypes=['set', 1]", "given event type is not string"),
        ("keyTypes=1", "given keyTypes is not iterable"),
        ("keyTypes=[1]", "given key type is not string"),
        ("keyTypes=['string', 'text']", "unknown key type"),
        ("readValue=1", "readValue is not boolean"),
        ("commands=1", "given commands is not iterable"),
        ("commands=['get', 1]", "given command type is not string"),
        ("commands=['nope']", "bad reply on COMMAND command"),
        ("commands=['exec']", "Can not hook a command which are not allowed inside a script"),
        ("commands=['xread']", "Can not hook a command with moveable keys by key prefix"),
        ("commands=['ping']", "Can not hook a command by key prefix with none positive first key"),
        ("'', commands=['get']", "Empty perfix given to command hooker"),
        ("mode=1", "execution mode must be a string"),
        ("mode='later'", "unknown execution mode"),
        ("onRegistered=1", "OnRegistered argument must be a function"),
        ("onUnregistered=1", "must be a function"),
    ],
)
def test_arguments(env, arguments, text):
    assert text in env.refused(f"GB().register({arguments})")
    assert env.registrations() == []


@pytest.mark.parametrize("reader", ["PythonReader", "KeysOnlyReader", "ShardsIDReader"])
def test_readers_without_events(env, reader):
    text = "given reader does not exists or does not support register"
    assert text in env.refused(f"GB('{reader}').register()")
    assert env.registrations() == []


@pytest.mark.parametrize(
    ("command", "record"),
    [
        (["SET", "k", "1"], {"event": "set", "type": "string", "value": "1"}),
        (["HSET", "k", "a", "1"], {"event": "hset", "type": "hash", "value": {"a": "1"}}),
        (["RPUSH", "k", "a", "b"], {"event": "rpush", "type": "list", "value": ["a", "b"]}),
        (["SADD", "k", "a"], {"event": "sadd", "type": "set", "value": None}),
        (["ZADD", "k", "1", "a"], {"event": "zadd", "type": "zset", "value": None}),
        (["XADD", "k", "*", "a", "b"], {"event": "xadd", "type": "unknown", "value": None}),
        (["GET", "k"], {"event": "keymiss", "type": "empty", "value": None}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_records(env, mode, command, record):
    listen(env, mode=mode)
    env.call(*command)
    expected = {"event": record["event"], "key": "k", **record}
    env.wait_log([str(expected)])


def test_a_deleted_key(env):
    env.client.set("k", 1)
    listen(env)
    env.client.delete("k")
    assert env.log_list() == [str({"event": "del", "key": "k", "type": "empty", "value": None})]


def test_an_expired_key(env):
    env.client.set("k", 1)
    listen(env, "eventTypes=['expired']")
    env.client.pexpire("k", 1)
    env.wait_log([str({"event": "expired", "key": "k", "type": "empty", "value": None})])


def test_a_key_that_expires_when_it_is_read(env):
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    env.client.set("k", 1)
    listen(env, "eventTypes=['expired']")
    env.client.pexpire("k", 1)
    wait_until(lambda: env.client.get("k") is None)
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    env.wait_log([str({"event": "expired", "key": "k", "type": "empty", "value": None})])


def test_an_evicted_key(new_env):
    """The function keeps its records to itself: what it writes would be evicted too."""
    env = new_env(options=["--maxmemory-policy", "allkeys-lru"])
    env.register(
        """
        seen = []
        GB().foreach(lambda r: seen.append(str(r))).register('k*', eventTypes=['evicted'],
            mode='sync')
        GB('CommandReader').flatmap(lambda r: list(seen)).register(trigger='seen', mode='sync')
        """
    )
    env.client.set("k", 1)
    env.client.config_set("maxmemory", 1)
    wait_until(lambda: env.client.dbsize() == 0)
    env.client.config_set("maxmemory", 0)
    expected = {"event": "evicted", "key": "k", "type": "empty", "value": None}
    assert env.trigger("seen") == [str(expected)]


def test_a_renamed_key(env):
    env.client.set("k1{x}", "v")
    listen(env)
    env.client.rename("k1{x}", "k2{x}")
    assert env.log_list() == [
        str({"event": "rename_from", "key": "k1{x}", "type": "empty", "value": None}),
        str({"event": "rename_to", "key": "k2{x}", "type": "string", "value": "v"}),
    ]


def test_two_events_of_one_command(env):
    listen(env)
    env.client.set("k", 1, ex=100)
    assert events(env) == ["set", "expire"]


@pytest.mark.parametrize("mode", MODES)
def test_every_write_is_an_event(env, mode):
    listen(env, mode=mode)
    for i in range(200):
        env.client.set("k", i)
    wait_until(lambda: env.client.llen("log") == 200)
    if mode == "sync":
        assert [eval(r)["value"] for r in env.log_list()] == [str(i) for i in range(200)]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_functions_run_in_the_order_of_events(env, mode):
    listen(env, mode=mode)
    for i in range(300):
        env.client.set(f"k{i}", i)
    wait_until(lambda: env.client.llen("log") == 300)
    assert names(env) == [f"k{i}" for i in range(300)]


def test_values_are_read_when_the_function_runs(env):
    env.register(
        HOLD
        + f"""
def work(r):
    if r['key'] == 'k':
        hold()
GB().foreach(work).{LOG}.register('k*', mode='async_local')
"""
    )
    env.client.set("k", 1)
    wait_until(env.held)
    env.client.set("k1", "old")
    env.client.set("k1", "new")
    env.client.set("k2", "gone")
    env.client.delete("k2")
    env.go()
    env.wait_log(
        [
            str({"event": "set", "key": "k", "type": "string", "value": "1"}),
            str({"event": "set", "key": "k1", "type": "string", "value": "new"}),
            str({"event": "set", "key": "k1", "type": "string", "value": "new"}),
            str({"event": "set", "key": "k2", "type": "empty", "value": None}),
            str({"event": "del", "key": "k2", "type": "empty", "value": None}),
        ]
    )


@pytest.mark.parametrize("event_types", [["set"], ["SET"], ["hset", "Set"], ("set",), {"sEt"}])
def test_event_types_in_any_case(env, event_types):
    listen(env, f"eventTypes={event_types!r}")
    env.client.set("k", 1)
    env.client.expire("k", 100)
    env.client.append("k", 1)
    assert events(env) == ["set"]


def test_event_types_that_are_one_text_never_match(env):
    listen(env, "eventTypes='set'")
    env.client.set("k", 1)
    env.client.delete("k")
    assert env.log_list() == []
    assert env.data()["numTriggered"] == 0


KEY_OF_TYPE = {
    "string": ["SET", "k", "1"],
    "list": ["LPUSH", "k", "1"],
    "hash": ["HSET", "k", "a", "1"],
    "set": ["SADD", "k", "1"],
    "zset": ["ZADD", "k", "1", "a"],
    "stream": ["XADD", "k", "*", "a", "b"],
}


@pytest.mark.parametrize("name", [*KEY_OF_TYPE, "empty"])
def test_key_types(env, name):
    listen(env, f"keyTypes=['{name}']")
    for command in KEY_OF_TYPE.values():
        env.call(*command)
        env.call("DEL", "k")
    found = [eval(record)["type"] for record in env.log_list()]
    if name == "empty":
        assert set(found) == {"empty"}
        assert events(env).count("del") == len(KEY_OF_TYPE)
    else:
        assert found == ["unknown" if name == "stream" else name]
    assert env.data()["args"]["keyTypes"] == [name]


def test_several_key_types(env):
    listen(env, "keyTypes=['hash', 'list']")
    for command in KEY_OF_TYPE.values():
        env.call(*command)
        env.call("DEL", "k")
    assert sorted(eval(record)["type"] for record in env.log_list()) == ["hash", "list"]


def test_without_value(env):
    env.client.set("k", 1)
    listen(env, "readValue=False")
    env.client.set("k", 1)
    env.client.delete("k")
    assert env.log_list() == ["{'event': 'set', 'key': 'k'}", "{'event': 'del', 'key': 'k'}"]


@pytest.mark.parametrize(
    ("prefix", "matching", "others"),
    [
        ("k", ["k"], ["k1", "", "K"]),
        ("k*", ["k", "k1", "k*", "k*1"], ["K1", "ak"]),
        ("k*1*", ["k*1", "k*12"], ["k11", "k1", "kx1"]),
        ("k?", ["k?"], ["k1", "k"]),
        ("[k]*", ["[k]", "[k]1"], ["k"]),
        ("*k", ["*k"], ["k", "ak"]),
    ],
)
def test_prefixes(env, prefix, matching, others):
    listen(env, prefix=prefix)
    for name in [*others, *matching, *others]:
        env.client.set(name, 1)
    assert names(env) == matching


def test_an_empty_prefix_is_the_empty_name(env):
    listen(env, prefix="")
    env.client.set("a", 1)
    env.client.set("", 1)
    assert names(env) == [""]


def test_the_default_prefix_is_every_key(env):
    env.register("GB().map(lambda r: r['key']).register(mode='sync', eventTypes=['set'])")
    env.client.set("a", 1)
    env.client.set("", 1)
    assert env.data()["numSuccess"] == 2
    assert env.data()["args"]["regex"] == "*"


def test_regex_is_an_old_name_of_prefix(env):
    before = env.server.log_size()
    env.register(f"GB().{LOG}.register('nothing', regex='k*', mode='sync')")
    env.client.set("k", 1)
    assert names(env) == ["k"]
    assert "regex" in env.server.log(before)


def test_unknown_arguments_are_named_in_the_log(env):
    before = env.server.log_size()
    env.register("GB().register('k*', colour='blue', onlyOnce=True)")
    text = env.server.log(before)
    assert "colour" in text
    assert "onlyOnce" in text


@pytest.mark.parametrize("mode", MODES)
def test_nul_bytes_in_names_and_values(env, mode):
    listen(env, mode=mode)
    env.client.set("k\0a", "v\0b")
    expected = {"event": "set", "key": "k\0a", "type": "string", "value": "v\0b"}
    env.wait_log([str(expected)])


@pytest.mark.parametrize("mode", MODES)
def test_bytes_that_are_no_text(env, mode):
    listen(env, mode=mode)
    env.binary.hset(b"k\xff", mapping={b"\xfe": b"\xfd"})
    expected = {
        "event": "hset",
        "key": bytearray(b"k\xff"),
        "type": "hash",
        "value": {b"\xfe": bytearray(b"\xfd")},
    }
    env.wait_log([str(expected)])


def test_a_prefix_that_ends_within_a_character(env):
    listen(env, prefix="ä*")
    env.client.set("äb", 1)
    env.binary.set(b"\xc3", 1)
    assert names(env) == ["äb"]


def test_registrations_run_in_their_order(env):
    for name in ("first", "second", "third"):
        env.register(
            f"GB().foreach(lambda r: execute('rpush', 'log', '{name}')).register('k', mode='sync')"
        )
    env.client.set("k", 1)
    assert env.log_list() == ["first", "second", "third"]


def test_settings_of_notifications_do_not_matter(env):
    listen(env)
    env.client.config_set("notify-keyspace-events", "")
    env.client.set("k", 1)
    env.client.config_set("notify-keyspace-events", "KEA")
    env.client.set("k", 2)
    env.client.config_set("notify-keyspace-events", "")
    assert events(env) == ["set", "set"]


@pytest.mark.parametrize("mode", MODES)
def test_within_multi(env, mode):
    listen(env, mode=mode)
    pipe = env.client.pipeline()
    pipe.set("k1{x}", "a")
    pipe.set("k2{x}", "b")
    assert pipe.execute() == [True, True]
    wait_until(lambda: env.client.llen("log") == 2)
    assert names(env) == ["k1{x}", "k2{x}"]


def test_a_sync_function_in_multi_sees_each_state(env):
    listen(env)
    pipe = env.client.pipeline()
    pipe.set("k", "a")
    pipe.set("k", "b")
    pipe.execute()
    assert [eval(record)["value"] for record in env.log_list()] == ["a", "b"]


@pytest.mark.parametrize("mode", MODES)
def test_within_a_script_of_the_server(env, mode):
    listen(env, mode=mode)
    code = "redis.call('set', 'k1', 'a') return redis.call('set', 'k2', 'b')"
    assert env.client.eval(code, 0) == "OK"
    wait_until(lambda: env.client.llen("log") == 2)
    assert names(env) == ["k1", "k2"]


def test_a_sync_function_is_done_before_the_reply(env):
    env.register("GB().foreach(lambda r: execute('incr', 'n')).register('k*', mode='sync')")
    pipe = env.client.pipeline(transaction=False)
    for i in range(100):
        pipe.set(f"k{i}", i)
        pipe.get("n")
    assert pipe.execute()[1::2] == [str(i + 1) for i in range(100)]


def test_a_failing_function_does_not_fail_the_writer(env):
    env.register("GB().foreach(lambda r: nope).register('k*', mode='sync')")
    assert env.client.set("k", 1)
    data = env.data()
    assert (data["numTriggered"], data["numFailures"]) == (1, 1)
    assert "NameError" in data["lastError"]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_error_goes_with_the_next_success(env, mode):
    env.register(
        f"""
        def work(r):
            if r['value'] == 'bad':
                raise ValueError('bad value')
        GB().foreach(work).register('k', mode='{mode}', eventTypes=['set'])
        """
    )
    env.client.set("k", "bad")
    env.wait_data(numFailures=1)
    assert "bad value" in env.data()["lastError"]
    env.client.set("k", "good")
    env.wait_data(numSuccess=1, lastError=None)


@pytest.mark.parametrize("second", MODES)
def test_writes_of_a_sync_function_fire_nothing(env, second):
    """Neither itself nor others; the event of a client afterwards shows that nothing waits."""
    env.register(
        f"""
        GB().foreach(lambda r: execute('set', 'k2', 1)).register('k*', mode='sync')
        GB().foreach(lambda r: execute('rpush', 'log', r['key'])) \\
            .register('*', mode='{second}', eventTypes=['set'])
        """
    )
    env.client.set("k1", 1)
    env.client.set("x", 1)
    env.wait_log(["k1", "x"])
    first, other = env.registrations()
    assert first["RegistrationData"]["numTriggered"] == 1
    assert other["RegistrationData"]["numTriggered"] == 2


@pytest.mark.parametrize("writing", ["multi", "script"])
def test_writes_of_a_sync_function_fire_nothing_within_one_unit(env, writing):
    env.register(
        """
        GB().foreach(lambda r: execute('incr', 'k:n')).register('k*', mode='sync')
        """
    )
    if writing == "multi":
        pipe = env.client.pipeline()
        pipe.set("k1{x}", 1)
        pipe.set("k2{x}", 1)
        pipe.execute()
    else:
        env.client.eval("redis.call('set', 'k1', 1) redis.call('set', 'k2', 1)", 0)
    assert env.client.get("k:n") == "2"
    assert env.data()["numTriggered"] == 2


def test_what_a_sync_function_deletes_or_misses_fires_nothing(env):
    env.client.mset({"k1": 1, "k2": 1})
    env.register(
        """
        def work(r):
            execute('del', 'k1')
            execute('get', 'k1')
            execute('pexpire', 'k2', -1)
        GB().foreach(work).register('k*', mode='sync')
        """
    )
    env.client.set("k", 1)
    assert env.data()["numTriggered"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_entries_of_a_sync_function_reach_streams(env, mode):
    env.register(
        f"""
        GB().foreach(lambda r: execute('xadd', 'stream', '*', 'key', r['key'])) \\
            .register('k*', mode='sync')
        GB('StreamReader').foreach(lambda r: execute('rpush', 'log', r['value']['key'])) \\
            .register('stream', mode='{mode}')
        """
    )
    for i in range(3):
        env.client.set(f"k{i}", 1)
    env.wait_log(["k0", "k1", "k2"])
    assert env.registrations()[0]["RegistrationData"]["numTriggered"] == 3


def test_writes_of_a_sync_stream_function_reach_keys(env):
    env.register(
        f"""
        GB('StreamReader').foreach(lambda r: execute('set', 'k', r['id'])) \\
            .register('s', mode='sync')
        GB().{LOG}.register('k', mode='sync')
        """
    )
    env.client.xadd("s", {"f": "v"}, id="1-1")
    env.wait_log([str({"event": "set", "key": "k", "type": "string", "value": "1-1"})])


def test_writes_of_a_sync_trigger_reach_keys(env):
    env.register(
        f"""
        GB('CommandReader').foreach(lambda r: execute('set', 'k', 1)) \\
            .register(trigger='t', mode='sync')
        GB().{LOG}.register('k', mode='sync')
        """
    )
    env.trigger("t")
    assert events(env) == ["set"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_writes_of_an_asynchronous_function_fire(env, mode):
    env.register(
        f"""
        def work(r):
            n = int(r['key'][1:])
            execute('rpush', 'log', r['key'])
            if n < 5:
                execute('set', f'k{{n + 1}}', 1)
        GB().foreach(work).register('k*', mode='{mode}')
        """
    )
    env.client.set("k1", 1)
    env.wait_log(["k1", "k2", "k3", "k4", "k5"])


def test_writes_of_runs_and_scripts_fire(env):
    listen(env)
    env.execute("execute('set', 'k1', 1)")
    write = "GB('ShardsIDReader').foreach(lambda x: execute('set', 'k2', 1))"
    env.results(f"{write}.run(mode='async_local')")
    assert names(env) == ["k1", "k2"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_executions_are_kept_with_their_results(env, mode):
    env.register(f"GB().map(lambda r: r['key']).register('k*', mode='{mode}')")
    env.client.set("k1", 1)
    (identifier,) = wait_until(lambda: list(env.executions()))
    assert env.wait(identifier) == (["k1"], [])
    env.unregister(env.identifier())
    if mode == "async_local":
        wait_until(lambda: env.executions() == {})


def test_a_key_that_expires_when_its_value_is_read_for_a_function(env):
    """Nobody touches `k` between its time and the reading of its record."""
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    env.register(
        HOLD
        + f"""
GB().foreach(lambda r: hold()).register('k*', mode='async_local', eventTypes=['set'])
GB().{LOG}.register('k', mode='sync', eventTypes=['expired'])
"""
    )
    env.client.set("k0", 1)
    wait_until(env.held)
    env.client.set("k", 1, px=20)
    env.client.set("clock", 1, px=30)
    wait_until(lambda: not env.client.exists("clock"))
    env.go()
    env.wait_log([str({"event": "expired", "key": "k", "type": "empty", "value": None})])
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_an_event_that_unregisters_its_own_registration(env):
    env.register(
        """
        ids = []
        def work(r):
            execute('rpush', 'log', r['key'])
            execute('rg.unregister', ids[0])
        ids.append(GB().foreach(work).register('k*', mode='async_local'))
        """
    )
    env.client.set("k1", 1)
    wait_until(lambda: env.registrations() == [])
    env.client.set("k2", 1)
    assert env.log_list() == ["k1"]


def test_a_function_that_registers(env):
    env.register(
        f"""
        def work(r):
            GB().{LOG}.register('k*', mode='sync')
        GB().foreach(work).register('start', mode='async_local')
        """
    )
    env.client.set("start", 1)
    wait_until(lambda: len(env.registrations()) == 2)
    env.client.set("k", 1)
    assert events(env) == ["set"]


def test_many_registrations_on_other_prefixes(env):
    env.register("for i in range(1000): GB().register(f'other:{i}:*', mode='sync')")
    listen(env)
    env.client.set("k", 1)
    env.client.set("other:500:x", 1)
    assert names(env) == ["k"]
    fired = [e for e in env.registrations() if e["RegistrationData"]["numTriggered"]]
    assert [e["RegistrationData"]["args"]["regex"] for e in fired] == ["other:500:*", "k*"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", ["1.5", "1", "10000", "1e3"])
def test_incrbyfloat(env, mode, value):
    """Reading the value changed it under the command's feet, which ended the server."""
    if not env.reaches_all_slots():
        pytest.skip("it uses keys of several slots inside a command with a key")
    listen(env, mode=mode, log="foreach(lambda r: execute('rpush', 'log', r['value']))")
    listen(env, "commands=['incrbyfloat']", mode=mode, log="foreach(lambda r: r['value'])")
    env.client.set("k", value)
    expected = []
    for _ in range(50):
        expected.append(env.call("INCRBYFLOAT", "k", "0.5").decode())
    assert float(expected[-1]) == float(value) + 25
    env.client.eval("for i = 1, 20 do redis.call('incrbyfloat', 'k', 1) end", 0)
    with env.client.pipeline() as pipe:
        for _ in range(20):
            pipe.incrbyfloat("k", 1)
        pipe.execute()
    env.settled(env.registrations()[0]["id"])
    assert float(env.client.get("k")) == float(value) + 65
    if mode == "sync":
        assert env.log_list()[:51] == [value, *expected]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "value", ["7", "12345678901234567890", "text", "x" * 44, "x" * 45, "x" * 300, ""]
)
def test_reading_leaves_strings_as_they_are_stored(env, mode, value):
    env.client.set("other", value)
    before = env.client.object("encoding", "other")
    log = "foreach(lambda r: execute('rpush', 'log', r['value']))"
    listen(env, mode=mode, log=log, arguments="eventTypes=['set']")
    env.client.set("k", value)
    env.wait_log([value])
    assert env.client.object("encoding", "k") == before
    assert env.results("GB().map(lambda r: r['value']).run('other')") == [value]
    assert env.client.object("encoding", "other") == before


@pytest.mark.single("databases")
@pytest.mark.parametrize("mode", MODES)
def test_records_of_other_databases(env, mode):
    """They show the key that the event is about, not its namesake in database 0."""
    env.client.set("k", "here")
    log = "foreach(lambda r: execute('rpush', 'log', r['type'] + ' ' + str(r['value'])))"
    listen(env, mode=mode, log=log)
    listen(env, "keyTypes=['hash']", prefix="only*", mode=mode, log=log)
    with env.server.wire() as other:
        other.call("SELECT", 1)
        other.call("SET", "k", "there")
        env.wait_log(["string there"])
        other.call("HSET", "only", "f", "v")
        env.wait_log(["string there", "hash {'f': 'v'}"])
        env.client.set("only", "text")
        other.call("FLUSHDB")
    env.client.set("k", "again")
    env.wait_log(["string there", "hash {'f': 'v'}", "string again"])


@pytest.mark.single("databases")
@pytest.mark.parametrize("mode", MODES)
def test_an_overridden_reply_of_another_database(env, mode):
    env.client.set("k", "here")
    env.register(
        f"""
        GB().foreach(lambda r: override_reply(r['value'])).register(
            'k*', mode='{mode}', commands=['set'])
        """
    )
    with env.server.wire() as other:
        other.call("SELECT", 1)
        assert other.call("SET", "k", "there") == b"there"
        other.call("FLUSHDB")


@pytest.mark.parametrize("how", ["transaction", "script"])
def test_a_key_that_is_deleted_and_comes_back(env, how):
    """The function runs when all is done: it is not told that a key is gone that is there."""
    listen(
        env,
        log="foreach(lambda r: execute('rpush', 'log', f"
        "\"{r['event']} {r['type']} {r['value']}\"))",
    )
    env.client.set("k1", "old")
    if how == "transaction":
        with env.client.pipeline(transaction=True) as pipe:
            pipe.delete("k1").set("k1", "new").set("k{k1}", "x").delete("k{k1}").execute()
    else:
        code = """
            redis.call('del', 'k1'); redis.call('set', 'k1', 'new')
            redis.call('set', 'k{k1}', 'x'); redis.call('del', 'k{k1}')
        """
        env.client.eval(code, 0)
    env.wait_log(
        ["set string old", "del string new", "set string new", "set string x", "del empty None"]
    )
    env.client.delete("k1")
    wait_until(lambda: env.log_list()[-1] == "del empty None")


@pytest.mark.parametrize("command", [["GETSET", "k", "v"], ["SET", "k", "v", "GET"]])
def test_a_key_that_is_missed_by_what_writes_it(env, command):
    """It did not exist at that moment: nobody deleted it."""
    listen(
        env,
        log="foreach(lambda r: execute('rpush', 'log{k}', f"
        "\"{r['event']} {r['type']} {r['value']}\"))",
    )
    assert env.client.execute_command(*command) is None
    wait_until(lambda: env.client.llen("log{k}") == 2)
    assert env.client.lrange("log{k}", 0, -1) == ["keymiss empty None", "set string v"]
