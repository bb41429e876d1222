"""Whatever is sent: a clear error, and the server goes on answering."""

import pytest
from env import Env, one_shard
from server import Server, is_loading, wait_until
from wire import Error, Simple

pytestmark = pytest.mark.lopsided

ONE = one_shard(["1"])


@pytest.fixture(autouse=True)
def still_answering(request, env):
    pids = env.each(lambda shard: shard.server.pid)
    yield
    assert env.each(lambda shard: shard.server.pid) == pids
    assert all(env.each(lambda shard: shard.client.ping()))
    script = "GB('ShardsIDReader').map(lambda x: execute('ping')).run()"
    assert env.results(script) == ["PONG"] * env.shard_count


STEPS = {
    "map": f"{ONE}.map({{f}})",
    "filter": f"{ONE}.filter({{f}})",
    "flatmap": f"{ONE}.flatmap({{f}})",
    "foreach": f"{ONE}.foreach({{f}})",
    "accumulate": f"{ONE}.accumulate({{f}})",
    "repartition": f"{ONE}.repartition({{f}})",
    "extractor of groupby": f"{ONE}.groupby({{f}}, lambda k, a, r: r)",
    "reducer of groupby": f"{ONE}.groupby(lambda r: r, {{f}})",
    "extractor of localgroupby": f"{ONE}.localgroupby({{f}}, lambda k, a, r: r)",
    "reducer of localgroupby": f"{ONE}.localgroupby(lambda r: r, {{f}})",
    "extractor of batchgroupby": f"{ONE}.batchgroupby({{f}}, lambda k, r: r)",
    "reducer of batchgroupby": f"{ONE}.batchgroupby(lambda r: r, {{f}})",
    "aggregate": f"{ONE}.aggregate(0, {{f}}, {{f}})",
    "combiner of aggregate": f"{ONE}.aggregate(0, lambda a, r: 1, {{f}})",
    "aggregateby": f"{ONE}.aggregateby(lambda r: r, 0, {{f}}, {{f}})",
    "combiner of aggregateby": (f"{ONE}.aggregateby(lambda r: r, 0, lambda k, a, r: 1, {{f}})"),
    "countby": f"{ONE}.countby({{f}})",
    "avg": f"{ONE}.avg({{f}})",
    "reader": "GB('PythonReader', {f})",
    "pattern generator": None,
}


def times(env, step):
    """How many shards call the function of a step."""
    return env.shard_count if step in ("reader", "pattern generator") else 1


def script_with(step, body):
    """A script whose function `bad`, called in this step, has this body."""
    if step == "pattern generator":
        run = "GB('KeysOnlyReader').run(patternGenerator=bad)"
    else:
        run = STEPS[step].format(f="bad") + ".run()"
    return f"def bad(*_):\n    {body}\n{run}"


@pytest.mark.parametrize("script", ["1defs", "def f(:", "(", "x = = 1", "  x = 1\n y", "\tif", "'"])
def test_syntax_errors(env, script):
    text = env.error("RG.PYEXECUTE", script)
    assert "SyntaxError" in text or "IndentationError" in text


def test_an_exception_at_top_level(env):
    text = env.refused("def f():\n    raise ValueError('at the top')\nf()")
    assert text.startswith("['Traceback (most recent call last):\\n'")
    assert '  File "<string>", line 2, in f\\n' in text
    assert "ValueError: at the top" in text


def test_an_exception_at_top_level_in_short(env):
    env.config("PythonAttemptTraceback", 0)
    text = env.refused("raise ValueError('at the top')")
    assert text == "Error type: <class 'ValueError'>, Value: at the top"


@pytest.mark.parametrize("step", STEPS)
def test_an_exception_in_a_step(env, step):
    script = script_with(step, "raise ValueError('bad')")
    results, errors = env.run(script)
    assert results == []
    assert len(errors) == times(env, step)
    for error in errors:
        assert error.startswith("['Traceback (most recent call last):\\n'")
        assert '  File "<string>", line 2, in bad\\n' in error
        assert "ValueError: bad" in error
    env.config("PythonAttemptTraceback", 0)
    short = ["Error type: <class 'ValueError'>, Value: bad"]
    assert env.run(script) == ([], short * times(env, step))


