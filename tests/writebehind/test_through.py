"""Write-through: the database has a change before the client has its reply."""

import pytest
from server import wait_until
from writebehind.people import BEHIND, THROUGH, fields, new_identifier, row


@pytest.fixture
def through(people):
    people.register(THROUGH)
    return people


def write(people, number, age, operation="="):
    """Write a person and give what the acknowledgement says."""
    return operate(people, number, operation, **fields(number, age))


def operate(people, number, operation, **more):
    identifier = new_identifier()
    people.write_through(number, operation + identifier, **more)
    # No waiting: all is done by now.
    stream = f"{{person:{number}}}{identifier}"
    assert people.client.exists(stream)
    return people.acknowledgement(f"person:{number}", identifier)


def test_insert_update_delete(through):
    assert write(through, 1, age=10) == {"status": "done"}
    assert through.rows() == through.hashes() == [row(1, 10)]
    assert write(through, 2, age=20) == {"status": "done"}
    assert write(through, 1, age=11) == {"status": "done"}
    assert through.rows() == through.hashes() == [row(1, 11), row(2, 20)]
    assert operate(through, 1, "~") == {"status": "done"}
    assert through.rows() == through.hashes() == [row(2, 20)]
    assert through.history() == [("1", 10), ("2", 20), ("1", 11), ("1", None)]
    assert not through.client.keys("__*")
    assert not through.client.keys("temp-*")


def test_some_fields(through):
    """What is not given is taken from the hash."""
    write(through, 1, age=10)
    assert operate(through, 1, "=", age=11) == {"status": "done"}
    assert through.rows() == through.hashes() == [row(1, 11)]


def test_without_an_operation(through):
    through.client.hset("__{person:1}", mapping=fields(1, 10))
    assert through.rows() == through.hashes() == [row(1, 10)]


def test_plus_stays_in_the_server(through):
    assert write(through, 1, age=10, operation="+") == {"status": "done"}
    assert through.rows() == []
    assert through.hashes() == [row(1, 10)]


def test_minus_deletes_in_the_server(through):
    write(through, 1, age=10)
    assert operate(through, 1, "-") == {"status": "done"}
    assert through.rows() == [row(1, 10)]
    assert through.hashes() == []


def test_the_database_is_stopped(through):
    write(through, 1, age=10)
    through.database.stop()
    for age in (11, 12):
        failure = write(through, 1, age=age)
        assert failure["status"] == "failed"
        assert "Failed connecting" in failure["error"] or "writing to DB" in failure["error"]
    assert through.hashes() == [row(1, 10)]
    assert not through.client.keys("__*")
    through.database.start()
    assert write(through, 1, age=13) == {"status": "done"}
    assert through.rows() == through.hashes() == [row(1, 13)]
    assert through.database.connections() == 1


def test_a_refused_row(through):
    write(through, 1, age=10)
    failure = operate(through, 1, "=", age="not a number")
    assert failure["status"] == "failed"
    assert through.rows() == through.hashes() == [row(1, 10)]
    assert write(through, 1, age=11) == {"status": "done"}


def test_after_a_restart(through):
    write(through, 1, age=10)
    through.env.restart()
    assert not through.client.keys("__*")
    assert through.hashes() == [row(1, 10)]
    assert write(through, 1, age=11) == {"status": "done"}
    assert through.rows() == through.hashes() == [row(1, 11)]


def test_beside_write_behind(people):
    """What one writes is not written once more by the other."""
    people.register(THROUGH, BEHIND)
    write(people, 1, age=10)
    assert people.registration("KeysReader", "PersonsBehind")["numTriggered"] == 0
    assert people.streams() == []
    people.write(2, age=20)
    people.wait_rows([row(1, 10), row(2, 20)])
    assert people.hashes() == [row(1, 10), row(2, 20)]
    assert people.registration("KeysReader", "PersonsThrough")["numTriggered"] == 1


def test_many(through):
    count = 300
    with through.client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            mapping = fields(number, number) | {"#": "="}
            pipeline.hset(f"__{{person:{number}}}", mapping=mapping)
        pipeline.execute()
    assert through.history() == [(str(number), number) for number in range(count)]
    assert through.rows() == through.hashes()
    wait_until(lambda: through.database.connections() == 1)
