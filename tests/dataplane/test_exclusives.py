"""Connections leased to one client each: bounded, lent again only when clean, closed when idle or left."""

from __future__ import annotations

import pytest

from slotproxy.build import flavour
from slotproxy.cluster.topology import NodeInfo, Topology
from slotproxy.dataplane.exclusives import Exclusive, Exclusives, Holder
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.nodestreams import StreamKey
from tests.dataplane.asking import do
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig
from tests.scripted_frames import pack
from tests.scripted_node import HOST, ScriptedNode

pytestmark = pytest.mark.skipif(
    flavour() == "compiled", reason="a compiled class has no subclass outside: `.ci/run` runs these interpreted as well"
)


class Holding(Holder):
    """A holder that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.exclusive: Exclusive | None = None

    def leased(self, exclusive: Exclusive) -> None:
        self.exclusive = exclusive
        self.told.append("leased")

    def not_leased(self, node: Node, why: str) -> None:
        self.told.append(f"not leased: {why}")

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        self.told.append(reply.decode().strip())

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        self.told.append(f"lost, whole: {whole}")


def pool_of(rig: Rig) -> Exclusives:
    return rig.plane.exclusives


def node_of(rig: Rig, node: ScriptedNode) -> Node:
    return rig.plane.router.territory.nodes[node.id]


def key_of(rig: Rig, protocol: int = 2) -> StreamKey:
    territory = rig.plane.router.territory
    return territory.key_of(territory.own.lane_of(1, protocol))


def lease(rig: Rig, node: ScriptedNode) -> tuple[Exclusive, Holding]:
    """A connection that is there."""
    holder = Holding()
    assert pool_of(rig).lease(node_of(rig, node), key_of(rig), holder)
    rig.run()
    exclusive = holder.exclusive
    assert exclusive is not None and exclusive.ready
    return exclusive, holder


def being_made(rig: Rig) -> Exclusive:
    """The one connection that waits to be dialled."""
    (stream,) = rig.control.dials
    assert isinstance(stream, Exclusive)
    return stream


def test_a_connection_is_dialled_and_handed_to_its_holder(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, holder = lease(rig, a)
    assert holder.told == ["leased"]
    exclusive.ask(pack("PING") + pack("ECHO"), 2)
    rig.run()
    assert holder.told[1:2] == ["+PONG"]
    assert len(holder.told) == 3
    assert (pool_of(rig).total, pool_of(rig).leased()) == (1, 1)


def test_a_clean_one_is_lent_again_the_last_one_used_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    first, _ = lease(rig, a)
    second, _ = lease(rig, a)
    pool_of(rig).release(second)
    pool_of(rig).release(first)
    assert pool_of(rig).leased() == 0
    other, _ = lease(rig, b)
    assert other not in (first, second)
    again, holder = lease(rig, a)
    assert again is first
    assert holder.told == ["leased"]
    assert lease(rig, a)[0] is second
    assert pool_of(rig).total == 3


def test_one_with_replies_to_come_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, holder = lease(rig, a)
    exclusive.ask(pack("PING"), 1)
    pool_of(rig).release(exclusive)
    assert not exclusive.ready
    assert pool_of(rig).total == 0
    rig.run()
    assert rig.exclusive_links(a) == []
    assert holder.told == ["leased"]


def test_one_that_nobody_wants_for_ten_seconds_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, _ = lease(rig, a)
    pool_of(rig).release(exclusive)
    rig.advance(9.9)
    assert exclusive.ready
    rig.advance(2.2)  # it is looked at every two seconds
    assert not exclusive.ready
    assert rig.exclusive_links(a) == []
    assert pool_of(rig).total == 0
    assert rig.plane.reactor.next_due() == float("inf")


def test_one_that_is_leased_is_not_closed_however_long_it_takes(make_rig: MakeRig) -> None:
    rig = make_rig()
    exclusive, _ = lease(rig, rig.nodes[0])
    rig.advance(1000, step=100.0)
    assert exclusive.ready


def test_the_ten_seconds_count_from_its_last_use(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    for _ in range(5):
        exclusive, _ = lease(rig, a)
        pool_of(rig).release(exclusive)
        rig.advance(9)
    assert len(rig.exclusive_links(a)) == 1
    assert exclusive.ready


def test_beyond_the_bound_there_is_none(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=2)
    a, b = rig.nodes
    exclusive, _ = lease(rig, a)
    lease(rig, b)
    assert not pool_of(rig).lease(node_of(rig, a), key_of(rig), Holding())
    assert not pool_of(rig).lease(node_of(rig, b), key_of(rig), Holding())
    assert pool_of(rig).total == 2
    pool_of(rig).release(exclusive)
    assert lease(rig, a)[0] is exclusive


def test_at_the_bound_an_idle_one_makes_room_for_another_nodes(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=2)
    a, b = rig.nodes
    first, _ = lease(rig, a)
    second, _ = lease(rig, a)
    pool_of(rig).release(first)
    pool_of(rig).release(second)
    lease(rig, b)
    assert not first.ready  # idle for longer
    assert second.ready
    assert pool_of(rig).total == 2


def test_those_that_are_being_made_count_too(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=1)
    rig.dialling = False
    assert pool_of(rig).lease(node_of(rig, rig.nodes[0]), key_of(rig), Holding())
    assert not pool_of(rig).lease(node_of(rig, rig.nodes[0]), key_of(rig), Holding())


def test_they_are_handed_out_in_the_order_in_which_they_were_asked_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    holders = [Holding() for _ in range(4)]
    for holder in holders:
        pool_of(rig).lease(node_of(rig, a), key_of(rig), holder)
    pool_of(rig).cancel(holders[1])
    for expected in ([0], [0, 2], [0, 2, 3]):
        rig.connect_lane(rig.control.dials.pop())  # the one that was asked for last is there first
        assert [number for number, holder in enumerate(holders) if holder.told] == expected


def test_a_node_that_cannot_be_dialled_gives_its_place_back_and_is_not_dialled_on(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=1)
    a, _ = rig.nodes
    rig.dialling = False
    holder = Holding()
    assert pool_of(rig).lease(node_of(rig, a), key_of(rig), holder)
    exclusive = being_made(rig)
    rig.refuse_dials("connection refused")
    assert holder.told == ["not leased: connection refused"]
    assert exclusive.retired  # the dialler gives up
    assert pool_of(rig).total == 0
    rig.refuse_dials("connection refused")  # once more, which nobody hears
    assert (holder.told, pool_of(rig).total) == (["not leased: connection refused"], 0)
    assert rig.plane.router.territory.nodes[a.id].unreachable is False


def test_one_that_comes_when_its_holder_has_gone_is_kept_for_the_next(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    holder = Holding()
    assert pool_of(rig).lease(node_of(rig, a), key_of(rig), holder)
    exclusive = being_made(rig)
    pool_of(rig).cancel(holder)
    rig.dialling = True
    rig.run()
    assert pool_of(rig).leased() == 0
    assert lease(rig, a)[0] is exclusive


def test_one_that_is_finished_while_it_is_made_is_closed_when_it_comes(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    holder = Holding()
    assert pool_of(rig).lease(node_of(rig, a), key_of(rig), holder)
    exclusive = being_made(rig)
    pool_of(rig).cancel(holder)
    exclusive.finish("its client has left")
    assert pool_of(rig).total == 0
    rig.dialling = True
    rig.run()
    assert rig.exclusive_links(a) == []
    assert (holder.told, pool_of(rig).total) == ([], 0)


@pytest.mark.parametrize(("room", "whole"), [(None, True), (0, False), (5, False)])
def test_a_lost_one_says_whether_the_node_may_have_got_all(make_rig: MakeRig, room: int | None, whole: bool) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, holder = lease(rig, a)
    (link,) = rig.exclusive_links(a)
    rig.node_end(a).room = room
    exclusive.ask(pack("PING"), 1)
    rig.run_proxy()
    link.drop()
    rig.run()
    assert holder.told == ["leased", f"lost, whole: {whole}"]
    assert exclusive.fences == {link.id: a.name}
    assert pool_of(rig).total == 0
    assert rig.control.dials == []


def test_an_idle_one_that_is_lost_is_forgotten(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, holder = lease(rig, a)
    pool_of(rig).release(exclusive)
    rig.exclusive_links(a)[0].drop()
    rig.run()
    assert (pool_of(rig).total, pool_of(rig).leased()) == (0, 0)
    assert holder.told == ["leased"]
    assert lease(rig, a)[0] is not exclusive


@pytest.mark.parametrize("idle", [False, True])
def test_a_reply_that_nothing_was_asked_for_ends_it(make_rig: MakeRig, idle: bool) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, holder = lease(rig, a)
    if idle:
        pool_of(rig).release(exclusive)
    rig.exclusive_links(a)[0].say(b"+OK\r\n")
    rig.run()
    assert not exclusive.ready
    assert pool_of(rig).total == 0
    assert holder.told == (["leased"] if idle else ["leased", "lost, whole: True"])


def test_one_to_a_node_that_has_left_is_not_kept(make_rig: MakeRig) -> None:
    rig = make_rig(3, owning=2)
    c = rig.nodes[2]
    leased, _ = lease(rig, c)
    idle, _ = lease(rig, c)
    pool_of(rig).release(idle)
    topology = rig.nodes[0].topology()
    infos = {id: info for id, info in topology.nodes.items() if id != c.id}
    rig.refresh(topology=Topology(infos, topology.ranges, {}, "test"))
    pool_of(rig).release(leased)
    assert not leased.ready
    rig.advance(2.1)
    assert not idle.ready


def test_one_to_a_nodes_former_address_is_not_lent_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    exclusive, _ = lease(rig, a)
    pool_of(rig).release(exclusive)
    topology = a.topology()
    moved = NodeInfo(a.id, "10.0.0.1", a.port, True, False, frozenset({(HOST, a.port), ("10.0.0.1", a.port)}))
    rig.refresh(topology=Topology({**topology.nodes, a.id: moved}, topology.ranges, {}, "test"))
    assert lease(rig, a)[0] is not exclusive


def test_idle_ones_are_closed_when_the_proxy_ends() -> None:
    rig = Rig()
    exclusive, _ = lease(rig, rig.nodes[0])
    pool_of(rig).release(exclusive)
    rig.close()
    assert not exclusive.ready


def test_leased_ones_are_closed_when_the_proxy_ends() -> None:
    rig = Rig()
    client = rig.client()
    client.send("BLPOP", "{f}", "0")
    rig.run()
    watcher = rig.client()
    watcher.send("WATCH", "{f}")
    rig.run()
    links = rig.exclusive_links(rig.nodes[0])
    assert len(links) == 2
    rig.plane.close()
    for link in links:
        link.receive()
    assert all(link.closed for link in links)
    rig.close()


def test_a_connection_on_which_somebody_waited_watches_and_blocks_nothing_for_the_next(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    first, second = rig.client(), rig.client()
    first.send("WATCH", "{f}")
    first.send("UNWATCH")
    rig.run()
    do(rig, "SET", "{f}", "1")
    second.send("WATCH", "x{f}")
    second.send("MULTI")
    second.send("INCR", "{f}")
    second.send("EXEC")
    rig.run()
    assert second.replies[-1] == [2]
    assert len(rig.exclusive_links(a)) == 1
