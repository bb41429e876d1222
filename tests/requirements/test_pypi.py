"""Requirements from PyPI, as people have them."""

import pathlib
import shutil

import pytest
from packages import is_ready, listed, requirements

NOT_BUILT = "Could not satisfy requirements (look at redis log file for more information)"


def version_of(module):
    return f"GB('ShardsIDReader').map(lambda x: __import__('{module}').__version__).run()"


def test_pure_python(env):
    name = "six==1.16.0"
    assert env.results(version_of("six"), "REQUIREMENTS", name) == ["1.16.0"] * env.shard_count
    assert all(map(is_ready, listed(env, name)))


def test_a_range(env):
    name = "redis>=4.5,<=4.5.1"
    words = ["REQUIREMENTS", name]
    assert env.results(version_of("redis"), *words) == ["4.5.1"] * env.shard_count


def test_extensions_in_c(env):
    name = "msgpack==1.0.8"
    script = """
        import msgpack
        GB('ShardsIDReader').map(lambda x: msgpack._cmsgpack.__name__).run()
    """
    want = ["msgpack._cmsgpack"] * env.shard_count
    assert env.results(script, "REQUIREMENTS", name) == want
    (wheel,) = listed(env, name)[0]["Wheels"]
    assert "cp3" in wheel and "linux" in wheel


def test_an_extra(env):
    name = "redis[hiredis]==5.0.4"
    script = """
        import hiredis
        GB('ShardsIDReader').map(lambda x: hiredis.Reader.__name__).run()
    """
    assert env.results(script, "REQUIREMENTS", name) == ["Reader"] * env.shard_count
    wheels = " ".join(listed(env, name)[0]["Wheels"])
    assert "hiredis" in wheels and "redis-5.0.4" in wheels


def test_what_does_not_exist(env):
    for name in ("six==999.0.0", "geartrain-no-such-package-at-all"):
        assert env.refused("1", "REQUIREMENTS", name) == NOT_BUILT
        assert name not in requirements(env)


def test_what_is_built_from_source(env, tmp_path):
    """A package with an extension in C, as authors have it before they make a wheel."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "setup(name='gtbuilt', version='1', ext_modules=[Extension('gtbuilt', ['gtbuilt.c'])])\n"
    )
    (source / "gtbuilt.c").write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "gtbuilt", NULL, 0, NULL};\n'
        "PyMODINIT_FUNC PyInit_gtbuilt(void) { return PyModule_Create(&module); }\n"
    )
    name = str(source)
    script = "GB('ShardsIDReader').map(lambda x: __import__('gtbuilt').__name__).run()"
    assert env.results(script, "REQUIREMENTS", name) == ["gtbuilt"] * env.shard_count
    shutil.rmtree(source / "build")
    (source / "gtbuilt.c").write_text("this is no C\n")
    words = ["FORCE_REINSTALL_REQUIREMENTS", "REQUIREMENTS", name]
    assert env.refused(script, *words) == NOT_BUILT
    # What was there before goes on.
    assert env.results(script) == ["gtbuilt"] * env.shard_count


def test_what_the_client_of_redisgears_asks_for(env):
    """Its repository is gone; PyPI has it."""
    name = "git+https://github.com/RedisGears/redisgears-py.git"
    script = """
        import cloudpickle
        from gearsclient import GearsRemoteBuilder
        def version(x):
            return int(cloudpickle.__version__.split('.')[0]) >= 3
        GB('ShardsIDReader').map(version).run()
    """
    assert env.results(script, "REQUIREMENTS", name) == ["True"] * env.shard_count
    register = """
        import cloudpickle
        def build():
            def double(record):
                return cloudpickle.loads(cloudpickle.dumps(lambda: int(record[1]) * 2))()
            return double
        GB('CommandReader').map(build()).register(trigger='double')
    """
    env.register(register, "ID", "client", "REQUIREMENTS", name)
    assert env.trigger("double", 21) == ["42"] * env.shard_count
    env.save_and_restart()
    assert env.trigger("double", 21) == ["42"] * env.shard_count


@pytest.mark.single("one client at a time")
def test_the_client_of_redisgears(env):
    """The package, on the side of a client: what it pickles is run by the server."""
    cloudpickle = pytest.importorskip("cloudpickle")
    code = cloudpickle.dumps(lambda record: record["key"].upper())
    script = f"""
        import cloudpickle
        f = cloudpickle.loads({code!r})
        GB('KeysReader').map(f).run()
    """
    env.client.set("one", 1)
    name = "git+https://github.com/RedisGears/redisgears-py.git"
    assert env.results(script, "REQUIREMENTS", name) == ["ONE"]


def test_folders_lie_beside_the_data(env):
    name = "six==1.16.0"
    env.results(version_of("six"), "REQUIREMENTS", name)
    for shard, entry in zip(env.shards, listed(env, name), strict=True):
        assert pathlib.Path(entry["Path"]).is_relative_to(shard.server.folder)
