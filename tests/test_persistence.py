"""Registrations over restarts, crashes, replication and changes of roles."""

import random
import sys

import pytest
from sealed import in_append_only_file
from server import ServerStopped, wait_until
from wire import Error

ALWAYS = ["--appendonly", "yes", "--appendfsync", "always"]
ALL_KINDS = """
GB(desc='keys').foreach(lambda r: execute('incr', 'n keys')).register('k*', mode='sync')
GB(desc='local').foreach(lambda r: execute('incr', 'n local')).register('k*', mode='async_local')
GB(desc='async').foreach(lambda r: execute('incr', 'n async')).register('k*')
GB(desc='stream').foreach(lambda r: execute('incr', 'n stream')).register('k*', mode='sync')
GB('StreamReader', desc='entries').foreach(lambda r: execute('incr', 'n entries')).register(
    's*', batch=2, duration=20, mode='async_local', onFailedPolicy='retry', trimStream=False)
GB('CommandReader', desc='trigger').map(lambda r: r[1:]).register(trigger='t', mode='sync')
GB('CommandReader', desc='hook').map(lambda r: call_next(*r[1:])).register(
    hook='hget', mode='sync', keyprefix='h')
GB(desc='override').foreach(lambda r: override_reply('instead')).register(
    'o*', commands=['get'], eventTypes=['keymiss'], mode='sync')
"""


def what_lasts(env):
    """All of the registrations that a restart must not change."""

    def lasting(entry):
        data = entry["RegistrationData"]
        return entry["id"], entry["reader"], entry["desc"], data["mode"], data["args"]

    return [lasting(entry) for entry in env.registrations()]


def check_all_kinds(env):
    """Every registration of ALL_KINDS works, once per event."""
    before = {name: int(env.client.get(f"n {name}") or 0) for name in COUNTED}
    env.client.set("k", 1)
    env.client.xadd("s1", {"f": "v"})
    for name in COUNTED:
        wait_until(lambda n=name: int(env.client.get(f"n {n}") or 0) == before[n] + 1, what=name)
    assert env.trigger("t", "a") == ["['a']"]
    env.client.hset("h", "f", "v")
    assert env.call("HGET", "h", "f") == b"v"
    assert env.call("GET", "o") == b"instead"


COUNTED = ["keys", "local", "async", "stream", "entries"]

SAVINGS = {
    "dump": ([], "save_and_restart"),
    "debug reload": ([], "reload"),
    "aof": (ALWAYS, "restart"),
    "aof, kill -9": (ALWAYS, "crash"),
    "aof without preamble": ([*ALWAYS, "--aof-use-rdb-preamble", "no"], "restart"),
    "rewritten aof": (ALWAYS, "rewrite_and_restart"),
    "rewritten aof without preamble": (
        [*ALWAYS, "--aof-use-rdb-preamble", "no"],
        "rewrite_and_restart",
    ),
}


def live_on(env, how):
    if how == "rewrite_and_restart":
        wait_until(env.aof_is_written)
        env.client.bgrewriteaof()
        wait_until(env.aof_is_written)
        env.restart()
    else:
        getattr(env, how)()


@pytest.mark.parametrize("saving", SAVINGS)
def test_every_kind_of_registration(new_env, saving):
    options, how = SAVINGS[saving]
    env = new_env(options=options)
    env.register(ALL_KINDS, "ID", "mine", "DESCRIPTION", "it's all")
    expected = what_lasts(env)
    check_all_kinds(env)
    for _ in range(3):
        live_on(env, how)
        assert what_lasts(env) == expected
        about = env.session(expected[0][0])
        assert (about["sessionId"], about["sessionDescription"]) == ("mine", "it's all")
        assert sorted(about["registrationsList"]) == sorted(entry[0] for entry in expected)
        check_all_kinds(env)


@pytest.mark.parametrize("saving", SAVINGS)
def test_unregistering_lasts_too(new_env, saving):
    options, how = SAVINGS[saving]
    env = new_env(options=options)
    env.register("gb = GB()\nfor name in 'abc': gb.register(name)")
    first, second, third = (entry["id"] for entry in env.registrations())
    env.unregister(second)
    live_on(env, how)
    assert [entry["id"] for entry in env.registrations()] == [first, third]
    env.unregister(first)
    env.unregister(third)
    live_on(env, how)
    assert env.registrations() == []