@pytest.mark.parametrize("step", STEPS)
def test_the_wrong_number_of_arguments_of_a_callback(env, step):
    script = script_with(step, "pass").replace("def bad(*_)", "def bad(a, b, c, d, e)")
    assert "bad() missing" in env.errors(script)[0]


@pytest.mark.parametrize(
    "leaving",
    ["SystemExit", "SystemExit(3)", "KeyboardInterrupt", "GeneratorExit", "BaseException"],
)
@pytest.mark.parametrize("step", STEPS)
def test_exceptions_that_leave_an_interpreter(env, step, leaving):
    name = leaving.split("(")[0]
    assert name in env.errors(script_with(step, f"raise {leaving}"))[0]


@pytest.mark.parametrize("leaving", ["raise SystemExit", "raise KeyboardInterrupt", "exit()"])
def test_leaving_at_top_level(env, leaving):
    assert env.refused(leaving)


def test_sys_exit(env):
    assert "SystemExit" in env.refused("import sys\nsys.exit(1)")
    assert "SystemExit" in env.errors(script_with("map", "import sys; sys.exit(1)"))[0]


def test_stop_iteration(env):
    for step in ["map", "filter", "accumulate", "foreach"]:
        assert "StopIteration" in env.errors(script_with(step, "raise StopIteration"))[0]


@pytest.mark.parametrize("step", STEPS)
def test_recursion_too_deep(env, step):
    assert "RecursionError" in env.errors(script_with(step, "f = lambda g: g(g); return f(f)"))[0]


def test_recursion_too_deep_at_top_level(env):
    assert "RecursionError" in env.refused("def f(): return f()\nf()")


def test_a_value_that_contains_itself(env):
    results, errors = env.run(
        f"""
        def loop(x):
            l = []
            l.append(l)
            return l
        {ONE}.map(loop).run(convertToStr=False)
        """
    )
    assert results == []
    assert len(errors) == 1


def test_a_value_nested_too_deep(env):
    script = f"""
    def deep(x):
        l = []
        for _ in range(200000):
            l = [l]
        return l
    {ONE}.map(deep).run({{}})
    """
    results, errors = env.run(script.format("convertToStr=False"))
    assert (len(results), len(errors)) == (0, 1)
    results, errors = env.run(script.format(""))
    assert (len(results), len(errors)) == (0, 1)
    assert "RecursionError" in errors[0]


NASTY = """
class Nasty:
    def __str__(self): raise ValueError('nasty')
    __repr__ = __bool__ = __hash__ = __eq__ = __len__ = __str__
class NastyError(Exception):
    __str__ = __repr__ = lambda self: 1 / 0
class Silent(Exception):
    __str__ = lambda self: None
"""


@pytest.mark.parametrize(
    "steps",
    [
        "map(lambda x: Nasty())",
        "filter(lambda x: Nasty())",
        "map(lambda x: Nasty()).filter(lambda x: x)",
        "repartition(lambda x: Nasty())",
        "groupby(lambda x: Nasty(), lambda k, a, r: r)",
        "localgroupby(lambda x: Nasty(), lambda k, a, r: r)",
        "batchgroupby(lambda x: Nasty(), lambda k, r: r)",
        "map(lambda x: Nasty()).distinct()",
        "map(lambda x: Nasty()).countby()",
        "aggregate(Nasty(), lambda a, r: Nasty(), lambda a, r: bool(r))",
        "map(lambda x: [Nasty()])",
    ],
)
def test_objects_that_refuse_everything(env, steps):
    errors = env.errors(f"{NASTY}\n{ONE}.{steps}.run()")
    assert "nasty" in errors[0]


