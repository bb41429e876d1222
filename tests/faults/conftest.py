"""Clusters that tests break; those of one file share one for as long as it gets over that."""

import pytest
from faults.field import Field
from faults.rounds import IDLE, ROUNDS

from cluster import Cluster

FAILED = pytest.StashKey[bool]()
ARGUMENTS = ("ExecutionMaxIdleTime", IDLE * 1000)


def pytest_collection_modifyitems(items):
    for item in items:
        if "faults" in item.path.parts and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120 + 90 * ROUNDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


class Ground:
    """Where fields come from: a new cluster whenever the last one did not stay whole."""

    def __init__(self, tmp_path_factory, kind, more):
        self.tmp_path_factory = tmp_path_factory
        self.kind = kind
        self.more = more
        self.cluster = None

    def field(self):
        if self.cluster is None:
            folder = self.tmp_path_factory.mktemp("cluster")
            self.cluster = self.kind(folder, ARGUMENTS, **self.more).start()
        return Field(self.cluster)

    def give_up(self):
        if self.cluster:
            self.cluster.kill()
            self.cluster = None

    def stop(self):
        if self.cluster:
            codes = self.cluster.stop()
            assert set(codes) == {0}, codes


@pytest.fixture(scope="module")
def ground(request, tmp_path_factory):
    """A file says which `CLUSTER` it needs, and with what more."""
    kind = getattr(request.module, "CLUSTER", Cluster)
    ground = Ground(tmp_path_factory, kind, getattr(request.module, "MORE", {}))
    yield ground
    try:
        ground.stop()
    finally:
        ground.give_up()


@pytest.fixture
def field(request, ground):
    """A whole cluster with the functions of `load` and no clients."""
    field = ground.field()
    if not field.registered_everywhere():
        field.register_functions()
    field.whole()
    yield field
    field.close()
    if request.node.stash.get(FAILED, False):
        ground.give_up()
    else:
        field.whole()
