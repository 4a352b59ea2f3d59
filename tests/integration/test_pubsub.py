"""Publish/subscribe on a real cluster: every subscriber has every message, in order, but for gaps that are counted."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest
import redis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply, connect, pack
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.servers import server_version
from tests.conftest import ClusterFactory, ProxyFactory
from tests.integration.audience import Audience
from tests.integration.load import Ride, shuttle, tags_of
from tests.integration.relay import relay_to
from tests.integration.stages import fail_over
from tests.integration.wire import dial, witness

WITHIN = 30.0


def needs_shard_channels(cluster: EmbeddedCluster) -> None:
    if server_version(cluster.server) < (7,):
        pytest.skip("shard channels came with 7.0")


async def subscribed_at(cluster: EmbeddedCluster, channel: str) -> Node:
    """The node at which the proxy has subscribed to a channel."""
    found = [node for node in cluster.nodes if (await node.command("PUBSUB", "NUMSUB", channel))[1]]
    assert len(found) == 1, found
    return found[0]


async def counted(proxy: ProxyProcess) -> int:
    """Gaps."""
    return int((await proxy.metrics())["slotproxy_subscription_gaps_total"])


async def count_reaches(proxy: ProxyProcess, gaps: int) -> None:
    async def reached() -> bool:
        return await counted(proxy) >= gaps

    await until(reached, within=WITHIN)


async def play(
    cluster: EmbeddedCluster,
    proxy: ProxyProcess,
    replace: Callable[[Node], Awaitable[None]],
    *,
    subscribers: int,
    messages: int,
) -> None:
    """Messages while slots move, and then the node with the subscriptions is replaced."""
    with closing(Audience(proxy.port, b"news", messages)) as audience:
        await audience.subscribe(subscribers)
        home = await subscribed_at(cluster, "news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audience.listen)
            nursery.start_soon(audience.publish)
            rides = [
                Ride(slot, here, there)
                for here, there in itertools.pairwise([*await cluster.primaries()] * 2)
                for slot in (await tags_of(cluster, here, 2)).values()
            ][:6]
            await shuttle(cluster, rides, 4)
            assert audience.gaps() == [] and await counted(proxy) == 0, "a slot that moves is nothing to a channel"
            await replace(home)
            await count_reaches(proxy, subscribers)
            audience.has_ended.set()
        assert await counted(proxy) == subscribers
        assert len(audience.gaps()) <= subscribers
        # While the proxy had not subscribed nobody got it; the node may count the proxy before that knows.
        assert subscribers in audience.counts and audience.counts <= {subscribers, 0, 1}


async def test_subscribers_have_every_message_in_order(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    async def replace(home: Node) -> None:
        assert await home.command("CLIENT", "KILL", "TYPE", "pubsub") > 0

    await play(cluster, await proxy(), replace, subscribers=60, messages=3000)


@pytest.mark.extended
async def test_a_thousand_subscribers_have_ten_thousand_messages_each(
    make_cluster: ClusterFactory, proxy: ProxyFactory
) -> None:
    """The node of their subscriptions is failed over, which is no gap, and then dies."""
    cluster = await make_cluster(replicas=1)
    front = await proxy(cluster=cluster)

    async def replace(home: Node) -> None:
        await fail_over(cluster, home)
        assert await counted(front) == 0
        home.kill()

    await play(cluster, front, replace, subscribers=1000, messages=10_000)


async def test_shard_channels_follow_their_slot(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    needs_shard_channels(cluster)
    front = await proxy()
    here, there = cluster.nodes[:2]
    ((tag, slot),) = (await tags_of(cluster, here, 1)).items()
    with closing(Audience(front.port, b"{%b}" % tag.encode(), 4000, sharded=True)) as audience, trio.fail_after(WITHIN):
        await audience.subscribe(20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audience.listen)
            nursery.start_soon(audience.publish)
            await shuttle(cluster, [Ride(slot, here, there)], 6, pause=0.02)
            await count_reaches(front, 6 * 20)
            audience.has_ended.set()
        assert await counted(front) == 6 * 20
        assert len(audience.gaps()) <= 6 * 20
        # The node that is left may still count the proxy when that is confirmed at the other.
        assert 20 in audience.counts and audience.counts <= {0, 1, 20, 21}


@pytest.mark.extended
async def test_shard_channels_whose_node_is_failed_over_have_no_message_twice(
    make_cluster: ClusterFactory, proxy: ProxyFactory
) -> None:
    """The demoted node takes the subscription again, as a replica, and is sent all that its primary publishes."""
    cluster = await make_cluster(replicas=1)
    needs_shard_channels(cluster)
    front = await proxy("--refresh-interval", "0.3", cluster=cluster)
    home = (await cluster.primaries())[0]
    ((tag, _),) = (await tags_of(cluster, home, 1)).items()
    got: list[int] = []

    async def listen(client: Connection) -> None:
        while True:
            got.append(int((await client.receive())[2]))

    async with await front.connect() as client, await front.connect() as publisher, trio.open_nursery() as nursery:
        await client.command("SSUBSCRIBE", f"{{{tag}}}")
        nursery.start_soon(listen, client)
        for turn in range(3):
            for number in range(200):
                await publisher.command("SPUBLISH", f"{{{tag}}}", str(1000 * turn + number))
                await trio.sleep(0.002)
            if turn < 2:
                home = await fail_over(cluster, home)
        await until(lambda: 2199 in got, within=WITHIN)
        nursery.cancel_scope.cancel()
    assert got == sorted(set(got)), [(a, b) for a, b in itertools.pairwise(got) if b <= a]
    assert 600 - len(got) <= await counted(front)


async def test_all_primaries_tell_of_their_keys(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Also one that joins."""
    front = await proxy("--refresh-interval", "0.2")
    with trio.fail_after(WITHIN):
        async with await connect("127.0.0.1", front.port) as client, await connect("127.0.0.1", front.port) as writer:
            await writer.command("CONFIG", "SET", "notify-keyspace-events", "E$")
            assert await client.command("SUBSCRIBE", "__keyevent@0__:set") == [b"subscribe", b"__keyevent@0__:set", 1]
            tags = [tag for node in cluster.nodes for tag in await tags_of(cluster, node, 2)]
            for tag in tags:
                await writer.command("SET", f"{{{tag}}}", "1")
                assert await client.receive() == [b"message", b"__keyevent@0__:set", b"{%b}" % tag.encode()]
            added = await cluster.add_node()

            async def subscribed() -> bool:
                return bool((await added.command("PUBSUB", "NUMSUB", "__keyevent@0__:set"))[1])

            await until(subscribed, within=WITHIN)
            await added.command("CONFIG", "SET", "notify-keyspace-events", "E$")
            first = cluster.nodes[0]
            slot = await cluster.slot_of(f"{{{tags[0]}}}")
            await shuttle(cluster, [Ride(slot, first, added)], 1)
            await writer.command("SET", f"{{{tags[0]}}}", "2")
            assert await client.receive() == [b"message", b"__keyevent@0__:set", b"{%b}" % tags[0].encode()]