@pytest.mark.parametrize("error", ["NastyError('x')", "Silent('x')", "flat_error(Nasty())"])
@pytest.mark.parametrize("traceback", [0, 1])
def test_exceptions_without_a_text(env, error, traceback):
    env.config("PythonAttemptTraceback", traceback)
    script = f"{NASTY}\ndef bad(x): raise {error}\n{ONE}.map(bad).run()"
    results, errors = env.run(script)
    assert results == []
    assert len(errors) == 1
    assert env.refused(f"{NASTY}\nraise {error}")


COMMANDS = {
    "RG.PYEXECUTE": [[], ["x = 1", "nonsense"], ["x = 1", "ID"], ["x = 1", "ID", "\0"]],
    "RG.GETRESULTS": [[]],
    "RG.GETRESULTSBLOCKING": [[], ["a", "b"]],
    "RG.GETEXECUTION": [[], ["a", "SHARD", "b"]],
    "RG.DROPEXECUTION": [[], ["a", "b"]],
    "RG.ABORTEXECUTION": [[], ["a", "b"]],
}
CASES = [(name, words) for name, cases in COMMANDS.items() for words in cases]


@pytest.mark.parametrize(("name", "words"), CASES)
def test_wrong_words_of_commands(env, name, words):
    assert env.error(name, *words)


IDS = [b"", b"-", b"x", b"0" * 40, b"0" * 40 + b"-", b"0" * 40 + b"-99999999999999999999"]
IDS += [b"0" * 41 + b"-1", b"1" * 40 + b"-0", b"0" * 40 + b"--1", b"\xff" * 42, b"a\0b"]
IDS += [b"0" * 100_000]


@pytest.mark.parametrize("identifier", IDS, ids=lambda value: repr(value[:45]))
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "RG.PYEXECUTE"])
def test_unknown_ids(env, name, identifier):
    assert "does not exist" in env.error(name, identifier)


@pytest.mark.parametrize("words", [[b"\xff"], [b"a\0b"], [b""], [b"x" * 1_000_000]])
def test_unknown_settings(env, words):
    (reply,) = env.call("RG.CONFIGGET", *words)
    assert isinstance(reply, Error)
    (reply,) = env.call("RG.CONFIGSET", *words)
    assert isinstance(reply, Error)


def test_settings_of_any_bytes(env):
    (saved,) = env.call("RG.CONFIGSET", b"\xff\0k", b"\xfe\0v")
    assert isinstance(saved, Simple | Error)
    if isinstance(saved, Simple):
        assert env.call("RG.CONFIGGET", b"\xff\0k") == [b"\xfe\0v"]
        script = f"{ONE}.map(lambda x: len(configGet('k'))).run()"
        env.call("RG.CONFIGSET", "k", b"\xfe\0v")
        assert len(env.call("RG.PYEXECUTE", script)) == 2


def test_a_reader_that_is_no_generator(env):
    for value in ["5", "[1]", "None", "iter(())"]:
        script = f"GB('PythonReader').map(lambda x: 1).run(lambda: {value})"
        assert env.results(script) == ["1"] * env.shard_count


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**100, -(10**4000)])
def test_numbers_beyond_64_bit(env, number):
    assert env.native(f"int('{number}')") == str(number).encode()


def test_a_number_with_more_digits_than_python_prints(env):
    results, errors = env.run(f"{ONE}.map(lambda x: 10 ** 5000).run()")
    assert (len(results), len(errors)) == (0, 1)
    assert "ValueError" in errors[0]
    script = f"{ONE}.map(lambda x: 10 ** 5000).run(convertToStr=False)"
    results, errors = env.run(script)
    assert len(results) + len(errors) == 1


