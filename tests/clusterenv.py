"""What a test holds of a cluster: the words of `Env`, each where it belongs.

Data commands go to the shard that owns their keys, commands of the module to the first shard. What
is asked about registrations and executions is put together from all shards.
"""

from env import Env, number
from router import Keys, Router, is_for_all
from server import wait_until

COUNTERS = ("numTriggered", "numSuccess", "numFailures", "numAborted", "totalRunDurationMS")
LARGEST = ("lastRunDurationMS", "avgRunDurationMS", "lastEstimatedLagMS", "avgEstimatedLagMS")


def merged(entries):
    """One entry of what the shards say of a registration; who runs it may be any of them."""
    first = entries[0]
    parts = [entry["RegistrationData"] for entry in entries]
    data = dict(parts[0])
    for name in data:
        values = [part[name] for part in parts]
        if name in COUNTERS:
            data[name] = sum(values)
        elif name in LARGEST:
            data[name] = max(values, key=float)
        elif name == "lastError":
            data[name] = next((value for value in values if value is not None), None)
        elif name == "status":
            data[name] = next((value for value in values if value != "OK"), "OK")
        else:
            assert values == values[:1] * len(values), f"{name} differs: {values}"
    return first | {"RegistrationData": data}


class ClusterEnv(Env):
    """`shards` has an `Env` for each shard; `server` and `call` without keys are of the first."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.servers = cluster.servers
        self.server = cluster.servers[0]
        self.shards = [Env(server) for server in cluster.masters]
        of_keys = cluster.slots, Keys(self.shards[0].call)
        self.client = Router([s.client for s in self.shards], *of_keys, decode_responses=True)
        self.binary = Router([s.binary for s in self.shards], *of_keys)
        self._transaction = False

    def close(self):
        self.client.close()
        self.binary.close()
        self.each(Env.close)

    def renew(self):
        """After shards of the cluster came, went or changed places."""
        self.close()
        self.__init__(self.cluster)

    @property
    def shard_id(self):
        return self.server.id

    @property
    def ids(self):
        return sorted(shard.server.id for shard in self.shards)

    @property
    def tag(self):
        return self.shards[0].tag

    def owner(self, key):
        """The shard that owns a key."""
        return self.shards[self.client.shard(key)]

    def maker(self, identifier):
        """The shard that gave an execution or a registration its id."""
        found = [s for s in self.shards if identifier.startswith(s.server.id)]
        return found[0] if found else self.shards[0]

    def fill(self, count, prefix="key"):
        with self.client.pipeline(transaction=False) as pipe:
            for i in range(count):
                pipe.set(f"{prefix}:{i}", f"value:{i}")
            pipe.execute()

    def call(self, *words):
        """A transaction is the first shard's."""
        name = str(words[0]).upper()
        if name in ("MULTI", "EXEC", "DISCARD"):
            self._transaction = name == "MULTI"
        elif not self._transaction:
            if is_for_all(words):
                return self.each(lambda shard: shard.call(*words))[0]
            return self.shards[self.client.shard_of(words)].call(*words)
        return self.shards[0].call(*words)

    def executions(self):
        """Of all shards; the status of one that several know is that on the shard that made it."""
        known, own = {}, {}
        for shard in self.shards:
            mine = shard.executions()
            known |= mine
            own |= {i: status for i, status in mine.items() if self.maker(i) is shard}
        return known | own

    def wait(self, identifier):
        return self.maker(identifier).wait(identifier)

    def plan(self, identifier):
        return self.maker(identifier).plan(identifier)

    def agreed(self):
        """The ids of registrations, when all shards list the same, else None."""
        first, *others = self.each(lambda s: [e["id"] for e in s.registrations()])
        return first if all(other == first for other in others) else None

    def wait_agreed(self):
        wait_until(lambda: self.agreed() is not None, what="the same registrations on all shards")

    def register(self, script, *words):
        super().register(script, *words)
        self.wait_agreed()

    def unregister(self, identifier, *words):
        super().unregister(identifier, *words)
        self.wait_agreed()

    def registrations(self):
        """Those of the first shard, with what all shards count together."""
        everywhere = {}
        for shard in self.shards:
            for entry in shard.registrations():
                everywhere.setdefault(entry["id"], []).append(entry)
        first = {entry["id"] for entry in self.shards[0].registrations()}
        entries = [merged(entries) for name, entries in everywhere.items() if name in first]
        return sorted(entries, key=lambda entry: (number(entry["id"]), entry["id"]))

    def reload(self):
        self.each(Env.reload)

    def restart(self):
        self.each(Env.restart)
        self.cluster.wait_ready()

    def save_and_restart(self):
        self.each(lambda shard: shard.client.save())
        self.restart()

    def config(self, name, value):
        self.each(lambda shard: shard.config(name, value))

    def reset(self):
        """As after start, on all shards, which must be alive and linked."""
        self.each(lambda shard: self._alive(shard))
        wait_until(self._unregister_all, what="the end of all registrations")
        wait_until(self._drop_all, what="the end of all executions")
        self.each(Env.reset)
        self.each(lambda shard: shard.client.execute_command("RG.CONFIGSET", "source", ""))
        self.source.client.execute_command("RG.CONFIGSET", "source", "yes")

    def _alive(self, shard):
        assert shard.server.running(), f"shard {shard.server.port} died"
        shard.client.execute_command("RG.CONFIGSET", "ReplyVersion", "1.2.13")

    def _drop_all(self):
        return all(self.each(Env._drop_all))

    def _unregister_all(self):
        return all(self.each(Env._unregister_all))
