"""Blocking commands on one server, and through the proxy in front of a quiet cluster: what one does the other does.

What is waited for lies under one key, under two keys of one slot, or in several slots. What happens to those who
wait while slots move is in test_blocking_moves, and much of everything in test_queues.
"""

from __future__ import annotations

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply, pack
from tests.conftest import ProxyFactory
from tests.integration.blocks import Commands, execute
from tests.integration.conftest import StageFactory
from tests.integration.load import tags_of
from tests.integration.stages import blocked_at, replica_of
from tests.integration.waits import FOR_EVER, KINDS, NOTHING, Kind, keys_of, waiters_of, waiting
from tests.integration.wire import packed

WITHIN = 40
# How late a reply may be on a busy machine.
LATE = 5.0

on_one_server_and_a_quiet_cluster = pytest.mark.parametrize("stage", ["plain", "quiet"], indirect=True)
each_kind = pytest.mark.parametrize("kind", KINDS)


@on_one_server_and_a_quiet_cluster
async def test_what_arrives_ends_the_wait(stage: StageFactory) -> None:
    place = await stage()
    waiters = waiters_of(place, 30)
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            async with waiting(place, waiters):
                for waiter in waiters:
                    assert waiter.reply is NOTHING
                    await client.command(*waiter.form.arrive(waiter.key, f"for {waiter.form.name}"))
            for waiter in waiters:
                assert waiter.has(f"for {waiter.form.name}") and waiter.waited < LATE, waiter
                if waiter.form.empties:
                    assert await client.command("EXISTS", waiter.key) == 0, waiter


@on_one_server_and_a_quiet_cluster
async def test_what_is_there_is_taken_at_once_in_the_order_of_the_keys(stage: StageFactory) -> None:
    place = await stage()
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            for waiter in waiters_of(place, FOR_EVER):
                form, keys = waiter.form, waiter.keys
                if not form.empties:
                    continue
                for key in reversed(keys):
                    await client.command(*form.arrive(key, "first"))
                    await client.command(*form.arrive(key, "second"))
                taken: list[bytes] = []
                while await client.command("EXISTS", *keys):
                    taken += [key for key, _ in form.taken(await client.command(*form.wait(keys, FOR_EVER)))]
                if form.several:
                    # All of the first key's elements come before those of the second.
                    assert taken == sorted(taken, key=[key.encode() for key in keys].index), form.name


@on_one_server_and_a_quiet_cluster
async def test_a_wait_ends_at_its_timeout(stage: StageFactory) -> None:
    place = await stage()
    waiters = waiters_of(place, 0.7)
    with trio.fail_after(WITHIN):
        async with waiting(place, waiters):
            pass
    for waiter in waiters:
        assert waiter.reply is None and 0.69 <= waiter.waited < 0.7 + LATE, waiter


@on_one_server_and_a_quiet_cluster
@pytest.mark.parametrize("how", ["", "TIMEOUT", "ERROR"])
async def test_client_unblock_ends_a_wait(stage: StageFactory, how: str) -> None:
    place = await stage()
    waiters = waiters_of(place, FOR_EVER)
    words = [how] if how else []
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            async with waiting(place, waiters):
                assert await client.command("CLIENT", "UNBLOCK", 987_654, *words) == 0
                for waiter in waiters:
                    assert await client.command("CLIENT", "UNBLOCK", waiter.client_id, *words) == 1, waiter
            for waiter in waiters:
                if how == "ERROR":
                    assert isinstance(waiter.reply, ErrorReply), waiter
                    assert str(waiter.reply) == "UNBLOCKED client unblocked via CLIENT UNBLOCK"
                else:
                    assert waiter.reply is None, waiter
                # Nobody waits there any more who would take it.
                await client.command(*waiter.form.arrive(waiter.key, "later"))
                assert await client.command("EXISTS", waiter.key) == 1, waiter


@on_one_server_and_a_quiet_cluster
@each_kind
async def test_who_does_not_wait_cannot_be_unblocked(stage: StageFactory, kind: Kind) -> None:
    place = await stage()
    keys, key = keys_of(place, kind, "k")
    with trio.fail_after(WITHIN):
        async with await place.connect() as client, await place.connect() as other:
            await other.command("RPUSH", key, "x")
            number = await client.command("CLIENT", "ID")
            assert await client.command("BLPOP", *keys, 0) == [key.encode(), b"x"]
            assert await other.command("CLIENT", "UNBLOCK", number) == 0
            assert await client.command("CLIENT", "UNBLOCK", number) == 0


