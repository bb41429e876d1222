"""CommandReader registrations: triggers and hooks on commands of the server."""

import pytest
from env import HOLD
from server import wait_until
from wire import Error, Simple

MODES = ["sync", "async_local", "async"]
NO_WAITING = (
    "ERR can not run a non-sync execution inside a MULTI/LUA (blocking is not allowed)"
    " or on loading."
)
NEXT = "lambda r: call_next(*r[1:])"

# The server checks the right to these before the module is asked.
CARRIERS = "+rg.innerhook", "+rg.innerhookwrite"


pytestmark = pytest.mark.lopsided


def times(env, mode):
    """How many shards run a trigger of this mode."""
    return env.shard_count if mode == "async" else 1


def trigger(env, body="", mode="sync", more="", name="t"):
    env.register(f"GB('CommandReader'){body}.register(trigger='{name}', mode='{mode}', {more})")


def hook(env, function=NEXT, command="get", mode="sync", more=""):
    env.register(
        f"GB('CommandReader').map({function}).register(hook='{command}', mode='{mode}', {more})"
    )


def mark(env, name, command="get", mode="sync", more=""):
    """A hook that writes its name around the reply of the next one."""
    hook(env, f"lambda r: '{name}(' + str(call_next(*r[1:])) + ')'", command, mode, more)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "no trigger or hook argument was given"),
        ("'test'", "no trigger or hook argument was given"),
        ("keyprefix='k'", "no trigger or hook argument was given"),
        ("trigger=1", "trigger argument is not string"),
        ("hook=1", "hook argument is not string"),
        ("hook='get', keyprefix=1", "keyprefix argument is not string"),
        ("trigger='t', inorder=1", "inorder argument is be boolean"),
        (
            "trigger='t', hook='get'",
            "trigger argument can not be given with keyprefix or hook",
        ),
        (
            "trigger='t', keyprefix='k'",
            "trigger argument can not be given with keyprefix or hook",
        ),
        ("trigger='t', mode='later'", "unknown execution mode"),
        ("trigger='t', mode=1", "execution mode must be a string"),
        ("hook='nope'", "Can not override an unexisting command"),
        ("hook='RG.unregister'", "Can not override a command of this module"),
        ("hook='exec'", "Can not override a command which are not allowed inside a script"),
        (
            "hook='zunion', keyprefix='k'",
            "Can not override a command with moveable keys by key prefix",
        ),
        (
            "hook='ping', keyprefix='k'",
            "Can not override a command by key prefix with none positive first key",
        ),
    ],
)
def test_arguments(env, arguments, text):
    assert text in env.refused(f"GB('CommandReader').register({arguments})")
    assert env.registrations() == []


def test_a_command_reader_does_not_run(env):
    assert "Given reader do not support run" in env.refused("GB('CommandReader').run()")


@pytest.mark.parametrize("mode", MODES)
def test_the_record_of_a_trigger(env, mode):
    trigger(env, mode=mode)
    n = times(env, mode)
    assert env.call("RG.TRIGGER", "t") == [b"['t']"] * n
    assert env.call("RG.TRIGGER", "t", "a", "", "1") == [b"['t', 'a', '', '1']"] * n
    assert env.call("rg.trigger", "t", "a\0b") == [b"['t', 'a\\x00b']"] * n
    assert env.call("RG.TRIGGER", "t", b"\xff") == [b"['t', bytearray(b'\\xff')]"] * n


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("'text'", [b"text"]),
        ("'+PONG'", [Simple("PONG")]),
        ("'-ERR no'", [Error("ERR no")]),
        ("-5", [-5]),
        ("1.5", [b"1.500000"]),
        ("b'\\xff'", [b"\xff"]),
        ("['a', 1]", [[b"a", 1]]),
        ("None", [b"PY RECORD"]),
        ("(1, 2)", [b"PY RECORD"]),
    ],
)
def test_results_as_replies(env, mode, value, reply):
    trigger(env, f".map(lambda r: {value})", mode, "convertToStr=False")
    assert env.call("RG.TRIGGER", "t") == reply * times(env, mode)


@pytest.mark.parametrize("mode", MODES)
def test_results_become_text(env, mode):
    trigger(env, ".flatmap(lambda r: [{'a': 1}, None, 5])", mode)
    results, expected, n = env.trigger("t"), ["5", "None", "{'a': 1}"], times(env, mode)
    assert results == expected if n == 1 else sorted(results) == sorted(expected * n)


