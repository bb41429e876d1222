import collections

import pytest
from env import HOLD, one_shard, pairs
from server import wait_until

ZEROS = "0" * 40
MAPPER = ("map", "RedisGearsPy_ToPyRecordMapper")
EXTRACT = ("extractkey", "RedisGearsPy_PyCallbackExtractor")
REPARTITION = ("repartition", "repartition")
BY_KEY = ("accumulatebykey", "RedisGearsPy_PyCallbackAccumulateByKey")
BLOCKED = HOLD + "GB('ShardsIDReader').foreach(lambda x: hold()).run()"


def finished(env, script="GB('ShardsIDReader').run()"):
    identifier = env.start(script)
    env.wait(identifier)
    return identifier


def steps(env, identifier):
    return [pairs(step) for step in env.plan(identifier)["steps"]]


def test_shape(env):
    identifier = finished(env)
    reply = env.call("RG.GETEXECUTION", identifier, "SHARD")
    assert len(reply) == 1
    (entry,) = reply
    assert entry[:3] == [b"shard_id", env.shard_id.encode(), b"execution_plan"]
    plan = entry[3]
    assert plan[::2] == [
        b"status",
        b"shards_received",
        b"shards_completed",
        b"results",
        b"errors",
        b"total_duration",
        b"read_duration",
        b"steps",
    ]
    others = env.shard_count - 1
    assert plan[1:10:2] == [b"done", others, others, env.shard_count, []]
    assert type(plan[11]) is int
    assert type(plan[13]) is int
    for step in plan[15]:
        assert step[::2] == [b"type", b"duration", b"name", b"arg"]
        assert [type(value) for value in step[1::2]] == [bytes, int, bytes, bytes]


@pytest.mark.parametrize("word", ["SHARD", "shard", "sHaRd"])
def test_shard(env, word):
    identifier = finished(env)
    assert len(env.call("RG.GETEXECUTION", identifier, word)) == 1


@pytest.mark.cluster
@pytest.mark.parametrize("words", [["CLUSTER"], []])
def test_cluster(env, words):
    """Every shard tells of its own part; those without records have no results."""
    identifier = finished(env, f"{one_shard([1, 0])}.map(lambda x: 1 // x).run(collect=False)")

    def told():
        return [pairs(entry) for entry in env.call("RG.GETEXECUTION", identifier, *words)]

    def ended():
        return {pairs(entry[b"execution_plan"])[b"status"] for entry in told()} == {b"done"}

    # The others hear a moment later that all are done.
    wait_until(ended)
    entries = told()
    assert sorted(entry[b"shard_id"].decode() for entry in entries) == env.ids
    for entry in entries:
        plan = pairs(entry[b"execution_plan"])
        at_source = entry[b"shard_id"].decode() == env.source.server.id
        assert (plan[b"results"], len(plan[b"errors"])) == ((1, 1) if at_source else (0, 0))
        assert len(plan[b"steps"]) == 3


@pytest.mark.cluster
def test_shards_that_do_not_know_it(env):
    identifier = env.start("GB('ShardsIDReader').run(mode='async_local')")
    env.wait(identifier)
    (entry,) = env.call("RG.GETEXECUTION", identifier, "CLUSTER")
    assert entry[1].decode() == env.shard_id


@pytest.mark.single("on a cluster there is one")
@pytest.mark.parametrize("word", ["CLUSTER", "cluster"])
def test_no_cluster(env, word):
    text = "no cluster detected - use `RG.GETEXECUTION <id> [SHARD]` instead"
    assert env.error("RG.GETEXECUTION", finished(env), word) == text


def test_unknown_subcommand(env):
    assert env.error("RG.GETEXECUTION", finished(env), "foo") == "unknown subcommand"


@pytest.mark.parametrize("more", [[], ["SHARD"], ["CLUSTER"], ["foo"]])
def test_unknown_id(env, more):
    text = "execution plan does not exist"
    assert env.error("RG.GETEXECUTION", ZEROS + "-987654", *more) == text


@pytest.mark.parametrize("words", [[], ["id", "SHARD", "more"]])
def test_arity(env, words):
    text = "ERR wrong number of arguments for 'rg.getexecution' command"
    assert env.error("RG.GETEXECUTION", *words).lower() == text.lower()


def test_not_finished(env):
    identifier = env.start(BLOCKED)
    env.wait_status(identifier, "running")
    plan = env.plan(identifier)
    assert plan["status"] == "running"
    assert plan["results"] == -1
    assert plan["errors"] == []


