"""Requirements from a folder of wheels: installed, shared, replaced, refused."""

import ast
import os
import pathlib
import tempfile

import pytest
from env import pairs
from packages import is_ready, listed, make_wheel, new_name, registers, requirements, versions
from server import wait_until

FOLDER = tempfile.TemporaryDirectory(prefix="geartrain-wheels-")
WHEELS = pathlib.Path(FOLDER.name)
MODULE_ARGUMENTS = ["RequirementWheels", WHEELS]

NOT_BUILT = "Could not satisfy requirements (look at redis log file for more information)"


@pytest.fixture
def package():
    """The name of a package that has versions 3 and 4."""
    name = new_name()
    for version in ("3", "4"):
        make_wheel(WHEELS, name, version)
    return name


def log_of(env):
    return "".join(env.each(lambda shard: shard.server.log()))


def files_in(env, name):
    """Files of a name below the server's folder, in which others may go meanwhile."""
    return [folder for folder, _, files in os.walk(env.server.folder) if name in files]


def test_a_plan_imports_what_is_required(env, package):
    name = f"{package}==3"
    assert env.results(versions(package), "REQUIREMENTS", name) == ["3"] * env.shard_count
    for shard, entry in zip(env.shards, listed(env, name), strict=True):
        assert is_ready(entry)
        assert entry["GearReqVersion"] == 2
        assert entry["CompiledOs"].startswith("linux-")
        assert entry["Wheels"] == [f"{package}-3-py3-none-any.whl"]
        assert pathlib.Path(entry["Path"]).is_relative_to(shard.server.folder)
        assert package in entry["Path"]
        assert entry["IsInReqDictionary"] == "yes"
    # A plan without requirements can import it as well.
    assert env.results(versions(package)) == ["3"] * env.shard_count


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1"])
def test_an_old_listing(env, package, version):
    """redgrease takes no other one."""
    name = f"{package}==3"
    env.results(versions(package), "REQUIREMENTS", name)
    env.config("ReplyVersion", version)
    entry = next(reply for reply in env.call("RG.PYDUMPREQS") if reply[3] == name.encode())
    assert entry[:2] == [b"GearReqVersion", 1]
    assert entry[2::2] == [b"Name", b"IsDownloaded", b"IsInstalled", b"CompiledOs", b"Wheels"]


def test_ranges(env, package):
    name = f"{package}>=3,<4"
    assert env.results(versions(package), "REQUIREMENTS", name) == ["3"] * env.shard_count


def test_what_a_package_needs_comes_with_it(env, package):
    other = new_name()
    make_wheel(WHEELS, other, "1", requires=[f"{package}<4"])
    script = f"GB('ShardsIDReader').map(lambda x: __import__('{package}').VERSION).run()"
    assert env.results(script, "REQUIREMENTS", other) == ["3"] * env.shard_count
    wheels = listed(env, other)[0]["Wheels"]
    assert wheels == sorted(f"{wheel}-py3-none-any.whl" for wheel in (f"{other}-1", f"{package}-3"))


def test_several_requirements_and_the_later_one_wins(env, package):
    first, second = f"{package}==4", f"{package}==3"
    words = ["REQUIREMENTS", first, second, first]
    assert env.results(versions(package), *words) == ["3"] * env.shard_count
    assert {first, second} <= requirements(env).keys()


def test_a_path_is_a_requirement(env, package):
    path = str(WHEELS / f"{package}-4-py3-none-any.whl")
    assert env.results(versions(package), "REQUIREMENTS", path) == ["4"] * env.shard_count
    assert is_ready(listed(env, path)[0])


def test_no_names_are_no_requirements(env):
    env.register("GB('CommandReader').register(trigger='x')", "ID", "none", "REQUIREMENTS")
    assert env.each(lambda shard: len(shard.registrations())) == [1] * env.shard_count


