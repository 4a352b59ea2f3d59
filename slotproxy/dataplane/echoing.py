"""PING of a client that is told of changed keys: answered when every node has said what it had to say.

Duty: ask each connection on which nodes tell this client something for a PONG, and answer when all have come, so that
an invalidation of what was written before the PING is in front of its reply, as on one server.

Invariant: the reply comes within about a second, whatever nodes do: if one does not answer until then, the clients that
track are told to drop everything, and the reply is as true as before.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.lanes import Lane
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked, Solitary
from slotproxy.protocol.commands import Command
from slotproxy.protocol.resp import command
from slotproxy.protocol.slots import SLOTS

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane
    from slotproxy.dataplane.private import Private

_PATIENCE: Final = 1.0  # seconds after which a node counts as lost
_LOOK: Final = 0.02
_PING: Final = command([b"PING"])


class Echo(Solitary):
    """One such PING, with its reply. `users`: who tracks, and tells this client. Others of it may be in flight."""

    def __init__(
        self, client: "Client", plane: "Plane", called: Command, frame: bytes, users: "list[Private]", lanes: list[Lane]
    ) -> None:
        super().__init__()
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = called
        self._frame: Final = frame
        self._users: Final = users
        self._lanes: Final = lanes
        self._owner: Final = client.expect_answer()
        self._missing: int = 0
        self._until: Final[float] = plane.reactor.now + _PATIENCE
        self._over: bool = False

    def start(self) -> None:
        """Ask."""
        plane = self._plane
        for lane in self._lanes:
            asked = Asked(plane, self._owner, self, 0, patient=False)
            self._missing += 1
            lane.enqueue(Request(plane.arrivals, self._command, SLOTS, _PING, plane.reactor.now, False, asked))
        plane.reactor.call_at(self._until if self._is_sure() else plane.reactor.now + _LOOK, self)

    def take(self, index: int, reply: bytes) -> None:
        """A node has answered, or its connection was lost: then the clients have been told so already."""
        self._missing -= 1
        self._end_if_done()

    def fire(self) -> None:
        """Look whether all primaries are connected now; give up in the end."""
        now = self._plane.reactor.now
        if now < self._until:
            self._end_if_done()
            if not self._over:
                self._plane.reactor.call_at(self._until if self._is_sure() else now + _LOOK, self)
            return
        for user in self._users:
            user.forget_all()
        self._end()

    def _is_sure(self) -> bool:
        """Whether each node that may have something to tell can tell it."""
        return not any([user.is_waiting() for user in self._users])

    def _end_if_done(self) -> None:
        if self._missing == 0 and not self._over and self._is_sure():
            self._end()

    def _end(self) -> None:
        self._over = True
        self.due = 0.0
        self._client.deliver(self._owner, self._frame)
