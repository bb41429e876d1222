"""The functions of the soak test, and its clients: `soakload.py PORT SEED CLIENTS`.

A client sends what is drawn, looks at each reply and goes on until stdin closes; the process then
prints what was sent and which replies were wrong. The keyspace stays small whatever the time.
"""

import collections
import json
import random
import socket
import sys
import threading
import time
import traceback

from process import connect, encode

KEYS = 300
STREAMS = 3
EXPECTED = "expected failure"

PRELUDE = f"""
import random
def must(ok, record):
    if not ok:
        raise Exception('WRONG: %r' % (record,))
def fails(chance):
    if random.random() < chance and not execute('EXISTS', 'calm'):
        raise Exception('{EXPECTED}')
"""

# name -> script; what they find wrong with their records is in lastError
KEY_FUNCTIONS = {
    "keys-sync": """
def work(r):
    must((r['event'], r['type']) == ('set', 'string') and r['value'].startswith('v'), r)
GB(desc=NAME).foreach(work).register('ks:*', mode='sync', eventTypes=['set'],
    keyTypes=['string'])
""",
    "keys-sync-names": """
GB(desc=NAME).foreach(lambda r: must(list(r) == ['event', 'key'], r)).register('kn:*',
    mode='sync', readValue=False)
""",
    "keys-local": """
def work(r):
    must(r['event'] == 'lpush' and r['type'] in ('list', 'empty'), r)
    execute('INCR', 'count:local')
GB(desc=NAME).foreach(work).register('kl:*', mode='async_local', eventTypes=['lpush'])
""",
    "keys-local-names": """
def work(r):
    must(r['event'] in ('incrby', 'del') and len(r) == 2, r)
GB(desc=NAME).foreach(work).register('km:*', mode='async_local', readValue=False,
    eventTypes=['incrby', 'DEL'], onRegistered=lambda: execute('INCR', 'count:registered'))
""",
    "keys-async": """
def work(r):
    must(r['event'] in ('set', 'expired') and r['type'] in ('string', 'empty'), r)
GB(desc=NAME).filter(lambda r: True).foreach(work).register('ka:*', mode='async',
    eventTypes=['set', 'expired'], keyTypes=['string', 'empty'])
""",
    "keys-miss": """
GB(desc=NAME).foreach(lambda r: override_reply('made ' + r['key'])).register('kc:*',
    mode='sync', commands=['get'], eventTypes=['keymiss'])
""",
    "keys-override": """
def work(r):
    try:
        override_reply('added ' + get_command()[2])
    except Exception as error:  # in a transaction nobody waits
        must('Can not get command ctx' in str(error), str(error))
GB(desc=NAME).foreach(work).register('kd:*', mode='async_local', commands=['incrby'],
    eventTypes=['incrby'])
""",
    "keys-fails": """
GB(desc=NAME).foreach(lambda r: fails(0.3)).register('kf:*', mode='async_local')
""",
    "keys-behind": """
def work(r):
    execute('XADD', 'behind', '*', 'key', r['key'], 'value', r['value'])
GB(desc=NAME).foreach(work).register('wb:*', mode='sync', eventTypes=['set'])
""",
}
CHECK_ENTRY = """
def check(r):
    must(list(r) == ['key', 'id', 'value'] and r['value']['n'].isdigit(), r)
"""
STREAM_FUNCTIONS = {
    "stream-single": """
def work(r):
    check(r)
    fails(0.1)
GB('StreamReader', desc=NAME).foreach(work).register('s1:*', mode='async_local', batch=1)
""",
    "stream-batches": """
GB('StreamReader', desc=NAME).foreach(check).count().register('s2:*', mode='async', batch=10,
    duration=50)
""",
    "stream-untrimmed": """
GB('StreamReader', desc=NAME).foreach(check).register('s3:*', mode='async_local', batch=5,
    duration=20, trimStream=False)
""",
    "stream-abort": """
def work(r):
    check(r)
    if 'bad' in r['value']:
        fails(0.5)
GB('StreamReader', desc=NAME).foreach(work).register('s4:*', mode='async_local', batch=3,
    duration=20, onFailedPolicy='abort')
""",
    "stream-retry": """
def work(r):
    check(r)
    if 'bad' in r['value']:
        fails(0.5)
GB('StreamReader', desc=NAME).foreach(work).register('s5:*', mode='async', batch=4,
    duration=20, onFailedPolicy='retry', onFailedRetryInterval=1)
""",
    "stream-two-a": """
GB('StreamReader', desc=NAME).foreach(check).register('s6:*', mode='async_local', batch=1)
""",
    "stream-two-b": """
GB('StreamReader', desc=NAME).count().foreach(lambda n: must(0 < n <= 7, n)).register(
    's6:*', mode='async', batch=7, duration=30)
""",
    "stream-sync": """
GB('StreamReader', desc=NAME).foreach(check).register('s7:*', mode='sync', batch=3,
    duration=20)
""",
    "stream-behind": """
def work(r):
    must(set(r['value']) == {'key', 'value'}, r)
    execute('INCR', 'count:behind')
GB('StreamReader', desc=NAME).foreach(work).register('behind', mode='async_local', batch=20,
    duration=20, onFailedPolicy='retry')
""",
}
ANSWER = f"""
def answer(x):
    if x[1] == 'fail':
        raise Exception('{EXPECTED}')
    return x[0] + ' ' + x[1]
GB('CommandReader', desc=NAME).map(answer).register(trigger=NAME, """
COMMAND_FUNCTIONS = {
    "trigger-sync": ANSWER + "mode='sync')",
    "trigger-async": ANSWER + "mode='async')",
    "trigger-local": ANSWER + "mode='async_local')",
    "trigger-inorder": ANSWER + "mode='async_local', inorder=True)",
    "hook-sync": """
GB('CommandReader', desc=NAME).map(lambda x: 'hooked %s' % call_next(*x[1:])).register(
    hook='hget', keyprefix='hk:', mode='sync')
""",
    "hook-local": """
GB('CommandReader', desc=NAME).map(lambda x: call_next(*x[1:]) + 1000).register(
    hook='strlen', keyprefix='hl:', mode='async_local')
""",
}
TRIGGERS = [name for name in COMMAND_FUNCTIONS if name.startswith("trigger")]
FUNCTIONS = {
    name: f"NAME = '{name}'\n{PRELUDE}{CHECK_ENTRY}{body}"
    for name, body in {**KEY_FUNCTIONS, **STREAM_FUNCTIONS, **COMMAND_FUNCTIONS}.items()
}
ABSENT = "subcommand not found"
"""A trigger that is not registered at that moment."""
UNANSWERED = "Command hook must return exactly one result"
"""A hook that was aborted while it waited for its turn."""
NO_BLOCKING = "can not run a non-sync execution"


