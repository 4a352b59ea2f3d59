"""Fixtures: the admin endpoint on a free port, and without a kernel between."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import memory_stream_pair

from slotproxy.control.addresses import TcpEndpoint
from slotproxy.control.admin import AdminServer, serve_admin
from tests.control.serving import Connect, Peer, Served
from tests.control.sources import FixedSources, three_nodes


@pytest.fixture
async def served(nursery: trio.Nursery) -> AsyncIterator[Served]:
    made = Served(FixedSources())
    made.sources.slot_map = three_nodes()

    async def serve(*, task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        await serve_admin(
            TcpEndpoint("127.0.0.1", 0),
            sources=made.sources,
            readiness=lambda: made.reasons,
            task_status=task_status,
        )

    (made.address,) = await nursery.start(serve)
    yield made


@pytest.fixture
async def in_memory(nursery: trio.Nursery, served: Served) -> Connect:
    """Connections without a kernel between, for tests that own the clock."""
    server = AdminServer(served.sources, lambda: served.reasons)

    async def connect() -> Peer:
        near, far = memory_stream_pair()
        nursery.start_soon(server.serve_connection, far)
        return Peer(near)

    return connect
