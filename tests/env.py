"""What a test holds: a server, clients, and short words for what tests do all the time."""

import ast
import functools
import textwrap

from server import wait_until
from wire import Error

DEFAULTS = {
    "MaxExecutions": 1000,
    "MaxExecutionsPerRegistration": 100,
    "ProfileExecutions": 0,
    "ExecutionMaxIdleTime": 20000,
    "SendMsgRetries": 3,
    "PythonAttemptTraceback": 1,
    "PythonInstallReqMaxIdleTime": 30000,
    "MaxResultsMemory": 1 << 30,
    "SyncTimeLimit": 0,
    "ReplyVersion": "1.2.13",
    "StreamSharedGroup": 0,
}
HOLD = """
import time
def hold():
    execute('set', 'held{%s}' % hashtag(), 1)
    while execute('get', 'go{%s}' % hashtag()) is None:
        time.sleep(0.005)
"""
"""A script's `hold()` says that it is there (`Env.held`) and waits for a word (`Env.go`)."""

FINISHED = ("done", "aborted")


def one_shard(values):
    """A reader of values, or of those of an expression, that only one shard has: `Env.source`."""
    values = values if isinstance(values, str) else repr(values)
    return f"GB('PythonReader', lambda: (x for x in ({values} if configGet('source') else ())))"


