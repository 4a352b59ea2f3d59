"""Producers and consumers over eight slots: each element is taken exactly once, and one consumer sees it in order.

Played on every stage (see `stages`). Consumers wait with every command that pops, at one queue or at all eight; those
that vanish while they wait at an empty queue take nothing with them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from slotproxy.demo.connection import ErrorReply, pack
from tests.integration.conftest import StageFactory
from tests.integration.load import LONGER
from tests.integration.stages import Stage
from tests.integration.waits import FOR_EVER, FORMS, KINDS, Form, Kind, keys_of
from tests.integration.wire import dial

WITHIN = 60 + 10 * LONGER
# How long the consumers may take, after the last element has been pushed.
LATE = 10.0
PRODUCERS = 4
LEAST = 40
# Taken from the left, what was pushed to the right comes out in that order.
IN_ORDER = ("BLPOP", "BLMOVE", "BLMPOP")

Element = tuple[bytes, bytes]  # key and value


class Line:
    """Queues of one kind and their consumers."""

    def __init__(self, form: Form, keys: list[str], consumers: int) -> None:
        self.form = form
        self.keys = keys
        self.consumers = consumers
        self.pushed: list[Element] = []
        self.taken: list[Element] = []

    def __repr__(self) -> str:
        return f"{self.consumers} x {self.form.name} at {len(self.keys)}"

    async def consume(self, stage: Stage) -> None:
        """One consumer, until it is cancelled. Each wait has a command behind it, whose reply must stand behind it."""
        words = self.form.wait(self.keys, FOR_EVER)
        async with await stage.connect() as client:
            for number in range(1_000_000):
                reply, echo = await client.pipeline(words, ("ECHO", number))
                assert not isinstance(reply, ErrorReply), reply
                assert echo == b"%d" % number
                self.taken += [(key or self.keys[0].encode(), value) for key, value in self.form.taken(reply)]

    def missing(self) -> int:
        return len(self.pushed) - len(self.taken)

    def check(self) -> None:
        """Exactly once; and in order, where there is one consumer that takes from the left."""
        pushed, taken = Counter(self.pushed), Counter(self.taken)
        assert pushed == taken, (self, "lost", pushed - taken, "too many", taken - pushed)
        if self.consumers > 1 or self.form.name not in IN_ORDER:
            return
        last: dict[tuple[bytes, bytes], int] = defaultdict(lambda: -1)
        for key, value in self.taken:
            producer, _, number = value.partition(b":")
            assert int(number) > last[key, producer], (self, key, value)
            last[key, producer] = int(number)


def lines_of(stage: Stage) -> list[Line]:
    lines: list[Line] = []
    for form in FORMS:
        if not form.empties or (form.since_7 and not stage.has_lmpop):
            continue
        for consumers in (1, 3):
            name = f"{form.name}:{consumers}"
            lines.append(Line(form, [f"{{{stage.tags[len(lines) % len(stage.tags)]}}}:one:{name}"], consumers))
            if form.several:
                lines.append(Line(form, [f"{{{tag}}}:all:{name}" for tag in stage.tags], consumers))
    return lines


async def produce(stage: Stage, name: int, lines: Sequence[Line]) -> None:
    number = 0
    async with await stage.connect() as client:
        for _ in stage.rounds(LEAST):
            batch = []
            for _ in range(random.randint(1, 4)):
                number += 1
                line = random.choice(lines)
                batch.append((line, random.choice(line.keys), f"{name}:{number}"))
            replies = await client.pipeline(*(line.form.arrive(key, value) for line, key, value in batch))
            for (line, key, value), reply in zip(batch, replies, strict=True):
                assert isinstance(reply, int), reply
                line.pushed.append((key.encode(), value.encode()))
            # So that consumers wait most of the time, and are not served from what has piled up.
            await trio.sleep(random.uniform(0, 0.02))


async def until_all_are_taken(missing: Callable[[], int]) -> None:
    """Or until nothing more comes: what is missing then is told by the checks."""
    with trio.move_on_after(LATE):
        while missing() > 0:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_each_element_is_taken_once_and_in_order(stage: StageFactory) -> None:
    place = await stage()
    lines = lines_of(place)
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as consumers:
            for line in lines:
                for _ in range(line.consumers):
                    consumers.start_soon(line.consume, place)
            await place.blocked(sum(line.consumers for line in lines))
            async with trio.open_nursery() as producers:
                for name in range(PRODUCERS):
                    producers.start_soon(produce, place, name, lines)
                await place.act()
            await place.assert_trouble_met()
            await until_all_are_taken(lambda: sum(line.missing() for line in lines))
            consumers.cancel_scope.cancel()
        for line in lines:
            line.check()
        async with await place.connect() as client:
            assert await client.command("EXISTS", *(key for line in lines for key in line.keys)) == 0
            for line in lines:
                if line.form.moves:
                    there: list[bytes] = await client.command("LRANGE", f"{line.keys[0]}:to", 0, -1)
                    assert sorted(there) == sorted(value for _, value in line.taken)


# ---- consumers that vanish


@pytest.mark.parametrize("kind", KINDS)
async def test_an_element_goes_to_the_next_one_when_consumers_vanish(stage: StageFactory, kind: Kind) -> None:
    place = await stage()

    async def vanish_and_push() -> None:
        forms = [form for form in FORMS if form.empties and (form.several or kind == "one key")]
        forms = [form for form in forms if place.has_lmpop or not form.since_7]
        async with await place.connect() as producer:
            for number in place.rounds(10):
                form = forms[number % len(forms)]
                keys, key = keys_of(place, kind, form.name)
                vanishing = [await dial(place.port) for _ in range(3)]
                for client in vanishing:
                    await client.send(pack(*form.wait(keys, FOR_EVER)))
                await place.blocked(3)
                for client, orderly in zip(vanishing, (True, False, number % 4 < 2), strict=True):
                    client.close() if orderly else client.reset()
                # Before it has noticed, a server too sends an element into the void.
                await place.blocked(0)
                value = b"%d" % number
                async with await place.connect() as consumer:
                    await consumer.send(pack(*form.wait(keys, FOR_EVER)))
                    if number % 2:
                        await place.blocked(1)
                    await producer.command(*form.arrive(key, value.decode()))
                    with trio.move_on_after(LATE) as waiting:
                        ((_, got),) = form.taken(await consumer.receive())
                    assert not waiting.cancelled_caught, (form.name, number, "lost")
                    assert got == value, (form.name, number)

    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vanish_and_push)
            await place.act()


# ---- streams


class Streams:
    """Streams of one or two slots, a group of two consumers, and a reader who wants all that comes."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.added: list[Element] = []
        self.read: list[Element] = []
        self.by_consumer: dict[str, list[Element]] = {"first": [], "second": []}

    def taken(self) -> list[Element]:
        return [element for taken in self.by_consumer.values() for element in taken]

    async def prepare(self, stage: Stage) -> None:
        async with await stage.connect() as client:
            for key in self.keys:
                await client.command("XGROUP", "CREATE", key, "group", "$", "MKSTREAM")

    async def consume(self, stage: Stage, name: str) -> None:
        words = f"XREADGROUP GROUP group {name} COUNT 5 BLOCK 500 STREAMS".split()
        async with await stage.connect() as client:
            while True:
                reply = streams(await client.command(*words, *self.keys, *[">"] * len(self.keys)))
                assert each_key_once(reply)
                for key, entries in reply:
                    self.by_consumer[name] += [(key, fields[1]) for _, fields in entries]
                    ids = [id for id, _ in entries]
                    assert await client.command("XACK", key, "group", *ids) == len(ids)

    async def follow(self, stage: Stage) -> None:
        """From `$` on, without the group. It waits before anything has come."""
        after: dict[bytes, bytes] = {key.encode(): b"$" for key in self.keys}
        async with await stage.connect() as client:
            while True:
                reply = streams(await client.command("XREAD", "BLOCK", 0, "STREAMS", *self.keys, *after.values()))
                # Nothing was there at first: where nothing has come yet, `$` was the beginning.
                assert each_key_once(reply)
                after = {key: b"0-0" if last == b"$" else last for key, last in after.items()}
                for key, entries in reply:
                    after[key] = entries[-1][0]
                    self.read += [(key, fields[1]) for _, fields in entries]

    async def check(self, stage: Stage) -> None:
        assert Counter(self.taken()) == Counter(self.added)
        async with await stage.connect() as client:
            for key in self.keys:
                there = [fields[1] for _, fields in await client.command("XRANGE", key, "-", "+")]
                read = [value for of, value in self.read if of == key.encode()]
                assert read == there, (key, Counter(there) - Counter(read), Counter(read) - Counter(there))
                place = {value: number for number, value in enumerate(there)}
                for taken in self.by_consumer.values():
                    places = [place[value] for of, value in taken if of == key.encode()]
                    assert places == sorted(places)
                assert (await client.command("XPENDING", key, "group"))[0] == 0
                assert {value for of, value in self.added if of == key.encode()} == set(there)


