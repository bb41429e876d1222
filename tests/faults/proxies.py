"""A cluster whose shards speak to each other through proxies, which can cut single links.

Every shard announces the port of its proxy. The cluster's own bus goes its own way, and so do the
clients of tests; what a connection is for is known as soon as a shard says who it is.

    shard A -> proxy of B -> shard B
"""

import asyncio
import contextlib
import enum
import re
import threading

from server import wait_until

from cluster import Cluster

HELLO = re.compile(rb"RG\.HELLO\r\n\$\d+\r\n[^\r]*\r\n\$40\r\n([0-9a-f]{40})\r\n", re.IGNORECASE)
MAX = 1 << 16


class Cut(enum.Enum):
    """What becomes of the connections over a link."""

    CLOSED = "closed, and new ones as soon as it is known whose they are"
    FROZEN = "nothing comes through until the cut is healed; then it does"
    SWALLOWED = "nothing comes through; when the cut is healed they are closed"


async def received(reader):
    """The next bytes; none when the connection is closed or broken."""
    try:
        return await reader.read(MAX)
    except ConnectionError:
        return b""


class Pipe:
    """A connection to a shard."""

    def __init__(self, proxy, outer, inner):
        self.proxy = proxy
        self.outer, self.inner = outer, inner
        self.peer = None
        self.heard = b""

    def close(self):
        for _, writer in (self.outer, self.inner):
            writer.transport.abort()

    async def carry(self, source, target, forth):
        while data := await received(source[0]):
            if forth and self.peer is None:
                self.identify(data)
            cut = self.proxy.cuts.get(self.peer)
            while cut and cut is not Cut.SWALLOWED:
                if cut is Cut.CLOSED:
                    return
                await self.proxy.changed()
                cut = self.proxy.cuts.get(self.peer)
            if cut is Cut.SWALLOWED:
                continue
            target[1].write(data)
            with contextlib.suppress(ConnectionError):
                await target[1].drain()

    def identify(self, data):
        self.heard = (self.heard + data)[-1000:]
        if found := HELLO.search(self.heard):
            self.peer = found[1].decode()

    async def run(self):
        ways = [
            asyncio.create_task(self.carry(self.outer, self.inner, True)),
            asyncio.create_task(self.carry(self.inner, self.outer, False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


class Proxy:
    """Stands before a shard. Its methods but `cut` and `heal` belong to the thread of the loop."""

    def __init__(self, loop, shard):
        self.loop = loop
        self.shard = shard
        self.cuts = {}
        self.pipes = set()
        self.change = asyncio.Event()
        self.port = asyncio.run_coroutine_threadsafe(self.listen(), loop).result(10)

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def changed(self):
        await self.change.wait()

    async def serve(self, reader, writer):
        try:
            inner = await asyncio.open_connection("127.0.0.1", self.shard.port)
        except OSError:
            writer.transport.abort()
            return
        pipe = Pipe(self, (reader, writer), inner)
        self.pipes.add(pipe)
        try:
            await pipe.run()
        finally:
            self.pipes.discard(pipe)

    def cut(self, peer, how):
        """What that shard says to this one does not arrive, nor what this one answers."""
        self.call(self._set, peer.id, how)

    def heal(self, peer):
        self.call(self._set, peer.id, None)

    def _set(self, peer, how):
        before = self.cuts.pop(peer, None)
        if how:
            self.cuts[peer] = how
        if how is Cut.CLOSED or before is Cut.SWALLOWED:
            for pipe in [pipe for pipe in self.pipes if pipe.peer == peer]:
                pipe.close()
        self.change.set()
        self.change = asyncio.Event()

    def call(self, function, *args):
        async def done():
            function(*args)

        asyncio.run_coroutine_threadsafe(done(), self.loop).result(10)

    def peers(self):
        """The ids of the shards that are connected."""
        return {pipe.peer for pipe in list(self.pipes)}


class ProxiedCluster(Cluster):
    """`proxies` and `servers` are in the same order."""

    def start(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=asyncio.run, args=[self.serve(ready)], daemon=True)
        self.thread.start()
        assert ready.wait(10)
        super().start()
        wait_until(self.goes_through_proxies, what="links through proxies")
        return self

    async def serve(self, ready):
        """The proxies' thread; tasks that are left are cancelled at its end."""
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        ready.set()
        await self.over.wait()
        for server in self.servers:
            server.proxy.server.close()

    def new_server(self):
        server = super().new_server()
        server.proxy = Proxy(self.loop, server)
        server.options += ["--cluster-announce-ip", "127.0.0.1"]
        server.options += ["--cluster-announce-port", str(server.proxy.port)]
        return server

    def goes_through_proxies(self):
        """Whether all shards are linked, and none over a connection that can not be cut."""
        ids = {server.id for server in self.servers}
        return all(ids - {server.id} <= server.proxy.peers() for server in self.servers)

    def kill(self):
        super().kill()
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.over.set)
            self.thread.join(10)
