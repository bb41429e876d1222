"""Slots move from shard to shard while runs read keys, and while records are grouped by key.

A run gives the right result or an error that says which slot moved. Functions on streams follow
the streams.
"""

import contextlib
import time

import pytest
from faults.field import status
from faults.load import GROUP, KEYS, MOVED, Runner, of_keys, verdict
from faults.rounds import LONG, ROUNDS, dice
from redis.crc import key_slot
from server import wait_until

ELSEWHERE = "Operation not permitted"
"""What `execute` says of a key that another shard has."""
HOT = 12
"""Slots that all keys `data:*` are in."""


def tag(number):
    return f"hot{number % HOT}"


def slots(server):
    """Who has which slots since when, as this server sees it."""
    return tuple(sorted((words[0], words[6], *words[8:]) for words in server.node_lines()))


def slot_of(tag):
    return key_slot(tag.encode())


@pytest.fixture
def filled(field):
    """Keys `data:{tag}N`: when a slot moves, many keys do."""
    for at in range(HOT):
        with field.owner_of(f"{{{tag(at)}}}").wire() as wire:
            numbers = range(at, KEYS, HOT)
            for number in numbers:
                wire.send("SET", f"data:{{{tag(at)}}}{number}", number)
            assert {wire.receive() for _ in numbers} == {"OK"}
    return field


class Move:
    """A slot on its way to another shard, as `redis-cli --cluster reshard` moves it."""

    def __init__(self, field, random, tag):
        self.field = field
        self.tag, self.slot = tag, slot_of(tag)
        self.source = field.owner_of(f"{{{tag}}}")
        self.target = random.choice([s for s in field.masters if s is not self.source])

    def set_slot(self, server, *words):
        server.told("SETSLOT", self.slot, *words)

    def begin(self):
        self.set_slot(self.target, "IMPORTING", self.source.id)
        self.set_slot(self.source, "MIGRATING", self.target.id)

    def keys(self, at_once, pause=0):
        with self.source.wire() as wire:
            while names := wire.call("CLUSTER", "GETKEYSINSLOT", self.slot, at_once):
                words = ["MIGRATE", "127.0.0.1", self.target.port, "", 0, 10000, "KEYS", *names]
                reply = wire.call(*words)
                assert reply in ("OK", "NOKEY"), reply
                time.sleep(pause)

    def end(self):
        for server in (self.target, self.source):
            self.set_slot(server, "NODE", self.target.id)
        # two moves at once may have the servers themselves disagree for ever
        wait_until(lambda: len(set(map(slots, self.field.servers))) == 1, what="servers at one")

    def all(self, at_once=100, pause=0):
        self.begin()
        self.keys(at_once, pause)
        self.end()


def test_slots_move_under_load(filled):
    field, random = filled, dice("slots")
    with field.load(of_keys()) as load:
        for runner in load.clients:
            if isinstance(runner, Runner):
                runner.named = MOVED
        for _ in range(ROUNDS):
            for turn in range(HOT):
                move = Move(field, random, random.choice([tag(turn), *field.tags]))
                move.all(random.choice([1, 10, 100]), random.choice([0, 0.002, 0.02]))
                load.check()
            field.whole()
            load.flows()
    field.nothing_lost(load, values=False)
    field.runs_right(of_keys())
    field.idle()


READ = "GB().map(lambda r: [hold(), int(r['value'])][1])"
HELD = {
    "count": f"{READ}.count().run('data:*')",
    "groupby": f"{READ}{GROUP}('data:*')",
    "repartition": f"{READ}.repartition(lambda x: 'hot%d' % (x % {HOT})).run('data:*')",
    "collect": f"{READ}.run('data:*')",
}


def wait_reading(field, run):
    """Until it is held on all shards but those where it ends at once, since a slot moves there."""

    def begun():
        return any(map(field.holds, field.masters)) or status(run.server, run.id) is None

    wait_until(begun, what="a run that reads")
    with contextlib.suppress(AssertionError):
        wait_until(field.all_hold, 2)


@pytest.mark.parametrize("name", HELD)
def test_slots_move_while_a_run_is_held(filled, name):
    """Some keys have been read, others not."""
    field, random = filled, dice(f"held {name}")
    (batch,) = (batch for batch in of_keys() if batch.name.endswith(name))
    for turn in range(4 * ROUNDS if LONG else 2):
        field.forget()
        field.runs_right(of_keys()[:1])
        move = Move(field, random, tag(random.randrange(HOT)))
        before, after = turn % 2, random.choice([True, False])
        if before:
            move.begin()
        run = field.run(random.choice(field.masters), field.holding + HELD[name])
        wait_reading(field, run)
        if not before:
            move.begin()
        move.keys(100)
        if not after:
            move.end()
        field.go()
        assert verdict(batch, run.result(), MOVED)
        if after:
            move.end()
        field.whole()
    field.runs_right(of_keys())


def test_records_reach_the_shard_that_owns_their_key(filled):
    """What is grouped by a key can be looked up where it is, or says that it can not."""
    field, random = filled, dice("owner")
    script = (
        "def look(r):\n"
        "    return '%s=%s' % (r['key'], execute('GET', r['key']))\n"
        "GB().map(lambda r: [hold(), r['key']][1]).groupby(lambda k: k, lambda k, a, r: 1)"
        ".map(look).run('data:*')"
    )
    right = sorted(f"data:{{{tag(number)}}}{number}={number}" for number in range(KEYS))
    for _ in range(ROUNDS):
        field.forget()
        field.runs_right(of_keys()[:1])
        run = field.run(random.choice(field.masters), field.holding + script)
        wait_reading(field, run)
        Move(field, random, tag(random.randrange(HOT))).all()
        field.go()
        results, errors = run.result()
        assert errors or sorted(results) == right
        odd = [error for error in errors if not MOVED.search(error) and ELSEWHERE not in error]
        assert not odd, odd[:3]
        field.whole()
