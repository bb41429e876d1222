"""The hashes `person:N` that the batch rows read; loading, checking and the plain loop use them."""

import collections

FAMILIES = 500


def person(i):
    """The i-th hash; loading, checking and the plain loop all take it from here."""
    return {"name": f"First{i % 1000} Family{i % FAMILIES}", "age": str(i % 100)}


def over_30(n):
    """How many of the first n persons are older than 30."""
    return sum(1 for i in range(n) if i % 100 > 30)


def families(n):
    """Family name -> number of persons, of the first n."""
    return collections.Counter(f"Family{i % FAMILIES}" for i in range(n))
