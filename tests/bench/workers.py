#!/usr/bin/env python3
"""Processes beside the benchmark, which talk by stdin and stdout: `workers.py NAME ARGUMENT...`.

They run with the interpreter of the plain loop, so there is no redis-py in them.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time

from people import person


def floor_loops(keys, ints):
    """Plain loops, by name, each returning its result. Records are built here, outside the time."""
    records = [
        {"event": None, "key": f"person:{i}", "type": "hash", "value": person(i)}
        for i in range(keys)
    ]
    age = lambda x: int(x["value"]["age"])  # noqa: E731
    over = lambda a: a > 30  # noqa: E731
    family = lambda x: x["value"]["name"].split(" ")[1]  # noqa: E731
    add_one = lambda a, r: 1 + (a if a else 0)  # noqa: E731
    add_group = lambda k, a, r: a + 1  # noqa: E731
    double = lambda x: x * 2  # noqa: E731
    third = lambda x: x % 3 == 0  # noqa: E731

    def map_filter_count():
        acc = None
        for r in records:
            a = age(r)
            if over(a):
                acc = add_one(acc, a)
        return acc

    def count():
        acc = None
        for r in records:
            acc = add_one(acc, r)
        return acc

    def aggregateby():
        accs = {}
        for r in records:
            k = family(r)
            accs[k] = add_group(k, accs.get(k, 0), r)
        return len(accs)

    def numbers():
        for i in range(ints):  # noqa: UP028, as the workload writes it
            yield i

    def int_loop():
        acc = None
        for x in numbers():
            y = double(x)
            if third(y):
                acc = add_one(acc, y)
        return acc

    return {
        "map_filter_count": map_filter_count,
        "count": count,
        "aggregateby": aggregateby,
        "ints": int_loop,
    }


def floor_worker(keys, ints):
    """Reads names of loops from stdin, answers one JSON line each: [seconds, result]."""
    loops = floor_loops(int(keys), int(ints))
    print("ready", flush=True)
    for line in sys.stdin:
        t = time.perf_counter()
        result = loops[line.strip()]()
        print(json.dumps([time.perf_counter() - t, result]), flush=True)


def prober_worker(port):
    """PINGs every millisecond until stdin closes; prints gaps between replies, in milliseconds.

    A gap is the time from one reply to the next, so about 1.1 ms on a quiet machine. It runs at
    a raised priority where that is allowed, or the scheduler's delays would be counted as the
    server's.
    """
    with contextlib.suppress(OSError):
        os.nice(-15)
    with socket.create_connection(("127.0.0.1", int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gaps = []
        last = None
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            s.sendall(b"PING\r\n")
            s.recv(64)
            now = time.perf_counter()
            if last is not None:
                gaps.append((now - last) * 1000)
            last = now
            time.sleep(0.001)
    gaps.sort()
    print(
        json.dumps(
            {
                "pings": len(gaps),
                "p50": gaps[len(gaps) // 2],
                "p99": gaps[int(len(gaps) * 0.99)],
                "max": gaps[-1],
            }
        )
    )


def caller_worker(port, reply, *words):
    """Sends a command, one at a time without a pause, until stdin closes; prints its latencies.

    `reply` is the only right one, its line ends written as in Python. As for the prober, the
    priority is raised where that is allowed.
    """
    with contextlib.suppress(OSError):
        os.nice(-15)
    right = reply.encode().decode("unicode_escape").encode()
    command = b"*%d\r\n" % len(words)
    command += b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in map(str.encode, words))
    with socket.create_connection(("127.0.0.1", int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        latencies = []
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            t = time.perf_counter()
            s.sendall(command)
            got = b""
            while len(got) < len(right):
                piece = s.recv(4096)
                got += piece
                if not piece or not right.startswith(got):
                    print(json.dumps({"wrong": repr(got)}))
                    return
            latencies.append((time.perf_counter() - t) * 1000)
    latencies.sort()
    print(
        json.dumps(
            {
                "calls": len(latencies),
                "p50": latencies[len(latencies) // 2],
                "p99": latencies[int(len(latencies) * 0.99)],
                "max": latencies[-1],
            }
        )
    )


WORKERS = {"floor": floor_worker, "prober": prober_worker, "caller": caller_worker}

if __name__ == "__main__":
    WORKERS[sys.argv[1]](*sys.argv[2:])
