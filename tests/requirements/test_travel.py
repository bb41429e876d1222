"""Requirements on their way: restarts, replicas, other servers, shards that come later."""

import os
import pathlib
import signal

import pytest
from env import pairs
from packages import is_ready, listed, make_wheel, new_name, registers, requirements, versions
from server import wait_until

CHUNK = 10 << 20


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def package(wheels):
    """A wheel."""
    name = new_name()
    path = make_wheel(wheels, name, "1")
    return name, str(path)


def gone(path):
    """The wheel can not be had any more: what works now came with the data."""
    os.unlink(path)


def test_all_lives(durable, package):
    env, (name, path) = durable, package
    env.register(registers(name), "ID", "test", "REQUIREMENTS", path)
    gone(path)
    for _ in env.lives():
        assert env.trigger("version") == ["1"]
        assert is_ready(requirements(env)[path])
        assert env.results(versions(name)) == ["1"]
    env.crash()
    assert env.trigger("version") == ["1"]


AOF_WITHOUT_RDB = ["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no"]


def test_all_lives_of_an_aof_without_rdb(new_env, package):
    env, (name, path) = new_env(options=AOF_WITHOUT_RDB), package
    env.register(registers(name), "ID", "test", "REQUIREMENTS", path)
    gone(path)
    env.restart()
    assert env.trigger("version") == ["1"]
    env.client.bgrewriteaof()
    wait_until(env.aof_is_written)
    env.restart()
    assert env.trigger("version") == ["1"]
    assert is_ready(requirements(env)[path])


def test_a_rewrite_of_an_aof_without_rdb_and_without_registrations(new_env, package):
    env, (name, path) = new_env(options=AOF_WITHOUT_RDB), package
    env.results(versions(name), "REQUIREMENTS", path)
    gone(path)
    env.client.bgrewriteaof()
    wait_until(env.aof_is_written)
    env.restart()
    assert is_ready(requirements(env)[path])


def test_a_run_is_enough(durable, package):
    env, (name, path) = durable, package
    assert env.results(versions(name), "REQUIREMENTS", path) == ["1"]
    gone(path)
    for _ in env.lives():
        assert is_ready(requirements(env)[path])
        assert env.results(versions(name)) == ["1"]


def test_the_order_lives(new_env, wheels):
    env, name = new_env(), new_name()
    # By name they come in the other order.
    second, first = (str(make_wheel(wheels, name, version)) for version in ("1", "2"))
    env.results(versions(name), "REQUIREMENTS", first)
    env.results(versions(name), "REQUIREMENTS", second)
    env.save_and_restart()
    assert env.results(versions(name)) == ["1"]


def test_a_child_saves_and_the_folders_of_before_are_removed(new_env, package):
    env, (name, path) = new_env(), package
    env.register(registers(name), "REQUIREMENTS", path)
    before = pathlib.Path(requirements(env)[path]["Path"])
    gone(path)
    env.client.bgsave()
    wait_until(lambda: not env.client.info("persistence")["rdb_bgsave_in_progress"])
    env.crash()
    assert env.trigger("version") == ["1"]
    wait_until(lambda: not before.exists())
    # A requirement that is replaced while a child saves is removed after that.
    assert is_ready(requirements(env)[path])


def test_shards_load_what_they_saved(new_cluster, package):
    env, (name, path) = new_cluster(), package
    env.register(registers(name), "REQUIREMENTS", path)
    gone(path)
    env.reload()
    assert all(map(is_ready, listed(env, path)))
    env.save_and_restart()
    assert all(map(is_ready, listed(env, path)))
    assert env.each(lambda shard: shard.trigger("version")) == [["1"]] * 3


def test_a_shard_that_joins(new_cluster, package):
    env, (name, path) = new_cluster(), package
    env.register(registers(name), "REQUIREMENTS", path)
    gone(path)
    env.cluster.join(range(16000, 16384))
    env.renew()
    newcomer = env.shards[-1]
    wait_until(lambda: newcomer.registrations())
    assert newcomer.trigger("version") == ["1"]
    assert is_ready(requirements(newcomer)[path])
    # What only runs comes with the run.
    other = new_name()
    wheel = make_wheel(pathlib.Path(path).parent, other, "5")
    assert env.results(versions(other), "REQUIREMENTS", str(wheel)) == ["5"] * 4


