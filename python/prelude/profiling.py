"""What measures the callbacks of a session, and what RG.PYPROFILE shows of it.

A profiler measures the thread that enables it: there is one for each thread of a session. It may be
enabled once more while a call has not ended; what another one has measured meanwhile is part of it.
"""

import collections
import cProfile
import gc
import io
import pstats
import sys
import time


class Calls:
    """Measures as cProfile does, which since Python 3.12 measures one thread of a process only."""

    def __init__(self, clock=time.perf_counter):
        self.clock = clock
        self.entries = {}
        """name of a function -> what it took, and the same by caller"""
        self.open = []
        self.depth = collections.Counter()

    def enable(self):
        sys.setprofile(self._event)

    def disable(self):
        sys.setprofile(None)
        while self.open:
            self._end(self.clock())

    def snapshot_stats(self):
        self.stats = {
            name: (own.once, own.calls, own.inside, own.total, callers_of(callers))
            for name, (own, callers) in self.entries.copy().items()
        }

    def _event(self, frame, event, what):
        now = self.clock()
        if frame.f_globals is globals():
            return
        if event == "call":
            code = frame.f_code
            self._begin(frame, False, (code.co_filename, code.co_firstlineno, code.co_name), now)
        elif event == "c_call":
            self._begin(frame, True, ("~", 0, built_in(what)), now)
        elif self.open and self.open[-1].is_of(frame, event != "return"):
            # Others began before this was enabled.
            self._end(now)

    def _begin(self, frame, built_in, name, now):
        self.entries.setdefault(name, (Took(), {}))
        by = self.open[-1].name if self.open else None
        call = Call(frame, built_in, name, by, now)
        self.open.append(call)
        self.depth.update((name, (name, by)))

    def _end(self, now):
        call = self.open.pop()
        self.depth.subtract((call.name, (call.name, call.by)))
        took = now - call.begun
        own, callers = self.entries[call.name]
        own.add(took, took - call.within, self.depth[call.name] == 0)
        if self.open:
            self.open[-1].within += took
            by = callers.setdefault(call.by, Took())
            by.add(took, took - call.within, self.depth[call.name, call.by] == 0)


class Call:
    """A call that has not ended."""

    def __init__(self, frame, built_in, name, by, begun):
        self.frame, self.built_in, self.name, self.by = frame, built_in, name, by
        self.begun, self.within = begun, 0.0

    def is_of(self, frame, built_in):
        return self.frame is frame and self.built_in == built_in


class Took:
    """What calls took in all, and without the functions that they called."""

    def __init__(self):
        self.once, self.calls, self.inside, self.total = 0, 0, 0.0, 0.0

    def add(self, total, inside, outermost):
        self.calls += 1
        self.inside += inside
        if outermost:
            # What calls itself counts once.
            self.once += 1
            self.total += total


def callers_of(callers):
    return {
        by: (took.calls, took.once, took.inside, took.total) for by, took in callers.copy().items()
    }


def built_in(function):
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, type(sys)):
        return f"<built-in method {function.__module__}.{function.__name__}>"
    return f"<method '{function.__name__}' of '{type(owner).__name__}' objects>"


profiler = cProfile.Profile if sys.version_info < (3, 12) else Calls


class Taken:
    """What a profiler has measured so far, for pstats; the profiler goes on."""

    def __init__(self, profiler):
        # The thread that is measured may go on when a finalizer runs: not while cProfile looks.
        collects = gc.isenabled()
        gc.disable()
        try:
            profiler.snapshot_stats()
        finally:
            if collects:
                gc.enable()
        self.stats = profiler.stats

    def create_stats(self):
        pass


def is_order(order):
    """Whether the statistics can be sorted by it; shorter words do where they are clear."""
    return order in pstats.Stats(stream=io.StringIO()).get_sort_arg_defs()


def stats(profilers, order):
    """The statistics of all threads together, with callers and callees.

    An error of pstats where nothing was measured.
    """
    taken = [taken for taken in map(Taken, profilers) if taken.stats] or [Taken(profiler())]
    text = io.StringIO()
    merged = pstats.Stats(*taken, stream=text).sort_stats(order)
    merged.print_stats()
    merged.print_callers()
    merged.print_callees()
    return text.getvalue()
