"""What requirements cost: beside pip in a shell, and what clients notice while one is installed.

`python tests/bench/requirements.py [rounds]`: prints a table; what is installed comes from PyPI.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from server import Server

PYTHON = "/usr/bin/python3"
PACKAGES = ("six==1.16.0", "redis==4.5.1", "numpy==1.26.4")
QUIET = 5


def in_a_shell(name):
    """Seconds that pip takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [PYTHON, "-m", "pip", "install", "--quiet", "--target", folder, name]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


def in_the_server(client, name):
    """Seconds until a script with the requirement has run."""
    words = ["FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    start = time.perf_counter()
    client.execute_command("RG.PYEXECUTE", "GB('ShardsIDReader').run()", *words)
    return time.perf_counter() - start


class Prober(threading.Thread):
    """A client that gets a key, one request at a time."""

    def __init__(self, server):
        super().__init__()
        self.wire = server.wire()
        self.times, self.ends = [], False

    def run(self):
        while not self.ends:
            start = time.perf_counter()
            self.wire.call("GET", "key")
            self.times.append(time.perf_counter() - start)
            time.sleep(0.0005)

    def stop(self):
        self.ends = True
        self.join()
        self.wire.close()
        return sorted(self.times)


def probed(server, work):
    prober = Prober(server)
    prober.start()
    work()
    return prober.stop()


def shown(name, times):
    at = [times[int(len(times) * part)] for part in (0.5, 0.99, 0.999)]
    p50, p99, p999, most = (f"{value * 1e6:.0f}" for value in (*at, times[-1]))
    print(f"| {name} | {len(times)} | {p50} | {p99} | {p999} | {most} |")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        options = ["--appendonly", "yes"]
        server = Server(folder, options=options).start()
        with server.client() as client:
            print(
                "| requirement | pip in a shell, s | REQUIREMENTS, s | ratio |\n|---|---|---|---|"
            )
            for name in PACKAGES:
                shell, inside = [], []
                in_a_shell(name)
                for _ in range(rounds):
                    shell.append(in_a_shell(name))
                    inside.append(in_the_server(client, name))
                a, b = statistics.median(shell), statistics.median(inside)
                print(f"| `{name}` | {a:.2f} | {b:.2f} | {b / a:.2f} |")
            print("\n| GET | requests | p50, us | p99 | p99.9 | most |\n|---|---|---|---|---|---|")
            shown("quiet", probed(server, lambda: time.sleep(QUIET)))
            for name in PACKAGES:

                def work(name=name):
                    for _ in range(rounds):
                        in_the_server(client, name)

                def shell(name=name):
                    for _ in range(rounds):
                        in_a_shell(name)

                shown(f"`{name}` is installed by pip in a shell", probed(server, shell))
                shown(f"`{name}` is installed", probed(server, work))
        server.stop()


main()
