"""Registrations on three shards: they are everywhere, work everywhere, and go everywhere."""

import pytest
from env import HOLD, pairs
from server import wait_until
from wire import Error, Simple

from cluster import SLOTS

pytestmark = pytest.mark.cluster

MODES = ["sync", "async_local", "async"]
COUNT = "execute('incr', 'n{%s}' % hashtag())"
LOG = "execute('rpush', 'log{%s}' % hashtag(), {})"
ALL_KINDS = f"""
GB(desc='keys').foreach(lambda r: {COUNT}).register('k*', mode='sync')
GB('StreamReader').foreach(lambda r: {COUNT}).register('s*', mode='async_local')
GB('CommandReader').register(trigger='t')
GB('CommandReader').map(lambda r: call_next(*r[1:])).register(hook='hget', mode='sync')
"""


def counts(env):
    """What the functions of each shard counted there."""
    return env.each(lambda shard: int(shard.client.get(shard.key("n")) or 0))


def logs(env):
    return env.each(lambda shard: shard.log_list(shard.key("log")))


def triggered(shard):
    return [entry["RegistrationData"]["numTriggered"] for entry in shard.registrations()]


def test_they_are_everywhere_when_the_client_is_answered(env):
    for asked in env.shards:
        assert asked.execute(ALL_KINDS, "ID", "all", "DESCRIPTION", "of all kinds") == "OK"
        lists = env.each(lambda shard: shard.registrations())
        assert [len(entries) for entries in lists] == [4] * 3
        assert lists[1] == lists[0]
        assert lists[2] == lists[0]
        for entry in lists[0]:
            assert entry["id"].startswith(asked.server.id)
        for shard in env.shards:
            ids = [entry["id"] for entry in lists[0]]
            assert sorted(shard.session(ids[0])["registrationsList"]) == sorted(ids)
            assert shard.client.execute_command("RG.PYSESSIONSOURCE", "all")
        env.reset()


@pytest.mark.parametrize("mode", MODES)
def test_a_trigger_on_any_shard(env, mode):
    env.register(
        f"""
        name = 'from the session: '
        def work(r):
            return name + r[1]
        GB('CommandReader').map(work).register(trigger='t', mode='{mode}')
        """
    )
    for number, shard in enumerate(env.shards, 1):
        results = shard.trigger("t", number)
        times = 3 if mode == "async" else 1
        assert results == [f"from the session: {number}"] * times
        assert env.data()["numTriggered"] == env.data()["numSuccess"] == number


@pytest.mark.parametrize("mode", MODES)
def test_globals_of_a_session_are_those_of_each_shard(env, mode):
    env.register(
        f"""
        calls = 0
        def work(r):
            global calls
            calls += 1
            return calls
        GB('CommandReader').map(work).register(trigger='t', mode='{mode}')
        """
    )
    if mode == "async":
        assert [shard.trigger("t") for shard in env.shards] == [["1"] * 3, ["2"] * 3, ["3"] * 3]
    else:
        assert [shard.trigger("t") for shard in env.shards] == [["1"]] * 3
        assert [shard.trigger("t") for shard in env.shards] == [["2"]] * 3


@pytest.mark.parametrize("mode", MODES)
def test_an_event_on_any_shard_runs_once_and_there(env, mode):
    env.register(f"GB().foreach(lambda r: {COUNT}).register('k*', mode='{mode}')")
    for shard in env.shards:
        for i in range(5):
            shard.client.set(shard.key(f"k{i}"), i)
    wait_until(lambda: counts(env) == [5, 5, 5])
    data = env.settled()
    assert (data["numTriggered"], data["numSuccess"]) == (15, 15)
    assert counts(env) == [5, 5, 5]


@pytest.mark.parametrize("mode", MODES)
def test_events_of_a_shard_keep_their_order(env, mode):
    log = LOG.replace("{}", "r['value']")
    env.register(f"GB().foreach(lambda r: {log}).register('k*', mode='{mode}')")
    for i in range(100):
        for shard in env.shards:
            shard.client.set(shard.key(f"k{i}"), i)
    expected = [str(i) for i in range(100)]
    wait_until(lambda: logs(env) == [expected] * 3)


