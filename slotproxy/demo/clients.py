"""Plain RESP2 clients: they know one address and nothing of clusters, and they check every reply.

Each kind does one thing that applications do. All keys are the client's own, so it always knows what must
come back; they carry the hash tags that the demo moves between nodes, `demo:{tag}:name:...`.

Invariants: a client sends nothing whose outcome it could not check; after an error it learns its values anew
(on a new connection unless everything in flight was answered), so that one fault is counted once and not
again with every later reply.
Nothing is retried: an error that reaches a client is an error of the proxy.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

import trio

from slotproxy.demo.connection import Argument, Connection, ErrorReply, pack
from slotproxy.demo.tally import Tally

# The proxy parks a request for at most 30 s by default; whoever waits longer waits for ever.
ANSWER_TIMEOUT = 40.0
RECONNECT_PAUSE = 0.2

Connect = Callable[[], Awaitable[Connection]]


class Client(ABC):
    """`run` until `stop`, then `check` that everything acknowledged is there."""

    kind: ClassVar[str]

    def __init__(self, number: int, tags: Sequence[str], connect: Connect, tally: Tally) -> None:
        self.name = f"{self.kind}-{number}"
        self.tags = list(tags)
        self.tally = tally
        self._connect = connect
        self._stopping = False

    def stop(self) -> None:
        """Finish what is in flight, then end."""
        self._stopping = True

    async def run(self) -> None:
        """Never raises for what the server or the network does: that goes into the tally."""
        while not self._stopping:
            if not await self._attempt(self._session):
                await trio.sleep(RECONNECT_PAUSE)

    async def check(self) -> None:
        """After `run`: read everything back on a new connection."""
        await self._attempt(self.verify)

    @abstractmethod
    async def learn(self, connection: Connection) -> None:
        """On a new connection: write or read what `work` starts from."""

    @abstractmethod
    async def work(self, connection: Connection) -> None:
        """One round of requests, each reply checked."""

    async def drain(self, connection: Connection) -> None:
        """Wait for what `work` left in flight."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def verify(self, connection: Connection) -> None:
        """Read back what was acknowledged."""

    def key(self, tag: str, suffix: object = "") -> str:
        return f"demo:{{{tag}}}:{self.name}:{suffix}"

    async def ask(self, connection: Connection, *args: Argument) -> Any:
        """One request, timed."""
        started = trio.current_time()
        reply = await connection.command(*args)
        self.tally.took(trio.current_time() - started)
        self.tally.answered()
        return reply

    def expect(self, asked: str, expected: object, got: object) -> bool:
        """Whether the two are equal; a wrong value is counted."""
        return self.tally.expect(self.name, asked, expected, got)

    async def _session(self, connection: Connection) -> None:
        await self.learn(connection)
        while not self._stopping:
            with trio.fail_after(ANSWER_TIMEOUT):
                await self.work(connection)
        with trio.fail_after(ANSWER_TIMEOUT):
            await self.drain(connection)

    async def _attempt(self, what: Callable[[Connection], Awaitable[None]]) -> bool:
        try:
            async with await self._connect() as connection:
                await what(connection)
            return True
        except (ErrorReply, OSError) as error:
            self.tally.error(self.name, error)
        except trio.TooSlowError:
            self.tally.error(self.name, f"no answer within {ANSWER_TIMEOUT:g} s")
        return False


class Reader(Client):
    """Writes its keys once and reads them over and over."""

    kind = "reader"

    async def learn(self, connection: Connection) -> None:
        for tag in self.tags:
            self.expect("SET", b"OK", await self.ask(connection, "SET", self.key(tag), self._value(tag)))

    async def work(self, connection: Connection) -> None:
        await self._read(connection, random.choice(self.tags))

    async def verify(self, connection: Connection) -> None:
        for tag in self.tags:
            await self._read(connection, tag)

    async def _read(self, connection: Connection, tag: str) -> None:
        self.expect(
            f"GET {self.key(tag)}", self._value(tag), await self.ask(connection, "GET", self.key(tag))
        )

    def _value(self, tag: str) -> bytes:
        return f"value of {self.key(tag)}".encode()


class Writer(Client):
    """Writes, and reads its own write."""

    kind = "writer"

    async def learn(self, connection: Connection) -> None:
        self._written: dict[str, bytes] = {}
        self._serial = 0

    async def work(self, connection: Connection) -> None:
        self._serial += 1
        key, value = self.key(random.choice(self.tags)), b"%d" % self._serial
        self.expect(f"SET {key}", b"OK", await self.ask(connection, "SET", key, value))
        self._written[key] = value
        self.expect(f"GET {key}", value, await self.ask(connection, "GET", key))

    async def verify(self, connection: Connection) -> None:
        for key, value in self._written.items():
            self.expect(f"GET {key}", value, await self.ask(connection, "GET", key))