@pytest.mark.parametrize("mode", MODES)
def test_no_result(env, mode):
    trigger(env, ".filter(lambda r: False)", mode)
    assert env.trigger("t") == []


@pytest.mark.parametrize("mode", MODES)
def test_only_the_first_error(env, mode):
    body = """.flatmap(lambda r: [2, 1]).foreach(lambda x: flat_error(f'number {x}'))"""
    trigger(env, body, mode)
    assert env.call("RG.TRIGGER", "t") == Error("number 1")
    assert env.data()["lastError"] == "number 1"
    assert env.data()["numFailures"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_error_hides_results(env, mode):
    body = ".flatmap(lambda r: [0, 1, 2]).map(lambda x: 1 / x)"
    trigger(env, body, mode)
    assert "division by zero" in env.error("RG.TRIGGER", "t")


def test_names_have_a_case(env):
    trigger(env, name="Name")
    assert env.trigger("Name") == ["['Name']"]
    for name in ("name", "NAME", "Nam", "Name1", ""):
        assert env.error("RG.TRIGGER", name) == "ERR subcommand not found"


def test_names_of_any_characters(env):
    trigger(env, name="ä b\\n")
    assert env.call("RG.TRIGGER", "ä b\n", "x")[0].decode() == str(["ä b\n", "x"])


@pytest.mark.parametrize("command", ["RG.TRIGGER", "RG.TRIGGERONKEY"])
def test_no_name(env, command):
    text = f"ERR wrong number of arguments for '{command.lower()}' command"
    assert env.error(command).lower() == text.lower()


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_on_a_key(env, mode):
    trigger(env, mode=mode)
    n = times(env, mode)
    assert env.call("RG.TRIGGERONKEY", "t", "key", "x") == [b"['t', 'key', 'x']"] * n
    assert env.call("RG.TRIGGERONKEY", "t") == [b"['t']"] * n
    assert env.error("RG.TRIGGERONKEY", "nope", "key") == "ERR subcommand not found"
    assert env.call("COMMAND", "GETKEYS", "RG.TRIGGERONKEY", "t", "key", "x") == [b"key"]


def test_a_name_twice(env):
    trigger(env)
    text = env.refused("GB('CommandReader').register(trigger='t')")
    assert "trigger already registered" in text
    assert len(env.registrations()) == 1
    text = env.refused("for _ in range(2): GB('CommandReader').register(trigger='u')")
    assert "trigger already registered in this session" in text
    assert len(env.registrations()) == 1


def test_a_name_is_free_again(env):
    trigger(env)
    env.unregister(env.identifier())
    assert env.error("RG.TRIGGER", "t") == "ERR subcommand not found"
    trigger(env, ".count()")
    assert env.trigger("t") == ["1"]


def test_one_builder_with_two_triggers(env):
    env.register(
        """
        gb = GB('CommandReader').map(lambda r: r[0])
        gb.register(trigger='a', mode='sync')
        gb.register(trigger='b', mode='async_local')
        """
    )
    assert env.trigger("a") == ["a"]
    assert env.trigger("b") == ["b"]


@pytest.mark.parametrize("mode", MODES)
def test_executions_of_triggers_are_not_kept(env, mode):
    trigger(env, mode=mode)
    for _ in range(10):
        env.trigger("t")
    wait_until(lambda: env.executions() == {})
    assert env.data()["numSuccess"] == 10


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_asy_21_asynchronous_within_multi(env, mode):
    trigger(env, ".foreach(lambda r: execute('set', 'ran', 1))", mode)
    env.call("MULTI")
    assert env.call("RG.TRIGGER", "t") == Simple("QUEUED")
    assert env.call("EXEC") == [Error(NO_WAITING)]
    assert NO_WAITING in env.error("EVAL", "return redis.call('rg.trigger', 't')", "0")
    errors = env.errors("GB('ShardsIDReader').map(lambda x: execute('rg.trigger', 't')).run()")
    assert ["blocking is not allowed" in error for error in errors] == [True] * env.shard_count
    assert not env.client.exists("ran")


def test_sync_within_multi_and_scripts(env):
    trigger(env, ".map(lambda r: (r[1], isAsyncAllow()))")
    assert env.trigger("t", "alone") == ["('alone', True)"]
    env.call("MULTI")
    env.call("RG.TRIGGER", "t", "multi")
    assert env.call("EXEC") == [[b"('multi', False)"]]
    reply = env.call("EVAL", "return redis.call('rg.trigger', 't', 'lua')", "0")
    assert reply == [b"('lua', False)"]


def test_sync_from_execute(env):
    trigger(env)
    script = "GB('ShardsIDReader').map(lambda x: execute('rg.trigger', 't', 'x')).run()"
    assert env.results(script) == [str([str(["t", "x"])])] * env.shard_count


def test_a_trigger_within_a_trigger(env):
    trigger(env, ".map(lambda r: execute('rg.trigger', 'inner', *r[1:]))", name="outer")
    trigger(env, ".map(lambda r: r[1] * 2)", name="inner")
    assert env.trigger("outer", "ab") == ["['abab']"]


def test_a_trigger_that_calls_itself(env):
    body = """.map(lambda r: execute('rg.trigger', 't', int(r[1]) - 1)[0] + '.'
        if int(r[1]) > 0 else 'end')"""
    trigger(env, body)
    assert env.trigger("t", 5) == ["end....."]


def test_endless_recursion_is_an_error(env):
    trigger(env, ".map(lambda r: execute('rg.trigger', 't'))")
    assert isinstance(env.call("RG.TRIGGER", "t"), Error)
    assert env.client.ping()


def test_executions_in_parallel(env):
    """Two calls of one registration wait for each other."""
    env.register(
        """
        import time
        def meet(r):
            execute('incr', 'here')
            while execute('get', 'here') != '2':
                time.sleep(0.005)
        GB('CommandReader').foreach(meet).register(trigger='t', mode='async_local')
        """
    )
    with env.server.wire() as one, env.server.wire() as two:
        one.send("RG.TRIGGER", "t")
        two.send("RG.TRIGGER", "t")
        assert one.receive() == two.receive() == [b"['t']"]


def test_in_order(env):
    """Twenty clients queue behind the first, who waits for `go`."""
    env.register(
        HOLD
        + """
def work(r):
    hold()
    execute('rpush', 'log', r[1])
GB('CommandReader').foreach(work).register(trigger='t', mode='async_local', inorder=True)
"""
    )
    wires = [env.server.wire() for _ in range(20)]
    for n, wire in enumerate(wires):
        wire.send("RG.TRIGGER", "t", n)
        env.wait_data(numTriggered=n + 1)
    env.go()
    for n, wire in enumerate(wires):
        assert wire.receive() == [str(["t", str(n)]).encode()]
        wire.close()
    assert env.log_list() == [str(n) for n in range(20)]
    assert env.data()["args"]["inorder"] == 1


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_a_client_that_leaves(env, mode):
    env.register(
        HOLD + f"GB('CommandReader').foreach(lambda r: hold()).register(trigger='t', mode='{mode}')"
    )
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_until(env.held)
    env.go()
    env.wait_data(numSuccess=1)
    wait_until(lambda: env.executions() == {})


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_abort_of_a_running_trigger(env, mode):
    env.register(
        HOLD + f"GB('CommandReader').foreach(lambda r: hold()).register(trigger='t', mode='{mode}')"
    )
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_until(env.held)
        (identifier,) = env.executions()
        assert env.abort(identifier) == "OK"
        reply = wire.receive()
    assert isinstance(reply, Error)
    assert "forcestopped" in reply.lower()
    assert env.settled()["numFailures"] == 1


def test_abort_of_a_queued_trigger(env):
    env.register(
        HOLD
        + "GB('CommandReader').foreach(lambda r: hold())"
        + ".register(trigger='t', mode='async_local', inorder=True)"
    )
    with env.server.wire() as first, env.server.wire() as second:
        first.send("RG.TRIGGER", "t")
        wait_until(env.held)
        second.send("RG.TRIGGER", "t")
        wait_until(lambda: "created" in env.executions().values())
        (queued,) = [i for i, status in env.executions().items() if status == "created"]
        assert env.abort(queued) == "OK"
        assert second.receive() == []
        env.go()
        assert first.receive() == [b"['t']"]
    data = env.settled()
    assert (data["numSuccess"], data["numAborted"]) == (1, 1)


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_unregister_while_it_runs(env, mode):
    env.register(
        HOLD + f"GB('CommandReader').foreach(lambda r: hold()).register(trigger='t', mode='{mode}')"
    )
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_until(env.all_held if mode == "async" else env.held)
        env.unregister(env.identifier(), "abortpending")
        assert env.error("RG.TRIGGER", "t") == "ERR subcommand not found"
        env.go()
        assert wire.receive() == [b"['t']"] * times(env, mode)


def test_a_sync_trigger_that_unregisters_itself(env):
    env.register(
        """
        mine = []
        def work(r):
            execute('rg.unregister', mine[0])
            return 'gone'
        mine.append(GB('CommandReader').map(work).register(trigger='t', mode='sync'))
        """
    )
    assert env.trigger("t") == ["gone"]
    assert env.registrations() == []


def test_call_next_of_a_trigger(env):
    trigger(env, ".map(lambda r: call_next('x'))")
    assert isinstance(env.call("RG.TRIGGER", "t"), Error)
    assert env.client.ping()


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_a_hook(env, mode):
    env.client.set("k", "v")
    mark(env, "hook", mode=mode)
    assert env.call("GET", "k") == b"hook(v)"
    assert env.call("GET", "nope") == b"hook(None)"
    assert env.data()["numSuccess"] == 2
    env.unregister(env.identifier())
    assert env.call("GET", "k") == b"v"


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize("name", ["get", "GET", "gEt"])
def test_names_of_hooked_commands_in_any_case(env, mode, name):
    hook(env, "lambda r: r", name, mode)
    assert env.call("GeT", "k") == b"['GeT', 'k']"
    assert env.data()["args"]["trigger"] == name


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("'text'", b"text"),
        ("'+PONG'", Simple("PONG")),
        ("'-ERR no'", Error("ERR no")),
        ("5", 5),
        ("['a', 1]", [b"a", 1]),
        ("[]", []),
        ("b'\\xff'", b"\xff"),
        ("None", b"PY RECORD"),
    ],
)
def test_the_reply_of_a_hook_is_its_only_result(env, mode, value, reply):
    hook(env, f"lambda r: {value}", mode=mode, more="convertToStr=False")
    assert env.call("GET", "k") == reply


