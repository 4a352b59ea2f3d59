"""A real server that is told exact bytes: what it answers, and where it stops listening."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from slotproxy.demo.guard import Guard
from slotproxy.demo.node import Node
from slotproxy.protocol.replies import ReplyScanner


class LiveServer:
    """A redis-server in cluster mode, alone and without slots: keyless commands work, EVAL included."""

    def __init__(self, port: int) -> None:
        self.port = port

    def answers(self, data: bytes) -> list[bytes]:
        """All replies to `data`, which is all that this connection ever sends."""
        scanner = ReplyScanner()
        replies: list[bytes] = []
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            try:
                peer.sendall(data)
                # The server reads what came before the end of the stream and answers it, then closes.
                peer.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has hung up on a protocol error already; its answer is there to be read
            while True:
                try:
                    received = peer.recv(65536)
                except ConnectionResetError:
                    received = b""
                if not received:
                    break
                scanner.feed(received)
                while scanner.scan():
                    replies.append(scanner.buffer[scanner.start : scanner.end])
        assert scanner.buffered() == 0
        return replies


@contextmanager
def live_server(binary: str) -> Iterator[LiveServer]:
    guard = Guard("slotproxy-test-")
    try:
        node = Node(binary, "alone", guard, {})

        async def start() -> None:
            await node.start()
            node.disconnect()

        trio.run(start)
        yield LiveServer(node.port)
        node.kill()
    finally:
        guard.close()