class Counter(Client):
    """Counts with INCR, one request at a time: no number may be missing and none may come twice."""

    kind = "counter"

    async def learn(self, connection: Connection) -> None:
        self._counts: dict[str, int] = {}
        for tag in self.tags:
            self._counts[self.key(tag)] = int(await self.ask(connection, "GET", self.key(tag)) or 0)

    async def work(self, connection: Connection) -> None:
        key = self.key(random.choice(self.tags))
        count = await self.ask(connection, "INCR", key)
        self.expect(f"INCR {key}", self._counts[key] + 1, count)
        self._counts[key] = count

    async def verify(self, connection: Connection) -> None:
        for key, count in self._counts.items():
            self.expect(f"GET {key}", b"%d" % count, await self.ask(connection, "GET", key))


class Streamer(Counter):
    """Counts with hundreds of INCR in flight on one connection, over all tags: replies in order, no gap."""

    kind = "streamer"
    window = 200

    async def learn(self, connection: Connection) -> None:
        await super().learn(connection)
        self._in_flight: deque[tuple[str, int]] = deque()
        self._sent = dict(self._counts)
        self._lost_count = False

    async def work(self, connection: Connection) -> None:
        if self._lost_count:
            await self.drain(connection)
            await self.learn(connection)
        commands = bytearray()
        for _ in range(self.window - len(self._in_flight)):
            key = self.key(random.choice(self.tags))
            self._sent[key] += 1
            self._in_flight.append((key, self._sent[key]))
            commands += pack("INCR", key)
        await connection.send(bytes(commands))
        await self._receive(connection)

    async def drain(self, connection: Connection) -> None:
        while self._in_flight:
            await self._receive(connection)

    async def _receive(self, connection: Connection) -> None:
        for reply in await connection.receive_available():
            key, expected = self._in_flight.popleft()
            self.tally.answered()
            if isinstance(reply, ErrorReply):
                self.tally.error(self.name, reply)
                self._lost_count = True
            elif not self._lost_count:
                self._lost_count = not self.expect(f"INCR {key}", expected, reply)
                self._counts[key] = reply


class MultiKey(Client):
    """Commands over several keys: within one slot (atomic) and over many (split by the proxy)."""

    kind = "multikey"

    async def learn(self, connection: Connection) -> None:
        self._serial = 0
        await connection.command(
            "DEL", *self._everywhere(), *(k for tag in self.tags for k in self._three(tag))
        )

    async def work(self, connection: Connection) -> None:
        self._serial += 1
        value = b"%d" % self._serial
        three = self._three(random.choice(self.tags))
        pairs = [word for key in three for word in (key, value)]
        self.expect("MSET in one slot", b"OK", await self.ask(connection, "MSET", *pairs))
        self.expect("MGET in one slot", [value] * 3, await self.ask(connection, "MGET", *three))

        many = self._everywhere()
        some = random.sample(many, k=(len(many) + 1) // 2)
        for key in some:
            self.expect("SET", b"OK", await self.ask(connection, "SET", key, value))
        expected = [value if key in some else None for key in many]
        self.expect("MGET over slots", expected, await self.ask(connection, "MGET", *many))
        self.expect("EXISTS over slots", len(some), await self.ask(connection, "EXISTS", *many))
        self.expect("DEL over slots", len(some) + 3, await self.ask(connection, "DEL", *many, *three))
        self.expect("EXISTS after DEL", 0, await self.ask(connection, "EXISTS", *many, *three))

    async def verify(self, connection: Connection) -> None:
        keys = [*self._everywhere(), *(key for tag in self.tags for key in self._three(tag))]
        self.expect("EXISTS at the end", 0, await self.ask(connection, "EXISTS", *keys))

    def _everywhere(self) -> list[str]:
        return [self.key(tag) for tag in self.tags]

    def _three(self, tag: str) -> list[str]:
        return [self.key(tag, part) for part in ("a", "b", "c")]


KINDS: tuple[type[Client], ...] = (Reader, Writer, Counter, Streamer, MultiKey)


def make_clients(count: int, tags: Sequence[str], connect: Connect, tally: Tally) -> list[Client]:
    """`count` clients, the kinds in turn."""
    return [KINDS[number % len(KINDS)](number, tags, connect, tally) for number in range(count)]
