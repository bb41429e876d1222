"""The databases that changes go to: real servers, each in a folder of its own, on loopback."""

import contextlib
import glob
import importlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

from ports import free_port
from server import ROOT, wait_until

PACKAGES = ROOT / "servers/rgsync"
"""Where `setup.sh` installs rgsync and its drivers."""

UNPRIVILEGED = {"user": "nobody", "group": "nogroup", "extra_groups": []}
"""PostgreSQL does not run as root."""


class NotInstalled(Exception):
    """The machine lacks a program or a package."""


def program(name, pattern=""):
    """The path of a program that need not be on PATH; of several versions the newest."""
    found = shutil.which(name) or max(glob.glob(pattern), default=None)
    if not found:
        raise NotInstalled(f"no {name} on this machine: tests/writebehind/setup.sh installs it")
    return pathlib.Path(found).resolve()


def driver(name):
    """A module of PACKAGES. The tests' own packages keep their place before those."""
    if not (PACKAGES / ".complete").exists():
        raise NotInstalled(f"no {PACKAGES}: tests/writebehind/setup.sh installs it")
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))
    return importlib.import_module(name)


class Database:
    """Tables `persons` and `cars`, and `history`, which keeps every change of `persons` in order.

    Functions connect as user `writer`; the tests come by the socket file.
    """

    kind = None
    """How rgsync names its classes for this database."""

    first = None
    """The database that is there from the start."""

    stop_signal = None
    """Ends the server in peace, without waiting for its clients to leave."""

    kill_signal = signal.SIGKILL
    """Ends it at once, as a crash would."""

    socket = None
    """Where the tests connect."""

    def __init__(self):
        self.process = None
        self.port = free_port()
        # Not below pytest's folders: only their owner may enter those.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="geartrain-"))
        self.data = self.folder / "data"
        self.identity = {}
        if os.geteuid() == 0:
            self.identity = UNPRIVILEGED
            shutil.chown(self.folder, UNPRIVILEGED["user"], UNPRIVILEGED["group"])

    def create(self):
        """Make the files and start."""
        with open(self.folder / "log", "ab") as log:
            self._launch(self.installation(), log)
        assert self.process.wait(60) == 0, self.log()
        self.start()
        for statement in self.preparation():
            self.query(statement, self.first)

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self._launch(self.command_line(), log)
        wait_until(self._answers, timeout=60, what=f"an answer of {self.kind}")

    def _launch(self, words, log):
        self.process = subprocess.Popen(
            [str(word) for word in words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **self.identity,
        )

    def _answers(self):
        assert self.running(), self.log()
        try:
            # PyMySQL leaves its end open when nobody listens.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
            self.connect(self.first).close()
        except OSError:
            return False
        except self.driver.OperationalError:
            return False
        return True

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        self._end(self.stop_signal)

    def kill(self):
        self._end(self.kill_signal)

    def freeze(self):
        """It keeps its connections and answers nobody."""
        for process in self._processes():
            self._signal(process, signal.SIGSTOP)

    def thaw(self):
        for process in self._processes():
            self._signal(process, signal.SIGCONT)

    def _processes(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def _signal(self, process, how):
        # PostgreSQL's workers come and go.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, how)

    def _end(self, how):
        if not self.running():
            return
        self.process.send_signal(how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder)

    def log(self):
        return (self.folder / "log").read_text(errors="replace")

    def query(self, statement, name="people"):
        """The rows that a statement gives, if it gives any."""
        connection = self.connect(name)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def reset(self):
        """Empty tables, whatever a test before did."""
        if not self.running():
            self.start()
        for statement in self.tables():
            self.query(statement)

    def tables(self):
        yield "DROP TABLE IF EXISTS persons, cars, history"
        yield (
            "CREATE TABLE persons (person_id VARCHAR(50) PRIMARY KEY, "
            "first VARCHAR(50), last VARCHAR(50), age INT)"
        )
        yield "CREATE TABLE cars (car_id VARCHAR(50) PRIMARY KEY, color VARCHAR(50))"
        yield f"CREATE TABLE history (at {self.counter}, person_id VARCHAR(50), age INT)"
        yield from self.triggers()
        for table in ("persons", "cars", "history"):
            yield f"GRANT ALL ON {table} TO {self.writer}"


class MariaDb(Database):
    kind = "MySql"
    first = "mysql"
    stop_signal = signal.SIGTERM
    writer = "writer@'127.0.0.1'"
    counter = "INT AUTO_INCREMENT PRIMARY KEY"

    def __init__(self):
        self.driver = driver("pymysql")
        self.server = program("mariadbd", "/usr/sbin/mariadbd")
        self.installer = program("mariadb-install-db")
        super().__init__()
        self.socket = self.folder / "socket"

    def installation(self):
        words = [self.installer, "--no-defaults", f"--datadir={self.data}"]
        return [*words, "--auth-root-authentication-method=normal", "--skip-test-db"]

    def command_line(self):
        words = [self.server, "--no-defaults", f"--datadir={self.data}", f"--port={self.port}"]
        words += ["--bind-address=127.0.0.1", "--skip-name-resolve"]
        return [*words, f"--socket={self.socket}", f"--pid-file={self.folder}/pid"]

    def connect(self, name):
        return self.driver.connect(
            unix_socket=str(self.socket), user="root", database=name, autocommit=True
        )

    def preparation(self):
        yield f"CREATE USER {self.writer} IDENTIFIED BY 'secret'"
        yield "CREATE DATABASE people CHARACTER SET utf8mb4"

    def triggers(self):
        for event, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
            age = "NULL" if event == "DELETE" else "new.age"
            yield (
                f"CREATE TRIGGER note_{event} AFTER {event} ON persons FOR EACH ROW "
                f"INSERT INTO history (person_id, age) VALUES ({row}.person_id, {age})"
            )

    def connections(self):
        """How many connections the functions hold."""
        ((count,),) = self.query(
            "SELECT count(*) FROM information_schema.processlist WHERE user = 'writer'"
        )
        return count


class PostgreSql(Database):
    kind = "Postgres"
    first = "postgres"
    stop_signal = signal.SIGINT
    # SIGKILL would leave its many processes behind.
    kill_signal = signal.SIGQUIT
    writer = "writer"
    counter = "SERIAL PRIMARY KEY"

    def __init__(self):
        self.driver = driver("psycopg2")
        self.server = program("postgres", "/usr/lib/postgresql/*/bin/postgres")
        self.installer = self.server.with_name("initdb")
        super().__init__()
        self.socket = self.folder / f".s.PGSQL.{self.port}"

    def installation(self):
        words = [self.installer, "-D", self.data, "--username=admin", "--auth-local=trust"]
        return [*words, "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]

    def command_line(self):
        words = [self.server, "-D", self.data, "-p", self.port, "-k", self.folder]
        return [*words, "-c", "listen_addresses=127.0.0.1"]

    def connect(self, name):
        connection = self.driver.connect(
            host=str(self.folder), port=self.port, user="admin", dbname=name
        )
        connection.autocommit = True
        return connection

    def preparation(self):
        yield f"CREATE USER {self.writer} PASSWORD 'secret'"
        yield "CREATE DATABASE people"

    def triggers(self):
        yield (
            "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql "
            "SECURITY DEFINER AS $$ BEGIN "
            "IF TG_OP = 'DELETE' THEN "
            "INSERT INTO public.history (person_id, age) VALUES (old.person_id, NULL); "
            "ELSE INSERT INTO public.history (person_id, age) VALUES (new.person_id, new.age); "
            "END IF; RETURN NULL; END $$"
        )
        yield (
            "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON persons "
            "FOR EACH ROW EXECUTE FUNCTION note()"
        )

    def connections(self):
        """How many connections the functions hold."""
        ((count,),) = self.query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'writer'")
        return count
