"""Client-side caches that are read through while others write; none may be stale longer than a round trip.

A `Store` knows of each key all values that were ever asked to be written, in order, and which of them has been
acknowledged last. A `Cache` is one tracking client: what is not in its cache it reads, and what it is told of it drops.
Before it uses its cache it makes one round trip (PING): what it has then must be no older than what had been
acknowledged when the PING was sent.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import hiredis
import trio

from slotproxy.demo.connection import Connection, ErrorReply, pack

Connect = Callable[[], Awaitable[Connection]]
Value = bytes | None

READING: Final = object()  # in the cache of a client whose invalidations come on another connection
_PATIENCE: Final = 40.0


class Store:
    """All that is written, by one writer for each key."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys: Final = list(keys)
        self.written: Final[dict[str, list[Value]]] = {key: [None] for key in keys}  # the last may be under way
        self.acknowledged: Final[dict[str, int]] = dict.fromkeys(keys, 0)
        self.writes = 0

    async def write(self, connect: Connect, keys: Sequence[str], stop: trio.Event) -> None:
        """Write some keys until told to stop. Raises ErrorReply."""
        async with await connect() as connection:
            while not stop.is_set():
                key = random.choice(keys)
                history = self.written[key]
                value = None if random.random() < 0.3 else b"%d" % len(history)
                history.append(value)
                with trio.fail_after(_PATIENCE):
                    if value is None:
                        await connection.command("DEL", key)
                    else:
                        await connection.command("SET", key, value)
                self.acknowledged[key] = len(history) - 1
                self.writes += 1
                await trio.sleep(random.random() * 0.004)


class Cache:
    """A tracking client. `told`: where its invalidations come, if not on its own connection."""

    def __init__(self, store: Store, connection: Connection, *, told: Connection | None = None, optin: bool = False):
        self.hits = 0
        self.invalidations = 0
        self.flushes = 0
        self._store: Final = store
        self._connection: Final = connection
        self._told: Final = told
        self._optin: Final = optin
        self._cached: dict[str, object] = {}

    async def read(self, stop: trio.Event) -> None:
        """Read through the cache until told to stop, and look after each round trip what it holds."""
        while not stop.is_set():
            await self._fill(random.sample(self._store.keys, min(6, len(self._store.keys))))
            await self.check()

    async def check(self) -> None:
        """One round trip; then everything in the cache is to be as new as what had been acknowledged before it."""
        least = dict(self._store.acknowledged)
        await self._round_trip(self._told or self._connection)
        for key, value in self._cached.items():
            if value is READING:
                continue
            possible = self._store.written[key][least[key] :]
            assert value in possible, f"{key}: {value!r} is cached, acknowledged was {possible[0]!r}"
            self.hits += 1

    async def _fill(self, keys: list[str]) -> None:
        asked = [key for key in keys if key not in self._cached]
        for key in asked if self._told is not None else []:
            self._cached[key] = READING
        commands = [pack("GET", key) for key in asked]
        if self._optin:
            commands = [pack("CLIENT", "CACHING", "YES") + command for command in commands]
        await self._connection.send(b"".join(commands))
        for key in asked:
            if self._optin:
                assert await self._reply(self._connection) == b"OK"
            value = await self._reply(self._connection)
            if isinstance(value, ErrorReply):
                raise value
            if self._told is None or self._cached.get(key) is READING:
                self._cached[key] = value

    async def _round_trip(self, connection: Connection) -> None:
        await connection.send(pack("PING"))
        assert await self._reply(connection) == b"PONG"

    async def _reply(self, connection: Connection) -> object:
        """The next reply; what is pushed before it is heeded."""
        with trio.fail_after(_PATIENCE):
            while True:
                frame = await connection.receive()
                if not isinstance(frame, hiredis.PushNotification):
                    return frame
                assert frame[0] == b"invalidate", frame
                if frame[1] is None:
                    self.flushes += 1
                    self._cached.clear()
                else:
                    for key in frame[1]:
                        self.invalidations += 1
                        self._cached.pop(key.decode(), None)
