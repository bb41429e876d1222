import pytest
from server import wait_until

UNKNOWN = "0" * 40 + "-987654"
ENDLESS = """
def forever(x):
    while True:
        pass
GB('ShardsIDReader').foreach(forever).run()
"""


@pytest.mark.parametrize("command", ["RG.DROPEXECUTION", "RG.ABORTEXECUTION"])
@pytest.mark.parametrize("words", [[], [UNKNOWN, "more"]])
def test_arity(env, command, words):
    text = f"ERR wrong number of arguments for '{command}' command"
    assert env.error(command, *words).lower() == text.lower()


@pytest.mark.parametrize("identifier", [UNKNOWN, "x", "", "0" * 40 + "-", "0" * 40 + "-x"])
def test_unknown(env, identifier):
    assert env.error("RG.DROPEXECUTION", identifier) == "execution plan does not exist"
    assert env.error("RG.ABORTEXECUTION", identifier) == "execution does not exist"


def test_drop(env):
    identifier = env.start("GB('ShardsIDReader').run()")
    other = env.start("GB('ShardsIDReader').run()")
    env.wait(identifier)
    env.wait(other)
    assert env.drop(identifier) == "OK"
    assert list(env.shards[0].executions()) == [other]
    wait_until(lambda: list(env.executions()) == [other])
    assert env.error("RG.DROPEXECUTION", identifier) == "execution plan does not exist"


def test_a_running_execution_is_not_dropped(env):
    identifier = env.start(ENDLESS)
    text = "can not drop a not yet finished execution, abort it first."
    assert env.error("RG.DROPEXECUTION", identifier) == text
    env.wait_status(identifier, "running")
    assert env.error("RG.DROPEXECUTION", identifier) == text


def test_abort_a_finished_execution(env):
    identifier = env.start("GB('ShardsIDReader').run()")
    env.wait(identifier)
    assert env.abort(identifier) == "OK"
    assert env.status(identifier) == "done"
    results, errors = env.wait(identifier)
    assert (sorted(results), errors) == (env.ids, [])


def inside(env):
    """How often the functions on each shard said that they are there."""
    return env.each(lambda shard: int(shard.client.get(shard.key("inside")) or 0))


def wait_inside(env, number):
    wait_until(lambda: min(inside(env)) >= number, what="functions at work on all shards")


def ended(env):
    """A shard that only waits for the others is aborted, its own part has nothing to stop."""
    return ["done"] if env.shard_count == 1 else ["done", "aborted"]


@pytest.mark.parametrize(
    "plan",
    [
        "GB('ShardsIDReader').map(forever)",
        "GB('ShardsIDReader').filter(forever)",
        "GB('ShardsIDReader').flatmap(forever)",
        "GB('ShardsIDReader').foreach(forever)",
        "GB('ShardsIDReader').accumulate(forever)",
        "GB('ShardsIDReader').repartition(forever)",
        "GB('ShardsIDReader').groupby(forever, forever)",
        "GB('ShardsIDReader').groupby(here, forever)",
        "GB('ShardsIDReader').localgroupby(here, forever)",
        "GB('ShardsIDReader').batchgroupby(here, forever)",
        "GB('PythonReader', lambda: forever())",
        "GB('PythonReader', generator)",
        "GB('ShardsIDReader').map(lambda x: Endless())",
    ],
)
def test_abort_a_callback_that_never_returns(env, plan):
    identifier = env.start(
        f"""
        def forever(*_):
            execute('set', 'inside{{%s}}' % hashtag(), 1)
            while True:
                pass
        def here(x):
            return '{{%s}}' % hashtag()
        def generator():
            forever()
            yield 1
        class Endless:
            __str__ = forever
        {plan}.run()
        """
    )
    wait_inside(env, 1)
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, *ended(env))
    results, errors = env.wait(identifier)
    assert results == []
    assert 1 <= len(errors) <= env.shard_count
    assert all("forcestopped" in error.lower() for error in errors)
    assert env.drop(identifier) == "OK"
    wait_until(lambda: env.executions() == {})


