"""EXEC of watched slots, slot by slot: in which order, what makes it nil, and what is partial and counted."""

from __future__ import annotations

import hiredis
import pytest

from tests.dataplane.asking import do, names, ran, send_block, step
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.dataplane.test_execution import F, blocks_at, executed, rig_per_slot
from tests.scripted_frames import bulk, error
from tests.scripted_node import ScriptedNode

NOT_TOUCHED = bulk(b"id=1 flags=N multi=-1\n")
WATCHED = "EXECABORT slotproxy: a watched key of this command's slot was touched"
LEFT_OUT = "EXECABORT slotproxy: a block of this transaction that comes before failed"


def watching(rig: Rig, *keys: str) -> ScriptedClient:
    client = rig.client()
    client.send("WATCH", *keys)
    rig.run()
    assert client.replies.pop() == b"OK"
    return client


def test_watch_only_slots_are_looked_at_first_then_watched_blocks_then_the_others(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = watching(rig, "w{f}", "w{a}")
    send_block(client, "INCR {b}", "DBSIZE", "INCR {a}")

    def step_all(node: ScriptedNode) -> None:
        for link in node.open_links():
            while link.receive():
                pass
            step(link, len(link.inbox))

    rig.run_proxy()
    step_all(b)  # whether {a}, with commands, has been touched already
    rig.run_proxy()
    assert ran(b)[-1] == "EXISTS w{a}"
    step_all(a)  # {f} is watched only
    rig.run_proxy()
    assert blocks_at(a) == [["EXISTS w{f}"]]
    step_all(b)
    assert blocks_at(b) == [["EXISTS w{a}", "INCR {a}"]]
    assert "INCR {b}" not in ran(a)
    rig.run_proxy()
    step_all(a)
    assert ran(a)[-1] == "INCR {b}"
    assert "DBSIZE" not in names(a)
    rig.run()
    assert executed(client) == [1, 2, 1]
    assert rig.left_over() == []


@pytest.mark.parametrize("touched", ["w{f}", "w{a}"])
def test_any_touched_slot_that_is_only_watched_makes_it_nil(make_rig: MakeRig, touched: str) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "w{f}", "w{a}")
    do(rig, "SET", touched, "1")
    send_block(client, "INCR {b}", "PING", "FLUSHALL")
    rig.run()
    assert executed(client) is None
    assert {command.split()[0] for node in rig.nodes for command in ran(node)} <= {"SET", "EXISTS"}
    assert rig.plane.counters.transactions_partial == 0
    assert rig.left_over() == []
    do(rig, "SET", "w{f}", "2")
    do(rig, "SET", "w{a}", "2")
    send_block(client, "INCR {f}", "INCR {a}")
    rig.run()
    assert executed(client) == [1, 1]


def test_a_touched_slot_with_commands_makes_it_nil_while_nothing_has_run(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "{f}", "{a}")
    do(rig, "SET", "{f}", "1")
    send_block(client, "INCR {f}", "INCR {a}", "INCR {b}")
    rig.run()
    assert executed(client) is None
    assert [command for command in ran(rig.nodes[0]) + ran(rig.nodes[1]) if "INCR" in command] == []


def test_a_slot_that_is_touched_already_makes_it_nil_before_anything_runs(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "{f}", "{a}")
    do(rig, "SET", "{a}", "5")
    send_block(client, "INCR {f}", "INCR {a}", "INCR {b}")
    rig.run()
    assert executed(client) is None
    assert rig.cluster.value(b"{f}") is None and rig.cluster.value(b"{b}") is None
    assert rig.plane.counters.transactions_partial == 0


def test_a_touch_after_another_slots_commands_ran_is_partial_and_counted(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "{f}", "{a}")
    do(rig, "SET", "{a}", "5")
    rig.nodes[1].answer("CLIENT", NOT_TOUCHED)  # it was looked at a moment before
    send_block(client, "INCR {f}", "INCR {a}", "GET {a}", "INCR {b}", "DBSIZE")
    rig.run()
    first, *touched, unwatched, over_nodes = executed(client) or []
    assert first == 1
    assert [str(one).startswith(WATCHED) for one in touched] == [True, True]
    assert str(unwatched).startswith(LEFT_OUT)
    assert over_nodes == unwatched
    assert [one for one in ran(rig.nodes[0]) if one.startswith(("INCR", "DBSIZE"))] == ["INCR {f}"]
    assert rig.cluster.value(b"{a}") == b"5"
    assert rig.plane.counters.transactions_partial == 1
    assert rig.left_over() == []


