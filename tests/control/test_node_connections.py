"""Connections to nodes that the proxy makes itself, against nodes that say what a test wants."""

from __future__ import annotations

import hiredis
import trio

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.confirming import is_genuine
from slotproxy.control.connection import Credentials
from slotproxy.protocol.redirects import Refusal


class TalkingNode:
    """Answers each command with `replies[its first word]`, +OK without one. `answering` unset: not yet."""

    def __init__(self, replies: dict[bytes, bytes] | None = None) -> None:
        self.replies = {b"CLIENT": b":7\r\n", **(replies or {})}
        self.connections = 0
        self.asked = trio.Event()
        self.answering = trio.Event()
        self.answering.set()

    async def start(self, nursery: trio.Nursery) -> Address:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, self._serve, [listener])
        port: int = listener.socket.getsockname()[1]
        return "127.0.0.1", port

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        reader = hiredis.Reader()
        async for data in stream:
            reader.feed(data)
            while (words := reader.gets()) is not False:
                self.asked.set()
                await self.answering.wait()
                await stream.send_all(self.replies.get(words[0], b"+OK\r\n"))


async def test_a_node_whose_view_cannot_be_read_confirms_nothing_and_ends_nothing(nursery: trio.Nursery) -> None:
    node = TalkingNode({b"CLUSTER": b"+nonsense\r\n"})
    address = await node.start(nursery)
    reply = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
    with trio.fail_after(5):
        assert not await is_genuine(Refusal.TRYAGAIN, reply, 0, address, SlotMap(), Credentials(), AddressMap())
    assert node.connections == 1
