"""Acceptance scenarios of profiles: what RG.PYPROFILE shows of the callbacks of a session."""

import pytest

NAMES = [
    "to_map",
    "to_filter",
    "to_flatmap",
    "to_foreach",
    "seq",
    "comb",
    "by",
    "seq_by",
    "comb_by",
]
SCRIPT = """
def to_map(x):
    return x
def to_filter(x):
    return True
def to_flatmap(x):
    return [x, x]
def to_foreach(x):
    pass
def seq(a, x):
    return a + 1
def comb(a, x):
    return a + x
def by(x):
    return x
def seq_by(k, a, x):
    return a + x
def comb_by(k, a, x):
    return a + x
GB('CommandReader').map(to_map).filter(to_filter).flatmap(to_flatmap).foreach(to_foreach) \\
    .aggregate(0, seq, comb).aggregateby(by, 0, seq_by, comb_by).register(trigger='t')
"""


@pytest.fixture
def profiled(env):
    """An environment with a session `s` that has been triggered."""
    env.config("ProfileExecutions", 1)
    env.register(SCRIPT, "ID", "s")
    env.trigger("t")
    return env


def texts(env, *words):
    """What all shards tell: each has run a part of the function."""
    return "".join(env.each(lambda s: s.call("RG.PYPROFILE", "STATS", "s", *words).decode()))


def named(text):
    return [name for name in NAMES if f"({name})" in text]


def test_prf_01_every_function_is_named(profiled):
    assert named(texts(profiled)) == NAMES


def test_prf_02_an_order(profiled):
    text = texts(profiled, "ncalls")
    assert named(text) == NAMES
    assert "Ordered by: call count" in text


def test_prf_03_reset(profiled):
    assert profiled.call("RG.PYPROFILE", "RESET", "s") == "OK"
    text = profiled.error("RG.PYPROFILE", "STATS", "s")
    assert "Cannot create or construct a <class 'pstats.Stats'> object" in text