def test_a_hook_answers_text_unless_told_otherwise(env):
    hook(env, NEXT, "incr")
    assert env.call("INCR", "n") == b"1"
    hook(env, NEXT, "decr", more="convertToStr=False")
    assert env.call("DECR", "n") == 0


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.parametrize("body", ["filter(lambda r: False)", "flatmap(lambda r: [1, 2])"])
def test_not_one_result(env, mode, body):
    env.register(f"GB('CommandReader').{body}.register(hook='get', mode='{mode}')")
    assert env.error("GET", "k") == "Command hook must return exactly one result"


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_errors_of_hooks(env, mode):
    env.client.set("k", "text")
    hook(env, command="incr", mode=mode)
    assert "ERR value is not an integer or out of range" in env.error("INCR", "k")
    hook(env, "lambda r: flat_error('CLOSED for today')", "get", mode)
    assert env.error("GET", "k") == "CLOSED for today"
    assert env.registrations()[1]["RegistrationData"]["lastError"] == "CLOSED for today"


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_wrong_commands_are_answered_by_the_server(env, mode):
    hook(env, "lambda r: execute('incr', 'ran')", "set", mode)
    assert env.error("SET", "k") == "ERR wrong number of arguments for 'set' command"
    assert env.error("SET") == "ERR wrong number of arguments for 'set' command"
    assert not env.client.exists("ran")


