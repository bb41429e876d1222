"""registerTE: functions that run again and again."""

import pytest
from server import wait_until

pytestmark = pytest.mark.single("time events work on the keys of their server")

TICK = "def tick():\n    execute('incr', 'n')\n"


def timer(env, key="timer"):
    env.execute(f"{TICK}assert registerTE(1, tick, '{key}') is True")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("registerTE()", "not enough arguments for time event"),
        ("registerTE(1)", "not enough arguments for time event"),
        ("registerTE(1, 'tick')", "callback must be a function"),
        ("registerTE('1', lambda: 1)", "time argument must be a long"),
        ("registerTE(1.5, lambda: 1)", "time argument must be a long"),
    ],
)
def test_arguments(env, call, text):
    assert text in env.refused(call)


def test_a_thread_of_the_script(env):
    text = "can not create time event on a python created thread"
    assert env.execute(
        f"""
        import threading
        said = []
        def work():
            try:
                registerTE(1, lambda: 1)
            except Exception as error:
                said.append(str(error))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert '{text}' in said[0], said
        """
    )


def test_without_a_key(new_env):
    env = new_env()
    env.execute(f"{TICK}assert registerTE(1, tick) is True")
    wait_until(lambda: env.client.get("n") == "2")
    assert env.client.keys() == ["n"]


def test_a_key_that_exists(env):
    env.client.set("x", 1)
    env.execute("assert registerTE(1, lambda: execute('incr', 'n'), 'x') is False")
    timer(env)
    env.execute("assert registerTE(1, lambda: execute('incr', 'm'), 'timer') is False")
    wait_until(lambda: env.client.get("n") == "2")
    assert env.client.get("x") == "1"
    assert not env.client.exists("m")


def test_the_first_call_is_after_the_interval(env):
    timer(env)
    assert not env.client.exists("n")
    wait_until(lambda: env.client.get("n") == "1")


def test_a_callback_that_fails_stops(env):
    before = env.server.log_size()
    env.execute(
        """
        def tick():
            if execute('incr', 'n') == 2:
                raise ValueError('enough')
        registerTE(1, tick, 'timer')
        """
    )
    wait_until(lambda: env.client.get("n") == "2")
    env.execute("registerTE(1, lambda: execute('incr', 'm'), 'clock')")
    wait_until(lambda: env.client.get("m") == "2")
    assert env.client.get("n") == "2"
    assert "enough" in env.server.log(before)


@pytest.mark.parametrize("way", ["reload", "save_and_restart"])
def test_it_is_in_the_dump(new_env, way):
    env = new_env()
    timer(env)
    wait_until(lambda: env.client.get("n") == "1")
    getattr(env, way)()
    wait_until(lambda: int(env.client.get("n")) >= 3)
    assert env.client.delete("timer") == 1


def test_overwriting_the_key_stops_it(env):
    timer(env)
    wait_until(lambda: env.client.get("n") == "1")
    env.client.set("timer", "text")
    before = env.client.get("n")
    timer(env, "clock")
    wait_until(lambda: int(env.client.get("n")) >= int(before) + 2)
    assert env.client.type("timer") == "string"


def test_commands_on_its_key(env):
    """A key of a type of this module answers as others do."""
    timer(env)
    assert env.client.exists("timer")
    assert env.client.type("timer").startswith("rg")
    assert env.error("GET", "timer").startswith("WRONGTYPE")
    assert env.result("GB().map(lambda r: r['type']).run('timer')") == "module"
    env.client.rename("timer", "other")
    env.client.flushall()
    assert env.client.dbsize() == 0


def test_restore_makes_none(env):
    """It would run code for whoever may restore keys."""
    timer(env)
    dumped = env.binary.dump("timer")
    assert "Bad data format" in env.error("RESTORE", "copy", 0, dumped)
    assert not env.client.exists("copy")
