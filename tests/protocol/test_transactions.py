"""A transaction's plan: one group per slot, in order, and every reply at its command's place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotproxy.demo.guard import Guard
from slotproxy.demo.servers import server_version
from slotproxy.protocol.blocks import QUEUED
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.decisions import Answer, AnswerLocally, Hangup, Transact, Unknown, decide
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import command
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.transactions import (
    KEYLESS,
    Group,
    Plan,
    Queued,
    answered_by_proxy,
    not_in_one_block,
    refusal_to_queue,
)
from tests.protocol.live import LiveServer
from tests.scripted_strings import run_on
from tests.servers import standalone_server

TABLE = CommandTable.snapshot()
KEYS = [b"a", b"b", b"c", b"1{a}", b"2{a}", b"1{b}"]


def queued(arguments: list[bytes]) -> Queued:
    return Queued(TABLE.resolve(arguments), decide(TABLE, arguments), arguments, command(arguments))


def plan_of(*lines: str) -> Plan:
    return Plan([queued([word.encode() for word in line.split()]) for line in lines])


def grouped(plan: Plan) -> dict[int, list[list[bytes]]]:
    return {group.slot: [arguments_of(raw) for raw in group.requests] for group in plan.groups}


# Grouping


def test_commands_of_one_slot_stay_together_in_order() -> None:
    plan = plan_of("SET 1{a} x", "SET 1{b} y", "GET 1{a}", "GET 1{b}", "INCR 2{a}")
    a, b = int(key_slot(b"a")), int(key_slot(b"b"))
    assert grouped(plan) == {
        a: [[b"SET", b"1{a}", b"x"], [b"GET", b"1{a}"], [b"INCR", b"2{a}"]],
        b: [[b"SET", b"1{b}", b"y"], [b"GET", b"1{b}"]],
    }
    assert not plan.is_one_block()


@pytest.mark.parametrize("line", ["PUBLISH c x", "TIME", "EVAL return 0"])
def test_commands_without_keys_join_the_first_group(line: str) -> None:
    plan = plan_of(line, "GET 1{b}", line, "GET 1{a}")
    first, second = plan.groups
    assert (first.slot, second.slot) == (int(key_slot(b"b")), int(key_slot(b"a")))
    assert len(first.requests) == 3
    assert (first.keyless, second.keyless) == (True, False)


def test_without_any_key_there_is_one_group_without_a_slot() -> None:
    plan = plan_of("TIME", "PUBLISH c x", "PING")
    (group,) = plan.groups
    assert (group.slot, group.keyless, len(group.requests)) == (KEYLESS, True, 2)
    assert not plan.is_one_block()  # PING's answer has its place
    assert plan_of("TIME", "PUBLISH c x").is_one_block()


def test_what_the_proxy_answers_and_what_concerns_all_nodes_is_in_no_group() -> None:
    plan = plan_of("PING", "DBSIZE", "SCAN 0", "SELECT 1", "UNWATCH", "KEYS *")
    assert plan.groups == []
    assert plan.pieces == [[]] * 6
    assert plan.over_nodes() == [1, 2, 5]
    assert [answered_by_proxy(one) for one in plan.queued] == [True, False, False, True, False, False]
    assert [plan.reply_to(index, {}) for index in range(6)] == [None] * 6


def test_a_plan_of_nothing() -> None:
    plan = Plan([])
    assert (plan.groups, plan.pieces, plan.over_nodes(), plan.is_one_block()) == ([], [], [], False)


def test_a_blocking_command_goes_where_its_keys_are() -> None:
    plan = plan_of("BLPOP 1{a} 2{a} 0", "XREAD BLOCK 5 STREAMS 3{a} 0")
    assert grouped(plan).keys() == {int(key_slot(b"a"))}
    assert plan.is_one_block()


def test_groups_are_repeatable_when_all_they_do_is_read() -> None:
    plan = plan_of("GET 1{a}", "INCR 1{b}", "MGET 1{a} 1{c}")
    assert {group.slot: group.repeatable for group in plan.groups} == {
        int(key_slot(b"a")): True,
        int(key_slot(b"b")): False,
        int(key_slot(b"c")): True,
    }


@pytest.mark.parametrize(("line", "name"), [("DBSIZE", "DBSIZE"), ("SCRIPT FLUSH", "SCRIPT FLUSH"), ("KEYS *", "KEYS")])
def test_the_refusal_of_what_concerns_all_nodes_names_it_and_the_flag(line: str, name: str) -> None:
    refusal = not_in_one_block(queued([word.encode() for word in line.split()])).decode()
    assert refusal.startswith("-EXECABORT ")
    assert f" {name} " in refusal
    assert "--cross-slot-transactions per-slot" in refusal


# Replies

key = st.sampled_from(KEYS)
value = st.sampled_from([b"1", b"x", b"", b"\r\n"])


@st.composite
def commands(draw: st.DrawFn) -> list[bytes]:
    name = draw(st.sampled_from(["SET", "GET", "INCR", "APPEND", "MGET", "MSET", "DEL", "EXISTS", "TOUCH", "UNLINK"]))
    if name in ("GET", "INCR"):
        return [name.encode(), draw(key)]
    if name in ("SET", "APPEND"):
        return [name.encode(), draw(key), draw(value)]
    keys = draw(st.lists(key, min_size=1, max_size=5))
    if name == "MSET":
        return [b"MSET", *(word for one in keys for word in (one, draw(value)))]
    return [name.encode(), *keys]


KEYLESS_WORDS = st.sampled_from([[b"COMMAND", b"COUNT"], [b"PING"], [b"DBSIZE"]])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(commands(), commands(), KEYLESS_WORDS), max_size=12), st.randoms(use_true_random=False))
def test_whatever_the_order_of_the_groups_the_replies_are_those_of_one_server(
    block: list[list[bytes]], random: object
) -> None:
    """Slots share no data, so their order cannot matter; within a slot it does."""
    plan = Plan([queued(arguments) for arguments in block])
    data: dict[bytes, bytes] = {}
    replies: dict[Group, list[bytes]] = {}
    groups = plan.groups[:]
    getattr(random, "shuffle")(groups)  # noqa: B009 (hypothesis has no type for it)
    for group in groups:
        replies[group] = [run_on(data, arguments_of(raw)) for raw in group.requests]
    lone: dict[bytes, bytes] = {}
    for index, arguments in enumerate(block):
        expected = run_on(lone, arguments)
        if arguments[0] in (b"PING", b"DBSIZE"):
            assert plan.reply_to(index, replies) is None
        else:
            assert plan.reply_to(index, replies) == expected
    assert data == lone


@settings(max_examples=200)
@given(st.lists(st.one_of(commands(), KEYLESS_WORDS), max_size=12))
def test_each_group_holds_commands_of_its_slot_and_pieces_point_at_all_of_them(block: list[list[bytes]]) -> None:
    plan = Plan([queued(arguments) for arguments in block])
    pointed: list[tuple[int, int]] = []
    for index, pieces in enumerate(plan.pieces):
        before: dict[int, int] = {}
        for piece in pieces:
            assert piece.index > before.get(piece.group.slot, -1)
            before[piece.group.slot] = piece.index
            pointed.append((piece.group.slot, piece.index))
        if len(pieces) == 1:
            assert pieces[0].group.requests[pieces[0].index] == plan.queued[index].raw
    assert len(set(pointed)) == len(pointed) == sum(len(group.requests) for group in plan.groups)
    assert len({group.slot for group in plan.groups}) == len(plan.groups)
    for group in plan.groups:
        for raw in group.requests:
            arguments = arguments_of(raw)
            resolved = TABLE.resolve(arguments)
            assert resolved is not None
            keys = resolved.keys(arguments) if arguments[0] not in (b"COMMAND",) else []
            assert {int(key_slot(one)) for one in keys} <= {group.slot}
    for slot in {group.slot for group in plan.groups}:
        order = [piece.index for pieces in plan.pieces for piece in pieces if piece.group.slot == slot]
        assert order == sorted(order)


# What can be queued


@pytest.fixture(scope="module")
def server(redis_server: str) -> Iterator[LiveServer]:
    if server_version(redis_server) < (7,):
        pytest.skip("the packaged table is 7.0's")
    guard = Guard("slotproxy-test-")
    try:
        with standalone_server(redis_server, guard) as port:
            yield LiveServer(port)
    finally:
        guard.close()


def shapes() -> list[list[bytes]]:
    """Every command and subcommand, with as few arguments as it takes, and with one too few."""
    found: list[list[bytes]] = [[b"NOSUCH"], [b"NOSUCH", b"a", b"b"], [b"CONFIG", b"NOSUCH"], [b"CLIENT", b"NOSUCH"]]
    for one in TABLE.commands():
        least = abs(one.arity)
        names = one.name.encode().split(b"|")
        filler = [b"1"] * (least - len(names))
        found += [[*names, *filler], [*names, *filler][: least - 1]] if least > len(names) else [names]
        if one.arity > 0:
            found.append([*names, *filler, b"1"])
    return [words for words in found if words]


def test_what_is_said_when_a_command_is_queued_is_what_a_server_says(server: LiveServer) -> None:
    multi = command([b"MULTI"])
    problems = []
    compared = 0
    for arguments in shapes():
        decision = decide(TABLE, arguments)
        if isinstance(decision, Transact | Hangup) or arguments[0] == b"exec":
            continue  # not asked about
        if isinstance(decision, AnswerLocally) and decision.name in ("quit", "reset"):
            continue
        refusal = refusal_to_queue(TABLE.resolve(arguments), decision, arguments)
        if refusal is not None and refusal.startswith(b"-ERR slotproxy: "):
            continue  # refused in whatever place
        _, said = server.answers(multi + command(arguments))
        compared += 1
        if said != (refusal or QUEUED):
            problems.append((arguments, said, refusal))
    assert problems == [], "\n".join(map(str, problems))
    assert compared > 400


@pytest.mark.parametrize(
    ("line", "early"),
    [("GET", True), ("CLUSTER SLOTS", False), ("RENAME {a} {b}", True), ("MSET {a} 1 {b}", False), ("NOSUCH", True)],
)
def test_an_error_that_one_server_gives_only_at_exec_is_queued(line: str, early: bool) -> None:
    arguments = [word.encode() for word in line.split()]
    decision = decide(TABLE, arguments)
    assert isinstance(decision, Answer | Unknown)
    assert (refusal_to_queue(TABLE.resolve(arguments), decision, arguments) == decision.frame) == early
