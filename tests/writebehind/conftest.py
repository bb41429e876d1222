import pathlib

import pytest
from writebehind.databases import PACKAGES, MariaDb, NotInstalled, PostgreSql
from writebehind.people import People

HERE = pathlib.Path(__file__).resolve().parent


def pytest_ignore_collect(config):
    """Only who names this folder gets its tests: they need what `setup.sh` installs."""
    start = config.invocation_params.dir
    named = [(start / argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@pytest.fixture(scope="session", params=[MariaDb, PostgreSql], ids=["mariadb", "postgresql"])
def database_server(request):
    """One server of each kind for all tests."""
    try:
        database = request.param()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    try:
        database.create()
        yield database
    finally:
        database.remove()


@pytest.fixture
def database(database_server):
    """A running server with empty tables."""
    database_server.reset()
    return database_server


@pytest.fixture
def new_people(new_env, database):
    """`new_people()` starts a server that finds rgsync and keeps on disk all it was told."""

    def start(*options):
        options = ["--appendonly", "yes", "--appendfsync", "always", *options]
        return People(new_env("PythonPath", PACKAGES, options=options), database)

    return start


@pytest.fixture
def people(new_people):
    return new_people()
