"""Servers and clusters for tests, and on which of them each test runs.

A test with `env` runs on one server (shape `single`) and on three shards (`cluster`), unless a mark
says otherwise: `single(reason)`, `cluster`, or `lopsided` for tests whose functions use many keys
together. GEARTRAIN_SHAPE=single or =cluster leaves out the tests of the other shape.
"""

import os
import signal

import hypothesis
import pytest
import server as servers
from clusterenv import ClusterEnv
from env import Env
from server import Server

import cluster
from cluster import Cluster

hypothesis.settings.register_profile(
    "server",
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("server")

SHAPE = os.environ.get("GEARTRAIN_SHAPE", "both")
LAYOUTS = {"cluster": cluster.even, "lopsided": cluster.lopsided}
MARKS = [
    "single(reason): one server only",
    "cluster: three shards only",
    "lopsided: one server, and three shards of which the first owns all keys of the test",
]

log_offsets = {}


def pytest_configure(config):
    if SHAPE not in ("single", "cluster", "both"):
        raise pytest.UsageError(f"GEARTRAIN_SHAPE is {SHAPE}: single, cluster or both")
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    # whoever is told to end stops the servers before
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_generate_tests(metafunc):
    if "shape" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    shapes = ["single", "lopsided" if "lopsided" in marks else "cluster"]
    if "single" in marks:
        shapes = ["single"]
    elif "cluster" in marks:
        shapes = shapes[1:]
    metafunc.parametrize("shape", shapes, scope="module")


def shape_of(item):
    """The shape that a test runs on; what starts its own servers says so by its fixtures."""
    if hasattr(item, "callspec") and "shape" in item.callspec.params:
        return "single" if item.callspec.params["shape"] == "single" else "cluster"
    return "cluster" if "new_cluster" in item.fixturenames else "single"


def pytest_collection_modifyitems(config, items):
    if SHAPE != "both":
        others = [item for item in items if shape_of(item) != SHAPE]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if shape_of(item) == SHAPE]


class Shared:
    """What tests share; one that died, or lost a shard, is replaced."""

    def __init__(self, start):
        self.start = start
        self.target = None

    def running(self):
        if self.target and not self.target.running():
            self.target.kill()
            self.target = None
        self.target = self.target or self.start()
        return self.target

    def stop(self):
        if self.target and self.target.running():
            assert self.target.stop() in (0, [0, 0, 0])


@pytest.fixture(scope="session")
def clusters(tmp_path_factory):
    """The clusters of files that name no MODULE_ARGUMENTS."""

    def start(layout):
        return lambda: Cluster(tmp_path_factory.mktemp("cluster"), layout=layout).start()

    by_shape = {shape: Shared(start(layout)) for shape, layout in LAYOUTS.items()}
    yield by_shape
    for shared in by_shape.values():
        shared.stop()


@pytest.fixture(scope="module")
def shared(request, shape, tmp_path_factory):
    """What the tests of a file run on, which may name MODULE_ARGUMENTS."""
    arguments = getattr(request.module, "MODULE_ARGUMENTS", ())

    def start():
        folder = tmp_path_factory.mktemp("server")
        if shape == "single":
            return Server(folder, arguments).start()
        return Cluster(folder, arguments, layout=LAYOUTS[shape]).start()

    if shape != "single" and not arguments:
        yield request.getfixturevalue("clusters")[shape]
        return
    own = Shared(start)
    yield own
    own.stop()


@pytest.fixture
def env(shared):
    """A clean server or cluster, shared with other tests."""
    target = shared.running()
    env = Env(target) if isinstance(target, Server) else ClusterEnv(target)
    for server in env.servers:
        log_offsets[server] = server.log_size()
    env.reset()
    yield env
    try:
        env.reset()
    except BaseException:
        target.kill()
        raise
    finally:
        env.close()


@pytest.fixture
def new_env(tmp_path):
    """`new_env(*module_arguments, options=())` starts a server for this test alone."""
    started = []

    def start(*arguments, options=(), module=servers.MODULE):
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        env = Env(Server(folder, arguments, options, module).start())
        started.append(env)
        return env

    yield start
    for env in started:
        env.close()
    codes = [env.server.stop() for env in started if env.server in servers.running]
    assert set(codes) <= {0}


@pytest.fixture
def new_cluster(tmp_path):
    """`new_cluster(*module_arguments, ...)`, more as for `Cluster`, is for this test alone."""
    started = []

    def start(*arguments, **more):
        folder = tmp_path / f"cluster{len(started)}"
        folder.mkdir()
        started.append(Cluster(folder, arguments, **more))
        env = ClusterEnv(started[-1].start())
        envs.append(env)
        return env

    envs = []
    yield start
    for env in envs:
        env.close()
    codes = [code for cluster in started for code in cluster.stop()]
    assert set(codes) <= {0}


@pytest.fixture
def durable(new_env):
    """A server for this test alone that has every write on disk before it answers."""
    return new_env(options=["--appendonly", "yes", "--appendfsync", "always"])


def what_matters(log):
    """The end of a log; of a crash its beginning, since long tables follow it."""
    lines = log.splitlines()
    crash = [number for number, line in enumerate(lines) if "BUG REPORT START" in line]
    return "\n".join(lines[max(0, crash[0] - 20) : crash[0] + 60] if crash else lines[-100:])


def pytest_unconfigure():
    """Servers of tests that were interrupted."""
    for server in list(servers.running):
        server.kill()


def servers_of(item):
    """The servers that a test has in its hands, and those that run for it alone."""
    known = {}
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, Env):
            known |= {id(server): server for server in value.servers}
    mine = getattr(item, "funcargs", {}).get("tmp_path")
    for server in servers.running:
        if mine and server.folder.is_relative_to(mine):
            known[id(server)] = server
    return known.values()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for server in servers_of(item):
            text = what_matters(server.log(log_offsets.get(server, 0)))
            report.sections.append((f"log of server {server.port}", text))
    return report