def test_a_shard_that_can_not(new_cluster, package):
    """One shard has a file where its folders should be."""
    env, (name, path) = new_cluster(), package
    shard = env.shards[2]
    (shard.server.folder / "geartrain-requirements").write_text("in the way")
    reply = env.call("RG.PYEXECUTE", registers(name), "ID", "test", "REQUIREMENTS", path)
    why = "Failed deserializing session, Could not satisfy requirements"
    assert [str(error) for error in reply] == [
        f"-ERR shard-{shard.server.id}: {why}, look at the log file for more information."
    ]
    assert env.each(lambda shard: shard.registrations()) == [[], [], []]
    assert path not in requirements(env)
    error = env.refused(versions(name), "REQUIREMENTS", path)
    assert error.startswith("Could not satisfy requirements")
    assert path not in requirements(env)


def test_replicas(new_env, package):
    master, replica, late = new_env(), new_env(), new_env()
    name, path = package
    replica.follow(master)
    master.register(registers(name), "ID", "test", "REQUIREMENTS", path)
    gone(path)
    replica.wait_synced(master)
    wait_until(lambda: is_ready(requirements(replica)[path]))
    late.follow(master)
    assert is_ready(requirements(late)[path])
    replica.promote()
    assert replica.trigger("version") == ["1"]
    # It is listed once, also where the replica of a replica gets it.
    late.follow(replica)
    assert list(requirements(late)) == [path]


def exported(env, name):
    description, chunks = env.binary.execute_command("RG.PYEXPORTREQ", name)
    return pairs(description), chunks


def test_export_and_import(env, new_env, package):
    name, path = package
    env.results(versions(name), "REQUIREMENTS", path)
    description, chunks = exported(env, path)
    assert description[b"Name"] == path.encode()
    wait_until(lambda: requirements(env)[path]["RefCount"] == 1)
    assert exported(env, path)[0][b"RefCount"] == 2
    other = new_env()
    assert other.call("RG.PYIMPORTREQ", *chunks) == b"OK"
    assert is_ready(requirements(other)[path])
    assert other.results(versions(name)) == ["1"]
    first = requirements(other)[path]["Path"]
    # Once more changes nothing.
    assert other.call("RG.PYIMPORTREQ", *chunks) == b"OK"
    assert requirements(other)[path]["Path"] == first


def test_import_on_all_shards(new_env, new_cluster, package):
    env, cluster = new_env(), new_cluster()
    name, path = package
    env.results(versions(name), "REQUIREMENTS", path)
    gone(path)
    _, chunks = exported(env, path)
    assert cluster.call("RG.PYIMPORTREQ", *chunks) == b"OK"
    assert all(map(is_ready, listed(cluster, path)))
    assert cluster.results(versions(name)) == ["1"] * 3


def test_shards_that_are_silent(new_cluster, package):
    """However many there are, they are one error."""
    env, (name, path) = new_cluster(), package
    env.register(registers(name), "REQUIREMENTS", path)
    _, chunks = exported(env, path)
    env.config("PythonInstallReqMaxIdleTime", 300)
    stopped = [shard.server.process for shard in env.shards[1:]]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        silent = "Execution max idle reached"
        assert env.error("RG.PYIMPORTREQ", *chunks) == silent
        script = registers(name, "other")
        assert env.call("RG.PYEXECUTE", script, "REQUIREMENTS", path) == [silent]
        assert env.refused(versions(name), "REQUIREMENTS", path) == silent
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)


def test_an_import_that_is_cut_off(env, wheels):
    name = new_name()
    files = {f"{name}.py": "VERSION = '1'\n", f"{name}.bin": os.urandom(2 * CHUNK + 5)}
    path = str(make_wheel(wheels, name, "1", files=files))
    assert env.results(versions(name), "REQUIREMENTS", path) == ["1"] * env.shard_count
    _, chunks = exported(env, path)
    assert [len(chunk) for chunk in chunks[:2]] == [CHUNK, CHUNK] and len(chunks) == 3
    for count in range(len(chunks)):
        error = env.error("RG.PYIMPORTREQ", *chunks[:count])
        assert error.startswith("Bad serialization format on reading "), error
    assert env.call("RG.PYIMPORTREQ", *chunks) == b"OK"


