"""ioredis and node-redis as the plain clients of programs, in each protocol: every reply right, nothing twice.

The libraries are installed by npm; without Node.js the tests are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from slotproxy.demo.guard import Guard
from tests.applications.conftest import StageFactory
from tests.applications.plain_clients import check, keys_of
from tests.applications.running import Application, node_client, run
from tests.applications.stages import Stage

pytestmark = pytest.mark.extended


@dataclass(frozen=True)
class Library:
    kind: str
    module: str

    @property
    def application(self) -> Application:
        return Application(node_client(self.module), worker=(), keys=keys_of(self.kind))


IOREDIS = Library("ioredis", "ioredis_app.js")
NODE_REDIS = Library("node-redis", "node_redis_app.js")
# Both speak RESP3 by themselves.
PROTOCOLS = {"default": {}, "RESP2": {"REDIS_PROTOCOL": "2"}}


@pytest.fixture(params=[IOREDIS, NODE_REDIS], ids=lambda library: library.kind)
def library(request: pytest.FixtureRequest) -> Library:
    found: Library = request.param
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_client_on_one_server(
    alone: Stage, guard: Guard, node_modules: dict[str, str], library: Library, protocol: str
) -> None:
    check(await run(library.application, alone, guard, {**node_modules, **PROTOCOLS[protocol]}), library.kind)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_client_while_slots_move(
    moving: StageFactory, guard: Guard, node_modules: dict[str, str], library: Library, protocol: str
) -> None:
    check(await run(library.application, await moving(), guard, {**node_modules, **PROTOCOLS[protocol]}), library.kind)


async def test_client_while_nodes_fail_over(
    failing_over: StageFactory, guard: Guard, node_modules: dict[str, str], library: Library
) -> None:
    check(await run(library.application, await failing_over(), guard, node_modules), library.kind)