@pytest.mark.extended  # the kernel takes twenty seconds
async def test_a_node_that_is_gone_without_a_word_is_found_out(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """A machine that lost its power, a firewall that forgot the connection: nothing is ever sent on it."""
    async with relay_to(cluster.nodes[0]) as relay:
        front = await proxy(*relay.flags())
        async with await connect("127.0.0.1", front.port) as client:
            await client.command("SUBSCRIBE", "__keyevent@0__:set")
            await trio.sleep(0.5)  # what the kernels still acknowledge is out: an answer to it would tell the proxy
            try:
                for pair in relay.pairs:
                    if not pair.ended:
                        pair.vanish()
            except PermissionError:
                pytest.skip("closing a connection in silence takes root")
            await count_reaches(front, 1)


async def test_who_does_not_read_is_cut_off(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy("--max-output", "1M")
    async with witness(front), await dial(front.port, receive_buffer=4096) as slow:
        await slow.send(pack("SUBSCRIBE", "news"))
        assert await slow.read(len(b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"))
        async with await connect("127.0.0.1", front.port) as quick, await connect("127.0.0.1", front.port) as publisher:
            await quick.command("SUBSCRIBE", "news")
            sent, counts = 0, {2}
            while 1 not in counts:
                assert sent < 2000, "16 MB have been published, and nobody was cut off"
                counts.update(await publisher.pipeline(*[("PUBLISH", "news", b"x" * 8192)] * 10))
                for _ in range(10):
                    assert (await quick.receive())[0] == b"message"
                sent += 10
        assert (await front.metrics())["slotproxy_clients_cut_off_total"] == 1


async def test_channels_that_the_user_may_not_have(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    for node in cluster.nodes:
        await node.command("ACL", "SETUSER", "default", "resetchannels", "&open:*")
    try:
        front = await proxy()
        async with await connect("127.0.0.1", front.port) as client:
            with pytest.raises(ErrorReply, match="NOPERM"):
                await client.command("SUBSCRIBE", "open:a", "closed:a")
            assert await client.command("GET", "x") is None  # it has subscribed to nothing
            assert await client.command("SUBSCRIBE", "open:a") == [b"subscribe", b"open:a", 1]
    finally:
        for node in cluster.nodes:
            await node.command("ACL", "SETUSER", "default", "allchannels")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_listens(cluster: EmbeddedCluster, proxy: ProxyFactory, protocol: int) -> None:
    needs_shard_channels(cluster)
    front = await proxy()

    def use() -> None:
        with redis.Redis(port=front.port, protocol=protocol) as client, client.pubsub() as listener:
            listener.subscribe("a", "b")
            listener.psubscribe("p*")
            listener.ssubscribe("s")
            kinds = [listener.get_message(timeout=WITHIN) for _ in range(4)]
            assert [(one["type"], one["data"]) for one in kinds if one] == [
                ("subscribe", 1), ("subscribe", 2), ("psubscribe", 3), ("ssubscribe", 1)
            ]  # fmt: skip
            assert [client.publish("a", "1"), client.publish("px", "2"), client.spublish("s", "3")] == [1, 1, 1]
            told = [listener.get_message(timeout=WITHIN) for _ in range(3)]
            assert sorted((one["type"], one["data"]) for one in told if one) == [
                ("message", b"1"), ("pmessage", b"2"), ("smessage", b"3")
            ]  # fmt: skip
            listener.ping()
            assert client.pubsub_numsub("a", "c") == [(b"a", 1), (b"c", 0)]
            assert client.pubsub_numpat() == 1
            listener.unsubscribe()
            listener.punsubscribe()
            listener.sunsubscribe()
            while listener.subscribed:
                listener.get_message(timeout=WITHIN)
            assert client.publish("a", "1") == 0

    await trio.to_thread.run_sync(use)
