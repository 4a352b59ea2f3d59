"""A client that speaks bytes, a well-behaved one to stand beside it, and what the kernel says of the proxy.

The attacks of test_bad_input, and the byte for byte comparisons of test_answers, use a socket directly: what they
send is not what a client library would.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Argument, Connection, connect, pack
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess

HOST: Final = "127.0.0.1"
PATIENCE: Final = 20.0
"""Seconds that a well-behaved client may wait for its replies while others attack, on a busy machine."""

_MARK: Final = b"~end of the replies~"
_MARK_REPLY: Final = b"$%d\r\n%b\r\n" % (len(_MARK), _MARK)


class Wire:
    """A TCP connection of bytes. Made by `dial`; leaving the block closes it."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        self.received = b""

    async def send(self, data: bytes) -> None:
        """All of it. Raises OSError when the other side has gone."""
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def read(self, size: int) -> bytes:
        """Exactly that many bytes. Raises ConnectionError when the stream ends before."""
        while len(self.received) < size:
            self._take(await self.socket.recv(1 << 18))
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    async def discard(self, size: int) -> None:
        """Read that many bytes and forget them."""
        size -= len(await self.read(min(size, len(self.received))))
        while size > 0:
            data = await self.socket.recv(min(1 << 18, size))
            if not data:
                raise ConnectionError("the stream ended early")
            size -= len(data)

    async def read_to_end(self) -> bytes:
        """Everything until the proxy closes; a reset is an end too."""
        try:
            while data := await self.socket.recv(1 << 18):
                self.received += data
        except ConnectionResetError:
            pass
        taken, self.received = self.received, b""
        return taken

    async def ask(self, data: bytes) -> bytes:
        """Send requests, read all that is answered to them: no matter how many replies, and of what kind.

        When the proxy closes the connection instead, what it said before that and `<closed>`.
        """
        try:
            await self.send(data + pack("PING", _MARK))
            while not self.received.endswith(_MARK_REPLY):
                self._take(await self.socket.recv(1 << 18))
        except OSError:
            return await self.read_to_end() + b"<closed>"
        taken, self.received = self.received[: -len(_MARK_REPLY)], b""
        return taken

    def finish_sending(self) -> None:
        """Close our side only."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish: the other side gets an RST, not an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """An orderly end, unless replies are unread."""
        self.socket.close()

    def _take(self, data: bytes) -> None:
        if not data:
            raise ConnectionError("the stream ended early")
        self.received += data

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


async def dial(target: int | str, *, receive_buffer: int = 0) -> Wire:
    """Connect to a port on loopback or to a Unix socket. `receive_buffer`: the kernel's, in bytes."""
    unix = isinstance(target, str)
    sock = trio.socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(target if unix else (HOST, target))
    except BaseException:
        sock.close()
        raise
    return Wire(sock)


def packed(requests: Sequence[bytes | Sequence[Argument]]) -> bytes:
    """Requests in a row; bytes stand for themselves."""
    return b"".join(request if isinstance(request, bytes) else pack(*request) for request in requests)


# ---- the well-behaved client


class Witness:
    """What the well-behaved client has seen. `rounds` of six checked replies each; seconds for the slowest."""

    def __init__(self) -> None:
        self.rounds = 0
        self.slowest = 0.0
        self._seen = trio.Event()

    async def more_rounds(self, count: int = 3) -> None:
        """Returns after that many further rounds: nothing done before was the last thing the proxy did."""
        goal = self.rounds + count
        while self.rounds < goal:
            await self._seen.wait()

    def _saw(self, seconds: float) -> None:
        self.rounds += 1
        self.slowest = max(self.slowest, seconds)
        self._seen.set()
        self._seen = trio.Event()


_names = itertools.count(1)


