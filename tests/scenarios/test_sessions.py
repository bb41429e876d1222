"""Acceptance scenarios of sessions: their options, upgrades, and what a failed script leaves."""

import pytest
from env import HOLD
from server import wait_until

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


def test_ses_09_no_requirements(env):
    env.register(COUNTING, "ID", "test", "REQUIREMENTS")
    assert env.trigger("t") == ["1"]
    assert env.each(lambda s: s.sessions()[0]["requirements"]) == [[]] * env.shard_count


def test_ses_10_a_session_on_every_shard(env):
    env.register(COUNTING, "ID", "test", "DESCRIPTION", "desc")
    expected = {
        **{"ID": "test", "sessionDescription": "desc", "refCount": 1},
        **{"linked": "primary", "dead": "false", "requirementInstallationNeeded": 0},
        **{"requirements": [], "registrations": [env.identifier()]},
    }
    for shard in env.shards:
        (session,) = shard.sessions()
        assert list(session.items()) == list(expected.items())


def test_ses_12_sessions_that_are_named(env):
    env.register(ECHO.format("a"), "ID", "test2")
    env.register(ECHO.format("b"), "ID", "test1")
    for shard in env.shards:
        named = shard.sessions("SESSIONS", "test1", "test2")
        assert [session["ID"] for session in named] == ["test1", "test2"]
        named = shard.sessions("SESSIONS", "test2", "test1")
        assert [session["ID"] for session in named] == ["test2", "test1"]


def test_ses_13_an_unknown_option(env):
    assert "Unknown option" in env.error("RG.PYDUMPSESSIONS", "foo")


def test_ses_14_a_session_is_dead_while_it_runs(env):
    script = (
        HOLD
        + """
GB('ShardsIDReader').foreach(lambda x: hold()).run()
GB('CommandReader').register(trigger='t', mode='sync')
"""
    )
    env.register(script, "ID", "test1", "UNBLOCKING")
    wait_until(env.all_held, what="the run on all shards")
    assert env.each(lambda shard: shard.sessions("DEAD")) == [[]] * env.shard_count
    env.register(script, "ID", "test1", "UNBLOCKING", "UPGRADE")
    for shard in env.shards:
        (dead,) = shard.sessions("DEAD")
        assert (dead["ID"], dead["refCount"], dead["dead"]) == ("test1", 1, "true")
        (session,) = shard.sessions()
        assert (session["linked"], session["dead"]) == ("primary", "false")
    env.go()
    for identifier in list(env.executions()):
        env.wait(identifier)
        env.drop(identifier)
    for shard in env.shards:
        wait_until(lambda shard=shard: shard.sessions("DEAD") == [], what="the end of the old one")
        wait_until(lambda shard=shard: shard.sessions()[0]["refCount"] == 1)


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
    assert env.each(lambda shard: shard.sessions()) == [[]] * env.shard_count
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


@pytest.mark.cluster
def test_ses_19_an_upgrade_after_a_shard_was_emptied(new_cluster):
    env = new_cluster()
    env.register(ECHO.format("t"), "ID", "test")
    second = env.shards[1]
    second.close()
    second.server.kill()
    for path in second.server.folder.glob("**/*.rdb"):
        path.unlink()
    second.server.start()
    env.cluster.wait_ready()
    env.register(COUNTING, "ID", "test", "UPGRADE")
    for shard in env.shards:
        assert shard.trigger("t") == ["1"]
        assert len(shard.sessions()) == 1


@pytest.mark.cluster
def test_an_upgrade_that_another_shard_refuses_leaves_the_old_session_everywhere(env):
    env.register(ECHO.format("t"), "ID", "test")
    before = env.identifier()
    picky = """
class Picky:
    def __init__(self):
        self.state = 1
    def __setstate__(self, state):
        if configGet('source'):
            raise ValueError('not here')
picky = Picky()
GB('CommandReader').map(lambda x: picky).register(trigger='t', mode='sync')
"""
    for words in (["test", "UPGRADE"], ["other", "REPLACE_WITH", "test"]):
        (refused,) = env.call("RG.PYEXECUTE", picky, "ID", *words)
        assert refused.startswith(f"-ERR shard-{env.source.server.id}: Failed deserializing flat")
        assert "not here" in refused
    for shard in env.shards:
        (session,) = shard.sessions()
        assert (session["linked"], session["registrations"]) == ("primary", [before])
        assert shard.trigger("t") == ["['t']"]
        assert shard.sessions("DEAD") == []
    env.register(COUNTING, "ID", "test", "UPGRADE")
    assert [shard.trigger("t") for shard in env.shards] == [["1"]] * 3


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
