"""redis-py 5 and the newest, in each protocol, as the plain client of a program: every reply right, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.installing import python_packages
from tests.applications.plain_clients import check, keys_of
from tests.applications.running import Application, Outcome, python_client, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended

KINDS = ("plain", "asyncio")
APPLICATION = Application(
    client=python_client("tests.applications.redis_py_app"),
    worker=(),
    keys=tuple(key for kind in KINDS for key in keys_of(kind)),
)
PROTOCOLS = {"default": {}, "RESP2": {"REDIS_PROTOCOL": "2"}, "RESP3": {"REDIS_PROTOCOL": "3"}}
# Version 5 speaks RESP2 by itself, the newest RESP3.
WAYS = [("5", "default"), ("5", "RESP3"), ("newest", "default"), ("newest", "RESP2")]


@pytest.fixture(scope="session")
def redis_py_5() -> Iterator[dict[str, str]]:
    with python_packages("redis==5.*") as environ:
        yield environ


@pytest.fixture(params=WAYS, ids=" ".join)
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    which, protocol = request.param
    installed = request.getfixturevalue("redis_py_5") if which == "5" else {}
    return {**installed, **PROTOCOLS[protocol]}


async def test_redis_py_on_one_server(alone: Stage, guard: Guard, environ: dict[str, str]) -> None:
    check_all(await run(APPLICATION, alone, guard, environ), environ)


async def test_redis_py_while_slots_move(moving: StageFactory, guard: Guard, environ: dict[str, str]) -> None:
    check_all(await run(APPLICATION, await moving(), guard, environ), environ)


@pytest.mark.parametrize("environ", [("5", "default"), ("newest", "default")], indirect=True, ids=" ".join)
async def test_redis_py_while_nodes_fail_over(
    failing_over: StageFactory, guard: Guard, environ: dict[str, str]
) -> None:
    check_all(await run(APPLICATION, await failing_over(), guard, environ), environ)


def check_all(outcome: Outcome, environ: dict[str, str]) -> None:
    expected = "5." if "PYTHONPATH" in environ else version("redis")
    assert outcome.prepared.startswith(expected)
    check(outcome, *KINDS)
