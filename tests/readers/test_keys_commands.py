"""KeysReader registrations with `commands`: the reply of a command waits and may be replaced."""

import pytest
from env import HOLD, one_shard
from server import wait_until
from wire import Error, Simple

pytestmark = pytest.mark.lopsided

MODES = ["sync", "async_local", "async"]
DETACHED = "Can not get command ctx"

# The server checks the right to these before the module is asked.
CARRIERS = "+rg.innerhook", "+rg.innerhookwrite"


def override(env, value="'instead'", mode="sync", commands="['get']", more="", prefix="*"):
    """Every GET of a missing key is answered with `value`."""
    more = more or "eventTypes=['keymiss']"
    env.register(
        f"GB().foreach(lambda r: override_reply({value}))"
        f".register('{prefix}', commands={commands}, mode='{mode}', {more})"
    )


@pytest.mark.parametrize("mode", MODES)
def test_read_through(env, mode):
    """What the function stores is what the client gets."""
    env.register(
        f"""
        def load(r):
            execute('set', r['key'], 'loaded')
            override_reply('loaded')
        GB().foreach(load).register('k*', eventTypes=['keymiss'], commands=['get'], mode='{mode}')
        """
    )
    assert env.call("GET", "k1") == b"loaded"
    assert env.call("GET", "k1") == b"loaded"
    assert env.data()["numTriggered"] == 1
    assert env.call("GET", "other") is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("'text'", b"text"),
        ("'+PONG'", Simple("PONG")),
        ("'-ERR no'", Error("ERR no")),
        ("'+'", b"+"),
        ("''", b""),
        ("5", 5),
        ("True", 1),
        ("1.5", b"1.500000"),
        ("b'a\\xff'", b"a\xff"),
        ("['a', 1, ['b']]", [b"a", 1, [b"b"]]),
        ("None", b"PY RECORD"),
        ("{}", b"PY RECORD"),
    ],
)
def test_values(env, mode, value, reply):
    override(env, value, mode)
    assert env.call("GET", "k") == reply


