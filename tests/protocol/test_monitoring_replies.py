"""What the nodes say about themselves, merged: by example, by model, and against real servers, shape by shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply, pack
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.merging import MERGED_BY_HAND, merge_over_nodes
from slotproxy.protocol.monitoring_replies import MARKS, node_marks
from slotproxy.protocol.nodereplies import is_error
from slotproxy.protocol.resp import OK, array, bulk, encode, error, integer
from tests.protocol.live import LiveServer
from tests.protocol.test_merging import by_hand, merged

NO_SAMPLES = error("ERR No samples available for event 'command'")


def decoded(frame: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


# ---- SLOWLOG GET


def entry(number: int, when: int) -> list[object]:
    return [number, when, 12, [b"GET", b"k"], b"127.0.0.1:5", b""]


def slowlog(*by_node: list[list[object]], count: str = "") -> list[tuple[int, int]]:
    """The merged log as (the node's own id, time)."""
    reply = decoded(by_hand("slowlog|get", *by_node, arguments=count))
    assert all(rest == [12, [b"GET", b"k"], b"127.0.0.1:5", b""] for _, _, *rest in reply)
    assert len({number for number, *_ in reply}) == len(reply)
    return [(number // MARKS, when) for number, when, *_ in reply]


def test_the_slow_log_is_newest_first_by_time_and_then_by_id() -> None:
    one, other = [entry(9, 50), entry(8, 50), entry(7, 10)], [entry(3, 60), entry(2, 50)]
    assert slowlog(one, other) == [(3, 60), (9, 50), (8, 50), (2, 50), (7, 10)]


@pytest.mark.parametrize(("count", "shown"), [("", 10), ("3", 3), ("0", 0), ("-1", 24), ("-7", 24), ("99", 24)])
def test_the_slow_log_has_as_many_entries_as_were_asked_for(count: str, shown: int) -> None:
    logs = [[entry(number, 100 + number) for number in reversed(range(12))] for _ in range(2)]
    assert slowlog(*logs, count=count) == [(11 - at // 2, 111 - at // 2) for at in range(shown)]


def test_ids_of_the_slow_log_do_not_depend_on_which_node_is_asked_first() -> None:
    logs = {f"10.0.0.{host}:6379": encode([entry(5, 7), entry(4, 7)]) for host in range(4)}
    words = [b"SLOWLOG", b"GET", b"-1"]
    seen = {
        merge_over_nodes("slowlog|get", "", words, list(nodes), [logs[node] for node in nodes])
        for nodes in permutations(logs)
    }
    assert len(seen) == 1
    numbers = [row[0] for row in decoded(seen.pop())]
    assert len(set(numbers)) == 8 and max(numbers) < 2**53


def test_nodes_whose_addresses_hash_alike_have_marks_of_their_own() -> None:
    by_mark: dict[int, str] = {}
    for number in range(100_000):
        node = f"redis-{number}.example:6379"
        (mark,) = node_marks([node]).values()
        other = by_mark.setdefault(mark, node)
        if other != node:
            break
    marks = node_marks([node, other])
    assert sorted(marks.values()) == [mark, mark + 1]
    assert node_marks([other, node]) == marks


# ---- ACL LOG


def test_the_acl_log_is_youngest_first() -> None:
    def denied(name: bytes, age: bytes) -> list[object]:
        return [b"count", 1, b"username", name, b"age-seconds", age]

    logs = [[denied(b"a", b"0.5"), denied(b"b", b"12")], [denied(b"c", b"2.25")], [denied(b"d", b"1e2")]]
    expected = [logs[0][0], logs[1][0], logs[0][1], logs[2][0]]
    assert by_hand("acl|log", *logs) == encode(expected)
    assert by_hand("acl|log", *logs, arguments="2") == encode(expected[:2])
    assert by_hand("acl|log", [], [], arguments="-1") == encode([])
    assert by_hand("acl|log", [], [denied(b"c", b"2.25")] * 20) == encode([denied(b"c", b"2.25")] * 10)
    assert merged("acl|log", "", OK, OK, arguments="RESET") == OK


# ---- LATENCY


def test_the_latest_spike_of_an_event_is_the_youngest_and_the_maximum_the_greatest() -> None:
    one, other = [[b"command", 100, 5, 90], [b"fork", 7, 1, 1]], [[b"command", 200, 3, 30], [b"aof", 8, 2, 2]]
    expected = [[b"command", 200, 3, 90], [b"fork", 7, 1, 1], [b"aof", 8, 2, 2]]
    assert by_hand("latency|latest", one, other) == encode(expected)
    assert by_hand("latency|latest", [[b"fork", 7, 1, 1]], [[b"fork", 7, 3, 3]]) == encode([[b"fork", 7, 3, 3]])


def test_a_latency_history_has_one_sample_per_second_by_time() -> None:
    assert by_hand("latency|history", [[10, 3], [30, 1]], [[5, 9], [10, 4]], []) == encode([[5, 9], [10, 4], [30, 1]])


BOUNDS = st.sampled_from([1, 2, 4, 8, 16, 33, 66, 1056])
CALLS = st.dictionaries(st.sampled_from([b"get", b"set", b"config|set"]), st.lists(BOUNDS, min_size=1))


def histogram(calls: dict[bytes, list[int]]) -> bytes:
    """LATENCY HISTOGRAM of a server that ran these commands, each call taking that many microseconds."""
    reply: list[object] = []
    for name, took in calls.items():
        buckets: list[object] = []
        for bound in sorted(set(took)):
            buckets += [bound, sum(each <= bound for each in took)]
        reply += [name, [b"calls", len(took), b"histogram_usec", buckets]]
    return encode(reply)


@given(by_node=st.lists(CALLS, min_size=2, max_size=5))
def test_a_merged_histogram_is_that_of_one_server_that_ran_all_the_calls(by_node: list[dict[bytes, list[int]]]) -> None:
    together: dict[bytes, list[int]] = {}
    for calls in by_node:
        for name, took in calls.items():
            together[name] = together.get(name, []) + took
    assert merged("latency|histogram", "special", *[histogram(calls) for calls in by_node]) == histogram(together)


# ---- texts

CALM = b"Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit.\n"
EMPTY = b"Hi Sam, this instance is empty or is using very little memory, my issues detector can't be used.\n"
FINE = b"Hi Sam, I can't find any memory issue in your instance.\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([b"a\n", b"a\n"], b"a\n"),
        ([b"a\n\n", b"b"], b"# 127.0.0.1:7000\na\n\n# 127.0.0.1:7001\nb\n"),
        ([CALM, CALM], CALM),
        ([CALM, b"spikes!\n", CALM], b"spikes!\n"),
        ([CALM, b"a\n", b"a\n"], b"# 127.0.0.1:7001\na\n\n# 127.0.0.1:7002\na\n"),
        ([FINE, EMPTY], FINE),
        ([EMPTY, b"Sam, I detected a few issues\n"], b"Sam, I detected a few issues\n"),
    ],
)
@pytest.mark.parametrize("name", ["latency|doctor", "memory|doctor", "memory|malloc-stats", "latency|graph"])
def test_texts_stand_under_the_names_of_their_nodes_unless_one_says_it_all(
    name: str, texts: list[bytes], expected: bytes
) -> None:
    assert by_hand(name, *texts) == bulk(expected)
    verbatim = [b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) for text in texts]
    assert merged(name, "special", *verbatim) == b"=%d\r\ntxt:%b\r\n" % (len(expected) + 4, expected)


def test_a_graph_is_that_of_the_nodes_which_have_samples() -> None:
    assert merged("latency|graph", "special", NO_SAMPLES, bulk(b"graph\n"), NO_SAMPLES) == bulk(b"graph\n")
    both = b"# 127.0.0.1:7000\na\n\n# 127.0.0.1:7002\nb\n"
    assert merged("latency|graph", "special", bulk(b"a"), NO_SAMPLES, bulk(b"b")) == bulk(both)
    assert merged("latency|graph", "special", NO_SAMPLES, NO_SAMPLES) == NO_SAMPLES


# ---- MEMORY STATS


def test_memory_is_added_up_and_ratios_are_those_of_the_sums() -> None:
    def stats(unit: int, keys: int) -> list[object]:
        tables = [b"overhead.hashtable.main", 7 * keys, b"overhead.hashtable.expires", 0]
        return [
            *(b"peak.allocated", 100 * unit, b"total.allocated", 50 * unit, b"startup.allocated", 10 * unit),
            *([b"db.0", tables] if keys else []),
            *(b"keys.count", keys, b"keys.bytes-per-key", 40 * unit // keys if keys else 0),
            *(b"dataset.bytes", 20 * unit, b"dataset.percentage", b"1", b"peak.percentage", b"1"),
            *(b"allocator.allocated", 50 * unit, b"allocator.active", 75 * unit, b"allocator.resident", 150 * unit),
            *(b"allocator-fragmentation.ratio", b"1", b"allocator-rss.ratio", b"1"),
            *(b"rss-overhead.ratio", b"1", b"rss-overhead.bytes", 30 * unit),
            *(b"fragmentation", b"1", b"fragmentation.bytes", 135 * unit, b"unheard-of.ratio", b"%d.5" % unit),
        ]

    expected = [
        *(b"peak.allocated", 400, b"total.allocated", 200, b"startup.allocated", 40),
        *(b"db.0", [b"overhead.hashtable.main", 35, b"overhead.hashtable.expires", 0]),
        *(b"keys.count", 5, b"keys.bytes-per-key", 160 // 5),
        *(b"dataset.bytes", 80, b"dataset.percentage", b"50", b"peak.percentage", b"50"),
        *(b"allocator.allocated", 200, b"allocator.active", 300, b"allocator.resident", 600),
        *(b"allocator-fragmentation.ratio", b"1.5", b"allocator-rss.ratio", b"2"),
        *(b"rss-overhead.ratio", b"1.2", b"rss-overhead.bytes", 120),
        *(b"fragmentation", b"4", b"fragmentation.bytes", 540, b"unheard-of.ratio", b"3.5"),
    ]
    reply = decoded(by_hand("memory|stats", stats(1, 0), stats(3, 5)))
    at = reply.index(b"rss-overhead.ratio") + 1
    assert float(reply[at]) == pytest.approx(1.2)
    reply[at] = b"1.2"
    assert reply == expected


def test_memory_of_nodes_that_use_none_divides_by_nothing() -> None:
    zero = [b"total.allocated", 0, b"startup.allocated", 0, b"keys.count", 0, b"keys.bytes-per-key", 0]
    ratios = [b"peak.percentage", b"nan", b"allocator-rss.ratio", b"-1", b"fragmentation", b"2"]
    assert by_hand("memory|stats", zero + ratios, zero + ratios) == encode(zero + ratios)


# ---- what is odd


@pytest.mark.parametrize(
    ("name", "good", "odd"),
    [
        *[("slowlog|get", [], odd) for odd in [[[1]], [[b"1", 2]], [[-1, 2]], [[2**41, 2]], [1], b""]],
        *[("acl|log", [], odd) for odd in [[[b"count", 1]], [[b"age-seconds", b"old"]], [[b"age-seconds"]], b""]],
        *[("latency|latest", [], odd) for odd in [[[b"fork", 1, 1]], [[b"fork", b"1", 1, 1]], b""]],
        *[("latency|history", [], odd) for odd in [[[1]], [[1, b"2"]], [1], b""]],
        *[("latency|histogram", [], odd) for odd in [[b"get"], [b"get", [b"calls", 1]], [b"get", 1], b""]],
        ("latency|histogram", [], [b"get", [b"calls", 1, b"histogram_usec", [1]]]),
        ("latency|doctor", b"", []),
        *[("memory|stats", [b"a", 1], odd) for odd in [[b"a"], [b"a", b"1"], [b"a", []], b""]],
        *[("memory|stats", [b"a", b"1.5"], odd) for odd in [[b"a", 1], [b"a", b"x"]]],
        ("memory|stats", [b"db.0", []], [b"db.0", [b"a"]]),
    ],
)
def test_a_reply_of_another_shape_is_an_error_that_names_the_node(name: str, good: object, odd: object) -> None:
    shown = name.upper().replace("|", " ")
    reply = by_hand(name, good, odd)
    assert reply.startswith(f"-ERR slotproxy: {shown}: node 127.0.0.1:7001 answered '".encode())


# ---- real servers

#: Names of fields, which have to stand in the merged reply where they stand in one node's. All else is a value.
FIELDS = frozenset(
    b"count reason context object username age-seconds client-info library_name engine functions name description "
    b"flags library_code running_script command duration_ms engines LUA libraries_count functions_count calls".split()
)

COMMANDS = [
    *("ACL LOG", "ACL LOG 1", "FUNCTION DUMP", "FUNCTION LIST", "FUNCTION LIST WITHCODE", "FUNCTION STATS", "LASTSAVE"),
    *("LATENCY DOCTOR", "LATENCY GRAPH command", "LATENCY HISTOGRAM", "LATENCY HISTOGRAM eval", "LATENCY LATEST"),
    *("LATENCY HISTORY command", "LATENCY HISTORY none", "MEMORY DOCTOR", "MEMORY MALLOC-STATS", "MEMORY STATS"),
    *("MODULE LIST", "PUBSUB CHANNELS", "PUBSUB NUMPAT", "PUBSUB NUMSUB", "PUBSUB NUMSUB a b a"),
    *("PUBSUB SHARDCHANNELS", "PUBSUB SHARDNUMSUB a a", "RANDOMKEY", "SLOWLOG GET", "SLOWLOG GET -1", "SLOWLOG GET 1"),
    *("KEYS *", "DBSIZE", "SLOWLOG LEN", "LATENCY RESET", "SCRIPT EXISTS a b", "FLUSHALL", "ACL LOG RESET"),
]


LIBRARY = """#!lua name=lib
redis.register_function('one', function() return 1 end)
redis.register_function('spin', function() while true do end end)"""


def outline(frame: Any, named: bool) -> Any:
    """Types and nesting; names of fields as they are (`named`: whatever stands before a value is one)."""
    if not isinstance(frame, list):
        return frame if frame in FIELDS else type(frame).__name__
    inside = [outline(item, named) for item in frame]
    return [frame[at] if named and at % 2 == 0 else item for at, item in enumerate(inside)]


def rows(frame: Any) -> Iterator[str]:
    """The outlines of a list's rows; lists in them (a command's arguments) may differ in length."""
    for row in outline(frame, False):
        parts = row if isinstance(row, list) else [row]
        yield repr([sorted({repr(item) for item in part}) if isinstance(part, list) else part for part in parts])


def ask(nodes: list[Node], line: str) -> tuple[bytes, list[bytes]]:
    """The merged reply, and those it was made of."""
    words = line.split()
    command = CommandTable.snapshot().resolve([word.encode() for word in words])
    assert command is not None
    replies = [LiveServer(node.port).answers(pack(*words))[0] for node in nodes]
    arguments = [word.encode() for word in words]
    names = [node.address for node in nodes]
    return merge_over_nodes(command.name, command.response_policy, arguments, names, replies), replies


async def give_each_something_to_say(nodes: list[Node]) -> None:
    for node in nodes:
        server = LiveServer(node.port)
        await node.command("CONFIG", "SET", "latency-monitor-threshold", "1")
        await node.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
        for _ in range(3):
            await node.command("EVAL", "local n = 0 for i = 1, 2000000 do n = n + 1 end return n", 0)
            assert server.answers(pack("AUTH", "nobody", "wrong"))[0].startswith(b"-WRONGPASS")
        server.answers(b"".join(pack("SET", f"key-{n}", "v", "EX", "1000") for n in range(30)))
        server.answers(pack("FUNCTION", "LOAD", LIBRARY))


async def test_merged_replies_have_the_shape_that_one_node_gives(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    assert {line.partition(" ")[0] for line in COMMANDS} >= {name.partition("|")[0].upper() for name in MERGED_BY_HAND}
    await give_each_something_to_say(nodes)
    for line in COMMANDS:
        frame, replies = ask(nodes, line)
        if is_error(replies[0]):  # 6.2 does not have it
            assert frame == replies[0], line
            continue
        reply, given = decoded(frame), [decoded(each) for each in replies]
        assert frame[:1] == replies[0][:1], line
        if line in ("MEMORY STATS", "FUNCTION STATS"):
            assert {repr(outline(each, True)) for each in given} == {repr(outline(reply, True))}, line
        elif line.startswith("LATENCY HISTOGRAM"):
            for name, (calls, total, usec, buckets) in zip(reply[::2], reply[1::2], strict=True):
                own = [dict(zip(each[::2], each[1::2], strict=True)).get(name) for each in given]
                assert (calls, usec) == (b"calls", b"histogram_usec") and buckets[-1] == total
                assert total == sum(each[1] for each in own if each), line
                assert buckets[::2] == sorted({bound for each in own if each for bound in each[3][::2]})
        elif isinstance(reply, list):
            assert {*rows(reply)} <= {row for each in given for row in rows(each)}, line
            assert bool(reply) == any(given), line
        else:
            assert type(reply) in {type(each) for each in given}, line
    if not is_error(LiveServer(nodes[0].port).answers(pack("FUNCTION", "FLUSH"))[0]):
        await nodes[1].command("FUNCTION", "FLUSH")
        await nodes[2].command("FUNCTION", "FLUSH")


async def test_merged_replies_of_real_nodes_say_what_is_true_of_all_of_them(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    await give_each_something_to_say(nodes)
    keys = {f"key-{n}".encode() for n in range(30)}
    assert ask(nodes, "DBSIZE")[0] == integer(30)
    assert {*decoded(ask(nodes, "KEYS *")[0])} == keys
    assert {decoded(ask(nodes, "RANDOMKEY")[0]) for _ in range(20)} <= keys
    stats = decoded(ask(nodes, "MEMORY STATS")[0])
    assert stats[stats.index(b"keys.count") + 1] == 30
    log = decoded(ask(nodes, "SLOWLOG GET -1")[0])
    assert [row[1] for row in log] == sorted([row[1] for row in log], reverse=True)
    again = decoded(ask(nodes[::-1], "SLOWLOG GET -1")[0])
    assert {row[0] for row in log} < {row[0] for row in again}  # the same entries by the same ids, and newer ones
    assert len(decoded(ask(nodes, "SLOWLOG GET 2")[0])) == 2
    assert [row[0] for row in decoded(ask(nodes, "LATENCY LATEST")[0])].count(b"command") == 1
    assert ask(nodes, "LATENCY GRAPH nothing")[0] == error("ERR No samples available for event 'nothing'")
    assert ask(nodes, "SLOWLOG GET x")[0] == ask(nodes[:1], "SLOWLOG GET x")[0]
    reset = [int(reply[1:-2]) for reply in ask(nodes, "LATENCY RESET nothing")[1]]
    assert sum(reset) == 0 and ask(nodes, "LATENCY RESET")[0] == integer(3)


async def test_subscribers_of_all_real_nodes_are_counted(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    async with await nodes[0].connect() as one, await nodes[1].connect() as other:
        for connection in (one, other):
            assert await connection.command("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
        assert await other.command("PSUBSCRIBE", "b*") == [b"psubscribe", b"b*", 2]
        assert decoded(ask(nodes, "PUBSUB NUMSUB a c a")[0]) == [b"a", 2, b"c", 0, b"a", 2]
        assert decoded(ask(nodes, "PUBSUB CHANNELS")[0]) == [b"a"]
        assert ask(nodes, "PUBSUB NUMPAT")[0] == integer(1)


@pytest.mark.parametrize(("spin", "kill"), [("EVAL", "SCRIPT KILL"), ("FCALL", "FUNCTION KILL")])
async def test_code_that_keeps_one_node_busy_is_named_and_can_be_killed(
    cluster: EmbeddedCluster, spin: str, kill: str
) -> None:
    nodes = cluster.nodes
    names = [node.address for node in nodes]
    for node in nodes:
        await node.command("CONFIG", "SET", "lua-time-limit", "5")
    has_functions = not is_error(LiveServer(nodes[1].port).answers(pack("FUNCTION", "LOAD", "REPLACE", LIBRARY))[0])
    if spin == "FCALL" and not has_functions:
        pytest.skip("functions came with 7.0")
    assert ask(nodes, kill)[0] == b"-NOTBUSY No scripts in execution right now.\r\n"
    async with await nodes[1].connect() as connection:
        await connection.send(pack(spin, "spin" if spin == "FCALL" else "while true do end", 0))

        async def refused() -> bool:
            return ask(nodes, "DBSIZE")[0].startswith(b"-")

        await until(refused, within=10)
        reply = ask(nodes, "DBSIZE")[0].decode()
        assert reply.startswith(f"-ERR slotproxy: incomplete: DBSIZE failed on node {names[1]} (BUSY Redis is busy ")
        assert reply.endswith(f"; it succeeded on nodes {names[0]}, {names[2]}\r\n")
        if spin == "FCALL":
            stats, replies = ask(nodes, "FUNCTION STATS")
            assert outline(decoded(stats), True) == outline(decoded(replies[1]), True)
            assert decoded(stats)[1][:4] == [b"name", b"spin", b"command", [b"FCALL", b"spin", b"0"]]
        assert ask(nodes, kill)[0] == OK
        assert isinstance(await connection.receive(), ErrorReply)
    if has_functions:
        await nodes[1].command("FUNCTION", "FLUSH")


@pytest.mark.parametrize("odd", [b",", b",\r\n", b",x\r\n", b"$", b"=3\r\ntxt\r\n", b"=1\r\n"])
def test_a_ratio_that_is_no_number_is_an_error_that_names_the_node(odd: bytes) -> None:
    reply = merged("memory|stats", "special", encode([b"a", b"1.5"]), b"*2\r\n$1\r\na\r\n" + odd)
    assert reply.startswith(b"-ERR slotproxy: MEMORY STATS: node 127.0.0.1:7001 answered '")


def test_rows_keep_what_a_later_version_adds() -> None:
    later = array([array([bulk(b"fork"), integer(1), integer(2), integer(2), integer(9)])])
    assert merged("latency|latest", "", array([]), later) == later
