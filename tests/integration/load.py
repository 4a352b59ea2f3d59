"""Plain clients that keep a history of all they do, slots that move under them, and a last look at the nodes.

A `Stream` is one client on one connection: it keeps up to `window` commands in flight and never waits for one
to end before it sends the next (with a window of 1 it is the usual blocking client). What it sends comes from
one of the generators below; each has keys of its own, so its history can be checked by itself.

Invariants: a client sends nothing that `tests.history` has no model of; nothing is retried; an error is a
reply like any other and stands in the history. Pauses are only those that set the pace of a load.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply, pack
from slotproxy.demo.node import Node
from slotproxy.demo.reshard import Order, move_slot
from tests.history import Command, History

Commands = Iterator[Command]
Connect = Callable[[], Awaitable[Connection]]

# Multiplies the moves of the long tests: CI takes seconds, a night may take hours.
LONGER = float(os.environ.get("SLOTPROXY_TEST_SECONDS", "0"))
ANSWER_TIMEOUT = 40.0
ORDERS: Sequence[Order] = ("target-first", "source-first")


class Stream:
    """One client. `run` until `stop`, then everything in flight is answered."""

    def __init__(self, name: str, commands: Commands, *, window: int = 1) -> None:
        self.history = History(name)
        self.most_in_flight = 0
        self._commands = commands
        self._window = window
        self._in_flight: deque[Command] = deque()
        self._stopping = False
        self._wake = trio.Event()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping = True
        self._wake.set()

    async def run(self, connect: Connect) -> None:
        """Raises OSError when the proxy hangs up, trio.TooSlowError when it does not answer."""
        async with await connect() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(self._send, connection)
            while not (self._stopping and not self._in_flight):
                await self._receive(connection)

    async def _send(self, connection: Connection) -> None:
        while not self._stopping:
            room = self._window - len(self._in_flight)
            if room <= 0:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            batch = list(itertools.islice(self._commands, random.randint(1, room)))
            self._in_flight += batch
            self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
            await connection.send(b"".join(pack(*command) for command in batch))
            await trio.lowlevel.checkpoint()
        self._wake.set()

    async def _receive(self, connection: Connection) -> None:
        if not self._in_flight:
            # Nothing to wait for yet, or nothing any more.
            await trio.lowlevel.checkpoint()
            return
        with trio.fail_after(ANSWER_TIMEOUT):
            replies = await connection.receive_available()
        for reply in replies:
            self.history.record(self._in_flight.popleft(), reply)
        self._wake.set()


@asynccontextmanager
async def running(streams: Sequence[Stream], connect: Connect) -> AsyncIterator[None]:
    """The streams work while the body runs; at its end all that is in flight has been answered."""
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.run, connect)
        yield
        for stream in streams:
            stream.stop()


async def answered(streams: Sequence[Stream], count: int) -> None:
    """Wait until each of the streams has had `count` more replies."""
    goals = [(stream, len(stream.history.events) + count) for stream in streams]
    while any(len(stream.history.events) < goal for stream, goal in goals):  # noqa: ASYNC110
        await trio.sleep(0.005)


# ---- what clients send


def counting(name: str, tags: Sequence[str]) -> Commands:
    """INCR of the client's own counters, one for each tag."""
    keys = [f"{{{tag}}}:{name}" for tag in tags]
    while True:
        yield "INCR", random.choice(keys)


def with_barriers(name: str, tag: str) -> Commands:
    """INCRs, and commands over two keys of the slot whose values tell what came before and after them."""
    c, a, b, z = (f"{{{tag}}}:{name}:{key}" for key in "cabz")
    for number in itertools.count():
        for _ in range(random.randint(1, 12)):
            yield "INCR", c
        # Each value is written by a command over two keys and changed by one over one, or the reverse.
        yield "MSET", a, number, b, number
        yield "INCR", a
        yield "APPEND", b, "x"
        yield "GET", b
        yield "RENAME", a, z
        yield "SET", a, -number
        yield "INCR", c
        yield "GET", z
        yield "RENAME", a, b
        yield "APPEND", b, "y"
        yield "GET", b
        yield "GET", a


def mixed(name: str, tags: Sequence[str]) -> Commands:
    """What applications send: single keys, several keys of one slot, several keys over slots."""
    everywhere = [f"{{{tag}}}:{name}:w" for tag in tags]
    while True:
        yield from random.choice(_MIX)(name, tags, everywhere)


def _single(name: str, tags: Sequence[str], everywhere: list[str]) -> Commands:
    key = f"{{{random.choice(tags)}}}:{name}:s"
    yield "SET", key, random.randint(0, 999)
    yield "INCR", key
    yield "GET", key