def test_bytes_that_are_no_text(env):
    env.binary.set(b"s\xff", b"\xfe")
    env.binary.hset(b"h\xff", b"f\xfe", b"v\xfd")
    env.binary.rpush(b"l\xff", b"\xfc")
    env.binary.xadd(b"x", {b"f\xfe": b"v\xfd"})
    assert len(env.results("GB().run()")) == 4
    assert len(env.results("GB().run(allValues=True)")) == 4
    assert len(env.results("GB('KeysOnlyReader').run()")) == 4
    assert len(env.results("GB('StreamReader').run('x')")) == 1
    script = "GB().map(lambda r: bytes(r['key'])).run({}, convertToStr=False)"
    results, errors = env.call("RG.PYEXECUTE", script.format("'[shl]*'"))
    assert errors == []
    assert sorted(results) == [b"h\xff", b"l\xff", b"s\xff"]


def test_a_script_that_is_no_text(env):
    assert isinstance(env.call("RG.PYEXECUTE", b"x = '\xff'"), Error)
    assert isinstance(env.call("RG.PYEXECUTE", b"\xff\xfe"), Error)


def test_a_script_with_a_nul_byte(env):
    text = env.error("RG.PYEXECUTE", b"x = 1\0\nexecute('set', 'x', 1)")
    assert "null byte" in text.lower() or "nul" in text.lower()
    assert not env.client.exists("x")


def test_a_large_script(env):
    assert env.call("RG.PYEXECUTE", "x = 1\n" * 100_000) == "OK"
    assert env.call("RG.PYEXECUTE", "x = '" + "y" * 5_000_000 + "'") == "OK"


def test_a_script_nested_too_deep(env):
    assert isinstance(env.call("RG.PYEXECUTE", "(" * 10_000 + ")" * 10_000), Error)
    assert isinstance(env.call("RG.PYEXECUTE", "x = " + "-" * 100_000 + "1"), Error)


def test_options_that_are_no_text(env):
    script = f"{ONE}.run()"
    assert isinstance(env.call("RG.PYEXECUTE", script, "ID", b"\xff"), Error)
    assert isinstance(env.call("RG.PYEXECUTE", script, b"\xff"), Error)
    reply = env.call("RG.PYEXECUTE", script, "DESCRIPTION", b"\xff\0")
    assert reply == [[b"1"], []] or isinstance(reply, Error)


@pytest.mark.parametrize("convert", [True, False])
def test_lone_surrogates_in_results(env, convert):
    results, errors = env.run(f"{ONE}.map(lambda x: '\\ud800').run(convertToStr={convert})")
    assert results == []
    assert len(errors) == 1
    assert "surrogate" in errors[0] or "Unicode" in errors[0]


def test_lone_surrogates_cost_one_record(env):
    results, errors = env.run(
        f"""
        {ONE}.flatmap(lambda x: ['b', '\\ud800', 'a']).run()
        """
    )
    assert sorted(results) == ["a", "b"]
    assert len(errors) == 1


def test_lone_surrogates_within_a_list(env):
    results, errors = env.run(f"{ONE}.map(lambda x: ['a', ['\\ud800']]).run(convertToStr=False)")
    assert results == []
    assert len(errors) == 1


@pytest.mark.parametrize(
    "steps",
    [
        "repartition(lambda x: '\\ud800').map(lambda x: '\\ud800')",
        "map(lambda x: execute('set', 'x', '\\ud800'))",
        "map(lambda x: execute('\\ud800'))",
        "map(lambda x: log('\\ud800') or '\\ud800')",
        "map(lambda x: configGet('\\ud800') or '\\ud800')",
        "foreach(lambda x: flat_error('\\ud800'))",
    ],
)
def test_lone_surrogates_elsewhere(env, steps):
    results, errors = env.run(f"{ONE}.{steps}.run()")
    assert results == []
    assert len(errors) == 1
    assert not env.client.exists("x")


