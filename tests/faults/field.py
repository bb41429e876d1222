"""A cluster that things are done to, and the signs that it got over them."""

import contextlib
import signal
import time

from clusterenv import ClusterEnv
from env import FINISHED
from faults.load import (
    FUNCTIONS,
    KEYS,
    MOVED,
    REGISTRATIONS,
    Adder,
    Caller,
    Load,
    Runner,
    of_generators,
    tag_in,
    text,
    verdict,
)
from faults.rounds import IDLE, LIMIT
from redis.crc import key_slot
from server import wait_until
from wire import Error

from cluster import in_sync

HOLD = """
import os, time
def hold():
    open('{folder}/held-%d' % os.getpid(), 'w').close()
    while not os.path.exists('{folder}/go'):
        time.sleep(0.005)
"""
THREE = [[b"3"], []]
"""What a count of the shards gives when all are there."""
SIGNS_OF_A_CRASH = ("panicked", "crashed by signal", "BUG REPORT START", "assertion failed")


class Run:
    """A run that is under way; the one that waits for it is a client as any."""

    def __init__(self, server, script):
        self.server = server
        self.wire = server.wire(timeout=LIMIT)
        self.id = text(self.wire.call("RG.PYEXECUTE", script, "UNBLOCKING"))
        assert self.id.startswith(server.id), self.id
        self.wire.send("RG.GETRESULTSBLOCKING", self.id)

    def result(self):
        """(results, errors), or None if its server went away."""
        try:
            with self.wire:
                reply = self.wire.receive()
        except TimeoutError:
            raise AssertionError(f"a client waits for {self.id} since {LIMIT} s") from None
        except ConnectionError:
            return None
        assert not isinstance(reply, Error), reply
        results, errors = reply
        return [*map(text, results)], [*map(text, errors)]


