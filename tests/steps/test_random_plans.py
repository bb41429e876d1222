"""Random plans against a model of a few lines.

GEARTRAIN_PLANS is a measure of their number, by default 100.
"""

import collections
import os
import random

import hypothesis
import hypothesis.strategies as st
from env import one_shard
from reference import Shards, expected

PLANS = int(os.environ.get("GEARTRAIN_PLANS", "100"))

ONE = [
    "lambda x: x + 1",
    "lambda x: x % 3",
    "lambda x: x * 2",
    "lambda x: 12 // x",
    "lambda x: 6 // (x - 5)",
    "lambda x: None if x == 4 else x",
    "lambda x: x['value']",
    "lambda x: str(x)",
    "lambda x: 0",
]
LISTS = [
    "lambda x: [x] * (x % 4)",
    "lambda x: [x, x + 1, 12 // x]",
    "lambda x: [x - 5, x]",
    "lambda x: (x, x)",
    "lambda x: []",
    "lambda x: x",
]
FOLD = [
    "lambda a, r: r + (a or 0)",
    "lambda a, r: (a or []) + [r]",
    "lambda a, r: 12 // (r - 3) + (a or 0)",
    "lambda a, r: 0",
    "lambda a, r: None",
    "lambda a, r: r",
]
SEQUENCE = ["lambda a, r: a + r", "lambda a, r: a - r", "lambda a, r: 0", "lambda a, r: 6 // r + a"]
KEY_FOLD = [
    "lambda k, a, r: 1 + (a or 0)",
    "lambda k, a, r: (a or '') + k",
    "lambda k, a, r: 12 // (r - 2) + (a or 0)",
    "lambda k, a, r: None",
]
KEY_SEQUENCE = ["lambda k, a, r: a + 1", "lambda k, a, r: a + r", "lambda k, a, r: 6 // r"]
BATCH = ["lambda k, rs: len(rs)", "lambda k, rs: sum(rs)", "lambda k, rs: [k, rs]"]
KEYS = ["lambda x: x % 3", "lambda x: str(x)", "lambda x: 6 // x", "lambda x: 'k'"]
# the order of groups is open, and not all that a group may hold compares
IN_ORDER = [("map", ["lambda r: (r['key'], str(r['value']))"]), ("sort", ["True"])]


def one_step(name, *choices):
    return st.tuples(*map(st.sampled_from, choices)).map(lambda args: [(name, list(args))])


def group_step(name, *choices):
    return one_step(name, *choices).map(lambda steps: steps + IN_ORDER)


small = ["0", "1", "2", "3", "5"]
steps = st.one_of(
    one_step("map", ONE),
    one_step("map", ONE),
    one_step("filter", ONE),
    one_step("foreach", ONE),
    one_step("flatmap", LISTS),
    one_step("accumulate", FOLD),
    one_step("limit", small, small),
    one_step("repartition", ["lambda x: 'k'", "lambda x: 'l' + str(6 // x)[:0]"]),
    one_step("collect"),
    one_step("aggregate", ["0", "10", "-3"], SEQUENCE, SEQUENCE),
    one_step("count"),
    one_step("avg", ["lambda x: float(x)", "lambda x: x"]),
    one_step("sort", ["True", "False"]),
    group_step("groupby", KEYS, KEY_FOLD),
    group_step("localgroupby", KEYS, KEY_FOLD),
    group_step("batchgroupby", KEYS, BATCH),
    group_step("aggregateby", KEYS, ["0", "10"], KEY_SEQUENCE, KEY_SEQUENCE),
)
plans = (
    st.lists(steps, max_size=6)
    .map(lambda parts: [step for part in parts for step in part])
    .filter(lambda plan: sum(name == "flatmap" for name, _ in plan) <= 2)
)
inputs = st.lists(st.integers(-3, 12), max_size=12)


