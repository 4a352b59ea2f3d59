"""SCAN through the proxy while slots move, nodes fail over, join and leave: it ends, and misses no key that stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import redis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import move_slot
from tests.conftest import ClusterFactory, ProxyFactory
from tests.integration.load import Ride, shuttle
from tests.integration.observing import owners

WITHIN = 50.0
KEYS = 3_000
LIMIT = 2**53

Between = Callable[[int], Awaitable[None]]


async def nothing(call: int) -> None:
    """Nothing happens between two calls."""


async def fill(client: Connection, count: int = KEYS, prefix: str = "k") -> set[bytes]:
    """Keys over all slots: every tenth a list, the others strings."""
    keys = [f"{prefix}:{number}" for number in range(count)]
    for start in range(0, count, 500):
        some = keys[start : start + 500]
        await client.pipeline(*(("RPUSH" if key.endswith("0") else "SET", key, "v") for key in some))
    return {key.encode() for key in keys}


async def scan(client: Connection, *options: str, between: Between = nothing, most: int = 10_000) -> list[bytes]:
    """A whole walk, keys as they came. Raises ErrorReply; AssertionError when it does not end."""
    cursor, found = b"0", []
    for call in range(most):
        cursor, keys = await client.command("SCAN", cursor, *options)
        assert cursor.isdigit() and int(cursor) < LIMIT, cursor
        found += keys
        if cursor == b"0":
            return found
        await between(call)
    raise AssertionError("it does not end")


async def slots_of(cluster: EmbeddedCluster, keys: set[bytes]) -> dict[bytes, int]:
    ordered = sorted(keys)
    slots = await cluster.nodes[1].pipeline(*(("CLUSTER", "KEYSLOT", key) for key in ordered))
    return dict(zip(ordered, slots, strict=True))


async def test_a_walk_at_rest_is_that_of_one_server(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    async with await front.connect() as client:
        keys = await fill(client)
        for count in ("10", "100", "5000"):
            found = await scan(client, "COUNT", count)
            assert len(found) == KEYS and set(found) == keys
        assert set(await scan(client, "MATCH", "k:12*", "COUNT", "100")) == {k for k in keys if k.startswith(b"k:12")}
        lists = {key for key in keys if key.endswith(b"0")}
        assert set(await scan(client, "COUNT", "100", "TYPE", "list")) == lists
        options = ("TYPE", "list", "MATCH", "k:1*", "COUNT", "50")
        assert set(await scan(client, *options)) == {key for key in lists if key.startswith(b"k:1")}
        assert await scan(client, "MATCH", "nothing", "COUNT", "1000") == []
        assert await scan(client, "TYPE", "hash", "COUNT", "1000") == []


async def test_a_library_walks_too(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    async with await front.connect() as client:
        keys = await fill(client, 500)

    def walk() -> tuple[list[bytes], list[bytes]]:
        with redis.Redis(host=front.host, port=front.port, protocol=2) as library:
            return list(library.scan_iter(count=20)), list(library.scan_iter(match="k:1*", _type="list"))

    found, lists = await trio.to_thread.run_sync(walk)
    assert sorted(found) == sorted(keys)
    assert sorted(lists) == sorted(key for key in keys if key.startswith(b"k:1") and key.endswith(b"0"))


async def test_walks_during_a_reshard_return_every_key_that_did_not_move(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    walks: list[tuple[tuple[str, ...], list[bytes]]] = []
    kinds = [("COUNT", "10"), ("COUNT", "100"), ("COUNT", "100", "MATCH", "k:*5"), ("COUNT", "100", "TYPE", "list")]

    rounds = 0

    async def walk(options: tuple[str, ...]) -> None:
        async with await front.connect() as client:
            while rounds < 5:
                walks.append((options, await scan(client, *options)))

    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            keys = await fill(client)
            slot_of = await slots_of(cluster, keys)
            rides: list[Ride] = []
            for here, there in zip(cluster.nodes, [*cluster.nodes[1:], cluster.nodes[0]], strict=True):
                owned = sorted(set(slot_of.values()) & await cluster.slots_of(here))
                rides += [Ride(slot, here, there) for slot in owned[:4]]
            moving = {ride.slot for ride in rides}

            async def move() -> None:
                nonlocal rounds
                while True:
                    await shuttle(cluster, rides, 1, first=rounds)
                    rounds += 1

            async with trio.open_nursery() as moves:
                moves.start_soon(move)
                async with trio.open_nursery() as nursery:
                    for options in kinds:
                        nursery.start_soon(walk, options)
                moves.cancel_scope.cancel()
    stay = {key for key in keys if slot_of[key] not in moving}
    assert len(stay) > 2_000 and len(keys - stay) > 10
    assert {options for options, _ in walks} == set(kinds)
    for options, found in walks:
        wanted = stay
        if "MATCH" in options:
            wanted = {key for key in stay if key.endswith(b"5")}
        if "TYPE" in options:
            wanted = {key for key in stay if key.endswith(b"0")}
        assert wanted <= set(found) <= keys, (options, wanted - set(found))
        # Nothing was begun anew: what stays comes once.
        assert sum(key in wanted for key in found) == len(wanted), options


@pytest.mark.extended
async def test_a_failover_in_the_middle_of_a_walk_costs_no_key(
    make_cluster: ClusterFactory, proxy: ProxyFactory
) -> None:
    cluster = await make_cluster(replicas=1)
    front = await proxy("--refresh-interval", "0.5", cluster=cluster)
    first = cluster.nodes[0]
    (replica,) = [node for node in cluster.nodes if (await node.myself()).primary == first.id]

    async def fail_over(to: Node) -> None:
        await to.command("CLUSTER", "FAILOVER")
        await until(lambda: owns(front, to), within=15)
        await cluster.converged()

    async def planned(call: int) -> None:
        # In the middle of the first shard, and back when its second walk is in its middle.
        if call == 3:
            await fail_over(replica)
        elif call == 9:
            await fail_over(first)

    async def killed(call: int) -> None:
        if call == 3:
            await first.pipeline(("PING",), ("WAIT", 1, 5_000))
            first.kill()

    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            keys = await fill(client)
            # Usually some come twice. Not when a view shows the old primary still as one: then its walk goes on there.
            found = await scan(client, "COUNT", "100", between=planned)
            assert set(found) == keys
            found = await scan(client, "COUNT", "100", between=killed)
            assert set(found) == keys


async def owns(front: ProxyProcess, node: Node) -> bool:
    return node.address in (await owners(front)).values()


async def test_a_node_that_joins_and_one_that_leaves_change_nothing_for_the_rest(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy("--refresh-interval", "0.2")
    home = cluster.nodes[0]
    added: list[Node] = []
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            keys = await fill(client)
            slot_of = await slots_of(cluster, keys)
            slot, other = sorted(set(slot_of.values()) & await cluster.slots_of(home))[:2]

            async def between(call: int) -> None:
                if call == 4:
                    added.append(await cluster.add_node())
                    await move_slot(cluster, slot, home, added[0])
                    await until(lambda: owns(front, added[0]), within=10)
                elif call == 12:
                    await move_slot(cluster, slot, added[0], home)
                    await cluster.remove_node(added[0])
                    await until(lambda: forgotten(front, added[0]), within=15)

            found = await scan(client, "COUNT", "100", between=between)
            assert added and added[0] not in cluster.nodes
            stay = {key for key in keys if slot_of[key] != slot}
            assert stay <= set(found) <= keys
            # A walk may also begin at the node that has just joined, with a cursor of its own.
            added.append(await cluster.add_node())
            await move_slot(cluster, other, home, added[1])
            await until(lambda: owns(front, added[1]), within=10)
            assert set(await scan(client, "COUNT", "100")) == keys


async def forgotten(front: ProxyProcess, node: Node) -> bool:
    _, body = await front.get("/metrics")
    return f'slotproxy_backend_connections{{node="{node.address}"}}' not in body


@pytest.mark.parametrize("cursor", ["x", "-", "1.5", "18446744073709551616"])
async def test_a_wrong_cursor_is_refused_as_by_the_server(
    cluster: EmbeddedCluster, proxy: ProxyFactory, cursor: str
) -> None:
    front = await proxy()
    (wanted,) = await cluster.nodes[0].pipeline(("SCAN", cursor))
    async with await front.connect() as client:
        (reply,) = await client.pipeline(("SCAN", cursor))
    assert isinstance(reply, ErrorReply) and str(reply) == str(wanted)
