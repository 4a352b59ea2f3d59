"""Redirects and refusals: what each asks of the proxy, what it changes, and that none of them makes a loop.

`f` and `b` are tags of slots that node A owns at first, `a` of one that B owns.
"""

from __future__ import annotations

import pytest

from slotproxy.cluster.topology import Topology
from slotproxy.protocol.commands import CommandTable
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import TABLE
from tests.scripted_frames import error
from tests.scripted_node import ScriptedNode, slot_of
from tests.scripted_strings import SCRIPT

F, B, A = slot_of(b"{f}"), slot_of(b"{b}"), slot_of(b"{a}")


def names(node: ScriptedNode) -> list[str]:
    """The commands that came in, refused ones too."""
    return [words[0].decode() for words in node.received()]


def ran(node: ScriptedNode) -> list[str]:
    return [b" ".join(entry.words).decode() for entry in node.executed]


# MOVED


def test_moved_patches_exactly_that_slot(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    before = [rig.owner(slot) for slot in range(16384)]
    rig.cluster.own(F, rig.nodes[1])
    client.send("INCR", "{f}")
    rig.run()
    after = [rig.owner(slot) for slot in range(16384)]
    assert client.replies == [1]
    assert [slot for slot in range(16384) if before[slot] != after[slot]] == [F]
    assert rig.owner(F) == "B"
    assert (rig.moved, rig.ask) == (1, 0)
    assert rig.plane.counters.moved == {rig.nodes[0].address: 1}
    assert rig.plane.counters.topology_updates == 2  # the first refresh and the patch


def test_moved_waits_for_no_refresh_and_asks_for_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    rig.cluster.own(F, rig.nodes[1])
    rig.control.refreshes.clear()
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1]
    assert rig.control.refreshes == ["MOVED"]


def test_a_refresh_that_started_before_a_patch_does_not_undo_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    started, stale = rig.plane.router.slot_map.version, rig.nodes[0].topology()
    rig.cluster.own(F, rig.nodes[1])
    client.send("INCR", "{f}")
    rig.run()
    rig.plane.apply(stale, started)
    assert rig.owner(F) == "B"


def test_moved_to_an_unknown_address_waits_for_a_refresh_and_never_dials_it(make_rig: MakeRig) -> None:
    rig = make_rig(3, owning=2)
    everybody = rig.nodes[0].topology()
    known = {id: info for id, info in everybody.nodes.items() if id != rig.nodes[2].id}
    rig.refresh(topology=Topology(known, everybody.ranges, {}, "test"))
    rig.run()
    links = len(rig.nodes[2].links)
    rig.cluster.own(F, rig.nodes[2])
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("INCR", "{f}")
    rig.advance(5)
    assert client.replies == []
    assert names(rig.nodes[0]) == ["INCR", "INCR"]  # not asked again before somebody knows better
    assert len(rig.nodes[2].links) == links
    rig.refresh(rig.nodes[2])
    rig.advance(1)
    assert client.replies == [1, 2]
    assert rig.owner(F) == "C"


