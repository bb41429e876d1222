"""What goes wrong on another shard: the client hears of it, with the shard and the cause."""

import threading
import time

import pytest
from env import HOLD, one_shard
from server import wait_until
from wire import Error

pytestmark = pytest.mark.cluster

PLANS = {
    "collect": "GB('ShardsIDReader').foreach(lambda x: hold()).run()",
    "repartition": "GB('ShardsIDReader').foreach(lambda x: hold()).repartition(lambda x: x).run()",
    "count": "GB('ShardsIDReader').foreach(lambda x: hold()).count().run()",
}


def names(shard, errors):
    """The errors that name a shard."""
    return [error for error in errors if shard.server.id in error]


@pytest.mark.parametrize("place", ["source", "owner", "initiator"])
def test_an_exception_anywhere(env, place):
    """With its traceback, as from the shard that was asked."""
    steps = {
        "source": "map(bad)",
        "owner": "repartition(lambda x: 'k').map(bad)",
        "initiator": "collect().map(bad)",
    }
    script = f"""
    def bad(x):
        raise ValueError('bad ' + str(x))
    {one_shard([1])}.{steps[place]}.run()
    """
    results, errors = env.run(script)
    assert results == []
    assert len(errors) == 1
    assert errors[0].startswith("['Traceback (most recent call last):")
    assert "ValueError: bad 1" in errors[0]
    env.config("PythonAttemptTraceback", 0)
    assert env.run(script) == ([], ["Error type: <class 'ValueError'>, Value: bad 1"])


def test_good_records_of_other_shards_are_not_lost(env):
    """An error of one shard stops no other one."""
    script = f"""
    def work(x):
        if x == '{env.source.server.id}':
            flat_error('this one')
        return x
    GB('ShardsIDReader').map(work).run()
    """
    expected = [shard for shard in env.ids if shard != env.source.server.id]
    for _ in range(200):
        results, errors = env.run(script)
        assert (sorted(results), errors) == (expected, ["this one"])


def test_callbacks_that_do_not_travel(env):
    lock = "import _thread\nlock = _thread.allocate_lock()\n"
    text = env.refused(f"{lock}GB().map(lambda r: lock).run()")
    assert "Error occured when serialized a python callback" in text
    assert env.executions() == {}


def test_a_run_of_this_shard_needs_no_travel(env):
    script = """
    import _thread
    lock = _thread.allocate_lock()
    GB('ShardsIDReader').map(lambda r: lock.locked()).run(mode='async_local')
    """
    assert env.results(script) == ["False"]


@pytest.fixture
def only_first(new_cluster, tmp_path):
    """A cluster of which only the first shard can import `only_here`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "only_here.py").write_text("def work(r):\n    return 'here'\n")
    return new_cluster(own={0: {"arguments": ["PythonPath", folder]}})


def test_a_module_that_other_shards_can_not_import(only_first):
    env = only_first
    begin = time.monotonic()
    results, errors = env.run("import only_here\nGB('ShardsIDReader').map(only_here.work).run()")
    assert time.monotonic() - begin < 4
    assert set(results) <= {"here"}
    assert errors
    for error in errors:
        assert any(shard.server.id in error for shard in env.shards[1:])
        assert "No module named 'only_here'" in error
    wait_until(lambda: env.executions() == {})
    script = "import only_here\nGB('ShardsIDReader').map(only_here.work).run(mode='async_local')"
    assert env.results(script) == ["here"]
    assert env.still_runs()


def test_a_module_that_is_imported_by_the_function(only_first):
    """The plan arrives; its function fails where there is no such module."""
    env = only_first
    script = """
    def work(x):
        import only_here
        return only_here.work(x)
    GB('ShardsIDReader').map(work).run()
    """
    results, errors = env.run(script)
    assert results == ["here"]
    assert ["No module named 'only_here'" in error for error in errors] == [True, True]


def test_a_module_that_other_shards_can_not_import_is_not_registered(only_first):
    env = only_first
    script = "import only_here\nGB('CommandReader').map(only_here.work).register(trigger='t')"
    reply = env.call("RG.PYEXECUTE", script)
    assert isinstance(reply, list)
    assert all(isinstance(error, Error) for error in reply)
    for shard in env.shards[1:]:
        (error,) = names(shard, reply)
        assert error.startswith(f"-ERR shard-{shard.server.id}: ")
        assert "only_here" in error
    assert env.each(lambda shard: shard.registrations()) == [[], [], []]
    assert env.error("RG.TRIGGER", "t") == "ERR subcommand not found"


def test_a_record_of_a_class_that_other_shards_can_not_import(new_cluster, tmp_path):
    """It travels no further than to a shard that can not open it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "only_there.py").write_text("class Thing:\n    pass\n")
    env = new_cluster(own={2: {"arguments": ["PythonPath", folder]}})
    script = f"""
    def work(x):
        import only_there
        return only_there.Thing()
    {one_shard([1])}.map(work).collect().map(lambda x: type(x).__name__).run()
    """
    env.source.client.execute_command("RG.CONFIGSET", "source", "yes")
    results, errors = env.run(script)
    assert results == []
    assert ["only_there" in error for error in errors] == [True]


