"""RG.PYDUMPSESSIONS, and what else tells of sessions: PD of registrations, INFO."""

import ast

import pytest
from env import HOLD, pairs
from server import wait_until

TRIGGER = "GB('CommandReader').register(trigger='{}', mode='{}')"
HELD = (
    HOLD
    + """
def wait(x):
    hold()
    return x
GB('CommandReader').map(wait).register(trigger='held', mode='async_local')
"""
)


def each_ids(env, *words):
    """The ids that every shard lists."""
    ids = env.each(lambda shard: [session["ID"] for session in shard.sessions(*words)])
    assert ids == ids[:1] * len(ids), ids
    return ids[0]


def only(shard, *words):
    sessions = shard.sessions(*words)
    assert len(sessions) == 1, sessions
    return sessions[0]


def info(shard):
    """id -> the text of the session in INFO."""
    section = shard.call("INFO", "rg_python_sessions").decode()
    lines = [line for line in section.split("\r\n") if line.startswith("rg_")]
    parts = [line.removeprefix("rg_").partition(":") for line in lines]
    return [(name, ast.literal_eval(text)) for name, _, text in parts]


def test_none(env):
    assert env.call("RG.PYDUMPSESSIONS") == []
    assert env.call("RG.PYDUMPSESSIONS", "DEAD") == []
    assert env.call("RG.PYDUMPSESSIONS", "verbose", "dead", "Sessions") == []


def test_shape(env):
    env.register(TRIGGER.format("t", "sync"), "ID", "mine", "DESCRIPTION", "what it is")
    expected = [b"ID", b"mine", b"sessionDescription", b"what it is", b"refCount", 1]
    expected += [b"linked", b"primary", b"dead", b"false"]
    expected += [b"requirementInstallationNeeded", 0, b"requirements", []]
    expected += [b"registrations", [env.identifier().encode()]]
    assert env.each(lambda shard: shard.call("RG.PYDUMPSESSIONS")) == [[expected]] * env.shard_count


def test_no_description(env):
    env.register(TRIGGER.format("t", "sync"))
    (session,) = env.call("RG.PYDUMPSESSIONS")
    assert session[2:4] == [b"sessionDescription", None]
    assert len(session[1]) == 40


def test_sessions_are_ordered_by_their_bytes(env):
    for name in ("b", "a", "Z", "_", "0", "-"):
        env.register(TRIGGER.format(name, "sync"), "ID", name)
    assert each_ids(env) == ["-", "0", "Z", "_", "a", "b"]


def test_sessions_that_are_named_come_in_that_order(env):
    for name in ("one", "two", "three"):
        env.register(TRIGGER.format(name, "sync"), "ID", name)
    sessions = env.sessions("VERBOSE", "DEAD", "SESSIONS", "two", "nope", "ONE", "one", "two")
    assert sessions[1:3] == ["Session nope does not exists", "Session ONE does not exists"]
    assert [session["ID"] for session in sessions[:1] + sessions[3:]] == ["two", "one", "two"]


@pytest.mark.parametrize("words", [["foo"], ["TS", "x"], ["DEAD", "TS"], ["VERBOSE", "", "DEAD"]])
def test_unknown_words(env, words):
    (wrong,) = [word for word in words if word not in ("DEAD", "VERBOSE", "x")]
    assert env.error("RG.PYDUMPSESSIONS", *words) == f"Unknown option {wrong}"


def test_any_bytes_as_words(env):
    env.register(TRIGGER.format("t", "sync"), "ID", "s", "DESCRIPTION", b"\xff\0 it's\r\n")
    for word in (b"\xff\0", b"a\r\nb", b"", b"x" * 100_000):
        assert env.error("RG.PYDUMPSESSIONS", word).startswith("Unknown option")
        (reply,) = env.call("RG.PYDUMPSESSIONS", "SESSIONS", word)
        assert reply.startswith(b"Session ")
        assert reply.endswith(b" does not exists")
    (session,) = env.call("RG.PYDUMPSESSIONS")
    assert session[3].endswith(b"it's\r\n")
    assert info(env.shards[0])[0][0] == "s"
    for word in (b"\xff\0", b"a\r\nb", b""):
        assert env.error("RG.PYPROFILE", "STATS", word) == "session does not exists"
        assert "pstats.Stats" in env.error("RG.PYPROFILE", "STATS", "s", word)


