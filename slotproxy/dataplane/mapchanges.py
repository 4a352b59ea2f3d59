"""Changing the map under commands in flight: by one MOVED, by a whole refresh, or because a home cannot be reached.

Duty: do the steps in the order that keeps one view per slot in flight: first what is in flight at the old owner is
written into flows, then the owner changes, then flows may look where to go. Who said that the owner changed, and
whether to believe it, was decided before.
"""

from typing import Final

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Topology
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.flows import Gate
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.order import Order
from slotproxy.dataplane.territory import Territory


class MapChanges:
    """The only writer of the slot map."""

    def __init__(self, slot_map: SlotMap, territory: Territory, order: Order, counters: Counters) -> None:
        self._slot_map: Final = slot_map
        self._territory: Final = territory
        self._order: Final = order
        self._counters: Final = counters
        self._patched_at: int = 0  # versions of the map: after the last patch,
        self._refreshed_at: int = 0  # and when the last refresh began

    def is_whole(self) -> bool:
        """Whether a refresh has begun, and ended, since a redirect changed a slot: its owner may own others as well."""
        return self._refreshed_at >= self._patched_at

    def patch(self, gate: Gate, target: Node) -> None:
        """A MOVED named another owner of the gate's slot."""
        self._order.adopt_in_flight(gate.slot)
        before = self._territory.owner(gate.slot)
        if self._slot_map.patch(int(gate.slot), target.info):
            self._counters.topology_updates += 1
        self._patched_at = self._slot_map.version
        if before is not None:
            self._territory.note_loss(before.info.id)
        self._order.owner_changed(gate)
        if before is not None:
            for lane in before.lanes:
                self._order.wake(lane)

    def apply(self, topology: Topology, started: int) -> int:
        """A refresh, begun at the map's version `started`. How many slots changed their owner."""
        nodes = list(self._territory.nodes.values())
        before = self._slot_map.owners[:]
        changed = self._slot_map.apply(topology, started)
        self._refreshed_at = started
        for id in {info.id for info in (before[slot] for slot in changed) if info is not None}:
            self._territory.note_loss(id)
        if changed:
            self._counters.topology_updates += 1
            self._gather(set(changed), nodes)
        for slot in changed:
            if before[slot] is not None:
                # Whoever gave this view may be ahead of the new owner: it has to accept a command before it gets more.
                self._order.gate_without_scan(slot)
        self._territory.renew()
        self._owners_changed(changed)
        self.rehome(nodes)
        for node in nodes:
            for lane in node.lanes:
                self._order.wake(lane)
        return len(changed)

    def rehome(self, nodes: list[Node]) -> None:
        """Give commands without keys another node where theirs, one of `nodes`, cannot be reached or has left."""
        slots = self._territory.choose_homes()
        if slots:
            self._gather(set(slots), nodes)
            self._owners_changed(slots)

    def _gather(self, slots: set[int], nodes: list[Node]) -> None:
        """Write what `nodes` have in flight of `slots` into flows, before anything newer is sent."""
        for node in nodes:
            for lane in node.lanes:
                for request in lane.fifo.all():
                    if request.slot in slots:
                        gate = self._order.gate_without_scan(request.slot)
                        gate.flows[request.flow or self._order.adopt(request, node)] = None

    def _owners_changed(self, slots: list[int]) -> None:
        for slot in slots:
            self._territory.routes[slot] = None if slot in self._order.gates else self._territory.owner(slot)
        for slot in slots:
            gate = self._order.gates.get(slot)
            if gate is not None:
                self._order.owner_changed(gate)
