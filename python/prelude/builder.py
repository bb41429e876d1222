"""What a script sees: GearsBuilder with its derived operations, and the names of RedisGears 1.x.

The module runs this file once. Every script gets a copy of the names it leaves, but for those that
begin with an underscore. Operations with a native twin (``_native``) are written out all the same:
they say what the twin does, and the tests compare both. Some modules are imported for scripts
alone, which found them in RedisGears 1.x without an import.
"""

import asyncio
import builtins
import copy
import cProfile
import dis
import importlib
import io
import itertools
import logging
import opcode
import operator
import pickle
import pstats
import struct
import sys
import traceback
import types
import weakref
from asyncio import Future
from copy import deepcopy as _deepcopy
from functools import lru_cache as _lru_cache
from functools import partial
from threading import Thread

import redisgears
import redisgears as rg
from redisgears import (
    PyFlatExecution,
    gearsCtx,
    getGearsSession,
    isAsyncAllow,
    isInAtomicBlock,
    log,
    registerGearsThread,
    setGearsSession,
)
from redisgears import atomicCtx as atomic
from redisgears import callNext as call_next
from redisgears import config_get as configGet
from redisgears import executeCommand as execute
from redisgears import flatError as flat_error
from redisgears import gearsFutureCtx as gearsFuture
from redisgears import getCommand as get_command
from redisgears import getMyHashTag as hashtag
from redisgears import overrideReply as override_reply
from redisgears import registerTimeEvent as registerTE

_TOKEN = object()
_compile, _exec = compile, exec
_compile_short = _lru_cache(maxsize=32)(compile)
"""For short scripts: clients send the same ones again and again."""
_NAMES = {}
"""What scripts begin with, filled when the first one does."""


def _native(*twin):
    """Names the native twin of a callback, for the module to call instead."""

    def mark(callback):
        callback.__geartrain__ = (_TOKEN, *twin)
        return callback

    return mark


@_native("str")
def _to_str(record):
    return str(record)


@_native("count")
def _count(acc, record):
    return 1 + (acc or 0)


def _add_counts(acc, record):
    return record + (acc or 0)


@_native("count_one")
def _count_one(key, acc, record):
    return 1 + acc


@_native("append")
def _append(acc, record):
    acc.append(record)
    return acc


def _extend(acc, records):
    acc.extend(records)
    return acc


@_native("add")
def _add(acc, record):
    acc.add(record)
    return acc


def _union(acc, records):
    acc |= records
    return acc


def _identity(record):
    return record


# What a callback may call without anybody looking into its frame.
_BLIND = frozenset(
    {"abs", "bool", "bytes", "chr", "float", "hash", "hex", "int", "len", "max", "min", "ord"}
    | {"range", "repr", "round", "str"}
)
_BLIND_API = frozenset({"execute", "hashtag", "configGet", "isInAtomicBlock"})
_ODD_CODE = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200  # *args, **kwargs, generators, coroutines


_BUILTINS = {name: getattr(builtins, name) for name in _BLIND}


def _is_blind(callback, name):
    """Whether a global name of a callback is a function that looks at no frame."""
    names = callback.__globals__
    if name in names:
        return name in _BLIND_API and names[name] is globals()[name]
    return name in _BLIND and getattr(builtins, name, None) is _BUILTINS[name]


def _looks_at_value(callback):
    """Whether a callback of one record may look at its value: the module need not read it if not.

    It does not if all it does with its argument is to take constant keys other than 'value' out
    of it, and all it calls are known functions, as in ``lambda r: len(r['key'])``. Everything that
    is not plainly so counts as a look: other code could look into the frame of the callback.
    """
    code = callback.__code__
    if code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & _ODD_CODE:
        return True
    if code.co_cellvars or code.co_freevars or getattr(code, "co_exceptiontable", b""):
        return True
    name = code.co_varnames[0]
    uses = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "RESUME")]
    for at, use in enumerate(uses):
        if use.opname.startswith(("IMPORT_", "MAKE_FUNCTION", "LOAD_NAME", "STORE_GLOBAL")):
            return True
        if use.opname.startswith("LOAD_GLOBAL") and not _is_blind(callback, use.argval):
            return True
        if use.argval != name and not (type(use.argval) is tuple and name in use.argval):
            continue
        key, take = [*uses[at + 1 : at + 3], None, None][:2]
        plain = (
            use.opname in ("LOAD_FAST", "LOAD_FAST_BORROW")
            and take is not None
            and key.opname == "LOAD_CONST"
            and key.argval in ("key", "event", "type")
            and (take.opname == "BINARY_SUBSCR" or take.argrepr == "[]")
            and not (key.is_jump_target or take.is_jump_target)
        )
        if not plain:
            return True
    return False


