"""atomic, configGet, hashtag, log, flat_error, isAsyncAllow, isInAtomicBlock."""

import pytest
from env import one_shard
from redis.crc import key_slot
from server import wait_until

pytestmark = pytest.mark.lopsided


def value(env, expression):
    """The repr of the value on each shard; a sign in front would change the reply."""
    text = env.same(
        env.results(f"GB('ShardsIDReader').map(lambda x: '=' + repr({expression})).run()")
    )
    assert text[0] == "="
    return text[1:]


def test_atomic(env):
    env.results(
        """
        def work(x):
            with atomic():
                execute('set', 'a{%s}' % hashtag(), 1)
                execute('set', 'b{%s}' % hashtag(), 2)
        GB('ShardsIDReader').foreach(work).run()
        """
    )
    for shard in env.shards:
        assert shard.client.mget(shard.key("a"), shard.key("b")) == ["1", "2"]


def test_nothing_happens_during_an_atomic_block(env):
    """Another client counts: it gets on between blocks, and not within one."""
    identifier = env.start(
        """
        def count():
            return int(execute('get', 'count') or 0)
        def work(x):
            start = count()
            while count() == start:
                pass
            with atomic():
                first = count()
                for _ in range(200):
                    if count() != first:
                        return 'changed'
            return 'quiet'
        GB('PythonReader', lambda: (i for i in range(20))).map(work).distinct() \\
            .run(mode='async_local')
        """
    )
    while env.status(identifier) != "done":
        env.client.incr("count")
    assert env.wait(identifier) == (["quiet"], [])


def test_atomic_reaches_a_replica_as_one_transaction(new_env):
    master = new_env()
    replica = new_env(options=["--replicaof", "127.0.0.1", master.server.port])
    master.client.wait(1, 60000)
    with replica.server.wire() as monitor:
        assert monitor.call("MONITOR") == "OK"
        master.execute("with atomic():\n  execute('set', 'a', 1)\n  execute('set', 'b', 2)")
        master.client.set("end", 1)
        seen = []
        while not (seen and '"end"' in seen[-1]):
            seen.append(str(monitor.receive()).lower())
    words = [line.split("] ", 1)[1].split()[0].strip('"') for line in seen]
    writes = [word for word in words if word in ("multi", "set", "exec")]
    assert writes == ["multi", "set", "set", "exec", "set"]


def test_atomic_at_top_level(env):
    env.execute("with atomic():\n    execute('set', 'x', isInAtomicBlock())")
    assert env.client.get("x") == "True"


def test_is_in_atomic_block(env):
    script = """
    def work(x):
        before = isInAtomicBlock()
        with atomic():
            inside = isInAtomicBlock()
        return [before, inside, isInAtomicBlock()]
    GB('ShardsIDReader').map(work).run()
    """
    assert env.results(script) == ["[False, True, False]"] * env.shard_count


def test_an_exception_leaves_the_block(env):
    errors = env.errors(
        """
        def work(x):
            with atomic():
                execute('set', 'x{%s}' % hashtag(), 1)
                raise ValueError('inside')
        GB('ShardsIDReader').foreach(work).run()
        """
    )
    assert ["ValueError: inside" in error for error in errors] == [True] * env.shard_count
    assert env.each(lambda shard: shard.client.get(shard.key("x"))) == ["1"] * env.shard_count
    assert value(env, "isInAtomicBlock()") == "False"


def test_atomic_does_not_nest(env):
    errors = env.errors(
        """
        def work(x):
            with atomic():
                with atomic():
                    pass
        GB('ShardsIDReader').foreach(work).run()
        """
    )
    assert ["Already inside an atomic block" in error for error in errors] == [
        True
    ] * env.shard_count
    assert all(env.each(lambda shard: shard.client.ping()))
    assert value(env, "isInAtomicBlock()") == "False"


def test_a_block_is_not_left_twice(env):
    assert "Not inside an atomic block" in env.refused("atomic().__exit__(None, None, None)")


def test_a_block_that_is_never_left(env):
    """Whoever forgets to leave must not stop the server for ever."""
    env.run("GB('ShardsIDReader').foreach(lambda x: atomic().__enter__() and None).run()")
    assert all(env.each(lambda shard: shard.client.ping()))
    env.execute("block = atomic()\nblock.__enter__()")
    assert env.client.ping()
    assert value(env, "isInAtomicBlock()") == "False"


def test_many_atomic_blocks_at_once(env):
    script = """
    def work(x):
        with atomic():
            n = 'n{%s}' % hashtag()
            execute('set', n, int(execute('get', n) or 0) + 1)
    GB('PythonReader', lambda: (i for i in range(500))).foreach(work).count().run()
    """
    identifiers = [env.start(script) for _ in range(4)]
    count = str(500 * env.shard_count)
    assert [env.wait(identifier) for identifier in identifiers] == [([count], [])] * 4
    assert env.each(lambda shard: shard.client.get(shard.key("n"))) == ["2000"] * env.shard_count


def test_hashtag(env):
    """The first shard has slot 0."""
    assert env.shards[0].tag == "06S"
    env.execute("execute('set', '{%s}x' % hashtag(), 1)")
    assert env.client.keys() == ["{06S}x"]


