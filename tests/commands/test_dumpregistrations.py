"""RG.DUMPREGISTRATIONS: the shape of the reply in every version, and its statistics."""

import ast

import pytest
from env import HOLD, pairs
from server import wait_until
from wire import Error

pytestmark = pytest.mark.lopsided

HEAD = [b"mode", b"numTriggered", b"numSuccess", b"numFailures", b"numAborted"]
DURATIONS = [b"lastRunDurationMS", b"totalRunDurationMS", b"avgRunDurationMS"]
LAGS = [b"lastEstimatedLagMS", b"avgEstimatedLagMS"]
VERSIONS = ["1.0.0", "1.2.1", "1.2.13"]

KEYS = """
GB(desc='about keys').register('k*', mode='sync', eventTypes=['Set', 'del'],
    keyTypes=['string', 'stream', 'empty'], commands=['SET'])
"""
STREAM = """
GB('StreamReader').register('s*', mode='async_local', batch=4, duration=250, trimStream=False,
    onFailedPolicy='Retry', onFailedRetryInterval=3)
"""
TRIGGER = "GB('CommandReader', desc='about t').register(trigger='t', inorder=True)"


def entry(env):
    """The only entry, as it came over the wire."""
    (only,) = env.call("RG.DUMPREGISTRATIONS")
    return only


def data(env):
    return entry(env)[7]


def names(flat):
    return flat[::2]


def test_nothing_registered(env):
    assert env.call("RG.DUMPREGISTRATIONS") == []
    assert env.call("RG.DUMPREGISTRATIONS", "more", "words") == []


def test_an_entry(env):
    env.register(KEYS)
    only = entry(env)
    expected = [b"id", b"reader", b"desc", b"RegistrationData", b"PD", b"ExecutionThreadPool"]
    assert names(only) == expected
    shard, _, counter = only[1].rpartition(b"-")
    assert shard.decode() == env.shard_id
    assert int(counter) >= 0
    assert only[3] == b"KeysReader"
    assert only[5] == b"about keys"
    assert only[11] == b"DefaultPool"


def test_keys(env):
    env.register(KEYS)
    only = data(env)
    assert len(only) == 20
    assert names(only) == [*HEAD, *DURATIONS, b"lastError", b"args"]
    assert only[1] == b"sync"
    assert only[3:14:2] == [0] * 6
    assert only[15] == b"0"
    assert only[17] is None
    assert only[19] == [
        *(b"regex", b"k*", b"eventTypes", [b"Set", b"del"]),
        *(b"keyTypes", [b"string", b"stream", b"empty"], b"hookCommands", [b"SET"]),
    ]


def test_keys_without_filters(env):
    env.register("GB().register()")
    only = entry(env)
    assert only[5] is None
    assert only[7][1] == b"async"
    assert only[7][19] == [
        *(b"regex", b"*", b"eventTypes", None, b"keyTypes", None, b"hookCommands", None)
    ]


def test_stream(env):
    env.register(STREAM)
    only = data(env)
    assert len(only) == 26
    assert names(only) == [*HEAD, *DURATIONS, *LAGS, b"lastError", b"args", b"status"]
    assert only[1] == b"async_local"
    assert only[21] is None
    assert only[23] == [
        *(b"batchSize", 4, b"durationMS", 250, b"stream", b"s*", b"trimStream", 0),
        *(b"onFailedPolicy", b"retry", b"retryInterval", 3),
    ]
    assert only[25] == b"OK"


def test_stream_without_arguments(env):
    env.register("GB('StreamReader').register()")
    assert data(env)[23] == [
        *(b"batchSize", 1, b"durationMS", 0, b"stream", b"*", b"trimStream", 1),
        *(b"onFailedPolicy", b"continue", b"retryInterval", 1),
    ]


def test_trigger(env):
    env.register(TRIGGER)
    only = data(env)
    assert len(only) == 20
    assert names(only) == [*HEAD, *DURATIONS, b"lastError", b"args"]
    assert only[19] == [b"trigger", b"t", b"inorder", 1]


def test_hook(env):
    env.register("GB('CommandReader').register(hook='hSet', keyprefix='k', mode='sync')")
    assert data(env)[19] == [b"trigger", b"hSet", b"inorder", 0]


def test_numbers_of_resp3(env):
    env.register(STREAM)
    with env.server.wire(protocol=3) as wire:
        (only,) = wire.call("RG.DUMPREGISTRATIONS")
    assert type(only) is list
    average = only[7][15]
    assert (average, type(average)) == (0.0, float)
    assert type(only[7][19]) is float
    assert only[5] is None


@pytest.mark.parametrize("script", [KEYS, STREAM, TRIGGER])
@pytest.mark.parametrize(
    ("version", "length", "arguments"), [("1.0.0", 10, 13), ("1.2.1", 12, 13), ("1.2.13", 12, None)]
)
def test_lengths_and_positions(env, version, length, arguments, script):
    env.register(script)
    env.config("ReplyVersion", version)
    only = entry(env)
    assert len(only) == length
    assert names(only)[:5] == [b"id", b"reader", b"desc", b"RegistrationData", b"PD"]
    if arguments is None:
        arguments = 23 if script == STREAM else 19
    assert only[7][arguments - 1] == b"args"
    assert type(only[7][arguments]) is list


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1"])
def test_old_registration_data(env, version):
    env.config("ReplyVersion", version)
    env.register(KEYS)
    assert names(data(env)) == [*HEAD, b"lastError", b"args"]
    env.unregister(env.identifier())
    env.register(STREAM)
    assert names(data(env)) == [*HEAD, b"lastError", b"args", b"status"]
    env.unregister(env.identifier())
    env.register(TRIGGER)
    assert names(data(env)) == [*HEAD, b"lastError", b"args"]
    assert data(env)[11] is None


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_at_load(new_env, version):
    env = new_env("ReplyVersion", version)
    assert env.call("RG.CONFIGGET", "ReplyVersion") == [version.encode()]
    env.register(KEYS)
    assert len(entry(env)) == (10 if version == "1.0.0" else 12)


