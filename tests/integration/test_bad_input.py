"""Whatever one client sends, or leaves out: an answer or a close for that one, nothing for the others.

Beside each attack a well-behaved client writes, reads and checks every reply (`witness`); after it the proxy has
the descriptors and, within bounds that can be exceeded, the memory that it had before.
"""

from __future__ import annotations

import itertools
import random
import re

import hiredis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import connect, pack
from tests.conftest import ProxyFactory
from tests.integration.wire import dial, in_parallel, nothing_left, packed, resident, witness

MB = 1 << 20
SEED = 20_240_607


def replies_in(data: bytes) -> list[object]:
    """The replies; fails where it is not RESP2, or ends within a reply."""
    reader = hiredis.Reader()
    reader.feed(data)
    found: list[object] = []
    while (reply := reader.gets()) is not False:
        found.append(reply)
    assert not reader.has_data(), f"half a reply at the end of {data[-200:]!r}"
    return found


# ---- violations of the protocol

VIOLATIONS = {
    b"*2147483648\r\n": b"invalid multibulk length",
    b"*2147483647\r\n": b"invalid multibulk length",
    b"*1048577\r\n": b"invalid multibulk length",
    b"*99999999999999999999999\r\n": b"invalid multibulk length",
    b"*x\r\n": b"invalid multibulk length",
    b"*1 \r\n$4\r\nPING\r\n": b"invalid multibulk length",
    b"*+1\r\n$4\r\nPING\r\n": b"invalid multibulk length",
    b"*" + b"1" * 70_000: b"too big mbulk count string",
    b"*1\r\nPING\r\n": b"expected '$', got 'P'",
    b"*1\r\n:4\r\n": b"expected '$', got ':'",
    b"*2\r\n$4\r\nECHO\r\n*1\r\n$1\r\nx\r\n": b"expected '$', got '*'",
    b"*1\r\n$" + b"1" * 70_000: b"too big bulk count string",
    b"*1\r\n" + b"x" * 70_000: b"too big bulk count string",
    b"*1\r\n$2147483648\r\n": b"invalid bulk length",
    b"*2\r\n$4\r\nECHO\r\n$536870913\r\n": b"invalid bulk length",
    b"*1\r\n$-1\r\n": b"invalid bulk length",
    b"*1\r\n$x\r\n": b"invalid bulk length",
    b"*1\r\n$18446744073709551620\r\nPING\r\n": b"invalid bulk length",
    b"A" * 70_000: b"too big inline request",
    b"SET k 'v\r\n": b"unbalanced quotes in request",
    b'SET k "v"v\r\n': b"unbalanced quotes in request",
    b'SET k "\\x4\r\n': b"unbalanced quotes in request",
}


async def test_a_violation_is_named_and_closes_that_client_only(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """What was asked before it is answered before it; nothing behind it is looked at."""
    target = await proxy()
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target):
            for number, (violation, complaint) in enumerate(VIOLATIONS.items()):
                key = f"violated-{number}"
                async with await dial(target.port) as client:
                    before = packed([("SET", key, "1"), ("GET", key), ("PING", "x")])
                    await client.send(before + violation)
                    said = await client.read_to_end()
                    expected = b"+OK\r\n$1\r\n1\r\n$1\r\nx\r\n-ERR Protocol error: %b\r\n" % complaint
                    assert said == expected, (violation[:60], said)
                async with await dial(target.port) as client:
                    await client.send(violation + b"\r\n" + pack("SET", key, "2"))
                    said = await client.read_to_end()
                    assert re.fullmatch(rb"(-ERR Protocol error: [^\r]*\r\n)?", said), (violation[:60], said)
                async with await dial(target.port) as client:
                    assert await client.ask(pack("GET", key)) == b"$1\r\n1\r\n"


HARMLESS = [b"*0\r\n", b"*-1\r\n", b"*-2147483648\r\n", b"\r\n", b"\n", b"   \r\n", b" \t \n"]


async def test_empty_requests_are_passed_over(proxy: ProxyFactory) -> None:
    target = await proxy()
    with trio.fail_after(20):
        async with await dial(target.port) as client:
            for nothing in HARMLESS:
                assert await client.ask(nothing) == b"", nothing
                assert await client.ask(pack("GET", "k") + nothing * 100 + pack("GET", "k")) == b"$-1\r\n" * 2


async def test_announced_sizes_cost_nothing(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """A header that promises half a gigabyte, or a million arguments, reserves no memory."""
    target = await proxy()
    headers = [
        b"*2\r\n$3\r\nGET\r\n$536870912\r\n",
        b"*1048576\r\n$3\r\nDEL\r\n",
        b"*3\r\n$3\r\nSET\r\n$400000000\r\nx",
    ]
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target) as seen:
            memory = resident(target)
            clients = [await dial(target.port) for _ in range(300)]
            for number, client in enumerate(clients):
                await client.send(headers[number % len(headers)])
            await seen.more_rounds()
            assert resident(target) - memory < 24 * MB
            for client in clients:
                client.reset()


# ---- bytes at random


