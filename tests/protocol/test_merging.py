"""Replies of several nodes become the one reply that one server would have given, or an error that says where."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.merging import MERGED_BY_HAND, merge_over_nodes
from slotproxy.protocol.resp import NULL, OK, array, bulk, encode, error, integer
from tests.protocol.framing import Outcome, read_replies

POLICIES = ["", "agg_sum", "agg_min", "agg_max", "agg_logical_and", "agg_logical_or", "all_succeeded", "one_succeeded"]
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
NOT_BUSY = b"-NOTBUSY No scripts in execution right now.\r\n"

NUMBERS = st.integers(-(2**40), 2**40)
ROWS = st.lists(NUMBERS, min_size=2, max_size=9)
ANY_FRAME = st.recursive(
    st.one_of(
        st.binary(max_size=9).map(bulk),
        st.integers(-(2**63) + 1, 2**63 - 1).map(integer),
        st.sampled_from([NULL, b"*-1\r\n", b"_\r\n", OK, b"+\r\n", b"-ERR x\r\n", b"!5\r\nERR x\r\n", b",1.5\r\n"]),
        st.sampled_from([b"=7\r\ntxt:abc\r\n", b"#t\r\n", b"(9\r\n", b"|1\r\n+a\r\n:1\r\n:2\r\n", b":\r\n", b":x\r\n"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(array),
        st.lists(inner, max_size=4).map(lambda frames: b"~" + array(frames)[1:]),
        st.lists(st.tuples(inner, inner), max_size=3).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(name + value for name, value in pairs)
        ),
    ),
    max_leaves=12,
)


def merged(name: str, policy: str, *replies: bytes, arguments: str = "") -> bytes:
    nodes = [f"127.0.0.1:{7000 + at}" for at in range(len(replies))]
    words = [word.encode() for word in [*name.split("|"), *arguments.split()]]
    return merge_over_nodes(name, policy, words, nodes, list(replies))


def by_hand(name: str, *replies: object, arguments: str = "") -> bytes:
    return merged(name, "", *[encode(reply) for reply in replies], arguments=arguments)


# ---- errors


@pytest.mark.parametrize("policy", [*POLICIES, "special"])
@pytest.mark.parametrize("failed", [READONLY, NOT_BUSY, b"!5\r\nERR x\r\n", error("ERR slotproxy: gone")])
def test_an_error_that_all_nodes_gave_is_the_reply_byte_for_byte(policy: str, failed: bytes) -> None:
    assert merged("flushall", policy, failed, failed, failed) == failed


@pytest.mark.parametrize("name", ["flushall", *sorted(MERGED_BY_HAND)])
def test_what_failed_on_one_node_is_an_error_that_says_where_it_did_happen(name: str) -> None:
    shown = name.upper().replace("|", " ").encode()
    assert merged(name, "all_succeeded", OK, READONLY, OK) == (
        b"-ERR slotproxy: incomplete: " + shown + b" failed on node 127.0.0.1:7001 (READONLY You can't write against a "
        b"read only replica.); it succeeded on nodes 127.0.0.1:7000, 127.0.0.1:7002\r\n"
    )


def test_different_errors_are_each_quoted_and_ours_without_their_prefix() -> None:
    reply = merged("flushall", "all_succeeded", b"!5\r\nERR x\r\n", error("ERR slotproxy: no connection"))
    assert reply == (
        b"-ERR slotproxy: incomplete: FLUSHALL failed on node 127.0.0.1:7000 (ERR x); on node 127.0.0.1:7001 "
        b"(no connection); it succeeded on no other node\r\n"
    )
    assert merged("flushdb", "all_succeeded", READONLY, OK).endswith(b"it succeeded on node 127.0.0.1:7001\r\n")


def test_the_error_of_many_nodes_is_bounded() -> None:
    long = b"-ERR " + b"x" * 100_000 + b"\r\n"
    reply = merged("keys", "", *[long] * 50, *[OK] * 50)
    assert len(reply) < 1500
    assert b" (ERR xxx" in reply and "…); on 47 more; it succeeded on nodes 127.0.0.1:7050, ".encode() in reply
    assert reply.endswith(b", 127.0.0.1:7057 and 42 more\r\n")


@given(texts=st.lists(st.binary(max_size=30).filter(lambda text: b"\r" not in text), min_size=2, max_size=9))
def test_an_error_is_one_line_whatever_the_nodes_wrote(texts: list[bytes]) -> None:
    reply = merged("keys", "", *[b"!%d\r\n%b\r\n" % (len(text) + 3, text + b"\r\n\n") for text in texts], OK)
    assert read_replies([reply]) == Outcome([reply], None, 0)
    assert reply.startswith(b"-ERR slotproxy: incomplete: KEYS failed on node 127.0.0.1:7000 (")
    assert reply.count(b"\n") == 1


UNKILLABLE = b"-UNKILLABLE Sorry the script already executed write commands against the dataset.\r\n"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([NOT_BUSY, OK, NOT_BUSY], OK),
        ([UNKILLABLE, NOT_BUSY, OK], OK),
        ([NOT_BUSY, UNKILLABLE, b"-ERR x\r\n"], UNKILLABLE),
        ([NOT_BUSY, NOT_BUSY, NOT_BUSY], NOT_BUSY),
    ],
)
def test_a_kill_is_done_when_one_node_did_it(replies: list[bytes], expected: bytes) -> None:
    assert merged("script|kill", "one_succeeded", *replies) == expected


@pytest.mark.parametrize(("name", "policy"), [("ft.search", "special"), ("command|count", "special"), ("x", "agg_new")])
def test_a_command_that_nobody_knows_how_to_merge_is_refused_by_name(name: str, policy: str) -> None:
    shown = name.upper().replace("|", " ")
    assert merged(name, policy, OK, OK) == error(f"ERR slotproxy: {shown} over several nodes is not supported")
    assert merged(name, policy, OK) == OK  # one node's reply needs no merging


# ---- by policy


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("agg_sum", sum),
        ("agg_min", min),
        ("agg_max", max),
        ("agg_logical_and", lambda numbers: int(all(numbers))),
        ("agg_logical_or", lambda numbers: int(any(numbers))),
        ("all_succeeded", max),
    ],
)
@given(numbers=ROWS | st.lists(st.integers(0, 1), min_size=2, max_size=5))
def test_integers_are_combined(policy: str, expected: Callable[[list[int]], int], numbers: list[int]) -> None:
    frames = [integer(number) for number in numbers]
    assert merged("dbsize", policy, *frames) == integer(expected(numbers))
    if policy != "all_succeeded":
        rows = [array([frame, integer(1)]) for frame in frames]
        assert merged("dbsize", policy, *rows) == array(
            [integer(expected(numbers)), integer(expected([1] * len(numbers)))]
        )


def test_script_exists_is_true_of_a_script_that_every_node_has() -> None:
    assert merged("script|exists", "agg_logical_and", encode([1, 1, 0]), encode([1, 0, 0])) == encode([1, 0, 0])
    assert merged("script|exists", "agg_logical_or", encode([1, 1, 0]), encode([1, 0, 0])) == encode([1, 1, 0])


def test_a_sum_stays_inside_what_clients_can_parse() -> None:
    most = 2**63 - 1
    assert merged("dbsize", "agg_sum", integer(most), integer(most)) == integer(most)
    assert merged("dbsize", "agg_sum", integer(-most), integer(-most)) == integer(-most)


def test_what_all_nodes_did_is_answered_once() -> None:
    assert merged("flushall", "all_succeeded", OK, OK, OK) == OK
    assert merged("script|load", "all_succeeded", bulk(b"e0e1"), bulk(b"e0e1")) == bulk(b"e0e1")


ELEMENTS = st.lists(st.lists(st.sampled_from([bulk(b"%d" % n) for n in range(9)])), min_size=2, max_size=5)


@given(lists=ELEMENTS)
@pytest.mark.parametrize("name", ["keys", "pubsub|channels", "pubsub|shardchannels"])
def test_lists_are_put_together_each_element_once_in_order_of_first_appearance(
    name: str, lists: list[list[bytes]]
) -> None:
    expected = list(dict.fromkeys(element for elements in lists for element in elements))
    assert merged(name, "", *[array(elements) for elements in lists]) == array(expected)


def test_many_keys_are_merged_in_linear_time() -> None:
    # A quadratic merge of so many would take minutes.
    lists = [array([b"$12\r\nk%011d\r\n" % key for key in range(first, first + 100_000)]) for first in (0, 99_000)]
    assert merged("keys", "", *lists).startswith(b"*199000\r\n")


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([OK, OK], OK),
        ([bulk(b"a"), bulk(b"b")], bulk(b"a")),
        ([b"*-1\r\n", array([OK])], array([OK])),
        ([array([OK]), NULL], array([OK])),
        ([NULL, NULL], NULL),
        ([b"~1\r\n+a\r\n", b"~2\r\n+a\r\n+b\r\n"], b"~2\r\n+a\r\n+b\r\n"),
        ([b"%1\r\n+a\r\n:1\r\n", b"%2\r\n+b\r\n:3\r\n+a\r\n:2\r\n"], b"%2\r\n+a\r\n:1\r\n+b\r\n:3\r\n"),
    ],
)
def test_without_a_policy_scalars_are_one_and_nulls_are_empty(replies: list[bytes], expected: bytes) -> None:
    assert merged("module.command", "", *replies) == expected


@pytest.mark.parametrize(
    ("name", "policy", "good", "odd"),
    [
        *[("dbsize", policy, b":1\r\n", odd) for policy in POLICIES[1:6] for odd in [OK, b":x\r\n", array([])]],
        *[("dbsize", "agg_sum", b":1\r\n", odd) for odd in [b":\r\n", b":-\r\n", b":1_0\r\n", b":1", b"", NULL]],
        *[("dbsize", "agg_sum", b":1\r\n", odd) for odd in [b":%d\r\n" % 2**63, b":" + b"9" * 5000 + b"\r\n"]],
        ("acl|deluser", "all_succeeded", b":1\r\n", OK),
        ("script|exists", "agg_logical_and", array([b":1\r\n"]), array([b":1\r\n", b":1\r\n"])),
        ("script|exists", "agg_logical_and", array([b":1\r\n"]), array([OK])),
        ("keys", "", array([OK]), OK),
        ("keys", "", array([OK]), b"*2\r\n+a\r\n"),
        *[("module.command", "", b"%0\r\n", odd) for odd in [OK, b"%x\r\n", b"%-1\r\n", b"%1\r\n+a\r\n"]],
        ("lastsave", "", b":1\r\n", OK),
        ("pubsub|numsub", "", encode([b"a", 1]), encode([b"b", 1])),
        ("pubsub|numsub", "", encode([b"a", 1]), encode([b"a"])),
        ("pubsub|numsub", "", encode([b"a", 1]), encode([b"a", b"1"])),
        ("function|list", "", encode([[b"library_name", b"a"]]), encode([[b"name", b"a"]])),
        ("function|list", "", encode([[b"library_name", b"a"]]), encode([[b"library_name"]])),
        ("function|dump", "", bulk(b"a"), array([])),
        ("function|stats", "special", encode([b"running_script", None, b"engines", []]), encode([b"engines", []])),
    ],
)
def test_a_reply_that_the_command_cannot_have_is_an_error_that_names_the_node(
    name: str, policy: str, good: bytes, odd: bytes
) -> None:
    shown = name.upper().replace("|", " ").encode()
    reply = merged(name, policy, good, odd, good)
    beginning = ascii(odd[:32])[1:].encode()
    assert reply == b"-ERR slotproxy: " + shown + b": node 127.0.0.1:7001 answered " + beginning + b"\r\n"


# ---- by hand


@pytest.mark.parametrize("name", ["pubsub|numsub", "pubsub|shardnumsub"])
def test_subscribers_are_counted_for_each_argument_in_turn(name: str) -> None:
    replies = [[b"a", 1, b"b", 0, b"a", 1], [b"a", 5, b"b", 2, b"a", 5]]
    assert by_hand(name, *replies, arguments="a b a") == encode([b"a", 6, b"b", 2, b"a", 6])
    assert by_hand(name, [], []) == encode([])


def test_the_oldest_save_counts_and_patterns_and_resets_are_added_up() -> None:
    assert by_hand("lastsave", 7, 3, 5) == integer(3)
    assert by_hand("pubsub|numpat", 7, 3, 5) == integer(15)
    assert by_hand("latency|reset", 7, 3, 5) == integer(15)


def test_a_library_and_a_module_are_listed_once() -> None:
    one, other = [b"library_name", b"one", b"engine", b"LUA"], [b"library_name", b"other", b"engine", b"LUA"]
    newer = [b"library_name", b"one", b"engine", b"JS"]
    assert by_hand("function|list", [one], [newer, other], []) == encode([one, other])
    json, search = [b"name", b"ReJSON", b"ver", 1], [b"name", b"search", b"ver", 2]
    assert by_hand("module|list", [json], [[b"name", b"ReJSON", b"ver", 3], search]) == encode([json, search])
    assert merged("function|list", "", b"~0\r\n", b"~1\r\n" + encode(one)) == b"~1\r\n" + encode(one)


def test_a_function_dump_is_the_longest() -> None:
    assert by_hand("function|dump", b"aa", b"aaaa", b"aaa") == bulk(b"aaaa")


def test_function_stats_show_the_script_that_runs_somewhere_and_the_greatest_counts() -> None:
    def stats(script: object, libraries: int, functions: int) -> object:
        counts = [b"libraries_count", libraries, b"functions_count", functions]
        return [b"running_script", script, b"engines", [b"LUA", counts]]

    script = [b"name", b"spin", b"command", [b"FCALL", b"spin", b"0"], b"duration_ms", 9]
    assert by_hand("function|stats", stats(None, 1, 5), stats(script, 2, 3)) == encode(stats(script, 2, 5))
    assert by_hand("function|stats", stats(None, 1, 1), stats(None, 1, 1)) == encode(stats(None, 1, 1))


# ---- whatever comes


@pytest.mark.parametrize("policy", [*POLICIES, "special"])
@given(name=st.sampled_from([*sorted(MERGED_BY_HAND), "keys"]), replies=st.lists(ANY_FRAME, min_size=1, max_size=4))
def test_any_replies_become_one_reply(policy: str, name: str, replies: list[bytes]) -> None:
    reply = merged(name, policy, *replies)
    assert read_replies([reply]) == Outcome([reply], None, 0)


@given(
    name=st.sampled_from(sorted(MERGED_BY_HAND)),
    policy=st.sampled_from(POLICIES),
    replies=st.lists(st.binary(max_size=20), min_size=1, max_size=3),
)
def test_what_is_no_reply_at_all_raises_nothing(name: str, policy: str, replies: list[bytes]) -> None:
    merged(name, policy, *replies)


@pytest.mark.parametrize("policy", [*POLICIES, "special"])
@given(name=st.sampled_from([*sorted(MERGED_BY_HAND), "keys", "ft.search"]), reply=ANY_FRAME)
def test_one_reply_is_passed_on_as_it_is(policy: str, name: str, reply: bytes) -> None:
    assert merged(name, policy, reply) == reply


def test_every_command_that_goes_to_all_nodes_has_its_way_of_merging() -> None:
    special = {
        command.name for command in CommandTable.snapshot().commands() if command.response_policy == "special"
    }
    assert special - MERGED_BY_HAND == {"info"}
    assert {command.response_policy for command in CommandTable.snapshot().commands()} <= {*POLICIES, "special"}
    assert {command.name for command in CommandTable.snapshot().commands()} >= MERGED_BY_HAND
