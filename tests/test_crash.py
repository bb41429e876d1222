"""Registered functions lose nothing when the server is killed at any moment.

Clients add numbered entries to streams and set keys, and write down what the server acknowledged.
The functions write down in the server, in order, what they processed. After some rounds of killing
and starting again, or of failing over to a replica, the two must agree: all that was acknowledged
was processed at least once, and each stream in its order.

CRASH_ROUNDS in the environment is the number of rounds (default 4); CRASH_SEED makes the moments of
the kills and the sizes of the bursts those of an earlier run, though not the server's speed.
"""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
import redis
from server import wait_until
from wire import Error, Wire

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "4"))
SEED = int(os.environ.get("CRASH_SEED", str(random.randrange(1 << 30))))
pytestmark = pytest.mark.timeout(120 + 20 * ROUNDS)

WRITERS = 5
REPEATED = 200
"""Entries of a stream that may be processed once more after a crash: several batches."""

FUNCTIONS = """
def done(name):
    def write_down(r):
        execute('RPUSH', 'done:%s:%s' % (name, r['key']), r['id'])
    return write_down

def stream(name, prefix, **how):
    GB('StreamReader', desc=name).foreach(done(name)).register(prefix, **how)

stream('single', 'numbers:*', mode='async_local', batch=1, trimStream=False)
stream('batches', 'numbers:*', mode='async', batch=10, duration=20, trimStream=False)
stream('trimmed', 'trimmed:*', mode='async_local', batch=7, duration=10, onFailedPolicy='retry',
       onFailedRetryInterval=1)
stream('inline', 'inline:*', mode='sync', batch=1)

GB('StreamReader', desc='counted').count().foreach(
    lambda n: execute('INCRBY', 'counted', n)).register(
    'numbers:*', mode='async_local', batch=5, duration=10, trimStream=False)

def behind(r):
    execute('XADD', 'behind:' + r['key'], '*', 'key', r['key'], 'value', r['value'])

def written(r):
    execute('RPUSH', 'written:' + r['value']['key'], r['value']['value'])

GB('KeysReader', desc='behind').foreach(behind).register(
    'key:*', mode='sync', eventTypes=['set'])
GB('StreamReader', desc='written').foreach(written).register(
    'behind:*', mode='async_local', batch=20, duration=10, onFailedPolicy='retry',
    onFailedRetryInterval=1)
"""
STREAMS = {
    "numbers": ["single", "batches"],
    "trimmed": ["trimmed"],
    "inline": ["inline"],
}
REGISTRATIONS = 7


class Writer(threading.Thread):
    """A client with streams and a key of its own, which goes on after each crash.

    No number is sent twice: one whose acknowledgement was lost may be there or not.
    """

    def __init__(self, number, port, copies):
        super().__init__(daemon=True)
        self.name = f"writer{number}"
        self.port = port
        self.copies = copies
        self.random = random.Random(SEED + number)
        self.streams = {kind: f"{kind}:{number}" for kind in STREAMS}
        self.key = f"key:{number}"
        self.added = {stream: [] for stream in self.streams.values()}
        self.values = []
        self.next = 0
        self.going = True
        self.failure = None

    def run(self):
        try:
            while self.going:
                with contextlib.suppress(OSError):
                    self.session()
                time.sleep(0.01)
        except BaseException as error:
            self.failure = error

    def session(self):
        """Until the server is gone."""
        with Wire(self.port(), timeout=20) as wire:
            while self.going:
                self.burst(wire)
                time.sleep(self.random.random() * 0.005)

    def burst(self, wire):
        """Some writes at once; each counts when its reply is there, with copies when they are."""
        sent = []
        for _ in range(self.random.randrange(1, 20)):
            self.next += 1
            if self.random.random() < 0.3:
                sent.append((self.values, str(self.next)))
                wire.send("SET", self.key, self.next)
            else:
                stream = self.random.choice(list(self.added))
                sent.append((self.added[stream], None))
                wire.send("XADD", stream, "*", "n", self.next)
        answered = []
        try:
            for target, value in sent:
                reply = wire.receive()
                if isinstance(reply, Error):
                    assert reply.startswith("LOADING"), reply
                    time.sleep(0.01)
                elif value is None:
                    answered.append((target, reply.decode()))
                else:
                    assert reply == "OK"
                    answered.append((target, value))
        finally:
            if not self.copies:
                self.note(answered)
        if self.copies and wire.call("WAIT", self.copies, 2000) == self.copies:
            self.note(answered)

    def note(self, answered):
        for target, value in answered:
            target.append(value)


def kill(env):
    """SIGKILL to a server that must have lived until then."""
    env.close()
    env.server.process.send_signal(signal.SIGKILL)
    assert env.server.process.wait() == -signal.SIGKILL, "it ended by itself"
    env.server.kill()


