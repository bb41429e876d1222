#!/usr/bin/env python3
"""Functions over a million keys of an online shop while clients work: `make realdata`.

    realdata.py                       1.02 million keys, two to four minutes on two cores
    realdata.py --keys 50000          a small shop
    realdata.py --markdown FILE --json FILE

It starts its own server (as bench.py does, same environment variables), loads a generated shop and
runs each function twice: on the quiet server, and while 50 clients of redis-benchmark send SET and
GET in turn, as fast as they can, to 1,000 keys of their own. Each result is compared with what the
generator noted down while it made the data. A wrong result, an error record, an error reply to any
client or a failing client makes the exit status 1. Slowness does not.

The shop, the same for the same --seed and --keys:
    customer:N          hash, 3-40 fields, their number Pareto distributed; some fields are not
                        UTF-8 (old imports), some are longer than the compact encoding allows
    session:HEX         string, JSON of 60-300 bytes, with a time to live of 6-48 hours
    cart:N              list of 1-60 articles, popular ones more often (Zipf-like)
    tags:ARTICLE        set of 1-25 tags
    board:N             sorted set, 5-5,000 players, log-normal
    orders:STORE        stream, 1-2,000 orders, log-normal
    doc:ARTICLE         string, JSON, log-normal: median 400 bytes, up to hundreds of KB
    thumb:ARTICLE       string, random bytes (not UTF-8), log-normal: median 900 bytes
    views:PAGE          string, a number
    legacy:<bytes>      string; the key itself is not UTF-8
    key:0000000000NN    string, the clients' own

Units: s = elapsed seconds at the client; records/s = records read from the keyspace per elapsed
second; ms = milliseconds; MiB = 2**20 bytes; op/s = SET and GET of the 50 clients together per
second; p99 = of their latency, the median over redis-benchmark's runs.
"""

import argparse
import ast
import collections
import dataclasses
import heapq
import itertools
import json
import pathlib
import random
import statistics
import sys
import time

from process import MIB, Repeater, Server, check, encode, feed, module_path, redis_benchmark
from table import cpu_model, markdown_table, si

COUNTRIES = ["DE", "FR", "US", "GB", "IT", "ES", "PL", "NL", "SE", "JP", "BR", "IN"]
STATES = ["paid", "shipped", "returned", "cancelled"]
CITIES = ["Berlin", "Paris", "Łódź", "São Paulo", "大阪", "Malmö", "New York", "Bologna"]
TEXT = (
    "light blue cotton shirt with a soft collar für den Sommer élégante et légère for every "
    "day washable robust tested 100% recycled packaging ships within two days"
)
CLIENT_KEYS = 1000


@dataclasses.dataclass
class Known:
    """What the generator knows about the data it made."""

    keys: int = 0
    by_prefix: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    by_type: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    elements: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    string_bytes: int = 0
    payload: int = 0
    spent: list = dataclasses.field(default_factory=list)
    spent_by_country: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    articles: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    stock: int = 0
    orders: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    amounts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    largest_store: tuple = (0, "")
    best_player: tuple = (0, "")
    undecodable: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    largest_value: int = 0

    def key(self, prefix, kind, elements=0, value=b""):
        """Notes one more key; returns nothing."""
        self.keys += 1
        self.by_prefix[prefix] += 1
        self.by_type[kind] += 1
        if kind == "string":
            self.string_bytes += len(value)
            self.largest_value = max(self.largest_value, len(value))
        else:
            self.elements[kind] += elements


def is_text(value):
    try:
        value.decode()
        return True
    except UnicodeDecodeError:
        return False


