"""aggregate, aggregateby, count, countby, avg, sort, distinct."""

import ast

import pytest
from env import one_shard

NUMBERS = one_shard("range(1, 11)")
EMPTY = one_shard([])


def groups(env, script):
    found = [ast.literal_eval(text) for text in env.results(script)]
    return {record["key"]: record["value"] for record in found}


def test_aggregate(env):
    add = "lambda a, r: a + r"
    assert env.results(f"{NUMBERS}.aggregate(0, {add}, {add}).run()") == ["55"]


def test_aggregate_combines_accumulators(env):
    script = f"{NUMBERS}.aggregate([], lambda a, r: a + [r], lambda a, r: ['in', *a, r]).run()"
    assert env.results(script) == [str(["in", list(range(1, 11))])]


def test_a_false_accumulator_becomes_zero_again(env):
    script = f"{one_shard([1, -11, 5])}.aggregate(10, lambda a, r: a + r, lambda a, r: r).run()"
    assert env.results(script) == ["15"]


def test_a_false_accumulator_reaches_the_end(env):
    script = f"{one_shard([1, -11])}.aggregate(10, lambda a, r: a + r, lambda a, r: r).run()"
    assert env.results(script) == ["0"]


def test_zero_is_copied(env):
    script = f"""
    zero = []
    def add(a, r):
        a.append(r)
        return a
    {NUMBERS}.aggregate(zero, add, lambda a, r: [list(zero), len(r)]).run()
    """
    assert env.results(script) == ["[[], 10]"]


def test_zero_is_copied_deeply(env):
    script = f"""
    def add(k, a, r):
        a['l'].append(r)
        return a
    def combine(k, a, r):
        return {{'l': a['l'] + r['l']}}
    {one_shard(["a", "b", "a"])}.aggregateby(lambda r: r, {{'l': []}}, add, combine).run()
    """
    assert groups(env, script) == {"a": {"l": ["a", "a"]}, "b": {"l": ["b"]}}


def test_aggregateby(env):
    script = f"""
    {NUMBERS}.aggregateby(lambda r: r % 3, 0, lambda k, a, r: a + r, lambda k, a, r: a + r).run()
    """
    assert groups(env, script) == {"0": 18, "1": 22, "2": 15}


def test_aggregateby_gives_the_key_as_text(env):
    script = f"""
    {NUMBERS}.aggregateby(lambda r: r % 2, [], lambda k, a, r: [k], lambda k, a, r: [k, r]).run()
    """
    assert groups(env, script) == {"0": ["0", ["0"]], "1": ["1", ["1"]]}


def test_aggregateby_with_a_false_accumulator(env):
    script = f"""
    {one_shard([1, -11, 5])}.aggregateby(
        lambda r: 'k', 10, lambda k, a, r: a + r, lambda k, a, r: r).run()
    """
    assert groups(env, script) == {"k": 15}


def test_aggregate_per_shard(env):
    script = f"{NUMBERS}.__localAggregateby__(lambda r: r % 2, 0, lambda k, a, r: a + r).run()"
    assert groups(env, script) == {"0": 30, "1": 25}


def test_count(env):
    assert env.results(f"{NUMBERS}.count().run()") == ["10"]
    assert env.results(f"{NUMBERS}.filter(lambda x: x > 100).count().run()") == []
    assert env.results(f"{NUMBERS}.flatmap(lambda x: [x] * x).count().run()") == ["55"]


def test_count_is_a_number(env):
    assert env.call("RG.PYEXECUTE", f"{NUMBERS}.count().run(convertToStr=False)") == [[10], []]


def test_count_then_more(env):
    assert env.results(f"{NUMBERS}.count().map(lambda x: x * 2).run()") == ["20"]
    assert env.results(f"{NUMBERS}.count().count().run()") == ["1"]


@pytest.mark.parametrize("reader", ["KeysReader", "KeysOnlyReader"])
def test_count_of_keys(env, reader):
    assert env.results(f"GB('{reader}').count().run()") == []
    env.fill(5000)
    env.client.sadd("s", 1)
    assert env.results(f"GB('{reader}').count().run()") == ["5001"]
    assert env.results(f"GB('{reader}').count().run('key:1*')") == ["1111"]
    assert env.results(f"GB('{reader}').count().run('no')") == []


def test_countby(env):
    script = f"{NUMBERS}.countby(lambda x: x > 3).run()"
    assert groups(env, script) == {"True": 7, "False": 3}