def test_verbose_describes_registrations(env):
    env.register("\n".join(TRIGGER.format(name, "async") for name in "ab"), "ID", "mine")
    (session,) = env.sessions("VERBOSE")
    (entries,) = [session["registrations"]]
    listed = env.client.execute_command("RG.DUMPREGISTRATIONS")
    for entry, full in zip(entries, listed, strict=True):
        assert len(entry) == 10
        described = pairs(full)
        del described["PD"]
        assert pairs(entry) == described


def test_a_script_that_registers_nothing_is_not_listed(env):
    env.execute("x = 1", "ID", "a")
    env.results("GB('ShardsIDReader').run()", "ID", "b")
    env.wait(env.start("GB('ShardsIDReader').run()", "ID", "c"))
    assert env.each(lambda shard: shard.sessions()) == [[]] * env.shard_count


def test_every_registration_is_a_reference(env):
    env.register("\n".join(TRIGGER.format(name, "sync") for name in "abc"), "ID", "mine")
    first, second, third = [entry["id"] for entry in env.registrations()]
    assert only(env)["refCount"] == 3
    env.unregister(second)
    assert (only(env)["refCount"], only(env)["registrations"]) == (2, [first, third])
    env.unregister(first)
    env.unregister(third)
    assert env.each(lambda shard: shard.sessions()) == [[]] * env.shard_count


def test_executions_are_references_until_they_are_dropped(env):
    env.register(TRIGGER.format("t", "async_local"), "ID", "mine")
    script = "GB().register('k*', mode='async_local')\nGB('ShardsIDReader').run()"
    env.register(script, "ID", "runs")
    (run,) = env.executions()
    env.wait(run)
    counts = env.each(lambda shard: only(shard, "SESSIONS", "runs")["refCount"])
    assert counts == [2] * env.shard_count
    env.drop(run)
    wait_until(
        lambda: env.each(lambda s: only(s, "SESSIONS", "runs")["refCount"]) == [1] * env.shard_count
    )


def test_a_session_that_runs_keeps_its_id_until_that_has_ended(env):
    env.register(HELD, "ID", "mine")
    identifier = env.identifier()
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "held")
        wait_until(env.held, what="the start of the function")
        shard = env.shards[0]
        assert only(shard)["refCount"] == 2
        env.unregister(identifier)
        session = only(shard)
        assert (session["refCount"], session["registrations"]) == (2, [identifier])
        assert (session["linked"], session["dead"]) == ("primary", "false")
        assert only(shard, "VERBOSE")["registrations"] == [identifier]
        text = "Session mine already exists"
        assert env.refused(TRIGGER.format("t", "sync"), "ID", "mine") == text
        env.go()
        assert wire.receive() == [b"['held']"]
    wait_until(lambda: shard.sessions() == [], what="the end of the session")
    env.register(TRIGGER.format("t", "sync"), "ID", "mine")


