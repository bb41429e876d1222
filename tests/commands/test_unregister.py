"""RG.UNREGISTER."""

import pytest
from env import HOLD
from server import wait_until
from wire import Simple

pytestmark = pytest.mark.lopsided

UNKNOWN = "0" * 40 + "-999999"


@pytest.mark.parametrize("words", [[], [UNKNOWN, "ABORTPENDING", "more"]])
def test_wrong_number_of_words(env, words):
    text = "ERR wrong number of arguments for 'rg.unregister' command"
    assert env.error("RG.UNREGISTER", *words).lower() == text.lower()


@pytest.mark.parametrize(
    "identifier", [UNKNOWN, "", "x", "-1", "0" * 40, "0" * 40 + "-", "0" * 40 + "-x", b"\xff" * 42]
)
def test_an_unknown_id(env, identifier):
    assert env.error("RG.UNREGISTER", identifier) == "execution is not registered"


@pytest.mark.parametrize("word", ["ABORTPENDING", "abortpending", "AbortPending", "nothing", ""])
def test_a_third_word(env, word):
    env.register("GB().register('k*')")
    assert env.call("RG.UNREGISTER", env.identifier(), word) == Simple("OK")
    assert env.registrations() == []


@pytest.mark.parametrize(
    "script",
    [
        "GB().register('k*')",
        "GB().register('k*', commands=['set'])",
        "GB('StreamReader').register('s')",
        "GB('CommandReader').register(trigger='t')",
        "GB('CommandReader').register(hook='get')",
    ],
)
def test_every_reader(env, script):
    env.register(script)
    identifier = env.identifier()
    env.unregister(identifier)
    assert env.registrations() == []
    assert env.error("RG.UNREGISTER", identifier) == "execution is not registered"
    env.register(script)
    assert env.identifier() != identifier


def test_one_of_several(env):
    env.register("gb = GB()\nfor name in 'abc': gb.register(name)")
    first, second, third = env.registrations()
    env.unregister(second["id"])
    assert [e["id"] for e in env.registrations()] == [first["id"], third["id"]]
    assert env.session(first["id"])["registrationsList"] == [first["id"], third["id"]]


def test_within_multi(env):
    env.register("GB().register('k*')")
    env.call("MULTI")
    env.call("RG.UNREGISTER", env_identifier := env.identifier())
    assert env.call("EXEC") == [Simple("OK")]
    assert env.error("RG.UNREGISTER", env_identifier) == "execution is not registered"


def queue(env):
    """One execution of the registration runs, four wait."""
    env.register(
        HOLD
        + """
def work(r):
    hold()
    execute('rpush', 'log', r['key'])
GB().foreach(work).register('k*', mode='async_local')
"""
    )
    for i in range(5):
        env.client.set(f"k{i}", 1)
    wait_until(env.held)
    wait_until(lambda: sorted(env.executions().values()) == ["created"] * 4 + ["running"])
    return env.identifier()


def test_queued_executions_run(env):
    env.unregister(queue(env))
    env.go()
    env.wait_log([f"k{i}" for i in range(5)])
    wait_until(lambda: env.executions() == {})


def test_queued_executions_are_aborted(env):
    env.unregister(queue(env), "ABORTPENDING")
    env.go()
    env.wait_log(["k0"])
    wait_until(lambda: env.executions() == {})
    assert env.log_list() == ["k0"]


def test_kept_executions_are_dropped(env):
    env.register("GB().register('k*', mode='async_local')")
    for i in range(10):
        env.client.set(f"k{i}", 1)
    env.wait_data(numSuccess=10)
    assert len(env.executions()) == 10
    env.unregister(env.identifier())
    wait_until(lambda: env.executions() == {})


def test_on_unregistered(env):
    env.register(
        """
        GB().register('k*', onUnregistered=lambda: execute('set', 'gone', 1))
        """
    )
    assert not env.client.exists("gone")
    env.unregister(env.identifier())
    assert env.client.get("gone") == "1"


def test_on_unregistered_that_unregisters_itself(env):
    """It is leaving already: the second time it is not there."""
    env.register(
        """
        me = []
        def gone():
            try:
                execute('rg.unregister', me[0])
            except Exception as error:
                execute('rpush', 'log', str(error))
        gb = GB('CommandReader').map(lambda r: me.append(r[1]))
        gb.register(trigger='t', mode='sync', onUnregistered=gone)
        """
    )
    identifier = env.identifier()
    env.trigger("t", identifier)
    env.unregister(identifier)
    assert env.log_list() == ["execution is not registered"]
    assert env.registrations() == []


def test_on_unregistered_by_an_upgrade(env):
    script = "GB().register('k*', onUnregistered=lambda: execute('rpush', 'log', '{}'))"
    env.register(script.format("first"), "ID", "s")
    env.register(script.format("second"), "ID", "s", "UPGRADE")
    assert env.log_list() == ["first"]


@pytest.mark.parametrize("argument", ["onRegistered", "onUnregistered"])
def test_callbacks_that_fail(env, argument):
    before = env.server.log_size()
    env.register(
        f"""
        def fails():
            raise ValueError('as told')
        GB('CommandReader').register(trigger='t', mode='sync', {argument}=fails)
        """
    )
    assert env.trigger("t") == ["['t']"]
    env.unregister(env.identifier())
    assert env.registrations() == []
    assert "as told" in env.server.log(before)


def test_registering_and_unregistering_leaves_nothing(env):
    def cycle(count):
        for _ in range(count):
            env.register("data = 'x' * 100000\nGB().foreach(lambda r: data).register('k*')")
            env.unregister(env.identifier())
        return env.client.info("memory")["used_memory"]

    before = cycle(50)
    wait_until(lambda: cycle(200) < before + 5_000_000, what="memory to stay flat")


def test_within_a_script(env):
    env.register("GB().register('k*')")
    code = "return redis.call('RG.UNREGISTER', ARGV[1])"
    assert env.call("EVAL", code, 0, env.identifier()) == "OK"
    assert env.registrations() == []


def test_many_at_once(env):
    """Registering and removing many takes time in proportion; what is left works."""
    script = """
        for i in range(2000):
            GB('CommandReader').map(lambda r: r[0]).register(trigger=f'{0}t{i}', mode='sync')
            GB().foreach(lambda r: execute('incr', 'n')).register(f'{0}k{i}', mode='sync')
        """
    assert env.execute(script.replace("{0}", "a"), "ID", "s") == "OK"
    assert env.trigger("at1999") == ["at1999"]
    assert "trigger already registered" in env.refused(
        "GB('CommandReader').register(trigger='at7')", "ID", "other"
    )
    assert env.execute(script.replace("{0}", "b"), "ID", "s", "UPGRADE") == "OK"
    assert env.error("RG.TRIGGER", "at7") == "ERR subcommand not found"
    assert env.trigger("bt7") == ["bt7"]
    env.client.set("bk7", 1)
    env.client.set("ak7", 1)
    wait_until(lambda: env.client.get("n") == "1")
    env.register("GB().register('x')", "ID", "s", "UPGRADE")
    assert len(env.registrations()) == 1
