"""RG.CLUSTERSET: the cluster is the server's own, so only what makes no cluster is taken."""

import pytest
from wire import Error, Simple

BAD = "Could not parse cluster set arguments"
HEAD = ["x", "x", "x", "x", "x", "1", "x"]
ONE = ["x", "1", "x", "0", "8191", "x", "password@localhost:6379"]
TWO = ["x", "2", "x", "8192", "16383", "x", "password@[::1]:6380"]
SOCKET = ["UNIXADDR", "unix:/tmp/redis.sock", "x"]


def set_(env, *words):
    return env.call("RG.CLUSTERSET", *words)


@pytest.mark.parametrize("more", [[], ["x"], SOCKET, ["and", "more", "words"]])
def test_one_node(env, more):
    before = env.call("RG.INFOCLUSTER")
    assert set_(env, *HEAD, 1, *ONE, *more) == Simple("OK")
    after = env.call("RG.INFOCLUSTER")
    assert (before[:4], len(before[4:])) == (after[:4], len(after[4:]))
    assert env.result("GB('ShardsIDReader').count().run()") == str(env.shard_count)


@pytest.mark.parametrize("place", ["localhost:6379", "[::1]:6379", "a@b@::1:6379"])
def test_an_address_may_have_no_password(env, place):
    assert set_(env, *HEAD, 1, *ONE[:6], place) == Simple("OK")


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("socket", [["x"], SOCKET])
def test_several_nodes(env, socket, count):
    between = [*ONE, *socket] * (count - 1)
    error = env.error("RG.CLUSTERSET", *HEAD, count, *between, *TWO)
    assert error.startswith("ERR ")
    assert "cluster-enabled yes" in error
    assert "not supported" in error
    assert (env.call("RG.INFOCLUSTER") == b"no cluster mode") == (env.shard_count == 1)
    assert env.still_runs()


def test_too_few_words(env):
    words = [*HEAD, "1", *ONE]
    for length in range(len(words)):
        assert env.error("RG.CLUSTERSET", *words[:length]) == BAD
    assert set_(env, *words) == Simple("OK")


@pytest.mark.parametrize(
    "words",
    [
        [*HEAD, "2", *ONE, *TWO],
        [*HEAD, "2", *ONE, "UNIXADDR", *TWO],
        [*HEAD, "2", *ONE],
        *([*HEAD, count, *ONE] for count in ["0", "-1", "+1", "one", "", "1.0", "9" * 30]),
        *([*HEAD, "1", *ONE[:3], slot, *ONE[4:]] for slot in ["", "x", "-1", "9000", "9" * 30]),
        *([*HEAD, "1", *ONE[:4], slot, *ONE[5:]] for slot in ["", "x", "-1", "16384", "9" * 30]),
        *([*HEAD, "1", *ONE[:6], place] for place in ["", "h", "p@h", "p@h:", "p@h:x", "p@:1"]),
        *([*HEAD, "1", *ONE[:6], place] for place in ["p@h:0", "p@h:65536", "p@h:-1", b"p@h:\xff"]),
        [*HEAD[:5], "a" * 41, "x", "1", *ONE],
        [*HEAD, "1", "x", "a" * 41, *ONE[2:]],
    ],
)
def test_words_that_make_no_sense(env, words):
    assert env.error("RG.CLUSTERSET", *words) == BAD
    assert env.still_runs()


def test_in_a_transaction(env):
    """The error of the words comes first, as always."""
    env.call("MULTI")
    env.call("RG.CLUSTERSET", *HEAD, 1, *ONE)
    env.call("RG.CLUSTERSET", *HEAD, 2, *ONE, "x", *TWO)
    env.call("RG.CLUSTERSET", "x")
    refused = Error("ERR Blocking module command called from transaction")
    assert env.call("EXEC") == [refused, refused, Error(BAD)]


def test_what_the_server_says(env):
    (info,) = env.call("COMMAND", "INFO", "RG.CLUSTERSET")
    assert info[:2] == [b"rg.clusterset", -1]
    assert "readonly" in info[2]
    assert info[3:6] == [0, 0, 0]
