"""A client that waits in a blocking command.

Duty: wait at the node while that is right (all keys in one slot, which is not in trouble), and here otherwise
(`seeking`); go from one to the other when the slot gets into trouble or out of it; end with what arrived, at the
timeout, or unblocked.

    at the node: the command itself, with the time that is left, on a leased connection. When the slot gets into trouble
                 the node is told to unblock it, and says whether something was popped before.
    here:        the keys are tried in order by commands that do not wait, whenever something may have arrived.

Invariants: never more than one pop is outstanding, so no element is lost or popped twice. The deadline stays what it
was at first. A client that leaves takes nothing any more: the connection at which it waits is closed at once, or, when
the client may still read, half of it, so that what the node had popped before still comes, as on one server.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.exclusives import Exclusive
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.seeking import AT_NODE, DONE, FOR_EVER, LEASING, PATIENCE, TRYING, WAITING, Seeker
from slotproxy.protocol.blocking import Wait, last_id
from slotproxy.protocol.commands import Command
from slotproxy.protocol.redirects import error_code, refusal_of
from slotproxy.protocol.resp import command, error, integer, null_array
from slotproxy.protocol.slots import key_slot

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.plane import Plane

_UNBLOCKED: Final = error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
_FORCED: Final = b"-UNBLOCKED force unblock"
_DELETED: Final = (b"-UNBLOCKED the stream key", b"-NOGROUP ")
_RETRY: Final = 0.05  # seconds before the node that did not want it is asked again
_RETRY_UNREACHABLE: Final = 1.0
_SILENCE: Final = 15.0  # seconds after its timeout at which a command that its node has not ended is given up

# What is asked besides attempts.
_UNBLOCK: Final = -1
_LAST_ID: Final = -2
_WHERE: Final = -3


class Blocked(Seeker):
    """One blocking command of one client. Without a `wait` only its node can read it: it is waited for only there."""

    def __init__(
        self, client: "Client", plane: "Plane", called: Command, raw: bytes, keys: list[bytes], wait: Wait | None
    ) -> None:
        super().__init__(client, plane, called, raw, keys[:1] if wait is None else wait.keys, wait)
        self.endless = True
        self._slot: int = -1  # the only slot of its keys
        if wait is None:
            self._slot = int(key_slot(keys[0])) if keys else plane.router.territory.keyless_slot(client.id)
        elif len(wait.slots) == 1:
            self._slot = wait.slots[0]
        self._exclusive: Exclusive | None = None
        self._spent: Exclusive | None = None  # has answered, but not yet to CLIENT UNBLOCK
        self._lease_at: float = 0.0  # not before then
        self._asked_before: bool = False  # a node has had the command already
        self._deleted: bytes = b""  # what the node said of a stream that is not there any more
        self._recalled: bool = False  # the node was told to unblock it
        self._unblocking: bool = False  # and has not answered that yet
        self._unblocked_by: Request | None = None  # a CLIENT UNBLOCK that waits for its reply
        self._unblocked_with: bytes = b""  # what the client is then answered

    # From the client

    def start(self) -> None:
        self.client.queue.push(self.owner)
        self.plane.blocked.enter(self, self._slot)
        if not self._ask_last_id():
            self._go()

    def abandon(self) -> None:
        """The client has left."""
        if self.state == DONE:
            return
        self.want_no_more()
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.finish("its client has left")
        self._end(False)

    def depart(self) -> None:
        self.hasty = True
        if self.state == AT_NODE:
            # What the node has popped by now still comes, and is delivered; it pops nothing for this client any more.
            exclusive = self._exclusive
            if exclusive is None or not exclusive.hang_up():
                self._exclusive = None
                self.client.close()
        elif self.state == LEASING and self.wait is not None:
            self.plane.exclusives.cancel(self)
            self.seek()
        elif self.state != TRYING and self.state != DONE:
            self.client.close()

    def unblock(self, request: Request, with_error: bool) -> bool:
        """CLIENT UNBLOCK: `request` is answered 1 when it ends the wait, 0 when something arrives before."""
        if self.state == DONE:
            return False
        self._unblocked_with = _UNBLOCKED if with_error else null_array(self.client.protocol)
        if self._unblocked_by is not None:
            request.client.deliver(request, integer(0))
            return True
        self._unblocked_by = request
        if self.state == AT_NODE:
            if not self._recall():
                self._answer_unblocker(0)
        elif self.state != TRYING or self.withdraw():
            self._finish(self._unblocked_with, True)
        return True

    # Where to wait

    def _go(self) -> None:
        """Wait at the node, or here."""
        wait = self.wait
        if self.hasty and wait is None:
            self.client.close()
            return
        if self._may_lease():
            node = self.plane.router.territory.owner(self._slot)
            if node is not None:
                self.leave()
                self.state = LEASING
                self._set_timer()
                if self.plane.exclusives.lease(node, self.client.key, self):
                    return
                if self._asked_before or self.seen:
                    self._elsewhere(_RETRY_UNREACHABLE)
                else:
                    self._finish(errors.no_exclusive(self.command, self.plane.exclusives.most), False)
                return
            self._lease_at = self.plane.reactor.now + _RETRY_UNREACHABLE
        if wait is None:
            self._find_out()
        else:
            self.seek()

    def _may_lease(self) -> bool:
        if self._slot < 0 or self.hasty or self._unblocking or self.plane.reactor.now < self._lease_at:
            return False
        return self.wait is None or (self.plane.reactor.now < self.deadline and self._is_calm())

    def _is_calm(self) -> bool:
        gate = self.plane.router.order.gates.get(self._slot)
        return gate is None or gate.quiet()

    def trouble(self) -> None:
        """The slot is in trouble: the node may be the wrong one."""
        if self.state == AT_NODE and self.wait is not None:
            self._recall_or_retry()

    def calm(self) -> None:
        """The slot is out of trouble."""
        if self.state == WAITING and self.watched:
            self._go()

    def fire(self) -> None:
        """The deadline, or another try."""
        now: float = self.plane.reactor.now
        if self.state == LEASING:
            self._be_late()
        elif self.state == TRYING:
            self.give_up_attempt()
        elif self.state == AT_NODE and now >= self.deadline + _SILENCE:
            self._be_done_with_silence()
        elif self.state == AT_NODE:
            self._recall_or_retry()
        elif self.state == WAITING:
            if now >= self.until():
                self._finish(null_array(self.client.protocol), False)
            elif self.watched and not self._may_lease():
                self.seek_again()
            else:
                self._go()

    def _set_timer(self) -> None:
        at: float = self.until() if self.state == WAITING else self.deadline
        if self._lease_at > self.plane.reactor.now:
            at = min(at, self._lease_at)
        if self.has_stalled():
            at = min(at, self.plane.reactor.now + PATIENCE)
        self.due = 0.0
        if at < FOR_EVER:
            self.plane.reactor.call_at(at, self)

    # At the node

    def leased(self, exclusive: Exclusive) -> None:
        self._exclusive = exclusive
        if self.wait is not None and (
            self._unblocking
            or not self._is_calm() or self.plane.router.territory.owner(self._slot) is not exclusive.node
        ):
            self._exclusive = None
            self.plane.exclusives.release(exclusive)
            self._go()
            return
        left: float = self.deadline - self.plane.reactor.now
        if left <= 0.0:
            self._exclusive = None
            self.plane.exclusives.release(exclusive)
            self._be_late()
            return
        raw = self.owner.raw
        if self.wait is not None and (self.plane.reactor.now > self.owner.started or self.wait.reads):
            raw = self.wait.request(left if left < FOR_EVER else 0.0)
        self.due = 0.0
        if self.deadline < FOR_EVER:
            self.plane.reactor.call_at(self.deadline + _SILENCE, self)
        self.state = AT_NODE
        self._asked_before = True
        self._recalled = False
        exclusive.ask(raw, 1)

    def not_leased(self, node: "Node", why: str) -> None:
        self._elsewhere(_RETRY_UNREACHABLE)

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        self._exclusive = None
        self.due = 0.0
        if reply.startswith(_FORCED) or reply == _UNBLOCKED:
            self.seen.update(range(len(self.keys)))  # it has looked at them, and then waited
        if reply.startswith(_FORCED):
            exclusive.finish("the node is no primary any more")
            self.plane.control.refresh_nowait("a blocked command was ended")
            self._elsewhere(_RETRY)
            return
        if self._unblocking:
            self._spent = exclusive
        else:
            self.plane.exclusives.release(exclusive)
        if refusal_of(reply) is not None:
            self._elsewhere(_RETRY)
        elif reply == _UNBLOCKED and self._recalled:
            if self._unblocked_by is not None:
                self._finish(self._unblocked_with, True)
            else:
                self._elsewhere(_RETRY)
        elif self.wait is not None and self.wait.reads and reply.startswith(_DELETED) and not self._deleted:
            self._deleted = reply  # or it has moved: trying there will tell
            self._elsewhere(_RETRY)
        else:
            self._finish(reply, False)

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        if exclusive is self._spent:
            self._spent = None
            return
        self._exclusive = None
        plane = self.plane
        if self.hasty:
            self.client.close()
            return
        plane.control.refresh_nowait("connection lost")
        if self.command.repeatable or not whole:
            self._elsewhere(_RETRY)
            return
        plane.fencing.forget(exclusive, self.client.lane)  # it may wait there still, for an element that would be lost
        plane.counters.in_doubt += 1
        self._finish(errors.in_doubt(self.command, exclusive.node.name, why), False)

    def _be_late(self) -> None:
        """The time was over before there was a connection to wait on: what is there already is found all the same."""
        if self.wait is None or self.plane.reactor.now >= self.until():
            self._finish(null_array(self.client.protocol), False)
        else:
            self.plane.exclusives.cancel(self)
            self.seek()

    def _be_done_with_silence(self) -> None:
        """The node should have ended it long ago."""
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.finish("silent")
            self.lease_lost(exclusive, True, f"no answer for {_SILENCE:g} s after the timeout")

    def _elsewhere(self, after: float) -> None:
        """The node would not have it, or could not be reached: wait here, and go to the slot's node later."""
        self._lease_at = self.plane.reactor.now + after
        if self.wait is None:
            self._find_out()
        else:
            self.seek()

    def _recall_or_retry(self) -> None:
        if not self._recall():
            self.plane.reactor.call_at(self.plane.reactor.now + _RETRY, self)

    def _recall(self) -> bool:
        """Have the node unblock it. False when nobody can tell the node."""
        exclusive = self._exclusive
        if exclusive is None or self._unblocking:
            return True
        self._unblocking = self.plane.unblock(exclusive, self.client, self)
        self._recalled = self._recalled or self._unblocking
        return self._unblocking

    # Here

    def nothing(self) -> None:
        """Nothing is there: go on waiting, unless there is a reason not to."""
        if self.plane.reactor.now >= self.until():
            self._finish(null_array(self.client.protocol), False)
        elif self._unblocked_by is not None:
            self._finish(self._unblocked_with, True)
        elif self.hasty:
            self.client.close()
        elif self._may_lease():
            self._go()
        else:
            self._set_timer()

    def found(self, frame: bytes) -> None:
        """Something is there, or is wrong."""
        deleted = self._deleted and frame.startswith((b"-NOGROUP", b"-WRONGTYPE"))
        self._finish(self._deleted if deleted else frame, False)

    def _ask_last_id(self) -> bool:
        """Find out where a stream ends of which only what comes from now on is wanted: later nobody could tell."""
        for key in [] if self.wait is None else self.wait.from_now_on():
            raw = command([b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"])
            self.ask(raw, int(key_slot(key)), self.plane.arrivals.exists, _LAST_ID)
            return True
        return False

    def _find_out(self) -> None:
        """Have the router find the slot's node, by a command that does not wait; then the node is asked again."""
        raw = command([b"EXISTS", *self.keys] if self.keys else [b"PING"])
        self.ask(raw, self._slot, self.plane.arrivals.exists, _WHERE)

    def answered(self, index: int, reply: bytes) -> None:
        if index == _LAST_ID and self.wait is not None:
            id = last_id(reply)
            if id is None:
                self._finish(reply, False)
                return
            self.wait.read_from(self.wait.from_now_on()[0], id)
            if not self._ask_last_id():
                self._go()
        elif reply.startswith(b"-ERR slotproxy:"):
            self._finish(reply, False)
        elif self._unblocked_by is not None:
            self._finish(self._unblocked_with, True)
        elif self.hasty:
            self.client.close()
        else:
            self._set_timer()

    def take(self, index: int, reply: bytes) -> None:
        if index != _UNBLOCK:
            super().take(index, reply)
            return
        self._unblocking = False
        spent = self._spent
        if spent is not None:
            self._spent = None
            self.plane.exclusives.release(spent)
        if self.state == AT_NODE:
            if reply.startswith(b"-NOPERM"):
                self._answer_unblocker(0)
            else:  # the node had not got the command yet, or could not be told
                self.plane.reactor.call_at(self.plane.reactor.now + _RETRY, self)
        elif self.state == WAITING and self._may_lease():
            self._go()

    # The end

    def _finish(self, reply: bytes, unblocked: bool) -> None:
        self._end(unblocked)
        if reply[0] == 0x2D:
            self.plane.counters.error(error_code(reply))
        self.client.deliver(self.owner, reply)

    def _end(self, unblocked: bool) -> None:
        if self.state == LEASING:
            self.plane.exclusives.cancel(self)
        self.state = DONE
        self.due = 0.0
        self.leave()
        self.plane.blocked.leave(self, self._slot)
        self._answer_unblocker(1 if unblocked else 0)

    def _answer_unblocker(self, ended: int) -> None:
        request = self._unblocked_by
        if request is not None:
            self._unblocked_by = None
            request.client.deliver(request, integer(ended))
