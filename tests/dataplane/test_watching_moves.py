"""What happens between WATCH and EXEC: moves, refusals and losses make EXEC nil, never a replay."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import block, do, outside, ran, send_block, step
from tests.dataplane.conftest import MakeRig
from tests.dataplane.test_watching import NIL, execute, watching
from tests.scripted_frames import error, pack
from tests.scripted_node import slot_of

F = slot_of(b"{f}")


@pytest.mark.parametrize("key", ["there", "missing"])
@pytest.mark.parametrize("commands", [("INCR {f}",), ("COMMAND COUNT",), ()])
@pytest.mark.parametrize("stage", ["migrating", "moved key", "target owns", "finished"])
def test_a_watched_key_whose_slot_moves_is_touched(
    make_rig: MakeRig, stage: str, commands: tuple[str, ...], key: str
) -> None:
    rig = make_rig()
    a, b = rig.nodes
    if key == "there":
        do(rig, "SET", "{f}", "1")
    client = watching(rig)
    before = len(ran(a))
    migration = rig.cluster.migration(F, a, b)
    if stage != "migrating":
        migration.move()
    if stage == "target owns":
        migration.finish_target()
    elif stage == "finished":
        migration.finish()
    served = stage == "migrating" and key == "there"  # the source has the key and owns the slot: it may serve it
    reply = execute(client, rig, *commands)
    assert (reply != NIL) == served
    if not served:
        assert ran(a)[before:] == ran(b) == []
    assert rig.plane.exclusives.leased() == 0


def test_a_missing_key_that_is_made_at_the_target_is_noticed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = watching(rig)
    rig.cluster.migration(F, a, b)
    do(rig, "SET", "{f}", "made")
    assert execute(client, rig, "COMMAND COUNT") == NIL


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_move_while_the_block_is_queued_is_nil(make_rig: MakeRig, at: int) -> None:
    rig = make_rig()
    a, b = rig.nodes
    do(rig, "SET", "{f}", "1")
    client = watching(rig)
    (link,) = rig.exclusive_links(a)
    before = len(ran(a))
    client.send_bytes(block("INCR {f}"))
    rig.run_proxy()
    step(link, at)
    rig.cluster.migration(F, a, b).finish()
    client.raw = b""
    rig.run()
    assert client.raw.endswith(NIL)
    assert ran(a)[before:] == ran(b) == []
    assert rig.cluster.value(b"{f}") == b"1"


@pytest.mark.parametrize(
    "refusal",
    [
        "EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.",
        "EXECABORT Transaction discarded because of: MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
def test_a_refusal_at_exec_is_nil(make_rig: MakeRig, refusal: str) -> None:
    rig = make_rig()
    client = watching(rig)
    rig.nodes[0].answer("EXEC", error(refusal))
    assert execute(client, rig, "INCR {f}") == NIL
    assert ran(rig.nodes[0]) == []


def test_what_will_not_pass_is_an_abort_with_its_reason(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    denied = error("NOPERM this user has no permissions to run the 'incr' command")
    rig.nodes[0].answer("INCR", denied)
    assert execute(client, rig, "INCR {f}") == b"-EXECABORT Transaction discarded because of: " + denied[1:]
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:1\r\n"


def test_a_node_that_denies_multi_of_a_sudden_leaves_the_block_in_doubt(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    rig.nodes[0].answer("MULTI", error("NOPERM this user has no permissions to run the 'multi' command"))
    assert execute(client, rig, "INCR {f}").startswith(b"-ERR slotproxy: in doubt: ")
    assert ran(rig.nodes[0])[-1] == "INCR {f}"


@pytest.mark.parametrize("while_watching", ["idle", "again"])
def test_a_lost_connection_is_a_touch(make_rig: MakeRig, while_watching: str) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = watching(rig)
    if while_watching == "idle":
        rig.exclusive_links(a)[0].drop()
    else:
        a.drop_at("WATCH", runs=True)
        client.send("WATCH", "{f}")
    rig.run()
    assert rig.plane.exclusives.leased() == 0
    client.send("WATCH", "other{f}")  # changes nothing
    rig.run()
    assert execute(client, rig, "INCR {f}") == NIL
    assert ran(a) == []
    client.send("WATCH", "{f}")
    rig.run()
    assert execute(client, rig, "INCR {f}").endswith(b"*1\r\n:1\r\n")
    assert rig.left_over() == []


def test_a_lost_connection_is_forgotten_with_unwatch(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    rig.exclusive_links(rig.nodes[0])[0].drop()
    rig.run()
    client.send("UNWATCH")
    rig.run()
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:1\r\n"


def test_a_connection_that_is_lost_during_watch_is_another_try(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].drop_at("WATCH", runs=True)
    client = rig.client()
    client.send("WATCH", "{f}")
    rig.advance(1, step=0.05)
    assert client.replies == [b"OK"]


@pytest.mark.parametrize("runs", [False, True])
def test_a_block_that_was_sent_whole_and_lost_is_in_doubt(make_rig: MakeRig, runs: bool) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = watching(rig)
    a.drop_at("EXEC", runs=runs)
    assert execute(client, rig, "INCR {f}").startswith(b"-ERR slotproxy: in doubt: EXEC ")
    assert rig.plane.counters.in_doubt == 1
    assert do(rig, "GET", "{f}") == (b"1" if runs else None)
    assert rig.left_over() == []


def test_a_block_that_was_not_sent_whole_and_lost_is_nil(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = watching(rig)
    (link,) = rig.exclusive_links(a)
    rig.node_end(a).room = len(pack("MULTI") + pack("EXISTS", "{f}") + pack("INCR", "{f}") + pack("EXEC")) - 1
    send_block(client, "INCR {f}")
    rig.run_proxy()
    link.drop()
    rig.run()
    assert client.raw.endswith(NIL)
    assert ran(a) == []
    assert rig.plane.counters.in_doubt == 0


def test_what_others_change_behind_the_proxy_is_noticed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    outside(rig.nodes[0], "SET", "{f}", "1")
    assert execute(client, rig, "INCR {f}") == NIL
