"""What a client sets for itself or for all: QUIT, RESET, CLIENT REPLY, CLIENT PAUSE."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import names, send_at_once
from tests.dataplane.conftest import MakeRig

# ---- QUIT, RESET, CLIENT REPLY


def test_quit_behind_it_ends_the_connection_after_both_replies(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "SET {f} 1", "DBSIZE", "QUIT", "SET {f} 2")
    rig.run()
    assert client.replies == [b"OK", 1, b"OK"]
    assert client.closed
    assert rig.cluster.value(b"{f}") == b"1"
    assert rig.plane.client_count() == 0


def test_replies_that_are_off_stay_off_over_commands_to_all_nodes(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "DBSIZE", "CLIENT REPLY OFF", "SET {f} 1", "DBSIZE", "KEYS *", "NOSUCH")
    send_at_once(client, "CLIENT REPLY ON", "DBSIZE")
    rig.run()
    assert client.replies == [0, b"OK", 1]
    assert rig.left_over() == []


def test_a_skipped_reply_is_that_of_the_next_command_only(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    for skipped in ("DBSIZE", "SET {f} 1", "NOSUCH", "PING", "MGET {f} {a}", "SCAN 0", "CLIENT ID"):
        send_at_once(client, "CLIENT REPLY SKIP", skipped, "DBSIZE")
    rig.run()
    assert client.replies == [0, 1, 1, 1, 1, 1, 1]
    assert rig.left_over() == []


def test_a_skipped_command_may_come_later(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("CLIENT", "REPLY", "SKIP")
    rig.run()
    client.send("INCR", "{f}")
    rig.run()
    client.send("INCR", "{f}")
    client.send("DBSIZE")
    rig.run()
    assert client.replies == [2, 1]
    assert rig.left_over() == []


def test_reset_turns_replies_on_behind_what_was_off(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "CLIENT SETNAME me", "CLIENT REPLY OFF", "DBSIZE", "SET {f} 1", "RESET", "DBSIZE")
    send_at_once(client, "CLIENT GETNAME")
    rig.run()
    assert client.replies == [b"OK", b"RESET", 1, None]
    assert rig.left_over() == []


# ---- CLIENT PAUSE


def test_a_pause_of_all_holds_everybody_and_lets_them_go_on_in_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    master, early, late = rig.client(), rig.client(), rig.client()
    send_at_once(master, "CLIENT PAUSE 2000 ALL", "INCR {f}")
    rig.run()
    assert master.replies == [b"OK"]
    send_at_once(early, "INCR {f}1", "GET {f}1", "DBSIZE", "INCR {f}1", "PING")
    new = rig.client()
    send_at_once(new, "PING", "INCR {a}")
    rig.advance(1.9)
    send_at_once(late, "DBSIZE")
    rig.run()
    assert names(rig.nodes[0]) == names(rig.nodes[1]) == []
    assert early.replies == late.replies == new.replies == []
    rig.advance(0.2)
    assert master.replies == [b"OK", 1]
    assert early.replies[:2] == [1, b"1"] and early.replies[3:] == [2, b"PONG"]
    assert new.replies == [b"PONG", 1]
    assert len(late.replies) == 1
    assert rig.left_over() == []


def test_a_pause_of_writes_lets_reads_pass_until_the_first_write(make_rig: MakeRig) -> None:
    rig = make_rig()
    master, writer, reader = rig.client(), rig.client(), rig.client()
    send_at_once(master, "SET {f} 0", "CLIENT PAUSE 60000 WRITE")
    rig.run()
    send_at_once(writer, "GET {f}", "SET {f} 1", "GET {f}", "FLUSHALL", "DBSIZE")
    send_at_once(reader, "GET {f}", "DBSIZE", "KEYS *", "SCAN 0", "MGET {f} {a}")
    rig.advance(10)
    assert writer.replies == [b"0"]
    assert len(reader.replies) == 5 and reader.errors() == []
    send_at_once(reader, "FLUSHALL", "GET {f}")
    rig.advance(1)
    assert len(reader.replies) == 5
    send_at_once(master, "CLIENT UNPAUSE")
    rig.run()
    assert writer.replies[:2] == [b"0", b"OK"] and writer.replies[3] == b"OK" and len(writer.replies) == 5
    assert reader.replies[5:] in ([b"OK", None], [b"OK", b"1"])
    assert rig.left_over() == []


@pytest.mark.parametrize("write", ["SET {f} 1", "MSET {f} 1 {a} 1", "FLUSHALL", "DEL {f}", "PUBLISH c m"])
def test_a_client_that_is_paused_can_be_killed_and_its_write_never_runs(make_rig: MakeRig, write: str) -> None:
    rig = make_rig()
    master, writer = rig.client(), rig.client()
    master.send("CLIENT", "PAUSE", "60000", "WRITE")
    rig.run()
    send_at_once(writer, write, "PING")
    rig.run()
    send_at_once(master, "CLIENT KILL ID 2", "CLIENT UNPAUSE", "DBSIZE")
    rig.run()
    assert writer.closed
    assert master.replies == [b"OK", 1, b"OK", 0]
    assert names(rig.nodes[0]) == names(rig.nodes[1]) == ["DBSIZE"]
    assert rig.left_over() == []


def test_a_second_pause_neither_shortens_nor_relaxes_the_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second, other = rig.client(), rig.client(), rig.client()
    send_at_once(first, "CLIENT PAUSE 3000 WRITE")
    rig.run()
    send_at_once(second, "CLIENT PAUSE 10 ALL")
    rig.run()
    send_at_once(other, "GET {f}")
    rig.advance(2.9)
    assert other.replies == []
    rig.advance(0.2)
    assert other.replies == [None]
    send_at_once(other, "INCR {f}", "DBSIZE")
    rig.run()
    assert other.replies == [None, 1, 1]
    assert rig.left_over() == []


def test_what_was_in_flight_when_the_pause_began_is_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.stopped = True
    client, master = rig.client(), rig.client()
    send_at_once(client, "INCR {f}", "DBSIZE", "INCR {f}")
    rig.run()
    master.send("CLIENT", "PAUSE", "1000")
    rig.run()
    a.stopped = False
    rig.advance(0.5)
    assert client.replies == [1]
    rig.advance(1)
    assert client.replies == [1, 1, 2]
    assert rig.left_over() == []


def test_who_leaves_while_paused_is_gone_afterwards(make_rig: MakeRig) -> None:
    rig = make_rig()
    client, master = rig.client(), rig.client()
    master.send("CLIENT", "PAUSE", "1000")
    rig.run()
    client.vanish()
    rig.advance(2)
    assert rig.plane.client_count() == 1
    assert rig.left_over() == []


@pytest.mark.parametrize("write", ["SET {f} 1", "FLUSHALL"])
def test_a_drain_during_a_pause_ends_everybody_when_it_is_over(make_rig: MakeRig, write: str) -> None:
    rig = make_rig()
    client, master = rig.client(), rig.client()
    master.send("CLIENT", "PAUSE", "1000", "WRITE")
    rig.run()
    send_at_once(client, write)
    rig.run()
    finished: list[bool] = []
    rig.plane.finish_clients(lambda: finished.append(True))
    rig.advance(2)
    assert finished == [True]
    assert client.closed
