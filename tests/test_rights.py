"""Whose rights a registered function has, and who may manage registrations."""

import pytest
from server import wait_until
from wire import Error

pytestmark = pytest.mark.lopsided

ADMIN = [
    "rg.unregister",
    "rg.pauseregistrations",
    "rg.unpauseregistrations",
    "rg.clearregistrationsstats",
]
MODES = ["sync", "async_local", "async"]
UNKNOWN = "0" * 40 + "-999999"


@pytest.fixture
def acl_env(new_env, tmp_path):
    """A server that keeps its users over a restart."""
    path = tmp_path / "users.acl"
    path.touch()
    options = ["--aclfile", str(path), "--appendonly", "yes", "--appendfsync", "always"]
    return new_env(options=options)


def set_user(env, name, *rules):
    assert env.call("ACL", "SETUSER", name, "reset", "on", "nopass", *rules) == "OK"


def login(env, name):
    wire = env.server.wire()
    assert wire.call("AUTH", name, "x") == "OK"
    return wire


def register_as(env, name, script):
    with login(env, name) as wire:
        assert wire.call("RG.PYEXECUTE", script) == "OK"


def as_bob(env, script, *rules):
    set_user(env, "bob", "~mine:*", "+@all", *rules)
    register_as(env, "bob", script)


def end(env):
    env.call("ACL", "DELUSER", "bob")


TRIGGER = """
GB('CommandReader').filter(lambda r: hashtag() == '06S') \\
    .foreach(lambda r: execute('set', r[1], 'x')).register(trigger='set', mode='{}')
"""
"""It works on the first shard, also in mode `async`."""


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_has_the_rights_of_who_registered(env, mode):
    as_bob(env, TRIGGER.format(mode))
    assert env.call("RG.TRIGGER", "set", "mine:1")
    assert env.client.get("mine:1") == "x"
    assert "NOPERM" in env.error("RG.TRIGGER", "set", "other")
    assert not env.client.exists("other")
    end(env)


@pytest.mark.parametrize("mode", MODES)
def test_a_caller_without_rights_may_trigger(env, mode):
    """What the function may do is not what its caller may do."""
    env.register(TRIGGER.format(mode))
    set_user(env, "bob", "+rg.trigger")
    with login(env, "bob") as wire:
        assert isinstance(wire.call("SET", "x", "1"), Error)
        assert wire.call("RG.TRIGGER", "set", "x") == [b"['set', 'x']"]
    assert env.client.get("x") == "x"
    end(env)


@pytest.mark.parametrize("mode", MODES)
def test_key_events(env, mode):
    as_bob(
        env,
        f"""GB().foreach(lambda r: execute('set', r['value'], 1)).register(
            'mine:*', mode='{mode}', eventTypes=['lpush'], keyTypes=['list'])
GB().foreach(lambda r: execute('set', 'mine:' + r['value'], 1)).register(
            'mine:go', mode='{mode}', eventTypes=['set'])
GB().foreach(lambda r: execute('set', 'other', 1)).register(
            'mine:stop', mode='{mode}', eventTypes=['set'])""",
    )
    env.client.set("mine:go", "there")
    wait_until(lambda: env.client.exists("mine:there"))
    env.client.set("mine:stop", "x")
    third = env.registrations()[2]["id"]
    env.wait_data(third, numFailures=1)
    assert "NOPERM" in env.data(third)["lastError"]
    assert not env.client.exists("other")
    end(env)


@pytest.mark.parametrize("mode", MODES)
def test_streams(env, mode):
    as_bob(
        env,
        f"""GB('StreamReader').foreach(lambda r: execute('set', r['value']['key'], 1)).register(
            'mine:s', mode='{mode}')""",
    )
    env.client.xadd("mine:s", {"key": "mine:1"})
    wait_until(lambda: env.client.exists("mine:1"))
    env.client.xadd("mine:s", {"key": "other"})
    env.wait_data(numFailures=1)
    assert "NOPERM" in env.data()["lastError"]
    assert not env.client.exists("other")
    end(env)


