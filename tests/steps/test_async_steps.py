"""Steps that answer later: the order of what they pass on, limits, errors, many records."""

import pytest
from env import one_shard
from later import ASLEEP, KEEP, begin, release
from server import wait_until

TRIGGER = "GB('CommandReader')"

MIXED = """
import asyncio, random
made = random.Random(7)
async def answer(value, rounds):
    for _ in range(rounds):
        await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value
def maybe(value):
    'The value: at once, or by a coroutine that takes a while.'
    how = made.randrange(3)
    if how:
        return answer(value, made.randrange(5))
    if isinstance(value, Exception):
        raise value
    return value
"""


def run(env, values, steps):
    return env.run(f"{MIXED}{one_shard(values)}{steps}.run()")


@pytest.mark.parametrize("count", [10, 999, 1000, 1001, 3500])
@pytest.mark.parametrize(
    "step",
    ["map(maybe)", "foreach(maybe)", "filter(lambda x: maybe(True))", "flatmap(maybe)"],
)
def test_order(env, step, count):
    results, errors = run(env, f"range({count})", f".{step}")
    assert (results, errors) == ([str(i) for i in range(count)], [])


def test_order_over_several_steps(env):
    steps = ".map(maybe).filter(lambda x: maybe(x % 3)).flatmap(lambda x: maybe([x, x + 10000]))"
    results, errors = run(env, "range(2500)", f"{steps}.foreach(maybe).map(maybe)")
    kept = [i for i in range(2500) if i % 3]
    assert (results, errors) == ([str(n) for i in kept for n in (i + 10000, i)], [])


@pytest.mark.parametrize("call", ["{}", "maybe({})", "answer({}, 1)"])
@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 5000])
def test_large_lists(env, size, call):
    """What flatmap makes of a record waits for room at the next step."""
    steps = f".flatmap(lambda x: {call.format(f'list(range({size}))')}).map(maybe)"
    results, errors = run(env, [1, 2], steps)
    assert errors == []
    assert results == [str(i) for i in reversed(range(size))] * 2


def test_lists_of_lists(env):
    steps = ".flatmap(lambda x: maybe([[x] * 30] * 30)).flatmap(maybe).map(maybe).count()"
    assert run(env, "range(5)", steps) == (["4500"], [])


@pytest.mark.parametrize("count", [5, 1001, 2500])
@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("accumulate(lambda a, r: maybe((a or 0) + r))", "{sum}"),
        ("accumulate(lambda a, r: maybe((a or []) + [r])).map(lambda x: x == sorted(x))", "True"),
        (
            "localgroupby(lambda r: 'k', lambda k, a, r: maybe((a or 0) + r))",
            "{{'key': 'k', 'value': {sum}}}",
        ),
        ("aggregate(0, lambda a, r: maybe(a + r), lambda a, r: maybe(a + r))", "{sum}"),
        ("map(maybe).count()", "{count}"),
        ("filter(maybe).map(maybe).accumulate(lambda a, r: maybe((a or 0) + r))", "{sum}"),
    ],
)
def test_accumulators(env, step, value, count):
    expected = value.format(sum=sum(range(count)), count=count)
    assert run(env, f"range({count})", f".{step}") == ([expected], [])


def test_groups(env):
    results, errors = run(
        env,
        "range(3000)",
        ".map(maybe).groupby(lambda r: r % 100, lambda k, a, r: maybe((a or []) + [r])).map(maybe)"
        ".map(lambda r: [r['key'], r['value'] == list(range(int(r['key']), 3000, 100))])",
    )
    assert errors == []
    assert sorted(results) == sorted(str([str(i), True]) for i in range(100))


def test_batches(env):
    results, errors = run(
        env,
        "range(3000)",
        ".map(maybe).batchgroupby(lambda r: r % 100, lambda k, rs: len(rs)).map(maybe).count()",
    )
    assert (results, errors) == (["100"], [])


@pytest.mark.single("on a cluster an error of another shard does not stop its reader")
@pytest.mark.parametrize("step", ["map", "foreach", "filter", "flatmap"])
def test_an_error_has_its_place(env, step):
    """What was begun before it became known completes, as records within a plan do."""
    script = f"""{MIXED}
async def fails(x):
    await asyncio.sleep(0)
    if x == 3:
        raise Exception('three')
    return x
{one_shard([1, 2, 3, 4, 5])}.{step}(fails).run()
"""
    results, errors = env.run(script)
    assert errors == ["three"]
    assert results == ["1", "2", "4", "5"]


