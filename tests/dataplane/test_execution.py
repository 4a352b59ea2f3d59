"""EXEC over several slots (per-slot): one block per slot in a fixed order, what failed at its place and counted."""

from __future__ import annotations

import hiredis
import pytest

from tests.dataplane.asking import do, names, ran, send_at_once, send_block
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import error
from tests.scripted_node import ScriptedNode, slot_of
from tests.scripted_strings import SCRIPT

F, A, B = slot_of(b"{f}"), slot_of(b"{a}"), slot_of(b"{b}")  # {f} and {b} are node A's, {a} is node B's
DENIED = "NOPERM this user has no permissions to run the 'incr' command"
ABORTED = f"EXECABORT Transaction discarded because of: {DENIED}"


def rig_per_slot(make_rig: MakeRig, **settings: float) -> Rig:
    return make_rig(2, per_slot=True, **settings)


def blocks_at(node: ScriptedNode) -> list[list[str]]:
    """The commands between each MULTI and EXEC that came in, connection by connection."""
    found: list[list[str]] = []
    for link in node.links:
        for words in link.received:
            if words[0] == b"MULTI":
                found.append([])
            elif found and words[0] not in (b"EXEC", b"ASKING"):
                found[-1].append(b" ".join(words).decode())
    return found


def executed(client: ScriptedClient) -> list[object] | None:
    """EXEC's array, errors as their texts."""
    reply = client.replies[-1]
    if not isinstance(reply, list):
        assert reply is None
        return None
    return [str(one) if isinstance(one, hiredis.ReplyError) else one for one in reply]


# Groups