@pytest.mark.parametrize("plan", PLANS)
def test_a_shard_that_is_killed_during_a_run(new_cluster, plan):
    env = new_cluster("ExecutionMaxIdleTime", 60000)
    victim = env.shards[2]
    with env.server.wire() as wire:
        wire.send("RG.PYEXECUTE", HOLD + PLANS[plan])
        wait_until(env.all_held)
        victim.close()
        victim.server.kill()
        for shard in env.shards[:2]:
            shard.client.set(shard.key("go"), 1)
        begin = time.monotonic()
        results, errors = wire.receive()
    assert time.monotonic() - begin < 20
    errors = [error.decode() for error in errors]
    assert names(victim, errors), errors
    assert len(results) <= 3
    wait_until(lambda: [shard.executions() for shard in env.shards[:2]] == [{}, {}])
    victim.server.start()
    env.cluster.wait_ready()
    assert env.still_runs()


def test_a_run_while_a_shard_is_away(new_cluster):
    env = new_cluster("ExecutionMaxIdleTime", 60000)
    victim = env.shards[1]
    victim.close()
    victim.server.kill()
    begin = time.monotonic()
    _, errors = env.run("GB('ShardsIDReader').run()")
    assert time.monotonic() - begin < 20
    assert names(victim, errors), errors
    text = str(env.call("RG.PYEXECUTE", "GB('CommandReader').register(trigger='t')"))
    assert victim.server.id in text
    assert [len(shard.registrations()) for shard in (env.shards[0], env.shards[2])] == [0, 0]
    assert env.results("GB('ShardsIDReader').run(mode='async_local')") == [env.shard_id]
    victim.server.start()
    env.cluster.wait_ready()
    assert env.still_runs()
    env.register("GB('CommandReader').register(trigger='t')")


def test_the_initiator_is_killed_during_a_run(new_cluster):
    """The other shards do not keep their parts for ever."""
    env = new_cluster("ExecutionMaxIdleTime", 2000)
    others = env.shards[1:]
    env.start(HOLD + PLANS["collect"])
    wait_until(env.all_held)
    env.shards[0].close()
    env.server.kill()
    for shard in others:
        shard.client.set(shard.key("go"), 1)
    finished = {"done", "aborted"}
    wait_until(lambda: all(set(s.executions().values()) <= finished for s in others))
    env.server.start()
    env.cluster.wait_ready()
    assert env.still_runs()


def test_a_silent_shard_is_named_in_the_log(env):
    """The text of the error is one that clients compare."""
    before = env.server.log_size()
    env.config("ExecutionMaxIdleTime", 300)
    silent = env.shards[1].server.id
    script = f"""
    import time
    GB('ShardsIDReader').foreach(lambda x: time.sleep(1 if x == '{silent}' else 0)).run()
    """
    results, errors = env.run(script)
    assert silent not in results
    assert errors == ["Execution max idle reached"]
    wait_until(lambda: silent in env.server.log(before), what="the name in the log")


def test_a_busy_shard_that_gives_records_is_not_silent(env):
    """Whoever gets something every now and then goes on waiting."""
    env.config("ExecutionMaxIdleTime", 500)
    script = """
    import time
    def numbers():
        for i in range(5):
            time.sleep(0.2)
            yield 'x' * 100000
    GB('PythonReader', numbers).run()
    """
    results, errors = env.run(script)
    assert errors == []
    assert len(results) == 15


def test_abort_on_any_shard(env):
    """Executions of all shards and of one alone can be aborted from everywhere they are known."""
    for asked in env.shards:
        identifier = env.start(HOLD + PLANS["collect"])
        wait_until(env.all_held)
        assert asked.abort(identifier) == "OK"
        wait_until(lambda: set(env.executions().values()) <= {"done", "aborted"})
        assert env.wait(identifier)[0] == []
        env.reset()


def test_abort_of_an_execution_of_one_shard(env):
    """The original did it and said that it did not exist."""
    identifier = env.start(HOLD + PLANS["collect"].replace("run()", "run(mode='async_local')"))
    wait_until(env.held)
    assert env.shards[0].abort(identifier) == "OK"
    env.wait_status(identifier, "done", "aborted")


def test_drop_on_any_shard(env):
    for asked in env.shards:
        identifier = env.start("GB('ShardsIDReader').run()")
        env.wait(identifier)
        asked.wait_status(identifier, "done")
        assert asked.drop(identifier) == "OK"
        wait_until(lambda: env.executions() == {})


def test_runs_from_all_shards_at_once(env):
    """They wait for each other's threads no longer than they have to."""
    env.fill(3000)
    failures = []

    def run(shard):
        try:
            for _ in range(20):
                assert shard.results("GB().count().run()") == ["3000"]
                script = "GB().repartition(lambda r: r['value']).map(lambda r: 1).count().run()"
                assert shard.results(script) == ["3000"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[shard]) for shard in env.shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_more_runs_than_threads(env):
    """Each holds a thread on every shard until all of them have been started."""
    script = HOLD + "GB('ShardsIDReader').foreach(lambda x: hold()).run()"
    identifiers = [shard.start(script) for shard in env.shards for _ in range(5)]
    wait_until(env.all_held)
    env.go()
    for identifier in identifiers:
        results, errors = env.wait(identifier)
        assert (sorted(results), errors) == (env.ids, [])
