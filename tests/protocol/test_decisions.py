"""Where a command goes, as a value: the packaged command table, no server."""

from __future__ import annotations

import pytest

from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.decisions import (
    CROSSSLOT,
    Answer,
    AnswerLocally,
    AwaitReplicas,
    Decision,
    Forward,
    ForwardKeyless,
    Hangup,
    MayWait,
    OverNodes,
    Scan,
    SplitUp,
    Subscription,
    Transact,
    Unknown,
    decide,
)
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.slots import key_slot

TABLE = CommandTable.snapshot()
SLOT = int(key_slot(b"{t}"))


def decided(line: str) -> Decision:
    return decide(TABLE, line.encode().split(b" "))


def answer(line: str) -> str:
    decision = decided(line)
    assert isinstance(decision, Answer), decision
    return decision.frame.decode()


def unknown(line: str) -> str:
    decision = decided(line)
    assert isinstance(decision, Unknown), decision
    return decision.frame.decode()


@pytest.mark.parametrize(
    ("line", "barrier"),
    [
        ("GET {t}a", False),
        ("get {t}a", False),
        ("MGET {t}a {t}a", False),
        ("MGET {t}a {t}b", True),
        ("MSET {t}a 1 {t}b 2", True),
        ("RENAME {t}a {t}b", True),
        ("SINTERSTORE {t}d {t}a {t}b", True),
        ("EVAL script x {t}a", None),
        ("EVAL script 0", None),
        ("EVAL script 1 {t}a", True),
        ("EVALSHA abc 1 {t}a", True),
        ("FCALL f 1 {t}a", True),
        ("XREAD COUNT 1 STREAMS {t}a 0", False),
        ("XREADGROUP GROUP BLOCK c STREAMS {t}a >", False),
        ("OBJECT ENCODING {t}a", False),
        ("SPUBLISH {t}a message", False),
        ("SORT {t}a STORE {t}b", True),
    ],
)
def test_keys_of_one_slot_go_to_its_owner_and_several_are_a_barrier(line: str, barrier: bool | None) -> None:
    decision = decided(line)
    if barrier is None:
        # a key count that is no number: any node says what is wrong with it
        assert isinstance(decision, ForwardKeyless)
        return
    assert isinstance(decision, Forward)
    assert (decision.slot, decision.barrier) == (SLOT, barrier)


@pytest.mark.parametrize("name", ["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"])
def test_commands_over_several_slots_are_cut_per_slot(name: str) -> None:
    decision = decided(f"{name} {{t}}a other {{t}}b")
    assert isinstance(decision, SplitUp)
    assert [arguments_of(part.raw)[1:] for part in decision.parts] == [[b"{t}a", b"{t}b"], [b"other"]]


def test_mset_over_several_slots_keeps_keys_and_values_together() -> None:
    decision = decided("MSET {t}a 1 other 2")
    assert isinstance(decision, SplitUp)
    assert [arguments_of(part.raw)[1:] for part in decision.parts] == [[b"{t}a", b"1"], [b"other", b"2"]]
    assert "wrong number of arguments for 'mset'" in answer("MSET {t}a 1 other")


@pytest.mark.parametrize(
    "line", ["RENAME a b", "MSETNX a 1 b 2", "SINTER a b", "EVAL script 2 a b", "SDIFFSTORE a b c", "PFCOUNT a b"]
)
def test_what_cannot_be_cut_is_refused_without_asking_a_node(line: str) -> None:
    assert answer(line).encode() == CROSSSLOT


@pytest.mark.parametrize(
    "line",
    [
        "BLPOP {t}a 0",
        "BLMOVE {t}a {t}b LEFT LEFT 0",
        "XREAD BLOCK 0 STREAMS {t}a $",
        "XREAD COUNT 5 block 0 STREAMS {t}a $",
        "XREADGROUP GROUP STREAMS c BLOCK 0 STREAMS {t}a >",
        "XREADGROUP GROUP g STREAMS BLOCK 0 STREAMS {t}a >",
        "BLPOP a b 0",
        "BLMPOP 0 two {t}a LEFT",
    ],
)
def test_what_may_wait_is_not_sent_on_a_shared_connection(line: str) -> None:
    assert isinstance(decided(line), MayWait)


@pytest.mark.parametrize("line", ["WATCH {t}a", "WATCH a b", "UNWATCH", "MULTI", "EXEC", "DISCARD"])
def test_transactions_are_the_clients(line: str) -> None:
    assert isinstance(decided(line), Transact)


def test_replicas_are_waited_for_at_all_nodes() -> None:
    assert isinstance(decided("WAIT 0 0"), AwaitReplicas)


@pytest.mark.parametrize("line", ["SUBSCRIBE c", "PSUBSCRIBE a b", "SSUBSCRIBE c d", "UNSUBSCRIBE", "SUNSUBSCRIBE"])
def test_subscriptions_are_the_clients(line: str) -> None:
    assert isinstance(decided(line), Subscription)


