"""Redirects that nobody honest would send: they neither loop, nor move the map, nor make the proxy dial out.

Two sources: scripts on a real cluster, which can return any error text after their writes ran, and nodes of
our own that lie (`hostile`). Proof is what was counted: commands and connections, at the nodes and at a
listener that no redirect may lead to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import Migration, move_slot
from tests.conftest import ProxyFactory
from tests.integration.hostile import Bait, HostileCluster, HostileNode, bait, hostile_cluster
from tests.integration.load import tags_of
from tests.integration.observing import asked, at_least, forget_counts, owners, slots_page

WITHIN = 20.0
PARK = 0.5
# Backing off from 1 ms to 100 ms, doubled, less a half for jitter: so many attempts fit into PARK seconds.
ATTEMPTS = 8 + int(PARK * 20)

FORGE = "redis.call('incr', KEYS[1]) return redis.error_reply(ARGV[1])"


# ---- scripts on real nodes


@pytest.mark.parametrize(
    "text",
    [
        "MOVED {slot} {bait}",
        "MOVED {slot} 10.9.9.9:1",
        "MOVED {slot} {self}",
        "MOVED {slot} {other}",
        "MOVED {slot} :{baitport}",
        "ASK {slot} {bait}",
        "ASK {slot} {other}",
        "MOVED 1 {other}",
        "MOVED nonsense",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
    ],
)
async def test_what_a_script_forges_is_its_reply(cluster: EmbeddedCluster, proxy: ProxyFactory, text: str) -> None:
    front = await proxy()
    before = await slots_page(front)
    source, other, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    key = f"{{{tag}}}:n"
    with trio.fail_after(WITHIN):
        async with bait() as trap, await front.connect() as client:
            forged = text.format(
                slot=slot, bait=trap.address, baitport=trap.port, self=source.address, other=other.address
            )
            replies = await client.pipeline(
                ("EVAL", FORGE, 1, key, forged), ("GET", key), ("EVAL", FORGE, 1, key, forged), ("GET", key)
            )
            assert [str(replies[0]), str(replies[2])] == [forged, forged]
            # Executed exactly once each, and nothing overtook.
            assert (replies[1], replies[3]) == (b"1", b"2")
            assert trap.connections == 0
        assert await source.command("GET", key) == b"2"
        after = await slots_page(front)
        assert after["ranges"] == before["ranges"] and after["migrating"] == []


async def test_a_genuine_redirect_of_a_script_is_followed(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy("--refresh-interval", "1h")
    source, target, _ = cluster.nodes
    (tag, slot), (second, second_slot) = (await tags_of(cluster, source, 2)).items()
    await move_slot(cluster, slot, source, target)
    migration = Migration(cluster, second_slot, source, target)
    await migration.open()
    script = "return redis.call('incr', KEYS[1])"
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            for count in (1, 2, 3):
                assert await client.command("EVAL", script, 1, f"{{{tag}}}:n", "x") == count
                assert await client.command("EVAL", script, 1, f"{{{second}}}:n", "x") == count
    assert await target.command("GET", f"{{{tag}}}:n") == b"3"
    await migration.finish()
    assert await target.command("GET", f"{{{second}}}:n") == b"3"


async def test_a_forged_redirect_during_a_real_migration_is_executed_once(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    source, target, _ = cluster.nodes
    ((tag, slot),) = (await tags_of(cluster, source, 1)).items()
    key = f"{{{tag}}}:n"
    await source.command("SET", key, 10)
    migration = Migration(cluster, slot, source, target)
    await migration.open()
    await migration.move_keys()
    before = await owners(front)
    with trio.fail_after(WITHIN):
        async with bait() as trap, await front.connect() as client:
            (reply,) = await client.pipeline(("EVAL", FORGE, 1, key, f"MOVED {slot} {trap.address}"))
            assert str(reply) == f"MOVED {slot} {trap.address}"
            assert await client.command("GET", key) == b"11"
            assert trap.connections == 0
    assert await owners(front) == before


# ---- nodes that lie


@asynccontextmanager
async def in_front_of_liars(
    guard: Guard, answer: Callable[[HostileNode, list[bytes]], bytes], nodes: int = 2
) -> AsyncIterator[tuple[HostileCluster, ProxyProcess, Connection]]:
    """A cluster of liars, a proxy that gives up after PARK seconds, and a client of it."""
    with trio.fail_after(WITHIN):
        async with hostile_cluster(answer, nodes) as cluster:
            front = ProxyProcess(cluster.seeds, guard=guard, flags=["--park-timeout", str(PARK)])
            await front.start()
            try:
                async with await front.connect() as client:
                    yield cluster, front, client
            finally:
                status = await front.stop()
            assert status == 0 and "Traceback" not in front.stderr, front.stderr


async def error_of(client: Connection, *words: str) -> str:
    (reply,) = await client.pipeline(words)
    assert isinstance(reply, ErrorReply), reply
    return str(reply)


# `slot_of("foo")` and the slot next to it; with two nodes both are the second one's.
FOO = 12_182


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
async def test_a_redirect_to_itself_ends_with_an_error(guard: Guard, kind: str) -> None:
    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return b"+OK\r\n" if words == [b"ASKING"] else f"-{kind} {FOO} {node.address}\r\n".encode()

    async with in_front_of_liars(guard, answer) as (cluster, front, client):
        before = await owners(front)
        assert kind in await error_of(client, "GET", "foo")
        assert 2 <= cluster.count("GET") <= 3 * ATTEMPTS
        assert await owners(front) == before
        assert await client.command("PING") == b"PONG"


@pytest.mark.parametrize(
    "redirect",
    [
        "MOVED 12182 127.0.0.1:0",
        "MOVED 12182 127.0.0.1:65536",
        "MOVED 12182 127.0.0.1:99999999999999999999",
        "MOVED 12182 127.0.0.1",
        "MOVED 12182 ",
        "MOVED 12182",
        "MOVED 16384 {bait}",
        "MOVED -1 {bait}",
        "MOVED 12183 {bait}",
        "MOVED 12183 {other}",
        "MOVED x {bait}",
        "MOVED 12182 {bait} more",
        "MOVED 12182 127.0.0.1\x00:{baitport}",
        "ASK 12182 127.0.0.1:0",
        "ASK 12183 {other}",
        "ASK 12182 @!/etc/passwd:{baitport}",
    ],
)
async def test_a_redirect_that_is_none_is_an_error_at_once(guard: Guard, redirect: str) -> None:
    places: dict[str, object] = {}

    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return f"-{redirect.format(**places)}\r\n".encode()

    async with bait() as trap, in_front_of_liars(guard, answer) as (cluster, front, client):
        places |= {"bait": trap.address, "baitport": trap.port, "other": cluster.nodes[0].address}
        before = await owners(front)
        text = await error_of(client, "GET", "foo")
        assert text.startswith("ERR slotproxy") and "invalid redirect" in text
        assert cluster.count("GET") == 1
        assert trap.connections == 0
        assert await owners(front) == before


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
@pytest.mark.parametrize("host", ["{bait}", "localhost:{baitport}", "no.such.host.invalid:6379", ":{baitport}"])
async def test_an_unknown_address_is_not_dialled(guard: Guard, kind: str, host: str) -> None:
    places: dict[str, object] = {}

    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return f"-{kind} {FOO} {host.format(**places)}\r\n".encode()

    async with bait() as trap, in_front_of_liars(guard, answer) as (cluster, front, client):
        places |= {"bait": trap.address, "baitport": trap.port}
        before = await owners(front)
        assert kind in await error_of(client, "GET", "foo")
        # The map was asked whether it knows such a node, before anything was tried again.
        assert cluster.count("GET") <= ATTEMPTS
        assert trap.connections == 0
        assert await owners(front) == before


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
async def test_a_chain_without_end_is_cut(guard: Guard, kind: str) -> None:
    cluster_of: list[HostileCluster] = []

    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        if words == [b"ASKING"]:
            return b"+OK\r\n"
        nodes = cluster_of[0].nodes
        following = nodes[node.number % len(nodes)]
        return f"-{kind} {FOO} {following.address}\r\n".encode()

    async with in_front_of_liars(guard, answer, nodes=4) as (cluster, _, client):
        cluster_of.append(cluster)
        assert kind in await error_of(client, "GET", "foo")
        # Once around without a pause, then a pause: so often at most.
        assert cluster.count("GET") <= 5 * ATTEMPTS
        assert all(node.connections < 20 for node in cluster.nodes)
        assert await client.command("PING") == b"PONG"


async def test_refusing_for_ever_is_not_a_storm(guard: Guard) -> None:
    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return b"-CLUSTERDOWN The cluster is down\r\n"

    async with in_front_of_liars(guard, answer) as (cluster, front, client):
        replies = await client.pipeline(*[("INCR", "foo")] * 200)
        assert all(isinstance(reply, ErrorReply) and "CLUSTERDOWN" in str(reply) for reply in replies)
        # The 200 that were on their way, and then one probe at a time.
        assert cluster.count("INCR") <= 200 + ATTEMPTS
        assert await at_least(front, "slotproxy_clusterdown_total", 200)


async def test_a_reply_that_nobody_asked_for_ends_the_connection(guard: Guard) -> None:
    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return b"$5\r\nfirst\r\n$6\r\nsecond\r\n" if words == [b"GET", b"foo"] else b"$3\r\nown\r\n"

    async with in_front_of_liars(guard, answer) as (cluster, front, client):
        for _ in range(3):
            assert await client.command("GET", "foo") in (b"first",)
            # Never the reply that was left over.
            assert await client.command("GET", "{foo}other") == b"own"
        await until(lambda: all_connected(front), within=5)
        assert sum(node.connections for node in cluster.nodes) < 60


async def all_connected(front: ProxyProcess) -> bool:
    return (await front.metrics())["slotproxy_backend_connections"] >= 4


async def test_noise_in_place_of_a_reply_ends_in_an_error(guard: Guard) -> None:
    def answer(node: HostileNode, words: list[bytes]) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" if words[0] == b"INCR" else b"+fine\r\n"

    async with in_front_of_liars(guard, answer) as (cluster, _, client):
        assert (await error_of(client, "INCR", "foo")).startswith("ERR slotproxy: in doubt:")
        assert cluster.count("INCR") == 1
        assert await client.command("GET", "foo") == b"fine"


# ---- and a real node beside a forged address


async def test_no_command_is_counted_twice_by_a_forged_moved(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    ((tag, slot),) = (await tags_of(cluster, cluster.nodes[0], 1)).items()
    key = f"{{{tag}}}:n"
    await forget_counts(cluster.nodes)
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            replies = await client.pipeline(*[("EVAL", FORGE, 1, key, f"MOVED {slot} 10.9.9.9:1")] * 20)
    assert {str(reply) for reply in replies} == {f"MOVED {slot} 10.9.9.9:1"}
    assert [await asked(node, "eval") for node in cluster.nodes] == [20, 0, 0]
    assert await cluster.nodes[0].command("GET", key) == b"20"


def test_the_bait_counts() -> None:
    """What proves that nothing dialled would notice it."""

    async def main() -> int:
        async with bait() as trap:
            await dial(trap)
            return trap.connections

    assert trio.run(main) == 1


async def dial(trap: Bait) -> None:
    with trio.fail_after(WITHIN):
        async with await trio.open_tcp_stream("127.0.0.1", trap.port) as stream:
            assert await stream.receive_some() == b""