def test_a_follower_does_not_overtake_what_waits_for_an_unknown_node(make_rig: MakeRig) -> None:
    """Two clients share the slot: the trouble of one is known while commands of the other are on their way."""
    rig = make_rig(3, owning=2)
    everybody = rig.nodes[0].topology()
    known = {id: info for id, info in everybody.nodes.items() if id != rig.nodes[2].id}
    rig.refresh(topology=Topology(known, everybody.ranges, {}, "test"))
    rig.cluster.own(F, rig.nodes[2])
    other, client = rig.client(), rig.client()
    other.send("INCR", "other{f}")
    client.send("APPEND", "{f}", "1")
    rig.run_proxy()
    (link,) = rig.nodes[0].open_links()
    link.receive()
    link.execute()
    link.send()
    rig.tick()  # the other's MOVED
    client.send("APPEND", "{f}", "2")
    rig.run_proxy()
    rig.run()
    rig.refresh(rig.nodes[2])
    rig.advance(1)
    assert rig.nodes[2].keys[b"{f}"] == b"12"
    assert client.replies == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        f"MOVED {A} 127.0.0.1:7002",  # a foreign slot
        f"ASK {A} 127.0.0.1:7002",
        f"MOVED {F} 127.0.0.1:0",
        f"MOVED {F} 127.0.0.1:65536",
        f"MOVED {F} 127.0.0.1:7002 now",
        f"MOVED {F}",
        "MOVED 16384 127.0.0.1:7002",
        f"MOVED -{F} 127.0.0.1:7002",
        f"MOVED {F} 127.0.0.1",
        f"MOVED {F} a/b:7002",
        f"ASK {F} [::1:7002",
    ],
)
def test_a_redirect_that_cannot_be_one_is_an_error_and_changes_nothing(make_rig: MakeRig, text: str) -> None:
    rig = make_rig()
    client = rig.client()
    rig.nodes[0].answer("INCR", error(text))
    client.send("INCR", "{f}")
    client.send("INCR", "{f}")
    rig.run()
    (message,) = client.errors()
    assert message.startswith(f"ERR slotproxy: invalid redirect: node {rig.nodes[0].address} answered")
    assert message.endswith(text[:60])
    assert client.replies[1] == 1
    assert rig.owner(F) == "A"
    assert names(rig.nodes[1]) == []
    assert rig.left_over() == []


def test_a_node_that_redirects_to_itself_is_asked_ever_more_slowly_until_the_deadline(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=10.0)
    rig.nodes[0].answer("GET", error(f"MOVED {F} {rig.nodes[0].address}"), times=100_000)
    client = rig.client()
    client.send("GET", "{f}")
    rig.advance(11)
    (message,) = client.errors()
    assert message == (
        f"ERR slotproxy: not served: slot {F} was not served within 10 s (--park-timeout); not executed;"
        f" last: node {rig.nodes[0].address} answered MOVED {F} {rig.nodes[0].address}"
    )
    assert 60 < len(names(rig.nodes[0])) < 300  # 100 ms apart, half as much or as little with jitter
    assert rig.owner(F) == "A"
    assert rig.left_over() == []


def test_two_nodes_pointing_at_each_other_back_off_and_end_at_the_deadline(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=10.0)
    a, b = rig.nodes
    a.owners[F] = b
    client, other = rig.client(), rig.client()
    for number in range(50):
        client.send("INCR", "{f}")
        client.send("INCR", f"{number}{{a}}")
    other.send("INCR", "other{a}")
    rig.advance(11)
    assert len([reply for reply in client.replies if reply == 1]) == 50
    assert len(client.errors()) == 50
    assert all("not served" in text and "MOVED" in text for text in client.errors())
    assert other.replies == [1]
    sent = names(a).count("INCR") + names(b).count("INCR") - 51
    assert 100 < sent < 700
    assert rig.plane.counters.parked_expired == 50
    rig.advance(70)
    assert rig.left_over() == []


def test_two_nodes_pointing_at_each_other_for_a_while_are_not_noticed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    migration = rig.cluster.migration(F, a, b)
    migration.finish_source()
    for _ in range(100):
        client.send("INCR", "{f}")
    rig.advance(2)
    assert client.replies == []
    migration.finish_target()
    rig.advance(1)
    assert client.replies == list(range(1, 101))
    assert rig.owner(F) == "B"


def test_a_chain_of_moves_is_followed_hop_by_hop_without_backing_off(make_rig: MakeRig) -> None:
    rig = make_rig(5)
    for node, following in zip(rig.nodes, rig.nodes[1:], strict=False):
        node.owners[F] = following
    rig.nodes[4].owners[F] = rig.nodes[4]
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run()  # no time passes
    assert client.replies == [1]
    assert rig.owner(F) == "E"
    assert rig.plane.counters.retried[4] == 1  # four retries: the bucket up to 5