@pytest.mark.parametrize("saving", ["dump", "aof", "rewritten aof without preamble"])
def test_an_upgrade_lasts_too(new_env, saving):
    options, how = SAVINGS[saving]
    env = new_env(options=options)
    script = "GB('CommandReader').map(lambda r: '{}').register(trigger='t', mode='sync')"
    env.register(script.format("old"), "ID", "s")
    env.register(script.format("new"), "ID", "s", "UPGRADE")
    live_on(env, how)
    assert env.trigger("t") == ["new"]
    assert len(env.registrations()) == 1
    assert env.refused(script.format("third"), "ID", "s") == "Session s already exists"


@pytest.mark.parametrize("saving", SAVINGS)
def test_ids_are_not_used_again(new_env, saving):
    options, how = SAVINGS[saving]
    env = new_env(options=options)
    seen = []
    for _ in range(3):
        env.register("GB().register('k*')")
        fresh = [e["id"] for e in env.registrations() if e["id"] not in seen]
        assert len(fresh) == 1
        assert all(int(fresh[0].split("-")[1]) > int(old.split("-")[1]) for old in seen)
        seen += fresh
        live_on(env, how)
    assert [entry["id"] for entry in env.registrations()] == seen


def test_statistics_start_again(durable):
    durable.register("GB().foreach(lambda r: nope).register('k', mode='sync')")
    durable.client.set("k", 1)
    assert durable.data()["numFailures"] == 1
    for reload in (durable.reload, durable.restart):
        reload()
        data = durable.data()
        counters = ("numTriggered", "numSuccess", "numFailures", "numAborted", "lastError")
        assert [data[name] for name in counters] == [0, 0, 0, 0, None]
        durable.client.set("k", 1)
        assert durable.data()["numFailures"] == 1


def test_executions_that_have_ended_are_not_kept_over_a_load(durable):
    script = """
import time
def wait():
    while execute('get', 'go') is None:
        time.sleep(0.005)
    yield 1
GB('PythonReader').run({}, mode='async_local')
"""
    ended = durable.start(script.format("lambda: (i for i in [1])"))
    durable.wait(ended)
    running = durable.start(script.format("wait"))
    wait_until(lambda: durable.executions() == {ended: "done", running: "running"})
    durable.reload()
    assert durable.executions() == {running: "running"}
    assert durable.error("RG.GETRESULTS", ended) == "execution plan does not exist"
    durable.client.set("go", 1)
    assert durable.wait(running) == (["1"], [])


def test_flushall_keeps_registrations(durable):
    durable.register(ALL_KINDS)
    expected = what_lasts(durable)
    for _ in durable.lives():
        durable.client.flushall()
        assert what_lasts(durable) == expected
        check_all_kinds(durable)


GLOBALS = """
shared = {'n': 0}
plain = 5
def helper(x):
    return x + plain
class Point:
    def __init__(self, x):
        self.x = helper(x)
def one(r):
    shared['n'] += 1
    return (shared['n'], Point(1).x)
def two(r):
    shared['n'] += 10
    return (shared['n'], helper(2))
GB('CommandReader').map(one).register(trigger='one', mode='sync')
GB('CommandReader').map(two).register(trigger='two', mode='async_local')
"""


def test_globals_of_a_session(durable):
    """They start again as they were when registered, and are shared by the functions."""
    durable.register(GLOBALS)
    for _ in durable.lives():
        assert durable.trigger("one") == ["(1, 6)"]
        assert durable.trigger("two") == ["(11, 7)"]
        assert durable.trigger("one") == ["(12, 6)"]


def test_two_sessions_do_not_share_globals(durable):
    for name in ("a", "b"):
        durable.register(
            GLOBALS.replace("'one'", f"'one {name}'").replace("'two'", f"'two {name}'")
        )
    for _ in durable.lives():
        assert durable.trigger("one a") == ["(1, 6)"]
        assert durable.trigger("one b") == ["(1, 6)"]
        assert durable.trigger("two a") == ["(11, 7)"]


