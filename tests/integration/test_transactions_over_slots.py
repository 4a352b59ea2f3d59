"""Transactions whose keys lie in several slots: refused as a whole, or executed slot by slot, as the flag says.

Slot by slot: each slot's commands are atomic on their node, the replies come in the order of the commands, commands
over keys of several slots are split as they are outside of a block. What fails is only what lies in the slot that
fails.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from tests.conftest import ProxyFactory
from tests.integration.blocks import Commands, execute
from tests.integration.conftest import StageFactory
from tests.integration.load import LONGER
from tests.integration.stages import spread_tags

WITHIN = 60 + 10 * LONGER
FLAG = "--cross-slot-transactions"
PER_SLOT = (FLAG, "per-slot")


def pairs_of(tags: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{{{tag}}}:a", f"{{{tag}}}:b") for tag in tags]


async def test_each_slot_of_a_block_over_slots_is_atomic(stage: StageFactory) -> None:
    """And every part is executed exactly once; the replies come in the order of the commands."""
    place = await stage(*PER_SLOT)
    blocks = 0

    async def write(number: int) -> None:
        nonlocal blocks
        (a, b), (c, d), (e, f) = pairs_of(random.Random(number).sample(place.tags[:4], 3))
        async with await place.connect() as client:
            for _ in place.rounds(10):
                # Each slot's commands are apart, and two over slots are split: its pair is equal all the same.
                keys = [a, c, e, f, d, b]
                commands: Commands = [
                    *(("INCR", c), ("INCR", e), ("INCR", a), ("ECHO", number), ("INCR", f), ("MGET", *keys)),
                    *(("INCR", b), ("INCR", d), ("EXISTS", *keys)),
                ]
                replies = await execute(client, commands)
                n_c, n_e, n_a, echo, n_f, values, n_b, n_d, exist = replies
                assert (n_a, n_c, n_e) == (n_b, n_d, n_f), replies
                assert echo == b"%d" % number and exist == 6, replies
                between = [n_a, n_c, n_e, n_e, n_c - 1, n_a - 1]
                assert values == [b"%d" % n if n else None for n in between], replies
                blocks += 1

    async def read() -> None:
        keys = pairs_of(place.tags[:4])
        first, second = [pair[0] for pair in keys], [pair[1] for pair in keys]
        async with await place.connect() as client:
            for turn in place.rounds(20):
                if turn % 2:
                    lefts, rights = await execute(client, [("MGET", *first), ("MGET", *second)])
                else:
                    (values,) = await execute(client, [("MGET", *first, *second)])
                    lefts, rights = values[:4], values[4:]
                assert lefts == rights

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for number in range(24):
                nursery.start_soon(write, number)
            for _ in range(4):
                nursery.start_soon(read)
            await place.act()
        await place.assert_trouble_met()
        async with await place.connect() as client:
            totals: list[Any] = await client.command("MGET", *(a for a, _ in pairs_of(place.tags[:4])))
            assert sum(int(total or 0) for total in totals) == 3 * blocks



on_one_server_and_slot_by_slot = pytest.mark.parametrize("stage", ["plain", "quiet"], indirect=True)


@on_one_server_and_slot_by_slot
@pytest.mark.parametrize("stepwise", [False, True])
async def test_replies_stand_at_their_commands_places(stage: StageFactory, stepwise: bool) -> None:
    place = await stage(*PER_SLOT)
    a, b, c, d = (f"{{{tag}}}:k" for tag in place.tags[:4])
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            number = await client.command("CLIENT", "ID")
            expected: list[tuple[tuple[str | int, ...], object]] = [
                (("SET", a, 1), b"OK"),
                (("PUBLISH", "nobody", "x"), 0),
                (("INCR", b), 1),
                (("PING",), b"PONG"),
                (("MSET", c, "x", a, 5, b, 6), b"OK"),
                (("CLIENT", "ID"), number),
                (("INCR", a), 6),
                (("ECHO", "here"), b"here"),
                (("MGET", b, "missing", a, b, c), [b"6", None, b"6", b"6", b"x"]),
                (("SELECT", 0), b"OK"),
                (("CLIENT", "SETNAME", "in-a-block"), b"OK"),
                (("DEL", a, d, c, "missing"), 2),
                (("LPUSH", d, "one"), 1),
                (("INCR", d), "WRONGTYPE"),
                (("EXISTS", a, b, c, d, b), 3),
                (("PING", "again"), b"again"),
                (("UNLINK", b, d), 2),
                (("TOUCH", a, b, c, d), 0),
                (("CLIENT", "GETNAME"), b"in-a-block"),
            ]  # fmt: skip
            replies = await execute(client, [("TIME",), *(command for command, _ in expected)], stepwise=stepwise)
            (seconds, micros), *others = replies
            assert seconds.isdigit() and micros.isdigit()
            for (command, reply), got in zip(expected, others, strict=True):
                assert (got.code if isinstance(got, ErrorReply) else got) == reply, (command, got)
            # It is the client's connection that has been named, and works on.
            assert await client.pipeline(("CLIENT", "GETNAME"), ("GET", a)) == [b"in-a-block", None]


@on_one_server_and_slot_by_slot
async def test_a_block_without_keys_is_executed(stage: StageFactory) -> None:
    place = await stage()
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            assert await execute(client, [("PING",), ("PUBLISH", "nobody", "x"), ("ECHO", "e")]) == [b"PONG", 0, b"e"]
            assert await execute(client, []) == []


@on_one_server_and_slot_by_slot
async def test_commands_over_all_nodes_stand_at_their_places(stage: StageFactory) -> None:
    place = await stage(*PER_SLOT)
    keys = [f"{{{tag}}}:k" for tag in place.tags[:3]]
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            # What it sees of its own block is what the block has done, in both worlds, when it comes last.
            sets = [("SET", key, "x") for key in keys]
            *done, size, names = await execute(client, [*sets, ("DBSIZE",), ("KEYS", "*")])
            assert done == [b"OK"] * 3 and size == 3 and sorted(names) == sorted(key.encode() for key in keys)
            assert await execute(client, [("DEL", keys[0]), ("FLUSHALL",), ("DBSIZE",)]) == [1, b"OK", 0]


async def test_a_block_over_slots_is_refused_as_a_whole(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    front = await proxy()
    a, b, _ = (f"{{{tag}}}:k" for tag in (await spread_tags(cluster))[0][:3])
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            refused: list[Commands] = [
                [("SET", a, 1), ("SET", b, 1)],
                [("MSET", a, 1, b, 1)],
                [("SET", a, 1), ("PING",), ("MGET", a, b)],
                [("SET", a, 1), ("EXISTS", a, b)],
            ]
            for commands in refused:
                with pytest.raises(ErrorReply, match="^CROSSSLOT .*" + FLAG):
                    await execute(client, commands)
                assert await client.command("MGET", a, b) == [None, None]
            # The block is over, and so is all that went wrong in it.
            (reply,) = await client.pipeline(("EXEC",))
            assert str(reply) == "ERR EXEC without MULTI"
            assert await execute(client, [("SET", a, 1), ("GET", a)]) == [b"OK", b"1"]
    assert (await front.metrics())["slotproxy_transactions_partial_total"] == 0


async def test_a_command_over_all_nodes_is_refused_with_its_block(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            await client.command("SET", "k", "before")
            for command in OVER_ALL_NODES.split(" | "):
                with pytest.raises(ErrorReply, match="^EXECABORT .*" + FLAG):
                    await execute(client, [("SET", "k", "after"), command.split(), ("GET", "k")])
                assert await client.command("GET", "k") == b"before", command


OVER_ALL_NODES = (
    "DBSIZE | FLUSHALL | KEYS * | SCAN 0 | INFO | SCRIPT LOAD x | RANDOMKEY | CONFIG SET maxmemory-samples 5"
)


async def test_a_slot_that_fails_has_its_error_at_its_commands_places(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy(*PER_SLOT)
    a, b, c = (f"{{{tag}}}:k" for tag in (await spread_tags(cluster))[0][:3])
    failing = await cluster.owner(await cluster.slot_of(b))
    # It refuses writes, for it has no replicas.
    await failing.command("CONFIG", "SET", "min-replicas-to-write", 1)
    with trio.fail_after(WITHIN):
        async with await front.connect() as client:
            replies = await execute(client, [("INCR", a), ("INCR", b), ("GET", b), ("MSET", a, 5, b, 5), ("INCR", c)])
            assert [isinstance(reply, ErrorReply) for reply in replies] == [False, True, True, True, True], replies
            assert all("NOREPLICAS" in str(replies[place]) for place in (1, 2, 3)), replies
            assert "comes before failed" in str(replies[4]), replies
            assert await client.command("MGET", a, b, c) == [b"5", None, None]
            assert (await front.metrics())["slotproxy_transactions_partial_total"] == 1
            # Where nothing has run, EXEC itself is the error.
            for block in ([("INCR", b), ("SET", b, 5)], [("INCR", b), ("INCR", a), ("MSET", b, 1, c, 1)]):
                with pytest.raises(ErrorReply, match="NOREPLICAS"):
                    await execute(client, block)
            assert await client.command("MGET", a, b, c) == [b"5", None, None]
            assert (await front.metrics())["slotproxy_transactions_partial_total"] == 1
