"""The pattern of KeysReader means what the server's own KEYS means."""

import hypothesis
import hypothesis.strategies as st
import pytest

ALPHABET = "ab*?[]^-\\é\0"
KEYS = sorted(
    {a + b + c for a in ["", *"ab*[\\"] for b in ["", *"ab]^-"] for c in ["", *"a?éb\0"]}
    | {"aaa", "abab", "ba", "[ab]", "a" * 50}
)
KEYS.remove("")  # KEYS itself finds the empty name by `*` and not by `**`


@pytest.fixture
def keys(env):
    env.client.mset(dict.fromkeys(KEYS, "v"))
    return env


pieces = st.one_of(
    st.sampled_from(ALPHABET),
    st.sampled_from(["[a", "[^a", "[a-b]", "[b-a]", "[", "[]", "[^]", "\\", "\\*", "**", "[\\]]"]),
)
# servers differ in the order of bytes beyond ASCII: no ranges that end in one
patterns = (
    st.lists(pieces, min_size=1, max_size=6)
    .map("".join)
    .filter(lambda pattern: "-é" not in pattern and "é-" not in pattern)
)


@hypothesis.settings(max_examples=150)
@hypothesis.given(pattern=patterns)
def test_pattern(keys, pattern):
    script = f"GB().map(lambda r: 'k' + r['key']).run({pattern!r})"
    results, errors = keys.run(script)
    expected = keys.client.keys(pattern)
    assert errors == []
    # a result that starts with a sign would not be delivered as it is
    assert sorted(results) == sorted("k" + key for key in expected)


@hypothesis.settings(max_examples=50)
@hypothesis.given(pattern=patterns)
def test_pattern_without_values(keys, pattern):
    keys_reader = keys.run(f"GB().count().run({pattern!r})")
    keys_only_reader = keys.run(f"GB('KeysOnlyReader').count().run({pattern!r})")
    expected = keys.client.keys(pattern)
    count = ([str(len(expected))] if expected else [], [])
    assert keys_reader == count
    assert keys_only_reader == count