def calls(plan):
    steps = "".join(f".{name}({', '.join(arguments)})" for name, arguments in plan)
    return f"{steps}.map(lambda x: 'r' + repr(x)).run()"


SOME = """
import asyncio, random
chance = random.Random({})
async def after(rounds, f, *args):
    for _ in range(rounds):
        await asyncio.sleep(0)
    return f(*args)
def some(f):
    'The same function, which answers at once, by a coroutine, or by a future.'
    def call(*args):
        how, rounds = chance.randrange(4), chance.randrange(4)
        if how == 0:
            return f(*args)
        if how > 1:
            return after(rounds, f, *args)
        future = gearsFuture()
        runCoroutine(after(rounds, f, *args), future)
        return future
    return call
"""
MAY_BE_LATER = {
    "map": [0],
    "filter": [0],
    "foreach": [0],
    "flatmap": [0],
    "accumulate": [0],
    "groupby": [1],
    "localgroupby": [1],
    "aggregate": [1, 2],
    "aggregateby": [2, 3],
}
"""The callbacks of a step that may answer later."""

seeds = st.integers(0, 1 << 20)


def some_later(plan, seed):
    """The same plan, of which some callbacks answer later, now and then."""
    chance = random.Random(seed)

    def may_be_later(name, at):
        return at in MAY_BE_LATER.get(name, ()) and chance.random() < 0.7

    return [
        (name, [f"some({a})" if may_be_later(name, at) else a for at, a in enumerate(arguments)])
        for name, arguments in plan
    ]


def check_read(env, values, plan, results, errors):
    """An error may become known later, so that the reader goes on for a while."""
    if env.shard_count > 1:
        return check(env, values, plan, results, errors, named=False)
    for end in range(len(values) + 1):
        expected_results, names = expected(values[:end], plan, stops=False)
        _, most = expected(values[:end], plan, stops=False, reads_on=True)
        if results == expected_results and len(names) <= len(errors) <= len(most):
            return None
    raise AssertionError(f"{results} {errors} after no part of the records")


def check(env, values, plan, results, errors, named=True):
    """A limit behind a repartition does not stop the shards that the records come from."""
    cluster = env.shard_count > 1
    expected_results, names = expected(values, plan, stops=not cluster)
    assert results == expected_results
    reads_on = cluster and any(name == "repartition" for name, _ in plan)
    check_errors(errors, names, expected(values, plan, not cluster, reads_on)[1], named)


def check_errors(errors, names, most=None, named=True):
    """As many as there are names of them, or up to `most`. Those of coroutines do not say them."""
    most = names if most is None else most
    assert len(names) <= len(errors) <= len(most)
    if not named:
        return
    for name, count in collections.Counter(most).items():
        assert names.count(name) <= sum(f"{name}:" in error for error in errors) <= count


def test_the_model():
    values = [1, 2, 3]
    assert expected(values, []) == (["r1", "r2", "r3"], [])
    assert expected(values, [("map", ["lambda x: 6 // (x - 2)"])]) == (
        ["r-6"],
        ["ZeroDivisionError"],
    )
    assert expected(values, [("sort", ["True"])])[0] == ["r1", "r2", "r3"]
    assert expected(values, [("flatmap", ["lambda x: [x, 0]"])])[0] == [
        *("r0", "r1", "r0", "r2", "r0", "r3")
    ]
    assert expected([1, -11, 5], [("aggregate", ["10", *SEQUENCE[:1] * 2])])[0] == ["r25"]


