"""Which servers are shards, and how that changes."""

import pytest
from redis.crc import key_slot
from server import wait_until

from cluster import SLOTS

pytestmark = pytest.mark.cluster

IDS = "GB('ShardsIDReader').run()"


def test_replicas_are_no_shards(new_cluster):
    env = new_cluster(replicas=1)
    masters = {shard.server.id.encode() for shard in env.shards}
    for shard in env.shards:
        assert {node[1] for node in shard.call("RG.INFOCLUSTER")[4]} == masters
    assert sorted(env.results(IDS)) == env.ids
    for replica in env.servers[3:]:
        assert replica.ask("RG.PYEXECUTE", IDS).startswith("READONLY")
        assert replica.ask("RG.DUMPEXECUTIONS") == []
        # It lists them, but has nothing to say to them.
        me, own, my_run, run, nodes = replica.ask("RG.INFOCLUSTER")
        assert (me, own, my_run, len(run)) == (b"MyId", replica.id.encode(), b"MyRunId", 40)
        assert {node[1] for node in nodes} == masters
        assert {(node[8], node[9], node[15]) for node in nodes} == {(b"runid", None, 0)}


def test_one_shard_is_alone_until_another_one_joins(new_cluster):
    """Alone it is as a server without a cluster."""
    env = new_cluster(shards=1)
    assert env.call("RG.INFOCLUSTER") == b"no cluster mode"
    assert env.results(IDS) == ["1"]
    env.fill(200)
    assert env.results("GB().repartition(lambda r: r['key']).count().run()") == ["200"]
    env.register("GB('CommandReader').register(trigger='t')")
    assert env.trigger("t") == ["['t']"]
    env.cluster.join(range(SLOTS - 10, SLOTS))
    env.renew()
    assert sorted(env.results(IDS)) == env.ids
    wait_until(lambda: env.agreed())
    assert [len(shard.trigger("t")) for shard in env.shards] == [2, 2]
    assert env.results("GB().count().run('key:1*')") == ["111"]


def test_records_go_to_a_new_shard(new_cluster):
    """Without a word to anybody but the server."""
    env = new_cluster()
    env.cluster.join(range(SLOTS - 3000, SLOTS))
    env.renew()
    assert sorted(env.results(IDS)) == env.ids
    new = env.shards[3]
    there = new.key("x")
    env.results(
        f"""
        GB('ShardsIDReader').repartition(lambda x: '{there}') \\
            .foreach(lambda x: execute('rpush', '{there}', x)).run()
        """
    )
    assert sorted(new.client.lrange(there, 0, -1)) == env.ids
    env.fill(2000)
    assert new.client.dbsize() > 100
    assert env.results("GB().count().run('key:*')") == ["2000"]
    groups = "GB().groupby(lambda r: r['key'][-1], lambda k, a, r: 1 + (a or 0))"
    assert new.results(f"{groups}.count().run('key:*')") == ["10"]


def test_a_slot_that_moves(new_cluster):
    """An empty slot goes from the first shard to the second one, and back."""
    env = new_cluster()
    first, second, _ = env.shards
    slot = 100
    key = next(name for name in map(str, range(100000)) if key_slot(name.encode()) == slot)
    whose = "map(lambda x: execute('cluster', 'myid'))"
    script = f"GB('ShardsIDReader').repartition(lambda x: '{key}').{whose}.run()"
    for owner in (second, first, second):
        for shard in [owner, *env.shards]:
            shard.server.told("SETSLOT", slot, "NODE", owner.server.id)
        expected = [owner.server.id] * 3
        wait_until(lambda expected=expected: env.run(script) == (expected, []))


def test_a_shard_that_was_restarted(new_cluster):
    """It has another run id, and takes part again."""
    env = new_cluster()
    victim = env.shards[1]

    def run_id():
        nodes = env.call("RG.INFOCLUSTER")[4]
        return next(node[9] for node in nodes if node[1] == victim.server.id.encode())

    for _ in range(2):
        before = run_id()
        victim.close()
        victim.server.restart()
        env.cluster.wait_ready()
        wait_until(lambda before=before: run_id() not in (None, before))
        assert sorted(env.results(IDS)) == env.ids


def test_network_test(env):
    """It tells the other shards something, which they write to their logs."""
    sizes = [shard.server.log_size() for shard in env.shards]
    assert env.call("RG.NETWORKTEST") == "OK"
    for shard, size in list(zip(env.shards, sizes, strict=True))[1:]:
        wait_until(lambda shard=shard, size=size: shard.server.log(size))


def test_ids_begin_with_the_shard(env):
    for shard in env.shards:
        identifier = shard.start(IDS)
        assert identifier.startswith(shard.server.id + "-")
        env.wait(identifier)
        shard.register("GB().register('k*')")
        assert shard.registrations()[-1]["id"].startswith(shard.server.id + "-")
        env.wait_agreed()
        env.unregister(shard.registrations()[-1]["id"])


def test_ids_of_several_shards_are_different(env):
    identifiers = [shard.start(IDS) for _ in range(20) for shard in env.shards]
    assert len(set(identifiers)) == 60
    for identifier in identifiers:
        results, errors = env.wait(identifier)
        assert (sorted(results), errors) == (env.ids, [])
