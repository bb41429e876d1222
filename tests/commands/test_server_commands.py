"""What the server says about the module: commands, categories, MODULE LIST, INFO."""

import re

import pytest
from env import HOLD, pairs
from wire import Error

COMMANDS = [
    "rg.pyexecute",
    "rg.getresults",
    "rg.getresultsblocking",
    "rg.dumpexecutions",
    "rg.getexecution",
    "rg.dropexecution",
    "rg.abortexecution",
    "rg.configget",
    "rg.configset",
    "rg.pystats",
    "rg.infocluster",
    "rg.refreshcluster",
    "rg.clusterset",
]
READING = [
    "rg.getresults",
    "rg.dumpexecutions",
    "rg.getexecution",
    "rg.configget",
    "rg.pystats",
    "rg.infocluster",
    "rg.clusterset",
]


def flags(env, name):
    (info,) = env.call("COMMAND", "INFO", name)
    return set(info[2])


def categories_are_known(env):
    """Modules have no categories on Redis 7.0."""
    version = env.client.info("server")["redis_version"].split(".")
    return (int(version[0]), int(version[1])) >= (7, 2)


def test_module_list(env):
    modules = [pairs(module) for module in env.call("MODULE", "LIST")]
    (module,) = [module for module in modules if module[b"name"] == b"rg"]
    assert module[b"ver"] == 10213


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists(env, name):
    (info,) = env.call("COMMAND", "INFO", name)
    assert info[0].decode().lower() == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described(env, name):
    _, docs = env.call("COMMAND", "DOCS", name)
    assert len(pairs(docs)[b"summary"]) > 10


def test_commands_have_no_keys(env):
    for name in COMMANDS:
        (info,) = env.call("COMMAND", "INFO", name)
        assert info[3:6] == [0, 0, 0]


def test_flags_of_pyexecute(env):
    """Within scripts it is refused by itself, with the text of the original."""
    assert {"admin", "denyoom", "write"} <= flags(env, "rg.pyexecute")
    assert "readonly" not in flags(env, "rg.pyexecute")


def test_flags_of_configset(env):
    assert {"admin", "noscript"} <= flags(env, "rg.configset")
    assert "readonly" not in flags(env, "rg.configset")


@pytest.mark.parametrize("name", READING)
def test_reading_commands(env, name):
    assert "readonly" in flags(env, name)
    assert "write" not in flags(env, name)


@pytest.mark.parametrize("category", ["admin", "dangerous"])
@pytest.mark.parametrize("name", ["rg.pyexecute", "rg.configset"])
def test_categories(env, category, name):
    if not categories_are_known(env):
        pytest.skip("this server has no categories for modules")
    (info,) = env.call("COMMAND", "INFO", name)
    assert f"@{category}" in info[6]
    assert "@write" not in info[6], "whoever may write data could run code"


def test_unload_is_refused(env):
    assert "unload" in env.error("MODULE", "UNLOAD", "rg").lower()
    assert env.still_runs()


def test_info(env):
    info = env.client.info("rg")
    assert info["rg_nexecutions"] == 0
    assert info["rg_nregistrations"] == 0
    env.wait(env.start("GB('ShardsIDReader').run()"))
    assert env.client.info("rg")["rg_nexecutions"] == 1


def test_info_of_the_allocator(env):
    info = env.client.info("rg")
    assert 0 < info["rg_CurrAllocated"] <= info["rg_PeakAllocated"] <= info["rg_TotalAllocated"]


def test_info_while_executions_run(env):
    env.start(
        """
        def forever(x):
            while True:
                pass
        GB('ShardsIDReader').foreach(forever).run()
        """
    )
    assert env.client.info("rg")["rg_nexecutions"] == 1
    assert "rg_nexecutions" in env.client.info("everything")


def test_pystats(env):
    reply = env.call("RG.PYSTATS")
    assert reply[::2] == [b"TotalAllocated", b"PeakAllocated", b"CurrAllocated"]
    total, peak, current = reply[1::2]
    assert 0 < current <= peak <= total
    assert env.call("RG.PYSTATS", "more", "words")[::2] == reply[::2]


def test_pystats_counts(env):
    before = pairs(env.call("RG.PYSTATS"))[b"TotalAllocated"]
    env.results("GB('PythonReader', lambda: (str(i) * 100 for i in range(1000))).count().run()")
    assert pairs(env.call("RG.PYSTATS"))[b"TotalAllocated"] > before


def test_pystats_without_our_allocator(new_env):
    reply = new_env("OverridePythonAllocators", 0).call("RG.PYSTATS")
    assert reply == [b"TotalAllocated", 0, b"PeakAllocated", 0, b"CurrAllocated", 0]


@pytest.mark.single("on a cluster it tells of the shards")
def test_infocluster(env):
    assert env.call("RG.INFOCLUSTER") == b"no cluster mode"
    assert env.call("RG.INFOCLUSTER", "more", "words") == b"no cluster mode"


def test_refreshcluster(env):
    assert env.call("RG.REFRESHCLUSTER") == "OK"
    assert env.call("RG.REFRESHCLUSTER", "more", "words") == "OK"
    assert (env.call("RG.INFOCLUSTER") == b"no cluster mode") == (env.shard_count == 1)
    assert env.still_runs()


IN_TRANSACTION = Error("ERR Blocking module command called from transaction")
WAITING = [
    ["RG.ABORTEXECUTION", "EXECUTION"],
    ["RG.ABORTEXECUTION", "nope"],
    ["RG.PAUSEREGISTRATIONS", "REGISTRATION"],
    ["RG.PAUSEREGISTRATIONS", "nope"],
    ["RG.UNPAUSEREGISTRATIONS", "nope"],
    ["RG.CLEARREGISTRATIONSSTATS"],
    ["RG.REFRESHCLUSTER"],
]


