"""Starting and ending: what a supervisor, an operator and a client see of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.servers import free_port
from tests.conftest import ProxyFactory
from tests.integration.wire import HOST, dial, packed, witness

STOPS = [signal.SIGTERM, signal.SIGINT]


async def refused(*flags: str, within: float = 15.0, environ: dict[str, str] | None = None) -> str:
    """What `slotproxy serve` writes before it ends with status 2: one line on stderr, nothing on stdout."""
    with trio.fail_after(within):
        done = await trio.run_process(
            [sys.executable, "-m", "slotproxy", "serve", "--admin", "off", *flags],
            env={**os.environ, **(environ or {})},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    said = done.stderr.decode()
    assert done.returncode == 2, (done.returncode, said)
    assert done.stdout == b""
    assert said.startswith("slotproxy: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    return said


# ---- ending


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
async def test_a_signal_drains(cluster: EmbeddedCluster, proxy: ProxyFactory, number: signal.Signals) -> None:
    """In flight: answered. Idle: closed. New: refused. Not ready any more. Then status 0."""
    target = await proxy()
    slow = cluster.nodes[0]
    held = await cluster.key_in_slot(min(await cluster.slots_of(slow)))
    with trio.fail_after(30):
        async with await dial(target.port) as busy, await dial(target.port) as idle, await dial(target.port) as half:
            await half.send(pack("SET", held, "never")[:-3])
            slow.pause()
            try:
                await busy.send(packed([("SET", held, "kept"), ("PING",), ("GET", held)]))
                await until(lambda: _in_flight(target, 2), within=10)
                target.signal(number)
                assert await idle.read_to_end() == b""
                assert await half.read_to_end() == b""
                status, why = await target.get("/readyz")
                assert (status, why.strip()) == (503, "draining")
                await until(lambda: _nobody_listens(target.port), within=10)
                await busy.send(pack("SET", held, "too late"))
            finally:
                slow.resume()
            assert await busy.read_to_end() == b"+OK\r\n+PONG\r\n$4\r\nkept\r\n"
        assert await target.wait() == 0
        assert await slow.command("GET", held) == b"kept"


async def _in_flight(target: ProxyProcess, count: int) -> bool:
    return (await target.metrics())["slotproxy_requests_in_flight"] >= count


async def _nobody_listens(port: int) -> bool:
    try:
        (await dial(port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_a_second_signal_does_not_wait(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy("--drain-timeout", "1h")
    held = await cluster.key_in_slot(min(await cluster.slots_of(cluster.nodes[0])))
    with trio.fail_after(30):
        async with await dial(target.port) as busy, await dial(target.port) as idle:
            cluster.nodes[0].pause()
            try:
                await busy.send(pack("GET", held))
                await until(lambda: _in_flight(target, 1), within=10)
                target.signal(signal.SIGTERM)
                assert await idle.read_to_end() == b""
                assert target.running
                target.signal(signal.SIGTERM)
                assert await target.wait(within=5) == 0
                assert await busy.read_to_end() == b""
            finally:
                cluster.nodes[0].resume()
    assert "ending at once" in target.stderr


async def test_draining_has_an_end(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Neither a silent node nor a client that does not read keeps it longer than --drain-timeout."""
    target = await proxy("--drain-timeout", "300ms")
    held = await cluster.key_in_slot(min(await cluster.slots_of(cluster.nodes[0])))
    with trio.fail_after(30):
        async with await dial(target.port) as busy, await dial(target.port, receive_buffer=4_096) as deaf:
            cluster.nodes[0].pause()
            try:
                await busy.send(pack("GET", held))
                await deaf.send(pack("PING", b"x" * 8_000_000))
                assert await deaf.read(1) == b"$"
                await until(lambda: _in_flight(target, 1), within=10)
                started = trio.current_time()
                target.signal(signal.SIGTERM)
                assert await target.wait(within=10) == 0
                assert trio.current_time() - started >= 0.3
            finally:
                cluster.nodes[0].resume()
    assert "2 clients were not drained within 0.3 s" in target.stderr


async def test_a_signal_ends_it_while_no_node_answers(guard: Guard) -> None:
    """Never ready, and it says why; its clients wait for a slot's owner, and still it ends."""
    target = ProxyProcess([f"{HOST}:{free_port()}"], guard=guard, flags=("--drain-timeout", "200ms"))
    target.spawn()
    with trio.fail_after(30):
        await until(lambda: "listens on" in target.stderr, within=15)
        status, why = await target.get("/readyz")
        assert status == 503
        assert "0 of 16384 slots have an owner" in why
        async with await dial(target.port) as client:
            assert await client.ask(pack("PING")) == b"+PONG\r\n"
            await client.send(pack("GET", "nobody's"))
            target.signal(signal.SIGTERM)
            assert await target.wait(within=10) == 0
    assert "Traceback" not in target.stderr, target.stderr


# ---- starting


async def test_it_waits_for_the_first_seed_that_answers(cluster: EmbeddedCluster, guard: Guard) -> None:
    target = ProxyProcess([f"{HOST}:{free_port()}", *cluster.seeds], guard=guard)
    with trio.fail_after(30):
        await target.start()
        async with witness(target):
            pass
        assert await target.stop() == 0


