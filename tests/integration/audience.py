"""Many subscribers of one publisher: each must have every message, once and in order, or count a gap.

Duty: an audience of plain connections that reads bytes and compares them with what must come, message by message; a
publisher with a window of messages in flight. A thousand clients with ten thousand messages each are ten million, so
what is as expected is compared in one piece.

Invariant: numbers only grow, on each connection; what is missing is noted as runs (`gaps`), never passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from slotproxy.demo.connection import Connection, connect, pack
from tests.integration.wire import Wire, dial

PATIENCE: Final = 60.0
_WINDOW: Final = 20
_PAUSE: Final = 0.005  # seconds between two windows: the pace of the load
_DIGITS: Final = 8


def message(protocol: int, channel: bytes, number: int, sharded: bool) -> bytes:
    """What a subscriber reads for the message of that number."""
    word = b"smessage" if sharded else b"message"
    text = b"%0*d" % (_DIGITS, number)
    frames = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in (word, channel, text))
    return (b">3\r\n" if protocol == 3 else b"*3\r\n") + frames


class Listener:
    """One subscriber. `expected`: the number of the next message, if none is missing."""

    def __init__(self, wire: Wire, protocol: int, whole: bytes, size: int) -> None:
        self.protocol = protocol
        self.expected = 0
        self.gaps: list[tuple[int, int]] = []  # numbers that never came: from, and up to but without
        self._wire = wire
        self._whole = whole  # all messages that will come
        self._size = size  # of one
        self._rest = b""

    async def listen(self, count: int) -> None:
        """Until the last of `count` messages has come."""
        while self.expected < count:
            data = await self._wire.socket.recv(1 << 16)
            assert data, "hung up on"
            self._take(self._rest + data)

    def _take(self, data: bytes) -> None:
        size = self._size
        end = len(data) - len(data) % size
        self._rest = data[end:]
        start = self.expected * size
        if data[:end] == self._whole[start : start + end]:
            self.expected += end // size
            return
        for at in range(0, end, size):
            frame = data[at : at + size]
            number = int(frame[-_DIGITS - 2 : -2])
            assert frame == self._whole[number * size : (number + 1) * size], frame
            assert number >= self.expected, f"{number} came when {self.expected} was due"
            if number > self.expected:
                self.gaps.append((self.expected, number))
            self.expected = number + 1


class Audience:
    """`size` subscribers of one channel, in both protocols by turns, and the publisher."""

    def __init__(self, port: int, channel: bytes, count: int, sharded: bool = False) -> None:
        self.listeners: list[Listener] = []
        self.counts: set[int] = set()  # what PUBLISH said
        self.has_ended = trio.Event()  # what is to happen meanwhile is over
        self._port = port
        self._channel = channel
        self._count = count
        self._sharded = sharded
        frames = {protocol: [message(protocol, channel, n, sharded) for n in range(count)] for protocol in (2, 3)}
        self._whole = {protocol: b"".join(all_) for protocol, all_ in frames.items()}
        self._size = len(frames[2][0])
        self._wires: list[Wire] = []

    async def subscribe(self, size: int) -> None:
        """So many join; all have been confirmed when this returns."""
        word = "SSUBSCRIBE" if self._sharded else "SUBSCRIBE"
        for number in range(size):
            wire = await dial(self._port)
            self._wires.append(wire)
            protocol = 2 + number % 2
            if protocol == 3:
                await wire.ask(pack("HELLO", "3"))
            await wire.send(pack(word, self._channel))
            confirmed = message(protocol, self._channel, 0, False).partition(b"$")[0]
            confirmed += b"$%d\r\n%b\r\n" % (len(word), word.lower().encode())
            confirmed += b"$%d\r\n%b\r\n:1\r\n" % (len(self._channel), self._channel)
            assert await wire.read(len(confirmed)) == confirmed
            self.listeners.append(Listener(wire, protocol, self._whole[protocol], self._size))

    async def listen(self) -> None:
        """All read until each has had the last message."""
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for listener in self.listeners:
                    nursery.start_soon(listener.listen, self._count)

    async def publish(self) -> None:
        """All messages in order, some in flight at a time; the last window when all has happened that is to."""
        word = "SPUBLISH" if self._sharded else "PUBLISH"
        async with await connect("127.0.0.1", self._port) as publisher:
            for start in range(0, self._count, _WINDOW):
                if start + _WINDOW >= self._count:
                    await self.has_ended.wait()
                await self._publish(publisher, word, range(start, min(start + _WINDOW, self._count)))
                await trio.sleep(_PAUSE)

    async def _publish(self, publisher: Connection, word: str, numbers: Sequence[int]) -> None:
        commands = [(word, self._channel, b"%0*d" % (_DIGITS, number)) for number in numbers]
        self.counts.update(await publisher.pipeline(*commands))

    def gaps(self) -> list[tuple[int, int]]:
        """All that is missing, of all listeners."""
        return [gap for listener in self.listeners for gap in listener.gaps]

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
