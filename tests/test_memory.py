"""Nothing grows with the number of runs."""

import pytest
from server import wait_until

RUNS = 3000
SLACK = 12 << 20


def used(env):
    """What the server and Python hold, without garbage."""
    env.execute("import gc; gc.collect()")
    return env.client.info("memory")["used_memory"]


def pipeline(env, script, runs):
    pipe = env.client.pipeline(transaction=False)
    for _ in range(runs):
        pipe.execute_command("RG.PYEXECUTE", script)
    for reply in pipe.execute(raise_on_error=False):
        assert isinstance(reply, list | str | Exception)


SCRIPTS = {
    "records": """
def double(r):
    return {'twice': r['value'] * 2}
GB().map(double).filter(lambda r: r['twice']).aggregate([], lambda a, r: a + [r],
    lambda a, r: a + r).run()
""",
    "groups": "GB().groupby(lambda r: r['key'], lambda k, a, r: [r]).run()",
    "errors": "GB().map(lambda r: nope).run()",
    "exceptions": "data = ['x' * 1000]\nGB().run()\nraise ValueError(data)",
    "syntax": "x = = 1",
    "cycles": """
class Node: pass
def cycle(r):
    node = Node()
    node.me, node.data = node, 'x' * 10000
    return 1
GB().map(cycle).run()
""",
    "commands": "GB().foreach(lambda r: execute('set', r['key'], r['value'])).run()",
    "top level": "x = ['y' * 10000 for _ in range(10)]\ndef f(): return x",
}


# these make garbage faster than Python looks for it
ROOM = {"cycles": 160 << 20}


@pytest.mark.parametrize("name", SCRIPTS)
def test_repeating_a_script(env, name):
    env.client.mset({f"key:{i}": "value" for i in range(10)})
    pipeline(env, SCRIPTS[name], RUNS // 3)
    used_before, resident_before = used(env), env.server.resident()
    pipeline(env, SCRIPTS[name], RUNS)
    # Sessions that ended are taken apart a few milliseconds later.
    wait_until(lambda: used(env) - used_before < 1 << 20, what="memory given back")
    growth = env.server.resident() - resident_before
    # with three busy servers pages come back to the system later
    room = ROOM.get(name, SLACK) if env.shard_count == 1 else max(ROOM.values())
    assert growth < room, f"{growth >> 10} KiB"


def repeat_unblocking(env, script, count, drop=False):
    for _ in range(count):
        identifier = env.start(script)
        env.call("RG.GETRESULTSBLOCKING", identifier)
        if drop:
            assert env.drop(identifier) == "OK"


MANY_SMALL = "GB('PythonReader', lambda: ('x' * 1000 for _ in range(100))).run()"
TEN_MEGABYTES = "GB('PythonReader', lambda: ('x' * 10000 for _ in range(1000))).run()"


def test_kept_executions_are_bound(env):
    env.config("MaxExecutions", 10)
    repeat_unblocking(env, MANY_SMALL, 300)
    used_before, resident_before = used(env), env.server.resident()
    repeat_unblocking(env, MANY_SMALL, 600)
    assert len(env.executions()) == 10
    wait_until(lambda: used(env) - used_before < 1 << 20, what="memory given back")
    growth = env.server.resident() - resident_before
    assert growth < SLACK, f"{growth >> 10} KiB"


def test_dropped_results_are_given_back(env):
    before = used(env)
    repeat_unblocking(env, TEN_MEGABYTES, 30, drop=True)
    wait_until(lambda: used(env) - before < 4 << 20)
    resident_before = env.server.resident()
    repeat_unblocking(env, TEN_MEGABYTES, 30, drop=True)
    growth = env.server.resident() - resident_before
    assert growth < 100 << 20, f"{growth >> 20} MiB of 300 MiB made"


def test_kept_results_are_bound(env):
    """Without a bound these would be 300 MB."""
    env.config("MaxResultsMemory", 20 << 20)
    before = used(env)
    repeat_unblocking(env, TEN_MEGABYTES, 30)
    assert 1 <= len(env.shards[0].executions()) <= 2
    # the last reply is given back a few milliseconds later
    bound = 24 + 2 * (env.shard_count - 1) << 20
    wait_until(lambda: used(env) - before < bound, what=f"less than {bound >> 20} MiB kept")


def test_an_endless_result_is_stopped(env):
    env.config("MaxResultsMemory", 20 << 20)
    before = used(env)
    results, errors = env.run(
        "GB('PythonReader', lambda: ('x' * 10000 for _ in range(20000))).run()"
    )
    assert any("MaxResultsMemory" in error for error in errors)
    assert len(results) <= 2100
    wait_until(lambda: used(env) - before < 4 << 20, what="memory given back")


def test_counting_many_keys_takes_little_memory(env):
    count = 300_000 if env.shard_count == 1 else 100_000
    env.fill(count)
    env.results("GB().count().run()")
    before = env.server.resident()
    assert env.results("GB().count().run()") == [str(count)]
    script = "GB().filter(lambda r: r['value'] != '').count().run()"
    assert env.results(script) == [str(count)]
    growth = env.server.resident() - before
    assert growth < 64 << 20, f"{growth >> 20} MiB"
