"""Acceptance scenarios of errors."""

import pytest

UNDEFINED = "name 'nope' is not defined"


@pytest.fixture
def two(env):
    env.client.mset({"x": 1, "y": 2})
    return env


def test_err_01_syntax(env):
    assert "invalid syntax" in env.refused("defs 1 + GB().run()")


def test_err_02_an_unknown_method(env):
    assert "notExists" in env.refused("GB().notExists(lambda r: r).run()")


def test_err_03_two_runs(env):
    assert "more then 1" in env.refused("GB().run()\nGB().run()")


def test_err_05_foreach(two):
    two.errors("GB().foreach(lambda r: nope).run()")


def test_err_06_reducer_of_groupby(two):
    two.errors("GB().groupby(lambda r: r['key'], lambda k, a, r: nope).run()")


def test_err_07_extractor_of_groupby(two):
    two.errors("GB().groupby(lambda r: nope, lambda k, a, r: 1).run()")


def test_err_08_accumulate(two):
    two.errors("GB().accumulate(lambda a, r: nope).run()")


def test_err_09_second_call_of_a_sequence_function(two):
    errors = two.errors(
        """
        calls = 0
        def second(k, a, r):
            global calls
            calls += 1
            if calls == 2:
                raise ValueError('second')
            return a + 1
        GB().aggregateby(lambda r: 'one', 0, second, lambda k, a, r: a + r).run()
        """
    )
    assert "second" in errors[0]


@pytest.mark.parametrize("failing", ["sequence", "combine"])
def test_err_10_one_record_of_aggregateby(two, failing):
    errors = two.errors(
        f"""
        def sequence(k, a, r):
            if '{failing}' == 'sequence' and k == 'y':
                raise ValueError('the y')
            return a + 1
        def combine(k, a, r):
            if '{failing}' == 'combine' and k == 'y':
                raise ValueError('the y')
            return a + r
        GB().aggregateby(lambda r: r['key'], 0, sequence, combine).run()
        """
    )
    assert len(errors) == 1
    assert "the y" in errors[0]


def test_err_11_flatmap(two):
    two.errors("GB().flatmap(lambda r: nope).run()")


def test_err_12_filter(two):
    two.errors("GB().filter(lambda r: nope).run()")


def test_err_13_a_reader_without_run(env):
    assert "do not support run" in env.refused("GB('CommandReader').run()")


@pytest.mark.parametrize("words", [["foo"], ["foo", "bar"], ["UNBLOCKING", "foo"]])
def test_err_17_unknown_words(env, words):
    assert "Unknown arguments were given" in env.refused("GB().run()", *words)


def test_err_21_execute(env):
    assert "the given command must be a string" in env.refused("execute(1)")
    errors = env.errors("GB('ShardsIDReader').map(lambda x: execute(1)).run()")
    assert len(errors) == env.shard_count
    assert all("the given command must be a string" in error for error in errors)


CHECKS = {
    "err_23_map": ["map(lambda x: x, 1)", "map(1)"],
    "err_24_filter": ["filter(lambda x: x, 1)", "filter(1)"],
    "err_25_batchgroupby": [
        "batchgroupby(lambda x: x, lambda k, r: r, 1)",
        "batchgroupby(1, lambda k, r: r)",
        "batchgroupby(lambda x: x, 1)",
    ],
    "err_27_repartition": ["repartition(lambda x: x, 1)", "repartition(1)"],
}


def refusals(env, name):
    arity, *types = CHECKS[name]
    assert "wrong number of args" in env.refused(f"GB().{arity}.run()")
    for call in types:
        assert "argument must be a function" in env.refused(f"GB().{call}.run()")


def test_err_23_map(env):
    refusals(env, "err_23_map")


def test_err_24_filter(env):
    refusals(env, "err_24_filter")


def test_err_25_batchgroupby(env):
    refusals(env, "err_25_batchgroupby")


def test_err_26_collect(env):
    assert "wrong number of args" in env.refused("GB().collect(1, 2).run()")


def test_err_27_repartition(env):
    refusals(env, "err_27_repartition")


def test_err_28_limit(env):
    for arguments in ["", "1, 2, 3"]:
        assert "wrong number of args" in env.refused(f"GB().limit({arguments}).run()")
    for arguments in ["'awdwada'", "1, 'kwdjaw'"]:
        assert "argument must be a number" in env.refused(f"GB().limit({arguments}).run()")


def test_err_29_avg(env):
    assert "argument must be a function" in env.refused("GB().avg(1).run()")


@pytest.mark.parametrize(
    "call",
    ["GB('PythonReader').run('*')", "GB('PythonReader').run()", "GB('PythonReader', '*').run()"],
)
def test_err_30_python_reader(env, call):
    assert "pyreader argument must be a functio" in env.refused(call)


def test_err_31_from_id(env):
    assert "fromId argument must be a string" in env.refused(
        "GB('StreamReader').run('s', fromId=1)"
    )


def test_err_32_no_scan(env):
    assert "value is not boolean" in env.refused("GB().run('*', noScan=1)")


def test_err_39_count_of_keys_only(env):
    results, errors = env.run("GB('KeysOnlyReader').run(count='noNumber')")
    assert results == []
    assert any("value is not an integer" in error for error in errors)


