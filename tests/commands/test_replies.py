"""One result record, one reply element."""

import pytest
from env import one_shard
from wire import Error, Simple


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def native(env, request):
    with env.server.wire(request.param) as wire:

        def reply(expression, more="convertToStr=False"):
            script = f"GB('ShardsIDReader').map(lambda x: {expression}).run({more})"
            results, errors = wire.call("RG.PYEXECUTE", script)
            assert errors == []
            return env.same(results)

        yield reply


CASES = [
    ("'+'", b"+"),
    ("'-'", b"-"),
    ("''", b""),
    ("'text'", b"text"),
    ("'+OK'", Simple("OK")),
    ("'++'", Simple("+")),
    ("'-ERR no'", Error("ERR no")),
    ("'-5'", Error("5")),
    ("'\u00e9\u20ac'", "é€".encode()),
    ("'a\\0b'", b"a\0b"),
    ("True", 1),
    ("False", 0),
    ("0", 0),
    ("-5", -5),
    ("2**63 - 1", 2**63 - 1),
    ("-2**63", -(2**63)),
    ("2**63", b"9223372036854775808"),
    ("-2**63 - 1", b"-9223372036854775809"),
    ("10**30", b"1" + b"0" * 30),
    ("1.5", b"1.500000"),
    ("-0.25", b"-0.250000"),
    ("1e20", b"100000000000000000000.000000"),
    ("float('nan')", b"nan"),
    ("float('inf')", b"inf"),
    ("b'raw\\xff\\0'", b"raw\xff\0"),
    ("b'+x'", b"+x"),
    ("[]", []),
    ("[1, 'a', [b'b', True, [1.5]]]", [1, b"a", [b"b", 1, [b"1.500000"]]]),
    ("['+a', '-b', '+']", [Simple("a"), Error("b"), b"+"]),
    ("[None]", [b"PY RECORD"]),
    ("type('L', (list,), {})([1])", [1]),
    ("None", b"PY RECORD"),
    ("{'a': 1}", b"PY RECORD"),
    ("(1, 2)", b"PY RECORD"),
    ("{1}", b"PY RECORD"),
    ("bytearray(b'x')", b"PY RECORD"),
    ("object()", b"PY RECORD"),
]


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[case[0] for case in CASES])
def test_without_conversion(native, expression, expected):
    reply = native(expression)
    assert reply == expected
    assert kinds(reply) == kinds(expected)


def kinds(reply):
    return [kinds(part) for part in reply] if isinstance(reply, list) else type(reply)


CONVERTED = [
    ("None", b"None"),
    ("1.5", b"1.5"),
    ("True", b"True"),
    ("b'x'", b"b'x'"),
    ("['a', 'b']", b"['a', 'b']"),
    ("{'k': 'v'}", b"{'k': 'v'}"),
    ("5", b"5"),
    ("-5", Error("5")),
    ("'+OK'", Simple("OK")),
    ("10**30", b"1" + b"0" * 30),
]


@pytest.mark.parametrize(("expression", "expected"), CONVERTED, ids=[case[0] for case in CONVERTED])
def test_with_conversion(native, expression, expected):
    reply = native(expression, more="")
    assert reply == expected
    assert kinds(reply) == kinds(expected)


@pytest.mark.parametrize("sign", ["+", "-"])
def test_line_breaks_do_not_break_the_protocol(env, sign):
    reply = env.native(f"'{sign}hello\\r\\n+world\\r\\n'")
    assert reply.startswith("hello")
    assert "\r" not in reply
    assert "\n" not in reply
    assert env.call("ECHO", "in step") == b"in step"


def test_line_breaks_of_an_error_become_spaces(env):
    assert env.native("'-hello\\r\\nworld'") == Error("hello  world")


@pytest.mark.parametrize("protocol", [2, 3])
def test_errors_are_bulk_strings(env, protocol):
    with env.server.wire(protocol) as wire:
        results, errors = wire.call(
            "RG.PYEXECUTE", f"{one_shard([1])}.foreach(lambda x: flat_error('-bad')).run()"
        )
    assert results == []
    assert errors == [b"-bad"]
    assert type(errors[0]) is bytes


@pytest.mark.parametrize("expression", ["'-5'", "['a', '-5']", "[['-5'], 1]"])
def test_errors_among_results_do_not_harm_lua(env, expression):
    """Valkey 9 fails at them, and at every call of a script from then on."""
    env.register(
        f"GB('CommandReader').map(lambda x: {expression})"
        ".register(trigger='t', mode='sync', convertToStr=False)"
    )
    run = f"GB('ShardsIDReader').map(lambda x: {expression}).run(convertToStr=False)"
    identifier = env.start(run)
    env.wait(identifier)
    for words in [("RG.TRIGGER", "t"), ("RG.GETRESULTS", identifier)]:
        reply = env.call("EVAL", "return type(redis.call(unpack(ARGV)))", 0, *words)
        assert reply == b"table"
        assert env.call("EVAL", "return redis.call('PING')", 0) == "PONG"


def test_both_protocols_see_the_same_management_replies(env):
    identifier = env.start("GB('ShardsIDReader').map(lambda x: nope).run()")
    env.wait(identifier)
    commands = [
        ("RG.DUMPEXECUTIONS",),
        ("RG.GETEXECUTION", identifier, "SHARD"),
        ("RG.GETRESULTS", identifier),
        ("RG.GETRESULTSBLOCKING", identifier),
        ("RG.CONFIGGET", "MaxExecutions", "Plugin", "CreateVenv", "nonsense"),
        ("RG.CONFIGSET", "MaxExecutions", "1000", "MaxExecutions", "x"),
        ("RG.INFOCLUSTER",),
        ("RG.REFRESHCLUSTER",),
    ]
    with env.server.wire(2) as two, env.server.wire(3) as three:
        for command in commands:
            old, new = two.call(*command), three.call(*command)
            assert old == new
            assert kinds(old) == kinds(new)
