"""Everything at once, from several clients, then a stop in the middle of it."""

import random
import signal
import threading
import time

import redis

EXECUTIONS = 1000
CLIENTS = 4
SCRIPTS = [
    "GB('ShardsIDReader').run()",
    "GB().count().run()",
    "GB().map(lambda r: r['value']).countby(lambda v: v[-1]).run('key:1*')",
    "GB().map(lambda r: r['key']).filter(lambda k: k[-1] == '7').sort().run('key:*')",
    "GB().map(lambda r: r['key']).sort().limit(10).run()",
    "GB('KeysOnlyReader').limit(20).run()",
    "GB().limit(200).foreach(lambda r: execute('incr', 'n')).run()",
    "GB().limit(50).groupby(lambda r: r['key'], lambda k, a, r: r).run()",
    "GB('PythonReader', lambda: (i for i in range(2000))).map(lambda x: x * x).avg().run()",
    "GB('PythonReader', lambda: ('x' * 1000 for i in range(200))).run()",
    "GB('StreamReader').run('stream')",
]
FAILING = [
    "nonsense +",
    "raise ValueError('top')",
    "GB().run()\nraise ValueError('after')",
    "GB().map(lambda r: nope).run()",
    "GB().map(lambda r: 1 // (len(r['key']) - 6)).count().run()",
    "GB('PythonReader', lambda: (1 // (5 - i) for i in range(100))).run()",
    "GB().map(lambda r: exit()).run()",
    "GB('PythonReader').run(5)",
]
ENDLESS = [
    "def f(r):\n    while True: pass\nGB('ShardsIDReader').foreach(f).run()",
    "def f(r):\n    while True: execute('get', 'n')\nGB('ShardsIDReader').foreach(f).run()",
    "def f():\n    while True: yield 1\nGB('PythonReader').filter(lambda x: False).run(f)",
    "def f(r):\n    while True:\n        with atomic(): execute('ping')\n"
    "GB('ShardsIDReader').foreach(f).run()",
]


class Worker(threading.Thread):
    """One client: starts executions and ends every endless one that it started."""

    def __init__(self, env, seed, executions):
        super().__init__()
        self.env, self.executions = env, executions
        self.random = random.Random(seed)
        self.client = env.server.client()
        self.failure, self.refusals = None, 0

    def run(self):
        try:
            for _ in range(self.executions):
                self.one()
        except Exception as error:
            self.failure = error
        finally:
            self.client.close()

    def one(self):
        dice = self.random.random()
        if dice < 0.35:
            results, errors = self.execute(self.random.choice(SCRIPTS))
            assert isinstance(results, list)
            assert errors == []
        elif dice < 0.5:
            self.tolerant("RG.PYEXECUTE", self.random.choice(FAILING))
        elif dice < 0.6:
            self.leave(self.random.choice(SCRIPTS + FAILING))
        elif dice < 0.7:
            self.end(self.execute(self.random.choice(ENDLESS), "UNBLOCKING"))
        else:
            identifier = self.tolerant(
                "RG.PYEXECUTE", self.random.choice(SCRIPTS + FAILING), "UNBLOCKING"
            )
            if isinstance(identifier, str) and "-" in identifier:
                self.meddle(identifier)

    def execute(self, *words):
        return self.client.execute_command("RG.PYEXECUTE", *words)

    def tolerant(self, *words):
        try:
            return self.client.execute_command(*words)
        except redis.ResponseError:
            self.refusals += 1

    def leave(self, script):
        with self.env.server.wire() as wire:
            wire.send("RG.PYEXECUTE", script)

    def meddle(self, identifier):
        for _ in range(self.random.randrange(4)):
            command = self.random.choice(
                ["RG.ABORTEXECUTION", "RG.DROPEXECUTION", "RG.GETRESULTS", "RG.GETEXECUTION"]
            )
            self.tolerant(command, identifier)
        if self.random.random() < 0.5:
            self.tolerant("RG.GETRESULTSBLOCKING", identifier)
        if self.random.random() < 0.2:
            assert isinstance(self.client.execute_command("RG.DUMPEXECUTIONS"), list)

    def end(self, identifier):
        if self.random.random() < 0.5:
            time.sleep(self.random.random() / 100)
        assert self.client.execute_command("RG.ABORTEXECUTION", identifier) == "OK"
        results, errors = self.client.execute_command("RG.GETRESULTSBLOCKING", identifier)
        assert results == []
        assert len(errors) <= 1
        assert self.client.execute_command("RG.DROPEXECUTION", identifier) == "OK"


def half(env, seed):
    workers = [Worker(env, seed + i, EXECUTIONS // CLIENTS // 2) for i in range(CLIENTS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.failure for worker in workers] == [None] * CLIENTS
    assert sum(worker.refusals for worker in workers) > 0
    env.reset()
    fill(env)


def fill(env):
    env.client.execute_command("DEBUG", "POPULATE", 2000)
    for i in range(20):
        env.client.xadd("stream", {"n": i}, id=f"{i + 1}-0")
    env.client.set("n", 0)


def test_a_thousand_executions_and_a_stop(new_env):
    env = new_env()
    env.reset()
    fill(env)
    seed = random.randrange(10**6)
    print("seed", seed)
    half(env, seed)
    first = env.server.resident()
    half(env, seed + 100)
    second = env.server.resident()
    assert second - first < 24 << 20, f"{first >> 20} MiB, then {second >> 20} MiB"
    for script in ENDLESS + SCRIPTS:
        env.start(script)
    with env.server.wire() as wire:
        wire.send("RG.PYEXECUTE", ENDLESS[0])
        assert env.server.stop(timeout=30) == 0
    log = env.server.log()
    assert "crashed by signal" not in log
    assert "panicked" not in log


def stop_during(env, script):
    env.start(script)
    assert env.server.stop(timeout=30) == 0
    assert "crashed by signal" not in env.server.log()


def test_a_stop_while_a_callback_loops(new_env):
    for script in ENDLESS:
        stop_during(new_env(), script)


def test_a_stop_while_a_callback_sleeps(new_env):
    script = "import time\nGB('ShardsIDReader').foreach(lambda x: time.sleep(1000)).run()"
    stop_during(new_env(), script)


def test_a_stop_while_keys_are_read(new_env):
    env = new_env()
    env.client.execute_command("DEBUG", "POPULATE", 300000)
    stop_during(env, "GB().map(lambda r: r['value']).sort().run()")


def test_a_stop_while_a_script_runs(new_env):
    env = new_env()
    with env.server.wire() as wire:
        wire.send("RG.PYEXECUTE", "execute('set', 'started', 1)\nwhile True: pass")
        while not env.client.exists("started"):
            time.sleep(0.001)
        assert env.server.stop(timeout=30) == 0


def test_a_stop_by_command(new_env):
    env = new_env()
    env.start(ENDLESS[0])
    with env.server.wire() as wire:
        wire.send("SHUTDOWN", "NOSAVE")
        assert env.server.wait(timeout=30) == 0


def test_a_restart_after_a_kill(new_env):
    env = new_env()
    env.start(ENDLESS[0])
    env.server.process.send_signal(signal.SIGKILL)
    env.server.process.wait()
    env.server.kill()
    env.server.start()
    assert env.client.ping()
    with env.server.wire() as wire:
        assert wire.call("RG.PYEXECUTE", "GB('ShardsIDReader').run()") == [[b"1"], []]
