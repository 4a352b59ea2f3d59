"""Fixtures of the loads: the stages on which they are played, and a cluster with replicas that fails over.

And the two sides of the differential tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.guard import Guard
from tests.conftest import NODE_TIMEOUT_MS, ProxyFactory
from tests.integration.differential_sides import Sides, sides_of
from tests.integration.stages import IN_RESP3, STAGES, TAGS, Kind, Stage, spread_tags
from tests.servers import standalone_server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes failovers takes its time, and so do many clients, and all once more: the extended tests have it."""
    for item in items:
        if any(word in item.name for word in ("failing over", "failed_over", "failed over", IN_RESP3)):
            item.add_marker(pytest.mark.extended)
        if "hundred_clients" in item.name and "resharding" in item.name:
            item.add_marker(pytest.mark.extended)


@pytest.fixture(scope="session")
def cluster_with_replicas(redis_server: str) -> Iterator[EmbeddedCluster]:
    """The session's cluster of three primaries and their replicas, not started yet. Tests use `replicated`."""
    cluster = EmbeddedCluster(replicas=1, server=redis_server, node_timeout_ms=NODE_TIMEOUT_MS)
    yield cluster
    cluster.close()


async def _made_ready(cluster: EmbeddedCluster) -> None:
    """Started if it is not; no keys. Who is whose replica is left as it is: forming it anew takes seconds."""
    if cluster.nodes:
        try:
            for node in await cluster.primaries():
                await node.command("FLUSHALL")
            await cluster.converged()
            return
        except (ErrorReply, OSError, trio.TooSlowError):
            pass
    await cluster.reset()


@pytest.fixture
async def replicated(cluster_with_replicas: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Three primaries with a replica each, no keys. For `fail_over` as often as you like; move no slot."""
    await _made_ready(cluster_with_replicas)
    yield cluster_with_replicas
    cluster_with_replicas.disconnect()


class StageFactory(Protocol):
    async def __call__(self, *flags: str) -> Stage: ...


@pytest.fixture(params=STAGES)
async def stage(
    request: pytest.FixtureRequest,
    redis_server: str,
    cluster: EmbeddedCluster,
    cluster_with_replicas: EmbeddedCluster,
    proxy: ProxyFactory,
    guard: Guard,
) -> AsyncIterator[StageFactory]:
    """`await stage("--flag", "value")`: each kind of stage in its turn; the flags are the proxy's."""
    kind: Kind = request.param.removesuffix(IN_RESP3)
    protocol = 3 if request.param.endswith(IN_RESP3) else 2
    made: list[Stage] = []
    with ExitStack() as servers:

        async def make(*flags: str) -> Stage:
            if kind == "plain":
                port = servers.enter_context(standalone_server(redis_server, guard))
                made.append(Stage(kind, redis_server, port, [f"t{number}" for number in range(TAGS)]))
                return made[-1]
            behind = cluster
            if kind == "failing over":
                behind = cluster_with_replicas
                await _made_ready(behind)
            front = await proxy(*flags, cluster=behind)
            tags, rides = await spread_tags(behind)
            made.append(
                Stage(
                    kind, redis_server, front.port, tags, front=front, cluster=behind, rides=rides, protocol=protocol
                )
            )
            return made[-1]

        yield make
        for one in made:
            await one.assert_nothing_left()
        cluster_with_replicas.disconnect()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.extended)], ids=["RESP2", "RESP3"])
def sides(running_cluster: EmbeddedCluster, request: pytest.FixtureRequest) -> Iterator[Sides]:
    """A plain server, and the proxy before the session's cluster: `tests.integration.differential` compares them."""
    with _both(running_cluster, per_slot=False, protocol=request.param) as both:
        yield both


@pytest.fixture(scope="module")
def sides_by_slot(running_cluster: EmbeddedCluster) -> Iterator[Sides]:
    """The same; the proxy runs transactions over several slots."""
    with _both(running_cluster, per_slot=True) as both:
        yield both


@contextmanager
def _both(cluster: EmbeddedCluster, per_slot: bool, protocol: int = 2) -> Iterator[Sides]:
    async def reset() -> None:
        await cluster.reset()
        cluster.disconnect()

    trio.run(reset)
    guard = Guard("slotproxy-test-")
    try:
        with sides_of(cluster, guard, per_slot=per_slot, protocol=protocol) as both:
            yield both
    finally:
        guard.close()
