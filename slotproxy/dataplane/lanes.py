"""A lane: one multiplexed connection to a node, shared by many clients. A node has a few.

Duty: send requests in the order in which they are enqueued, frame the node's replies and match each to the oldest
request in the FIFO. ASKING and its request are written as one unit; the reply to ASKING is swallowed here. Of a
block (MULTI … EXEC) the reply is EXEC's; what was answered before is kept with the request.

Invariants: a reply can only go to the request at the head; a reply with an empty FIFO, or one that cannot be framed,
ends the connection, for nothing behind it could be attributed. A request that is no longer wanted stays in the FIFO.
When the connection is lost, the lane says exactly which requests the kernel had taken whole: only those can have run.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.cluster.topology import NodeInfo
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.flows import Flow
from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
from slotproxy.dataplane.reactor import Reactor
from slotproxy.dataplane.requests import Request, RequestQueue
from slotproxy.protocol.blocks import EXEC, MULTI
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner

if TYPE_CHECKING:
    from slotproxy.dataplane.router import Router

ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
LEFT: Final = "the node left the cluster"
READDRESSED: Final = "the node has another address now"


class Lane(NodeStream):
    """One multiplexed connection. `ready` while requests may be enqueued."""

    def __init__(self, reactor: Reactor, router: "Router", counters: Counters, node: "Node", key: StreamKey) -> None:
        super().__init__(reactor, counters, node, key)
        self.fifo: RequestQueue = RequestQueue()
        self.waiters: dict[Flow, None] = {}
        self.killing: dict[int, str] = {}  # of `fences`, those that the node has been told to kill on this lane
        self._router: Final = router

    def on_attached(self) -> None:
        self._router.attached(self)

    def on_unreachable(self, why: str) -> None:
        self._router.unreachable(self, why)

    def on_lost(self, why: str) -> None:
        self._router.lane_lost(self, why)

    def enqueue(self, request: Request) -> None:
        """Send `request` behind those already there."""
        raw: bytes = request.raw
        self.fifo.push(request)
        self.out.append(raw)
        self.out_size += len(raw)
        if not self.touched:
            self.touched = True
            self.reactor.nodes_touched.append(self)

    def enqueue_asking(self, request: Request) -> None:
        """Send ASKING and `request` as one unit."""
        self.enqueue_behind(request, ASKING)

    def enqueue_behind(self, request: Request, before: bytes) -> None:
        """Send `before`, a command whose reply is swallowed, and `request` as one unit."""
        request.unread = 1
        request.around = len(before)
        self.out.append(before)
        self.out_size += len(before)
        Lane.enqueue(self, request)

    def enqueue_block(self, request: Request, asking: bool) -> None:
        """Send a block, or one command as a block of its own, as one unit; behind ASKING where that is wanted."""
        self.enqueue_block_behind(request, ASKING if asking else b"")

    def enqueue_block_behind(self, request: Request, before: bytes) -> None:
        """Send a block behind `before`, as `enqueue_behind` does; b"" for nothing."""
        first: i64 = 1 if before else 0
        behind = b""
        request.awaited = request.commands + 1
        if request.commands == 0:
            before += MULTI
            behind = EXEC
            request.awaited = 2
        request.unread = request.awaited + first
        request.around = len(before) + len(behind)
        request.block = []
        if before:
            self.out.append(before)
        Lane.enqueue(self, request)
        if behind:
            self.out.append(behind)
        self.out_size += request.around

    def take_replies(self, scanner: ReplyScanner) -> None:
        fifo = self.fifo
        now: float = self.reactor.now
        # Requests read in one tick share a time stamp, so their durations are counted in runs.
        stamp: float = 0.0
        run: i64 = 0
        while scanner.scan():
            if scanner.kind == 0x3E:  # '>', which nobody has asked for
                self._router.pushed(self, scanner.buffer[scanner.start : scanner.end])
                continue
            if fifo.size == 0:
                raise ProtocolError("Protocol error: a reply that nothing was asked for")
            request: Request = fifo.first()
            if request.unread > 0:
                request.unread -= 1
                if request.block is not None and request.unread < request.awaited:
                    request.block.append(scanner.buffer[scanner.start : scanner.end])
                continue
            fifo.drop_first()
            reply: bytes = scanner.buffer[scanner.start : scanner.end]
            if request.flow is None and scanner.kind != 0x2D and request.split is None:
                if request.started != stamp:
                    if run > 0:
                        self.counters.observe(now - stamp, run)
                    stamp = request.started
                    run = 0
                run += 1
                request.client.deliver(request, reply)
            else:
                self._router.settle(request, self.node, reply)
                if self.transport is None:
                    break
        if run > 0:
            self.counters.observe(now - stamp, run)
        if not self.ready and self.transport is not None and fifo.size == 0:
            self.close(self.why)
            self._router.drained(self)

    def needed(self) -> "Lane | None":
        """Another lane that has to be connected before this one can be."""
        return None

    def take_unanswered(self) -> tuple[list[Request], list[Request]]:
        """Empty the FIFO of a lost connection: `(wholly sent, not wholly sent)`, each oldest first.

        Wholly sent: the kernel took the last byte, so the node may have run it. To be called before `close`.
        """
        unsent: i64 = self.unsent()
        requests = self.fifo.all()
        self.fifo.clear()
        sent_count: i64 = len(requests)
        while sent_count > 0 and unsent > 0:
            request = requests[sent_count - 1]
            unsent -= len(request.raw) + request.around
            sent_count -= 1
        for request in requests:
            request.unread = request.around = 0
            request.block = None
        return requests[:sent_count], requests[sent_count:]

    def retire(self, why: str) -> None:
        """Nobody sends here any more: take nothing new, and close when everything sent has been answered."""
        self.retired = True
        self.ready = False
        self.why = why
        if self.fifo.size == 0:
            self.close(why)

    def renew(self) -> None:
        """The node has another address: connect anew, when everything sent has been answered on the old connection."""
        if self.transport is not None:
            self.ready = False
            self.why = READDRESSED
            if self.fifo.size == 0:
                self.close(READDRESSED)


class Node:
    """A node of the cluster and its lanes, by number (`pools`). One client always uses the same one of them."""

    def __init__(self, info: NodeInfo) -> None:
        self.info: NodeInfo = info
        self.left: bool = False  # the cluster has no such node any more
        self.unreachable: bool = False  # no lane is connected and connecting one has failed
        self.lanes: Final[list[Lane]] = []

    @property
    def name(self) -> str:
        """`host:port`, as errors, metrics and logs call it."""
        return self.info.name

    def connected(self) -> int:
        """How many of the lanes that clients share are ready."""
        return sum(1 for lane in self.lanes if lane.ready and lane.key.shared)

    def in_flight(self) -> int:
        """Requests sent, or about to be, and not answered."""
        return sum(int(lane.fifo.size) for lane in self.lanes)
