"""Persons as hashes in the server and as rows in a database, with rgsync between them."""

import uuid

from server import wait_until

CONNECTION = """
from rgsync import RGWriteBehind, RGWriteThrough
from rgsync.Connectors import {kind}Connection, {kind}Connector

connection = {kind}Connection('writer', 'secret', '127.0.0.1:{port}/people')
persons = {kind}Connector(connection, 'persons', 'person_id')
cars = {kind}Connector(connection, 'cars', 'car_id')
person_fields = {{'first_name': 'first', 'last_name': 'last', 'age': 'age'}}
"""

BEHIND = """
RGWriteBehind(GB, keysPrefix='person', mappings=person_fields, connector=persons,
              name='PersonsBehind', version='{version}', onFailedRetryInterval=1)
"""

THROUGH = """
RGWriteThrough(GB, keysPrefix='__', mappings=person_fields, connector=persons,
               name='PersonsThrough', version='{version}')
"""


def new_identifier():
    """What a client adds to the operation in field `#` to get an acknowledgement."""
    return str(uuid.uuid4())


def row(number, age):
    """The row of a person."""
    return (str(number), f"first{number}", f"last{number}", age)


def fields(number, age):
    """The hash of a person."""
    _, first, last, age = row(number, age)
    return {"first_name": first, "last_name": last, "age": str(age)}


class People:
    def __init__(self, env, database):
        self.env = env
        self.database = database

    @property
    def client(self):
        return self.env.client

    def script(self, *recipes, version="99.99.99"):
        text = "".join([CONNECTION, *recipes])
        database = self.database
        return text.format(kind=database.kind, port=database.port, version=version)

    def register(self, *recipes, version="99.99.99"):
        self.env.register(self.script(*recipes, version=version))

    def registration(self, reader, name="Persons"):
        """`RegistrationData` of the one that rgsync made with this reader for this name."""
        found = [
            entry["RegistrationData"]
            for entry in self.env.registrations()
            if entry["reader"] == reader and f'"{name}' in entry["desc"]
        ]
        assert len(found) == 1, found
        return found[0]

    def write(self, number, age, operation=None, client=None):
        operation = {} if operation is None else {"#": operation}
        mapping = fields(number, age) | operation
        (client or self.client).hset(f"person:{number}", mapping=mapping)

    def operate(self, number, operation, **more):
        """Set field `#` of a person, which is a command to rgsync."""
        self.client.hset(f"person:{number}", mapping={**more, "#": operation})

    def write_through(self, number, operation, **more):
        self.client.hset(f"__{{person:{number}}}", mapping={**more, "#": operation})

    def acknowledgement(self, key, identifier):
        """The one entry of the stream that says how a change went, as a dict."""
        stream = f"{{{key}}}{identifier}"
        wait_until(lambda: self.client.exists(stream), what=f"stream {stream}")
        ((_, entry),) = self.client.xrange(stream)
        assert 0 < self.client.ttl(stream) <= 3600
        return entry

    def hashes(self):
        """All persons of the server, as rows."""
        keys = self.client.keys("person:*")
        return sorted(self._row(key, self.client.hgetall(key)) for key in keys)

    def _row(self, key, mapping):
        assert set(mapping) == {"first_name", "last_name", "age"}, (key, mapping)
        first, last, age = mapping["first_name"], mapping["last_name"], int(mapping["age"])
        return (key.removeprefix("person:"), first, last, age)

    def rows(self):
        """All persons of the database."""
        return sorted(self.database.query("SELECT person_id, first, last, age FROM persons"))

    def wait_rows(self, expected, timeout=30):
        wait_until(lambda: self.rows() == sorted(expected), timeout, what=f"rows {expected}")

    def history(self):
        """(number, age) of every change that the database saw, in order; age None: deleted."""
        return self.database.query("SELECT person_id, age FROM history ORDER BY at")

    def wait_written(self, expected, timeout=60):
        """Wait until the database saw as many different changes as these, and compare.

        A batch may be written twice. Then it is as a whole, so a change that is seen again comes
        after all that came before it.
        """

        def seen():
            return list(dict.fromkeys(self.history()))

        wait_until(lambda: len(seen()) >= len(expected), timeout, what=f"{len(expected)} changes")
        assert seen() == expected

    def streams(self):
        """The lengths of the streams where changes wait for the database."""
        return [self.client.xlen(key) for key in self.client.scan_iter("_persons-stream-*")]

    def wait_idle(self):
        """Wait until nothing waits for the database."""
        wait_until(lambda: not any(self.streams()), what="empty streams")