def noise(source: random.Random) -> bytes:
    """Bytes that are not, or not quite, requests; never such as could harm another client's keys."""
    kind = source.randrange(5)
    if kind == 0:
        return source.randbytes(source.randrange(1, 2_000))
    if kind == 1:
        parts = [b"*", b"$", b"1", b"3", b"-1", b"0", b"\r\n", b"\r", b"\n", b"GET", b"fuzz", b" ", b"'", b'"', b"\0"]
        return b"".join(source.choices(parts, k=source.randrange(1, 300)))
    good = packed(
        [
            source.choice(
                [
                    ("GET", f"fuzz{source.randrange(9)}"),
                    ("SET", f"fuzz{source.randrange(9)}", source.randbytes(source.randrange(50))),
                    ("MGET", "fuzz1", "fuzz2", "fuzz3"),
                    ("EVAL", "return 1", "1", "fuzz4"),
                    ("PING", source.randbytes(5)),
                    b"SET fuzz5 'a b'\r\n",
                    b"EXISTS fuzz1 fuzz2\n",
                ]
            )
            for _ in range(source.randrange(1, 12))
        ]
    )
    if kind == 2:
        return good[: source.randrange(len(good))]
    changed = bytearray(good)
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(changed))
        if kind == 3:
            changed[at] = source.randrange(256)
        else:
            del changed[at : at + source.randrange(1, 8)]
            if not changed:
                break
    return bytes(changed)


async def test_noise_harms_nobody_else(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """What comes back to it is RESP, whole, and then the end; connections to nodes survive it."""
    target = await proxy()

    async def attack(number: int) -> None:
        source = random.Random(SEED + number)
        data = noise(source)
        async with await dial(target.port) as client:
            try:
                while data:
                    cut = source.randrange(1, len(data) + 1)
                    await client.send(data[:cut])
                    data = data[cut:]
                client.finish_sending()
            except OSError:
                pass  # closed, with what it had not read: a reset
            replies_in(await client.read_to_end())

    with trio.fail_after(90):
        async with nothing_left(target, cluster), witness(target):
            await in_parallel(attack, 1_500, at_once=20)


# ---- clients that stop half way


REQUESTS = [
    pack("SET", "half:a", "1"),
    pack("INCR", "half:n"),
    b"SET half:b 'x y'\r\n",
    pack("MSET", "half:a", "2", "half:c", "3"),
    pack("GET", "half:a"),
    pack("MGET", "half:a", "half:b", "half:c"),
]
SCRIPT = b"".join(REQUESTS)
ENDS = list(itertools.accumulate(map(len, REQUESTS)))


async def test_half_a_command_is_no_command(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Cut at every byte, then our side is closed: whole commands are answered, the rest is not, then the end."""
    target = await proxy()

    async def attack(cut: int) -> None:
        async with await dial(target.port) as client:
            await client.send(SCRIPT[:cut])
            client.finish_sending()
            replies = replies_in(await client.read_to_end())
        assert len(replies) == sum(end <= cut for end in ENDS), (SCRIPT[:cut], replies)
        assert not any(isinstance(reply, Exception) for reply in replies), replies

    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target):
            await in_parallel(attack, len(SCRIPT) + 1, at_once=10)
            async with await connect(target.host, target.port) as plain:
                ran = sum(cut >= ENDS[1] for cut in range(len(SCRIPT) + 1))
                assert await plain.command("GET", "half:n") == b"%d" % ran


async def test_a_client_that_trickles_is_served(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()
    with trio.fail_after(60):
        async with nothing_left(target, cluster), witness(target), await dial(target.port) as client:
            for byte in SCRIPT * 3:
                await client.send(bytes([byte]))
            client.finish_sending()
            replies = replies_in(await client.read_to_end())
            expected = [[b"OK", count, b"OK", b"OK", b"2", [b"2", b"x y", b"3"]] for count in (1, 2, 3)]
            assert replies == list(itertools.chain(*expected))


async def test_clients_that_vanish(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """In the middle of a command or of a reply, with an orderly end or a reset: nothing stays behind."""
    target = await proxy()
    big = b"v" * 300_000
    async with await connect(target.host, target.port) as plain:
        await plain.command("SET", "vanish:big", big)

    async def attack(number: int) -> None:
        client = await dial(target.port, receive_buffer=4_096)
        way = number % 5
        if way == 0:
            await client.send(packed([("SET", "vanish:k", big)])[: 1 + number % 200_000])
        elif way == 1:
            await client.send(pack("GET", "vanish:big") * 8)
            await client.read(10_000)
        elif way == 2:
            await client.send(pack("GET", "vanish:big") * 8)
        elif way == 3:
            await client.send(pack("INCR", "vanish:n") * 200 + b"*3\r\n$3\r\nSE")
            await client.read(1)
        else:
            await client.send(packed([("MGET", "vanish:big", "vanish:k"), b"GET vanish:big\r\n", b"*2\r\n$1000\r\nx"]))
        if number % 2:
            client.reset()
        else:
            client.close()

    with trio.fail_after(90):
        async with nothing_left(target, cluster), witness(target):
            await in_parallel(attack, 300, at_once=25)
            memory = resident(target)
            await in_parallel(attack, 900, at_once=25)
            grown = resident(target) - memory
            assert grown < 16 * MB, f"{grown / MB:.1f} MB more after 900 clients"


async def test_ten_thousand_connections_one_after_the_other(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()

    async def attack(number: int) -> None:
        client = await dial(target.port)
        if number % 4 == 1:
            assert await client.ask(b"PING\r\n") == b"+PONG\r\n"
        elif number % 4 == 2:
            await client.send(b"*1\r\n$4\r\nPI")
        elif number % 4 == 3:
            await client.send(pack("SET", f"churn:{number % 100}", "x" * 100))
            client.reset()
            return
        client.close()

    with trio.fail_after(90):
        async with nothing_left(target, cluster), witness(target):
            await in_parallel(attack, 2_000, at_once=50)
            memory = resident(target)
            await in_parallel(attack, 10_000, at_once=50)
            grown = resident(target) - memory
            assert grown < 4 * MB, f"{grown / MB:.1f} MB more after 10,000 connections"
        assert (await target.metrics())["slotproxy_clients_total"] >= 12_000
