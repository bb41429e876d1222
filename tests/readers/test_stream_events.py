"""StreamReader registrations: at least once, in order, in batches, and what a failure does."""

import pytest
from env import HOLD
from server import wait_until

pytestmark = pytest.mark.lopsided

MODES = ["sync", "async_local", "async"]
LOG_ID = "foreach(lambda r: execute('rpush', 'log', r['id']))"
BATCH = "aggregate([], lambda a, r: a + [r['id']], lambda a, r: a + r)"
LOG_BATCH = f"{BATCH}.foreach(lambda b: execute('rpush', 'log', ' '.join(b)))"
SHARED_GROUP = "__gears_consumer_group__"


def listen(env, arguments="", stream="s", mode="async_local", body=LOG_ID):
    env.register(f"GB('StreamReader').{body}.register('{stream}', mode='{mode}', {arguments})")


def add(env, *identifiers, stream="s"):
    for identifier in identifiers:
        env.client.xadd(stream, {"f": "v"}, id=identifier)


def ids(first, last):
    """`first`-1 ... `last`-1."""
    return [f"{i}-1" for i in range(first, last + 1)]


def rest(env, stream="s"):
    """The ids that the stream still holds."""
    return [identifier for identifier, _ in env.client.xrange(stream)]


def pending(env, stream="s"):
    """How many entries are delivered and not acknowledged, over all groups."""
    return sum(group["pending"] for group in env.client.xinfo_groups(stream))


def wait_empty(env, *streams):
    for stream in streams:
        wait_until(lambda name=stream: env.client.xlen(name) == 0, what=f"an empty {stream}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("1", "regex argument must be a string"),
        ("'s', batch='x'", "batch argument must be a number"),
        ("'s', batch=1.5", "batch argument must be a number"),
        ("'s', batch=None", "batch argument must be a number"),
        ("'s', batch=0", "batch"),
        ("'s', batch=-1", "batch"),
        ("'s', duration='x'", "duration argument must be a number"),
        ("'s', duration=1.5", "duration argument must be a number"),
        ("'s', onFailedPolicy=1", "onFailedPolicy must be a string (Continue/Abort/Retry)"),
        ("'s', onFailedPolicy='later'", "onFailedPolicy must be Continue/Abort/Retry"),
        ("'s', onFailedRetryInterval='x'", "retryInterval argument must be a number"),
        ("'s', onFailedRetryInterval=1.5", "retryInterval argument must be a number"),
        ("'s', trimStream=1", "pyTrimmStream argument must be a boolean"),
        ("'s', mode='later'", "unknown execution mode"),
        ("'s', mode=1", "execution mode must be a string"),
        ("'s', startId=1", "startId"),
    ],
)
def test_arguments(env, arguments, text):
    assert text in env.refused(f"GB('StreamReader').register({arguments})")
    assert env.registrations() == []


@pytest.mark.parametrize("policy", ["Abort", "Retry", "abort", "RETRY"])
def test_sync_goes_on_after_failures_only(env, policy):
    text = "ExecutionMode sync can only be combined with OnFailedPolicy Continue"
    call = f"GB('StreamReader').register('s', mode='sync', onFailedPolicy='{policy}')"
    assert text in env.refused(call)
    assert env.registrations() == []


@pytest.mark.parametrize("policy", ["Continue", "CONTINUE", "Abort", "abort", "Retry", "rEtRy"])
def test_policies_in_any_case(env, policy):
    env.register(f"GB('StreamReader').register('s', onFailedPolicy='{policy}')")
    assert env.data()["args"]["onFailedPolicy"] == policy.lower()


@pytest.mark.parametrize("mode", MODES)
def test_records(env, mode):
    listen(env, mode=mode, body="foreach(lambda r: execute('rpush', 'log', str(r)))")
    env.client.xadd("s", {"a": "1", "b": "2"}, id="1-1")
    expected = {"key": "s", "id": "1-1", "value": {"a": "1", "b": "2"}}
    env.wait_log([str(expected)])
    wait_empty(env, "s")