@pytest.mark.single("on a cluster an error of another shard does not stop its reader")
@pytest.mark.parametrize(
    ("step", "want"),
    [
        ("accumulate(lambda a, r: fails(r))", []),
        ("localgroupby(lambda r: r % 2, lambda k, a, r: fails(r))", ["{'key': '1', 'value': 1}"]),
        ("groupby(lambda r: r % 2, lambda k, a, r: fails(r))", ["{'key': '1', 'value': 1}"]),
    ],
)
def test_an_accumulator_that_fails_stops_the_reader(env, step, want):
    """Nothing is read before an accumulator has taken what it was given."""
    script = f"""
async def fails(x):
    await asyncio.sleep(0)
    if x % 2 == 0:
        raise Exception(str(x))
    return x
GB('PythonReader').{step}.run(lambda: (i for i in range(1, 2000)))
"""
    assert env.run(script) == (want, ["2"])
    env.client.mset({str(i): i for i in range(1000)})
    keys = step.replace("r % 2", "int(r['key']) % 2").replace("fails(r)", "fails(0)")
    assert env.run(script.split("GB")[0] + f"GB().{keys}.run()") == ([], ["0"])


def test_errors_in_between(env):
    """Each accumulator begins anew after an error."""
    results, errors = env.run(
        f"""{MIXED}
def fold(a, r):
    if r % 10 == 5:
        return maybe(Exception('five'))
    return maybe((a or []) + [r])
{one_shard([list(range(20))])}.flatmap(lambda x: x[::-1]).accumulate(fold).run()
"""
    )
    assert [error for error in errors if "five" in error] == errors
    assert (results, len(errors)) == (["[16, 17, 18, 19]"], 2)


def test_errors_of_groups_in_between(env):
    results, errors = env.run(
        f"""{MIXED}
def fold(k, a, r):
    if r in (5, 12):
        return maybe(Exception('no'))
    return maybe((a or []) + [r])
{one_shard([list(range(20))])}.flatmap(lambda x: x[::-1]).localgroupby(lambda r: r % 2, fold) \\
    .map(lambda r: (r['key'], r['value'])).sort().run()
"""
    )
    assert len(errors) == 2
    assert results == [str(("1", list(range(7, 20, 2)))), str(("0", [14, 16, 18]))][::-1]


# ----------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("count", [1, 5, 1000, 1500])
@pytest.mark.parametrize("steps", [".map(maybe).limit({})", ".limit({}).map(maybe)"])
def test_limits(env, steps, count):
    results, errors = run(env, "range(2000)", steps.format(count))
    assert (results, errors) == ([str(i) for i in range(count)], [])


@pytest.mark.parametrize("steps", [".map(maybe).limit(3, 2)", ".limit(3, 2).map(maybe)"])
def test_limits_that_skip(env, steps):
    assert run(env, "range(10)", steps) == (["2", "3", "4"], [])


def test_a_limit_between(env):
    steps = ".map(maybe).limit(5).map(maybe).accumulate(lambda a, r: maybe((a or 0) + r))"
    assert run(env, "range(2000)", steps) == (["10"], [])


def test_a_limit_of_nothing(env):
    assert run(env, "range(10)", ".map(maybe).limit(0).map(maybe)") == ([], [])


def test_a_limit_of_what_a_list_becomes(env):
    steps = ".flatmap(lambda x: maybe(list(range(5000)))).map(maybe).limit(3)"
    assert run(env, [1, 2], steps) == (["4999", "4998", "4997"], [])


def test_a_limit_ends_an_endless_reader(env):
    """Though what it reads is only promised."""
    results = env.results(
        f"""{MIXED}
import itertools
{one_shard("itertools.count()")}.map(lambda x: answer(x, 1)).limit(3).run()
"""
    )
    assert results == ["0", "1", "2"]


# ------------------------------------------------------------------------------- how many at once


def test_a_thousand_at_once(env):
    """Per step and shard; then the reader waits."""
    env.register(
        f"""{KEEP}
{TRIGGER}.flatmap(lambda r: list(range(int(r[1])))).foreach(keep).count() \\
    .register(trigger='t', mode='async_local')
{TRIGGER}.map(lambda r: len(waiting)).register(trigger='count', mode='sync')
"""
    )

    def kept():
        return int(env.trigger("count")[0])

    with begin(env.server, "RG.TRIGGER", "t", 2500) as wire:
        wait_until(lambda: kept() == 1000)
        release(env, 2500)
        assert wire.receive() == [b"2500"]


