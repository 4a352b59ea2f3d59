"""Connections to nodes break, nodes die, leave, come back and change places: who gets which reply.

Not wholly sent: sent again. Reads: sent again, unless a write in doubt follows. Writes that may have run: an
error that says so. Slots without a node wait; the others go on. What is planned (failover, removal) shows no
error at all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply, pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import move_slot
from slotproxy.demo.servers import free_node_port, free_port
from tests.conftest import ClusterFactory, ProxyFactory
from tests.history import IN_DOUBT_TEXT, UNREAD_TEXT
from tests.integration.load import Stream, answered, check_against_nodes, counting, mixed, running, tags_of
from tests.integration.observing import asked, at_least, by_node, forget_counts, owners
from tests.integration.relay import Relay, relay_to

WITHIN = 40.0
# Redis wants full coverage by default: then every node refuses when one is gone.
PARTIAL = {"cluster-require-full-coverage": "no"}


async def tag_at(cluster: EmbeddedCluster, node: Node) -> str:
    (tag,) = await tags_of(cluster, node, 1)
    return tag


def is_in_doubt(reply: object, command: str, node: Node) -> bool:
    text = str(reply)
    return (
        isinstance(reply, ErrorReply)
        and text.startswith(IN_DOUBT_TEXT)
        and f" {command} " in text
        and node.address in text
    )


async def in_flight(front: ProxyProcess, count: int) -> None:
    await until(lambda: at_least(front, "slotproxy_requests_in_flight", count), within=10)


# ---- a primary is killed


async def test_a_killed_primary(make_cluster: ClusterFactory, proxy: ProxyFactory) -> None:
    cluster = await make_cluster(settings=PARTIAL)
    victim = cluster.nodes[0]
    front = await proxy(cluster=cluster)
    tag = await tag_at(cluster, victim)
    bystanders = [
        Stream(f"b{number}", counting(f"b{number}", [await tag_at(cluster, node)]), window=window)
        for number, (node, window) in enumerate([(cluster.nodes[1], 1), (cluster.nodes[2], 50)])
    ]
    replies: dict[str, list[object]] = {}

    async def send(name: str, *commands: Sequence[str]) -> None:
        async with await front.connect() as client:
            replies[name] = await client.pipeline(*commands)

    with trio.fail_after(WITHIN):
        async with running(bystanders, front.connect), trio.open_nursery() as nursery:
            # Sent but not answered: deterministically, because nobody is there to answer.
            victim.pause()
            nursery.start_soon(send, "reads", *[("GET", f"{{{tag}}}:r")] * 20)
            nursery.start_soon(send, "writes", *[("INCR", f"{{{tag}}}:w")] * 20)
            key = f"{{{tag}}}:m"
            nursery.start_soon(send, "both", ("GET", key), ("SET", key, "1"), ("GET", key))
            await in_flight(front, 43)
            victim.kill()
            await until(lambda: "writes" in replies, within=5)
            assert all(is_in_doubt(reply, "INCR", victim) for reply in replies["writes"]), replies
            nursery.start_soon(send, "later", *[("INCR", f"{{{tag}}}:l")] * 20)
            # A slot without a node does not keep the others waiting.
            await answered(bystanders, 300)
            assert replies.keys() == {"writes"}
            await victim.restart()
        assert replies["reads"] == [None] * 20
        assert replies["later"] == list(range(1, 21))
        first, second, third = replies["both"]
        # Repeated after SET it could see SET's value, though it was sent before.
        assert str(first).startswith(UNREAD_TEXT), first
        assert is_in_doubt(second, "SET", victim) and third is None
        await check_against_nodes(cluster, bystanders)
    assert all(stream.history.in_doubt == 0 for stream in bystanders)
    assert await victim.command("GET", f"{{{tag}}}:w") is None
    # The unread GET is no write in doubt.
    assert (await front.metrics())["slotproxy_in_doubt_total"] == 21


async def test_a_slot_without_a_node_gives_up_at_the_deadline(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy("--park-timeout", "0.3")
    victim = cluster.nodes[0]
    (tag, slot), *_ = (await tags_of(cluster, victim, 1)).items()
    with trio.fail_after(WITHIN):
        victim.kill()
        async with await front.connect() as client:
            await client.command("PING")
            (reply,) = await client.pipeline(("INCR", f"{{{tag}}}:n"))
            if str(reply).startswith(IN_DOUBT_TEXT):
                # Sent before the proxy had noticed.
                (reply,) = await client.pipeline(("INCR", f"{{{tag}}}:n"))
            assert isinstance(reply, ErrorReply)
            assert str(slot) in str(reply) and victim.address in str(reply) and "not executed" in str(reply)
            assert await client.command("PING") == b"PONG"


# ---- a connection is lost


async def test_reads_are_sent_again_and_writes_are_in_doubt(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    node = cluster.nodes[0]
    tag = await tag_at(cluster, node)
    await node.command("SET", f"{{{tag}}}:r", "value")
    replies: dict[str, list[object]] = {}
    with trio.fail_after(WITHIN):
        async with relay_to(node) as relay:
            front = await proxy(*relay.flags())

            async def send(name: str, *commands: Sequence[str]) -> None:
                async with await front.connect() as client:
                    replies[name] = await client.pipeline(*commands)

            await forget_counts(cluster.nodes)
            async with trio.open_nursery() as nursery:
                held = relay.hold()
                nursery.start_soon(send, "reads", *[("GET", f"{{{tag}}}:r")] * 30)
                nursery.start_soon(send, "writes", *[("INCR", f"{{{tag}}}:w")] * 30)
                await in_flight(front, 60)
                await until(lambda: sum(pair.kept for pair in held) >= 60 * 20, within=5)
                relay.cut(held)
            assert replies["reads"] == [b"value"] * 30
            assert all(is_in_doubt(reply, "INCR", node) for reply in replies["writes"]), replies["writes"]
            # Never sent again: the relay still holds them.
            assert await asked(node, "incr") == 0
            assert await asked(node, "get") == 30
            async with await front.connect() as client:
                assert await client.command("INCR", f"{{{tag}}}:w") == 1


async def test_what_a_dead_connection_still_holds_does_not_run_later(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    node = cluster.nodes[0]
    tag = await tag_at(cluster, node)
    key = f"{{{tag}}}:n"
    with trio.fail_after(WITHIN):
        async with relay_to(node) as relay:
            front = await proxy(*relay.flags(), "--connections-per-node", "1")
            async with await front.connect() as client:
                assert await client.command("INCR", key) == 1
                held = relay.hold()
                await client.send(pack("INCR", key) * 50)
                await until(lambda: sum(pair.kept for pair in held) >= 50 * 20, within=5)
                relay.cut(held)
                for _ in range(50):
                    assert is_in_doubt(await client.receive(), "INCR", node)
                assert await client.command("INCR", key) == 2
                # Now the old connection's commands arrive at the node, or would, had it not been killed.
                relay.let_go(held)
                for pair in held:
                    if pair.kept:
                        await pair.ended_by_node.wait()
                assert await client.command("INCR", key) == 3
            assert await node.command("GET", key) == b"3"


async def test_what_was_not_wholly_sent_is_sent_again(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    node = cluster.nodes[0]
    tag = await tag_at(cluster, node)
    large = b"x" * 24_000_000
    with trio.fail_after(WITHIN):
        async with relay_to(node) as relay:
            front = await proxy(*relay.flags(), "--connections-per-node", "1")
            async with await front.connect() as client, trio.open_nursery() as nursery:
                # Nobody reads: the kernel takes some megabytes and no more.
                held = relay.hold(read=False)
                nursery.start_soon(
                    client.send,
                    pack("SET", f"{{{tag}}}:large", large) + pack("INCR", f"{{{tag}}}:n") * 10,
                )
                await in_flight(front, 11)
                relay.cut(held)
                assert await client.receive() == b"OK"
                assert [await client.receive() for _ in range(10)] == list(range(1, 11))
                assert await client.command("STRLEN", f"{{{tag}}}:large") == len(large)
            assert (await front.metrics())["slotproxy_in_doubt_total"] == 0


async def test_streams_keep_their_order_over_resets(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    node = cluster.nodes[0]
    tags = list(await tags_of(cluster, node, 2))
    with trio.fail_after(WITHIN):
        async with relay_to(node) as relay:
            front = await proxy(*relay.flags())
            streams = [Stream(f"s{n}", counting(f"s{n}", [tags[n % 2]]), window=200) for n in range(6)]
            async with running(streams, front.connect):
                for _ in range(6):
                    # Replies in doubt count as answered: wait for the connections that take their place.
                    await answered(streams, 200)
                    await until(lambda: connected(front, node, 2), within=5)
                    await cut_under_load(relay)
                await answered(streams, 200)
            await check_against_nodes(cluster, streams)
    assert sum(stream.history.in_doubt for stream in streams) > 0


async def connected(front: ProxyProcess, node: Node, count: int) -> bool:
    return (await by_node(front, "slotproxy_backend_connections")).get(node.address, 0) >= count


async def cut_under_load(relay: Relay) -> None:
    """Cut when something is on its way; it arrives at the node after the proxy has heard of the end."""
    held = relay.hold()
    await until(lambda: any(pair.kept for pair in held), within=5)
    relay.cut(held)
    relay.let_go(held)


# ---- changes of the cluster


async def test_a_planned_failover_shows_no_error(make_cluster: ClusterFactory, proxy: ProxyFactory) -> None:
    cluster = await make_cluster(replicas=1)
    front = await proxy(cluster=cluster)
    primary = cluster.nodes[0]
    (replica,) = [node for node in cluster.nodes if (await node.myself()).primary == primary.id]
    tags = list(await tags_of(cluster, primary, 4)) + list(await tags_of(cluster, cluster.nodes[1], 2))
    streams = [Stream(f"f{n}", mixed(f"f{n}", tags), window=(1, 20)[n % 2]) for n in range(6)]
    streams += [Stream(f"g{n}", counting(f"g{n}", tags[:1]), window=200) for n in range(2)]
    with trio.fail_after(WITHIN):
        async with running(streams, front.connect):
            for new in (replica, primary):
                await answered(streams, 50)
                await new.command("CLUSTER", "FAILOVER")
                await until(lambda new=new: is_primary(new), within=10)  # type: ignore[misc]
                await answered(streams, 50)
                # A primary that does not know its replica yet ignores that one's CLUSTER FAILOVER.
                await cluster.converged()
        await check_against_nodes(cluster, streams)
    assert all(stream.history.in_doubt == 0 for stream in streams)
    assert await at_least(front, "slotproxy_moved_total", 2)


async def is_primary(node: Node) -> bool:
    return bool((await node.myself()).slots)


async def test_a_removed_node_is_let_go(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    added = await cluster.add_node()
    front = await proxy("--refresh-interval", "0.2")
    home = cluster.nodes[0]
    tags = await tags_of(cluster, home, 3)
    streams = [Stream(f"r{n}", mixed(f"r{n}", list(tags)), window=4) for n in range(4)]
    # One slot stays until the end elsewhere, or the emptied node would become a replica.
    first, *_ = tags.values()
    with trio.fail_after(WITHIN):
        async with running(streams, front.connect):
            await answered(streams, 10)
            await move_slot(cluster, first, home, added)
            await answered(streams, 20)
            assert added.address in await by_node(front, "slotproxy_backend_connections")
            await move_slot(cluster, first, added, home)
            await answered(streams, 20)
            await cluster.remove_node(added)
            await until(lambda: forgotten(front, added), within=15)
            await answered(streams, 20)
        await check_against_nodes(cluster, streams)
        assert await front.ready()
    assert all(stream.history.in_doubt == 0 for stream in streams)


async def forgotten(front: ProxyProcess, node: Node) -> bool:
    _, body = await front.get("/metrics")
    return f'slotproxy_backend_connections{{node="{node.address}"}}' not in body


async def test_a_node_that_comes_back_at_another_address_is_found(
    make_cluster: ClusterFactory, proxy: ProxyFactory
) -> None:
    cluster = await make_cluster(settings=PARTIAL)
    node = cluster.nodes[0]
    front = await proxy(cluster=cluster)
    tag = await tag_at(cluster, node)
    old = node.address
    with trio.fail_after(WITHIN):
        node.kill()
        node.port = free_node_port()
        await node.start()
        assert node.address != old
        async with await front.connect() as client:
            (reply,) = await client.pipeline(("INCR", f"{{{tag}}}:n"))
            assert reply == 1
        assert node.address in (await owners(front)).values()
        assert old not in (await owners(front)).values()


# ---- starting and ending


@contextmanager
def proxy_process(seeds: list[str], guard: Guard) -> Iterator[ProxyProcess]:
    """Not started yet; gone afterwards, also when the test failed."""
    front = ProxyProcess(seeds, guard=guard)
    try:
        yield front
    finally:
        front.kill()


async def test_seeds_that_are_dead_do_not_matter(cluster: EmbeddedCluster, guard: Guard) -> None:
    seeds = [f"127.0.0.1:{free_port()}", "no.such.host.invalid:6379", cluster.nodes[1].address]
    with proxy_process(seeds, guard) as front:
        await front.start()
        async with await front.connect() as client:
            assert await client.command("MSET", *(word for n in range(9) for word in (f"k{n}", n))) == b"OK"
        assert await front.stop() == 0


async def test_a_proxy_that_is_there_before_its_cluster(cluster: EmbeddedCluster, guard: Guard) -> None:
    for node in cluster.nodes:
        node.kill()
    seeds = [node.address for node in cluster.nodes]
    with trio.fail_after(WITHIN), proxy_process(seeds, guard) as front:
        front.spawn()
        await until(lambda: answers(front, "/readyz", 503), within=15)
        _, why = await front.get("/readyz")
        assert "0 of 16384 slots" in why
        assert (await front.get("/healthz"))[0] == 200
        await until(lambda: "not ready yet" in front.stderr, within=5)
        # A client may come already: its commands wait.
        async with await front.connect() as client:
            await client.send(pack("INCR", "early"))
            for node in cluster.nodes:
                await node.start()
            await until(front.ready, within=20)
            assert await client.receive() == 1
        assert "ready: 16384 slots covered" in front.stderr
        assert await front.stop() == 0


async def answers(front: ProxyProcess, path: str, status: int) -> bool:
    try:
        return (await front.get(path))[0] == status
    except OSError:
        return False


async def test_sigterm_under_load(cluster: EmbeddedCluster, guard: Guard) -> None:
    counts: dict[int, int] = {}

    async def stream(front: ProxyProcess, number: int) -> None:
        async with await front.connect() as client:

            async def send() -> None:
                try:
                    while True:
                        await client.send(pack("INCR", f"term:{number}") * 20)
                except OSError:
                    return

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                try:
                    while True:
                        for reply in await client.receive_available():
                            counts[number] = counts.get(number, 0) + 1
                            assert reply == counts[number]
                except ConnectionError:
                    nursery.cancel_scope.cancel()

    with trio.fail_after(WITHIN), proxy_process(cluster.seeds, guard) as front:
        await front.start()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(stream, front, number)
            await until(lambda: len(counts) == 8 and min(counts.values()) > 100, within=10)
            front.signal(signal.SIGTERM)
        assert await front.wait() == 0
    assert "Traceback" not in front.stderr, front.stderr
    for number, count in counts.items():
        owner = await cluster.owner(await cluster.slot_of(f"term:{number}"))
        # What was executed was answered; a close with input unread can cost the client the last replies.
        assert int(await owner.command("GET", f"term:{number}")) >= count


async def test_sigterm_answers_what_is_in_flight(cluster: EmbeddedCluster, guard: Guard) -> None:
    node = cluster.nodes[0]
    tag = await tag_at(cluster, node)
    with trio.fail_after(WITHIN), proxy_process(cluster.seeds, guard) as front:
        await front.start()
        async with await front.connect() as client, await front.connect() as idle:
            await idle.command("PING")
            node.pause()
            await client.send(pack("INCR", f"{{{tag}}}:n") * 30)
            await in_flight(front, 30)
            front.signal(signal.SIGTERM)
            await until(lambda: answers(front, "/readyz", 503), within=5)
            with pytest.raises(ConnectionError):
                await idle.receive()
            with pytest.raises(OSError):
                await front.connect()
            node.resume()
            assert [await client.receive() for _ in range(30)] == list(range(1, 31))
            with pytest.raises(ConnectionError):
                await client.receive()
        assert await front.wait() == 0
