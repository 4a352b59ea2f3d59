"""RESP2 and RESP3 clients on one port: each on connections of its kind; a change has its place among the commands."""

from __future__ import annotations

import pytest

from slotproxy.dataplane.exclusives import Exclusive
from tests.dataplane.asking import blocked_at, do, send_at_once, send_block
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.dataplane.test_lanes import without
from tests.scripted_frames import bulk, error

NULL3 = b"_\r\n"


def resp3_client(rig: Rig) -> ScriptedClient:
    client = rig.client()
    client.send("HELLO", 3)
    rig.run()
    greeting = client.replies.pop()
    assert isinstance(greeting, dict) and greeting[b"proto"] == 3
    client.raw = b""
    return client


def connected(rig: Rig) -> list[list[int]]:
    """Of each node the RESP versions of the lanes that are connected, without the one that hears of changed keys."""
    return [
        [lane.key.protocol for lane in node.lanes if lane.ready and lane.key.shared]
        for node in rig.plane.router.territory.nodes.values()
    ]


def test_clients_of_different_protocols_share_no_connection(make_rig: MakeRig) -> None:
    rig = make_rig(lanes=2)
    a, _ = rig.nodes
    clients = [rig.client(), rig.client(), resp3_client(rig), resp3_client(rig)]
    for client in clients:
        client.send("INCR", "{f}")
        client.send("GET", "none{f}")
        rig.run()
    assert [client.replies for client in clients] == [[1, None], [2, None], [3, None], [4, None]]
    links = [rig.link_used_by(client, a) for client in clients]
    assert len(set(links)) == 4
    assert [link.protocol for link in links] == [2, 2, 3, 3]
    assert clients[0].raw.endswith(b"$-1\r\n") and clients[3].raw.endswith(NULL3)


