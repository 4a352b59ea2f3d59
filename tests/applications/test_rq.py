"""RQ runs unchanged through the proxy: every job once, results right, queues in order, failures and retries counted.

`per-slot`: keys spread over the cluster, RQ's blocks are split, and there are several queues (with one of them it moves
jobs between two lists, which are in two slots). `one slot`: RQ_KEY_PREFIX with a hash tag, and nothing is given up: one
queue, unique jobs and rate limits work as well. Both are the README's settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.running import Application, Outcome, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended


@dataclass(frozen=True)
class Way:
    flags: tuple[str, ...]
    prefix: str
    queues: tuple[str, ...]
    worker: str

    @property
    def environ(self) -> Mapping[str, str]:
        return {"RQ_QUEUES": " ".join(self.queues), "RQ_KEY_PREFIX": self.prefix}

    @property
    def application(self) -> Application:
        words = ("rq.cli", "worker", "--url", "URL", "--with-scheduler", "--worker-class", self.worker, *self.queues)
        kinds = ("queue", "wip", "finished", "failed", "scheduled", "deferred", "ready")
        keys = [f"{self.prefix}:{kind}:{queue}" for kind in kinds for queue in self.queues]
        return Application("tests.applications.rq_app", words, (*keys, f"{self.prefix}:queues"))


WAYS = {
    "per-slot": Way(("--cross-slot-transactions", "per-slot"), "rq", ("high", "low"), "rq.Worker"),
    "one slot": Way((), "{rq}", ("only",), "rq.SimpleWorker"),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def test_rq_on_one_server(alone: Stage, guard: Guard, way: Way) -> None:
    check(await run(way.application, alone, guard, way.environ), way)


async def test_rq_while_slots_move(moving: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await moving(*way.flags), guard, way.environ), way)


@pytest.mark.parametrize("way", ["per-slot"], indirect=True)
async def test_rq_while_nodes_fail_over(failing_over: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await failing_over(*way.flags), guard, way.environ), way)


def check(outcome: Outcome, way: Way) -> None:
    limited = [7, 0, 1, 2] if len(way.queues) == 1 else []
    origins = outcome.prepared
    expected = Counter(["later", *(f"note:{place}" for place in range(len(origins)))])
    for number, results in enumerate(outcome.rounds):
        names = [f"plus:{place}" for place in range(4)] + ["dependent", "hopeless"]
        names += ["unique", *(f"limited:{place}" for place in range(3))] if limited else []
        expected.update({f"{number}:{name}": 1 for name in names})
        expected[f"{number}:stubborn"] = 3
        sums = [number + amount for amount in (0, 1, 2, 3, 1000, *limited)]
        assert results == [sums, f"ValueError: {number}:hopeless", 3], number
    assert outcome.finished == [21]
    assert outcome.state.ran == expected
    # All were there before the worker was: the first queue first, and in each queue as they came.
    order = sorted(range(len(origins)), key=lambda place: way.queues.index(origins[place]))
    assert outcome.state.order["note"] == [str(place) for place in order]
    kinds = {key.split(":")[1] for key in outcome.state.keys}
    assert not kinds & {"queue", "wip", "scheduled", "deferred", "ready", "executions", "execution"}, kinds
