"""What runs alone for its client, and how parts of it come back. See `turns` for what alone means."""

from typing import TYPE_CHECKING

from mypy_extensions import i64

from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.requests import Request, Split
from slotproxy.protocol.splitting import Merging

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane


class Solitary(Timer):
    """Something that runs alone for one client, whose queue holds its one request from `start` until it has answered.

    `endless`: it may wait for something that never comes, so it ends when the client leaves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.endless: bool = False

    def start(self) -> None:
        """Begin."""
        raise AssertionError("nothing to start")

    def abandon(self) -> None:
        """The client has left: nothing more is done for it."""

    def depart(self) -> None:
        """The client sends nothing more, or the proxy ends: what has been done is still answered, but nothing waits."""

    def unblock(self, request: Request, with_error: bool) -> bool:
        """CLIENT UNBLOCK: whether this is something to be unblocked; then `request` is answered 1 or 0 in time."""
        return False

    def take(self, index: int, reply: bytes) -> None:
        """What was asked under this index has been answered."""


class Asked(Split):
    """Joins a request to the one who wants its reply, instead of to a client's queue.

    The reply is handed over when nothing else is going on (`Plane.after_input`), so that whoever takes it may send
    again. A request that is not `patient` is not sent again when its connection is lost.
    """

    def __init__(self, plane: "Plane", owner: Request, taker: Solitary, index: int, patient: bool = True) -> None:
        merging = Merging()
        merging.patient = patient
        super().__init__(owner, merging, 1)
        self.taker = taker
        self.index = index
        self.reply = b""
        self._plane = plane

    def take(self, index: i64, reply: bytes) -> bool:
        self.reply = reply
        self._plane.answered.append(self)
        return False

    def hand_over(self) -> None:
        """Give the reply to its taker."""
        self.taker.take(self.index, self.reply)
