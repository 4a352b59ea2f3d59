"""Clients in blocking commands whose keys lie in one slot: they wait at its node; nothing is lost when that changes."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import blocked_at, do, outside, ran, send_at_once
from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import pack
from tests.scripted_node import NodeLink, slot_of

F = slot_of(b"{f}")
ELEMENT = [b"q{f}", b"x"]


def commands_on(link: NodeLink) -> list[str]:
    return [b" ".join(words).decode() for words in link.received]


# At the node


def test_it_waits_at_the_node_with_the_command_as_it_came(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_at(rig, a, "bLPop", "p{f}", "q{f}", "00.0")
    (link,) = rig.exclusive_links(a)
    assert commands_on(link) == ["bLPop p{f} q{f} 00.0"]
    assert (rig.plane.blocked.count, rig.plane.exclusives.leased()) == (1, 1)
    assert do(rig, "RPUSH", "q{f}", "x", "y") == 2
    assert client.replies == [ELEMENT]
    assert rig.left_over() == []


def test_what_is_there_is_given_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    do(rig, "RPUSH", "q{f}", "x", "y")
    client = rig.client()
    send_at_once(client, "BLPOP q{f} 0", "BRPOP q{f} 0", "LLEN q{f}")
    rig.run()
    assert client.replies == [ELEMENT, [b"q{f}", b"y"], 0]


def test_later_commands_wait_and_earlier_ones_have_been_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    send_at_once(client, "INCR n{f}", "INCR n{a}", "BLPOP q{f} 0", "INCR n{f}", "INCR n{a}")
    rig.run()
    assert client.replies == [1, 1]
    assert ran(a) + ran(b) == ["INCR n{f}", "INCR n{a}"]
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [1, 1, ELEMENT, 2, 2]


def test_it_changes_connection_only_when_what_it_has_in_flight_is_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    b.stopped = True
    client = rig.client()
    send_at_once(client, "GET n{a}", "BLPOP q{f} 0")
    rig.run()
    assert a.received() == []
    b.stopped = False
    rig.run()
    assert len(a.waiting) == 1


def test_the_nodes_timeout_is_the_answer(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = blocked_at(rig, rig.nodes[0], "BLPOP", "q{f}", "2.5")
    rig.advance(2.4, step=0.1)
    assert client.replies == []
    rig.advance(0.2, step=0.1)
    assert client.replies == [None]
    assert client.raw == b"*-1\r\n"
    assert rig.left_over() == []


def test_the_next_one_uses_the_same_connection(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    for _ in range(5):
        client = blocked_at(rig, a)
        do(rig, "RPUSH", "q{f}", "x")
        assert client.replies == [ELEMENT]
    assert len(rig.exclusive_links(a)) == 1


@pytest.mark.parametrize(
    "command",
    ["BLPOP q{f} x", "BLPOP q{f} -1", "BLMOVE q{f} r{f} LEFT UP 0", "BLMPOP x 1 q{f} LEFT"],
)
def test_what_is_wrong_with_it_the_node_says(make_rig: MakeRig, command: str) -> None:
    rig = make_rig()
    name = command.split()[0]
    for node in rig.nodes:
        node.answer(name, b"-ERR what the node says\r\n")
    client = rig.client()
    client.send(*command.split())
    client.send("PING")
    rig.run()
    assert client.errors() == ["ERR what the node says"]
    assert client.replies[-1] == b"PONG"
    assert rig.left_over() == []


# Lost connections


def test_a_pop_whose_connection_is_lost_is_in_doubt_and_killed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_at(rig, a)
    (link,) = a.waiting
    rig.node_end(a).cut = 0
    rig.node_end(a).shutdown(2)  # the proxy's side breaks; the node has not noticed
    rig.tick()
    client.read()
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: in doubt: BLPOP ")
    rig.run()
    assert f"CLIENT KILL ID {link.id}" in [b" ".join(words).decode() for words in a.received()]
    assert rig.plane.counters.in_doubt == 1
    do(rig, "RPUSH", "q{f}", "x")
    assert a.keys[b"q{f}"]
    assert rig.left_over() == []


def test_a_pop_that_was_not_sent_whole_is_sent_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_at(rig, a)
    (link,) = a.waiting
    do(rig, "RPUSH", "q{f}", "w")
    rig.node_end(a).room = len(pack("BLPOP", "q{f}", "0")) - 1
    client.send("BLPOP", "q{f}", "0")
    rig.run()
    link.drop()
    rig.advance(1, step=0.1)
    assert client.replies.pop(0) == [b"q{f}", b"w"]
    assert client.replies == []
    assert len(a.waiting) == 1
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(1, step=0.1)
    assert client.replies == [ELEMENT]
    assert rig.plane.counters.in_doubt == 0


def test_a_read_whose_connection_is_lost_goes_on(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    do(rig, "XADD", "s{f}", "1-1", "k", "v")
    client = blocked_at(rig, a, "XREAD", "BLOCK", "0", "STREAMS", "s{f}", "$")
    a.waiting[0].drop()
    outside(a, "XADD", "s{f}", "2-1", "k", "v")  # while it does not wait anywhere
    rig.advance(1, step=0.1)
    assert client.replies == [[[b"s{f}", [[b"2-1", [b"k", b"v"]]]]]]
    assert rig.plane.counters.in_doubt == 0


@pytest.mark.parametrize("wrong", ["refused", "silent"])
def test_a_node_that_cannot_be_dialled_is_tried_again(make_rig: MakeRig, wrong: str) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    client = rig.client()
    client.send("BLPOP", "q{f}", "60")
    rig.run()
    if wrong == "refused":
        rig.refuse_dials()
        rig.control.dials.clear()
    rig.advance(2, step=0.1)
    assert client.replies == []
    rig.dialling = True
    rig.advance(2, step=0.1)
    assert len(a.waiting) == 1
    do(rig, "RPUSH", "q{f}", "x")
    assert client.replies == [ELEMENT]


def test_while_a_node_cannot_be_dialled_elements_are_found_all_the_same(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    rig.dialling = False
    client.send("BLPOP", "q{f}", "60")
    rig.run()
    rig.refuse_dials()
    rig.control.dials.clear()
    rig.run()
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(0.1, step=0.01)
    assert client.replies == [ELEMENT]


@pytest.mark.parametrize("connected", ["never", "late"])
def test_what_is_there_is_found_though_the_timeout_is_over_before_the_connection_is_made(
    make_rig: MakeRig, connected: str
) -> None:
    """As on one server, which looks before it waits."""
    rig = make_rig()
    do(rig, "RPUSH", "q{f}", "x")
    rig.dialling = False
    client = rig.client()
    client.send("BLPOP", "q{f}", "0.01")
    empty = rig.client()
    empty.send("BLPOP", "r{f}", "0.01")
    rig.run()
    if connected == "late":
        rig.clock.now += 0.02
        rig.dialling = True
    rig.advance(0.2, step=0.05)
    assert client.replies == [ELEMENT]
    assert empty.replies == [None]
    rig.dialling = True
    rig.advance(70)
    assert rig.left_over() == []


# Bounds


def test_beyond_the_bound_it_is_an_error(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=1)
    first = blocked_at(rig, rig.nodes[0])
    second = rig.client()
    send_at_once(second, "BLPOP q{f} 0", "PING")
    rig.run()
    (message,) = second.errors()
    assert message == (
        "ERR slotproxy: too many connections: BLPOP needs a connection to a node for itself, and 1 are in use"
        " (--max-exclusive); not executed"
    )
    assert second.replies[-1] == b"PONG"
    do(rig, "RPUSH", "q{f}", "x")
    assert first.replies == [ELEMENT]
    assert rig.left_over() == []


def test_one_that_waits_already_goes_on_beyond_the_bound(make_rig: MakeRig) -> None:
    """It was unblocked because its slot moved; meanwhile others have taken all connections."""
    rig = make_rig(2, max_exclusive=1)
    a, b = rig.nodes
    client = blocked_at(rig, a)
    migration = rig.cluster.migration(F, a, b)
    do(rig, "INCR", "n{f}")
    other = rig.client()
    other.send("BLPOP", "q{a}", "0")
    rig.run()
    assert len(b.waiting) == 1
    migration.finish()
    do(rig, "GET", "n{f}")
    rig.advance(5, step=0.1)
    assert client.replies == other.replies == []
    do(rig, "RPUSH", "q{f}", "x")
    rig.advance(0.1, step=0.01)
    assert client.replies == [ELEMENT]
    do(rig, "RPUSH", "q{a}", "x")
    assert other.replies == [[b"q{a}", b"x"]]
