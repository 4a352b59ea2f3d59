"""A slot can be moved, held half-way and put back; in between the nodes answer as the protocol says."""

from __future__ import annotations

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.node import Node
from slotproxy.demo.reshard import Migration, Order, Step, move_slot

SLOT = 42


async def fill(cluster: EmbeddedCluster, count: int) -> list[str]:
    """Keys of one slot, written at its owner, the first node."""
    key = await cluster.key_in_slot(SLOT)
    tag = key[key.index("{") :]
    keys = [f"{number}:{tag}" for number in range(count)]
    assert await cluster.nodes[0].command("MSET", *(word for key in keys for word in (key, key))) == b"OK"
    return keys


async def values(node: Node, keys: list[str]) -> list[str]:
    return [value.decode() for value in await node.command("MGET", *keys)]


async def test_a_slot_moves_and_comes_back_with_its_keys(cluster: EmbeddedCluster) -> None:
    first, second, _ = cluster.nodes
    keys = await fill(cluster, 25)
    assert await move_slot(cluster, SLOT, first, second, batch=10) == 25
    assert await cluster.owner(SLOT) is second
    assert await values(second, keys) == keys
    for other in (first, cluster.nodes[2]):
        with pytest.raises(ErrorReply, match=rf"^MOVED {SLOT} {second.address}$"):
            await other.command("GET", keys[0])

    assert await move_slot(cluster, SLOT, second, first, batch=1) == 25
    assert await cluster.owner(SLOT) is first
    assert await values(first, keys) == keys
    await cluster.converged()


@pytest.mark.parametrize(
    ("order", "ends"),
    [("target-first", ["target-node", "source-node"]), ("source-first", ["source-node", "target-node"])],
)
async def test_the_steps_come_in_the_order_asked_for(
    cluster: EmbeddedCluster, order: Order, ends: list[Step]
) -> None:
    await fill(cluster, 3)
    steps: list[Step] = []

    async def step(name: Step) -> None:
        steps.append(name)

    await move_slot(cluster, SLOT, cluster.nodes[0], cluster.nodes[2], batch=2, order=order, step=step)
    assert steps == ["importing", "migrating", "keys", "keys", *ends, "others-node"]
    assert await cluster.owner(SLOT) is cluster.nodes[2]


async def test_a_half_migrated_slot_answers_ask_and_tryagain(cluster: EmbeddedCluster) -> None:
    source, target, _ = cluster.nodes
    here, there = await fill(cluster, 2)
    migration = Migration(cluster, SLOT, source, target)
    await migration.open()
    await migration.move(there)

    assert await source.command("GET", here) == here.encode()
    with pytest.raises(ErrorReply, match=rf"^ASK {SLOT} {target.address}$"):
        await source.command("GET", there)
    # 6.2 sends a client on to the target, which says the same as 7.0's source: not all keys are here.
    with pytest.raises(ErrorReply, match=r"^(TRYAGAIN|ASK) "):
        await source.command("MGET", here, there)
    _, refused = await target.pipeline(("ASKING",), ("MGET", here, there))
    assert refused.code == "TRYAGAIN"
    with pytest.raises(ErrorReply, match=rf"^MOVED {SLOT} {source.address}$"):
        await target.command("GET", there)
    assert await target.pipeline(("ASKING",), ("GET", there)) == [b"OK", there.encode()]

    assert await migration.move_keys() == 1
    await migration.finish()
    assert migration.moved == 2
    assert await values(target, [here, there]) == [here, there]


async def test_keys_move_in_the_number_asked_for(cluster: EmbeddedCluster) -> None:
    await fill(cluster, 10)
    migration = Migration(cluster, SLOT, *cluster.nodes[:2])
    await migration.open()
    assert await migration.move_keys(3, batch=2) == 3
    assert await cluster.nodes[0].command("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 7
    assert await cluster.nodes[1].command("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 3
    await migration.finish()
    assert await migration.move_keys() == 0


async def test_between_two_ends_the_nodes_point_at_each_other(cluster: EmbeddedCluster) -> None:
    source, target, _ = cluster.nodes
    seen: list[str] = []

    async def step(name: Step) -> None:
        if name == "source-node":
            for node in (source, target):
                (reply,) = await node.pipeline(("GET", key))
                seen.append(str(reply))

    (key,) = await fill(cluster, 1)
    await move_slot(cluster, SLOT, source, target, order="source-first", step=step)
    assert seen == [f"MOVED {SLOT} {target.address}", f"MOVED {SLOT} {source.address}"]


async def test_abort_leaves_the_slot_at_the_source(cluster: EmbeddedCluster) -> None:
    source, target, _ = cluster.nodes
    keys = await fill(cluster, 2)
    migration = Migration(cluster, SLOT, source, target)
    await migration.open()
    await migration.abort()
    assert await values(source, keys) == keys
    assert not (await source.myself()).migrating and not (await target.myself()).importing
    assert await cluster.owner(SLOT) is source


async def test_a_slot_can_be_moved_in_quick_succession(cluster: EmbeddedCluster) -> None:
    (key,) = await fill(cluster, 1)
    for turn in range(30):
        source, target = cluster.nodes[turn % 3], cluster.nodes[(turn + 1) % 3]
        await move_slot(cluster, SLOT, source, target)
        assert await values(target, [key]) == [key]
    await cluster.converged(within=5)
    assert await cluster.owner(SLOT) is cluster.nodes[0]


async def test_slots_can_be_moved_at_once(cluster: EmbeddedCluster) -> None:
    first, second, third = cluster.nodes
    mine = [min(await cluster.slots_of(node)) for node in cluster.nodes]
    async with trio.open_nursery() as nursery:
        for slot, source, target in zip(mine, (first, second, third), (second, third, first), strict=True):
            nursery.start_soon(move_slot, cluster, slot, source, target)
    await cluster.converged(within=5)
    assert [await cluster.owner(slot) for slot in mine] == [second, third, first]


async def test_a_node_without_slots_can_be_filled_and_emptied(cluster: EmbeddedCluster) -> None:
    added = await cluster.add_node()
    keys = await fill(cluster, 2)
    await move_slot(cluster, SLOT, cluster.nodes[0], added)
    assert await values(added, keys) == keys
    await move_slot(cluster, SLOT, added, cluster.nodes[0])
    assert await cluster.slots_of(added) == frozenset()
    await cluster.remove_node(added)
    await cluster.converged()
