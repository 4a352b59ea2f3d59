"""Connections to nodes that the proxy makes itself, against nodes that say what a test wants."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from contextlib import closing

import hiredis
import pytest
import trio

from slotproxy.cluster.topology import Address, NodeInfo, Topology
from slotproxy.control.addresses import AddressMap
from slotproxy.control.confirming import is_genuine
from slotproxy.control.connection import Credentials, ErrorReply, NodeUnavailable, connect
from slotproxy.control.dialling import open_stream
from slotproxy.control.querying import ask_version
from slotproxy.dataplane.accounts import Grant
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
from slotproxy.dataplane.plane import Plane, PlaneLimits
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import RequestLimits


class TalkingNode:
    """Answers each command with `replies[its first word]`, +OK without one. `answering` unset: not yet."""

    def __init__(self, replies: dict[bytes, bytes] | None = None) -> None:
        self.replies = {b"CLIENT": b":7\r\n", **(replies or {})}
        self.connections = 0
        self.heard: list[list[bytes]] = []
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
        with contextlib.suppress(trio.BrokenResourceError):  # who asked may leave without reading
            async for data in stream:
                reader.feed(bytes(data))
                while (words := reader.gets()) is not False:
                    self.heard.append(words)
                    self.asked.set()
                    await self.answering.wait()
                    await stream.send_all(self.replies.get(words[0], b"+OK\r\n"))


class Dials:
    """A control plane that only notes which lanes want a connection."""

    def __init__(self) -> None:
        self.lanes: list[NodeStream] = []

    def dial_nowait(self, lane: NodeStream) -> None:
        self.lanes.append(lane)

    def refresh_nowait(self, why: str) -> None:
        pass

    def confirm_nowait(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        raise AssertionError("nothing was sent")

    def supply_nowait(self, name: bytes, node: Node, asked: Asked) -> None:
        raise AssertionError("nothing was sent")

    def ask_aside_nowait(self, request: Request, node: Node, key: StreamKey) -> None:
        raise AssertionError("nothing was sent")

    def check_login_nowait(self, login: Login) -> None:
        raise AssertionError("nothing was sent")

    def forget_login_nowait(self, grant: Grant) -> None:
        raise AssertionError("nothing was granted")

    def read_table_nowait(self) -> None:
        raise AssertionError("nothing was sent")


def at(address: Address) -> Topology:
    info = NodeInfo("one", *address, True, False, frozenset({address}))
    return Topology({"one": info}, [(0, 16383, "one")], {}, "test")


async def test_a_node_whose_view_cannot_be_read_confirms_nothing_and_ends_nothing(nursery: trio.Nursery) -> None:
    node = TalkingNode({b"CLUSTER": b"+nonsense\r\n"})
    address = await node.start(nursery)
    reply = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
    with trio.fail_after(5):
        assert not await is_genuine(Refusal.TRYAGAIN, reply, 0, address, Credentials(), AddressMap())
    assert node.connections == 1


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
async def test_a_name_that_cannot_be_one_is_a_node_that_cannot_be_reached(host: str) -> None:
    with pytest.raises(NodeUnavailable, match="cannot resolve"):
        await connect((host, 6379), Credentials())


async def test_a_connection_on_which_nothing_is_said_is_looked_after_by_the_kernel(nursery: trio.Nursery) -> None:
    """Subscriptions and blocked commands wait for what the node says; the system's own patience is two hours."""
    node = TalkingNode()
    with closing((await connect(await node.start(nursery), Credentials())).detach()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, gap, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert idle + gap * count <= 30


async def test_a_node_that_gets_another_address_while_it_is_dialled_is_dialled_there(nursery: trio.Nursery) -> None:
    before, after = TalkingNode(), TalkingNode()
    old, new = await before.start(nursery), await after.start(nursery)
    before.answering = trio.Event()
    dials = Dials()
    plane = Plane(dials, PlaneLimits(RequestLimits(), lanes_per_node=1), trio.current_time, "0.0.0")
    plane.apply(at(old), 0)
    (lane,) = dials.lanes
    with trio.fail_after(5):
        async with trio.open_nursery() as dialling:
            dialling.start_soon(open_stream, lane, plane, Credentials(), AddressMap(), 3.0)
            await before.asked.wait()
            plane.apply(at(new), 0)
            before.answering.set()
    assert lane.ready
    assert (before.connections, after.connections) == (1, 1)
    assert dials.lanes == [lane]
    plane.close()


async def test_a_refused_connection_is_told_in_the_systems_words() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(NodeUnavailable, match=r"^Connection refused$"):
        await connect(("127.0.0.1", port), Credentials())


async def test_a_node_cannot_be_reached_when_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def socket_(*arguments: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.socket, "socket", socket_)
    with pytest.raises(NodeUnavailable, match="Too many open files"):
        await connect(("127.0.0.1", 1), Credentials())


async def test_a_node_that_does_not_tell_its_version_is_an_error_reply(nursery: trio.Nursery) -> None:
    node = TalkingNode({b"INFO": b"$-1\r\n"})
    async with await connect(await node.start(nursery), Credentials()) as connection:
        with pytest.raises(ErrorReply, match="redis_version"):
            await ask_version(connection)


async def test_what_a_node_says_behind_its_last_reply_stays_in_the_socket() -> None:
    node = TalkingNode({b"MONITOR": b'+OK\r\n+1.5 [0 10.0.0.1:1] "SE'})
    async with trio.open_nursery() as nursery:
        connection = await connect(await node.start(nursery), Credentials())
        assert await connection.last_command([b"MONITOR"]) == ""
        sock = trio.socket.from_stdlib_socket(connection.detach())
        with trio.fail_after(5):
            assert await sock.recv(100) == b'+1.5 [0 10.0.0.1:1] "SE'
        sock.close()
        nursery.cancel_scope.cancel()


async def test_the_error_of_a_last_command_is_told() -> None:
    node = TalkingNode({b"MONITOR": b"-NOPERM no\r\n"})
    async with trio.open_nursery() as nursery:
        async with await connect(await node.start(nursery), Credentials()) as connection:
            assert await connection.last_command([b"MONITOR"]) == "NOPERM no"
        nursery.cancel_scope.cancel()
