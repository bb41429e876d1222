"""The clients of RedisGears 1.x from PyPI, as they are."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from packages import is_ready, listed, make_wheel, new_name, registers, requirements, versions
from server import wait_until


def install(folder, *words):
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, *words]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=110)
    return folder


@pytest.fixture(scope="session")
def cli(tmp_path_factory):
    """gears-cli with what it pins, apart from the packages of the tests."""
    return install(tmp_path_factory.mktemp("cli"), "gears-cli==1.2.0")


@pytest.fixture(scope="session")
def remote(tmp_path_factory):
    """The remote builder without what it pins: current redis and cloudpickle are beside it."""
    return install(tmp_path_factory.mktemp("remote"), "--no-deps", "gearsclient==1.0.2")


@pytest.fixture
def gears_cli(cli, env, tmp_path):
    def run(command, *words, server=None):
        port = (server or env.server).port
        done = subprocess.run(
            [sys.executable, cli / "bin" / "gears-cli", command, "--port", str(port), *words],
            env={**os.environ, "PYTHONPATH": str(cli)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
        )
        # Without its colours.
        return done.returncode, re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)

    return run


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return str(path)

    return write


def test_run(gears_cli, script, env):
    code, text = gears_cli("run", script("GB('ShardsIDReader').count().run()"))
    assert (code, f'"{env.shard_count}"' in text) == (0, True), text
    code, text = gears_cli("run", script("GB('CommandReader').register(trigger='hi')"))
    assert (code, text.strip()) == (0, "OK")
    assert env.trigger("hi")
    code, text = gears_cli("run", script("1 / 0"))
    assert (code, "ZeroDivisionError" in text) == (1, True)


def test_run_with_requirements(gears_cli, script, env, tmp_path):
    name = new_name()
    wheel = make_wheel(tmp_path, name, "3")
    needs = tmp_path / "requirements.txt"
    needs.write_text(f"{wheel}\n")
    code, text = gears_cli("run", script(versions(name)), "--requirements", str(needs))
    assert (code, text.count('"3"')) == (0, env.shard_count), text
    assert all(map(is_ready, listed(env, str(wheel))))
    needs.write_text("geartrain-no-such-package-at-all\n")
    code, text = gears_cli("run", script("1"), "--requirements", str(needs))
    assert (code, "satisfy requirements" in text) == (1, True)


def test_install_requirements(gears_cli, env, tmp_path):
    wheel = make_wheel(tmp_path, new_name(), "1")
    code, text = gears_cli("install-requirements", str(wheel))
    assert code == 0, text


@pytest.fixture
def registered(env, tmp_path):
    """A function with a requirement, and the name of its package."""
    name = new_name()
    wheel = make_wheel(tmp_path, name, "5")
    env.register(registers(name), "REQUIREMENTS", str(wheel))
    return name, str(wheel)


@pytest.mark.parametrize("how", ["--requirement", "--all", "--registration-id"])
def test_export_and_import(gears_cli, env, new_env, tmp_path, registered, how):
    name, wheel = registered
    registration = env.registrations()[0]["id"]
    words = {"--requirement": [wheel], "--all": [], "--registration-id": [registration]}[how]
    folder = tmp_path / "exported"
    folder.mkdir()
    code, text = gears_cli("export-requirements", "--save-directory", str(folder), how, *words)
    assert code == 0, text
    exported = [path.name for path in folder.iterdir()]
    assert all(zipfile.is_zipfile(folder / name) for name in exported)
    assert len(exported) == 1 or how == "--all"
    other = new_env()
    words = ["--requirements-path", str(folder), *exported]
    code, text = gears_cli("import-requirements", *words, server=other.server)
    assert code == 0, text
    wait_until(lambda: wheel in requirements(other) and is_ready(requirements(other)[wheel]))
    assert other.results(versions(name)) == ["5"] * other.shard_count


def test_errors_have_exit_codes(gears_cli, env, tmp_path):
    code, _ = gears_cli("export-requirements", "--requirement", "no-such-thing")
    assert code == 1
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip")
    code, _ = gears_cli("import-requirements", "--requirements-path", str(broken), "--all")
    assert code == 1


REMOTE = """
import redis
from gearsclient import GearsRemoteBuilder, execute

