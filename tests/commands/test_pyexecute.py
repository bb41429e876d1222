import re

import pytest
from env import HOLD, one_shard
from server import wait_until
from wire import Error, Simple

pytestmark = pytest.mark.lopsided

ONE = f"{one_shard([1])}.run()"


def test_a_script_without_a_run_answers_ok(env):
    assert env.call("RG.PYEXECUTE", "x = 1") == Simple("OK")
    assert isinstance(env.call("RG.PYEXECUTE", "x = 1"), Simple)
    assert env.call("RG.PYEXECUTE", "") == "OK"


def test_a_script_without_a_run_answers_ok_unblocking_too(env):
    assert env.call("RG.PYEXECUTE", "x = 1", "UNBLOCKING") == "OK"


def test_results_and_errors(env):
    assert env.call("RG.PYEXECUTE", ONE) == [[b"1"], []]


def test_a_builder_without_run_does_nothing(env):
    assert env.call("RG.PYEXECUTE", "GB().foreach(lambda r: execute('set', 'x', 1))") == "OK"
    assert env.executions() == {}


def test_a_blocking_run_is_not_kept(env):
    env.results("GB('ShardsIDReader').run()")
    assert env.executions() == {}


def test_unblocking_answers_an_id(env):
    identifier = env.call("RG.PYEXECUTE", "GB('ShardsIDReader').run()", "UNBLOCKING")
    assert re.fullmatch(rf"{env.shard_id}-\d+", identifier.decode())
    assert env.wait(identifier.decode())[1] == []
    assert env.executions() == {identifier.decode(): "done"}


def test_ids_grow(env):
    first = env.start("GB('ShardsIDReader').run()")
    second = env.start("GB('ShardsIDReader').run()")
    assert int(second.split("-")[1]) > int(first.split("-")[1])


def test_option_words_in_any_case_and_order(env):
    identifier = env.execute(ONE, "description", "d", "UnBlocking", "id", "a-B_9")
    assert env.wait(identifier) == (["1"], [])


def test_an_option_may_repeat(env):
    words = ["ID", "a", "ID", "b", "DESCRIPTION", "x", "DESCRIPTION", "y"]
    assert env.results(ONE, *words) == ["1"]


def test_a_value_may_be_the_name_of_an_option(env):
    assert env.results(ONE, "DESCRIPTION", "UNBLOCKING") == ["1"]


def test_an_id_without_registrations_may_be_used_again(env):
    for _ in range(2):
        assert env.results(ONE, "ID", "again") == ["1"]


def test_an_empty_id(env):
    assert env.results(ONE, "ID", "") == ["1"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["ID"], "ID is missing"),
        (["id"], "ID is missing"),
        (["UNBLOCKING", "ID"], "ID is missing"),
        (["DESCRIPTION"], "DESCRIPTION is missing"),
        (["REPLACE_WITH"], "REPLACE_WITH is missing"),
        (["foo"], "Unknown arguments were given: foo"),
        (["UNBLOCKING", "foo", "bar"], "Unknown arguments were given: foo"),
        (["ID", "a", "b"], "Unknown arguments were given: b"),
        (
            ["ID", "a b"],
            "ID must be compose of: ['A'-'Z' | 'a'-'z' | '0' - '9' | '-' | '_']",
        ),
        (
            ["ID", "a@", "foo"],
            "ID must be compose of: ['A'-'Z' | 'a'-'z' | '0' - '9' | '-' | '_']",
        ),
    ],
)
def test_wrong_options(env, words, text):
    assert env.refused("execute('set', 'ran', 1)", *words) == text
    assert not env.client.exists("ran")


def test_no_script(env):
    text = "ERR wrong number of arguments for 'rg.pyexecute' command"
    assert env.error("RG.PYEXECUTE").lower() == text.lower()


def test_a_second_run_is_refused(env):
    text = env.refused("GB().run()\nGB().run()")
    assert "Can not run more then 1 executions in a single script" in text
    assert env.executions() == {}


def test_a_script_that_raises_drops_its_run(env):
    text = env.refused(
        """
        GB('PythonReader').run(lambda: (i for i in range(10)))
        raise ValueError('after the run')
        """
    )
    assert "after the run" in text
    assert env.executions() == {}


def test_commands_before_an_exception_stay(env):
    env.refused("execute('set', 'x', 1)\nraise ValueError()")
    assert env.client.get("x") == "1"


def test_the_script_body_does_not_block_the_server(env):
    with env.server.wire() as wire:
        wire.send(
            "RG.PYEXECUTE", "while execute('get', 'go') is None: pass\nexecute('set','end',1)"
        )
        assert env.client.ping()
        assert not env.client.exists("end")
        env.client.set("go", 1)
        assert wire.receive() == "OK"
    assert env.client.get("end") == "1"


def test_the_next_command_of_the_connection_waits(env):
    with env.server.wire() as wire:
        wire.send("RG.PYEXECUTE", ONE)
        wire.send("PING")
        assert wire.receive() == [[b"1"], []]
        assert wire.receive() == "PONG"


def test_a_client_that_leaves_does_not_stop_the_run(env):
    with env.server.wire() as wire:
        wire.send(
            "RG.PYEXECUTE",
            HOLD
            + """
def wait(x):
    hold()
    execute('set', 'end{%s}' % hashtag(), 1)
GB('ShardsIDReader').foreach(wait).run()
""",
        )
        wait_until(env.all_held)
    env.go()
    wait_until(lambda: all(env.each(lambda shard: shard.client.exists(shard.key("end")))))
    assert env.still_runs()


def test_two_runs_at_once(env):
    """The first waits for the second: they cannot be run one after the other."""
    first = env.start(HOLD + "GB('ShardsIDReader').foreach(lambda x: hold()).run()")
    go = "execute('set', 'go{%s}' % hashtag(), 1)"
    env.results(f"GB('ShardsIDReader').foreach(lambda x: {go}).run()")
    results, errors = env.wait(first)
    assert (sorted(results), errors) == (env.ids, [])


def test_globals_are_not_shared_between_scripts(env):
    env.execute("counter = 1")
    assert env.native("'counter' in globals()") == 0


def test_globals_are_shared_by_the_steps_of_a_script(env):
    results = env.results(
        """
        seen = []
        def add(x):
            seen.append(x)
            return x
        GB('PythonReader', lambda: (i for i in range(3))).map(add) \\
            .map(lambda x: seen[0]).distinct().run()
        """
    )
    assert results == ["0"]


def test_nested_error_replies_are_in_the_array(env):
    reply = env.call("RG.PYEXECUTE", f"{one_shard([1])}.map(lambda x: '-OOPS no').run()")
    assert reply == [["OOPS no"], []]
    assert isinstance(reply[0][0], Error)