def registrations(env):
    """desc -> RegistrationData, of all functions."""
    found = {entry["desc"]: entry["RegistrationData"] for entry in env.registrations()}
    assert len(env.registrations()) == len(found) == REGISTRATIONS
    return found


def position(identifier):
    """What entries of a stream are sorted by."""
    return tuple(map(int, identifier.split("-")))


def first_times(processed):
    """Without what was processed once more."""
    return list(dict.fromkeys(processed))


def missing(client, writers):
    """What was acknowledged, or is in a stream, and has not been processed."""
    lost = {}
    for writer in writers:
        for kind, stream in writer.streams.items():
            for name in STREAMS[kind]:
                key = f"done:{name}:{stream}"
                there = {identifier for identifier, _ in client.xrange(stream)}
                processed = set(client.lrange(key, 0, -1))
                lost[key] = there.union(writer.added[stream]) - processed
        key = f"written:{writer.key}"
        lost[key] = set(writer.values) - set(client.lrange(key, 0, -1))
    return {key: sorted(entries) for key, entries in lost.items() if entries}


def left(client, writers):
    """Entries that the functions did not acknowledge, and those that they should trim away."""
    found = {}
    for writer in writers:
        streams = [*writer.streams.values(), f"behind:{writer.key}"]
        for stream in streams:
            trimmed = not stream.startswith("numbers:")
            if trimmed and client.xlen(stream):
                found[stream] = f"{client.xlen(stream)} entries"
            if client.exists(stream):
                for group in client.xinfo_groups(stream):
                    if group["pending"]:
                        found[stream] = f"{group['pending']} pending"
    return found


def finish(env, writers):
    """Stop the clients and wait until all is processed."""
    for writer in writers:
        writer.going = False
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive(), "a client hangs"
    assert [writer.failure for writer in writers] == [None] * len(writers)
    deadline = time.monotonic() + 60
    while lost := missing(env.client, writers):
        if time.monotonic() > deadline:
            shown = {key: f"{len(ids)}: {ids[:5]}" for key, ids in lost.items()}
            raise AssertionError(f"acknowledged and not processed: {shown}, seed {SEED}")
        time.sleep(0.1)
    deadline = time.monotonic() + 30
    while remains := left(env.client, writers):
        assert time.monotonic() < deadline, f"{remains}, seed {SEED}"
        time.sleep(0.1)
    wait_until(lambda: idle(env), what="the counters to add up")


def idle(env):
    return all(
        data["numTriggered"] == data["numSuccess"] + data["numFailures"] + data["numAborted"]
        for data in registrations(env).values()
    )


def check_order(env, writers, crashes):
    """Each stream in its order, all of it, and little of it twice."""
    client = env.client
    for writer in writers:
        for kind, stream in writer.streams.items():
            for name in STREAMS[kind]:
                key = f"done:{name}:{stream}"
                processed = client.lrange(key, 0, -1)
                first = list(map(position, first_times(processed)))
                assert first == sorted(first), f"{key}: order, seed {SEED}"
                again = len(processed) - len(first)
                assert again <= crashes * REPEATED, f"{key}: {again} of {len(first)} twice"
            if kind == "numbers":
                entries = [identifier for identifier, _ in client.xrange(stream)]
                assert first_times(processed) == entries, f"{key}: seed {SEED}"
        key = f"written:{writer.key}"
        first = list(map(int, first_times(client.lrange(key, 0, -1))))
        assert first == sorted(first), f"{key}: order, seed {SEED}"
    entries = sum(client.xlen(writer.streams["numbers"]) for writer in writers)
    counted = int(client.get("counted"))
    assert entries <= counted <= entries + crashes * REPEATED, f"seed {SEED}"
    figures = registrations(env)
    assert [name for name, data in figures.items() if data["lastError"]] == []


def acknowledged(writers):
    return sum(len(w.values) + sum(map(len, w.added.values())) for w in writers)