def _count(name: str, tags: Sequence[str], everywhere: list[str]) -> Commands:
    yield "INCR", f"{{{random.choice(tags)}}}:{name}:n"


def _one_slot(name: str, tags: Sequence[str], everywhere: list[str]) -> Commands:
    tag, value = random.choice(tags), random.randint(0, 999)
    a, b, z = (f"{{{tag}}}:{name}:{key}" for key in "abz")
    yield "MSET", a, value, b, value
    yield "MGET", a, b
    yield "RENAME", a, z
    yield "MGET", a, b, z
    yield "DEL", b, z


def _sets(name: str, tags: Sequence[str], everywhere: list[str]) -> Commands:
    tag = random.choice(tags)
    left, right = (f"{{{tag}}}:{name}:{key}" for key in ("left", "right"))
    yield "SADD", left, *random.sample("abcdef", 3)
    yield "SADD", right, *random.sample("abcdef", 3)
    yield "SINTER", left, right


def _over_slots(name: str, tags: Sequence[str], everywhere: list[str]) -> Commands:
    some = random.sample(everywhere, k=max(1, len(everywhere) // 2))
    value = random.randint(0, 999)
    yield ("MSET", *(word for key in some for word in (key, value)))
    yield ("MGET", *everywhere)
    yield ("EXISTS", *everywhere)
    yield ("TOUCH", *some)
    yield (random.choice(("DEL", "UNLINK")), *random.sample(everywhere, k=max(1, len(everywhere) // 3)))
    yield ("MGET", *everywhere)


_MIX: list[Callable[[str, Sequence[str], list[str]], Commands]] = [
    _single, _count, _count, _count, _one_slot, _sets, _over_slots
]  # fmt: skip


# ---- slots and the nodes


async def tags_of(cluster: EmbeddedCluster, node: Node, count: int) -> dict[str, int]:
    """`count` hash tags whose slots, all different, the node owns: `{tag: slot}`."""
    owned = await cluster.slots_of(node)
    found: dict[str, int] = {}
    for start in range(0, 100_000, 200):
        tags = [f"t{number}" for number in range(start, start + 200)]
        slots = await node.pipeline(*(("CLUSTER", "KEYSLOT", tag) for tag in tags))
        for tag, slot in zip(tags, slots, strict=True):
            if slot in owned and slot not in found.values():
                found[tag] = slot
                if len(found) == count:
                    return found
    raise LookupError(f"{node} owns less than {count} slots")


@dataclass(frozen=True)
class Ride:
    """A slot that moves from one node to another and, the next time, back."""

    slot: int
    here: Node
    there: Node


async def shuttle(
    cluster: EmbeddedCluster,
    rides: Sequence[Ride],
    rounds: int,
    *,
    first: int = 0,
    batch: int = 1,
    pause: float = 0.0,
    per_second: float = 0.0,
) -> None:
    """In each round every slot moves once, `batch` keys at a time; the next round brings it back.

    `pause` seconds pass after each step of a move.

    One move at a time: MIGRATE blocks a node, and two nodes that migrate towards each other block until the
    timeout. Each finalisation order gets two rounds, so that both directions see both (`first`: how many
    rounds there were before). A round that came late does not make the next one come early: a slot that goes
    away and comes back within one window of commands in flight is what the ordering contract excludes.
    """
    for number in range(first, first + rounds):
        due = trio.current_time() + (1 / per_second if per_second else 0.0)
        for ride in rides:
            ends = (ride.here, ride.there) if number % 2 == 0 else (ride.there, ride.here)
            order = ORDERS[number // 2 % 2]
            try:
                await move_slot(cluster, ride.slot, *ends, batch=batch, pause=pause, order=order)
            except ErrorReply as problem:
                if "I'm not the owner" not in str(problem):
                    raise
                # On a starved machine a claim of the last move has been seen to be lost: the slot has no owner then.
                await cluster.assign(ride.slot, *ends)
                await move_slot(cluster, ride.slot, *ends, batch=batch, pause=pause, order=order)
        await trio.sleep_until(due)


async def check_against_nodes(cluster: EmbeddedCluster, streams: Sequence[Stream]) -> None:
    """Append the counters' values at the nodes to the histories, and check these. Ends every load."""
    for stream in streams:
        for key in stream.history.keys_that("INCR"):
            owner = await cluster.owner(await cluster.slot_of(key))
            stream.history.record(("GET", key), await owner.command("GET", key))
        stream.history.assert_possible()
