import os

import pytest
from server import ServerStopped
from wire import Error, Simple

INTEGERS = {
    "MaxExecutions": 1000,
    "MaxExecutionsPerRegistration": 100,
    "ProfileExecutions": 0,
    "ExecutionThreads": 3,
    "ExecutionNice": 5,
    "SendMsgRetries": 3,
    "CreateVenv": 0,
    "DownloadDeps": 0,
    "ForeceDownloadDepsOnEnterprise": 0,
    "PythonAttemptTraceback": 1,
    "OverridePythonAllocators": 1,
    "PythonInstallReqMaxIdleTime": 30000,
    "MaxResultsMemory": 1 << 30,
    "SyncTimeLimit": 0,
    "StreamSharedGroup": 0,
}
STRINGS = ["DependenciesUrl", "DependenciesSha256", "PythonInstallationDir"]
SAVED = Simple("OK - value was saved in extra config dictionary")


def get(env, *names):
    return env.call("RG.CONFIGGET", *names)


def set_(env, *words):
    return env.call("RG.CONFIGSET", *words)


@pytest.mark.parametrize("name", INTEGERS)
def test_defaults(env, name):
    assert get(env, name) == [INTEGERS[name]]


def test_default_idle_time(new_env):
    assert get(new_env(), "ExecutionMaxIdleTime") == [5000]


@pytest.mark.parametrize("name", STRINGS)
def test_strings(env, name):
    (value,) = get(env, name)
    assert type(value) is bytes


def test_no_plugins(env):
    assert get(env, "Plugin") == [[]]


def test_nothing_asked(env):
    assert get(env) == []
    assert set_(env) == []


def test_an_element_per_key(env):
    assert get(env, "MaxExecutions", "nope", "MaxExecutions") == [
        1000,
        Error("(error) Unsupported config parameter: nope"),
        1000,
    ]


@pytest.mark.parametrize("name", ["maxexecutions", "MAXEXECUTIONS", "pythonattempttraceback"])
def test_names_in_any_case(env, name):
    before = get(env, name)
    assert type(before[0]) is int
    assert str(set_(env, name, "0")[0]).startswith("OK")
    assert get(env, name) != before
    assert get(env, name) == get(env, name.upper())


def test_user_keys_keep_their_case(env):
    assert set_(env, "Colour", "blue") == [SAVED]
    assert get(env, "Colour") == [b"blue"]
    assert get(env, "colour") == [Error("(error) Unsupported config parameter: colour")]
    assert set_(env, "Colour", "") == [SAVED]
    assert get(env, "Colour") == [b""]


@pytest.mark.parametrize("name", ["MaxExecutions", "MaxExecutionsPerRegistration"])
@pytest.mark.parametrize("value", ["0", "-1", "9223372036854775807"])
def test_core_numbers(env, name, value):
    assert set_(env, name, value) == [Simple("OK")]
    assert get(env, name) == [int(value)]


@pytest.mark.parametrize(
    "value", ["", "x", "1.5", " 1", "1 ", "9223372036854775808", "0x10", "1e3"]
)
def test_values_that_are_no_numbers(env, value):
    text = "(error) Failed setting config value MaxExecutions"
    assert set_(env, "MaxExecutions", value) == [Error(text)]
    assert get(env, "MaxExecutions") == [1000]


@pytest.mark.parametrize(
    ("name", "value"),
    [("ExecutionMaxIdleTime", "0"), ("ExecutionMaxIdleTime", "-1"), ("SendMsgRetries", "-1")],
)
def test_values_out_of_bounds(env, name, value):
    assert set_(env, name, value) == [Error(f"(error) Failed setting config value {name}")]


def test_a_core_key_without_value(env):
    text = "(error) Failed setting config value MaxExecutions"
    assert set_(env, "MaxExecutions") == [Error(text)]


def test_another_key_without_value(env):
    assert set_(env, "shape") == [Error("(error) Value was not given to shape")]
    assert get(env, "shape") == [Error("(error) Unsupported config parameter: shape")]


@pytest.mark.parametrize("name", ["ExecutionThreads", "Plugin"])
def test_core_keys_of_the_start(env, name):
    before = get(env, name)
    text = f"(error) Config value {name} not modifiable at runtime"
    assert set_(env, name, "8") == [Error(text)]
    assert get(env, name) == before


@pytest.mark.parametrize(
    "name", ["CreateVenv", "DownloadDeps", "OverridePythonAllocators", *STRINGS]
)
def test_python_keys_of_the_start(env, name):
    before = get(env, name)
    assert set_(env, name, "1") == [Error(f"(error) {name} is not configurable at runtime")]
    assert get(env, name) == before


def test_a_python_key(env):
    assert set_(env, "PythonInstallReqMaxIdleTime", "7") == [SAVED]
    assert get(env, "PythonInstallReqMaxIdleTime") == [7]


@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_a_python_key_refused(env, value):
    name = "PythonInstallReqMaxIdleTime"
    text = f"Failed setting config value for key '{name}' with value '{value}'"
    assert set_(env, name, value) == [Error(text)]
    assert get(env, name) == [30000]


def test_a_boolean_is_stored_as_0_or_1(env):
    assert set_(env, "PythonAttemptTraceback", "5") == [SAVED]
    assert get(env, "PythonAttemptTraceback") == [1]
    assert set_(env, "PythonAttemptTraceback", "0") == [SAVED]
    assert get(env, "PythonAttemptTraceback") == [0]