@pytest.mark.parametrize(
    "step",
    [
        "groupby(lambda x: '\\ud800', lambda k, a, r: 1)",
        "localgroupby(lambda x: '\\ud800', lambda k, a, r: 1)",
        "batchgroupby(lambda x: '\\ud800', lambda k, r: 1)",
        "repartition(lambda x: '\\ud800')",
        "countby(lambda x: '\\ud800')",
    ],
)
def test_lone_surrogates_as_keys_of_groups(env, step):
    """Such a key may be refused or work; the original died."""
    results, errors = env.run(f"{ONE}.{step}.run()")
    assert len(results) + len(errors) == 1


@pytest.mark.parametrize("traceback", [0, 1])
def test_lone_surrogates_in_exceptions(env, traceback):
    env.config("PythonAttemptTraceback", traceback)
    assert env.refused("raise ValueError('\\ud800')")
    errors = env.errors(script_with("map", "raise ValueError('\\ud800')"))
    assert "ValueError" in errors[0]


def test_lone_surrogates_as_arguments(env):
    for call in ["GB('\\ud800')", "GB().run('\\ud800')", "GB('StreamReader').run('\\ud800')"]:
        assert env.refused(call)
    reply = env.call("RG.PYEXECUTE", "GB(desc='\\ud800')")
    assert reply == "OK" or isinstance(reply, Error)


def test_lone_surrogates_in_the_output(env):
    env.call("RG.PYEXECUTE", "print('\\ud800')")
    env.call("RG.PYEXECUTE", "import sys\nprint('\\ud800', file=sys.stderr)")


def test_nul_bytes(env):
    env.binary.set(b"a\0b", b"c\0d")
    env.binary.hset(b"h", mapping={b"f\0": b"\0v"})
    results, errors = env.call("RG.PYEXECUTE", "GB().map(lambda r: r['key']).sort().run()")
    assert (results, errors) == ([b"a\0b", b"h"], [])
    assert env.results("GB().count().run('a\\0b')") == ["1"]
    types = env.results("GB().map(lambda r: r['type']).run('a\\0b', noScan=True)")
    assert sorted(types) == [*["empty"] * (env.shard_count - 1), "string"]
    assert env.results("GB().count().run('a\\0*')") == ["1"]
    assert env.results("GB().map(lambda r: r['value']).run('h')") == ["{'f\\x00': '\\x00v'}"]
    script = "GB().groupby(lambda r: 'k\\0' + r['key'], lambda k, a, r: 1).count().run()"
    assert env.results(script) == ["2"]
    assert "nul" in env.errors(script_with("map", "raise ValueError('a\\0nul')"))[0]
    assert env.errors(f"{ONE}.map(lambda x: flat_error('a\\0b')).run()") == ["a\0b"]


def test_nul_bytes_in_an_error_reply(env):
    assert env.refused("flat_error('a\\0b')").startswith("a")


def test_the_empty_key(env):
    env.client.set("", "v")
    assert env.results("GB().map(lambda r: r['value']).run()") == ["v"]
    assert env.results("GB('KeysOnlyReader').map(lambda k: len(k)).run()") == ["0"]
    assert env.results("GB().groupby(lambda r: r['key'], lambda k, a, r: 1).run()") == [
        "{'key': '', 'value': 1}"
    ]


def test_empty_words(env):
    assert isinstance(env.call("RG.PYEXECUTE", "x = 1", ""), Error)
    assert "No such file" in env.refused("execute('')")


def test_a_result_of_ten_megabytes(env):
    size = 10 * 1024 * 1024
    reply = env.native(f"'x' * {size}")
    assert reply == b"x" * size
    reply = env.native(f"b'y' * {size}")
    assert reply == b"y" * size


def test_ten_megabytes_of_small_results(env):
    results, errors = env.run(f"{one_shard('(str(i) * 20 for i in range(100000))')}.run()")
    assert errors == []
    assert results == [str(i) * 20 for i in range(100000)]


def test_an_error_of_ten_megabytes(env):
    size = 10 * 1024 * 1024
    (error,) = env.errors(f"{ONE}.map(lambda x: flat_error('x' * {size})).run()")
    assert error.startswith("x" * 1000)
    assert len(env.refused(f"flat_error('x' * {size})")) >= 1000