def test_errors_of_export_and_import(env):
    assert env.error("RG.PYEXPORTREQ", "no such") == "requirement does not exists"
    for words in ([], ["a", "b"]):
        error = env.error("RG.PYEXPORTREQ", *words)
        assert error == "ERR wrong number of arguments for 'rg.pyexportreq' command"
    want = "Bad serialization format on reading requirement name"
    assert env.error("RG.PYIMPORTREQ") == want
    assert env.error("RG.PYIMPORTREQ", "x") == want
    newer = (3).to_bytes(8, "little")
    want = "Requirement version is not compatible, upgrade to newer RedisGears."
    assert env.error("RG.PYIMPORTREQ", newer) == want


def test_wheels_of_another_platform_are_made_here(new_env, wheels, tmp_path):
    """What is imported was made for another processor: pip is asked for its own."""
    name = new_name()
    make_wheel(wheels, name, "1", tag="cp311-cp311-manylinux2014_riscv64")
    foreign = f"{name}-1-cp311-cp311-manylinux2014_riscv64.whl"
    payload = encode(name, "linux-bookworm-riscv64", {foreign: (wheels / foreign).read_bytes()})
    env = new_env("RequirementWheels", wheels)
    error = env.error("RG.PYIMPORTREQ", payload)
    want = "Failed install requirement on shard, check shard log for more info."
    assert error == want
    make_wheel(wheels, name, "1")
    assert env.call("RG.PYIMPORTREQ", payload) == b"OK"
    assert env.results(versions(name)) == ["1"]
    assert "made for another platform" in env.server.log()


def encode(name, os_name, files):
    """A payload of RG.PYEXPORTREQ, by its description."""

    def number(value):
        return value.to_bytes(8, "little")

    def buffer(data):
        return number(len(data)) + data

    def text(value):
        return buffer(value.encode() + b"\0")

    parts = [number(2), text(name), text(os_name), number(1), number(len(files))]
    for file, content in files.items():
        parts += [text(file), buffer(content)]
    return b"".join(parts)


def test_the_internal_command_is_refused(env):
    error = env.error("RG.INNERREQUIREMENT", "x", "begin", "y")
    assert error.startswith("ERR RG.INNERREQUIREMENT is internal")


def test_a_server_that_was_killed_leaves_nothing(new_env, package):
    env, (name, path) = new_env(), package
    env.execute(f"import {name}", "REQUIREMENTS", path)
    found = list(pathlib.Path(env.server.folder).glob("geartrain-requirements/*"))
    assert len(found) == 1
    env.crash()
    env.execute(f"import {name}", "REQUIREMENTS", path)
    wait_until(lambda: not found[0].exists())


def test_installing_while_children_save(new_env, wheels):
    """The server takes note of the end of any child: also of pip's."""
    env, names = new_env(), [new_name() for _ in range(3)]
    paths = [str(make_wheel(wheels, name, "1")) for name in names]
    env.fill(1000)
    with env.server.client() as saver:
        pipe = saver.connection_pool.get_connection()
        for name, path in zip(names, paths, strict=True):
            pipe.send_command("BGSAVE", "SCHEDULE")
            pipe.read_response()
            assert env.results(versions(name), "REQUIREMENTS", path) == ["1"]
            words = ["FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", path]
            old = pathlib.Path(requirements(env)[path]["Path"])
            pipe.send_command("BGSAVE", "SCHEDULE")
            pipe.read_response()
            assert env.results(versions(name), *words) == ["1"]
            wait_until(lambda old=old: not old.exists())
        saver.connection_pool.release(pipe)
    wait_until(lambda: not env.client.info("persistence")["rdb_bgsave_in_progress"])
    assert env.client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    assert all(is_ready(requirements(env)[path]) for path in paths)


def test_a_server_that_stops_while_it_installs(new_env, tmp_path):
    env = new_env()
    source = tmp_path / "slow"
    source.mkdir()
    (source / "setup.py").write_text("import time\ntime.sleep(3)\nraise SystemExit(1)\n")
    with env.server.client() as client:
        pipe = client.connection_pool.get_connection()
        pipe.send_command("RG.PYEXECUTE", "1", "REQUIREMENTS", str(source))
        wait_until(lambda: str(source) in requirements(env))
        env.restart()
        pipe.disconnect()
        client.connection_pool.release(pipe)
    assert env.still_runs()
    assert requirements(env) == {}


