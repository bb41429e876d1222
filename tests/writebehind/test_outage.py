"""The database or the server is away for a while: nothing is lost, nothing changes its place."""

import threading
import time

import pytest
import redis
from server import wait_until
from writebehind.people import BEHIND, new_identifier, row


@pytest.fixture
def behind(people):
    people.register(BEHIND)
    return people


def change(people, numbers, client=None):
    """Write persons, and delete one now and then; what the history will tell.

    Every change has a number of its own, which is the age written.
    """
    client = client or people.client
    told = []
    for number in numbers:
        person = number % 40
        if number % 9 == 8 and client.delete(f"person:{person}"):
            told.append((str(person), None))
        else:
            people.write(person, age=number, client=client)
            told.append((str(person), number))
    return told


def wait_exactly(people, told):
    """Wait until the database saw as many changes as these, and compare."""
    wait_until(lambda: len(people.history()) >= len(told), 60, what=f"{len(told)} changes")
    assert people.history() == told
    assert people.rows() == people.hashes()


def test_the_database_is_stopped_for_a_while(behind):
    told = change(behind, range(50))
    wait_exactly(behind, told)
    behind.wait_idle()
    behind.database.stop()
    told += change(behind, range(50, 300))
    wait_until(
        lambda: behind.registration("StreamReader")["status"] == "WAITING_FOR_RETRY_ON_FAILURE"
    )
    assert behind.registration("StreamReader")["numFailures"] > 0
    assert "WRITE_BEHIND" in behind.env.server.log()
    assert sum(behind.streams()) == 250
    identifier = new_identifier()
    behind.write(99, age=300, operation=f"={identifier}")
    told.append(("99", 300))
    # More than one retry fails.
    failures = behind.registration("StreamReader")["numFailures"]
    wait_until(lambda: behind.registration("StreamReader")["numFailures"] > failures)
    assert not behind.client.exists(f"{{person:99}}{identifier}")
    behind.database.start()
    told += change(behind, range(301, 350))
    wait_exactly(behind, told)
    assert behind.acknowledgement("person:99", identifier) == {"status": "done"}
    behind.wait_idle()
    data = behind.registration("StreamReader")
    assert (data["status"], data["lastError"]) == ("OK", None)
    assert behind.database.connections() == 1


def test_the_database_was_not_there_yet(people):
    people.database.stop()
    people.register(BEHIND)
    told = change(people, range(250))
    wait_until(lambda: people.registration("StreamReader")["numFailures"] > 0)
    people.database.start()
    wait_exactly(people, told)


def test_the_database_hangs(behind):
    """A write that waits for an answer keeps neither clients waiting nor the server from ending."""
    told = change(behind, range(50))
    wait_exactly(behind, told)
    behind.wait_idle()
    behind.database.freeze()
    try:
        told += change(behind, range(50, 250))
        assert behind.client.ping()
        assert sum(behind.streams()) == 200
        assert behind.env.server.stop(timeout=15) == 0
        behind.env.close()
        behind.env.server.start()
        told += change(behind, range(250, 300))
    finally:
        behind.database.thaw()
    behind.wait_written(list(dict.fromkeys(told)))


def test_the_database_is_killed_while_it_writes(behind):
    """What it has not confirmed is written again."""
    expected = []

    def write(numbers):
        for number in numbers:
            behind.write(number % 40, age=number)
            expected.append((str(number % 40), number))

    for start in range(0, 1500, 500):
        write(range(start, start + 400))
        behind.database.kill()
        write(range(start + 400, start + 500))
        behind.database.start()
    behind.wait_written(expected)
    wait_until(lambda: behind.rows() == behind.hashes(), what="the same rows")
    behind.wait_idle()


