"""A real cluster of servers with the module, on loopback, joined and ready for work."""

import concurrent.futures
import itertools
import time

import tls
from ports import free_port
from server import MODULE, Server, wait_until

SLOTS = 16384
NODE_TIMEOUT = 2000
"""Milliseconds until a shard counts as gone."""


def even(shards):
    """Ranges of slots, about as long as each other."""
    edges = [SLOTS * i // shards for i in range(shards + 1)]
    return [range(*edge) for edge in itertools.pairwise(edges)]


def lopsided(shards):
    """The first shard owns all slots but the last ones, of which each other shard has one."""
    last = SLOTS - shards + 1
    return [range(last), *(range(slot, slot + 1) for slot in range(last, SLOTS))]


class Shard(Server):
    """A server in cluster mode."""

    bus, bus_of = None, None

    def command_line(self):
        if self.bus_of != self.port:
            self.bus, self.bus_of = free_port(), self.port
        words = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus)]
        words += ["--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-replica-validity-factor"]
        line = super().command_line()
        at = line.index("--loadmodule") if "--loadmodule" in line else len(line)
        return [*line[:at], *words, "0", *line[at:]]

    def start(self, ready=None):
        super().start(ready)
        with self.wire() as wire:
            self.id = wire.call("CLUSTER", "MYID").decode()
        return self

    def ask(self, *words):
        with self.wire() as wire:
            return wire.call(*words)

    def told(self, *words):
        reply = self.ask("CLUSTER", *words)
        assert reply == "OK", f"CLUSTER {' '.join(map(str, words))}: {reply}"

    def cluster_info(self):
        lines = self.ask("CLUSTER", "INFO").decode().split()
        return dict(line.split(":") for line in lines)

    def agrees(self, nodes):
        """Whether it sees a whole cluster of so many nodes."""
        info = self.cluster_info()
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes

    def node_lines(self):
        """CLUSTER NODES, in words."""
        return [line.split() for line in self.ask("CLUSTER", "NODES").decode().splitlines()]

    def ids_that_own_slots(self):
        """As this server sees it."""
        lines = self.node_lines()
        return {w[0] for w in lines if "master" in w[2] and any(s[0] != "[" for s in w[8:])}

    def owns_slots(self):
        return self.id in self.ids_that_own_slots()

    def replicas_seen(self):
        """The master of each replica, as this server sees it."""
        return {words[0]: words[3] for words in self.node_lines() if "slave" in words[2]}

    def take_over(self, servers):
        """From its master, alive as all `servers` are."""
        master = self.replicas_seen()[self.id]
        # nobody votes for a server that is still a master to it
        wait_until(
            lambda: all(server.replicas_seen().get(self.id) == master for server in servers),
            what=f"servers that know the replica {self.port}",
        )
        ends = 0

        def promoted():
            nonlocal ends
            if self.owns_slots():
                return True
            if time.monotonic() > ends:
                self.told("FAILOVER")
                # it gives up after 5 s without votes
                ends = time.monotonic() + 6
            return False

        wait_until(promoted, 60, f"a promoted {self.port}")

    def linked(self, shards):
        """Whether its module has met those of all shards; one shard has nobody to meet."""
        reply = self.ask("RG.INFOCLUSTER")
        if not isinstance(reply, list):
            return len(shards) == 1
        nodes = [dict(zip(node[::2], node[1::2], strict=True)) for node in reply[4]]
        met = {node[b"id"].decode() for node in nodes if node[b"runid"]}
        return met == {shard.id for shard in shards} and len(nodes) == len(met)