@pytest.mark.parametrize("mode", MODES)
def test_streams_on_every_shard(env, mode):
    log = LOG.replace("{}", "r['value']['n']")
    for shard in env.shards:
        shard.client.xadd(shard.key("s"), {"n": 0})
    env.register(f"GB('StreamReader').foreach(lambda r: {log}).register('s*', mode='{mode}')")
    for i in range(1, 100):
        for shard in env.shards:
            shard.client.xadd(shard.key("s"), {"n": i})
    expected = [str(i) for i in range(100)]
    wait_until(lambda: logs(env) == [expected] * 3)
    wait_until(lambda: env.each(lambda s: s.client.xlen(s.key("s"))) == [0, 0, 0])
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("reader", ["", "'StreamReader'"])
def test_records_that_go_to_another_shard(env, reader):
    """From each shard to the one that owns the key of the result."""
    env.register(
        f"""
        GB({reader}).repartition(lambda r: 'all').foreach(lambda r: execute('incr', 'all')) \\
            .register('k*')
        """
    )
    for shard in env.shards:
        for i in range(5):
            if reader:
                shard.client.xadd(shard.key("k"), {"n": i})
            else:
                shard.client.set(shard.key("k"), i)
    wait_until(lambda: env.client.get("all") == "15")
    assert env.settled()["numFailures"] == 0
    assert env.client.get("all") == "15"


def test_a_function_that_groups_over_shards(env):
    """The names of the event are counted where each name's key is."""
    env.register(
        """
        GB().flatmap(lambda r: r['value'].split()) \\
            .groupby(lambda w: w, lambda k, a, r: 1 + (a or 0)) \\
            .foreach(lambda r: execute('incrby', r['key'], r['value'])).register('text*')
        """
    )
    for number, shard in enumerate(env.shards):
        shard.client.set(shard.key("text"), f"a b c a {'d ' * number}")
    wait_until(lambda: env.client.mget(*"abcd") == ["6", "3", "3", "3"])
    assert env.settled()["numFailures"] == 0


def test_a_hook_on_every_shard(env):
    env.register(
        """
        GB('CommandReader').map(lambda r: call_next(*r[1:], 'at', hashtag())) \\
            .register(hook='hset', mode='sync')
        """
    )
    for shard in env.shards:
        shard.client.hset(shard.key("h"), "f", "v")
        assert shard.client.hgetall(shard.key("h")) == {"f": "v", "at": shard.tag}
    for other in env.shards[1:]:
        moved = env.shards[0].error("HSET", other.key("h"), "f", "v")
        assert moved.startswith("MOVED ")


@pytest.mark.parametrize("mode", MODES)
def test_reg_34_moved_is_answered_before_a_function_overrides(env, mode):
    env.register(
        f"""
        GB().foreach(lambda r: override_reply(hashtag())) \\
            .register('*', eventTypes=['keymiss'], commands=['get'], mode='{mode}')
        """
    )
    for shard in env.shards:
        assert shard.call("GET", shard.key("x")) == shard.tag.encode()
    for other in env.shards[1:]:
        assert env.shards[0].error("GET", other.key("x")).startswith("MOVED ")
    assert env.data()["numTriggered"] == 3


@pytest.mark.parametrize("mode", MODES)
def test_reg_35_a_trigger_on_a_key(env, mode):
    """Functions of mode `async` run on all shards, of which one has the key."""
    env.register(
        f"""
        def work(r):
            try:
                execute('set', r[1], 'set')
            except redisgears.GearsError:
                pass
        GB('CommandReader').foreach(work).register(trigger='t', mode='{mode}')
        """
    )
    here, there = env.shards[0], env.shards[1]
    assert here.error("RG.TRIGGERONKEY", "t", there.key("x")).startswith("MOVED ")
    assert not there.client.exists(there.key("x"))
    times = 3 if mode == "async" else 1
    record = str(["t", there.key("x")]).encode()
    assert there.call("RG.TRIGGERONKEY", "t", there.key("x")) == [record] * times
    assert there.client.get(there.key("x")) == "set"


def test_unregister_on_any_shard(env):
    for shard in env.shards:
        env.register(ALL_KINDS)
        for entry in env.registrations():
            assert shard.call("RG.UNREGISTER", entry["id"]) == Simple("OK")
            wait_until(lambda: env.agreed() is not None)
            assert entry["id"] not in env.agreed()
        assert env.agreed() == []
        for other in env.shards:
            assert other.error("RG.TRIGGER", "t") == "ERR subcommand not found"
            other.client.set(other.key("k"), 1)
    assert counts(env) == [0, 0, 0]


