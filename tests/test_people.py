"""Five people, whose records lie on several shards: the sample session."""

import ast
import collections

import pytest

PEOPLE = [
    {"name": "Rick", "family": "Sanchez", "age": "70"},
    {"name": "Morty", "family": "Smith", "age": "14"},
    {"name": "Summer", "family": "Smith", "age": "17"},
    {"name": "Beth", "family": "Smith", "age": "35"},
    {"name": "Shrimply", "family": "Pibbles", "age": "87"},
]
FAMILIES = {"Sanchez": 1, "Smith": 3, "Pibbles": 1}
AGES = "GB().map(lambda r: int(r['value']['age']))"
OLDER = "lambda a, r: max(a or 0, r)"


@pytest.fixture
def people(env):
    for number, person in enumerate(PEOPLE, 1):
        env.client.hset(f"person:{number}", mapping=person)
    return env


def by_shard(env):
    """The people of each shard that has some."""
    found = collections.defaultdict(list)
    for number, person in enumerate(PEOPLE, 1):
        found[env.client.shard(f"person:{number}")].append(person)
    return found


def test_all_records(people):
    records = [ast.literal_eval(text) for text in people.results("GB().run('person:*')")]
    records.sort(key=lambda record: record["key"])
    assert records == [
        {"event": None, "key": f"person:{number}", "type": "hash", "value": person}
        for number, person in enumerate(PEOPLE, 1)
    ]


@pytest.mark.cluster
def test_the_people_are_on_several_shards(people):
    assert len(by_shard(people)) > 1


@pytest.mark.cluster
def test_records_that_stay_where_they_are(people):
    identifier = people.start(
        "GB().map(lambda r: r['value']['name']).run('person:*', collect=False)"
    )
    people.wait(identifier)
    found = by_shard(people)
    for index, shard in enumerate(people.shards):
        shard.wait_status(identifier, "done")
        results, errors = shard.client.execute_command("RG.GETRESULTS", identifier)
        assert sorted(results) == sorted(person["name"] for person in found[index])
        assert errors == []


@pytest.mark.cluster
def test_the_oldest_of_each_shard(people):
    oldest = [max(int(person["age"]) for person in found) for found in by_shard(people).values()]
    results = people.results(f"{AGES}.accumulate({OLDER}).run('person:*')")
    assert sorted(map(int, results)) == sorted(oldest)


def test_the_oldest_of_all(people):
    script = f"{AGES}.accumulate({OLDER}).collect().accumulate({OLDER}).run('person:*')"
    assert people.results(script) == ["87"]


def test_the_oldest_by_aggregate(people):
    assert people.results(f"{AGES}.aggregate(0, max, max).run('person:*')") == ["87"]


def test_families_counted_and_stored(people):
    """Each count is written by the shard that owns its key."""
    script = """
    GB().localgroupby(lambda r: r['value']['family'], lambda k, a, r: 1 + (a or 0)) \\
        .repartition(lambda r: r['key']) \\
        .localgroupby(lambda r: r['key'], lambda k, a, r: r['value'] + (a or 0)) \\
        .foreach(lambda r: execute('SET', r['key'], r['value'])).run('person:*')
    """
    results = [ast.literal_eval(text) for text in people.results(script)]
    assert {record["key"]: record["value"] for record in results} == FAMILIES
    assert len(results) == len(FAMILIES)
    for family, count in FAMILIES.items():
        assert people.client.get(family) == str(count)


@pytest.mark.parametrize(
    "step",
    [
        "aggregateby(family, 0, lambda k, a, r: 1 + a, lambda k, a, r: a + r)",
        "countby(family)",
        "groupby(family, lambda k, a, r: 1 + (a or 0))",
        "batchgroupby(family, lambda k, rs: len(rs))",
    ],
)
def test_families_by_other_steps(people, step):
    script = f"family = lambda r: r['value']['family']\nGB().{step}.run('person:*')"
    results = [ast.literal_eval(text) for text in people.results(script)]
    assert {record["key"]: record["value"] for record in results} == FAMILIES
    assert len(results) == len(FAMILIES)


def test_ages_in_order(people):
    assert people.results(f"{AGES}.sort().run('person:*')") == ["14", "17", "35", "70", "87"]
    assert people.results(f"{AGES}.avg().run('person:*')") == ["44.6"]


def test_from_every_shard(people):
    for shard in people.shards:
        assert shard.results(f"{AGES}.aggregate(0, max, max).run('person:*')") == ["87"]
        assert shard.results("GB().count().run('person:*')") == ["5"]
