"""All shards are started again, one after the other, with all that they acknowledged on disk.

The clients go on. Every acknowledged entry of a stream is seen at least once, every acknowledged
write of a key as well, and all shards have the functions at any time that they have any.
"""

import concurrent.futures
import time

import pytest
from faults.field import registered
from faults.load import UNKNOWN, of_keys
from faults.rounds import ROUNDS, dice, in_long_form
from server import wait_until
from wire import Error

MORE = {"options": ["--appendonly", "yes", "--appendfsync", "always"]}


@pytest.fixture
def filled(field):
    field.fill_data()
    return field


def stop(_, server):
    assert server.stop() == 0


def kill(field, server):
    field.kill(server)


def come_back(field, server, before):
    """It is started, and brings its functions itself."""
    server.start()
    assert registered(server) == before
    field.whole()


@pytest.mark.parametrize("end", [pytest.param(stop, marks=in_long_form), kill])
def test_one_after_the_other(filled, end):
    field, random = filled, dice(f"restart {end.__name__}")
    with field.load(of_keys()) as load:
        for _ in range(ROUNDS):
            for server in random.sample(field.masters, 3):
                before = registered(server)
                end(field, server)
                time.sleep(random.choice([0, random.random()]))
                come_back(field, server, before)
                load.flows()
        field.functions_work()
    field.nothing_lost(load)
    field.idle()


def test_all_at_once(filled):
    field = filled
    for _ in range(ROUNDS):
        with field.load(of_keys()) as load:
            pass
        before = registered(field.server)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert list(pool.map(lambda server: server.stop(), field.servers)) == [0, 0, 0]
            list(pool.map(lambda server: server.start(), field.servers))
        assert field.ids_everywhere() == [before] * 3
        field.whole()
        field.functions_work()
        field.nothing_lost(load)


def test_functions_change_while_a_shard_is_away(filled):
    """It comes back with what it had on disk, and takes over what it missed."""
    field, random = filled, dice("change")
    for turn in range(ROUNDS):
        gone, asked, _ = random.sample(field.masters, 3)
        old = f"old{turn}"
        script = f"GB('CommandReader').register(trigger='{old}')"
        before = set(registered(asked))
        assert asked.ask("RG.PYEXECUTE", script) == "OK"
        (identifier,) = set(registered(asked)) - before
        wait_until(lambda s=gone, i=identifier: i in registered(s), what="the new function")
        random.choice([stop, kill])(field, gone)
        assert asked.ask("RG.UNREGISTER", identifier.decode()) == "OK"
        gone.start()
        field.whole()
        for server in field.masters:
            assert server.ask("RG.TRIGGER", old) == UNKNOWN
        assert not isinstance(gone.ask("RG.TRIGGER", "all"), Error)