@pytest.mark.parametrize("mode", MODES)
def test_bytes_that_are_no_text(env, mode):
    listen(env, stream="s*", mode=mode, body="foreach(lambda r: execute('rpush', 'log', str(r)))")
    env.binary.xadd(b"s\xff", {b"a\0b": b"\0", b"\xfe": b"\xfd"}, id=b"1-1")
    expected = {
        "key": bytearray(b"s\xff"),
        "id": "1-1",
        "value": {"a\0b": "\0", b"\xfe": bytearray(b"\xfd")},
    }
    env.wait_log([str(expected)])


def test_a_field_twice_has_its_last_value(env):
    listen(env, body="foreach(lambda r: execute('rpush', 'log', str(r['value'])))")
    env.call("XADD", "s", "1-1", "a", "1", "a", "2")
    env.wait_log(["{'a': '2'}"])


@pytest.mark.parametrize("mode", MODES)
def test_every_entry_in_order(env, mode):
    listen(env, mode=mode)
    add(env, *ids(1, 500))
    env.wait_log(ids(1, 500))
    wait_empty(env, "s")
    assert pending(env) == 0
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
@pytest.mark.parametrize("mode", MODES)
def test_entries_of_before(env, mode, batch):
    add(env, *ids(1, 700))
    listen(env, f"batch={batch}", mode=mode)
    env.wait_log(ids(1, 700))
    wait_empty(env, "s")


def test_a_long_backlog_of_a_sync_function(env):
    """One batch after the other, not one within the other."""
    pipe = env.client.pipeline(transaction=False)
    for _ in range(20000):
        pipe.xadd("s", {"f": "v"})
    pipe.execute()
    listen(env, mode="sync", body="foreach(lambda r: execute('incr', 'n'))")
    wait_until(lambda: env.client.get("n") == "20000", timeout=60)
    wait_empty(env, "s")


def test_a_sync_function_is_done_before_the_reply(env):
    listen(env, mode="sync")
    pipe = env.client.pipeline(transaction=False)
    for i in range(1, 50):
        pipe.xadd("s", {"f": "v"}, id=f"{i}-1")
        pipe.lindex("log", -1)
        pipe.xlen("s")
    replies = pipe.execute()
    assert replies[1::3] == ids(1, 49)
    assert set(replies[2::3]) == {0}