def test_many_errors(env):
    results, errors = env.run(
        f"""
        {ONE}.flatmap(lambda x: list(range(20000))).map(lambda x: nope).run()
        """
    )
    assert results == []
    assert len(errors) == 20000


def test_memory_error(env):
    for call in ["'x' * (1 << 60)", "bytearray(1 << 60)", "[0] * (1 << 60)"]:
        assert "MemoryError" in env.errors(f"{ONE}.map(lambda x: {call}).run()")[0]


@pytest.mark.single("on a cluster they have to travel")
def test_callables_that_can_not_be_pickled(env):
    """On one server nothing is shipped, so a function may hold on to anything."""
    script = f"""
    import threading, socket
    lock, sock = threading.Lock(), socket.socket()
    def work(x):
        with lock:
            return sock.fileno() > 0
    {ONE}.map(work).map(lambda x: [x, lock.locked()]).run()
    """
    assert env.results(script) == ["[True, False]"]


@pytest.mark.single("on a cluster they have to travel")
def test_results_that_can_not_be_pickled(env):
    script = f"import threading\n{ONE}.map(lambda x: threading.Lock()).collect()"
    assert env.results(f"{script}.map(lambda x: type(x).__name__).run()") == ["lock"]


@pytest.mark.parametrize("value", ["str", "len", "print", "GB", "object()", "int", "'f'"])
def test_steps_that_are_no_functions(env, value):
    """A callable that is not a function may be refused or called, but nothing in between."""
    reply = env.call("RG.PYEXECUTE", f"{ONE}.map({value}).run()")
    if isinstance(reply, Error):
        assert "map argument must be a function" in reply
    else:
        results, errors = reply
        assert len(results) + len(errors) == 1


IN_MULTI = "Can not run gears inside a multi exec, lua, or when blocking is not allowed"


def test_in_multi(env):
    for words in [["execute('set', 'x', 1)"], ["GB().run()", "UNBLOCKING"], ["x = 1", "nonsense"]]:
        env.call("MULTI")
        assert env.call("RG.PYEXECUTE", *words) == "QUEUED"
        assert env.call("PING") == "QUEUED"
        refused, pong = env.call("EXEC")
        assert isinstance(refused, Error)
        assert refused == IN_MULTI
        assert pong == "PONG"
    assert not env.client.exists("x")
    assert env.executions() == {}


def test_in_a_lua_script(env):
    reply = env.call("EVAL", "return redis.call('RG.PYEXECUTE', ARGV[1])", "0", "x = 1")
    assert isinstance(reply, Error)
    assert "not allowed" in reply
    reply = env.call("EVAL", "return redis.pcall('RG.CONFIGSET', 'MaxExecutions', '5')", "0")
    assert isinstance(reply, Error)
    assert env.call("RG.CONFIGGET", "MaxExecutions") == [1000]


def test_in_a_function_of_its_own(env):
    (error,) = env.errors(f"{ONE}.map(lambda x: execute('RG.PYEXECUTE', 'GB().run()')).run()")
    assert "blocking is not allowed" in error
    assert "blocking is not allowed" in env.refused("execute('RG.PYEXECUTE', 'x = 1')")


@pytest.mark.single("it starts its own server")
def test_on_a_read_only_replica(new_env):
    master = new_env()
    replica = new_env(options=["--replicaof", "127.0.0.1", master.server.port])
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    assert replica.error("RG.PYEXECUTE", "execute('set', 'x', 1)").startswith("READONLY")
    assert replica.call("RG.DUMPEXECUTIONS") == []
    assert replica.call("RG.CONFIGGET", "MaxExecutions") == [1000]
    assert not replica.client.exists("x")
    replica.client.replicaof("NO", "ONE")
    assert replica.results("GB('ShardsIDReader').run()") == ["1"]


