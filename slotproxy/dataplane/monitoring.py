"""MONITOR: what all primaries run, shown to one client.

Duty: connections of the client's own to every primary, on each of which the node shows what it runs; its lines are
written as they come. A primary that joins, or is promoted, is connected, a lost connection is made anew.

Invariants: +OK comes when every primary has accepted, lines behind it; nothing is shown twice, so what a replica says
(a primary that has been demoted) is left out. Lines are the nodes': their addresses are the proxy's.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.nodestreams import NodeStream, PushListener, StreamKey
from slotproxy.dataplane.ownlanes import Connecting, OwnLanes, room_for
from slotproxy.protocol.commands import Command
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.resp import error

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

#: What a monitoring client is answered to a command that touches keys (7.0.15: it counts as a replica).
NO_KEYS: Final = error("ERR Replica can't interact with the keyspace")
_NOT_INSIDE: Final = error("ERR MONITOR isn't allowed for DENY BLOCKING client")


class Monitor(PushListener):
    """One client's."""

    def __init__(self, client: "Client", plane: "Plane") -> None:
        self.connecting: Connecting | None = None
        self._client: Final = client
        self.lanes: Final = OwnLanes(client, plane, [StreamKey(2, client.pool.identity, [[b"MONITOR"]], self)])

    def told(self, stream: NodeStream, frame: bytes) -> None:
        if frame[0] != 0x2B:
            raise ProtocolError("Protocol error: a reply that nothing was asked for")
        connecting = self.connecting
        if stream.node.info.primary and not self._client.silent and (connecting is None or connecting.over):
            self._client.push(frame)

    def connected(self, stream: NodeStream) -> None:
        self._look()

    def unconnected(self, stream: NodeStream, why: str) -> None:
        self._look()

    def _look(self) -> None:
        connecting = self.connecting
        if connecting is not None:
            connecting.look()

    def close(self) -> None:
        """Show no more."""
        self.lanes.drop()


class Show(Connecting):
    """MONITOR itself."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, raw: bytes, monitor: Monitor) -> None:
        super().__init__(client, plane, called, raw, monitor.lanes)
        self._asking: Final = client
        monitor.connecting = self

    def fail(self) -> None:
        self._asking.stop_monitor()


def monitor(client: "Client", plane: "Plane", called: Command, raw: bytes) -> bytes:
    """MONITOR; nothing of the client may be in flight. b"": later, or, when it monitors already, not at all."""
    if client.transaction is not None:
        return _NOT_INSIDE
    if client.monitor is not None:
        return b""
    refusal = room_for(plane, called, 1)
    if refusal is not None:
        return refusal
    started = client.start_monitor()
    client.run(Show(client, plane, called, raw, started))
    return b""
