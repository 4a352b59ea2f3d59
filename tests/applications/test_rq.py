"""RQ runs unchanged through the proxy: every job once, results right, queues in order, failures and retries counted.

RQ_KEY_PREFIX with a hash tag puts all its keys into one slot, as the README says, and nothing is given up. (Slot by
slot a worker may see a job's id before the job, and RQ passes such a job over.) With several queues a worker waits with
BLPOP, with one it moves jobs with BLMOVE.

Rate limits are left out while the slot moves: their scripts use keys that they were not given, which may have gone.
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


@dataclass(frozen=True)
class Way:
    queues: tuple[str, ...]
    worker: str

    @property
    def environ(self) -> Mapping[str, str]:
        # A worker that does the work in its own process cannot be told to stop it.
        commands = {"RQ_COMMANDS": "yes"} if self.worker == "rq.Worker" else {}
        return {"RQ_QUEUES": " ".join(self.queues), "RQ_KEY_PREFIX": "{rq}", **commands}

    @property
    def application(self) -> Application:
        words = ("rq.cli", "worker", "--url", "URL", "--with-scheduler", "--worker-class", self.worker, *MAINTENANCE)
        return Application(python_client("tests.applications.rq_app"), python(*words, *self.queues), ("{rq}",))


# A job whose dependencies are met is left to the next maintenance, by default in ten minutes, when a WATCH of RQ's
# finds that its keys have changed, which they seem to have when their slot moves. It runs between two waits for a job.
MAINTENANCE = ("--maintenance-interval", "1", "--worker-ttl", "16")

WAYS = {"several queues": Way(("high", "low"), "rq.Worker"), "one queue": Way(("only",), "rq.SimpleWorker")}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


LIMITS = {"RQ_LIMITS": "yes"}


async def test_rq_on_one_server(alone: Stage, guard: Guard, way: Way) -> None:
    check(await run(way.application, alone, guard, {**way.environ, **LIMITS}), way, LIMITS)


async def test_rq_while_slots_move(moving: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await moving(), guard, way.environ), way, {})


@pytest.mark.parametrize("way", ["several queues"], indirect=True)
async def test_rq_while_nodes_fail_over(failing_over: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await failing_over(), guard, {**way.environ, **LIMITS}), way, LIMITS)


def check(outcome: Outcome, way: Way, limits: Mapping[str, str]) -> None:
    limited = range(3) if limits else []
    origins = outcome.prepared
    expected = Counter(["later", *(f"note:{place}" for place in range(len(origins)))])
    for number, results in enumerate(outcome.rounds):
        names = [f"plus:{place}" for place in range(4)] + ["dependent", "hopeless", "unique"]
        names += [f"limited:{place}" for place in limited]
        expected.update({f"{number}:{name}": 1 for name in names})
        expected[f"{number}:stubborn"] = 3
        if "RQ_COMMANDS" in way.environ:
            expected[f"{number}:endless"] = 1
        sums = [number + amount for amount in (0, 1, 2, 3, 1000, 7, *limited)]
        assert results == [sums, f"ValueError: {number}:hopeless", 3], number
    assert outcome.finished == [21]
    assert outcome.state.ran == expected
    # All were there before the worker was: the first queue first, and in each queue as they came.
    order = sorted(range(len(origins)), key=lambda place: way.queues.index(origins[place]))
    assert outcome.state.order["note"] == [str(place) for place in order]
    kinds = {key.split(":")[1] for key in outcome.state.keys}
    assert not kinds & {"queue", "wip", "scheduled", "deferred", "ready", "executions", "execution"}, kinds
