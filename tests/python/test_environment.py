"""What a script finds in its globals, and the modules it may import."""

import pytest
from env import one_shard

pytestmark = pytest.mark.lopsided

NAMES = [
    *("GearsBuilder", "GB", "execute", "atomic", "configGet", "gearsConfigGet"),
    *("hashtag", "log", "gearsFuture", "createFuture", "setFutureResults"),
    *("setFutureException", "runCoroutine", "call_next", "get_command"),
    *("override_reply", "flat_error", "isAsyncAllow", "isInAtomicBlock"),
    *("registerTE", "gearsCtx", "PyFlatExecution", "GearsSession", "GearsFuture"),
    *("getGearsSession", "setGearsSession", "registerGearsThread", "Log"),
    *("ConfigGet", "GearsConfigGet", "redisgears", "rg", "createKeysOnlyReader"),
    *("shardReaderCallback", "asyncio", "Thread", "Future", "copy", "io", "sys"),
    *("loop", "cProfile", "pstats", "dis", "importlib", "itertools", "logging"),
    *("opcode", "operator", "partial", "pickle", "struct", "traceback", "types", "weakref"),
]
MODULE_NAMES = [
    *("gearsCtx", "registerGearsThread", "getGearsSession", "setGearsSession"),
    *("isInAtomicBlock", "gearsFutureCtx", "atomicCtx", "executeCommand", "log"),
    *("config_get", "getMyHashTag", "registerTimeEvent", "callNext"),
    *("getCommand", "overrideReply", "isAsyncAllow", "flatError"),
    *("PyExecutionSession", "PyFlatExecution", "PyAtomic", "PyFuture"),
    *("GearsError", "GearsForceStopped", "GearsFlatError"),
]


@pytest.mark.parametrize("name", NAMES)
def test_globals(env, name):
    env.execute(f"execute('set', 'found', '{name}' in globals())")
    assert env.client.get("found") == "True"


def test_modules_find_them_in_main(env):
    """A library that a function uses has no other way to them."""
    env.execute(f"from __main__ import {', '.join(NAMES)}")
    env.register(
        """
        def library(r):
            from __main__ import GB, execute
            return [execute('ping'), GB('CommandReader').map(lambda x: x) is not None]
        GB('CommandReader').map(library).register(trigger='main', mode='sync')
        """
    )
    want = [str(["PONG", True])]
    assert env.each(lambda shard: shard.trigger("main")) == [want] * env.shard_count


def test_globals_that_nobody_imported(env):
    """Scripts use them without an import, also where their functions arrive."""
    env.register(
        """
        def shown(r):
            add = partial(operator.add, 1)
            numbers = list(map(add, itertools.chain(r[1:], [1])))
            return [numbers, types.__name__, struct.pack('>h', 1)]
        GB('CommandReader').map(lambda r: [r[0]] + [int(x) for x in r[1:]]).map(shown).register(
            trigger='t', mode='sync')
        """
    )
    want = [str([[2, 3, 2], "types", b"\0\1"])]
    assert env.each(lambda shard: shard.trigger("t", 1, 2)) == [want] * env.shard_count


@pytest.mark.parametrize("name", MODULE_NAMES)
def test_names_of_the_module(env, name):
    env.execute(f"from redisgears import {name}")


@pytest.mark.parametrize("name", ["executeBinary", "overrideReply", "callNext", "flatError"])
def test_names_that_do_not_exist(env, name):
    assert f"name '{name}' is not defined" in env.refused(f"{name}()")


def test_the_globals_are_functions_of_the_module(env):
    env.execute(
        """
        import redisgears
        assert redisgears is rg
        pairs = {
            'execute': 'executeCommand', 'atomic': 'atomicCtx', 'hashtag': 'getMyHashTag',
            'configGet': 'config_get', 'flat_error': 'flatError', 'log': 'log',
            'isInAtomicBlock': 'isInAtomicBlock', 'isAsyncAllow': 'isAsyncAllow',
        }
        for name, other in pairs.items():
            assert globals()[name] is getattr(redisgears, other), name
        """
    )


def test_argv(env):
    env.execute("import sys\nexecute('set', 'argv', str(sys.argv))")
    assert env.client.get("argv") == "['Embeded']"


def test_a_script_is_not_main(env):
    env.execute("execute('set', 'name', __name__)")
    assert env.client.get("name") != "__main__"


def test_modules_are_shared_and_globals_are_not(env):
    env.execute("import json\njson.mark = 5\nmark = 5")
    env.execute("import json\nexecute('set', 'seen', f\"{json.mark} {'mark' in globals()}\")")
    assert env.client.get("seen") == "5 False"


def test_changing_a_builtin_name_stays_in_the_script(env):
    env.execute("GB = None\nexecute = None")
    ping = "GB('ShardsIDReader').map(lambda x: execute('ping')).run()"
    assert env.results(ping) == ["PONG"] * env.shard_count


@pytest.mark.parametrize(
    "name", ["json", "ssl", "ctypes", "decimal", "hashlib", "sqlite3", "multiprocessing", "pickle"]
)
def test_extension_modules(env, name):
    env.execute(f"import {name}")


def test_text_is_utf8_everywhere(env):
    env.execute(
        "import sys\n"
        "execute('set', 'e', sys.getfilesystemencoding() + ' ' + sys.getdefaultencoding())"
    )
    assert env.client.get("e") == "utf-8 utf-8"


