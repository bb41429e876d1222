"""What one script, or one run, leaves behind for the next."""

import textwrap

import pytest
from env import one_shard, wait_until

pytestmark = pytest.mark.lopsided


@pytest.mark.parametrize("command", ["SYNC", "PSYNC", "WAIT", "sync", "REPLCONF"])
def test_commands_that_would_end_the_server(env, command):
    args = {"PSYNC": ", '?', '-1'", "WAIT": ", '1', '0'"}.get(command, "")
    assert "can not be run by a script" in env.refused(f"execute('{command}'{args})")
    assert env.client.ping()


def test_a_thread_that_ends_inside_an_atomic_block(env):
    script = """
        import threading
        def body():
            registerGearsThread()
            atomic().__enter__()
            execute('set', 'inside', 1)
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        """
    assert env.execute(script) == "OK"
    assert env.client.get("inside") == "1"
    wait_until(lambda: "has been closed" in env.server.log(), what="a line in the log")


@pytest.mark.parametrize("tracer", ["settrace", "setprofile"])
def test_a_trace_function_ends_with_its_script(env, tracer):
    assert env.execute(f"import sys\nsys.{tracer}(lambda *a: None)") == "OK"
    for _ in range(3):
        assert env.execute("def h(x): return x\nh(1); h(2)") == "OK"
    step = f"import sys\ndef f(r):\n    sys.{tracer}(lambda *a: None)\n    return 1\n"
    env.client.mset({f"k{i}": i for i in range(3)})
    assert env.run(step + "GB().map(f).run()") == (["1"] * 3, [])
    assert env.run("GB().map(lambda r: 2).run()") == (["2"] * 3, [])


def test_context_variables_end_with_their_run(new_env):
    env = new_env("ExecutionThreads", 1)
    env.run(
        """
        import decimal
        def narrow(r):
            decimal.getcontext().prec = 3
        GB('ShardsIDReader').foreach(narrow).run()
        """
    )
    results, _ = env.run(
        "import decimal\nGB('ShardsIDReader').map(lambda r: decimal.Decimal(1) / 3).run()"
    )
    assert results == ["0." + "3" * 28]


def test_a_builder_that_a_script_changes_is_its_own(env):
    assert env.execute("GearsBuilder.run = None\nGB.__init__ = None") == "OK"
    assert env.still_runs()


def test_a_mark_of_the_prelude_means_nothing_on_other_functions(env):
    for mark in ("('zero',)", "('zero', 1, 2, 3)", "('count',)", "(object(), 'str')"):
        script = f"def f(a, r): return 'called'\nf.__geartrain__ = {mark}\n"
        script += f"{one_shard([1])}.accumulate(f).run()"
        assert env.run(script) == (["called"], [])


LOOKS = {
    "a helper that reads the frame of its caller": """
        import sys
        def fmt(t): return t.format(**sys._getframe(1).f_locals)
        f = lambda r: fmt('{r[key]}={r[value]}')
        """,
    "locals by another name": """
        L = locals
        f = lambda r: 'k=' + list(L().values())[0]['value']
        """,
    "eval by another name": """
        e = eval
        f = lambda r: 'k=' + e("r['value']")
        """,
    "a traceback": """
        def f(r):
            try:
                raise ValueError
            except ValueError as e:
                return 'k=' + list(e.__traceback__.tb_frame.f_locals.values())[0]['value']
        """,
    "a global of a builtin's name": """
        import sys
        def len(x): return 'k=' + sys._getframe(1).f_locals['r']['value']
        f = lambda r: len(r['key'])
        """,
    "a nested function": """
        def f(r):
            g = lambda: r['value']
            return 'k=' + g()
        """,
}


@pytest.mark.parametrize("how", LOOKS)
def test_a_value_is_there_for_whoever_looks(env, how):
    env.client.set("k", "v")
    script = textwrap.dedent(LOOKS[how]) + "GB().map(f).run('k')"
    assert env.run(script) == (["k=v"], [])


def test_records_whose_value_nobody_looks_at(env):
    env.client.mset({"a": 1, "bb": 2})
    script = (
        "GB().filter(lambda r: r['key'] != 'a').map(lambda r: (r['type'], len(r['key']))).run()"
    )
    assert env.run(script) == (["('string', 2)"], [])
    results, errors = env.run(
        "GB().foreach(lambda r: execute('append', r['key'], 'x')).count().run()"
    )
    assert (results, errors) == (["2"], [])
    assert sorted(env.client.mget("a", "bb")) == ["1x", "2x"]


@pytest.mark.parametrize("padding", [0, 20_000])
def test_a_script_that_was_run_before_begins_anew(env, padding):
    """Its code may be the same, what the functions hold is not."""
    script = """
def times(seen=[]):
    seen.append(1)
    times.calls = getattr(times, 'calls', 0) + 1
    return len(seen), times.calls
GB('ShardsIDReader').map(lambda r: times()).run()
"""
    script += "#" * padding
    for _ in range(3):
        assert set(env.results(script)) == {"(1, 1)"}
    for _ in range(2):
        assert "invalid syntax" in env.error("RG.PYEXECUTE", "x = = 1" + "#" * padding)
