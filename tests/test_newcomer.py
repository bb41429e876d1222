"""The first session of somebody who knows the documentation of RedisGears 1.x."""

import ast

import pytest
from server import wait_until
from wire import Error

pytestmark = pytest.mark.single("what the documentation shows is one server")

PEOPLE = {
    "person:1": {"name": "Rick Sanchez", "age": "70"},
    "person:2": {"name": "Morty Smith", "age": "14"},
    "person:3": {"name": "Summer Smith", "age": "17"},
    "person:4": {"name": "Beth Smith", "age": "35"},
    "person:5": {"name": "Shrimply Pibbles", "age": "87"},
}
FAMILIES = {"Sanchez": 1, "Smith": 3, "Pibbles": 1}


@pytest.fixture
def people(env):
    env.client.set("foo", "bar")
    for key, fields in PEOPLE.items():
        env.client.hset(key, mapping=fields)
    return env


def test_all_keys(people):
    records = [ast.literal_eval(text) for text in people.results("GearsBuilder().run()")]
    assert {record["key"]: record["value"] for record in records} == {**PEOPLE, "foo": "bar"}
    types = {record["key"]: record["type"] for record in records}
    assert types == {**dict.fromkeys(PEOPLE, "hash"), "foo": "string"}


def test_people(people):
    results = people.results("GearsBuilder().run('person:*')")
    records = [ast.literal_eval(text) for text in results]
    assert {record["key"]: record["value"] for record in records} == PEOPLE
    assert len(records) == 5


def test_ages(people):
    script = """
    gb = GearsBuilder()
    gb.map(lambda x: int(x['value']['age']))
    gb.run('person:*')
    """
    assert sorted(people.results(script), key=int) == ["14", "17", "35", "70", "87"]


def test_adults(people):
    script = """
    GearsBuilder().filter(lambda x: int(x['value']['age']) >= 18).map(lambda x: x['key']) \\
        .run('person:*')
    """
    assert sorted(people.results(script)) == ["person:1", "person:4", "person:5"]


def test_the_maximum_by_accumulate(people):
    script = """
    def maximum(a, x):
        return max(x, a or 0)
    gb = GearsBuilder()
    gb.map(lambda x: int(x['value']['age']))
    gb.accumulate(maximum)
    gb.collect()
    gb.accumulate(maximum)
    gb.run('person:*')
    """
    assert people.results(script) == ["87"]


def test_the_maximum_by_aggregate(people):
    script = """
    gb = GearsBuilder()
    gb.map(lambda x: int(x['value']['age']))
    gb.aggregate(0, lambda a, x: max(a, x), lambda a, x: max(a, x))
    gb.run('person:*')
    """
    assert people.results(script) == ["87"]


def test_families_by_groups(people):
    script = """
    def family(x):
        return x['value']['name'].split(' ')[1]
    def count(k, a, x):
        return 1 + (a or 0)
    def add(k, a, x):
        return x['value'] + (a or 0)
    gb = GearsBuilder()
    gb.localgroupby(family, count)
    gb.repartition(lambda x: x['key'])
    gb.localgroupby(lambda x: x['key'], add)
    gb.foreach(lambda x: execute('SET', x['key'], x['value']))
    gb.run('person:*')
    """
    records = [ast.literal_eval(text) for text in people.results(script)]
    assert {record["key"]: record["value"] for record in records} == FAMILIES
    assert {key: int(people.client.get(key)) for key in FAMILIES} == FAMILIES


def test_families_by_aggregateby(people):
    script = """
    gb = GearsBuilder()
    gb.aggregateby(lambda x: x['value']['name'].split(' ')[1], 0,
                   lambda k, a, x: a + 1, lambda k, a, x: a + x)
    gb.run('person:*')
    """
    records = [ast.literal_eval(text) for text in people.results(script)]
    assert {record["key"]: record["value"] for record in records} == FAMILIES


def test_average_age(people):
    script = "GearsBuilder().map(lambda x: x['value']['age']).avg().run('person:*')"
    assert people.results(script) == ["44.6"]


def test_later_results(people):
    identifier = people.call(
        "RG.PYEXECUTE",
        """
def slow(x):
    while execute('get', 'go') is None:
        pass
GearsBuilder().foreach(slow).map(lambda x: x['key']).run('person:*')
""",
        "UNBLOCKING",
    )
    ((_, listed, _, status, _, registered),) = people.call("RG.DUMPEXECUTIONS")
    assert listed == identifier
    assert status in (b"created", b"running")
    assert registered == 0
    assert people.error("RG.GETRESULTS", identifier) == "execution is still running"
    people.client.set("go", 1)
    polled = wait_until(lambda: finished(people.call("RG.GETRESULTS", identifier)))
    assert sorted(polled[0]) == [key.encode() for key in PEOPLE]
    assert polled[1] == []
    assert people.call("RG.GETRESULTSBLOCKING", identifier) == polled
    assert people.call("RG.DROPEXECUTION", identifier) == "OK"
    assert people.call("RG.DUMPEXECUTIONS") == []


def finished(reply):
    return None if isinstance(reply, Error) else reply
