"""Runs pip in a process of its own, behind everybody else who wants the processor.

The server may take note of the end of this process before the thread that waits for it can: the
last line says how it ended.
"""

import os
import runpy
import signal
import sys
import threading


def end_with(given):
    """Ends this process, and all that it has started, when this file ends: the server holds it."""
    while os.read(given, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def run():
    try:
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        # A pip that lacks a part of itself, as some distributions have it.
        print(f"pip failed: {error!r}")
        return 1
    return 0


os.nice(10)
given = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
threading.Thread(target=end_with, args=(given,), daemon=True).start()
try:
    import pip
except ImportError:
    code = "no pip"
else:
    code = run()
sys.stderr.flush()
print(f"\ngeartrain: {code}", flush=True)
