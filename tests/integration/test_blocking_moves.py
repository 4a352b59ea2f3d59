"""Those who wait in blocking commands while their slot moves, or its primary is failed over: they do not notice.

All blocking commands wait at once, under one key, under two keys of one slot, and in several slots; it is always the
slot of the stage's first tag to which something happens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.reshard import Migration, move_slot
from tests.integration.conftest import StageFactory
from tests.integration.load import shuttle
from tests.integration.stages import Stage, blocked_at, fail_over
from tests.integration.waits import FOR_EVER, NOTHING, Waiter, all_served, waiters_of, waiting

WITHIN = 40
# How late a reply may be on a busy machine, with a slot whose owner is not agreed on for a moment.
LATE = 8.0

# What happens to the slot, until its waiters are to be served; behind the `yield`, what happens to it afterwards.
Happening = Callable[[Stage], AsyncIterator[None]]


async def begins_to_move(stage: Stage) -> AsyncIterator[None]:
    migration = migration_of(stage)
    await migration.open()
    yield
    await migration.finish()


async def has_moved_its_keys(stage: Stage) -> AsyncIterator[None]:
    migration = migration_of(stage)
    await migration.open()
    await migration.move_keys(batch=1)
    yield
    await migration.finish()


async def moved_target_first(stage: Stage) -> AsyncIterator[None]:
    ride = stage.rides[0]
    await move_slot(stage.behind, ride.slot, ride.here, ride.there, order="target-first")
    yield


async def moved_source_first(stage: Stage) -> AsyncIterator[None]:
    ride = stage.rides[0]
    await move_slot(stage.behind, ride.slot, ride.here, ride.there, order="source-first")
    yield


async def moved_there_and_back(stage: Stage) -> AsyncIterator[None]:
    ride = stage.rides[0]
    await move_slot(stage.behind, ride.slot, ride.here, ride.there, pause=0.02)
    await move_slot(stage.behind, ride.slot, ride.there, ride.here, pause=0.02)
    yield


async def keeps_moving(stage: Stage) -> AsyncIterator[None]:
    over = False

    async def move() -> None:
        while not over:
            await shuttle(stage.behind, stage.rides[:1], 2, pause=0.02)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        yield
        over = True


async def does_not_move_after_all(stage: Stage) -> AsyncIterator[None]:
    migration = migration_of(stage)
    await migration.open()
    async with await stage.connect() as client:
        await client.command("GET", f"{{{stage.tags[0]}}}:missing")  # which shows the proxy that it migrates
    await migration.abort()
    yield


async def failed_over(stage: Stage) -> AsyncIterator[None]:
    await fail_over(stage.behind, stage.rides[0].here)
    yield




def on_happenings(*happenings: Happening) -> pytest.MarkDecorator:
    """A failover needs the cluster with replicas."""
    kinds = ["failing over" if one is failed_over else "quiet" for one in happenings]
    return pytest.mark.parametrize(
        ("stage", "happening"),
        list(zip(kinds, happenings, strict=True)),
        indirect=["stage"],
        ids=[happening.__name__ for happening in happenings],
    )


def migration_of(stage: Stage) -> Migration:
    ride = stage.rides[0]
    return Migration(stage.behind, ride.slot, ride.here, ride.there)


@asynccontextmanager
async def waiting_at_the_node(stage: Stage, waiters: list[Waiter]) -> AsyncIterator[None]:
    """Those of one slot wait at its node when the body begins: it is not their commands that meet the move."""
    async with waiting(stage, waiters):
        await blocked_at(stage.rides[0].here, sum(waiter.kind != "several slots" for waiter in waiters))
        yield


@on_happenings(
    begins_to_move,
    has_moved_its_keys,
    moved_target_first,
    moved_source_first,
    moved_there_and_back,
    does_not_move_after_all,
    failed_over,
)
async def test_what_arrives_reaches_those_who_wait(stage: StageFactory, happening: Happening) -> None:
    place = await stage()
    waiters = waiters_of(place, 30)
    with trio.fail_after(WITHIN):
        async with await place.connect() as client:
            async with waiting_at_the_node(place, waiters):
                async with asynccontextmanager(happening)(place):
                    assert all(waiter.reply is NOTHING for waiter in waiters), waiters
                    await served(place, waiters)
                # Where to move it to was nowhere: that waits for the end of the migration.
                await all_served(waiters, LATE)
            for waiter in waiters:
                assert waiter.has("arrived"), waiter
                if waiter.form.empties:
                    assert await client.command("EXISTS", waiter.key) == 0, waiter


async def served(stage: Stage, waiters: list[Waiter]) -> None:
    """What they wait for arrives, and all have it that can have it now."""
    async with await stage.connect() as client:
        for waiter in waiters:
            await client.command(*waiter.form.arrive(waiter.key, "arrived"))
    await all_served([waiter for waiter in waiters if not waiter.form.moves], LATE)


@pytest.mark.parametrize("stage", ["quiet"], indirect=True)
async def test_what_others_bring_to_the_target_arrives_with_the_slot(stage: StageFactory) -> None:
    """Pushed past the proxy, which hears of nothing before the slot is the target's."""
    place = await stage()
    waiters = waiters_of(place, 30)
    migration = migration_of(place)
    with trio.fail_after(WITHIN):
        async with waiting_at_the_node(place, waiters):
            await migration.open()
            await migration.move_keys()
            for waiter in waiters:
                words = waiter.form.arrive(waiter.key, "arrived")
                assert not isinstance((await migration.target.pipeline(("ASKING",), words))[1], ErrorReply)
            await migration.finish()
            await all_served(waiters, LATE)
        assert all(waiter.has("arrived") for waiter in waiters), waiters


