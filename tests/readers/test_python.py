import pytest
from env import one_shard


def check(env, results, expected):
    """The same from every shard; from one of them in this order."""
    if env.shard_count == 1:
        assert results == expected
    assert sorted(results) == sorted(expected * env.shard_count)


def test_a_generator_function(env):
    script = """
    def numbers():
        for i in range(5):
            yield i
    GB('PythonReader'{}).run({})
    """
    expected = ["0", "1", "2", "3", "4"]
    check(env, env.results(script.format("", "numbers")), expected)
    check(env, env.results(script.format(", numbers", "")), expected)


def test_a_function_that_returns_a_generator(env):
    script = "GB('PythonReader').run(lambda: (i * i for i in range(4)))"
    check(env, env.results(script), ["0", "1", "4", "9"])


def test_order_is_kept_over_many_records(env):
    script = f"{one_shard('range(10000)')}.map(lambda x: x + 1).run()"
    assert env.results(script) == [str(i + 1) for i in range(10000)]


@pytest.mark.parametrize("value", ["5", "[1, 2]", "None", "'text'", "range(3)", "iter([1])"])
def test_a_function_that_returns_something_else(env, value):
    """The original called it for ever."""
    script = f"GB('PythonReader').map(lambda x: type(x).__name__).run(lambda: {value})"
    assert env.results(script) == [type(eval(value)).__name__] * env.shard_count


def test_an_empty_generator(env):
    assert env.results("GB('PythonReader').run(lambda: (i for i in []))") == []


def test_an_exception_ends_the_reading(env):
    results, errors = env.run(
        """
        def numbers():
            yield 1
            yield 2
            raise ValueError('no more')
        GB('PythonReader').run(numbers)
        """
    )
    check(env, results, ["1", "2"])
    assert ["ValueError: no more" in error for error in errors] == [True] * env.shard_count


def test_an_exception_before_the_first_record(env):
    results, errors = env.run(
        """
        def numbers():
            raise ValueError('not at all')
        GB('PythonReader').run(numbers)
        """
    )
    assert results == []
    assert ["not at all" in error for error in errors] == [True] * env.shard_count


def test_an_exception_lets_accumulators_finish(env):
    results, errors = env.run(
        """
        def numbers():
            yield 1
            yield 2
            raise ValueError('no more')
        GB('PythonReader').count().run(numbers)
        """
    )
    assert results == [str(2 * env.shard_count)]
    assert len(errors) == env.shard_count


@pytest.mark.parametrize(
    "definition", ["def f(): gearsFuture(); yield 1", "async def f(): return 1"]
)
def test_a_reader_does_not_answer_later(env, definition):
    errors = env.errors(f"{definition}\nGB('PythonReader').run(f)")
    assert ["Step does not support async" in error for error in errors] == [True] * env.shard_count


def test_values_of_any_type(env):
    script = """
    def values():
        yield None
        yield b'x'
        yield {'a': 1}
        yield object
    GB('PythonReader').run(values)
    """
    check(env, env.results(script), ["None", "b'x'", "{'a': 1}", "<class 'object'>"])


def test_the_reader_may_execute(env):
    env.each(lambda shard: shard.client.rpush(shard.key("l"), "a", "b"))
    script = """
    def elements():
        yield from execute('lrange', 'l{%s}' % hashtag(), 0, -1)
    GB('PythonReader').run(elements)
    """
    check(env, env.results(script), ["a", "b"])


def test_a_limit_ends_an_endless_generator(env):
    script = """
    import itertools
    GB('PythonReader', lambda: (i for i in itertools.count())).limit(3).run()
    """
    check(env, env.results(script), ["0", "1", "2"])


def test_an_error_ends_an_endless_generator(env):
    results, errors = env.run(
        """
        import itertools
        GB('PythonReader', lambda: (i for i in itertools.count())) \\
            .map(lambda x: 10 // (5 - x)).run(mode='async_local')
        """
    )
    assert results == ["2", "2", "3", "5", "10"]
    assert len(errors) == 1