def test_connections_for_resp3_are_made_for_the_first_client_that_speaks_it(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    assert connected(rig) == [[2], [2], [2]]
    resp3_client(rig)
    rig.run()
    assert connected(rig) == [[2, 3], [2, 3], [2, 3]]
    topology = rig.nodes[0].topology()
    rig.refresh(topology=without(rig, "C", "A"))
    rig.run()
    assert connected(rig) == [[2, 3], [2, 3]]
    rig.refresh(topology=topology)
    rig.run()
    assert connected(rig) == [[2, 3], [2, 3], [2, 3]]  # those of a primary that has just joined, too


def test_what_concerns_all_nodes_waits_for_the_first_connections(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.dialling = False
    client = rig.client()
    send_at_once(client, "HELLO 3", "DBSIZE", "GET {f}")
    rig.run()
    assert len(client.replies) == 1
    rig.dialling = True
    rig.run()
    assert client.replies[1:] == [0, None]


def test_hello_waits_for_what_is_in_flight_and_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    a.stopped = True
    send_at_once(client, "GET none{f}", "HELLO 3", "GET none{f}", "HELLO 2", "GET none{f}")
    rig.run()
    assert client.replies == []
    lanes = [lane for node in rig.plane.router.territory.nodes.values() for lane in node.lanes]
    (request,) = [request for lane in lanes for request in lane.fifo.all()]
    assert request.command.name == "get"
    a.stopped = False
    rig.run()
    first, rest = client.raw.split(b"%7\r\n")
    assert first == b"$-1\r\n"
    assert rest.split(b"*0\r\n")[1].startswith(NULL3 + b"*14\r\n")
    assert rest.endswith(b"*0\r\n$-1\r\n")


def test_reset_goes_back_to_resp2(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = resp3_client(rig)
    send_at_once(client, "RESET", "CLIENT GETNAME", "GET none{f}")
    rig.run()
    assert client.raw == b"+RESET\r\n$-1\r\n$-1\r\n"


def test_a_transaction_is_in_one_protocol(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = resp3_client(rig)
    send_block(client, "HELLO 2", "GET none{f}", "HELLO 3", "HELLO")
    rig.run()
    refused, nothing, same, also = client.replies[-1]
    assert "HELLO with another protocol inside a transaction is refused" in str(refused)
    assert nothing is None
    assert same[b"proto"] == also[b"proto"] == 3


@pytest.mark.parametrize("protocol", [2, 3])
def test_nothing_is_the_null_of_the_clients_protocol(make_rig: MakeRig, protocol: int) -> None:
    """EXEC of a watched key that was touched; timeouts at the node and in the proxy."""
    rig = make_rig()
    client = resp3_client(rig) if protocol == 3 else rig.client()
    client.send("WATCH", "{f}")
    rig.run()
    do(rig, "SET", "{f}", "1")
    send_block(client, "INCR {f}")
    send_at_once(client, "BLPOP q{f} 0.1", "BLPOP q{f} q{a} 0.1", "CLIENT GETNAME")
    rig.advance(3, step=0.1)
    array, string = (NULL3, NULL3) if protocol == 3 else (b"*-1\r\n", b"$-1\r\n")
    assert client.raw == b"+OK\r\n+OK\r\n+QUEUED\r\n" + 3 * array + string
    assert rig.left_over() == []


def test_a_leased_connection_is_lent_to_clients_of_its_protocol_only(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    older = blocked_at(rig, a)
    do(rig, "LPUSH", "q{f}", "x")
    assert older.replies == [[b"q{f}", b"x"]]
    (idle,) = rig.exclusive_links(a)
    newer = resp3_client(rig)
    newer.send("BLPOP", "q{f}", 0)
    rig.run()
    assert {link.protocol for link in rig.exclusive_links(a)} == {2, 3}
    again = rig.client()
    again.send("BLPOP", "q{f}", 0)
    rig.run()
    assert len(rig.exclusive_links(a)) == 2
    assert idle.memory.waits is not None


# What changes with the protocol besides


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_was_watched_in_the_other_protocol_counts_as_touched(make_rig: MakeRig, protocol: int) -> None:
    """Its connection speaks that one; EXEC's array would come in it."""
    rig = make_rig()
    client = rig.client() if protocol == 3 else resp3_client(rig)
    client.send("WATCH", "{f}")
    client.send("HELLO", protocol)
    rig.run()
    client.raw = b""
    send_block(client, "INCR {f}")
    send_block(client, "INCR {f}")
    rig.run()
    nothing = NULL3 if protocol == 3 else b"*-1\r\n"
    assert client.raw == b"+OK\r\n+QUEUED\r\n" + nothing + b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"
    assert rig.left_over() == []


def test_hello_with_the_same_protocol_leaves_what_is_watched(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = resp3_client(rig)
    client.send("WATCH", "{f}")
    client.send("HELLO", 3, "SETNAME", "me")
    send_block(client, "INCR {f}")
    rig.run()
    assert client.replies[-1] == [1]


def test_multi_is_denied_to_the_first_resp3_client_as_to_others(make_rig: MakeRig) -> None:
    """It is the same user, and what he may do was found out when RESP2's connections were made."""
    rig = make_rig()
    rig.denied = error("NOPERM this user has no permissions to run the 'multi' command")
    for node in rig.nodes:
        node.drop_links()
    rig.run()
    rig.dialling = False
    client = rig.client()
    send_at_once(client, "HELLO 3", "MULTI")
    rig.run()
    assert "NOPERM" in str(client.replies[-1])


@pytest.mark.parametrize("how", ["HELLO 3", "RESET"])
@pytest.mark.parametrize("connected", [True, False])
def test_what_a_lost_connection_may_still_run_is_forgotten_before_the_other_protocols_commands(
    make_rig: MakeRig, how: str, connected: bool
) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    if connected:
        resp3_client(rig)
    client = rig.client() if how == "HELLO 3" else resp3_client(rig)
    client.send("SET", "{f}", "old")
    rig.run_proxy()
    link = rig.link_used_by(client, a)
    link.receive()  # it is in the buffer of a connection whose other end is lost
    rig.dialling = False
    lane = rig.plane.router.territory.nodes[a.id].lanes[rig.client_lane(client)]
    rig.plane.router.lane_lost(lane, "connection reset by the node")
    rig.run_proxy()
    client.read()
    assert "in doubt" in client.errors()[0]
    send_at_once(client, how, "SET {f} new")
    rig.run_proxy()
    for stream in rig.control.dials[:]:
        if stream.key.protocol == (3 if how == "HELLO 3" else 2) and stream.key.shared:
            rig.control.dials.remove(stream)
            rig.connect_lane(stream)
    while rig.cluster.value(b"{f}") is None:
        rig.run_proxy()
        for one in a.open_links():
            if one is not link:  # the dead connection's command comes last
                one.receive()
                while one.can_execute():
                    one.execute()
                one.send()
    assert rig.cluster.value(b"{f}") == b"new"
    assert link.closed, "the newer command was run first"
    rig.dialling = True
    rig.run()
    assert rig.left_over() == []


def blocked_without_lane(rig: Rig) -> ScriptedClient:
    """A RESP3 client that waits at a node, before there is another connection for RESP3."""
    rig.dialling = False
    client = rig.client()
    send_at_once(client, "HELLO 3", "BLPOP q{f} 0")
    rig.run()
    for stream in rig.control.dials[:]:
        if isinstance(stream, Exclusive):
            rig.control.dials.remove(stream)
            rig.connect_lane(stream)
    rig.run()
    return client


def test_a_blocked_command_is_unblocked_by_whatever_connection_there_is(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_without_lane(rig)
    assert len(a.waiting) == 1
    assert do(rig, "CLIENT", "UNBLOCK", "1") == 1
    assert client.replies[1:] == [None]


def test_a_lost_blocked_command_is_killed_when_there_is_a_connection(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = blocked_without_lane(rig)
    (link,) = a.waiting
    rig.node_end(a).cut = 0
    rig.node_end(a).shutdown(2)  # the proxy's side breaks; the node has not noticed
    rig.tick()
    client.read()
    assert "in doubt: BLPOP " in client.errors()[0]
    assert not link.closed
    rig.dialling = True
    rig.run()
    assert link.closed
    assert rig.left_over() == []


# Connections of one protocol that cannot be made


def refuse(rig: Rig, protocol: int) -> None:
    """Connections of this protocol cannot be made; all others are."""
    rig.dialling = False
    lanes, rig.control.dials = rig.control.dials, []
    for lane in lanes:
        if lane.key.protocol == protocol:
            rig.plane.unreachable(lane, "max number of clients reached")
            rig.control.dials.append(lane)
        else:
            rig.connect_lane(lane)
    rig.run()


def test_info_does_not_wait_long_for_connections_of_the_clients_protocol(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.dialling = False
    client = rig.client()
    client.send("HELLO", 3)
    rig.run()
    (lane,) = [lane for lane in rig.control.dials if lane.node.info.id == rig.nodes[0].id]
    rig.control.dials.remove(lane)
    rig.connect_lane(lane)
    rig.nodes[0].answer("INFO", bulk(b"# Server\r\nredis_version:7.0.15\r\n"))
    client.send("INFO", "server")
    rig.advance(0.5, step=0.1)
    assert len(client.replies) == 1  # it may be about to be connected
    rig.advance(1, step=0.1)
    assert b"redis_version:7.0.15" in client.replies[-1]


@pytest.mark.parametrize("protocol", [2, 3])
def test_commands_without_keys_go_where_the_clients_protocol_can_be_spoken(make_rig: MakeRig, protocol: int) -> None:
    rig = make_rig()
    client = resp3_client(rig) if protocol == 3 else rig.client()
    territory = rig.plane.router.territory
    home = territory.owner(territory.keyless_slot(1))
    assert home is not None
    resp3_client(rig)
    rig.dialling = False
    rig.link_of(home.lanes[rig.client_lane(client)]).drop()
    rig.run()
    refuse(rig, protocol)
    for node in rig.nodes:
        node.answer("PUBLISH", b":0\r\n")
    client.send("PUBLISH", "news", "x")
    rig.run()
    assert client.replies == [0]
