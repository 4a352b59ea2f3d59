"""Commands over all nodes, SCAN, and whatever else runs alone: when they are sent, and what becomes of them in trouble.

`f` is the tag of a slot that node A owns at first, `a` of one that B owns.
"""

from __future__ import annotations

import pytest

from slotproxy.cluster.topology import NodeInfo, Topology
from tests.dataplane.asking import names, replica_of, rig_with_replica, send_at_once, take_over
from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import bulk
from tests.scripted_node import HOST, slot_of

F = slot_of(b"{f}")
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
NOBODY = Topology({}, [], {}, "nobody")

BUSY = b"-BUSY Redis is busy running a script.\r\n"


# ---- order


def test_it_counts_what_came_before_it_in_its_pipeline_and_nothing_else(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "SET {f} 1", "DBSIZE", "SET {a} 1", "DBSIZE", "FLUSHALL", "DBSIZE", "MSET {f} 1 {a} 1")
    send_at_once(client, "KEYS *")
    rig.run()
    assert client.replies[:7] == [b"OK", 1, b"OK", 2, b"OK", 0, b"OK"]
    assert sorted(client.replies[7]) == [b"{a}", b"{f}"]
    assert rig.left_over() == []


@pytest.mark.parametrize("trouble", ["asked", "moved", "down", "loading"])
def test_it_waits_for_what_came_before_whatever_way_that_takes(make_rig: MakeRig, trouble: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    if trouble == "asked":
        rig.cluster.migration(F, a, b)
    elif trouble == "moved":
        rig.cluster.own(F, b)
    elif trouble == "down":
        a.down = True
    else:
        a.answer("SET", LOADING, times=3)
    send_at_once(client, "SET {f} 1", "DBSIZE", "SET {a} 1", "DBSIZE")
    rig.run()
    if trouble == "down":
        assert client.replies == []
        assert "DBSIZE" not in names(a) + names(b)
        a.down = False
    if trouble == "moved":
        assert client.replies == [b"OK"]  # what owns the one slot may own others as well: the refresh tells
        rig.refresh()
    rig.advance(2)
    assert client.replies == [b"OK", 1, b"OK", 2]
    assert rig.cluster.value(b"{f}") == b"1"


def test_it_waits_for_a_command_that_is_told_to_try_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys = {b"{f}1": b"", b"{f}2": b""}
    migration = rig.cluster.migration(F, a, b)
    migration.move(b"{f}1")
    client = rig.client()
    send_at_once(client, "MSET {f}1 x {f}2 x {f}3 x", "DBSIZE", "INCR {f}4", "DBSIZE")
    rig.advance(1)
    assert client.replies == []
    assert "DBSIZE" not in names(a) + names(b)
    migration.finish()
    rig.advance(1)
    rig.refresh()
    rig.advance(1)
    assert client.replies == [b"OK", 3, 1, 4]


def test_nothing_of_its_client_is_sent_while_it_is_out_and_other_clients_go_on(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.stopped = True
    client, other = rig.client(), rig.client()
    send_at_once(client, "DBSIZE", "INCR {a}1", "PING", "MGET {a}1 {f}", "DBSIZE")
    rig.run()
    for _ in range(5):
        send_at_once(other, "INCR {a}", "DBSIZE")
        rig.run()
        assert [words for words in b.received() if words[1:] == [b"{a}1"]] == []
        other = rig.client()
    assert names(b) == ["DBSIZE"] + ["INCR", "DBSIZE"] * 5
    assert client.replies == []
    a.stopped = False
    rig.run()
    # B had answered the first part before the others came.
    assert client.replies == [0, 1, b"PONG", [b"1", None], 2]
    assert rig.left_over() == []


def test_it_is_not_sent_before_everything_of_its_client_was_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.stopped = True
    client = rig.client()
    send_at_once(client, "INCR {f}", "INCR {a}", "KEYS *")
    rig.run()
    assert names(b) == ["INCR"]
    a.stopped = False
    rig.run()
    assert client.replies[:2] == [1, 1]
    assert sorted(client.replies[2]) == [b"{a}", b"{f}"]


# ---- a cluster that is not known


@pytest.mark.parametrize("command", ["DBSIZE", "SCAN 0", "FLUSHALL", "INFO"])
def test_before_any_node_is_known_it_waits_and_then_runs(make_rig: MakeRig, command: str) -> None:
    rig = make_rig(park_timeout=3.0)
    rig.refresh(topology=NOBODY)
    for node in rig.nodes:
        node.answer("INFO", bulk(b"# Server\r\nredis_version:7.0.15\r\n"))
    client = rig.client()
    send_at_once(client, command, "PING")
    rig.advance(2.5)
    assert client.replies == []
    rig.refresh()
    rig.advance(0.2)
    assert len(client.replies) == 2 and client.errors() == []
    assert rig.left_over() == []


@pytest.mark.parametrize("command", ["DBSIZE", "SCAN 0", "FLUSHALL", "INFO"])
def test_a_cluster_that_stays_unknown_is_told_at_the_deadline(make_rig: MakeRig, command: str) -> None:
    rig = make_rig(park_timeout=3.0)
    rig.refresh(topology=NOBODY)
    client = rig.client()
    send_at_once(client, command, "PING")
    rig.advance(2.9)
    assert client.replies == []
    rig.advance(0.2)
    (error,) = client.errors()
    assert error == (
        "ERR slotproxy: not served: a command without keys was not served within 3 s (--park-timeout); not executed;"
        " last: no node is known yet"
    )
    assert client.replies[1] == b"PONG"
    assert rig.plane.counters.parked_expired == 1
    assert rig.left_over() == []


def test_who_leaves_before_the_cluster_is_known_asks_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.refresh(topology=NOBODY)
    client = rig.client()
    client.send("FLUSHALL")
    rig.run()
    rig.plane.clients[1].close()
    rig.refresh()
    rig.advance(1)
    assert "FLUSHALL" not in names(rig.nodes[0]) + names(rig.nodes[1])
    assert rig.left_over() == []


# ---- a node is in trouble


def test_a_part_that_a_demoted_primary_refuses_goes_to_its_successor(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    a, b, c = rig.nodes
    a.answer("FLUSHALL", READONLY, times=1000)
    rig.control.refreshes.clear()
    client = rig.client()
    client.send("FLUSHALL")
    rig.advance(0.2)
    assert client.replies == []
    assert "READONLY" in rig.control.refreshes
    assert names(c) == []
    take_over(rig)
    rig.advance(1)
    assert client.replies == [b"OK"]
    assert names(c) == ["FLUSHALL"] and names(b) == ["FLUSHALL"]
    assert rig.left_over() == []


@pytest.mark.parametrize("command", ["DBSIZE", "FLUSHALL", "SCAN 0", "KEYS *"])
def test_a_part_that_waits_for_a_dead_primary_goes_to_its_successor(make_rig: MakeRig, command: str) -> None:
    """Also when it is the proxy's first command of that kind."""
    rig = rig_with_replica(make_rig)
    a, _, c = rig.nodes
    c.keys = {b"{f}": b""}
    rig.dialling = False
    a.stopped = True
    a.drop_links()
    rig.run()
    client = rig.client()
    client.send(*command.split())
    rig.refuse_dials()
    rig.advance(1)
    assert client.replies == []
    take_over(rig, killed=True)
    rig.dialling = True
    a.stopped = False  # its links are closed; new ones are not what the proxy must want
    rig.advance(1)
    assert len(client.replies) == 1 and client.errors() == []
    assert names(c) == [command.split()[0]]
    assert names(a) == []


@pytest.mark.parametrize("command", ["DBSIZE", "FLUSHALL", "SCAN 0", "KEYS *"])
def test_a_part_keeps_its_way_to_the_successor_while_others_are_sent(make_rig: MakeRig, command: str) -> None:
    """The successor is known, and not connected yet, when another client's command is addressed to the same nodes."""
    rig = rig_with_replica(make_rig)
    a, _, c = rig.nodes
    rig.dialling = False
    a.drop_links()
    c.drop_links()
    rig.run()
    clients = [rig.client() for _ in range(3)]
    clients[0].send(*command.split())
    rig.run()
    take_over(rig, killed=True)
    clients[1].send("DBSIZE")
    clients[2].send("CONFIG", "SET", "maxmemory", "0")
    rig.run()
    rig.control.dials = [lane for lane in rig.control.dials if lane.node.info.id == c.id]
    rig.connect()
    rig.advance(1)
    assert [len(client.replies) for client in clients] == [1, 1, 1]
    assert sorted(names(c)) == sorted([command.split()[0], "DBSIZE", "CONFIG"])
    assert rig.left_over() == []


def test_what_is_asked_of_all_nodes_reaches_a_demoted_primary_too(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    client = rig.client()
    client.send("DBSIZE")
    rig.run()
    take_over(rig)
    rig.run()
    send_at_once(client, "CONFIG SET maxmemory 0", "DBSIZE")
    rig.run()
    assert client.replies == [0, b"OK", 0]
    assert [names(node).count("CONFIG") for node in rig.nodes] == [1, 1, 1]
    assert [names(node).count("DBSIZE") for node in rig.nodes] == [1, 2, 1]


def test_a_write_whose_connection_broke_is_in_doubt_at_that_node_and_done_at_the_others(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    a, b, c = rig.nodes
    for node in rig.nodes:
        node.keys = {b"old": b""}
    b.drop_at("FLUSHALL", runs=True)
    client = rig.client()
    send_at_once(client, "FLUSHALL", "DBSIZE")
    rig.run()
    (error,) = client.errors()
    assert error.startswith(f"ERR slotproxy: incomplete: FLUSHALL failed on node {b.address} (in doubt: ")
    where = error.partition("; it succeeded on nodes ")[2]
    assert sorted(where.split(", ")) == sorted([a.address, c.address])
    assert client.replies[1] == 0
    assert [names(node) for node in rig.nodes] == [["FLUSHALL", "DBSIZE"]] * 3
    assert rig.left_over() == []


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("command", ["DBSIZE", "KEYS *", "SCAN 0 COUNT 64"])
def test_a_read_whose_connection_broke_is_repeated_unseen(make_rig: MakeRig, command: str, runs: bool) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.keys = {b"{f}": b""}
    a.drop_at(command.split()[0], runs=runs, times=3)
    client = rig.client()
    client.send(*command.split())
    rig.advance(5)
    (reply,) = client.replies
    assert reply in (1, [b"{f}"]) or reply[1] == [b"{f}"]
    assert len(names(a)) == 4
    assert rig.left_over() == []


def test_what_was_not_sent_yet_waits_for_its_node(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.dialling = False
    a.drop_links()
    rig.run()
    client = rig.client()
    client.send("FLUSHALL")
    rig.run()
    assert names(b) == ["FLUSHALL"]
    rig.dialling = True
    rig.advance(1)
    assert client.replies == [b"OK"]
    assert names(a) == ["FLUSHALL"]


def test_a_node_that_stays_away_is_named_and_so_are_those_that_did_it(make_rig: MakeRig) -> None:
    rig = make_rig(3, park_timeout=3.0)
    a, b, c = rig.nodes
    rig.dialling = False
    a.drop_links()
    rig.run()
    client, other = rig.client(), rig.client()
    client.send("FLUSHALL")
    send_at_once(other, "INCR {a}", "DBSIZE")
    rig.run()
    rig.refuse_dials()
    rig.advance(2.5)
    assert client.replies == [] and other.replies == [1]
    rig.advance(1)
    (error,) = client.errors()
    assert error.startswith(f"ERR slotproxy: incomplete: FLUSHALL failed on node {a.address} (not served: ")
    assert "connection refused" in error and "not executed" in error
    assert b.address in error.partition("; it succeeded on nodes ")[2]
    assert c.address in error.partition("; it succeeded on nodes ")[2]
    assert other.errors()[0].startswith(f"ERR slotproxy: incomplete: DBSIZE failed on node {a.address} (not served: ")
    rig.dialling = True
    rig.advance(1)
    assert rig.left_over() == []


def test_a_node_that_loads_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].answer("DBSIZE", LOADING, times=4)
    rig.nodes[1].keys = {b"{a}": b""}
    client = rig.client()
    client.send("DBSIZE")
    rig.run()
    assert client.replies == []
    rig.advance(5)
    assert client.replies == [1]
    assert names(rig.nodes[1]) == ["DBSIZE"]
    assert rig.left_over() == []


def test_info_leaves_out_a_node_without_a_connection(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    b.answer("INFO", bulk(b"# Memory\r\nused_memory:3\r\n"))
    rig.dialling = False
    a.drop_links()
    rig.run()
    client = rig.client()
    client.send("INFO")
    rig.run()
    (text,) = client.replies
    assert b"used_memory:3" in text
    assert a.address.encode() in text
    assert names(a) == []


def test_a_replica_that_joined_is_asked_too_where_replicas_are_asked(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    client = rig.client()
    send_at_once(client, "CONFIG SET maxmemory 0", "DBSIZE")
    rig.run()
    assert client.replies == [b"OK", 0]
    assert [names(node) for node in rig.nodes] == [["CONFIG", "DBSIZE"], ["CONFIG", "DBSIZE"], ["CONFIG"]]


@pytest.mark.parametrize("fate", ["failing", "forgotten"])
def test_a_replica_that_the_cluster_gives_up_does_not_hold_it_up(make_rig: MakeRig, fate: str) -> None:
    rig = rig_with_replica(make_rig)
    c = rig.nodes[2]
    rig.dialling = False
    c.drop_links()
    rig.run()
    client = rig.client()
    client.send("CONFIG", "SET", "maxmemory", "0")
    rig.run()
    rig.refuse_dials()
    view = replica_of(rig, (0, 1))
    if fate == "failing":
        view.nodes[c.id] = NodeInfo(c.id, HOST, c.port, False, True, frozenset({(HOST, c.port)}), rig.nodes[0].id)
    else:
        del view.nodes[c.id]
    rig.refresh(topology=view)
    rig.advance(2)
    assert len(client.replies) == 1


def test_info_leaves_out_a_node_that_dies_while_it_is_asked(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    b.answer("INFO", bulk(b"# Memory\r\nused_memory:3\r\n"))
    a.drop_at("INFO", runs=True)
    rig.dialling = False
    client = rig.client()
    client.send("INFO")
    rig.run()
    rig.refuse_dials()
    rig.advance(2)
    assert len(client.replies) == 1


@pytest.mark.parametrize("command", ["DBSIZE", "SCAN 0", "INCR {f}"])
def test_while_a_command_waits_for_a_dead_node_the_map_is_refreshed(make_rig: MakeRig, command: str) -> None:
    """When its connection was lost the replica had not taken over yet."""
    rig = make_rig()
    rig.dialling = False
    rig.nodes[0].drop_links()
    rig.run()
    client = rig.client()
    client.send(*command.split())
    rig.run()
    rig.control.refreshes.clear()
    rig.refuse_dials()
    rig.advance(1)
    assert rig.control.refreshes


def test_a_demoted_primary_is_not_counted_beside_its_successor(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    a, _, c = rig.nodes
    a.keys = {b"{f}": b"", b"{b}": b""}
    c.keys = dict(a.keys)
    for node in rig.nodes:
        node.owners |= dict.fromkeys(range(8192), c)
    client = rig.client()
    send_at_once(client, "SET {f} 1", "DBSIZE")
    rig.advance(1)
    take_over(rig)
    rig.advance(1)
    assert client.replies == [b"OK", 2]


# ---- the client goes


@pytest.mark.parametrize("command", ["DBSIZE", "FLUSHALL", "SCAN 0"])
def test_who_leaves_during_it_leaves_nothing_behind(make_rig: MakeRig, command: str) -> None:
    rig = make_rig()
    client, other = rig.client(), rig.client()
    for node in rig.nodes:
        node.holding = True
    send_at_once(client, command, command)
    rig.run()
    client.vanish()
    for node in rig.nodes:
        node.holding = False
    rig.run()
    send_at_once(other, "INCR {f}", "DBSIZE")
    rig.run()
    assert other.replies == [1, 1]
    assert rig.plane.client_count() == 1
    assert rig.left_over() == []


def test_half_close_behind_it_still_gets_all_replies(make_rig: MakeRig) -> None:
    rig = make_rig()
    for node in rig.nodes:
        node.stopped = True
    client = rig.client()
    send_at_once(client, "SET {f} 1", "DBSIZE", "SET {a} 1", "DBSIZE")
    rig.run()
    client.finish()
    rig.run()
    for node in rig.nodes:
        node.stopped = False
    rig.run()
    assert client.replies == [b"OK", 1, b"OK", 2]
    assert client.closed
    assert rig.plane.client_count() == 0


def test_a_drain_lets_it_end(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.stopped = True
    client, idle = rig.client(), rig.client()
    send_at_once(client, "FLUSHALL", "SET {f} 1")
    rig.run()
    finished: list[bool] = []
    assert rig.plane.finish_clients(lambda: finished.append(True)) == 1
    rig.run()
    assert idle.closed and not client.closed and not finished
    a.stopped = False
    rig.run()
    assert client.replies == [b"OK"]
    assert client.closed and finished == [True]
    # Not taken yet when the drain began.
    assert names(a) == ["FLUSHALL"]


def test_a_drain_ends_who_waits_for_the_cluster(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=3.0)
    rig.refresh(topology=NOBODY)
    client = rig.client()
    client.send("DBSIZE")
    rig.run()
    finished: list[bool] = []
    rig.plane.finish_clients(lambda: finished.append(True))
    rig.advance(4)
    assert "not served" in client.errors()[0]
    assert client.closed and finished == [True]


def test_a_refresh_that_does_not_come_is_waited_for_no_longer_than_a_second(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.cluster.own(F, rig.nodes[1])
    client = rig.client()
    send_at_once(client, "SET {f} 1", "DBSIZE")
    rig.advance(0.9)
    assert client.replies == [b"OK"]
    rig.advance(0.2)
    assert client.replies == [b"OK", 1]


@pytest.mark.parametrize("last", ["DBSIZE", "FLUSHALL"])
def test_a_command_that_was_taken_and_waits_its_turn_is_answered_when_the_proxy_drains(
    make_rig: MakeRig, last: str
) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "SET {f} 1", last, "GET {f}")
    rig.run_proxy()
    assert rig.plane.finish_clients(lambda: None) == 1
    rig.run()
    assert client.replies == [b"OK", 1 if last == "DBSIZE" else b"OK"]
    assert client.closed


def test_info_names_the_nodes_whose_figures_are_missing(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    for left_out, reply in (("", bulk(b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n")), (b.address, BUSY)):
        a.answer("INFO", bulk(b"# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n"))
        b.answer("INFO", reply)
        client.send("INFO", "keyspace")
        rig.run()
        said = client.replies.pop().decode()
        assert ("db0:keys=2," in said) == (not left_out)
        assert (f"nodes_left_out:{left_out}\r\n" in said) == bool(left_out)


@pytest.mark.parametrize("command", ["DBSIZE", "SCAN 0", "CONFIG SET maxmemory 0"])
def test_a_cluster_that_is_not_formed_yet_is_waited_for(make_rig: MakeRig, command: str) -> None:
    """One node that has met nobody would answer for all."""
    rig = make_rig()
    lone = rig.nodes[0].topology()
    rig.refresh(topology=Topology({rig.nodes[0].id: lone.nodes[rig.nodes[0].id]}, [], {}, "lone"))
    client = rig.client()
    client.send(*command.split())
    rig.advance(1)
    assert client.replies == [] and names(rig.nodes[0]) == []
    rig.refresh()
    rig.advance(1)
    assert len(client.replies) == 1 and client.errors() == []
