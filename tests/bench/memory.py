"""The resident set during and after batch functions."""

import time

from batch import OVER_30
from people import over_30
from process import MIB, Server, check
from rows import is_int, row
from table import Row, si


@row()
def memory_count(b):
    """Peak resident set during count() over many hashes, minus the one before; a fresh server."""
    n = b.a.big_keys
    with Server(b.module) as server:
        b.people(n, server=server)
        server.run("GB().map(lambda x: x).count().run('nobody:*')")
        for name, script, expected, target in (
            ("count()", "GB().count().run('person:*')", n, 64),
            ("map + filter + count", OVER_30, over_30(n), None),
        ):
            before = server.settled_rss()
            server.reset_peak()
            for _ in range(3):
                check(is_int(expected)(server.run(script)), "wrong result")
            peak, after = server.status("VmHWM"), server.settled_rss()
            b.add(
                Row(
                    f"memory: {name} over {si(n)} hashes",
                    f"peak {peak / MIB:.0f} MiB",
                    f"before {before / MIB:.0f} MiB",
                    (peak - before) / MIB,
                    unit="MiB",
                    target=target,
                    less=True,
                    note=f"{(after - before) / MIB:+.1f} MiB left afterwards; three runs",
                    raw={"before": before, "peak": peak, "after": after},
                )
            )


@row()
def memory_repeat(b):
    """Resident set after the first tenth of the repetitions and after the last; a fresh server."""
    times = b.a.repeat
    sizes = []
    with Server(b.module) as server:
        b.people(100, server=server)
        script = (
            "def family(x):\n    return x['value']['name'].split(' ')[1]\n"
            "GB().map(lambda x: x).filter(lambda x: int(x['value']['age']) > 30)"
            ".countby(family).count().run('person:*')"
        )
        right = is_int(over_30(100))
        t = time.perf_counter()
        for i in range(times):
            check(right(server.run(script)), "wrong result")
            if (i + 1) % max(1, times // 10) == 0:
                sizes.append(server.status("VmRSS") / MIB)
        t = time.perf_counter() - t
    b.add(
        Row(
            f"memory: a function over 100 hashes repeated {times:,} times",
            f"{sizes[-1]:.1f} MiB",
            f"after the first tenth {sizes[0]:.1f} MiB",
            sizes[-1] - sizes[0],
            unit="MiB",
            target=4,
            less=True,
            note=f"{times / t:.0f} runs/s; every tenth: " + " ".join(f"{s:.1f}" for s in sizes),
            raw={"rss_mib": sizes},
        )
    )