def test_a_key_prefix_is_literal(env):
    hook(env, "lambda r: 'hooked'", "get", more="keyprefix='k*'")
    env.client.mset({"k*1": 1, "k1": 2, "k": 3})
    assert env.call("GET", "k*1") == b"hooked"
    assert env.call("GET", "k1") == b"2"
    assert env.call("GET", "k") == b"3"


@pytest.mark.parametrize(
    ("command", "hooked"),
    [
        (["MSET", "a{x}", "1", "k{x}", "2"], True),
        (["MSET", "k{x}", "1", "a{x}", "2"], True),
        (["MSET", "a{x}", "k", "b{x}", "2"], False),
    ],
)
def test_a_key_prefix_and_many_keys(env, command, hooked):
    hook(env, "lambda r: 'hooked'", "mset", more="keyprefix='k'")
    assert env.call(*command) == (b"hooked" if hooked else Simple("OK"))


def test_a_hook_on_a_command_without_keys(env):
    mark(env, "hook", "ping")
    assert env.call("PING") == b"hook(PONG)"


def test_a_chain_of_hooks(env):
    """The last one that registered runs first."""
    env.client.set("k", "v")
    for name in "abc":
        mark(env, name)
    assert env.call("GET", "k") == b"c(b(a(v)))"


@pytest.mark.parametrize(("gone", "expected"), [(0, b"c(b(v))"), (1, b"c(a(v))"), (2, b"b(a(v))")])
def test_a_chain_without_one_of_its_hooks(env, gone, expected):
    env.client.set("k", "v")
    for name in "abc":
        mark(env, name)
    env.unregister(env.registrations()[gone]["id"])
    assert env.call("GET", "k") == expected