class Shop:
    """Makes encoded commands in a fixed order and fills `known` on the way."""

    def __init__(self, keys, seed):
        self.keys = keys
        self.random = random.Random(seed)
        self.known = Known()
        words = TEXT.split()
        self.text = " ".join(self.random.choice(words) for _ in range(150_000)).encode()
        self.spare = self.random.randbytes(1 << 20)

    def part(self, share):
        """How many keys a share in per mille is."""
        return max(1, self.keys * share // 1000)

    def lognormal(self, median, sigma, low, high):
        return min(high, max(low, int(self.random.lognormvariate(0, sigma) * median)))

    def article(self):
        """A popular article is more likely: the r-th in proportion to about r**-1.6."""
        return f"A{min(50_000, int(self.random.paretovariate(0.6))):05d}"

    def commands(self):
        makers = (
            self.customers,
            self.sessions,
            self.carts,
            self.tags,
            self.boards,
            self.orders,
            self.docs,
            self.thumbs,
            self.views,
            self.legacy,
            self.clients,
        )
        return itertools.chain.from_iterable(make() for make in makers)

    def customers(self):
        rnd, known = self.random, self.known
        for i in range(self.part(330)):
            country = COUNTRIES[min(len(COUNTRIES) - 1, int(rnd.paretovariate(0.8)) - 1)]
            spent = self.lognormal(8_000, 1.5, 0, 10**9)
            fields = {"name": f"Customer {i}", "country": country, "spent": spent}
            for k in range(min(37, int(rnd.paretovariate(0.9)) - 1)):
                fields[f"field{k}"] = self.customer_field(k)
            if not all(is_text(v) for v in fields.values() if isinstance(v, bytes)):
                known.undecodable["customer"] += 1
            known.key("customer", "hash", len(fields))
            known.spent.append((spent, f"customer:{i}"))
            known.spent_by_country[country] += spent
            yield encode("HSET", f"customer:{i}", *itertools.chain(*fields.items()))

    def customer_field(self, k):
        dice = self.random.random()
        if dice < 0.01:
            return "Münchner Straße".encode("latin-1")
        if dice < 0.05:
            return self.slice(70, 300)
        if dice < 0.4:
            return CITIES[k % len(CITIES)]
        return str(self.random.randrange(10**6))

    def slice(self, low, high):
        """Some text, as bytes, cut at a blank so that it stays UTF-8."""
        size = self.random.randrange(low, high)
        start = self.text.index(b" ", self.random.randrange(len(self.text) - high - 100)) + 1
        return self.text[start : self.text.index(b" ", start + size)]

    def sessions(self):
        rnd, known = self.random, self.known
        for i in range(self.part(300)):
            value = b'{"user": %d, "page": "/shop/%d", "agent": "%s"}' % (
                rnd.randrange(10**6),
                rnd.randrange(10**4),
                self.slice(10, 230),
            )
            known.key("session", "string", value=value)
            yield encode(
                "SET",
                f"session:{rnd.getrandbits(64):016x}{i:x}",
                value,
                "EX",
                rnd.randrange(6 * 3600, 48 * 3600),
            )

    def carts(self):
        known = self.known
        for i in range(self.part(80)):
            articles = [self.article() for _ in range(self.lognormal(3, 0.8, 1, 60))]
            known.articles.update(articles)
            known.key("cart", "list", len(articles))
            yield encode("RPUSH", f"cart:{i}", *articles)

    def tags(self):
        for i in range(self.part(70)):
            tags = {
                f"tag{self.lognormal(40, 1.2, 0, 5000)}"
                for _ in range(self.lognormal(5, 0.7, 1, 25))
            }
            self.known.key("tags", "set", len(tags))
            yield encode("SADD", f"tags:A{i:05d}", *sorted(tags))

    def boards(self):
        known = self.known
        for i in range(self.part(3)):
            size = self.lognormal(60, 1.2, 5, 5000)
            scores = {
                f"player{self.random.randrange(10**6)}": self.random.randrange(10**6)
                for _ in range(size)
            }
            known.best_player = max(known.best_player, max((s, p) for p, s in scores.items()))
            known.key("board", "zset", len(scores))
            yield encode(
                "ZADD", f"board:{i}", *itertools.chain(*((s, p) for p, s in scores.items()))
            )

    def orders(self):
        rnd, known = self.random, self.known
        for i in range(self.part(4)):
            size = self.lognormal(20, 1.1, 1, 2000)
            known.key("orders", "stream", size)
            known.largest_store = max(known.largest_store, (size, f"orders:{i}"))
            for k in range(size):
                state = STATES[min(3, int(rnd.expovariate(1.0)))]
                amount = self.lognormal(4_000, 0.9, 100, 10**7)
                known.orders[state] += 1
                known.amounts[state] += amount
                yield encode(
                    "XADD",
                    f"orders:{i}",
                    f"{1_700_000_000_000 + 977 * k}-{k % 3}",
                    "state",
                    state,
                    "amount",
                    amount,
                    "customer",
                    rnd.randrange(10**6),
                )

    def docs(self):
        rnd, known = self.random, self.known
        for i in range(self.part(120)):
            size = self.lognormal(400, 1.6, 80, 600_000)
            stock = rnd.randrange(1000)
            known.stock += stock
            value = b'{"article": "A%05d", "price": %d.%02d, "stock": %d, "text": "%s"}' % (
                i,
                rnd.randrange(1, 500),
                rnd.randrange(100),
                stock,
                self.slice(size, size + 10),
            )
            known.key("doc", "string", value=value)
            yield encode("SET", f"doc:A{i:05d}", value)

    def thumbs(self):
        for i in range(self.part(40)):
            size = self.lognormal(900, 0.9, 16, 100_000)
            start = self.random.randrange(len(self.spare) - size)
            value = b"\x89PNG" + self.spare[start : start + size]
            self.known.key("thumb", "string", value=value)
            self.known.undecodable["thumb"] += 1
            yield encode("SET", f"thumb:A{i:05d}", value)

    def views(self):
        for i in range(self.part(55)):
            value = b"%d" % self.lognormal(50, 2, 0, 10**8)
            self.known.key("views", "string", value=value)
            yield encode("SET", f"views:/page/{i}", value)

    def legacy(self):
        for i in range(self.part(2)):
            value = "Größe %d".encode("latin-1") % i
            self.known.key("legacy", "string", value=value)
            self.known.undecodable["legacy"] += 1
            yield encode("SET", b"legacy:\xfc\xff%d" % i, value)

    def clients(self):
        for i in range(CLIENT_KEYS):
            self.known.key("key", "string", value=b"xxx")
            yield encode("SET", f"key:{i:012d}", b"xxx")


# ----------------------------------------------------------------------------------- functions


@dataclasses.dataclass
class Function:
    """A script, the number of records its reader yields, and what a right result is."""

    name: str
    script: str
    records: int
    right: object


def one(expected):
    """The results are one Python literal, equal to `expected`."""
    return lambda got: len(got) == 1 and ast.literal_eval(got[0]) == expected


def grouped(expected):
    """The results are {'key': ..., 'value': ...} for exactly these groups."""

    def right(got):
        pairs = [ast.literal_eval(g) for g in got]
        return len(pairs) == len(expected) and {p["key"]: p["value"] for p in pairs} == expected

    return right


TOP = """
import heapq
def top(n):
    keep = lambda a, r: heapq.nlargest(n, a + (r if isinstance(r, list) else [r]))
    return ([], keep, keep)
"""

SIZE = """
def size(v):
    return len(v.encode()) if isinstance(v, str) else len(v)
"""

# An entry of a stream's value and a member of a sorted set's, whatever pair or dict they come as.
ENTRIES = """
def entries(stream):
    for e in stream.items() if isinstance(stream, dict) else stream:
        yield e['value'] if isinstance(e, dict) else e[1]
def best(zset):
    pairs = zset.items() if isinstance(zset, dict) else zset
    return max((int(float(score)), member) for member, score in pairs)
"""


def functions(known):
    """All functions that are run; the last ones write and read what was written."""
    types = dict(known.by_type)
    types["unknown"] = types.pop("stream")
    everything = known.keys
    prefix = known.by_prefix
    collections_ = known.by_type["set"] + known.by_type["zset"] + known.by_type["stream"]
    sizes = {k: known.elements[k] for k in ("hash", "list", "set", "zset", "stream")}
    gold = sorted(s for s, _ in known.spent)[-max(1, len(known.spent) // 20)]
    golden = sum(1 for s, _ in known.spent if s >= gold)
    stores = prefix["orders"]
    return [
        Function(
            "keys by type (countby)",
            "GB().countby(lambda r: r['type']).run()",
            everything,
            grouped(types),
        ),
        Function("count()", "GB().count().run()", everything, one(everything)),
        Function(
            "KeysOnlyReader count of sessions",
            "GB('KeysOnlyReader').count().run('session:*')",
            prefix["session"],
            one(prefix["session"]),
        ),
        Function(
            "bytes of all strings (aggregate)",
            SIZE
            + """
GB().filter(lambda r: r['type'] == 'string').map(lambda r: size(r['value'])) \\
    .aggregate(0, lambda a, r: a + r, lambda a, r: a + r).run()""",
            everything,
            one(known.string_bytes),
        ),
        Function(
            "ten best customers (aggregate)",
            TOP
            + """
GB().map(lambda r: (int(r['value']['spent']), r['key'])).aggregate(*top(10)).run('customer:*')""",
            prefix["customer"],
            one(heapq.nlargest(10, known.spent)),
        ),
        Function(
            "sales by country (aggregateby)",
            """
GB().aggregateby(lambda r: r['value']['country'], 0,
                 lambda k, a, r: a + int(r['value']['spent']),
                 lambda k, a, r: a + r).run('customer:*')""",
            prefix["customer"],
            grouped(dict(known.spent_by_country)),
        ),
        Function(
            "ten most wanted articles in carts (flatmap, countby)",
            TOP
            + """
GB().flatmap(lambda r: r['value']).countby() \\
    .map(lambda g: (g['value'], g['key'])).aggregate(*top(10)).run('cart:*')""",
            prefix["cart"],
            one(heapq.nlargest(10, ((n, a) for a, n in known.articles.items()))),
        ),
        Function(
            "stock in all JSON documents (json)",
            """
import json
GB().map(lambda r: json.loads(r['value'])['stock']) \\
    .aggregate(0, lambda a, r: a + r, lambda a, r: a + r).run('doc:*')""",
            prefix["doc"],
            one(known.stock),
        ),
        Function(
            "values and keys that are not UTF-8 (countby)",
            """
def odd(r):
    v = r['value']
    return (isinstance(r['key'], bytearray) or isinstance(v, bytearray)
            or isinstance(v, dict) and any(isinstance(x, bytearray) for x in v.values()))
def prefix(key):
    return (key if isinstance(key, str) else key.decode('latin-1')).split(':')[0]
GB().filter(odd).countby(lambda r: prefix(r['key'])).run()""",
            everything,
            grouped(dict(known.undecodable)),
        ),
        Function(
            "largest stream (StreamReader)",
            f"""
GB('StreamReader').countby(lambda r: r['value']['state']).aggregate(
    0, lambda a, r: a + r['value'], lambda a, r: a + r).run('{known.largest_store[1]}')""",
            known.largest_store[0],
            one(known.largest_store[0]),
        ),
        Function(
            "sets, zsets, streams without values (default)",
            "GB().filter(lambda r: r['type'] in ('set', 'zset', 'unknown'))"
            ".countby(lambda r: str(r['value'])).run()",
            everything,
            grouped({"None": collections_}),
        ),
        Function(
            "elements by type (allValues=True)",
            """
GB().filter(lambda r: r['type'] != 'string').aggregateby(
    lambda r: 'stream' if r['type'] == 'unknown' else r['type'], 0,
    lambda k, a, r: a + len(r['value']), lambda k, a, r: a + r).run(allValues=True)""",
            everything,
            grouped(sizes),
        ),
        Function(
            "orders by state (allValues=True)",
            ENTRIES
            + """
GB().flatmap(lambda r: list(entries(r['value']))).aggregateby(
    lambda e: e['state'], [0, 0],
    lambda k, a, e: [a[0] + 1, a[1] + int(e['amount'])],
    lambda k, a, r: [a[0] + r[0], a[1] + r[1]]).run('orders:*', allValues=True)""",
            stores,
            grouped({s: [known.orders[s], known.amounts[s]] for s in STATES if known.orders[s]}),
        ),
        Function(
            "best player of all boards (allValues=True)",
            ENTRIES
            + """
GB().map(lambda r: best(r['value'])).aggregate((), max, max).run('board:*', allValues=True)""",
            prefix["board"],
            one(known.best_player),
        ),
        Function(
            "mark the best 5 % of customers (foreach HSET)",
            f"""
GB().filter(lambda r: int(r['value']['spent']) >= {gold}) \\
    .foreach(lambda r: execute('HSET', r['key'], 'tier', 'gold')).count().run('customer:*')""",
            prefix["customer"],
            one(golden),
        ),
        Function(
            "count the marked ones",
            """
GB().filter(lambda r: r['value'].get('tier') == 'gold').count().run('customer:*')""",
            prefix["customer"],
            one(golden),
        ),
        Function(
            "take the mark away (foreach HDEL)",
            """
GB().filter(lambda r: 'tier' in r['value']) \\
    .foreach(lambda r: execute('HDEL', r['key'], 'tier')).count().run('customer:*')""",
            prefix["customer"],
            one(golden),
        ),
    ]


# ----------------------------------------------------------------------------------------- run


class Foreground:
    """50 clients sending SET and GET in turn, as fast as the server answers."""

    def __init__(self, server, requests):
        self.server = server
        self.requests = requests
        self.runs = []

    def once(self):
        for test in ("set", "get"):
            self.runs.append(
                redis_benchmark(
                    self.server.port, "-c", 50, "-n", self.requests, "-r", CLIENT_KEYS, "-t", test
                )
            )

    def rate(self):
        """SET and GET per second."""
        return statistics.harmonic_mean([r["rps"] for r in self.runs])

    def latency(self, which):
        """'p50', 'p99' or 'max' of the runs' latencies in ms: the median run's."""
        return statistics.median(r[which] for r in self.runs)

    def worst(self):
        return max(r["max"] for r in self.runs)


def measure(server, todo):
    """Runs every function once -> {name: seconds}, {name: what went wrong}."""
    seconds, wrong = {}, {}
    for f in todo:
        t = time.perf_counter()
        try:
            got = server.run(f.script)
            seconds[f.name] = time.perf_counter() - t
            check(f.right(got), f"wrong result: {str(got)[:150]}")
        except Exception as e:
            seconds.setdefault(f.name, time.perf_counter() - t)
            wrong[f.name] = f"{type(e).__name__}: {e}"[:400]
            print(f"  {f.name}: {wrong[f.name]}", flush=True)
            if not server.alive():
                sys.exit(f"the server is gone; its log ends:\n{server.tail()}")
    return seconds, wrong


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--keys", type=int, default=1_020_000, help="about (default 1020000)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", metavar="TEXT", help="functions whose name contains TEXT")
    p.add_argument(
        "--requests",
        type=int,
        default=100_000,
        help="requests per run of redis-benchmark (default 100000)",
    )
    p.add_argument(
        "--load-only",
        action="store_true",
        help="no module: load the data, run the clients, verify a sample",
    )
    p.add_argument("--markdown", metavar="FILE")
    p.add_argument("--json", metavar="FILE")
    return p.parse_args()


def load(server, a):
    """Fills the server; what the generator knows and the seconds it took."""
    shop = Shop(a.keys, a.seed)
    t = time.perf_counter()
    feed(server, shop.commands())
    t = time.perf_counter() - t
    check(
        server.r.dbsize() == shop.known.keys,
        f"{server.r.dbsize()} keys loaded, {shop.known.keys} made",
    )
    size, name = shop.known.largest_store
    check(server.r.xlen(name) == size, f"{name} is not as long as it was made")
    return shop.known, t


def report(server, known, facts, rows):
    """The page as markdown."""
    types = ", ".join(f"{n:,} of type {t}" for t, n in sorted(known.by_type.items()))
    lines = "\n".join(f"- {k}: {v}" for k, v in facts.items())
    table = markdown_table(
        ["function", "records", "alone: s", "records/s", "with clients: s", "records/s", "result"],
        rows,
    )
    return f"""# A million keys of an online shop, with clients at work

One run of `make realdata` (`tests/bench/realdata.py`; its header describes the data and the
units). {known.keys:,} keys: {types}. Every result was compared with what the generator knows.

{lines}

{table}
"""


def main():
    a = arguments()
    module = None if a.load_only else module_path()
    with Server(module) as server:
        empty = server.settled_rss()
        known, load_seconds = load(server, a)
        rss = server.settled_rss()
        used = server.r.info("memory")["used_memory"]
        errors = server.errors()
        todo = [] if a.load_only else functions(known)
        todo = [f for f in todo if not a.only or a.only in f.name]
        print(f"{known.keys:,} keys in {load_seconds:.0f} s: {dict(known.by_type)}", flush=True)
        quiet = Foreground(server, a.requests)
        for _ in range(4):
            quiet.once()
        alone, wrong = measure(server, todo)
        busy = Foreground(server, a.requests)
        try:
            with Repeater(busy.once):
                t = time.perf_counter()
                beside, wrong_too = measure(server, todo)
                t = time.perf_counter() - t
        except Exception as e:
            wrong_too = {"clients": f"{type(e).__name__}: {e}"[:300]}
            beside = dict.fromkeys(alone, float("nan"))
        wrong |= wrong_too
        failed = server.errors() - errors
        info = server.r.info("server")
        facts = {
            "server": f"{info.get('server_name', 'redis')} "
            f"{info.get('valkey_version', info['redis_version'])}, {cpu_model()}",
            "keys": f"{known.keys:,}, largest value {known.largest_value:,} bytes, "
            f"strings {known.string_bytes / MIB:.0f} MiB together",
            "memory": f"{used / MIB:.0f} MiB used, resident {rss / MIB:.0f} MiB after loading, "
            f"{server.settled_rss() / MIB:.0f} MiB at the end ({empty / MIB:.0f} MiB "
            "empty)",
            "clients without functions": f"{si(quiet.rate())} op/s, p99 "
            f"{quiet.latency('p99'):.3f} ms, max {quiet.worst():.1f}",
        }
        if todo and busy.runs:
            facts["clients with functions"] = (
                f"{si(busy.rate())} op/s, p99 {busy.latency('p99'):.3f} ms, max "
                f"{busy.worst():.1f}, over {t:.0f} s and {len(busy.runs)} runs "
                f"({busy.rate() / quiet.rate():.2f} x the rate, "
                f"{busy.latency('p99') / quiet.latency('p99'):.2f} x the p99)"
            )
        facts["errors"] = f"{failed} error replies, {len(wrong)} wrong results"
    rows = [
        [
            f.name,
            f"{f.records:,}",
            f"{alone[f.name]:.3f}",
            si(f.records / alone[f.name]),
            f"{beside[f.name]:.3f}",
            si(f.records / beside[f.name]),
            "WRONG: " + wrong[f.name][:120] if f.name in wrong else "right",
        ]
        for f in todo
    ]
    page = report(server, known, facts, rows)
    print(page)
    if a.markdown:
        pathlib.Path(a.markdown).write_text(page)
    if a.json:
        pathlib.Path(a.json).write_text(
            json.dumps(
                {
                    "facts": facts,
                    "alone_s": alone,
                    "with_clients_s": beside,
                    "wrong": wrong,
                    "clients": {"without": quiet.runs, "with": busy.runs},
                },
                indent=1,
            )
        )
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