def test_hooks(env):
    """The client may write the key, the function may not."""
    as_bob(
        env,
        """def work(r):
    execute('incr', 'other:{1}')
    return call_next(*r[1:])
GB('CommandReader').map(work).register(hook='set', mode='sync')""",
    )
    assert "NOPERM" in env.error("SET", "mine:{1}", "x")
    assert env.client.exists("other:{1}", "mine:{1}") == 0
    end(env)


def test_rights_that_change_later(env):
    as_bob(env, TRIGGER.format("sync"))
    assert env.call("RG.TRIGGER", "set", "mine:1")
    set_user(env, "bob", "~yours:*", "+@all")
    assert "NOPERM" in env.error("RG.TRIGGER", "set", "mine:1")
    assert env.call("RG.TRIGGER", "set", "yours:1") == [b"['set', 'yours:1']"]
    end(env)


@pytest.mark.parametrize("mode", MODES)
def test_the_functions_of_a_deleted_user_stop(env, mode):
    as_bob(env, TRIGGER.format(mode))
    assert env.call("RG.TRIGGER", "set", "mine:1") == [b"['set', 'mine:1']"]
    env.call("ACL", "DELUSER", "bob")
    env.client.delete("mine:1")
    assert isinstance(env.call("RG.TRIGGER", "set", "mine:1"), Error)
    assert not env.client.exists("mine:1")
    assert env.data()["numFailures"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_key_functions_of_a_deleted_user_stop(env, mode):
    as_bob(
        env,
        f"""GB().foreach(lambda r: execute('set', 'mine:done', 1)).register(
            'mine:k', mode='{mode}')""",
    )
    env.call("ACL", "DELUSER", "bob")
    env.client.set("mine:k", 1)
    env.wait_data(numFailures=1)
    assert not env.client.exists("mine:done")


def test_a_user_of_the_same_name_later(env):
    """Rights go by the name: who is deleted and made again has the new rights."""
    as_bob(env, TRIGGER.format("sync"))
    env.call("ACL", "DELUSER", "bob")
    set_user(env, "bob", "~new:*", "+@all")
    assert "NOPERM" in env.error("RG.TRIGGER", "set", "mine:1")
    end(env)


@pytest.mark.parametrize("mode", MODES)
def test_rights_over_restarts(acl_env, mode):
    env = acl_env
    as_bob(env, TRIGGER.format(mode))
    env.call("ACL", "SAVE")
    for _ in env.lives():
        env.client.delete("mine:1")
        assert env.call("RG.TRIGGER", "set", "mine:1") == [b"['set', 'mine:1']"]
        assert "NOPERM" in env.error("RG.TRIGGER", "set", "other")
        assert not env.client.exists("other")


def test_a_user_who_is_gone_after_a_restart(durable):
    """Functions of users that no file keeps do nothing; they do not become anybody's."""
    as_bob(durable, TRIGGER.format("sync"))
    durable.restart()
    assert isinstance(durable.call("RG.TRIGGER", "set", "mine:1"), Error)
    assert isinstance(durable.call("RG.TRIGGER", "set", "other"), Error)
    assert durable.client.exists("mine:1", "other") == 0


def test_rights_on_a_promoted_replica(new_env):
    master, replica = new_env(), new_env()
    for env in (master, replica):
        set_user(env, "bob", "~mine:*", "+@all")
    replica.follow(master)
    register_as(master, "bob", TRIGGER.format("sync"))
    replica.wait_synced(master)
    replica.promote()
    assert replica.call("RG.TRIGGER", "set", "mine:1") == [b"['set', 'mine:1']"]
    assert "NOPERM" in replica.error("RG.TRIGGER", "set", "other")


def test_what_a_function_registers_has_its_rights(env):
    as_bob(
        env,
        """def work(r):
    GB('CommandReader').foreach(lambda r: execute('set', r[1], 1)).register(
        trigger='set', mode='sync')
GB().foreach(work).register('mine:start', mode='async_local')""",
    )
    env.client.set("mine:start", 1)
    wait_until(lambda: len(env.registrations()) == 2)
    assert env.call("RG.TRIGGER", "set", "mine:1")
    assert "NOPERM" in env.error("RG.TRIGGER", "set", "other")
    end(env)


def test_time_events_have_the_rights_of_their_script(env):
    as_bob(
        env,
        """def tick():
    try:
        execute('set', 'other', 1)
    except Exception as error:
        execute('set', 'mine:error', str(error))
registerTE(1, tick, 'mine:timer')""",
    )
    assert "NOPERM" in wait_until(lambda: env.client.get("mine:error"))
    assert not env.client.exists("other")
    env.client.delete("mine:timer")
    end(env)


def test_triggering_is_not_administration(env):
    env.register("GB('CommandReader').register(trigger='t', mode='sync')")
    set_user(env, "bob", "~*", "+@all", "-@admin", "-@dangerous")
    with login(env, "bob") as wire:
        assert wire.call("RG.TRIGGER", "t") == [b"['t']"]
        assert wire.call("RG.TRIGGERONKEY", "t", "k") == [b"['t', 'k']"]
        assert len(wire.call("RG.DUMPREGISTRATIONS")) == 1
    end(env)


def test_keys_of_triggers(env):
    """The key of RG.TRIGGERONKEY is a key to which the caller needs a right."""
    env.register("GB('CommandReader').register(trigger='t', mode='sync')")
    set_user(env, "bob", "~mine:*", "+@all")
    with login(env, "bob") as wire:
        assert wire.call("RG.TRIGGERONKEY", "t", "mine:1") == [b"['t', 'mine:1']"]
        assert wire.call("RG.TRIGGERONKEY", "t", "other").startswith("NOPERM")
    end(env)


@pytest.mark.parametrize("command", ADMIN)
def test_managing_is_administration(env, command):
    (about,) = env.call("COMMAND", "INFO", command)
    if not about[6]:
        pytest.skip("this server has no categories for modules")
    env.register("GB('StreamReader').register('s')")
    set_user(env, "bob", "~*", "+@all", "-@admin")
    words = [] if command == "rg.clearregistrationsstats" else [env.identifier()]
    with login(env, "bob") as wire:
        assert wire.call(command, *words).startswith("NOPERM")
    assert env.data()["status"] == "OK"
    end(env)


@pytest.mark.parametrize("command", ADMIN)
def test_reading_rights_do_not_manage(env, command):
    set_user(env, "bob", "~*", "+@read")
    with login(env, "bob") as wire:
        assert wire.call(command, UNKNOWN).startswith("NOPERM")
    end(env)


INTERNAL = [
    ["RG.INNERREGISTER", "blob"],
    ["RG.INNERREGISTER"],
    ["RG.INNERUNREGISTER", "ID"],
    ["RG.INNERUNREGISTER", "ID", "abortpending"],
    ["RG.INNERHOOK", "set", "k", "v"],
    ["RG.INNERHOOK", "get", "k"],
    ["RG.INNERHOOKWRITE", "set", "k", "v"],
    ["RG.INNERHOOK"],
]


@pytest.mark.parametrize("command", ["RG.INNERHOOK", "RG.INNERHOOKWRITE"])
@pytest.mark.parametrize("words", [[], ["get"], ["get", "k"], ["nope", "k"], ["eval", "", "x"]])
def test_internal_commands_of_a_user_with_some_keys(env, command, words):
    """The server asks for the keys of such a command, where nobody can be answered: it ended."""
    set_user(env, "bob", "~k*", "+@all")
    with login(env, "bob") as wire:
        assert isinstance(wire.call(command, *words), Error)
    end(env)


@pytest.mark.parametrize("words", INTERNAL)
def test_internal_commands(env, words):
    env.register("GB().register('k*', commands=['set', 'get'], mode='sync')")
    words = [env.identifier() if word == "ID" else word for word in words]
    assert isinstance(env.call(*words), Error)
    env.call("MULTI")
    queued = env.call(*words)
    reply = env.call("EXEC")
    assert isinstance(queued, Error) or isinstance(reply[0], Error)
    code = "return redis.call(unpack(ARGV))"
    assert isinstance(env.call("EVAL", code, "0", *words), Error)
    script = f"GB('ShardsIDReader').map(lambda x: execute(*{words})).run()"
    env.errors(script)
    assert len(env.registrations()) == 1
    assert not env.client.exists("k")
    assert env.data()["numTriggered"] == 0
