"""The proxy as a child process: ready means ready, what it said is kept, and it ends when told to."""

from __future__ import annotations

import signal
import sys

import pytest

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyFailed, ProxyProcess, sum_over_labels
from tests.conftest import ProxyFactory
from tests.demo.test_cluster import exists

STAND_IN = (sys.executable, "-m", "tests.demo.sequential_proxy")


async def test_the_fixture_gives_a_ready_proxy(proxy: ProxyFactory, cluster: EmbeddedCluster) -> None:
    process = await proxy()
    async with await process.connect() as client:
        for slot in (0, 8_000, 16_383):
            key = await cluster.key_in_slot(slot)
            assert await client.command("SET", key, "v") == b"OK"
            assert await (await cluster.owner(slot)).command("GET", key) == b"v"
    assert (await process.get("/readyz"))[0] == 200
    assert "slotproxy_moved_total" in await process.metrics()


async def test_flags_reach_the_proxy(proxy: ProxyFactory) -> None:
    with pytest.raises(ProxyFailed, match="--no-such-flag"):
        await proxy("--no-such-flag")


async def test_sigterm_ends_it_with_status_zero(guard: Guard) -> None:
    process = ProxyProcess(["127.0.0.1:1"], guard=guard, command=STAND_IN)
    await process.start()
    pid = process.pid
    assert await process.stop() == 0
    assert not process.running and not exists(pid)
    with pytest.raises(RuntimeError):
        _ = process.pid


async def test_one_that_ends_at_once_tells_what_it_said(guard: Guard) -> None:
    process = ProxyProcess([], guard=guard, command=STAND_IN, flags=["--fault", "unready"])
    with pytest.raises(ProxyFailed, match=r"status 1:\nnot today"):
        await process.start()
    assert not process.running


async def test_one_that_is_never_ready_is_ended(guard: Guard) -> None:
    process = ProxyProcess([], guard=guard, command=STAND_IN, flags=["--fault", "mute"])
    with pytest.raises(ProxyFailed, match=r"not ready after 1\.5 s"):
        await process.start(within=1.5)
    assert not process.running
    assert process.status == -signal.SIGKILL


def test_samples_are_summed_over_their_labels() -> None:
    text = (
        "# TYPE slotproxy_moved counter\n"
        'slotproxy_moved_total{node="a:1"} 3.0\n'
        'slotproxy_moved_total{node="b:1"} 4.0\n'
        "slotproxy_tryagain_total 5.0\n"
    )
    assert sum_over_labels(text) == {"slotproxy_moved_total": 7.0, "slotproxy_tryagain_total": 5.0}
