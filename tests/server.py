"""A real server process with the module, on loopback, in a folder of its own."""

import os
import pathlib
import signal
import subprocess
import time

import redis
import tls
from ports import free_port
from redis.backoff import NoBackoff
from redis.retry import Retry
from wire import Error, Wire

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = os.environ.get("GEARTRAIN_SERVER", "redis-server")
MODULE = os.environ.get("GEARTRAIN_MODULE", str(ROOT / "target/release/libgeartrain.so"))

running = []
"""Servers whose log a failed test prints."""


class ServerStopped(Exception):
    """The process ended while it should run; the text holds its log."""


def wait_until(condition, timeout=30, what=None):
    """Wait until `condition()` is truthy and hand out what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {timeout} s: {what or condition}")
        time.sleep(0.005)


class Server:
    """`arguments` go to the module, `options` to the server; `module=None` starts it bare.

    Clients give the `password`; with `tls`, a folder of certificates, they speak nothing else.
    """

    def __init__(self, folder, arguments=(), options=(), module=MODULE, password=None, tls=None):
        self.folder = pathlib.Path(folder)
        self.arguments = [str(argument) for argument in arguments]
        self.options = [str(option) for option in options]
        self.module = module
        self.password = password
        self.tls = tls
        self.port = None
        self.process = None

    def command_line(self):
        words = [BINARY, "--bind", "127.0.0.1"]
        if self.tls:
            words += ["--port", "0", "--tls-port", str(self.port), *tls.options(self.tls)]
        else:
            words += ["--port", str(self.port)]
        if self.password:
            words += ["--requirepass", self.password, "--masterauth", self.password]
        words += ["--dir", str(self.folder), "--save", "", "--appendonly", "no"]
        words += ["--enable-debug-command", "yes", "--enable-module-command", "yes"]
        words += ["--repl-diskless-sync-delay", "0", *self.options]
        if self.module:
            words += ["--loadmodule", self.module, *self.arguments]
        return words

    def start(self, ready=None):
        """Start and wait for `ready(server)`, by default until it answers PING with PONG."""
        if self.module and not os.path.exists(self.module):
            raise FileNotFoundError(f"{self.module}: run `make build` first")
        for attempt in range(5):
            if self.port is None:
                self.port = free_port()
            self._launch()
            try:
                wait_until(lambda: self._alive() and (ready or answers_ping)(self), timeout=60)
            except ServerStopped:
                if attempt == 4 or "already in use" not in self.log():
                    raise
                self.port = None
            except BaseException:
                self.kill()
                raise
            else:
                running.append(self)
                return self
        raise ServerStopped("no free port")

    def _launch(self):
        with open(self.log_path(), "ab") as log:
            self.process = subprocess.Popen(
                self.command_line(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _alive(self):
        if self.process.poll() is not None:
            raise ServerStopped(f"exit code {self.process.returncode}\n{self.log()}")
        return True

    @property
    def pid(self):
        return self.process.pid

    def rests(self):
        """Whether none of the threads that run functions wants a processor, for a few moments."""

        def sleeping(thread):
            try:
                stat = (thread / "stat").read_text()
            except OSError:
                return True  # it has just ended
            # `id (name) state ...`
            name, _, rest = stat.partition("(")[2].rpartition(")")
            return not name.startswith("geartrain-pool") or rest.split()[0] == "S"

        for _ in range(3):
            if not all(map(sleeping, pathlib.Path(f"/proc/{self.pid}/task").iterdir())):
                return False
            time.sleep(0.005)
        return True

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout=30):
        """Ask by SIGTERM; the exit code. A server that does not listen is killed and raises."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout=30):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not gone {timeout} s after SIGTERM\n{self.log()}") from None
        finally:
            if self in running:
                running.remove(self)

    def kill(self):
        if self.running():
            self.process.kill()
            self.process.wait()
        if self in running:
            running.remove(self)

    def restart(self):
        self.stop()
        return self.start()

    def log_path(self):
        return self.folder / "server.log"

    def log(self, offset=0):
        path = self.log_path()
        return path.read_bytes()[offset:].decode(errors="replace") if path.exists() else ""

    def log_size(self):
        path = self.log_path()
        return path.stat().st_size if path.exists() else 0

    def client(self, decode=True, protocol=2, **more):
        """A redis-py client that never sends a command twice."""
        if self.tls:
            more |= {"ssl": True, "ssl_check_hostname": False, **tls.files(self.tls)}
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password,
            protocol=protocol,
            decode_responses=decode,
            socket_timeout=60,
            retry=Retry(NoBackoff(), 0),
            **more,
        )

    def wire(self, protocol=2, timeout=60):
        context = tls.context(self.tls) if self.tls else None
        return Wire(self.port, protocol, timeout, self.password, context)

    def resident(self):
        """Resident set in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def greeting(server):
    """What the server answers to PING, or None while it does not listen."""
    try:
        with server.wire(timeout=5) as wire:
            return wire.call("PING")
    except OSError:
        return None


def answers_ping(server):
    return greeting(server) == "PONG"


def is_loading(server):
    answer = greeting(server)
    return isinstance(answer, Error) and answer.startswith("LOADING")
