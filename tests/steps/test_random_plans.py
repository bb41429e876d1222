"""Random plans against a model of a few lines.

The model pulls one record at a time from step to step, as the plan says it: an error goes to the
end at once, and stops the reader, but neither what is inside the plan nor the accumulators.
"""

import collections
import copy

import hypothesis
import hypothesis.strategies as st
import pytest


class Failed(Exception):
    """An error record."""


def call(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return Failed(type(error).__name__)


def reading(values, stop):
    for value in values:
        if stop:
            return
        yield value


def mapping(function, records):
    for record in records:
        yield record if isinstance(record, Failed) else call(function, record)


def filtering(function, records):
    for record in records:
        keep = True if isinstance(record, Failed) else call(function, record)
        if isinstance(keep, Failed):
            yield keep
        elif keep:
            yield record


def visiting(function, records):
    for record in records:
        done = None if isinstance(record, Failed) else call(function, record)
        yield done if isinstance(done, Failed) else record


def flattening(function, records):
    for record in mapping(function, records):
        if isinstance(record, list):
            yield from reversed(record)
        else:
            yield record


def accumulating(function, records):
    empty, accumulator = True, None
    for record in records:
        if isinstance(record, Failed):
            yield record
            continue
        empty, accumulator = False, call(function, accumulator, record)
        if isinstance(accumulator, Failed):
            yield accumulator
            empty, accumulator = True, None
    if not empty:
        yield accumulator


def limiting(length, start, records):
    index = 0
    for record in records:
        if isinstance(record, Failed):
            yield record
            continue
        if index >= start + length:
            return
        if index >= start:
            yield record
        index += 1


def text_key(function, record):
    key = call(function, record)
    return key if isinstance(key, str | Failed) else repr(key)


def grouping(extractor, reducer, records):
    groups = {}
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        if isinstance(key, Failed):
            yield key
            continue
        groups[key] = call(reducer, key, groups.get(key), record)
        if isinstance(groups[key], Failed):
            yield groups.pop(key)
    for key, value in groups.items():
        yield {"key": key, "value": value}


def batch_grouping(extractor, reducer, records):
    groups = {}
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        if isinstance(key, Failed):
            yield key
        else:
            groups.setdefault(key, []).append(record)
    for key, batch in groups.items():
        value = call(reducer, key, batch)
        yield value if isinstance(value, Failed) else {"key": key, "value": value}


def aggregating(zero, sequence, combine, records):
    def start(accumulator):
        return accumulator if accumulator else copy.deepcopy(zero)

    first = accumulating(lambda a, r: sequence(start(a), r), records)
    return accumulating(lambda a, r: combine(start(a), r), first)


def aggregating_by(extractor, zero, sequence, combine, records):
    def start(accumulator):
        return accumulator if accumulator else copy.deepcopy(zero)

    first = grouping(extractor, lambda k, a, r: sequence(k, start(a), r), records)
    return grouping(lambda r: r["key"], lambda k, a, r: combine(k, start(a), r["value"]), first)


def gathering(records):
    gathered = []
    for record in records:
        if isinstance(record, Failed):
            yield record
        else:
            gathered.append(record)
    if gathered:
        yield gathered


def sorting(reverse, records):
    return flattening(lambda r: sorted(r, reverse=reverse), gathering(records))


def counting(records):
    return aggregating(0, lambda a, r: a + 1, lambda a, r: a + r, records)


def averaging(extractor, records):
    pairs = aggregating(
        (0, 0),
        lambda a, r: (a[0] + r, a[1] + 1),
        lambda a, r: (a[0] + r[0], a[1] + r[1]),
        mapping(extractor, records),
    )
    return mapping(lambda x: x[0] / x[1], pairs)


def repartitioning(extractor, records):
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        yield key if isinstance(key, Failed) else record


MODELS = {
    "map": mapping,
    "filter": filtering,
    "foreach": visiting,
    "flatmap": flattening,
    "accumulate": accumulating,
    "limit": limiting,
    "groupby": grouping,
    "localgroupby": grouping,
    "batchgroupby": batch_grouping,
    "repartition": repartitioning,
    "aggregate": aggregating,
    "aggregateby": aggregating_by,
    "sort": sorting,
    "count": counting,
    "avg": averaging,
    "collect": lambda records: records,
}

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
    one_step("repartition", KEYS),
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


def expected(values, plan):
    stop = []
    records = reading(values, stop)
    for name, arguments in plan:
        records = MODELS[name](*map(eval, arguments), records)
    results, errors = [], []
    for record in mapping(lambda x: "r" + repr(x), records):
        if isinstance(record, Failed):
            errors.append(str(record))
            stop.append(True)
        else:
            results.append(record)
    return results, errors


def script(values, plan):
    calls = "".join(f".{name}({', '.join(arguments)})" for name, arguments in plan)
    reader = f"GB('PythonReader', lambda: (x for x in {values}))"
    return f"{reader}{calls}.map(lambda x: 'r' + repr(x)).run()"


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


@pytest.fixture(scope="module")
def client(shared_server):
    client = shared_server.client()
    yield client
    client.close()


@hypothesis.settings(max_examples=400)
@hypothesis.given(values=inputs, plan=plans)
def test_random_plan(client, values, plan):
    results, errors = client.execute_command("RG.PYEXECUTE", script(values, plan))
    expected_results, expected_errors = expected(values, plan)
    assert results == expected_results
    assert len(errors) == len(expected_errors)
    for name, count in collections.Counter(expected_errors).items():
        assert sum(f"{name}:" in error for error in errors) == count


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    plan=plans, size=st.sampled_from([999, 1000, 1001, 2500]), start=st.integers(-2500, 3)
)
def test_random_plan_over_many_records(client, plan, size, start):
    """More records than fit in one chunk; an error may be anywhere."""
    values = f"range({start}, {start + size})"
    reply = client.execute_command("RG.PYEXECUTE", script(values, plan))
    expected_results, expected_errors = expected(eval(values), plan)
    assert reply[0] == expected_results
    assert len(reply[1]) == len(expected_errors)
