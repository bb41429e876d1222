"""Write-behind: a change goes into a stream at once, and from there to the database."""

import pytest
from server import wait_until
from writebehind.people import BEHIND, fields, new_identifier, row


@pytest.fixture
def behind(people):
    people.register(BEHIND)
    return people


def test_insert_update_delete(behind):
    behind.write(1, age=10)
    behind.write(2, age=20)
    behind.wait_rows([row(1, 10), row(2, 20)])
    behind.write(1, age=11)
    behind.client.hset("person:2", "age", 21)
    behind.wait_rows([row(1, 11), row(2, 21)])
    behind.client.delete("person:1")
    behind.wait_rows([row(2, 21)])
    assert behind.history() == [("1", 10), ("2", 20), ("1", 11), ("2", 21), ("1", None)]
    assert behind.hashes() == [row(2, 21)]
    behind.wait_idle()


def test_text_of_all_kinds(behind):
    mapping = fields(1, 10) | {"first_name": "Zoë 'Ω' \U0001f680", "last_name": 'O"Neil; --%s :x'}
    behind.client.hset("person:1", mapping=mapping)
    behind.wait_rows([("1", mapping["first_name"], mapping["last_name"], 10)])


def test_equals_acknowledged(behind):
    identifier = new_identifier()
    behind.write(1, age=10, operation=f"={identifier}")
    assert behind.acknowledgement("person:1", identifier) == {"status": "done"}
    assert behind.rows() == [row(1, 10)]
    assert behind.hashes() == [row(1, 10)]


def test_plus_stays_in_the_server(behind):
    identifier = new_identifier()
    behind.write(1, age=10, operation=f"+{identifier}")
    assert behind.acknowledgement("person:1", identifier) == {"status": "done"}
    behind.write(2, age=20)
    behind.wait_rows([row(2, 20)])
    assert behind.hashes() == [row(1, 10), row(2, 20)]


def test_minus_deletes_in_the_server(behind):
    behind.write(1, age=10)
    behind.wait_rows([row(1, 10)])
    identifier = new_identifier()
    behind.operate(1, f"-{identifier}")
    assert behind.hashes() == []
    assert behind.acknowledgement("person:1", identifier) == {"status": "done"}
    behind.write(2, age=20)
    behind.wait_rows([row(1, 10), row(2, 20)])
    assert not behind.client.keys("__*")


def test_tilde_deletes_everywhere(behind):
    behind.write(1, age=10)
    behind.write(2, age=20)
    behind.wait_rows([row(1, 10), row(2, 20)])
    identifier = new_identifier()
    behind.operate(1, f"~{identifier}")
    assert behind.hashes() == [row(2, 20)]
    assert behind.acknowledgement("person:1", identifier) == {"status": "done"}
    assert behind.rows() == [row(2, 20)]
    assert behind.history() == [("1", 10), ("2", 20), ("1", None)]
    assert not behind.client.keys("__*")


@pytest.mark.parametrize("operation", ["~", "-"])
def test_a_hash_of_nothing_but_an_operation(behind, operation):
    """Field `#` is all there is: rgsync deletes it, and with it the key, in its own function."""
    identifier = new_identifier()
    behind.operate(1, operation + identifier)
    assert behind.acknowledgement("person:1", identifier) == {"status": "done"}
    assert behind.hashes() == []
    data = behind.registration("KeysReader")
    assert (data["numTriggered"], data["numFailures"]) == (1, 0)


def test_a_wrong_operation(behind):
    behind.write(1, age=10, operation="!")
    data = behind.registration("KeysReader")
    assert data["numFailures"] == 1
    assert 'Got unknown operations "!"' in data["lastError"]
    behind.write(2, age=20)
    behind.wait_rows([row(2, 20)])
    assert behind.registration("KeysReader")["lastError"] is None


def test_a_missing_field(behind):
    behind.client.hset("person:1", "first_name", "first1")
    assert (
        "Could not find last_name in hash person:1"
        in behind.registration("KeysReader")["lastError"]
    )
    behind.write(1, age=10)
    behind.wait_rows([row(1, 10)])


