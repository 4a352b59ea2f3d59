"""The reactor: an epoll set, the streams in it, and the timers of the data plane.

Duty: one tick takes all ready sockets, lets each stream read once, then sends once per touched stream. Timers run
between. What the bytes mean is the streams' business (`Lane`, `Client`).

Invariants: a tick never waits longer than the caller allows and reads the clock once; a stream that was closed during
a tick is not called again; output is sent after all input of the tick was taken, nodes before clients. Level-triggered:
what one read leaves behind is reported again by the next poll.
"""

import heapq
import select
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64, trait

from slotproxy.dataplane.transport import Transport

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
_DEPARTED: Final = select.EPOLLRDHUP
_GONE: Final = select.EPOLLHUP | select.EPOLLERR
_JOIN: Final = 262_144  # output up to this size is joined and sent at once; larger values are not copied
_EVENTS: Final = 1024
_TIMERS: Final = 1024  # so many may be in the heap before those that are not set any more are thrown out


class Timer:
    """Something that wants to be called at a time. `due` is 0.0 while it is not set."""

    def __init__(self) -> None:
        self.due: float = 0.0

    def fire(self) -> None:
        """The time has come."""
        raise AssertionError("a timer without fire()")


class Stream:
    """A socket in the epoll set with its output. Subclasses say what input, breakage and free output mean."""

    def __init__(self, reactor: "Reactor") -> None:
        self.reactor: Reactor = reactor
        self.transport: Transport | None = None
        self.out: list[bytes] = []
        self.out_size: i64 = 0  # bytes in `out`
        self.touched: bool = False
        self.sent: i64 = 0  # bytes taken by the kernel since the last look of the counters
        self._rest: memoryview | None = None  # what a full socket left of the last send
        self._mask: i64 = 0

    def on_readable(self) -> None:
        """Bytes are there, or the end of the stream."""
        raise AssertionError("a stream without on_readable()")

    def on_broken(self) -> None:
        """Sending failed or the other side hung up. The stream must close itself."""
        raise AssertionError("a stream without on_broken()")

    def on_departed(self) -> None:
        """The other side will send nothing more; only who asked to be told is."""

    def on_drained(self) -> None:
        """Everything written so far has been sent, after the socket had been full or at the end of a tick."""

    def open(self, transport: Transport) -> None:
        """Join the epoll set with a connected transport."""
        self.transport = transport
        self._rest = None
        self._mask = READ
        self.reactor.add(self, transport.fd)

    def shut(self) -> None:
        """Leave the epoll set and close the transport; unsent output is dropped."""
        transport = self.transport
        if transport is not None:
            self.transport = None
            self.reactor.remove(transport.fd)
            transport.close()
        self.out.clear()
        self.out_size = 0
        self._rest = None

    def watch(self, reading: bool, departing: bool = False) -> None:
        """Whether to be told of input; or, without reading it, that the other side will send nothing more."""
        mask: i64 = self._mask & ~(READ | _DEPARTED)
        if reading:
            mask |= READ
        if departing:
            mask |= _DEPARTED
        self._set_mask(mask)

    def unsent(self) -> i64:
        """Bytes written and not taken by the kernel yet."""
        rest = self._rest
        return self.out_size if rest is None else self.out_size + len(rest)

    def flush(self) -> None:
        """Send what was written since the last flush, as far as the socket takes it."""
        self.touched = False
        if self.transport is None or self._rest is not None:
            return
        if self.out_size <= _JOIN:
            data: bytes = self.out[0] if len(self.out) == 1 else b"".join(self.out)
            self.out.clear()
            self.out_size = 0
            if data and not self._send(data):
                return
            self.on_drained()
            return
        self._flush_large()

    def on_writable(self) -> None:
        """The socket takes bytes again."""
        rest = self._rest
        if rest is None:
            return
        transport = self.transport
        assert transport is not None
        count: i64 = transport.send(rest)
        if count < 0:
            self.on_broken()
            return
        self.sent += count
        if count < len(rest):
            self._rest = rest[count:]
            return
        self._rest = None
        self._set_mask(self._mask & ~WRITE)
        self.flush()

    def _flush_large(self) -> None:
        out = self.out
        done: i64 = 0
        count: i64 = len(out)
        while done < count:
            size: i64 = 0
            stop: i64 = done
            while stop < count and (stop == done or size + len(out[stop]) <= _JOIN):
                size += len(out[stop])
                stop += 1
            data: bytes = out[done] if stop == done + 1 else b"".join(out[done:stop])
            done = stop
            self.out_size -= size
            if not self._send(data):
                if self.transport is not None:
                    del out[:done]
                return
        out.clear()
        self.on_drained()

    def _send(self, data: bytes) -> bool:
        transport = self.transport
        assert transport is not None
        count: i64 = transport.send(data)
        if count == len(data):
            self.sent += count
            return True
        if count < 0:
            self._rest = memoryview(data)  # not sent: `unsent` tells
            self.on_broken()
            return False
        self.sent += count
        self._rest = memoryview(data)[count:]
        self._set_mask(self._mask | WRITE)
        return False

    def _set_mask(self, mask: i64) -> None:
        transport = self.transport
        if mask != self._mask and transport is not None:
            self._mask = mask
            self.reactor.modify(transport.fd, mask)