class Cluster:
    """`layout` says which slots each shard has; each shard has so many `replicas`.

    `own` has what only one shard is given, by its index: {2: {"options": ["--maxmemory", "1"]}}.
    """

    def __init__(
        self,
        folder,
        arguments=(),
        shards=3,
        replicas=0,
        layout=even,
        options=(),
        password=None,
        encrypted=False,
        module=MODULE,
        own=(),
    ):
        self.folder = folder
        self.slots = layout(shards)
        self.replicas = replicas
        self.certificates = folder / "tls" if encrypted else None
        self.made = {"arguments": arguments, "options": options, "module": module}
        self.made |= {"password": password, "tls": self.certificates}
        self.own = dict(own)
        self.servers = []
        """All of them, those of the shards first, in the order of their slots."""

    @property
    def masters(self):
        return self.servers[: len(self.slots)]

    def replicas_of(self, index):
        return self.servers[len(self.slots) + index :: len(self.slots)]

    def new_server(self):
        """One more server, which is not started yet."""
        index = len(self.servers)
        folder = self.folder / f"server{index}"
        folder.mkdir()
        self.servers.append(Shard(folder, **self.made | self.own.get(index, {})))
        return self.servers[-1]

    def start(self):
        if self.certificates:
            self.certificates.mkdir()
            tls.make_certificates(self.certificates)
        for _ in range(len(self.slots) * (1 + self.replicas)):
            self.new_server()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(Shard.start, self.servers))
        for server, slots in zip(self.masters, self.slots, strict=True):
            server.told("ADDSLOTSRANGE", slots[0], slots[-1])
        for epoch, server in enumerate(self.servers, 1):
            server.told("SET-CONFIG-EPOCH", epoch)
        self.meet(self.servers)
        wait_until(self._all_known, what="shards that know each other")
        for i in range(len(self.slots)):
            for server in self.replicas_of(i):
                server.told("REPLICATE", self.masters[i].id)
        self.wait_ready()
        return self

    def meet(self, servers):
        """Make each of them known to the others."""
        for server in servers:
            for other in self.servers:
                if other is not server:
                    server.told("MEET", "127.0.0.1", other.port, other.bus)

    def join(self, slots):
        """One more shard; it gets these slots, which are empty. There are no replicas."""
        server = self.new_server().start()
        server.told("SET-CONFIG-EPOCH", len(self.servers))
        self.meet([server])
        wait_until(self._all_known, what="a shard that is known")
        self.slots.append(slots)
        for slot in slots:
            for other in [server, *self.servers[:-1]]:
                other.told("SETSLOT", slot, "NODE", server.id)
        self.slots[:-1] = [left(old, slots) for old in self.slots[:-1]]
        self.wait_ready()

    def promoted(self, index, server):
        """A replica took the place of a shard; wait until all know it."""
        old = self.servers[index]
        self.servers.remove(server)
        self.servers[index] = server
        if old.running():
            self.servers.append(old)
        wait_until(lambda: all(s.linked(self.masters) for s in self.masters), what="a new shard")

    def _all_known(self):
        """All of them, and none in the middle of a handshake."""

        def ids(server):
            return {words[0] for words in server.node_lines() if "handshake" not in words[2]}

        everybody = {server.id for server in self.servers}
        return all(ids(server) == everybody for server in self.servers)

    def wait_ready(self):
        """Until all are at one, and their modules as well."""
        nodes, shards = len(self.servers), self.masters
        wait_until(lambda: all(s.agrees(nodes) for s in self.servers), what="a whole cluster")
        wait_until(lambda: all(s.linked(shards) for s in shards), what="linked modules")
        for i in range(len(shards)):
            for server in self.replicas_of(i):
                wait_until(lambda server=server: in_sync(server), what="a replica in sync")

    def running(self):
        return all(server.running() for server in self.servers)

    def stop(self):
        """The exit codes of those that ran."""
        alive = [server for server in self.servers if server.running()]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(Shard.stop, alive))

    def kill(self):
        for server in self.servers:
            server.kill()


def left(slots, gone):
    """What is left of a range when a part at its end is gone."""
    return range(slots[0], min(slots[-1] + 1, gone[0]) if gone[0] in slots else slots[-1] + 1)


def in_sync(server):
    info = server.ask("INFO", "replication").decode()
    return "master_link_status:up" in info
