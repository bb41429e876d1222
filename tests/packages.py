"""Small Python packages for tests of requirements, made by hand: pip is not asked for more than it
must be."""

import itertools
import zipfile

from env import pairs

numbers = itertools.count(1)


def new_name():
    """A name that no other test has."""
    return f"gtpkg{next(numbers)}"


def make_wheel(folder, name, version, files=None, requires=(), tag="py3-none-any"):
    """A wheel in a folder; its module says its version. Its path."""
    files = files or {f"{name}/__init__.py": f"VERSION = {version!r}\n"}
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {other}\n" for other in requires)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def requirements(env):
    """The list of the server: name -> description."""
    entries = map(pairs, env.client.execute_command("RG.PYDUMPREQS"))
    return {entry["Name"]: entry for entry in entries}


def listed(env, name):
    """What each shard says of a requirement that it has."""
    return env.each(lambda shard: requirements(shard)[name])


def is_ready(entry):
    return entry["IsDownloaded"] == entry["IsInstalled"] == "yes"


def versions(name, more=""):
    """A script that asks each shard for the version of a package."""
    return f"""
GB('ShardsIDReader').map(lambda x: __import__('{name}').VERSION{more}).run()
"""


def registers(name, trigger="version"):
    """A script that registers a function which answers the version of a package it imported."""
    return f"""
import {name}
GB('CommandReader').map(lambda x: {name}.VERSION).register(trigger='{trigger}', mode='sync')
"""