def test_the_model_of_a_cluster():
    slots = [range(8192), range(8192, 16384)]

    def run(*plan):
        results, errors = Shards([[1, 2], [3, 4]], slots).run(plan)
        return sorted(results), errors

    assert run() == (["r1", "r2", "r3", "r4"], [])
    assert run(("limit", ["1", "0"])) == (["r1", "r3"], [])
    assert run(("count", [])) == (["r4"], [])
    assert run(("accumulate", ["lambda a, r: r + (a or 0)"])) == (["r3", "r7"], [])
    assert run(("map", ["lambda x: 6 // (x - 3)"])) == (["r-3", "r-6", "r6"], ["ZeroDivisionError"])
    at_one = ("repartition", ["lambda x: 'k'"])
    assert run(at_one, ("accumulate", ["lambda a, r: 1 + (a or 0)"])) == (["r4"], [])
    by = ("groupby", ["lambda x: x % 2", "lambda k, a, r: r + (a or 0)"])
    assert run(by)[0] == ["r{'key': '0', 'value': 6}", "r{'key': '1', 'value': 4}"]


@hypothesis.settings(max_examples=4 * PLANS)
@hypothesis.given(values=inputs, plan=plans)
def test_random_plan(env, values, plan):
    """On a cluster all records come from one shard and go one way, so that their order is known."""
    results, errors = env.run(one_shard(values) + calls(plan))
    check(env, values, plan, results, errors)


