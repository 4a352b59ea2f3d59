"""Slots move under plain clients: no error, no swap, nothing lost and nothing doubled.

Every test checks the clients' histories and the values at the nodes, and that the proxy was redirected often
enough: a run in which nobody was redirected proves nothing.
"""

from __future__ import annotations

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.node import Node
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.load import (
    LONGER,
    Commands,
    Ride,
    Stream,
    answered,
    check_against_nodes,
    counting,
    mixed,
    running,
    shuttle,
    tags_of,
    with_barriers,
)

CLIENTS = 20
WINDOW = 400
MOVES_PER_SECOND = 20.0
SECONDS = max(2.0, LONGER)


async def redirects(proxy: ProxyProcess) -> tuple[int, int]:
    metrics = await proxy.metrics()
    return int(metrics["slotproxy_moved_total"]), int(metrics["slotproxy_ask_total"])


def twenty_mixed(tags: list[str]) -> list[Stream]:
    """Clients that wait for each reply, and clients that pipeline."""
    return [Stream(f"m{n}", mixed(f"m{n}", tags), window=(1, 1, 8, 40)[n % 4]) for n in range(CLIENTS)]


def no_doubt(streams: list[Stream]) -> bool:
    return all(stream.history.in_doubt == 0 for stream in streams)


async def test_twenty_clients_do_not_notice_that_slots_move(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    rides = []
    tags: list[str] = []
    for here, there in zip(cluster.nodes, [*cluster.nodes[1:], cluster.nodes[0]], strict=True):
        found = await tags_of(cluster, here, 11)
        tags += found
        rides += [Ride(slot, here, there) for slot in found.values()]
    streams = twenty_mixed(tags)
    with trio.fail_after(60 + 10 * LONGER):
        async with running(streams, front.connect):
            await answered(streams, 20)
            await shuttle(cluster, rides, 2 + 2 * int(LONGER / 10))
            await answered(streams, 5)
        await check_against_nodes(cluster, streams)
    moved, ask = await redirects(front)
    assert moved > 60 and ask > 60, (moved, ask)
    assert no_doubt(streams)


async def test_slots_move_to_an_empty_primary_that_has_just_joined(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy("--refresh-interval", "1h")
    source = cluster.nodes[0]
    tags = await tags_of(cluster, source, 6)
    streams = twenty_mixed(list(tags))
    with trio.fail_after(60):
        async with running(streams, front.connect):
            await answered(streams, 20)
            added = await cluster.add_node()
            # The first stays there: a primary that gives its last slot away becomes a replica.
            first, *others = (Ride(slot, source, added) for slot in tags.values())
            await shuttle(cluster, [first], 1)
            await shuttle(cluster, others, 3)
            await answered(streams, 5)
        await check_against_nodes(cluster, streams)
    assert await cluster.slots_of(added) == frozenset(tags.values())
    moved, ask = await redirects(front)
    assert moved > 15 and ask > 15, (moved, ask)
    assert no_doubt(streams)


def plain_stream(name: str, tag: str) -> Commands:
    return counting(name, [tag])


KINDS = {"incr": plain_stream, "barriers": with_barriers}


@pytest.mark.parametrize("kind", ["incr", pytest.param("barriers", marks=pytest.mark.extended)])
async def test_streams_keep_their_order_while_their_slot_moves(
    cluster: EmbeddedCluster, proxy: ProxyFactory, kind: str
) -> None:
    front = await proxy()
    streams, rides = await streams_in_two_slots(cluster, kind)
    moves = int(SECONDS * MOVES_PER_SECOND)
    with trio.fail_after(60 + 3 * LONGER):
        async with running(streams, front.connect):
            await leave(cluster, rides, streams)
            await shuttle(cluster, rides, moves, first=1, batch=4, per_second=MOVES_PER_SECOND)
            await answered(streams, 1)
        await check_against_nodes(cluster, streams)
    assert min(stream.most_in_flight for stream in streams) > 200
    moved, ask = await redirects(front)
    assert moved > moves and ask > moves, (moved, ask)
    assert no_doubt(streams)


async def streams_in_two_slots(cluster: EmbeddedCluster, kind: str) -> tuple[list[Stream], list[Ride]]:
    here, there, _ = cluster.nodes
    tags = await tags_of(cluster, here, 2)
    names = list(tags)
    streams = [Stream(f"s{n}", KINDS[kind](f"s{n}", names[n % 2]), window=WINDOW) for n in range(CLIENTS)]
    return streams, [Ride(slot, here, there) for slot in tags.values()]


async def leave(cluster: EmbeddedCluster, rides: list[Ride], streams: list[Stream]) -> None:
    """Move the slots for the first time, and wait until everything that was in flight then has been answered.

    That the slot comes back while a window of commands from before is still on its way is what the ordering
    contract excludes. Once the proxy knows that a slot moves, it needs no such rest.
    """
    await answered(streams, 1)
    await shuttle(cluster, rides, 1)
    await answered(streams, WINDOW)


@pytest.mark.parametrize("kind", ["incr", pytest.param("barriers", marks=pytest.mark.extended)])
async def test_streams_keep_their_order_while_connections_to_nodes_are_killed(
    cluster: EmbeddedCluster, proxy: ProxyFactory, kind: str
) -> None:
    front = await proxy()
    streams, rides = await streams_in_two_slots(cluster, kind)
    moves = int(SECONDS * MOVES_PER_SECOND)
    with trio.fail_after(60 + 3 * LONGER):
        async with running(streams, front.connect):
            await leave(cluster, rides, streams)
            async with trio.open_nursery() as killing:
                killing.start_soon(kill_lanes, cluster.nodes[:2])
                await shuttle(cluster, rides, moves, first=1, batch=4, per_second=MOVES_PER_SECOND)
                killing.cancel_scope.cancel()
            await answered(streams, 1)
        await check_against_nodes(cluster, streams)
    moved, ask = await redirects(front)
    assert moved > moves and ask > moves, (moved, ask)
    assert sum(stream.history.in_doubt for stream in streams) > 0, "no connection was hit"


async def kill_lanes(nodes: list[Node]) -> None:
    """End the proxy's connections to these nodes, by their id, again and again."""
    while True:
        for node in nodes:
            ids = await lanes_at(node)
            for reply in await node.pipeline(*(("CLIENT", "KILL", "ID", lane) for lane in ids)):
                assert reply in (0, 1)
            await trio.sleep(0.15)


async def lanes_at(node: Node) -> list[str]:
    """CLIENT IDs of the proxy's connections to a node."""
    text: bytes = await node.command("CLIENT", "LIST")
    clients = [dict(word.split("=", 1) for word in line.split(" ")) for line in text.decode().splitlines()]
    return [client["id"] for client in clients if client["name"] == "slotproxy"]