@pytest.mark.parametrize("form", ["", "?"])
def test_a_redirect_without_a_host_means_what_the_specification_says(make_rig: MakeRig, form: str) -> None:
    """`:port` is the host that answered, `?:port` (hostname not set) the only node with that port."""
    rig = make_rig()
    rig.cluster.own(F, rig.nodes[1])
    rig.nodes[0].answer("INCR", error(f"MOVED {F} {form}:{rig.nodes[1].port}"))
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1]
    assert rig.owner(F) == "B"


# ASK


def test_ask_leaves_the_map_alone(make_rig: MakeRig) -> None:
    rig = make_rig()
    version = rig.plane.router.slot_map.version
    rig.cluster.migration(F, *rig.nodes)
    client = rig.client()
    for expected in range(1, 4):
        client.send("INCR", "{f}")
        rig.run()
        assert client.replies[-1] == expected
    assert rig.plane.router.slot_map.version == version
    assert rig.owner(F) == "A"
    assert (rig.moved, rig.ask) == (0, 3)  # each command asks the source first
    assert rig.plane.counters.ask == {rig.nodes[0].address: 3}
    assert rig.plane.migrating_slots() == [F]


def test_asking_and_its_command_are_adjacent_and_the_ok_is_swallowed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.cluster.migration(F, *rig.nodes)
    clients = [rig.client() for _ in range(10)]
    for client in clients:
        for number in range(5):
            client.send("INCR", "own{f}")
            client.send("INCR", f"{number}{{a}}")  # on the same connection to B
    rig.run()
    (link,) = rig.nodes[1].open_links()
    words = [words[0] for words in link.received]
    assert words.count(b"ASKING") == 50
    for first, second in zip(link.received, link.received[1:], strict=False):
        if first[0] == b"ASKING":
            assert second[1] == b"own{f}"
        elif second[0] != b"ASKING":
            assert second[1].endswith(b"{a}")
    assert b"OK" not in b"".join(client.raw for client in clients)
    assert sorted(reply for client in clients for reply in client.replies[::2]) == list(range(1, 51))
    assert all(client.replies[1::2] == sorted(client.replies[1::2]) for client in clients)


def test_ask_to_an_unknown_node_is_followed_once_a_refresh_knows_it(make_rig: MakeRig) -> None:
    rig = make_rig(3, owning=2)
    everybody = rig.nodes[0].topology()
    known = {id: info for id, info in everybody.nodes.items() if id != rig.nodes[2].id}
    rig.refresh(topology=Topology(known, everybody.ranges, {}, "test"))
    rig.cluster.migration(F, rig.nodes[0], rig.nodes[2])
    client = rig.client()
    client.send("INCR", "{f}")
    rig.advance(1)
    assert client.replies == []
    rig.refresh()
    rig.advance(1)
    assert client.replies == [1]
    assert rig.owner(F) == "A"
    assert rig.nodes[2].keys == {b"{f}": b"1"}


def test_a_slot_counts_as_migrating_for_a_minute_after_its_last_ask(make_rig: MakeRig) -> None:
    rig = make_rig()
    migration = rig.cluster.migration(F, *rig.nodes)
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run()
    rig.advance(59)
    assert rig.plane.migrating_slots() == [F]
    rig.advance(2)
    assert rig.plane.migrating_slots() == []
    assert rig.left_over() == []
    client.send("INCR", "{f}")
    rig.run()
    assert rig.plane.migrating_slots() == [F]
    migration.finish()
    client.send("INCR", "{f}")
    rig.run()
    assert rig.plane.migrating_slots() == []  # its owner has changed
    assert client.replies == [1, 2, 3]


# TRYAGAIN


