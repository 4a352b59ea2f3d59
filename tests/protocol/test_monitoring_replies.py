"""What the nodes say about themselves, merged: by example and by model; real nodes in test_merging_of_servers."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.merging import merge_over_nodes
from slotproxy.protocol.monitoring_replies import MARKS, node_marks
from slotproxy.protocol.resp import OK, array, bulk, encode, error, integer
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


@pytest.mark.parametrize(
    ("count", "shown"), [("", 10), ("no-number", 10), ("3", 3), ("0", 0), ("-1", 24), ("-7", 24), ("99", 24)]
)
def test_the_slow_log_has_as_many_entries_as_were_asked_for(count: str, shown: int) -> None:
    logs = [[entry(number, 100 + number) for number in reversed(range(12))] for _ in range(2)]
    assert slowlog(*logs, count=count) == [(11 - at // 2, 111 - at // 2) for at in range(shown)]


def test_ids_of_the_slow_log_do_not_depend_on_which_node_is_asked_first() -> None:
    logs = {
        f"10.0.0.{host}:6379": encode([[number, 7, 12, [b"GET"], b"127.0.0.1:%d" % host, b""] for number in (5, 4)])
        for host in range(4)
    }
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
    assert by_hand("acl|log", *logs, arguments="-1") == encode([])
    assert by_hand("acl|log", [], [denied(b"c", b"2.25")] * 20) == encode([denied(b"c", b"2.25")] * 10)
    assert merged("acl|log", "", OK, OK, arguments="RESET") == OK


# ---- LATENCY


def test_the_latest_spike_of_an_event_is_the_youngest_and_the_maximum_the_greatest() -> None:
    one, other = [[b"command", 100, 5, 90], [b"fork", 7, 1, 1]], [[b"command", 200, 3, 30], [b"aof", 8, 2, 2]]
    expected = [[b"command", 200, 3, 90], [b"fork", 7, 1, 1], [b"aof", 8, 2, 2]]
    assert by_hand("latency|latest", one, other) == encode(expected)
    assert by_hand("latency|latest", [[b"fork", 7, 1, 1]], [[b"fork", 7, 3, 3]]) == encode([[b"fork", 7, 3, 3]])


def test_a_latency_history_has_one_sample_per_second_by_time() -> None:
    merged_samples = encode([[5, 9], [10, 4], [30, 1]])
    assert by_hand("latency|history", [[10, 3], [30, 1]], [[5, 9], [10, 4]], []) == merged_samples
    assert by_hand("latency|history", [[5, 9], [10, 4]], [[10, 3], [30, 1]], []) == merged_samples


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


def test_every_field_of_memory_is_kept_and_maps_in_it_are_added_up_too() -> None:
    one, other = [b"db.0", [b"main", 3, b"x", b"y"], b"a", 1, b"c", 1], [b"db.0", [b"main", 4], b"b", 2]
    together = [b"db.0", [b"main", 7, b"x", b"y"], b"a", 1, b"c", 1, b"b", 2]
    assert by_hand("memory|stats", one, other) == encode(together)
    one[1], other[1] = other[1], one[1]
    assert by_hand("memory|stats", one, other) == encode(together)


def test_a_ratio_whose_terms_are_not_all_there_is_the_greatest() -> None:
    one, other = [[b"total.allocated", 9, b"dataset.percentage", each] for each in (b"5", b"7")]
    assert by_hand("memory|stats", one, other) == encode([b"total.allocated", 18, b"dataset.percentage", b"7"])


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


@pytest.mark.parametrize("odd", [b",", b",\r\n", b",x\r\n", b"$", b"=3\r\ntxt\r\n", b"=1\r\n"])
def test_a_ratio_that_is_no_number_is_an_error_that_names_the_node(odd: bytes) -> None:
    reply = merged("memory|stats", "special", encode([b"a", b"1.5"]), b"*2\r\n$1\r\na\r\n" + odd)
    assert reply.startswith(b"-ERR slotproxy: MEMORY STATS: node 127.0.0.1:7001 answered '")


def test_rows_keep_what_a_later_version_adds() -> None:
    later = array([array([bulk(b"fork"), integer(1), integer(2), integer(2), integer(9)])])
    assert merged("latency|latest", "", array([]), later) == later