def test_a_session_that_is_replaced_is_dead_until_what_it_runs_has_ended(env):
    env.register(HELD, "ID", "mine", "DESCRIPTION", "old")
    identifier = env.identifier()
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "held")
        wait_until(env.held, what="the start of the function")
        env.register(TRIGGER.format("held", "sync"), "ID", "mine", "UPGRADE")
        shard = env.shards[0]
        dead = only(shard, "DEAD")
        assert (dead["ID"], dead["sessionDescription"]) == ("mine", "old")
        assert (dead["linked"], dead["dead"], dead["refCount"]) == ("None", "true", 2)
        assert dead["registrations"] == [identifier]
        new = only(shard)
        assert (new["sessionDescription"], new["refCount"]) == (None, 1)
        assert [name for name, _ in info(shard)] == ["mine", "mine"]
        assert [text["dead"] for _, text in info(shard)] == [False, True]
        env.register(TRIGGER.format("held", "sync"), "ID", "new", "REPLACE_WITH", "mine")
        assert [session["ID"] for session in shard.sessions("DEAD")] == ["mine"]
        env.go()
        assert wire.receive() == [b"['held']"]
    wait_until(lambda: shard.sessions("DEAD") == [], what="the end of the session")
    assert each_ids(env) == ["new"]


def test_dead_sessions_are_listed_by_age(env):
    wires = []
    for name in ("b", "c", "a"):
        env.register(HELD, "ID", name, *(["REPLACE_WITH", wires[-1][0]] if wires else []))
        wires.append((name, env.shards[0].server.wire()))
        wires[-1][1].send("RG.TRIGGER", "held")
        held = len(wires)
        wait_until(lambda held=held: len(env.shards[0].executions()) == held)
    assert [session["ID"] for session in env.sessions("DEAD")] == ["b", "c"]
    env.go()
    for _, wire in wires:
        with wire:
            assert wire.receive() == [b"['held']"]


def test_handles_and_time_events_are_references(env):
    env.register(
        """
        def keep(x):
            global handle
            handle = getGearsSession()
        def drop(x):
            global handle
            handle = None
        GB('CommandReader').foreach(keep).register(trigger='keep', mode='sync')
        GB('CommandReader').foreach(drop).register(trigger='drop', mode='sync')
        registerTE(1000, lambda: None, 'timer{%s}' % hashtag())
        """,
        "ID",
        "mine",
    )
    shard = env.shards[0]
    assert only(shard)["refCount"] == 3
    shard.trigger("keep")
    assert only(shard)["refCount"] == 4
    shard.trigger("drop")
    assert only(shard)["refCount"] == 3
    shard.client.delete(shard.key("timer"))
    wait_until(lambda: only(shard)["refCount"] == 2)


def test_coroutines_are_references(env):
    env.register(
        """
        import asyncio
        async def wait(x):
            while execute('get', 'go{%s}' % hashtag()) is None:
                await asyncio.sleep(0.005)
            return 'woken'
        def alone(x):
            runCoroutine(wait(x))
            return 'begun'
        GB('CommandReader').map(wait).register(trigger='wait', mode='async_local')
        GB('CommandReader').map(alone).register(trigger='alone', mode='sync')
        """,
        "ID",
        "mine",
    )
    shard = env.shards[0]
    assert shard.trigger("alone") == ["begun"]
    assert only(shard)["refCount"] > 2
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "wait")
        wait_until(lambda: shard.executions() != {}, what="the start of the function")
        env.register(TRIGGER.format("t", "sync"), "ID", "mine", "UPGRADE")
        dead = only(shard, "DEAD")
        assert dead["refCount"] > 2
        env.go()
        assert wire.receive() == [b"woken"]
    wait_until(lambda: shard.sessions("DEAD") == [], what="the end of the session")


def test_a_session_that_only_a_time_event_keeps_is_linked_when_it_is_loaded(env):
    env.execute("registerTE(1000, lambda: None, 'timer{%s}' % hashtag())", "ID", "timed")
    shard = env.shards[0]
    assert shard.sessions() == []
    shard.reload()
    session = only(shard)
    assert (session["ID"], session["refCount"], session["registrations"]) == ("timed", 1, [])
    assert session["linked"] == "primary"
    text = "Session timed already exists"
    assert env.refused(TRIGGER.format("t", "sync"), "ID", "timed") == text
    shard.client.delete(shard.key("timer"))
    wait_until(lambda: shard.sessions() == [], what="the end of the session")
    env.register(TRIGGER.format("t", "sync"), "ID", "timed")