def test_closures_and_modules(durable):
    durable.register(
        """
        import json, collections.abc
        def make(word):
            count = [0]
            def work(r):
                count[0] += 1
                return json.dumps({word: count[0], 'abc': isinstance(r, collections.abc.Sequence)})
            return work
        GB('CommandReader').map(make('calls')).register(trigger='t', mode='sync')
        """
    )
    for _ in durable.lives():
        assert durable.trigger("t") == ['{"calls": 1, "abc": true}']


def test_the_text_of_a_script(durable):
    script = "# ä comment\nGB('CommandReader').register(trigger='t', mode='sync')\n"
    assert durable.call("RG.PYEXECUTE", script, "ID", "mine") == "OK"
    durable.register("GB().register('k*')", "ID", "other")
    for _ in durable.lives():
        assert durable.call("RG.PYSESSIONSOURCE", "mine") == script.encode()
        assert durable.call("RG.PYSESSIONSOURCE", "other") == b"GB().register('k*')"
        assert durable.error("RG.PYSESSIONSOURCE", "nope") == "Session nope does not exists"
    text = "ERR wrong number of arguments for 'rg.pysessionsource' command"
    assert durable.error("RG.PYSESSIONSOURCE").lower() == text.lower()


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_live_objects_do_no_harm(durable, mode):
    """Functions are pickled when they are registered, not when the server saves."""
    durable.register(
        f"""
        import _thread
        live = None
        def work(r):
            global live
            if live is None:
                live = _thread.allocate_lock()
            with live:
                return 'locked'
        GB('CommandReader').map(work).register(trigger='t', mode='{mode}')
        """
    )
    for _ in durable.lives():
        assert durable.trigger("t") == ["locked"]
        durable.client.bgsave()
        wait_until(lambda: not durable.client.info("persistence")["rdb_bgsave_in_progress"])
        assert durable.client.info("persistence")["rdb_last_bgsave_status"] == "ok"
        durable.client.bgrewriteaof()
        wait_until(durable.aof_is_written)
        assert durable.client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
        assert durable.trigger("t") == ["locked"]


def test_saving_while_functions_run(durable):
    """The save runs in a child while threads of the server are in Python."""
    durable.register(
        """
        def work(r):
            for _ in range(20000):
                pass
            execute('incr', 'n')
        GB('StreamReader').foreach(work).register('s', mode='async_local', batch=10, duration=1)
        """
    )
    for _ in range(10):
        durable.add("s", 30)
        wait_until(lambda: not durable.client.info("persistence")["rdb_bgsave_in_progress"])
        durable.client.bgsave()
        assert durable.client.ping()
    wait_until(lambda: durable.client.get("n") == "300")
    wait_until(lambda: not durable.client.info("persistence")["rdb_bgsave_in_progress"])
    assert durable.client.info("persistence")["rdb_last_bgsave_status"] == "ok"


def test_on_registered_runs_after_every_load(durable):
    """Before the first event: the function needs what it makes."""
    durable.register(
        """
        def prepare():
            global prepared
            prepared = 'yes'
        def work(r):
            execute('rpush', 'log', prepared)
        GB().foreach(work).register('k*', mode='sync', onRegistered=prepare)
        GB('StreamReader').foreach(work).register('s', mode='async_local', onRegistered=prepare)
        """
    )
    for round, _ in enumerate(durable.lives(), 1):
        durable.client.set("k", 1)
        durable.add("s")
        durable.wait_log(["yes"] * 2 * round)


