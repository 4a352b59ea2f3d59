"""Client-side caches in front of the proxy are never stale longer than a round trip, also while slots move."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.caching import Cache, Store
from tests.integration.load import LONGER, shuttle
from tests.integration.stages import spread_tags

WRITERS = 4
ROUNDS = 4 * max(1, int(LONGER / 5))
MODES = ["", "OPTIN", "OPTOUT", "NOLOOP", "BCAST", "BCAST PREFIX {"]


async def tracking(front: ProxyProcess, mode: str, protocol: int = 3) -> Connection:
    connection = await front.connect()
    if protocol == 3:
        await connection.command("HELLO", 3)
    await connection.command("CLIENT", "TRACKING", "ON", *mode.split())
    return connection


async def play(store: Store, front: ProxyProcess, caches: list[Cache], trouble: Callable[[], Awaitable[None]]) -> None:
    """Writers write and the caches are read through while `trouble` lasts."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(WRITERS):
            nursery.start_soon(store.write, front.connect, store.keys[number::WRITERS], stop)
        for cache in caches:
            nursery.start_soon(cache.read, stop)
        await trouble()
        stop.set()
    for cache in caches:
        await cache.check()


async def written(store: Store, count: int) -> None:
    """Wait until so many more writes have been acknowledged."""
    goal = store.writes + count
    await until(lambda: store.writes >= goal, within=30)


def keys_of(tags: list[str]) -> list[str]:
    return [f"{{{tag}}}:{name}" for tag in tags for name in "abc"]


@pytest.mark.parametrize("moves", [False, True], ids=["at rest", "while slots move"])
@pytest.mark.parametrize("mode", MODES, ids=[mode or "default" for mode in MODES])
async def test_a_cache_is_never_stale_longer_than_a_round_trip(
    cluster: EmbeddedCluster, proxy: ProxyFactory, mode: str, moves: bool
) -> None:
    front = await proxy()
    tags, rides = await spread_tags(cluster)
    store = Store(keys_of(tags))
    async with await tracking(front, mode) as one, await tracking(front, mode) as other:
        caches = [Cache(store, connection, optin=mode == "OPTIN") for connection in (one, other)]
        trouble = partial(shuttle, cluster, rides, ROUNDS, pause=0.01) if moves else partial(written, store, 300)
        with trio.fail_after(60 + 10 * LONGER):
            await play(store, front, caches, trouble)
    for cache in caches:
        assert cache.hits > 100 and cache.invalidations > 20, vars(cache)
    if moves and "BCAST" not in mode:
        assert all(cache.flushes > 10 for cache in caches)
    if "BCAST" in mode:
        assert all(cache.flushes == 0 for cache in caches)


@pytest.mark.parametrize("protocol", [2, 3], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("mode", ["", "BCAST"], ids=["default", "BCAST"])
async def test_redirected_invalidations_reach_the_other_connection_in_time(
    cluster: EmbeddedCluster, proxy: ProxyFactory, mode: str, protocol: int
) -> None:
    front = await proxy()
    tags, rides = await spread_tags(cluster)
    store = Store(keys_of(tags))
    async with await front.connect() as told:
        await told.command("HELLO", 3)
        target = await told.command("CLIENT", "ID")
        async with await tracking(front, f"{mode} REDIRECT {target}", protocol) as connection:
            cache = Cache(store, connection, told=told)
            with trio.fail_after(60 + 10 * LONGER):
                await play(store, front, [cache], partial(shuttle, cluster, rides, ROUNDS, pause=0.01))
    assert cache.hits > 100 and cache.invalidations > 20, vars(cache)
