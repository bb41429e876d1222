import pytest
from wire import Error

pytestmark = pytest.mark.lopsided


@pytest.fixture
def user(env):
    """`user(*rules)` is a connection of a user with these rules."""
    wires = []

    def connect(*rules):
        assert env.call("ACL", "SETUSER", "bob", "reset", "on", ">secret", *rules) == "OK"
        wires.append(env.server.wire())
        assert wires[-1].call("AUTH", "bob", "secret") == "OK"
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()
    env.call("ACL", "DELUSER", "bob")


def test_without_the_right(env, user):
    bob = user("~*", "+@all", "-rg.pyexecute")
    reply = bob.call("RG.PYEXECUTE", "execute('set', 'x', 1)")
    assert isinstance(reply, Error)
    assert reply.startswith("NOPERM")
    assert not env.client.exists("x")


def test_reading_rights_do_not_run_code(user):
    bob = user("~*", "+@read")
    assert bob.call("RG.PYEXECUTE", "x = 1").startswith("NOPERM")
    assert bob.call("RG.CONFIGSET", "MaxExecutions", "1").startswith("NOPERM")


def test_with_the_right(env, user):
    bob = user("~*", "+rg.pyexecute", "+set")
    assert bob.call("RG.PYEXECUTE", "execute('set', 'x', 1)") == "OK"
    assert env.client.get("x") == "1"


@pytest.mark.parametrize(
    "body", ["{}", "GB('ShardsIDReader').foreach(lambda x: {}).run(mode='async_local')"]
)
def test_functions_have_the_rights_of_their_user(env, user, body):
    bob = user("~mine:*", "+rg.pyexecute", "+set")
    allowed = body.format("execute('set', 'mine:x', 1)")
    assert not has_error(bob.call("RG.PYEXECUTE", allowed))
    assert env.client.get("mine:x") == "1"
    for command in ["execute('set', 'other', 1)", "execute('flushall')"]:
        assert has_error(bob.call("RG.PYEXECUTE", body.format(command)))
    assert not env.client.exists("other")
    assert env.client.get("mine:x") == "1"


def has_error(reply):
    return isinstance(reply, Error) or (isinstance(reply, list) and reply[1] != [])


def test_without_dangerous_commands(env, user):
    (info,) = env.call("COMMAND", "INFO", "rg.pyexecute")
    if not info[6]:
        pytest.skip("this server has no categories for modules")
    bob = user("~*", "+@all", "-@dangerous")
    assert bob.call("RG.PYEXECUTE", "execute('set', 'x', 1)").startswith("NOPERM")
    assert bob.call("RG.CONFIGSET", "MaxExecutions", "1").startswith("NOPERM")
    assert bob.call("RG.DUMPEXECUTIONS") == []
    assert not env.client.exists("x")


def test_readers_see_what_their_user_may_read(env):
    env.client.set("mine:1", "a")
    env.client.set("other", "b")
    env.client.xadd("stream", {"f": "v"})
    env.client.acl_setuser(
        "reader", enabled=True, nopass=True, keys=["mine:*"], categories=["+@all"]
    )
    try:
        with env.server.wire() as wire:
            assert wire.call("AUTH", "reader", "x") == "OK"

            def run(script):
                return wire.call("RG.PYEXECUTE", script)

            assert run("GB().map(lambda r: r['key']).run()") == [[b"mine:1"], []]
            assert run("GB().count().run()") == [[b"1"], []]
            results, errors = run("GB().map(lambda r: r['value']).run('mine:1', noScan=True)")
            assert sorted(results) == [*[b"None"] * (env.shard_count - 1), b"a"]
            assert errors == []
            other = "GB().run('other', noScan=True, mode='async_local')"
            for script in (other, "GB('StreamReader').run('stream')"):
                results, errors = run(script)
                assert results == []
                assert len(errors) in (1, env.shard_count)
                assert all(error.startswith(b"NOPERM") for error in errors)
            # Names are no secret: SCAN tells them to everybody.
            assert run("GB('KeysOnlyReader').count().run()") == [[b"3"], []]
    finally:
        env.client.acl_deluser("reader")


def test_a_stream_needs_the_right_to_xread_and_no_other(env):
    env.client.xadd("stream", {"f": "v"})
    env.client.acl_setuser(
        "reader", enabled=True, nopass=True, keys=["*"], commands=["+rg.pyexecute", "+xread"]
    )
    try:
        with env.server.wire() as wire:
            assert wire.call("AUTH", "reader", "x") == "OK"
            script = "GB('StreamReader').count().run('stream')"
            assert wire.call("RG.PYEXECUTE", script) == [[b"1"], []]
    finally:
        env.client.acl_deluser("reader")