def test_on_registered_runs_on_a_replica(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(
        """
        state = []
        def prepare():
            state.append('prepared')
        GB('CommandReader').map(lambda r: state).register(
            trigger='t', mode='sync', onRegistered=prepare)
        """
    )
    assert master.trigger("t") == ["['prepared']"]
    replica.wait_synced(master)
    replica.promote()
    assert replica.trigger("t") == ["['prepared']"]


def test_on_unregistered_lasts(durable):
    durable.register("GB().register('k*', onUnregistered=lambda: execute('set', 'gone', 1))")
    durable.reload()
    durable.restart()
    assert not durable.client.exists("gone")
    durable.unregister(durable.identifier())
    assert durable.client.get("gone") == "1"


def numbered(env, first, last):
    for n in range(first, last + 1):
        env.client.xadd("s", {"n": n})


NUMBERS = """
GB('StreamReader').foreach(lambda r: execute('rpush', 'log', r['value']['n'])) \\
    .register('s', mode='{}', batch={}, duration=1)
"""


def in_order(seen, last):
    """Whether all numbers are there, each for the first time after its predecessor."""
    return list(dict.fromkeys(seen)) == [str(n) for n in range(1, last + 1)]


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("mode", ["sync", "async_local", "async"])
def test_kill_loses_no_entry(durable, mode, batch):
    durable.register(NUMBERS.format(mode, batch))
    last = 0
    for _ in range(8):
        numbered(durable, last + 1, last + 25)
        last += 25
        durable.crash()
    wait_until(lambda: in_order(durable.log_list(), last), what="every number")
    wait_until(lambda: durable.client.xlen("s") == 0)


def test_kill_in_the_middle_of_a_batch(durable):
    """What was delivered and not acknowledged comes first, and in order."""
    durable.register(
        """
        import time
        def work(r):
            execute('rpush', 'log', r['value']['n'])
            while r['value']['n'] == '3' and not execute('get', 'go'):
                time.sleep(0.005)
        GB('StreamReader').foreach(work).register('s', mode='async_local', batch=5)
        """
    )
    numbered(durable, 1, 10)
    wait_until(lambda: durable.log_list() == ["1", "2", "3"])
    durable.crash()
    wait_until(lambda: durable.log_list() == ["1", "2", "3", "1", "2", "3"])
    durable.client.set("go", 1)
    durable.wait_log([*"123", *(str(n) for n in range(1, 11))])
    wait_until(lambda: durable.client.xlen("s") == 0)


def test_a_kill_after_every_write_of_keys(durable):
    """A sync function's writes are with the write that fired it: both, or none."""
    durable.register("GB().foreach(lambda r: execute('incr', 'n')).register('k*', mode='sync')")
    for n in range(1, 6):
        durable.client.set(f"k{n}", n)
        durable.crash()
        assert durable.client.get("n") == str(n)


def test_a_replica_holds_and_does_not_run(new_env):
    master, replica = new_env(), new_env()
    master.register(ALL_KINDS, "ID", "before")
    replica.follow(master)
    master.register("GB('CommandReader').register(trigger='later', mode='sync')", "ID", "after")
    check_all_kinds(master)
    replica.wait_synced(master)
    assert what_lasts(replica) == what_lasts(master)
    fired = {e["desc"]: e["RegistrationData"]["numTriggered"] for e in replica.registrations()}
    assert set(fired.values()) == {0}
    for name in COUNTED:
        assert replica.client.get(f"n {name}") == master.client.get(f"n {name}")


def test_promotion(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(ALL_KINDS)
    check_all_kinds(master)
    replica.wait_synced(master)
    expected = what_lasts(master)
    replica.promote()
    assert what_lasts(replica) == expected
    check_all_kinds(replica)
    check_all_kinds(replica)
    replica.register("GB().register('x')")
    assert replica.registrations()[-1]["RegistrationData"]["args"]["regex"] == "x"
    assert len(replica.registrations()) == len(expected) + 1


def test_entries_over_a_failover(new_env):
    """The new master does again what the old one did not acknowledge; in order, none lost."""
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.register(NUMBERS.format("async_local", 3))
    numbered(master, 1, 100)
    replica.wait_synced(master)
    master.close()
    master.server.kill()
    replica.promote()
    numbered(replica, 101, 120)
    wait_until(lambda: in_order(replica.log_list(), 120), what="every number")
    wait_until(lambda: replica.client.xlen("s") == 0)


def test_demotion(new_env):
    """A master that becomes a replica stops at once, and gives up what it had."""
    old, new = new_env(), new_env()
    old.register("GB('CommandReader').map(lambda r: 'old').register(trigger='t', mode='sync')")
    old.register(NUMBERS.format("async_local", 1))
    new.register("GB('CommandReader').map(lambda r: 'new').register(trigger='t', mode='sync')")
    new.register("GB().foreach(lambda r: execute('incr', 'n')).register('k*', mode='sync')")
    old.follow(new)
    assert what_lasts(old) == what_lasts(new)
    new.client.set("k", 1)
    numbered(new, 1, 3)
    old.wait_synced(new)
    assert (old.client.get("n"), old.client.xlen("s"), old.log_list()) == ("1", 3, [])
    old.promote()
    assert old.trigger("t") == ["new"]
    old.client.set("k", 2)
    assert old.client.get("n") == "2"
    assert old.client.xlen("s") == 3


def test_roles_back_and_forth(new_env):
    one, two = new_env(), new_env()
    one.register(NUMBERS.format("async_local", 5))
    last = 0
    for _ in range(3):
        for master, replica in ((one, two), (two, one)):
            master.promote()
            replica.follow(master)
            numbered(master, last + 1, last + 20)
            last += 20
            wait_until(lambda m=master, n=last: in_order(m.log_list(), n), what="every number")
            replica.wait_synced(master)
            assert len(replica.registrations()) == 1


def test_a_full_sync_replaces_sessions(new_env):
    master, replica = new_env(), new_env()
    replica.register("GB().register('mine')", "ID", "same")
    master.register("GB().register('theirs')", "ID", "same")
    replica.follow(master)
    assert replica.data()["args"]["regex"] == "theirs"
    assert replica.call("RG.PYSESSIONSOURCE", "same") == b"GB().register('theirs')"
    master.unregister(master.identifier())
    wait_until(lambda: replica.registrations() == [])


def test_a_replica_of_a_replica(new_env):
    master, middle, end = new_env(), new_env(), new_env()
    middle.follow(master)
    end.follow(middle)
    master.register(ALL_KINDS)
    wait_until(lambda: what_lasts(end) == what_lasts(master))
    master.unregister(master.registrations()[0]["id"])
    wait_until(lambda: what_lasts(end) == what_lasts(master))


def test_a_replica_with_a_file(new_env):
    """What a replica has in its own append-only file is what it starts from alone."""
    master, replica = new_env(), new_env(options=ALWAYS)
    replica.follow(master)
    master.register(ALL_KINDS)
    replica.wait_synced(master)
    # A server that writes its first file does not let itself be stopped.
    wait_until(lambda: replica.client.info("persistence")["aof_rewrite_in_progress"] == 0)
    replica.restart()
    replica.promote()
    assert what_lasts(replica) == what_lasts(master)
    check_all_kinds(replica)


def test_registered_by_a_function(durable):
    durable.register(
        """
        def work(r):
            GB('CommandReader').map(lambda r: 'made').register(trigger='made', mode='sync')
        GB().foreach(work).register('start', mode='async_local')
        """
    )
    durable.client.set("start", 1)
    wait_until(lambda: len(durable.registrations()) == 2)
    for _ in durable.lives():
        assert durable.trigger("made") == ["made"]


INTERNAL = ["RG.INNERREGISTER", "RG.INNERUNREGISTER"]


REFUSED = ["exit code 0", "exit code 1"]
"""Redis ends with 0 when its own check finds nothing wrong with a file that a module refused."""


def guru(log):
    """The line of a log that says why the server crashed."""
    return next((line for line in log.splitlines() if "Guru" in line), log[-1000:])


def damaged(data, first, source):
    """Some bytes of `data` after `first` changed, removed or added."""
    data = bytearray(data)
    at = source.randrange(first, len(data) - 9)
    kind = source.choice(["change", "change", "change", "cut", "insert", "truncate"])
    if kind == "change":
        data[at] = source.randrange(256)
    elif kind == "cut":
        del data[at : at + source.randrange(1, 20)]
    elif kind == "insert":
        data[at:at] = source.randbytes(source.randrange(1, 20))
    else:
        del data[at:]
    return bytes(data)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_dump_is_refused_or_read(new_env, seed):
    """It is refused, or what is left works; it never ends in a crash."""
    source = random.Random(seed)
    env = new_env(options=["--rdbchecksum", "no", "--rdbcompression", "no"])
    env.register(ALL_KINDS)
    env.client.save()
    path = env.server.folder / "dump.rdb"
    good = path.read_bytes()
    first = good.index(b"GB(desc") - 64
    env.close()
    env.server.stop()
    for _ in range(15):
        path.write_bytes(damaged(good, first, source))
        try:
            env.server.start()
        except ServerStopped as stopped:
            code = str(stopped).splitlines()[0]
            assert code in REFUSED, f"{code}: {guru(str(stopped))}"
            continue
        env.registrations()
        env.close()
        env.server.kill()


def append_command(env, *words):
    """Write a command at the end of the append-only file of a stopped server."""
    (path,) = (env.server.folder / "appendonlydir").glob("*.incr.aof")
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    parts = [b"*%d\r\n" % len(encoded)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    with path.open("ab") as file:
        file.write(b"".join(parts))


@pytest.mark.parametrize(
    "words",
    [
        ["RG.INNERREGISTER"],
        ["RG.INNERREGISTER", ""],
        ["RG.INNERREGISTER", "garbage"],
        ["RG.INNERREGISTER", b"\xff" * 100],
        ["RG.INNERREGISTER", b"\0" * 100],
        ["RG.INNERUNREGISTER", "x"],
        ["RG.INNERUNREGISTER"],
        ["RG.INNERHOOK", "get"],
    ],
)
def test_garbage_in_an_append_only_file(durable, words):
    """A clear word in the log; the rest is there, or the start is refused."""
    durable.register(ALL_KINDS)
    expected = what_lasts(durable)
    durable.close()
    durable.server.stop()
    append_command(durable, *words)
    before = durable.server.log_size()
    try:
        durable.server.start()
    except ServerStopped as stopped:
        assert str(stopped).splitlines()[0] in REFUSED
        return
    assert what_lasts(durable) == expected
    assert durable.server.log(before)


def test_internal_commands_of_the_file_are_not_for_clients(durable):
    durable.register("GB().register('k*')")
    for command in INTERNAL:
        assert isinstance(durable.call(command, durable.identifier()), Error)
    assert len(durable.registrations()) == 1


PYTHON = b"python %d.%d" % sys.version_info[:2]
OTHER = b"python 3.10"


def restarted_in_another_python(env):
    """Start again, as if all functions had been registered in another version of Python."""
    env.close()
    env.server.stop()
    before = env.server.log_size()
    in_append_only_file(env.server, PYTHON, OTHER)
    env.server.start()
    return env.server.log(before)


def test_functions_of_another_python(durable):
    """They stay, do not run, say why, and keep their place; their script can be sent again."""
    script = """
GB('StreamReader').foreach(lambda r: execute('rpush', 'log', r['id'])).register('s')
GB('CommandReader').map(lambda r: 'here').register(trigger='t', mode='sync')
GB().foreach(lambda r: execute('incr', 'n')).register('k*', mode='sync')
"""
    durable.register(script, "ID", "mine")
    durable.client.xadd("s", {"f": "v"}, id="1-1")
    durable.wait_log(["1-1"])
    wait_until(lambda: durable.client.xlen("s") == 0)
    expected = what_lasts(durable)
    log = restarted_in_another_python(durable)
    assert what_lasts(durable) == expected
    here = PYTHON.decode()
    for entry in durable.registrations():
        error = entry["RegistrationData"]["lastError"]
        for word in ["python 3.10", here, "mine", entry["id"], "RG.PYSESSIONSOURCE mine"]:
            assert word in error
        assert error in log
    assert "python 3.10" in durable.error("RG.TRIGGER", "t")
    durable.client.set("k", 1)
    assert not durable.client.exists("n")
    # One of this Python on the same stream does not trim what the other one has not seen.
    durable.register(
        "GB('StreamReader').foreach(lambda r: execute('rpush', 'late', r['id'])).register('s')"
    )
    durable.client.xadd("s", {"f": "v"}, id="2-1")
    durable.wait_log(["2-1"], "late")
    assert durable.client.xlen("s") == 1
    source = durable.client.execute_command("RG.PYSESSIONSOURCE", "mine")
    assert source == script
    durable.register(source, "ID", "mine", "UPGRADE")
    durable.wait_log(["1-1", "2-1"])
    wait_until(lambda: durable.client.xlen("s") == 0)
    assert durable.trigger("t") == ["here"]


def test_a_time_event_of_another_python(durable):
    """The rest is loaded; the key stays as it was saved, until it is deleted."""
    script = "registerTE(1, lambda: execute('incr', 'n'), 'timer')"
    durable.execute(script, "ID", "clock")
    wait_until(lambda: durable.client.get("n") == "1")
    durable.client.set("other", 1)
    log = restarted_in_another_python(durable)
    assert "a time event of session clock can not run" in log
    assert "python 3.10" in log
    assert durable.client.exists("other", "timer") == 2
    durable.client.save()
    durable.restart()
    assert durable.client.exists("other", "timer") == 2
    durable.reload()
    assert durable.client.delete("timer") == 1
    before = int(durable.client.get("n"))
    durable.execute(script)
    wait_until(lambda: int(durable.client.get("n")) > before)


def test_a_rewrite_of_the_file_during_a_pause(new_env):
    """What can not be written then is written when clients go on."""
    options = [*ALWAYS, "--aof-use-rdb-preamble", "no", "--auto-aof-rewrite-percentage", "0"]
    env = new_env(options=options)
    env.register(ALL_KINDS)
    expected = what_lasts(env)
    env.call("CLIENT", "PAUSE", "300000", "WRITE")
    env.client.bgrewriteaof()
    wait_until(env.aof_is_written)
    env.call("CLIENT", "UNPAUSE")
    wait_until(lambda: b"INNERREGISTER" in incremental(env))
    env.crash()
    assert what_lasts(env) == expected


def test_who_makes_a_child_is_not_replicated(new_env):
    """Registrations were sent inside BGREWRITEAOF, CONFIG SET or PSYNC, which then were replicated
    with them: a server with PSYNC in its file died at its next start."""
    options = [*ALWAYS, "--aof-use-rdb-preamble", "no", "--repl-diskless-sync", "no"]
    master, replica = new_env(options=options), new_env()
    master.register(ALL_KINDS)
    expected = what_lasts(master)
    replica.follow(master)
    master.client.bgsave()
    assert incremental(master).count(b"INNERREGISTER") == 1
    wait_until(lambda: not master.client.info("persistence")["rdb_bgsave_in_progress"])
    master.client.bgrewriteaof()
    wait_until(master.aof_is_written)
    master.client.config_set("appendonly", "no")
    master.client.config_set("appendonly", "yes")
    wait_until(master.aof_is_written)
    written = incremental(master)
    assert b"INNERREGISTER" in written
    for name in (b"PSYNC", b"BGSAVE", b"BGREWRITEAOF", b"CONFIG"):
        assert name not in written.upper()
    assert replica.client.config_get("appendonly") == {"appendonly": "no"}
    master.crash()
    assert what_lasts(master) == expected


def test_a_reload_in_which_functions_write_is_not_replicated(new_env):
    """What onRegistered wrote was replicated with DEBUG RELOAD, so that replicas and the next start
    did it as well."""
    env = new_env(options=ALWAYS)
    env.register("GB().register('k', onRegistered=lambda: execute('incr', 'begun'))")
    env.reload()
    assert env.client.get("begun") == "2"
    assert b"RELOAD" not in incremental(env)
    env.crash()
    assert env.client.get("begun") == "3"


def incremental(env):
    (path,) = (env.server.folder / "appendonlydir").glob("*.incr.aof")
    return path.read_bytes()


def test_a_time_event_that_can_not_be_opened(new_env):
    """It keeps its key, and the file stays readable."""
    env = new_env()
    env.client.set("other", 1)
    env.execute(
        """
        class Bad:
            def __init__(self): self.x = 1
            def __setstate__(self, state): raise RuntimeError('not here')
        bad = Bad()
        def tick(): return bad
        assert registerTE(1000, tick, 'timer')
        """,
        *("ID", "clock"),
    )
    before = env.server.log_size()
    env.reload()
    assert "a time event of session clock can not run" in env.server.log(before)
    env.save_and_restart()
    assert env.client.exists("other", "timer") == 2
