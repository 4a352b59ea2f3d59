"""Connections leased to one client each: for what holds state on a connection (blocked commands, WATCH … EXEC).

Duty: lend a connection to a node, take it back, close what lies idle, and never have more than `most`. What is said on
a connection is its holder's business.

Invariants: a connection that is lent again is clean: its holder said so, and everything asked on it was answered; any
other is closed. One whose holder has left is closed at once: a command blocked there must not take an element for
nobody. There is no redirect loop here: whoever is refused settles with the router where the slot is.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.nodestreams import Identity, NodeStream, StreamKey
from slotproxy.dataplane.reactor import Reactor, Timer
from slotproxy.dataplane.solitary import Solitary
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner

if TYPE_CHECKING:
    from slotproxy.dataplane.controlplane import Dialler
    from slotproxy.dataplane.lanes import Node

_IDLE: Final = 10.0  # seconds after which a connection that nobody wants is closed
_LOOK: Final = 2.0


class Holder(Solitary):
    """Whoever leases a connection."""

    def leased(self, exclusive: "Exclusive") -> None:
        """The connection is there, and this holder's until `release` or `close`."""
        raise AssertionError("a holder without leased()")

    def not_leased(self, node: "Node", why: str) -> None:
        """The node could not be connected to."""
        raise AssertionError("a holder without not_leased()")

    def replied(self, exclusive: "Exclusive", reply: bytes) -> None:
        """What was asked on the connection has been answered: one call for each reply."""
        raise AssertionError("a holder without replied()")

    def lease_lost(self, exclusive: "Exclusive", whole: bool, why: str) -> None:
        """The connection has ended, not by this holder. `whole`: the node may have got all that was asked."""
        raise AssertionError("a holder without lease_lost()")


class Exclusive(NodeStream):
    """A connection to a node with one user at a time."""

    def __init__(self, pool: "Exclusives", reactor: Reactor, counters: Counters, node: "Node", key: StreamKey) -> None:
        super().__init__(reactor, counters, node, key)
        self.holder: Holder | None = None
        self.awaited: i64 = 0  # replies to come
        self.idle_since: float = 0.0
        self.address: Final = (node.info.host, node.info.port)
        self._pool: Final = pool

    def ask(self, data: bytes, replies: i64) -> None:
        """Send commands that will be answered with so many replies."""
        self.awaited += replies
        self.out.append(data)
        self.out_size += len(data)
        if not self.touched:
            self.touched = True
            self.reactor.nodes_touched.append(self)

    def on_attached(self) -> None:
        self._pool.note_failure(self, "")
        self._pool.release(self)

    def on_unreachable(self, why: str) -> None:
        if self.retired:
            return
        self.retired = True
        self._pool.note_failure(self, why)
        self._pool.forget(self)
        holder = self._pool.next_waiting(self)
        if holder is not None:
            holder.not_leased(self.node, why)

    def take_replies(self, scanner: ReplyScanner) -> None:
        while self.transport is not None and scanner.scan():
            holder = self.holder
            if holder is None or self.awaited == 0:
                raise ProtocolError("Protocol error: a reply that nothing was asked for")
            self.awaited -= 1
            holder.replied(self, scanner.buffer[scanner.start : scanner.end])

    def on_lost(self, why: str) -> None:
        holder = self.holder
        whole = self.unsent() == 0
        self.finish(why)
        if holder is not None:
            holder.lease_lost(self, whole, why)

    def hang_up(self) -> bool:
        """Say that nothing more will be asked: the node ends what waits there, and what it had answered still comes.

        False when nothing has been sent; then the connection is closed.
        """
        transport = self.transport
        if transport is None or self.unsent() > 0:
            self.finish("its client has left")
            return False
        transport.end_output()
        return True

    def finish(self, why: str) -> None:
        """Close it for good; its holder is not told."""
        self.retired = True
        self.holder = None
        self.close(why)
        self._pool.forget(self)


