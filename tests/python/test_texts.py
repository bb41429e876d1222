"""Results as text: as `str` makes it, whoever makes it."""

import pytest
from env import one_shard

VALUES = """
import random
LETTERS = "ab '\\"\\\\\\n\\t{}[]:,\\x7f\\x80é\\u2028😀"
def value(source, depth=0):
    kind = source.randrange(12 if depth < 11 else 9)
    if kind < 4:
        return ''.join(source.choices(LETTERS, k=source.randrange(6)))
    if kind < 9:
        return source.choice([None, True, False, 0, -1, 7, 2 ** 63 - 1, -2 ** 63, 2 ** 63,
                              10 ** 30, 1.5, float('nan'), b'x', (1, 'a'), {1, 2}, bytearray(b'y')])
    if kind < 10:
        return [value(source, depth + 1) for _ in range(source.randrange(4))]
    return {source.choice(['key', "k'", 1, None, True, 2.5, (1,)]): value(source, depth + 1)
            for _ in range(source.randrange(4))}
def values():
    source = random.Random(SEED)
    for _ in range(1500):
        yield source.choice([{'a': value(source)}, [value(source)], {'k': value(source), 'l': 1}])
"""


@pytest.mark.parametrize("seed", range(3))
def test_values_of_all_kinds(env, seed):
    script = VALUES.replace("SEED", str(seed))
    ours = env.results(script + f"{one_shard('values()')}.run()")
    python = env.results(script + f"{one_shard('values()')}.map(lambda x: x.__str__()).run()")
    assert len(ours) == 1500
    assert ours == python


def test_a_value_that_contains_itself(env):
    script = f"""
        def values():
            x = {{'a': 1}}
            x['x'] = x
            yield x
        {one_shard("values()")}.run()
        """
    assert env.results(script) == ["{'a': 1, 'x': {...}}"]


def test_a_text_that_makes_another_one(env):
    """While one text is made, Python makes one of a result inside of it."""
    script = """
        class Odd:
            def __repr__(self):
                return execute('RG.TRIGGER', 't')[0]
        GB('CommandReader').map(lambda r: {'words': r}).register(trigger='t', mode='sync')
        GB('CommandReader').map(lambda r: {'odd': Odd()}).register(trigger='odd', mode='sync')
        """
    env.register(script)
    assert env.trigger("odd") == ["{'odd': {'words': ['t']}}"]


def test_subclasses_and_their_own_texts(env):
    script = f"""
        class Loud(dict):
            def __repr__(self): return 'LOUD'
        class Text(str):
            def __repr__(self): return 'TEXT'
        class Number(int):
            def __repr__(self): return 'NUMBER'
        def values():
            yield Loud(a=1)
            yield {{'a': Loud(), Text('b'): Number(3)}}
        {one_shard("values()")}.run()
        """
    assert env.results(script) == ["LOUD", "{'a': LOUD, TEXT: NUMBER}"]
