#!/usr/bin/env python3
"""Registered functions under a mixed load for a long time: `make soak`.

    soak.py                            ten minutes
    soak.py --minutes 60 --persistence with DEBUG RELOAD, BGSAVE and BGREWRITEAOF now and then
    soak.py --markdown FILE --json FILE

It starts its own server (as bench.py does, same environment variables), registers 24 functions of
all kinds (soakload.py has them) and sends from 50 clients in several processes commands that set
them off. All the while functions are unregistered and registered again, streams are paused and
unpaused, and the commands that report are asked. At the end the clients stop, everything is
registered and unpaused, and what was added must be worked off.

The exit status is 1 if the server died, if a reply was one that nothing explains, if a function got
a record that it should not, if the counters of a registration do not add up once it is idle
(triggered = success + failures + aborted), if entries are left in streams, or if memory grew: the
median of the last minute is above that of the minute after the first by more than --rss-slack
(resident set) or --python-slack (RG.PYSTATS CurrAllocated). In a run of less than five minutes a
fifth of it takes the place of a minute.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

from process import MIB, REPO, Server, check, connect, module_path
from soakload import EXPECTED, FUNCTIONS, STREAM_FUNCTIONS, STREAMS
from table import cpu_model, markdown_table, si

TRIMMED = [f"s{kind}:{i}" for kind in (1, 2, 4, 5, 6, 7) for i in range(STREAMS)] + ["behind"]
PERSISTENCE = (["DEBUG", "RELOAD"], ["BGSAVE"], ["BGREWRITEAOF"], ["SAVE"])
FIELDS = ("numTriggered", "numSuccess", "numFailures", "numAborted")


def pairs(flat):
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Load:
    """The processes of the clients."""

    def __init__(self, port, seed, clients, processes):
        program = [sys.executable, str(REPO / "tests/bench/soakload.py"), str(port)]
        self.processes = [
            subprocess.Popen(
                [*program, str(seed + i), str(clients // processes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(processes)
        ]
        for process in self.processes:
            check(process.stdout.readline() == "ready\n", "a client process did not start")

    def finish(self):
        """(what was sent, the wrong replies, how many)"""
        for process in self.processes:
            process.stdin.close()
        sent, wrong, count = collections.Counter(), [], 0
        for process in self.processes:
            figures = json.loads(process.stdout.read())
            process.wait()
            sent.update(figures["sent"])
            wrong += figures["wrong"]
            count += figures["wrong_count"]
        return sent, wrong, count

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Task(threading.Thread):
    """Repeats a step with a client of its own until it is stopped; keeps the first failure."""

    def __init__(self, port, pause):
        super().__init__(daemon=True)
        self.r = connect(port)
        self.pause = pause
        self.stopping = threading.Event()
        self.failure = None
        self.done = collections.Counter()

    def run(self):
        try:
            while not self.stopping.wait(self.pause()):
                self.step()
        except Exception as error:
            self.failure = f"{type(self).__name__}: {type(error).__name__}: {error}"[:400]

    def stop(self):
        self.stopping.set()
        self.join(90)
        if self.is_alive():
            self.failure = f"{type(self).__name__} hangs"


def registrations(r):
    """name -> (id, RegistrationData)"""
    found = {}
    for entry in map(pairs, r.execute_command("RG.DUMPREGISTRATIONS")):
        check(entry["desc"] not in found, f"{entry['desc']} is registered twice")
        found[entry["desc"]] = entry["id"], pairs(entry["RegistrationData"])
    return found


def register(r, name):
    reply = r.execute_command("RG.PYEXECUTE", FUNCTIONS[name])
    check(reply == "OK", f"registering {name} answered {reply!r}")


class Changes(Task):
    """Registers, unregisters, pauses and unpauses."""

    def __init__(self, port, seed):
        self.random = random.Random(seed)
        super().__init__(port, lambda: self.random.uniform(0, 0.1))

    def step(self):
        there = registrations(self.r)
        absent = [name for name in FUNCTIONS if name not in there]
        dice = self.random.random()
        if absent and dice < 0.3 + 0.1 * len(absent):
            register(self.r, self.random.choice(absent))
            self.done["registered"] += 1
        elif dice < 0.6:
            name = self.random.choice(sorted(there))
            words = ["ABORTPENDING"] if self.random.random() < 0.5 else []
            self.ok("unregistered", "RG.UNREGISTER", there[name][0], *words)
        elif dice < 0.8:
            self.ok("paused", "RG.PAUSEREGISTRATIONS", *self.some_streams(there))
        elif dice < 0.98:
            # paused and aborted ones alike, and some that run
            self.ok("unpaused", "RG.UNPAUSEREGISTRATIONS", *self.some_streams(there, most=True))
        else:
            self.ok("statistics cleared", "RG.CLEARREGISTRATIONSSTATS")

    def some_streams(self, there, most=False):
        ids = [there[name][0] for name in STREAM_FUNCTIONS if name in there]
        return self.random.sample(ids, len(ids) if most else min(2, len(ids)))

    def ok(self, what, *words):
        if len(words) == 1 and what in ("paused", "unpaused"):
            return
        reply = self.r.execute_command(*words)
        check(reply == "OK", f"{words} answered {reply!r}")
        self.done[what] += 1


class Reports(Task):
    """Asks the commands that report, and looks at what they say."""

    def __init__(self, port):
        super().__init__(port, lambda: 0.3)
        self.wrong = []

    def step(self):
        for name, (_, data) in registrations(self.r).items():
            triggered, *ended = (data[field] for field in FIELDS)
            if sum(ended) > triggered or min(ended) < 0:
                self.wrong.append(f"{name}: {triggered} triggered, ended: {ended}")
            if data["lastError"] and EXPECTED not in data["lastError"]:
                self.wrong.append(f"{name}: {data['lastError'][:300]}")
        for execution in self.r.execute_command("RG.DUMPEXECUTIONS")[:20]:
            check("executionId" in pairs(execution), f"an execution: {execution}")
        check("redis_version" in self.r.info("everything"), "INFO")
        self.done["reports"] += 1
        if len(self.wrong) > 20:
            self.stopping.set()


class Persistence(Task):
    """Saves and loads what is registered, while all goes on."""

    def __init__(self, port, seed):
        self.random = random.Random(seed)
        super().__init__(port, lambda: self.random.uniform(5, 20))

    def step(self):
        import redis

        words = self.random.choice(PERSISTENCE)
        try:
            self.r.execute_command(*words)
        except redis.ResponseError as error:
            check("in progress" in str(error), f"{words}: {error}")
        self.done[" ".join(words)] += 1


@dataclasses.dataclass
class Sample:
    """Memory at a moment, in bytes; seconds since the start."""

    seconds: float
    rss: int
    python: int
    used: int


class Memory(Task):
    """Takes a sample every second."""

    def __init__(self, server):
        super().__init__(server.port, lambda: 1)
        self.server = server
        self.start_time = time.monotonic()
        self.samples = []

    def step(self):
        self.samples.append(
            Sample(
                time.monotonic() - self.start_time,
                self.server.status("VmRSS"),
                pairs(self.r.execute_command("RG.PYSTATS"))["CurrAllocated"],
                self.r.info("memory")["used_memory"],
            )
        )

    def median(self, field, since, until):
        values = [getattr(s, field) for s in self.samples if since <= s.seconds < until]
        return statistics.median(values) if values else 0

    def slope(self, field, since):
        """Kilobytes per minute, by least squares."""
        points = [(s.seconds / 60, getattr(s, field)) for s in self.samples if s.seconds >= since]
        if len(points) < 3:
            return 0.0
        return statistics.linear_regression(*zip(*points, strict=True)).slope / 1024


def work_off(server, seconds=120):
    """Everything registered and unpaused, nothing fails any more: what is left after a while."""
    r = server.r
    r.set("calm", 1)
    for name in FUNCTIONS:
        if name not in registrations(r):
            register(r, name)
    deadline = time.monotonic() + seconds
    while True:
        there = registrations(r)
        stopped = [
            identifier
            for identifier, data in there.values()
            if data.get("status") in ("PAUSED", "ABORTED")
        ]
        if stopped:
            r.execute_command("RG.UNPAUSEREGISTRATIONS", *stopped)
        left = {s: r.xlen(s) for s in TRIMMED if r.xlen(s)}
        open_ = {
            name: [data[field] for field in FIELDS]
            for name, (_, data) in there.items()
            if data["numTriggered"] != sum(data[field] for field in FIELDS[1:])
        }
        problems = [f"{s}: {n} entries left" for s, n in left.items()]
        problems += [f"{name}: counters {figures}" for name, figures in open_.items()]
        problems += [f"{len(there)} registrations"] if len(there) != len(FUNCTIONS) else []
        if (not problems and not stopped) or time.monotonic() > deadline:
            return problems
        time.sleep(0.1)


def soak(server, a):
    """Runs it all; the report as a dict."""
    for name in FUNCTIONS:
        register(server.r, name)
    tasks = [Changes(server.port, a.seed), Reports(server.port), memory := Memory(server)]
    if a.persistence:
        tasks.append(Persistence(server.port, a.seed))
    load = Load(server.port, a.seed, a.clients, a.processes)
    begin = time.monotonic()
    try:
        for task in tasks:
            task.start()
        end = begin + a.minutes * 60
        while time.monotonic() < end and server.alive():
            if any(task.failure for task in tasks):
                break
            time.sleep(min(1, max(0, end - time.monotonic())))
            if a.progress and memory.samples and int(memory.samples[-1].seconds) % 30 == 0:
                last = memory.samples[-1]
                print(
                    f"{last.seconds:.0f} s: resident {last.rss / MIB:.1f} MiB, Python "
                    f"{last.python / MIB:.1f}, used {last.used / MIB:.1f}",
                    flush=True,
                )
        seconds = time.monotonic() - begin
        for task in tasks:
            task.stop()
        sent, wrong, count = load.finish() if server.alive() else ({}, [], 0)
    finally:
        load.kill()
    problems = [task.failure for task in tasks if task.failure]
    problems += [f"wrong: {text}" for text in (tasks[1].wrong + wrong)[:30]]
    if count > len(wrong):
        problems.append(f"{count} wrong replies in all")
    if server.alive():
        problems += work_off(server)
    if not server.alive():
        problems.append(f"the server died; its log ends:\n{server.tail(60)}")
    done = sum((task.done for task in tasks), collections.Counter())
    return seconds, sent, done, memory, problems


def growth(memory, seconds, a):
    """Rows of the table of memory, and what grew too much."""
    part = min(60, seconds / 5)
    rows, problems = [], []
    for field, title, slack in (
        ("rss", "resident set", a.rss_slack),
        ("python", "Python, CurrAllocated", a.python_slack),
        ("used", "used_memory", None),
    ):
        early = memory.median(field, part, 2 * part)
        late = memory.median(field, seconds - part, seconds + 1)
        peak = max((getattr(s, field) for s in memory.samples), default=0)
        slope = memory.slope(field, part)
        rows.append(
            [
                title,
                f"{early / MIB:.2f}",
                f"{late / MIB:.2f}",
                f"{(late - early) / MIB:+.2f}",
                f"{peak / MIB:.2f}",
                f"{slope:+.1f}",
            ]
        )
        if slack is not None and late - early > slack * MIB:
            problems.append(f"{title} grew by {(late - early) / MIB:.1f} MiB ({slope:+.0f} KB/min)")
    return rows, problems


def report(server, a, seconds, sent, done, memory_rows, problems):
    """The page as markdown."""
    info = server.r.info("server") if server.alive() else {}
    facts = {
        "server": f"{info.get('server_name', 'redis')} "
        f"{info.get('valkey_version', info.get('redis_version', ''))}, {cpu_model()}",
        "duration": f"{seconds:.0f} s, {a.clients} clients in {a.processes} processes, seed "
        f"{a.seed}" + (", with saving and loading" if a.persistence else ""),
        "sent": f"{sum(sent.values()):,} ({si(sum(sent.values()) / seconds)}/s): "
        + ", ".join(f"{name} {n:,}" for name, n in sorted(sent.items())),
        "done": ", ".join(f"{name} {n:,}" for name, n in sorted(done.items())),
    }
    counters = []
    if server.alive():
        there = registrations(server.r)
        counters = [
            [name, data["mode"], *(f"{data[f]:,}" for f in FIELDS)]
            for name, (_, data) in sorted(there.items())
        ]
    lines = "\n".join(f"- {k}: {v}" for k, v in facts.items())
    found = "\n".join(f"- {p}" for p in problems) or "None."
    memory_table = markdown_table(
        ["MiB", "after the first minute", "last minute", "growth", "peak", "KB/min"], memory_rows
    )
    return f"""# Registered functions under load for a long time

