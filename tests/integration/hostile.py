"""Nodes that lie: TCP servers in the test that know enough of a handshake to be taken for a cluster.

Each `HostileNode` greets like a Redis node and says the topology of its `HostileCluster`; what it answers to
everything else is the test's `answer`. Nothing here keeps data.

Invariants: every connection and every command is counted before it is answered; a node never dials.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
import trio

Answer = Callable[["HostileNode", list[bytes]], bytes]

HOST = "127.0.0.1"
SLOTS = 16_384


class HostileNode:
    """One of them. `commands` counts by upper-case name, `connections` all that were ever accepted."""

    def __init__(self, cluster: HostileCluster, number: int, listener: trio.SocketListener) -> None:
        self.id = f"{number:040x}"
        self.number = number
        self.port: int = listener.socket.getsockname()[1]
        self.listener = listener
        self.connections = 0
        self.commands: Counter[str] = Counter()
        self._cluster = cluster

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, until the other side closes it."""
        self.connections += 1
        client_id = self.connections
        reader = hiredis.Reader()
        try:
            async with stream:
                async for data in stream:
                    reader.feed(bytes(data))
                    while (words := reader.gets()) is not False:
                        await stream.send_all(self._reply(words, client_id))
        except trio.BrokenResourceError:
            return

    def _reply(self, words: list[bytes], client_id: int) -> bytes:
        name = words[0].upper().decode()
        self.commands[name] += 1
        if name == "CLIENT":
            return b":%d\r\n" % client_id if words[1].upper() == b"ID" else b"+OK\r\n"
        if name == "INFO":
            return bulk(f"# Server\r\nredis_version:7.0.15\r\nrun_id:{self.id}\r\n")
        if name == "CLUSTER":
            return self._cluster.slots() if words[1].upper() == b"SLOTS" else bulk(self._cluster.nodes_as(self))
        if name in ("MULTI", "DISCARD"):  # whether it is allowed
            return b"+OK\r\n"
        if name == "COMMAND":
            return b"-ERR unknown command 'COMMAND'\r\n"
        return self._cluster.answer(self, words)


class HostileCluster:
    """Some of them that share the slots evenly, by their own account. `answer` may be replaced at any time."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.nodes: list[HostileNode] = []

    @property
    def seeds(self) -> list[str]:
        return [node.address for node in self.nodes]

    def owner(self, slot: int) -> HostileNode:
        return self.nodes[slot * len(self.nodes) // SLOTS]

    def count(self, name: str) -> int:
        """How often a command came, to all nodes together."""
        return sum(node.commands[name] for node in self.nodes)

    def slots(self) -> bytes:
        rows = [
            b"*3\r\n:%d\r\n:%d\r\n*3\r\n%b:%d\r\n%b" % (first, last, bulk(HOST), node.port, bulk(node.id))
            for node, (first, last) in zip(self.nodes, self._ranges(), strict=True)
        ]
        return b"*%d\r\n" % len(rows) + b"".join(rows)

    def nodes_as(self, me: HostileNode) -> str:
        lines = []
        for node, (first, last) in zip(self.nodes, self._ranges(), strict=True):
            flags = "myself,master" if node is me else "master"
            bus = f"{node.address}@{node.port}"
            lines.append(f"{node.id} {bus} {flags} - 0 0 {node.number} connected {first}-{last}\n")
        return "".join(lines)

    def _ranges(self) -> list[tuple[int, int]]:
        edges = [-(-SLOTS * index // len(self.nodes)) for index in range(len(self.nodes) + 1)]
        return [(first, after - 1) for first, after in itertools.pairwise(edges)]


@asynccontextmanager
async def hostile_cluster(answer: Answer, nodes: int = 2) -> AsyncIterator[HostileCluster]:
    """Listening on free ports while the block runs."""
    cluster = HostileCluster(answer)
    async with trio.open_nursery() as nursery:
        for number in range(1, nodes + 1):
            (listener,) = await trio.open_tcp_listeners(0, host=HOST)
            node = HostileNode(cluster, number, listener)
            cluster.nodes.append(node)
        for node in cluster.nodes:
            nursery.start_soon(trio.serve_listeners, node.serve, [node.listener])
        yield cluster
        nursery.cancel_scope.cancel()


class Bait:
    """A listening address that nobody has a reason to dial."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.connections = 0
        self._listener = listener

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def serve(self) -> None:
        await trio.serve_listeners(self._count, [self._listener])

    async def _count(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        await stream.aclose()


@asynccontextmanager
async def bait() -> AsyncIterator[Bait]:
    """Listening while the block runs."""
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    bait = Bait(listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bait.serve)
        yield bait
        nursery.cancel_scope.cancel()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode())