@pytest.mark.parametrize("name", ["PING", "echo x", "QUIT", "SELECT 0", "HELLO 2", "AUTH x", "CLIENT ID", "RESET"])
def test_what_the_proxy_knows_itself_it_answers_itself(name: str) -> None:
    decision = decided(name)
    assert isinstance(decision, AnswerLocally)
    assert decision.name == name.split(" ")[0].lower()


@pytest.mark.parametrize("line", ["CLUSTER SLOTS", "ASKING", "READONLY", "READWRITE"])
def test_the_cluster_is_not_to_be_seen(line: str) -> None:
    assert answer(line) == "-ERR This instance has cluster support disabled\r\n"


@pytest.mark.parametrize("line", ["COMMAND", "COMMAND COUNT", "COMMAND GETKEYS GET a", "PUBLISH c m"])
def test_what_any_node_can_tell_goes_to_the_clients_own(line: str) -> None:
    assert isinstance(decided(line), ForwardKeyless)


@pytest.mark.parametrize(
    ("line", "replicas"),
    [
        ("DBSIZE", False), ("KEYS *", False), ("FLUSHALL", False), ("SCRIPT EXISTS abc", False), ("INFO", False),
        ("CONFIG GET save", False), ("RANDOMKEY", False),
        ("FUNCTION LIST", False), ("SLOWLOG GET", False), ("PUBSUB NUMPAT", False),
        ("CONFIG SET maxmemory 1", True), ("SCRIPT LOAD x", False), ("ACL SETUSER bob", True), ("SLOWLOG RESET", True),
    ],
)  # fmt: skip
def test_what_concerns_all_data_goes_to_all_primaries_and_what_replicas_must_share_to_all_nodes(
    line: str, replicas: bool
) -> None:
    decision = decided(line)
    assert isinstance(decision, OverNodes)
    assert decision.replicas is replicas


@pytest.mark.parametrize(
    ("cursor", "value"),
    [("0", 0), ("", 0), ("17", 17), ("+1", 1), ("-1", 2**64 - 1), (str(2**64 - 1), 2**64 - 1), ("007", 7)],
)
def test_scan_takes_its_cursor_as_the_server_does(cursor: str, value: int) -> None:
    decision = decided(f"SCAN {cursor} COUNT 5")
    assert isinstance(decision, Scan)
    assert decision.cursor == value


@pytest.mark.parametrize("cursor", ["x", "1x", "+", "0x1", str(2**64), "1" * 30, "--1"])
def test_a_cursor_that_is_none_is_any_nodes_to_complain_about(cursor: str) -> None:
    assert isinstance(decide(TABLE, [b"SCAN", cursor.encode()]), ForwardKeyless)


@pytest.mark.parametrize(
    "line", ["SHUTDOWN", "REPLICAOF NO ONE", "DEBUG SLEEP 1", "MIGRATE 127.0.0.1 7000 {t}a 0 1000", "SCRIPT DEBUG YES"]
)
def test_what_is_meant_for_one_server_is_refused_by_name(line: str) -> None:
    said = answer(line)
    assert said.startswith(f"-ERR slotproxy: {line.split(' ')[0]}") and said.endswith("send it to the node itself\r\n")
    decision = decide(TABLE, line.encode().split(b" "), allow_admin=True)
    assert isinstance(decision, Answer) and decision.frame.decode() == said


@pytest.mark.parametrize("line", ["SAVE", "BGSAVE", "BGREWRITEAOF", "MODULE LOAD x", "MODULE UNLOAD x"])
def test_what_an_operator_may_send_to_all_nodes_has_to_be_opened(line: str) -> None:
    assert answer(line).endswith("--allow-admin opens it\r\n")
    assert isinstance(decide(TABLE, line.encode().split(b" "), allow_admin=True), OverNodes)


def test_errors_that_need_no_node_read_as_redis_says_them() -> None:
    assert answer("GET") == "-ERR wrong number of arguments for 'get' command\r\n"
    assert answer("ECHO") == "-ERR wrong number of arguments for 'echo' command\r\n"
    assert unknown("NOPE a b") == "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b' \r\n"
    assert answer("CONFIG NOPE") == "-ERR unknown subcommand 'NOPE'. Try CONFIG HELP.\r\n"
    assert answer("XGROUP NOPE {t}a") == "-ERR unknown subcommand 'NOPE'. Try XGROUP HELP.\r\n"


def test_a_long_unknown_command_is_shown_in_part_and_breaks_no_frame() -> None:
    decision = decide(TABLE, [b"x\r\ny" * 100, b"a" * 200, b"b" * 200])
    assert isinstance(decision, Unknown)
    assert decision.frame.count(b"\r\n") == 1 and len(decision.frame) < 400


def test_a_browser_is_hung_up_on() -> None:
    assert isinstance(decided("POST / HTTP/1.1"), Hangup)
    assert isinstance(decided("Host: localhost"), Hangup)