def test_each_slot_gets_one_block_and_replies_stand_in_the_order_of_the_commands(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    send_block(client, "SET 1{f} 1", "SET 1{a} 2", "INCR 1{f}", "INCR 1{b}", "INCR 1{a}", "GET 1{f}")
    rig.run()
    assert executed(client) == [b"OK", b"OK", 2, 1, 3, b"2"]
    assert sorted(blocks_at(rig.nodes[0])) == [["INCR 1{b}"], ["SET 1{f} 1", "INCR 1{f}", "GET 1{f}"]]
    assert blocks_at(rig.nodes[1]) == [["SET 1{a} 2", "INCR 1{a}"]]
    assert rig.plane.counters.transactions_partial == 0
    assert rig.left_over() == []


def test_commands_over_slots_are_split_and_put_together(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    writes = ("MSET {f} 1 {a} 2 {b} 3", "MGET {a} {f} none{b} {b} {a}", "INCR {a}")
    send_block(client, *writes, "EXISTS {f} {a} {f}", "DEL {a} {f} x", "MGET {f} {a}")
    rig.run()
    assert executed(client) == [b"OK", [b"2", b"1", None, b"3", b"2"], 3, 3, 2, [None, None]]
    assert all(len({slot_of(words.split()[1].encode()) for words in found}) == 1 for found in blocks_at(rig.nodes[0]))


def test_the_same_block_of_one_slot_is_one_block_on_the_shared_connection(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    send_block(client, "MSET 1{f} 1 2{f} 2", "MGET 1{f} 2{f}")
    rig.run()
    assert executed(client) == [b"OK", [b"1", b"2"]]
    assert blocks_at(rig.nodes[0]) == [["MSET 1{f} 1 2{f} 2", "MGET 1{f} 2{f}"]]


def test_commands_without_keys_and_of_the_proxy_have_their_places(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    send_block(client, "PING", "INCR {f}", "COMMAND COUNT", "SELECT 0", "INCR {a}", "ECHO x")
    rig.run()
    assert executed(client) == [b"PONG", 1, 2, b"OK", 1, b"x"]


@pytest.mark.parametrize("alone", [False, True])
def test_what_concerns_all_nodes_runs_behind_the_blocks(make_rig: MakeRig, alone: bool) -> None:
    rig = rig_per_slot(make_rig)
    do(rig, "SET", "old{f}", "1")
    client = rig.client()
    if alone:
        send_block(client, "DBSIZE")
        rig.run()
        assert executed(client) == [1]
        return
    send_block(client, "DBSIZE", "SET {f} 1", "FLUSHALL", "SET {a} 1", "DBSIZE", "GET {f}", "CLIENT GETNAME")
    rig.run()
    assert executed(client) == [3, b"OK", b"OK", b"OK", 0, b"1", None]
    assert rig.left_over() == []


def test_it_runs_alone(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = rig.client()
    a.stopped = True
    send_at_once(client, "INCR {b}")
    send_block(client, "INCR {f}", "INCR {a}")
    send_at_once(client, "INCR {a}", "INCR {b}")
    rig.run()
    assert names(b) == []  # the command before it has not been answered
    a.stopped = False
    b.stopped = True
    rig.run()
    assert ran(a) == ["INCR {b}", "INCR {f}"]  # and those behind wait for all of it
    b.stopped = False
    rig.run()
    assert client.replies == [1, b"OK", b"QUEUED", b"QUEUED", [1, 1], 2, 2]


def test_several_connections_of_one_client_do_not_mix(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    clients = [rig.client() for _ in range(3)]
    for number, client in enumerate(clients):
        for _ in range(5):
            send_block(client, f"INCR {number}{{f}}", f"INCR {number}{{a}}", "INCR all{f}")
    rig.run()
    totals = []
    for client in clients:
        found = [reply for reply in client.replies if isinstance(reply, list)]
        assert [reply[:2] for reply in found] == [[n, n] for n in range(1, 6)]
        totals += [reply[2] for reply in found]
    assert sorted(totals) == list(range(1, 16))


# Redirects and failures


@pytest.mark.parametrize("how", ["ask", "moved", "down"])
def test_one_slots_trouble_is_followed_and_the_others_run_once(make_rig: MakeRig, how: str) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    if how == "ask":
        rig.cluster.migration(F, a, b)
    elif how == "moved":
        rig.cluster.own(F, b)
    else:
        b.down = True
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {a}", "INCR {f}", "INCR {b}")
    rig.advance(0.3, step=0.05)
    b.down = False
    rig.advance(2, step=0.05)
    assert executed(client) == [1, 1, 2, 1]
    assert sorted(ran(a) + ran(b)) == ["INCR {a}", "INCR {b}", "INCR {f}", "INCR {f}"]
    assert rig.plane.counters.transactions_partial == 0


def test_a_group_that_failed_has_its_error_at_its_commands_places(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    rig.nodes[1].answer("INCR", error(DENIED))
    send_block(client, "INCR {f}", "GET {a}", "INCR {a}", "PING", "GET {f}", "MGET {f} {a}")
    rig.run()
    assert executed(client) == [1, ABORTED, ABORTED, b"PONG", b"1", ABORTED]
    assert ran(rig.nodes[1]) == []
    assert rig.plane.counters.transactions_partial == 1


def test_when_the_first_block_failed_exec_is_the_error_and_nothing_runs(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    rig.nodes[0].answer("INCR", error(DENIED))
    send_block(client, "INCR {f}", "PING", "INCR {a}", "FLUSHALL")
    rig.run()
    assert client.errors() == [ABORTED]
    assert rig.plane.counters.transactions_partial == 0
    assert ran(rig.nodes[1]) == []
    assert "FLUSHALL" not in names(rig.nodes[0]) + names(rig.nodes[1])


def test_an_error_of_a_command_is_no_failure_of_its_group(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    send_block(client, "SET {f} x", "INCR {f}", "INCR {a}")
    rig.run()
    assert executed(client) == [b"OK", "ERR value is not an integer or out of range", 1]
    assert rig.plane.counters.transactions_partial == 0


def test_a_group_whose_slot_is_never_served_is_partial(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig, park_timeout=2.0)
    rig.nodes[1].down = True
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {a}")
    rig.advance(3, step=0.1)
    first, second = executed(client) or [None, None]
    assert first == 1
    assert str(second).startswith(f"ERR slotproxy: not served: slot {A} ")
    assert rig.plane.counters.transactions_partial == 1


def test_a_group_that_is_in_doubt_says_so_at_its_places(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    rig.nodes[1].drop_at("EXEC", runs=True)
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {a}")
    rig.advance(1)
    first, second = executed(client) or [None, None]
    assert first == 1
    assert str(second).startswith("ERR slotproxy: in doubt: EXEC ")
    assert (rig.plane.counters.transactions_partial, rig.plane.counters.in_doubt) == (1, 1)


def test_one_in_doubt_ends_it_and_exec_does_not_say_that_nothing_ran(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    a.drop_at("EXEC", runs=True)
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {a}")
    rig.advance(1)
    assert "in doubt" in str(client.replies[-1])
    assert rig.cluster.value(b"{f}") == b"1"
    assert ran(b) == []


def test_blocks_run_in_the_order_of_their_first_commands_and_none_behind_one_that_failed(make_rig: MakeRig) -> None:
    """An application that writes a job and then queues it must not see the queued one first, or alone."""
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = rig.client()
    b.stopped = True
    send_block(client, "INCR {a}", "INCR {f}", "INCR {b}", "INCR {f}")
    rig.run()
    assert ran(a) == []
    b.stopped = False
    rig.run()
    assert ran(a) == ["INCR {f}", "INCR {f}", "INCR {b}"]
    b.answer("INCR", error(DENIED))
    send_block(client, "GET {f}", "INCR {a}", "INCR {b}", "DBSIZE", "GET {f}", "PING")
    rig.run()
    first, second, third, fourth, fifth, sixth = executed(client) or []
    assert (first, second, fifth, sixth) == (b"2", ABORTED, b"2", b"PONG")
    assert str(third).startswith("EXECABORT slotproxy: a block of this transaction that comes before failed")
    assert fourth == third
    assert ran(a)[3:] == ["GET {f}", "GET {f}"]
    assert rig.plane.counters.transactions_partial == 1


# Functions


@pytest.mark.parametrize("found", [False, True])
def test_functions_are_brought_to_their_nodes_before_anything_runs(make_rig: MakeRig, found: bool) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    client.send("MULTI")
    client.send("INCR", "{f}")
    client.send("FCALL", "count", 1, "{f}")
    client.send("INCR", "{f}")
    client.send("EXEC")
    rig.run()
    assert names(rig.nodes[0]) == []
    ((name, node, _),) = rig.control.supplies
    assert (name, node.info.id) == (b"count", rig.nodes[0].id)
    rig.supply(found=found)
    rig.run()
    assert executed(client) == ([1, 2, 3] if found else [1, "ERR Function not found", 2])


def test_a_client_that_is_killed_while_its_function_is_brought(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    client.send("MULTI")
    client.send("FCALL", "count", 1, "{f}")
    client.send("EXEC")
    rig.run()
    assert do(rig, "CLIENT", "KILL", "ID", "1") == 1
    rig.supply()
    rig.run()
    assert names(rig.nodes[0]) == []
    assert rig.left_over() == []


def test_a_script_in_a_group_is_sent_with_its_text(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = rig.client()
    client.send("MULTI")
    client.send("EVAL", SCRIPT, 1, "{f}")
    client.send("EVAL", SCRIPT, 1, "{a}", f"MOVED {A} 127.0.0.1:7001")
    client.send("EXEC")
    rig.run()
    assert executed(client) == [1, f"MOVED {A} 127.0.0.1:7001"]
    assert rig.owner(A) == "B"
