"""WAIT: every primary is asked on a connection that has seen a command, and the least number is the answer."""

from __future__ import annotations

import pytest

from slotproxy.dataplane.replicas import least
from tests.dataplane.asking import do, names, rig_with_replica, send_at_once
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import array


def prepared(rig: Rig, *counts: int, name: str = "WAIT") -> ScriptedClient:
    """The nodes have so many replicas each; a client of them."""
    for node, count in zip(rig.nodes, counts, strict=True):
        node.answer(name, b":%d\r\n" % count, times=10)
    return rig.client()


@pytest.mark.parametrize(("counts", "expected"), [((1, 2), 1), ((3, 0), 0), ((2, 2), 2)])
def test_the_least_number_is_the_answer(make_rig: MakeRig, counts: tuple[int, int], expected: int) -> None:
    rig = make_rig()
    client = prepared(rig, *counts)
    send_at_once(client, "SET {f} 1", "WAIT 1 100", "PING")
    rig.run()
    assert client.replies == [b"OK", expected, b"PONG"]
    assert rig.left_over() == []


def test_a_command_goes_before_it_on_its_connection(make_rig: MakeRig) -> None:
    """On a fresh connection, which has written nothing, WAIT would count every replica."""
    rig = make_rig()
    client = prepared(rig, 1, 1)
    send_at_once(client, "WAIT 1 100", "WAIT 1 100")
    rig.run()
    for node in rig.nodes:
        (link,) = rig.exclusive_links(node)
        assert [words[0] for words in link.received] == [b"PING", b"WAIT", b"PING", b"WAIT"]


def test_it_is_asked_when_all_writes_have_been_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = prepared(rig, 1, 1)
    a.stopped = True
    send_at_once(client, "SET {f} 1", "WAIT 1 100", "SET {f} 2")
    rig.run()
    assert "WAIT" not in names(b)
    a.stopped = False
    rig.run()
    assert client.replies == [b"OK", 1, b"OK"]


def test_replicas_are_not_asked(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    client = prepared(rig, 1, 1, 0)
    client.send("WAIT", "1", "100")
    rig.run()
    assert client.replies == [1]
    assert "WAIT" not in names(rig.nodes[2])


@pytest.mark.parametrize("when", ["dial", "asked"])
def test_a_primary_that_cannot_be_asked_makes_it_an_error(make_rig: MakeRig, when: str) -> None:
    rig = make_rig()
    client = prepared(rig, 1, 1)
    if when == "dial":
        rig.dialling = False
    else:
        rig.nodes[1].drop_at("PING", runs=True)
    send_at_once(client, "WAIT 1 100", "PING")
    rig.run()
    if when == "dial":
        rig.refuse_dials("connection refused")
        rig.control.dials.clear()
        rig.run()
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: no answer: WAIT could not be asked of node ")
    assert client.replies[-1] == b"PONG"
    assert rig.plane.exclusives.leased() == 0
    assert rig.left_over() == []


def test_what_a_node_says_against_it_is_the_answer(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    rig.nodes[0].answer("WAIT", b"-ERR timeout is negative\r\n")
    rig.nodes[1].answer("WAIT", b"-ERR timeout is negative\r\n")
    client.send("WAIT", "1", "-1")
    rig.run()
    assert client.errors() == ["ERR timeout is negative"]
    assert rig.left_over() == []


def test_beyond_the_bound_it_is_an_error(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=1)
    client = prepared(rig, 1, 1)
    send_at_once(client, "WAIT 1 100", "PING")
    rig.run()
    assert client.errors()[0].startswith("ERR slotproxy: too many connections: WAIT ")
    assert client.replies[-1] == b"PONG"
    assert rig.plane.exclusives.leased() == 0


@pytest.mark.parametrize("state", ["leasing", "asked"])
def test_a_client_that_leaves_leaves_nothing_behind(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    client = prepared(rig, 1, 1)
    rig.dialling = state != "leasing"
    for node in rig.nodes:
        node.holding = True
    client.send("WAIT", "1", "0")
    rig.run()
    client.vanish()
    rig.tick()
    assert rig.plane.exclusives.leased() == 0
    rig.dialling = True
    for node in rig.nodes:
        node.holding = False
    rig.advance(15)  # what was being made is idle until then
    assert [rig.exclusive_links(node) for node in rig.nodes] == [[], []]
    assert rig.left_over() == []


@pytest.mark.parametrize("how", ["ERROR", "TIMEOUT"])
def test_unblocked_it_is_told_what_the_nodes_have_counted(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    client = prepared(rig, 1, 0)
    for node in rig.nodes:
        node.holding = True
    client.send("WAIT", "1", "0")
    rig.run()
    unblocker = rig.client()
    unblocker.send("CLIENT", "UNBLOCK", 1, how)
    rig.run()
    assert unblocker.replies == [1]
    for node in rig.nodes:
        (link,) = rig.exclusive_links(node)
        assert ["CLIENT", "UNBLOCK", str(link.id), how] in [[w.decode() for w in words] for words in node.received()]
        node.holding = False
    rig.run()
    assert client.replies == [0]
    assert do(rig, "CLIENT", "UNBLOCK", "1") == 0
    assert rig.left_over() == []


def test_a_drain_ends_it_with_what_the_nodes_have_counted(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = prepared(rig, 1, 1)
    for node in rig.nodes:
        node.holding = True
    client.send("WAIT", "1", "0")
    rig.run()
    finished: list[bool] = []
    rig.plane.finish_clients(lambda: finished.append(True))
    rig.run()
    for node in rig.nodes:
        assert "UNBLOCK" in [words[1].decode() for words in node.received() if words[0] == b"CLIENT"]
        node.holding = False
    rig.run()
    assert finished == [True]
    assert client.replies == [1]
    assert client.closed


def test_inside_a_transaction_it_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = prepared(rig, 1, 1)
    send_at_once(client, "MULTI", "WAIT 1 100", "EXEC")
    rig.run()
    first, second = client.errors()
    assert first.startswith("ERR slotproxy: WAIT inside a transaction is refused")
    assert second.startswith("EXECABORT ")


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([b":3\r\n"], b":3\r\n"),
        ([b":3\r\n", b":1\r\n", b":2\r\n"], b":1\r\n"),
        ([array([b":1\r\n", b":5\r\n"]), array([b":2\r\n", b":0\r\n"])], array([b":1\r\n", b":0\r\n"])),
        ([b"+what\r\n", b":1\r\n"], b"+what\r\n"),
    ],
)
def test_the_least(replies: list[bytes], expected: bytes) -> None:
    assert least(replies) == expected
