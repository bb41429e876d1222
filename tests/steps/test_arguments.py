import pytest
from env import one_shard

ARITY = [
    ("map", "", "map"),
    ("map", "f, f", "map"),
    ("filter", "", "filter"),
    ("filter", "f, f", "filter"),
    ("flatmap", "", "flatmap"),
    ("flatmap", "f, f", "flatmap"),
    ("foreach", "", "foreach"),
    ("foreach", "f, f", "foreach"),
    ("accumulate", "", "accumulate"),
    ("accumulate", "f, f", "accumulate"),
    ("repartition", "", "repartition"),
    ("repartition", "f, f", "repartition"),
    ("groupby", "", "groupby"),
    ("groupby", "f", "groupby"),
    ("groupby", "f, f, f", "groupby"),
    ("localgroupby", "f", "groupby"),
    ("localgroupby", "f, f, f", "groupby"),
    ("batchgroupby", "f", "batchgroupby"),
    ("batchgroupby", "f, f, f", "batchgroupby"),
    ("collect", "1", "collect"),
    ("limit", "", "limit"),
    ("limit", "1, 2, 3", "limit"),
]
TYPES = [
    ("map", "1", "map argument must be a function"),
    ("map", "None", "map argument must be a function"),
    ("map", "'f'", "map argument must be a function"),
    ("filter", "1", "filter argument must be a function"),
    ("flatmap", "1", "flatmap argument must be a function"),
    ("foreach", "1", "foreach argument must be a function"),
    ("accumulate", "1", "accumulate argument must be a function"),
    ("repartition", "1", "repartition argument must be a function"),
    ("groupby", "1, f", "groupby extractor argument must be a function"),
    ("groupby", "f, 1", "groupby reducer argument must be a function"),
    ("localgroupby", "1, f", "groupby extractor argument must be a function"),
    ("localgroupby", "f, 1", "groupby reducer argument must be a function"),
    ("batchgroupby", "1, f", "batchgroupby extractor argument must be a function"),
    ("batchgroupby", "f, 1", "batchgroupby reducer argument must be a function"),
    ("limit", "'1'", "limit argument must be a number"),
    ("limit", "1.5", "limit argument must be a number"),
    ("limit", "None", "limit argument must be a number"),
    ("limit", "1, '1'", "limit argument must be a number"),
    ("avg", "1", "map argument must be a function"),
    ("countby", "1", "groupby extractor argument must be a function"),
    ("aggregateby", "1, 0, f, f", "groupby extractor argument must be a function"),
]


@pytest.mark.parametrize(("method", "arguments", "name"), ARITY)
def test_arity(env, method, arguments, name):
    text = env.refused(f"f = lambda *x: x\nGB().{method}({arguments})")
    assert f"wrong number of args to {name} function" in text


@pytest.mark.parametrize(("method", "arguments", "text"), TYPES)
def test_types(env, method, arguments, text):
    assert text in env.refused(f"f = lambda *x: x\nGB().{method}({arguments})")


@pytest.mark.parametrize(
    "method", ["map", "filter", "flatmap", "foreach", "accumulate", "repartition"]
)
def test_no_keywords(env, method):
    assert "TypeError" in env.refused(f"GB().{method}(f=lambda x: x)")


def test_an_unknown_method(env):
    text = env.refused("GB().mapp(lambda x: x)")
    assert "AttributeError" in text
    assert "mapp" in text


@pytest.mark.parametrize("method", [method for method, _, _ in ARITY if method != "collect"])
def test_the_error_has_the_class_of_the_module(env, method):
    env.execute(
        f"""
        import redisgears
        try:
            GB().{method}()
        except redisgears.GearsError as error:
            name = type(error).__module__ + '.' + type(error).__name__
            execute('set', 'caught{{%s}}' % hashtag(), name)
        """
    )
    assert env.client.get(env.key("caught")) == "gears.error"


@pytest.mark.parametrize("length", ["2**63", "2**64", "10**30"])
def test_a_limit_beyond_64_bit(env, length):
    """Either is fine, as long as it is not cut to a small number."""
    reply = env.call("RG.PYEXECUTE", f"{one_shard([1])}.limit({length}).run()")
    assert reply == [[b"1"], []] or "limit" in reply


def test_a_failed_step_does_not_change_the_plan(env):
    assert env.results(
        f"""
        gb = {one_shard([1])}
        try:
            gb.map(1)
        except Exception:
            pass
        gb.run()
        """
    ) == ["1"]
