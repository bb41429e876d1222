"""map, filter, flatmap, foreach, accumulate, limit, collect, repartition."""

import pytest
from env import one_shard

NUMBERS = one_shard("range(6)")


def test_map(env):
    assert env.results(f"{NUMBERS}.map(lambda x: x * 2).run()") == ["0", "2", "4", "6", "8", "10"]


def test_map_to_none(env):
    script = f"{NUMBERS}.map(lambda x: None).map(lambda x: [x]).limit(2).run()"
    assert env.results(script) == ["[None]", "[None]"]


def test_map_by_def(env):
    script = f"""
    def double(x):
        return x * 2
    {NUMBERS}.map(double).run()
    """
    assert env.results(script) == ["0", "2", "4", "6", "8", "10"]


def test_many_maps(env):
    script = f"{NUMBERS}{'.map(lambda x: x + 1)' * 50}.run()"
    assert env.results(script) == ["50", "51", "52", "53", "54", "55"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("x > 2", ["3", "4", "5"]),
        ("x % 2", ["1", "3", "5"]),
        ("[0] * x", ["1", "2", "3", "4", "5"]),
        ("None", []),
        ("'yes'", ["0", "1", "2", "3", "4", "5"]),
    ],
)
def test_filter(env, condition, expected):
    assert env.results(f"{NUMBERS}.filter(lambda x: {condition}).run()") == expected


def test_filter_passes_the_record_itself(env):
    script = f"{one_shard([[1], [], [2]])}.filter(lambda x: x).run()"
    assert env.results(script) == ["[1]", "[2]"]


def test_flatmap_gives_the_last_element_first(env):
    assert env.results(f"{one_shard([0])}.flatmap(lambda x: [1, 2, 3]).run()") == ["3", "2", "1"]
    script = f"{one_shard(['ab', 'cd'])}.flatmap(lambda x: list(x)).run()"
    assert env.results(script) == ["b", "a", "d", "c"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[]", []),
        ("[[1, 2], [3]]", ["[3]", "[1, 2]"]),
        ("[None]", ["None"]),
        ("(1, 2)", ["(1, 2)"]),
        ("{1}", ["{1}"]),
        ("'text'", ["text"]),
        ("{'a': 1}", ["{'a': 1}"]),
        ("None", ["None"]),
        ("5", ["5"]),
        ("type('L', (list,), {})([1, 2])", ["2", "1"]),
    ],
)
def test_flatmap(env, value, expected):
    assert env.results(f"{one_shard([0])}.flatmap(lambda x: {value}).run()") == expected


def test_flatmap_does_not_expand_a_generator(env):
    script = f"{one_shard([0])}.flatmap(lambda x: (i for i in [1, 2])).map(lambda x: list(x)).run()"
    assert env.results(script) == ["[1, 2]"]


def test_flatmap_of_many(env):
    script = f"{one_shard([0, 1])}.flatmap(lambda x: list(range(5000))).count().run()"
    assert env.results(script) == ["10000"]


def test_foreach_passes_the_same_object(env):
    script = f"""
    def change(x):
        x.append('seen')
        return 'ignored'
    {one_shard([[1], [2]])}.foreach(change).run()
    """
    assert env.results(script) == ["[1, 'seen']", "[2, 'seen']"]


def test_foreach_has_effects(env):
    write = "execute('rpush', 'seen{%s}' % hashtag(), x)"
    env.results(f"{NUMBERS}.foreach(lambda x: {write}).run()")
    assert env.client.lrange(env.source.key("seen"), 0, -1) == ["0", "1", "2", "3", "4", "5"]


def test_accumulate(env):
    script = f"{NUMBERS}.accumulate(lambda a, r: r + (a if a else 0)).run()"
    assert env.results(script) == ["15"]


def test_accumulate_starts_with_none(env):
    script = f"{NUMBERS}.accumulate(lambda a, r: (a or []) + [a is None]).run()"
    assert env.results(script) == ["[True, False, False, False, False, False]"]


def test_accumulate_keeps_order(env):
    script = f"{NUMBERS}.accumulate(lambda a, r: (a or []) + [r]).run()"
    assert env.results(script) == ["[0, 1, 2, 3, 4, 5]"]


def test_accumulate_to_none(env):
    assert env.results(f"{NUMBERS}.accumulate(lambda a, r: None).run()") == ["None"]


def test_accumulate_nothing(env):
    assert env.results(f"{one_shard([])}.accumulate(lambda a, r: 1).run()") == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("2", ["0", "1"]),
        ("2, 3", ["3", "4"]),
        ("10, 4", ["4", "5"]),
        ("1, 5", ["5"]),
        ("1, 6", []),
        ("0", []),
        ("0, 2", []),
        ("100", ["0", "1", "2", "3", "4", "5"]),
        ("True", ["0"]),
    ],
)
def test_limit(env, arguments, expected):
    assert env.results(f"{NUMBERS}.limit({arguments}).run()") == expected


def test_limit_then_more_steps(env):
    script = f"{NUMBERS}.limit(4).map(lambda x: x + 1).limit(2, 1).run()"
    assert env.results(script) == ["2", "3"]


def test_limit_stands_where_it_is(env):
    script = f"{NUMBERS}.filter(lambda x: x > 1).limit(2).filter(lambda x: x > 2).run()"
    assert env.results(script) == ["3"]


def test_limit_does_not_cut_accumulators(env):
    assert env.results(f"{NUMBERS}.limit(4).count().run()") == ["4"]
    assert env.results(f"{NUMBERS}.count().limit(1).run()") == ["6"]


