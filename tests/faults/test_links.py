"""The link between two shards is cut, one way or both, and healed.

What needs the link fails and says so, or is late; what does not need it goes on.
"""

import itertools
import time

import pytest
from faults.field import registered
from faults.load import SILENT, UNKNOWN, of_keys, text, verdict
from faults.proxies import Cut, ProxiedCluster
from faults.rounds import IDLE, LIMIT, LONG, ROUNDS, dice
from server import wait_until
from wire import Error

CLUSTER = ProxiedCluster
BATCHES = {batch.name.split()[-1]: batch for batch in of_keys()}
DIRECTIONS = ["there", "back", "both"]


class Cutting:
    """Two shards, the link between them, and a third shard."""

    def __init__(self, field, random, how, direction):
        self.a, self.b, self.third = random.sample(field.masters, 3)
        ways = {"there": [(self.a, self.b)], "back": [(self.b, self.a)]}
        self.ways = ways.get(direction) or [*ways["there"], *ways["back"]]
        self.how = how

    def __enter__(self):
        for speaker, hearer in self.ways:
            hearer.proxy.cut(speaker, self.how)
        return self

    def __exit__(self, *_):
        for speaker, hearer in self.ways:
            hearer.proxy.heal(speaker)

    def explains(self, error):
        """Whether an error says whose link it is about, or that somebody was silent."""
        return self.a.id in error or self.b.id in error or SILENT in error


def chosen(random):
    """Kinds of cuts with directions; in the short form two of them."""
    if LONG:
        return list(itertools.product(Cut, DIRECTIONS))
    return [(how, random.choice(DIRECTIONS)) for how in random.sample(list(Cut), 2)]


def ask(field, server, batch):
    """(verdict, reply) of one run."""
    return answer(batch, field.run(server, batch.script))


def answer(batch, run):
    reply = run.result()
    assert reply is not None, "a server that lives closed the connection"
    return verdict(batch, reply), reply


@pytest.fixture
def filled(field):
    field.fill_data()
    return field


def test_a_link_is_cut(filled):
    """Runs that begin while it is cut."""
    field, random = filled, dice("cut")
    for _ in range(ROUNDS):
        for how, direction in chosen(random):
            with Cutting(field, random, how, direction) as cut:
                said, reply = ask(field, cut.third, BATCHES["count"])
                assert said == "right", f"it does not need the link: {reply}"
                runs = [
                    (name, field.run(server, BATCHES[name].script))
                    for server, name in (
                        (cut.a, "count"),
                        (cut.b, "collect"),
                        (cut.third, "groupby"),
                        (cut.a, "repartition"),
                    )
                ]
                for name, run in runs:
                    said, reply = answer(BATCHES[name], run)
                    assert said == "errors", f"{how} {direction} {name}: over a cut link: {reply}"
                    assert all(map(cut.explains, reply[1])), reply
            field.whole()
            field.runs_right(BATCHES.values())
    field.idle()


def test_a_link_is_cut_while_clients_work(filled):
    """Cuts so short that nobody gives up, and long ones."""
    field, random = filled, dice("cut under load")
    with field.load(of_keys()) as load:
        for _ in range(ROUNDS):
            for how, direction in chosen(random):
                long = random.choice([0.05, 0.5, IDLE + 1]) if LONG else 0.3
                with Cutting(field, random, how, direction):
                    time.sleep(random.uniform(0, long))
                field.whole()
                load.flows()
                field.functions_work()
    field.idle()


def test_registering_over_a_cut_link(filled):
    """All shards or none, whoever is asked; after the cut all are at one."""
    field, random = filled, dice("registering over a cut")
    before = set(registered(field.server))
    for turn in range(ROUNDS):
        for how, direction in chosen(random) if LONG else [(Cut.CLOSED, "both")]:
            names = [f"{who}{turn}{how.name}{direction}" for who in ("end", "third")]
            end, third = (f"GB('CommandReader').register(trigger='{name}')" for name in names)
            with Cutting(field, random, how, direction) as cut:
                with cut.a.wire(timeout=LIMIT) as wire:
                    refused = wire.call("RG.PYEXECUTE", end)
                assert refused != "OK", "not all shards can have it"
                errors = [refused] if isinstance(refused, Error) else [*map(text, refused)]
                assert any(map(cut.explains, errors)), errors
                for server in field.masters:
                    assert server.ask("RG.TRIGGER", names[0]) == UNKNOWN
                assert cut.third.ask("RG.PYEXECUTE", third) == "OK"
            wait_until(field.counts_all, 60)
            lists = [registered(server) for server in field.masters]
            wait_until(lambda: same(field), what=f"the same functions everywhere, not {lists}")
            for server in field.masters:
                assert server.ask("RG.TRIGGER", names[0]) == UNKNOWN
                assert not isinstance(server.ask("RG.TRIGGER", names[1]), Error)
            (identifier,) = set(registered(cut.third)) - before
            assert cut.b.ask("RG.UNREGISTER", text(identifier)) == "OK"
            wait_until(field.registered_everywhere, what="the removal everywhere")


def same(field):
    first, *others = field.ids_everywhere()
    return all(other == first for other in others)
