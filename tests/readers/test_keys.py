import ast
import subprocess

import pytest
from server import wait_until


def records(env, run="", builder="GB()"):
    return [ast.literal_eval(text) for text in env.results(f"{builder}.run({run})")]


def record(env, run, builder="GB()"):
    (found,) = records(env, run, builder)
    return found


def test_the_text_of_a_record(env):
    env.client.set("x", 1)
    assert env.results("GB().run()") == [
        "{'event': None, 'key': 'x', 'type': 'string', 'value': '1'}"
    ]
    assert env.results("GB().run(readValue=False)") == ["{'event': None, 'key': 'x'}"]


def test_no_keys(env):
    assert env.results("GB().run()") == []


def test_a_string(env):
    env.client.set("s", "été")
    assert record(env, "") == {"event": None, "key": "s", "type": "string", "value": "été"}


def test_an_empty_string(env):
    env.client.set("s", "")
    assert record(env, "")["value"] == ""


@pytest.mark.parametrize("value", ["5", "-7", "x" * 20, "x" * 100, "y" * 100_000])
def test_encodings_of_strings(env, value):
    env.client.set("s", value)
    assert record(env, "")["value"] == value


def test_an_appended_string(env):
    env.client.set("s", "12345")
    env.client.append("s", "6")
    assert record(env, "")["value"] == "123456"


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_list(env, count):
    values = [f"value {i}" for i in range(count)]
    env.client.rpush("l", *values)
    found = record(env, "")
    assert found == {"event": None, "key": "l", "type": "list", "value": values}


def test_a_list_of_large_values(env):
    values = ["a" * 20_000, "1", "b" * 100, ""]
    env.client.rpush("l", *values)
    assert record(env, "")["value"] == values


@pytest.mark.parametrize("count", [1, 3, 2000])
def test_a_hash(env, count):
    values = {f"field{i}": f"value {i}" for i in range(count)}
    env.client.hset("h", mapping=values)
    found = record(env, "")
    assert found == {"event": None, "key": "h", "type": "hash", "value": values}


def test_a_hash_of_large_values(env):
    values = {"f" * 1000: "v" * 20_000, "n": "5", "": "", "é": "ü"}
    env.client.hset("h", mapping=values)
    assert record(env, "")["value"] == values


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["SADD", "k", "a", "b"], "set"),
        (["SADD", "k", "1", "2"], "set"),
        (["ZADD", "k", "1", "a"], "zset"),
        (["XADD", "k", "1-1", "f", "v"], "unknown"),
    ],
)
def test_types_without_a_value(env, command, kind):
    env.client.execute_command(*command)
    assert record(env, "") == {"event": None, "key": "k", "type": kind, "value": None}


@pytest.mark.parametrize("members", [["a", "b"], ["1", "2", "30"], [f"m{i}" for i in range(1000)]])
def test_all_values_of_a_set(env, members):
    env.client.sadd("k", *members)
    found = record(env, "allValues=True")
    assert found == {"event": None, "key": "k", "type": "set", "value": set(members)}


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_all_values_of_a_sorted_set(env, count):
    scores = {f"m{i}": (i * 7919) % 1000 + 0.5 for i in range(count)}
    env.client.zadd("k", scores)
    found = record(env, "allValues=True")
    expected = sorted(scores.items(), key=lambda item: item[1])
    assert found == {"event": None, "key": "k", "type": "zset", "value": expected}
    assert all(type(score) is float for _, score in found["value"])


def test_equal_scores_are_ordered_by_member(env):
    env.client.zadd("k", {"b": 1, "a": 1, "c": -2})
    assert record(env, "allValues=True")["value"] == [("c", -2.0), ("a", 1.0), ("b", 1.0)]


def test_infinite_scores(env):
    env.client.zadd("k", {"low": "-inf", "high": "+inf"})
    assert env.result("GB().map(lambda r: r['value']).run(allValues=True)") == str(
        [("low", float("-inf")), ("high", float("inf"))]
    )


