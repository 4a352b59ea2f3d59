"""The territory: which node owns a slot now, as `Node` objects with lanes.

Duty: turn the shared slot map into routes, keep one `Node` per node of the cluster, and give commands without keys a
home. Says who owns what; whether something may be sent there is the router's to decide.

Invariants: `routes[slot]` is the owner or None, and None means "ask the router" (no owner, or a gate stands there). A
node that is not in the map is not dialled. A pseudo slot (commands without keys) keeps its node while that can be
reached, so that one client's keyless commands keep their order. A seat's number is never given to another node.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.dataplane.controlplane import Dialler
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.lanes import LEFT, Lane, Node
from slotproxy.dataplane.nodestreams import Identity, StreamKey
from slotproxy.dataplane.pools import LaneNumbers, Pool
from slotproxy.dataplane.privatelanes import PrivateLane
from slotproxy.dataplane.reactor import Reactor
from slotproxy.protocol.slots import SLOTS

if TYPE_CHECKING:
    from slotproxy.dataplane.router import Router

KEYLESS: Final = 64  # pseudo slots, numbered from SLOTS on
_SEATS: Final = SLOTS + KEYLESS


class Seat:
    """What a command for one certain node is addressed to: the node, or whoever has taken over from it.

    `slot` is a pseudo slot, so that the router sends such a command, waits with it and sends it again like any other.
    """

    def __init__(self, slot: i64, id: str) -> None:
        self.slot: i64 = slot
        self.id: Final = id
        self.anchor: i64 = -1  # a slot that the node owned when it was last addressed as an owner; -1: never
        self.looked_at: int = -1  # the map's version when there was none
        self.has_lost: bool = False  # slots that it owned: without any it is a replica by now, or has been emptied


class Territory:
    """Routes, nodes and homes of one proxy."""

    def __init__(self, reactor: Reactor, slot_map: SlotMap, counters: Counters, dialler: Dialler, lanes: int) -> None:
        self.routes: list[Node | None] = [None] * (SLOTS + KEYLESS)
        self.nodes: dict[str, Node] = {}  # by node id
        self.slot_map: Final = slot_map
        self._homes: list[Node | None] = [None] * KEYLESS
        self._reactor: Final = reactor
        self._counters: Final = counters
        self._dialler: Final = dialler
        self._numbers: Final = LaneNumbers()
        self._seats: list[Seat] = []
        self._seat_of: dict[str, Seat] = {}  # by node id
        self._router: Router | None = None
        self.own: Final = Pool(self, Identity(""), lanes)  # of clients that use the proxy's own identity
        self.own.lane_of(0, 2)  # connected from the first, so that it is known what can be reached

    def serve(self, router: "Router") -> None:
        """Tell the territory whose lanes report to whom; once, before anything else."""
        self._router = router

    def key_of(self, lane: i64) -> StreamKey:
        """What the connections of a lane's clients speak and as whom."""
        return self._numbers.keys[lane]

    def add_lanes(self, keys: list[StreamKey]) -> int:
        """Lanes at every node, one for each of `keys`, connected when needed. Returns the first one's number."""
        first = self._numbers.take(keys)
        for node in self.nodes.values():
            self._fill(node, first, len(keys))
        return first

    def connect_lanes(self, first: int, count: int) -> None:
        """Have so many lanes, from the number `first` on, connected to every primary, also to those that join later."""
        for number in range(first, first + count):
            self._numbers.eager[number] = True
        self._dial_primaries()

    def drop_lanes(self, first: int, count: int) -> None:
        """Nobody sends on these lanes any more; they were added together."""
        self.retire_lanes(first, count)
        self._numbers.give_back(first, count)

    def retire_lanes(self, first: int, count: int) -> None:
        """No client sends on these lanes any more, but something may still wait for them: their numbers stay."""
        for number in range(first, first + count):
            self._numbers.eager[number] = False
        for node in self.nodes.values():
            for lane in node.lanes[first : first + count]:
                lane.retire("its clients have left")

    def _fill(self, node: Node, first: int, count: int) -> None:
        """Give a node new lanes with these numbers."""
        assert self._router is not None
        lanes: list[Lane] = []
        before: PrivateLane | None = None
        for key in self._numbers.keys[first : first + count]:
            if key.shared:
                lanes.append(Lane(self._reactor, self._router, self._counters, node, key))
                continue
            private = PrivateLane(self._reactor, self._router, self._counters, node, key)
            if before is not None and before.key.redirects:
                before.ear = private
            before = private
            lanes.append(private)
        node.lanes[first : first + count] = lanes

    def keyless_slot(self, client_id: int) -> int:
        """The pseudo slot by which a client's commands without keys are routed."""
        return SLOTS + client_id % KEYLESS

    def primaries(self) -> list[Node]:
        """The primaries that the cluster does not hold for failed."""
        infos = self.slot_map.nodes.items()
        return [self.nodes[id] for id, info in infos if info.primary and not info.failing and id in self.nodes]

    def owner(self, slot: i64) -> Node | None:
        """The node that owns a slot, or is the home of a pseudo slot."""
        if slot >= _SEATS:
            return self._seated(self._seats[slot - _SEATS])
        if slot >= SLOTS:
            return self._homes[slot - SLOTS]
        info = self.slot_map.owners[slot]
        return self.nodes.get(info.id) if info is not None else None

    def find(self, host: str | None, port: int) -> Node | None:
        """The node that a redirect calls `host:port`; `host` None: the only one with that port."""
        info = self.slot_map.find_by_port(port) if host is None else self.slot_map.find(host, port)
        if info is None:
            return None
        return self.nodes.get(info.id) or self._add(info.id)

    # Seats

    def seat(self, id: str) -> Seat:
        """The seat of a node, by its id: another one when it no longer owns slots.

        Who waits at the former one goes to the successor, even when somebody else addresses the node itself meanwhile.
        """
        seat = self._seat_of.get(id)
        if seat is None or (not self._owns(seat) and seat.anchor >= 0):
            seat = self._seat_of[id] = Seat(_SEATS + len(self._seats), id)
            self._seats.append(seat)
            self.routes.append(None)  # only the router sends to seats
            self._owns(seat)
        return seat

    def seats(self, home: i64, replicas: bool) -> list[Seat]:
        """All primaries' seats, with `replicas` those of replicas as well; first that of the pseudo slot `home`.

        Left out: nodes that the cluster holds for failed, unless slots are lost without them, and primaries that have
        lost all their slots: they have been demoted, or have no keys any more.
        """
        found: list[Seat] = []
        for id, info in sorted(self.slot_map.nodes.items()):
            seat = self.seat(id)
            if seat.anchor >= 0 or (not info.failing and (replicas or (info.primary and not seat.has_lost))):
                if id not in self.nodes:
                    self._add(id)  # a replica until now had no lanes
                found.append(seat)
        first = self.owner(home)
        if first is not None:
            found.sort(key=lambda seat: seat.id != first.info.id)
        return found

    def note_loss(self, id: str) -> None:
        """The node has lost a slot."""
        self.seat(id).has_lost = True

    def is_vacant(self, slot: i64) -> bool:
        """Whether a pseudo slot is the seat of a node that is away and has no successor."""
        return slot >= _SEATS and self._seats[slot - _SEATS].anchor < 0 and self.owner(slot) is None

    def why_away(self, slot: i64) -> str:
        """Why the node of a vacant seat is not there."""
        node = self.nodes.get(self._seats[slot - _SEATS].id)
        return "it is no node of the cluster any more" if node is None else f"node {node.name}: {node.lanes[0].why}"

    def _owns(self, seat: Seat) -> bool:
        """Whether the seat's node owns slots; notes one of them."""
        owners = self.slot_map.owners
        if seat.anchor >= 0:
            info = owners[seat.anchor]
            if info is not None and info.id == seat.id:
                return True
        elif seat.looked_at == self.slot_map.version:
            return False
        for slot in range(SLOTS):
            info = owners[slot]
            if info is not None and info.id == seat.id:
                seat.anchor = slot
                return True
        seat.looked_at = self.slot_map.version
        return False

    def _seated(self, seat: Seat) -> Node | None:
        info = self.slot_map.nodes.get(seat.id)
        if seat.anchor >= 0 and (info is None or info.failing or not info.primary):
            return self.owner(seat.anchor)
        node = self.nodes.get(seat.id)
        if info is None or node is None or (seat.anchor < 0 and (info.failing or node.unreachable)):
            return None
        return node

    def _add(self, id: str) -> Node:
        node = Node(self.slot_map.nodes[id])
        self._fill(node, 0, len(self._numbers.keys))
        self.nodes[id] = node
        return node

    def renew(self) -> None:
        """Follow the map's nodes.

        Lanes of primaries that are not connected are dialled; those of nodes that left take nothing new.
        """
        infos = self.slot_map.nodes
        for id in list(self.nodes):
            node = self.nodes[id]
            info = infos.get(id)
            if info is None:
                del self.nodes[id]
                node.left = True
                for lane in node.lanes:
                    lane.retire(LEFT)
            elif info is not node.info:
                if (info.host, info.port) != (node.info.host, node.info.port):
                    for lane in node.lanes:
                        lane.renew()
                node.info = info
        self._dial_primaries()

    def _dial_primaries(self) -> None:
        for id, info in self.slot_map.nodes.items():
            if info.primary:
                for number, lane in enumerate((self.nodes.get(id) or self._add(id)).lanes):
                    if self._numbers.eager[number]:
                        self.dial(lane)

    def choose_homes(self) -> list[int]:
        """Give each pseudo slot a primary that can be reached. Returns the pseudo slots that changed."""
        primaries = [self.nodes[id] for id, info in sorted(self.slot_map.nodes.items()) if info.primary]
        primaries = [node for node in primaries if not node.unreachable and not node.info.failing] or primaries
        changed: list[int] = []
        for index in range(KEYLESS):
            home = self._homes[index]
            if home is None or home.unreachable or home not in primaries:
                self._homes[index] = primaries[index % len(primaries)] if primaries else None
                if self._homes[index] is not home:
                    changed.append(SLOTS + index)
        return changed

    def dial(self, lane: Lane) -> None:
        """Have a lane connected, unless it is, or is about to be, or its node has left."""
        before = lane.needed()
        if before is not None:
            lane = before
        if lane.transport is None and not lane.dialling and not lane.retired:
            lane.dialling = True
            self._dialler.dial_nowait(lane)
