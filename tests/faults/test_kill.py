"""SIGKILL to a shard in every phase of an execution, with clients at work; it is started again.

Nothing is on disk: the shard that comes back has neither keys nor functions of its own.
"""

import time

import pytest
from faults.field import status
from faults.load import NAMED, UNKNOWN, text
from faults.rounds import LONG, ROUNDS, dice
from server import wait_until
from wire import Error

NUMBERS = "GB('PythonReader', numbers)"
READING = {
    "count": f"{NUMBERS}.count().run()",
    "groupby": f"{NUMBERS}.groupby(lambda x: x % 40, lambda k, a, x: x).run()",
    "collect": f"{NUMBERS}.run()",
}
GENERATE = """
def numbers():
    for i in range(2000):
        if i == 1000:
            hold()
        yield i
"""
BIG = "GB('PythonReader', lambda: (str(i) + 'v' * 1000 for i in range(4000)))"
"""Too much to be on its way at once."""


class Scene:
    """A shard that begins a run, two others, and which of them is the victim."""

    def __init__(self, field, random, who):
        self.field = field
        self.random = random
        self.initiator, self.other, self.third = random.sample(field.masters, 3)
        self.who = who
        self.victim = getattr(self, who)

    def run(self, script):
        return self.field.run(self.initiator, self.field.holding + script)

    def run_held(self, server, script):
        """The script's `hold_there()` holds on that server only."""
        there = f"def hold_there():\n    if os.getpid() == {server.pid}:\n        hold()\n"
        return self.run(there + script)

    def wait_held(self, *servers):
        wait_until(lambda: all(map(self.field.holds, servers)), what="a shard that holds")

    def wait_status(self, server, run, expected):
        wait_until(lambda: status(server, run.id) == expected, what=f"{run.id} {expected}")

    def kill(self):
        self.field.kill(self.victim)
        self.field.go()

    def distributed(self):
        """The plan is on its way; a shard that is stopped has not got it."""
        stopped = self.other if self.who == "initiator" else self.victim
        script = "numbers = lambda: (n for n in range(2000))\n"
        with self.field.stopped(stopped):
            run = self.run(script + self.random.choice(list(READING.values())))
            self.wait_status(self.initiator, run, "pending_receive")
            self.field.kill(self.victim)
        return run

    def reading(self):
        """Every shard is in its reader."""
        run = self.run(GENERATE + self.random.choice(list(READING.values())))
        self.wait_held(self.initiator, self.other, self.third)
        self.kill()
        return run

    def grouped(self):
        """Records wait at a shard that takes no more, and on their way to it."""
        steps = ".groupby(lambda x: x[:3], lambda k, a, x: hold_there()).run()"
        run = self.run_held(self.third, BIG + steps)
        self.wait_held(self.third)
        time.sleep(self.random.uniform(0, 0.3))
        self.kill()
        return run

    def collected(self):
        """The same, with the initiator as the one that takes no more."""
        steps = ".collect().map(lambda x: hold_there()).run()"
        run = self.run_held(self.initiator, BIG + steps)
        self.wait_held(self.initiator)
        time.sleep(self.random.uniform(0, 0.3))
        self.kill()
        return run

    def ending(self):
        """One shard is at work; the initiator and the third one have done their part."""
        script = "GB('ShardsIDReader').foreach(lambda x: hold_there()).run(collect=False)"
        run = self.run_held(self.other, script)
        self.wait_held(self.other)
        self.wait_status(self.initiator, run, "pending_cluster")
        self.wait_status(self.third, run, "pending_termination")
        self.kill()
        return run


PHASES = {
    "distributed": (Scene.distributed, ["initiator", "other"]),
    "reading": (Scene.reading, ["initiator", "other"]),
    "grouped": (Scene.grouped, ["initiator", "other", "third"]),
    "collected": (Scene.collected, ["initiator", "other"]),
    "ending": (Scene.ending, ["initiator", "other", "third"]),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_shard_is_killed(field, phase):
    function, everybody = PHASES[phase]
    random = dice(phase)
    with field.load() as load:
        for _ in range(ROUNDS):
            for who in everybody if LONG else [random.choice(everybody)]:
                field.forget()
                scene = Scene(field, random, who)
                run = function(scene)
                judge(run.result(), scene)
                scene.victim.start()
                field.whole()
                load.flows()
                field.functions_work()
    field.idle()


def judge(result, scene):
    if scene.who == "initiator":
        assert result is None, f"the dead answer: {result}"
        return
    assert result is not None, "the initiator closed the connection"
    _, errors = result
    if not errors and (scene.who, scene.victim) == ("third", scene.third):
        return  # it had done its part
    assert errors, "no error, though a shard is gone"
    for error in errors:
        assert NAMED.search(error), error
    assert any(scene.victim.id in error for error in errors), f"not of {scene.victim.id}: {errors}"


def test_a_shard_is_killed_at_any_moment(field):
    random = dice("any moment")
    with field.load() as load:
        for _ in range(3 * ROUNDS):
            time.sleep(random.uniform(0.05, 0.5))
            victim = random.choice(field.masters)
            field.kill(victim)
            time.sleep(random.choice([0, 0, random.uniform(0, 1), 4]) if LONG else 0)
            victim.start()
            field.whole()
            load.flows()
        field.functions_work()
    field.idle()


def test_registering_while_a_shard_is_gone(field):
    """It is refused, says by whom, and leaves nothing anywhere."""
    random = dice("registering")
    for _ in range(ROUNDS):
        victim, asked, _ = random.sample(field.masters, 3)
        field.kill(victim)
        reply = asked.ask("RG.PYEXECUTE", "GB('CommandReader').register(trigger='late')")
        # a text for each shard that could not be asked
        assert isinstance(reply, Error) or [victim.id in text(error) for error in reply] == [True]
        victim.start()
        field.whole()
        for server in field.masters:
            assert server.ask("RG.TRIGGER", "late") == UNKNOWN


def test_unregistering_while_a_shard_is_gone(field):
    """The shard that comes back does not bring back what is gone."""
    random = dice("unregistering")
    for _ in range(ROUNDS):
        victim, asked, other = random.sample(field.masters, 3)
        script = "GB('CommandReader').register(trigger='short')"
        assert asked.ask("RG.PYEXECUTE", script) == "OK"
        before = set(field.ids_everywhere()[0])
        wait_until(lambda s=other: s.ask("RG.TRIGGER", "short"), what="the function")
        (new,) = (
            entry[1] for entry in asked.ask("RG.DUMPREGISTRATIONS") if b"short" in flat(entry)
        )
        assert new in before
        field.kill(victim)
        assert asked.ask("RG.UNREGISTER", new.decode()) == "OK"
        victim.start()
        field.whole()


def flat(entry):
    """All words of a nested reply."""
    words = []
    for value in entry:
        words += flat(value) if isinstance(value, list) else [value]
    return words