@pytest.mark.parametrize("word", ["", "abortpending"])
def test_unregister_with_executions_that_wait_on_other_shards(env, word):
    log = LOG.replace("{}", "r['key'][:2]")
    env.register(
        HOLD
        + f"""
def work(r):
    hold()
    {log}
GB().foreach(work).register('k*', mode='async_local')
"""
    )
    for shard in env.shards:
        for i in range(3):
            shard.client.set(shard.key(f"k{i}"), i)
    wait_until(env.all_held)
    env.unregister(env.identifier(), word)
    env.go()
    expected = ["k0"] if word else ["k0", "k1", "k2"]
    wait_until(lambda: logs(env) == [expected] * 3)
    wait_until(lambda: env.executions() == {})
    assert logs(env) == [expected] * 3


def test_on_unregistered_runs_everywhere(env):
    gone = "execute('set', 'gone{%s}' % hashtag(), 1)"
    env.register(f"GB().register('k*', onUnregistered=lambda: {gone})")
    env.unregister(env.identifier())
    wait_until(lambda: env.each(lambda s: s.client.get(s.key("gone"))) == ["1"] * 3)


def test_pause_everywhere(env):
    env.register(f"GB('StreamReader').foreach(lambda r: {COUNT}).register('s*')")
    identifier = env.identifier()

    def statuses():
        return env.each(lambda shard: shard.data()["status"])

    for asked in env.shards:
        before = counts(env)
        asked.pause(identifier)
        assert statuses() == ["PAUSED"] * 3
        for shard in env.shards:
            shard.add(shard.key("s"), 3)
        assert counts(env) == before
        asked.unpause(identifier)
        assert statuses() == ["OK"] * 3
        expected = [count + 3 for count in before]
        wait_until(lambda expected=expected: counts(env) == expected)


def test_a_function_pauses_itself_on_its_shard_only(env):
    env.register(
        f"""
        def work(r):
            if 'stop' in r['value']:
                flat_error('PAUSE')
            {COUNT}
        GB('StreamReader').foreach(work).register('s*', mode='sync')
        """
    )
    here, *others = env.shards
    here.client.xadd(here.key("s"), {"stop": 1})
    wait_until(lambda: here.data()["status"] == "PAUSED")
    for other in others:
        other.add(other.key("s"))
        assert other.data()["status"] == "OK"
    wait_until(lambda: counts(env) == [0, 1, 1])


def test_statistics_are_those_of_each_shard(env):
    env.register(
        f"""
        def work(r):
            {COUNT}
            if r['value'] == 'bad':
                flat_error('at ' + hashtag())
        GB().foreach(work).register('k*', mode='async_local', eventTypes=['set'])
        """
    )
    first, second, third = env.shards
    first.client.set(first.key("k"), "good")
    second.client.set(second.key("k"), "bad")
    env.settled()
    wait_until(lambda: counts(env) == [1, 1, 0])
    names = ("numTriggered", "numSuccess", "numFailures", "lastError")
    wait_until(lambda: second.data()["numFailures"] == 1)
    assert [first.data()[name] for name in names] == [1, 1, 0, None]
    assert [second.data()[name] for name in names] == [1, 0, 1, f"at {second.tag}"]
    assert [third.data()[name] for name in names] == [0, 0, 0, None]
    assert third.call("RG.CLEARREGISTRATIONSSTATS") == Simple("OK")
    for shard in env.shards:
        assert [shard.data()[name] for name in names] == [0, 0, 0, None]


@pytest.mark.parametrize("failing", [False, True])
def test_only_the_shard_that_was_asked_counts(env, failing):
    """A trigger of mode `async` runs everywhere; what failed elsewhere comes to it as well."""
    body = "flat_error(x)" if failing else "None"
    env.register(
        f"""
        GB('CommandReader').map(lambda r: hashtag()).foreach(lambda x: {body}).register(trigger='t')
        """
    )
    first, second, third = env.shards
    reply = second.call("RG.TRIGGER", "t")
    if failing:
        assert reply in [Error(shard.tag) for shard in env.shards]
    else:
        assert sorted(reply) == sorted(shard.tag.encode() for shard in env.shards)
    assert [triggered(first), triggered(second), triggered(third)] == [[0], [1], [0]]
    assert second.data()["numFailures"] == (1 if failing else 0)


