"""The module redisAI, which scripts import whether they use it or not."""

import pytest

TEXT = "RedisAI is not loaded, it is not possible to use AI interface."
NAMES = """
createTensorFromValues createTensorFromBlob setTensorInKey msetTensorsInKeyspace getTensorFromKey
mgetTensorsFromKeyspace tensorToFlatList tensorGetDataAsBlob tensorGetDims
createModelRunner modelRunnerAddInput modelRunnerAddOutput modelRunnerRun modelRunnerRunAsync
createScriptRunner scriptRunnerAddInput scriptRunnerAddInputList scriptRunnerAddOutput
scriptRunnerRun scriptRunnerRunAsync createDAGRunner
"""
FUNCTIONS = NAMES.split()
TYPES = ["PyTensor", "PyGraphRunner", "PyTorchScriptRunner", "PyDAGRunner"]


@pytest.mark.parametrize("name", FUNCTIONS + TYPES)
def test_a_name_is_there_and_fails_when_it_is_called(env, name):
    assert env.execute(f"from redisAI import {name}\nimport redisAI\nredisAI.{name}") == "OK"
    for arguments in ("", "1, 'x'", "name='x', inputs=[]"):
        script = f"import redisAI\nredisAI.{name}({arguments})"
        text = env.refused(script)
        assert "gears.error" in text
        assert TEXT in text


def test_values_are_of_none_of_its_types(env):
    checks = " or ".join(f"isinstance(x, redisAI.{name})" for name in TYPES)
    script = f"import redisAI\nGB('ShardsIDReader').map(lambda x: {checks}).run()"
    assert env.results(script) == ["False"] * env.shard_count


def test_functions_that_use_it_travel(env):
    env.register(
        """
        from redisAI import createTensorFromValues, PyTensor
        import redisAI
        def f(x):
            try:
                createTensorFromValues('FLOAT', [1], [1.0])
            except Exception as error:
                return type(error).__name__
        def g(x):
            return x if isinstance(x, PyTensor) else redisAI.modelRunnerRun(x)
        GB('CommandReader').map(f).register(trigger='f')
        GB('CommandReader').map(g).register(trigger='g')
        """
    )
    env.reload()
    assert env.trigger("f") == ["error"] * env.shard_count
    assert TEXT in env.error("RG.TRIGGER", "g")


def test_other_names_are_not_there(env):
    assert "ImportError" in env.refused("from redisAI import nope")
    assert "AttributeError" in env.refused("import redisAI\nredisAI.createTensor")
