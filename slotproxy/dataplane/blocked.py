"""A client that waits in a blocking command.

Duty: wait at the node while that is right (all keys in one slot, which is not in trouble), and here otherwise; go from
one to the other when the slot gets into trouble or out of it; end with what arrived, at the timeout, or unblocked.

    at the node: the command itself, with the time that is left, on a leased connection. When the slot gets into trouble
                 the node is told to unblock it, and says whether something was popped before.
    here:        the keys are tried in order by commands that do not wait, sent like any other (so redirects, refusals
                 and order are the router's), whenever something may have arrived.

Invariants: never more than one pop is outstanding, so no element is lost or popped twice. The deadline stays what it
was at first, and is kept also while a slot is not served: an attempt that could not be sent is taken back. A client
that leaves takes nothing any more: the connection at which it waits is closed at once, or, when the client may still
read, half of it, so that what the node had popped before still comes, as on one server.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.arrivals import Waiter, Watched
from slotproxy.dataplane.exclusives import Exclusive
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.protocol.blocking import Wait, last_id
from slotproxy.protocol.commands import Command
from slotproxy.protocol.redirects import error_code, refusal_of
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.resp import array, command, error
from slotproxy.protocol.slots import SLOTS, key_slot

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_UNBLOCKED: Final = error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
_FORCED: Final = b"-UNBLOCKED force unblock"
_DELETED: Final = (b"-UNBLOCKED the stream key", b"-NOGROUP ")
_PATIENCE: Final = 0.1  # seconds after which an attempt that only waits for its slot is taken back
_RETRY: Final = 0.05  # seconds between two attempts of a command that only its node can read

_LEASING: Final = 0  # a connection to the node is being made
_AT_NODE: Final = 1  # the node has the command
_TRYING: Final = 2  # here, and a command that does not wait is on its way
_WAITING: Final = 3  # here
_DONE: Final = 4

# What has been asked, besides attempts at the key with that index.
_UNBLOCK: Final = -1
_LAST_ID: Final = -2
_WHERE: Final = -3


class Blocked(Waiter):
    """One blocking command of one client."""

    def __init__(
        self,
        client: "Client",
        plane: "Plane",
        called: Command,
        raw: bytes,
        keys: list[bytes],
        wait: Wait | None,
    ) -> None:
        super().__init__()
        self.endless = True
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = called
        self._wait: Final = wait
        self._keys: Final = wait.keys if wait is not None else keys[:1]
        self._slot: int = -1  # the only slot of its keys
        if wait is None:
            slot = plane.router.territory.keyless_slot(client.id)
            self._slot = int(key_slot(keys[0])) if keys else slot
        elif len(wait.slots) == 1:
            self._slot = wait.slots[0]
        now: float = plane.reactor.now
        self._owner: Final = Request(client, called, 0, raw, now)
        self._deadline: float = now + wait.timeout if wait is not None and wait.timeout != 0.0 else float("inf")
        self._state: int = _WAITING
        self._exclusive: Exclusive | None = None
        self._spent: Exclusive | None = None  # has answered, but not yet to CLIENT UNBLOCK
        self._lease_at: float = 0.0  # not before then
        self._asked_before: bool = False  # a node has had the command already
        self._watched: list[Watched] = []
        self._unread: list[int] = list(range(len(self._keys)))  # of streams
        self._read: list[bytes] = []  # what was found in them
        self._seen: set[int] = set()  # keys that were tried once
        self._attempt: Request | None = None  # on its way
        self._index: int = -1  # of its key
        self._stalled: set[int] = set()  # keys whose slot was not served when they were tried last
        self._deleted: bytes = b""  # what the node said of a stream that is not there any more
        self._recalled: bool = False  # the node was told to unblock it, because the slot is in trouble
        self._unblocking: bool = False  # it has not answered that yet
        self._hasty: bool = False  # nobody waits for it any more: what is there now, or nothing
        self._unblocked_by: Request | None = None  # a CLIENT UNBLOCK that waits for its reply
        self._unblocked_with: bytes = b""

    # From the client

    def start(self) -> None:
        self._client.queue.push(self._owner)
        self._plane.blocked.enter(self, self._slot)
        wait = self._wait
        if wait is not None:
            for key in wait.from_now_on():
                self._submit(command([b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]), key, _LAST_ID)
                return
        self._go()

    def abandon(self) -> None:
        """The client has left."""
        if self._state == _DONE:
            return
        self._withdraw()
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.finish("its client has left")
        self._end(False)

    def depart(self) -> None:
        self._hasty = True
        if self._state == _AT_NODE:
            # What the node has popped by now still comes, and is delivered; it pops nothing for this client any more.
            exclusive = self._exclusive
            if exclusive is None or not exclusive.hang_up():
                self._exclusive = None
                self._client.close()
        elif self._state == _LEASING and self._wait is not None:
            self._return_lease()
            self._here()
        elif self._state != _TRYING and self._state != _DONE:
            self._client.close()

    def unblock(self, request: Request, with_error: bool) -> bool:
        """CLIENT UNBLOCK: `request` is answered 1 when it ends the wait, 0 when something arrives before."""
        if self._state == _DONE:
            return False
        self._unblocked_with = _UNBLOCKED if with_error else self._empty()
        if self._unblocked_by is not None:
            self._answer(request, b":0\r\n")
            return True
        self._unblocked_by = request
        if self._state == _AT_NODE:
            if not self._recall():
                self._answer_unblocker(b":0\r\n")
        elif self._state != _TRYING or self._withdraw():
            self._finish(self._unblocked_with, True)
        return True

    def _empty(self) -> bytes:
        return b"*-1\r\n" if self._wait is None else self._wait.empty

    # Where to wait

    def _go(self) -> None:
        """Wait at the node, or here."""
        wait = self._wait
        if self._hasty and wait is None:
            self._client.close()
            return
        if self._may_lease():
            node = self._plane.router.territory.owner(self._slot)
            if node is not None:
                self._leave_here()
                self._state = _LEASING
                exclusive = self._plane.exclusives.lease(node, self)
                if exclusive is None and (self._asked_before or self._seen):
                    self._elsewhere(1.0)
                    return
                if exclusive is None:
                    self._finish(errors.no_exclusive(self._command, self._plane.exclusives.most), False)
                    return
                self._exclusive = exclusive
                if exclusive.ready:
                    self.leased(exclusive)
                else:
                    self._set_timer()
                return
            self._lease_at = self._plane.reactor.now + 1.0
        if wait is None:
            self._find_out()
        else:
            self._here()

    def _may_lease(self) -> bool:
        if self._slot < 0 or self._hasty or self._unblocking or self._plane.reactor.now < self._lease_at:
            return False
        return self._wait is None or self._is_calm()

    def _is_calm(self) -> bool:
        gate = self._plane.router.order.gates.get(self._slot)
        return gate is None or gate.quiet()

    def trouble(self) -> None:
        """The slot is in trouble: the node may be the wrong one."""
        if self._state == _AT_NODE and self._wait is not None:
            self._recall_or_retry()

    def calm(self) -> None:
        """The slot is out of trouble."""
        if self._state == _WAITING and self._watched:
            self._go()

    def fire(self) -> None:
        """The deadline, or another try."""
        now: float = self._plane.reactor.now
        if self._state == _LEASING:
            self._finish(self._empty(), False)
        elif self._state == _TRYING:
            self._give_up_attempt()
        elif self._state == _AT_NODE:
            self._recall_or_retry()
        elif self._state == _WAITING:
            self._stalled.clear()
            self._go() if now < self._deadline else self._finish(self._empty(), False)

    def _set_timer(self) -> None:
        at: float = self._deadline
        if self._lease_at > self._plane.reactor.now:
            at = min(at, self._lease_at)
        self.due = 0.0
        if at < float("inf"):
            self._plane.reactor.call_at(at, self)

    # At the node

    def leased(self, exclusive: Exclusive) -> None:
        if self._wait is not None and (
            self._unblocking
            or not self._is_calm() or self._plane.router.territory.owner(self._slot) is not exclusive.node
        ):
            self._exclusive = None
            self._plane.exclusives.release(exclusive)
            self._go()
            return
        left: float = self._deadline - self._plane.reactor.now
        if left <= 0.0:
            self._exclusive = None
            self._plane.exclusives.release(exclusive)
            self._finish(self._empty(), False)
            return
        raw = self._owner.raw
        if self._wait is not None and (self._plane.reactor.now > self._owner.started or self._wait.reads):
            raw = self._wait.request(left if left < float("inf") else 0.0)
        self.due = 0.0
        self._state = _AT_NODE
        self._asked_before = True
        self._recalled = False
        exclusive.ask(raw, 1)

    def not_leased(self, exclusive: Exclusive, why: str) -> None:
        self._exclusive = None
        self._elsewhere(1.0)

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        self._exclusive = None
        self.due = 0.0
        if reply.startswith(_FORCED):
            exclusive.finish("the node is no primary any more")
            self._plane.control.refresh_nowait("a blocked command was ended")
            self._elsewhere(_RETRY)
            return
        if self._unblocking:
            self._spent = exclusive
        else:
            self._plane.exclusives.release(exclusive)
        if refusal_of(reply) is not None:
            self._elsewhere(_RETRY)
        elif reply == _UNBLOCKED and self._recalled:
            if self._unblocked_by is not None:
                self._finish(self._unblocked_with, True)
            else:
                self._elsewhere(_RETRY)
        elif self._wait is not None and self._wait.reads and reply.startswith(_DELETED) and not self._deleted:
            self._deleted = reply  # or it has moved: trying there will tell
            self._elsewhere(_RETRY)
        else:
            self._finish(reply, False)

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        if exclusive is self._spent:
            self._spent = None
            return
        self._exclusive = None
        plane = self._plane
        if self._hasty:
            self._client.close()
            return
        plane.control.refresh_nowait("connection lost")
        if self._command.repeatable or not whole:
            self._elsewhere(_RETRY)
            return
        plane.kill(exclusive, self._client)  # it may wait there still, for an element that would be lost
        plane.counters.in_doubt += 1
        self._finish(errors.in_doubt(self._command, exclusive.node.name, why), False)

    def _elsewhere(self, after: float) -> None:
        """The node would not have it, or could not be reached: wait here, and go to the slot's node later."""
        self._lease_at = self._plane.reactor.now + after
        if self._wait is None:
            self._find_out()
        else:
            self._here()

    def _recall_or_retry(self) -> None:
        if not self._recall():
            self._plane.reactor.call_at(self._plane.reactor.now + _RETRY, self)

    def _recall(self) -> bool:
        """Have the node unblock it. False when nobody can tell the node."""
        exclusive = self._exclusive
        if exclusive is None or self._unblocking:
            return True
        self._unblocking = self._plane.unblock(exclusive, self._client, self)
        self._recalled = self._recalled or self._unblocking
        return self._unblocking

    # Here

    def _here(self) -> None:
        self._state = _WAITING
        wait = self._wait
        assert wait is not None, "what nobody here can read is not waited for here"
        if not self._watched:
            self._unread = list(range(len(self._keys)))
            if wait.timeout >= 0.0 and not self._hasty:
                self._watched = [self._plane.arrivals.join(self, key, wait.kind) for key in self._keys]
        self._try_next()

    def _leave_here(self) -> None:
        watched = self._watched
        self._watched = []
        for one in watched:
            one.leave(self)

    def is_idle(self) -> bool:
        return self._state == _WAITING and len(self._watched) > 0

    def wake(self, watched: Watched) -> None:
        if watched not in self._watched:
            return
        index = self._watched.index(watched)
        if watched.kind == "stream" and index not in self._unread:
            self._unread.append(index)
        if self._state == _WAITING:
            self._try_next()

    def _try_next(self) -> None:
        """Try the first key where something may be; without one, go on waiting."""
        wait = self._wait
        assert wait is not None
        found = self._next_key(wait)
        if found >= 0:
            self._submit(wait.attempt(self._keys[found]), self._keys[found], found)
            return
        self._state = _WAITING
        if self._read:
            self._finish(array(self._read), False)
        elif self._plane.reactor.now >= self._deadline:
            self._finish(self._empty(), False)
        elif self._unblocked_by is not None:
            self._finish(self._unblocked_with, True)
        elif self._hasty:
            self._client.close()
        elif self._may_lease():
            self._go()
        else:
            self._set_timer()

    def _next_key(self, wait: Wait) -> int:
        """The first key, in order, that is to be tried now; -1: none."""
        if wait.reads or not self._watched:
            for index in sorted(self._unread):
                if index not in self._stalled:
                    self._unread.remove(index)
                    return index
            return -1
        for index, watched in enumerate(self._watched):
            if watched.ready and watched.taker is None and index not in self._stalled:
                watched.taken_by(self)
                return index
        return -1

    def _withdraw(self) -> bool:
        """Take back an attempt that has not been sent. False when it may have run, or may run."""
        attempt = self._attempt
        if attempt is None or not self._plane.router.withdraw(attempt):
            return False
        self._attempt = None
        return True

    def _give_up_attempt(self) -> None:
        """An attempt takes long: if it only waits for its slot, other keys are tried, and this one later."""
        now: float = self._plane.reactor.now
        if not self._withdraw():
            return  # it is on its way, and its answer comes
        index = self._index
        if index < 0:
            self._finish(self._empty(), False)
            return
        self._stalled.add(index)
        if self._wait is not None and self._wait.reads:
            self._unread.append(index)
        elif self._watched:
            self._watched[index].tried(True)
        self._lease_at = max(self._lease_at, now + _PATIENCE)
        self._try_next()

    def _submit(self, raw: bytes, key: bytes, index: int) -> None:
        plane = self._plane
        asked = Asked(plane, self._owner, self, index)
        wait = self._wait
        several = wait is not None and wait.name in ("blmove", "brpoplpush")
        slot = int(key_slot(key)) if key or self._slot < SLOTS else self._slot
        called = self._command if index >= 0 else plane.arrivals.exists
        request = Request(self._client, called, slot, raw, plane.reactor.now, several and index >= 0, asked)
        self._attempt = request
        self._index = index
        self._state = _TRYING
        until: float = self._deadline if index < 0 else min(self._deadline, plane.reactor.now + _PATIENCE)
        if until < float("inf"):
            plane.reactor.call_at(until, self)
        plane.router.submit(request)

    def take(self, index: int, reply: bytes) -> None:
        if index == _UNBLOCK:
            self._unblocking = False
            spent = self._spent
            if spent is not None:
                self._spent = None
                self._plane.exclusives.release(spent)
            if self._state == _AT_NODE:
                if reply.startswith(b"-NOPERM"):
                    self._answer_unblocker(b":0\r\n")
                else:  # the node had not got the command yet, or could not be told
                    self._plane.reactor.call_at(self._plane.reactor.now + _RETRY, self)
            return
        self._attempt = None
        if self._state == _DONE:
            return
        self.due = 0.0
        wait = self._wait
        if index == _WHERE or wait is None:
            if reply.startswith(b"-ERR slotproxy:"):
                self._finish(reply, False)
            else:
                self._state = _WAITING
                self._set_timer()
        elif index == _LAST_ID:
            self._read_on(wait, reply)
        else:
            self._tried(wait, index, reply)

    def _read_on(self, wait: Wait, reply: bytes) -> None:
        id = last_id(reply)
        if id is None:
            self._finish(reply, False)
            return
        wait.read_from(wait.from_now_on()[0], id)
        for key in wait.from_now_on():
            self._submit(command([b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]), key, _LAST_ID)
            return
        self._go()

    def _tried(self, wait: Wait, index: int, reply: bytes) -> None:
        """An attempt has been answered."""
        key = self._keys[index]
        first = index not in self._seen
        self._seen.add(index)
        found: bytes | None = None
        failed = reply[0] == 0x2D and (first or not reply.startswith(b"-WRONGTYPE"))
        if not failed and reply[0] != 0x2D:
            found = wait.found(key, reply)
        if not wait.reads and self._watched:
            self._watched[index].tried(found is not None or failed)
        if failed and not self._read:
            self._finish(self._deleted if self._deleted and reply.startswith(b"-NOGROUP") else reply, False)
        elif found is None:
            self._try_next()
        elif wait.reads:
            self._read += elements_of(found) or []
            self._try_next()
        else:
            self._finish(found, False)

    def _find_out(self) -> None:
        """Have the router find the slot's node, by a command that does not wait; then the node is asked again."""
        key = self._keys[0] if self._keys else b""
        self._submit(command([b"EXISTS", key] if key else [b"PING"]), key, _WHERE)

    # The end

    def _finish(self, reply: bytes, unblocked: bool) -> None:
        self._end(unblocked)
        if reply[0] == 0x2D:
            self._plane.counters.error(error_code(reply))
        self._client.deliver(self._owner, reply)

    def _return_lease(self) -> None:
        """The connection that is being made goes to whoever wants it next."""
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.holder = None

    def _end(self, unblocked: bool) -> None:
        if self._state == _LEASING:
            self._return_lease()
        self._state = _DONE
        self.due = 0.0
        self._leave_here()
        self._plane.blocked.leave(self, self._slot)
        self._answer_unblocker(b":1\r\n" if unblocked else b":0\r\n")

    def _answer_unblocker(self, reply: bytes) -> None:
        request = self._unblocked_by
        if request is not None:
            self._unblocked_by = None
            self._answer(request, reply)

    def _answer(self, request: Request, reply: bytes) -> None:
        request.client.deliver(request, reply)
