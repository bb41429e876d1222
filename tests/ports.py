"""Ports for the servers of one run of the tests. No other run takes them, and no client: they are
below those that the system gives to outgoing connections."""

import fcntl
import itertools
import pathlib
import socket
import tempfile

BLOCKS = [range(first, first + 500) for first in range(11_000, 30_000, 500)]


def _reserve():
    """A block of ports, and the file that is locked for as long as this process lives."""
    for block in BLOCKS:
        path = pathlib.Path(tempfile.gettempdir(), f"geartrain-tests-ports-{block.start}")
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return block, file
    raise RuntimeError(f"{len(BLOCKS)} runs of the tests have all blocks of ports")


_block, _lock = _reserve()
_ports = itertools.cycle(_block)


def free_port():
    """A port that nothing listens on; the last one to be given again."""
    for _ in _block:
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"all ports of {_block} are taken")
