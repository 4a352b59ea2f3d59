"""A client's connection: its requests in, its replies out, in order.

Duty: frame what the client sends, give each command to the router (the plain path for a command with exactly one key is
here, and allocates nothing but the request), and write replies in the order in which the commands came.

A command that must not overlap with others of its client (one over all nodes, a change of the connection's state) runs
alone: it waits until nothing of the client is in flight, and nothing more is taken until it has answered.

Invariants: at most `max_in_flight` requests await a reply and at most about `max_output` bytes are unsent; beyond that
the socket is not read. What a client sent before it closed its side is still executed, as on Redis, and answered when
only its sending side was closed. Nothing a client sends can end anything but its own connection.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.answers import answer_locally, runs_alone
from slotproxy.dataplane.flows import Flow
from slotproxy.dataplane.replying import ReplyWriter
from slotproxy.dataplane.requests import Request, parts_of
from slotproxy.dataplane.solo import Solo
from slotproxy.dataplane.transport import Transport
from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import (
    Answer,
    AnswerLocally,
    Forward,
    ForwardKeyless,
    Hangup,
    OverNodes,
    Scan,
    SplitUp,
    Unknown,
    decide,
)
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import error_code
from slotproxy.protocol.requests import RequestScanner, arguments_of
from slotproxy.protocol.resp import command as packed
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import slot_at

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane

_RECEIVE: Final = 16_384
_RECEIVE_LARGE: Final = 1_048_576
_ANSWERED: Final = Command("", 0, frozenset(), [], None, None)  # stands in the queue for what no node was asked
_LARGE_IN_FLIGHT: Final = 16  # while a large request comes in, no more than these may be in flight before it


class Client(ReplyWriter):
    """One plain Redis client. `id` is what CLIENT ID says; `address` is for logs."""

    def __init__(self, plane: "Plane", transport: Transport, id: int, address: str) -> None:
        super().__init__(plane.reactor)
        self.id: Final = id
        self.address: Final = address
        self.name: bytes = b""
        self.command: Command | None = None  # the last one that was taken
        self.since: float = plane.reactor.now
        self.active_at: float = plane.reactor.now  # when its last bytes came
        self.lane: i64 = plane.router.territory.lane_of(id)
        self.flows: dict[i64, Flow] = {}
        self.detours: i64 = 0  # reasons why its requests do not take the plain path: flows, a pause of writes
        self.finishing: bool = False  # no more requests are taken; closed when everything is answered and sent
        self.leaving: bool = False  # closes behind the reply to the command that is being answered
        self.no_evict: bool = False  # CLIENT NO-EVICT, which nothing here heeds
        self._plane: Final = plane
        self._scanner: Final = RequestScanner(plane.request_limits)
        self._paused: bool = False
        self._max_in_flight: i64 = plane.max_in_flight
        self._room: i64 = plane.max_in_flight  # how many requests may be in flight; 0 while one runs alone
        self._next: bytes | None = None  # a command that was taken, and waits to run alone
        self._skip: bool = False  # CLIENT REPLY SKIP: the next command's reply is dropped
        self._skipping: bool = False  # a command runs alone whose reply is dropped
        self._held: bool = False  # waits for the command table to be read
        self._paused_by_client: bool = False  # CLIENT PAUSE
        self._paused_request: Request | None = None  # in `queue`, sent when the pause is over
        self._max_output: i64 = plane.max_output
        self.open(transport)

    # In

    def on_readable(self) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._paused:  # by a command that runs alone, when nothing else had come yet
            self.watch(False)
            return
        size: i64 = _RECEIVE
        if self._scanner.buffered() >= _RECEIVE:
            if self.queue.size >= _LARGE_IN_FLIGHT:
                self.pause()
                return
            size = _RECEIVE_LARGE
        data = transport.receive(int(size))
        if data is None:
            return
        if not data:
            self.finish()
            return
        self._plane.counters.client_bytes_in += len(data)
        self._scanner.feed(data)
        self.take_requests()

    def take_requests(self) -> None:
        """Route all complete requests that are buffered, up to the limit of requests in flight."""
        scanner = self._scanner
        plane = self._plane
        router = plane.router
        routes = router.territory.routes
        table = plane.table
        queue = self.queue
        now: float = self.reactor.now
        self.active_at = now
        try:
            while not self.finishing:
                if queue.size >= self._room or self.out_size > self._max_output:
                    if self._skip and queue.size == 0:
                        if not self._take_skipped():
                            return
                        continue
                    if self._room == 0 and self._settle():
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
                if command is None or not command.single_key or scanner.argc < 2:
                    self._take_other(buffer[scanner.start : scanner.end])
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
                if self._may_go(request):
                    router.submit(request)
        except ProtocolError as problem:
            self.answer(error("ERR " + str(problem)))
            self.finish()

    def _take_irregular(self) -> None:
        scanner = self._scanner
        arguments = scanner.arguments
        if arguments is None:
            arguments = arguments_of(scanner.buffer[scanner.start : scanner.end])
        self._take_other(packed(arguments))

    def _take_other(self, raw: bytes) -> None:
        """Any command but a regular one with exactly one key."""
        arguments = arguments_of(raw)
        plane = self._plane
        decision = decide(plane.table, arguments, plane.allow_admin)
        to_a_node = isinstance(decision, (Forward, ForwardKeyless, SplitUp, OverNodes))
        if self.detours > 0 and to_a_node and plane.pause.stops(plane.table.resolve(arguments)):
            self._next = raw
            self.hold_for_pause()
            return
        if isinstance(decision, Forward):
            if decision.command.script:
                raw = plane.router.scripts.prepare(raw, decision.command.name, arguments)
            self._forward(decision.command, decision.slot, raw, decision.barrier)
        elif isinstance(decision, SplitUp):
            self._count(decision.command)
            owner = Request(self, decision.command, decision.parts[0].slot, raw, self.reactor.now)
            self.queue.push(owner)
            for part in parts_of(owner, decision.parts):
                plane.router.submit(part)
        elif isinstance(decision, ForwardKeyless):
            if decision.barrier:
                raw = plane.router.scripts.prepare(raw, decision.command.name, arguments)
            slot = plane.router.territory.keyless_slot(self.id)
            self._forward(decision.command, slot, raw, decision.barrier)
        elif isinstance(decision, (OverNodes, Scan)):
            if self._alone(raw):
                self._count(decision.command)
                Solo(self, plane, decision.command, decision, arguments, raw).start()
        elif isinstance(decision, AnswerLocally):
            if runs_alone(arguments) and not self._alone(raw):
                return
            command = plane.table.resolve(arguments)
            if command is not None:
                self._count(command)
            frame = answer_locally(decision.name, self, plane, arguments)
            if frame:
                self.answer(frame)
            if self.leaving:
                self.finish()
        elif isinstance(decision, Answer):
            self.answer(decision.frame)
        elif isinstance(decision, Unknown):
            if not plane.table_may_be_old():
                self.answer(decision.frame)
            elif self._alone(raw):
                self._next = raw
                plane.await_table(self)
        elif isinstance(decision, Hangup):
            self.finish()

    def _count(self, command: Command) -> None:
        command.calls += 1
        self.command = command

    def _forward(self, command: Command, slot: int, raw: bytes, barrier: bool) -> None:
        request = Request(self, command, slot, raw, self.reactor.now, barrier)
        self._count(command)
        self.queue.push(request)
        self._plane.router.submit(request)

    # Alone

    def _alone(self, raw: bytes) -> bool:
        """Whether a command that must run alone may run now; else it is kept. Nothing is taken behind it."""
        self._room = 0
        if self.queue.size > 0:
            self._next = raw
            return False
        return True

    def _settle(self) -> bool:
        """Whether nothing runs alone any more (and nothing waits to): then requests are taken again."""
        if self._room > 0:
            return True
        raw = self._next
        if raw is not None and self.queue.size == 0 and not self.is_held():
            self._next = None
            self._take_other(raw)
        if self.queue.size > 0 or self.is_held() or self._next is not None:
            return False
        if self._skipping:
            self._skipping = False
            self.silent = False
        if not self._skip:
            self._room = self._max_in_flight
        return True

    def _take_skipped(self) -> bool:
        """Take the command behind CLIENT REPLY SKIP, alone and without a reply. False when it is not there yet."""
        scanner = self._scanner
        if not scanner.scan():
            return False
        self._skip = False
        self.silent = True
        self._skipping = True
        if scanner.irregular:
            self._take_irregular()
        else:
            self._take_other(scanner.buffer[scanner.start : scanner.end])
        return True

    def set_reply_mode(self, mode: str) -> None:
        """CLIENT REPLY on, off or skip, or what RESET makes of them (7.0.15)."""
        if mode == "skip":
            self._skip = self._skipping or not self.silent  # behind OFF it does nothing
        elif mode == "off" or mode == "on" or not self._skipping:  # RESET behind SKIP is not answered
            self._skipping = False
            self.silent = mode == "off"

    def is_held(self) -> bool:
        """Whether it waits for something other than its replies."""
        return self._held or self._paused_by_client

    def hold(self) -> None:
        """Take nothing more until `release`."""
        self._held = True
        self._room = 0

    def release(self) -> None:
        """What the client was held for is over."""
        self._held = False
        self._go_on()

    def hold_for_pause(self) -> None:
        """The same for CLIENT PAUSE."""
        self._paused_by_client = True
        self._room = 0

    def release_from_pause(self) -> None:
        """The pause is over: what was waiting is sent."""
        if self._paused_by_client:
            self._paused_by_client = False
            request = self._paused_request
            if request is not None:
                self._paused_request = None
                self._plane.router.submit(request)
            self._go_on()

    def _go_on(self) -> None:
        if self._paused:
            self._plane.resuming.append(self)
        else:
            self._settle()

    def _may_go(self, request: Request) -> bool:
        """Whether a request off the plain path may be sent; else it waits for the end of a pause."""
        if self._plane.pause.stops(request.command):
            self._paused_request = request
            self.hold_for_pause()
            return False
        return True

    def pause(self) -> None:
        """Stop reading until there is room again."""
        if not self._paused:
            self._paused = True
            if self._room > 0 or self._scanner.buffered() > 0:  # else nothing may come before there is room
                self.watch(False)

    def _may_resume(self) -> bool:
        most: i64 = self._room
        if most > _LARGE_IN_FLIGHT and self._scanner.buffered() >= _RECEIVE:
            most = _LARGE_IN_FLIGHT
        return self.queue.size * 2 <= most and self.unsent() * 2 <= self._max_output

    def resume(self) -> None:
        """Read again, if there is room; what is buffered already comes first."""
        if not self._paused or self.transport is None or not self._may_resume() or not self._settle():
            return
        if not self.finishing:
            self._paused = False
            self.watch(True)
            self.take_requests()
        elif self._is_done() and self.unsent() == 0:
            self.close()

    # Out

    def answer(self, frame: bytes) -> None:
        """Reply to the command that was taken last, without a node."""
        if frame[0] == 0x2D:
            self._plane.counters.error(error_code(frame))
        if self.queue.size == 0:
            self.write(frame)
            return
        request = Request(self, _ANSWERED, 0, b"", self.reactor.now)
        request.reply = frame
        self.queue.push(request)

    def flush(self) -> None:
        super().flush()
        if self._paused:
            if self.transport is not None and not self._is_done() and self._may_resume():
                self._plane.resuming.append(self)
        elif self.unsent() > self._max_output:
            self.pause()

    def on_drained(self) -> None:
        self._plane.counters.client_bytes_out += self.sent
        self.sent = 0
        if self._is_done():
            self.close()

    # The end

    def _is_done(self) -> bool:
        return self.finishing and self.queue.size == 0 and self._next is None

    def buffered(self) -> int:
        """Bytes of requests that are not complete, or not taken yet."""
        return int(self._scanner.buffered())

    def is_read(self) -> bool:
        """Whether its socket is read."""
        return not self._paused

    def finish(self) -> None:
        """Take no more requests; close when everything is answered and sent."""
        if self.finishing:
            return
        self.finishing = True
        self.watch(False)
        if self._is_done() and self.unsent() == 0:
            self.close()

    def on_broken(self) -> None:
        self.close()

    def close(self) -> None:
        """Close at once. Requests in flight run to their end; their replies are dropped."""
        if self.transport is None:
            return
        self.finishing = True
        self.shut()
        self._plane.client_closed(self)
