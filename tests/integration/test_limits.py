"""Bounds hold for the client that exceeds them, and only for that one: output, requests in flight, sizes, clients,
descriptors. Memory is measured: what many or large requests cost, and that it comes back.
"""

from __future__ import annotations

import resource

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import connect, pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import SERVE_COMMAND, ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.wire import (
    Wire,
    dial,
    forget_peak,
    nothing_left,
    packed,
    peak_resident,
    processor_seconds,
    resident,
    settled_descriptors,
    witness,
)

MB = 1 << 20


async def send_until_stuck(client: Wire, data: bytes, *, quiet: float = 1.0) -> int:
    """Send `data` again and again until nothing was taken for `quiet` seconds. Returns how many bytes were."""
    sent = 0
    view = memoryview(data)
    while True:
        with trio.move_on_after(quiet):
            sent += await client.socket.send(view[sent % len(data) :])
            continue
        return sent


# ---- output


async def test_a_client_that_does_not_read_is_not_read_from(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """It gets stuck, its cost is bounded, others go on; and when it reads after all, nothing is missing."""
    target = await proxy("--max-output", "1M")
    value = b"v" * 50_000
    reply = b"$50000\r\n" + value + b"\r\n"
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target) as seen:
            await seen.more_rounds()
            memory = resident(target)
            forget_peak(target)
            async with await dial(target.port, receive_buffer=4_096) as client:
                sent = await send_until_stuck(client, pack("PING", value))
                await seen.more_rounds(10)
                grown = peak_resident(target) - memory
                assert grown < 16 * MB, f"{grown / MB:.1f} MB"
                client.finish_sending()
                for _ in range(sent // len(pack("PING", value))):
                    assert await client.read(len(reply)) == reply
                assert await client.read_to_end() == b""


@pytest.mark.parametrize("asked", ["GET", "MGET", "MGET over slots"])
async def test_a_client_that_does_not_read_what_nodes_say(
    cluster: EmbeddedCluster, proxy: ProxyFactory, asked: str
) -> None:
    """Bounded by --max-output and the replies to what was in flight; all of it comes when the client reads."""
    target = await proxy("--max-output", "1M", "--max-in-flight", "64")
    value = b"v" * 25_000
    keys = {"GET": ["deaf"], "MGET": ["{deaf}a", "{deaf}b"], "MGET over slots": ["deaf:a", "deaf:b"]}[asked]
    bulk = b"$25000\r\n" + value + b"\r\n"
    reply = bulk if asked == "GET" else b"*2\r\n" + bulk * 2
    count = 100 * MB // len(reply)
    with trio.fail_after(60):
        async with await connect(target.host, target.port) as plain:
            for key in keys:
                await plain.command("SET", key, value)
        async with nothing_left(target, cluster), witness(target) as seen:
            await seen.more_rounds()
            memory = resident(target)
            forget_peak(target)
            async with await dial(target.port, receive_buffer=4_096) as client:
                await client.send(pack(asked.partition(" ")[0], *keys) * count)
                await seen.more_rounds(20)
                grown = peak_resident(target) - memory
                assert grown < 1 * MB + 2 * 64 * len(reply) + 16 * MB, f"{grown / MB:.1f} MB"
                for _ in range(count):
                    assert await client.read(len(reply)) == reply


async def test_a_hundred_thousand_requests_in_one_go(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Sent without reading a reply before; half of them the proxy's to answer, half a node's, in order."""
    target = await proxy()
    pair = pack("PING") + pack("INCR", "pipelined")
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target) as seen, await dial(target.port) as client:
            await seen.more_rounds()
            memory = resident(target)
            forget_peak(target)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, pair * 50_000)
                for number in range(1, 50_001, 1_000):
                    expected = b"".join(b"+PONG\r\n:%d\r\n" % count for count in range(number, number + 1_000))
                    assert await client.read(len(expected)) == expected
            grown = peak_resident(target) - memory
            assert grown < 16 * MB, f"{grown / MB:.1f} MB"


# ---- large values


async def test_a_large_value_is_not_copied_many_times(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """64 MB in and out by way of each connection to each node.

    Two copies at a time, as received and as joined (and up to as much again in holes that the pieces of earlier
    ones left in the allocator). Nothing stays with a client or a connection that is idle.
    """
    target = await proxy()
    size = 64 * MB
    value = b"v" * size
    with trio.fail_after(90):
        async with nothing_left(target, cluster), witness(target) as seen:
            await seen.more_rounds()
            memory = resident(target)
            async with await dial(target.port) as one, await dial(target.port) as two:
                for number, node in enumerate(cluster.nodes):
                    key = await cluster.key_in_slot(min(await cluster.slots_of(node)))
                    for client in (one, two):
                        forget_peak(target)
                        await client.send(pack("SET", key, value))
                        assert await client.read(5) == b"+OK\r\n"
                        written = peak_resident(target) - memory
                        forget_peak(target)
                        await client.send(pack("GET", key))
                        assert await client.read(11) == b"$%d\r\n" % size
                        await client.discard(size + 2)
                        read = peak_resident(target) - memory
                        assert written < 5.5 * size, f"SET {number}: {written / MB:.0f} MB"
                        assert read < 5.5 * size, f"GET {number}: {read / MB:.0f} MB"
                await until(lambda: resident(target) - memory < 1.5 * size, within=10)


@pytest.mark.parametrize("slots", ["one slot", "two slots"])
async def test_a_stream_of_large_values_does_not_pile_up(
    cluster: EmbeddedCluster, proxy: ProxyFactory, slots: str
) -> None:
    """400 MB written without waiting for a reply."""
    target = await proxy()
    half = b"v" * (MB // 2)
    keys = ("{stream}a", "{stream}b") if slots == "one slot" else ("stream:a", "stream:b")
    request = pack("MSET", keys[0], half, keys[1], half)
    count = 400
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target) as seen, await dial(target.port) as client:
            await seen.more_rounds()
            memory = resident(target)
            forget_peak(target)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, request * count)
                assert await client.read(5 * count) == b"+OK\r\n" * count
            grown = peak_resident(target) - memory
            assert grown < 160 * MB, f"{grown / MB:.0f} MB"


async def test_a_stream_of_large_values_waits_for_a_silent_node(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """The client gets stuck long before --max-in-flight; when the node goes on, nothing is missing."""
    target = await proxy()
    node = cluster.nodes[0]
    key = await cluster.key_in_slot(min(await cluster.slots_of(node)))
    request = pack("APPEND", key, b"v" * MB)
    with trio.fail_after(60):
        async with nothing_left(target, cluster):
            memory = resident(target)
            forget_peak(target)
            async with await dial(target.port) as client:
                node.pause()
                try:
                    sent = await send_until_stuck(client, request, quiet=0.5)
                finally:
                    node.resume()
                grown = peak_resident(target) - memory
                assert grown < 64 * MB, f"{grown / MB:.0f} MB"
                client.finish_sending()
                said = await client.read_to_end()
                whole = sent // len(request)
                assert said == b"".join(b":%d\r\n" % (MB * count) for count in range(1, whole + 1))


async def test_idle_clients_keep_nothing_of_what_they_sent(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()
    value = b"v" * MB
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target) as seen:
            await seen.more_rounds()
            memory = resident(target)
            clients = [await dial(target.port) for _ in range(100)]
            for client in clients:
                await client.send(packed([("SET", "idle", value), ("GET", "idle")]))
                await client.discard(5 + len(b"$1048576\r\n\r\n") + MB)
            await until(lambda: resident(target) - memory < 24 * MB, within=10)
            for client in clients:
                client.close()


# ---- sizes


SIZES = {
    "--max-bulk": ("1000", pack("ECHO", b"x" * 1000), pack("ECHO", b"x" * 1001), b"invalid bulk length"),
    "--max-arguments": (
        "10",
        pack("EXISTS", *"abcdefghi"),
        pack("EXISTS", *"abcdefghij"),
        b"invalid multibulk length",
    ),
    "--max-inline": (
        "100",
        b"PING " + b"x" * 94 + b"\r\n",
        b"PING " + b"x" * 96 + b"\r\n",
        b"too big inline request",
    ),
    "--max-request": (
        "10K",
        pack("EXISTS", *[b"x" * 1_000] * 9),
        pack("EXISTS", *[b"x" * 1_000] * 11),
        b"request larger than 10240 bytes",
    ),
}


@pytest.mark.parametrize("flag", SIZES)
async def test_a_request_beyond_a_limit(proxy: ProxyFactory, flag: str) -> None:
    limit, allowed, refused, complaint = SIZES[flag]
    target = await proxy(flag, limit)
    with trio.fail_after(30):
        async with witness(target), await dial(target.port) as client:
            answered = await client.ask(allowed)
            assert not answered.startswith(b"-")
            said = await client.ask(allowed + refused)
            assert said == answered + b"-ERR Protocol error: " + complaint + b"\r\n<closed>", said


# ---- clients


async def test_one_client_too_many(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """It is told why and closed; whoever was there is not touched; a place that is free again is given away."""
    target = await proxy("--max-clients", "20")
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target):
            clients = [await dial(target.port) for _ in range(19)]
            for _ in range(3):
                for client in clients:
                    assert await client.ask(b"PING\r\n") == b"+PONG\r\n"
                for _ in range(50):
                    async with await dial(target.port) as refused:
                        said = await refused.read_to_end()
                        assert said == b"-ERR max number of clients reached\r\n"
                clients.pop(0).close()
                await until(lambda: _is_served(target, clients), within=10)
            for client in clients:
                client.close()


async def _is_served(target: ProxyProcess, clients: list[Wire]) -> bool:
    client = await dial(target.port)
    if await client.ask(b"PING\r\n") == b"+PONG\r\n":
        clients.append(client)
        return True
    client.close()
    return False


async def test_clients_leave_descriptors_for_nodes(cluster: EmbeddedCluster, guard: Guard) -> None:
    """Where few files may be open there are fewer clients, and lost connections to nodes are made anew."""
    limited = ("/bin/sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', *SERVE_COMMAND)
    target = ProxyProcess(cluster.seeds, guard=guard, command=limited)
    with trio.fail_after(60):
        await target.start()
        assert "leaves room for 24 clients" in target.stderr
        async with nothing_left(target, cluster):
            clients = [await dial(target.port) for _ in range(24)]
            for client in clients:
                assert await client.ask(b"PING\r\n") == b"+PONG\r\n"
            for _ in range(50):
                async with await dial(target.port) as refused:
                    assert await refused.read_to_end() == b"-ERR max number of clients reached\r\n"
            for client in clients:
                client.close()
        clients = [await dial(target.port) for _ in range(24)]
        for number, client in enumerate(clients):
            assert await client.ask(pack("SET", f"few:{number}", "x")) == b"+OK\r\n"
        for node in cluster.nodes:
            await node.command("CLIENT", "KILL", "TYPE", "normal")
        for number, client in enumerate(clients):
            assert await client.ask(pack("GET", f"few:{number}")) == b"$1\r\nx\r\n"
            client.close()
        assert await target.stop() == 0
        assert "Too many open files" not in target.stderr


async def test_out_of_descriptors(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Those connected are served, without burning a processor; the others wait and are served later."""
    target = await proxy()
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target):
            room = await settled_descriptors(target) + 40
            resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (room, room))
            clients = [await dial(target.port) for _ in range(100)]
            await until(lambda: "cannot accept" in target.stderr, within=10)
            async with trio.open_nursery() as nursery:
                served: list[int] = []
                for number, client in enumerate(clients):
                    nursery.start_soon(_write, client, number, served)
                await until(lambda: len(served) == 40, within=10)
                # They leave, and make room for those who wait.
                nursery.start_soon(_leave_in_turn, clients, served)
            assert sorted(served) == list(range(100))


async def test_waiting_for_descriptors_costs_nothing(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()
    with trio.fail_after(60):
        async with nothing_left(target, cluster):
            room = await settled_descriptors(target) + 10
            resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (room, room))
            clients = [await dial(target.port) for _ in range(100)]
            await until(lambda: "cannot accept" in target.stderr, within=10)
            used = processor_seconds(target)
            await trio.sleep(1)  # this time is what is measured
            used = processor_seconds(target) - used
            assert used < 0.3, f"{used:.2f} s of processor time in one second of waiting"
            assert target.stderr.count("cannot accept") == 1, target.stderr
            for client in clients:
                client.close()


async def _write(client: Wire, number: int, served: list[int]) -> None:
    await client.send(pack("SET", f"waiting:{number}", "x"))
    assert await client.read(5) == b"+OK\r\n"
    served.append(number)


async def _leave_in_turn(clients: list[Wire], served: list[int]) -> None:
    for count in range(len(clients)):
        await until(lambda: len(served) > count, within=10)  # noqa: B023 (it is waited for here)
        clients[served[count]].close()
