"""A client's connection: its requests in, its replies out, in order.

Duty: frame what the client sends, give each command to the router (the plain path for a command with exactly one key is
here, and allocates nothing but the request), and write replies in the order in which the commands came.

Invariants: what a client sent before it closed its side is still executed, as on Redis, and answered when
only its sending side was closed. Nothing a client sends can end anything but its own connection.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.accounts import Grant
from slotproxy.dataplane.dispatching import Transaction, dispatch
from slotproxy.dataplane.logins import OUTPUT_BEFORE_LOGIN, LoginDeadline
from slotproxy.dataplane.monitoring import Monitor
from slotproxy.dataplane.private import Private
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.subscribing import Subscriptions
from slotproxy.dataplane.transport import Transport
from slotproxy.dataplane.turns import LARGE_IN_FLIGHT, RECEIVE, Turns
from slotproxy.dataplane.watching import Watching
from slotproxy.protocol.commands import Command, CommandTable
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import error_code
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import command as packed
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import slot_at

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane

_RECEIVE_LARGE: Final = 1_048_576
_NO_COMMANDS: Final = CommandTable([], "none")
_ANSWERED: Final = Command("", 0, frozenset(), [], None, None)  # stands in the queue for what no node was asked


class Client(Turns):
    """One plain Redis client. `id` is what CLIENT ID says; `address` is for logs."""

    def __init__(self, plane: "Plane", transport: Transport, id: int, address: str) -> None:
        super().__init__(plane, id)
        self.address: Final = address
        self.name: bytes = b""
        self.command: Command | None = None  # the last one that was taken
        self.since: float = plane.reactor.now
        self.active_at: float = plane.reactor.now  # when its last bytes came
        self.leaving: bool = False  # closes behind the reply to the command that is being answered
        self.transaction: Transaction | None = None  # since MULTI
        self.watching: Final = Watching(plane)
        self.subscriptions: Subscriptions | None = None  # since the first
        self.confined: bool = False  # may say only what a RESP2 client that has subscribed may
        self.no_evict: bool = False  # CLIENT NO-EVICT, which nothing here heeds
        self._deadline: Final = LoginDeadline(self)
        self.open(transport)
        self._enter()

    # In

    def on_readable(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if self.paused:  # by a command that runs alone, when nothing else had come yet
            self.watch(False)
            return
        size: i64 = RECEIVE
        if self.scanner.buffered() >= RECEIVE:
            if self.queue.size >= LARGE_IN_FLIGHT:
                self.pause()
                return
            size = _RECEIVE_LARGE
        data = transport.receive(int(size))
        if data is None:
            return
        if not data:
            self.finish()
            return
        self.plane.counters.client_bytes_in += len(data)
        self.scanner.feed(data)
        self.take_requests()

    def take_requests(self) -> None:
        """Route all complete requests that are buffered, up to the limit of requests in flight."""
        scanner = self.scanner
        plane = self.plane
        router = plane.router
        routes = router.territory.routes
        table = self._commands()
        queue = self.queue
        now: float = self.reactor.now
        self.active_at = now
        try:
            while not self.finishing:
                if queue.size >= self.room or self.out_size > self._max_output:
                    if self.skip and queue.size == 0:
                        if not self._take_skipped():
                            return
                        continue
                    if self.room == 0 and self.settle():
                        table = self._commands()
                        continue
                    self.pause()
                    return
                if not scanner.scan():
                    return
                if scanner.irregular:
                    self._take_irregular()
                    continue
                buffer: bytes = scanner.buffer
                command = table.get(buffer[scanner.name_start : scanner.name_end])
                if command is None or not command.single_key or scanner.argc < 2 or self.transaction is not None:
                    self.take_other(buffer[scanner.start : scanner.end])
                    continue
                slot: i64 = slot_at(buffer, scanner.key_start, scanner.key_end)
                request = Request(self, command, slot, buffer[scanner.start : scanner.end], now)
                command.calls += 1
                self.command = command
                queue.push(request)
                node = routes[slot]
                if node is not None and self.detours == 0:
                    lane = node.lanes[self.lane]
                    if lane.ready:
                        lane.enqueue(request)
                        continue
                if self.may_go(request):
                    router.submit(request)
        except ProtocolError as problem:
            self.answer(error("ERR " + str(problem)))
            self.finish()

    def _take_irregular(self) -> None:
        scanner = self.scanner
        arguments = scanner.arguments
        if arguments is None:
            arguments = arguments_of(scanner.buffer[scanner.start : scanner.end])
        self.take_other(packed(arguments))

    def take_other(self, raw: bytes) -> None:
        """Run any command but a regular one with exactly one key."""
        dispatch(self, self.plane, raw)

    def count(self, command: Command) -> None:
        """The client has called it."""
        command.calls += 1
        self.command = command

    def forward(self, command: Command, slot: int, raw: bytes, barrier: bool) -> None:
        """Send a command to the node of a slot."""
        request = Request(self, command, slot, raw, self.reactor.now, barrier)
        self.stamp(request)
        self.count(command)
        self.queue.push(request)
        self.plane.router.submit(request)

    def stamp(self, request: Request) -> None:
        """The request is the command's that was taken last, or a part of it."""
        private = self.private
        if private is not None:
            private.stamp(request)

    def _take_skipped(self) -> bool:
        """Take the command behind CLIENT REPLY SKIP, alone and without a reply. False when it is not there yet."""
        scanner = self.scanner
        if not scanner.scan():
            return False
        self.skip = False
        self.silent = True
        self.skipping = True
        if scanner.irregular:
            self._take_irregular()
        else:
            self.take_other(scanner.buffer[scanner.start : scanner.end])
        return True

    def speak(self, protocol: int) -> None:
        """Speak this version of RESP from now on, on the lanes that do; nothing of the client may be in flight."""
        self.work_as(self.grant, protocol)

    def work_as(self, grant: Grant, protocol: int) -> None:
        """Use another account, or speak another protocol, from now on; nothing of the client may be in flight."""
        if grant is not self.grant:
            self.plane.accounts.leave(self, False)
            self.grant = grant
            self._enter()
        pool = grant.account.pool
        if protocol != self.protocol or pool is not self.pool:
            self.protocol = protocol
            self.pool = pool
            self.choose_lane()
            self.confine()

    def choose_lane(self) -> None:
        """Send on the lanes that fit what the client has turned on; nothing of it may be in flight."""
        private = self.private
        lane = -1 if private is None else private.arrange()
        if lane < 0:
            lane = self.pool.lane_of(self.id, self.protocol)
        left = self.lane
        if lane != left:
            self.lane = lane
            self.plane.fencing.pass_on(left, lane)
            self.watching.give_up()
        if private is not None:
            private.drop_former()
            if private.is_empty():
                self.private = None
                self.detours -= 1
                self.plane.private.pop(self.id, None)
            self.plane.note_targets()

    def go_private(self) -> Private:
        """Something is about to be turned on that takes lanes of its own."""
        private = self.private = self.plane.private[self.id] = Private(self, self.plane)
        self.detours += 1  # what is sent there is stamped
        return private

    def start_monitor(self) -> Monitor:
        """Have all primaries show what they run; no command of this client touches keys meanwhile."""
        monitor = self.monitor = Monitor(self, self.plane)
        self.detours += 1
        return monitor

    def stop_monitor(self) -> None:
        """MONITOR has ended."""
        monitor = self.monitor
        if monitor is not None:
            self.monitor = None
            self.detours -= 1
            monitor.close()

    def confine(self) -> None:
        """Its subscriptions, or its protocol, may have changed."""
        have = self.subscriptions
        self.confined = self.protocol == 2 and have is not None and have.total() > 0

    def unsubscribe_all(self) -> None:
        """It gets no messages any more."""
        if self.subscriptions is not None:
            self.subscriptions.clear(self)
            self.confine()

    def _enter(self) -> None:
        """Join `grant`. Without a login there is little that may be asked or left unread, and little time."""
        self.plane.accounts.enter(self)
        if self.grant.account.enters:
            self._deadline.due = 0.0
            self.scanner.limits = self.plane.request_limits
            self._max_output = self.plane.max_output
        else:
            self._deadline.set()
            self.scanner.limits = self.plane.limits_before_login
            if self._max_output > OUTPUT_BEFORE_LOGIN:
                self._max_output = OUTPUT_BEFORE_LOGIN

    def _commands(self) -> CommandTable:
        """Where the plain path looks for commands: nowhere while the client may not say everything.

        Looked up anew whenever something has run alone, as what confines a client does.
        """
        return self.plane.table if self.grant.account.enters and not self.confined else _NO_COMMANDS

    # Out

    def answer(self, frame: bytes) -> None:
        """Reply to the command that was taken last, without a node."""
        if frame[0] == 0x2D:
            self.plane.counters.error(error_code(frame))
        if self.queue.size == 0:
            self.write(frame)
        else:
            self.expect_answer().reply = frame

    def expect_answer(self) -> Request:
        """A place in the queue for a reply that no node gives."""
        request = Request(self, _ANSWERED, 0, b"", self.reactor.now)
        self.queue.push(request)
        return request

    def on_drained(self) -> None:
        self.plane.counters.client_bytes_out += self.sent
        self.sent = 0
        if self.is_done():
            self.close()

    # The end

    def buffered(self) -> int:
        """Bytes of requests that are not complete, or not taken yet."""
        return int(self.scanner.buffered())

    def is_read(self) -> bool:
        """Whether its socket is read."""
        return not self.paused

    def finish(self) -> None:
        """Take no more requests; close when everything is answered and sent."""
        if self.finishing:
            return
        self.finishing = True
        self.watch(False)
        if self.is_done() and self.unsent() == 0:
            self.close()

    def on_departed(self) -> None:
        """Told only while something runs that may wait for ever: nobody waits for it any more, but it may be done."""
        task = self.task
        self.finish()
        if task is not None:
            task.depart()

    def on_broken(self) -> None:
        self.close()

    def close(self) -> None:
        """Close at once. Requests in flight run to their end, and their replies are dropped; what waits ends."""
        if self.transport is None:
            return
        self.finishing = True
        self._deadline.due = 0.0
        self.shut()
        task = self.task
        if task is not None:
            task.abandon()
        self.transaction = None
        self.watching.close()
        self.unsubscribe_all()
        self.stop_monitor()
        private = self.private
        if private is not None:
            private.close()
        self.plane.client_closed(self)