def test_a_chain_over_reloads(durable):
    durable.client.set("k", "v")
    for name in "abc":
        mark(durable, name)
    mark(durable, "last", mode="async_local")
    for _ in durable.lives():
        for _ in range(2):
            assert durable.call("GET", "k") == b"last(c(b(a(v))))"
            durable.reload()
    durable.client.bgrewriteaof()
    wait_until(durable.aof_is_written)
    durable.restart()
    assert durable.call("GET", "k") == b"last(c(b(a(v))))"


def test_a_chain_with_different_prefixes(env):
    env.client.mset({"ab": "v", "ax": "v", "x": "v"})
    mark(env, "all")
    mark(env, "a", more="keyprefix='a'")
    mark(env, "ab", more="keyprefix='ab'")
    assert env.call("GET", "x") == b"all(v)"
    assert env.call("GET", "ax") == b"a(all(v))"
    assert env.call("GET", "ab") == b"ab(a(all(v)))"


def test_a_hook_may_call_the_next_one_often(env):
    if not env.reaches_all_slots():
        pytest.skip("it uses keys of several slots inside a command with a key")
    env.client.mset({"k": "v", "l": "w"})
    mark(env, "one")
    hook(env, "lambda r: call_next('k') + call_next('l') + call_next(*r[1:])")
    assert env.call("GET", "k") == b"one(v)one(w)one(v)"


def test_nothing_goes_on_top_of_an_asynchronous_hook(env):
    mark(env, "a", mode="async_local")
    for mode in MODES:
        text = env.refused(f"GB('CommandReader').register(hook='GET', mode='{mode}')")
        assert "Can not override a none sync registration" in text
    assert len(env.registrations()) == 1
    text = env.refused(
        """
        GB('CommandReader').register(hook='set', mode='async_local')
        GB('CommandReader').register(hook='SET', mode='sync')
        """
    )
    assert "Can not override a none sync registration which already created on this session" in text


def test_an_upgrade_replaces_its_asynchronous_hook(env):
    script = "GB('CommandReader').map(lambda r: '{}').register(hook='get', mode='async_local')"
    env.register(script.format("old"), "ID", "s")
    assert env.call("GET", "k") == b"old"
    env.register(script.format("new"), "ID", "s", "UPGRADE")
    assert env.call("GET", "k") == b"new"


def test_execute_of_the_hooked_command_is_hooked_again(env):
    if not env.reaches_all_slots():
        pytest.skip("it uses keys of several slots inside a command with a key")
    env.client.mset({"a": "va", "b": "vb"})
    function = "lambda r: execute('get', 'b') + '!' if r[1] == 'a' else call_next(r[1]) + '?'"
    hook(env, function)
    assert env.call("GET", "a") == b"vb?!"


def test_a_hook_that_executes_itself_for_ever_is_an_error(env):
    hook(env, "lambda r: execute('get', 'k')")
    assert isinstance(env.call("GET", "k"), Error)
    assert env.client.ping()


def test_a_sync_hook_within_multi_and_scripts(env):
    mark(env, "hook")
    env.client.set("k", "v")
    env.call("MULTI")
    env.call("GET", "k")
    assert env.call("EXEC") == [b"hook(v)"]
    assert env.call("EVAL", "return redis.call('get', 'k')", "0") == b"hook(v)"
    script = "GB('ShardsIDReader').map(lambda x: execute('get', 'k')).run(mode='async_local')"
    assert env.results(script) == ["hook(v)"]


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_an_asynchronous_hook_within_multi_and_scripts(env, mode):
    hook(env, command="set", mode=mode)
    env.call("MULTI")
    env.call("SET", "k", "v")
    assert env.call("EXEC") == [Error(NO_WAITING)]
    assert NO_WAITING in env.error("EVAL", "return redis.call('set', 'k', 'v')", "0")
    assert not env.client.exists("k")
    if times(env, mode) == 1:
        assert env.call("SET", "k", "v") in (b"OK", Simple("OK"))


