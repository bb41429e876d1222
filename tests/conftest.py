import hypothesis
import pytest
import server as servers
from env import Env
from server import Server

hypothesis.settings.register_profile(
    "server",
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("server")

log_offsets = {}


@pytest.fixture(scope="module")
def shared_server(request, tmp_path_factory):
    """One server for the tests of a file, which may name MODULE_ARGUMENTS."""
    arguments = getattr(request.module, "MODULE_ARGUMENTS", ())
    server = Server(tmp_path_factory.mktemp("server"), arguments).start()
    yield server
    if server in servers.running:
        assert server.stop() == 0


@pytest.fixture
def env(shared_server):
    """A clean server, shared with the other tests of the file."""
    if not shared_server.running():
        shared_server.start()
    log_offsets[shared_server] = shared_server.log_size()
    env = Env(shared_server)
    env.reset()
    yield env
    try:
        env.reset()
    except BaseException:
        shared_server.kill()
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
def durable(new_env):
    """A server for this test alone that has every write on disk before it answers."""
    return new_env(options=["--appendonly", "yes", "--appendfsync", "always"])


def what_matters(log):
    """The end of a log; of a crash its beginning, since long tables follow it."""
    lines = log.splitlines()
    crash = [number for number, line in enumerate(lines) if "BUG REPORT START" in line]
    return "\n".join(lines[max(0, crash[0] - 20) : crash[0] + 60] if crash else lines[-100:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        known = {id(server): server for server in servers.running}
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Env):
                known[id(value.server)] = value.server
        for server in known.values():
            text = what_matters(server.log(log_offsets.get(server, 0)))
            report.sections.append((f"log of server {server.port}", text))
    return report
