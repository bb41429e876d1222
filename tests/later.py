"""Words for scripts whose steps answer later, and for tests that wait for them."""

from server import wait_until

KEEP = """
waiting = []
def keep(value):
    'A future of this value, which `release` continues.'
    future = gearsFuture()
    waiting.append((future, value))
    return future
def let_go(r):
    released = 0
    for entry in list(waiting):
        try:
            entry[0].continueRun(entry[1])
        except Exception as error:
            # its callback has not returned it yet
            if 'untill' not in str(error):
                raise
        else:
            waiting.remove(entry)
            released += 1
    return released
GB('CommandReader').map(let_go).register(trigger='release', mode='sync')
"""
"""A registration's `keep(value)` waits until a test says `release`."""

SOON = """
import threading, time
def tell(future, method, value):
    while True:
        try:
            return getattr(future, method)(value)
        except Exception as error:
            if 'untill' not in str(error):
                raise
            time.sleep(0.0005)
def soon(value, method='continueRun'):
    'A future that another thread continues in a moment.'
    future = gearsFuture()
    threading.Thread(target=tell, args=(future, method, value)).start()
    return future
def fails_soon(text):
    return soon(text, 'continueFailed')
"""

ASLEEP = """
import asyncio
async def later(value):
    await asyncio.sleep(0)
    return value
async def wait_for(key='go'):
    execute('set', 'held{%s}' % hashtag(), 1)
    while execute('get', '%s{%s}' % (key, hashtag())) is None:
        await asyncio.sleep(0.002)
"""
"""`await wait_for()` waits as `hold` of env.py does: for `Env.go`."""


def release(env, count=1):
    """Continue futures on all shards until there were so many."""
    released = 0

    def so():
        nonlocal released
        released += sum(int(n) for shard in env.shards for n in shard.trigger("release"))
        return released >= count

    wait_until(so, what=f"{count} futures of {released}")
    assert released == count


def begin(server, *words):
    """A connection on which a command waits for its reply."""
    wire = server.wire()
    wire.send(*words)
    return wire