def test_accumulators_take_one_at_a_time(env):
    env.register(
        f"""{KEEP}
{TRIGGER}.flatmap(lambda r: r[1:]).accumulate(lambda a, r: keep((a or '') + r)) \\
    .register(trigger='t', mode='async_local')
{TRIGGER}.map(lambda r: len(waiting)).register(trigger='count', mode='sync')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t", *"abcd") as wire:
        for _ in range(4):
            wait_until(lambda: env.trigger("count") == ["1"])
            release(env)
        assert wire.receive() == [b"dcba"]


@pytest.mark.parametrize(
    "fold", ["accumulate(fold)", "localgroupby(lambda x: 'k', lambda k, a, r: fold(a, r))"]
)
def test_what_comes_before_an_accumulator_waits_for_it(env, fold):
    """It stops at the error of the accumulator, as it does where none waits."""
    script = f"""
        async def fold(a, r):
            if r == 1:
                raise Exception("one")
            return r

        def see(r):
            execute("RPUSH", "{env.key("log")}", r)

        five = lambda: (i for i in range(5))
        GB("PythonReader").foreach(see).{fold}.run(five, mode="async_local")
        """
    assert env.run(script) == ([], ["one"])
    assert env.log_list(env.key("log")) == ["0", "1"]


def test_other_records_go_on(env):
    """Behind the first record, which waits, others are under way at the same step."""
    env.register(
        f"""{KEEP}
seen = []
def first_waits(x):
    seen.append(x)
    return keep(x) if x == 'a' else x
{TRIGGER}.flatmap(lambda r: r[:0:-1]).map(first_waits).register(trigger='t', mode='async_local')
{TRIGGER}.map(lambda r: len(seen)).register(trigger='seen', mode='sync')
"""
    )
    with begin(env.server, "RG.TRIGGER", "t", *"abcd") as wire:
        wait_until(lambda: env.trigger("seen") == ["4"])
        release(env)
        assert wire.receive() == [b"a", b"b", b"c", b"d"]


def test_nobody_keeps_a_thread(new_env):
    """One thread for functions, and a hundred executions that wait."""
    env = new_env("ExecutionThreads", 1)
    env.register(f"{KEEP}{TRIGGER}.map(keep).register(trigger='t', mode='async_local')")
    wires = [begin(env.server, "RG.TRIGGER", "t", i) for i in range(100)]
    wait_until(lambda: len(env.executions()) == 100)
    assert env.results("GB('ShardsIDReader').run()") == ["1"]
    release(env, 100)
    for i, wire in enumerate(wires):
        with wire:
            assert wire.receive() == [str(["t", str(i)]).encode()]


# --------------------------------------------------------------------------------- on three shards


SPREAD = "GB('PythonReader', lambda: ((hashtag(), i) for i in range({})))"
"""As many records of each shard."""


@pytest.mark.cluster
@pytest.mark.parametrize("count", [10, 1500])
@pytest.mark.parametrize(
    "steps",
    [
        ".map(maybe).repartition(lambda r: r[1]).map(maybe)",
        ".map(maybe).collect().map(maybe)",
        ".repartition(lambda r: r[1]).filter(lambda r: maybe(True)).collect().foreach(maybe)",
        ".map(maybe).repartition(lambda r: r[1]).map(maybe).repartition(lambda r: r[0]).map(maybe)",
    ],
)
def test_around_cuts(env, steps, count):
    script = f"{MIXED}{SPREAD.format(count)}{steps}.run()"
    expected = [str((shard.tag, i)) for shard in env.shards for i in range(count)]
    assert sorted(env.results(script)) == sorted(expected)


@pytest.mark.cluster
@pytest.mark.parametrize("count", [10, 1500])
@pytest.mark.parametrize("step", ["groupby", "localgroupby"])
def test_groups_of_all_shards(env, step, count):
    script = f"""{MIXED}
def fold(k, a, r):
    return maybe((a or 0) + r[1])
{SPREAD.format(count)}.map(maybe).{step}(lambda r: r[1] % 7, fold).map(maybe) \\
    .map(lambda r: r['value']).aggregate(0, lambda a, r: maybe(a + r), lambda a, r: maybe(a + r)) \\
    .run()
"""
    assert env.results(script) == [str(3 * sum(range(count)))]


@pytest.mark.cluster
def test_a_limit_after_a_cut(env):
    steps = ".map(maybe).collect().map(maybe).limit(10)"
    assert len(env.results(f"{MIXED}{SPREAD.format(2000)}{steps}.run()")) == 10


@pytest.mark.cluster
def test_errors_of_all_shards(env):
    """Each goes to the one that was asked."""
    results, errors = env.run(
        f"""{MIXED}
def fails(r):
    return maybe(Exception('no') if r[1] == 5 else r)
{SPREAD.format(10)}.map(fails).repartition(lambda r: r[1]).map(maybe).count().run()
"""
    )
    assert len(errors) == env.shard_count
    assert 24 <= int(results[0]) <= 27
    assert all("no" in error for error in errors)


@pytest.mark.cluster
@pytest.mark.parametrize("step", ["map(lambda x: 12 // 0)", "repartition(lambda x: 12 // 0)"])
def test_many_errors_behind_a_promise(env, step):
    """More than may be on their way to the initiator at once."""
    for _ in range(10):
        identifier = env.start(f"{ASLEEP}{one_shard([0] * 50)}.map(later).{step}.run()")
        env.wait_status(identifier, "done")
        results, errors = env.wait(identifier)
        assert (results, len(errors)) == ([], 50)


@pytest.mark.cluster
@pytest.mark.parametrize("steps", ["map(later)", "map(later).repartition(lambda x: x[-5:])"])
def test_many_large_values_behind_a_promise(env, steps):
    values = "(x * 10000 + str(i) for i in range(1000))".replace("x", "'x'")
    for _ in range(3):
        identifier = env.start(
            f"{ASLEEP}{one_shard(values)}.{steps}.map(later).map(lambda x: len(x)).run()"
        )
        env.wait_status(identifier, "done")
        results, errors = env.wait(identifier)
        assert (len(results), errors) == (1000, [])


@pytest.mark.cluster
@pytest.mark.parametrize("size", [10, 100, 250, 1000])
@pytest.mark.parametrize("before", ["", ".map(later)"])
def test_all_shards_have_no_room_at_once(env, before, size):
    """What waits behind a cut goes on though nothing more can cross that cut now."""
    identifier = env.start(
        f"""{ASLEEP}
async def slow(r):
    await asyncio.sleep(0.05)
    return len(r[1])
GB('ShardsIDReader').flatmap(lambda x: [(i, 'x' * {size}) for i in range(8000)]){before} \\
    .repartition(lambda r: r[0]).map(slow).count().run()
"""
    )
    env.wait_status(identifier, "done")
    assert env.wait(identifier) == ([str(8000 * env.shard_count)], [])


@pytest.mark.cluster
def test_what_is_collected_does_not_hold_what_comes_before_it(env):
    """The first shard can send no more to the second one, which is slow; meanwhile it gets from the
    third one more than its map may hold, and what that has collected."""
    first, second, third = env.each(lambda shard: shard.tag)
    identifier = env.start(
        f"""{ASLEEP}
def records(x):
    if hashtag() == '{first}':
        return ['{second}'] * 6000
    return ['{first}', '{third}'] * 3000 if hashtag() == '{third}' else []
async def slow(r):
    await asyncio.sleep({{'{first}': 0.05, '{second}': 1}}.get(hashtag(), 0))
    return 'x' * 100
GB('ShardsIDReader').flatmap(records).map(lambda r: (r, 'x' * 250)).repartition(lambda r: r[0]) \\
    .map(slow).run()
"""
    )
    env.wait_status(identifier, "done")
    results, errors = env.wait(identifier)
    assert (len(results), errors) == (12000, [])


@pytest.mark.cluster
@pytest.mark.parametrize(
    "steps", ["map({}).count()", "count().map({})", "repartition(lambda x: x).map({})"]
)
def test_promises_may_take_longer_than_others_are_waited_for(new_cluster, steps):
    env = new_cluster()
    env.config("ExecutionMaxIdleTime", 100)
    wait = steps.format("wait")
    identifier = env.start(
        f"""{ASLEEP}
async def wait(x):
    await asyncio.sleep(1.5)
    return x
GB('ShardsIDReader').{wait}.run()
"""
    )
    results, errors = env.wait(identifier)
    assert errors == []
    assert results in ([str(env.shard_count)], env.ids) or sorted(results) == env.ids


@pytest.mark.cluster
@pytest.mark.parametrize("waits", ["all", "survivors", "killed"])
def test_a_shard_that_is_killed_is_noticed(new_cluster, waits):
    env = new_cluster()
    env.config("ExecutionMaxIdleTime", 500)
    names = {"all": "True", "survivors": "hashtag() != {!r}", "killed": "hashtag() == {!r}"}
    test = names[waits].format(env.shards[2].tag)
    identifier = env.start(
        f"""{ASLEEP}
async def wait(x):
    execute('set', 'held{{%s}}' % hashtag(), 1)
    if {test}:
        await wait_for()
    return x
GB('ShardsIDReader').map(wait).count().run()
"""
    )
    wait_until(env.all_held)
    env.servers[2].kill()
    env.shards[0].go()
    env.shards[1].go()
    results, errors = env.wait(identifier)
    # It may have sent all it had before.
    assert errors or (waits == "survivors" and results == [str(env.shard_count)])
