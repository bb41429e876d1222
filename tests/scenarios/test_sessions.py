"""Acceptance scenarios of sessions: their options, upgrades, and what a failed script leaves."""

import pytest

COUNTING = "GB('CommandReader').count().register(trigger='t', mode='sync')"
ECHO = "GB('CommandReader').register(trigger='{}', mode='sync')"


def test_ses_01_an_id_twice(env):
    env.register(COUNTING, "ID", "test")
    assert env.refused(COUNTING, "ID", "test") == "Session test already exists"
    assert len(env.registrations()) == 1


def test_ses_02_upgrade(env):
    env.register(ECHO.format("t"), "ID", "test")
    assert env.trigger("t") == ["['t']"]
    env.register(COUNTING, "ID", "test", "UPGRADE")
    assert env.trigger("t") == ["1"]
    assert len(env.registrations()) == 1


def test_ses_03_an_id(env):
    assert sorted(env.results("GB('ShardsIDReader').run()", "ID", "aB1_-")) == env.ids
    env.register(COUNTING, "ID", "aB1_-")
    assert env.trigger("t") == ["1"]
    assert env.session()["sessionId"] == "aB1_-"


def test_ses_04_replace(env):
    env.register(ECHO.format("t"), "ID", "test")
    env.register(COUNTING, "ID", "test1", "REPLACE_WITH", "test")
    assert env.trigger("t") == ["1"]
    assert env.session()["sessionId"] == "test1"


def test_ses_05_replace_what_does_not_exist(env):
    text = "Can not replace with foo, session does not exists."
    assert env.refused(COUNTING, "ID", "test", "REPLACE_WITH", "foo") == text
    assert env.registrations() == []


def test_ses_05_replace_with_an_id_that_exists(env):
    env.register(ECHO.format("a"), "ID", "a")
    env.register(ECHO.format("b"), "ID", "b")
    text = "Can not replace an existing session b with a"
    assert env.refused(COUNTING, "ID", "b", "REPLACE_WITH", "a") == text
    assert len(env.registrations()) == 2


def test_ses_06_replace_with_nothing(env):
    assert env.refused("GB().run()", "ID", "test", "REPLACE_WITH") == "REPLACE_WITH is missing"


@pytest.mark.parametrize("words", [["foo"], ["foo", "bar"]])
def test_ses_07_unknown_words(env, words):
    assert "Unknown arguments were given" in env.refused("GB().run()", "ID", "test", *words)


def test_ses_08_a_wrong_id(env):
    assert "must be compose of" in env.refused("GB().run()", "ID", "te@st")


def test_ses_15_a_failing_script_registers_nothing(env):
    text = env.refused(
        """
        GB('CommandReader').register(trigger='t')
        GB().register('k*')
        raise ValueError('too late')
        """,
        "ID",
        "test",
    )
    assert "too late" in text
    assert env.registrations() == []
    assert env.error("RG.TRIGGER", "t") == "ERR subcommand not found"
    env.register(COUNTING, "ID", "test")


def test_ses_16_a_failing_upgrade_leaves_the_old_session(env):
    script = f"{ECHO.format('a')}\n{ECHO.format('b')}"
    env.register(script, "ID", "test")
    before = [entry["id"] for entry in env.registrations()]
    failing = script.replace("GB('CommandReader')", "GB('CommandReader').count()")
    assert "too late" in env.refused(
        f"{failing}\nraise ValueError('too late')", "ID", "test", "UPGRADE"
    )
    assert [entry["id"] for entry in env.registrations()] == before
    assert env.trigger("a") == ["['a']"]
    assert env.trigger("b") == ["['b']"]
    env.register(COUNTING, "ID", "test", "UPGRADE")
    assert len(env.registrations()) == 1


def test_ses_17_nothing_of_a_script_that_repeats_a_trigger(env):
    text = env.refused(
        """
        GB().register('k*')
        GB().register('l*', mode='sync')
        GB('StreamReader').register('s')
        GB('StreamReader').register('t')
        GB('CommandReader').register(trigger='a')
        GB('CommandReader').register(trigger='b')
        GB('CommandReader').register(trigger='a')
        """
    )
    assert "trigger already registered in this session" in text
    assert env.registrations() == []


def test_ses_18_two_asynchronous_hooks_of_one_script(env):
    text = env.refused("for _ in range(2):\n    GB('CommandReader').register(hook='get')")
    expected = "Can not override a none sync registration which already created on this session"
    assert expected in text
    assert env.registrations() == []


def test_an_upgrade_that_registers_nothing_changes_nothing(env):
    env.register(COUNTING, "ID", "test")
    assert env.execute("x = 1", "ID", "test", "UPGRADE") == "OK"
    assert env.trigger("t") == ["1"]
    assert env.refused(COUNTING, "ID", "test") == "Session test already exists"


def test_an_upgrade_of_nothing_creates(env):
    env.register(COUNTING, "ID", "test", "UPGRADE")
    assert env.trigger("t") == ["1"]


def test_the_id_of_an_ended_session_is_free(env):
    env.register(COUNTING, "ID", "test")
    env.unregister(env.identifier())
    env.register(COUNTING, "ID", "test")
    assert env.trigger("t") == ["1"]


def test_a_script_that_runs_and_registers_answers_ok(env):
    env.register("GB().register('k*')\nGB('ShardsIDReader').run()")
    assert len(env.registrations()) == 1
