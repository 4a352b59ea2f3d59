"""When and whom the refresher asks: on a mock clock, with nodes that are functions."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from slotproxy.cluster.refresher import GAP, QueryFailed, Refresher
from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address, NodeInfo, Topology

A: Address = ("10.0.0.1", 7000)
B: Address = ("10.0.0.2", 7000)
SEED: Address = ("seed.example", 7000)


def view(owner: Address = A, last: int = 16383, nodes: tuple[Address, ...] = (A, B)) -> Topology:
    infos = {
        host: NodeInfo(host, host, port, True, False, frozenset({(host, port)})) for host, port in {*nodes, owner}
    }
    return Topology(infos, [(0, last, owner[0])], {}, owner[0])


class Rig:
    """A refresher whose nodes answer what `answers` says, with what it did."""

    def __init__(self, answers: dict[Address, Callable[[], Awaitable[Topology]]], interval: float = 30.0) -> None:
        self.map = SlotMap()
        self.asked: list[tuple[float, Address]] = []
        self.ended = 0
        self._answers = answers
        self._under_way = 0
        self._progress = trio.Event()
        self.refresher = Refresher(self.map, [SEED], self._query, self._take, self._end, interval)

    async def _query(self, address: Address) -> Topology:
        self.asked.append((trio.current_time(), address))
        self._under_way += 1
        assert self._under_way == 1, "two refreshes at once"
        try:
            return await self._answers[address]()
        finally:
            self._under_way -= 1

    def _take(self, topology: Topology, started: int) -> bool:
        return bool(self.map.apply(topology, started))

    def _end(self) -> None:
        self.ended += 1
        self._progress.set()

    async def until_ended(self, count: int) -> None:
        while self.ended < count:
            self._progress = trio.Event()
            await self._progress.wait()


def answers(topology: Topology) -> Callable[[], Awaitable[Topology]]:
    async def answer() -> Topology:
        await trio.lowlevel.checkpoint()
        return topology

    return answer


async def refuse() -> Topology:
    await trio.lowlevel.checkpoint()
    raise QueryFailed("refused")


async def hang() -> Topology:
    await trio.sleep_forever()
    raise AssertionError


async def test_it_asks_a_seed_at_start(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    rig = Rig({SEED: answers(view())})
    nursery.start_soon(rig.refresher.run)
    await rig.refresher.succeeded.wait()
    assert [address for _, address in rig.asked] == [SEED]
    assert rig.map.covered() == 16384


async def test_it_asks_again_after_the_interval_and_not_before(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig({SEED: answers(view()), A: answers(view()), B: answers(view())})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(4)
    times = [time for time, _ in rig.asked]
    assert all(30.0 <= after - before <= 30.5 for before, after in itertools.pairwise(times))


async def test_requests_are_one_refresh_and_at_least_the_gap_apart(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig({SEED: answers(view()), A: answers(view()), B: answers(view())})
    nursery.start_soon(rig.refresher.run)
    for expected in range(1, 20):
        for _ in range(50):
            rig.refresher.request_nowait()
        await rig.until_ended(expected)
    times = [time for time, _ in rig.asked]
    assert len(times) == 19
    assert all(after - before >= GAP for before, after in itertools.pairwise(times))


async def test_waiting_for_a_refresh_waits_for_one_that_starts_later(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    going_on, go_on = trio.Event(), trio.Event()

    async def slow() -> Topology:
        going_on.set()
        await go_on.wait()
        return view(A)

    rig = Rig({SEED: slow, A: answers(view(B)), B: answers(view(B))})
    nursery.start_soon(rig.refresher.run)
    await going_on.wait()
    done = trio.Event()

    async def wait() -> None:
        await rig.refresher.refresh()
        done.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    go_on.set()
    await rig.until_ended(1)
    assert not done.is_set()
    await done.wait()
    assert rig.ended == 2


async def test_a_silent_or_refusing_node_is_passed_over(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig({SEED: answers(view()), A: hang, B: refuse})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(1)
    rig.refresher.request_nowait()
    await rig.until_ended(2)
    assert {address for _, address in rig.asked[1:]} == {A, B, SEED}
    assert rig.refresher.failures == 0


async def test_it_backs_off_while_nobody_answers_and_never_gives_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig({SEED: refuse})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(12)
    gaps = [after - before for (before, _), (after, _) in zip(rig.asked, rig.asked[1:], strict=False)]
    assert rig.refresher.failures == 12
    assert "refused" in rig.refresher.last_error and "seed.example:7000" in rig.refresher.last_error
    assert gaps[0] < 0.5 and 5.0 <= gaps[-1] <= 7.6


async def test_a_node_that_knows_less_does_not_empty_the_map(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    restarted_empty = Topology(dict(view().nodes), [], {}, "empty")
    rig = Rig({SEED: answers(view()), A: answers(restarted_empty), B: answers(view(B))})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(1)
    for count in range(2, 12):
        rig.refresher.request_nowait()
        await rig.until_ended(count)
        assert rig.map.covered() == 16384


async def test_what_all_nodes_say_is_taken_also_when_it_is_less(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    less = answers(view(last=99))
    rig = Rig({SEED: answers(view()), A: less, B: less})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(1)
    rig._answers[SEED] = less
    rig.refresher.request_nowait()
    await rig.until_ended(2)
    assert rig.map.covered() == 100
    assert len(rig.asked) == 4


async def test_without_any_node_to_ask_the_reason_says_so(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rig = Rig({})
    rig.refresher._seeds.clear()
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(1)
    assert rig.refresher.last_error == "no node to ask"


@pytest.mark.parametrize("failing", [False, True])
async def test_a_failing_node_is_not_asked(
    failing: bool, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    topology = view(B, nodes=(B,))
    topology.nodes[A[0]] = NodeInfo(A[0], *A, False, failing, frozenset({A}))
    rig = Rig({SEED: answers(topology), A: answers(topology), B: refuse})
    nursery.start_soon(rig.refresher.run)
    await rig.until_ended(1)
    rig.refresher.request_nowait()
    await rig.until_ended(2)
    assert ([address for _, address in rig.asked[1:]] == [B, SEED]) == failing
