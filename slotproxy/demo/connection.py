"""One RESP2 connection that understands its replies (hiredis), on trio.

Used by the demo's clients and to command the nodes. Not part of the proxy, and knows nothing of clusters: a
redirect is an error reply like any other.

A connection serves one task at a time. After an exception other than ErrorReply from `command` it is out of
step with the server and must be closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, cast

import hiredis
import trio

Argument = str | bytes | int | float

_RECEIVE_SIZE = 65_536


class ErrorReply(Exception):
    """The server answered `-CODE text`. It is a value inside EXEC's array and in `pipeline`'s list."""

    @property
    def code(self) -> str:
        """The first word: `ERR`, `MOVED`, `ASK`, `TRYAGAIN`, ..."""
        return str(self).partition(" ")[0]


def pack(*args: Argument) -> bytes:
    """A command as RESP."""
    return cast(bytes, hiredis.pack_command(cast(Any, args)))


class Connection:
    """Made by `connect`. `bytes` replies for `+` and `$`, int for `:`, None for null, list for `*`."""

    def __init__(self, stream: trio.SocketStream, peer: str) -> None:
        self._stream = stream
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=ErrorReply)
        self.peer = peer

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionError(f"{self.peer}: connection lost while sending") from error

    async def receive(self) -> Any:
        """The next reply, waiting for it; an error reply is returned, not raised. Raises ConnectionError."""
        while True:
            # False is what the reader says for "not yet"; RESP2 has no value that equals it but 0.
            reply = self._reader.gets()
            if reply is not False:
                return reply
            await self._read_some()

    async def receive_available(self) -> list[Any]:
        """At least one reply, and every further one that has arrived with it."""
        replies = [await self.receive()]
        while (reply := self._reader.gets()) is not False:
            replies.append(reply)
        return replies

    async def command(self, *args: Argument) -> Any:
        """One command, one reply. Raises ErrorReply and ConnectionError."""
        await self.send(pack(*args))
        reply = await self.receive()
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    async def pipeline(self, *commands: Sequence[Argument]) -> list[Any]:
        """All commands in one write, then all replies; error replies are values in the list.

        For some hundred commands: replies are not read while the write is under way.
        """
        await self.send(b"".join(pack(*command) for command in commands))
        return [await self.receive() for _ in commands]

    def close(self) -> None:
        """At once, without a goodbye."""
        self._stream.socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _read_some(self) -> None:
        try:
            data = await self._stream.receive_some(_RECEIVE_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionError(f"{self.peer}: connection lost") from error
        if not data:
            raise ConnectionError(f"{self.peer}: connection closed by the server")
        self._reader.feed(data)


async def connect(host: str, port: int) -> Connection:
    """Raises OSError (ConnectionError among them) when nobody listens."""
    sock = trio.socket.socket()
    try:
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return Connection(trio.SocketStream(sock), f"{host}:{port}")