@pytest.mark.parametrize(
    ("prefix", "matching", "others"),
    [
        ("s", ["s"], ["s1", "S"]),
        ("s*", ["s", "s1", "s*"], ["S1", "as"]),
        ("s[1]*", ["s[1]", "s[1]x"], ["s1", "s"]),
        ("s?", ["s?"], ["s1"]),
        ("*", ["a", "b"], []),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_prefixes(env, prefix, matching, others, before):
    """The same names match when they exist already and when they appear later."""
    body = "foreach(lambda r: execute('sadd', 'seen', r['key']))"
    if not before:
        listen(env, stream=prefix, body=body)
    for stream in [*others, *matching]:
        add(env, "1-1", stream=stream)
    if before:
        listen(env, stream=prefix, body=body)
    wait_empty(env, *matching)
    assert env.client.smembers("seen") == set(matching)
    assert [env.client.xlen(stream) for stream in others] == [1] * len(others)


def test_other_types_of_keys_with_the_prefix(env):
    env.client.mset({"s1": 1})
    env.client.lpush("s2", 1)
    listen(env, stream="s*")
    env.client.set("s3", 1)
    add(env, "1-1", stream="s4")
    env.wait_log(["1-1"])
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_batches(env, mode):
    listen(env, "batch=3", mode=mode, body=LOG_BATCH)
    add(env, *ids(1, 2))
    add(env, *ids(3, 7))
    env.wait_log(["1-1 2-1 3-1", "4-1 5-1 6-1"])
    wait_until(lambda: rest(env) == ["7-1"])
    add(env, *ids(8, 9))
    env.wait_log(["1-1 2-1 3-1", "4-1 5-1 6-1", "7-1 8-1 9-1"])


def test_sync_batches(env):
    listen(env, "batch=3", mode="sync", body=LOG_BATCH)
    add(env, *ids(1, 2))
    assert env.log_list() == []
    add(env, "3-1")
    assert env.log_list() == ["1-1 2-1 3-1"]


@pytest.mark.parametrize("mode", MODES)
def test_an_incomplete_batch_after_its_duration(env, mode):
    listen(env, "batch=100, duration=50", mode=mode, body=LOG_BATCH)
    pipe = env.client.pipeline()
    for identifier in ids(1, 3):
        pipe.xadd("s", {"f": "v"}, id=identifier)
    pipe.execute()
    env.wait_log(["1-1 2-1 3-1"])
    wait_empty(env, "s")
    pipe = env.client.pipeline()
    for identifier in ids(4, 5):
        pipe.xadd("s", {"f": "v"}, id=identifier)
    pipe.execute()
    env.wait_log(["1-1 2-1 3-1", "4-1 5-1"])


def test_a_full_batch_does_not_wait_for_its_duration(env):
    listen(env, "batch=2, duration=100000", body=LOG_BATCH)
    add(env, *ids(1, 2))
    env.wait_log(["1-1 2-1"])


def test_without_trimming(env):
    listen(env, "trimStream=False")
    add(env, *ids(1, 10))
    env.wait_log(ids(1, 10))
    wait_until(lambda: pending(env) == 0)
    assert rest(env) == ids(1, 10)
    add(env, "11-1")
    env.wait_log(ids(1, 11))


def test_trimming_spares_what_is_not_processed(env):
    listen(env, "batch=2")
    add(env, *ids(1, 5))
    env.wait_log(ids(1, 4))
    wait_until(lambda: rest(env) == ["5-1"])


def test_entries_that_others_remove(env):
    """Removals of others do not make the registration trim what it did not process."""
    env.register(
        HOLD
        + f"GB('StreamReader').foreach(lambda r: hold()).{LOG_ID}"
        + ".register('s', batch=2, mode='async_local')"
    )
    add(env, *ids(1, 9))
    wait_until(env.held)
    env.client.xdel("s", "4-1", "6-1")
    env.client.xtrim("s", maxlen=5)
    env.go()
    wait_until(lambda: "8-1" in env.log_list())
    wait_until(lambda: pending(env) == 0)
    done = env.log_list()
    left = [identifier for identifier in rest(env) if identifier not in done]
    assert done + left == ["1-1", "2-1", "3-1", "5-1", "7-1", "8-1", "9-1"]


def test_two_streams_of_a_registration(env):
    body = "foreach(lambda r: execute('rpush', 'log ' + r['key'], r['id']))"
    listen(env, stream="s*", body=body)
    for i in range(1, 101):
        add(env, f"{i}-1", stream="s1")
        add(env, f"{i}-1", stream="s2")
    env.wait_log(ids(1, 100), "log s1")
    env.wait_log(ids(1, 100), "log s2")
    wait_empty(env, "s1", "s2")


@pytest.mark.parametrize("mode", MODES)
def test_within_multi_and_scripts_of_the_server(env, mode):
    listen(env, mode=mode)
    pipe = env.client.pipeline()
    pipe.xadd("s", {"f": "v"}, id="1-1")
    pipe.xadd("s", {"f": "v"}, id="2-1")
    pipe.execute()
    env.client.eval("for i = 3, 5 do redis.call('xadd', 's', i .. '-1', 'f', 'v') end", 0)
    env.wait_log(ids(1, 5))
    wait_empty(env, "s")


FAILING = """
def work(r):
    execute('rpush', 'log', r['id'])
    if execute('get', 'fail') == r['id']:
        raise ValueError('as told')
"""


def fail(env, policy, arguments="", mode="async_local"):
    """A function that fails at the entry whose id is in key `fail`."""
    env.register(
        FAILING
        + "GB('StreamReader').foreach(work)"
        + f".register('s', onFailedPolicy='{policy}', mode='{mode}', {arguments})"
    )


@pytest.mark.parametrize("mode", MODES)
def test_policy_continue(env, mode):
    fail(env, "continue", mode=mode)
    env.client.set("fail", "2-1")
    add(env, *ids(1, 3))
    env.wait_log(ids(1, 3))
    wait_empty(env, "s")
    data = env.settled()
    assert (data["status"], data["numFailures"]) == ("OK", 1)


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_policy_abort(env, mode):
    fail(env, "abort", mode=mode)
    env.client.set("fail", "2-1")
    add(env, *ids(1, 3))
    wait_until(lambda: env.data()["status"] == "ABORTED")
    add(env, "4-1")
    assert env.settled()["numFailures"] == 1
    assert "as told" in env.data()["lastError"]
    assert env.log_list() == ["1-1", "2-1"]
    assert rest(env) == ids(2, 4)


def test_an_aborted_registration_is_revived(env):
    fail(env, "abort")
    env.client.set("fail", "2-1")
    add(env, *ids(1, 3))
    wait_until(lambda: env.data()["status"] == "ABORTED")
    env.client.delete("fail")
    env.unpause(env.identifier())
    env.wait_log(["1-1", "2-1", "2-1", "3-1"])
    wait_empty(env, "s")
    assert env.data()["status"] == "OK"


@pytest.mark.parametrize("mode", ["async_local", "async"])
def test_policy_retry_reads_the_batch_again(env, mode):
    fail(env, "retry", "batch=3, onFailedRetryInterval=1", mode)
    env.client.set("fail", "2-1")
    add(env, *ids(1, 3))
    wait_until(lambda: env.data()["status"] == "WAITING_FOR_RETRY_ON_FAILURE")
    assert "as told" in env.data()["lastError"]
    assert rest(env) == ids(1, 3)
    env.client.delete("fail")
    add(env, *ids(4, 6))
    env.wait_log(["1-1", "2-1", *ids(1, 6)])
    wait_empty(env, "s")
    data = env.settled()
    assert (data["status"], data["numFailures"], data["lastError"]) == ("OK", 1, None)


def test_several_retries(env):
    fail(env, "retry", "onFailedRetryInterval=1")
    env.client.set("fail", "1-1")
    add(env, *ids(1, 2))
    wait_until(lambda: env.data()["numFailures"] == 2)
    env.client.delete("fail")
    env.wait_log(["1-1", "1-1", "1-1", "2-1"])
    wait_empty(env, "s")


def test_the_retry_interval_is_in_seconds(env):
    fail(env, "retry", "onFailedRetryInterval=100")
    env.client.set("fail", "1-1")
    add(env, "1-1")
    wait_until(lambda: env.data()["status"] == "WAITING_FOR_RETRY_ON_FAILURE")
    assert env.data()["args"]["retryInterval"] == 100
    before = env.data()["numTriggered"]
    fail_again = env.data()["numFailures"]
    listen(env, "onFailedPolicy='retry', onFailedRetryInterval=1", stream="t")
    add(env, "1-1", stream="t")
    wait_empty(env, "t")
    data = env.registrations()[0]["RegistrationData"]
    assert (data["numTriggered"], data["numFailures"]) == (before, fail_again)


def test_unregister_while_waiting_for_a_retry(env):
    fail(env, "retry", "onFailedRetryInterval=1")
    env.client.set("fail", "1-1")
    add(env, "1-1")
    wait_until(lambda: env.data()["status"] == "WAITING_FOR_RETRY_ON_FAILURE")
    env.unregister(env.identifier())
    env.client.delete("fail")
    listen(env)
    env.wait_log(["1-1", "1-1"])
    wait_empty(env, "s")


@pytest.mark.parametrize("policy", ["continue", "abort", "retry"])
def test_a_function_pauses_itself(env, policy):
    env.register(
        f"""
        def work(r):
            if execute('get', 'closed'):
                flat_error('PAUSE until the shop opens')
            execute('rpush', 'log', r['id'])
        GB('StreamReader').foreach(work) \\
            .register('s', onFailedPolicy='{policy}', mode='async_local')
        """
    )
    env.client.set("closed", 1)
    add(env, *ids(1, 3))
    wait_until(lambda: env.data()["status"] == "PAUSED")
    assert env.settled()["lastError"] == "PAUSE until the shop opens"
    assert (env.log_list(), rest(env)) == ([], ids(1, 3))
    env.client.delete("closed")
    add(env, "4-1")
    env.unpause(env.identifier())
    env.wait_log(ids(1, 4))
    wait_empty(env, "s")
    assert env.data()["status"] == "OK"


def test_several_registrations_see_every_entry(env):
    for name in ("a", "b", "c"):
        listen(env, body=f"foreach(lambda r: execute('rpush', 'log {name}', r['id']))")
    add(env, *ids(1, 100))
    for name in ("a", "b", "c"):
        env.wait_log(ids(1, 100), f"log {name}")
    wait_empty(env, "s")


def test_a_registration_of_later_sees_what_is_left(env):
    listen(env, "trimStream=False", body="foreach(lambda r: execute('rpush', 'log a', r['id']))")
    add(env, *ids(1, 10))
    env.wait_log(ids(1, 10), "log a")
    listen(env, "trimStream=False", body="foreach(lambda r: execute('rpush', 'log b', r['id']))")
    env.wait_log(ids(1, 10), "log b")
    assert env.log_list("log a") == ids(1, 10)


@pytest.mark.parametrize("slow_mode", ["async_local", "async"])
def test_a_fast_registration_does_not_trim_what_a_slow_one_needs(env, slow_mode):
    env.register(
        HOLD
        + f"""
GB('StreamReader').foreach(lambda r: hold()).{LOG_ID}.register('s', mode='{slow_mode}')
GB('StreamReader').foreach(lambda r: execute('incr', 'n')).register('s', mode='async_local')
"""
    )
    add(env, *ids(1, 20))
    wait_until(lambda: env.client.get("n") == "20")
    wait_until(env.held)
    env.go()
    env.wait_log(ids(1, 20))
    wait_empty(env, "s")


def test_a_fast_registration_does_not_trim_what_a_paused_one_needs(env):
    listen(env)
    paused = env.identifier()
    env.pause(paused)
    listen(env, body="foreach(lambda r: execute('incr', 'n'))")
    add(env, *ids(1, 20))
    wait_until(lambda: env.client.get("n") == "20")
    env.unpause(paused)
    env.wait_log(ids(1, 20))
    wait_empty(env, "s")


def test_an_unregistered_one_holds_nothing_back(env):
    listen(env)
    paused = env.identifier()
    env.pause(paused)
    listen(env, body="foreach(lambda r: execute('incr', 'n'))")
    add(env, *ids(1, 3))
    wait_until(lambda: env.client.get("n") == "3")
    env.unregister(paused)
    add(env, "4-1")
    wait_empty(env, "s")
    assert len(env.client.xinfo_groups("s")) == 1


def test_a_shared_group(env):
    """With the switch on, entries are divided between the registrations, as in the original."""
    env.config("StreamSharedGroup", 1)
    for _ in range(3):
        listen(env)
    add(env, *ids(1, 300))
    wait_until(lambda: env.client.llen("log") >= 300)
    wait_empty(env, "s")
    assert sorted(env.log_list()) == sorted(ids(1, 300))
    (group,) = env.client.xinfo_groups("s")
    assert group["name"] == SHARED_GROUP
    (consumer,) = env.client.xinfo_consumers("s", SHARED_GROUP)
    assert consumer["name"] == "__gears_client__"


def test_the_shared_group_at_load(new_env):
    env = new_env("StreamSharedGroup", 1)
    listen(env)
    add(env, *ids(1, 3))
    env.wait_log(ids(1, 3))
    assert [group["name"] for group in env.client.xinfo_groups("s")] == [SHARED_GROUP]


def test_a_group_for_every_registration(env):
    listen(env)
    listen(env)
    add(env, "1-1")
    env.wait_log(["1-1", "1-1"])
    groups = {group["name"] for group in env.client.xinfo_groups("s")}
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("start", "expected"),
    [("0-0", ids(1, 5)), ("2-1", ids(3, 5)), ("3", ids(3, 5)), ("$", ["5-1"])],
)
@pytest.mark.parametrize("mode", MODES)
def test_where_to_start(env, mode, start, expected):
    add(env, *ids(1, 4))
    listen(env, f"startId='{start}'", mode=mode)
    add(env, "5-1")
    env.wait_log(expected)
    wait_until(lambda: pending(env) == 0)
    assert env.settled()["numFailures"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_new_entries_only_of_a_stream_that_does_not_exist_yet(env, mode):
    listen(env, "startId='$'", stream="s*", mode=mode)
    add(env, *ids(1, 3))
    add(env, *ids(1, 3), stream="s2")
    wait_until(lambda: env.client.llen("log") == 6)


def test_new_entries_only_counts_once(env):
    """What was added while nothing ran is not skipped when the group exists."""
    add(env, *ids(1, 3))
    listen(env, "startId='$'")
    add(env, "4-1")
    env.wait_log(["4-1"])
    env.pause(env.identifier())
    add(env, "5-1")
    env.unpause(env.identifier())
    env.wait_log(ids(4, 5))
    wait_until(lambda: pending(env) == 0)
    env.reload()
    add(env, "6-1")
    env.wait_log(ids(4, 6))


def test_entries_before_the_start_are_not_trimmed_by_it_alone(env):
    """What the registration never saw is not its to remove, if it trims nothing."""
    add(env, *ids(1, 3))
    listen(env, "startId='$', trimStream=False")
    add(env, "4-1")
    env.wait_log(["4-1"])
    wait_until(lambda: pending(env) == 0)
    assert rest(env) == ids(1, 4)


def test_a_stream_that_goes_and_comes_back(env):
    listen(env)
    add(env, *ids(1, 3))
    env.wait_log(ids(1, 3))
    env.client.delete("s")
    add(env, *ids(1, 2))
    env.wait_log([*ids(1, 3), *ids(1, 2)])
    wait_empty(env, "s")


def test_flushall_and_new_entries(env):
    listen(env)
    add(env, "1-1")
    env.wait_log(["1-1"])
    env.client.flushall()
    add(env, "2-1")
    env.wait_log(["2-1"])


def test_a_stream_that_becomes_another_type(env):
    listen(env, "batch=2")
    add(env, "1-1")
    env.client.delete("s")
    env.client.set("s", "text")
    env.client.delete("s")
    add(env, *ids(5, 6))
    env.wait_log(ids(5, 6))


def test_a_group_that_others_destroy(env):
    listen(env)
    add(env, "1-1")
    env.wait_log(["1-1"])
    wait_empty(env, "s")
    for group in env.client.xinfo_groups("s"):
        env.client.xgroup_destroy("s", group["name"])
    add(env, "2-1")
    env.wait_log(ids(1, 2))
    wait_empty(env, "s")


def test_a_stream_that_is_deleted_while_it_is_processed(env):
    env.register(
        HOLD
        + f"GB('StreamReader').foreach(lambda r: hold()).{LOG_ID}"
        + ".register('s', mode='async_local')"
    )
    add(env, *ids(1, 3))
    wait_until(env.held)
    env.client.delete("s")
    env.go()
    env.settled()
    add(env, "9-1")
    wait_until(lambda: env.log_list()[-1:] == ["9-1"])


def test_a_renamed_stream(env):
    add(env, *ids(1, 2), stream="{new}old")
    listen(env, stream="new")
    env.client.rename("{new}old", "new")
    add(env, "3-1", stream="new")
    env.wait_log(ids(1, 3))


def test_aborting_an_execution_loses_nothing(env):
    env.register(
        HOLD
        + f"GB('StreamReader').foreach(lambda r: hold()).{LOG_ID}.register('s', "
        + "onFailedPolicy='retry', onFailedRetryInterval=1, mode='async_local')"
    )
    add(env, *ids(1, 2))
    wait_until(env.held)
    (running,) = [i for i, status in env.executions().items() if status == "running"]
    assert env.abort(running) == "OK"
    wait_until(lambda: env.data()["numFailures"] + env.data()["numAborted"] > 0)
    env.go()
    env.wait_log(ids(1, 2))
    wait_empty(env, "s")


def test_an_unregistered_function_stops(env):
    listen(env)
    add(env, "1-1")
    env.wait_log(["1-1"])
    wait_empty(env, "s")
    env.unregister(env.identifier())
    add(env, "2-1")
    listen(env, stream="t")
    add(env, "3-1", stream="t")
    env.wait_log(["1-1", "3-1"])
    assert rest(env) == ["2-1"]


def test_statistics_add_up(env):
    fail(env, "continue", "batch=2")
    env.client.set("fail", "4-1")
    add(env, *ids(1, 11))
    env.wait_log(ids(1, 11)[:10])
    data = env.settled()
    assert data["numFailures"] == 1
    assert data["numSuccess"] >= 4
    assert data["numTriggered"] == data["numSuccess"] + data["numFailures"] + data["numAborted"]


def test_the_lag_of_a_batch(env):
    """From the first entry of a batch to its acknowledgement."""
    env.register(
        """
        import time
        GB('StreamReader').foreach(lambda r: time.sleep(0.03)) \\
            .register('s', mode='async_local')
        """
    )
    add(env, "1-1")
    wait_empty(env, "s")
    data = env.settled()
    assert float(data["avgEstimatedLagMS"]) > 0
    assert data["totalRunDurationMS"] >= 30


def test_a_function_that_adds_to_another_stream(env):
    env.register(
        f"""
        GB('StreamReader').foreach(lambda r: execute('xadd', 't', r['id'], 'f', 'v')) \\
            .register('s', mode='async_local')
        GB('StreamReader').{LOG_ID}.register('t', mode='async_local')
        """
    )
    add(env, *ids(1, 50))
    env.wait_log(ids(1, 50))
    wait_empty(env, "s", "t")


def test_a_sync_function_that_adds_to_another_stream(env):
    env.register(
        f"""
        GB('StreamReader').foreach(lambda r: execute('xadd', 't', r['id'], 'f', 'v')) \\
            .register('s', mode='sync')
        GB('StreamReader').{LOG_ID}.register('t', mode='async_local')
        """
    )
    add(env, *ids(1, 50))
    env.wait_log(ids(1, 50))


def test_the_slowest_of_many_clients(env):
    """Eight clients add at the same time; every stream keeps its order."""
    body = "foreach(lambda r: execute('rpush', 'log ' + r['key'], r['value']['n']))"
    listen(env, "batch=10, duration=20", stream="s*", body=body)
    for n in range(100):
        pipe = env.client.pipeline(transaction=False)
        for stream in range(8):
            pipe.xadd(f"s{stream}", {"n": n})
        pipe.execute()
    for stream in range(8):
        env.wait_log([str(n) for n in range(100)], f"log s{stream}")


@pytest.mark.parametrize("mode", ["sync", "async_local", "async"])
def test_no_event_comes_of_remembering_what_is_processed(env, mode):
    env.register(
        "GB().foreach(lambda r: execute('rpush', 'events{s}', r['event']))"
        ".register('s', mode='async_local')"
    )
    listen(env, mode=mode, arguments="trimStream=False")
    for n in (1, 2):
        add(env, f"{n}-0")
        env.wait_log([f"{m}-0" for m in range(1, n + 1)])
    env.client.xgroup_setid("s", "__gears_consumer_group__", "2-0")
    wait_until(lambda: "xgroup-setid" in env.client.lrange("events{s}", 0, -1))
    events = env.client.lrange("events{s}", 0, -1)
    expected = ["xadd", "xadd", "xgroup-create", "xgroup-createconsumer", "xgroup-setid"]
    assert sorted(events) == expected
