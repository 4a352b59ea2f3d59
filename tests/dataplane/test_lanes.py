"""Connections to nodes: what a lost one costs, what a broken one does to others, and what never happens."""

from __future__ import annotations

import pytest

from slotproxy.cluster.topology import NodeInfo, Topology
from slotproxy.dataplane.lanes import Lane
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig
from tests.scripted_frames import pack
from tests.scripted_node import HOST, slot_of

F = slot_of(b"{f}")


def lane_of(rig: Rig, name: str, index: int = 0) -> Lane:
    (node,) = [node for node in rig.nodes if node.name == name]
    return rig.plane.router.territory.nodes[node.id].lanes[index]


def test_unsent_commands_are_resent_and_sent_writes_are_in_doubt(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    end = rig.node_end(a)
    end.room = len(pack("INCR", "1{f}")) + len(pack("INCR", "2{f}")) - 1  # all but its last byte
    client = rig.client()
    client.send("INCR", "1{f}")
    client.send("INCR", "2{f}")
    client.send("INCR", "3{f}")
    rig.run_proxy()
    a.drop_links()
    rig.advance(1)
    (message,) = client.errors()
    assert message == (
        f"ERR slotproxy: in doubt: INCR may or may not have run: the connection to node {a.address} was lost before it"
        " answered (connection closed by the node); not sent again"
    )
    assert client.replies[1:] == [1, 1]
    assert a.keys == {b"2{f}": b"1", b"3{f}": b"1"}
    assert rig.plane.counters.in_doubt == 1
    assert rig.left_over() == []


@pytest.mark.parametrize("taken", [0, 10])
def test_what_a_broken_socket_did_not_take_is_resent(make_rig: MakeRig, taken: int) -> None:
    """The send itself fails: nothing of it can have run."""
    rig = make_rig()
    a, _ = rig.nodes
    rig.node_end(a).cut = taken
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("SET", "{b}", "x" * 300_000)  # more than one send
    rig.advance(1)
    assert client.replies == [1, b"OK"]
    assert rig.plane.counters.in_doubt == 0


def test_a_read_that_was_sent_is_repeated(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.keys[b"{f}"] = b"x"
    a.drop_at("GET", runs=True)
    client = rig.client()
    client.send("GET", "{f}")
    client.send("MGET", "{f}", "none{f}")
    rig.advance(1)
    assert client.replies == [b"x", [b"x", None]]


def test_a_read_followed_by_an_in_doubt_write_is_not_repeated(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.drop_at("GET", runs=False)
    client = rig.client()
    client.send("GET", "{f}")
    client.send("GET", "{b}")  # another slot
    client.send("INCR", "{f}")
    client.send("GET", "2{f}")  # behind the write
    rig.advance(1)
    assert len(client.errors()) == 2
    assert client.errors()[0] == (
        f"ERR slotproxy: no answer: GET was lost with its connection to node {a.address} (connection closed by the"
        " node); not sent again because a write that may have run follows it"
    )
    assert "in doubt: INCR" in client.errors()[1]
    assert client.replies[1] is None
    assert client.replies[3] is None


def test_another_clients_doubt_does_not_keep_a_read_from_being_repeated(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.drop_at("GET", runs=False)
    reader, writer = rig.client(), rig.client()
    reader.send("GET", "{f}")
    rig.run_proxy()
    writer.send("INCR", "{f}")
    rig.run_proxy()
    rig.advance(1)
    assert reader.replies in ([None], [b"1"])
    assert len(writer.errors()) == 1


def test_newer_commands_wait_for_the_new_connection_and_keep_their_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    client = rig.client()
    a.drop_links()
    for _ in range(10):
        client.send("INCR", "{f}")
    rig.advance(3)
    assert client.replies == []
    assert len(rig.control.dials) == 1  # asked for once
    rig.dialling = True
    rig.run()
    assert client.replies == list(range(1, 11))


def test_the_lost_connection_is_known_by_its_client_id_until_a_new_one_is_there(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    lane = lane_of(rig, "A")
    id = lane.client_id
    assert id == a.last_id
    rig.node_end(a).cut = 0  # the node does not hear of it
    rig.client().send("INCR", "{f}")
    rig.run()
    assert (lane.fences, lane.ready) == ({id: "A"}, False)
    rig.plane.unreachable(lane, "connection refused")
    assert lane.fences == {id: "A"}
    rig.dialling = True
    rig.run()
    assert (lane.fences, lane.client_id, lane.ready) == ({}, id + 1, True)


def test_a_silent_node_parks_its_slots_and_the_error_says_which_node(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=5.0)
    a, _ = rig.nodes
    rig.dialling = False
    client, other = rig.client(), rig.client()
    a.drop_links()
    rig.run()
    rig.refuse_dials("connection refused")
    client.send("INCR", "{f}")
    other.send("INCR", "{a}")
    rig.advance(6)
    assert other.replies == [1]
    assert client.errors() == [
        f"ERR slotproxy: not served: slot {F} was not served within 5 s (--park-timeout); not executed;"
        f" last: node {a.address}: connection refused"
    ]


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad\r\n", b"$-5\r\n", b"$99999999999\r\n", b"*-2\r\n", b"\x00"])
def test_garbage_from_a_node_closes_that_connection_only(make_rig: MakeRig, garbage: bytes) -> None:
    rig = make_rig(lanes=2)
    first, second = rig.client(), rig.client()  # on different connections
    first.send("INCR", "1{f}")
    second.send("INCR", "2{f}")
    rig.run_proxy()
    rig.link_of(lane_of(rig, "A", int(rig.client_lane(first)))).say(garbage)
    rig.advance(1)
    assert "in doubt" in first.errors()[0]
    assert "Protocol error: bad reply" in first.errors()[0]
    assert second.replies == [1]
    first.send("INCR", "3{f}")
    rig.run()
    assert first.replies[1] == 1


def test_a_reply_that_nobody_asked_for_goes_to_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    rig.link_of(lane_of(rig, "A")).say(b"+stray\r\n")
    rig.run()
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1]
    assert len(a.links) == 2  # on a new connection


def test_a_reply_to_a_vanished_client_is_dropped_and_goes_to_nobody_else(make_rig: MakeRig) -> None:
    rig = make_rig()
    gone, client = rig.client(), rig.client()
    gone.send("INCR", "{f}")
    gone.send("INCR", "{a}")
    rig.run_proxy()
    client.send("APPEND", "s{f}", "xyz")
    rig.run_proxy()
    gone.vanish()
    rig.run()
    assert client.replies == [3]
    assert rig.nodes[0].keys[b"{f}"] == b"1"  # it ran all the same
    assert rig.plane.client_count() == 1
    assert rig.plane.in_flight() == 0


def test_large_replies_arrive_in_pieces_and_leave_whole(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].keys[b"{f}"] = value = bytes(range(256)) * 4096
    client, other = rig.client(), rig.client()
    client.send("GET", "{f}")
    other.send("GET", "{f}")
    client.send("EXISTS", "{f}")
    rig.run()
    assert client.replies == [value, 1]
    assert other.replies == [value]


@pytest.mark.parametrize("chunk", [1, 2, 3, 17])
def test_replies_in_any_pieces_are_the_same(make_rig: MakeRig, chunk: int) -> None:
    rig = make_rig()
    rig.cluster.migration(F, *rig.nodes)
    for sock in rig.sockets:
        sock.chunk = chunk
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("MGET", "{f}", "{f}")
    client.send("GET", "{b}")
    rig.run()
    assert client.replies == [1, [b"1", b"1"], None]


def test_one_client_always_uses_the_same_connection_and_clients_share_them_evenly(make_rig: MakeRig) -> None:
    rig = make_rig(lanes=3)
    a, _ = rig.nodes
    clients = [rig.client() for _ in range(6)]
    for number in range(4):
        for index, client in enumerate(clients):
            client.send("SET", "{f}", f"{index}")
            client.send("SET", f"{number}{{b}}", f"{index}")
        rig.run()
    used: dict[bytes, set[int]] = {}
    for entry in a.executed:
        used.setdefault(entry.words[2], set()).add(entry.connection)
    assert all(len(connections) == 1 for connections in used.values())
    counts = [sum(entry.connection == link.id for entry in a.executed) for link in a.links]
    assert counts == [16, 16, 16]


# Nodes that come, go and move


def without(rig: Rig, name: str, owner: str) -> Topology:
    """The cluster without one node, whose slots another has."""
    nodes = {node.name: node for node in rig.nodes}
    topology = rig.nodes[0].topology()
    ranges = [(first, last, nodes[owner].id if id == nodes[name].id else id) for first, last, id in topology.ranges]
    return Topology({id: i for id, i in topology.nodes.items() if id != nodes[name].id}, ranges, {}, "test")


def test_a_node_that_left_answers_what_it_was_asked_and_is_closed_then(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run_proxy()
    a.serve()  # executed and answered; the proxy has not read it yet
    for slot in range(8192):
        b.owners[slot] = b
    b.keys.update(a.keys)
    rig.refresh(topology=without(rig, "A", "B"))
    client.send("INCR", "{f}")
    rig.advance(1)
    assert client.replies == [1, 2]
    assert a.open_links() == []
    rig.advance(70)
    assert rig.left_over() == []


def test_a_node_that_left_idle_is_closed_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.refresh(topology=without(rig, "B", "A"))
    rig.run()
    assert rig.nodes[1].open_links() == []
    assert rig.control.dials == []


def test_a_node_that_has_joined_is_connected_before_it_is_needed(make_rig: MakeRig) -> None:
    rig = make_rig(3, owning=2)
    assert [len(node.open_links()) for node in rig.nodes] == [1, 1, 1]


def test_a_node_with_a_new_address_is_dialled_there(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    topology = a.topology()
    old = topology.nodes[a.id]
    a.port = 7099
    new = NodeInfo(a.id, HOST, 7099, True, False, frozenset({(HOST, 7099)}))
    rig.refresh(topology=Topology({**topology.nodes, a.id: new}, topology.ranges, {}, "test"))
    rig.run()
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run()
    assert old.name != lane_of(rig, "A").node.name == f"{HOST}:7099"
    assert client.replies == [1]
    assert [link.closed for link in a.links] == [True, False]


def test_a_node_with_a_new_address_first_answers_what_is_in_flight(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run_proxy()  # sent, not executed yet
    topology = a.topology()
    a.port = 7099
    new = NodeInfo(a.id, HOST, 7099, True, False, frozenset({(HOST, 7099)}))
    rig.refresh(topology=Topology({**topology.nodes, a.id: new}, topology.ranges, {}, "test"))
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1, 2]
    assert [link.closed for link in a.links] == [True, False]
    assert rig.plane.counters.in_doubt == 0
    assert rig.left_over() == []
