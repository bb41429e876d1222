import ast

import pytest
from env import one_shard

WORDS = one_shard(["a1", "b1", "a2", "c1", "a3", "b2"])
GROUPED = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"], "c": ["c1"]}
REDUCED = {
    "groupby": "groupby({extractor}, lambda k, a, r: (a or []) + [r])",
    "localgroupby": "localgroupby({extractor}, lambda k, a, r: (a or []) + [r])",
    "batchgroupby": "batchgroupby({extractor}, lambda k, rs: list(rs))",
}


def groups(env, script):
    found = [ast.literal_eval(text) for text in env.results(script)]
    assert all(list(record) == ["key", "value"] for record in found)
    assert len({record["key"] for record in found}) == len(found)
    return {record["key"]: record["value"] for record in found}


@pytest.mark.parametrize("step", REDUCED)
def test_groups(env, step):
    call = REDUCED[step].format(extractor="lambda r: r[0]")
    assert groups(env, f"{WORDS}.{call}.run()") == GROUPED


@pytest.mark.parametrize("step", REDUCED)
def test_no_records(env, step):
    call = REDUCED[step].format(extractor="lambda r: r[0]")
    assert env.results(f"{one_shard([])}.{call}.run()") == []


@pytest.mark.parametrize("step", REDUCED)
@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("5", "5"),
        ("b'a'", "b'a'"),
        ("(1, 2)", "(1, 2)"),
        ("None", "None"),
        ("1.5", "1.5"),
        ("True", "True"),
        ("['x']", "['x']"),
        ("'5'", "5"),
        ("''", ""),
        ("'a\\0b'", "a\0b"),
        ("'\u00e9'", "é"),
    ],
)
def test_keys_are_text(env, step, key, text):
    call = REDUCED[step].format(extractor=f"lambda r: {key}")
    assert list(groups(env, f"{WORDS}.{call}.run()")) == [text]


@pytest.mark.parametrize("step", REDUCED)
def test_a_key_of_a_class_of_its_own_is_plain_text(env, step):
    """An enumeration, say: the key in the reply is its text."""
    extractor = "lambda r: Kind.A if r[0] == 'a' else 'x'"
    script = f"""
import enum
class Kind(str, enum.Enum):
    A = 'first'
    def __str__(self): return 'shown'
    def __hash__(self): return hash('other')
{WORDS}.{REDUCED[step].format(extractor=extractor)}.run()
"""
    assert groups(env, script) == {"first": ["a1", "a2", "a3"], "x": ["b1", "c1", "b2"]}


@pytest.mark.parametrize("step", REDUCED)
def test_equal_text_is_one_group(env, step):
    call = REDUCED[step].format(extractor="lambda r: 5 if r[0] == 'a' else '5'")
    found = groups(env, f"{WORDS}.{call}.run()")
    assert list(found) == ["5"]
    assert len(found["5"]) == 6


@pytest.mark.parametrize(
    ("step", "reducer"),
    [
        ("groupby", "lambda k, a, r: [k, type(k).__name__]"),
        ("localgroupby", "lambda k, a, r: [k, type(k).__name__]"),
        ("batchgroupby", "lambda k, rs: [k, type(k).__name__]"),
    ],
)
def test_the_reducer_gets_the_key_as_text(env, step, reducer):
    found = groups(env, f"{WORDS}.{step}(lambda r: ord(r[0]), {reducer}).run()")
    assert found == {"97": ["97", "str"], "98": ["98", "str"], "99": ["99", "str"]}


def test_batchgroupby_gives_a_list(env):
    script = f"{WORDS}.batchgroupby(lambda r: r[0], lambda k, rs: type(rs).__name__).run()"
    assert set(groups(env, script).values()) == {"list"}


@pytest.mark.parametrize("step", ["groupby", "localgroupby"])
def test_the_accumulator_starts_with_none(env, step):
    script = f"{WORDS}.{step}(lambda r: r[0], lambda k, a, r: (a or []) + [a is None]).run()"
    assert groups(env, script) == {"a": [True, False, False], "b": [True, False], "c": [True]}


@pytest.mark.parametrize("step", REDUCED)
def test_many_groups(env, step):
    call = REDUCED[step].format(extractor="lambda r: str(r % 3000)")
    found = groups(env, f"{one_shard('range(9000)')}.{call}.run()")
    assert found == {str(i): [i, i + 3000, i + 6000] for i in range(3000)}


@pytest.mark.parametrize("step", ["groupby", "localgroupby"])
def test_an_error_of_the_reducer_starts_the_group_again(env, step):
    results, errors = env.run(
        f"""
        def bad(k, a, r):
            if r == 'a2':
                raise ValueError('a2')
            return (a or []) + [r]
        {one_shard([1])} \\
            .flatmap(lambda x: ['b2', 'a3', 'b1', 'a2', 'a1']).{step}(lambda r: r[0], bad).run()
        """
    )
    found = {r["key"]: r["value"] for r in map(ast.literal_eval, results)}
    assert found == {"a": ["a3"], "b": ["b1", "b2"]}
    assert len(errors) == 1
    assert "ValueError: a2" in errors[0]


def test_an_error_of_a_batch_reducer_costs_its_group(env):
    results, errors = env.run(
        f"""
        def bad(k, rs):
            if k == 'b':
                raise ValueError('b')
            return len(rs)
        {WORDS}.batchgroupby(lambda r: r[0], bad).run()
        """
    )
    found = {r["key"]: r["value"] for r in map(ast.literal_eval, results)}
    assert found == {"a": 3, "c": 1}
    assert len(errors) == 1


def test_a_reducer_may_return_none(env):
    script = f"{WORDS}.groupby(lambda r: r[0], lambda k, a, r: None).run()"
    assert groups(env, script) == {"a": None, "b": None, "c": None}


def test_groups_of_groups(env):
    script = f"""
    {WORDS}.localgroupby(lambda r: r[0], lambda k, a, r: 1 + (a or 0)) \\
        .groupby(lambda r: str(r['value']), lambda k, a, r: sorted((a or []) + [r['key']])).run()
    """
    assert groups(env, script) == {"1": ["c"], "2": ["b"], "3": ["a"]}


def test_group_records_may_be_changed(env):
    script = f"""
    {WORDS}.groupby(lambda r: r[0], lambda k, a, r: 1 + (a or 0)) \\
        .foreach(lambda r: r.update(new=r.pop('value'))).map(lambda r: r['new']).sort().run()
    """
    assert env.results(script) == ["1", "2", "3"]


def test_keys_of_the_server(env):
    env.client.mset({f"{c}{i}": i for c in "xyz" for i in range(10)})
    script = "GB().groupby(lambda r: r['key'][0], lambda k, a, r: int(r['value']) + (a or 0)).run()"
    assert groups(env, script) == {"x": 45, "y": 45, "z": 45}
