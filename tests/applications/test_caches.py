"""Django's caches and sessions, django-redis, cachelib and limits through the proxy: nothing is lost or doubled.

They are installed into a folder that is thrown away. `per-slot`: keys spread over the cluster, and what Django sets
several of at a time (in a MULTI) is split. `one slot`: a prefix with a hash tag. Both are the README's settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.installing import python_packages
from tests.applications.running import Application, Outcome, python_client, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended

PACKAGES = ("django>=5.2,<7", "django-redis>=7,<8", "cachelib>=0.17,<1", "limits>=5.8,<6", "redis>=8,<9")


@dataclass(frozen=True)
class Way:
    flags: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def django(self) -> Application:
        prefix = self.environ.get("CACHE_PREFIX", "")
        names = [("visits", 1), ("value", 1), ("value", 2), ("many:0", 1), ("many:1", 1), ("many:2", 1), ("lock", 1)]
        keys = [f"{prefix}{cache}:{version}:{name}" for cache in CACHES for name, version in names]
        return Application(python_client("tests.applications.django_app"), worker=(), keys=tuple(keys))


CACHES = ("django", "django-redis")
WAYS = {
    "per-slot": Way(("--cross-slot-transactions", "per-slot"), {}),
    "one slot": Way((), {"CACHE_PREFIX": "{site}"}),
}
PREFIXES = {"spread": "LIMITS", "one slot": "{limits}"}
STRATEGIES = ("FixedWindow", "MovingWindow")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="session")
def packages() -> Iterator[dict[str, str]]:
    with python_packages(*PACKAGES) as environ:
        yield environ


async def test_django_on_one_server(alone: Stage, guard: Guard, packages: dict[str, str], way: Way) -> None:
    check_django(await run(way.django, alone, guard, {**packages, **way.environ}))


async def test_django_while_slots_move(moving: StageFactory, guard: Guard, packages: dict[str, str], way: Way) -> None:
    check_django(await run(way.django, await moving(*way.flags), guard, {**packages, **way.environ}))


@pytest.mark.parametrize("way", ["per-slot"], indirect=True)
async def test_django_while_nodes_fail_over(
    failing_over: StageFactory, guard: Guard, packages: dict[str, str], way: Way
) -> None:
    check_django(await run(way.django, await failing_over(*way.flags), guard, {**packages, **way.environ}))


def check_django(outcome: Outcome) -> None:
    for number, results in enumerate(outcome.rounds):
        assert results == {name: [20 * (number + 1), [number + 1, 1, 0, 1, 0]] for name in CACHES}, number
    assert outcome.finished == ["kept", "visits"]
    assert outcome.state.keys == set()


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return PREFIXES[request.param]


async def test_cachelib_and_limits_on_one_server(
    alone: Stage, guard: Guard, packages: dict[str, str], prefix: str
) -> None:
    check_limits(await run(limits(prefix), alone, guard, {**packages, "LIMITS_PREFIX": prefix}))


async def test_cachelib_and_limits_while_slots_move(
    moving: StageFactory, guard: Guard, packages: dict[str, str], prefix: str
) -> None:
    check_limits(await run(limits(prefix), await moving(), guard, {**packages, "LIMITS_PREFIX": prefix}))


@pytest.mark.parametrize("prefix", ["spread"], indirect=True)
async def test_cachelib_and_limits_while_nodes_fail_over(
    failing_over: StageFactory, guard: Guard, packages: dict[str, str], prefix: str
) -> None:
    check_limits(await run(limits(prefix), await failing_over(), guard, {**packages, "LIMITS_PREFIX": prefix}))


def limits(prefix: str) -> Application:
    names = [f"{prefix}:LIMITER/{strategy}RateLimiter/all/1000000/1/hour" for strategy in STRATEGIES]
    cached = [f"cachelib:{name}" for name in ("value", "counted", "uncounted", "many:0", "many:1")]
    return Application(python_client("tests.applications.limits_app"), worker=(), keys=(*cached, *names))


def check_limits(outcome: Outcome) -> None:
    for number, results in enumerate(outcome.rounds):
        assert list(results.values()) == [[5, 8 * (number + 1)]] * 3, results
    left = [key for key in outcome.state.keys if key.startswith("LIMITS:")]
    assert outcome.state.keys == set(left)
    assert (outcome.finished > 0) != bool(left)