connection = redis.Redis(port={port})


def build(reader):
    return GearsRemoteBuilder(reader, r=connection)


factor = 21
connection.set("one", 1)
results, errors = build("KeysReader").map(lambda r: (r["key"], factor * 2)).run()
assert (sorted(results), errors) == ([("one", 42)], []), (results, errors)
results, errors = build("ShardsIDReader").map(lambda x: {{"a": [1, None, b"x"]}}).limit(1).run()
assert errors == [] and results[0] == {{"a": [1, None, b"x"]}}, (results, errors)
results, errors = build("KeysReader").foreach(lambda r: execute("set", r["key"], "2")).run()
assert errors == [] and connection.get("one") == b"2"
results, errors = build("KeysReader").map(lambda r: 1 // 0).run()
assert results == [] and "ZeroDivisionError" in str(errors[0]), (results, errors)
build("CommandReader").map(lambda r: factor).register(trigger="remote")
assert {{int(x) for x in connection.execute_command("RG.TRIGGER", "remote")}} == {{factor}}
print("all is well")
"""


def runs(script, packages, env):
    """With these packages, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script.format(port=env.server.port)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stdout.strip() == "all is well", done.stdout + done.stderr


@pytest.mark.single("its connection knows one server")
def test_the_remote_builder(remote, env):
    runs(REMOTE, remote, env)


REDGREASE = """
import time

import redgrease
from redgrease import KeysReader, ShardsIDReader, StreamReader

server = redgrease.RedisGears(port={port})
gears = server.gears
server.hset("person:1", mapping={{"age": "16"}})
server.hset("person:2", mapping={{"age": "70"}})

# What the server answers.
assert gears.gears_version() >= (1, 2, 0) and gears.python_version() >= (3, 9)
assert gears.pystats().CurrAllocated > 0
assert gears.pyexecute("GB().count().run()") == b"2"
unblocking = gears.pyexecute("GB().count().run()", unblocking=True)
assert gears.getresultsblocking(unblocking).value == b"2"
assert unblocking.value in [execution.executionId for execution in gears.dumpexecutions()]
(plan,) = gears.getexecution(unblocking).values()
assert plan.status == redgrease.data.ExecutionStatus.done and plan.results == 1, plan
assert gears.abortexecution(unblocking) and gears.dropexecution(unblocking)
assert gears.config.MaxExecutions == 1000
assert gears.infocluster() is None and gears.refreshcluster()

# Functions as objects; they ask for redgrease on the server.
ages = KeysReader("person:*").values(type="hash").map(lambda person: int(person["age"]))
assert sorted(ages.run(on=server)) == [16, 70]
assert KeysReader("person:*").avg(lambda record: int(record["value"]["age"])).run(on=server) == 43.0
local = ShardsIDReader().map(lambda shard: redgrease.cmd.hget("person:1", "age"))
assert local.run(on=server) == "16"


@redgrease.trigger(on=server)
def greet(name):
    return "hello " + name


assert greet("you") == "hello you"
StreamReader().map(lambda record: redgrease.cmd.incr("seen")).register("events:*", on=server)
server.xadd("events:1", {{"a": 1}})
until = time.monotonic() + 30
while True:
    registered = gears.dumpregistrations()
    counts = [registration.RegistrationData.numSuccess for registration in registered]
    if server.get("seen") == b"1" and all(counts):
        break
    assert time.monotonic() < until, registered
    time.sleep(0.01)
assert {{registration.reader for registration in registered}} == {{"CommandReader", "StreamReader"}}
(needed,) = gears.pydumpreqs()
assert (needed.Name, needed.IsInstalled) == ("redgrease[runtime]", True)
assert all(gears.unregister(registration.id) for registration in registered)
print("all is well")
"""


@pytest.fixture(scope="session")
def redgrease(tmp_path_factory):
    """The client of functions that are Python objects."""
    return install(tmp_path_factory.mktemp("redgrease"), "redgrease[client]==0.3.30")


@pytest.mark.single("its connection knows one server")
def test_redgrease(redgrease, new_env):
    """It reads the lists of RedisGears 1.2.1."""
    env = new_env("ReplyVersion", "1.2.1")
    runs(REDGREASE, redgrease, env)
