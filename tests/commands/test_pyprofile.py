"""RG.PYPROFILE: how long the callbacks of a session take."""

import contextlib
import importlib.util
import re
import sys

import pytest
from server import ROOT

TRIGGER = "GB('CommandReader').map(work).register(trigger='{}', mode='{}')"
MODES = ["sync", "async", "async_local"]
WORK = """
def deep(n):
    return n and 1 + deep(n - 1)
def work(x):
    deep(3)
    return len(x)
"""
ORDERS = ["calls", "ncalls", "cumtime", "cumulative", "filename", "line", "module", "name", "nfl"]
ORDERS += ["pcalls", "stdname", "time", "tottime", "tot", "cumu"]


def stats(env, *words):
    return env.call("RG.PYPROFILE", "STATS", *words).decode()


def calls(text):
    """name -> how often it was called, in the order of the first table."""
    table = text.partition("ncalls")[2].partition("Ordered by")[0]
    lines = re.findall(
        r"^ *(\S+) +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ .*[({](.*)[)}]$", table, re.MULTILINE
    )
    return {name: count for count, name in lines}


def first(text):
    return next(iter(calls(text)))


@pytest.fixture
def profiled(env):
    env.config("ProfileExecutions", 1)
    return env


@pytest.mark.parametrize("mode", MODES)
def test_calls_are_counted(profiled, mode):
    profiled.register(WORK + TRIGGER.format("t", mode), "ID", "s")
    for _ in range(5):
        profiled.trigger("t")
    counted = calls(stats(profiled, "s"))
    assert (counted["work"], counted["deep"]) == ("5", "20/5")


def test_all_registrations_of_a_session_share_a_profile(profiled):
    names = {f"t:{mode}": mode for mode in MODES}
    script = "\n".join(TRIGGER.format(name, mode) for name, mode in names.items())
    profiled.register(WORK + script, "ID", "s")
    profiled.register("GB('CommandReader').map(lambda x: 1).register(trigger='o')", "ID", "other")
    for name in names:
        profiled.trigger(name)
    profiled.trigger("o")
    counted = calls(stats(profiled, "s"))
    assert counted["work"] == "3"
    assert "<lambda>" not in counted
    assert "<lambda>" in calls(stats(profiled, "other"))


def test_other_shards_have_profiles_of_their_own(profiled):
    profiled.register(WORK + TRIGGER.format("t", "async"), "ID", "s")
    profiled.trigger("t")
    assert [calls(stats(shard, "s"))["work"] for shard in profiled.shards] == [
        "1"
    ] * profiled.shard_count
    profiled.shards[0].call("RG.PYPROFILE", "RESET", "s")
    counts = [shard.call("RG.PYPROFILE", "STATS", "s") for shard in profiled.shards]
    assert len([count for count in counts if isinstance(count, bytes)]) == profiled.shard_count - 1


@pytest.mark.parametrize("order", ORDERS)
def test_orders(profiled, order):
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    profiled.trigger("t")
    assert calls(stats(profiled, "s", order))["work"] == "1"


def test_the_order_is_that_of_the_tables(profiled):
    profiled.register(
        """
        import time
        def a_slow(x):
            time.sleep(0.02)
        def z_often():
            pass
        def quick(x):
            for _ in range(50):
                z_often()
        GB('CommandReader').foreach(a_slow).foreach(quick).register(trigger='t', mode='sync')
        """,
        "ID",
        "s",
    )
    profiled.trigger("t")
    assert first(stats(profiled, "s")) == "built-in method time.sleep"
    assert stats(profiled, "s").splitlines()[2].strip() == "Ordered by: internal time"
    assert first(stats(profiled, "s", "ncalls")) == "z_often"
    assert first(stats(profiled, "s", "cumulative")) == "a_slow"


@pytest.mark.parametrize("order", ["nope", "", "tottime ", "-1", "\x00", "é"])
def test_an_unknown_order(profiled, order):
    """RedisGears took any word, since none of them had an effect."""
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    profiled.trigger("t")
    text = stats(profiled, "s", order)
    assert calls(text)["work"] == "1"
    assert text.splitlines()[2].strip() == "Ordered by: internal time"


