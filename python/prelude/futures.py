"""Coroutines and futures, as scripts see them: run after builder.py, in the same names.

All coroutines of all sessions run on one thread, in one event loop. A coroutine carries the session
that started it in a context variable, which asyncio keeps over every await.
"""

import asyncio
import collections as _collections
import contextvars as _contextvars
import functools as _functools
import queue as _queue
import traceback as _traceback
import types as _types
import weakref as _weakref
from threading import Thread

import redisgears
from redisgears import getGearsSession, isInAtomicBlock, log

_SESSION = _contextvars.ContextVar("gears_session", default=None)
"""The session of the code that runs on the thread of the loop, with the command it answers."""


class GearsFuture(asyncio.Future):
    """A future of the event loop. It can not be awaited inside an atomic block."""

    def __await__(self):
        _refuse_in_atomic_block()
        return super().__await__()

    __iter__ = __await__


def _refuse_in_atomic_block():
    if isInAtomicBlock():
        raise Exception("await is not allow inside atomic block")


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        super().set_task_factory(_task)

    def create_future(self):
        return GearsFuture(loop=self)

    def call_at(self, when, callback, *args, context=None):
        if when != when:
            # It would be in the way of all timers behind it.
            raise ValueError("Invalid delay: NaN (not a number)")
        return super().call_at(when, callback, *args, context=context)

    def _shared(self):
        raise RuntimeError("the event loop is that of all scripts: it stays as it is")

    stop = close = set_task_factory = _shared


_NOBODYS = redisgears._Work()
_WORK = _contextvars.ContextVar("gears_work", default=_NOBODYS)
"""The work on a promise that a coroutine is part of, as are the tasks that it starts."""


def _guarded(coroutine):
    """Drives a coroutine; it may not wait inside an atomic block, which would hold the server."""
    value = error = None
    work = _WORK.get()
    while True:
        if error is None:
            ended, waited = work.send(coroutine, value)
            if ended:
                return waited
        else:
            try:
                waited = work.throw(coroutine, error)
            except StopIteration as end:
                return end.value
        if isInAtomicBlock():
            if getattr(waited, "_asyncio_future_blocking", None):
                waited._asyncio_future_blocking = False
            value, error = None, Exception("await is not allow inside atomic block")
            continue
        try:
            value, error = (yield waited), None
        except BaseException as raised:
            error = raised


_guarded = _types.coroutine(_guarded)


def _task(loop, coroutine, **options):
    return asyncio.Task(_guarded(coroutine), loop=loop, **options)


loop = _Loop()

_posted = _collections.deque()
_told = False


def _post(context, call, *arguments):
    """Has the thread of the loop call something soon. Many posts cost it one wake-up."""
    global _told
    _posted.append((context, call, arguments))
    if not _told:
        _told = True
        loop.call_soon_threadsafe(_take_posts)


def _take_posts():
    global _told
    _told = False
    while _posted:
        context, call, arguments = _posted.popleft()
        try:
            context.run(call, *arguments)
        except Exception:
            _complain("an event of the loop failed")


def _complain(what):
    log(f"{what}: {_traceback.format_exc()}", level="warning")


_called_off = _queue.SimpleQueue()
"""Tasks, and the work they are on, that nobody waits for any more."""


def _cancel(task):
    task = task()
    if task is not None:
        task.cancel()


def _call_off():
    running = []
    while True:
        try:
            task, work = _called_off.get(timeout=0.5 if running else None)
        except _queue.Empty:
            # What does not give way is interrupted; between, it may end what it has to.
            running = [work for work in running if work.interrupt()]
        else:
            _post(_contextvars.copy_context(), _cancel, task)
            running.append(work)


async def _keep_promise(coroutine, promise):
    try:
        value = await coroutine
    except BaseException as error:
        promise.fail(error)
    else:
        promise.keep(value)


def _begin(session, work, coroutine):
    _SESSION.set(session)
    _WORK.set(work)
    task = loop.create_task(coroutine)
    if work is not _NOBODYS:
        # No code in Python, which the interrupt of a step that is aborted may hit.
        work.ends_by(_functools.partial(_called_off.put, (_weakref.ref(task), work)))


def _post_task(session, work, coroutine):
    """Has the loop run a coroutine for a session."""
    _post(_contextvars.copy_context(), _begin, session, work, coroutine)


def _start(coroutine, promise, session):
    """Runs a coroutine that a callback returned; the promise gets what it comes to."""
    _post_task(session, promise.work(), _keep_promise(coroutine, promise))


def createFuture():
    """A future to be awaited by a coroutine, and set from any thread."""
    return loop.create_future()


def _set_result(future, value):
    if not future.done():
        future.set_result(value)


def _set_exception(future, error):
    if not future.done():
        future.set_exception(error)


def _check_future(f):
    if not asyncio.isfuture(f):
        raise TypeError(f"a future is expected, as createFuture returns it, not {type(f).__name__}")


def setFutureResults(f, v):
    """Gives a future its result. From any thread."""
    _check_future(f)
    _post(_contextvars.copy_context(), _set_result, f, v)


def setFutureException(f, e):
    """Has a future fail with an exception, or with ``Exception(str(e))``. From any thread."""
    _check_future(f)
    # asyncio takes no StopIteration.
    plain = isinstance(e, Exception) and not isinstance(e, StopIteration)
    error = e if plain else Exception(str(e))
    _post(_contextvars.copy_context(), _set_exception, f, error)


async def _run_later(coroutine, delay):
    if delay:
        await asyncio.sleep(delay)
    return await coroutine


async def _run_alone(coroutine):
    try:
        await coroutine
    except asyncio.CancelledError:
        pass
    except BaseException:
        _complain("a coroutine failed")


def runCoroutine(cr, f=None, delay=0, s=None):
    """Runs a coroutine on the event loop, after so many seconds.

    f: what ``gearsFuture`` returned: it gets the outcome. s: the session to run in, by default the
    current one. What fails without an f is written to the server's log.
    """
    if not asyncio.iscoroutine(cr):
        raise TypeError(f"runCoroutine takes a coroutine, not {type(cr).__name__}")
    if f is not None and not isinstance(f, redisgears.PyFuture):
        raise TypeError(f"runCoroutine takes what gearsFuture returns, not {type(f).__name__}")
    if s is not None and not isinstance(s, redisgears.PyExecutionSession):
        raise redisgears.GearsError("Given object is not of type GearsSession")
    session = getGearsSession() if s is None else s
    later = _run_later(cr, delay)
    if f is None:
        _post_task(session, _NOBODYS, _run_alone(later))
    else:
        promise = f._promise()
        _post_task(session, promise.work(), _keep_promise(later, promise))


class _Resolver:
    """Gives a future the outcome of an execution. It keeps alive who awaits the future."""

    def __init__(self, future):
        self.future = future

    def __call__(self, results, errors):
        setFutureResults(self.future, [results, errors])

    def is_awaited(self):
        """Whether somebody else keeps the future."""
        future, self.future = _weakref.ref(self.future), None
        self.future = future()
        return self.future is not None


def _run_loop():
    redisgears._ownLoop()
    asyncio.set_event_loop(loop)
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:  # SystemExit, which ends an ordinary loop
            _complain("the event loop goes on")


Thread(target=_run_loop, name="geartrain-asyncio", daemon=True).start()
Thread(target=_call_off, name="geartrain-cancel", daemon=True).start()