@on_one_server_and_a_quiet_cluster
@each_kind
async def test_commands_behind_a_wait_are_executed_behind_it(stage: StageFactory, kind: Kind) -> None:
    place = await stage()
    keys, key = keys_of(place, kind, "queue")
    counter, elsewhere = f"{{{place.tags[0]}}}:n", f"{{{place.tags[5]}}}:n"
    with trio.fail_after(WITHIN):
        async with await place.connect() as client, await place.connect() as other:
            pop = ("BLPOP", *keys, "0")
            commands: Commands = [
                *(("INCR", elsewhere), pop, ("INCR", counter), ("INCR", elsewhere)),
                *(("BRPOP", *keys, "0"), ("RPUSH", key, "own"), pop, ("PING", "end")),
                *(("MULTI",), pop, ("INCR", counter), ("EXEC",), ("GET", elsewhere)),
            ]
            await client.send(packed(commands))
            assert await client.receive() == 1
            await place.blocked(1)
            assert await other.command("MGET", counter, elsewhere) == [None, b"1"]
            await other.command("RPUSH", key, "one")
            assert [await client.receive() for _ in range(3)] == [[key.encode(), b"one"], 1, 2]
            await place.blocked(1)
            await other.command("RPUSH", key, "two")
            behind = [await client.receive() for _ in range(9)]
            assert behind[:4] == [[key.encode(), b"two"], 1, [key.encode(), b"own"], b"end"]
            if kind == "several slots" and place.front is not None:
                # As a block over slots it is refused by default.
                assert [getattr(reply, "code", reply) for reply in behind[4:]] == [
                    b"OK", "CROSSSLOT", b"QUEUED", "EXECABORT", b"2"
                ]  # fmt: skip
            else:
                assert behind[4:] == [b"OK", b"QUEUED", b"QUEUED", [None, 2], b"2"]


@on_one_server_and_a_quiet_cluster
async def test_in_a_block_nothing_waits(stage: StageFactory) -> None:
    place = await stage()
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            for waiter in waiters_of(place, FOR_EVER):
                if not waiter.form.empties or waiter.kind == "several slots":
                    continue
                assert await execute(client, [waiter.form.wait(waiter.keys, FOR_EVER)]) == [None], waiter
                block = [waiter.form.arrive(waiter.key, "x"), waiter.form.wait(waiter.keys, FOR_EVER)]
                _, waiter.reply = await execute(client, block)
                assert waiter.has("x"), waiter


@on_one_server_and_a_quiet_cluster
@each_kind
async def test_who_came_first_is_served_first(stage: StageFactory, kind: Kind) -> None:
    place = await stage()
    keys, key = keys_of(place, kind, "queue")
    clients: list[Connection] = []
    with trio.fail_after(WITHIN):
        async with await place.connect() as other:
            try:
                for number in range(1, 6):
                    clients.append(await place.connect())
                    await clients[-1].send(pack("BLPOP", *keys, 0))
                    await place.blocked(number)
                    if kind != "several slots" and place.front is not None:
                        await blocked_at(place.rides[0].here, number)
                for number in range(5):
                    await other.command("RPUSH", key, number)
                    assert await clients[number].receive() == [key.encode(), b"%d" % number]
            finally:
                for client in clients:
                    client.close()


@on_one_server_and_a_quiet_cluster
@each_kind
async def test_one_push_of_many_serves_many(stage: StageFactory, kind: Kind) -> None:
    place = await stage()
    keys, key = keys_of(place, kind, "queue")
    taken: list[bytes] = []

    async def take() -> None:
        async with await place.connect() as client:
            taken.append((await client.command("BLPOP", *keys, 30))[1])

    with trio.fail_after(WITHIN):
        async with await place.connect() as other, trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(take)
            await place.blocked(10)
            await other.command("RPUSH", key, *range(12))
    assert sorted(map(int, taken)) == list(range(10))


# ---- WAIT


@on_one_server_and_a_quiet_cluster
async def test_without_replicas_wait_counts_none(stage: StageFactory) -> None:
    place = await stage()
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            assert await client.command("WAIT", 0, 0) == 0
            writes = [("SET", f"{{{tag}}}:k", "x") for tag in place.tags]
            since = trio.current_time()
            assert await client.pipeline(*writes, ("WAIT", 1, 300), ("PING",)) == [b"OK"] * len(writes) + [0, b"PONG"]
            assert 0.29 <= trio.current_time() - since < 0.3 + LATE


async def test_wait_counts_the_replicas_that_have_it(replicated: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy(cluster=replicated)
    primaries = await replicated.primaries()
    keys = [f"{{{tag}}}:k" for node in primaries for tag in await tags_of(replicated, node, 1)]
    writes = [("SET", key, "x") for key in keys]
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            # Also on a connection that has written nothing; and after writes to one node, and to all.
            assert await client.command("WAIT", 1, 5_000) == 1
            assert await client.pipeline(writes[0], ("WAIT", 1, 5_000)) == [b"OK", 1]
            assert await client.pipeline(*writes, ("WAIT", 1, 5_000), ("GET", keys[0])) == [b"OK"] * 3 + [1, b"x"]
            assert await client.pipeline(*writes, ("WAIT", 2, 200)) == [b"OK"] * 3 + [1]
            # One replica that does not get it: shorter than the node timeout, so that nothing else happens.
            lame = await replica_of(replicated, primaries[0])
            lame.pause()
            try:
                assert await client.pipeline(*writes, ("WAIT", 1, 200)) == [b"OK"] * 3 + [0]
                assert await client.pipeline(writes[0], ("WAIT", 1, 200)) == [b"OK", 0]
            finally:
                lame.resume()
            assert await client.pipeline(*writes, ("WAIT", 1, 5_000)) == [b"OK"] * 3 + [1]