def test_in_a_transaction(profiled):
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    profiled.shards[0].trigger("t")
    profiled.call("MULTI")
    profiled.call("RG.PYPROFILE", "STATS", "s")
    profiled.call("RG.PYPROFILE", "RESET", "s")
    profiled.call("RG.PYPROFILE", "STATS", "s")
    text, reset, error = profiled.call("EXEC")
    assert calls(text.decode())["work"] == "1"
    assert reset == "OK"
    assert "pstats.Stats" in error


def test_nothing_was_measured(env):
    env.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    env.trigger("t")
    text = env.error("RG.PYPROFILE", "STATS", "s")
    assert "TypeError" in text
    assert "Cannot create or construct a <class 'pstats.Stats'> object" in text


def test_wrong_words(env):
    env.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    arity = "ERR wrong number of arguments for 'rg.pyprofile' command"
    for words in ([], ["STATS"], ["stats", "s", "ncalls", "x"], ["RESET"], ["reset", "s", "x"]):
        assert env.error("RG.PYPROFILE", *words) == arity
    assert env.error("RG.PYPROFILE", "foo") == "Wrong subcommand given to RG.PYPROFILE"
    assert env.error("RG.PYPROFILE", "foo", "s") == "Wrong subcommand given to RG.PYPROFILE"
    for subcommand in ("STATS", "RESET"):
        assert env.error("RG.PYPROFILE", subcommand, "nope") == "session does not exists"
    assert env.call("RG.PYPROFILE", "reset", "s") == "OK"


def test_what_is_measured(profiled):
    """Callbacks; not the script, and not what a coroutine does later."""
    profiled.register(
        """
        def helper():
            pass
        def started():
            helper()
        def of_script():
            pass
        of_script()
        def inside():
            pass
        async def later(x):
            inside()
        GB('CommandReader').map(later).register(trigger='t', onRegistered=started)
        """,
        "ID",
        "s",
    )
    profiled.trigger("t")
    counted = calls(stats(profiled, "s"))
    assert (counted["started"], counted["helper"]) == ("1", "1")
    assert "of_script" not in counted
    assert "inside" not in counted


def test_a_function_that_triggers_another_one(profiled):
    """Each is measured in its own session, the outer one also after the inner one has ended."""
    inner = WORK + TRIGGER.format("inner", "sync")
    profiled.register(inner, "ID", "inner")
    outer = """
def last():
    pass
def other():
    execute('RG.TRIGGER', 'inner')
    last()
def own(x):
    pass
def same():
    execute('RG.TRIGGER', 'own')
    last()
def both(x):
    other()
    same()
    last()
GB('CommandReader').foreach(own).register(trigger='own', mode='sync')
GB('CommandReader').foreach(both).register(trigger='outer', mode='{}')
"""
    profiled.register(outer.format("sync"), "ID", "outer")
    for turn in range(1, 4):
        profiled.trigger("outer")
        counted = calls(stats(profiled, "outer"))
        names = ("both", "other", "same", "own", "last")
        assert [counted[name] for name in names] == [str(turn)] * 4 + [str(3 * turn)]
        assert "work" not in counted
        assert calls(stats(profiled, "inner"))["work"] == str(turn)


def test_measuring_ends_and_begins_with_the_setting(profiled):
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    profiled.trigger("t")
    profiled.config("ProfileExecutions", 0)
    profiled.trigger("t")
    assert calls(stats(profiled, "s"))["work"] == "1"
    profiled.config("ProfileExecutions", 1)
    profiled.trigger("t")
    assert calls(stats(profiled, "s"))["work"] == "2"


