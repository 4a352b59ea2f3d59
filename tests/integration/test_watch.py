"""WATCH … EXEC: an EXEC that executes has seen the keys unchanged since they were watched, whatever the cluster does.

The load is played on every stage (see `stages`). With a slot that moves between WATCH and EXEC there is one right
answer, nil, and nothing executed: the proxy cannot know what happened to the key on its way.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import Migration, Order, move_slot
from tests.conftest import ProxyFactory
from tests.integration.blocks import Commands, execute
from tests.integration.conftest import StageFactory
from tests.integration.load import LONGER, ORDERS, tags_of
from tests.integration.stages import Stage, fail_over, spread_tags

WITHIN = 60 + 10 * LONGER
FLAG = "--cross-slot-transactions"
PER_SLOT = (FLAG, "per-slot")
CLIENTS = 100

# ---- increments


async def increment(stage: Stage, number: int, done: Counter[str], lost: Counter[str]) -> None:
    """As applications do it: read, compute, write if nobody has written meanwhile; else again."""
    key = f"{{{stage.tags[number % len(stage.tags)]}}}:n"
    log = f"{key}:log"
    async with await stage.connect() as client:
        for _ in stage.rounds(3):
            while True:
                assert await client.command("WATCH", key) == b"OK"
                value = int(await client.command("GET", key) or 0)
                block = [("SET", key, value + 1), ("RPUSH", log, value + 1)]
                replies = await execute(client, block, stepwise=number % 2 == 0)
                if replies is not None:
                    break
                lost[key] += 1
            # The list is as long as what was counted: no block was executed half, or more than once.
            assert replies == [b"OK", value + 1]
            done[key] += 1


async def test_a_hundred_clients_count_exactly_with_watch(stage: StageFactory) -> None:
    place = await stage()
    done: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(increment, place, number, done, lost)
            await place.act()
        await place.assert_trouble_met()
        async with await place.connect() as client:
            for key, count in done.items():
                assert await client.command("GET", key) == b"%d" % count
                log = await client.command("LRANGE", f"{key}:log", 0, -1)
                assert log == [b"%d" % number for number in range(1, count + 1)]
    # Without anybody in the way there was nothing to be watched.
    assert lost.total() > CLIENTS


# ---- several slots


async def increment_both(stage: Stage, number: int, done: Counter[str]) -> None:
    """Two counters of two slots. What was executed in part is repeated for the other part."""
    pair = [f"{{{tag}}}:n" for tag in random.Random(number).sample(stage.tags[:4], 2)]
    async with await stage.connect() as client:
        for _ in stage.rounds(3):
            left = pair
            while left:
                await client.command("WATCH", *left)
                values: list[bytes | None] = await client.command("MGET", *left)
                # As long as what was counted: each part is executed once and as a whole, or not at all.
                block: list[tuple[str | int, ...]] = []
                for key, value in zip(left, values, strict=True):
                    block += [("SET", key, int(value or 0) + 1), ("RPUSH", f"{key}:log", "x")]
                replies = await execute(client, block)
                if replies is None:
                    continue
                failed = []
                for key, value, ok, length in zip(left, values, replies[::2], replies[1::2], strict=True):
                    if isinstance(ok, ErrorReply):
                        assert isinstance(length, ErrorReply) and ok.code == "EXECABORT", (ok, length)
                        failed.append(key)
                    else:
                        assert (ok, length) == (b"OK", int(value or 0) + 1)
                        done[key] += 1
                assert len(failed) < len(left), replies
                stage.partial += bool(failed)
                left = failed


async def test_watched_counters_of_two_slots_are_exact_each(stage: StageFactory) -> None:
    place = await stage(*PER_SLOT)
    done: Counter[str] = Counter()
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(increment_both, place, number, done)
            await place.act()
        await place.assert_trouble_met()
        async with await place.connect() as client:
            for key, count in done.items():
                assert await client.command("GET", key) == b"%d" % count
                assert await client.command("LLEN", f"{key}:log") == count
    # One server does not do it by halves.
    assert place.front is not None or not place.partial


@pytest.mark.parametrize("stage", ["plain", "quiet"], indirect=True)
@pytest.mark.parametrize("touched", [None, "written", "written too", "only watched", "only watched, missing"])
async def test_a_touched_key_of_any_slot_ends_the_block(stage: StageFactory, touched: str | None) -> None:
    place = await stage(*PER_SLOT)
    keys = dict(zip(("written", "written too", "only watched", "only watched, missing"),
                    (f"{{{tag}}}:k" for tag in place.tags), strict=False))  # fmt: skip
    first, second = keys["written"], keys["written too"]
    with trio.fail_after(WITHIN):
        async with await place.connect() as client, await place.connect() as other:
            await client.command("MSET", *(word for key in [*keys.values()][:3] for word in (key, 1)))
            assert await client.command("WATCH", *keys.values()) == b"OK"
            if touched is not None:
                await other.command("SET", keys[touched], "touched")
            replies = await execute(client, [("INCR", first), ("APPEND", second, "x"), ("INCR", first)])
            assert replies == (None if touched is not None else [2, 2, 3])
            if touched is not None:
                values: dict[str, bytes | None] = {key: b"1" for key in keys.values()}
                values[keys["only watched, missing"]] = None
                values[keys[touched]] = b"touched"
                assert await other.command("MGET", *values) == list(values.values())
            # And it is over: what is touched now concerns nobody.
            for key in keys.values():
                await other.command("SET", key, 7)
            assert await execute(client, [("INCR", first), ("INCR", second)]) == [8, 8]


@pytest.mark.parametrize("stage", ["plain", "quiet"], indirect=True)
@pytest.mark.parametrize("end", [("UNWATCH",), ("MULTI", "SET", "DISCARD")])
async def test_what_is_watched_no_more_ends_nothing(stage: StageFactory, end: tuple[str, ...]) -> None:
    place = await stage(*PER_SLOT)
    a, b = (f"{{{tag}}}:k" for tag in place.tags[:2])
    with trio.fail_after(WITHIN):
        async with await place.connect() as client, await place.connect() as other:
            assert await client.command("WATCH", a) == b"OK"
            assert await client.command("WATCH", b, a) == b"OK"
            await other.command("MSET", a, 1, b, 1)
            commands = [(word, a, "x") if word == "SET" else (word,) for word in end]
            assert (await client.pipeline(*commands))[-1] == b"OK"
            assert await execute(client, [("INCR", a), ("INCR", b)]) == [2, 2]


@pytest.mark.parametrize("stage", ["plain", "quiet"], indirect=True)
async def test_ones_own_write_touches_too(stage: StageFactory) -> None:
    place = await stage()
    key = f"{{{place.tags[0]}}}:k"
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            await client.pipeline(("WATCH", key), ("SET", key, 1))
            assert await execute(client, [("INCR", key)]) is None
            # All in one write: nothing overtakes anything.
            replies = await client.pipeline(("WATCH", key), ("INCR", key), ("MULTI",), ("GET", key), ("EXEC",),
                                            ("WATCH", key), ("GET", key), ("MULTI",), ("INCR", key), ("EXEC",),
                                            ("GET", key))  # fmt: skip
            assert replies == [b"OK", 2, b"OK", b"QUEUED", None, b"OK", b"2", b"OK", b"QUEUED", [3], b"3"]


async def test_keys_of_several_slots_cannot_be_watched_as_one(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    a, b, *_ = (f"{{{tag}}}:k" for tag in (await spread_tags(cluster))[0])
    with trio.fail_after(WITHIN):
        async with await front.connect() as client, await front.connect() as other:
            refused: list[Commands] = [[("WATCH", a, b)], [("WATCH", a), ("WATCH", b)]]
            for commands in refused:
                *_, reply = await client.pipeline(*commands)
                assert isinstance(reply, ErrorReply) and reply.code == "CROSSSLOT" and FLAG in str(reply)
            # What was watched before the refusal is watched still.
            await other.command("SET", a, "touched")
            assert await execute(client, [("SET", a, "x")]) is None
            # A block elsewhere than what is watched is a block over slots.
            await client.command("WATCH", a)
            with pytest.raises(ErrorReply, match="^CROSSSLOT .*" + FLAG):
                await execute(client, [("SET", b, "x")])
            assert await client.command("MGET", a, b) == [b"touched", None]


# ---- a slot that moves


async def watched(front: ProxyProcess, client: Connection, key: str) -> None:
    """The client watches the key: a connection to a node is leased for that."""
    assert await client.command("WATCH", key) == b"OK"
    assert (await front.metrics())["slotproxy_exclusive_connections"] == 1


async def given_back(front: ProxyProcess) -> None:
    async def none_is_leased() -> bool:
        return not (await front.metrics())["slotproxy_exclusive_connections"]

    await until(none_is_leased, within=10)


# What is in the block; `{}` is the watched key.
BLOCKS: dict[str, list[tuple[str, ...]]] = {
    "the key": [("APPEND", "{}", "x")],
    "another key of its slot": [("APPEND", "{}:other", "x"), ("APPEND", "{}:other", "y")],
    "no key": [("PING",)],
    "nothing": [],
}


def block_on(key: str, name: str) -> Commands:
    return [[word.format(key) for word in command] for command in BLOCKS[name]]


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "missing"])
@pytest.mark.parametrize("order", ORDERS)
async def test_exec_is_nil_when_the_slot_has_moved(
    cluster: EmbeddedCluster, proxy: ProxyFactory, order: Order, exists: bool
) -> None:
    front = await proxy()
    source, target, _ = cluster.nodes
    slots = await tags_of(cluster, source, len(BLOCKS))
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            for block, (tag, slot) in zip(BLOCKS, slots.items(), strict=True):
                key = f"{{{tag}}}:k"
                if exists:
                    await client.command("SET", key, "v")
                await watched(front, client, key)
                await move_slot(cluster, slot, source, target, order=order)
                if not exists:
                    # The source does not see this write: asked for nothing else, it would execute the block.
                    await target.command("SET", key, "v")
                assert await execute(client, block_on(key, block)) is None, block
                assert await target.command("MGET", key, f"{key}:other") == [b"v", None]
                # It watches no more, and the next one works where the slot is now.
                await watched(front, client, key)
                assert await execute(client, [("APPEND", key, "w"), ("GET", key)]) == [2, b"vw"]
        await given_back(front)


async def test_exec_is_nil_when_the_watched_key_is_on_its_way(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """The slot is the source's still, its key is the target's already, changed there and back to what it was."""
    front = await proxy()
    source, target, _ = cluster.nodes
    slots = await tags_of(cluster, source, len(BLOCKS))
    with trio.fail_after(WITHIN):
        async with await front.connect() as client, await front.connect() as other:
            for block, (tag, slot) in zip(BLOCKS, slots.items(), strict=True):
                key = f"{{{tag}}}:k"
                await client.command("SET", key, "v")
                await watched(front, client, key)
                migration = Migration(cluster, slot, source, target)
                await migration.open()
                await migration.move(key)
                await other.pipeline(("SET", key, "w"), ("SET", key, "v"))
                assert await execute(client, block_on(key, block)) is None, block
                assert await client.command("GET", key) == b"v"
                # At the target a watched key can be watched, and the block executed.
                await watched(front, client, key)
                assert await execute(client, [("APPEND", key, "x")]) == [2]
                await watched(front, client, key)
                await other.command("APPEND", key, "y")
                assert await execute(client, [("APPEND", key, "x")]) is None
                await migration.finish()
                assert await client.command("GET", key) == b"vxy"
        await given_back(front)


@pytest.mark.parametrize("touched", [True, False], ids=["touched", "untouched"])
async def test_a_watched_key_that_has_not_left_yet_is_as_good_as_any(
    cluster: EmbeddedCluster, proxy: ProxyFactory, touched: bool
) -> None:
    front = await proxy()
    source, target, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    key = f"{{{tag}}}:k"
    with trio.fail_after(WITHIN):
        async with await front.connect() as client, await front.connect() as other:
            await client.command("SET", key, "v")
            migration = Migration(cluster, slot, source, target)
            await migration.open()
            await watched(front, client, key)
            if touched:
                await other.command("APPEND", key, "y")
            replies = await execute(client, [("APPEND", key, "x")])
            assert replies is None if touched else replies in (None, [2])
            value = b"vy" if touched else b"v" if replies is None else b"vx"
            assert await client.command("GET", key) == value
            await migration.finish()
            assert await target.command("GET", key) == value


async def test_a_move_of_any_watched_slot_ends_a_block_over_slots(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy(*PER_SLOT)
    tags, rides = await spread_tags(cluster)
    keys = [f"{{{tag}}}:k" for tag in tags[:3]]
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            for ride in rides[:3]:
                assert await client.command("WATCH", *keys) == b"OK"
                await move_slot(cluster, ride.slot, ride.here, ride.there)
                # The third is only watched.
                assert await execute(client, [("INCR", keys[0]), ("INCR", keys[1])]) is None
                assert await client.command("MGET", *keys) == [None] * 3
            await client.command("WATCH", *keys)
            assert await execute(client, [("INCR", keys[0]), ("INCR", keys[1])]) == [1, 1]
        await given_back(front)
    assert (await front.metrics())["slotproxy_transactions_partial_total"] == 0


# ---- a node that goes


async def is_failed_over(cluster: EmbeddedCluster, node: Node) -> None:
    await fail_over(cluster, node)


async def loses_its_clients(cluster: EmbeddedCluster, node: Node) -> None:
    await node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


GOES: dict[str, Callable[[EmbeddedCluster, Node], Awaitable[None]]] = {
    "failed over": is_failed_over,
    "connections killed": loses_its_clients,
}


@pytest.mark.parametrize("goes", GOES)
async def test_exec_is_nil_when_the_node_went(replicated: EmbeddedCluster, proxy: ProxyFactory, goes: str) -> None:
    front = await proxy(cluster=replicated)
    ((tag, slot),) = (await tags_of(replicated, (await replicated.primaries())[0], 1)).items()
    key = f"{{{tag}}}:k"
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            await client.command("SET", key, "v")
            await watched(front, client, key)
            await GOES[goes](replicated, await replicated.owner(slot))
            assert await execute(client, [("APPEND", key, "x")]) is None
            assert await client.command("GET", key) == b"v"
            await watched(front, client, key)
            assert await execute(client, [("APPEND", key, "x")]) == [2]
        await given_back(front)


async def test_a_client_that_vanishes_gives_back_what_it_held(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy(*PER_SLOT)
    keys = [f"{{{tag}}}:k" for tag in (await spread_tags(cluster))[0][:3]]
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            await client.command("WATCH", *keys)
            await client.pipeline(("MULTI",), ("SET", keys[0], "never"))
            assert (await front.metrics())["slotproxy_exclusive_connections"] == 3
        await given_back(front)
        async with await front.connect() as client:
            assert await client.command("GET", keys[0]) is None
