"""Acceptance scenarios of session options that need no registration."""

import pytest


def test_ses_03_an_id(env):
    assert env.results("GB('ShardsIDReader').run()", "ID", "aB1_-") == ["1"]


def test_ses_06_replace_with_nothing(env):
    assert env.refused("GB().run()", "ID", "test", "REPLACE_WITH") == "REPLACE_WITH is missing"


@pytest.mark.parametrize("words", [["foo"], ["foo", "bar"]])
def test_ses_07_unknown_words(env, words):
    assert "Unknown arguments were given" in env.refused("GB().run()", "ID", "test", *words)


def test_ses_08_a_wrong_id(env):
    assert "must be compose of" in env.refused("GB().run()", "ID", "te@st")