def test_state_of_the_generator_is_its_own(env):
    script = "GB('PythonReader', lambda: (i for i in range(500))).run()"
    for identifier in [env.start(script) for _ in range(5)]:
        results, errors = env.wait(identifier)
        assert errors == []
        check(env, results, [str(i) for i in range(500)])


@pytest.mark.parametrize("builder", ["GB('PythonReader')", "GB('PythonReader', 'text')"])
def test_no_function(env, builder):
    assert "pyreader argument must be a function" in env.refused(f"{builder}.run()")


@pytest.mark.parametrize("argument", ["'*'", "1", "[1]"])
def test_not_a_function(env, argument):
    text = env.refused(f"GB('PythonReader').run({argument})")
    assert "pyreader argument must be a function" in text


def test_other_arguments_are_ignored(env):
    script = "GB('PythonReader').run(lambda: (i for i in [1]), nonsense=1)"
    check(env, env.results(script), ["1"])


def test_the_reader_of_shard_ids(env):
    for builder in ("GB('ShardsIDReader')", "GB('PythonReader', shardReaderCallback)"):
        assert sorted(env.results(f"{builder}.run()")) == env.ids
        assert sorted(env.results(f"{builder}.run(mode='async')")) == env.ids
    assert sorted(env.results("GB('ShardsIDReader').run('ignored')")) == env.ids
    for shard in env.shards:
        (found,) = shard.results("GB('ShardsIDReader').run(mode='async_local')")
        assert found == ("1" if env.shard_count == 1 else shard.server.id)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "reader argument must be a string"),
        ("None", "reader argument must be a string"),
        ("'KeysReader', '*', 1", "desc argument must be a string"),
        ("'NoReader'", "The given reader does not exists"),
        ("''", "The given reader does not exists"),
        ("'keysreader'", "The given reader does not exists"),
    ],
)
def test_wrong_builder_arguments(env, arguments, text):
    assert text in env.refused(f"GB({arguments})")


def test_builder_by_keyword(env):
    env.client.set("x", 1)
    script = "GearsBuilder(reader='KeysReader', defaultArg='x', desc='text').count().run()"
    assert env.results(script) == ["1"]


def test_statement_style(env):
    assert env.results(
        """
        gb = GearsBuilder('PythonReader')
        gb.map(lambda x: x + 1)
        gb.filter(lambda x: x % 2)
        gb.run(lambda: (i for i in range(4)), mode='async_local')
        """
    ) == ["1", "3"]


def test_attributes_of_a_builder(env):
    env.execute(
        """
        gb = GB('ShardsIDReader', 'arg')
        found = str([gb.realReader, gb.reader, gb.defaultArg])
        execute('set', 'found{%s}' % hashtag(), found)
        assert isinstance(gb.gearsCtx, PyFlatExecution)
        """
    )
    found = env.client.get(env.key("found"))
    assert found == "['ShardsIDReader', 'PythonReader', 'arg']"


def test_the_builder_below_a_builder(env):
    """Packages bring a GearsBuilder of their own, over this one."""
    env.register(
        """
        gearsCtx('CommandReader').register(trigger='bare', mode='sync')
        low = gearsCtx('KeysReader', 'of my own')
        low.foreach(lambda r: None)
        low.register()
        low.register(prefix='a*', mode='sync')
        low.register('b*')
        low.register('c', regex='d')
        """
    )
    assert env.trigger("bare", "x") == [["bare", "x"]]
    entries = env.registrations()[1:]
    shown = [entry["RegistrationData"]["args"]["regex"] for entry in entries]
    assert shown == ["*", "a*", "b*", "d"]
    assert {entry["desc"] for entry in entries} == {"of my own"}
    for wrong in ("None", "prefix=1", "regex=b'x'"):
        assert "regex argument must be a string" in env.refused(f"gearsCtx().register({wrong})")