@pytest.mark.single("it starts its own server")
def test_while_loading(tmp_path):
    options = ["--loading-process-events-interval-bytes", "1024"]
    server = Server(tmp_path, (), options)
    server.start()
    env = Env(server)
    pipe = env.client.pipeline(transaction=False)
    for i in range(20000):
        pipe.set(f"key:{i}", "value" * 100)
    pipe.execute()
    assert env.client.save()
    env.close()
    server.stop()
    server.options += ["--key-load-delay", "300"]
    server.start(ready=is_loading)
    try:
        env = Env(server)
        for words in [
            ("RG.PYEXECUTE", "execute('set', 'x', 1)"),
            ("RG.DUMPEXECUTIONS",),
            ("RG.CONFIGGET", "MaxExecutions"),
        ]:
            assert env.error(*words).startswith("LOADING")
        env.call("CONFIG", "SET", "key-load-delay", "0")
        wait_until(lambda: env.call("PING") == "PONG", timeout=60)
        assert env.results("GB().count().run()") == ["20000"]
        env.close()
    finally:
        server.stop()


@pytest.mark.single("it starts its own server")
def test_out_of_memory(new_env):
    env = new_env()
    env.client.set("y", 1)
    env.client.config_set("maxmemory", 1)
    assert env.error("RG.PYEXECUTE", "execute('set', 'x', 1)").startswith("OOM")
    assert env.call("RG.DUMPEXECUTIONS") == []
    assert env.call("RG.CONFIGGET", "MaxExecutions") == [1000]
    env.client.config_set("maxmemory", 0)
    assert not env.client.exists("x")
    assert env.results("GB('ShardsIDReader').run()") == ["1"]


def test_a_user_without_the_right(env):
    env.call("ACL", "SETUSER", "guest", "reset", "on", "nopass", "~*", "+@read", "+@write")
    with env.server.wire() as wire:
        assert wire.call("AUTH", "guest", "any") == "OK"
        reply = wire.call("RG.PYEXECUTE", "execute('set', 'x', 1)")
        assert isinstance(reply, Error)
        assert reply.startswith("NOPERM")
    env.call("ACL", "DELUSER", "guest")
    assert not env.client.exists("x")


@pytest.mark.parametrize(
    "body",
    [
        "import ctypes; ctypes.pythonapi.PyThreadState_SetAsyncExc",
        "import os; os.getpid()",
        "import signal; signal.getsignal(signal.SIGINT)",
        "import threading; threading.Thread(target=lambda: 1 / 0).start()",
        "import warnings; warnings.warn('careful')",
        "import gc; gc.collect()",
        "import sys; sys.stdout.flush(); sys.stdin",
        "import faulthandler; faulthandler.is_enabled()",
    ],
)
def test_what_scripts_do_to_their_interpreter(env, body):
    reply = env.call("RG.PYEXECUTE", body)
    assert reply == "OK"


@pytest.mark.parametrize("name", ["execute", "str", "list", "repr", "Exception", "len", "type"])
def test_names_that_a_script_overwrites(env, name):
    """Only that script has to live with it."""
    env.call("RG.PYEXECUTE", f"{name} = None\n{ONE}.map(lambda x: x).count().run()")
    assert env.results(f"{ONE}.map(lambda x: execute('ping')).run()") == ["PONG"]


def test_clients_that_leave_at_any_time(env):
    for i in range(50):
        with env.server.wire() as wire:
            wire.send(
                "RG.PYEXECUTE", f"GB('PythonReader', lambda: (i for i in range({i * 50}))).run()"
            )
            if i % 2:
                wire.send("PING")
    wait_until(lambda: env.executions() == {}, what="the end of the executions")


def test_a_command_that_kills_its_own_client(env):
    with env.server.wire() as wire:
        number = wire.call("CLIENT", "ID")
        wire.send("RG.PYEXECUTE", f"execute('client', 'kill', 'id', {number})")
        with pytest.raises(OSError):
            wire.receive()
            wire.call("PING")
