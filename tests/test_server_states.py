"""Functions at work while the server is paused, becomes a replica, or is fed by the function."""

import threading

import pytest
from env import wait_until
from wire import Error

pytestmark = pytest.mark.lopsided

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


def later(env, *words):
    """Send a command that has to wait; its thread, and the list that gets its reply."""
    replies = []

    def send():
        with env.server.wire() as wire:
            replies.append(wire.call(*words))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, replies


HOOKED_WRITES = [
    ("set", ("SET", "k", "v"), "OK"),
    ("publish", ("PUBLISH", "channel", "text"), 0),
    ("del", ("DEL", "k"), 0),
]


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize(("command", "words", "reply"), HOOKED_WRITES)
def test_a_hooked_write_waits_while_clients_are_paused(new_env, mode, command, words, reply):
    """As the command itself would; nothing is written until the end of the pause."""
    env = new_env(options=["--appendonly", "yes"])
    env.register(
        "GB('CommandReader').map(lambda r: call_next(*r[1:]))"
        f".register(hook='{command}', mode='{mode}', convertToStr=False)"
    )
    env.call("CLIENT", "PAUSE", "300000", "WRITE")
    thread, replies = later(env, *words)
    wait_until(lambda: env.client.info("clients")["connected_clients"] >= 3)
    assert env.client.ping()
    assert not env.client.exists("k")
    assert replies == []
    env.call("CLIENT", "UNPAUSE")
    thread.join(30)
    assert [r.decode() if isinstance(r, bytes) else r for r in replies] == [reply]


@pytest.mark.parametrize(
    "body",
    [
        "execute('set', 'w', 1)",
        "execute('publish', 'c', 'x')",
        "GB().register('x*')",
        "registerTE(1, lambda: 1, 'timer')",
        "execute('rg.unregister', '0000000000000000000000000000000000000000-1')",
        "execute('xadd', 's', '*', 'f', 'v')",
        "execute('eval', 'return redis.call(\\'set\\', \\'k\\', 1)', 0)",
        "execute('pfcount', 'k')",
        "call_next(r[1]) + execute('set', 'w', 1)",
    ],
)
def test_a_function_that_runs_at_once_does_not_write_during_a_pause(new_env, body):
    """It can not wait, since the server waits for it: an error says so, and nothing is written."""
    env, replica = new_env(options=["--appendonly", "yes"]), new_env()
    replica.follow(env)
    env.register("GB('StreamReader').register('s', mode='sync')")
    env.register(f"GB('CommandReader').map(lambda r: {body}).register(hook='get', mode='sync')")
    before = len(env.registrations())
    env.call("CLIENT", "PAUSE", "300000", "WRITE")
    assert "takes no writes now" in env.error("GET", "k")
    assert env.client.keys() == []
    assert len(env.registrations()) == before
    env.call("CLIENT", "UNPAUSE")
    assert env.call("SET", "k", "v") == "OK"


def test_streams_found_during_a_pause_are_read_after_it(new_env):
    env = new_env(options=["--appendonly", "yes"])
    env.client.xadd("s1", {"f": "v"})
    env.register(
        "GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s*', mode='sync')"
    )
    wait_until(lambda: env.client.get("n") == "1")
    identifier = env.identifier()
    env.pause(identifier)
    env.client.xadd("s1", {"f": "v"})
    env.call("CLIENT", "PAUSE", "300000", "WRITE")
    env.unpause(identifier)
    for _ in range(20):
        env.client.ping()
    assert env.client.get("n") == "1"
    env.call("CLIENT", "UNPAUSE")
    wait_until(lambda: env.client.get("n") == "2")
    wait_until(lambda: env.client.xlen("s1") == 0)
    assert env.data()["numFailures"] == 0


LUA = "return redis.call('set', 'k', 'lua')"


@pytest.mark.parametrize("script", ["EVAL", "EVALSHA", "FCALL"])
def test_a_script_inside_of_a_script(env, script):
    """The server would end: refused, and the outer script gets the error."""
    sha = env.client.script_load(LUA)
    words = {"EVAL": f"'eval', \"{LUA}\", 0", "EVALSHA": f"'evalsha', '{sha}', 0"}
    call = words.get(script, "'fcall', 'f', 0")
    env.register(
        f"GB('CommandReader').map(lambda r: execute({call})).register(trigger='t', mode='sync')"
    )
    error = env.error("EVAL", "return redis.call('rg.trigger', 't')", 0)
    assert "inside of another script" in error
    assert not env.client.exists("k")
    if script != "FCALL":
        assert env.trigger("t") == ["OK"]
    assert env.client.ping()


def test_events_of_a_script_are_handled_when_it_has_ended(env):
    """Also where a hook has the module look at every command of the script."""
    env.register(
        "GB().foreach(lambda r: execute('rpush', 'log', r['key'] + ' ' + str(execute('get', 'n'))))"
        ".register('k*', mode='sync')"
    )
    env.register(
        "GB('CommandReader').map(lambda r: call_next(*r[1:])).register(hook='hget', mode='sync')"
    )
    script = """
        for i = 1, 3 do redis.call('set', 'k' .. i, i); redis.call('set', 'n', i) end
        return redis.call('llen', 'log')
    """
    assert env.client.eval(script, 0) == 0
    env.wait_log(["k1 3", "k2 3", "k3 3"])


