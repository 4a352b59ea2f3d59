"""An admin endpoint under test, and a peer that reads exactly one reply at a time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from tests.control.sources import FixedSources


@dataclass
class Served:
    """An endpoint on a free port, and what it shows."""

    sources: FixedSources
    reasons: list[str] = field(default_factory=list)
    address: tuple[str, int] = ("", 0)

    async def connect(self) -> "Peer":
        return Peer(await trio.open_tcp_stream(*self.address))

    async def get(self, path: str, method: str = "GET", *headers: str) -> "Reply":
        """One request on a connection of its own."""
        async with await self.connect() as peer:
            return await peer.ask(path, method, *headers)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Peer:
    """One connection, read by what its Content-Length says."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._received = b""

    async def __aenter__(self) -> "Peer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, path: str, method: str = "GET", *headers: str) -> Reply:
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *headers))
        await self.send(f"{head}\r\n".encode())
        return await self.reply(bodyless=method == "HEAD")

    async def reply(self, bodyless: bool = False) -> Reply:
        with trio.fail_after(60):
            while b"\r\n\r\n" not in self._received:
                await self._more()
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = 0 if bodyless else int(headers["content-length"])
            while len(self._received) < size:
                await self._more()
        body, self._received = self._received[:size], self._received[size:]
        return Reply(int(first.split()[1]), headers, body)

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, f"closed after {self._received!r}"
        self._received += data

    async def closed(self) -> bool:
        """Waits for the other side to close without another byte."""
        with trio.fail_after(600):
            try:
                return await self.stream.receive_some(1) == b"" and not self._received
            except trio.BrokenResourceError:
                return True


Connect = Callable[[], Awaitable[Peer]]