@hypothesis.settings(max_examples=max(10, PLANS // 2))
@hypothesis.given(
    plan=plans, size=st.sampled_from([999, 1000, 1001, 2500]), start=st.integers(-2500, 3)
)
def test_random_plan_over_many_records(env, plan, size, start):
    """More records than fit in one chunk; an error may be anywhere."""
    values = range(start, start + size)
    results, errors = env.run(one_shard(values) + calls(plan))
    check(env, values, plan, results, errors)


@hypothesis.settings(max_examples=2 * PLANS)
@hypothesis.given(values=inputs, plan=plans, seed=seeds)
def test_random_plan_that_answers_later(env, values, plan, seed):
    script = SOME.format(seed) + one_shard(values) + calls(some_later(plan, seed))
    check_read(env, values, plan, *env.run(script))


@hypothesis.settings(max_examples=max(10, PLANS // 2))
@hypothesis.given(
    plan=plans,
    size=st.sampled_from([999, 1000, 1001, 2500]),
    start=st.integers(-2500, 3),
    seed=seeds,
)
def test_random_plan_that_answers_later_over_many_records(env, plan, size, start, seed):
    values = range(start, start + size)
    hypothesis.assume(expected(values, plan, stops=False, reads_on=True)[1] == [])
    script = SOME.format(seed) + one_shard(values) + calls(some_later(plan, seed))
    check(env, values, plan, *env.run(script))


ADD, MAX, ALL = "r + (a or 0)", "r if a is None else max(a, r)", "1 + (a or 0)"
INTO = ["lambda x: x + 1", "lambda x: x % 3", "lambda x: x * 2", "lambda x: -x", "lambda x: 0"]
MORE = ["lambda x: [x, x + 1]", "lambda x: [x] * int(x % 4)", "lambda x: []", "lambda x: x"]
FAILING = ["lambda x: 12 // x", "lambda x: 6 // (x - 5)"]
AT = ["lambda x: x % 3", "lambda x: str(x)", "lambda x: 'k'"]
VALUE = [("map", ["lambda r: r['value']"])]


def groups(name, *choices):
    return one_step(name, *choices).map(lambda steps: steps + VALUE)


def without_order(failing):
    """Steps from numbers to numbers whose results do not depend on the order of records."""
    more = FAILING if failing else []
    return st.one_of(
        one_step("map", INTO + more),
        one_step("filter", INTO + more),
        one_step("foreach", INTO + more),
        one_step("flatmap", MORE),
        one_step("repartition", AT + more),
        one_step("collect"),
        one_step("accumulate", [f"lambda a, r: {fold}" for fold in (ADD, MAX, ALL)]),
        one_step("aggregate", ["0"], ["lambda a, r: a + r"], ["lambda a, r: a + r"]),
        one_step("count"),
        one_step("avg", ["lambda x: x"]),
        one_step("sort", ["True", "False"]),
        one_step("distinct"),
        groups("countby", AT + more),
        groups("groupby", AT + more, [f"lambda k, a, r: {fold}" for fold in (ADD, MAX, ALL)]),
        groups("localgroupby", AT + more, [f"lambda k, a, r: {fold}" for fold in (ADD, MAX, ALL)]),
        groups("batchgroupby", AT + more, ["lambda k, rs: sum(rs)", "lambda k, rs: len(rs)"]),
        groups("aggregateby", AT + more, ["0"], *[["lambda k, a, r: a + r"]] * 2),
    )


def joined(parts):
    return [step for part in parts for step in part]


def spread_plans(failing):
    """What depends on the order of records comes first, while it is that of the reader."""
    limit = one_step("limit", small, small)
    begin = st.lists(st.one_of(one_step("map", INTO), one_step("flatmap", MORE), limit), max_size=2)
    end = st.lists(without_order(failing), max_size=6)
    return st.tuples(begin.map(joined), end.map(joined)).map(lambda parts: parts[0] + parts[1])


cases = st.booleans().flatmap(
    lambda failing: st.tuples(st.just(failing), st.lists(inputs, min_size=3), spread_plans(failing))
)


def check_spread(env, values, plan, failing=False, seed=None):
    """Every shard has records of its own; if steps may fail, all but the one that is asked."""
    values = values[: env.shard_count]
    if env.shard_count == 1:
        expected_results, expected_errors = expected(values[0], plan)
    else:
        values[0] = [] if failing else values[0]
        expected_results, expected_errors = Shards(values, env.cluster.slots).run(plan)
    of_shards = dict(zip(env.each(lambda shard: shard.tag), values, strict=True))
    reader = f"GB('PythonReader', lambda: (x for x in {of_shards}[hashtag()]))"
    if seed is not None:
        reader, plan = SOME.format(seed) + reader, some_later(plan, seed)
    results, errors = env.run(reader + calls(plan))
    assert sorted(results) == sorted(expected_results)
    check_errors(errors, expected_errors, named=seed is None)


def check_spread_later(env, values, plan, failing, seed):
    if failing and env.shard_count == 1:
        hypothesis.assume(expected(values[0], plan, stops=False, reads_on=True)[1] == [])
    check_spread(env, values, plan, failing, seed)


@hypothesis.settings(max_examples=4 * PLANS)
@hypothesis.given(case=cases)
def test_random_plan_over_spread_records(env, case):
    failing, values, plan = case
    check_spread(env, values, plan, failing)


@hypothesis.settings(max_examples=max(10, PLANS // 2))
@hypothesis.given(
    plan=spread_plans(False).filter(lambda plan: sum(name == "flatmap" for name, _ in plan) <= 2),
    sizes=st.lists(st.sampled_from([0, 1, 999, 1000, 1001, 2500]), min_size=3, max_size=3),
    start=st.integers(-2500, 3),
)
def test_random_plan_over_many_spread_records(env, plan, sizes, start):
    check_spread(env, [list(range(start, start + size)) for size in sizes], plan)


@hypothesis.settings(max_examples=2 * PLANS)
@hypothesis.given(case=cases, seed=seeds)
def test_random_plan_that_answers_later_over_spread_records(env, case, seed):
    failing, values, plan = case
    check_spread_later(env, values, plan, failing, seed)


@hypothesis.settings(max_examples=max(10, PLANS // 2))
@hypothesis.given(
    plan=spread_plans(False).filter(lambda plan: sum(name == "flatmap" for name, _ in plan) <= 2),
    sizes=st.lists(st.sampled_from([0, 1, 999, 1000, 1001, 2500]), min_size=3, max_size=3),
    start=st.integers(-2500, 3),
    seed=seeds,
)
def test_random_plan_that_answers_later_over_many_spread_records(env, plan, sizes, start, seed):
    check_spread_later(env, [list(range(start, start + size)) for size in sizes], plan, False, seed)
