"""Where an application finds its Redis, and what happens to that while it works.

A stage's `happen` waits for rounds of the application's work between the steps, so that each step has work under way
and each time of trouble is followed by some rest.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Argument, ErrorReply, connect
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import Migration
from tests.integration.load import ORDERS

PASSES = 3
NAMED, OTHERS = 8, 4  # slots in each pass: of keys that the application named, and of others that are there
LEAST_MOVES = 4  # in each pass, also of one slot only
OPEN_FOR = 0.02  # seconds before a slot's first key goes and after its last: an application's pace is not a load's

Answered = Callable[[int], Awaitable[None]]


class Commanded(Protocol):
    async def command(self, *args: Argument) -> object: ...


@dataclass(frozen=True)
class State:
    """What is in Redis: how often each task ran, what was written down in order, and all other keys."""

    ran: dict[str, int]
    order: dict[str, list[str]]
    keys: set[str]


class Stage:
    """`port` serves a Redis. The nodes themselves are asked what is in it."""

    def __init__(self, port: int) -> None:
        # redis-py 8 gives up a command after five seconds and sends it again.
        self.url = f"redis://127.0.0.1:{port}/0?socket_timeout=60"
        self.port = port

    async def happen(self, keys: Sequence[str], answered: Answered) -> None:
        """Returns when it has happened. `keys`: some that the application uses."""
        await answered(2)

    async def subscribes(self) -> bool:
        async with await connect("127.0.0.1", self.port) as connection:
            try:
                await connection.command("SUBSCRIBE", "any")
            except ErrorReply:
                return False
            return True

    async def state(self) -> State:
        async with await connect("127.0.0.1", self.port) as connection:
            return await state_of([connection])


async def state_of(nodes: Sequence[Commanded]) -> State:
    state = State({}, {}, set())
    for node in nodes:
        for key in await keys_at(node):
            kind, _, name = key.partition(":")
            if kind == "ran":
                runs = await node.command("GET", key)
                assert isinstance(runs, bytes)
                state.ran[name] = int(runs)
            elif kind == "order":
                entries = await node.command("LRANGE", key, 0, -1)
                assert isinstance(entries, list)
                state.order[name] = [entry.decode() for entry in entries]
            else:
                state.keys.add(key)
    return state


async def keys_at(node: Commanded) -> list[str]:
    keys = await node.command("KEYS", "*")
    assert isinstance(keys, list)
    return [key.decode() for key in keys]


class ClusterStage(Stage):
    """Behind a proxy."""

    def __init__(self, cluster: EmbeddedCluster, front: ProxyProcess) -> None:
        super().__init__(front.port)
        self.cluster = cluster
        self.front = front

    async def state(self) -> State:
        return await state_of(await self.cluster.primaries())


class MovingStage(ClusterStage):
    """The slots of the application's keys move from node to node, one key at a time."""

    async def happen(self, keys: Sequence[str], answered: Answered) -> None:
        number = 0
        while number < PASSES or not await self._redirected():
            await answered(1)
            await self._move_some(keys, number)
            number += 1
        await answered(1)

    async def _redirected(self) -> bool:
        """Whether work has met slots that had moved, and slots that were on their way."""
        metrics = await self.front.metrics()
        return metrics["slotproxy_moved_total"] > 2 and metrics["slotproxy_ask_total"] > 2

    async def _move_some(self, keys: Sequence[str], number: int) -> None:
        primaries = await self.cluster.primaries()
        found = {key for node in primaries for key in await keys_at(node)}
        named = {await self.cluster.slot_of(key) for key in keys}
        others = {await self.cluster.slot_of(key) for key in sorted(found)} - named
        slots = [*some(named, NAMED), *some(others, OTHERS)]
        for slot in itertools.islice(itertools.cycle(slots), max(len(slots), LEAST_MOVES)):
            source = await self.cluster.owner(slot)
            target = random.choice([node for node in primaries if node is not source])
            migration = Migration(self.cluster, slot, source, target, order=ORDERS[number % 2])
            await migration.open()
            await trio.sleep(OPEN_FOR)
            await migration.move_keys(batch=1)
            await trio.sleep(OPEN_FOR)
            await migration.finish(batch=1)


def some(slots: set[int], most: int) -> list[int]:
    return random.sample(sorted(slots), min(len(slots), most))


class FailoverStage(ClusterStage):
    """Each primary's replica takes its place, one after the other."""

    async def happen(self, keys: Sequence[str], answered: Answered) -> None:
        for old in await self.cluster.primaries():
            await answered(1)
            replica = await self._replica_of(old)
            await replica.command("CLUSTER", "FAILOVER")
            await until(lambda replica=replica: leads(replica), within=20)  # type: ignore[misc]
        await answered(2)
        metrics = await self.front.metrics()
        assert metrics["slotproxy_moved_total"] > 0, metrics

    async def _replica_of(self, primary: Node) -> Node:
        for node in self.cluster.nodes:
            if (await node.myself()).primary == primary.id:
                return node
        raise LookupError(f"{primary} has no replica")


async def leads(node: Node) -> bool:
    return bool((await node.myself()).slots)
