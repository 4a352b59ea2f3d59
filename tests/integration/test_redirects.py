"""Single redirects on real nodes, with a slot held half-way: what they change, what they count, what they cost.

The costs are counted at the nodes (INFO commandstats), where a retry storm would show.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.polling import until
from slotproxy.demo.reshard import Migration, Step, move_slot
from tests.conftest import ProxyFactory
from tests.integration.load import tags_of
from tests.integration.observing import asked, at_least, by_node, forget_counts, owners, slots_page

WITHIN = 20.0
# A waiting request backs off to 100 ms, less a half for jitter; eight tries until it is there.
TRIES_PER_SECOND = 20
FIRST_TRIES = 10


async def half_migrated(cluster: EmbeddedCluster, *, here: int = 3, there: int = 3) -> tuple[Migration, str]:
    """A slot with keys `{tag}:here0`… still at the source and `{tag}:there0`… at the target already."""
    source, target, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    for number in range(here):
        await source.command("SET", f"{{{tag}}}:here{number}", number)
    for number in range(there):
        await source.command("SET", f"{{{tag}}}:there{number}", number)
    migration = Migration(cluster, slot, source, target)
    await migration.open()
    if there:
        await migration.move(*(f"{{{tag}}}:there{number}" for number in range(there)))
    await forget_counts(cluster.nodes)
    return migration, tag


async def test_ask_leaves_the_map_alone(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    before = await slots_page(front)
    migration, tag = await half_migrated(cluster)
    source, target = migration.source, migration.target
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            for _ in range(5):
                for number in range(3):
                    assert await client.command("GET", f"{{{tag}}}:there{number}") == b"%d" % number
                    assert await client.command("GET", f"{{{tag}}}:here{number}") == b"%d" % number
        after = await slots_page(front)
        assert after["ranges"] == before["ranges"] and after["version"] == before["version"]
        assert after["migrating"] == [migration.slot]
        assert await by_node(front, "slotproxy_ask_total") == {source.address: 15}
        metrics = await front.metrics()
        assert metrics["slotproxy_moved_total"] == 0
        assert metrics["slotproxy_slot_migrations"] == 1
        # Each command goes to the source first, and what that has not goes on to the target: nothing else.
        assert await asked(source, "get") == 30
        assert await asked(target, "get") == 15 and await asked(target, "asking") == 15
        assert await asked(cluster.nodes[2], "get", "asking") == 0


async def test_moved_patches_exactly_that_slot(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy("--refresh-interval", "1h")
    source, target, other = cluster.nodes
    (tag, slot), (untouched, untouched_slot) = (await tags_of(cluster, source, 2)).items()
    before = await owners(front)
    for moved in (slot, untouched_slot):
        await move_slot(cluster, moved, source, target)
    try:
        # Nodes that do not tell their topology: whatever the map learns now, it learns from redirects.
        for node in cluster.nodes:
            await node.command("ACL", "SETUSER", "default", "-cluster")
        await forget_counts(cluster.nodes)
        with trio.fail_after(WITHIN):
            async with await front.connect() as client:
                for count in range(1, 11):
                    assert await client.command("INCR", f"{{{tag}}}:n") == count
            assert await owners(front) == {**before, slot: target.address}
            assert await by_node(front, "slotproxy_moved_total") == {source.address: 1}
            assert (await front.metrics())["slotproxy_ask_total"] == 0
            assert (await asked(source, "incr"), await asked(target, "incr")) == (1, 10)
            assert await asked(other, "incr") == 0
            # The request did not wait for the refresh, which was asked for and fails.
            await until(lambda: at_least(front, "slotproxy_topology_refresh_failures_total", 1), within=5)
    finally:
        for node in cluster.nodes:
            await node.command("ACL", "SETUSER", "default", "+@all")
    with trio.fail_after(WITHIN):
        # And the refresh in the background brings the rest.
        expected = {**before, slot: target.address, untouched_slot: target.address}
        await until(lambda: _equals(lambda: owners(front), expected), within=15)
        async with await front.connect() as client:
            assert await client.command("INCR", f"{{{untouched}}}:n") == 1
    assert (await front.metrics())["slotproxy_moved_total"] == 1


async def _equals(ask: Callable[[], Awaitable[object]], expected: object) -> bool:
    return await ask() == expected


async def test_reads_and_deletions_over_both_sides_resolve(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    migration, tag = await half_migrated(cluster)
    here, there, nowhere = f"{{{tag}}}:here0", f"{{{tag}}}:there0", f"{{{tag}}}:nowhere"
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            assert await client.command("MGET", here, there) == [b"0", b"0"]
            assert await client.command("MGET", there, nowhere, here) == [b"0", None, b"0"]
            assert await client.command("MGET", nowhere, f"{nowhere}2") == [None, None]
            assert await client.command("EXISTS", here, there, nowhere, here) == 3
            assert await client.command("TOUCH", here, there, nowhere) == 2
            assert await client.command("DEL", here, there, nowhere) == 2
            assert await client.command("UNLINK", f"{{{tag}}}:here1", f"{{{tag}}}:there1", nowhere) == 2
            assert await client.command("MGET", here, there, f"{{{tag}}}:here2") == [None, None, b"2"]
        metrics = await front.metrics()
        assert metrics["slotproxy_tryagain_total"] >= 8
        names = ("mget", "get", "exists", "touch", "del", "unlink")
        seen = [await asked(node, *names) for node in (migration.source, migration.target)]
        # Eight commands over 21 keys: each once at both ends, then each key by itself at both ends.
        assert all(8 <= count <= 8 + 24 for count in seen), seen
        assert await owners(front) == await _owners_of(cluster)


async def _owners_of(cluster: EmbeddedCluster) -> dict[int, str]:
    return {slot: node.address for node in cluster.nodes for slot in await cluster.slots_of(node)}


async def test_an_mset_in_one_slot_waits_for_the_end_of_the_migration(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    migration, tag = await half_migrated(cluster)
    here, there = f"{{{tag}}}:here0", f"{{{tag}}}:there0"
    replies: list[object] = []

    async def write() -> None:
        async with await front.connect() as client:
            replies.append(await client.command("MSET", here, "new", there, "new"))

    with trio.fail_after(WITHIN):
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: at_least(front, "slotproxy_tryagain_total", 6), within=10)
            # Others go on meanwhile, in this slot too.
            async with await front.connect() as client:
                for number in (1, 2):
                    assert await client.command("GET", f"{{{tag}}}:there{number}") == b"%d" % number
                assert await client.command("MGET", here, there) == [b"0", b"0"]
            assert not replies
            await migration.finish()
        seconds = trio.current_time() - started
        assert replies == [b"OK"]
        assert await migration.target.command("MGET", here, there) == [b"new", b"new"]
        seen = [await asked(node, "mset") for node in (migration.source, migration.target)]
        assert max(seen) <= FIRST_TRIES + TRIES_PER_SECOND * seconds, (seen, seconds)
        async with await front.connect() as client:  # the write may have been asked over before the slot was given over
            assert await client.command("GET", here) == b"new"
        assert (await front.metrics())["slotproxy_slot_migrations"] == 0


async def test_nothing_overtakes_a_command_that_waits(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """MSET is refused, APPEND to its first key would be accepted: the proxy cannot know that when both come."""
    front = await proxy()
    migration, tag = await half_migrated(cluster)
    here, there = f"{{{tag}}}:here0", f"{{{tag}}}:there0"
    replies: list[object] = []

    async def write() -> None:
        async with await front.connect() as client:
            replies.extend(
                await client.pipeline(
                    ("MSET", here, "new", there, "new"),
                    ("APPEND", here, "+"),
                    ("APPEND", there, "+"),
                    ("MGET", here, there),
                )
            )

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: at_least(front, "slotproxy_tryagain_total", 3), within=10)
            await migration.finish()
    assert replies == [b"OK", 4, 4, [b"new+", b"new+"]]


async def test_a_rename_to_a_new_key_waits_for_the_end_of_the_migration(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    migration, tag = await half_migrated(cluster)
    replies: list[object] = []

    async def rename() -> None:
        async with await front.connect() as client:
            # Order is kept behind what waits.
            replies.extend(
                await client.pipeline(
                    ("RENAME", f"{{{tag}}}:there0", f"{{{tag}}}:z"),
                    ("SET", f"{{{tag}}}:there0", "after"),
                    ("GET", f"{{{tag}}}:z"),
                )
            )

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename)
            await until(lambda: at_least(front, "slotproxy_tryagain_total", 3), within=10)
            await migration.finish()
        assert replies == [b"OK", b"OK", b"0"]


async def test_a_waiting_write_fails_at_the_deadline_with_a_reason(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy("--park-timeout", "0.5")
    migration, tag = await half_migrated(cluster)
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            (reply,) = await client.pipeline(("MSET", f"{{{tag}}}:here0", "x", f"{{{tag}}}:there0", "x"))
            assert isinstance(reply, ErrorReply)
            for word in ("slotproxy", str(migration.slot), "TRYAGAIN", "not executed"):
                assert word in str(reply), reply
            assert await client.command("MGET", f"{{{tag}}}:here0", f"{{{tag}}}:there0") == [b"0", b"0"]


async def test_the_gauge_of_migrations_follows_the_owner(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    migration, tag = await half_migrated(cluster)
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            assert (await front.metrics())["slotproxy_slot_migrations"] == 0
            await client.command("GET", f"{{{tag}}}:there0")
            assert (await front.metrics())["slotproxy_slot_migrations"] == 1
            await migration.finish()
            await client.command("GET", f"{{{tag}}}:there0")
        assert (await front.metrics())["slotproxy_slot_migrations"] == 0
        assert (await slots_page(front))["migrating"] == []
        assert (await owners(front))[migration.slot] == migration.target.address


async def test_nodes_that_point_at_each_other_are_not_asked_in_a_loop(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    source, target, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    replies: list[object] = []
    held = 0.0

    async def count() -> None:
        async with await front.connect() as client:
            replies.extend(await client.pipeline(*[("INCR", f"{{{tag}}}:n")] * 50))

    async with trio.open_nursery() as nursery:

        async def step(name: Step) -> None:
            nonlocal held
            if name == "source-node":
                await forget_counts(cluster.nodes)
                since = trio.current_time()
                nursery.start_soon(count)
                await until(lambda: at_least(front, "slotproxy_moved_total", 20), within=15)
                held = trio.current_time() - since
                assert not replies
                seen = await asked(source, "incr") + await asked(target, "incr")
                # 50 bounce once; from then on only the first of them tries, twice per round.
                assert seen <= 50 + 2 * (FIRST_TRIES + TRIES_PER_SECOND * held), (seen, held)

        with trio.fail_after(WITHIN):
            await move_slot(cluster, slot, source, target, order="source-first", step=step)
    assert replies == list(range(1, 51))
    assert await target.command("GET", f"{{{tag}}}:n") == b"50"