def test_all_values_of_a_stream(env):
    env.client.xadd("k", {"a": "1", "b": "2"}, id="5-1")
    env.client.xadd("k", {"c": "3"}, id="6-0")
    expected = [("5-1", {"a": "1", "b": "2"}), ("6-0", {"c": "3"})]
    found = record(env, "allValues=True")
    assert found == {"event": None, "key": "k", "type": "stream", "value": expected}


def test_all_values_of_a_long_stream(env):
    for i in range(500):
        env.client.xadd("k", {"n": i}, id=f"{i + 1}-0")
    env.client.xdel("k", "3-0")
    found = record(env, "allValues=True")["value"]
    assert found == [(f"{i + 1}-0", {"n": str(i)}) for i in range(500) if i != 2]


def test_an_empty_stream(env):
    env.client.xadd("k", {"n": 1}, id="1-1")
    env.client.xdel("k", "1-1")
    assert record(env, "allValues=True") == {
        "event": None,
        "key": "k",
        "type": "stream",
        "value": [],
    }


def test_all_values_leave_the_others_as_they_are(env):
    env.client.set("s", "v")
    env.client.rpush("l", "v")
    env.client.hset("h", "f", "v")
    plain = sorted(env.results("GB().run()"))
    assert sorted(env.results("GB().run(allValues=True)")) == plain
    assert len(plain) == 3


def test_all_values_without_value(env):
    env.client.sadd("k", "a")
    assert record(env, "allValues=True, readValue=False") == {"event": None, "key": "k"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a", "a1", "a2", "ab", "b"]),
        ("a*", ["a", "a1", "a2", "ab"]),
        ("a?", ["a1", "a2", "ab"]),
        ("a[12]", ["a1", "a2"]),
        ("a[1-9]", ["a1", "a2"]),
        ("a[^1]", ["a2", "ab"]),
        ("A*", []),
        ("b", ["b"]),
        ("no", []),
    ],
)
def test_patterns(env, pattern, expected):
    for key in ["a", "a1", "a2", "ab", "b"]:
        env.client.set(key, 1)
    by_argument = f"GB().map(lambda r: r['key']).sort().run({pattern!r})"
    by_default = f"GB('KeysReader', {pattern!r}).map(lambda r: r['key']).sort().run()"
    assert env.results(by_argument) == env.results(by_default) == expected


def test_an_escaped_pattern(env):
    env.client.mset({"a*": 1, "ab": 1})
    assert env.results(r"GB().map(lambda r: r['key']).run('a\\*')") == ["a*"]


def test_a_false_argument_means_the_default(env):
    env.client.mset({"a": 1, "b": 1})
    for argument in ["''", "None", "0", "[]"]:
        assert env.results(f"GB('KeysReader', 'a').count().run({argument})") == ["1"]


def test_a_prefix_argument_is_ignored(env):
    env.client.mset({"a": 1, "b": 1})
    assert env.results("GB().count().run(prefix='a', nonsense=[])") == ["2"]


def no_scan(env, run):
    """The record of the owner of a key; other shards say that they have no such key."""
    found = sorted(records(env, f"{run}, noScan=True"), key=lambda r: r["type"] == "empty")
    assert [r["type"] == "empty" for r in found] == [False] + [True] * (env.shard_count - 1)
    return found[0]


def test_no_scan(env):
    env.client.mset({"a": 1, "ab": 2, "a*": 3})
    assert no_scan(env, "'a'")["value"] == "1"
    assert no_scan(env, "'a*'")["value"] == "3"
    found = records(env, "'a', noScan=True, readValue=False")
    assert found == [{"event": None, "key": "a"}] * env.shard_count


def test_no_scan_of_a_missing_key(env):
    missing = {"event": None, "key": "no", "type": "empty", "value": None}
    assert records(env, "'no', noScan=True") == [missing] * env.shard_count
    assert records(env, "'no', noScan=True, allValues=True") == [missing] * env.shard_count


def test_no_scan_of_other_types(env):
    env.client.hset("h", "f", "v")
    env.client.rpush("l", "v")
    env.client.sadd("s", "v")
    assert no_scan(env, "'h'")["value"] == {"f": "v"}
    assert no_scan(env, "'l'")["value"] == ["v"]
    assert no_scan(env, "'s'")["type"] == "set"
    assert no_scan(env, "'s', allValues=True")["value"] == {"v"}


