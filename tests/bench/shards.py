"""A cluster of servers under measurement."""

import binascii
import time

from people import FAMILIES, person
from process import Server, check, fill, free_port

SLOTS = 16384


def slot(key):
    """The slot of a key that has no braces."""
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


def family(i):
    return person(i)["name"].split(" ")[1]


class Cluster:
    """Servers as `Server` starts them, the slots in equal parts; `run` asks the first of them."""

    def __init__(self, module, shards):
        self.servers = []
        self.loaded = 0
        self.owners = [at * shards // SLOTS for at in range(SLOTS)]
        try:
            for _ in range(shards):
                # The bus would be 10000 ports further on, where there may be none.
                bus = ("--cluster-port", str(free_port()))
                self.servers.append(Server(module, ("--cluster-enabled", "yes", *bus)))
            self._join()
        except BaseException:
            self.stop()
            raise

    def _join(self):
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            mine = [at for at in range(SLOTS) if self.owners[at] == number]
            server.r.execute_command("CLUSTER", "ADDSLOTSRANGE", mine[0], mine[-1])
            server.r.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in self.servers[1:]:
            bus = first.r.config_get("cluster-port")["cluster-port"]
            server.r.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        end = time.monotonic() + 60
        while not all(self._ready(server) for server in self.servers):
            check(time.monotonic() < end, "the servers did not become a cluster")
            time.sleep(0.05)

    def _ready(self, server):
        """Whether it sees the whole cluster, and its module those of all others."""
        lines = server.r.execute_command("CLUSTER", "INFO")
        info = lines if isinstance(lines, dict) else dict(x.split(":") for x in lines.split())
        reply = server.r.execute_command("RG.INFOCLUSTER")
        if info["cluster_state"] != "ok" or not isinstance(reply, list):
            return False
        nodes = [dict(zip(node[::2], node[1::2], strict=True)) for node in reply[-1]]
        return len(nodes) == len(self.servers) and all(node["runid"] for node in nodes)

    def stop(self):
        for server in self.servers:
            server.stop()

    def alive(self):
        return all(server.alive() for server in self.servers)

    def tail(self):
        """What the logs of the servers that are gone end with."""
        return "\n".join(server.tail() for server in self.servers if not server.alive())

    def ids(self):
        return [server.r.execute_command("CLUSTER", "MYID") for server in self.servers]

    def owner(self, key):
        """The number of the shard that has it."""
        return self.owners[slot(key)]

    def key(self, number):
        """Some key of that shard."""
        names = (f"key:{i}" for i in range(SLOTS))
        return next(name for name in names if self.owner(name) == number)

    def people(self, n):
        """Exactly the first n persons, each on the shard that owns its key."""
        if self.loaded == n:
            return
        parts = [[] for _ in self.servers]
        for i in range(n):
            parts[self.owner(f"person:{i}")].append(i)
        for server, numbers in zip(self.servers, parts, strict=True):
            fill(server, numbers)
        self.loaded = n
        time.sleep(0.5)

    def moved(self):
        """How many of its persons change the shard when each goes to that of the family's name."""
        to = [self.owner(family(i)) for i in range(FAMILIES)]
        here = (self.owner(f"person:{i}") for i in range(self.loaded))
        return sum(shard != to[i % FAMILIES] for i, shard in enumerate(here))

    def run(self, script, client=None):
        """RG.PYEXECUTE on the first shard; the results of all. An error record is an exception."""
        return self.servers[0].run(script, client)

    def cpu(self):
        """CPU seconds used so far by all threads of all servers."""
        return sum(server.cpu() for server in self.servers)

    def counter(self, field):
        """The sum of a field of INFO over all shards."""
        infos = [server.r.info("everything") for server in self.servers]
        check(all(field in info for info in infos), f"INFO has no field {field}")
        return sum(int(info[field]) for info in infos)