def test_an_upgrade_from_another_shard(env):
    script = "GB('CommandReader').map(lambda r: '{}').register(trigger='t', mode='sync')"
    env.register(script.format("old"), "ID", "test")
    second = env.shards[1]
    assert second.refused(script.format("new"), "ID", "test") == "Session test already exists"
    assert second.execute(script.format("new"), "ID", "test", "UPGRADE") == "OK"
    assert [shard.trigger("t") for shard in env.shards] == [["new"]] * 3
    assert env.each(lambda shard: len(shard.registrations())) == [1] * 3
    third = env.shards[2]
    assert third.execute(script.format("third"), "ID", "other", "REPLACE_WITH", "test") == "OK"
    assert [shard.trigger("t") for shard in env.shards] == [["third"]] * 3
    assert env.each(lambda shard: shard.session()["sessionId"]) == ["other"] * 3


def test_a_trigger_of_another_shard_is_taken(env):
    env.register("GB('CommandReader').register(trigger='t')")
    for shard in env.shards:
        text = shard.refused("GB('CommandReader').register(trigger='t')")
        assert "trigger already registered" in text
    assert env.each(lambda shard: len(shard.registrations())) == [1] * 3


def test_ses_15_16_a_failing_script_leaves_nothing_anywhere(env):
    failing = "GB('CommandReader').count().register(trigger='t')\nraise ValueError('too late')"
    assert "too late" in env.refused(failing, "ID", "test")
    assert env.each(lambda shard: shard.registrations()) == [[], [], []]
    env.register("GB('CommandReader').register(trigger='t', mode='sync')", "ID", "test")
    before = env.agreed()
    assert "too late" in env.shards[1].refused(failing, "ID", "test", "UPGRADE")
    assert env.agreed() == before
    assert [shard.trigger("t") for shard in env.shards] == [["['t']"]] * 3


def test_a_function_that_registers(env):
    """From a step on any shard, to all."""
    env.register(
        """
        def work(r):
            name = r['value']
            GB('CommandReader').map(lambda r: name).register(trigger=name, mode='sync')
        GB().foreach(work).register('new*', mode='async_local', eventTypes=['set'])
        """
    )
    for number, shard in enumerate(env.shards, 1):
        shard.client.set(shard.key("new"), f"name{number}")
        wait_until(lambda number=number: len(env.agreed() or []) == number + 1)
        for other in env.shards:
            assert other.trigger(f"name{number}") == [f"name{number}"]


def test_many_at_once_from_all_shards(env):
    """Three clients register and unregister at the same time; all shards agree in the end."""
    script = "GB('CommandReader').map(lambda r: '{0}').register(trigger='{0}', mode='sync')"
    for round in range(10):
        wires = [shard.server.wire() for shard in env.shards]
        for i, wire in enumerate(wires):
            wire.send("RG.PYEXECUTE", script.format(f"t{round} {i}"))
        for wire in wires:
            assert wire.receive() == "OK"
            wire.close()
    assert len(env.agreed()) == 30
    for i, entry in enumerate(env.registrations()):
        assert env.shards[i % 3].call("RG.UNREGISTER", entry["id"]) == Simple("OK")
    wait_until(lambda: env.agreed() == [])


def test_the_same_name_from_all_shards_at_once(env):
    """One of them wins; the others are refused, and nothing of theirs is left anywhere."""
    script = "GB('CommandReader').map(lambda r: '{}').register(trigger='t', mode='sync')"
    for _ in range(20):
        wires = [shard.server.wire() for shard in env.shards]
        for i, wire in enumerate(wires):
            wire.send("RG.PYEXECUTE", script.format(i))
        replies = [wire.receive() for wire in wires]
        for wire in wires:
            wire.close()
        winners = [str(i) for i, reply in enumerate(replies) if reply == "OK"]
        assert len(winners) <= 1, replies
        for reply in replies:
            if reply != "OK":
                assert "already registered" in str(reply)
        wait_until(lambda: env.agreed() is not None)
        if winners:
            assert [shard.trigger("t") for shard in env.shards] == [winners] * 3
            env.unregister(env.identifier())
        assert env.agreed() == []


REFUSES = {2: {"options": ["--rename-command", "object", ""]}}
"""The third shard has no command OBJECT, so that it can have no hook on it."""