class Field(ClusterEnv):
    """Servers are asked over new connections: no old one is in the way of what is to be seen."""

    def __init__(self, cluster):
        super().__init__(cluster)
        self.folder = cluster.folder / "holds"
        self.folder.mkdir(exist_ok=True)
        self.tags = [tag_in(slots) for slots in cluster.slots]
        self.last = 0
        self.usual = []
        self.runs = []

    def close(self):
        super().close()
        for run in self.runs:
            run.wire.close()

    def run(self, server, script):
        """Begin a run on a shard."""
        self.runs.append(Run(server, script))
        return self.runs[-1]

    @property
    def masters(self):
        """The servers that have slots now."""
        return [server for server in self.servers if server.running() and server.owns_slots()]

    def register_functions(self):
        reply = self.server.ask("RG.PYEXECUTE", FUNCTIONS)
        assert reply == "OK", reply

    def fill_data(self):
        """The keys `data:*`, each on its shard."""
        for tag, slots in zip(self.tags, self.cluster.slots, strict=True):
            names = [n for n in range(KEYS) if key_slot(b"data:%d" % n) in slots]
            with self.owner_of(f"{{{tag}}}").wire() as wire:
                for n in names:
                    wire.send("SET", f"data:{n}", n)
                replies = {wire.receive() for _ in names}
            assert replies == {"OK"}, list(replies)[:3]

    def load(self, batches=None, copies=0):
        """Clients of all kinds; they begin with the `with`."""
        masters = self.masters
        batches = batches or of_generators()
        clients = []
        for i, server in enumerate(masters):
            # without replicas there is nobody else to ask
            servers = self.servers if self.cluster.replicas else [server]
            mine = batches[i:] + batches[:i]
            clients += [
                Runner(f"runner {i}", server, servers, mine),
                Caller(f"caller {i}", server, servers),
            ]
        self.last += 1000000
        clients += [
            Adder(f"adder {i}", masters[0], self.servers, tag, copies, self.last)
            for i, tag in enumerate(self.tags)
        ]
        return Load(clients)

    def kill(self, server):
        """SIGKILL to a server that must have lived until then."""
        server.process.send_signal(signal.SIGKILL)
        assert server.process.wait() == -signal.SIGKILL, "it ended by itself"
        server.kill()

    @contextlib.contextmanager
    def stopped(self, server):
        """In the `with` the server does nothing, and may die."""
        server.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.process.send_signal(signal.SIGCONT)

    @property
    def holding(self):
        """A script's `hold()`, which says that it is there and waits for a word.

        It does so by files: keys may move, or be lost.
        """
        return HOLD.format(folder=self.folder)

    def holds(self, server):
        return (self.folder / f"held-{server.pid}").exists()

    def all_hold(self):
        return all(map(self.holds, self.masters))

    def go(self):
        """Let go on what a script's `hold()` holds."""
        (self.folder / "go").touch()

    def forget(self):
        """What is held from now on is held."""
        for path in self.folder.iterdir():
            path.unlink()

    def owner_of(self, key):
        """The server that has the key."""
        others = [s for s in self.masters if not is_moved(s.ask("EXISTS", key))]
        return others[0] if others else self.server

    def ask_owner(self, *words):
        """The reply of the shard that has the key."""
        return self.owner_of(words[1]).ask(*words)

    def functions_work(self):
        """Each shard's functions see what comes now."""
        for tag in self.tags:
            self.last += 1
            stream, key, value = f"numbers:{{{tag}}}", f"item:{{{tag}}}", str(self.last).encode()
            added = self.written("XADD", stream, "*", "n", self.last)
            assert self.written("SET", key, self.last) == "OK"
            for where, what in ((f"done:{stream}", added), (f"seen:{key}", value)):
                wait_until(lambda w=where, v=what: self.has(w, v), what=f"{what} in {where}")

    def written(self, *words):
        """The reply to a write, once the cluster is whole enough to take it."""

        def reply():
            answer = self.ask_owner(*words)
            return None if is_moved(answer) or is_down(answer) else answer

        return wait_until(reply, what=f"{words} to be taken")

    def has(self, key, value):
        """Whether a list has it among its last."""
        reply = self.ask_owner("LRANGE", key, -1000, -1)
        return isinstance(reply, list) and value in reply

    def alive(self):
        dead = [server.port for server in self.servers if not server.running()]
        assert not dead, f"servers {dead} died"
        return True

    def unharmed(self):
        """No server died, and none had an accident of its own."""
        self.alive()
        for server in self.servers:
            log = server.log()
            signs = [sign for sign in SIGNS_OF_A_CRASH if sign in log]
            assert not signs, f"server {server.port}: {signs}"

    def whole(self, timeout=60):
        """All shards run together again and have the same registrations, by themselves."""
        wait_until(lambda: self.alive() and self.counts_all(), timeout, "all shards in runs")
        try:
            wait_until(self.registered_everywhere, timeout)
        except AssertionError as error:
            lists = dict(zip(self.servers, self.ids_everywhere(), strict=True))
            lists = {server.port: [*map(text, ids)] for server, ids in lists.items()}
            raise AssertionError(f"not the same functions on all servers: {lists}") from error
        self.unharmed()

    def synced(self):
        """Replicas have what their masters have."""
        replicas = [server for server in self.servers if not server.owns_slots()]
        wait_until(lambda: all(map(in_sync, replicas)), 60, "replicas in sync")
        for server in self.masters:
            reply = server.ask("WAIT", 1, 10000)
            assert reply == 1, f"{reply} replicas of {server.port}"

    def runs_right(self, batches):
        """Every batch is right, whoever is asked, once they have heard which slots moved."""
        for server in self.masters:
            for batch in batches:
                wait_until(lambda s=server, b=batch: self.is_right(s, b), what=batch.name)

    def is_right(self, server, batch):
        """Whether the batch is right. If it is not, that is because slots moved."""
        return verdict(batch, self.run(server, batch.script).result(), MOVED) == "right"

    def counts_all(self):
        masters = self.masters
        script = "GB('ShardsIDReader').count().run()"
        return len(masters) == 3 and all(s.ask("RG.PYEXECUTE", script) == THREE for s in masters)

    def ids_everywhere(self):
        """The ids of registrations that each server has."""
        return [registered(server) for server in self.servers if server.running()]

    def registered_everywhere(self):
        first, *others = self.ids_everywhere()
        if len(first) != REGISTRATIONS or any(other != first for other in others):
            return False
        self.usual = first
        return True

    def nothing_lost(self, load, values=True):
        """What was acknowledged was seen by the functions, at least once."""
        for adder in load.adders:
            pairs = [(f"done:{adder.stream}", adder.added)]
            if values:
                pairs.append((f"seen:{adder.key}", adder.values))
            for key, acknowledged in pairs:
                try:
                    wait_until(lambda k=key, a=acknowledged: not self.lost(k, a), 60)
                except AssertionError as error:
                    lost = self.lost(key, acknowledged)
                    some = f"{len(lost)} of {len(acknowledged)}: {lost[:5]}"
                    raise AssertionError(f"acknowledged and not in {key}: {some}") from error

    def lost(self, key, acknowledged):
        seen = self.ask_owner("LRANGE", key, 0, -1)
        assert isinstance(seen, list), seen
        seen = set(map(text, seen))
        return [value for value in acknowledged if value not in seen]

    def idle(self):
        """Nothing runs any more, nowhere: what a killed initiator had begun has ended as well."""
        begin = time.monotonic()

        def so():
            return not any(unfinished(server) for server in self.masters)

        try:
            wait_until(so, 3 * IDLE + LIMIT)
        except AssertionError as error:
            left = {server.port: unfinished(server) for server in self.masters}
            waited = time.monotonic() - begin
            raise AssertionError(f"executions still run after {waited:.0f} s: {left}") from error
        wait_until(lambda: not any(map(pending, self.masters)), what="acknowledged messages")


def is_moved(reply):
    return isinstance(reply, Error) and reply.startswith("MOVED")


def is_down(reply):
    return isinstance(reply, Error) and reply.startswith("CLUSTERDOWN")


def registered(server):
    reply = server.ask("RG.DUMPREGISTRATIONS")
    return sorted(entry[1] for entry in reply) if isinstance(reply, list) else reply


def unfinished(server):
    """Executions that the server has not ended: id and status."""
    reply = server.ask("RG.DUMPEXECUTIONS")
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in reply]
    states = {text(entry[b"executionId"]): text(entry[b"status"]) for entry in entries}
    return {name: state for name, state in states.items() if state not in FINISHED}


def status(server, identifier):
    return unfinished(server).get(identifier)


def pending(server):
    """Messages that other shards have not acknowledged."""
    nodes = server.ask("RG.INFOCLUSTER")[4]
    return sum(dict(zip(node[::2], node[1::2], strict=True))[b"pendingMessages"] for node in nodes)
