"""Celery runs unchanged through the proxy: every task once, results right, urgent messages first, a chord joined once.

`per-slot`: queues spread over the cluster, Celery's blocks over two slots are split. `one slot`: a prefix with a hash
tag, and nothing is given up. Both are the README's settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.running import Application, Outcome, python, python_client, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended

QUEUES = ("fast", "slow", "ordered")


@dataclass(frozen=True)
class Way:
    flags: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def application(self) -> Application:
        prefix = self.environ.get("BROKER_PREFIX", "")
        steps = ("", "\x06\x163", "\x06\x166", "\x06\x169")
        keys = [f"{prefix}{queue}{step}" for queue in QUEUES for step in steps]
        return Application(
            client=python_client("tests.applications.celery_app"),
            worker=python(
                *("celery", "-A", "tests.applications.celery_app", "worker"),
                *("--concurrency", "2", "--queues", ",".join(QUEUES), "--loglevel", "INFO"),
                *(() if prefix else ("--without-gossip", "--without-mingle")),
            ),
            keys=(*keys, f"{prefix}unacked", f"{prefix}unacked_index", "{celery}"),
        )


WAYS = {
    "per-slot": Way(("--cross-slot-transactions", "per-slot"), {}),
    "one slot": Way((), {"BROKER_PREFIX": "{celery}."}),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def test_celery_on_one_server(alone: Stage, guard: Guard, way: Way) -> None:
    check(await run(way.application, alone, guard, way.environ))


async def test_celery_while_slots_move(moving: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await moving(*way.flags), guard, way.environ))


async def test_celery_while_nodes_fail_over(failing_over: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await failing_over(*way.flags), guard, way.environ))


def check(outcome: Outcome) -> None:
    priorities = outcome.prepared
    expected = Counter(["later", *(f"note:{place}" for place in range(len(priorities)))])
    for number, results in enumerate(outcome.rounds):
        names = [f"plus:{place}" for place in range(4)] + ["chain:0", "chain:1"]
        names += [f"header:{place}" for place in range(5)] + ["total"]
        expected.update({f"{number}:{name}": 1 for name in names})
        expected[f"{number}:stubborn"] = 3
        sums = [number + place for place in range(4)]
        assert results == [sums, number + 110, 5 * number + 10], number
    assert outcome.finished == [*range(len(priorities)), 21]
    assert outcome.state.ran == expected
    # All were there before the worker was: by priority, and in each priority as they came.
    order = sorted(range(len(priorities)), key=lambda place: priorities[place])
    assert outcome.state.order["note"] == [str(place) for place in order]
    left = {key for key in outcome.state.keys if "binding" not in key and "celery-task" not in key}
    assert left == set()
    assert "ERROR" not in outcome.log and "CRITICAL" not in outcome.log, outcome.log