@trait
class TickListener:
    """Who is told that a tick's input has been taken, before its output is sent."""

    def after_input(self) -> None:
        """Do what had to wait until no stream is reading."""


class Reactor:
    """The epoll set and the timers. `now` is the time of the current tick, read from `clock` (seconds) once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now: float = clock()
        self.clock: Final = clock
        self.nodes_touched: list[Stream] = []
        self.clients_touched: list[Stream] = []
        self.listener: TickListener | None = None
        self._epoll: Final = select.epoll()
        self._streams: dict[int, Stream] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial: int = 0
        self._most_timers: int = _TIMERS

    def fileno(self) -> int:
        """The epoll descriptor: readable when a stream is ready."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the epoll set; the streams are their owners' to close."""
        self._epoll.close()

    def add(self, stream: Stream, fd: int) -> None:
        """Take a stream into the set, reading."""
        self._epoll.register(fd, READ)
        self._streams[fd] = stream

    def modify(self, fd: int, mask: i64) -> None:
        """Change what a stream waits for."""
        self._epoll.modify(fd, int(mask))

    def remove(self, fd: int) -> None:
        """Take a stream out of the set, before its socket is closed."""
        del self._streams[fd]
        self._epoll.unregister(fd)

    def call_at(self, when: float, timer: Timer) -> None:
        """Set `timer`, which replaces what it was set to before."""
        if timer.due == when:
            return
        timer.due = when
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, timer))
        if len(self._timers) >= self._most_timers:
            # What was set anew or is over would be held until its time, which can be hours.
            self._timers = [entry for entry in self._timers if entry[2].due == entry[0]]
            heapq.heapify(self._timers)
            self._most_timers = max(_TIMERS, 2 * len(self._timers))

    def next_due(self) -> float:
        """When the first timer is due; infinity when none is set."""
        timers = self._timers
        while timers:
            when, _, timer = timers[0]
            if timer.due == when:
                return when
            heapq.heappop(timers)
        return float("inf")

    def poll(self, timeout: float) -> int:
        """The I/O of one tick: wait at most `timeout` seconds. Returns how many streams were ready."""
        events = self._epoll.poll(timeout, _EVENTS)
        self.now = self.clock()
        streams = self._streams
        for fd, mask in events:
            stream = streams.get(fd)
            if stream is None:
                continue
            if mask & READ:
                stream.on_readable()
                transport = stream.transport
                while transport is not None and transport.pending():
                    stream.on_readable()
                    transport = stream.transport
            elif mask & _GONE:
                stream.on_broken()
                continue
            elif mask & _DEPARTED:
                stream.on_departed()
                continue
            if mask & WRITE:
                stream.on_writable()
        return len(events)

    def run_timers(self) -> None:
        """Fire what is due."""
        while self.next_due() <= self.now:
            _, _, timer = heapq.heappop(self._timers)
            timer.due = 0.0
            timer.fire()

    def flush(self) -> None:
        """Send what the tick has written. Sending can fail, and failing can write: until nothing is left."""
        while True:
            listener = self.listener
            if listener is not None:
                listener.after_input()
            if not self.nodes_touched and not self.clients_touched:
                return
            for touched in (self.nodes_touched, self.clients_touched):
                streams = touched[:]
                touched.clear()
                for stream in streams:
                    stream.flush()
