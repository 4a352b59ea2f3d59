"""The fence: what a lost connection may still run, its node forgets before it runs anything newer of the same clients.

Duty: have a node kill lost connections, by the lane on which newer commands are sent. A lane that is not connected
keeps their numbers, and the dialler has them killed before the lane is ready. When a client changes to another lane,
what is not yet fenced on the lane that it leaves is fenced on the other one, too.

Invariant: from the loss of a connection until its node has forgotten it, its number is in `fences` or `killing` of
every lane on which somebody may send who had sent there. Numbers start anew with each server process, hence its
run_id. Best effort where ACLs deny CLIENT ID, CLIENT KILL or INFO.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.lanes import Lane
from slotproxy.dataplane.nodestreams import NodeStream
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked, Solitary
from slotproxy.protocol.resp import command
from slotproxy.protocol.slots import SLOTS

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane


class Fencing:
    """Fences of one proxy."""

    def __init__(self, plane: "Plane") -> None:
        self._plane: Final = plane

    def forget(self, lost: NodeStream, lane: i64) -> None:
        """Have the node forget a lost connection, before what is sent on its lane number `lane` from now on."""
        for id, run in lost.fences.items():
            self._kill(lost.node.lanes[lane], id, run)

    def attached(self, lane: Lane) -> None:
        """A lane is connected; what was lost while it was greeted is still to be killed."""
        fences = lane.fences
        lane.fences = {}
        for id, run in fences.items():
            self._kill(lane, id, run)

    def pass_on(self, old: i64, new: i64) -> None:
        """Somebody who has sent on the lanes number `old` sends on those number `new` from now on."""
        for node in self._plane.router.territory.nodes.values():
            left = node.lanes[old]
            for id, run in [*left.fences.items(), *left.killing.items()]:
                self._kill(node.lanes[new], id, run)

    def _kill(self, lane: Lane, id: int, run: str) -> None:
        if not lane.ready:
            lane.fences[id] = run
        elif run == "" or run == lane.server_run:
            lane.killing[id] = run
            plane = self._plane
            arrivals = plane.arrivals
            asked = Asked(plane, arrivals.owner, _Killed(lane, id, run), 0, patient=False)
            raw = command([b"CLIENT", b"KILL", b"ID", b"%d" % id])
            lane.enqueue(Request(arrivals, arrivals.exists, SLOTS, raw, plane.reactor.now, False, asked))


class _Killed(Solitary):
    def __init__(self, lane: Lane, id: int, run: str) -> None:
        super().__init__()
        self._lane: Final = lane
        self._id: Final = id
        self._run: Final = run

    def take(self, index: int, reply: bytes) -> None:
        """CLIENT KILL has been answered, or the lane was lost before."""
        self._lane.killing.pop(self._id, None)
        if reply.startswith(b"-ERR slotproxy:"):
            self._lane.fences[self._id] = self._run