def test_what_does_not_exist(env):
    name = new_name()
    assert env.refused(versions(name), "REQUIREMENTS", name) == NOT_BUILT
    assert name not in requirements(env)
    wait_until(lambda: f"requirement {name}: ERROR: No matching distribution" in log_of(env))
    folder = pathlib.Path(env.server.folder)
    wait_until(lambda: not list(folder.glob(f"geartrain-requirements/*/{name}*")))
    assert env.still_runs()


def test_what_can_not_be_built(env, tmp_path):
    source = tmp_path / "broken"
    source.mkdir()
    (source / "setup.py").write_text("raise SystemExit('this package can not be built')\n")
    assert env.refused("GB().run()", "REQUIREMENTS", str(source)) == NOT_BUILT
    assert "this package can not be built" in log_of(env)


def test_wheels_that_can_not_be_installed(env):
    name = new_name()
    make_wheel(WHEELS, name, "1", files={f"../../{name}.py": "VERSION = '1'\n"})
    error = env.refused(versions(name), "REQUIREMENTS", name)
    want = "Failed installing requirements on shard, please check shard logs for more details."
    assert error == want
    assert not files_in(env, f"{name}.py")


@pytest.mark.parametrize("name", ["-r x", "--help", "", " ", "a\nb", "a\0b", "x" * 2000, b"\xff"])
def test_what_can_be_no_requirement(env, name):
    assert env.refused("GB().run()", "REQUIREMENTS", name).startswith("Could not satisfy requirem")
    assert env.still_runs()


@pytest.mark.parametrize("name", ["a/b", "../../x", "/no/such/folder", "x/", "é/b", "./x[extra]"])
def test_a_path_where_nothing_is(env, name):
    """A name with a slash was the end of RedisGears."""
    before = set(requirements(env))
    want = "Could not satisfy requirements, look at the log file for more information."
    assert env.refused("GB().run()", "REQUIREMENTS", name) == want
    assert env.refused("GB().run()", "REQUIREMENTS", "six", name) == want
    assert set(requirements(env)) == before
    assert f"requirement {name} is a path where nothing is" in log_of(env)


@pytest.mark.parametrize(
    "name", ["it's", "$(touch pwned)", "`touch pwned`; touch pwned", "; touch ../pwned"]
)
def test_nothing_goes_through_a_shell(env, name):
    assert env.refused("GB().run()", "REQUIREMENTS", name) == NOT_BUILT
    assert not files_in(env, "pwned") and not pathlib.Path("pwned").exists()


def test_a_known_requirement_is_shared(env, package):
    name = f"{package}==3"
    env.register(registers(package), "ID", "first", "REQUIREMENTS", name)
    paths = [entry["Path"] for entry in listed(env, name)]
    assert [entry["RefCount"] for entry in listed(env, name)] == [2] * env.shard_count
    assert env.session()["isInstallationNeeded"] == 1
    env.register(registers(package, "other"), "ID", "second", "REQUIREMENTS", name)
    assert [entry["Path"] for entry in listed(env, name)] == paths
    assert [entry["RefCount"] for entry in listed(env, name)] == [3] * env.shard_count
    assert env.each(lambda shard: shard.trigger("other")) == [["3"]] * env.shard_count


