"""One command on its way: what was asked, by whom, and where its reply goes.

A `Request` is what a lane's FIFO and a client's queue hold; a `Split` joins the requests into which a command was cut.
Only data and the joining of parts: where a request goes is the router's decision.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.protocol.commands import Command
from slotproxy.protocol.splitting import KeyMerging, Merging, Part

if TYPE_CHECKING:
    from slotproxy.dataplane.flows import Flow
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.senders import Sender


class Request:
    """One command that a node (or several, when split) shall answer.

    `slot` is 0 to 16383, or above for a command without keys (see Territory). `barrier`: nothing newer of
    the client and slot is sent before it is answered. `flow` is set while the order of its slot needs watching.
    """

    def __init__(
        self,
        client: "Sender",
        command: Command,
        slot: i64,
        raw: bytes,
        started: float,
        barrier: bool = False,
        split: "Split | None" = None,
        index: i64 = 0,
    ) -> None:
        self.client: Final = client
        self.command: Final = command
        self.slot: i64 = slot
        self.raw: bytes = raw  # changes only while it is not in flight
        self.started: float = started
        self.barrier: bool = barrier
        self.split: Split | None = split
        self.index: i64 = index
        self.reply: bytes | None = None
        self.flow: Flow | None = None
        self.commands: i64 = 0  # in the block (MULTI … EXEC) that `raw` is; 0: `raw` is one command
        self.unread: i64 = 0  # replies still to come before its own, to ASKING and to what stands before EXEC
        self.around: i64 = 0  # bytes sent around `raw`
        self.block: list[bytes] | None = None  # when sent as a block: what MULTI and each command were answered
        self.awaited: i64 = 0  # how many replies `block` will hold
        self.asked: Node | None = None  # an ASK named this node, for the next sending only
        self.asked_at: float = 0.0  # in the tick of this time
        self.tried: list[Node] | None = None  # nodes that redirected it since it last backed off
        self.prelude: i64 = 0  # which of PRELUDES (`protocol.tracking`) is sent before it, each time
        self.unwanted: bool = False  # who wanted it has left: whatever it is answered, it is not sent again
        self.retries: i64 = 0
        self.supplied: i64 = 0  # of those, because code was missing that is there now


class Split:
    """The parts of one command, and the request that waits for them."""

    def __init__(self, owner: Request, merging: Merging, parts: int) -> None:
        self.owner: Final = owner
        self.merging: Final = merging
        self._replies: Final[list[bytes]] = [b""] * parts
        self._missing: i64 = parts

    def take(self, index: i64, reply: bytes) -> bool:
        """Keep one part's reply. True when it was the last."""
        self._replies[index] = reply
        self._missing -= 1
        return self._missing == 0

    def merged(self) -> bytes:
        """The command's reply; only when all parts have answered."""
        return self.merging.merge(self._replies)


def parts_of(owner: Request, parts: list[Part]) -> list[Request]:
    """The requests into which `owner` is cut, joined by one Split."""
    split = Split(owner, KeyMerging(owner.command.name, parts), len(parts))
    requests = [
        Request(owner.client, owner.command, part.slot, part.raw, owner.started, part.distinct > 1, split, index)
        for index, part in enumerate(parts)
    ]
    for request in requests:
        request.prelude = owner.prelude
    return requests


class RequestQueue:
    """A first-in-first-out queue of requests. A list with a moving head: cheaper compiled than a deque's calls."""

    def __init__(self) -> None:
        self.size: i64 = 0
        self._items: list[Request] = []
        self._head: i64 = 0

    def push(self, request: Request) -> None:
        """Append at the end."""
        self._items.append(request)
        self.size += 1

    def first(self) -> Request:
        """The oldest; the queue must not be empty."""
        return self._items[self._head]

    def drop_first(self) -> None:
        """Forget the oldest."""
        self._head += 1
        self.size -= 1
        if self.size == 0:
            self._items.clear()
            self._head = 0
        elif self._head >= 32 and self._head * 2 >= len(self._items):  # what is kept can be large
            del self._items[: self._head]
            self._head = 0

    def push_behind(self, before: dict[Request, None], request: Request) -> bool:
        """Put `request` behind the newest of `before`, and behind what was put there already. False: none is here.

        When none is, `before` is emptied.
        """
        count: i64 = len(self._items)
        place: i64 = count - 1
        while place >= self._head and self._items[place] not in before:
            place -= 1
        if place < self._head:
            before.clear()
            return False
        place += 1
        while place < count and self._items[place].command is request.command:
            place += 1
        last = self._items[place - 1]
        if last.command is request.command and last.reply == request.reply:  # said already
            return True
        self._items.insert(place, request)
        self.size += 1
        return True

    def last(self) -> Request:
        """The newest; the queue must not be empty."""
        return self._items[-1]

    def all(self) -> list[Request]:
        """The requests, oldest first."""
        return self._items[self._head :]

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()
        self._head = 0
        self.size = 0