@pytest.mark.cluster
def test_hashtags_of_shards(env):
    """That of the first slot of each, as in the original."""
    for shard, slots in zip(env.shards, env.cluster.slots, strict=True):
        assert key_slot(shard.tag.encode()) == slots[0]
    env.results(
        "GB('ShardsIDReader').foreach(lambda x: execute('set', 'x{%s}' % hashtag(), 1)).run()"
    )
    assert env.each(lambda shard: shard.client.keys()) == env.each(lambda shard: [shard.key("x")])


def test_config_get(env):
    env.config("colour", "blue")
    assert value(env, "configGet('colour')") == "'blue'"
    assert value(env, "configGet('Colour')") == "None"
    assert value(env, "configGet('no')") == "None"
    assert value(env, "gearsConfigGet('colour', 'red')") == "'blue'"
    assert value(env, "gearsConfigGet('no', 'red')") == "'red'"
    assert value(env, "gearsConfigGet('no')") == "None"


def test_config_get_at_top_level(env):
    env.config("shape", "round")
    env.execute("execute('set', 'x', configGet('shape'))")
    assert env.client.get("x") == "round"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("configGet()", "get_config function must get a single key input"),
        ("configGet('a', 'b')", "get_config function must get a single key input"),
        ("configGet(1)", "get_config key must be a string"),
        ("log()", "log function must get a log message as input"),
        ("log(1)", "Log message must be a string"),
        ("log('x', level=1)", "Log level must be a sting (debug/verbose/notice/warning)"),
        (
            "log('x', level='loud')",
            "Log level should be one of the following : debug,verbose,notice,warning",
        ),
        ("flat_error()", "not enough arguments for time flat error"),
    ],
)
def test_wrong_arguments(env, call, text):
    assert text in env.refused(call)


@pytest.mark.parametrize(
    "call", ["log('{}')", "log('{}', level='warning')", "log('{}', level='notice')"]
)
def test_log(env, call):
    message = f"a message {hash(call)}"
    env.execute(call.format(message))
    assert f"GEARS: {message}\n" in env.server.log()


def test_log_below_the_level_of_the_server(env):
    env.execute("log('not to be seen', level='debug')\nlog('neither this', level='verbose')")
    assert "not to be seen" not in env.server.log()
    assert "neither this" not in env.server.log()
    env.client.config_set("loglevel", "debug")
    env.execute("log('now to be seen', level='debug')")
    env.client.config_set("loglevel", "notice")
    assert "GEARS: now to be seen\n" in env.server.log()


def test_log_in_a_step(env):
    env.results("GB('ShardsIDReader').foreach(lambda x: log('from a step')).run()")
    assert all(env.each(lambda shard: "GEARS: from a step\n" in shard.server.log()))


def test_log_with_the_level_first(env):
    """The old order of arguments."""
    env.execute("log('warning', 'the old order')")
    assert "GEARS: the old order\n" in env.server.log()


def test_log_does_not_format(env):
    env.execute("log('100%s %n %d')")
    assert "GEARS: 100%s %n %d\n" in env.server.log()


@pytest.mark.parametrize(
    ("call", "expected"),
    [("Log('old name')", None), ("ConfigGet('no')", None), ("GearsConfigGet('no', 'd')", "d")],
)
def test_old_names(env, call, expected):
    assert value(env, call) == repr(expected)


def test_flat_error(env):
    for statement in ["flat_error('just this')", "raise flat_error('just this')"]:
        script = f"""
        def fail(x):
            {statement}
        GB('ShardsIDReader').foreach(fail).run()
        """
        assert env.errors(script) == ["just this"] * env.shard_count
        assert env.refused(statement) == "just this"


def test_flat_error_of_anything(env):
    assert env.errors(f"{one_shard([1])}.map(lambda x: flat_error([1])).run()") == ["[1]"]


@pytest.mark.parametrize("raised", ["flat_error('x' * 100000)", "raise Exception('x' * 100000)"])
def test_long_error_texts(env, raised):
    """Nothing is cut from what a function may well say."""
    (text,) = env.errors(f"def f(r):\n    {raised}\n{one_shard([1])}.map(f).run()")
    assert "x" * 100000 in text
    assert "bytes more" not in text
    assert "x" * 100000 in env.refused(raised)


def test_flat_error_without_traceback_setting(env):
    env.config("PythonAttemptTraceback", 0)
    assert env.errors(f"{one_shard([1])}.map(lambda x: flat_error('x')).run()") == ["x"]


def test_exception_classes(env):
    env.execute(
        """
        import redisgears
        names = {'GearsError': 'error', 'GearsFlatError': 'flat_error',
                 'GearsForceStopped': 'forcestopped'}
        for alias, name in names.items():
            error = getattr(redisgears, alias)
            assert issubclass(error, Exception)
            assert (error.__module__, error.__name__) == ('gears', name), error
        """
    )


def test_is_async_allow(env):
    assert value(env, "isAsyncAllow()") == "True"
    env.execute("execute('set', 'x', isAsyncAllow())")
    assert env.client.get("x") == "False"


@pytest.mark.single("it notes what it sees in one list")
def test_async_is_allowed_in_steps_only(env):
    env.register(
        """
        def say(name): execute('rpush', 'log', name + ' ' + str(isAsyncAllow()))
        GB().foreach(lambda r: say('step')).register('k*', onRegistered=lambda: say('registered'))
        registerTE(1, lambda: say('time'), 'timer')
        import threading
        def work():
            registerGearsThread()
            say('thread')
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """
    )
    env.client.set("k", 1)
    expected = {"registered False", "time False", "thread False", "step True"}
    wait_until(lambda: set(env.log_list()) == expected)
    env.client.delete("timer")
