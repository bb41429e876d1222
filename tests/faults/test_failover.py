"""A replica takes over, because it is told to or because its master was killed.

It has the functions, takes part in runs by itself and goes on with the streams where its master
stood. What a replica had acknowledged is not lost.
"""

import time

import pytest
from faults.field import registered
from faults.load import of_keys
from faults.rounds import ROUNDS, dice
from server import wait_until
from wire import Error

from cluster import in_sync

MORE = {"replicas": 1}


@pytest.fixture
def filled(field):
    field.fill_data()
    field.synced()
    return field


def replica_of(field, master):
    """The server that takes over from that one."""

    def found():
        seen = master.replicas_seen()
        return next((server for server in field.servers if seen.get(server.id) == master.id), None)

    return wait_until(found, what=f"a replica of {master.port}")


def wait_promoted(server):
    wait_until(server.owns_slots, 60, f"a promoted {server.port}")


def test_a_replica_is_told_to_take_over(filled):
    """And the old master, after that: the others know it from before."""
    field, random = filled, dice("told")
    with field.load(of_keys()) as load:
        pairs = random.sample(field.tags, 3)
        for turn in range(ROUNDS):
            begin = time.monotonic()
            master = field.owner_of(f"{{{pairs[turn % 3]}}}")
            for _ in ("there", "back"):
                replica = replica_of(field, master)
                take_over(field, master, replica)
                master = replica
                load.flows()
                field.functions_work()
                field.runs_right(of_keys())
            if turn < ROUNDS - 1:
                # the servers mix up elections of a node that are less than 8 s apart
                time.sleep(max(0, 5 - (time.monotonic() - begin)))
    field.nothing_lost(load)
    field.idle()


def take_over(field, master, replica):
    before = registered(master)
    replica.take_over(field.servers)
    wait_until(field.counts_all, 60, "runs that count all shards")
    assert registered(replica) == before
    field.whole()
    wait_until(lambda: in_sync(master), what="the old master as a replica")


def test_a_master_is_killed(filled):
    field, random = filled, dice("killed")
    with field.load(of_keys(), copies=1) as load:
        for _ in range(ROUNDS):
            master = random.choice(field.masters)
            replica = replica_of(field, master)
            before = registered(master)
            field.kill(master)
            wait_promoted(replica)
            wait_until(field.counts_all, 60, "runs that count all shards")
            assert registered(replica) == before
            field.functions_work()
            master.start()
            field.whole()
            field.synced()
            load.flows()
            field.runs_right(of_keys())
    field.nothing_lost(load)
    field.idle()


def test_a_replica_that_was_away(filled):
    """What was registered and removed meanwhile is known when it takes over at once."""
    field, random = filled, dice("away")
    for turn in range(ROUNDS):
        master = random.choice(field.masters)
        asked = random.choice([server for server in field.masters if server is not master])
        replica = replica_of(field, master)
        script = f"GB('CommandReader').register(trigger='away{turn}')"
        with field.stopped(replica):
            assert asked.ask("RG.PYEXECUTE", script) == "OK"
        wait_until(lambda m=master, r=replica: registered(m) == registered(r))
        (new,) = set(registered(asked)) - set(field.usual)
        field.kill(master)
        wait_promoted(replica)
        wait_until(field.counts_all, 60)
        for server in field.masters:
            assert not isinstance(server.ask("RG.TRIGGER", f"away{turn}"), Error)
        assert replica.ask("RG.UNREGISTER", new.decode()) == "OK"
        master.start()
        field.whole()
        field.synced()
