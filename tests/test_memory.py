"""Nothing grows with the number of runs."""

import pytest

RUNS = 3000
SLACK = 12 << 20


def resident_growth(env, script, warm_up=RUNS // 3):
    pipeline(env, script, warm_up)
    before = env.server.resident()
    pipeline(env, script, RUNS)
    return env.server.resident() - before


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


@pytest.mark.parametrize("name", SCRIPTS)
def test_repeating_a_script(env, name):
    env.client.mset({f"key:{i}": "value" for i in range(10)})
    growth = resident_growth(env, SCRIPTS[name])
    assert growth < SLACK, f"{growth >> 10} KiB"


def test_repeating_an_unblocking_script(env):
    """Kept executions are bound by MaxExecutions, and so is what they hold."""
    env.config("MaxExecutions", 10)
    script = "GB('PythonReader', lambda: ('x' * 1000 for _ in range(100))).run()"

    def run(count):
        for _ in range(count):
            env.start(script)
        for identifier, status in env.executions().items():
            if status not in ("done", "aborted"):
                env.call("RG.GETRESULTSBLOCKING", identifier)

    run(300)
    before = env.server.resident()
    run(600)
    assert len(env.executions()) <= 10
    growth = env.server.resident() - before
    assert growth < SLACK, f"{growth >> 10} KiB"


def test_dropped_results_are_given_back(env):
    """A few times the memory of one result, however often it is made and dropped."""
    script = "GB('PythonReader', lambda: ('x' * 10000 for _ in range(1000))).run()"

    def run(count):
        for _ in range(count):
            identifier = env.start(script)
            env.call("RG.GETRESULTSBLOCKING", identifier)
            assert env.drop(identifier) == "OK"

    run(5)
    before = env.server.resident()
    run(30)
    growth = env.server.resident() - before
    assert growth < 60 << 20, f"{growth >> 20} MiB of 300 MiB made"


def test_kept_results_are_bound(env):
    """Without a bound these would be 300 MB."""
    env.config("MaxResultsMemory", 20 << 20)
    script = "GB('PythonReader', lambda: ('x' * 10000 for _ in range(1000))).run()"
    before = env.server.resident()
    for _ in range(30):
        env.call("RG.GETRESULTSBLOCKING", env.start(script))
    assert 1 <= len(env.executions()) <= 2
    growth = env.server.resident() - before
    assert growth < 120 << 20, f"{growth >> 20} MiB"


def test_an_endless_result_is_stopped(env):
    env.config("MaxResultsMemory", 20 << 20)
    before = env.server.resident()
    results, errors = env.run(
        "GB('PythonReader', lambda: ('x' * 10000 for _ in range(20000))).run()"
    )
    assert any("MaxResultsMemory" in error for error in errors)
    assert len(results) <= 2100
    growth = env.server.resident() - before
    assert growth < 120 << 20, f"{growth >> 20} MiB"


def test_counting_many_keys_takes_little_memory(env):
    env.client.execute_command("DEBUG", "POPULATE", 300000)
    env.results("GB().count().run()")
    before = env.server.resident()
    assert env.results("GB().count().run()") == ["300000"]
    assert env.results("GB().filter(lambda r: r['value'] != '').count().run()") == ["300000"]
    growth = env.server.resident() - before
    assert growth < 64 << 20, f"{growth >> 20} MiB"
