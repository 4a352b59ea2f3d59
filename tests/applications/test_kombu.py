"""kombu by itself through the proxy: every message once, given back ones again, urgent ones first."""

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

QUEUES = ("fast", "ordered", "german", "letters", "replies")


@dataclass(frozen=True)
class Way:
    """As Celery's."""

    flags: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def application(self) -> Application:
        prefix = self.environ.get("BROKER_PREFIX", "")
        return Application(
            client=python_client("tests.applications.kombu_app"),
            worker=python("tests.applications.kombu_worker"),
            keys=tuple(f"{prefix}{name}" for name in (*QUEUES, "unacked", "unacked_index")),
        )


WAYS = {
    "per-slot": Way(("--cross-slot-transactions", "per-slot"), {}),
    "one slot": Way((), {"BROKER_PREFIX": "{shop}."}),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def test_kombu_on_one_server(alone: Stage, guard: Guard, way: Way) -> None:
    check(await run(way.application, alone, guard, way.environ))


async def test_kombu_while_slots_move(moving: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await moving(*way.flags), guard, way.environ))


@pytest.mark.parametrize("way", ["one slot"], indirect=True)
async def test_kombu_while_nodes_fail_over(failing_over: StageFactory, guard: Guard, way: Way) -> None:
    check(await run(way.application, await failing_over(*way.flags), guard, way.environ))


def check(outcome: Outcome) -> None:
    priorities = outcome.prepared
    expected = Counter([f"note:{place}" for place in range(len(priorities))])
    for number, results in enumerate(outcome.rounds):
        names = [f"{number}:{place}" for place in range(4)]
        letters = {f"{number}:letter:hello.en": 1, f"{number}:letter:hello.de": 2}
        expected.update({**{name: 1 for name in names}, **letters, f"{number}:stubborn": 3})
        replies = [[name, 1] for name in names] + [[f"{number}:letter", runs] for runs in (1, 1, 2)]
        assert results == sorted([*replies, [f"{number}:stubborn", 3]]), number
    assert outcome.state.ran == expected
    # All were there before the worker was: by priority, and in each priority as they came.
    order = sorted(range(len(priorities)), key=lambda place: priorities[place])
    assert outcome.state.order["note"] == [str(place) for place in order]
    assert all("_kombu.binding" in key for key in outcome.state.keys), outcome.state.keys
    assert not outcome.log, outcome.log