@pytest.mark.parametrize("mode", ["sync", "async_local"])
@pytest.mark.single("databases")
def test_the_next_command_runs_in_the_database_of_the_client(env, mode):
    hook(env, command="set", mode=mode)
    mark(env, "hook", mode=mode)
    with env.server.wire() as wire:
        wire.call("SELECT", "7")
        assert wire.call("SET", "k", "seven") == b"OK"
        assert wire.call("GET", "k") == b"hook(seven)"
        wire.call("FLUSHDB")
    assert env.client.dbsize() == 0


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_the_client_needs_the_right_to_the_command(env, mode):
    """The right to the carrier alone is worth nothing: that to the command and key counts."""
    if not env.reaches_all_slots():
        pytest.skip("it uses keys of several slots inside a command with a key")
    function = "lambda r: (execute('incr', 'n'), call_next(*r[1:]))[1]"
    hook(env, function, "set", mode)
    env.call("ACL", "SETUSER", "bob", "reset", "on", "nopass", "~k*", "+set", *CARRIERS)
    env.call("ACL", "SETUSER", "eve", "reset", "on", "nopass", "~*", "+@all", "-set")
    with env.server.wire() as bob, env.server.wire() as eve:
        assert bob.call("AUTH", "bob", "x") == "OK"
        assert eve.call("AUTH", "eve", "x") == "OK"
        assert eve.call("SET", "k", "eve").startswith("NOPERM")
        assert bob.call("SET", "other", "bob").startswith("NOPERM")
        assert env.client.mget("k", "other", "n") == [None, None, None]
        assert bob.call("SET", "k", "bob") == b"OK"
    assert env.client.mget("k", "n") == ["bob", "1"]
    env.call("ACL", "DELUSER", "bob", "eve")


def test_rights_within_multi(env):
    hook(env, command="set")
    env.call("ACL", "SETUSER", "eve", "reset", "on", "nopass", "~*", "+@all", "-set")
    with env.server.wire() as eve:
        assert eve.call("AUTH", "eve", "x") == "OK"
        eve.call("MULTI")
        eve.call("SET", "k", "eve")
        reply = eve.call("EXEC")
    assert str(reply if isinstance(reply, Error) else reply[0]).startswith(("NOPERM", "EXECABORT"))
    assert not env.client.exists("k")
    env.call("ACL", "DELUSER", "eve")


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_over_the_limit_of_memory(new_env, mode):
    env = new_env()
    env.client.set("k", "v")
    mark(env, "hook", "get", mode)
    mark(env, "hook", "set", mode)
    env.client.config_set("maxmemory", 1)
    assert env.call("GET", "k") == b"hook(v)"
    assert env.error("SET", "k", "w").startswith("OOM command not allowed")
    env.client.config_set("maxmemory", 0)
    assert env.call("GET", "k") == b"hook(v)"
    assert env.call("SET", "k", "w") == b"hook(OK)"


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_on_a_replica(new_env, mode):
    master, replica = new_env(), new_env()
    replica.follow(master)
    mark(master, "hook", "get", mode)
    hook(master, "lambda r: call_next(r[1], r[2] + '!')", "set", mode)
    assert master.call("SET", "k", "v") == b"OK"
    replica.wait_synced(master)
    assert master.call("GET", "k") == b"hook(v!)"
    assert replica.call("GET", "k") == b"hook(v!)"
    assert replica.error("SET", "k", "w").startswith("READONLY")
    statistics = [e["RegistrationData"]["numTriggered"] for e in replica.registrations()]
    assert statistics == [1, 0]


def test_hooks_do_not_see_what_is_loaded(durable):
    hook(durable, "lambda r: call_next(r[1], r[2] + '!')", "set")
    durable.client.set("k", "v")
    for _ in durable.lives():
        assert durable.client.get("k") == "v!"


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_reads_on_a_replica(new_env, mode):
    master, replica = new_env(), new_env()
    master.client.set("k", "v")
    trigger(master, ".map(lambda r: [execute('get', 'k')] + r)", mode, name="read")
    replica.follow(master)
    for command in ("RG.TRIGGER", "rg.TriggerOnKey"):
        assert replica.call(command, "read", "a b") == [b"['v', 'read', 'a b']"]
    assert [e["RegistrationData"]["numTriggered"] for e in replica.registrations()] == [2]
    assert master.data()["numTriggered"] == 0
    assert replica.error("RG.TRIGGER", "nothing") == "ERR subcommand not found"
    arity = "ERR wrong number of arguments for 'rg.trigger' command"
    assert replica.error("RG.TRIGGER") == arity
    assert replica.call("MULTI") == "OK"
    assert replica.call("RG.TRIGGER", "read") == "QUEUED"
    (reply,) = replica.call("EXEC")
    assert reply == [b"['v', 'read']"] if mode == "sync" else "non-sync" in reply
    replica.promote()
    assert replica.trigger("read") == ["['v', 'read']"]


