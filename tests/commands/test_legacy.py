"""Commands of RedisGears 1.x that have nothing to do any more."""


def test_replies(env):
    assert env.call("RG.DUMPPLUGINS") == [[b"GearsPythonPlugin", 10000]]
    text = b"Free interpreter is not longer supported"
    assert env.call("RG.PYFREEINTERPRETER", "x") == text
    assert env.call("RG.PYEXECUTEREMOTE") == b"Execute remote is not longer supported"
