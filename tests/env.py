"""What a test holds: a server, clients, and short words for what tests do all the time."""

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
}
FINISHED = ("done", "aborted")


def pairs(flat):
    """[name, value, name, value] as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Env:
    """`client` decodes replies, `binary` does not; `call` and `error` show the bare wire."""

    def __init__(self, server):
        self.server = server
        self.client = server.client()
        self.binary = server.client(decode=False)
        self._wire = None

    def close(self):
        self.client.close()
        self.binary.close()
        if self._wire:
            self._wire.close()

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
        assert errors == []
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
        """The reply to one result, `expression`, that is not made a string first."""
        script = f"GB('ShardsIDReader').map(lambda x: {expression}).run(convertToStr=False)"
        results, errors = self.call("RG.PYEXECUTE", script)
        assert errors == []
        assert len(results) == 1
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

    def config(self, name, value):
        reply = self.client.execute_command("RG.CONFIGSET", name, value)
        assert len(reply) == 1 and str(reply[0]).startswith("OK"), reply

    def _drop_all(self):
        for identifier, status in self.executions().items():
            done = status in FINISHED
            self.call("RG.DROPEXECUTION" if done else "RG.ABORTEXECUTION", identifier)
        return self.executions() == {}

    def reset(self):
        """As after start: no keys, no executions, settings of DEFAULTS."""
        assert self.server.running(), "the server died"
        wait_until(self._drop_all, what="the end of all executions")
        self.client.flushall()
        current = self.client.execute_command("RG.CONFIGGET", *DEFAULTS)
        for (name, value), now in zip(DEFAULTS.items(), current, strict=True):
            if now != value:
                self.config(name, value)