def test_all_or_nothing(new_cluster):
    env = new_cluster(own=REFUSES)
    third = env.shards[2].server.id
    kinds = ALL_KINDS + "GB('CommandReader').register(hook='object', mode='sync')"
    for asked in env.shards[:2]:
        reply = asked.call("RG.PYEXECUTE", kinds, "ID", "new")
        assert reply == [
            Error(f"-ERR shard-{third}: Can not override an unexisting command"),
        ]
        assert env.each(lambda shard: shard.registrations()) == [[], [], []]
        assert asked.error("RG.TRIGGER", "t") == "ERR subcommand not found"
    env.register("GB('CommandReader').register(trigger='t', mode='sync')", "ID", "test")
    before = env.agreed()
    (error,) = env.call("RG.PYEXECUTE", kinds, "ID", "test", "UPGRADE")
    assert third in error
    assert env.agreed() == before
    assert [shard.trigger("t") for shard in env.shards] == [["['t']"]] * 3
    env.register(ALL_KINDS, "ID", "test", "UPGRADE")
    assert len(env.agreed()) == 4


def test_the_own_trigger_of_one_shard(new_cluster):
    """Registered before it joined: all shards get it, and refuse the name from then on."""
    env = new_cluster()
    alone = env.cluster.new_server().start()
    assert alone.ask("RG.PYEXECUTE", "GB('CommandReader').register(trigger='t')") == "OK"
    move(env.cluster, alone)
    env.renew()
    script = "GB().register('k*')\nGB('CommandReader').count().register(trigger='t')"
    wait_until(lambda: env.agreed() and len(env.agreed()) == 1, what="the trigger on all shards")
    for asked in env.shards:
        assert "trigger already registered" in asked.refused(script, "ID", "x")
        assert env.each(lambda shard: len(shard.registrations())) == [1] * 4
    joined = env.shards[3]
    joined.unregister(joined.identifier())
    wait_until(lambda: env.each(lambda shard: shard.registrations()) == [[]] * 4)
    env.register(script, "ID", "x")
    assert [shard.trigger("t") for shard in env.shards] == [["4"]] * 4


def move(cluster, server):
    """Join a server that runs already."""
    cluster.servers.remove(server)
    cluster.new_server = lambda: Started(cluster, server)
    cluster.join(range(SLOTS - 1, SLOTS))
    del cluster.new_server


class Started:
    """Stands for a server that is to be started."""

    def __init__(self, cluster, server):
        self.cluster, self.server = cluster, server

    def start(self):
        self.cluster.servers.append(self.server)
        return self.server


def test_a_shard_that_joins(new_cluster):
    env = new_cluster()
    env.register(ALL_KINDS, "ID", "all", "DESCRIPTION", "text")
    env.register(f"GB().foreach(lambda r: {COUNT}).register('j*')")
    before = env.agreed()
    env.cluster.join(range(SLOTS - 100, SLOTS))
    env.renew()
    wait_until(lambda: env.agreed() == before, what="the registrations on the new shard")
    new = env.shards[3]
    assert new.session(before[0])["sessionDescription"] == "text"
    for shard in env.shards:
        assert len(shard.trigger("t")) == 4
    new.client.set(new.key("j"), 1)
    new.client.set(new.key("k"), 1)
    wait_until(lambda: counts(env) == [0, 0, 0, 2])
    new.unregister(before[0])
    wait_until(lambda: env.agreed() == before[1:])
    assert sorted(env.results("GB('ShardsIDReader').run()")) == env.ids


@pytest.mark.parametrize("shards", [2, 3])
def test_ses_19_an_upgrade_after_a_shard_lost_everything(new_cluster, shards):
    """What a shard does not have is no error when it is replaced."""
    env = new_cluster(shards=shards)
    script = "GB('CommandReader').map(lambda r: '{}').register(trigger='t')"
    env.register(script.format("old"), "ID", "test")
    env.shards[1].close()
    env.shards[1].server.restart()
    env.cluster.wait_ready()
    env.register(script.format("new"), "ID", "test", "UPGRADE")
    assert [shard.trigger("t") for shard in env.shards] == [["new"] * shards] * shards
    assert env.each(lambda shard: len(shard.registrations())) == [1] * shards


def test_a_shard_that_lost_everything_gets_it_back(new_cluster):
    env = new_cluster()
    env.register(ALL_KINDS, "ID", "test")
    before = env.agreed()
    env.shards[1].close()
    env.shards[1].server.restart()
    env.cluster.wait_ready()
    wait_until(lambda: env.agreed() == before, what="the registrations on the empty shard")
    assert [len(shard.trigger("t")) for shard in env.shards] == [3] * 3


