"""WATCH: what a client watches, on leased connections, one for each slot.

Duty: send WATCH to the node that has the keys and keep that connection for EXEC; give it back after UNWATCH, DISCARD or
EXEC. What EXEC does with it is `execution`'s part.

Invariants: a slot that was watched and then redirected, refused or lost its connection is `touched`: EXEC will answer
nil, as if somebody had changed a key, and nothing is ever watched again behind the client's back. A connection to a
node that an ASK named is told ASKING before each thing that is said on it.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.exclusives import Exclusive, Holder
from slotproxy.dataplane.lanes import ASKING
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.protocol.commands import Command
from slotproxy.protocol.redirects import Refusal, parse_redirect, refusal_of
from slotproxy.protocol.resp import OK, command
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.transactions import SEVERAL_SLOTS_WATCHED

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.plane import Plane

_UNWATCH: Final = command([b"UNWATCH"])
_RETRY_FIRST: Final = 0.01
_RETRY_MOST: Final = 0.2


class WatchedSlot(Holder):
    """The watched keys of one slot, and the connection on which they are watched."""

    def __init__(self, slot: int) -> None:
        super().__init__()
        self.slot: Final = slot
        self.keys: Final[dict[bytes, None]] = {}
        self.exclusive: Exclusive | None = None
        self.asking: bool = False
        self.touched: bool = False

    def keep(self, exclusive: Exclusive, asking: bool) -> None:
        """The keys are watched on this connection."""
        self.exclusive = exclusive
        self.asking = asking
        exclusive.holder = self

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        self.exclusive = None
        self.touched = True


class Watching:
    """All that one client watches, by slot."""

    def __init__(self, plane: "Plane") -> None:
        self.slots: Final[dict[int, WatchedSlot]] = {}
        self._plane: Final = plane

    def slot(self, number: int) -> WatchedSlot:
        """The watched keys of a slot; none at first."""
        return self.slots.setdefault(number, WatchedSlot(number))

    def end(self) -> None:
        """Watch no more; the connections go back, clean."""
        self.give_up()
        self.slots.clear()

    def give_up(self) -> None:
        """The connections go back, clean: what was watched counts as touched."""
        for watched in self.slots.values():
            watched.touched = True
            exclusive = watched.exclusive
            if exclusive is not None:
                watched.exclusive = None
                exclusive.holder = _Unwatching(self._plane)
                exclusive.ask(_UNWATCH, 1)

    def close(self) -> None:
        """The client has left."""
        for watched in self.slots.values():
            exclusive = watched.exclusive
            if exclusive is not None:
                watched.exclusive = None
                exclusive.finish("its client has left")
        self.slots.clear()


class _Unwatching(Holder):
    def __init__(self, plane: "Plane") -> None:
        super().__init__()
        self._plane: Final = plane

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        if reply == OK:
            self._plane.exclusives.release(exclusive)
        else:
            exclusive.finish("it still watches: " + ascii(reply[:64]))

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        pass  # and with it what it watched


class Watch(Holder):
    """One WATCH command: slot by slot, until a node watches the keys or the park timeout is over."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, arguments: list[bytes], raw: bytes) -> None:
        super().__init__()
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = called
        self._owner: Final = Request(client, called, 0, raw, plane.reactor.now)
        self._left: Final[dict[int, list[bytes]]] = {}  # keys to be watched, by slot
        for key in arguments[1:]:
            self._left.setdefault(int(key_slot(key)), []).append(key)
        self._exclusive: Exclusive | None = None
        self._asking: bool = False
        self._skip: bool = False  # the next reply is the one to ASKING
        self._delay: float = 0.0
        self._last: str = "no node is known to own it"
        self._over: bool = False

    def start(self) -> None:
        self._client.queue.push(self._owner)
        slots = {*self._left, *self._client.watching.slots}
        if len(slots) > 1 and not self._plane.per_slot:
            self._finish(SEVERAL_SLOTS_WATCHED)
        else:
            self._next()

    def abandon(self) -> None:
        """The client has left."""
        self._over = True
        self.due = 0.0
        self._plane.exclusives.cancel(self)
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.finish("its client has left")

    def fire(self) -> None:
        """Try again."""
        self._next()

    def _next(self) -> None:
        """Watch the keys of the next slot."""
        while self._left:
            slot = next(iter(self._left))
            watched = self._client.watching.slots.get(slot)
            if watched is None:
                self._lease(self._plane.router.territory.owner(slot), False)
                return
            if watched.touched:
                del self._left[slot]  # EXEC is nil, whatever else is watched
                continue
            exclusive = watched.exclusive
            assert exclusive is not None, "it is touched without one"
            watched.exclusive = None
            exclusive.holder = self
            self._exclusive = exclusive
            self._ask(exclusive, slot, watched.asking)
            return
        self._finish(OK)

    def _lease(self, node: "Node | None", asking: bool) -> None:
        if node is None:
            self._retry()
            return
        self._asking = asking
        if not self._plane.exclusives.lease(node, self._client.key, self):
            self._finish(errors.no_exclusive(self._command, self._plane.exclusives.most))

    def leased(self, exclusive: Exclusive) -> None:
        self._exclusive = exclusive
        self._ask(exclusive, next(iter(self._left)), self._asking)

    def _ask(self, exclusive: Exclusive, slot: int, asking: bool) -> None:
        self._asking = asking
        self._skip = asking
        raw = command([b"WATCH", *self._left[slot]])
        exclusive.ask(ASKING + raw if asking else raw, 2 if asking else 1)

    def not_leased(self, node: "Node", why: str) -> None:
        self._last = f"node {node.name}: {why}"
        self._retry()

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        self._exclusive = None
        if self._was_watched():
            self._touch()
        else:
            self._last = f"node {exclusive.node.name}: {why}"
            self._retry()

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        if self._skip:
            self._skip = False
            return
        self._exclusive = None
        slot = next(iter(self._left))
        watching = self._client.watching
        if reply == OK:
            watched = watching.slot(slot)
            watched.keep(exclusive, self._asking)
            for key in self._left.pop(slot):
                watched.keys[key] = None
            self._next()
            return
        refusal = refusal_of(reply)
        if self._was_watched() and refusal is not None:
            watching.slots[slot].keep(exclusive, self._asking)
            self._touch()
        elif refusal is None:
            if self._was_watched():
                watching.slots[slot].keep(exclusive, self._asking)
            else:
                self._plane.exclusives.release(exclusive)
            self._finish(reply)
        else:
            self._plane.exclusives.release(exclusive)
            self._last = f"node {exclusive.node.name} answered {reply[1:100].decode('utf-8', 'replace').strip()}"
            self._refused(exclusive.node, refusal, reply, slot)

    def _refused(self, node: "Node", refusal: Refusal, reply: bytes, slot: int) -> None:
        redirect = parse_redirect(reply) if refusal == Refusal.ASK else None
        if redirect is not None and redirect.slot == slot and not self._asking:
            self._plane.counters.redirect(False, node.name)
            host = node.info.host if redirect.host == "" else redirect.host
            target = self._plane.router.territory.find(host, redirect.port)
            if target is not None:
                self._lease(target, True)
                return
        self._retry()

    def _was_watched(self) -> bool:
        return next(iter(self._left)) in self._client.watching.slots

    def _touch(self) -> None:
        slot = next(iter(self._left))
        self._client.watching.slot(slot).touched = True
        del self._left[slot]
        self._next()

    def _retry(self) -> None:
        """Have the router find out where the slot is, by a command of its own, and try again in a while."""
        plane = self._plane
        now: float = plane.reactor.now
        slot = next(iter(self._left))
        if now - self._owner.started >= plane.router.order.park_timeout:
            plane.counters.parked_expired += 1
            self._finish(errors.not_served(slot, plane.router.order.park_timeout, self._last))
            return
        self._delay = min(max(self._delay * 2, _RETRY_FIRST), _RETRY_MOST)
        exists = plane.arrivals.exists
        asked = Asked(plane, self._owner, self, 0)
        raw = command([b"EXISTS", self._left[slot][0]])
        plane.router.submit(Request(self._client, exists, slot, raw, now, False, asked))

    def take(self, index: int, reply: bytes) -> None:
        """The router has found the slot's node, or has given up."""
        if self._over:
            return
        if reply.startswith(b"-ERR slotproxy:"):
            self._finish(reply)
        else:
            self._plane.reactor.call_at(self._plane.reactor.now + self._delay, self)

    def _finish(self, reply: bytes) -> None:
        self._over = True
        self.due = 0.0
        self._plane.router.finish(self._owner, reply)