def test_its_own_commands_do_not_run_it(behind):
    behind.write(1, age=10, operation="=")
    behind.operate(1, "~")
    behind.wait_written([("1", 10), ("1", None)])
    assert behind.registration("KeysReader")["numTriggered"] == 2


def test_transactions_and_scripts(behind):
    """What is there at the end is what gets to the database; states in between may be skipped."""

    def ends(age):
        left = [] if age is None else [row(1, age)]
        assert behind.hashes() == left
        behind.wait_rows(left)
        behind.wait_idle()
        assert behind.hashes() == behind.rows() == left
        assert behind.history()[-1] == ("1", age)

    for last in (10, None, 11):
        with behind.client.pipeline(transaction=True) as pipeline:
            for age in range(10):
                behind.write(1, age, client=pipeline)
            pipeline.delete("person:1")
            if last is not None:
                behind.write(1, last, client=pipeline)
            pipeline.execute()
        ends(last)
    script = """
        for age = 1, ARGV[1] do
            redis.call('HSET', KEYS[1], 'first_name', 'first1', 'last_name', 'last1', 'age', age)
        end
        redis.call('DEL', KEYS[1])
        for age = 1, ARGV[2] do
            redis.call('HSET', KEYS[1], 'first_name', 'first1', 'last_name', 'last1', 'age', age)
        end
    """
    for last in (20, None, 30):
        behind.client.eval(script, 1, "person:1", 10, last or 0)
        ends(last)


@pytest.mark.parametrize("how", ["transaction", "script"])
def test_many_keys_at_once(behind, how):
    """Functions that wait for the end of a transaction run one after the other, in its order."""
    count = 2000
    if how == "transaction":
        with behind.client.pipeline(transaction=True) as pipeline:
            for number in range(count):
                behind.write(number, age=number, operation="=", client=pipeline)
            pipeline.execute()
    else:
        script = """
            for n = 0, ARGV[1] - 1 do
                redis.call('HSET', 'person:' .. n, 'first_name', 'first' .. n,
                           'last_name', 'last' .. n, 'age', n, '#', '=')
            end
        """
        behind.client.eval(script, 0, count)
    data = behind.registration("KeysReader")
    assert (data["numSuccess"], data["numFailures"]) == (count, 0)
    behind.wait_written([(str(number), number) for number in range(count)])
    assert behind.rows() == behind.hashes()


def test_an_acknowledged_transaction(behind):
    identifiers = [new_identifier() for _ in range(5)]
    with behind.client.pipeline(transaction=True) as pipeline:
        for number, identifier in enumerate(identifiers):
            behind.write(number, age=number, operation=f"={identifier}", client=pipeline)
        pipeline.execute()
    for number, identifier in enumerate(identifiers):
        assert behind.acknowledgement(f"person:{number}", identifier) == {"status": "done"}
    assert behind.rows() == behind.hashes() == [row(number, number) for number in range(5)]


def test_two_tables_of_one_script(people):
    cars = """
RGWriteBehind(GB, keysPrefix='car', mappings={{'color': 'color'}}, connector=cars,
              name='CarsBehind', version='99.99.99')
"""
    people.register(BEHIND, cars)
    people.write(1, age=10)
    people.client.hset("car:7", "color", "red")
    people.wait_rows([row(1, 10)])
    wait_until(lambda: people.database.query("SELECT * FROM cars") == [("7", "red")])


def test_a_newer_version(people):
    people.register(BEHIND, version="1.0.0")
    people.write(1, age=10)
    people.wait_rows([row(1, 10)])
    old = {entry["id"] for entry in people.env.registrations()}
    people.register(BEHIND, version="1.1.0")
    new = {entry["id"] for entry in people.env.registrations()}
    assert len(new) == 2
    assert not old & new
    people.write(1, age=11)
    people.wait_rows([row(1, 11)])
    refusal = people.env.refused(people.script(BEHIND, version="1.1.0"))
    assert "Found a version which is greater or equals current version, aborting." in refusal
    assert {entry["id"] for entry in people.env.registrations()} == new