def test_text_of_a_script_is_utf8(env):
    env.execute("execute('set', 'ключ', 'été')")
    assert env.client.get("ключ") == "été"


def test_a_script_is_read_as_python_reads_a_file(env):
    for script, text in (
        ("\ufeffexecute('set', 'k', 'é')".encode(), "é"),
        ("# -*- coding: latin-1 -*-\nexecute('set', 'k', 'é')".encode("latin-1"), "é"),
        (b"execute('set', 'k', 'a')\r\nif 1:\r\n  execute('append', 'k', 'b')\r\n", "ab"),
    ):
        assert env.call("RG.PYEXECUTE", script) == "OK"
        assert env.client.get("k") == text
    error = env.error("RG.PYEXECUTE", b"x = '\xff'")
    assert "can't decode byte 0xff" in error and "<string>, line 1" in error


def test_classes_decorators_and_closures(env):
    assert env.results(
        f"""
        import functools
        class Counter:
            def __init__(self): self.seen = 0
            def __call__(self, x):
                self.seen += x
                return self.seen
        counter = Counter()
        def twice(f):
            @functools.wraps(f)
            def inner(x):
                return f(f(x))
            return inner
        @twice
        def add(x):
            return x + 1
        {one_shard("range(3)")}.map(add).map(lambda x: counter(x)).run()
        """
    ) == ["2", "5", "9"]


def test_a_script_that_takes_names_of_modules(env):
    """What it makes of them counts wherever its functions arrive."""
    script = """
        from threading import Thread as Base
        old = partial
        class Thread(Base): pass
        def partial(x): return 'mine'
        operator = types = ['mine']
        def shown(x):
            assert issubclass(Thread, Base) and Thread is not Base
            return [partial(x), operator, types, old(int, '5')(), copy.copy(5)]
        GB('ShardsIDReader').map(shown).run()
        """
    assert env.results(script) == [str(["mine", ["mine"], ["mine"], 5, 5])] * env.shard_count


NOT_OURS = """
_name = _count = __doc__ = 'mine'
def _add(a, b): return a + b
def own(x): return [_name, _count, __doc__, _add(1, 2)]
"""


def test_private_names_are_the_scripts_own(env):
    """Those of the module's own code are none of its business, wherever its functions arrive."""
    want = str(["mine", "mine", "mine", 3])
    script = f"{NOT_OURS}GB('ShardsIDReader').map(own).run()"
    assert env.results(script) == [want] * env.shard_count
    env.register(f"{NOT_OURS}GB('CommandReader').map(own).register(trigger='t', mode='sync')")
    for _ in range(2):
        assert env.each(lambda shard: shard.trigger("t")) == [[want]] * env.shard_count
        env.reload()
    env.execute(
        "private = [n for n in globals() if n.startswith('_')]\n"
        "assert set(private) == {'__builtins__', '__name__', '__gears_session__'}, private"
    )


def test_threads_of_a_script(env):
    env.execute(
        """
        seen = []
        def work():
            registerGearsThread()
            seen.append(execute('incr', 'count'))
        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert sorted(seen) == [1, 2, 3, 4]
        """
    )


def test_the_session(env):
    env.execute(
        """
        session = getGearsSession()
        assert session is not None
        setGearsSession(None)
        assert getGearsSession() is None
        with GearsSession(session):
            assert getGearsSession() is not None
        setGearsSession(session)
        """
    )
    assert "Given object is not of type GearsSession" in env.refused("setGearsSession(5)")
    text = env.refused("setGearsSession(1, 2)")
    assert "Wrong number of args given to setGearsSession" in text


def test_a_session_for_a_block(env):
    """Afterwards the thread is what it was before."""
    env.register(
        """
        with GearsSession(getGearsSession()):
            execute('set', 'in', 1)
        execute('set', 'after', 1)
        def step(r):
            with GearsSession(getGearsSession()):
                execute('ping')
            GB('ShardsIDReader')
            return execute('ping')
        GB('CommandReader').map(step).register(trigger='t', mode='sync')
        """
    )
    assert env.client.exists("in", "after") == 2
    assert env.trigger("t") == ["PONG"]


def test_a_thread_without_a_session(env):
    """It may use the server, but build no functions."""
    env.execute(
        """
        import threading
        said = []
        def work():
            registerGearsThread()
            setGearsSession(None)
            assert getGearsSession() is None
            said.append(execute('ping'))
            try:
                GB()
            except Exception as error:
                said.append(str(error))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert said == ['PONG', 'Can not create a gearsCtx on a python created thread'], said
        """
    )


def test_a_session_takes_its_command_along(env):
    """To a thread of the step's own."""
    env.register(
        """
        import threading
        def in_thread(body):
            session, made = getGearsSession(), []
            def work():
                setGearsSession(session)
                made.append(body())
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return made[0]
        GB('CommandReader').map(lambda r: in_thread(lambda: call_next(*r[1:]))).register(
            hook='get', mode='async_local')
        GB().foreach(lambda r: in_thread(lambda: override_reply(' '.join(get_command())))).register(
            'k*', commands=['set'], mode='async_local')
        """
    )
    env.client.set("x", "text")
    assert env.call("GET", "x") == b"text"
    assert env.call("SET", "k", "v") == b"SET k v"