def test_counts_and_errors(env):
    script = f"{one_shard([1, 2, 0])}.map(lambda x: 1 // x).run()"
    plan = env.plan(finished(env, script))
    assert plan["status"] == "done"
    assert plan["results"] == 2
    assert len(plan["errors"]) == 1
    assert "ZeroDivisionError" in plan["errors"][0]


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("", []),
        (".map(f)", [("map", "RedisGearsPy_PyCallbackMapper")]),
        (".filter(f)", [("filter", "RedisGearsPy_PyCallbackFilter")]),
        (".foreach(f)", [("foreach", "RedisGearsPy_PyCallbackForEach")]),
        (".flatmap(f)", [("map", "RedisGearsPy_PyCallbackFlatMapper"), ("flatmap", "flatmap")]),
        (".limit(1)", [("limit", "limit")]),
        (".collect()", [("collect", "collect")]),
        (".accumulate(two)", [("accumulate", "RedisGearsPy_PyCallbackAccumulate")]),
        (".repartition(f)", [EXTRACT, REPARTITION, ("map", "GetValueMapper")]),
        (".groupby(f, three)", [EXTRACT, REPARTITION, BY_KEY, MAPPER]),
        (".localgroupby(f, three)", [EXTRACT, BY_KEY, MAPPER]),
        (
            ".batchgroupby(f, two)",
            [
                EXTRACT,
                REPARTITION,
                ("group", "group"),
                ("reduce", "RedisGearsPy_PyCallbackReducer"),
                MAPPER,
            ],
        ),
        (
            ".filter(f).map(f)",
            [
                ("filter", "RedisGearsPy_PyCallbackFilter"),
                ("map", "RedisGearsPy_PyCallbackMapper"),
            ],
        ),
    ],
)
def test_steps_come_last_to_first(env, operations, expected):
    script = f"""
    def f(x): return x
    def two(a, b): return b
    def three(a, b, c): return c
    GB('ShardsIDReader'){operations}.run(convertToStr=False, collect=False)
    """
    found = [(step["type"], step["name"]) for step in steps(env, finished(env, script))]
    assert found[::-1] == [MAPPER, *expected]


def test_run_appends_str_and_collect(env):
    found = [(step["type"], step["name"]) for step in steps(env, finished(env))]
    assert found == [("collect", "collect"), ("map", "RedisGearsPy_PyCallbackMapper"), MAPPER]


def test_arg_is_the_text_of_the_callback(env):
    script = """
    def double(x): return x * 2
    GB('ShardsIDReader').map(double).filter(lambda x: True).limit(1).run(convertToStr=False)
    """
    found = {step["type"]: step["arg"] for step in steps(env, finished(env, script))[:-1]}
    assert found["map"].startswith("<function double at 0x")
    assert found["filter"].startswith("<function <lambda> at 0x")
    assert found["limit"] == ""
    assert found["collect"] == ""


SLOW = """
import time
GB('PythonReader', lambda: (i for i in range(30))).map(lambda x: time.sleep(0.002)).run()
"""


def test_steps_are_timed_on_demand(env):
    assert sum(step["duration"] for step in steps(env, finished(env, SLOW))) == 0
    env.config("ProfileExecutions", 1)
    profiled = steps(env, finished(env, SLOW))
    assert max(profiled, key=lambda step: step["duration"])["arg"].startswith("<function <lambda>")
    assert sum(step["duration"] for step in profiled) >= 30


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("map(fail)", "map"),
        ("groupby(slow, lambda k, a, r: 1)", "extractkey"),
        ("groupby(lambda x: 1, slow)", "accumulatebykey"),
        ("localgroupby(slow, lambda k, a, r: 1)", "extractkey"),
        ("batchgroupby(slow, lambda k, r: 1)", "extractkey"),
        ("batchgroupby(lambda x: x, slow)", "reduce"),
        ("repartition(slow)", "extractkey"),
    ],
)
def test_the_time_of_each_callback_is_that_of_its_step(env, operation, expected):
    script = f"""
    import time
    def slow(*args):
        time.sleep(0.02)
        return args[-1]
    def fail(x):
        time.sleep(0.08)
        raise ValueError(x)
    GB('PythonReader', lambda: (x for x in range(4))).{operation}.run(mode='async_local')
    """
    env.config("ProfileExecutions", 1)
    times = collections.Counter()
    for step in steps(env, finished(env, script)):
        times[step["type"]] += step["duration"]
    assert times.pop(expected) >= 80
    assert max(times.values()) < 50


def test_durations(env):
    plan = env.plan(finished(env, SLOW))
    assert plan["total_duration"] >= 30
    assert plan["read_duration"] <= plan["total_duration"]


def test_read_duration_of_a_generator(env):
    script = """
        import time

        def slow():
            for i in range(3):
                time.sleep(0.02)
                yield i

        GB("PythonReader").foreach(lambda x: time.sleep(0.01)).run(slow)
        """
    plan = env.plan(finished(env, script))
    assert plan["read_duration"] >= 60
    assert plan["total_duration"] >= plan["read_duration"] + 30


@pytest.mark.parametrize("count", [1, 1000, 100_000])
def test_read_duration_is_part_of_the_whole(env, count):
    plan = env.plan(finished(env, f"GB('PythonReader').run(lambda: (i for i in range({count})))"))
    assert plan["read_duration"] <= plan["total_duration"]


def test_the_duration_is_that_of_work(env):
    script = """
    import asyncio
    async def later(r):
        await asyncio.sleep(1)
    GB('ShardsIDReader').foreach(later).run()
    """
    assert env.plan(finished(env, script))["total_duration"] < 800
