import pytest
from wire import Error


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


@pytest.mark.parametrize("body", ["{}", "GB('ShardsIDReader').foreach(lambda x: {}).run()"])
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