class Client(threading.Thread):
    """Draws what to send; `ask` notes replies that nothing registered or not can explain."""

    def __init__(self, port, seed):
        super().__init__(daemon=True)
        self.port = port
        self.random = random.Random(seed)
        self.r = connect(port)
        self.sent = collections.Counter()
        self.wrong = []
        self.going = True
        self.n = 0
        self.choices = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("send_")
        ]

    def run(self):
        while self.going:
            choice = self.random.choice(self.choices)
            self.n += 1
            try:
                choice()
            except Exception:
                self.wrong.append(f"{choice.__name__}: {traceback.format_exc()[-400:]}")
                if len(self.wrong) > 20:
                    return
            self.sent[choice.__name__.removeprefix("send_")] += 1
            time.sleep(self.random.random() * 0.002)

    def ask(self, right, *words):
        """One command; `right` looks at the reply, which may be an exception."""
        import redis

        try:
            reply = self.r.execute_command(*words)
        except redis.ResponseError as error:
            reply = error
        if not right(reply):
            kind = "error" if isinstance(reply, Exception) else type(reply).__name__
            self.wrong.append(f"{' '.join(map(str, words))[:150]}: {kind} {reply}"[:500])

    def key(self, prefix, count=KEYS):
        return f"{prefix}:{self.random.randrange(count)}"

    def send_set(self):
        self.ask(is_ok, "SET", self.key("ks"), f"v{self.n}")

    def send_hset(self):
        self.ask(is_number, "HSET", self.key("kn"), "f", self.n)
        self.ask(lambda x: x is None or x.isdigit(), "HGET", self.key("kn", 2 * KEYS), "f")

    def send_push(self):
        key = self.key("kl")
        self.ask(is_number, "LPUSH", key, self.n)
        self.ask(is_ok, "LTRIM", key, 0, 9)

    def send_incr_del(self):
        self.ask(is_number, "INCR", self.key("km"))
        if self.random.random() < 0.2:
            self.ask(is_number, "DEL", self.key("km"))

    def send_expire(self):
        self.ask(is_ok, "SET", self.key("ka"), f"v{self.n}", "PX", self.random.randrange(1, 300))

    def send_get_miss(self):
        key = self.key("kc")
        self.ask(lambda x: x in (None, f"made {key}", "here"), "GET", key)
        if self.random.random() < 0.3:
            self.ask(is_ok, "SET", key, "here", "PX", 50)

    def send_incrby(self):
        by = self.random.randrange(1, 9)
        self.ask(lambda x: is_number(x) or x == f"added {by}", "INCRBY", self.key("kd"), by)

    def send_failing(self):
        self.ask(is_ok, "SET", self.key("kf"), self.n)

    def send_behind(self):
        self.ask(is_ok, "SET", self.key("wb"), self.n)

    def add(self, kind, *more, cap=()):
        stream = self.key(f"s{kind}", STREAMS)
        self.ask(is_entry, "XADD", stream, *cap, "*", "n", self.n, *more)

    def send_entries(self):
        for kind in (1, 2, 6, 7):
            self.add(kind)

    def send_capped_entries(self):
        bad = ("bad", 1) if self.random.random() < 0.005 else ()
        self.add(3, cap=("MAXLEN", 500))
        self.add(4, *bad, cap=("MAXLEN", 500))
        self.add(5, *bad, cap=("MAXLEN", 500))

    def send_trigger(self):
        name = self.random.choice(TRIGGERS)
        word = "fail" if self.random.random() < 0.1 else f"{self.n}"

        def right(x):
            if ABSENT in str(x) or (x == [] and name != "trigger-sync"):
                return True  # not registered, or aborted while it waited for its turn
            return EXPECTED in str(x) if word == "fail" else x == [f"{name} {word}"]

        self.ask(right, "RG.TRIGGER", name, word)

    def send_trigger_and_leave(self):
        if self.random.random() < 0.1:
            with socket.create_connection(("127.0.0.1", self.port)) as s:
                s.sendall(encode("RG.TRIGGER", self.random.choice(TRIGGERS), "left"))

    def send_hooked(self):
        key = self.key("hk")
        self.ask(is_number, "HSET", key, "f", "v")
        self.ask(lambda x: x in ("v", "hooked v"), "HGET", key, "f")
        key = self.key("hl")
        self.ask(is_ok, "SET", key, "12345")
        self.ask(lambda x: str(x) in ("5", "1005") or UNANSWERED in str(x), "STRLEN", key)

    def send_transaction(self):
        name = self.random.choice(TRIGGERS)
        pipe = self.r.pipeline(transaction=True)
        pipe.execute_command("RG.TRIGGER", name, self.n)
        pipe.set(self.key("ks"), f"v{self.n}")
        pipe.incrby(self.key("kd"), 1)
        first, second, third = pipe.execute(raise_on_error=False)
        allowed = ABSENT if name == "trigger-sync" else NO_BLOCKING
        fine = first == [f"{name} {self.n}"] or allowed in str(first) or ABSENT in str(first)
        if not (fine and second is True and is_number(third)):
            self.wrong.append(f"MULTI with {name}: {first}, {second}, {third}")

    def send_script(self):
        script = "return redis.call('RG.TRIGGER', 'trigger-sync', ARGV[1])"
        self.ask(
            lambda x: x == [f"trigger-sync {self.n}"] or ABSENT in str(x),
            "EVAL",
            script,
            0,
            self.n,
        )

    def send_batch(self):
        if self.random.random() < 0.1:
            self.ask(
                lambda x: isinstance(x, list) and x[1] == [] and all(map(str.isdigit, x[0])),
                "RG.PYEXECUTE",
                "GB().count().run('k*')",
            )


def is_ok(reply):
    return reply in ("OK", True)


def is_number(reply):
    return type(reply) is int


def is_entry(reply):
    return isinstance(reply, str) and reply.count("-") == 1


def main():
    port, seed, count = map(int, sys.argv[1:])
    clients = [Client(port, seed * 1000 + i) for i in range(count)]
    for client in clients:
        client.start()
    print("ready", flush=True)
    sys.stdin.read()
    for client in clients:
        client.going = False
    for client in clients:
        client.join(90)
    wrong = [w for client in clients for w in client.wrong]
    wrong += [f"client {i} hangs" for i, client in enumerate(clients) if client.is_alive()]
    sent = sum((client.sent for client in clients), collections.Counter())
    print(json.dumps({"sent": sent, "wrong": wrong[:50], "wrong_count": len(wrong)}))


if __name__ == "__main__":
    main()
