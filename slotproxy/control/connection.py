"""The proxy's own connection to a node: dial, greet, and talk RESP2 that is understood (hiredis).

Duty: connect to an address with a deadline, log in, run a few commands, and either close or hand the connected socket
to the data plane. Used for CLUSTER SLOTS and the like, and to make lanes.

Invariants: the password is in no exception and no log. After any exception but `ErrorReply` the connection is of no use
and closed. Waiting is the caller's to bound (cancel scopes).
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import hiredis
import trio

from slotproxy.cluster.topology import Address
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner

_RECEIVE: int = 65_536
#: Who has subscribed or blocks sends nothing: only the kernel finds out that the node is gone without a word, in 20 s.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class ErrorReply(Exception):
    """A node answered a command with an error; `str()` is its text."""


class NodeUnavailable(Exception):
    """A node could not be reached, hung up, or spoke no RESP2; `str()` says which, without the address."""


class LoginRefused(NodeUnavailable):
    """A node does not accept the credentials."""


class Credentials:
    """How to log in to nodes. `user` None: the default user. `password` None: do not log in."""

    def __init__(self, user: str | bytes | None = None, password: bytes | None = None) -> None:
        self.user = user
        self.password = password

    def command(self) -> tuple[bytes | str, ...] | None:
        """The AUTH command, or None where there is nothing to say."""
        if self.password is None:
            return None
        return ("AUTH", self.password) if self.user is None else ("AUTH", self.user, self.password)


class NodeConnection:
    """Made by `connect`. One task at a time."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock
        self._reader = hiredis.Reader(protocolError=NodeUnavailable, replyError=ErrorReply)

    async def commands(self, *commands: Sequence[bytes | str | int]) -> list[Any]:
        """All commands in one write, then all replies; error replies are values (ErrorReply) in the list.

        Raises NodeUnavailable.
        """
        data = b"".join(hiredis.pack_command(tuple(command)) for command in commands)  # type: ignore[arg-type]
        with self._closing_if_broken():
            await self._send(data)
            return [await self._reply() for _ in commands]

    async def command(self, *command: bytes | str | int) -> Any:
        """One command. Raises ErrorReply and NodeUnavailable."""
        (reply,) = await self.commands(command)
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    async def last_command(self, command: Sequence[bytes]) -> str:
        """A command behind which the node may say anything at any time: of that, nothing is taken from the socket.

        Returns "" when it is answered with one line, else the error that the node gives. Raises NodeUnavailable.
        """
        line = b""
        with self._closing_if_broken():
            await self._send(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
            while not line.endswith(b"\r\n"):
                line += await self._receive(1)
        return line[1:-2].decode("utf-8", "replace") if line.startswith(b"-") else ""

    async def exchange(self, request: bytes) -> bytes:
        """One request and its reply, both as raw frames. Raises NodeUnavailable."""
        scanner = ReplyScanner()
        with self._closing_if_broken():
            await self._send(request)
            while not scanner.scan():
                scanner.feed(await self._receive(_RECEIVE))
        return scanner.buffer[scanner.start : scanner.end]

    async def _reply(self) -> Any:
        while True:
            reply = self._reader.gets()
            if reply is not False:  # RESP2 has no value that is False
                return reply
            self._reader.feed(await self._receive(_RECEIVE))

    async def _send(self, data: bytes) -> None:
        while data:
            data = data[await self._socket.send(data) :]

    async def _receive(self, size: int) -> bytes:
        data: bytes = await self._socket.recv(size)
        if not data:
            raise NodeUnavailable("connection closed by the node")
        return data

    @contextlib.contextmanager
    def _closing_if_broken(self) -> Iterator[None]:
        """Whatever ends the block early ends the connection. What the wire or the node did is NodeUnavailable."""
        try:
            yield
        except OSError as problem:
            self.close()
            raise NodeUnavailable(_reason(problem)) from problem
        except ProtocolError as problem:
            self.close()
            raise NodeUnavailable(str(problem)) from problem
        except BaseException:
            self.close()
            raise

    def detach(self) -> socket.socket:
        """Give the connected, non-blocking socket away."""
        family, kind = self._socket.family, self._socket.type
        sock = socket.socket(family, kind, fileno=self._socket.detach())
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        """Close at once."""
        self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def connect(address: Address, credentials: Credentials) -> NodeConnection:
    """Dial a node and log in. Each address that a name resolves to is tried. Raises NodeUnavailable."""
    host, port = address
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as problem:
        raise NodeUnavailable(f"cannot resolve {host}: {problem.strerror}") from problem
    except UnicodeError as problem:  # an empty label, one of more than 63 characters
        raise NodeUnavailable(f"cannot resolve {host}: {problem}") from problem
    refused: OSError | None = None
    for family, kind, protocol, _, target in found:
        try:
            sock = trio.socket.socket(family, kind, protocol)
        except OSError as problem:  # no descriptor is left
            raise NodeUnavailable(_reason(problem)) from problem
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, option, value in _KEEPALIVE:
                sock.setsockopt(level, option, value)
            await sock.connect(target)
        except OSError as problem:
            sock.close()
            refused = problem
            continue
        except BaseException:
            sock.close()
            raise
        connection = NodeConnection(sock)
        login = credentials.command()
        if login is not None:
            try:
                await connection.command(*login)
            except ErrorReply as problem:
                connection.close()
                raise LoginRefused(f"login refused: {problem}") from problem
        return connection
    raise NodeUnavailable("no address" if refused is None else _reason(refused))


def _reason(problem: OSError) -> str:
    """What the operating system says; trio's own text for a refused connection repeats the address."""
    return os.strerror(problem.errno) if problem.errno else str(problem)
