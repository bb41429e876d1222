"""A shard does nothing for a while: it is stopped and goes on, or sleeps in a command.

A while that is shorter than anybody's patience is not noticed but by the clock. After longer ones
runs may end with an error, and whoever is slow comes back by itself.
"""

import time

import pytest
from faults.load import of_keys, verdict
from faults.rounds import LONG, ROUNDS, dice
from server import wait_until

SHORT = 0.8
"""Seconds: well below those after which shards connect anew (2) and ExecutionMaxIdleTime (3)."""
LONGEST = 3


@pytest.fixture
def filled(field):
    field.fill_data()
    return field


def stop(field, server, seconds):
    with field.stopped(server):
        time.sleep(seconds)


def sleep(_, server, seconds):
    assert server.ask("DEBUG", "SLEEP", seconds) == "OK"


def run_all(field, random, servers):
    """Each batch, begun on any of the servers."""
    return [(batch, field.run(random.choice(servers), batch.script)) for batch in of_keys()]


@pytest.mark.parametrize("slow", [stop, sleep])
def test_a_short_while(filled, slow):
    """Every run that begins before or meanwhile is right, whoever began it."""
    field, random = filled, dice(f"short {slow.__name__}")
    for _ in range(2 * ROUNDS):
        victim = random.choice(field.masters)
        others = [server for server in field.masters if server is not victim]
        begun = run_all(field, random, others)
        slow(field, victim, random.uniform(0.3, SHORT))
        begun += run_all(field, random, field.masters)
        for batch, run in begun:
            reply = run.result()
            assert reply is not None
            assert verdict(batch, reply) == "right", reply[1]
    field.idle()


def test_a_short_while_in_the_middle_of_a_shuffle(filled):
    """It is stopped while records wait there and on their way to it."""
    field, random = filled, dice("shuffle")
    script = (
        "def fold(k, a, x):\n"
        "    if a is None: hold()\n"
        "    return (a or 0) + 1\n"
        "GB('PythonReader', lambda: (str(i) + 'v' * 1000 for i in range(4000)))"
        ".groupby(lambda x: x[:2], fold).map(lambda r: r['value']).aggregate("
        "0, lambda a, x: a + x, lambda a, x: a + x).run()"
    )
    for _ in range(ROUNDS):
        field.forget()
        victim = random.choice(field.masters)
        run = field.run(random.choice(field.masters), field.holding + script)
        wait_until(field.all_hold, what="records on all shards")
        field.go()
        stop(field, victim, random.uniform(0.3, SHORT))
        assert run.result() == (["12000"], [])
    field.idle()


def test_a_long_while_under_load(filled):
    field, random = filled, dice("long")
    with field.load(of_keys()) as load:
        for _ in range(2 * ROUNDS):
            for slow in (stop, sleep):
                victim = random.choice(field.masters)
                slow(field, victim, random.uniform(0.5, LONGEST if LONG else 2.5))
                field.whole()
                load.flows()
                field.functions_work()
    field.idle()
