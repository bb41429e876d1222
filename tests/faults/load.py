"""Clients at work while something breaks, and a look at what they are told.

A run gives exactly the right result, or errors of which each names the shard and the cause. A
client may lose its connection, or be refused while its server starts; it goes on after that. It
never waits for longer than LIMIT.
"""

import collections
import contextlib
import re
import threading
import time
import typing

from faults.rounds import LIMIT
from redis.crc import key_slot
from server import wait_until
from wire import Error, Wire

SILENT = "Execution max idle reached"
NAMED = re.compile(rf"\bshard [0-9a-f]{{40}}\b.*\w{{3}}|{SILENT}|\bslot \d+ .*\w{{3}}")
"""What an error of a run says: which shard and why, or which slot moved."""
MOVED = re.compile(r"\bslot \d+ (.*moved|is on its way)")
"""The latter."""
REFUSED = re.compile(r"(CLUSTERDOWN|LOADING|ERRCLUSTER|TRYAGAIN|MASTERDOWN|UNBLOCKED) ")
"""Answers of a server that is not ready for work, or no more, or whose cluster is not whole."""

UNKNOWN = "ERR subcommand not found"
"""What a shard says of a trigger that it does not have."""

FUNCTIONS = """
GB('CommandReader', desc='trigger').map(lambda r: 'here').register(trigger='all', mode='async')

def done(r):
    execute('RPUSH', 'done:' + r['key'], r['id'])

GB('StreamReader', desc='stream').foreach(done).register(
    'numbers:*', mode='async', batch=10, duration=20, onFailedPolicy='retry',
    onFailedRetryInterval=1, trimStream=False)

def seen(r):
    execute('RPUSH', 'seen:' + r['key'], r['value'])

GB('KeysReader', desc='keys').foreach(seen).register(
    'item:*', mode='sync', eventTypes=['set'])
"""
REGISTRATIONS = 3

NUMBERS = 2000
"""Records that each shard generates."""
GROUPS = 40
KEYS = 3000
"""Keys `data:*` of all shards together."""

SHOW = ".map(lambda r: '%s=%s' % (r['key'], r['value']))"
COUNT = ".count().run"
GROUP = f".groupby(lambda x: x % {GROUPS}, lambda k, a, x: (a or 0) + 1){SHOW}.run"
HEAVY = ".map(lambda x: (str(x), 'v' * 300)).repartition(lambda x: x[0]).map(lambda x: x[0]).run"
COLLECT = ".run"


class Batch(typing.NamedTuple):
    """A script and the results that it must have, in any order."""

    name: str
    script: str
    right: collections.Counter


def batches(name, source, argument, numbers):
    """Batches over a source of these numbers."""
    groups = collections.Counter(number % GROUPS for number in numbers)
    group = [f"{key}={count}" for key, count in groups.items()]
    all_of_them = [str(number) for number in numbers]
    return [
        Batch(f"{name} {what}", f"{source}{steps}({argument})", collections.Counter(right))
        for what, steps, right in (
            ("count", COUNT, [str(len(numbers))]),
            ("groupby", GROUP, group),
            ("repartition", HEAVY, all_of_them),
            ("collect", COLLECT, all_of_them),
        )
    ]


def of_generators(shards=3):
    """Batches that need no keys."""
    source = f"GB('PythonReader', lambda: (n for n in range({NUMBERS})))"
    return batches("generators:", source, "", [*range(NUMBERS)] * shards)


def of_keys():
    """Batches over the keys `data:N`, which have the value N."""
    return batches("keys:", "GB().map(lambda r: int(r['value']))", "'data:*'", range(KEYS))


def tag_in(slots):
    """A short text that, in braces, hashes to one of these slots."""
    return next(str(n) for n in range(100000) if key_slot(str(n).encode()) in slots)


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def announced(server):
    """The port that the other shards know."""
    return server.proxy.port if hasattr(server, "proxy") else server.port


def verdict(batch, reply, named=NAMED):
    """`right` or `errors`; anything else raises. Each error must look like `named`."""
    results, errors = ([], [reply]) if isinstance(reply, Error) else reply
    odd = [error for error in map(text, errors) if not named.search(error)]
    assert not odd, f"{batch.name}: {len(odd)} errors without the cause: {odd[:3]}"
    if errors:
        return "errors"
    found = collections.Counter(map(text, results))
    assert found == batch.right, (
        f"{batch.name}: a wrong result without an error: {found.total()} records instead of "
        f"{batch.right.total()}, missing {list((batch.right - found).items())[:5]}, "
        f"too many {list((found - batch.right).items())[:5]}, at {time.strftime('%T')}"
    )
    return "right"


class Elsewhere(ConnectionError):
    """What a client wants is on another server."""


