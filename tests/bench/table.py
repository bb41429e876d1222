"""What a row holds and how the rows are shown."""

import contextlib
import dataclasses
import os
import pathlib
import platform
import subprocess
import time

from process import FLOOR_PYTHON


def si(x, unit=""):
    """1270000 -> '1.27M'."""
    for step, letter in ((1e6, "M"), (1e3, "k")):
        if x >= step:
            return f"{x / step:.3g}{letter}{unit}"
    return f"{x:.3g}{unit}"


@dataclasses.dataclass
class Row:
    """A line of the table. Figures are medians over the rounds."""

    name: str
    measured: str
    yardstick: str = ""
    reached: float | None = None
    best: float | None = None
    unit: str = "x"
    target: float | None = None
    aim: float | None = None
    less: bool = False
    note: str = ""
    cpu_us: float | None = None
    raw: dict = dataclasses.field(default_factory=dict)
    error: str = ""

    def meets(self, bound):
        return self.reached <= bound if self.less else self.reached >= bound

    @property
    def verdict(self):
        if self.error:
            return "WRONG"
        if self.target is None or self.reached is None:
            return "-"
        if not self.meets(self.target):
            return "missed"
        return "aim" if self.aim is not None and self.meets(self.aim) else "reached"

    def bound(self, value):
        if value is None:
            return ""
        return f"{'<=' if self.less else '>='} {self.figure(value)}"

    def figure(self, value):
        if value is None:
            return ""
        return f"{value:.2f} x" if self.unit == "x" else f"{value:.3g} {self.unit}"

    def cells(self):
        cpu = f"{self.cpu_us:.2f}" if self.cpu_us is not None else ""
        return [
            self.name,
            self.measured,
            self.yardstick,
            self.figure(self.reached),
            self.figure(self.best),
            self.bound(self.target),
            self.bound(self.aim),
            "WRONG: " + self.error if self.error else self.verdict,
            cpu,
            self.note,
        ]


HEAD = [
    "workload",
    "measured",
    "yardstick",
    "reached",
    "best",
    "target",
    "aim",
    "verdict",
    "us/record",
    "note",
]


def cpu_model():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def describe(b, seconds):
    """What was measured on what."""
    info = b.r.info("server")
    name = info.get("server_name", "redis")
    version = info.get("valkey_version") if name == "valkey" else info["redis_version"]
    import redis

    client = redis.__version__
    with contextlib.suppress(ImportError):
        import hiredis

        client += f" with hiredis {hiredis.__version__}"
    floor = subprocess.run([FLOOR_PYTHON, "-V"], capture_output=True, text=True, check=False)
    return {
        "server": f"{name} {version}",
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "redis-py": client,
        "plain loop": floor.stdout.strip(),
        "keys": b.a.keys,
        "big keys": b.a.big_keys,
        "ints": b.a.ints,
        "requests": b.a.requests,
        "entries": b.a.entries,
        "rounds": b.a.rounds,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
    }


def markdown_table(head, rows):
    def line(cells):
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def markdown(meta, rows):
    """The page docs/benchmarks.md."""
    facts = "\n".join(f"- {k}: {v}" for k, v in meta.items())
    return f"""# Benchmarks

One run of `make bench` (`tests/bench/bench.py`), client and server on one machine. Repeat it with
the same command; the header of the script explains units and yardsticks. Yardstick and workload
run in turn, *reached* is the ratio of their medians, *best* that of their best times. A ratio
compares records per second (more is better) unless the row names a time or a latency (less is
better). *us/record* is the CPU time of the whole server process per record, of a cluster that of
all servers. Rows without a target are there for comparison.

{markdown_table(HEAD, [r.cells() for r in rows])}

{facts}
"""


def print_table(rows):
    cells = [HEAD[:-1]] + [r.cells()[:-1] for r in rows]
    widths = [max(len(c[i]) for c in cells) for i in range(len(HEAD) - 1)]
    for c in cells:
        print("  ".join(x.ljust(w) for x, w in zip(c, widths, strict=True)).rstrip())