def test_other_registrations_may_be_there(people):
    people.env.register("GB('CommandReader', desc='{}').register(trigger='a', mode='sync')")
    people.env.register("GB('CommandReader').register(hook='get', keyprefix='x', mode='sync')")
    people.env.register("GB(desc='no JSON').register('x*', keyTypes=['string'], commands=['set'])")
    people.env.register("GB('StreamReader').register('x*', mode='async_local')")
    people.register(BEHIND)
    people.register(BEHIND)
    assert len(people.env.registrations()) == 6
    people.write(1, age=10)
    people.wait_rows([row(1, 10)])


def test_unregistered(behind):
    behind.write(1, age=10)
    behind.wait_rows([row(1, 10)])
    behind.wait_idle()
    for entry in behind.env.registrations():
        behind.env.unregister(entry["id"])
    behind.write(1, age=11)
    assert not any(behind.streams())
    assert behind.rows() == [row(1, 10)]


def test_paused(behind):
    """The writer rests, for work on the database; changes wait."""
    (writer,) = [e["id"] for e in behind.env.registrations() if e["reader"] == "StreamReader"]
    behind.env.pause(writer)
    for number in range(5):
        behind.write(number, age=number)
    assert behind.registration("StreamReader")["status"] == "PAUSED"
    assert behind.streams() == [5]
    assert behind.rows() == []
    behind.env.unpause(writer)
    behind.wait_written([(str(number), number) for number in range(5)])
    behind.wait_idle()


def test_written_by_other_functions(behind):
    """Changes that a function makes in the background are changes as well."""
    behind.env.register("""
        def save(r):
            number = r[1]
            execute('hset', f'person:{number}', 'first_name', f'first{number}', 'last_name',
                    f'last{number}', 'age', number)
            with atomic():
                execute('hincrby', f'person:{number}', 'age', 100)
                execute('hset', f'person:{number}', 'first_name', f'first{number}')
        GB('CommandReader').foreach(save).register(trigger='save', mode='async_local')
    """)
    for number in range(20):
        behind.env.trigger("save", number)
    behind.wait_rows([row(number, number + 100) for number in range(20)])
    assert behind.rows() == behind.hashes()


def test_chosen_events_and_a_transformation(people):
    """As users adapt it: keys that expire are deleted in the database, records are rewritten."""
    more = """
              eventTypes=['hset', 'del', 'expired'], transform=upper)
"""
    upper = """
def upper(r):
    if r['value'] is not None:
        r['value']['last_name'] = r['value']['last_name'].upper()
    return r
"""
    people.register(upper.replace("{", "{{").replace("}", "}}"), BEHIND.replace(")\n", "," + more))
    people.write(1, age=10)
    people.write(2, age=20)
    people.wait_rows([("1", "first1", "LAST1", 10), ("2", "first2", "LAST2", 20)])
    people.client.pexpire("person:1", 20)
    people.wait_rows([("2", "first2", "LAST2", 20)])


def test_many_keys(behind):
    """Thousands of writes of several clients, by few batches over one connection."""
    count = 2000
    with behind.client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            behind.write(number, age=number, client=pipeline)
        pipeline.execute()
    behind.wait_written([(str(number), number) for number in range(count)])
    behind.wait_rows([row(number, number) for number in range(count)])
    behind.wait_idle()
    assert behind.database.connections() == 1
    data = behind.registration("StreamReader")
    assert data["numFailures"] == 0
    assert data["numSuccess"] < count / 10
    with behind.client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            behind.operate(number, "~")
        pipeline.execute()
    behind.wait_rows([])
    assert behind.client.dbsize() <= 1


def test_values_of_the_server(people):
    """The password comes from the server's settings, whenever a connection is made."""
    people.env.config("DatabasePassword", "secret")
    script = people.script(BEHIND).replace("'secret'", "lambda: configGet('DatabasePassword')")
    people.env.register(script)
    people.write(1, age=10)
    people.wait_rows([row(1, 10)])
