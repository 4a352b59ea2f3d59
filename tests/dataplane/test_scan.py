"""SCAN over scripted nodes: one cursor, every key, an end."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import rig_with_replica, send_at_once, take_over
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import array, bulk


def scan_all(rig: Rig, client: ScriptedClient, *options: str, between: object = None) -> list[bytes]:
    found: list[bytes] = []
    cursor = b"0"
    for _ in range(1_000):
        before = len(client.replies)
        client.send("SCAN", cursor, *options)
        rig.run()
        (reply,) = client.replies[before:]
        assert isinstance(reply, list), reply
        cursor, keys = reply
        assert cursor.isdigit() and int(cursor) < 2**53
        found += keys
        if cursor == b"0":
            return found
        if callable(between):
            between()
    raise AssertionError("it does not end")


@pytest.mark.parametrize("count", [1, 7, 100])
def test_a_scan_walks_all_nodes(make_rig: MakeRig, count: int) -> None:
    rig = make_rig(3)
    for number, node in enumerate(rig.nodes):
        node.keys = {b"%d:%d" % (number, key): b"" for key in range(50)}
    found = scan_all(rig, rig.client(), "COUNT", str(count))
    assert sorted(found) == sorted(key for node in rig.nodes for key in node.keys)


def test_a_scan_begins_a_shard_anew_when_another_node_has_taken_it_over(make_rig: MakeRig) -> None:
    rig = rig_with_replica(make_rig)
    a, b, c = rig.nodes
    a.keys = {b"{f}%d" % key: b"" for key in range(50)}
    b.keys = {b"{a}%d" % key: b"" for key in range(50)}
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            c.keys = dict(a.keys)
            take_over(rig)

    found = scan_all(rig, rig.client(), "COUNT", "2", between=between)
    assert set(found) == set(b.keys) | set(c.keys)
    assert len(found) > 100, "keys come twice then"
    assert len([words for words in c.received() if words[0] == b"SCAN"]) == 32


def test_a_scan_that_was_under_way_to_a_node_that_died_begins_its_successor_from_the_start(make_rig: MakeRig) -> None:
    """The successor is sent the old node's cursor, which says nothing there: the next call must not build on it."""
    rig = rig_with_replica(make_rig)
    a, _, c = rig.nodes
    a.keys = {b"{f}%d" % key: b"" for key in range(50)}
    c.keys = dict(a.keys)
    client = rig.client()
    client.send("SCAN", "0", "COUNT", "32")
    rig.run()
    ((cursor, keys),) = client.replies
    a.drop_at("SCAN", runs=False)
    rig.dialling = False
    client.send("SCAN", cursor, "COUNT", "32")
    rig.run()
    assert len(client.replies) == 1
    take_over(rig, killed=True)
    rig.dialling = True
    rig.run()
    cursor, keys = client.replies[1]
    found = set(keys)
    while cursor != b"0":
        client.send("SCAN", cursor, "COUNT", "32")
        rig.run()
        cursor, keys = client.replies[-1]
        found |= set(keys)
    assert found == set(c.keys)


def test_errors_of_a_scan_are_the_nodes_own(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].answer("SCAN", b"-ERR syntax error\r\n")
    client = rig.client()
    send_at_once(client, "SCAN 0 COUNT x", "SCAN 99999999999999999999")
    rig.nodes[0].answer("SCAN", b"-ERR invalid cursor\r\n")
    rig.nodes[1].answer("SCAN", b"-ERR invalid cursor\r\n")
    rig.run()
    assert client.errors() == ["ERR syntax error", "ERR invalid cursor"]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (array([bulk(b"%d" % (1 << 39)), array([])]), "too large"),
        (array([bulk(b"99999999999999999999999"), array([])]), "too large"),
        (array([bulk(b"x"), array([])]), "too large"),
        (array([bulk(b"0")]), "was answered"),
        (b":1\r\n", "was answered"),
        (b"*0\r\n", "was answered"),
        (b"$-1\r\n", "was answered"),
    ],
)
def test_a_reply_that_is_none_of_a_scan_is_an_error(make_rig: MakeRig, reply: bytes, says: str) -> None:
    rig = make_rig()
    rig.nodes[0].answer("SCAN", reply)
    client = rig.client()
    send_at_once(client, "SCAN 0", "PING")
    rig.run()
    assert client.errors()[0].startswith("ERR slotproxy: SCAN") and says in client.errors()[0]
    assert client.replies[1] == b"PONG"
