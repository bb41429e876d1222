"""Functions at work while the server is paused, becomes a replica, or is fed by the function."""

from env import wait_until

WRITES = """
import time
def f(x):
    while execute('get', 'stop') is None:
        execute('incr', 'n')
        time.sleep(0.001)
GB('ShardsIDReader').foreach(f).run()
"""


def test_a_pause_of_writes_holds_functions_too(new_env):
    env = new_env(options=["--appendonly", "yes"])
    running = env.start(WRITES)
    wait_until(lambda: env.client.get("n"), what="the first write")
    env.client.execute_command("CLIENT", "PAUSE", "300000", "WRITE")
    before = env.client.get("n")
    for _ in range(20):
        env.client.execute_command("PING")
    assert int(env.client.get("n")) <= int(before) + 1
    assert env.status(running) == "running"
    env.client.execute_command("CLIENT", "UNPAUSE")
    wait_until(lambda: int(env.client.get("n")) > int(before) + 5, what="more writes")
    env.client.set("stop", 1)
    assert env.wait(running) == (["1"], [])


def test_a_function_does_not_write_on_a_replica(new_env):
    env = new_env()
    running = env.start(WRITES)
    wait_until(lambda: env.client.get("n"), what="the first write")
    env.client.replicaof("127.0.0.1", "1")
    results, errors = env.wait(running)
    assert results == []
    assert len(errors) == 1
    assert "READONLY" in errors[0]
    env.client.replicaof("NO", "ONE")
    assert env.run("GB('ShardsIDReader').foreach(lambda x: execute('incr', 'n')).run()")[1] == []


def test_a_stream_that_the_function_feeds_ends(env):
    for _ in range(1500):
        env.client.xadd("st", {"f": "v"})
    script = "GB('StreamReader').foreach(lambda r: execute('xadd', 'st', '*', 'a', 'b')).count()"
    assert env.run(script + ".run('st')") == (["1500"], [])
    assert env.client.xlen("st") == 3000


def test_runs_of_callbacks_push_out_no_kept_results(env):
    env.config("MaxExecutions", 3)
    kept = env.start("GB('ShardsIDReader').run()")
    env.wait(kept)
    script = "def f(x):\n    for _ in range(20): GB('ShardsIDReader').run()\n"
    env.run(script + "GB('ShardsIDReader').foreach(f).run()")
    for _ in range(10):
        env.run("GB('ShardsIDReader').run()")
    assert env.status(kept) == "done"


def test_errors_count_for_the_bound_of_results(env):
    env.config("MaxResultsMemory", 100_000)
    script = """
        def reduce(key, acc, record): return record
        def fails(record): raise Exception('x' * 1000)
        GB('PythonReader').localgroupby(lambda x: x, reduce).map(fails).run(
            lambda: (i for i in range(10000)))
        """
    results, errors = env.run(script)
    assert results == []
    assert len(errors) < 200
    assert "MaxResultsMemory" in errors[-1]


def test_a_builder_in_a_global_does_not_keep_its_session(env):
    def grown(runs):
        for _ in range(runs):
            env.execute("gb = GB('ShardsIDReader')\nbig = 'x' * 100000\ngb.map(lambda x: big)")
        return env.client.info("memory")["used_memory"]

    before = grown(50)
    wait_until(lambda: grown(200) < before + 5_000_000, what="memory to stay flat")


def test_much_text_is_printed_in_lines(env):
    env.execute("print(('x' * 79 + '\\n') * 20000)")
    assert env.client.ping()


def test_names_of_builtins_that_a_script_takes_away(new_env):
    env = new_env()
    env.execute("import builtins\ndel builtins.exec, builtins.compile")
    assert env.run("GB('ShardsIDReader').run()") == (["1"], [])
