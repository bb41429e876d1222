import pytest
from env import one_shard
from server import wait_until

pytestmark = pytest.mark.lopsided


def value(env, call):
    """The repr of the value; a sign in front of a result would change its reply."""
    text = env.result(
        f"GB('ShardsIDReader').map(lambda x: '=' + repr({call})).run(mode='async_local')"
    )
    assert text[0] == "="
    return text[1:]


def test_nothing(env):
    assert value(env, "execute()") == "[]"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("execute('set', 's', 'v')", "'OK'"),
        ("execute('ping')", "'PONG'"),
        ("execute('PiNg')", "'PONG'"),
        ("execute('echo', 'text')", "'text'"),
        ("execute('echo', '')", "''"),
        ("execute('echo', b'raw')", "'raw'"),
        ("execute('echo', bytearray(b'raw'))", "'raw'"),
        ("execute('echo', b'\\xff')", "bytearray(b'\\xff')"),
        ("execute('echo', b'a\\0b')", "'a\\x00b'"),
        ("execute('echo', 'a\\0b')", "'a\\x00b'"),
        ("execute('echo', '\u00e9')", "'é'"),
        ("execute('echo', None)", "'None'"),
        ("execute('echo', 1.5)", "'1.5'"),
        ("execute('echo', 7)", "'7'"),
        ("execute('echo', True)", "'True'"),
        ("execute('echo', [1])", "'[1]'"),
        (
            "execute('echo', type('S', (str,), {'__str__': lambda s: 'shown'})('held'))",
            "'shown'",
        ),
        ("execute('incrby', 'n', 5)", "5"),
        ("execute('decrby', 'n', 5)", "-5"),
        ("execute('get', 'missing')", "None"),
        ("execute('blpop', 'missing', 0)", "None"),
        ("execute('lrange', 'missing', 0, -1)", "[]"),
        ("execute('mget', 'missing', 'missing')", "[None, None]"),
        ("execute('eval', 'return {1, {2, \"three\"}, false}', 0)", "[1, [2, 'three'], None]"),
        (
            "execute('eval', 'return {redis.error_reply(\"ERR inner\"), 1}', 0)",
            "['ERR inner', 1]",
        ),
        ("execute('eval', 'return redis.status_reply(\"FINE\")', 0)", "'FINE'"),
        ("execute('incrbyfloat', 'f', '1.5')", "'1.5'"),
    ],
)
def test_replies(env, call, expected):
    assert value(env, call) == expected


def test_types_of_replies(env):
    env.client.zadd("z", {"a": 1.5})
    env.client.hset("h", "f", "v")
    assert value(env, "execute('zscore', 'z', 'a')") == "'1.5'"
    assert value(env, "execute('hgetall', 'h')") == "['f', 'v']"


def test_arguments_are_raw_bytes(env):
    value(env, "execute('set', b'k\\xff', b'\\0\\xfe')")
    assert env.binary.get(b"k\xff") == b"\0\xfe"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("execute(1)", "the given command must be a string"),
        ("execute(None, 'x')", "the given command must be a string"),
        ("execute('set', 's', 'v', 'nonsense')", "ERR syntax error"),
        ("execute('incr', 's')", "ERR value is not an integer or out of range"),
        ("execute('lpush', 's', 1)", "WRONGTYPE"),
        ("execute('nonsense')", "No such file or directory"),
        ("execute('a\\0b')", "No such file or directory"),
        ("execute('get')", "Invalid argument"),
        ("execute('eval', 'return redis.error_reply(\"MINE x\")', 0)", "MINE x"),
        ("execute('RG.PYEXECUTE', 'x = 1')", "blocking is not allowed"),
    ],
)
@pytest.mark.parametrize("place", ["script", "step"])
def test_errors(env, call, text, place):
    env.client.set("s", "text")
    if place == "script":
        assert text in env.refused(call)
    else:
        (error,) = env.errors(f"GB('ShardsIDReader').map(lambda x: {call}).run(mode='async_local')")
        assert text in error


@pytest.mark.cluster
@pytest.mark.parametrize("place", ["script", "step"])
def test_keys_of_other_shards(env, place):
    """Refused where they are not; the step is on the last shard, the script on the first."""
    there = env.shards[1].key("x")
    if place == "script":
        error = env.refused(f"execute('set', '{there}', 1)")
    else:
        (error,) = env.errors(f"{one_shard([1])}.map(lambda x: execute('set', '{there}', 1)).run()")
    assert "Operation not permitted" in error
    assert not env.client.exists(there)


def test_errors_are_of_the_module_class(env):
    env.execute(
        """
        try:
            execute('set', 's')
        except redisgears.GearsError as error:
            execute('set', 'caught', type(error).__name__)
        """
    )
    assert env.client.get("caught") == "error"


def test_at_top_level(env):
    env.client.rpush("l", "a", "b")
    env.execute("for x in execute('lrange', 'l', 0, -1): execute('sadd', 's', x)")
    assert env.client.smembers("s") == {"a", "b"}


@pytest.mark.single("databases")
def test_always_in_database_0(env):
    with env.server.wire() as wire:
        wire.call("SELECT", "3")
        assert wire.call("RG.PYEXECUTE", "execute('set', 'x', 1)") == "OK"
        wire.call(
            "RG.PYEXECUTE", "GB('ShardsIDReader').foreach(lambda r: execute('set','y',1)).run()"
        )
        assert wire.call("DBSIZE") == 0
    assert set(env.client.keys()) == {"x", "y"}


def test_select_inside_execute_does_not_last(env):
    env.run("GB('ShardsIDReader').foreach(lambda x: execute('select', 5)).run()")
    env.execute("execute('set', 'x', 1)")
    assert env.client.get("x") == "1"


def test_a_large_reply(env):
    env.client.set("big", "x" * 5_000_000)
    assert value(env, "len(execute('get', 'big'))") == "5000000"


def test_a_long_reply(env):
    env.client.rpush("l", *range(50000))
    assert value(env, "sum(int(i) for i in execute('lrange', 'l', 0, -1))") == str(
        sum(range(50000))
    )


def test_many_arguments(env):
    env.execute("execute('rpush', 'l', *range(20000))")
    assert env.client.llen("l") == 20000


def test_writes_reach_a_replica(new_env):
    master = new_env()
    replica = new_env(options=["--replicaof", "127.0.0.1", master.server.port])
    master.execute("execute('set', 'x', 1)")
    master.results("GB('ShardsIDReader').foreach(lambda x: execute('incr', 'x')).run()")
    assert master.client.wait(1, 60000) == 1
    wait_until(lambda: replica.client.get("x") == "2", what="the writes on the replica")