class Exclusives(Timer):
    """All leased connections: a pool for each node and each way to speak and log in (`key`)."""

    def __init__(self, reactor: Reactor, counters: Counters, dialler: "Dialler", most: int) -> None:
        super().__init__()
        self.most: Final = most
        self.reserved: int = 0  # of `most`, those that clients have for themselves without leasing them
        self._all: dict[Exclusive, None] = {}  # also those that are being made
        self._idle: list[Exclusive] = []  # the one used last comes last
        self._waiting: dict[tuple[str, StreamKey], dict[Holder, None]] = {}  # the longest waiting first
        self._failures: dict[str, str] = {}  # by node: why connecting failed the last time, so that it is logged once
        self._reactor: Final = reactor
        self._counters: Final = counters
        self._dialler: Final = dialler

    @property
    def total(self) -> int:
        """How many there are, or are being made."""
        return len(self._all)

    def leased(self) -> int:
        """How many have a holder, or somebody waiting for them."""
        held = sum(1 for exclusive in self._all if exclusive.holder is not None)
        return held + sum(len(waiting) for waiting in self._waiting.values())

    def lease(self, node: "Node", key: StreamKey, holder: Holder) -> bool:
        """A connection to `node` for `holder`, which is told when it has it: at once, if one is free.

        Those who wait for one get theirs in the order in which they asked. False when `most` are in use.
        """
        exclusive = self._take_idle(node, key)
        if exclusive is not None:
            exclusive.holder = holder
            holder.leased(exclusive)
            return True
        if len(self._all) + self.reserved >= self.most:
            if not self._idle:
                return False
            self._idle[0].finish("another node's is needed")
        self._waiting.setdefault((node.info.id, key), {})[holder] = None
        exclusive = Exclusive(self, self._reactor, self._counters, node, key)
        exclusive.dialling = True
        exclusive.why = self._failures.get(node.info.id, exclusive.why)
        self._all[exclusive] = None
        self._dialler.dial_nowait(exclusive)
        return True

    def cancel(self, holder: Holder) -> None:
        """It does not want what it waits for any more; the connection is the next one's."""
        for waiting in self._waiting.values():
            waiting.pop(holder, None)

    def next_waiting(self, exclusive: Exclusive) -> Holder | None:
        """Who has waited longest for a connection like this one, and waits no more."""
        waiting = self._waiting.get((exclusive.node.info.id, exclusive.key))
        if not waiting:
            return None
        holder = next(iter(waiting))
        del waiting[holder]
        return holder

    def _take_idle(self, node: "Node", key: StreamKey) -> Exclusive | None:
        address = (node.info.host, node.info.port)
        for index in range(len(self._idle) - 1, -1, -1):
            exclusive = self._idle[index]
            if exclusive.node is node and exclusive.key is key and exclusive.address == address:
                del self._idle[index]
                return exclusive
        return None

    def release(self, exclusive: Exclusive) -> None:
        """Nobody has a use for it, and nobody has left any state behind."""
        exclusive.holder = None
        if not exclusive.ready or exclusive.awaited > 0 or exclusive.node.left:
            exclusive.finish("not clean")
            return
        holder = self.next_waiting(exclusive)
        if holder is not None:
            exclusive.holder = holder
            holder.leased(exclusive)
            return
        exclusive.idle_since = self._reactor.now
        self._idle.append(exclusive)
        if self.due == 0.0:
            self._reactor.call_at(self._reactor.now + _LOOK, self)

    def note_failure(self, exclusive: Exclusive, why: str) -> None:
        """Connecting one to its node has failed, or with "" has not."""
        self._failures.pop(exclusive.node.info.id, None)
        if why:
            self._failures[exclusive.node.info.id] = why

    def forget(self, exclusive: Exclusive) -> None:
        """It has been closed, or could not be made."""
        self._all.pop(exclusive, None)
        if exclusive in self._idle:
            self._idle.remove(exclusive)

    def forget_identity(self, identity: Identity) -> None:
        """Nobody logs in as it any more: its idle connections are closed."""
        for exclusive in self._idle[:]:
            if exclusive.key.identity is identity:
                exclusive.finish("nobody logs in as its user any more")
        for place in list(self._waiting):
            if place[1].identity is identity and not self._waiting[place]:
                del self._waiting[place]

    def fire(self) -> None:
        """Close what has lain idle."""
        now = self._reactor.now
        for exclusive in self._idle[:]:
            if now - exclusive.idle_since >= _IDLE or exclusive.node.left:
                exclusive.finish("idle")
        if self._idle:
            self._reactor.call_at(now + _LOOK, self)

    def close(self) -> None:
        """The proxy ends: idle ones are closed."""
        for exclusive in self._idle[:]:
            exclusive.finish("the proxy ends")
