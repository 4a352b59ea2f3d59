"""Fixtures: the stages on which each application is put.

A stage of a cluster is made by a call with the proxy's flags: `await moving("--cross-slot-transactions", "per-slot")`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyProcess
from tests.applications.installing import node_packages
from tests.applications.stages import ClusterStage, FailoverStage, MovingStage, Stage
from tests.conftest import NODE_TIMEOUT_MS, ProxyFactory
from tests.integration.observing import by_label
from tests.servers import standalone_server

StageFactory = Callable[..., Awaitable[Stage]]


@pytest.fixture(scope="session")
def node_modules() -> Iterator[dict[str, str]]:
    """What to set for Node.js to find the libraries in node/package.json."""
    with node_packages() as environ:
        yield environ


@pytest.fixture
async def alone(redis_server: str, guard: Guard) -> AsyncIterator[Stage]:
    """One plain server: what works here is what is asked of the proxy."""
    with standalone_server(redis_server, guard) as port:
        yield Stage(port)


async def behind(
    kind: type[ClusterStage], cluster: EmbeddedCluster, proxy: ProxyFactory, flags: tuple[str, ...]
) -> ClusterStage:
    return kind(cluster, await proxy(*flags, cluster=cluster))


@pytest.fixture
async def moving(cluster: EmbeddedCluster, proxy: ProxyFactory) -> AsyncIterator[StageFactory]:
    """Slots move meanwhile."""
    stages: list[ClusterStage] = []

    async def make(*flags: str) -> Stage:
        stages.append(await behind(MovingStage, cluster, proxy, flags))
        return stages[-1]

    yield make
    for stage in stages:
        await no_trouble(stage.front)


@pytest.fixture(scope="package")
def running_replicated_cluster(redis_server: str) -> Iterator[EmbeddedCluster]:
    cluster = EmbeddedCluster(server=redis_server, replicas=1, node_timeout_ms=NODE_TIMEOUT_MS)

    async def start() -> None:
        await cluster.start()
        cluster.disconnect()

    trio.run(start)
    yield cluster
    cluster.close()


@pytest.fixture
async def replicated(running_replicated_cluster: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Three primaries with a replica each, without keys; which node is what changes from test to test."""
    cluster = running_replicated_cluster
    await cluster.converged()
    for node in await cluster.primaries():
        await node.command("FLUSHALL")
        await node.command("SCRIPT", "FLUSH")
    yield cluster
    cluster.disconnect()


@pytest.fixture
async def failing_over(replicated: EmbeddedCluster, proxy: ProxyFactory) -> AsyncIterator[StageFactory]:
    """Replicas take over meanwhile, as planned."""
    stages: list[ClusterStage] = []

    async def make(*flags: str) -> Stage:
        stages.append(await behind(FailoverStage, replicated, proxy, flags))
        return stages[-1]

    yield make
    for stage in stages:
        await no_trouble(stage.front)


async def no_trouble(front: ProxyProcess) -> None:
    """Nothing was left in doubt or half done, and no client saw an error that one server would not give."""
    metrics = await front.metrics()
    for name in ("in_doubt_total", "parked_expired_total", "transactions_partial_total"):
        assert metrics[f"slotproxy_{name}"] == 0, name
    # ERR: what a server says to commands of newer ones, and to a program that means it to; the proxy's own errors
    # stand above. NOSCRIPT: the library then sends the text.
    errors = await by_label(front, "slotproxy_errors_total", "code")
    assert set(errors) <= {"ERR", "NOSCRIPT"}, errors