def test_pairs_are_applied_one_by_one(env):
    reply = set_(
        env,
        *("MaxExecutions", "10", "ExecutionThreads", "8", "CreateVenv", "1"),
        *("colour", "red", "MaxExecutions", "ten"),
    )
    assert reply == [
        Simple("OK"),
        Error("(error) Config value ExecutionThreads not modifiable at runtime"),
        Error("(error) CreateVenv is not configurable at runtime"),
        SAVED,
        Error("(error) Failed setting config value MaxExecutions"),
    ]
    assert get(env, "MaxExecutions", "colour") == [10, b"red"]


def test_a_key_takes_the_next_word_as_value(env):
    assert set_(env, "MaxExecutions", "colour", "green") == [
        Error("(error) Failed setting config value MaxExecutions"),
        Error("(error) Value was not given to green"),
    ]


def test_load_arguments(new_env):
    env = new_env(
        *("MaxExecutions", 5, "maxexecutionsperregistration", 6, "ExecutionThreads", 2),
        *("PythonAttemptTraceback", 0, "MaxResultsMemory", 123456, "colour", "blue"),
        *("MaxExecutions", 7),
    )
    assert get(
        env,
        *("MaxExecutions", "MaxExecutionsPerRegistration", "ExecutionThreads"),
        *("PythonAttemptTraceback", "MaxResultsMemory", "colour"),
    ) == [7, 6, 2, 0, 123456, b"blue"]
    assert env.result("GB('ShardsIDReader').map(lambda x: configGet('colour')).run()") == "blue"


def test_settings_are_logged_at_load(new_env):
    words = ["maxexecutions", 7, "colour", "my secret", "ClusterPassword", "another secret"]
    words += ["DependenciesUrl", "https://me:hidden@host/x", "Plugin", "a", "Plugin", "b"]
    log = new_env(*words).server.log()
    for line in [
        "MaxExecutions:7",
        "ExecutionThreads:3",
        "ExecutionMaxIdleTime:5000",
        "Plugin:a b",
    ]:
        assert f"<rg> {line}\n" in log
    for line in ["PythonAttemptTraceback:1", "PythonInstallReqMaxIdleTime:30000", "colour:*****"]:
        assert f"<rg> {line}\n" in log
    assert not any(word in log for word in ["my secret", "another secret", "hidden"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["MaxExecutions"],
        ["MaxExecutions", "ten"],
        ["ExecutionThreads", "0"],
        ["ExecutionMaxIdleTime", "0"],
        ["SendMsgRetries", "-1"],
        ["ExecutionThreads", "1025"],
        ["ExecutionNice", "-1"],
        ["ExecutionNice", "20"],
        ["colour"],
        ["MaxExecutions", "5", "colour"],
        ["PythonAttemptTraceback", "yes"],
        ["PythonInstallReqMaxIdleTime", "0"],
    ],
)
def test_wrong_load_arguments(new_env, arguments):
    with pytest.raises(ServerStopped) as stopped:
        new_env(*arguments)
    assert any(word in str(stopped.value) for word in arguments)


@pytest.mark.parametrize(("arguments", "steps"), [([], 5), (["ExecutionNice", 9], 9)])
def test_functions_give_way_to_the_server(new_env, arguments, steps):
    env = new_env(*arguments)
    own = os.getpriority(os.PRIO_PROCESS, env.server.pid)
    nice = "__import__('os').getpriority(0, __import__('threading').get_native_id())"
    script = f"GB('ShardsIDReader').map(lambda x: {nice}).run()"
    assert env.results(script) == [str(own + steps)] * env.shard_count
    assert f"Exception: {own + steps}\\n" in env.refused(f"raise Exception({nice})")
    env.register(f"GB('CommandReader').map(lambda x: {nice}).register(trigger='t', mode='sync')")
    assert env.call("RG.TRIGGER", "t") == [str(own).encode()]


def test_traceback_setting(env):
    script = "GB('ShardsIDReader').map(lambda x: nope).run()"
    assert "Traceback" in env.errors(script)[0]
    env.config("PythonAttemptTraceback", 0)
    short = "Error type: <class 'NameError'>, Value: name 'nope' is not defined"
    assert env.errors(script) == [short] * env.shard_count


def test_results_beyond_the_bound_stop_the_execution(env):
    env.config("MaxResultsMemory", 100_000)
    script = "GB('PythonReader', lambda: ('x' * 1000 for _ in range(20000))).run()"
    identifier = env.start(script)
    results, errors = env.wait(identifier)
    assert any("MaxResultsMemory" in error for error in errors)
    assert len(results) <= 100 * env.shard_count
    env.config("MaxResultsMemory", 1 << 30)
    small = "GB('PythonReader', lambda: ('x' * 1000 for _ in range(200))).run()"
    assert len(env.results(small)) == 200 * env.shard_count


def test_old_results_make_room_for_new_ones(env):
    env.config("MaxResultsMemory", 200_000 * env.shard_count)
    identifiers = []
    for _ in range(10):
        script = "GB('PythonReader', lambda: ('x' * 1000 for _ in range(60))).run()"
        identifiers.append(env.start(script))
        results, errors = env.wait(identifiers[-1])
        assert (len(results), errors) == (60 * env.shard_count, [])
    kept = env.shards[0].executions()
    assert identifiers[0] not in kept
    assert identifiers[-1] in kept
    assert 1 <= len(kept) <= 3
