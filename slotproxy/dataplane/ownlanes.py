"""Lanes for one client: taken, connected, given back.

Duty: have numbers for what one client needs for itself, wait until all primaries are connected there, and give them
back when nothing of the client is on its way any more. What is said on them is their user's business.

Invariants: a number is not given back while a command of the client may still be sent on it, also one that the client
left behind when it closed: else it would go out on another client's connection. Connections to nodes that clients have
for themselves, leased ones included, are at most `--max-exclusive`.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.lanes import Lane, Node
from slotproxy.dataplane.nodestreams import REFUSES, StreamKey
from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Solitary
from slotproxy.protocol.commands import Command
from slotproxy.protocol.resp import OK, error

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_LOOK: Final = 0.1  # seconds between two looks whether a client that has left has nothing on its way any more


class OwnLanes(Timer):
    """As many lanes in a row as there are `keys`, numbered from `first`."""

    def __init__(self, client: "Client", plane: "Plane", keys: list[StreamKey]) -> None:
        super().__init__()
        self.first: Final = plane.router.territory.add_lanes(keys)
        self.count: Final = len(keys)
        self.last: Final = self.first + self.count - 1
        self._owners: Final[dict[Node, None]] = {}  # of slots, that the map may not call primaries yet
        self._client: Final = client
        self._plane: Final = plane
        self._weight: Final = len(keys) * max(len(plane.router.territory.primaries()), 1)
        plane.exclusives.reserved += self._weight

    def connect(self) -> None:
        """Connect them to all primaries, also to those that join later."""
        self._plane.router.territory.connect_lanes(self.first, self.count)

    def missing(self) -> list[Lane]:
        """Those of primaries that are not connected."""
        found: list[Lane] = []
        nodes = dict.fromkeys(self._plane.router.territory.primaries())
        nodes.update(self._owners)
        for node in nodes:
            for lane in node.lanes[self.first : self.first + self.count]:
                if not lane.ready:
                    found.append(lane)
        return found

    def reach(self, slots: set[int]) -> bool:
        """Have the owners of these slots connected. False: one of them is not yet."""
        territory = self._plane.router.territory
        reached = True
        for node in dict.fromkeys([territory.owner(slot) for slot in slots]):
            if node is not None and not node.lanes[self.first].ready:
                self._owners[node] = None
                territory.dial(node.lanes[self.first])
                reached = False
        for node in list(self._owners):
            if node.left or (node.info.primary and node.lanes[self.first].ready):
                del self._owners[node]
        return reached

    def ready(self) -> list[Lane]:
        """Those that are connected and where nodes tell something: the last of each node's."""
        found: list[Lane] = []
        for node in self._plane.router.territory.nodes.values():
            lane = node.lanes[self.last]
            if lane.ready:
                found.append(lane)
        return found

    def give_back(self) -> None:
        """The client does not send on them any more; what is on its way takes its course."""
        if self._client.flows or self._client.queue.size > 0:
            self._plane.reactor.call_at(self._plane.reactor.now + _LOOK, self)
        else:
            self._drop()

    def drop(self) -> None:
        """The client uses other lanes, and had nothing on its way when it changed."""
        self._drop()

    def fire(self) -> None:
        """Look again."""
        self.give_back()

    def _drop(self) -> None:
        self._plane.exclusives.reserved -= self._weight
        self._plane.router.territory.drop_lanes(self.first, self.count)


def room_for(plane: "Plane", called: Command, count: int) -> bytes | None:
    """The error where a client cannot have so many lanes for itself."""
    exclusives = plane.exclusives
    wanted = count * max(len(plane.router.territory.primaries()), 1)
    return None if exclusives.total + exclusives.reserved + wanted <= exclusives.most else errors.no_exclusive(
        called, exclusives.most
    )


class Connecting(Solitary):
    """A command that is answered OK when every primary is connected on a client's own lanes; it runs alone.

    `failed`: what it was answered instead, b"" for nothing.
    """

    def __init__(self, client: "Client", plane: "Plane", called: Command, raw: bytes, lanes: OwnLanes) -> None:
        super().__init__()
        self.failed: bytes = b""
        self.over: bool = False
        self._plane: Final = plane
        self._client: Final = client
        self._lanes: Final = lanes
        self._owner: Final = Request(client, called, 0, raw, plane.reactor.now)

    def start(self) -> None:
        self._client.queue.push(self._owner)
        self._plane.reactor.call_at(self._plane.reactor.now + self._plane.router.order.park_timeout, self)
        self._lanes.connect()
        self.look()

    def look(self) -> None:
        """Something was connected, or could not be."""
        if self.over:
            return
        for lane in self._lanes.missing():
            if lane.why.startswith(REFUSES):
                self._end(error(lane.why.partition(": ")[2]))
                return
        if self._plane.router.territory.primaries() and not self._lanes.missing():
            self._end(OK)

    def fire(self) -> None:
        """They have not been connected in time."""
        missing = self._lanes.missing()
        last = f"node {missing[0].node.name}: {missing[0].why}" if missing else "no node is known"
        self._plane.counters.parked_expired += 1
        self._end(errors.not_connected(self._owner.command, self._plane.router.order.park_timeout, last))

    def abandon(self) -> None:
        self.over = True
        self.due = 0.0

    def _end(self, reply: bytes) -> None:
        self.over = True
        self.due = 0.0
        if reply != OK:
            self.failed = reply
            self.fail()
        self._plane.router.finish(self._owner, reply)

    def fail(self) -> None:
        """It is refused: undo what has been done for it."""
        raise AssertionError("a command without fail()")