@on_happenings(begins_to_move, has_moved_its_keys, moved_there_and_back, keeps_moving, failed_over)
async def test_the_timeout_is_what_it_was(stage: StageFactory, happening: Happening) -> None:
    place = await stage()
    seconds = 2.0
    waiters = waiters_of(place, seconds)
    with trio.fail_after(WITHIN):
        async with waiting_at_the_node(place, waiters), asynccontextmanager(happening)(place):
            await all_served(waiters, seconds + LATE)
    for waiter in waiters:
        assert waiter.reply is None and seconds - 0.01 <= waiter.waited < seconds + LATE, waiter
    # Nor did it begin anew when they went to wait elsewhere: that is late for all of them, a busy machine for some.
    assert min(waiter.waited for waiter in waiters if waiter.kind != "several slots") < seconds + 0.7


@on_happenings(begins_to_move, has_moved_its_keys, keeps_moving, failed_over)
async def test_client_unblock_finds_those_who_wait(stage: StageFactory, happening: Happening) -> None:
    place = await stage()
    waiters = waiters_of(place, FOR_EVER)
    with trio.fail_after(WITHIN):
        async with (
            await place.connect() as client,
            waiting_at_the_node(place, waiters),
            asynccontextmanager(happening)(place),
        ):
            for number, waiter in enumerate(waiters):
                how = ("TIMEOUT", "ERROR")[number % 2]
                with trio.fail_after(LATE):
                    assert await client.command("CLIENT", "UNBLOCK", waiter.client_id, how) == 1, waiter
            await all_served(waiters, LATE)
    for number, waiter in enumerate(waiters):
        if number % 2:
            assert str(waiter.reply) == "UNBLOCKED client unblocked via CLIENT UNBLOCK", waiter
        else:
            assert waiter.reply is None, waiter


@on_happenings(begins_to_move, has_moved_its_keys, moved_there_and_back, failed_over)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_those_who_vanish_take_nothing(stage: StageFactory, happening: Happening, when: str) -> None:
    place = await stage()
    vanishing = waiters_of(place, FOR_EVER, pops=True)
    staying = waiters_of(place, FOR_EVER, pops=True)
    with trio.fail_after(WITHIN):
        async with waiting_at_the_node(place, vanishing), trio.open_nursery() as nursery:
            for waiter in staying:
                nursery.start_soon(waiter.run, place.connect)
            await place.blocked(2 * len(staying))
            if when == "before":
                await vanish(place, vanishing)
            async with asynccontextmanager(happening)(place):
                if when == "after":
                    await vanish(place, vanishing)
                await served(place, staying)
            await all_served(staying, LATE)
    assert all(waiter.has("arrived") for waiter in staying), staying


async def vanish(stage: Stage, waiters: list[Waiter]) -> None:
    """And it has been noticed: before that, a server too sends an element into the void."""
    for waiter in waiters:
        waiter.vanish()
    await stage.blocked(len(waiters))
