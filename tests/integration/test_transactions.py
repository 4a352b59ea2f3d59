"""MULTI … EXEC under load: nothing lost, nothing run twice, and nobody sees a block half done.

The loads are played on every stage: one server, the proxy in front of a quiet cluster, while slots move key by key,
and while primaries are failed over. No error reply is expected on any of them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection
from slotproxy.demo.polling import until
from slotproxy.demo.reshard import Migration, Order
from tests.conftest import ProxyFactory
from tests.integration.blocks import Commands, execute
from tests.integration.conftest import StageFactory
from tests.integration.load import LONGER, ORDERS, tags_of
from tests.integration.observing import at_least
from tests.integration.stages import Stage

WITHIN = 60 + 10 * LONGER
CLIENTS = 100

# ---- increments

# A block that increments both counters to `n`, and the replies to it.
Increments = Callable[[str, str, int], tuple[Commands, list[object]]]


def alone(a: str, b: str, n: int) -> tuple[Commands, list[object]]:
    return [("INCR", a), ("INCR", b)], [n, n]


def read_back(a: str, b: str, n: int) -> tuple[Commands, list[object]]:
    return [("INCR", a), ("GET", a), ("INCR", b), ("GET", b)], [n, b"%d" % n, n, b"%d" % n]


def read_before(a: str, b: str, n: int) -> tuple[Commands, list[object]]:
    before = b"%d" % (n - 1) if n > 1 else None
    return [("MGET", b, a), ("INCR", b), ("INCR", a)], [[before, before], n, n]


def with_others(a: str, b: str, n: int) -> tuple[Commands, list[object]]:
    return [("PING",), ("INCR", a), ("ECHO", "x"), ("INCR", b)], [b"PONG", n, b"x", n]


FORMS: Sequence[Increments] = (alone, read_back, read_before, with_others)


async def increment(stage: Stage, number: int, seen: dict[str, list[int]]) -> None:
    tag = stage.tags[number % len(stage.tags)]
    a, b = f"{{{tag}}}:a", f"{{{tag}}}:b"
    async with await stage.connect() as client:
        last = 0
        for turn in stage.rounds(10):
            form = random.choice(FORMS)
            replies = await execute(client, form(a, b, 1)[0], stepwise=(number + turn) % 4 == 0)
            (n, *_) = (reply for reply in replies if isinstance(reply, int))
            assert replies == form(a, b, n)[1]
            assert n > last
            last = n
            seen[tag].append(n)


async def test_a_hundred_clients_count_exactly_in_blocks(stage: StageFactory) -> None:
    place = await stage()
    seen: dict[str, list[int]] = defaultdict(list)
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(increment, place, number, seen)
            await place.act()
        await place.assert_trouble_met()
        async with await place.connect() as client:
            for tag in place.tags:
                total = b"%d" % len(seen[tag])
                assert await client.command("MGET", f"{{{tag}}}:a", f"{{{tag}}}:b") == [total, total]
                assert sorted(seen[tag]) == list(range(1, len(seen[tag]) + 1))


# ---- transfers

ACCOUNTS = 10
BALANCE = 100


def accounts_of(tag: str) -> list[str]:
    return [f"{{{tag}}}:account{number}" for number in range(ACCOUNTS)]


async def transfer(stage: Stage, tag: str) -> None:
    accounts = accounts_of(tag)
    async with await stage.connect() as client:
        for _ in stage.rounds(30):
            source, target = random.sample(accounts, 2)
            amount = random.randint(1, 9)
            await execute(client, [("DECRBY", source, amount), ("INCRBY", target, amount)])


async def read_in_block(client: Connection, accounts: list[str]) -> list[bytes]:
    (balances,) = await execute(client, [("MGET", *accounts)])
    return list(balances)


async def read_one_by_one_in_block(client: Connection, accounts: list[str]) -> list[bytes]:
    return list(await execute(client, [("GET", account) for account in accounts], stepwise=True))


async def read_plainly(client: Connection, accounts: list[str]) -> list[bytes]:
    return list(await client.command("MGET", *accounts))


READERS = (read_in_block, read_one_by_one_in_block, read_plainly)


async def test_transfers_never_change_the_sum(stage: StageFactory) -> None:
    place = await stage()
    tags = place.tags[:3]
    # While half of a slot's keys have moved no node can answer MGET, and the proxy asks for them one by one.
    readers = [read for read in READERS if place.kind != "resharding" or read is not read_plainly]

    async def add_up(tag: str, read: Callable[[Connection, list[str]], Awaitable[list[bytes]]]) -> None:
        async with await place.connect() as client:
            for _ in place.rounds(30):
                balances = await read(client, accounts_of(tag))
                assert sum(map(int, balances)) == ACCOUNTS * BALANCE, balances

    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            for tag in tags:
                await client.command("MSET", *(word for name in accounts_of(tag) for word in (name, BALANCE)))
        async with trio.open_nursery() as nursery:
            for tag in tags:
                for _ in range(3):
                    nursery.start_soon(transfer, place, tag)
                for read in readers:
                    nursery.start_soon(add_up, tag, read)
            await place.act()
        await place.assert_trouble_met()
        async with await place.connect() as client:
            for tag in tags:
                assert sum(map(int, await read_plainly(client, accounts_of(tag)))) == ACCOUNTS * BALANCE


# ---- slots that are held half-way


@pytest.mark.parametrize("order", ORDERS)
async def test_a_block_over_both_ends_waits_and_is_executed_once(
    cluster: EmbeddedCluster, proxy: ProxyFactory, order: Order
) -> None:
    front = await proxy()
    source, target, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    here, there = f"{{{tag}}}:here", f"{{{tag}}}:there"
    migration = Migration(cluster, slot, source, target, order=order)
    replies: list[object] = []

    async def block() -> None:
        async with await front.connect() as client:
            replies.append(await execute(client, [("INCR", here), ("INCR", there), ("RPUSH", f"{{{tag}}}:new", "x")]))
            replies.append(await client.command("MGET", here, there))

    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            await client.command("MSET", here, 10, there, 20)
            await migration.open()
            # All keys at the source still: executed there.
            assert await execute(client, [("INCR", here), ("INCR", there)]) == [11, 21]
            await migration.move(there)
            # All at the target.
            assert await execute(client, [("INCR", there), ("GET", there)], stepwise=True) == [22, b"22"]
            assert await execute(client, [("INCR", here)]) == [12]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(block)
                await until(lambda: at_least(front, "slotproxy_tryagain_total", 3), within=10)
                assert await client.command("MGET", here, there) == [b"12", b"22"]
                assert not replies
                await migration.finish()
        assert replies == [[13, 23, 1], [b"13", b"23"]]
        assert await target.command("LRANGE", f"{{{tag}}}:new", 0, -1) == [b"x"]
