import pytest


@pytest.fixture
def three(env):
    env.client.mset({"xx": 1, "xy": 2, "y": 3})
    return env


def names(env, run="", builder="GB('KeysOnlyReader')"):
    return sorted(env.results(f"{builder}.run({run})"))


def test_names(three):
    assert names(three) == ["xx", "xy", "y"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*", ["xx", "xy", "y"]), ("x*", ["xx", "xy"]), ("xx", ["xx"]), ("no", [])],
)
def test_patterns(three, pattern, expected):
    assert names(three, repr(pattern)) == expected
    assert names(three, "", f"GB('KeysOnlyReader', {pattern!r})") == expected


@pytest.mark.parametrize("count", [1, 2, 100000])
def test_count(three, count):
    assert names(three, f"count={count}") == ["xx", "xy", "y"]


def test_no_scan(three):
    assert names(three, "'xx', noScan=True") == ["xx"]
    assert names(three, "'x*', noScan=True") == []
    assert names(three, "'no', noScan=True") == []


def test_pattern_generator(three):
    assert names(three, "patternGenerator=lambda: ('x*', False)") == ["xx", "xy"]
    assert names(three, "patternGenerator=lambda: ('y', True)") == ["y"]


def test_other_types(env):
    env.client.sadd("s", 1)
    env.client.xadd("x", {"a": 1})
    assert names(env) == ["s", "x"]


def test_many(env):
    env.fill(10000)
    assert env.results("GB('KeysOnlyReader').count().run()") == ["10000"]
    assert set(names(env)) == {f"key:{i}" for i in range(10000)}


def test_undecodable_names(env):
    env.binary.set(b"k\xff", 1)
    assert env.results("GB('KeysOnlyReader').map(lambda k: bytes(k)).run()") == ["b'k\\xff'"]


@pytest.mark.parametrize("arguments", ["mode='async'", "readValue=True", "nonsense=1"])
def test_other_arguments(three, arguments):
    text = three.refused(f"GB('KeysOnlyReader').run({arguments})")
    assert "TypeError" in text
    assert "unexpected keyword argument" in text


def test_a_count_that_is_no_number(three):
    errors = three.errors("GB('KeysOnlyReader').run(count='x')")
    assert ["value is not an integer" in error for error in errors] == [True] * three.shard_count


def test_a_pattern_generator_that_is_no_function(three):
    errors = three.errors("GB('KeysOnlyReader').run(patternGenerator='x')")
    assert ["not callable" in error for error in errors] == [True] * three.shard_count


def test_its_helper_is_in_the_globals(three):
    """`createKeysOnlyReader` makes the reader function."""
    script = "GB('PythonReader', createKeysOnlyReader('x*')).count().run()"
    assert three.results(script) == ["2"]
