"""SyncTimeLimit in transactions, in atomic blocks, and for several functions in a row."""

import pytest
from wire import Error, Simple

pytestmark = pytest.mark.lopsided

STOPPED = "forcestopped"
LOOPS = {
    "python": "while True: pass",
    "sleeps": "while True: time.sleep(0.001)",
    "atomic": "with atomic():\n        while True: execute('ping')",
    "finally": "try:\n        while True: pass\n    finally: execute('set', 'cleaned', 1)",
}


@pytest.fixture
def limited(env):
    """Functions have 200 ms."""
    env.config("SyncTimeLimit", 200)
    return env


def loop(body, registration):
    return f"import time\ndef work(r):\n    {body}\n{registration}"


@pytest.mark.parametrize("name", LOOPS)
def test_a_trigger(limited, name):
    limited.register(
        loop(LOOPS[name], "GB('CommandReader').foreach(work).register(trigger='t', mode='sync')")
    )
    for _ in range(2):
        assert STOPPED in limited.error("RG.TRIGGER", "t").lower()
        assert limited.client.ping()
    data = limited.data()
    assert (data["numTriggered"], data["numFailures"]) == (2, 2)
    assert STOPPED in data["lastError"].lower()
    assert limited.still_runs()


def test_within_multi(limited):
    limited.register(
        loop(
            LOOPS["python"],
            "GB('CommandReader').map(work).register(trigger='t', mode='sync')",
        )
    )
    limited.call("MULTI")
    limited.call("SET", "k", "1")
    limited.call("RG.TRIGGER", "t")
    limited.call("SET", "k", "2")
    first, second, third = limited.call("EXEC")
    assert (first, third) == (Simple("OK"), Simple("OK"))
    assert isinstance(second, Error)


def test_each_function_has_its_own_time(limited):
    limited.register(
        """
        import time
        def work(r):
            time.sleep(0.12)
        for name in 'abc':
            GB().foreach(work).register('k', mode='sync')
        """
    )
    limited.client.set("k", 1)
    assert [e["RegistrationData"]["numSuccess"] for e in limited.registrations()] == [1, 1, 1]