def test_two_versions_in_two_sessions_live(durable, wheels):
    env, name = durable, new_name()
    paths = [str(make_wheel(wheels, name, version)) for version in ("3", "4")]
    for path, trigger in zip(paths, ("three", "four"), strict=True):
        # Two functions in each, which come back one after the other.
        script = registers(name, trigger) + registers(name, trigger + "again")
        env.register(script, "ID", trigger, "REQUIREMENTS", path)
        gone(path)
    for _ in env.lives():
        for trigger, want in (("three", "3"), ("four", "4")):
            assert env.trigger(trigger) == env.trigger(trigger + "again") == [want]
        # What is imported from now on is what was asked for last.
        assert env.results(versions(name)) == ["4"]


def test_what_is_used_and_not_listed_is_saved_too(new_env, package):
    env, (name, path) = new_env(), package
    env.register(registers(name, "first"), "ID", "first", "REQUIREMENTS", path)
    words = ["FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", path]
    env.register(registers(name, "second"), "ID", "second", *words)
    gone(path)
    listed_before = requirements(env)[path]["RefCount"]
    assert listed_before == 2
    env.save_and_restart()
    assert env.trigger("first") == env.trigger("second") == ["1"]
    assert list(requirements(env)) == [path]
    assert requirements(env)[path]["RefCount"] == listed_before
    assert "pip is asked" not in env.server.log()


def test_what_was_listed_is_listed_again_when_an_upgrade_fails(new_cluster, package):
    env, (name, path) = new_cluster(), package
    env.register(registers(name), "ID", "test", "REQUIREMENTS", path)
    before = [entry["Path"] for entry in listed(env, path)]
    folder = env.shards[2].server.folder / "geartrain-requirements"
    folder.rename(folder.with_name("moved"))
    folder.write_text("in the way")
    words = ["UPGRADE", "FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", path]
    (error,) = env.call("RG.PYEXECUTE", registers(name), "ID", "test", *words)
    assert "Failed deserializing session, Failed installing requirements on shard" in str(error)
    assert [entry["Path"] for entry in listed(env, path)] == before
    assert [entry["RefCount"] for entry in listed(env, path)] == [2, 2, 2]
    assert env.each(lambda shard: shard.trigger("version")) == [["1"]] * 3


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_wheels_that_are_lost_are_got_again(new_env, wheels, damage):
    env, name = new_env("RequirementWheels", wheels), new_name()
    wheel = make_wheel(wheels, name, "1")
    env.register(registers(name), "ID", "test", "REQUIREMENTS", name)
    copy = pathlib.Path(requirements(env)[name]["Path"]) / wheel.name
    if damage == "missing":
        copy.unlink()
    else:
        copy.write_bytes(b"x" * copy.stat().st_size)
    env.client.save()
    assert ("some requirements could not be saved" in env.server.log()) == (damage == "missing")
    env.restart()
    wait_until(lambda: is_ready(requirements(env)[name]))
    wait_until(lambda: env.call("RG.TRIGGER", "version") == [b"1"])
    assert "pip is asked" in env.server.log()


def test_wheels_that_never_come(new_env, wheels):
    """The server starts all the same; its functions say why they do not run."""
    env, name = new_env("RequirementWheels", wheels), new_name()
    wheel = make_wheel(wheels, name, "1")
    env.register(registers(name), "ID", "test", "REQUIREMENTS", name)
    (pathlib.Path(requirements(env)[name]["Path"]) / wheel.name).unlink()
    gone(wheel)
    env.save_and_restart()
    error = env.error("RG.TRIGGER", "version")
    assert f"its requirement {name} is not installed" in error
    assert f"its requirement {name} is not installed" in env.data()["lastError"]
    assert requirements(env)[name]["IsInstalled"] == "no"
    # They are there again when somebody asks for it.
    make_wheel(wheels, name, "1")
    env.register(registers(name), "ID", "test", "UPGRADE", "REQUIREMENTS", name)
    assert env.trigger("version") == ["1"]


def test_a_payload_of_nonsense(env):
    name = new_name()
    payload = encode(name, "", {f"{name}-1-py3-none-any.whl": b"no wheel"})
    want = "Failed install requirement on shard, check shard log for more info."
    assert env.error("RG.PYIMPORTREQ", payload) == want
    assert name not in requirements(env)
    for file in ("../x-1-py3-none-any.whl", "x"):
        error = env.error("RG.PYIMPORTREQ", encode(name, "", {file: b""}))
        assert error == "Bad serialization format on reading wheel file name"
