"""Settings of requirements: what may be installed, from where, and to where."""

import pathlib

import pytest
from packages import make_wheel, new_name, requirements, versions


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


def test_the_switch(new_env, wheels):
    name = new_name()
    wheel = make_wheel(wheels, name, "1")
    env = new_env("InstallRequirements", 0)
    want = "Could not satisfy requirements: InstallRequirements is off"
    assert env.refused(versions(name), "REQUIREMENTS", str(wheel)) == want
    other = new_env()
    other.results(versions(name), "REQUIREMENTS", str(wheel))
    _, chunks = other.binary.execute_command("RG.PYEXPORTREQ", str(wheel))
    assert env.error("RG.PYIMPORTREQ", *chunks).endswith("InstallRequirements is off")
    # Scripts without requirements run as ever.
    assert env.still_runs()
    assert env.execute("1", "REQUIREMENTS") == "OK"
    reply = env.call("RG.CONFIGSET", "InstallRequirements", 1)
    assert "not modifiable at runtime" in str(reply[0])


def test_the_allow_list(new_env, wheels):
    name, other = new_name(), new_name()
    for package in (name, other):
        make_wheel(wheels, package, "1")
    allowed = f"{name} our-*"
    env = new_env("RequirementWheels", wheels, "AllowedRequirements", allowed)
    assert env.results(versions(name), "REQUIREMENTS", f"{name}==1") == ["1"]
    for refused in (other, str(wheels / f"{name}-1-py3-none-any.whl"), f"{name} @ file:///x"):
        error = env.refused(versions(name), "REQUIREMENTS", name, refused)
        want = f"Could not satisfy requirements: '{refused}' is not one of AllowedRequirements"
        assert error == want
    assert list(requirements(env)) == [f"{name}==1"]


def test_the_folder_of_wheels_is_all_there_is(new_env, wheels):
    env = new_env("RequirementWheels", wheels)
    error = env.refused("1", "REQUIREMENTS", "six")
    assert error.startswith("Could not satisfy requirements (look")
    make_wheel(wheels, "six", "999", files={"six.py": "VERSION = '999'\n"})
    assert env.results(versions("six"), "REQUIREMENTS", "six") == ["999"]


def test_aliases(new_env, wheels):
    name, other = new_name(), new_name()
    make_wheel(wheels, name, "1", requires=["no-such-package"])
    make_wheel(wheels, other, "2")
    env = new_env(
        *("RequirementWheels", wheels),
        *("RequirementAlias", "unrelated thing"),
        *("RequirementAlias", f"git+https://gone/* --no-deps {name} {other}>=2"),
    )
    script = f"""
        import {name}, {other}
        GB('ShardsIDReader').map(lambda x: {name}.VERSION + {other}.VERSION).run()
    """
    assert env.results(script, "REQUIREMENTS", "git+https://gone/x.git") == ["12"]
    assert len(requirements(env)["git+https://gone/x.git"]["Wheels"]) == 2


def test_an_alias_bounds_what_a_package_needs(new_env, wheels):
    """`*` is what was asked for. All that an alias names goes together, in one version each."""
    name, other = new_name(), new_name()
    for version in "123":
        make_wheel(wheels, other, version)
    make_wheel(wheels, name, "1", requires=[other])
    env = new_env(
        *("RequirementWheels", wheels),
        *("RequirementAlias", f"{name} * {other}<3"),
        *("RequirementAlias", f"{name}==1 --no-deps {other}==1 {name}"),
    )
    assert env.results(versions(other), "REQUIREMENTS", name) == ["2"]
    files = [f"{name}-1-py3-none-any.whl", f"{other}-2-py3-none-any.whl"]
    assert sorted(requirements(env)[name]["Wheels"]) == sorted(files)
    env.refused("1", "REQUIREMENTS", f"{name}==1")
    assert f"two versions of {other} would be installed" in env.server.log()


@pytest.mark.parametrize("alias", ["", "only", "old --no-deps", "old -r x"])
def test_an_alias_that_makes_no_sense(new_env, alias):
    with pytest.raises(Exception, match="RequirementAlias"):
        new_env("RequirementAlias", alias)


def test_where_they_are_installed(new_env, wheels, tmp_path):
    name = new_name()
    wheel = str(make_wheel(wheels, name, "1"))
    folder = tmp_path / "elsewhere"
    first, second = (new_env("PythonInstallationDir", folder) for _ in range(2))
    paths = []
    for env in (first, second):
        assert env.results(versions(name), "REQUIREMENTS", wheel) == ["1"]
        paths.append(pathlib.Path(requirements(env)[wheel]["Path"]))
        assert paths[-1].is_relative_to(folder)
        assert not list(pathlib.Path(env.server.folder).glob("geartrain*"))
    assert all(path.exists() for path in paths) and paths[0] != paths[1]


def test_a_folder_that_can_not_be_made(new_env, wheels, tmp_path):
    name = new_name()
    wheel = str(make_wheel(wheels, name, "1"))
    (tmp_path / "file").write_text("")
    env = new_env("PythonInstallationDir", tmp_path / "file")
    want = "Could not satisfy requirements, look at the log file for more information."
    assert env.refused(versions(name), "REQUIREMENTS", wheel) == want
    assert "has no folder" in env.server.log()


def test_settings_of_redisgears_are_accepted(new_env, wheels):
    name = new_name()
    wheel = str(make_wheel(wheels, name, "1"))
    env = new_env("CreateVenv", 1, "DownloadDeps", 1, "DependenciesUrl", "http://x", "Plugin", "x")
    assert env.results(versions(name), "REQUIREMENTS", wheel) == ["1"]
    assert env.client.execute_command("RG.CONFIGGET", "CreateVenv", "DownloadDeps") == [1, 1]
    env.config("PythonInstallReqMaxIdleTime", 60000)
