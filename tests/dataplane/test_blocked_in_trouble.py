"""Clients that wait at a node whose slot gets into trouble: they wait here until it is calm, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import blocked_at, do, outside, ran, step
from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import pack
from tests.scripted_node import ScriptedNode, slot_of

F = slot_of(b"{f}")
ELEMENT = [b"q{f}", b"x"]


def timeouts(node: ScriptedNode, name: bytes = b"BLPOP") -> list[float]:
    return [float(words[-1]) for words in node.received() if words[0] == name]


def test_the_first_ask_has_it_unblocked_and_issued_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    blocked_id = a.waiting[0].id
    rig.cluster.migration(F, a, b)
    assert do(rig, "INCR", "n{f}") == 1  # ASK
    assert ["CLIENT", "UNBLOCK", str(blocked_id), "ERROR"] in [
        [word.decode() for word in words] for words in a.received()
    ]
    assert a.waiting == []
    assert client.replies == []
    assert do(rig, "RPUSH", "q{f}", "x") == 1
    rig.advance(0.05)
    assert client.replies == [ELEMENT]
    assert ran(b).count("LPOP q{f}") >= 1
    assert rig.cluster.value(b"q{f}") is None
    rig.advance(70)
    assert rig.left_over() == []


def test_another_type_that_came_while_it_waited_is_taken_no_notice_of(make_rig: MakeRig) -> None:
    """As on one server. (Where a wait begins, the type is minded.)"""
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    do(rig, "SET", "q{f}", "of another type")
    rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")  # ASK: it waits here from now on
    rig.advance(0.5, step=0.1)
    assert a.waiting == [] and client.replies == []
    do(rig, "DEL", "q{f}")
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(0.5, step=0.1)
    assert client.replies == [ELEMENT]


def test_an_element_that_another_proxy_pushed_at_the_target_is_found(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    rig.run()
    sock = b.connect()
    sock.send(pack("ASKING") + pack("RPUSH", "q{f}", "x"))
    rig.run()
    sock.close()
    rig.advance(0.05)
    assert client.replies == [ELEMENT]


def test_what_was_popped_before_it_was_unblocked_is_delivered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    assert outside(a, "RPUSH", "q{f}", "x") == b":1\r\n"  # popped, and the reply is not sent
    rig.cluster.migration(F, a, b)
    other = rig.client()
    other.send("INCR", "n{f}")
    rig.run_proxy()
    step(rig.link_used_by(other, a), 1)  # ASK
    rig.run_proxy()
    rig.run()
    assert client.replies == [ELEMENT]
    assert other.replies == [1]
    assert [name for name in ran(a) + ran(b) if "POP" in name] == ["BLPOP q{f} 0"]
    rig.advance(70)
    assert rig.left_over() == []


def test_a_late_unblock_does_not_hit_the_next_one_on_that_connection(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    (link,) = a.waiting
    client.send("BLPOP", "q{c}", "0")  # the same node, another slot
    outside(a, "RPUSH", "q{f}", "x")
    rig.cluster.migration(F, a, b)
    other = rig.client()
    other.send("INCR", "n{f}")
    rig.run_proxy()
    lane = rig.link_used_by(other, a)
    step(lane, 1)  # ASK
    rig.run_proxy()
    assert lane.receive() == 1  # CLIENT UNBLOCK, not executed
    link.send()
    rig.run_proxy()
    assert client.read()
    assert client.replies == [ELEMENT]
    rig.connect()
    rig.run_proxy()
    for exclusive in rig.exclusive_links(a):  # the next BLPOP waits, then the node gets to the CLIENT UNBLOCK
        exclusive.receive()
        while exclusive.can_execute():
            exclusive.execute()
    rig.run()
    assert client.replies == [ELEMENT]
    assert len(a.waiting) == 1
    do(rig, "RPUSH", "q{c}", "y")
    assert client.replies == [ELEMENT, [b"q{c}", b"y"]]


@pytest.mark.parametrize("timeout", ["5", "0"])
def test_the_time_that_is_left_travels_on(make_rig: MakeRig, timeout: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a, "BLPOP", "q{f}", timeout)
    rig.advance(1, step=0.1)
    rig.cluster.own(F, b)
    do(rig, "GET", "n{f}")
    rig.advance(2.5, step=0.1)
    (link,) = b.waiting
    assert a.waiting == []
    (left,) = timeouts(b)
    if timeout == "0":
        assert left == 0
        rig.advance(100)
        assert client.replies == []
        return
    assert 1.4 < left < 4
    rig.advance(1.3, step=0.1)
    assert client.replies == []
    rig.advance(0.3, step=0.1)
    assert client.replies == [None]
    assert link.closed is False


@pytest.mark.parametrize("at", [0.5, 0.99, 0.9999, 0.99999999])
def test_the_time_that_is_left_never_becomes_for_ever(make_rig: MakeRig, at: float) -> None:
    """The connection is slow to come, and when it is there next to no time is left."""
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a, "BLPOP", "q{f}", "30")
    rig.cluster.own(F, b)
    rig.dialling = False
    rig.run()  # MOVED
    started = rig.clock.now
    rig.advance(29 + at, step=0.05)
    rig.dialling = True
    rig.clock.now = started + 29 + at
    rig.run()
    assert all(left > 0 for left in timeouts(b))
    rig.advance(1, step=0.1)
    assert client.replies == [None]
    assert b.waiting == []
    assert rig.left_over() == []


def test_in_a_slot_in_trouble_it_ends_in_time_without_a_node(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    client = rig.client()
    client.send("BLPOP", "q{f}", "2")
    rig.advance(1.9, step=0.1)
    assert client.replies == []
    rig.advance(0.2, step=0.1)
    assert client.raw == b"*-1\r\n"
    assert a.waiting == b.waiting == []
    assert timeouts(a) == timeouts(b) == []


def test_when_the_slot_is_calm_again_it_waits_at_its_node_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    migration = rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    rig.advance(3)
    assert a.waiting == b.waiting == []
    migration.finish()
    do(rig, "GET", "n{f}")
    rig.advance(3)
    assert len(b.waiting) == 1
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]
    rig.advance(3)
    assert rig.left_over() == []


def test_a_migration_that_was_given_up_is_forgotten_after_a_while(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    rig.cluster.migration(F, a, b)
    do(rig, "GET", "n{f}")
    rig.cluster.own(F, a)
    rig.advance(70)
    assert len(a.waiting) == 1
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]


def test_a_connection_that_cannot_be_told_now_is_told_later(make_rig: MakeRig) -> None:
    """The connection by which a node is told to unblock is down when the slot gets into trouble."""
    rig = make_rig(2, lanes=2)
    a, b = rig.nodes
    client = blocked_at(rig, a)
    others = [rig.client() for _ in range(2)]
    rig.dialling = False
    rig.link_used_by(client, a).drop()
    rig.run()
    rig.cluster.migration(F, a, b)
    for other in others:
        other.send("INCR", "n{f}")
    rig.run()
    rig.dialling = True
    rig.run()
    assert sorted(reply for other in others for reply in other.replies) == [1, 2]
    rig.advance(1)
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(1, step=0.1)
    assert client.replies == [ELEMENT]


# The node says that it is not the right one


def test_moved_is_followed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    rig.cluster.own(F, b)
    rig.advance(3, step=0.1)
    assert a.waiting == []
    assert len(b.waiting) == 1
    assert rig.owner(F) == "B"
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]


def test_an_element_that_waits_at_the_new_owner_is_found_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    rig.cluster.own(F, b)
    outside(b, "RPUSH", "q{f}", "x")
    rig.advance(0.05, step=0.01)
    assert client.replies == [ELEMENT]


@pytest.mark.parametrize("state", ["down", "demoted"])
def test_a_node_that_serves_it_no_more_is_waited_out(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a)
    if state == "down":
        a.down = True
        rig.advance(2, step=0.1)
        a.down = False
    else:
        a.demote()
        rig.cluster.own(F, b)
        assert rig.control.refreshes == []
    rig.advance(4, step=0.1)
    assert client.replies == []
    assert len((a if state == "down" else b).waiting) == 1
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]
    rig.advance(3)
    assert rig.left_over() == []


def test_a_demoted_nodes_connections_are_not_used_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_at(rig, a)
    (link,) = a.waiting
    assert a.force_unblock() == [link]
    rig.run()  # said, and not hung up yet
    assert link.closed
    rig.advance(1, step=0.1)
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]


# Two keys


def test_blmove_moves_where_the_slot_is(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = blocked_at(rig, a, "BLMOVE", "q{f}", "r{f}", "LEFT", "RIGHT", "0")
    migration = rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    assert a.waiting == []
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(1, step=0.05)
    assert client.replies == []  # the target must have both keys, and one of them exists nowhere
    migration.finish()
    rig.advance(1, step=0.05)
    assert client.replies == [b"x"]
    assert do(rig, "LPOP", "r{f}") == b"x"


def test_blmove_over_two_slots_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("BLMOVE", "q{f}", "r{a}", "LEFT", "RIGHT", "0")
    client.send("BRPOPLPUSH", "q{f}", "r{a}", "0")
    client.send("PING")
    rig.run()
    assert client.errors() == ["CROSSSLOT Keys in request don't hash to the same slot"] * 2
    assert client.replies[-1] == b"PONG"


def test_two_keys_of_a_migrating_slot_are_tried_one_by_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    client = rig.client()
    client.send("BLPOP", "p{f}", "q{f}", "0")
    rig.run()
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(0.05)
    assert client.replies == [ELEMENT]
    assert "BLPOP" not in [words[0].decode() for words in b.received()]