class Client(threading.Thread):
    """It works on a connection, and on a new one when that is lost, of one of its `servers`."""

    def __init__(self, name, server, servers, pause=0.01):
        super().__init__(name=name, daemon=True)
        self.server = server
        self.servers = servers
        self.pause = pause
        self.going = True
        self.failure = None
        self.told = collections.Counter()
        self.last_reply = None

    def run(self):
        try:
            while self.going:
                with contextlib.suppress(ConnectionError):
                    self.session()
                self.told["lost"] += self.going
                time.sleep(0.02)
                if not self.server.running():
                    self.look_elsewhere()
        except TimeoutError:
            self.failure = f"{self.name} hangs since {LIMIT} s, until {time.strftime('%T')}"
        except BaseException as error:
            self.failure = f"{self.name} of {self.server.port}: {type(error).__name__}: {error}"

    def session(self):
        with Wire(self.server.port, timeout=LIMIT) as wire:
            while self.going:
                self.work(wire)
                time.sleep(self.pause)

    def look_elsewhere(self):
        self.server = next((s for s in self.servers if s.running()), self.server)

    def refused(self, reply, *more):
        """An error that a server gives which is no master, or not yet at work."""
        if reply.startswith("READONLY"):
            at = self.servers.index(self.server)
            self.server = self.servers[(at + 1) % len(self.servers)]
            raise Elsewhere
        fine = REFUSED.match(reply) or reply in more
        assert fine, f"refused by {self.server.port}: {reply}"
        self.told["refused"] += 1


class Runner(Client):
    """Runs batches in turn."""

    named = NAMED
    """What errors look like."""

    def __init__(self, name, server, servers, batches):
        super().__init__(name, server, servers)
        self.batches = batches
        self.turn = 0

    def work(self, wire):
        batch = self.batches[self.turn % len(self.batches)]
        self.turn += 1
        reply = wire.call("RG.PYEXECUTE", batch.script)
        if isinstance(reply, Error) and not self.named.search(reply):
            self.refused(reply)
        else:
            self.told[verdict(batch, reply, self.named)] += 1
        self.last_reply = str(reply)[:400]


HERE = collections.Counter({"here": 3})


class Caller(Client):
    """Calls the function that runs on all shards."""

    def work(self, wire):
        reply = wire.call("RG.TRIGGER", "all")
        if isinstance(reply, Error) and not NAMED.search(reply):
            # a shard that was started has the function when it has met the others
            self.refused(reply, UNKNOWN)
        elif isinstance(reply, Error):
            self.told["errors"] += 1
        else:
            found = collections.Counter(map(text, reply))
            assert found == HERE, f"the trigger gave {found}, and no error"
            self.told["right"] += 1


class Adder(Client):
    """Adds to a stream and sets a key, both of one slot, and writes down what was acknowledged.

    It finds the shard of the slot by what the servers say. No number is sent twice: one whose
    acknowledgement was lost may be there or not. With `copies` only those count that a replica has.
    """

    def __init__(self, name, server, servers, tag, copies=0, last=0):
        super().__init__(name, server, servers)
        self.copies = copies
        self.stream, self.key = f"numbers:{{{tag}}}", f"item:{{{tag}}}"
        self.added, self.values = [], []
        self.last = last

    def work(self, wire):
        sent = []
        for _ in range(5):
            self.last += 1
            words = ["XADD", self.stream, "*", "n", self.last]
            sent.append((self.added, words, None))
            words = ["SET", self.key, self.last]
            sent.append((self.values, words, str(self.last)))
        for _, words, _ in sent:
            wire.send(*words)
        answered = []
        try:
            for target, words, value in sent:
                reply = self.follow(words, wire.receive())
                if reply is not None:
                    answered.append((target, reply.decode() if value is None else value))
        finally:
            if not self.copies:
                self.note(answered)
        if answered and self.copies and wire.call("WAIT", self.copies, 1000) == self.copies:
            self.note(answered)
        if not answered:
            time.sleep(0.02)

    def note(self, answered):
        for target, value in answered:
            target.append(value)
            self.told["right"] += 1

    def follow(self, words, reply):
        """The reply; None if there will be none, in which case the next one may be elsewhere."""
        if not isinstance(reply, Error):
            return reply
        if reply.startswith("ASK "):
            with Wire(int(reply.rpartition(":")[2]), timeout=LIMIT) as wire:
                wire.call("ASKING")
                return self.follow(words, wire.call(*words))
        if reply.startswith("MOVED "):
            port = int(reply.rpartition(":")[2])
            (self.server,) = (server for server in self.servers if announced(server) == port)
            raise Elsewhere
        self.refused(reply)
        return None


class Load:
    """Clients on all shards. In a `with` they work; at its end none may have failed."""

    def __init__(self, clients):
        self.clients = clients

    def __enter__(self):
        for client in self.clients:
            client.start()
        self.flows()
        return self

    def __exit__(self, kind, *_):
        self.stop()
        for client in self.clients:
            client.join(LIMIT + 5)
        if kind is None:
            self.check()
            hanging = [client.name for client in self.clients if client.is_alive()]
            assert not hanging, f"{hanging} hang"

    def stop(self):
        for client in self.clients:
            client.going = False

    def check(self):
        failures = [client.failure for client in self.clients if client.failure]
        assert not failures, failures

    def flows(self, timeout=60):
        """Wait until every client got what it wants, anew."""
        before = {client: client.told["right"] for client in self.clients}

        def all_do():
            self.check()
            return all(client.told["right"] > count for client, count in before.items())

        try:
            wait_until(all_do, timeout)
        except AssertionError as error:
            self.check()
            standing = {
                c.name: c.last_reply for c, count in before.items() if c.told["right"] == count
            }
            raise AssertionError(f"nothing more for {standing}: {self.told()}") from error

    def told(self):
        return {client.name: dict(client.told) for client in self.clients}

    @property
    def adders(self):
        return [client for client in self.clients if isinstance(client, Adder)]