@pytest.mark.parametrize("mode", MODES)
def test_without_override_the_real_reply(env, mode):
    env.register(f"GB().register('*', commands=['set', 'incr'], mode='{mode}')")
    assert env.call("SET", "k", "5") == Simple("OK")
    assert env.call("INCR", "k") == 6
    assert env.data()["numTriggered"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_function_that_fails(env, mode):
    env.register(f"GB().foreach(lambda r: nope).register('*', commands=['set'], mode='{mode}')")
    assert env.call("SET", "k", "5") == Simple("OK")
    assert env.data()["numFailures"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_only_the_first_override_counts(env, mode):
    env.register(
        f"""
        def twice(r):
            override_reply('one')
            override_reply('two')
        GB().foreach(twice).register('*', commands=['set'], mode='{mode}')
        """
    )
    assert env.call("SET", "k", "5") == b"one"
    assert "Can only override reply once" in env.data()["lastError"]


def test_two_registrations_override_one_command(env):
    override(env, "'first'")
    override(env, "'second'")
    assert env.call("GET", "k") == b"first"
    first, second = env.registrations()
    assert first["RegistrationData"]["numSuccess"] == 1
    assert "Can only override reply once" in second["RegistrationData"]["lastError"]


@pytest.mark.parametrize("mode", MODES)
def test_two_events_of_one_command(env, mode):
    override(env, "r['key']", mode, "['mget']")
    assert env.call("MGET", "a{x}", "b{x}") == b"a{x}"
    assert env.data()["numTriggered"] == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_command_is_known(env, mode):
    env.register(
        f"""
        GB().foreach(lambda r: override_reply(get_command())) \\
            .register('*', commands=['SET'], mode='{mode}', eventTypes=['set'])
        """
    )
    assert env.call("SET", "k", "v", "EX", "100") == [b"SET", b"k", b"v", b"EX", b"100"]
    assert env.call("set", "k\0", "") == [b"set", b"k\0", b""]


@pytest.mark.parametrize("mode", MODES)
def test_a_command_of_bytes_that_are_no_text(env, mode):
    env.register(
        f"""
        GB().foreach(lambda r: override_reply(bytes(get_command()[2]))) \\
            .register('*', commands=['SET'], mode='{mode}')
        """
    )
    assert env.call("SET", "k", b"\xff\0\xfe") == b"\xff\0\xfe"


@pytest.mark.parametrize("call", ["get_command()", "override_reply(1)"])
def test_without_a_command(env, call):
    assert DETACHED in env.refused(call)
    (error,) = env.errors(f"{one_shard([1])}.foreach(lambda x: {call}).run()")
    assert DETACHED in error
    env.register(f"GB().foreach(lambda r: {call}).register('k', mode='sync')")
    env.client.set("k", 1)
    assert DETACHED in env.data()["lastError"]


@pytest.mark.parametrize("arguments", ["", "1, 2"])
def test_wrong_arguments_of_override_reply(env, arguments):
    env.register(
        f"""
        GB().foreach(lambda r: override_reply({arguments})) \\
            .register('*', commands=['set'], mode='sync')
        """
    )
    assert env.call("SET", "k", "1") == Simple("OK")
    assert "Override reply must get a single argument" in env.data()["lastError"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_the_client_waits(env, mode):
    env.register(
        HOLD + f"GB().foreach(lambda r: hold()).register('k', commands=['set'], mode='{mode}')"
    )
    with env.server.wire() as wire:
        wire.send("SET", "k", "1")
        wait_until(env.held)
        assert env.client.get("k") == "1"
        assert env.client.info("clients")["blocked_clients"] == 1
        env.go()
        assert wire.receive() == Simple("OK")


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_the_client_waits_for_every_execution(env, mode):
    env.register(
        HOLD
        + f"""
def work(r):
    if r['key'][0] == 'b':
        hold()
    execute('rpush', 'log', r['key'][0])
GB().foreach(work).register('*', commands=['mset'], mode='{mode}', eventTypes=['set'])
"""
    )
    with env.server.wire() as wire:
        wire.send("MSET", "a{x}", "1", "b{x}", "2", "c{x}", "3")
        wait_until(env.held)
        assert env.client.info("clients")["blocked_clients"] == 1
        env.go()
        assert wire.receive() == Simple("OK")
        assert env.log_list() == ["a", "b", "c"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_a_client_that_leaves(env, mode):
    env.register(
        HOLD + f"GB().foreach(lambda r: hold()).register('k', commands=['set'], mode='{mode}')"
    )

    def clients():
        return env.client.info("clients")["connected_clients"]

    with env.server.wire() as wire:
        wire.send("SET", "k", "1")
        wait_until(env.held)
        before = clients()
    wait_until(lambda: clients() < before)
    env.go()
    env.wait_data(numSuccess=1)


def test_sync_within_multi(env):
    override(env)
    env.call("MULTI")
    env.call("GET", "k")
    env.call("SET", "{k}x", "1")
    assert env.call("EXEC") == [b"instead", Simple("OK")]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_asynchronous_within_multi(env, mode):
    override(env, mode=mode)
    env.call("MULTI")
    env.call("GET", "k")
    assert env.call("EXEC") == [None]
    wait_until(lambda: env.data()["numFailures"] == 1)
    assert DETACHED in env.data()["lastError"]


def test_sync_within_a_script_of_the_server(env):
    override(env)
    assert env.call("EVAL", "return redis.call('get', 'k')", "0") == b"instead"


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_asynchronous_within_a_script_of_the_server(env, mode):
    override(env, mode=mode)
    assert env.call("EVAL", "return redis.call('get', 'k')", "0") is None
    wait_until(lambda: env.data()["numFailures"] == 1)
    assert DETACHED in env.data()["lastError"]


def test_execute_gets_the_reply_of_a_sync_function(env):
    override(env)
    script = "GB('ShardsIDReader').map(lambda x: execute('get', 'k')).run(mode='async_local')"
    assert env.results(script) == ["instead"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_execute_does_not_wait(env, mode):
    override(env, mode=mode)
    script = "GB('ShardsIDReader').map(lambda x: execute('get', 'k')).run(mode='async_local')"
    assert env.results(script) == ["None"]
    wait_until(lambda: env.data()["numFailures"] == 1)
    assert DETACHED in env.data()["lastError"]


def test_only_events_of_listed_commands(env):
    env.register("GB().register('*', commands=['set'], mode='sync')")
    env.client.mset({"a": 1})
    env.client.append("a", 1)
    env.client.pexpire("a", -1)
    env.client.get("a")
    assert env.data()["numTriggered"] == 0
    env.client.set("a", 1)
    assert env.data()["numTriggered"] == 1


def test_only_events_of_keys_with_the_prefix(env):
    env.register("GB().register('k*', commands=['mset', 'del'], mode='sync')")
    env.client.mset({"a": 1, "b": 1})
    env.client.delete("k1")
    assert env.data()["numTriggered"] == 0
    env.client.mset({"a": 1, "k1": 1, "k2": 2})
    assert env.data()["numTriggered"] == 2


@pytest.mark.parametrize("event_type", ["set", "SET"])
def test_event_types_still_count(env, event_type):
    env.register(f"GB().register('*', commands=['set'], eventTypes=['{event_type}'], mode='sync')")
    env.client.set("k", 1, ex=100)
    assert env.data()["numTriggered"] == 1


@pytest.mark.parametrize("name", ["get", "GET", "gEt"])
def test_names_of_commands_in_any_case(env, name):
    override(env, commands=f"['{name}']")
    assert env.call("GeT", "k") == b"instead"
    assert env.data()["args"]["hookCommands"] == [name]


def test_an_empty_list_is_no_hook(env):
    env.register("GB().register('*', commands=[], mode='sync')")
    env.client.mset({"a": 1})
    assert env.data()["numTriggered"] == 1


def test_unregistering_ends_the_hook(env):
    override(env)
    assert env.call("GET", "k") == b"instead"
    env.unregister(env.identifier())
    assert env.call("GET", "k") is None


@pytest.mark.single("databases")
@pytest.mark.parametrize("mode", MODES)
def test_the_command_runs_in_the_database_of_its_client(env, mode):
    env.register(f"GB().register('*', commands=['set', 'get'], mode='{mode}')")
    with env.server.wire() as wire:
        wire.call("SELECT", "5")
        assert wire.call("SET", "k", "five") == Simple("OK")
        assert wire.call("GET", "k") == b"five"
    assert env.call("GET", "k") is None
    assert env.client.dbsize() == 0


@pytest.mark.parametrize("mode", MODES)
def test_wrong_commands_are_answered_by_the_server(env, mode):
    env.register(f"GB().register('*', commands=['get', 'set'], mode='{mode}')")
    assert env.error("GET", "a", "b") == "ERR wrong number of arguments for 'get' command"
    assert env.error("GET") == "ERR wrong number of arguments for 'get' command"
    assert env.error("SET", "a", "b", "nope") == "ERR syntax error"
    env.client.lpush("l", 1)
    assert env.error("GET", "l").startswith("WRONGTYPE")


@pytest.mark.parametrize("mode", MODES)
def test_over_the_limit_of_memory(new_env, mode):
    env = new_env()
    env.client.set("k", "v")
    env.register(f"GB().register('*', commands=['get', 'set'], mode='{mode}')")
    env.client.config_set("maxmemory", 1)
    assert env.call("GET", "k") == b"v"
    assert env.error("SET", "k", "w").startswith("OOM command not allowed")
    env.client.config_set("maxmemory", 0)
    assert env.call("GET", "k") == b"v"


@pytest.mark.parametrize("mode", MODES)
def test_the_client_needs_the_right_to_the_command(env, mode):
    """The right to the carrier alone is worth nothing: that to the command and key counts."""
    if not env.reaches_all_slots():
        pytest.skip("it uses keys of several slots inside a command with a key")
    env.register(
        f"""
        GB().foreach(lambda r: execute('incr', 'n')).register('*', commands=['set'], mode='{mode}')
        """
    )
    env.call("ACL", "SETUSER", "bob", "reset", "on", "nopass", "~k*", "+get", "+set", *CARRIERS)
    env.call("ACL", "SETUSER", "eve", "reset", "on", "nopass", "~*", "+@all", "-set")
    with env.server.wire() as bob, env.server.wire() as eve:
        assert bob.call("AUTH", "bob", "x") == "OK"
        assert eve.call("AUTH", "eve", "x") == "OK"
        assert eve.call("SET", "k", "eve").startswith("NOPERM")
        assert bob.call("SET", "other", "bob").startswith("NOPERM")
        assert env.client.mget("k", "other", "n") == [None, None, None]
        assert bob.call("SET", "k", "bob") == "OK"
    wait_until(lambda: env.client.get("n") == "1")
    env.call("ACL", "DELUSER", "bob", "eve")


def test_a_hook_survives_reloads(durable):
    override(durable)
    for _ in durable.lives():
        assert durable.call("GET", "k") == b"instead"


def test_on_a_replica(new_env):
    """Reads of its own clients work there; the commands of the master fire nothing."""
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register("GB().register('*', commands=['get', 'set'], mode='sync')")
    master.client.set("k", "v")
    replica.wait_synced(master)
    assert replica.call("GET", "k") == b"v"
    assert replica.error("SET", "k", "w").startswith("READONLY")
    assert replica.data()["numTriggered"] == 0