@pytest.mark.single("databases")
def test_other_databases_are_not_read(env):
    with env.server.wire() as wire:
        wire.call("SELECT", "1")
        wire.call("SET", "there", "1")
        wire.call("SELECT", "0")
        wire.call("SET", "here", "1")
        wire.call("SELECT", "1")
        reply = wire.call("RG.PYEXECUTE", "GB().map(lambda r: r['key']).run()")
        assert reply == [[b"here"], []]
        assert wire.call("RG.PYEXECUTE", "GB().run('there', noScan=True)")[0] == [
            b"{'event': None, 'key': 'there', 'type': 'empty', 'value': None}"
        ]


def milliseconds(env):
    seconds, micros = env.client.time()
    return seconds * 1000 + micros // 1000


def test_expired_keys_are_skipped(env):
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    env.client.set("stays", 1)
    end = milliseconds(env) + 20
    env.client.set("string", 1, pxat=end)
    env.client.hset("hash", "f", "v")
    env.client.pexpireat("hash", end)
    wait_until(lambda: milliseconds(env) > end + 1)
    assert env.client.dbsize() == 3
    assert env.results("GB().map(lambda r: r['key']).run()") == ["stays"]
    assert env.results("GB().map(lambda r: r['key']).run(readValue=False)") == ["stays"]
    assert env.results("GB().count().run()") == ["1"]
    assert {r["type"] for r in records(env, "'string', noScan=True")} == {"empty"}
    env.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 1)


def test_undecodable_keys_and_values(env):
    env.binary.set(b"k\xff", b"v\xfe")
    env.binary.rpush(b"l", b"v\xfe", b"ok")
    env.binary.hset(b"h", mapping={b"f\xff": b"v\xfe", b"g": b"ok"})
    script = "GB().filter(lambda r: r['type'] == '{}').map(lambda r: {}).run()"
    assert env.results(script.format("string", "[r['key'], r['value']]")) == [
        "[bytearray(b'k\\xff'), bytearray(b'v\\xfe')]"
    ]
    assert env.results(script.format("list", "r['value']")) == ["[bytearray(b'v\\xfe'), 'ok']"]
    found = env.result(script.format("hash", "sorted(r['value'].items(), key=lambda i: str(i))"))
    assert found == "[('g', 'ok'), (b'f\\xff', bytearray(b'v\\xfe'))]"


def test_undecodable_members(env):
    env.binary.sadd(b"s", b"\xff")
    env.binary.zadd(b"z", {b"\xfe": 1})
    script = "GB().map(lambda r: [bytes(m) for m in {}]).run('{}', allValues=True)"
    assert env.results(script.format("r['value']", "s")) == ["[b'\\xff']"]
    assert env.results(script.format("[m for m, _ in r['value']]", "z")) == ["[b'\\xfe']"]


def test_nul_bytes(env):
    env.client.set("a\0b", "c\0d")
    env.client.hset("h", mapping={"f\0g": "v\0w", "f": "other"})
    env.client.rpush("l", "x\0y")
    found = {r["key"]: r["value"] for r in records(env)}
    assert found == {"a\0b": "c\0d", "h": {"f\0g": "v\0w", "f": "other"}, "l": ["x\0y"]}


def test_the_empty_key(env):
    env.client.set("", "v")
    assert record(env, "") == {"event": None, "key": "", "type": "string", "value": "v"}


def test_every_key_of_many(env):
    env.fill(20000)
    env.fill(10, "other")
    keys = env.results("GB().map(lambda r: r['key']).run('key:*')")
    assert len(keys) == 20000
    assert set(keys) == {f"key:{i}" for i in range(20000)}


def test_values_belong_to_their_keys(env):
    env.fill(5000)
    wrong = "GB().filter(lambda r: r['value'] != 'value:' + r['key'].split(':')[1]).count().run()"
    assert env.results(wrong) == []
    assert env.results("GB().count().run()") == ["5000"]


