"""Connections between shards break again and again; no record is lost or taken twice for that.

What was not acknowledged is sent again, and what comes twice is ignored. A message is sent three
times at most, so that a run may end with an error; it never has a wrong result.
"""

import threading
import time

import pytest
from faults.load import of_keys, verdict
from faults.rounds import ROUNDS, dice, in_long_form
from server import wait_until

BIG = "GB('PythonReader', lambda: (str(i) + 'v' * 1000 for i in range(4000)))"
COUNT = ".map(lambda r: r['value']).aggregate(0, lambda a, x: a + x, lambda a, x: a + x).run()"
GROUP = f"{BIG}.groupby(lambda x: x[:2], lambda k, a, x: (a or 0) + 1){COUNT}"
RIGHT = (["12000"], [])


@pytest.fixture
def filled(field):
    field.fill_data()
    return field


def peers(server):
    """Ids of the connections over which other shards speak to this one."""
    lines = server.ask("CLIENT", "LIST").decode().splitlines()
    clients = [dict(word.split("=", 1) for word in line.split()) for line in lines]
    return [c["id"] for c in clients if c["cmd"] in ("rg.innermsgcommand", "rg.hello", "ping")]


def break_one(random, server):
    """Close a connection of another shard, where it is received."""
    found = peers(server)
    if found:
        server.ask("CLIENT", "KILL", "ID", random.choice(found))
    return bool(found)


def break_all(server):
    """Close what other shards and all clients have open."""
    with server.wire() as wire:
        wire.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class Breaker(threading.Thread):
    """Breaks connections for as long as the `with` lasts."""

    def __init__(self, servers, random, pause, one):
        super().__init__(daemon=True)
        self.servers, self.random = servers, random
        self.pause, self.one = pause, one
        self.going = True
        self.count = 0
        self.failure = None

    def run(self):
        try:
            while self.going:
                server = self.random.choice(self.servers)
                self.count += self.one(self.random, server)
                time.sleep(self.random.uniform(0, self.pause))
        except BaseException as error:
            self.failure = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.going = False
        self.join()
        if kind is None:
            assert self.failure is None, self.failure
            assert self.count, "nothing was broken"


def everything(_, server):
    break_all(server)
    return True


@pytest.mark.parametrize(
    ("one", "pause"),
    [
        (break_one, 1),
        (break_one, 0.05),
        (everything, 1),
        pytest.param(everything, 0.05, marks=in_long_form),
    ],
)
def test_breaks_under_load(filled, one, pause):
    field, random = filled, dice(f"{one.__name__} {pause}")
    with field.load(of_keys()) as load:
        with Breaker(field.masters, random, pause, one) as breaker:
            end = time.monotonic() + 2 * ROUNDS
            while time.monotonic() < end:
                load.check()
                time.sleep(0.1)
        field.whole()
        load.flows()
        field.functions_work()
    print(f"{breaker.count} breaks: {load.told()}")
    field.nothing_lost(load)
    field.idle()


def test_one_break_is_made_good(field):
    """A break at any moment of a shuffle is not noticed by who waits for the result."""
    random = dice("one break")
    for _ in range(8 * ROUNDS):
        run = field.run(random.choice(field.masters), GROUP)
        time.sleep(random.uniform(0, 0.15))
        break_one(random, random.choice(field.masters))
        assert run.result() == RIGHT
    field.whole()
    field.idle()


def test_one_break_while_records_wait(field):
    """All shards have records on their way, for which there is no room, when all links break."""
    random = dice("break held")
    script = (
        "def fold(k, a, x):\n    if a is None: hold()\n    return (a or 0) + 1\n"
        f"{BIG}.groupby(lambda x: x[:2], fold){COUNT}"
    )
    for _ in range(2 * ROUNDS):
        field.forget()
        run = field.run(random.choice(field.masters), field.holding + script)
        wait_until(field.all_hold, what="records on all shards")
        for server in field.masters:
            for identifier in peers(server):
                server.ask("CLIENT", "KILL", "ID", identifier)
        if random.random() < 0.5:
            wait_until(lambda: all(len(peers(s)) == 2 for s in field.masters), what="new links")
        field.go()
        assert run.result() == RIGHT
    field.whole()
    field.idle()


def test_a_run_over_keys_with_a_break(filled):
    field, random = filled, dice("keys")
    for _ in range(ROUNDS):
        for batch in of_keys():
            run = field.run(random.choice(field.masters), batch.script)
            break_one(random, random.choice(field.masters))
            assert verdict(batch, run.result()) == "right"
    field.idle()