@pytest.mark.parametrize("before_7", [False, True])
def test_tryagain_splits_mget_per_key_but_not_mset(make_rig: MakeRig, before_7: bool) -> None:
    rig = make_rig()
    rig.cluster.before_7 = before_7
    a, b = rig.nodes
    a.keys.update({b"1{f}": b"one", b"2{f}": b"two"})
    migration = rig.cluster.migration(F, a, b)
    migration.move(b"1{f}")
    reader, writer = rig.client(), rig.client()
    reader.send("MGET", "1{f}", "2{f}", "none{f}", "1{f}")
    writer.send("MSET", "1{f}", "x", "3{f}", "y")
    rig.advance(1)
    assert reader.replies == [[b"one", b"two", None, b"one"]]
    assert writer.replies == []
    assert rig.plane.counters.tryagain > 0
    assert not [words for words in a.received() + b.received() if words[0] == b"MSET" and len(words) != 5]
    migration.finish()
    rig.advance(1)
    assert writer.replies == [b"OK"]
    assert (b.keys[b"1{f}"], b.keys[b"3{f}"]) == (b"x", b"y")


@pytest.mark.parametrize(("name", "expected"), [("DEL", 2), ("UNLINK", 2), ("EXISTS", 3), ("TOUCH", 3)])
def test_tryagain_splits_deletions_and_counts_and_adds_up(make_rig: MakeRig, name: str, expected: int) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys.update({b"1{f}": b"", b"2{f}": b""})
    rig.cluster.migration(F, a, b).move(b"1{f}")
    client = rig.client()
    client.send(name, "1{f}", "2{f}", "none{f}", "2{f}")
    rig.advance(1)
    assert client.replies == [expected]


def test_tryagain_that_lasts_ends_at_the_deadline_with_its_text(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=5.0)
    a, b = rig.nodes
    a.keys[b"1{f}"] = b""
    rig.cluster.migration(F, a, b)
    client = rig.client()
    client.send("RENAME", "1{f}", "2{f}")
    client.send("INCR", "other{a}")
    rig.advance(6)
    assert client.errors() == [
        f"ERR slotproxy: not served: slot {F} was not served within 5 s (--park-timeout); not executed;"
        f" last: node {a.address} answered TRYAGAIN Multiple keys request during rehashing of slot"
    ]
    assert client.replies[1] == 1
    assert names(a).count("RENAME") < 200


# Refusing nodes


