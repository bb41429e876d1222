"""Who may speak to a shard as a shard: passwords, TLS, and nobody else."""

import pytest
from ports import free_port
from server import wait_until
from wire import Error

pytestmark = pytest.mark.cluster

PUBLIC = {
    *("pyexecute", "trigger", "triggeronkey", "dumpregistrations", "unregister"),
    *("pauseregistrations", "unpauseregistrations", "clearregistrationsstats"),
    *("pysessionsource", "pydumpsessions", "pyprofile"),
    *("dumpexecutions", "getexecution", "getresults", "getresultsblocking"),
    *("abortexecution", "dropexecution", "configget", "configset", "pystats", "dumpplugins"),
    *("pyfreeinterpreter", "pyexecuteremote", "infocluster", "refreshcluster", "networktest"),
    *("pydumpreqs", "pyexportreq", "pyimportreq"),
}
COUNT = "GB().repartition(lambda r: r['key'][::-1]).count().run()"


def works(env):
    """Plans, registrations and triggers over all shards."""
    env.fill(300)
    assert env.results(COUNT) == ["300"]
    assert env.still_runs()
    env.register("GB('CommandReader').register(trigger='t')")
    for shard in env.shards:
        assert len(shard.trigger("t")) == 3
    env.unregister(env.identifier())


def test_a_password(new_cluster):
    works(new_cluster(password="a secret 'with' quotes"))


def test_a_password_that_changes(new_cluster):
    """Connections that are made afterwards use what is set then."""
    env = new_cluster(password="old")
    works(env)
    for shard in env.shards:
        shard.client.config_set("masterauth", "new")
        shard.client.config_set("requirepass", "new")
    env.close()
    for server in env.servers:
        server.password = "new"
        assert server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 2
    script = "GB('ShardsIDReader').count().run()"
    for server in env.servers:
        wait_until(lambda server=server: server.ask("RG.PYEXECUTE", script) == [[b"3"], []])


def test_a_user_for_shards(new_cluster):
    """`masteruser` and `masterauth`, which replicas use, are those of shards as well."""
    options = ["--masteruser", "shard", "--masterauth", "secret"]
    options += ["--user", "shard", "on", ">secret", "~*", "&*", "+@all"]
    options += ["--user", "default", "on", "nopass", "~*", "&*", "+@all"]
    works(new_cluster(options=[*options, "-rg.hello", "-rg.innermsgcommand"]))


@pytest.mark.parametrize("plain", [False, True])
def test_tls(new_cluster, plain):
    """With and without a port for clients that do not encrypt."""
    own = {i: {"options": ["--port", free_port()]} for i in range(3)} if plain else {}
    works(new_cluster(encrypted=True, own=own))


def test_tls_and_a_password(new_cluster):
    works(new_cluster(encrypted=True, password="secret"))


def internal(env):
    """The commands that are for shards, replicas and files."""
    names = env.call("COMMAND", "LIST", "FILTERBY", "MODULE", "rg")
    return sorted({name.decode().lower().partition(".")[2] for name in names} - PUBLIC)


def test_there_are_commands_for_shards(env):
    names = internal(env)
    assert "hello" in names
    assert "innermsgcommand" in names
    assert "innerregister" in names


def strangers_words(env):
    """What somebody might send who has listened to shards."""
    me, other = env.shards[0].server.id, env.shards[1].server.id
    run = env.call("RG.INFOCLUSTER")[3].decode()
    registration = env.identifier()
    payload = b"\x80\x04K\x01."
    yield []
    yield [registration]
    yield [registration, "abortpending"]
    yield [payload]
    yield ["set", "k", "v"]
    yield ["get", "k"]
    yield ["timer", payload]
    for sender in (me, other, "0" * 40):
        yield [sender, run]
        for function in ("RG_NetworkTest", "ExecutionPlan_OnReceived", "0", ""):
            yield [sender, run, function, payload, 0]
            yield [sender, run, function, payload, 999999]
        yield ["1", sender, run, run, "1", "3.11"]
        yield ["1", sender, run, "", "0.1.0", "python 3.11"]