def test_limit_stops_reading(env):
    env.fill(5000)
    count = "execute('incr', 'seen{%s}' % hashtag())"
    results = env.results(f"GB().foreach(lambda r: {count}).limit(3).run('key:*')")
    assert len(results) == 3 * env.shard_count
    for shard in env.shards:
        assert 3 <= int(shard.client.get(shard.key("seen"))) < 1000


@pytest.mark.parametrize("arguments", ["-1", "1, -1", "-1, -1"])
def test_limit_is_not_negative(env, arguments):
    assert "must not be negative" in env.refused(f"{NUMBERS}.limit({arguments}).run()")


def test_collect(env):
    assert env.results(f"{NUMBERS}.collect().collect().run()") == ["0", "1", "2", "3", "4", "5"]
    identifier = env.start(f"{NUMBERS}.run(collect=False)")
    env.wait(identifier)
    assert env.source.wait(identifier) == (["0", "1", "2", "3", "4", "5"], [])


def test_records_of_the_initiator_come_first(env):
    script = f"""
        import time

        def late():
            time.sleep(0.2 if hashtag() == "{env.shards[0].tag}" else 0)
            yield hashtag()

        GB("PythonReader").aggregate([], lambda a, r: a + [r], lambda a, r: a + r).run(late)
        """
    assert env.result(script).startswith(f"['{env.shards[0].tag}'")


def test_repartition_passes_records_as_they_are(env):
    script = f"{NUMBERS}.repartition(lambda x: 'key').map(lambda x: x + 1).run()"
    assert env.results(script) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("key", ["None", "5", "b'a'", "object()", "'a\\0b'", "''", "{'a': [1]}"])
def test_repartition_by_any_key(env, key):
    assert env.results(f"{NUMBERS}.repartition(lambda x: {key}).count().run()") == ["6"]


def test_order_through_a_long_plan(env):
    script = f"""
    {one_shard("range(5000)")} \\
        .map(lambda x: x + 1).filter(lambda x: x % 3).repartition(lambda x: 'one place') \\
        .foreach(lambda x: None).collect().map(lambda x: x * 2).limit(4000).run()
    """
    expected = [str((i + 1) * 2) for i in range(5000) if (i + 1) % 3]
    assert env.results(script) == expected


ERRORS = {
    "map": ".map(bad)",
    "filter": ".filter(bad)",
    "flatmap": ".flatmap(bad)",
    "foreach": ".foreach(bad)",
    "repartition": ".repartition(bad)",
    "groupby": ".groupby(bad, lambda k, a, r: r).map(lambda r: r['value'])",
    "localgroupby": ".localgroupby(bad, lambda k, a, r: r).map(lambda r: r['value'])",
    "batchgroupby": ".batchgroupby(bad, lambda k, r: r[0]).map(lambda r: r['value'])",
}


@pytest.mark.parametrize("step", ERRORS)
def test_an_error_stops_the_reader(env, step):
    """That of the shard whose error it stays; where errors are sent to another one, it reads on."""
    script = f"""
    def bad(x):
        if x == 3:
            raise ValueError('three')
        return x
    {one_shard([1, 2, 3, 4])}{ERRORS[step]}.run()
    """
    results, errors = env.run(script)
    assert sorted(results) == (["1", "2"] if env.shard_count == 1 else ["1", "2", "4"])
    assert len(errors) == 1
    assert "ValueError: three" in errors[0]


def test_an_error_does_not_stop_what_was_read(env):
    """The list is inside the plan already when its first element fails."""
    results, errors = env.run(
        f"""
        {one_shard([1, 2])} \\
            .flatmap(lambda x: [5, 10, 0, 20]).map(lambda x: 60 // x).run()
        """
    )
    # On a cluster the reader of the other shard goes on, with the same list once more.
    times = 1 if env.shard_count == 1 else 2
    assert results == ["3", "6", "12"] * times
    assert len(errors) == times


def test_errors_skip_all_callbacks(env):
    results, errors = env.run(
        f"""
        seen = lambda *_: execute('set', 'seen{{%s}}' % hashtag(), 1)
        {one_shard([1])}.map(lambda x: nope).map(seen).foreach(seen).accumulate(seen).run()
        """
    )
    assert results == []
    assert len(errors) == 1
    assert env.client.dbsize() == 0


def test_an_error_in_accumulate_starts_again(env):
    results, errors = env.run(
        f"""
        def bad(a, x):
            if x == 20:
                raise ValueError('twenty')
            return (a or []) + [x]
        {one_shard([1])} \\
            .flatmap(lambda x: [50, 40, 20, 10, 5]).accumulate(bad).run()
        """
    )
    assert results == ["[40, 50]"]
    assert len(errors) == 1


def test_an_error_before_accumulate(env):
    results, errors = env.run(
        f"""
        {one_shard("range(1, 10)")} \\
            .map(lambda x: 1 // (4 - x)).accumulate(lambda a, r: 1 + (a or 0)).run()
        """
    )
    assert results == ["3" if env.shard_count == 1 else "8"]
    assert len(errors) == 1


def test_errors_are_not_counted_by_limit(env):
    results, errors = env.run(
        f"""
        {one_shard([1])} \\
            .flatmap(lambda x: [3, 2, 0, 1]).map(lambda x: 6 // x).limit(2).run()
        """
    )
    assert results == ["6", "3"]
    assert len(errors) == 1


def test_an_error_while_converting_to_text(env):
    (error,) = env.errors(
        f"""
        class Bad:
            def __str__(self):
                raise ValueError('no text')
        {one_shard([1])}.map(lambda x: Bad()).run()
        """
    )
    assert "no text" in error