def test_a_callback_that_changes_the_setting(profiled):
    profiled.register(
        """
        def last():
            pass
        def work(x):
            execute('RG.CONFIGSET', 'ProfileExecutions', 0)
            last()
        GB('CommandReader').foreach(work).register(trigger='t', mode='sync')
        """,
        "ID",
        "s",
    )
    profiled.trigger("t")
    assert calls(stats(profiled, "s"))["last"] == "1"
    profiled.shards[0].config("ProfileExecutions", 0)


def test_a_callback_that_sets_a_profile_function(profiled):
    profiled.register(
        """
        import sys
        def work(x):
            sys.setprofile(None)
        GB('CommandReader').foreach(work).register(trigger='t', mode='sync')
        """,
        "ID",
        "s",
    )
    for turn in range(1, 4):
        profiled.trigger("t")
        assert calls(stats(profiled, "s"))["work"] == str(turn)


def test_a_callback_that_raises(profiled):
    script = "def fail(x):\n    raise ValueError('no')\n"
    script += "GB('CommandReader').map(fail).register(trigger='t', mode='{}')"
    profiled.register(script.format("sync"), "ID", "s")
    for turn in range(1, 4):
        assert "no" in profiled.error("RG.TRIGGER", "t")
        assert calls(stats(profiled, "s"))["fail"] == str(turn)


def test_an_upgrade_begins_anew(profiled):
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s")
    profiled.trigger("t")
    profiled.register(WORK + TRIGGER.format("t", "sync"), "ID", "s", "UPGRADE")
    assert "pstats" in profiled.error("RG.PYPROFILE", "STATS", "s")
    profiled.trigger("t")
    assert calls(stats(profiled, "s"))["work"] == "1"


@pytest.mark.single("many threads of one shard")
def test_statistics_while_functions_run_on_several_threads(profiled):
    """Nothing is lost of what several threads do at the same time, also while somebody looks."""
    profiled.fill(2000)
    script = WORK + "GB('CommandReader').map(work).register(trigger='t', mode='sync')\n"
    script += "GB('CommandReader').map(work).register(trigger='l', mode='async_local')\n"
    profiled.register(script, "ID", "s")
    wires = [profiled.server.wire() for _ in range(8)]
    rounds = 50
    for _ in range(rounds):
        for wire in wires:
            wire.send("RG.TRIGGER", "l")
        profiled.trigger("t")
        stats(profiled, "s")
        for wire in wires:
            assert wire.receive() == [b"1"]
    for wire in wires:
        wire.close()
    assert calls(stats(profiled, "s"))["work"] == str(rounds * (len(wires) + 1))


def load():
    path = ROOT / "python/prelude/profiling.py"
    spec = importlib.util.spec_from_file_location("profiling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def pairs():
    yield from enumerate("abc")


def busy():
    sorted([3, 1, 2], key=lambda x: -x)
    [str(i) for i in range(3)]
    for error, value in [(KeyError, {}), (ValueError, "x")]:
        with contextlib.suppress(error):
            value["a"] if error is KeyError else int(value)
    list(pairs())
    even(4)
    fib(5)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="cProfile sees other calls there")
def test_the_profiler_of_newer_pythons_counts_as_cprofile_does():
    profiling = load()

    def counts(profiler):
        for _ in range(2):
            profiler.enable()
            busy()
            fib(4)
            profiler.disable()
        profiler.snapshot_stats()
        stats = profiler.stats.items()
        return {
            name: (once, calls, {by: of[:2] for by, of in callers.items()})
            for name, (once, calls, _, _, callers) in stats
            if "_lsprof" not in name[2]
        }

    own = counts(profiling.Calls())
    assert own == counts(profiling.cProfile.Profile())
    assert [calls for name, (_, calls, _) in own.items() if name[2] == "fib"] == [48]


def test_the_profiler_of_newer_pythons_adds_up_times():
    profiling = load()
    ticks = iter(range(10000))
    profiler = profiling.Calls(clock=lambda: next(ticks))
    profiler.enable()
    fib(3)
    profiler.disable()
    profiler.snapshot_stats()
    ((once, calls, inside, total, _),) = profiler.stats.values()
    assert (once, calls, inside, total) == (1, 5, 9, 9)
