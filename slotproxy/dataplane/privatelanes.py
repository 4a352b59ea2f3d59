"""A lane that is not shared: its node remembers something for whoever uses it, or has something to tell unasked.

Duty: what a `Lane` does, and to hand on what the node says unasked; to send in front of a command what the node forgets
with it (CLIENT CACHING); to tell its user what is sent. A RESP2 lane whose node tracks for it has an `ear`: the RESP3
connection on which the node tells of it.

Invariants: when the user is told of what the node has said, `answered` holds the commands of which it has answered
something, those that still wait for their turn to be written among them. A lane with an ear is used only while the node
tells that ear.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import trait

from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.lanes import ASKING, Lane, Node
from slotproxy.dataplane.nodestreams import PushListener, StreamKey
from slotproxy.dataplane.reactor import Reactor
from slotproxy.dataplane.requests import Request
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner
from slotproxy.protocol.tracking import CACHED, PRELUDES

if TYPE_CHECKING:
    from slotproxy.dataplane.router import Router


_ANSWERED: Final = 64


@trait
class LaneUser(PushListener):
    """Who wants to know what is sent on its lanes."""

    def sends(self, request: Request) -> None:
        """The request is sent now, or again."""

    def forget_written(self, answered: dict[Request, None]) -> None:
        """Leave those that are still to be written."""

    def untracked(self, request: Request) -> None:
        """It is sent, and what it reads the node will not tell of, though the client asked for that."""


class PrivateLane(Lane):
    """One such lane."""

    def __init__(self, reactor: Reactor, router: "Router", counters: Counters, node: Node, key: StreamKey) -> None:
        super().__init__(reactor, router, counters, node, key)
        listener = key.listener
        self.answered: dict[Request, None] = {}
        self.ear: PrivateLane | None = None
        self._user: LaneUser | None = listener if isinstance(listener, LaneUser) else None
        self._most_answered: int = _ANSWERED
        self._told: int = 0  # CLIENT ID of the ear that the node was given

    # Connecting

    def needed(self) -> Lane | None:
        ear = self.ear
        return ear if ear is not None and not ear.ready else None

    def preparation(self) -> list[list[bytes]] | None:
        ear = self.ear
        if ear is None:
            return self.key.prepare
        if not ear.ready or ear.client_id == 0:
            return None
        self._told = ear.client_id
        return [*self.key.prepare[:-1], [*self.key.prepare[-1], b"REDIRECT", b"%d" % self._told]]

    def on_attached(self) -> None:
        ear = self.ear
        if ear is not None and (not ear.ready or ear.client_id != self._told):
            self.close("the connection that hears for it was lost")
            self._router.drained(self)  # connects anew
            return
        self._router.attached(self)
        if self.key.listener is not None:
            self.key.listener.connected(self)

    def on_unreachable(self, why: str) -> None:
        self._router.unreachable(self, why)
        if self.key.listener is not None:
            self.key.listener.unconnected(self, why)

    def retire(self, why: str) -> None:
        """As the lane's; its user does not hear of it any more."""
        connected = self.transport is not None
        super().retire(why)
        self._gone_deaf(connected)

    def renew(self) -> None:
        """The same."""
        connected = self.transport is not None
        super().renew()
        self._gone_deaf(connected)

    def _gone_deaf(self, connected: bool) -> None:
        if connected and self.key.listener is not None:
            self.key.listener.deaf(self)

    # Sending

    def enqueue(self, request: Request) -> None:
        if self._user is not None:
            self._user.sends(request)
        if request.prelude > 0:
            self.enqueue_behind(request, PRELUDES[request.prelude])
        else:
            Lane.enqueue(self, request)

    def enqueue_asking(self, request: Request) -> None:
        self._sends_asking(request)
        self.enqueue_behind(request, ASKING)

    def enqueue_block(self, request: Request, asking: bool) -> None:
        if asking:
            self._sends_asking(request)
            self.enqueue_block_behind(request, ASKING)
        else:
            if self._user is not None:
                self._user.sends(request)
            self.enqueue_block_behind(request, PRELUDES[request.prelude])

    def _sends_asking(self, request: Request) -> None:
        """ASKING and CLIENT CACHING are each good for the very next command only, so one of them has to do without."""
        user = self._user
        if user is not None:
            user.sends(request)
            if request.prelude == CACHED:
                user.untracked(request)

    # What comes back

    def take_replies(self, scanner: ReplyScanner) -> None:
        fifo = self.fifo
        while self.transport is not None and scanner.scan():
            frame: bytes = scanner.buffer[scanner.start : scanner.end]
            if scanner.kind == 0x3E or (fifo.size == 0 and scanner.kind == 0x2B):  # '>'; behind MONITOR, '+'
                self._router.pushed(self, frame)
                continue
            if fifo.size == 0:
                raise ProtocolError("Protocol error: a reply that nothing was asked for")
            request = fifo.first()
            if request.unread > 0:
                request.unread -= 1
                if request.block is not None and request.unread < request.awaited:
                    request.block.append(frame)
                continue
            fifo.drop_first()
            if self._user is not None and frame[0] != 0x2D:  # an error holds no value
                split = request.split
                whole = request
                while split is not None:
                    whole = split.owner
                    split = whole.split
                self.answered[whole] = None
                if len(self.answered) >= self._most_answered:
                    self._user.forget_written(self.answered)
                    self._most_answered = 2 * len(self.answered) + _ANSWERED
            self._router.settle(request, self.node, frame)
        if not self.ready and self.transport is not None and fifo.size == 0:
            self.close(self.why)
            self._router.drained(self)
