"""A wire between the proxy and a node that a test can cut: what was sent can be kept back and arrive late.

The proxy is told to dial the relay instead of the node (`--address-map`). `hold` keeps back what the proxy
sends on the connections that exist then; `cut` resets these towards the proxy and leaves them open towards the
node, so that `let_go` delivers, late, what a dead connection still held. That is what the kernel's buffers do.

Invariants: connections made after `hold` are not held; replies of the node are never kept back.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from slotproxy.demo.node import Node

HOST = "127.0.0.1"
_RECEIVE = 65_536
_TCP_REPAIR = 19  # linux/tcp.h: a socket that is closed in this mode sends nothing


class Pair:
    """One connection: proxy, relay, node."""

    def __init__(self, proxy: trio.SocketStream, node: trio.SocketStream) -> None:
        self.proxy = proxy
        self.node = node
        self.passing = trio.Event()
        self.passing.set()
        self.reads_on = True
        self.kept = 0
        self.cut = False
        self.ended = False
        self.ended_by_node = trio.Event()

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._forward)
                await self._backward()
                if not self.cut:
                    nursery.cancel_scope.cancel()
        finally:
            self.ended = True
            for stream in (self.proxy, self.node):
                stream.socket.close()

    async def _forward(self) -> None:
        try:
            while True:
                if not self.reads_on:
                    await self.passing.wait()
                data = await self.proxy.receive_some(_RECEIVE)
                if not data:
                    break
                if not self.passing.is_set():
                    self.kept += len(data)
                    await self.passing.wait()
                await self.node.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if not self.cut:
            self.node.socket.close()

    async def _backward(self) -> None:
        try:
            while data := await self.node.receive_some(_RECEIVE):
                if not self.cut:
                    await self.proxy.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.ended_by_node.set()

    def reset(self) -> None:
        """RST to the proxy; the node notices nothing."""
        if self.ended or self.cut:
            return
        self.cut = True
        self.proxy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.proxy.socket.close()

    def vanish(self) -> None:
        """The proxy's connection is gone, and nobody tells the proxy. Raises PermissionError where root is needed."""
        self.proxy.socket.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        self.cut = True
        self.proxy.socket.close()


class Relay:
    """In front of `node`. `pairs` are the connections ever made."""

    def __init__(self, node: Node, listener: trio.SocketListener) -> None:
        self.port: int = listener.socket.getsockname()[1]
        self.pairs: list[Pair] = []
        self._node = node
        self._listener = listener

    def flags(self) -> list[str]:
        """What to tell the proxy."""
        return ["--address-map", f"{self._node.address}={HOST}:{self.port}"]

    def hold(self, *, read: bool = True) -> list[Pair]:
        """Keep back what comes on today's connections; `read` False: do not even take it from the kernel."""
        held = [pair for pair in self.pairs if not pair.ended and not pair.cut]
        for pair in held:
            pair.passing = trio.Event()
            pair.reads_on = read
        return held

    def let_go(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            pair.passing.set()

    def cut(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            pair.reset()

    async def serve(self) -> None:
        await trio.serve_listeners(self._serve, [self._listener])

    async def _serve(self, proxy: trio.SocketStream) -> None:
        try:
            node = await trio.open_tcp_stream(self._node.host, self._node.port)
        except OSError:
            await proxy.aclose()
            return
        pair = Pair(proxy, node)
        self.pairs.append(pair)
        await pair.run()


@asynccontextmanager
async def relay_to(node: Node) -> AsyncIterator[Relay]:
    """Listening while the block runs."""
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    relay = Relay(node, listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.serve)
        yield relay
        nursery.cancel_scope.cancel()
