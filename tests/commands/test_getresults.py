import threading

import pytest
from env import HOLD, one_shard
from server import wait_until
from wire import Error

UNKNOWN = "execution plan does not exist"
ONE = f"{one_shard([1])}.run()"
BLOCKED = f"{HOLD}{one_shard([1])}.foreach(lambda x: hold()).run()"
RESULT_AND_ERROR = f"{one_shard([1, 0])}.map(lambda x: 1 // x).run()"


@pytest.mark.parametrize("command", ["RG.GETRESULTS", "RG.GETRESULTSBLOCKING"])
@pytest.mark.parametrize("identifier", ["0" * 40 + "-987654", "0" * 40, "nonsense", "", "-1"])
def test_unknown(env, command, identifier):
    assert env.error(command, identifier) == UNKNOWN


@pytest.mark.parametrize("command", ["RG.GETRESULTS", "RG.GETRESULTSBLOCKING"])
def test_no_id(env, command):
    text = f"ERR wrong number of arguments for '{command}' command"
    assert env.error(command).lower() == text.lower()


def test_getresults_ignores_further_words(env):
    identifier = env.start(ONE)
    env.wait(identifier)
    assert env.call("RG.GETRESULTS", identifier, "more", "words") == [[b"1"], []]


def test_getresultsblocking_takes_one_word(env):
    identifier = env.start(ONE)
    assert "wrong number of arguments" in env.error("RG.GETRESULTSBLOCKING", identifier, "more")


def test_still_running(env):
    identifier = env.start(BLOCKED)
    assert env.error("RG.GETRESULTS", identifier) == "execution is still running"
    env.go()
    env.wait_status(identifier, "done")
    assert env.call("RG.GETRESULTS", identifier) == [[b"1"], []]


def test_results_may_be_read_again(env):
    identifier = env.start(ONE)
    assert env.wait(identifier) == env.wait(identifier) == (["1"], [])
    assert env.call("RG.GETRESULTS", identifier) == [[b"1"], []]
    assert env.status(identifier) == "done"


@pytest.mark.cluster
def test_other_shards_have_none(env):
    """What is collected is on the shard that was asked."""
    identifier = env.start("GB('ShardsIDReader').run()")
    results, errors = env.wait(identifier)
    assert (sorted(results), errors) == (env.ids, [])
    for shard in env.shards[1:]:
        assert shard.call("RG.GETRESULTSBLOCKING", identifier) == [[], []]
        assert shard.call("RG.GETRESULTS", identifier) == [[], []]


@pytest.mark.cluster
def test_results_that_are_not_collected(env):
    """Each shard has its own, to be asked for there."""
    identifier = env.start("GB('ShardsIDReader').run(collect=False)")
    assert env.wait(identifier) == ([env.shard_id], [])
    for shard in env.shards:
        assert shard.call("RG.GETRESULTSBLOCKING", identifier) == [[shard.server.id.encode()], []]
        assert shard.call("RG.GETRESULTS", identifier) == [[shard.server.id.encode()], []]


def test_results_and_errors(env):
    identifier = env.start(RESULT_AND_ERROR)
    results, errors = env.wait(identifier)
    assert results == ["1"]
    assert len(errors) == 1
    assert "ZeroDivisionError" in errors[0]


def test_several_clients_wait(env):
    identifier = env.start(BLOCKED)
    wires = [env.server.wire() for _ in range(5)]
    for wire in wires:
        wire.send("RG.GETRESULTSBLOCKING", identifier)
    env.go()
    for wire in wires:
        assert wire.receive() == [[b"1"], []]
        wire.close()


def test_waiting_clients_of_an_aborted_execution_are_answered(env):
    identifier = env.start(HOLD + "GB('ShardsIDReader').foreach(lambda x: hold()).run()")
    with env.server.wire() as wire:
        wire.send("RG.GETRESULTSBLOCKING", identifier)
        wait_until(env.all_held)
        assert env.abort(identifier) == "OK"
        results, errors = wire.receive()
    assert results == []
    assert 1 <= len(errors) <= env.shard_count
    assert all(b"forcestopped" in error.lower() for error in errors)


def test_a_waiting_client_may_leave(env):
    identifier = env.start(BLOCKED)
    with env.server.wire() as wire:
        wire.send("RG.GETRESULTSBLOCKING", identifier)
    env.go()
    assert env.wait(identifier) == (["1"], [])


def test_results_come_as_the_execution_ends(env):
    identifier = env.start(BLOCKED)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(env.wait(identifier)))
    thread.start()
    env.wait_status(identifier, "running")
    assert answers == []
    env.go()
    thread.join()
    assert answers == [(["1"], [])]


def test_getresultsblocking_in_multi_on_a_finished_execution(env):
    """The original answered twice here."""
    identifier = env.start(ONE)
    env.wait(identifier)
    assert env.call("MULTI") == "OK"
    assert env.call("RG.GETRESULTSBLOCKING", identifier) == "QUEUED"
    assert env.call("PING") == "QUEUED"
    assert env.call("EXEC") == [[[b"1"], []], "PONG"]
    assert env.call("ECHO", "in step") == b"in step"


def test_getresultsblocking_in_multi_on_a_running_execution(env):
    identifier = env.start(BLOCKED)
    env.call("MULTI")
    env.call("RG.GETRESULTSBLOCKING", identifier)
    env.call("PING")
    refused, pong = env.call("EXEC")
    assert isinstance(refused, Error)
    assert pong == "PONG"


def test_the_tail_of_an_id_is_ignored(env):
    identifier = env.start(ONE)
    env.wait(identifier)
    assert env.call("RG.GETRESULTS", identifier + "tail") == [[b"1"], []]
