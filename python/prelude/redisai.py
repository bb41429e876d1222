"""The module redisAI: its names, for scripts that import them. RedisAI itself is not supported."""

from redisgears import GearsError as _GearsError

_FUNCTIONS = """
createTensorFromValues createTensorFromBlob
setTensorInKey msetTensorsInKeyspace getTensorFromKey mgetTensorsFromKeyspace
tensorToFlatList tensorGetDataAsBlob tensorGetDims
createModelRunner modelRunnerAddInput modelRunnerAddOutput modelRunnerRun modelRunnerRunAsync
createScriptRunner scriptRunnerAddInput scriptRunnerAddInputList scriptRunnerAddOutput
scriptRunnerRun scriptRunnerRunAsync
createDAGRunner
"""


def _refuse(*_arguments, **_named):
    raise _GearsError("RedisAI is not loaded, it is not possible to use AI interface.")


def _function(name):
    def refuse(*arguments, **named):
        _refuse()

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


for _name in _FUNCTIONS.split():
    globals()[_name] = _function(_name)


class PyTensor:
    """A tensor."""

    __new__ = _refuse


class PyGraphRunner:
    """Runs a model."""

    __new__ = _refuse


class PyTorchScriptRunner:
    """Runs a function of TorchScript."""

    __new__ = _refuse


class PyDAGRunner:
    """Runs several of them."""

    __new__ = _refuse