def _from_zero(zero, step):
    """An accumulator ``step(acc, record)`` that finds a copy of ``zero`` for a falsy ``acc``."""

    @_native("zero", zero, step)
    def accumulate(acc, record):
        return step(acc if acc else _deepcopy(zero), record)

    return accumulate


def _from_zero_by_key(zero, step):
    """The same for accumulators by key, ``step(key, acc, record)``."""

    @_native("zero", zero, step)
    def accumulate(key, acc, record):
        return step(key, acc if acc else _deepcopy(zero), record)

    return accumulate


def createKeysOnlyReader(pattern="*", count=1000, noScan=False, patternGenerator=None):
    """A generator function over the names of the keys of a shard.

    pattern: glob, or the name of a key with ``noScan``. count: a hint to SCAN.
    patternGenerator: called on the shard, returns ``(pattern, noScan)`` for it.
    """

    def keysOnlyReader():
        nonlocal pattern, noScan
        if patternGenerator is not None:
            pattern, noScan = patternGenerator()
        if noScan:
            try:
                exists = execute("EXISTS", pattern) == 1
            except redisgears.GearsError:
                exists = False
            if exists:
                yield pattern
            return
        cursor = "0"
        while True:
            cursor, keys = execute("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            yield from keys
            if cursor == "0":
                return

    return keysOnlyReader


def shardReaderCallback():
    """The reader behind ShardsIDReader: one record, the id of the shard."""
    shard = redisgears._shardId()
    yield "1" if shard is None else shard


def _swallow():
    """Runs until an interrupt that came too late is raised."""
    for _ in range(1000):
        pass


class GearsBuilder:
    """A function in the making: a reader and operations on its records.

    reader: KeysReader, KeysOnlyReader, StreamReader, PythonReader, ShardsIDReader or CommandReader.
    defaultArg: the argument of ``run`` where it gets none. desc: free text, shown in listings.
    """

    def __init__(self, reader="KeysReader", defaultArg="*", desc=None):
        self.realReader = reader
        if reader in ("KeysOnlyReader", "ShardsIDReader"):
            reader = "PythonReader"
        self.reader = reader
        self.gearsCtx = gearsCtx(self.reader, desc)
        self.defaultArg = defaultArg

    def __localAggregateby__(self, extractor, zero, aggregator):
        self.gearsCtx.localgroupby(extractor, _from_zero_by_key(zero, aggregator))
        return self

    def aggregate(self, zero, seqOp, combOp):
        """Accumulates from zero: seqOp(acc, record) on every shard, combOp(acc, acc) of these."""
        self.gearsCtx.accumulate(_from_zero(zero, seqOp))
        self.gearsCtx.collect()
        self.gearsCtx.accumulate(_from_zero(zero, combOp))
        return self

    def aggregateby(self, extractor, zero, seqOp, combOp):
        """Accumulates by key: seqOp(key, acc, record) on every shard, combOp(key, acc, acc)."""
        self.gearsCtx.localgroupby(extractor, _from_zero_by_key(zero, seqOp))
        merge = _from_zero_by_key(zero, combOp)
        self.gearsCtx.groupby(lambda r: r["key"], lambda k, a, r: merge(k, a, r["value"]))
        return self

    def count(self):
        """The number of records; nothing where there is none."""
        self.gearsCtx.accumulate(_count)
        self.gearsCtx.collect()
        self.gearsCtx.accumulate(_add_counts)
        return self

    def countby(self, extractor=lambda x: x):
        """The number of records by key."""
        return self.aggregateby(extractor, 0, _count_one, lambda k, a, r: r + a)

    def avg(self, extractor=lambda x: float(x)):
        """The average of what the extractor makes of the records."""
        self.gearsCtx.map(extractor)
        self.aggregate(
            (0, 0),
            lambda a, r: (a[0] + r, a[1] + 1),
            lambda a, r: (a[0] + r[0], a[1] + r[1]),
        )
        self.gearsCtx.map(lambda x: x[0] / x[1])
        return self

    def sort(self, reverse=True):
        """Sorts the records: ascending by default, since flatmap passes a list on from its end."""
        self.aggregate([], _append, _extend)
        self.gearsCtx.map(lambda r: sorted(r, reverse=reverse))
        self.gearsCtx.flatmap(_identity)
        return self

    def distinct(self):
        """Every record once. Records must be hashable."""
        self.aggregate(set(), _add, _union)
        self.gearsCtx.flatmap(lambda x: list(x))
        return self

    def run(self, arg=None, convertToStr=True, collect=True, **kargs):
        """Runs the function once, over the data there is.

        arg: what to read, by reader. convertToStr: results as text. collect: bring the results of
        all shards to this one. Returns a future of ``[results, errors]``, which a coroutine may
        await.
        """
        if convertToStr:
            self.gearsCtx.map(_to_str)
        if collect:
            self.gearsCtx.collect()
        future = createFuture()
        self.gearsCtx._whenDone(_Resolver(future))
        arg = arg if arg else self.defaultArg
        if self.realReader == "ShardsIDReader":
            arg = shardReaderCallback
        if self.realReader == "KeysOnlyReader":
            reader = createKeysOnlyReader(arg, **kargs)
            plain = type(arg) is str and type(kargs.get("count", 1)) is int
            plain = plain and kargs.get("count", 1) > 0 and not kargs.get("noScan")
            if plain and kargs.get("patternGenerator") is None:
                self.gearsCtx._runKeyNames(arg)
            else:
                self.gearsCtx.run(reader)
        else:
            self.gearsCtx.run(arg, **kargs)
        return future

    def register(self, prefix="*", convertToStr=True, collect=True, **kargs):
        """Registers the function to run when something happens. Returns the id of the registration.

        prefix: a key or stream, or with a ``*`` at its end all that begin so. Further arguments by
        reader: see docs/registrations.md.
        """
        if convertToStr:
            self.gearsCtx.map(_to_str)
        if collect:
            self.gearsCtx.collect()
        return self.gearsCtx.register(prefix, **kargs)


def _forward(name):
    def operation(self, *args):
        getattr(self.gearsCtx, name)(*args)
        return self

    operation.__name__ = operation.__qualname__ = name
    operation.__doc__ = getattr(PyFlatExecution, name).__doc__
    return operation


for _name in dir(PyFlatExecution):
    if not _name.startswith("_") and _name not in GearsBuilder.__dict__:
        setattr(GearsBuilder, _name, _forward(_name))

GB = GearsBuilder


def _names_of_script():
    """What a script begins with. It has a class of its own, so that what it changes in it stays
    with it; and no private names, or its own ones would not count where its functions arrive."""
    if not _NAMES:
        names = {name: value for name, value in globals().items() if not name.startswith("_")}
        names |= {name: globals()[name] for name in ("__builtins__", "__name__")}
        _NAMES.update(names)
    names = _NAMES.copy()
    names["GearsBuilder"] = names["GB"] = type("GearsBuilder", (GearsBuilder,), {})
    return names


class GearsSession:
    """Binds a session to the current thread for as long as the block lasts."""

    def __init__(self, s):
        self.s = s

    def __enter__(self):
        self.before = getGearsSession()
        setGearsSession(self.s)

    def __exit__(self, *exc):
        setGearsSession(self.before)


def gearsConfigGet(key, default=None):
    """The value of a setting, or the default where it has none."""
    value = configGet(key)
    return value if value is not None else default


def _deprecated(name, new, forward):
    def call(*args, **kargs):
        log(f"{name} is deprecated, use {new} instead", level="warning")
        return forward(*args, **kargs)

    call.__name__ = call.__qualname__ = name
    return call


Log = _deprecated("Log", "log", log)
ConfigGet = _deprecated("ConfigGet", "configGet", configGet)
GearsConfigGet = _deprecated("GearsConfigGet", "gearsConfigGet", gearsConfigGet)