def test_abort_a_plan_that_never_ends(env):
    """Nothing here runs for long, but there is always a next record."""
    identifier = env.start(
        """
        def numbers():
            while True:
                yield 1
        GB('PythonReader', numbers).map(lambda x: x).filter(lambda x: False).run()
        """
    )
    env.wait_status(identifier, "running")
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, "done", "aborted")


def test_abort_while_it_waits_for_commands(env):
    identifier = env.start(
        """
        def forever(x):
            while True:
                execute('incr', 'inside{%s}' % hashtag())
        GB('ShardsIDReader').foreach(forever).run()
        """
    )
    wait_inside(env, 10)
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, *ended(env))
    count = inside(env)
    assert env.still_runs()
    assert inside(env) == count


def test_abort_a_callback_that_catches_exceptions(env):
    identifier = env.start(
        """
        def stubborn(x):
            while True:
                try:
                    x += '.'
                    x = x[:10]
                except Exception:
                    pass
        GB('ShardsIDReader').foreach(stubborn).run()
        """
    )
    env.wait_status(identifier, "running")
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, *ended(env))


def test_abort_a_read_of_many_keys(env):
    env.fill(300000 if env.shard_count == 1 else 30000)
    identifier = env.start("GB().map(lambda r: r['value']).filter(lambda v: v == 'no').run()")
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, "done", "aborted")


def test_abort_keeps_what_was_there(env):
    identifier = env.start(
        """
        def numbers():
            yield 1
            yield 2
            execute('set', 'inside{%s}' % hashtag(), 1)
            while True:
                pass
        GB('PythonReader', numbers).run()
        """
    )
    wait_inside(env, 1)
    assert env.abort(identifier) == "OK"
    results, errors = env.wait(identifier)
    assert set(results) == {"1", "2"}
    assert results.index("1") < results.index("2")
    assert 1 <= len(errors) <= env.shard_count
    assert len(results) <= 2 * env.shard_count


def test_abort_in_an_atomic_block_gives_the_lock_back(env):
    """The server stands still inside the block, so the abort has to come before it."""
    identifier = env.start(
        """
        def forever(x):
            while True:
                with atomic():
                    execute('incr', 'inside{%s}' % hashtag())
        GB('ShardsIDReader').foreach(forever).run()
        """
    )
    wait_inside(env, 10)
    assert env.abort(identifier) == "OK"
    env.wait_status(identifier, *ended(env))
    assert all(env.each(lambda shard: shard.client.ping()))
    assert env.native("isInAtomicBlock()") == 0


def test_abort_does_not_reach_the_next_execution(env):
    """The exception is meant for one execution, not for its thread."""
    for _ in range(30):
        first = env.start(ENDLESS)
        second = env.start("GB('PythonReader', lambda: (i for i in range(2000))).count().run()")
        assert env.abort(first) == "OK"
        assert env.wait(second) == ([str(2000 * env.shard_count)], [])
    for _ in range(30):
        results = env.results("GB('PythonReader', lambda: (i for i in range(100))).count().run()")
        assert results == [str(100 * env.shard_count)]


def test_a_queued_execution_is_aborted_at_once(new_env):
    env = new_env("ExecutionThreads", 1)
    running = env.start(ENDLESS)
    env.wait_status(running, "running")
    queued = env.start("GB('ShardsIDReader').run()")
    assert env.status(queued) == "created"
    with env.server.wire() as wire:
        wire.send("RG.GETRESULTSBLOCKING", queued)
        assert env.abort(queued) == "OK"
        assert wire.receive() == [[], []]
    assert env.status(queued) == "aborted"
    assert env.call("RG.GETRESULTS", queued) == [[], []]
    assert env.drop(queued) == "OK"
    assert env.status(running) == "running"
    assert env.abort(running) == "OK"