@pytest.mark.parametrize("how", ["stopped", "killed", "killed after a rewrite"])
def test_the_server_restarts_while_the_database_is_away(behind, how):
    told = change(behind, range(50))
    wait_exactly(behind, told)
    behind.wait_idle()
    behind.database.stop()
    told += change(behind, range(50, 200))
    if how == "killed after a rewrite":
        behind.client.bgrewriteaof()
        wait_until(behind.env.aof_is_written)
    told += change(behind, range(200, 260))
    hashes = behind.hashes()
    (behind.env.restart if how == "stopped" else behind.env.crash)()
    assert len(behind.env.registrations()) == 2
    assert behind.hashes() == hashes
    assert sum(behind.streams()) == 210
    told += change(behind, range(260, 300))
    behind.database.start()
    wait_exactly(behind, told)
    behind.wait_idle()
    assert behind.database.connections() == 1


def test_operations_and_a_restart(behind):
    """What functions did to keys comes after what clients did to them, on disk as well."""
    for number in range(8):
        behind.write(number, age=number, operation="=")
    behind.operate(0, "~")
    behind.operate(1, "-")
    behind.write(2, age=20, operation="~")
    behind.write(3, age=30, operation="-")
    behind.write(4, age=40, operation="+")
    behind.client.delete("person:5")
    left = [row(4, 40), row(6, 6), row(7, 7)]
    assert behind.hashes() == left
    rows = [row(1, 1), row(3, 3), row(4, 4), row(6, 6), row(7, 7)]
    behind.wait_rows(rows)
    behind.wait_idle()
    behind.env.restart()
    assert behind.hashes() == left
    behind.env.crash()
    assert behind.hashes() == left
    behind.write(6, age=60)
    behind.wait_rows([*rows[:3], row(6, 60), row(7, 7)])


def test_saved_without_an_append_only_file(new_people):
    people = new_people("--appendonly", "no")
    people.register(BEHIND)
    told = change(people, range(50))
    wait_exactly(people, told)
    people.wait_idle()
    people.database.stop()
    told += change(people, range(50, 200))
    people.env.save_and_restart()
    told += change(people, range(200, 250))
    people.database.start()
    wait_exactly(people, told)


def test_the_server_is_killed_under_load(behind):
    """Every write that was answered is in the database, in order, and at most one that was not."""
    answered = []
    for _ in range(5):
        writer = threading.Thread(target=write_until_killed, args=(behind, answered))
        writer.start()
        before = len(answered)
        wait_until(lambda before=before: len(answered) > before + 150)
        time.sleep(0.03 * (before % 7))
        behind.env.server.kill()
        writer.join()
        behind.env.close()
        behind.env.server.start()
        in_doubt = len(answered)
        if age_of(behind, in_doubt) == in_doubt:
            answered.append(in_doubt)
    expected = [(str(number % 40), number) for number in answered]
    behind.wait_written(expected)
    wait_until(lambda: behind.rows() == behind.hashes(), what="the same rows")
    behind.wait_idle()


def write_until_killed(people, answered):
    with people.env.server.client() as client:
        while True:
            number = len(answered)
            try:
                people.write(number % 40, age=number, client=client)
            except redis.ConnectionError:
                return
            answered.append(number)


def age_of(people, number):
    age = people.client.hget(f"person:{number % 40}", "age")
    return None if age is None else int(age)


@pytest.mark.parametrize("joins", ["before", "after"])
def test_failover_to_a_replica(new_people, joins):
    """The replica is there before the functions are, or gets them with the data."""
    master, replica = new_people(), new_people()
    if joins == "before":
        replica.env.follow(master.env)
    master.register(BEHIND)
    told = change(master, range(50))
    if joins == "after":
        replica.env.follow(master.env)
    wait_exactly(master, told)
    master.wait_idle()
    master.database.stop()
    told += change(master, range(50, 250))
    for operation in "~-+=":
        master.write(39, age=1000, operation=operation)
    told += [("39", None), ("39", 1000)]
    replica.env.wait_synced(master.env)
    assert replica.hashes() == master.hashes()
    assert replica.streams() == master.streams()
    assert len(replica.env.registrations()) == 2
    master.env.server.kill()
    replica.env.promote()
    told += change(replica, range(250, 300))
    replica.database.start()
    wait_exactly(replica, told)
    replica.wait_idle()