async def test_a_port_in_use(cluster: EmbeddedCluster, proxy: ProxyFactory, tmp_path: Path) -> None:
    """For clients or for the admin endpoint: one line that names flag and address. Whoever has it keeps it."""
    target = await proxy()
    taken, path = f"{HOST}:{target.port}", tmp_path / "first.sock"
    seeds = ("--cluster", cluster.seeds[0])
    said = await refused("--listen", f"unix:{path}", "--listen", taken, *seeds)
    assert f"--listen {taken}: cannot listen there: Address already in use" in said
    assert not path.exists(), "the socket that had been opened before stayed behind"
    said = await refused("--listen", f"unix:{path}", *seeds, "--admin", f"{HOST}:{target.admin_port}")
    assert said.startswith(f"slotproxy: --admin: cannot listen on {HOST}:{target.admin_port}: "), said
    assert not path.exists(), "the socket that had been opened before stayed behind"
    with trio.fail_after(10):
        async with witness(target):
            pass


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--cluster", "nowhere"), ["--cluster", "'nowhere'", "HOST:PORT"]),
        ((), ["--cluster", "SLOTPROXY_CLUSTER", "missing"]),
        (("--cluster", "a:1", "--max-clients", "0"), ["--max-clients", "'0'", "1"]),
        (("--cluster", "a:1", "--max-bulk", "12X"), ["--max-bulk", "'12X'", "K, M, G"]),
        (("--cluster", "a:1", "--park-timeout", "-1"), ["--park-timeout", "'-1'"]),
        (("--cluster", "a:1", "--log-level", "loud"), ["--log-level", "'loud'", "debug"]),
        (("--cluster", "a:1", "--listen", "somewhere"), ["--listen", "'somewhere'"]),
        (("--cluster", "a:1", "--no-such-flag"), ["--no-such-flag"]),
        (("--cluster", "a:1", "--listen", "192.0.2.1:7000"), ["--listen 192.0.2.1:7000", "Cannot assign"]),
        (("--cluster", "a:1", "--listen", "unix:/no/such/s"), ["--listen unix:/no/such/s", "No such file"]),
        (("--cluster", "a:1", "--listen", f"unix:/tmp/{'x' * 200}"), ["--listen", "xxx"]),
        (("--cluster", "a:1", "--admin", "everywhere"), ["--admin", "'everywhere'", "off"]),
        (("--cluster", "a:1", "--cluster-password-file", "/no/such"), ["--cluster-password-file", "/no/such"]),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_one_line(flags: tuple[str, ...], named: list[str]) -> None:
    said = await refused(*flags, environ={"SLOTPROXY_CLUSTER": ""})
    assert all(words in said for words in named), said


async def test_a_wrong_variable_is_named() -> None:
    assert "SLOTPROXY_MAX_CLIENTS: 'many'" in await refused(
        "--cluster", "a:1", environ={"SLOTPROXY_MAX_CLIENTS": "many"}
    )


async def test_without_an_admin_endpoint(cluster: EmbeddedCluster, guard: Guard) -> None:
    target = ProxyProcess(cluster.seeds, guard=guard, flags=("--admin", "off"))
    target.spawn()
    with trio.fail_after(30):
        await until(lambda: "ready:" in target.stderr, within=20)
        async with witness(target):
            pass
        with pytest.raises(OSError):
            await target.get("/healthz")
        assert await target.stop() == 0


# ---- Unix sockets


async def test_a_unix_socket(cluster: EmbeddedCluster, proxy: ProxyFactory, tmp_path: Path) -> None:
    """A file left by a process that was killed is replaced; one that is served, or is no socket, is not touched."""
    path = tmp_path / "redis.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    assert path.is_socket()
    target = await proxy("--listen", f"unix:{path}")
    with trio.fail_after(30):
        async with await dial(str(path)) as client:
            said = await client.ask(packed([("SET", "u", "1"), b"GET u\r\n", ("MGET", "u", "v")]))
            assert said == b"+OK\r\n$1\r\n1\r\n*2\r\n$1\r\n1\r\n$-1\r\n"
            assert "already in use" in await refused("--cluster", cluster.seeds[0], "--listen", f"unix:{path}")
            assert await client.ask(pack("GET", "u")) == b"$1\r\n1\r\n"
        plain = tmp_path / "notes.txt"
        plain.write_text("keep me")
        assert "already in use" in await refused("--cluster", cluster.seeds[0], "--listen", f"unix:{plain}")
        assert plain.read_text() == "keep me"
        async with await dial(str(path)) as client:
            assert await client.ask(pack("GET", "u")) == b"$1\r\n1\r\n"
            assert await target.stop() == 0
            assert await client.read_to_end() == b""
    assert not path.exists()


def test_version_and_help_say_what_it_is() -> None:
    for flag, words in (("--version", "slotproxy "), ("--help", "--max-in-flight")):
        done = subprocess.run([sys.executable, "-m", "slotproxy", flag], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0
        assert words in done.stdout
        assert done.stderr == ""
