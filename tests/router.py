"""A client of a whole cluster: each command goes to the shard that owns its keys.

What has no key goes to the first shard, and what is meant for a whole data set to all of them. A
command of many keys that lie apart is taken apart, where its replies can be put together again.
"""

import redis
from redis.client import Pipeline
from redis.crc import key_slot

EVERYWHERE = {
    *("FLUSHALL", "FLUSHDB", "CONFIG SET", "ACL SETUSER", "ACL DELUSER", "SLOWLOG RESET"),
    *("DEBUG SET-ACTIVE-EXPIRE", "SAVE", "SCRIPT LOAD"),
}
ADDED = {"DBSIZE"}
JOINED = {"KEYS"}
KEY_BY_KEY = {"DEL", "UNLINK", "EXISTS", "TOUCH"}
SECOND = {"OBJECT", "XGROUP", "XINFO", "MEMORY"}
"""Commands whose key comes after the name of a part."""
SCRIPTS = {"EVAL", "EVALSHA", "EVAL_RO", "FCALL"}


def as_bytes(word):
    return word if isinstance(word, bytes) else str(word).encode()


def split_name(words):
    """redis-py sends the name of a command and that of its part as one word."""
    first = words[0].decode() if isinstance(words[0], bytes) else words[0]
    return [*first.split(), *words[1:]]


def is_for_all(words):
    """Whether all shards are to do it, each for itself."""
    names = [str(word).upper() for word in split_name(words)[:2]]
    return names[0] in EVERYWHERE or " ".join(names) in EVERYWHERE


class Keys:
    """Where the key of a command stands, as the server says it."""

    def __init__(self, call):
        self.call = call
        self.positions = {}

    def first(self, words):
        """The first key of a command, or None."""
        words = split_name(words)
        name = words[0].upper()
        if name in SCRIPTS:
            at = 3 if len(words) > 3 and int(words[2]) else 0
        elif name in SECOND:
            at = 2
        else:
            at = self.position(name)
        return as_bytes(words[at]) if 0 < at < len(words) else None

    def position(self, name):
        if name not in self.positions:
            (info,) = self.call("COMMAND", "INFO", name)
            self.positions[name] = info[3] if info else 0
        return self.positions[name]


class Router(redis.Redis):
    """`clients` are those of the shards, `slots` the slots of each, `keys` the `Keys` to use."""

    def __init__(self, clients, slots, keys, **more):
        super().__init__(**more)
        self.clients = clients
        self.slots = slots
        self.keys_of = keys

    def close(self):
        for client in self.clients:
            client.close()
        super().close()

    def shard(self, key):
        """The index of the shard that owns a key."""
        slot = key_slot(as_bytes(key))
        return next(i for i, slots in enumerate(self.slots) if slot in slots)

    def shard_of(self, words):
        key = self.keys_of.first(words)
        return 0 if key is None else self.shard(key)

    def execute_command(self, *words, **options):
        if is_for_all(words):
            return self._everywhere(words, options)[0]
        if words[0] in ADDED:
            return sum(self._everywhere(words, options))
        if words[0] in JOINED:
            return [key for keys in self._everywhere(words, options) for key in keys]
        if words[0] in KEY_BY_KEY:
            return sum(self._by_slot(words[0], words[1:]))
        if words[0] == "MSET":
            return all(self._by_slot("MSET", words[1:], step=2))
        if words[0] == "MGET" and len({key_slot(as_bytes(key)) for key in words[1:]}) > 1:
            return self._many(("GET", key) for key in words[1:])
        return self._one(*words, **options)

    def pipeline(self, transaction=True, shard_hint=None):
        return RouterPipeline(self, transaction)

    def _everywhere(self, words, options):
        return [client.execute_command(*words, **options) for client in self.clients]

    def _by_slot(self, name, words, step=1):
        """A command for each slot of the keys, of which every `step`th word is one."""
        parts = {}
        for i in range(0, len(words), step):
            part = parts.setdefault(key_slot(as_bytes(words[i])), [name])
            part += words[i : i + step]
        return self._many(parts.values())

    def _many(self, commands):
        with self.pipeline(transaction=False) as pipe:
            for words in commands:
                pipe.execute_command(*words)
            return pipe.execute()

    def _one(self, *words, **options):
        return self.clients[self.shard_of(words)].execute_command(*words, **options)


class RouterPipeline(Pipeline):
    """Commands for different shards go in a pipeline for each; a transaction is of one shard."""

    def __init__(self, router, transaction):
        super().__init__(router.connection_pool, router.response_callbacks, transaction, None)
        self.router = router

    def execute(self, raise_on_error=True):
        stack, self.command_stack = self.command_stack, []
        places = {}
        for place, (words, _) in enumerate(stack):
            places.setdefault(self.router.shard_of(words), []).append(place)
        assert len(places) <= 1 or not self.transaction, "a transaction over several shards"
        replies = [None] * len(stack)
        for shard, mine in places.items():
            with self.router.clients[shard].pipeline(self.transaction) as pipe:
                for place in mine:
                    words, options = stack[place]
                    pipe.execute_command(*words, **options)
                for place, reply in zip(mine, pipe.execute(raise_on_error), strict=True):
                    replies[place] = reply
        return replies