@pytest.mark.parametrize("lost", ["only watched", "before", "after"])
def test_a_lost_connection_of_a_watched_slot(make_rig: MakeRig, lost: str) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = watching(rig, "w{f}", "w{a}")
    if lost == "only watched":
        a.drop_at("EXEC", runs=True)
    elif lost == "before":
        rig.exclusive_links(b)[0].drop()
    else:
        b.drop_at("EXEC", runs=True)
    send_block(client, "INCR {a}", "INCR {b}")
    rig.run()
    rig.advance(1)
    if lost == "after":
        assert "in doubt: EXEC " in str(client.errors()[-1])
        assert (rig.plane.counters.transactions_partial, rig.plane.counters.in_doubt) == (0, 1)
        assert "INCR {b}" not in ran(a)
    else:
        assert executed(client) is None
        assert "INCR {b}" not in ran(a)
    assert rig.left_over() == []


def test_a_watched_block_in_doubt_is_never_nil(make_rig: MakeRig) -> None:
    """Its commands may have run; the second slot's were touched."""
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = watching(rig, "{f}", "{a}")
    do(rig, "SET", "{a}", "5")
    b.answer("CLIENT", NOT_TOUCHED)  # it was looked at a moment before
    a.drop_at("EXEC", runs=True)
    send_block(client, "INCR {f}", "INCR {a}")
    rig.advance(1)
    assert rig.cluster.value(b"{f}") == b"1"
    assert client.replies[-1] is not None
    assert "in doubt" in str(client.replies[-1])


def test_a_slot_that_cannot_be_looked_at_lets_nothing_run(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "w{f}", "{a}")
    rig.nodes[0].answer("EXISTS", error("NOPERM this user has no permissions to run the 'exists' command"))
    send_block(client, "INCR {a}")
    rig.run()
    if client.replies[-1] is not None and not isinstance(client.replies[-1], hiredis.ReplyError):
        raise AssertionError(f"it ran unwatched: {client.replies[-1]}")
    assert "INCR {a}" not in ran(rig.nodes[1])
    assert rig.left_over() == []


@pytest.mark.parametrize("stage", ["migrating", "finished"])
def test_a_watched_slot_that_moves_is_nil(make_rig: MakeRig, stage: str) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = watching(rig, "{f}", "{a}")
    migration = rig.cluster.migration(F, a, b)
    if stage == "finished":
        migration.finish()
    send_block(client, "INCR {f}", "INCR {a}", "INCR {b}")
    rig.advance(1, step=0.1)
    assert executed(client) is None
    assert not [one for one in ran(a) + ran(b) if one.startswith("INCR")]
    assert rig.plane.exclusives.leased() == 0


def test_keys_of_several_slots_can_be_watched_one_after_another(make_rig: MakeRig) -> None:
    rig = rig_per_slot(make_rig)
    client = watching(rig, "{f}")
    client.send("WATCH", "{a}", "2{f}", "{b}")
    rig.run()
    assert rig.plane.exclusives.leased() == 3
    do(rig, "SET", "2{f}", "1")
    send_block(client, "PING")
    rig.run()
    assert executed(client) is None
    assert rig.plane.exclusives.leased() == 0


@pytest.mark.parametrize("how", ["vanish", "kill"])
@pytest.mark.parametrize("watched", [(), ("{f}", "{a}")])
def test_a_client_that_leaves_leaves_nothing_behind_and_nothing_half_done(
    make_rig: MakeRig, how: str, watched: tuple[str, ...]
) -> None:
    rig = rig_per_slot(make_rig)
    a, b = rig.nodes
    client = watching(rig, *watched) if watched else rig.client()
    number = len(rig.clients)
    b.stopped = True
    send_block(client, "INCR {a}", "INCR {f}", "DBSIZE")
    rig.run()
    if how == "vanish":
        client.vanish()
    else:
        do(rig, "CLIENT", "KILL", "ID", str(number))
    rig.run()
    b.stopped = False
    rig.advance(1)
    assert rig.plane.exclusives.leased() == 0
    assert rig.left_over() == []
    if watched:  # nothing had begun to run
        assert [one for one in ran(a) + ran(b) if one.startswith("INCR")] == []
        assert "DBSIZE" not in names(a)
    else:
        assert ran(b)[:1] == ["INCR {a}"]
        assert ran(a)[:1] == ["INCR {f}"]
        assert "DBSIZE" in names(a)