def start_writers(port, copies=0):
    """`port()` is that of the present master; `copies` is how many replicas acknowledge."""
    writers = [Writer(i, port, copies) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    return writers


def stop_writers(writers):
    for writer in writers:
        writer.going = False


def check_writers(writers):
    failures = [writer.failure for writer in writers if writer.failure]
    assert failures == []


def some_time(dice, writers):
    """A random while, in which something was acknowledged."""
    before = acknowledged(writers)
    time.sleep(dice.uniform(0.05, 1.5))
    check_writers(writers)
    wait_until(lambda: acknowledged(writers) > before, what="a write")


def test_kill_and_start_again(durable):
    env = durable
    dice = random.Random(SEED)
    assert env.execute(FUNCTIONS) == "OK"
    writers = start_writers(lambda: env.server.port)
    try:
        for _ in range(ROUNDS):
            some_time(dice, writers)
            if dice.random() < 0.3:
                with contextlib.suppress(redis.ResponseError):  # one is under way
                    env.client.bgrewriteaof()
                time.sleep(dice.uniform(0, 0.1))
            kill(env)
            env.server.start()
            assert registrations(env)
        some_time(dice, writers)
        finish(env, writers)
        check_order(env, writers, ROUNDS)
        assert acknowledged(writers) > ROUNDS * WRITERS
        print(f"{acknowledged(writers)} writes acknowledged, seed {SEED}")
    finally:
        stop_writers(writers)


def test_kill_while_the_backlog_is_worked_off(durable):
    """Kills so soon after the start that nothing but what was left over is at work."""
    env = durable
    dice = random.Random(SEED)
    entries = 3000
    pipe = env.client.pipeline(transaction=False)
    for n in range(entries):
        pipe.xadd("numbers:0", {"n": n})
        pipe.xadd("trimmed:0", {"n": n})
    added = pipe.execute()
    assert env.execute(FUNCTIONS) == "OK"
    for _ in range(ROUNDS):
        time.sleep(dice.uniform(0, 0.15))
        kill(env)
        env.server.start()
        assert registrations(env)
    for name, stream, right in (
        ("single", "numbers:0", added[::2]),
        ("batches", "numbers:0", added[::2]),
        ("trimmed", "trimmed:0", added[1::2]),
    ):
        key = f"done:{name}:{stream}"
        wait_until(lambda key=key: entries <= env.client.llen(key), what=f"all of {key}")
        wait_until(
            lambda key=key, right=right: first_times(env.client.lrange(key, 0, -1)) == right,
            what=f"{key} in order",
        )
        assert env.client.llen(key) - entries <= ROUNDS * REPEATED
    wait_until(lambda: env.client.xlen("trimmed:0") == 0, what="the trim")
    assert env.client.xlen("numbers:0") == entries


@pytest.mark.parametrize("batch", [1, 10])
def test_entries_that_come_while_the_backlog_ends(env, batch):
    """No crash here: an entry must be seen whatever the function is about to do."""
    for turn in range(30):
        stream = f"numbers:{turn}"
        add_entries(env, stream, 100)
        work = "GB('StreamReader').foreach(lambda r: None)"
        env.register(f"{work}.register('{stream}', mode='async_local', batch={batch})")
        for _ in range(10):
            add_entries(env, stream, 20)
            time.sleep(0.001)
        wait_until(
            lambda stream=stream: env.client.xlen(stream) == 0, 10, f"turn {turn}: {stream} empty"
        )
        assert env.settled()["numFailures"] == 0
        env.unregister(env.identifier())


@pytest.mark.lopsided
def test_an_entry_that_comes_before_its_stream_is_found(env):
    """Those before it are not left behind, for as long as no others come."""
    env.client.execute_command("DEBUG", "POPULATE", 300000)
    for turn in range(5):
        add_entries(env, f"numbers:{turn}", 100)
    env.register("GB('StreamReader').foreach(lambda r: None).register('numbers:*')")
    for turn in range(5):
        add_entries(env, f"numbers:{turn}", 1)
    for turn in range(5):
        stream = f"numbers:{turn}"
        wait_until(lambda stream=stream: env.client.xlen(stream) == 0, 10, f"{stream} empty")


def add_entries(env, stream, count):
    pipe = env.client.pipeline(transaction=False)
    for n in range(count):
        pipe.xadd(stream, {"n": n})
    return pipe.execute()


def test_failover(new_env):
    """What a replica had acknowledged is processed when it takes over."""
    master, replica = new_env(), new_env()
    dice = random.Random(SEED)
    assert master.execute(FUNCTIONS) == "OK"
    replica.follow(master)
    writers = start_writers(lambda: master.server.port, copies=1)
    try:
        for _ in range(ROUNDS):
            some_time(dice, writers)
            assert {d["numTriggered"] for d in registrations(replica).values()} == {0}
            kill(master)
            replica.promote()
            master, replica = replica, master
            # without a replica nothing is acknowledged, and the functions work alone
            replica.server.start()
            replica.follow(master)
        some_time(dice, writers)
        finish(master, writers)
        check_order(master, writers, ROUNDS)
        assert acknowledged(writers) > ROUNDS * WRITERS
        print(f"{acknowledged(writers)} writes acknowledged, seed {SEED}")
        same_on_the_replica(master, replica, writers)
    finally:
        stop_writers(writers)


def same_on_the_replica(master, replica, writers):
    replica.wait_synced(master)
    for writer in writers:
        for key in (f"written:{writer.key}", f"done:single:{writer.streams['numbers']}"):
            assert replica.client.lrange(key, 0, -1) == master.client.lrange(key, 0, -1)
