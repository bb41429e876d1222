"""Sessions are upgraded while their functions are called: no call fails, none is answered by two
versions, no event is lost or seen twice, and memory stays as it is.

UPGRADES=1000 runs that many; a hundred are enough to see whether it works.
"""

import os
import threading
import time

import pytest
from server import wait_until

UPGRADES = int(os.environ.get("UPGRADES", "100"))
SCRIPT = """
import asyncio
version = {version}
def first(x):
    return version
def answer(x):
    return '%d %d' % (x, version)
for mode in ('sync', 'async', 'async_local'):
    GB('CommandReader').map(first).map(answer).register(trigger='t:' + mode, mode=mode)
GB('CommandReader').map(first).map(answer) \\
    .register(trigger='t:inorder', mode='async_local', inorder=True)
async def later(x):
    await asyncio.sleep(0.001)
    return answer(x)
GB('CommandReader').map(first).map(answer).register(hook='strlen', keyprefix='h:', mode='{hook}')
GB('CommandReader').map(first).map(later).register(trigger='t:later', mode='async')
GB().foreach(lambda r: execute('incr', 'seen{{%s}}' % hashtag())).register('k:*', mode='sync')
"""
"""Every step tells its version: an answer that two versions gave would show both."""

MODES = ["sync", "async", "async_local", "inorder", "later"]
HOOKS = ["sync", "async_local"]
"""The mode of the hook, by version."""
FLAT = (10 << 10, 2 << 20)
"""What memory may change by: of a server in kB, of Python in bytes."""


class Callers:
    """Clients that call triggers and write keys until they are told to stop."""

    def __init__(self, env):
        self.stop = threading.Event()
        self.calls = 0
        self.writes = dict.fromkeys(env.shards, 0)
        self.wrong = []
        self.applied = 0
        """Of this version's script the client had an answer: nothing older answers any more."""
        calls = [(self.call, (shard, mode)) for shard in env.shards for mode in MODES]
        calls += [(self.call_hook, (shard, shard.key("h:x"))) for shard in env.shards]
        writes = [(self.write, (shard, shard.key("k:x"))) for shard in env.shards]
        self.threads = [threading.Thread(target=what, args=of) for what, of in calls + writes]

    def call(self, shard, mode):
        with shard.server.wire() as wire:
            while not self.stop.is_set():
                least = self.applied
                self.check(wire.call("RG.TRIGGER", f"t:{mode}"), mode, least)
                self.calls += 1

    def call_hook(self, shard, key):
        with shard.server.wire() as wire:
            while not self.stop.is_set():
                least = self.applied
                reply = wire.call("STRLEN", key)
                self.check([reply] if isinstance(reply, bytes) else reply, "hook", least)
                self.calls += 1

    def check(self, reply, mode, least):
        seen = {word for answer in reply for word in answer.split()} if type(reply) is list else ()
        if len(seen) != 1 or int(next(iter(seen))) < least:
            self.wrong.append((mode, least, reply))

    def write(self, shard, key):
        with shard.server.wire() as wire:
            while not self.stop.is_set():
                reply = wire.call("SET", key, "x")
                self.writes[shard] += 1
                if reply != "OK":
                    self.wrong.append(("write", reply))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


def memory(shard):
    """What a shard takes in kB, and Python there in bytes."""
    with open(f"/proc/{shard.server.process.pid}/status") as status:
        (resident,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
    return resident, shard.call("RG.PYSTATS")[5]


def script(version):
    return SCRIPT.format(version=version, hook=HOOKS[version % 2])


@pytest.mark.timeout(900)
def test_upgrades_under_load(env):
    env.register(script(0), "ID", "s")
    begin = time.monotonic()
    with Callers(env) as callers:
        for version in range(1, UPGRADES + 1):
            reply = env.call("RG.PYEXECUTE", script(version), "ID", "s", "UPGRADE")
            assert reply == "OK", reply
            callers.applied = version
            assert callers.wrong == []
            if version == UPGRADES // 2:
                before = env.each(memory)
    took = time.monotonic() - begin
    assert callers.wrong == []
    assert callers.calls > UPGRADES
    for shard in env.shards:
        (session,) = shard.sessions()
        assert len(session["registrations"]) == 7
        wait_until(lambda shard=shard: shard.sessions("DEAD") == [], what="the end of old sessions")
        for mode in MODES:
            assert set(shard.trigger(f"t:{mode}")) == {f"{UPGRADES} {UPGRADES}"}
        assert int(shard.client.get(shard.key("seen"))) == callers.writes[shard]
    after = env.each(memory)
    print(f"{UPGRADES} upgrades, {callers.calls} calls in {took:.1f} s; {before} -> {after}")
    for shard_before, shard_after in zip(before, after, strict=True):
        for was, now, most in zip(shard_before, shard_after, FLAT, strict=True):
            assert now - was < most


VERSION = """
GB('CommandReader').map(lambda x: {version}).register(trigger='t', mode='sync')
GB().foreach(lambda r: None).register('k:*', mode='sync')
"""


@pytest.mark.parametrize("words", [["s", "UPGRADE"], None], ids=["upgrade", "replace"])
def test_two_clients_change_one_session(env, words):
    """Each change is made everywhere or nowhere; all shards have the same one in the end."""
    env.register(VERSION.format(version=0), "ID", "s")
    made, refused = [], []

    def change(shard, first):
        with shard.server.wire() as wire:
            for version in range(first, first + 20):
                how = words or [f"s{version}", "REPLACE_WITH", only_id(shard)]
                script = VERSION.format(version=version)
                reply = wire.call("RG.PYEXECUTE", script, "ID", *how)
                (made if reply == "OK" else refused).append((version, reply))

    def only_id(shard):
        return shard.sessions()[0]["ID"]

    threads = [
        threading.Thread(target=change, args=(shard, at * 100 + 1))
        for at, shard in enumerate([env.shards[0], env.shards[-1]])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made
    for _, reply in refused:
        text = str(reply)
        known = ["being changed", "already registered", "already exists", "does not exists"]
        assert any(word in text for word in known), text
    wait_until(lambda: len({tuple(ids(shard)) for shard in env.shards}) == 1, what="agreement")
    answers = env.each(lambda shard: shard.trigger("t"))
    assert answers == answers[:1] * env.shard_count
    assert int(answers[0][0]) in [version for version, _ in made]
    for shard in env.shards:
        (session,) = shard.sessions()
        assert len(session["registrations"]) == len(shard.registrations()) == 2
        assert session["registrations"] == ids(shard)


def ids(shard):
    return [entry["id"] for entry in shard.registrations()]