def test_countby_without_extractor(env):
    assert groups(env, f"{one_shard([5, 5, '5', 'a', (1,)])}.countby().run()") == {
        "5": 3,
        "a": 1,
        "(1,)": 1,
    }


def test_avg(env):
    assert env.results(f"{NUMBERS}.avg().run()") == ["5.5"]
    assert env.results(f"{one_shard(['1', '2'])}.avg().run()") == ["1.5"]
    assert env.results(f"{NUMBERS}.avg(lambda x: x * 2).run()") == ["11.0"]


def test_avg_of_zeros(env):
    assert env.results(f"{one_shard([0, 0])}.avg().run()") == ["0.0"]


def test_sort_is_ascending_by_default(env):
    values = [5, 3, 9, 1, 3]
    assert env.results(f"{one_shard(values)}.sort().run()") == ["1", "3", "3", "5", "9"]
    assert env.results(f"{one_shard(values)}.sort(reverse=False).run()") == [
        "9",
        "5",
        "3",
        "3",
        "1",
    ]
    assert env.results(f"{one_shard(values)}.sort(False).run()") == ["9", "5", "3", "3", "1"]


def test_sort_of_many(env):
    """A sort that copies its list for every record does not end in time."""
    numbers = one_shard("((i * 7919) % 100003 for i in range(100000))")
    script = f"{numbers}.sort().limit(5).run()"
    expected = sorted((i * 7919) % 100003 for i in range(100000))[:5]
    assert env.results(script) == [str(x) for x in expected]


def test_sort_of_equal_records_is_that_of_python(env):
    values = [(1, "a"), (0, "b"), (1, "c")]
    script = f"""
    class Pair:
        def __init__(self, pair): self.pair = pair
        def __lt__(self, other): return self.pair[0] < other.pair[0]
    {one_shard(values)}.map(lambda x: Pair(x)).sort().map(lambda x: x.pair[1]).run()
    """
    by_number = sorted(values, key=lambda pair: pair[0], reverse=True)
    assert env.results(script) == [text for _, text in reversed(by_number)]


def test_sort_of_records_that_do_not_compare(env):
    results, errors = env.run(f"{one_shard([1, 'a'])}.sort().run()")
    assert results == []
    assert len(errors) == 1
    assert "TypeError" in errors[0]


def test_distinct(env):
    assert sorted(env.results(f"{one_shard([1, 2, 1, 3, 2])}.distinct().run()")) == ["1", "2", "3"]
    assert sorted(env.results(f"{one_shard([1, 1.0, True, 'a'])}.distinct().run()")) == ["1", "a"]


def test_distinct_of_dicts(env):
    env.client.set("x", 1)
    results, errors = env.run("GB().distinct().run()")
    assert results == []
    assert "TypeError: unhashable type: 'dict'" in errors[0]


@pytest.mark.parametrize(
    "step",
    [
        "aggregate(0, lambda a, r: 1, lambda a, r: 1)",
        "aggregateby(lambda r: r, 0, lambda k, a, r: 1, lambda k, a, r: 1)",
        "count()",
        "countby()",
        "avg()",
        "sort()",
        "distinct()",
    ],
)
def test_nothing_gives_nothing(env, step):
    assert env.results(f"{EMPTY}.{step}.run()") == []


def test_keyword_arguments(env):
    script = f"""
    {NUMBERS}.aggregate(zero=0, seqOp=lambda a, r: a + r, combOp=lambda a, r: a + r).run()
    """
    assert env.results(script) == ["55"]
    script = f"""
    {NUMBERS}.aggregateby(extractor=lambda r: 'k', zero=0,
                          seqOp=lambda k, a, r: a + r, combOp=lambda k, a, r: a + r).run()
    """
    assert groups(env, script) == {"k": 55}
    assert groups(env, f"{NUMBERS}.countby(extractor=lambda x: 'k').run()") == {"k": 10}
    assert env.results(f"{NUMBERS}.avg(extractor=lambda x: x).run()") == ["5.5"]


@pytest.mark.parametrize(
    "call",
    [
        "aggregate()",
        "aggregate(0)",
        "aggregateby(0)",
        "count(1)",
        "countby(1, 2)",
        "avg(1, 2)",
        "sort(True, 1)",
        "distinct(1)",
    ],
)
def test_wrong_arity(env, call):
    text = env.refused(f"GB().{call}")
    assert "TypeError" in text
    assert "argument" in text