def test_sessions_before_a_load_are_dead(env):
    env.register(HELD, "ID", "mine")
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "held")
        wait_until(env.held, what="the start of the function")
        shard = env.shards[0]
        shard.reload()
        assert (only(shard)["dead"], only(shard)["refCount"]) == ("false", 1)
        assert only(shard, "DEAD")["ID"] == "mine"
        env.go()
        assert wire.receive() == [b"['held']"]
    wait_until(lambda: shard.sessions("DEAD") == [], what="the end of the session")


def test_what_is_saved_of_a_session_without_registrations_is_nothing(env):
    env.register(HELD, "ID", "mine")
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "held")
        wait_until(env.held, what="the start of the function")
        env.unregister(env.identifier())
        shard = env.shards[0]
        shard.reload()
        assert shard.sessions() == []
        env.go()
        wire.receive()


def test_pd_and_info_say_the_same(env):
    env.register("\n".join(TRIGGER.format(name, "sync") for name in "ab"), "ID", "mine")
    for shard in env.shards:
        session = only(shard)
        ((name, told),) = info(shard)
        texts = [ast.literal_eval(entry["PD"]) for entry in shard.registrations()]
        assert texts == [told, told]
        assert (name, told["sessionName"], told["refCount"]) == ("mine", "mine", 2)
        assert told["registrationsList"] == session["registrations"]
        assert (told["linkedTo"], told["dead"]) == ("primary", False)
        assert (told["isInstallationNeeded"], told["depsList"]) == (0, [])


def test_code_that_registers_adds_to_its_session_on_every_shard(env):
    env.register(
        """
        def more(x):
            return GB('CommandReader').register(trigger='more', mode='sync')
        GB('CommandReader').map(more).register(trigger='add', mode='async_local')
        """,
        "ID",
        "mine",
    )
    first = env.identifier()
    (second,) = env.trigger("add")
    for shard in env.shards:
        wait_until(lambda shard=shard: only(shard)["registrations"] == [first, second])


def test_a_run_that_registers_on_all_shards_links_one_session(env):
    """Its shards are equals: whoever is first, there is one session on each, with all of it."""
    script = """
        def more(x):
            return GB('CommandReader').register(trigger=hashtag(), mode='sync')
        GB('ShardsIDReader').map(more).run()
        """
    for turn in range(5):
        ids = sorted(env.results(script, "ID", f"run{turn}"))
        assert len(ids) == env.shard_count
        for shard in env.shards:
            wait_until(lambda shard=shard: len(shard.registrations()) == env.shard_count)
            session = only(shard)
            assert session["ID"] == f"run{turn}"
            assert sorted(session["registrations"]) == ids
            assert shard.sessions("DEAD") == []
        source = env.shards[0].call("RG.PYSESSIONSOURCE", f"run{turn}").decode()
        assert "GB('ShardsIDReader')" in source
        for identifier in ids:
            env.unregister(identifier)
        for shard in env.shards:
            wait_until(lambda shard=shard: shard.sessions() == [])


def test_code_of_a_replaced_session_registers_nothing(env):
    env.register(
        HOLD
        + """
def late(x):
    hold()
    return GB('CommandReader').register(trigger='late', mode='sync')
GB('CommandReader').map(late).register(trigger='t', mode='async_local')
""",
        "ID",
        "mine",
    )
    with env.server.wire() as wire:
        wire.send("RG.TRIGGER", "t")
        wait_until(env.held, what="the start of the function")
        env.register(TRIGGER.format("t", "sync"), "ID", "mine", "UPGRADE")
        env.go()
        assert "Session mine was replaced" in str(wire.receive())
    assert len(env.registrations()) == 1
    assert env.error("RG.TRIGGER", "late") == "ERR subcommand not found"