One run of `make soak` (`tests/bench/soak.py`; its header says what it does).

{lines}

## Memory

{memory_table}

## Counters at the end, since the last registering

{markdown_table(["function", "mode", "triggered", "success", "failures", "aborted"], counters)}

## Problems

{found}
"""


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--clients", type=int, default=50)
    p.add_argument("--processes", type=int, default=5)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--persistence", action="store_true", help="save and load now and then")
    p.add_argument("--rss-slack", type=float, default=8, metavar="MiB", help="default 8")
    p.add_argument("--python-slack", type=float, default=2, metavar="MiB", help="default 2")
    p.add_argument("--progress", action="store_true", help="a line every half minute")
    p.add_argument("--markdown", metavar="FILE")
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


def main():
    a = arguments()
    options = ["--enable-debug-command", "yes"]
    if a.persistence:
        options += ["--appendonly", "yes"]
    check(len(FUNCTIONS) == 24, f"{len(FUNCTIONS)} functions")
    with Server(module_path(), options) as server:
        seconds, sent, done, memory, problems = soak(server, a)
        memory_rows, grown = growth(memory, seconds, a)
        problems += grown
        page = report(server, a, seconds, sent, done, memory_rows, problems)
    print(page)
    if a.markdown:
        pathlib.Path(a.markdown).write_text(page)
    if a.json:
        samples = [dataclasses.asdict(s) for s in memory.samples]
        pathlib.Path(a.json).write_text(
            json.dumps({"sent": sent, "done": done, "problems": problems, "samples": samples})
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
