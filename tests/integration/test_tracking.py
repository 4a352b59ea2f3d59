"""Client-side caches in front of the proxy are never stale longer than a round trip, also while slots move."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import redis
import trio
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.caching import Cache, Store
from tests.integration.load import LONGER, shuttle
from tests.integration.stages import fail_over, spread_tags

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


def runs() -> list[object]:
    """Each mode at rest and while slots move; of the latter the extended tests have most."""
    found: list[object] = []
    for mode in MODES:
        marks = () if mode in ("", "BCAST") else (pytest.mark.extended,)
        found.append(pytest.param(mode, False, id=f"{mode or 'default'}-at rest"))
        found.append(pytest.param(mode, True, id=f"{mode or 'default'}-while slots move", marks=marks))
    return found


@pytest.mark.parametrize(("mode", "moves"), runs())
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


@pytest.mark.parametrize("protocol", [2, pytest.param(3, marks=pytest.mark.extended)], ids=["RESP2", "RESP3"])
@pytest.mark.parametrize("mode", ["", pytest.param("BCAST", marks=pytest.mark.extended)], ids=["default", "BCAST"])
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


@pytest.mark.parametrize("mode", ["", "BCAST"], ids=["default", "BCAST"])
async def test_a_cache_stays_true_when_primaries_are_failed_over(
    replicated: EmbeddedCluster, proxy: ProxyFactory, mode: str
) -> None:
    front = await proxy(cluster=replicated)
    tags, _ = await spread_tags(replicated)
    store = Store(keys_of(tags))

    async def trouble() -> None:
        for tag in tags[:3]:
            await written(store, 100)
            await fail_over(replicated, await replicated.owner(await replicated.slot_of(tag)))
            await written(store, 100)

    async with await tracking(front, mode) as connection:
        cache = Cache(store, connection)
        with trio.fail_after(120):
            await play(store, front, [cache], trouble)
    assert cache.hits > 100 and cache.invalidations > 20, vars(cache)


async def test_redis_py_reads_through_its_cache(
    cluster: EmbeddedCluster, proxy: ProxyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It asks for Redis 7.4, "to maximize compatibility", though it uses nothing that 7.0 does not have.
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")
    front = await proxy()
    tags, rides = await spread_tags(cluster)
    stop = trio.Event()

    def read_and_write() -> int:
        """How many reads the cache has served."""
        url = f"redis://127.0.0.1:{front.port}/0"
        with (
            redis.Redis.from_url(url, protocol=3, cache_config=CacheConfig()) as reader,
            redis.Redis.from_url(url) as writer,
        ):
            number = 0
            while not stop.is_set() or number < 200:
                number += 1
                for key in keys_of(tags)[:6]:
                    if random.random() < 0.3:
                        writer.set(key, number)
                    expected = writer.get(key)
                    reader.ping()
                    assert reader.get(key) == expected
                    assert reader.get(key) == expected
            cache = reader.get_cache()
            assert cache is not None and cache.size > 0
            return number

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read_and_write)
        await shuttle(cluster, rides, 4, pause=0.01)
        stop.set()


async def test_monitor_shows_the_commands_of_all_primaries_and_of_one_that_is_promoted(
    replicated: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy(cluster=replicated)
    tags, _ = await spread_tags(replicated)
    async with await front.connect() as monitor, await front.connect() as client:
        assert await monitor.command("MONITOR") == b"OK"

        async def shown(mark: str) -> None:
            for tag in tags:
                await client.command("SET", f"{{{tag}}}", mark)
            left = {b'"SET" "{%b}" "%b"' % (tag.encode(), mark.encode()) for tag in tags}
            seen: list[bytes] = []
            with trio.fail_after(20):
                while left - {line.partition(b"] ")[2] for line in seen}:
                    seen.append(await monitor.receive())
            lines = [line.partition(b"] ")[2] for line in seen]
            assert all(lines.count(line) == 1 for line in left), lines

        await shown("first")
        promoted = await fail_over(replicated, await replicated.owner(await replicated.slot_of(tags[0])))
        with trio.fail_after(20):
            # Until the primary that was promoted is connected and tells it itself. (While the proxy has not heard of
            # the failover the demoted one may show the same, as it comes from its primary, at whose port.)
            for number in itertools.count():
                await client.command("SET", f"{{{tags[0]}}}", f"probe{number}")
                with trio.move_on_after(0.05):
                    line = b""
                    while not line.endswith(b'"probe%d"' % number) or b":%d] " % promoted.port in line:
                        line = await monitor.receive()
                    break
        await shown("second")
