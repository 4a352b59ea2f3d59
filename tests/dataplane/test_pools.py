"""Lanes by number: made and given up while nodes come and go; those that nobody uses are not connected."""

from __future__ import annotations

from slotproxy.dataplane.nodestreams import Identity
from slotproxy.dataplane.pools import Pool
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig
from tests.dataplane.test_lanes import without


def ready(rig: Rig, pool: Pool, protocol: int = 2) -> list[int]:
    """Of each node how many of the pool's lanes for this protocol are connected."""
    nodes = rig.plane.router.territory.nodes.values()
    lanes = [[lane for lane in node.lanes if lane.key.identity is pool.identity] for node in nodes]
    return [sum(lane.ready for lane in of_node if lane.key.protocol == protocol) for of_node in lanes]


def test_another_identity_has_lanes_of_its_own_at_every_node(make_rig: MakeRig) -> None:
    rig = make_rig(3, lanes=2)
    topology = rig.nodes[0].topology()
    rig.refresh(topology=without(rig, "C", "A"))
    territory = rig.plane.router.territory
    pool = Pool(territory, Identity("alice"), 2)
    rig.run()
    assert ready(rig, pool) == [0, 0]
    numbers = {pool.lane_of(id, protocol) for id in range(10) for protocol in (2, 3)}
    assert len(numbers) == 4 and not numbers & {territory.own.lane_of(id, 2) for id in range(10)}
    rig.run()
    assert ready(rig, pool) == ready(rig, pool, 3) == [2, 2]
    rig.refresh(topology=topology)
    rig.run()
    assert ready(rig, pool) == ready(rig, pool, 3) == [2, 2, 2]


def test_lanes_that_were_given_up_are_closed_and_their_numbers_used_again(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    open_before = [len(list(node.open_links())) for node in rig.nodes]
    first = Pool(rig.plane.router.territory, Identity("alice"), 1)
    lane = first.lane_of(1, 2)
    rig.run()
    first.close()
    rig.run()
    assert [len(list(node.open_links())) for node in rig.nodes] == open_before
    second = Pool(rig.plane.router.territory, Identity("bob"), 1)
    rig.refresh(topology=without(rig, "B", "A"))
    rig.refresh()
    rig.run()
    assert second.lane_of(1, 2) == lane
    assert ready(rig, second) == [0, 0]
    rig.run()
    assert ready(rig, second) == [1, 1]
