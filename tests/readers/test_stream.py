import ast

import pytest


def records(env, run):
    return [ast.literal_eval(text) for text in env.results(f"GB('StreamReader').run({run})")]


def test_the_text_of_a_record(env):
    env.client.xadd("s", {"f": "v"}, id="1-1")
    assert env.results("GB('StreamReader').run('s')") == [
        "{'key': 's', 'id': '1-1', 'value': {'f': 'v'}}"
    ]
    assert env.results("GB('StreamReader', 's').count().run()") == ["1"]


def test_order_and_start(env):
    for i in range(1, 6):
        env.client.xadd("s", {"n": i}, id=f"{i}-0")
    assert [r["id"] for r in records(env, "'s'")] == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    assert [r["id"] for r in records(env, "'s', fromId='3-0'")] == ["4-0", "5-0"]
    assert [r["id"] for r in records(env, "'s', fromId='3'")] == ["4-0", "5-0"]
    assert records(env, "'s', fromId='9-0'") == []


def test_many_entries(env):
    pipe = env.client.pipeline(transaction=False)
    for i in range(1, 5001):
        pipe.xadd("s", {"n": i, "m": "x"}, id=f"{i}-0")
    pipe.execute()
    results = env.results("GB('StreamReader').map(lambda r: r['value']['n']).run('s')")
    assert results == [str(i) for i in range(1, 5001)]


def test_missing(env):
    assert records(env, "'no'") == []


def test_the_name_is_no_pattern(env):
    env.client.xadd("s1", {"f": "v"})
    assert records(env, "'s*'") == []
    assert records(env, "") == []
    env.client.xadd("*", {"f": "star"}, id="1-1")
    assert records(env, "") == [{"key": "*", "id": "1-1", "value": {"f": "star"}}]


def test_a_field_twice(env):
    env.client.execute_command("XADD", "s", "1-1", "f", "first", "g", "x", "f", "last")
    assert records(env, "'s'") == [{"key": "s", "id": "1-1", "value": {"f": "last", "g": "x"}}]


def test_wrong_type(env):
    env.client.set("s", 1)
    results, errors = env.run("GB('StreamReader').run('s')")
    assert results == []
    assert len(errors) == 1
    assert "WRONGTYPE" in errors[0]


def test_bad_id(env):
    env.client.xadd("s", {"f": "v"})
    results, errors = env.run("GB('StreamReader').run('s', fromId='nonsense')")
    assert results == []
    assert len(errors) == 1
    assert "Invalid stream ID specified as stream command argument" in errors[0]


def test_undecodable_fields(env):
    env.binary.xadd(b"s", {b"f\xff": b"v\xfe", b"n\0m": b"x\0y"}, id="1-1")
    assert env.results("GB('StreamReader').map(lambda r: r['value']).run('s')") == [
        "{b'f\\xff': bytearray(b'v\\xfe'), 'n\\x00m': 'x\\x00y'}"
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "regex argument must be a string"),
        ("'s', fromId=1", "fromId argument must be a string"),
        ("'s', mode='sync'", "unknown execution mode"),
        ("'s', mode=1", "execution mode must be a string"),
    ],
)
def test_wrong_arguments(env, arguments, text):
    assert text in env.refused(f"GB('StreamReader').run({arguments})")


def test_other_arguments_are_ignored(env):
    env.client.xadd("s", {"f": "v"})
    assert len(records(env, "'s', nonsense=1, noScan=5")) == 1