def test_wheels_that_somebody_removed(env, package):
    """The shard that is asked has nothing to give to others; a reinstallation gets it again."""
    name = f"{package}==3"
    env.register(registers(package), "ID", "test", "REQUIREMENTS", name)
    entry = requirements(env)[name]
    wheel = pathlib.Path(entry["Path"], *entry["Wheels"])
    wheel.unlink()
    assert env.error("RG.PYEXPORTREQ", name) == f"Could not open file {wheel}"
    for script in (registers(package, "other"), versions(package), "1", "no Python"):
        assert env.refused(script, "REQUIREMENTS", name) == "Failed serializing session"
    assert env.refused(registers(package), "ID", "test", "UPGRADE", "REQUIREMENTS", name)
    assert env.each(lambda shard: shard.trigger("version")) == [["3"]] * env.shard_count
    words = ["UPGRADE", "FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    env.register(registers(package), "ID", "test", *words)
    assert env.results(versions(package), "REQUIREMENTS", name) == ["3"] * env.shard_count


def identity(package):
    return f"""
import {package}
GB('CommandReader').map(lambda x: id({package})).register(trigger='identity', mode='sync')
"""


def test_an_upgrade_with_the_same_requirement_changes_nothing(env, package):
    name = f"{package}==3"

    def seen():
        return env.each(lambda shard: shard.trigger("identity")), listed(env, name)

    env.register(identity(package), "ID", "test", "REQUIREMENTS", name)
    before, entries = seen()
    env.register(identity(package), "ID", "test", "UPGRADE", "REQUIREMENTS", name)
    after, entries_after = seen()
    assert after == before
    assert [e["Path"] for e in entries] == [e["Path"] for e in entries_after]


def test_a_forced_upgrade_that_fails_leaves_the_old_packages(env, package):
    name = f"{package}==3"
    env.register(identity(package), "ID", "test", "REQUIREMENTS", name)
    paths = [entry["Path"] for entry in listed(env, name)]
    script = f"import {package}\nimport no_such_package_at_all\n" + identity(package)
    words = ["ID", "test", "UPGRADE", "FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    assert "no_such_package_at_all" in env.refused(script, *words)
    assert [entry["Path"] for entry in listed(env, name)] == paths
    env.each(lambda shard: shard.trigger("identity"))
    folder = pathlib.Path(env.server.folder)
    one = [pathlib.Path(paths[0])]
    wait_until(lambda: list(folder.glob(f"geartrain-requirements/*/{package}*")) == one)
    assert env.results(versions(package)) == ["3"] * env.shard_count


def test_forced_upgrades_list_what_is_used_now(env, package):
    def listed_now():
        found = env.each(lambda s: [name for name in requirements(s) if package in name])
        assert found == found[:1] * env.shard_count
        return found[0]

    def upgrade(version):
        words = ["UPGRADE", "FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS"]
        env.register(registers(package), "ID", "test", *words, f"{package}=={version}")
        assert env.each(lambda shard: shard.trigger("version")) == [[version]] * env.shard_count

    env.register(registers(package), "ID", "test", "REQUIREMENTS", f"{package}==3")
    assert listed_now() == [f"{package}==3"]
    upgrade("4")
    assert listed_now() == [f"{package}==4"]
    env.save_and_restart()
    assert listed_now() == [f"{package}==4"]
    assert env.each(lambda shard: shard.trigger("version")) == [["4"]] * env.shard_count
    upgrade("3")
    assert listed_now() == [f"{package}==3"]


def test_what_was_replaced_a_moment_ago_uses_nothing(env, package):
    """Its functions are kept for a while, for other shards; its requirements stayed listed."""
    first, second = f"{package}==3", f"{package}==4"
    env.register(registers(package), "ID", "test", "REQUIREMENTS", first)
    for _ in range(2):
        env.register(registers(package), "ID", "test", "UPGRADE", "REQUIREMENTS", first)
    assert [entry["RefCount"] for entry in listed(env, first)] == [2] * env.shard_count
    env.register(registers(package), "ID", "test", "UPGRADE", "REQUIREMENTS", second)
    for shard in env.shards:
        assert [name for name in requirements(shard) if package in name] == [second]
    env.register("GB().register('k')", "ID", "test", "UPGRADE")
    for shard in env.shards:
        assert not [name for name in requirements(shard) if package in name]


def test_a_forced_reinstallation_of_the_same_version(env, package):
    name = f"{package}==3"
    env.register(identity(package), "ID", "test", "REQUIREMENTS", name)
    paths = [entry["Path"] for entry in listed(env, name)]
    words = ["ID", "test", "UPGRADE", "FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    env.register(identity(package), *words)
    assert not set(paths) & {entry["Path"] for entry in listed(env, name)}
    wait_until(lambda: not any(pathlib.Path(path).exists() for path in paths))


def test_two_versions_in_two_sessions(env, package):
    env.register(registers(package, "three"), "ID", "three", "REQUIREMENTS", f"{package}==3")
    env.register(registers(package, "four"), "ID", "four", "REQUIREMENTS", f"{package}==4")
    for trigger, want in (("three", "3"), ("four", "4")):
        assert env.each(lambda shard, t=trigger: shard.trigger(t)) == [[want]] * env.shard_count
    # What is imported from now on is the later one.
    assert env.results(versions(package)) == ["4"] * env.shard_count


def test_unregistering_does_not_forget(env, package):
    name = f"{package}==3"
    env.register(registers(package), "REQUIREMENTS", name)
    env.unregister(env.identifier())
    wait_until(lambda: [e["RefCount"] for e in listed(env, name)] == [1] * env.shard_count)
    assert env.results(versions(package)) == ["3"] * env.shard_count


def test_a_script_that_does_nothing_leaves_nothing_but_the_package(env, package):
    name = f"{package}==3"
    assert env.execute(f"import {package}", "REQUIREMENTS", name) == "OK"
    assert env.each(lambda shard: name in requirements(shard)) == [False] * env.shard_count
    script = f"GB('CommandReader').map(lambda x: __import__('{package}').VERSION)"
    env.register(script + ".register(trigger='x', mode='async_local')")
    assert env.trigger("x") == ["3"]


def test_a_listing_shows_what_is_being_installed(env, tmp_path):
    source = tmp_path / "slow"
    source.mkdir()
    go = tmp_path / "go"
    (source / "setup.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        "raise SystemExit(1)\n"
    )
    with env.server.client() as client:
        pipe = client.connection_pool.get_connection()
        pipe.send_command("RG.PYEXECUTE", "GB().run()", "REQUIREMENTS", str(source))
        entry = wait_until(lambda: requirements(env).get(str(source)))
        assert entry["IsDownloaded"] == entry["IsInstalled"] == entry["IsInReqDictionary"] == "no"
        assert entry["Wheels"].startswith("Requirement was not yet downloaded")
        # Nobody else waits.
        assert env.still_runs()
        go.write_text("")
        with pytest.raises(Exception, match="Could not satisfy"):
            pipe.read_response()
        client.connection_pool.release(pipe)
    assert str(source) not in requirements(env)


@pytest.mark.single("the process of one server")
@pytest.mark.parametrize("end", ["SHUTDOWN", "kill -9"])
def test_what_pip_runs_ends_with_the_server(new_env, tmp_path, end):
    env = new_env()
    source, started = tmp_path / "slow", tmp_path / "started"
    source.mkdir()
    (source / "setup.py").write_text(
        "import os, subprocess, time\n"
        "pids = [os.getpid(), subprocess.Popen(['sleep', '600']).pid]\n"
        "with open('pids', 'w') as file: file.write(repr(pids))\n"
        f"os.replace('pids', {str(started)!r})\n"
        "time.sleep(600)\n"
    )
    with env.server.client() as client:
        pipe = client.connection_pool.get_connection()
        pipe.send_command("RG.PYEXECUTE", "GB().run()", "REQUIREMENTS", str(source))
        wait_until(started.exists)
        if end == "SHUTDOWN":
            assert env.server.stop() == 0
        else:
            env.server.kill()
        pipe.disconnect()
    pids = ast.literal_eval(started.read_text())
    wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in pids))


def test_info_has_a_line_for_each(env, package):
    name = f"{package}>=3"
    env.results(versions(package), "REQUIREMENTS", name)
    info = env.call("INFO", "rg_python_requirements").decode()
    line = next(line for line in info.splitlines() if line.startswith(f"rg_{name}:"))
    fields = line.removeprefix(f"rg_{name}:").split(",")
    assert [field.split("=")[0] for field in fields] == [
        "IsDownloaded",
        "IsInstalled",
        "CompiledOs",
        "Wheels",
        "Path",
        "RefCount",
        "IsInReqDictionary",
    ]
    assert f"Wheels=['{package}-4-py3-none-any.whl']" in fields


def test_packages_do_not_come_before_the_standard_library(env):
    name = new_name()
    files = {
        "json/__init__.py": "raise ImportError('not this one')\n",
        f"{name}.py": "VERSION='1'\n",
    }
    make_wheel(WHEELS, name, "1", files=files)
    script = versions(name, " + __import__('json').dumps(1)")
    assert env.results(script, "REQUIREMENTS", name) == ["11"] * env.shard_count


def test_pth_files_and_namespace_packages(env, package):
    name, other = new_name(), new_name()
    files = {f"{name}.pth": "extra\n", f"extra/{name}.py": "VERSION = 'pth'\n"}
    make_wheel(WHEELS, name, "1", files=files)
    for part in ("a", "b"):
        files = {f"{other}/{part}.py": f"VERSION = {part!r}\n"}
        make_wheel(WHEELS, f"{other}{part}", "1", files=files)
    assert env.results(versions(name), "REQUIREMENTS", name) == ["pth"] * env.shard_count
    words = ["REQUIREMENTS", f"{other}a", f"{other}b"]
    script = f"""
        import {other}.a, {other}.b
        GB('ShardsIDReader').map(lambda x: {other}.a.VERSION + {other}.b.VERSION).run()
    """
    assert env.results(script, *words) == ["ab"] * env.shard_count


def sessions(env, *words):
    """What each shard says of its only session."""

    def of(shard):
        (entry,) = shard.client.execute_command("RG.PYDUMPSESSIONS", *words)
        return pairs(entry)

    return env.each(of)


def test_sessions_list_their_requirements(env, package):
    name = f"{package}==3"
    env.register(registers(package), "ID", "test", "REQUIREMENTS", name)
    for entry in sessions(env):
        assert entry["requirementInstallationNeeded"] == 1
        assert entry["requirements"] == [name]
    for entry in sessions(env, "VERBOSE"):
        (description,) = entry["requirements"]
        assert description[3] == name and len(description) == 18
        assert pairs(description)["IsInReqDictionary"] == "yes"
    env.register(registers(package), "ID", "test", "UPGRADE", "REQUIREMENTS", name)
    # Nothing was installed for this one.
    assert [e["requirementInstallationNeeded"] for e in sessions(env)] == [0] * env.shard_count


@pytest.mark.single("about one listing")
def test_a_session_with_one_requirement(env, package):
    name = f"{package}==3"
    env.register(registers(package), "REQUIREMENTS", name)
    (entry,) = sessions(env)
    assert entry["sessionDescription"] is None
    assert (entry["refCount"], entry["linked"], entry["dead"]) == (1, "primary", "false")
    assert entry["requirementInstallationNeeded"] == 1
    assert entry["requirements"] == [name]
    assert [identifier.rpartition("-")[0] for identifier in entry["registrations"]] == ["0" * 40]
    (needs,) = env.session()["depsList"]
    assert needs["name"] == name and needs["wheels"] == [f"{package}-3-py3-none-any.whl"]
    assert needs["basePath"] == requirements(env)[name]["Path"]


def test_what_is_refused_changes_no_function(env, tmp_path):
    """Also if a part of it could be installed."""
    name = new_name()
    env.register(
        f"""
        GB('CommandReader').map(lambda x: __import__('{name}').VERSION).register(trigger='v')
        """,
        *("REQUIREMENTS", str(make_wheel(tmp_path, name, "1"))),
    )
    assert set(env.trigger("v")) == {"1"}
    newer, broken = make_wheel(tmp_path, name, "2"), tmp_path / "broken-1-py3-none-any.whl"
    broken.write_bytes(b"no wheel")
    env.refused("1", "REQUIREMENTS", str(newer), str(broken))
    assert set(env.trigger("v")) == {"1"}
    assert env.call("RG.PYEXECUTE", "1", "REQUIREMENTS", str(newer)) in ("OK", b"OK")
    assert "2" in env.trigger("v")