def test_a_refused_slot_is_probed_by_one_command_not_a_burst(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.down = True
    clients = [rig.client() for _ in range(10)]
    for client in clients:
        client.send("INCR", "{f}")
    rig.run()
    burst = len(a.received())
    for client in clients:
        for _ in range(20):
            client.send("INCR", "{f}")
    rig.advance(5)
    probes = len(a.received()) - burst
    assert burst <= 10
    assert 5 < probes < 40
    assert a.executed == []
    a.down = False
    rig.advance(1)
    assert sorted(reply for client in clients for reply in client.replies) == list(range(1, 211))
    assert all(client.replies == sorted(client.replies) for client in clients)
    assert len(a.received()) - burst - probes == 210
    assert rig.left_over() == []


@pytest.mark.parametrize(
    "text",
    [
        "CLUSTERDOWN The cluster is down",
        "CLUSTERDOWN Hash slot not served",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
    ],
)
def test_a_state_that_passes_is_waited_for_and_never_seen(make_rig: MakeRig, text: str) -> None:
    rig = make_rig()
    rig.nodes[0].answer("INCR", error(text), times=8)
    client = rig.client()
    for _ in range(5):
        client.send("INCR", "{f}")
    rig.advance(10)
    assert client.replies == [1, 2, 3, 4, 5]
    assert rig.left_over() == []


def test_a_slot_that_stays_down_ends_at_the_deadline_with_the_nodes_words(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=3.0)
    rig.nodes[0].down = True
    client = rig.client()
    client.send("GET", "{f}")
    rig.advance(4)
    assert client.errors() == [
        f"ERR slotproxy: not served: slot {F} was not served within 3 s (--park-timeout); not executed;"
        f" last: node {rig.nodes[0].address} answered CLUSTERDOWN The cluster is down"
    ]
    assert rig.left_over() == []


def test_a_slot_without_an_owner_asks_for_refreshes_and_goes_on_when_it_has_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    everything = rig.nodes[0].topology()
    rig.refresh(topology=Topology(everything.nodes, [(F + 1, 16383, rig.nodes[1].id)], {}, "test"))
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("INCR", "{a}")
    rig.control.refreshes.clear()
    rig.advance(3)
    assert client.replies == []
    assert len(client.raw) == 0
    assert 3 < len(rig.control.refreshes) < 30
    rig.refresh()
    rig.advance(1)
    assert client.replies == [1, 1]


def test_other_slots_go_on_while_one_is_parked(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.answer("SET", error("CLUSTERDOWN Hash slot not served"), times=1000)
    parked, busy = rig.client(), rig.client()
    parked.send("SET", "{f}", "x")
    rig.run()
    for number in range(200):
        busy.send("INCR", "{b}" if number % 2 else "{a}")
        parked.send("INCR", "{b}")
    rig.advance(1)
    assert len(busy.replies) == 200
    assert a.keys[b"{b}"] == b"300"
    assert parked.replies == []  # its replies keep their order
    assert rig.plane.parked() == 1


def test_a_slot_is_released_by_whichever_command_is_accepted_first(make_rig: MakeRig) -> None:
    """The one that found it refusing has given up by then; the others must not stay in single file."""
    rig = make_rig(park_timeout=10.0)
    a, _ = rig.nodes
    a.down = True
    first, *others = [rig.client() for _ in range(5)]
    first.send("INCR", "{f}")
    rig.advance(8)
    for client in others:
        for _ in range(50):
            client.send("INCR", "{f}")
    while not first.replies:
        rig.advance(0.01)
    assert len(first.errors()) == 1
    a.down = False
    (link,) = a.open_links()
    rig.clock.now += 1
    rig.tick()
    a.serve()
    assert len(a.executed) == 1  # the probe
    rig.run_proxy()
    link.receive()
    assert len(link.inbox) == 199
    rig.run()
    assert a.keys == {b"{f}": b"200"}
    assert rig.left_over() == []


def test_anothers_accepted_probe_does_not_hurry_what_was_refused_and_is_still_on_its_way(make_rig: MakeRig) -> None:
    """Two clients on two connections: the refusal of the one is read after the acceptance of the other's probe."""
    rig = make_rig(lanes=2)
    a, _ = rig.nodes
    prober, client = rig.client(), rig.client()
    fast, slow = rig.link_used_by(prober, a), rig.link_used_by(client, a)
    assert fast is not slow
    client.send("APPEND", "{f}", "1")
    prober.send("INCR", "other{f}")
    rig.run_proxy()
    a.down = True
    a.holding = True
    a.serve()  # both are refused
    fast.send()
    rig.tick()
    client.send("APPEND", "{f}", "2")
    rig.run_proxy()
    a.down = False
    rig.clock.now += 1
    rig.tick()
    a.serve()
    fast.send()
    rig.run_proxy()
    a.serve()
    assert a.keys == {b"other{f}": b"1"}
    slow.send()
    a.holding = False
    rig.advance(1)
    assert client.replies == [1, 2]
    assert a.keys[b"{f}"] == b"12"


def test_the_next_in_line_probes_when_the_probe_was_lost_with_its_connection(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=30.0)
    a, _ = rig.nodes
    first, second = rig.client(), rig.client()
    a.down = True
    first.send("INCR", "{f}")
    rig.run()
    second.send("INCR", "other{f}")
    rig.run()
    a.down = False
    a.drop_at("INCR", runs=False)
    rig.advance(2)
    assert "in doubt" in first.errors()[0]
    assert second.replies == [1]
    assert rig.left_over() == []


# Order


def test_commands_of_one_key_keep_their_order_when_the_slot_moves_mid_pipeline(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    (link,) = a.open_links()
    migration = rig.cluster.migration(F, a, b)
    for _ in range(300):
        client.send("INCR", "{f}")
    rig.run_proxy(10)
    link.receive()
    assert len(link.inbox) == 300
    for _ in range(100):  # the first hundred are refused: ASK
        link.execute()
    migration.finish_target()
    for _ in range(100):
        link.execute()
    link.send()
    for _ in range(5):
        rig.tick()
    for _ in range(100):
        client.send("INCR", "{f}")
    rig.run_proxy()
    migration.finish_source()
    rig.advance(2)
    assert client.replies == list(range(1, 401))


def test_a_newer_map_waits_for_what_the_old_owner_still_has(make_rig: MakeRig) -> None:
    rig = make_rig()
    _, b = rig.nodes
    client = rig.client()
    client.send("APPEND", "{f}", "1")
    rig.run_proxy()
    rig.cluster.own(F, b)
    rig.refresh(b)
    client.send("APPEND", "{f}", "2")
    rig.run_proxy()
    b.serve()
    assert b.executed == []
    rig.advance(1)
    assert client.replies == [1, 2]
    assert b.keys == {b"{f}": b"12"}


def test_barrier_holds_back_newer_commands_of_its_slot_only(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client, other = rig.client(), rig.client()
    client.send("MSET", "1{f}", "x", "2{f}", "x")
    client.send("SET", "1{f}", "y")
    client.send("SET", "1{b}", "y")
    other.send("SET", "3{f}", "y")
    rig.run_proxy()
    (link,) = a.open_links()
    link.receive()
    assert [words[:2] for words in link.inbox] == [[b"MSET", b"1{f}"], [b"SET", b"1{b}"], [b"SET", b"3{f}"]]
    rig.run()
    assert client.replies == [b"OK"] * 3
    assert ran(a)[-1] == "SET 1{f} y"
    assert rig.left_over() == []


def test_a_refused_barrier_is_not_overtaken(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys[b"1{f}"] = b""
    migration = rig.cluster.migration(F, a, b)
    client = rig.client()
    client.send("MSET", "1{f}", "x", "2{f}", "x")
    client.send("APPEND", "1{f}", "y")  # its key is here: the source would accept it
    rig.advance(1)
    assert client.replies == []
    migration.finish()
    rig.advance(1)
    assert client.replies == [b"OK", 2]


def test_a_new_owner_that_is_not_ready_gets_one_command_per_client(make_rig: MakeRig) -> None:
    """Finalised at the source first: of a burst the target would bounce the head and run the tail."""
    rig = make_rig()
    a, b = rig.nodes
    migration = rig.cluster.migration(F, a, b)
    migration.finish_source()
    client = rig.client()
    for _ in range(100):
        client.send("INCR", "{f}")
    rig.run_proxy()
    a.serve()
    rig.run_proxy()
    (link,) = b.open_links()
    link.receive()
    assert len(link.inbox) == 1
    migration.finish_target()
    rig.advance(1)
    assert client.replies == list(range(1, 101))


# Scripts


def script(client_key: str, text: str) -> list[str]:
    return ["EVAL", SCRIPT, "1", client_key, text]


@pytest.mark.parametrize(
    "text", [f"MOVED {F} 10.9.9.9:1", f"MOVED {F} 127.0.0.1:7002", "TRYAGAIN later", f"ASK {F} 127.0.0.1:7002"]
)
def test_a_scripts_redirect_is_asked_about_and_is_its_reply_when_it_was_forged(make_rig: MakeRig, text: str) -> None:
    rig = make_rig()
    client = rig.client()
    client.send(*script("{f}", text))
    client.send("INCR", "{f}")
    rig.advance(1)
    assert client.replies == []
    ((request, node, _, reply),) = rig.control.confirmations
    assert (request.slot, node.name, reply) == (F, rig.nodes[0].address, error(text))
    rig.confirm(genuine=False)
    rig.run()
    assert client.errors() == [text]
    assert client.replies[1] == 2  # the script ran once
    assert rig.owner(F) == "A"
    assert rig.nodes[1].received() == []
    assert rig.left_over() == []


def test_a_scripts_genuine_redirect_is_followed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.cluster.own(F, rig.nodes[1])
    client = rig.client()
    client.send("EVAL", SCRIPT, 1, "{f}")
    client.send("INCR", "{f}")
    rig.run()
    rig.confirm(genuine=True)
    rig.advance(1)
    assert client.replies == [1, 2]


def test_a_script_asked_about_lets_other_slots_pass(make_rig: MakeRig) -> None:
    rig = make_rig()
    client, other = rig.client(), rig.client()
    client.send(*script("{f}", "TRYAGAIN later"))
    client.send("INCR", "{b}")
    other.send("INCR", "{f}")
    rig.run()
    assert rig.nodes[0].keys == {b"{f}": b"2", b"{b}": b"1"}
    assert other.replies == [2]
    rig.confirm(genuine=False)
    rig.run()
    assert client.replies[1] == 1


# Commands without keys


def test_commands_without_keys_go_to_one_node_while_it_lives(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    client = rig.client()
    for _ in range(10):
        client.send("COMMAND", "COUNT")
    rig.run()
    assert client.replies == [2] * 10
    (home,) = [node for node in rig.nodes if node.executed]
    rig.dialling = False
    home.drop_links()
    rig.run()
    rig.refuse_dials()
    client.send("COMMAND", "COUNT")
    rig.run()
    assert client.replies == [2] * 11
    assert len(home.executed) == 10


def test_others_do_not_wait_for_a_probe_that_only_the_end_of_a_migration_can_satisfy(make_rig: MakeRig) -> None:
    rig = make_rig()
    one, two = rig.client(), rig.client()
    a, b = rig.nodes
    a.keys.update({b"{f}": b"0", b"1{f}": b"0"})
    a.down = True
    one.send("RENAME", "1{f}", "2{f}")
    rig.run()
    two.send("INCR", "{f}")
    rig.run()
    migration = rig.cluster.migration(F, a, b)
    a.down = False
    rig.advance(2)
    assert names(a)[-1] == "RENAME"  # still told to try again
    assert (one.replies, two.replies) == ([], [1])
    migration.finish()
    rig.advance(2)
    assert one.replies == [b"OK"]


def test_a_client_whose_connection_is_lost_does_not_keep_the_probe_from_others(make_rig: MakeRig) -> None:
    rig = make_rig(lanes=2)
    one, two = rig.client(), rig.client()
    a = rig.nodes[0]
    a.down = True
    one.send("INCR", "1{f}")
    rig.run()
    two.send("INCR", "2{f}")
    rig.run()
    rig.dialling = False
    rig.link_used_by(one, a).drop()
    rig.advance(2)
    a.down = False
    rig.advance(2)
    assert (one.replies, two.replies) == ([], [1])
    rig.dialling = True
    rig.run()
    assert one.replies == [1]
    rig.advance(2)
    assert rig.left_over() == []


def test_a_refusing_slot_is_forgotten_with_the_last_that_waited_for_a_connection(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=3.0)
    client = rig.client()
    a = rig.nodes[0]
    a.down = True
    client.send("INCR", "{f}")
    rig.run()
    rig.dialling = False
    a.drop_links()
    rig.advance(5)
    assert len(client.errors()) == 1
    assert rig.left_over() == []


def test_a_command_without_keys_that_waits_for_its_node_goes_elsewhere_when_that_cannot_be_reached(
    make_rig: MakeRig,
) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("COMMAND", "COUNT")
    rig.run()
    (home,) = [node for node in rig.nodes if node.executed]
    rig.dialling = False
    home.drop_links()
    rig.run()
    client.send("COMMAND", "COUNT")
    rig.run()
    assert client.replies == [2]
    rig.refuse_dials()
    rig.run()
    assert client.replies == [2, 2]
    assert len(home.executed) == 1
    assert rig.left_over() == []


def test_clients_without_keys_are_spread_over_the_primaries(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    for _ in range(9):
        rig.client().send("COMMAND", "COUNT")
    rig.run()
    assert [len(node.executed) for node in rig.nodes] == [3, 3, 3]


# Split commands


def test_a_command_over_several_slots_is_cut_and_put_together(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("MSET", "1{f}", "1", "2{a}", "2", "3{b}", "3", "4{f}", "4")
    client.send("MGET", "4{f}", "none{a}", "2{a}", "3{b}", "1{f}")
    client.send("DEL", "4{f}", "2{a}", "none{b}")
    client.send("EXISTS", "4{f}", "3{b}", "1{f}")
    rig.run()
    assert client.replies == [b"OK", [b"4", None, b"2", b"3", b"1"], 2, 2]
    assert rig.left_over() == []


def test_a_failed_part_is_the_reply(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[1].answer("MSET", error("OOM command not allowed when used memory > 'maxmemory'."))
    client = rig.client()
    client.send("MSET", "1{f}", "1", "2{a}", "2")
    rig.run()
    assert client.errors() == ["OOM command not allowed when used memory > 'maxmemory'."]


def test_parts_of_a_moving_slot_are_redirected_on_their_own(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys.update({b"1{f}": b"1", b"2{f}": b"2", b"3{b}": b"3"})
    rig.cluster.migration(F, a, b).move(b"1{f}")
    client = rig.client()
    client.send("MGET", "1{f}", "2{f}", "3{b}", "none{f}", "4{a}")
    rig.advance(1)
    assert client.replies == [[b"1", b"2", b"3", None, None]]
    assert rig.moved == 0


# Modules


def with_a_module() -> CommandTable:
    """The packaged table and one command of a module, with one key."""
    spec = [
        b"flags", [b"RW"], b"begin_search", [b"type", b"index", b"spec", [b"index", 1]],
        b"find_keys", [b"type", b"range", b"spec", [b"lastkey", 0, b"keystep", 1, b"limit", 0]],
    ]  # fmt: skip
    entry = [b"module.append", 3, [b"write", b"module"], 1, 1, 1, [], [], [spec], []]
    known = [command.info for command in TABLE.commands() if "|" not in command.name]
    return CommandTable.from_reply([*known, entry], "7.0.15")


def test_a_modules_refusal_keeps_its_place_while_it_is_asked_about(make_rig: MakeRig) -> None:
    """Later commands of the slot are on their way by then: a plain one is known to be refused sooner."""
    rig = make_rig(table=with_a_module())
    rig.cluster.own(F, rig.nodes[1])
    client = rig.client()
    client.send("MODULE.APPEND", "{f}", "1")
    client.send("APPEND", "{f}", "2")
    client.send("MODULE.APPEND", "{f}", "3")
    client.send("APPEND", "{f}", "4")
    rig.run()
    assert client.replies == []
    rig.control.confirmations.reverse()
    while rig.control.confirmations:
        rig.confirm(genuine=True)
        rig.advance(1)
    assert rig.nodes[1].keys == {b"{f}": b"1234"}
    assert client.replies == [1, 2, 3, 4]


def test_a_module_may_answer_like_a_redirect(make_rig: MakeRig) -> None:
    rig = make_rig(table=with_a_module())
    rig.nodes[0].answer("MODULE.APPEND", error(f"MOVED {F} 10.9.9.9:1"), runs=True)
    client = rig.client()
    client.send("MODULE.APPEND", "{f}", "1")
    client.send("APPEND", "{f}", "2")
    client.send("MODULE.APPEND", "{f}", "3")
    rig.run()
    rig.confirm(genuine=False)
    rig.run()
    assert client.errors() == [f"MOVED {F} 10.9.9.9:1"]
    assert client.replies[1:] == [2, 3]
    rig.advance(70)
    assert rig.left_over() == []
