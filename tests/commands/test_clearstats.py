"""RG.CLEARREGISTRATIONSSTATS, and what INFO says of registrations."""

import ast

import pytest
from env import HOLD
from server import wait_until
from wire import Simple

pytestmark = pytest.mark.lopsided

CLEAR = "RG.CLEARREGISTRATIONSSTATS"
COUNTERS = ["numTriggered", "numSuccess", "numFailures", "numAborted"]
DURATIONS = ["lastRunDurationMS", "totalRunDurationMS", "avgRunDurationMS"]
COMMON = ["desc", "reader", "mode", *COUNTERS, *DURATIONS]
LAGS = ["lastEstimatedLagMS", "avgEstimatedLagMS"]
STREAM = ["batchSize", "durationMS", "stream", "status"]
STREAM += ["trimStream", "onFailedPolicy", "retryInterval"]


def test_words(env):
    text = f"ERR wrong number of arguments for '{CLEAR.lower()}' command"
    assert env.error(CLEAR, "x").lower() == text.lower()


def test_nothing_registered(env):
    assert env.call(CLEAR) == Simple("OK")


def test_what_still_runs_stays_counted(env):
    env.register(HOLD + "GB().foreach(lambda r: hold()).register('k*', mode='async_local')")
    env.go()
    env.client.set("k1", 1)
    env.wait_data(numSuccess=1)
    env.client.delete(env.key("go"), env.key("held"))
    env.client.set("k2", 1)
    env.client.set("k3", 1)
    wait_until(env.held)
    assert env.call(CLEAR) == Simple("OK")
    data = env.data()
    assert (data["numTriggered"], data["numSuccess"]) == (2, 0)
    env.go()
    assert env.settled()["numSuccess"] == 2


def info(env, section="rg"):
    """The fields of INFO for this module, as text."""
    lines = env.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if line and not line.startswith("#"))


def registration_line(env):
    """The only registration in INFO as (names, fields)."""
    fields = info(env)["rg_" + env.identifier()].split(",")
    names = [field.split("=", 1)[0] for field in fields]
    return names, dict(field.split("=", 1) for field in fields)


def test_counters(env):
    fields = info(env)
    assert fields["rg_nexecutions"] == "0"
    assert fields["rg_nregistrations"] == "0"
    env.wait(env.start("GB('ShardsIDReader').run()"))
    env.register("GB().register('k*')")
    fields = info(env)
    assert fields["rg_nexecutions"] == "1"
    assert fields["rg_nregistrations"] == "1"


@pytest.mark.parametrize("section", ["rg", "modules", "everything", "rg_regisrations"])
def test_sections(env, section):
    env.register("GB().register('k*')")
    assert "rg_" + env.identifier() in info(env, section)
    assert "# rg_regisrations" in env.call("INFO", section).decode()


def test_keys(env):
    env.register(
        "GB(desc='greets').register('k*', mode='sync', eventTypes=['set', 'del'],"
        " keyTypes=['string', 'stream', 'empty'], commands=['set'])"
    )
    names, fields = registration_line(env)
    arguments = ["lastError", "regex", "eventTypes", "keyTypes", "hookCommands", "PD"]
    assert names == COMMON + arguments
    assert fields["desc"] == "greets"
    assert fields["reader"] == "KeysReader"
    assert fields["mode"] == "sync"
    assert fields["lastError"] == "None"
    assert fields["regex"] == "k*"
    assert fields["eventTypes"] == "[set|del]"
    assert fields["keyTypes"] == "[string|stream|empty]"
    assert fields["hookCommands"] == "[set]"
    assert "sessionName" in fields["PD"]


def test_keys_without_filters(env):
    env.register("GB().register()")
    _, fields = registration_line(env)
    names = ("desc", "eventTypes", "keyTypes", "hookCommands")
    assert [fields[name] for name in names] == ["None"] * 4


def test_stream(env):
    env.register("GB('StreamReader').register('s', batch=3, duration=7, onFailedPolicy='Retry')")
    names, fields = registration_line(env)
    assert names == [*COMMON, *LAGS, "lastError", *STREAM, "PD"]
    assert fields["batchSize"] == "3"
    assert fields["durationMS"] == "7"
    assert fields["stream"] == "s"
    assert fields["status"] == "OK"
    assert fields["onFailedPolicy"] == "retry"


def test_trigger(env):
    env.register("GB('CommandReader').register(trigger='t', inorder=True)")
    names, fields = registration_line(env)
    assert names == [*COMMON, "lastError", "trigger", "inorder", "PD"]
    assert (fields["trigger"], fields["inorder"]) == ("t", "1")


def test_numbers(env):
    env.register("GB('CommandReader').register(trigger='t', mode='sync')")
    for _ in range(3):
        env.trigger("t")
    _, fields = registration_line(env)
    assert (fields["numTriggered"], fields["numSuccess"]) == ("3", "3")


@pytest.mark.parametrize("text", ["a,b", "c=d", "line\nbreak", "line\r\nbreak", "#", "a:b"])
def test_texts_do_not_break_the_reply(env, text):
    """One line per registration, whatever its texts hold."""
    env.register(f"GB(desc={text!r}).foreach(lambda r: flat_error({text!r})).register('k')")
    env.client.set("k", 1)
    env.wait_data(numFailures=1)
    lines = env.call("INFO", "rg").decode().splitlines()
    assert len([line for line in lines if line.startswith("rg_" + env.identifier())]) == 1
    assert all(line == "" or line.startswith(("#", "rg_")) for line in lines)


def test_sessions_in_info(env):
    env.register("GB().register('k*')\nGB().register('l*')", "ID", "mine", "DESCRIPTION", "a text")
    for section in ["rg", "rg_python_sessions"]:
        text = info(env, section)["rg_mine"]
        assert ast.literal_eval(text) == env.session(env.registrations()[0]["id"])
