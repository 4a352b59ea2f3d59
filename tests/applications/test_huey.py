"""Huey runs unchanged through the proxy: every task once, results right, by priority, a chord joined once.

Each of its commands has one key, so it needs no flag and no setting.
"""

from __future__ import annotations

import signal
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
    """One worker when the order is looked at."""

    environ: Mapping[str, str]
    workers: tuple[str, ...]

    @property
    def application(self) -> Application:
        return Application(
            client=python_client("tests.applications.huey_app"),
            worker=python("huey.bin.huey_consumer", "tests.applications.huey_app.huey", *self.workers),
            keys=tuple(f"huey.{kind}.shop" for kind in ("redis", "schedule", "results", "counters")),
            # SIGTERM would not wait for what is being done.
            stop=signal.SIGINT,
        )


WAYS = {
    "by priority": Way({"HUEY_CLASS": "PriorityRedisHuey"}, ("-w", "1")),
    "in processes": Way({"HUEY_CLASS": "RedisHuey", "HUEY_NOTIFY": "1"}, ("-w", "2", "-k", "process")),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def test_huey_on_one_server(alone: Stage, guard: Guard, way: Way) -> None:
    check(await run(way.application, alone, guard, way.environ))


async def test_huey_while_slots_move(moving: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await moving(), guard, way.environ))


@pytest.mark.parametrize("way", ["by priority"], indirect=True)
async def test_huey_while_nodes_fail_over(failing_over: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await failing_over(), guard, way.environ))


def check(outcome: Outcome) -> None:
    priorities = outcome.prepared
    # Due when the consumer starts, and again when a minute begins meanwhile.
    assert outcome.state.ran.pop("tick") in (1, 2)
    expected = Counter(["later", *(f"note:{place}" for place in range(8))])
    for number, results in enumerate(outcome.rounds):
        names = [f"plus:{place}" for place in range(4)] + ["pipe:0", "pipe:1"]
        names += [f"header:{place}" for place in range(5)] + ["total"]
        expected.update({f"{number}:{name}": 1 for name in names})
        expected[f"{number}:stubborn"] = 3
        sums = [number + place for place in range(4)]
        header = [number + place for place in range(5)]
        assert results == [sums, 3, [number + 10, number + 110], header, sum(header)], number
    assert outcome.finished == [*range(8), 21]
    assert outcome.state.ran == expected
    if priorities:
        # All were there before the consumer was: by priority, and in each priority as they came.
        order = sorted(range(8), key=lambda place: -priorities[place])
        assert outcome.state.order["note"] == [str(place) for place in order]
    left = {key for key in outcome.state.keys if not key.startswith("huey.notify.")}
    assert left == set()