def test_a_trigger_that_a_replica_does_not_have(new_env):
    """It is not refused as something that writes, also where nothing else is registered."""
    unknown = "ERR subcommand not found"
    master = new_env()
    assert master.error("RG.TRIGGER", "t") == unknown
    replica = new_env(options=["--replicaof", "127.0.0.1", master.server.port])
    replica.wait_synced(master)
    assert replica.error("RG.TRIGGER", "t") == unknown
    trigger(master, ".count()", "sync")
    replica.wait_synced(master)
    assert replica.trigger("t") == ["1"]
    replica.promote()
    replica.unregister(replica.identifier())
    replica.follow(master)
    assert replica.trigger("t") == ["1"]
    master.unregister(master.identifier())
    wait_until(lambda: replica.registrations() == [])
    assert replica.error("RG.TRIGGER", "t") == unknown


def test_a_trigger_while_a_replica_loads(new_env):
    master, replica = new_env(), new_env(options=["--loading-process-events-interval-bytes", 1024])
    trigger(master, ".count()", "sync")
    master.fill(20000)
    replica.client.config_set("key-load-delay", 300)
    replica.client.replicaof("127.0.0.1", str(master.server.port))
    loads = wait_until(lambda: replica.call("PING") != "PONG" and replica.call("RG.TRIGGER", "t"))
    assert loads.startswith("LOADING")
    replica.call("CONFIG", "SET", "key-load-delay", 0)
    wait_until(lambda: replica.call("PING") == "PONG")
    replica.wait_synced(master)
    assert replica.trigger("t") == ["1"]