def test_the_next_of_a_hook_answers_as_scripts_know_it(env):
    """A client of RESP3 does not change what the function is given."""
    env.client.hset("h", mapping={"a": "1", "b": "2"})
    env.register(
        "GB('CommandReader').map(lambda r: call_next(*r[1:]))"
        ".register(hook='hgetall', mode='sync', convertToStr=False)"
    )
    flat = [b"a", b"1", b"b", b"2"]
    assert env.call("HGETALL", "h") == flat
    with env.server.wire(protocol=3) as wire:
        assert wire.call("HGETALL", "h") == flat


@pytest.mark.single("databases")
def test_what_a_hooked_command_of_another_database_causes(env):
    """The command runs in its client's database, the functions that react to it in theirs."""
    env.register(
        "GB('CommandReader').map(lambda r: call_next(*r[1:])).register(hook='set', mode='sync')"
    )
    env.register("GB().foreach(lambda r: execute('incr', 'n')).register('k', mode='sync')")
    with env.server.wire() as wire:
        wire.call("SELECT", 2)
        assert wire.call("SET", "k", "v") == b"OK"
        assert wire.call("GET", "k") == b"v"
        assert wire.call("GET", "n") is None
    wait_until(lambda: env.client.get("n") == "1")
    assert not env.client.exists("k")


