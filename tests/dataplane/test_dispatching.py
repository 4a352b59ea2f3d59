"""Transactions are held back: what is said to each command between MULTI and EXEC, and what EXEC then makes of them."""

from __future__ import annotations

import hashlib

import pytest

from tests.dataplane.asking import block, names, ran, send_block
from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import pack
from tests.scripted_node import slot_of
from tests.scripted_strings import SCRIPT

F = slot_of(b"{f}")
QUEUED = b"QUEUED"
ABORTED = "EXECABORT Transaction discarded because of previous errors."


def test_a_block_runs_and_its_replies_stand_in_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "SET {f} 1", "INCR {f}", "GET {f}", "GET none{f}")
    client.send("GET", "{f}")
    rig.run()
    assert client.replies == [b"OK", *[QUEUED] * 4, [b"OK", 2, b"2", None], b"2"]
    assert rig.left_over() == []


def test_nothing_reaches_a_node_before_exec(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send_bytes(block("INCR {f}", "INCR {a}")[: -len(pack("EXEC"))])
    rig.run()
    assert client.replies == [b"OK", QUEUED, QUEUED]
    assert names(rig.nodes[0]) == names(rig.nodes[1]) == []
    client.vanish()
    rig.run()
    assert names(rig.nodes[0]) == names(rig.nodes[1]) == []
    assert rig.plane.client_count() == 0


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("NOSUCH a", "ERR unknown command 'NOSUCH', with args beginning with: 'a' "),
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("CONFIG NOSUCH", "ERR unknown subcommand 'NOSUCH'. Try CONFIG HELP."),
        ("RENAME {f} {a}", "CROSSSLOT Keys in request don't hash to the same slot"),
        ("BLPOP {f} {a} 0", "CROSSSLOT Keys in request don't hash to the same slot"),
        ("SHUTDOWN", "ERR slotproxy: SHUTDOWN is refused: it is meant for one server, and here are several; send it to"
            " the node itself"),
    ],
)
def test_what_cannot_be_queued_makes_exec_an_abort(make_rig: MakeRig, command: str, reply: str) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "INCR {f}", command, "INCR {f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.errors() == [reply, ABORTED]
    assert [got for got in client.replies if not isinstance(got, Exception)] == [b"OK", QUEUED, QUEUED, 1]
    assert ran(rig.nodes[0]) == ["INCR {f}"]


def test_nested_multi_and_watch_are_errors_and_the_block_runs(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "MULTI", "INCR {f}", "WATCH {f}")
    rig.run()
    assert client.errors() == ["ERR MULTI calls can not be nested", "ERR WATCH inside MULTI is not allowed"]
    assert client.replies[-1] == [1]


def test_exec_and_discard_without_multi(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("EXEC")
    client.send("DISCARD")
    client.send("MULTI")
    client.send("EXEC")
    client.send("MULTI")
    client.send("INCR", "{f}")
    client.send("NOSUCH")
    client.send("DISCARD")
    client.send("EXEC")
    rig.run()
    assert client.errors()[:2] == ["ERR EXEC without MULTI", "ERR DISCARD without MULTI"]
    assert client.replies[2:6] == [b"OK", [], b"OK", QUEUED]
    assert client.replies[7] == b"OK"
    assert client.errors()[3] == "ERR EXEC without MULTI"
    assert ran(rig.nodes[0]) == []


def test_errors_of_commands_stand_inside_the_array(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "SET {f} x", "INCR {f}", "GET {f}")
    rig.run()
    (first, second, third) = client.replies[-1]
    assert (first, str(second), third) == (b"OK", "ERR value is not an integer or out of range", b"x")


def test_a_redirect_inside_the_array_is_a_scripts_own(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("MULTI")
    client.send("EVAL", SCRIPT, 1, "{f}", f"MOVED {F} 127.0.0.1:7002")
    client.send("EXEC")
    client.send("INCR", "{f}")
    rig.run()
    assert str(client.replies[2][0]) == f"MOVED {F} 127.0.0.1:7002"
    assert client.replies[3] == 2
    assert rig.owner(F) == "A"
    assert rig.moved == 0


@pytest.mark.parametrize("command", ["RESET", "QUIT"])
def test_reset_and_quit_are_not_queued_and_discard(make_rig: MakeRig, command: str) -> None:
    rig = make_rig()
    client = rig.client()
    client.send_bytes(block("INCR {f}", command))
    rig.run()
    assert client.replies[:3] == [b"OK", QUEUED, b"RESET" if command == "RESET" else b"OK"]
    assert client.errors() == (["ERR EXEC without MULTI"] if command == "RESET" else [])
    assert ran(rig.nodes[0]) == []


def test_commands_without_keys_have_their_place(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "PING", "COMMAND COUNT", "INCR {f}", "SELECT 0", "ECHO x", "SELECT 1", "COMMAND COUNT", "PING")
    rig.run()
    assert [str(reply) if isinstance(reply, Exception) else reply for reply in client.replies[-1]] == [
        b"PONG", 2, 1, b"OK", b"x", "ERR SELECT is not allowed in cluster mode", 2, b"PONG",
    ]  # fmt: skip
    assert rig.left_over() == []


def test_a_block_that_needs_no_node_asks_none(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "PING", "CLIENT SETNAME me", "CLIENT GETNAME")
    send_block(client, "CLIENT GETNAME")
    rig.run()
    assert client.replies[4] == [b"PONG", b"OK", b"me"]
    assert client.replies[-1] == [b"me"]
    assert names(rig.nodes[0]) == names(rig.nodes[1]) == []


def test_a_blocking_command_in_a_block_does_not_wait(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "BLPOP {f} 0", "RPUSH {f} x", "BLPOP other{f} {f} 0")
    rig.run()
    assert client.replies[-1] == [None, 1, [b"{f}", b"x"]]


def test_a_script_is_supplied_before_the_block_needs_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("EVAL", SCRIPT, 1, "{f}")
    rig.run()
    rig.nodes[0].scripts.clear()
    sha = hashlib.sha1(SCRIPT.encode()).hexdigest()
    send_block(client, "INCR {f}", f"EVALSHA {sha} 1 {{f}}")
    rig.run()
    assert client.replies[-1] == [2, 3]


# Several slots


@pytest.mark.parametrize("second", ["INCR {a}", "MGET {f} {a}", "DEL {a}", "MSET {f} 1 {b} 2"])
def test_several_slots_are_rejected_at_exec(make_rig: MakeRig, second: str) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "INCR {f}", second)
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies[:3] == [b"OK", QUEUED, QUEUED]
    (message,) = client.errors()
    assert message.startswith("CROSSSLOT ")
    assert "--cross-slot-transactions" in message
    assert client.replies[-1] == 1
    assert ran(rig.nodes[0]) == ["INCR {f}"]
    assert rig.left_over() == []


@pytest.mark.parametrize("command", ["DBSIZE", "FLUSHALL", "KEYS *", "SCAN 0"])
def test_what_concerns_all_nodes_is_rejected_beside_others_and_runs_alone(make_rig: MakeRig, command: str) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("SET", "{f}", "1")
    send_block(client, "INCR {f}", command)
    client.send("GET", "{f}")
    rig.run()
    (message,) = client.errors()
    assert message.startswith("EXECABORT ")
    assert command.split()[0] in message
    assert "--cross-slot-transactions" in message
    assert client.replies[-1] == b"1"
    send_block(client, command)
    client.send(*command.split())
    rig.run()
    (inside,) = client.replies[-2]
    if command != "FLUSHALL":
        assert inside == client.replies[-1] != 0
    assert rig.left_over() == []
