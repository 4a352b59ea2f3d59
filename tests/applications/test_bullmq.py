"""BullMQ runs unchanged through the proxy: every job once, results right, urgent jobs first."""

from __future__ import annotations

from collections import Counter

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.running import Application, Outcome, node, node_client, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended

APPLICATION = Application(client=node_client("bullmq_app.js"), worker=node("bullmq_worker.js"), keys=("{bull}",))
PREFIX = {"BULLMQ_PREFIX": "{bull}"}
TICKS = 5


async def test_bullmq_on_one_server(alone: Stage, guard: Guard, node_modules: dict[str, str]) -> None:
    check(await run(APPLICATION, alone, guard, {**node_modules, **PREFIX}))


async def test_bullmq_while_slots_move(moving: StageFactory, guard: Guard, node_modules: dict[str, str]) -> None:
    check(await run(APPLICATION, await moving(), guard, {**node_modules, **PREFIX}))


async def test_bullmq_while_nodes_fail_over(
    failing_over: StageFactory, guard: Guard, node_modules: dict[str, str]
) -> None:
    check(await run(APPLICATION, await failing_over(), guard, {**node_modules, **PREFIX}))


def check(outcome: Outcome) -> None:
    priorities = outcome.prepared
    expected = Counter(["later", *(f"note:{place}" for place in range(len(priorities)))])
    expected["tick"] = TICKS
    for number, results in enumerate(outcome.rounds):
        names = [f"plus:{place}" for place in range(4)] + [f"child:{place}" for place in range(3)]
        expected.update({f"{number}:{name}": 1 for name in [*names, "delayed", "unique", "total"]})
        expected[f"{number}:stubborn"] = 3
        sums = [number + place for place in range(4)]
        assert results == [sums, number + 100, 3, number + 7, 3 * number + 3], number
    assert outcome.state.ran == expected
    order = sorted(range(len(priorities)), key=lambda place: priorities[place])
    assert outcome.state.order["note"] == [str(place) for place in order]
    jobs = sum(expected.values()) - len(priorities) - 2 * len(outcome.rounds)
    assert {state: count for state, count in outcome.finished.items() if count} == {"completed": jobs}
    assert not outcome.log, outcome.log