def test_mixed_types_and_sizes(env):
    pipe = env.client.pipeline(transaction=False)
    expected = {}
    for i in range(3000):
        key, size = f"k{i}", (i * 37) % 500
        kind = i % 3
        if kind == 0:
            expected[key] = "s" * size
            pipe.set(key, expected[key])
        elif kind == 1:
            expected[key] = {f"f{j}": "v" * j for j in range(1 + size % 40)}
            pipe.hset(key, mapping=expected[key])
        else:
            expected[key] = [f"e{j}" for j in range(1 + size)]
            pipe.rpush(key, *expected[key])
    pipe.execute()
    assert {r["key"]: r["value"] for r in records(env)} == expected


def test_writes_while_reading(env):
    env.fill(2000)
    results = env.results(
        """
        def move(r):
            execute('set', 'new:{%s}' % r['key'], r['value'])
            execute('del', r['key'])
        GB().foreach(move).map(lambda r: r['key']).run('key:*')
        """
    )
    assert set(results) == {f"key:{i}" for i in range(2000)}
    assert env.client.dbsize() == 2000
    assert env.client.get("new:{key:7}") == "value:7"


def test_flushall_while_reading(env):
    env.fill(5000)
    _, errors = env.run(
        """
        def flush(r):
            execute('flushall')
        GB().foreach(flush).count().run()
        """
    )
    assert errors == []
    assert env.client.dbsize() == 0


def test_a_key_that_vanishes_between_scan_and_step(env):
    env.client.mset({f"k{i}": i for i in range(100)})
    values = env.results(
        "GB().foreach(lambda r: execute('flushall')).map(lambda r: r['type']).distinct().run()"
    )
    assert set(values) <= {"string", "empty"}
    assert "string" in values


def test_several_reads_at_once(env):
    env.fill(5000)
    identifiers = [env.start("GB().count().run()") for _ in range(6)]
    assert [env.wait(identifier) for identifier in identifiers] == [(["5000"], [])] * 6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "regex argument must be a string"),
        ("'*', noScan=1", "exactMatch value is not boolean"),
        ("'*', noScan='x'", "exactMatch value is not boolean"),
        ("'*', readValue=1", "readValue value is not boolean"),
        ("'*', mode=1", "execution mode must be a string"),
        ("'*', mode='test'", "unknown execution mode"),
        ("'*', mode='sync'", "unknown execution mode"),
    ],
)
def test_wrong_arguments(env, arguments, text):
    assert text in env.refused(f"GB().run({arguments})")
    assert env.executions() == {}


@pytest.mark.parametrize("mode", ["async", "async_local"])
def test_modes(env, mode):
    env.each(lambda shard: shard.client.set(shard.key("x"), 1))
    count = env.shard_count if mode == "async" else 1
    assert env.results(f"GB().count().run(mode='{mode}')") == [str(count)]


def test_records_are_plain_dicts(env):
    env.client.hset("h", "f", "v")
    assert env.results(
        "GB().map(lambda r: [type(r) is dict, type(r['value']) is dict, list(r)]).run()"
    ) == ["[True, True, ['event', 'key', 'type', 'value']]"]


def test_records_may_be_changed(env):
    env.client.hset("h", "f", "v")
    assert env.results(
        """
        def change(r):
            r['value']['g'] = 'w'
            r['new'] = r.pop('type')
        GB().foreach(change).map(lambda r: [r['value'], r['new']]).run()
        """
    ) == ["[{'f': 'v', 'g': 'w'}, 'hash']"]
    assert env.client.hgetall("h") == {"f": "v"}


def numpy_is_installed():
    command = ["/usr/bin/python3", "-c", "import numpy"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not numpy_is_installed(), reason="numpy is not installed")
def test_numpy_in_a_step(env):
    env.client.rpush("l", 1, 2, 3, 4)
    script = """
    import numpy
    GB().map(lambda r: float(numpy.array(r['value'], dtype=float).mean())).run()
    """
    assert env.results(script) == ["2.5"]