def test_reg_09_once_per_event_over_every_reload(new_cluster):
    env = new_cluster(options=["--appendonly", "yes", "--appendfsync", "always"])
    env.register(
        """
        def count(r):
            by = {'set': 1, 'del': -1}.get(r['event'], 0)
            execute('incrby', 'n{%s}' % hashtag(), by)
        GB().filter(lambda r: r['key'][0] == 'k').foreach(count).register('*', mode='async_local')
        """
    )
    identifier = env.identifier()
    for way in (None, env.reload, env.restart):
        if way:
            way()
        assert env.agreed() == [identifier]
        for shard in env.shards:
            names = [shard.key(f"k{i}") for i in range(20)]
            for name in names:
                shard.client.set(name, 1)
        wait_until(lambda: counts(env) == [20] * 3)
        for shard in env.shards:
            shard.client.delete(*[shard.key(f"k{i}") for i in range(20)])
        wait_until(lambda: counts(env) == [0] * 3)
        assert env.settled()["numFailures"] == 0


def test_replicas_hold_and_do_not_run(new_cluster):
    """Each has the registrations of its shard; they are gone when its shard's are."""
    env = new_cluster(replicas=1)
    env.register(ALL_KINDS, "ID", "test")
    replicas = env.cluster.servers[3:]

    def listed():
        return [len(server.ask("RG.DUMPREGISTRATIONS")) for server in replicas]

    wait_until(lambda: listed() == [4] * 3)
    for shard in env.shards:
        shard.client.set(shard.key("k"), 1)
        shard.add(shard.key("s"))
    wait_until(lambda: counts(env) == [2] * 3)
    for server in replicas:
        for entry in server.ask("RG.DUMPREGISTRATIONS"):
            assert pairs(entry[7])[b"numTriggered"] == 0
        assert server.ask("RG.TRIGGER", "t").startswith("READONLY")
    for identifier in env.agreed():
        env.unregister(identifier)
    wait_until(lambda: listed() == [0] * 3)


def test_replicas_run_no_hooks(new_cluster):
    """What a hook calls could not reach the keys of a replica."""
    env = new_cluster(replicas=1)
    env.register(
        """
        GB('CommandReader').map(lambda r: call_next(*r[1:]) + '!').register(hook='get', mode='sync')
        GB().foreach(lambda r: override_reply('x')).register(commands=['hget'], mode='sync')
        """
    )
    shard, replica = env.shards[0], env.cluster.replicas_of(0)[0]
    shard.client.set(shard.key("k"), "v")
    shard.client.hset(shard.key("h"), "f", "v")
    assert shard.call("GET", shard.key("k")) == b"v!"
    shard.client.wait(1, 10000)
    wait_until(lambda: len(replica.ask("RG.DUMPREGISTRATIONS")) == 2)
    with replica.wire() as wire:
        assert wire.call("GET", shard.key("k")).startswith("MOVED")
        assert wire.call("READONLY") == "OK"
        assert wire.call("GET", shard.key("k")) == b"v"
        assert wire.call("HGET", shard.key("h"), "f") == b"v"


@pytest.mark.parametrize("how", ["failover", "kill"])
def test_a_promoted_replica(new_cluster, how):
    """It has the registrations, runs them, and takes part in what all shards do."""
    env = new_cluster(replicas=1)
    env.register(ALL_KINDS, "ID", "test")
    before = env.agreed()
    old, new = env.cluster.masters[1], env.cluster.replicas_of(1)[0]
    wait_until(lambda: len(new.ask("RG.DUMPREGISTRATIONS")) == 4)
    env.shards[1].client.wait(1, 10000)
    if how == "failover":
        new.take_over(env.cluster.servers)
    else:
        old.kill()
    wait_until(lambda: b"role:master" in new.ask("INFO", "replication"), what="a promotion")
    env.cluster.promoted(1, new)
    env.renew()
    assert env.agreed() == before
    for shard in env.shards:
        assert len(shard.trigger("t")) == 3
    promoted = env.shards[1]
    promoted.client.set(promoted.key("k"), 1)
    promoted.add(promoted.key("s"))
    wait_until(lambda: counts(env) == [0, 2, 0])
    assert sorted(env.results("GB('ShardsIDReader').run()")) == env.ids
    promoted.unregister(before[0])
    wait_until(lambda: env.agreed() == before[1:])