def pairs(flat):
    """[name, value, name, value] as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def number(identifier):
    """The counter in an id."""
    return int(identifier.rpartition("-")[2])


def registration(entry):
    """An entry of RG.DUMPREGISTRATIONS as dicts; PD stays the text that it is."""
    entry = pairs(entry)
    data = entry["RegistrationData"] = pairs(entry["RegistrationData"])
    data["args"] = pairs(data["args"])
    return entry


class Env:
    """`client` decodes replies, `binary` does not; `call` and `error` show the bare wire.

    A test that knows the words below about shards runs on a cluster as well.
    """

    def __init__(self, server):
        self.server = server
        self.servers = [server]
        self.shards = [self]
        self.client = server.client()
        self.binary = server.client(decode=False)
        self._wire = None

    @property
    def shard_count(self):
        return len(self.shards)

    @property
    def shard_id(self):
        """The id that executions and registrations begin with."""
        return "0" * 40

    @property
    def ids(self):
        """What ShardsIDReader gives, sorted."""
        return ["1"]

    @property
    def source(self):
        """The shard that has what `one_shard` reads; of a cluster not the one that is asked."""
        return self.shards[-1]

    def each(self, function):
        return [function(shard) for shard in self.shards]

    @functools.cached_property
    def tag(self):
        """What `hashtag()` is here, asked without the threads that run functions."""
        return self.refused("flat_error(hashtag())")

    def key(self, name):
        """What `'name{%s}' % hashtag()` is here."""
        return f"{name}{{{self.tag}}}"

    def held(self):
        """Whether some shard stands in the `hold()` of a script."""
        return any(self.each(lambda shard: shard.client.exists(shard.key("held"))))

    def all_held(self):
        return all(self.each(lambda shard: shard.client.exists(shard.key("held"))))

    def rests(self):
        """Whether no shard is at work: executions that wait are parked by now."""
        return all(self.each(lambda shard: shard.server.rests()))

    def go(self):
        self.each(lambda shard: shard.client.set(shard.key("go"), 1))

    def still_runs(self):
        """Whether a plan runs on every shard."""
        return sorted(self.results("GB('ShardsIDReader').run()")) == self.ids

    def fill(self, count, prefix="key"):
        """`count` strings `prefix:0` ... with values `value:0` ..."""
        self.client.execute_command("DEBUG", "POPULATE", count, prefix)

    def reaches_all_slots(self):
        """Whether code inside a command with a key finds keys of other slots: not in a cluster on
        servers that keep keys by slot."""
        with self.server.client() as client:
            info = client.info("server")
        if "cluster" not in (info.get("redis_mode"), info.get("server_mode")):
            return True
        version = tuple(map(int, str(info["redis_version"]).split(".")[:2]))
        return "valkey_version" not in info and version < (7, 4)

    def close(self):
        self.client.close()
        self.binary.close()
        if self._wire:
            self._wire.close()
            self._wire = None

    def call(self, *words):
        """The reply as it came: Simple, Error, bytes, int, None or a list of those."""
        if self._wire is None:
            self._wire = self.server.wire()
        return self._wire.call(*words)

    def error(self, *words):
        """The error line that a command answers, its code included."""
        reply = self.call(*words)
        assert isinstance(reply, Error), f"{words[0]} answered {reply!r} instead of an error"
        return str(reply)

    def execute(self, script, *words):
        return self.client.execute_command("RG.PYEXECUTE", textwrap.dedent(script), *words)

    def run(self, script, *words):
        """(results, errors) of a blocking run, decoded."""
        results, errors = self.execute(script, *words)
        return results, errors

    def results(self, script, *words):
        """The results of a run that must not have errors."""
        results, errors = self.run(script, *words)
        assert errors == [], errors
        return results

    def result(self, script, *words):
        results = self.results(script, *words)
        assert len(results) == 1, results
        return results[0]

    def errors(self, script, *words):
        """The errors of a run that must have some."""
        _, errors = self.run(script, *words)
        assert errors, "a run without errors"
        return errors

    def refused(self, script, *words):
        """The error reply to a script."""
        return self.error("RG.PYEXECUTE", textwrap.dedent(script), *words)

    def native(self, expression):
        """The reply to a result, `expression` on each shard, that is not made a string first."""
        script = f"GB('ShardsIDReader').map(lambda x: {expression}).run(convertToStr=False)"
        results, errors = self.call("RG.PYEXECUTE", script)
        assert errors == [], errors
        return self.same(results)

    def same(self, results):
        """What every shard gave."""
        assert results == results[:1] * self.shard_count, results
        return results[0]

    def start(self, script, *words):
        """Start without waiting; the id."""
        return self.execute(script, "UNBLOCKING", *words)

    def executions(self):
        """id -> status of all executions that the server lists."""
        entries = map(pairs, self.client.execute_command("RG.DUMPEXECUTIONS"))
        return {entry["executionId"]: entry["status"] for entry in entries}

    def status(self, identifier):
        return self.executions()[identifier]

    def wait(self, identifier):
        """(results, errors) once the execution ended."""
        results, errors = self.client.execute_command("RG.GETRESULTSBLOCKING", identifier)
        return results, errors

    def wait_status(self, identifier, *status):
        wait_until(lambda: self.status(identifier) in status, what=f"status {status}")

    def plan(self, identifier):
        """The `execution_plan` part of RG.GETEXECUTION ... SHARD as a dict."""
        (entry,) = self.client.execute_command("RG.GETEXECUTION", identifier, "SHARD")
        return pairs(pairs(entry)["execution_plan"])

    def abort(self, identifier):
        return self.client.execute_command("RG.ABORTEXECUTION", identifier)

    def drop(self, identifier):
        return self.client.execute_command("RG.DROPEXECUTION", identifier)

    def register(self, script, *words):
        """Run a script that registers, with success."""
        reply = self.execute(script, *words)
        assert reply == "OK", reply

    def registrations(self):
        """The list of the server, oldest id first."""
        entries = map(registration, self.client.execute_command("RG.DUMPREGISTRATIONS"))
        return sorted(entries, key=lambda entry: (number(entry["id"]), entry["id"]))

    def registration(self, identifier=None):
        """The only registration, or the one of that id."""
        entries = self.registrations()
        if identifier is not None:
            entries = [entry for entry in entries if entry["id"] == identifier]
        assert len(entries) == 1, entries
        return entries[0]

    def identifier(self):
        """The id of the only registration."""
        return self.registration()["id"]

    def data(self, identifier=None):
        """`RegistrationData` of the only registration, or of the one of that id."""
        return self.registration(identifier)["RegistrationData"]

    def session(self, identifier=None):
        """`PD` of a registration, which is a Python literal."""
        return ast.literal_eval(self.registration(identifier)["PD"])

    def sessions(self, *words):
        """RG.PYDUMPSESSIONS of this shard, as dicts; what is no session stays as it is."""
        entries = self.client.execute_command("RG.PYDUMPSESSIONS", *words)
        return [pairs(entry) if isinstance(entry, list) else entry for entry in entries]

    def wait_data(self, identifier=None, **expected):
        """Wait until these fields of a registration have these values."""

        def so():
            data = self.data(identifier)
            return all(data[name] == value for name, value in expected.items())

        wait_until(so, what=f"a registration with {expected}")

    def settled(self, identifier=None):
        """The data of a registration of which nothing runs: its counters add up."""

        def so():
            data = self.data(identifier)
            ended = data["numSuccess"] + data["numFailures"] + data["numAborted"]
            return data if data["numTriggered"] == ended else None

        return wait_until(so, what="the end of all triggered executions")

    def add(self, stream, count=1):
        """Append entries {f: v}; the id of the last one."""
        return [self.client.xadd(stream, {"f": "v"}) for _ in range(count)][-1]

    def trigger(self, name, *args):
        return self.client.execute_command("RG.TRIGGER", name, *args)

    def unregister(self, identifier, *words):
        reply = self.client.execute_command("RG.UNREGISTER", identifier, *words)
        assert reply == "OK", reply

    def pause(self, *identifiers):
        assert self.client.execute_command("RG.PAUSEREGISTRATIONS", *identifiers) == "OK"

    def unpause(self, *identifiers):
        assert self.client.execute_command("RG.UNPAUSEREGISTRATIONS", *identifiers) == "OK"

    def log_list(self, key="log"):
        """The list at `key`, where functions of tests write what they see."""
        return self.client.lrange(key, 0, -1)

    def wait_log(self, expected, key="log"):
        """Wait until that list has as many elements as `expected`; they must be those."""
        wait_until(lambda: self.client.llen(key) >= len(expected), what=f"{expected} in {key}")
        seen = self.log_list(key)
        assert seen == expected, f"{seen} instead of {expected}"

    def reload(self):
        """Save, empty, and load the data set within the running server."""
        assert self.client.execute_command("DEBUG", "RELOAD") in (True, "OK", b"OK")

    def restart(self):
        """Stop in peace and start from what is on disk."""
        self.close()
        self.server.restart()

    def save_and_restart(self):
        self.client.save()
        self.restart()

    def crash(self):
        """SIGKILL, and start from what is on disk."""
        self.close()
        self.server.kill()
        self.server.start()

    def lives(self):
        """Three rounds: as it is, after DEBUG RELOAD, and after a restart from the AOF."""
        yield
        self.reload()
        yield
        self.restart()
        yield

    def follow(self, master):
        """Become a replica of that server; return when in sync."""
        self.client.replicaof("127.0.0.1", str(master.server.port))
        self.wait_synced(master)

    def wait_synced(self, master):
        """Wait until this replica has all that its master sent."""

        def so():
            info = self.client.info("replication")
            link = info.get("master_link_status") == "up"
            sent = master.client.info("replication")["master_repl_offset"]
            return link and info["slave_repl_offset"] >= sent

        wait_until(so, what="a replica in sync")

    def promote(self):
        self.client.replicaof("NO", "ONE")

    def aof_is_written(self):
        """Whether no rewrite of the append-only file runs or waits."""
        info = self.client.info("persistence")
        return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

    def config(self, name, value):
        reply = self.client.execute_command("RG.CONFIGSET", name, value)
        assert len(reply) == 1 and str(reply[0]).startswith("OK"), reply

    def _drop_all(self):
        for identifier, status in self.executions().items():
            done = status in FINISHED
            self.call("RG.DROPEXECUTION" if done else "RG.ABORTEXECUTION", identifier)
        return self.executions() == {}

    def _unregister_all(self):
        for entry in self.registrations():
            self.call("RG.UNREGISTER", entry["id"], "ABORTPENDING")
        return self.registrations() == []

    def reset(self):
        """As after start: no registrations, executions or keys, settings of DEFAULTS."""
        assert self.server.running(), "the server died"
        self.client.execute_command("RG.CONFIGSET", "ReplyVersion", DEFAULTS["ReplyVersion"])
        wait_until(self._unregister_all, what="the end of all registrations")
        wait_until(self._drop_all, what="the end of all executions")
        self.client.flushall()
        self.client.execute_command("RG.CONFIGSET", "source", "yes")
        current = self.client.execute_command("RG.CONFIGGET", *DEFAULTS)
        for (name, value), now in zip(DEFAULTS.items(), current, strict=True):
            if now != value:
                self.config(name, value)