def test_err_40_pattern_generator(env):
    results, errors = env.run("GB('KeysOnlyReader').run(patternGenerator='adasd')")
    assert results == []
    assert any("is not callable" in error for error in errors)


def test_err_41_short_errors(two):
    two.config("PythonAttemptTraceback", 0)
    identifier = two.start(
        "GB().repartition(lambda r: nope).repartition(lambda r: nope).collect().run()"
    )
    two.wait(identifier)
    errors = two.plan(identifier)["errors"]
    assert errors
    assert set(errors) == {f"Error type: <class 'NameError'>, Value: {UNDEFINED}"}


NO_HOOK = "Can not get CommandHook ctx"


def test_err_49_call_next_in_filter(two):
    assert NO_HOOK in two.errors("GB().filter(lambda r: call_next()).run()")[0]


def test_err_50_call_next_in_foreach(two):
    assert NO_HOOK in two.errors("GB().foreach(lambda r: call_next()).run()")[0]


def test_err_51_call_next_in_accumulate(two):
    assert NO_HOOK in two.errors("GB().accumulate(lambda a, r: call_next()).run()")[0]


def test_err_52_call_next_in_groupby(two):
    script = "GB().groupby(lambda r: r['key'], lambda k, a, r: call_next()).run()"
    assert NO_HOOK in two.errors(script)[0]


UNPICKLABLE = "import _thread\nlock = _thread.allocate_lock()\n"


@pytest.mark.parametrize("reader", ["KeysReader", "StreamReader"])
def test_err_04_what_can_not_be_pickled(env, reader):
    script = f"{UNPICKLABLE}GB('{reader}').foreach(lambda r: lock).register('x')"
    assert "Error occured when serialized a python callback" in env.refused(script)
    assert env.registrations() == []


def check_refused(env, call, text):
    assert text in env.refused(call)
    assert env.registrations() == []


def test_err_14_neither_trigger_nor_hook(env):
    check_refused(env, "GB('CommandReader').register()", "no trigger or hook argument was given")


def test_err_15_a_trigger_twice(env):
    script = "GB('CommandReader').register(trigger='t')"
    env.register(script)
    assert "trigger already registered" in env.refused(script)
    assert len(env.registrations()) == 1


@pytest.mark.parametrize("mode", ["sync", "async", "async_local"])
def test_err_16_a_trigger_that_fails(env, mode):
    script = "GB('CommandReader').foreach(lambda r: nope).register(trigger='t', mode='{}')"
    env.register(script.format(mode))
    assert UNDEFINED in env.error("RG.TRIGGER", "t")


def test_err_18_a_prefix_that_is_no_text(env):
    check_refused(env, "GB().register(1)", "regex argument must be a string")


@pytest.mark.parametrize("argument", ["eventTypes", "keyTypes"])
def test_err_19_types_that_are_no_text(env, argument):
    check_refused(env, f"GB().register({argument}=[1, 2])", "type is not string")


def test_err_20_commands(env):
    check_refused(env, "GB().register(commands=1)", "not iterable")
    check_refused(env, "GB().register(commands=[1, 2])", "type is not string")


def test_err_22_a_time_event(env):
    check_refused(env, "registerTE(1, 'no function')", "callback must be a function")


def test_err_33_on_registered(env):
    check_refused(env, "GB().register(onRegistered=1)", "argument must be a function")


@pytest.mark.parametrize("mode", ["1", "'test'"])
def test_err_34_mode(env, mode):
    check_refused(env, f"GB().register(mode={mode})", "execution mode")


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("batch='x'", "batch argument must be a number"),
        ("duration='x'", "duration argument must be a number"),
        ("onFailedRetryInterval='x'", "retryInterval argument must be a number"),
        ("trimStream='x'", "pyTrimmStream argument must be a boolean"),
    ],
)
def test_err_35_to_38_arguments_of_streams(env, argument, text):
    check_refused(env, f"GB('StreamReader').register('s', {argument})", text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("hook='nope', keyprefix='k'", "Can not override an unexisting command"),
        ("hook='multi'", "Can not override a command which are not allowed inside a script"),
        ("hook='exec'", "Can not override a command which are not allowed inside a script"),
    ],
)
def test_err_42_to_44_hooks(env, arguments, text):
    check_refused(env, f"GB('CommandReader').register({arguments}, mode='sync')", text)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("nope", "bad reply"),
        ("xread", "Can not hook a command with moveable keys by key prefix"),
        ("exec", "Can not hook a command which are not allowed inside a script"),
        ("eval", "Can not hook a command which are not allowed inside a script"),
    ],
)
def test_err_45_to_48_commands_of_keys(env, command, text):
    check_refused(env, f"GB().register(commands=['{command}'])", text)


def test_err_55_a_hook_of_two_results(env):
    env.register(
        """
        GB('CommandReader').flatmap(lambda r: [1, 2]).register(hook='hset', mode='sync')
        """
    )
    assert env.error("HSET", "h", "f", "v") == "Command hook must return exactly one result"


def test_err_56_a_hook_on_an_asynchronous_one(env):
    script = "GB('CommandReader').register(hook='hset', mode='async_local')"
    env.register(script)
    assert "Can not override a none sync registration" in env.refused(script)
    assert len(env.registrations()) == 1
