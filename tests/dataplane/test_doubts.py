"""Scripts in a slot in trouble go as blocks of their own: what they return is not mistaken for the node's word."""

from __future__ import annotations

import pytest

from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import error
from tests.scripted_node import ScriptedNode, slot_of
from tests.scripted_strings import SCRIPT

F = slot_of(b"{f}")


def names(node: ScriptedNode) -> list[str]:
    """The commands that came in, refused ones too."""
    return [words[0].decode() for words in node.received()]


def in_trouble(rig: Rig, client: ScriptedClient) -> None:
    """Slot F migrates, and the proxy knows it."""
    rig.cluster.migration(F, *rig.nodes)
    client.send("SET", "there{f}", "1")
    rig.run()
    assert client.replies.pop() == b"OK"


@pytest.mark.parametrize("forged", [b"-MOVED %d 10.9.9.9:1\r\n" % F, b"-ASK %d 10.9.9.9:1\r\n" % F, b"-TRYAGAIN\r\n"])
def test_a_forged_refusal_in_a_slot_in_trouble_is_the_scripts_reply_and_nobody_is_asked(
    make_rig: MakeRig, forged: bytes
) -> None:
    rig = make_rig()
    client = rig.client()
    _, b = rig.nodes
    in_trouble(rig, client)
    b.answer("EVAL", forged, runs=True)
    client.send("EVAL", SCRIPT, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert [str(error) for error in client.errors()] == [forged[1:-2].decode()]
    assert client.replies[1] == 2
    assert rig.control.confirmations == []
    assert rig.owner(F) == "A"


def test_a_refusal_of_a_block_is_followed_without_asking_anybody(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    a, b = rig.nodes
    in_trouble(rig, client)
    for _ in range(5):
        client.send("EVAL", SCRIPT, 1, "{f}")
    rig.run()
    assert client.replies == [1, 2, 3, 4, 5]
    assert rig.control.confirmations == []
    assert names(a).count("EVAL") == names(b).count("EVAL") == 5


@pytest.mark.parametrize("at", ["MULTI", "EVAL", "EXEC"])
def test_a_block_that_was_sent_whole_is_in_doubt_when_its_connection_is_lost(make_rig: MakeRig, at: str) -> None:
    rig = make_rig()
    client = rig.client()
    _, b = rig.nodes
    in_trouble(rig, client)
    b.drop_at(at, runs=False)
    client.send("EVAL", SCRIPT, 1, "{f}")
    client.send("INCR", "{f}")
    rig.advance(2)
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: in doubt: EVAL ")
    assert client.replies[1] == 1
    assert (rig.plane.in_flight(), rig.plane.parked()) == (0, 0)


def test_where_multi_is_denied_a_script_still_runs_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    _, b = rig.nodes
    in_trouble(rig, client)
    denied = error("NOPERM this user has no permissions to run the 'multi' command")
    for node in rig.nodes:
        node.answer("MULTI", denied, times=100)
        node.answer("EXEC", error("ERR EXEC without MULTI"), times=100)
    client.send("EVAL", SCRIPT, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    while rig.control.confirmations:
        rig.confirm(genuine=True)
        rig.run()
    assert client.replies == [1, 2]
    assert b.keys[b"{f}"] == b"2"
