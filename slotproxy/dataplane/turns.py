"""When a client may go on: how many of its requests may be in flight, and whether its socket is read.

Duty: a command that must not overlap with others of its client (one over all nodes, a blocking one, a change of the
connection's state) runs alone: it waits until nothing of the client is in flight, and nothing more is taken until it
has answered. A client is also held for the command table, by CLIENT PAUSE, and while it has no room. What the
commands are is decided by the subclass.

Invariants: at most `max_in_flight` requests await a reply and at most about `max_output` bytes are unsent; beyond that
the socket is not read. A client that waits for something that may never come (`task.endless`) is still noticed when it
leaves, as Redis does: then what was done for it ends at once.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.accounts import Grant
from slotproxy.dataplane.authenticating import Credentials
from slotproxy.dataplane.monitoring import NO_KEYS
from slotproxy.dataplane.nodestreams import StreamKey
from slotproxy.dataplane.pools import Pool
from slotproxy.dataplane.replying import ReplyWriter
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Solitary
from slotproxy.protocol.commands import Command
from slotproxy.protocol.requests import RequestScanner

if TYPE_CHECKING:
    from slotproxy.dataplane.monitoring import Monitor
    from slotproxy.dataplane.plane import Plane
    from slotproxy.dataplane.private import Private

PUSHED: Final = Command("", 0, frozenset(), [], None, None)  # stands in the queue for what is no reply
RECEIVE: Final = 16_384
LARGE_IN_FLIGHT: Final = 16  # while a large request comes in, no more than these may be in flight before it


class Turns(ReplyWriter):
    """A client, as far as its turns go."""

    def __init__(self, plane: "Plane", id: int) -> None:
        self.grant: Grant = plane.accounts.first()
        self.pool: Pool = self.grant.account.pool
        super().__init__(plane.reactor, id, self.pool.lane_of(id, 2))
        self.protocol: int = 2  # RESP version
        self.accepted: Credentials | None = None  # by a node, while the AUTH or HELLO that gave them is answered
        self.plane: Final = plane
        self.scanner: Final = RequestScanner(plane.request_limits)
        self.finishing: bool = False  # no more requests are taken; closed when everything is answered and sent
        self.task: Solitary | None = None  # what runs alone
        self.room: i64 = plane.max_in_flight  # how many requests may be in flight; 0 while one runs alone
        self.next: bytes | None = None  # a command that was taken, and waits to run alone
        self.skip: bool = False  # CLIENT REPLY SKIP: the next command's reply is dropped
        self.skipping: bool = False  # a command runs alone whose reply is dropped
        self.paused: bool = False  # not read, until `resume`
        self._max_in_flight: i64 = plane.max_in_flight
        self._max_output: i64 = plane.max_output
        self.private: Private | None = None  # what it has turned on that takes connections of its own
        self.monitor: Monitor | None = None  # since MONITOR
        self._pushed: i64 = 0  # bytes pushed since it had taken everything
        self._held: bool = False  # waits for the command table to be read
        self._paused_by_client: bool = False  # CLIENT PAUSE
        self._paused_request: Request | None = None  # in `queue`, sent when the pause is over

    def take_other(self, raw: bytes) -> None:
        """Run the command that had to wait until it could run alone."""
        raise AssertionError("a client without take_other()")

    def take_requests(self) -> None:
        """There is room again: what is buffered can be taken."""
        raise AssertionError("a client without take_requests()")

    def close(self) -> None:
        """The end."""
        raise AssertionError("a client without close()")

    # Alone

    def alone(self, raw: bytes) -> bool:
        """Whether a command that must run alone may run now; else it is kept. Nothing is taken behind it."""
        self.room = 0
        if self.queue.size > 0:
            self.next = raw
            return False
        return True

    def run(self, task: Solitary) -> None:
        """Start what runs alone, after `alone`."""
        self.task = task
        if task.endless:
            self.paused = True
            self.watch(False, not self.finishing)
        task.start()
        if task.endless and self.finishing:
            task.depart()

    def settle(self) -> bool:
        """Whether nothing runs alone any more (and nothing waits to): then requests are taken again."""
        if self.room > 0:
            return True
        raw = self.next
        if raw is not None and self.queue.size == 0 and not self.is_held():
            self.next = None
            self.task = None
            self.take_other(raw)
        if self.queue.size > 0 or self.is_held() or self.next is not None:
            return False
        self.task = None
        if self.skipping:
            self.skipping = False
            self.silent = False
        if not self.skip:
            self.room = self._max_in_flight
        return True

    @property
    def key(self) -> StreamKey:
        """What connections that it leases speak and as whom; none of its own lanes' state is theirs."""
        return self.plane.router.territory.key_of(self.pool.lane_of(self.id, self.protocol))

    def set_reply_mode(self, mode: str) -> None:
        """CLIENT REPLY on, off or skip, or what RESET makes of them (7.0.15)."""
        if mode == "skip":
            self.skip = self.skipping or not self.silent  # behind OFF it does nothing
        elif mode == "off" or mode == "on" or not self.skipping:  # RESET behind SKIP is not answered
            self.skipping = False
            self.silent = mode == "off"

    # Held

    def is_held(self) -> bool:
        """Whether it waits for something other than its replies."""
        return self._held or self._paused_by_client

    def hold(self) -> None:
        """Take nothing more until `release`."""
        self._held = True
        self.room = 0

    def release(self) -> None:
        """What the client was held for is over."""
        self._held = False
        self._go_on()

    def hold_for_pause(self) -> None:
        """The same for CLIENT PAUSE."""
        self._paused_by_client = True
        self.room = 0

    def release_from_pause(self) -> None:
        """The pause is over: what was waiting is sent."""
        if self._paused_by_client:
            self._paused_by_client = False
            request = self._paused_request
            if request is not None:
                self._paused_request = None
                self.plane.router.submit(request)
            self._go_on()

    def _go_on(self) -> None:
        if self.paused:
            self.plane.resuming.append(self)
        else:
            self.settle()

    def may_go(self, request: Request) -> bool:
        """Whether a request off the plain path may be sent; else it waits for the end of a pause, or is refused."""
        if self.monitor is not None:
            self.plane.router.finish(request, NO_KEYS)
            return False
        private = self.private
        if private is not None:
            private.taken(request.raw, b"")
            private.stamp(request)
        if self.grant.account.pause.stops(request.command):
            self._paused_request = request
            self.hold_for_pause()
            return False
        return True

    def stopped(self, commands: list[Command | None], raw: bytes) -> bool:
        """Whether a pause stops one of these; then `raw`, which holds them, is taken again when it is over."""
        if self.detours > 0 and any([self.grant.account.pause.stops(command) for command in commands]):
            self.next = raw
            self.hold_for_pause()
            return True
        return False

    # What is pushed

    def push(self, frame: bytes) -> None:
        """Write what is no reply, whatever CLIENT REPLY says. A client that does not take it is cut off."""
        if self.transport is None:
            return
        if self.unsent() == 0:
            self._pushed = 0
        self._pushed += len(frame)
        # Only what a full socket has left behind says that the client does not read.
        if self._rest is not None and self._pushed > self._max_output and self.unsent() > self._max_output:
            self.plane.counters.clients_cut_off += 1
            self.close()
            return
        self.out.append(frame)
        self.out_size += len(frame)
        if not self.touched:
            self.touched = True
            self.reactor.clients_touched.append(self)

    def push_behind(self, before: dict[Request, None], frame: bytes) -> None:
        """The same, but not before the replies to those of `before` that are in the queue. Empties it if none is."""
        task = self.task
        if before and not self.silent and not (task is not None and task.endless):
            pushed = Request(self, PUSHED, 0, b"", self.reactor.now)
            pushed.reply = frame
            if self.queue.push_behind(before, pushed):
                return
        self.push(frame)

    # Reading

    def pause(self) -> None:
        """Stop reading until there is room again."""
        if not self.paused:
            self.paused = True
            if self.room > 0 or self.scanner.buffered() > 0:  # else nothing may come before there is room
                self.watch(False)

    def may_resume(self) -> bool:
        """Whether there is room enough to read again."""
        most: i64 = self.room
        if most > LARGE_IN_FLIGHT and self.scanner.buffered() >= RECEIVE:
            most = LARGE_IN_FLIGHT
        return self.queue.size * 2 <= most and self.unsent() * 2 <= self._max_output

    def resume(self) -> None:
        """Read again, if there is room; what is buffered already comes first."""
        if not self.paused or self.transport is None or not self.may_resume() or not self.settle():
            return
        if not self.finishing:
            self.paused = False
            self.watch(True)
            self.take_requests()
        elif self.is_done() and self.unsent() == 0:
            self.close()

    def is_done(self) -> bool:
        """Whether all that was asked has been answered, and nothing more is taken."""
        return self.finishing and self.queue.size == 0 and self.next is None

    def flush(self) -> None:
        super().flush()
        if self.paused:
            if self.transport is not None and not self.is_done() and self.may_resume():
                self.plane.resuming.append(self)
        elif self.unsent() > self._max_output:
            self.pause()
