"""What requirements cost: beside pip in a shell, and what clients notice while one is installed.

What is installed comes from PyPI, or from what pip has cached of it.
"""

import statistics
import subprocess
import tempfile
import threading
import time

from process import connect
from rows import in_turn, row, timed
from table import Row

PYTHON = "/usr/bin/python3"
PACKAGES = ("six==1.16.0", "redis==4.5.1")
QUIET = 2
PAUSE = 0.0005


def in_a_shell(name):
    """Seconds that pip takes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [PYTHON, "-m", "pip", "install", "--quiet", "--target", folder, name]
        return timed(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))


def in_the_server(b, name):
    """Seconds until a script with the requirement has run."""
    words = ["FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    script = "GB('ShardsIDReader').run()"
    return timed(lambda: b.r.execute_command("RG.PYEXECUTE", script, *words))


class Prober(threading.Thread):
    """A client that gets a key, one request at a time."""

    def __init__(self, port):
        super().__init__()
        self.client = connect(port)
        self.times, self.ends = [], False

    def run(self):
        while not self.ends:
            self.times.append(timed(lambda: self.client.get("key")))
            time.sleep(PAUSE)

    def p99(self, work):
        """Milliseconds, while something else is done."""
        self.start()
        work()
        self.ends = True
        self.join()
        self.client.close()
        return statistics.quantiles(self.times, n=100)[-1] * 1e3


@row()
def install_requirement(b):
    """A script with a requirement that is installed anew, beside pip."""
    for name in PACKAGES:
        in_a_shell(name)
        runs = {"pip": lambda n=name: in_a_shell(n), "here": lambda n=name: in_the_server(b, n)}
        times = in_turn(b, runs)
        pip, here = (statistics.median(times[who]) for who in ("pip", "here"))
        b.add(
            Row(
                f"REQUIREMENTS {name}, installed anew (time)",
                f"{here:.2f} s",
                f"pip install in a shell {pip:.2f} s",
                here / pip,
                min(times["here"]) / min(times["pip"]),
                target=1.5,
                less=True,
                raw=times,
            )
        )


@row()
def get_during_install(b):
    """GET of one client while a requirement is installed."""
    name = PACKAGES[0]
    works = {
        "quiet": lambda: time.sleep(QUIET),
        "pip": lambda: in_a_shell(name),
        "here": lambda: in_the_server(b, name),
    }
    runs = {who: lambda work=work: Prober(b.port).p99(work) for who, work in works.items()}
    p99 = in_turn(b, runs)
    quiet, pip, here = (statistics.median(p99[who]) for who in works)
    b.add(
        Row(
            f"GET p99, one client, while {name} is installed (latency)",
            f"{here:.3f} ms",
            f"quiet {quiet:.3f} ms",
            here / quiet,
            min(p99["here"]) / min(p99["quiet"]),
            less=True,
            note=f"beside pip in a shell {pip:.3f} ms",
            raw=p99,
        )
    )