@pytest.mark.parametrize("value", ["", "2", "1.2.2", "1.2.13 ", "latest"])
def test_an_unknown_version(env, value):
    (reply,) = env.call("RG.CONFIGSET", "ReplyVersion", value)
    assert isinstance(reply, Error)
    assert "ReplyVersion" in reply
    assert env.call("RG.CONFIGGET", "ReplyVersion") == [b"1.2.13"]


def session(env):
    return ast.literal_eval(entry(env)[9].decode())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_session(env, version):
    env.config("ReplyVersion", version)
    env.register(f"{KEYS}\n{STREAM}", "ID", "mine", "DESCRIPTION", "what it is for")
    ids = [e["id"] for e in env.registrations()]
    for registration in env.registrations():
        about = ast.literal_eval(registration["PD"])
        assert about["sessionId"] == "mine"
        assert "sessionName" in about
        assert about["sessionDescription"] == "what it is for"
        assert about["refCount"] >= 2
        assert about["linkedTo"] == "primary"
        assert about["dead"] is False
        assert sorted(about["registrationsList"]) == sorted(ids)
        assert about["depsList"] == []


def test_a_session_without_description(env):
    env.register(KEYS)
    about = session(env)
    assert len(about["sessionId"]) == 40
    assert int(about["sessionId"], 16) >= 0
    assert about["registrationsList"] == [env.identifier()]


@pytest.mark.parametrize(
    "text",
    [
        "it's",
        'a "quoted" word',
        "both ' and \"",
        "back\\slash",
        "ends with \\",
        "'}",
        "two\nlines\tand\0nul",
        "ä€😀",
        "",
        "null",
    ],
)
def test_descriptions_survive(env, text):
    env.register(KEYS, "DESCRIPTION", text)
    assert session(env)["sessionDescription"] == text


def test_a_description_that_is_no_text(env):
    reply = env.call("RG.PYEXECUTE", KEYS, "DESCRIPTION", b"a\xffb'")
    if not isinstance(reply, Error):
        assert "sessionId" in session(env)


def test_a_description_of_a_builder(env):
    text = '{"name": "it\'s json"}'
    env.register(f"GB(desc={text!r}).register()")
    assert entry(env)[5] == text.encode()


@pytest.mark.parametrize("mode", ["sync", "async_local", "async"])
def test_statistics(env, mode):
    env.register(
        f"""
        import time
        def work(r):
            time.sleep(0.02)
            if r[1] == 'bad':
                raise ValueError('the bad one')
        GB('CommandReader').foreach(work).register(trigger='t', mode='{mode}')
        """
    )
    env.trigger("t", "good")
    env.error("RG.TRIGGER", "t", "bad")
    only = env.settled()
    counters = ("numTriggered", "numSuccess", "numFailures", "numAborted")
    assert [only[name] for name in counters] == [2, 1, 1, 0]
    assert "the bad one" in only["lastError"]
    assert 20 <= only["lastRunDurationMS"] <= only["totalRunDurationMS"]
    assert only["totalRunDurationMS"] >= 40
    assert float(only["avgRunDurationMS"]) == only["totalRunDurationMS"] / 2
    env.trigger("t", "good")
    assert env.settled()["lastError"] is None


@pytest.mark.parametrize("mode", ["sync", "async_local", "async"])
def test_what_a_run_waits_for_does_not_count_as_its_duration(env, mode):
    env.register(
        f"""
        import asyncio
        async def later(r):
            await asyncio.sleep(1)
            return r
        GB('CommandReader').map(later).register(trigger='t', mode='{mode}')
        """
    )
    env.trigger("t")
    assert env.settled()["lastRunDurationMS"] < 800


def test_what_is_queued_is_triggered(env):
    env.register(HOLD + "GB().foreach(lambda r: hold()).register('k*', mode='async_local')")
    for i in range(3):
        env.client.set(f"k{i}", 1)
    wait_until(env.held)
    only = env.data()
    assert (only["numTriggered"], only["numSuccess"]) == (3, 0)
    env.go()
    assert env.settled()["numSuccess"] == 3


def test_aborted_executions(env):
    env.register(HOLD + "GB().foreach(lambda r: hold()).register('k*', mode='async_local')")
    env.client.mset({"k1": 1, "k2": 1})
    wait_until(env.held)
    (queued,) = [i for i, status in env.executions().items() if status == "created"]
    assert env.abort(queued) == "OK"
    env.go()
    only = env.settled()
    assert (only["numTriggered"], only["numSuccess"], only["numAborted"]) == (2, 1, 1)


def test_the_text_of_the_last_error(env):
    env.register("GB().foreach(lambda r: nope).register('k', mode='sync')")
    env.client.set("k", 1)
    (text,) = [pairs(data(env))[b"lastError"].decode()]
    assert text.startswith("['Traceback (most recent call last):\\n'")
    assert "NameError: name 'nope' is not defined" in text
    env.config("PythonAttemptTraceback", 0)
    env.client.set("k", 1)
    short = b"Error type: <class 'NameError'>, Value: name 'nope' is not defined"
    assert pairs(data(env))[b"lastError"] == short


def test_within_multi(env):
    env.register(KEYS)
    env.call("MULTI")
    env.call("RG.DUMPREGISTRATIONS")
    ((only,),) = env.call("EXEC")
    assert len(only) == 12
