"""The server under measurement, and the programs and processes that use it."""

import contextlib
import csv
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from people import person

REPO = pathlib.Path(__file__).resolve().parents[2]
MIB = 2**20
FLOOR_PYTHON = os.environ.get("GEARTRAIN_PYTHON", "/usr/bin/python3")


class Wrong(Exception):
    """A result differs from what the data says, or the server reported an error."""


def check(ok, what):
    if not ok:
        raise Wrong(what)


def module_path():
    path = pathlib.Path(
        os.environ.get("GEARTRAIN_MODULE", REPO / "target/release/libgeartrain.so")
    ).resolve()
    if not path.exists():
        sys.exit(f"{path} does not exist: run `make build` first")
    return path


class Helper:
    """A child process running one of workers.py."""

    def __init__(self, python, *args):
        self.process = subprocess.Popen(
            [python, str(REPO / "tests/bench/workers.py"), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        check(self.process.stdout.readline().strip() == "ready", f"{args[0]} did not start")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def finish(self):
        """Closes its stdin and returns the rest of its output."""
        return self.process.communicate()[0]


def connect(port):
    """A redis-py client that waits for a batch up to ten minutes and never sends it twice."""
    try:
        import redis
    except ImportError:
        sys.exit("redis-py is missing: pip install -r tests/requirements.txt")
    return redis.Redis(
        host="127.0.0.1",
        port=port,
        decode_responses=True,
        socket_timeout=600,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    )


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tool(name):
    """The client tool of Redis or Valkey, whichever is installed: tool('benchmark')."""
    for family in ("redis", "valkey"):
        path = shutil.which(f"{family}-{name}")
        if path:
            return path
    sys.exit(f"neither redis-{name} nor valkey-{name} is on PATH")


class Server:
    """A server of our own: loopback, free port, temporary directory, no persistence.

    `options` go to the server and may say otherwise.
    """

    def __init__(self, module=None, options=()):
        self.dir = tempfile.mkdtemp(prefix="geartrain-bench-")
        self.port = free_port()
        argv = [
            os.environ.get("GEARTRAIN_SERVER", "redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            self.dir,
            "--save",
            "",
            "--appendonly",
            "no",
            *options,
        ]
        if module:
            argv += ["--loadmodule", str(module)]
        self.log = pathlib.Path(self.dir, "log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.r = connect(self.port)
        self.wait_until_up()
        self.pid = self.r.info("server")["process_id"]

    def wait_until_up(self, seconds=60):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Exception):
                self.r.ping()
                return
            if self.process.poll() is not None or time.monotonic() > end:
                tail = self.tail()
                self.stop()
                sys.exit(f"the server did not start:\n{tail}")
            time.sleep(0.05)

    def tail(self, lines=30):
        """The last lines of its log; of a crash its beginning, since long tables follow it."""
        log = self.log.read_text(errors="replace").splitlines()
        for number, line in enumerate(log):
            if "BUG REPORT START" in line:
                return "\n".join(log[max(0, number - lines) : number + 2 * lines])
        return "\n".join(log[-lines:])

    def alive(self):
        with contextlib.suppress(Exception):
            return self.process.poll() is None and self.r.ping()
        return False

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu(self):
        """CPU seconds used so far by all its threads."""
        info = self.r.info("cpu")
        return info["used_cpu_user"] + info["used_cpu_sys"]

    def status(self, field):
        """VmRSS, VmHWM (peak) ... of /proc/PID/status, in bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise KeyError(field)

    def settled_rss(self):
        """VmRSS in bytes once it has stood still for a second (rehashing, freed pages)."""
        last = self.status("VmRSS")
        for _ in range(20):
            time.sleep(1)
            now = self.status("VmRSS")
            if abs(now - last) < 256 * 1024:
                return now
            last = now
        return last

    def reset_peak(self):
        """VmHWM starts again from the present VmRSS."""
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def errors(self):
        """Number of error replies sent since the start."""
        return self.r.info("stats")["total_error_replies"]

    def run(self, script, client=None):
        """RG.PYEXECUTE; its results. An error record is an exception."""
        results, errors = (client or self.r).execute_command("RG.PYEXECUTE", script)
        check(not errors, f"errors: {str(errors[:2])[:300]}")
        return results


def encode(*words):
    """One command in RESP; words are bytes or str."""
    out = [b"*%d\r\n" % len(words)]
    for w in words:
        w = w if isinstance(w, bytes) else str(w).encode()
        out.append(b"$%d\r\n%s\r\n" % (len(w), w))
    return b"".join(out)


def feed(server, commands):
    """Sends encoded commands without reading replies; raises if one was answered by an error."""
    before = server.errors()
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(encode("CLIENT", "REPLY", "OFF"))
        buffer, size = [], 0
        for c in commands:
            buffer.append(c)
            size += len(c)
            if size > 256 * 1024:
                s.sendall(b"".join(buffer))
                buffer, size = [], 0
        s.sendall(b"".join(buffer) + encode("CLIENT", "REPLY", "ON"))
        check(s.recv(64) == b"+OK\r\n", "loading did not end well")
    check(server.errors() == before, "loading was answered by errors")


def fill(server, numbers):
    """Exactly these persons in the database."""
    server.r.flushall()
    feed(server, (encode("HSET", f"person:{i}", *sum(person(i).items(), ())) for i in numbers))
    check(server.r.dbsize() == len(numbers), "loading")


def redis_benchmark(port, *args):
    """One test by redis-benchmark: {'rps': operations/s, 'p50', 'p99', 'max': milliseconds}."""
    argv = [tool("benchmark"), "-p", str(port), "--csv", *map(str, args)]
    out = subprocess.run(argv, capture_output=True, text=True, check=False)
    rows = list(csv.DictReader(io.StringIO(out.stdout)))
    check(
        out.returncode == 0 and rows and "rror" not in out.stdout + out.stderr,
        f"redis-benchmark: {(out.stderr or out.stdout)[-300:]}",
    )
    row = rows[-1]
    return {
        "test": row["test"],
        "rps": float(row["rps"]),
        **{k: float(row[f"{k}_latency_ms"]) for k in ("p50", "p99", "max")},
    }


class Repeater(threading.Thread):
    """Repeats a call from the start of the with block to its end; the last one is waited for."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call = call
        self.going = True
        self.seconds = []
        self.error = None

    def run(self):
        try:
            while self.going:
                t = time.perf_counter()
                self.call()
                self.seconds.append(time.perf_counter() - t)
        except Exception as e:
            self.error = e

    def __enter__(self):
        self.start()
        time.sleep(0.2)
        return self

    def __exit__(self, kind, *_):
        self.going = False
        self.join()
        if self.error and kind is None:
            raise self.error