def streams(reply: Any) -> list[Any]:
    """Names and entries; in RESP3 it is a map."""
    return list(reply.items()) if isinstance(reply, dict) else reply or []


def each_key_once(reply: list[Any]) -> bool:
    """Client libraries make a mapping of it."""
    return len({key for key, _ in reply}) == len(reply)


async def add(stage: Stage, name: int, all_streams: Sequence[Streams]) -> None:
    async with await stage.connect() as client:
        for number in stage.rounds(LEAST):
            streams = random.choice(all_streams)
            key, value = random.choice(streams.keys), f"{name}:{number}"
            await client.command("XADD", key, "*", "field", value)
            streams.added.append((key.encode(), value.encode()))
            await trio.sleep(random.uniform(0, 0.02))


async def test_streams_are_read_completely_by_two_consumers_and_a_reader(stage: StageFactory) -> None:
    place = await stage()
    one, other, third, *_ = (f"{{{tag}}}:stream" for tag in place.tags)
    kinds = [Streams([one]), Streams([other, third]), Streams([f"{one}:x", f"{one}:y"])]
    with trio.fail_after(WITHIN):
        for streams in kinds:
            await streams.prepare(place)
        async with trio.open_nursery() as consumers:
            for streams in kinds:
                for name in streams.by_consumer:
                    consumers.start_soon(streams.consume, place, name)
                consumers.start_soon(streams.follow, place)
            await place.blocked(3 * len(kinds))
            async with trio.open_nursery() as producers:
                for number in range(PRODUCERS):
                    producers.start_soon(add, place, number, kinds)
                await place.act()
            await place.assert_trouble_met()
            await until_all_are_taken(
                lambda: sum(2 * len(one.added) - len(one.taken()) - len(one.read) for one in kinds)
            )
            consumers.cancel_scope.cancel()
        for streams in kinds:
            await streams.check(place)
