"""The embedded cluster keeps what its docstrings promise, on every server found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from slotproxy.demo.cluster import SLOTS, EmbeddedCluster, even_split
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.guard import Guard
from slotproxy.demo.node import Node, StartFailed, parse_member
from slotproxy.demo.polling import until
from slotproxy.demo.reshard import Migration, move_slot
from tests.conftest import NODE_TIMEOUT_MS, ClusterFactory


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def listed_in_slots(node: Node) -> set[str]:
    entries = await node.command("CLUSTER", "SLOTS")
    return {member[2].decode() for entry in entries for member in entry[2:]}


def test_even_split_covers_every_slot_once() -> None:
    for primaries in (1, 3, 7):
        parts = even_split(primaries)
        assert [slot for part in parts for slot in part] == list(range(SLOTS))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_line_of_cluster_nodes_is_understood() -> None:
    member = parse_member(
        "07c3 127.0.0.1:30004@31004,host myself,master - 0 1426238317239 4 connected "
        "0-5460 7000 [93-<-ab] [77->-cd]"
    )
    assert (member.id, member.host, member.port, member.epoch) == ("07c3", "127.0.0.1", 30004, 4)
    assert member.is_primary and member.primary is None and member.linked
    assert member.ranges == ((0, 5460), (7000, 7000))
    assert 7000 in member.slots and len(member.slots) == 5462
    assert member.importing == {93: "ab"} and member.migrating == {77: "cd"}


async def test_every_slot_has_one_owner_and_takes_writes(cluster: EmbeddedCluster) -> None:
    owned = [await cluster.slots_of(node) for node in cluster.nodes]
    assert sum(map(len, owned)) == SLOTS
    assert frozenset().union(*owned) == frozenset(range(SLOTS))
    for node, slots in zip(cluster.nodes, owned, strict=True):
        key = await cluster.key_in_slot(min(slots))
        assert await node.command("SET", key, "v") == b"OK"
        assert await cluster.owner(await cluster.slot_of(key)) is node


async def test_nodes_do_not_persist(cluster: EmbeddedCluster) -> None:
    for node in cluster.nodes:
        assert await node.command("CONFIG", "GET", "save") == [b"save", b""]
        assert await node.command("CONFIG", "GET", "appendonly") == [b"appendonly", b"no"]


async def test_an_error_reply_is_raised_with_its_text(cluster: EmbeddedCluster) -> None:
    with pytest.raises(ErrorReply, match=r"^ERR wrong number of arguments") as raised:
        await cluster.nodes[0].command("GET")
    assert raised.value.code == "ERR"
    assert await cluster.nodes[0].command("PING") == b"PONG"


async def test_a_command_cancelled_half_way_does_not_shift_replies(cluster: EmbeddedCluster) -> None:
    node = cluster.nodes[0]
    node.pause()
    with trio.move_on_after(0.05) as scope:
        await node.command("ECHO", "first")
    node.resume()
    assert scope.cancelled_caught
    assert await node.command("ECHO", "second") == b"second"


async def test_an_added_node_is_known_and_owns_nothing(cluster: EmbeddedCluster) -> None:
    added = await cluster.add_node()
    for node in cluster.nodes[:3]:
        assert added.id in {member.id for member in await node.members()}
        assert added.id not in await listed_in_slots(node)
    assert await cluster.slots_of(added) == frozenset()
    await move_slot(cluster, 0, cluster.nodes[0], added)
    await cluster.converged()
    assert await cluster.owner(0) is added
    assert added.id in await listed_in_slots(cluster.nodes[1])
    with pytest.raises(ValueError, match="still owns"):
        await cluster.remove_node(added)


async def test_a_removed_node_is_forgotten(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(primaries=2)
    added = await cluster.add_node()
    pid = added.pid
    await cluster.remove_node(added)
    assert not exists(pid)
    for node in cluster.nodes:
        assert added.id not in {member.id for member in await node.members()}


async def test_a_restarted_node_keeps_its_id_port_and_slots(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(primaries=2)
    node = cluster.nodes[1]
    before = (node.id, node.port, await cluster.slots_of(node))
    pid = node.pid
    node.kill()
    assert not exists(pid) and not node.running
    assert node.address not in cluster.seeds
    await node.restart()
    await cluster.converged()
    assert (node.id, node.port, await cluster.slots_of(node)) == before
    assert node.pid != pid


async def test_replicas_follow_and_take_over(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(replicas=1)
    primary, replica = cluster.nodes[0], cluster.nodes[3]
    assert len(cluster.nodes) == 6
    assert (await replica.myself()).primary == primary.id
    assert await cluster.primaries() == cluster.nodes[:3]
    slots = await cluster.slots_of(primary)
    await replica.command("CLUSTER", "FAILOVER")

    async def promoted() -> bool:
        return await cluster.owner(min(slots)) is replica

    await until(promoted, within=15)
    await cluster.converged()
    assert await cluster.slots_of(replica) == slots
    await cluster.reset()
    assert await cluster.primaries() == cluster.nodes[:3]


async def test_terminate_stops_a_paused_node(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(primaries=1)
    node = cluster.nodes[0]
    pid = node.pid
    node.pause()
    await node.terminate()
    assert not exists(pid)


async def test_reset_undoes_what_tests_do_in_place(cluster: EmbeddedCluster) -> None:
    first, second, third = cluster.nodes
    pids = [node.pid for node in cluster.nodes]
    keys = [await cluster.key_in_slot(slot) for slot in (1, 2)]
    for key in keys:
        await first.command("SET", key, "v")
    await move_slot(cluster, 1, first, second)
    await Migration(cluster, 2, first, third).open()
    await third.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    await third.command("ACL", "SETUSER", "somebody", "on", "nopass", "+@all")
    second.pause()

    await cluster.reset()

    assert [node.pid for node in cluster.nodes] == pids
    for node, slots in zip(cluster.nodes, even_split(3), strict=True):
        me = await node.myself()
        assert me.slots == frozenset(slots)
        assert not me.migrating and not me.importing
        assert await node.command("DBSIZE") == 0
    assert (await third.command("CONFIG", "GET", "cluster-require-full-coverage"))[1] == b"yes"
    assert await third.command("ACL", "USERS") == [b"default"]


async def test_reset_forms_the_cluster_anew_after_a_kill(make_cluster: ClusterFactory) -> None:
    cluster = await make_cluster(primaries=2)
    pids = [node.pid for node in cluster.nodes]
    cluster.nodes[0].kill()
    await cluster.reset()
    assert not any(map(exists, pids))
    assert len(cluster.nodes) == 2
    await cluster.converged()


async def test_nothing_is_left_after_the_block(any_server: str) -> None:
    async with EmbeddedCluster(server=any_server, primaries=1) as cluster:
        pid, folder = cluster.nodes[0].pid, cluster.nodes[0].folder.parent
        assert exists(pid) and folder.is_dir()
    assert not exists(pid) and not folder.exists()


async def test_nothing_is_left_after_an_exception_in_the_block(any_server: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with EmbeddedCluster(server=any_server, primaries=1) as cluster:
            pid, folder = cluster.nodes[0].pid, cluster.nodes[0].folder.parent
            cluster.nodes[0].pause()
            raise ZeroDivisionError
    assert not exists(pid) and not folder.exists()


async def test_nothing_is_left_when_setup_is_cancelled(any_server: str) -> None:
    cluster = EmbeddedCluster(server=any_server, primaries=2)
    seen: list[tuple[int, Path]] = []

    async def watch(scope: trio.CancelScope) -> None:
        await until(lambda: bool(cluster.nodes) and all(node.running for node in cluster.nodes), within=15)
        seen.extend((node.pid, node.folder.parent) for node in cluster.nodes)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        await cluster.start()
    assert seen
    for pid, folder in seen:
        assert not exists(pid) and not folder.exists()


async def test_a_setting_that_the_server_refuses_is_told_with_its_log(redis_server: str) -> None:
    cluster = EmbeddedCluster(server=redis_server, primaries=1, settings={"no-such-setting": "1"})
    with pytest.raises(StartFailed, match="no-such-setting"):
        await cluster.start()
    assert cluster.nodes == []


async def test_a_taken_port_is_replaced_by_another(redis_server: str, guard: Guard) -> None:
    taken = Node(redis_server, "taken", guard, {"cluster-node-timeout": str(NODE_TIMEOUT_MS)})
    second = Node(redis_server, "second", guard, {"cluster-node-timeout": str(NODE_TIMEOUT_MS)})
    try:
        await taken.start()
        # The race for a free port, lost: chosen, and bound by somebody else before the spawn.
        second.port = taken.port
        await second.start()
        assert second.port != taken.port
        assert (await second.info("server"))["process_id"] == str(second.pid)
    finally:
        taken.kill()
        second.kill()


async def test_a_slot_that_nobody_claims_is_given_to_a_primary(cluster: EmbeddedCluster) -> None:
    slot = await cluster.slot_of("a")
    owner = await cluster.owner(slot)
    other = next(node for node in cluster.nodes if node is not owner)
    await owner.command("CLUSTER", "SETSLOT", slot, "NODE", other.id)
    assert all([slot not in await cluster.slots_of(node) for node in cluster.nodes])
    await cluster.assign(slot, owner, other)
    assert await cluster.owner(slot) is owner
    await cluster.converged()