def in_multi(env, *words):
    """The reply to a command as a transaction."""
    assert env.call("MULTI") == "OK"
    assert env.call(*words) == "QUEUED"
    (reply,) = env.call("EXEC")
    return reply


@pytest.mark.lopsided
@pytest.mark.parametrize("words", WAITING, ids=" ".join)
def test_what_waits_for_other_shards_is_no_part_of_a_transaction(env, words):
    """It does nothing either; RedisGears did it all the same."""
    env.register("GB('StreamReader').register('s', mode='sync')")
    env.client.xadd("s", {"f": "v"})
    env.wait_data(numSuccess=2)
    running = env.start(
        """
        import time
        def hold(x):
            while True:
                time.sleep(0.01)
        GB('ShardsIDReader').foreach(hold).run()
        """
    )
    names = {"EXECUTION": running, "REGISTRATION": env.identifier()}
    assert in_multi(env, *[names.get(word, word) for word in words]) == IN_TRANSACTION
    assert env.data()["status"] == "OK"
    assert env.data()["numTriggered"] == 2
    assert env.status(running) not in ("done", "aborted")


def test_words_are_looked_at_first(env):
    """What fails without waiting has its own error also in a transaction."""
    for name in ["ABORTEXECUTION", "PAUSEREGISTRATIONS", "UNPAUSEREGISTRATIONS"]:
        text = f"ERR wrong number of arguments for 'rg.{name.lower()}' command"
        assert in_multi(env, f"RG.{name}") == Error(text)
    assert "wrong number" in in_multi(env, "RG.CLEARREGISTRATIONSSTATS", "x")
    error = in_multi(env, "RG.PAUSEREGISTRATIONS", "ABORTPENDING")
    assert error == Error("ERR no registration to pause")
    error = in_multi(env, "RG.PYIMPORTREQ", "x")
    assert error == Error("Bad serialization format on reading requirement name")


def test_the_error_for_scripts(env):
    running = env.start(HOLD + "GB('ShardsIDReader').foreach(lambda x: hold()).run()")
    code = "return redis.pcall('RG.GETRESULTSBLOCKING', ARGV[1])"
    reply = env.call("EVAL", code, "0", running)
    assert reply == Error("ERR Blocking module command called from Lua script")
    assert in_multi(env, "RG.GETRESULTSBLOCKING", running) == IN_TRANSACTION
    env.go()


@pytest.mark.cluster
def test_an_execution_is_gathered_outside_of_transactions(env):
    done = env.start("GB('ShardsIDReader').run()")
    env.wait(done)
    assert in_multi(env, "RG.GETEXECUTION", done) == IN_TRANSACTION
    assert in_multi(env, "RG.GETEXECUTION", done, "cluster") == IN_TRANSACTION
    (entry,) = in_multi(env, "RG.GETEXECUTION", done, "SHARD")
    assert entry[1].decode() == env.shard_id


def test_internal_commands_count_their_words(env):
    for name, wrong in [("INNERREGISTER", ["a", "b"]), ("INNERUNREGISTER", ["a", "b", "c"])]:
        arity = f"ERR wrong number of arguments for 'rg.{name.lower()}' command"
        assert env.error(f"RG.{name}") == arity
        assert env.error(f"RG.{name}", *wrong) == arity
        assert "internal" in env.error(f"RG.{name}", "a")


@pytest.mark.cluster
def test_infocluster_of_a_cluster(env):
    """Every shard sees the same shards, itself among them, and knows that it has met them."""
    for shard in env.shards:
        me, own, my_run, run, nodes = shard.call("RG.INFOCLUSTER", "more", "words")
        assert (me, own) == (b"MyId", shard.server.id.encode())
        assert my_run == b"MyRunId"
        assert re.fullmatch(rb"[0-9a-f]{40}", run)
        seen = {}
        for node in nodes:
            names = ["id", "ip", "port", "unixSocket", "runid", "minHslot", "maxHslot"]
            assert node[::2] == [name.encode() for name in [*names, "pendingMessages"]]
            assert re.fullmatch(rb"[0-9a-f]{40}", node[9])
            seen[node[1].decode()] = node[3:8:2] + node[11:14:2]
            assert type(node[15]) is int
        assert seen == {
            other.server.id: [b"127.0.0.1", other.server.port, b"None", slots[0], slots[-1]]
            for other, slots in zip(env.shards, env.cluster.slots, strict=True)
        }


@pytest.mark.cluster
@pytest.mark.parametrize(("version", "length", "of_node"), [("1.2.1", 5, 16), ("1.0.0", 3, 14)])
def test_infocluster_of_older_releases(env, version, length, of_node):
    newest = env.call("RG.INFOCLUSTER")
    env.config("ReplyVersion", version)
    reply = env.call("RG.INFOCLUSTER")
    assert len(reply) == length
    assert reply[:-1] == newest[: length - 1]
    assert [node[:14] for node in reply[-1]] == [node[:14] for node in newest[4]]
    assert {len(node) for node in reply[-1]} == {of_node}


def test_output_of_a_script_is_in_the_log(env):
    env.execute(
        "print('to standard output')\nimport sys\nprint('to standard error', file=sys.stderr)"
    )
    assert "to standard output" in env.server.log()
    assert "to standard error" in env.server.log()