def test_a_trigger_does_not_write_on_a_replica(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    master.client.set("k", "v")
    trigger(master, ".foreach(lambda r: execute('set', 'k', 'w'))", name="write")
    replica.wait_synced(master)
    assert "READONLY" in replica.error("RG.TRIGGER", "write")
    assert replica.client.get("k") == "v"


def test_rights_to_triggers_on_a_replica(new_env):
    master, replica = new_env(), new_env()
    trigger(master, ".count()", "sync")
    replica.follow(master)
    rules = ["on", ">secret", "~*", "+rg.innerhook", "-rg.trigger"]
    replica.call("ACL", "SETUSER", "bob", *rules)
    with replica.server.wire() as wire:
        assert wire.call("AUTH", "bob", "secret") == "OK"
        assert wire.call("RG.TRIGGER", "t").startswith("NOPERM")
        replica.call("ACL", "SETUSER", "bob", "+rg.trigger")
        assert wire.call("RG.TRIGGER", "t") == [b"1"]


@pytest.mark.parametrize("mode", MODES)
def test_survives_reloads(durable, mode):
    trigger(durable, ".map(lambda r: len(r))", mode)
    identifier = durable.identifier()
    for _ in durable.lives():
        assert durable.trigger("t", "a", "b") == ["3"]
        assert durable.identifier() == identifier


def test_a_hooked_write_is_replicated_once(new_env):
    master, replica = new_env(), new_env()
    replica.follow(master)
    hook(master, command="incr", more="convertToStr=False")
    for _ in range(10):
        master.call("INCR", "n")
    replica.wait_synced(master)
    assert replica.client.get("n") == "10"


def test_watched_keys_of_a_hooked_client(env):
    hook(env, command="set")
    with env.server.wire() as wire:
        wire.call("WATCH", "k")
        wire.call("MULTI")
        wire.call("SET", "k", "mine")
        env.client.set("k", "theirs")
        assert wire.call("EXEC") is None
    assert env.client.get("k") == "theirs"


def test_what_the_module_does_for_itself_passes_hooks(env):
    """A hook is for clients and functions: the reading of streams does not depend on it."""
    hook(env, "lambda r: 'mine'", command="xtrim")
    env.register("GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s')")
    env.client.xadd("s", {"f": "v"})
    wait_until(lambda: env.client.get("n") == "1" and env.client.xlen("s") == 0)
    assert env.call("XTRIM", "s", "MAXLEN", "0") == b"mine"


@pytest.mark.parametrize("mode", ["sync", "async_local"])
def test_a_function_unregisters_itself(env, mode):
    env.register(
        f"""
        def work(r):
            return execute('RG.UNREGISTER', own)
        own = GB('CommandReader').map(work).register(trigger='t', mode='{mode}')
        """
    )
    assert env.trigger("t") == ["OK"]
    assert env.registrations() == []


@pytest.mark.parametrize("command", ["client", "config", "script", "function", "acl"])
def test_parts_of_a_command_that_scripts_may_not_run(env, command):
    text = "Can not override a command which are not allowed inside a script"
    assert text in env.refused(f"GB('CommandReader').register(hook='{command}', mode='sync')")


@pytest.mark.parametrize("command", ["object|freq", "xgroup|create", "|", "get|"])
def test_a_part_of_a_command_is_no_command(env, command):
    """What a client sends begins with the whole command: such a hook would never run."""
    text = "Can not override an unexisting command"
    assert text in env.refused(f"GB('CommandReader').register(hook='{command}', mode='sync')")
    text = "bad reply on COMMAND command"
    assert text in env.refused(f"GB().register('*', commands=['{command}'], mode='sync')")


def test_select_has_no_hook(env):
    """The next command would run in the database of before."""
    text = "Can not override a command that changes its client"
    assert text in env.refused("GB('CommandReader').register(hook='select', mode='sync')")


def test_a_hook_on_a_command_of_parts(env):
    hook(env, "lambda r: call_next(*r[1:]) + '!'", "object")
    env.client.set("k", "text")
    assert env.call("OBJECT", "ENCODING", "k") == b"embstr!"
    assert "syntax" in env.error("OBJECT", "nope", "k") or "unknown subcommand" in env.error(
        "OBJECT", "nope", "k"
    )
    assert "wrong number" in env.error("OBJECT", "ENCODING")


@pytest.mark.parametrize(
    ("rights", "words", "expected"),
    [
        ("%R~k*", ("GET", "k"), b"text"),
        ("%W~k*", ("SET", "k", "new"), b"OK"),
        ("%RW~k*", ("SET", "k", "new"), b"OK"),
        ("%R~k*", ("SET", "k", "new"), None),
        ("%W~k*", ("GET", "k"), None),
        ("%R~other*", ("GET", "k"), None),
    ],
)
@pytest.mark.parametrize("kind", ["hook", "commands"])
def test_rights_to_keys_are_those_of_the_command(env, rights, words, expected, kind):
    """The carrier asks for no more than the command does."""
    env.client.set("k", "text")
    if kind == "hook":
        hook(env, NEXT, words[0])
    else:
        env.register(f"GB().register('k*', commands=['{words[0]}'], mode='sync')")
    env.call("ACL", "SETUSER", "bob", "reset", "on", "nopass", rights, "+@all")
    with env.server.wire() as bob:
        bob.call("AUTH", "bob", "x")
        reply = bob.call(*words)
    if expected is None:
        assert reply.startswith("NOPERM")
    else:
        assert (reply if isinstance(reply, bytes) else reply.encode()) == expected


def test_users_of_any_name(env):
    """One whose name is no text is not taken for another one."""
    env.call("ACL", "SETUSER", b"\xef\xbf\xbd", "on", "nopass", "~*", "&*", "+@all")
    env.call("ACL", "SETUSER", b"\xff", "on", "nopass", "~a*", "+get", "+@connection", *CARRIERS)
    hook(env, NEXT, "set")
    hook(env, NEXT, "get")
    env.client.set("a", "1")
    with env.server.wire() as wire:
        assert wire.call("AUTH", b"\xff", "x") == "OK"
        assert wire.call("SET", "a", "2").startswith("NOPERM")
        assert wire.call("GET", "a") == b"1"
    env.call("ACL", "SETUSER", b"\xff", "+@all")
    with env.server.wire() as wire:
        assert wire.call("AUTH", b"\xff", "x") == "OK"
        reply = wire.call("RG.PYEXECUTE", "execute('set', 'secret', 1)")
        assert "UTF-8" in reply
    env.call("ACL", "DELUSER", b"\xff", b"\xef\xbf\xbd")
    assert env.client.keys() == ["a"]
