"""WAIT and WAITAOF: how many replicas have what the client wrote, wherever it wrote it.

Duty: ask every primary on a connection of its own, and answer the least number. A fresh connection has written nothing,
and WAIT there would count every replica (7.0.15: it compares with the offset of the connection's last command); so a
command goes before it, which takes the primary's present offset: at least that of the client's writes, which have all
been answered, for this runs alone.

Invariant: never more than is true. A primary to which the client wrote nothing counts, too, so it can be less.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.exclusives import Exclusive, Holder
from slotproxy.dataplane.requests import Request
from slotproxy.protocol.commands import Command
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import error_code
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import array, command, integer
from slotproxy.protocol.slots import SLOTS

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.plane import Plane

_PING: Final = command([b"PING"])


class ReplicaWait(Holder):
    """One WAIT or WAITAOF of one client."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, raw: bytes) -> None:
        super().__init__()
        self.endless = True
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = called
        self._owner: Final = Request(client, called, 0, raw, plane.reactor.now)
        self._asked: Final[dict[Exclusive, bool]] = {}  # and whether PING has been answered
        self._replies: Final[list[bytes]] = []
        self._missing: int = 0
        self._over: bool = False
        self._hasty: bool = False  # nobody waits for it any more

    def start(self) -> None:
        plane = self._plane
        self._client.queue.push(self._owner)
        territory = plane.router.territory
        nodes: dict[Node, None] = {}
        for seat in territory.seats(territory.keyless_slot(self._client.id), False):
            node = territory.owner(seat.slot)
            if node is not None:
                nodes[node] = None
        if not nodes:
            self._finish(errors.not_served(SLOTS, 0.0, "no node is known yet"))
            return
        self._missing = len(nodes)
        for node in nodes:
            if not plane.exclusives.lease(node, self._client.key, self):
                self._finish(errors.no_exclusive(self._command, plane.exclusives.most))
                return

    def leased(self, exclusive: Exclusive) -> None:
        self._asked[exclusive] = False
        raw = self._owner.raw
        if self._hasty:
            raw = command([*arguments_of(raw)[:-1], b"1"])  # milliseconds
        exclusive.ask(_PING + raw, 2)

    def not_leased(self, node: "Node", why: str) -> None:
        self._finish(errors.uncounted(self._command, node.name, why))

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        self._asked.pop(exclusive, None)
        self.not_leased(exclusive.node, why)

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        if not self._asked[exclusive]:
            self._asked[exclusive] = True
            return
        del self._asked[exclusive]
        self._plane.exclusives.release(exclusive)
        self._replies.append(reply)
        if reply[0] == 0x2D:
            self._finish(reply)
        elif len(self._replies) == self._missing:
            self._finish(least(self._replies))

    def unblock(self, request: Request, with_error: bool) -> bool:
        """CLIENT UNBLOCK: the nodes tell what they have counted so far."""
        if self._over:
            return False
        self._hasty = True
        for exclusive in self._asked:
            self._plane.unblock(exclusive, self._client, self, b"ERROR" if with_error else b"TIMEOUT")
        request.client.deliver(request, integer(1))
        return True

    def abandon(self) -> None:
        """The client has left."""
        self._over = True
        self._plane.exclusives.cancel(self)
        for exclusive in list(self._asked):
            exclusive.finish("its client has left")
        self._asked.clear()

    def depart(self) -> None:
        self._hasty = True
        for exclusive in self._asked:  # what they have counted so far is the answer
            self._plane.unblock(exclusive, self._client, self, b"TIMEOUT")

    def _finish(self, reply: bytes) -> None:
        if self._over:
            return
        self.abandon()
        if reply[0] == 0x2D:
            self._plane.counters.error(error_code(reply))
        self._client.deliver(self._owner, reply)


def least(replies: list[bytes]) -> bytes:
    """Of WAIT's integers the least; of WAITAOF's pairs the least of each."""
    try:
        pairs = [elements_of(reply) for reply in replies]
        if pairs[0] is None:
            return integer(min([int(reply[1:-2]) for reply in replies]))
        found = [[int(frame[1:-2]) for frame in pair or []] for pair in pairs]
        return array([integer(min([pair[at] for pair in found])) for at in range(2)])
    except (ProtocolError, ValueError, IndexError):
        return replies[0]