def test_strangers_are_refused(env):
    """Also the user who may do everything, and in whatever way it is sent."""
    env.register("GB().register('k*', commands=['set', 'get'], mode='sync')")
    env.call("ACL", "SETUSER", "all", "reset", "on", "nopass", "~*", "&*", "+@all")
    with env.server.wire() as wire:
        assert wire.call("AUTH", "all", "x") == "OK"
        for name in internal(env):
            for words in strangers_words(env):
                command = [f"RG.{name.upper()}", *words]
                reply = wire.call(*command)
                assert isinstance(reply, Error), f"{command}: {reply!r}"
                wire.call("MULTI")
                queued = wire.call(*command)
                replies = wire.call("EXEC")
                assert isinstance(queued, Error) or isinstance(replies[0], Error), command
                code = "return redis.call(unpack(ARGV))"
                assert isinstance(wire.call("EVAL", code, "0", *command), Error), command
    env.call("ACL", "DELUSER", "all")
    assert len(env.agreed()) == 1
    assert env.data()["numTriggered"] == 0
    assert env.client.dbsize() == 0
    assert env.still_runs()


def test_functions_are_strangers_too(env):
    env.register("GB().register('k*', commands=['set', 'get'], mode='sync')")
    words = [list(map(repr, words)) for words in strangers_words(env)]
    for name in internal(env):
        calls = "\n".join(
            f"refused({', '.join([repr('RG.' + name.upper()), *more])})" for more in words
        )
        env.execute(
            "def refused(*words):\n"
            "    try:\n"
            "        reply = execute(*words)\n"
            "    except redisgears.GearsError:\n"
            "        return\n"
            "    raise ValueError(f'{words} answered {reply}')\n" + calls
        )
    assert len(env.agreed()) == 1
    assert env.still_runs()


def test_a_server_that_is_no_member_is_refused(new_cluster):
    """One that knows the password and speaks as shards do, but is not in the cluster."""
    env = new_cluster(password="secret")
    stranger = env.cluster.new_server().start()
    env.cluster.servers.remove(stranger)
    try:
        run = env.call("RG.INFOCLUSTER")[3].decode()
        with env.server.wire() as wire:
            for words in (["1", stranger.id, run, "", "1", "1"], [stranger.id, run], []):
                assert isinstance(wire.call("RG.HELLO", *words), Error)
            reply = wire.call("RG.INNERMSGCOMMAND", stranger.id, run, "RG_NetworkTest", "x", 0)
            assert isinstance(reply, Error)
        assert sorted(env.results("GB('ShardsIDReader').run()")) == env.ids
    finally:
        stranger.stop()


def test_rights_of_a_user_hold_on_all_shards(env):
    """A plan works with the rights that its user has there."""
    for shard in env.shards:
        shard.client.set(shard.key("mine:x"), 1)
        shard.client.set(shard.key("other"), 2)
    env.call("ACL", "SETUSER", "bob", "reset", "on", "nopass", "~mine:*", "+@all")
    try:
        with env.server.wire() as wire:
            assert wire.call("AUTH", "bob", "x") == "OK"
            assert wire.call("RG.PYEXECUTE", "GB().count().run()") == [[b"3"], []]
            write = (
                "GB('ShardsIDReader').foreach(lambda x: execute('set', '{}{%s}' % hashtag(), 1))"
            )
            reply = wire.call("RG.PYEXECUTE", write.replace("{}", "mine:y", 1) + ".run()")
            assert reply[1] == []
            results, errors = wire.call("RG.PYEXECUTE", write.replace("{}", "theirs", 1) + ".run()")
            assert results == []
            assert [b"NOPERM" in error for error in errors] == [True] * 3
    finally:
        env.call("ACL", "DELUSER", "bob")
    for shard in env.shards:
        assert shard.client.get(shard.key("mine:y")) == "1"
        assert not shard.client.exists(shard.key("theirs"))


def test_a_user_who_is_not_on_all_shards(env):
    """The others refuse, and say so."""
    env.shards[0].call("ACL", "SETUSER", "bob", "reset", "on", "nopass", "~*", "+@all")
    write = "execute('set', 'x{%s}' % hashtag(), 1)"
    try:
        with env.server.wire() as wire:
            assert wire.call("AUTH", "bob", "x") == "OK"
            script = f"GB('ShardsIDReader').foreach(lambda x: {write}).run()"
            _, errors = wire.call("RG.PYEXECUTE", script)
            assert errors
            assert all(b"bob" in error for error in errors)
    finally:
        env.shards[0].call("ACL", "DELUSER", "bob")
    for shard in env.shards[1:]:
        assert not shard.client.exists(shard.key("x"))