def test_a_replica_runs_no_hook_on_what_its_master_did(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(
        "GB('CommandReader').map(lambda r: call_next(r[1], r[2] + '!'))"
        ".register(hook='publish', mode='sync', convertToStr=False)"
    )
    replica.wait_synced(master)
    with replica.server.wire() as wire:
        wire.call("SUBSCRIBE", "c")
        master.call("PUBLISH", "c", "text")
        assert wire.receive() == [b"message", b"c", b"text!"]
    assert replica.data()["numTriggered"] == 0


KILLS = [
    "execute('client', 'kill', 'type', 'normal')",
    "execute('client', 'kill', 'type', 'normal', 'skipme', 'no')",
    "execute('CLIENT', 'KILL', 'USER', 'default', 'SKIPME', 'no')",
    "execute('client', 'kill', 'id', execute('mget', 'id')[0], 'skipme', 'no')",
]


@pytest.mark.parametrize("kill", KILLS)
def test_a_client_is_not_killed_while_it_is_served(new_env, kill):
    env = new_env()
    env.register(
        f"""
        GB('CommandReader').map(lambda r: {kill}).register(trigger='t', mode='sync')
        GB('CommandReader').map(lambda r: {kill}).register(hook='get', mode='sync')
        GB().foreach(lambda r: {kill}).register('k*', mode='sync', commands=['set'])
        """
    )
    env.client.set("id", env.call("CLIENT", "ID"))
    for words in [("RG.TRIGGER", "t"), ("GET", "x"), ("EVAL", "return redis.call('get', 'x')", 0)]:
        assert "CLIENT KILL" in env.error(*words)
    assert env.call("SET", "k", "v") == "OK"
    assert env.call("PING") == "PONG"
    # Others than those that the server waits for may.
    env.register(f"GB('CommandReader').map(lambda r: {kill}).register(trigger='l')")
    with pytest.raises((ConnectionError, AssertionError)):
        env.error("RG.TRIGGER", "l")
    assert env.client.ping()


@pytest.mark.parametrize(
    "command", ["'client', 'pause', '500', 'write'", "'failover'", "'client', 'PAUSE', '100'"]
)
@pytest.mark.parametrize("where", ["sync", "atomic", "async_local"])
def test_functions_pause_no_clients(new_env, command, where):
    """What they wrote before would be sent during the pause, which ends the server."""
    env, replica = new_env(options=["--appendonly", "yes"]), new_env()
    replica.follow(env)
    mode = "sync" if where == "sync" else "async_local"
    body = f"execute('set', 'q', 1); execute({command})"
    block = f"with atomic(): {body}" if where == "atomic" else body
    env.register(
        f"""
def f(r):
    {block}
GB('CommandReader').foreach(f).register(trigger='t', mode='{mode}')
"""
    )
    assert "can not be run" in env.error("RG.TRIGGER", "t")
    assert env.client.get("q") == "1"


@pytest.mark.parametrize(
    "command", ["'script', 'flush'", "'SCRIPT', 'FLUSH', 'ASYNC'", "'function', 'flush'"]
)
def test_scripts_do_not_go_while_one_runs(new_env, command):
    env = new_env()
    env.register(
        f"""
        GB('CommandReader').map(lambda r: execute({command})).register(trigger='t', mode='sync')
        GB().foreach(lambda r: execute({command})).register('k*', mode='sync')
        """
    )
    call = "return redis.call('rg.trigger', 't')"
    assert "inside of another script" in env.error("EVAL", call, 0)
    code = "redis.call('set', 'k', 1); redis.call('set', 'k2', 1); return redis.call('get', 'k')"
    assert env.call("EVAL", code, 0) == b"1"
    assert env.trigger("t") == ["OK"]


def test_a_hooked_write_is_refused_where_a_write_is(new_env, tmp_path):
    """Too few replicas, failed saves, scripts that only read: as without the hook."""
    env = new_env()
    env.register(
        """
        for command in ['set', 'xgroup']:
            GB('CommandReader').map(lambda r: call_next(*r[1:])).register(
                hook=command, mode='sync')
        """
    )
    env.client.xadd("s", {"f": "v"})
    writes = [("SET", "a", "x"), ("XGROUP", "CREATE", "s", "g", "0")]
    env.client.config_set("min-replicas-to-write", 1)
    for words in writes:
        assert env.error(*words).startswith("NOREPLICAS")
    env.client.config_set("min-replicas-to-write", 0)
    env.client.config_set("maxmemory", 1)
    for words in writes:
        assert env.error(*words).startswith("OOM")
    env.client.config_set("maxmemory", 0)
    for code in [
        "return redis.call('set', 'ro', 'x')",
        "redis.call('xgroup', 'create', 's', 'g', 0)",
    ]:
        assert "read-only" in env.error("EVAL_RO", code, 0)
        assert "read-only" in env.error("EVAL", "#!lua flags=no-writes\n" + code, 0)
    (env.server.folder / "dump.rdb").mkdir()
    env.client.config_set("save", "1000 1000")
    env.call("BGSAVE")
    failed = "rdb_last_bgsave_status"
    wait_until(lambda: env.client.info("persistence")[failed] == "err")
    for words in writes:
        assert env.error(*words).startswith("MISCONF")
    env.client.config_set("save", "")
    (env.server.folder / "dump.rdb").rmdir()
    assert env.client.keys() == ["s"]
    assert env.client.xinfo_groups("s") == []
    for words in writes:
        assert env.call(*words) in (b"OK", "OK")


def test_what_a_replica_gets_passes_hooks(new_env):
    """Also where the server does not count it as writing: each of these ended the replica."""
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(
        """
        for command in ['publish', 'xgroup', 'pfcount']:
            GB('CommandReader').map(lambda r: call_next(*r[1:])).register(
                hook=command, mode='sync')
        GB().register('h*', mode='sync', commands=['pfadd', 'pfcount'])
        """
    )
    master.client.xadd("s", {"f": "v"})
    master.call("PUBLISH", "a", "b")
    master.call("XGROUP", "CREATE", "s", "g", "0")
    master.call("PFADD", "h", "1", "2")
    assert int(master.call("PFCOUNT", "h")) == 2
    replica.wait_synced(master)
    assert [group["name"] for group in replica.client.xinfo_groups("s")] == ["g"]
    assert replica.error("XGROUP", "CREATE", "s", "g2", "0").startswith("READONLY")
    assert all(e["RegistrationData"]["numTriggered"] == 0 for e in replica.registrations())


def test_a_hook_that_goes_while_its_command_waits_in_a_transaction(new_env):
    """The command is then checked and run as it is."""
    env = new_env()
    env.register(
        "GB('CommandReader').map(lambda r: call_next(*r[1:])).register(hook='set', mode='sync')"
    )
    env.call("ACL", "SETUSER", "eve", "on", "nopass", "~a*", "+@all")
    with env.server.wire() as wire:
        wire.call("AUTH", "eve", "x")
        wire.call("MULTI")
        assert wire.call("SET", "a", "1") == "QUEUED"
        env.unregister(env.identifier())
        assert wire.call("EXEC") == ["OK"]
        env.register(
            "GB('CommandReader').map(lambda r: 1).register(hook='set', mode='sync')", "ID", "again"
        )
        wire.call("MULTI")
        assert wire.call("SET", "b", "1").startswith("NOPERM")
        env.unregister(env.identifier())
        wire.call("DISCARD")
    assert env.client.keys() == ["a"]


def test_a_refused_command_after_a_write_of_a_function(new_env):
    """What the function wrote before it was left unsent, which ended the server in its cron."""
    env = new_env(options=["--hz", "500", "--dynamic-hz", "no", "--appendonly", "yes"])
    env.register("GB().foreach(lambda r: execute('incr', 'n')).register('k', mode='sync')")
    for number in range(100):
        env.client.set(f"passing{number}", 1, px=1 + number * 10)
    # Both in one packet: nothing comes between them.
    both = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n$3\r\nGET\r\n"
    with env.server.wire() as wire:
        for _ in range(2000):
            wire.socket.sendall(both)
            assert wire.receive() == "OK"
            assert isinstance(wire.receive(), Error)
    assert env.client.get("n") == "2000"
    env.reload()
    assert env.client.get("n") == "2000"
