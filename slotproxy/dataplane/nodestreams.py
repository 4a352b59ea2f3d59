"""A connection to a node, whoever uses it: what lanes (shared by many clients) and leased connections have in common.

Duty: its life. The control plane dials it and hands in a transport that is logged in and fenced; the node's replies are
framed; when it ends, it is said why. What is sent on it and to whom replies go is the subclasses' business.

Invariants: a reply that cannot be framed ends the connection, for nothing behind it could be attributed. A retired
connection is not dialled any more.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import trait

from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.reactor import Reactor, Stream
from slotproxy.dataplane.transport import Transport
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner

if TYPE_CHECKING:
    from slotproxy.dataplane.lanes import Node

REFUSES: Final = "the node refuses "  # how it begins what a stream is told of a `prepare` that was not accepted
_RECEIVE: Final = 32_768  # 128 KiB and more make malloc map and unmap memory at every receive
_RECEIVE_LARGE: Final = 1_048_576


class Identity:
    """As whom connections log in; the dialler has the credentials. `name` is for logs; "": the proxy's own.

    `denied`: the error that a node gives this identity for MULTI; b"" while it may use it, or nobody knows.
    """

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.denied: bytes = b""


@trait
class PushListener:
    """Who wants what nodes say unasked (RESP3 pushes) on certain connections."""

    def told(self, stream: "NodeStream", frame: bytes) -> None:
        """A node has said something. Raises ProtocolError, which ends the connection."""

    def connected(self, stream: "NodeStream") -> None:
        """The connection is there, and its node has accepted what `prepare` says."""

    def unconnected(self, stream: "NodeStream", why: str) -> None:
        """An attempt to connect has failed; `why` begins with REFUSES when the node did not accept `prepare`."""

    def deaf(self, stream: "NodeStream") -> None:
        """The connection is lost: what its node had promised to tell will not be told."""


class StreamKey:
    """What a connection speaks and as whom. Clients that differ in either never share a connection.

    `prepare`: commands that the node has to accept before the connection is used. `listener`: who is told what nodes
    say unasked; such a connection is not one that clients share. `redirects`: what the node has to tell of it comes on
    the connection with the next number, whose id stands behind the last command of `prepare`.
    """

    def __init__(
        self,
        protocol: int,
        identity: Identity,
        prepare: list[list[bytes]] | None = None,
        listener: PushListener | None = None,
        redirects: bool = False,
    ) -> None:
        self.protocol: Final = protocol  # RESP version
        self.identity: Final = identity
        self.prepare: list[list[bytes]] = prepare or []
        self.listener: Final = listener
        self.redirects: Final = redirects

    @property
    def shared(self) -> bool:
        """Whether it is for the clients of an identity, whoever they are."""
        return self.listener is None


class Greeting:
    """What a node told the dialler about a new connection.

    `client_id`: its CLIENT ID, 0: unknown. `server_run`: run_id of the server process that gave it: ids start anew with
    each. `denied`: as in `Identity`. `fenced`: of the connections in `fences`, those that have been killed.
    """

    def __init__(self, client_id: int, server_run: str, denied: bytes, fenced: list[int]) -> None:
        self.fenced: Final = fenced
        self.client_id: Final = client_id
        self.server_run: Final = server_run
        self.denied: Final = denied


class NodeStream(Stream):
    """A connection to `node`. `ready` while it may be used."""

    def __init__(self, reactor: Reactor, counters: Counters, node: "Node", key: StreamKey) -> None:
        super().__init__(reactor)
        self.node: Final = node
        self.key: Final = key
        self.ready: bool = False
        self.retired: bool = False  # not to be connected any more
        self.dialling: bool = False
        self.client_id: int = 0  # CLIENT ID of this connection; 0: none yet, or unknown
        self.server_run: str = ""  # of the server process that gave it
        # CLIENT IDs of lost connections whose commands may still run, and the server process that gave each.
        self.fences: dict[int, str] = {}
        self.why: str = "not connected yet"
        self.counters: Final = counters
        self._scanner: ReplyScanner = ReplyScanner()

    def attach(self, transport: Transport, greeting: Greeting) -> None:
        """Take a connected, authenticated and fenced transport into use."""
        self._scanner = ReplyScanner()
        self.client_id = greeting.client_id
        self.server_run = greeting.server_run
        self.key.identity.denied = greeting.denied
        for id in greeting.fenced:
            self.fences.pop(id, None)
        self.dialling = False
        self.ready = True
        self.open(transport)

    def preparation(self) -> list[list[bytes]] | None:
        """Commands that the node has to accept now; None while it is not known what they are."""
        return self.key.prepare

    def is_wanted(self) -> bool:
        """Whether it is to be connected, still."""
        return not self.retired

    def on_attached(self) -> None:
        """It can be used now."""
        raise AssertionError("a connection without on_attached()")

    def on_unreachable(self, why: str) -> None:
        """An attempt to connect it failed; the next will be made unless it is retired."""
        raise AssertionError("a connection without on_unreachable()")

    def on_lost(self, why: str) -> None:
        """The connection has ended, and what was asked on it gets no answer. Must close it."""
        raise AssertionError("a connection without on_lost()")

    def take_replies(self, scanner: ReplyScanner) -> None:
        """Replies have come. Raises ProtocolError."""
        raise AssertionError("a connection without take_replies()")

    def on_readable(self) -> None:
        transport = self.transport
        if transport is None:
            return
        scanner = self._scanner
        size = _RECEIVE if scanner.buffered() < _RECEIVE else _RECEIVE_LARGE
        data = transport.receive(size)
        if data is None:
            return
        if not data:
            self.on_lost("connection closed by the node")
            return
        self.counters.node_bytes_in += len(data)
        scanner.feed(data)
        try:
            self.take_replies(scanner)
        except ProtocolError as problem:
            self.on_lost(str(problem))

    def on_broken(self) -> None:
        self.on_lost("connection reset by the node")

    def on_drained(self) -> None:
        self.counters.node_bytes_out += self.sent
        self.sent = 0

    def close(self, why: str) -> None:
        """Close the connection. What it still had to answer must have been taken away before."""
        self.ready = False
        self.why = why
        if self.client_id:
            self.fences[self.client_id] = self.server_run
            self.client_id = 0
        self.shut()