@asynccontextmanager
async def witness(proxy: ProxyProcess) -> AsyncIterator[Witness]:
    """A client beside the block that writes, counts and reads, also over slots, and checks every reply.

    Any wrong value, error, lost connection or wait beyond PATIENCE fails the block.
    """
    seen = Witness()
    async with await connect(proxy.host, proxy.port) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(_look, connection, seen, f"witness-{next(_names)}")
        yield seen
        with trio.fail_after(PATIENCE):
            await seen.more_rounds()
        nursery.cancel_scope.cancel()


async def _look(connection: Connection, seen: Witness, name: str) -> None:
    while True:
        value = b"%b %d" % (os.urandom(8), seen.rounds)
        started = trio.current_time()
        with trio.fail_after(PATIENCE):
            replies = await connection.pipeline(
                ("INCR", f"{name}:n"),
                ("SET", f"{name}:a", value),
                ("MSET", f"{name}:b", value, f"{name}:c", value),
                ("PING", value),
                ("MGET", f"{name}:a", f"{name}:b", f"{name}:c", f"{name}:missing"),
                ("GET", f"{name}:n"),
            )
        count = seen.rounds + 1
        assert replies == [count, b"OK", b"OK", value, [value] * 3 + [None], b"%d" % count], replies
        seen._saw(trio.current_time() - started)
        # Beside the attack, not one of its own.
        await trio.sleep(0.005)


# ---- what the kernel says


def descriptors(proxy: ProxyProcess) -> int:
    """How many file descriptors it has open."""
    return len(os.listdir(f"/proc/{proxy.pid}/fd"))


def resident(proxy: ProxyProcess) -> int:
    """Its resident memory, in bytes."""
    pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident(proxy: ProxyProcess) -> int:
    """The most that it was resident since `forget_peak`, in bytes."""
    for line in Path(f"/proc/{proxy.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmHWM in /proc/PID/status")


def forget_peak(proxy: ProxyProcess) -> None:
    """Measure `peak_resident` from now on."""
    Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")


def processor_seconds(proxy: ProxyProcess) -> float:
    """User and system time that it has used."""
    fields = Path(f"/proc/{proxy.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def settled_descriptors(proxy: ProxyProcess) -> int:
    """How many it has open once that number rests: connections that have ended are noticed a little later."""
    counts: list[int] = []

    def rests() -> bool:
        counts.append(descriptors(proxy))
        return len(counts) >= 8 and len(set(counts[-8:])) == 1

    await until(rests, within=20)
    return counts[-1]


async def lanes(cluster: EmbeddedCluster) -> list[set[bytes]]:
    """The CLIENT IDs of the proxy's connections, by node."""
    found: list[set[bytes]] = []
    for node in cluster.nodes:
        listed: bytes = await node.command("CLIENT", "LIST")
        clients = [dict(word.partition(b"=")[::2] for word in line.split()) for line in listed.splitlines()]
        found.append({client[b"id"] for client in clients if client[b"name"] == b"slotproxy"})
    return found


@asynccontextmanager
async def nothing_left(proxy: ProxyProcess, cluster: EmbeddedCluster) -> AsyncIterator[None]:
    """After the block: as many descriptors as before, no client, nothing in flight, the same connections to nodes.

    For a proxy with the usual two connections per node.
    """

    async def connected() -> bool:
        return all(len(ids) == 2 for ids in await lanes(cluster))

    await until(connected, within=20)
    connections = await lanes(cluster)
    count = await settled_descriptors(proxy)
    yield
    await until(lambda: descriptors(proxy) <= count, within=20)
    assert await settled_descriptors(proxy) == count
    figures = await proxy.metrics()
    assert figures["slotproxy_client_connections"] == 0
    assert figures["slotproxy_requests_in_flight"] == 0
    assert await lanes(cluster) == connections, "a connection to a node was lost"


async def in_parallel(attack: Callable[[int], Awaitable[None]], count: int, *, at_once: int) -> None:
    """`attack(0)` to `attack(count - 1)`, at most `at_once` of them at a time."""
    room = trio.CapacityLimiter(at_once)

    async def one(number: int) -> None:
        await attack(number)
        room.release_on_behalf_of(number)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            await room.acquire_on_behalf_of(number)
            nursery.start_soon(one, number)
