import socket
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from trio.testing import MockClock

from slotproxy.control import admin
from slotproxy.control.addresses import TcpEndpoint
from slotproxy.control.admin import IDLE_TIMEOUT, MAX_CONNECTIONS, REQUEST_TIMEOUT, AdminServer, serve_admin
from slotproxy.control.config import ConfigError
from tests.control.serving import Connect, Served
from tests.control.sources import FixedSources

# Connections


async def test_a_connection_is_kept_and_pipelining_works(served: Served) -> None:
    async with await served.connect() as peer:
        for _ in range(3):
            assert (await peer.ask("/healthz")).text == "ok\n"
        await peer.send(
            b"".join(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"healthz", b"no", b"slots"))
        )
        assert [(await peer.reply()).status for _ in range(3)] == [200, 404, 200]


async def test_a_request_byte_by_byte(served: Served) -> None:
    async with await served.connect() as peer:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            await peer.send(bytes([byte]))
        assert (await peer.reply()).status == 200


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close"])
async def test_a_connection_ends_when_asked_to(served: Served, version: bytes) -> None:
    async with await served.connect() as peer:
        await peer.send(b"GET /healthz " + version + b"\r\nHost: x\r\n\r\n")
        assert (await peer.reply()).text == "ok\n"
        assert await peer.closed()


async def test_a_slow_request_is_cut_off_in_time(in_memory: Connect, autojump_clock: MockClock) -> None:
    peer = await in_memory()
    started = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        for byte in b"GET /metrics HTTP/1.1\r\nHost: " + b"x" * 1000:
            await peer.send(bytes([byte]))
            await trio.sleep(1)
    assert REQUEST_TIMEOUT <= trio.current_time() - started <= REQUEST_TIMEOUT + 1


async def test_a_peer_that_does_not_read_is_cut_off_in_time(served: Served, autojump_clock: MockClock) -> None:
    class Stuck(trio.abc.HalfCloseableStream):
        """Gives one request and never takes the answer."""

        closed_at = -1.0

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            return b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep_forever()

        async def wait_send_all_might_not_block(self) -> None:
            await trio.lowlevel.checkpoint()

        async def send_eof(self) -> None:
            await trio.lowlevel.checkpoint()

        async def aclose(self) -> None:
            self.closed_at = trio.current_time()
            await trio.lowlevel.checkpoint()

    started = trio.current_time()
    stream = Stuck()
    await AdminServer(served.sources, lambda: []).serve_connection(stream)
    assert stream.closed_at - started == pytest.approx(REQUEST_TIMEOUT)


async def test_a_silent_connection_is_closed_sooner_before_its_first_request_than_after(
    in_memory: Connect, autojump_clock: MockClock
) -> None:
    silent = await in_memory()
    started = trio.current_time()
    assert await silent.closed()
    assert trio.current_time() - started == pytest.approx(REQUEST_TIMEOUT)

    kept = await in_memory()
    assert (await kept.ask("/healthz")).status == 200
    await trio.sleep(IDLE_TIMEOUT - 1)
    assert (await kept.ask("/healthz")).status == 200
    started = trio.current_time()
    assert await kept.closed()
    assert trio.current_time() - started == pytest.approx(IDLE_TIMEOUT)


async def test_hung_peers_cannot_lock_a_probe_out(served: Served) -> None:
    async with AsyncExitStack() as hung:
        first = await hung.enter_async_context(await served.connect())
        await first.send(b"GET /healthz")
        for _ in range(2 * MAX_CONNECTIONS):
            await (await hung.enter_async_context(await served.connect())).ask("/healthz")
        assert await first.closed()
        for _ in range(2 * MAX_CONNECTIONS):
            peer = await hung.enter_async_context(await served.connect())
            with suppress(trio.BrokenResourceError):  # those behind it may have taken its place by then
                await peer.send(b"GET /healthz")
        assert (await served.get("/healthz")).status == 200


async def test_room_is_made_by_the_one_that_was_quiet_longest(
    in_memory: Connect, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 2)
    busy, quiet = await in_memory(), await in_memory()
    for peer in (busy, quiet, busy):
        assert (await peer.ask("/healthz")).status == 200
    newer = await in_memory()
    started = trio.current_time()
    assert await quiet.closed()
    assert trio.current_time() == started
    assert (await busy.ask("/healthz")).status == 200
    assert (await newer.ask("/healthz")).status == 200


async def test_connections_that_ended_take_no_room(served: Served) -> None:
    async with await served.connect() as kept:
        assert (await kept.ask("/healthz")).status == 200
        for _ in range(2 * MAX_CONNECTIONS):
            async with await served.connect() as peer:
                assert (await peer.ask("/healthz", "GET", "Connection: close")).status == 200
                assert await peer.closed()
        assert (await kept.ask("/healthz")).status == 200


async def test_many_connections_leave_nothing_behind(served: Served) -> None:
    async def probe() -> None:
        assert (await served.get("/healthz")).status == 200

    for _ in range(10):
        async with trio.open_nursery() as probes:
            for _ in range(MAX_CONNECTIONS // 2):
                probes.start_soon(probe)


# Opening


async def test_an_address_in_use_is_one_clear_line(served: Served) -> None:
    endpoint = TcpEndpoint(*served.address)
    with pytest.raises(ConfigError) as caught:
        await serve_admin(endpoint, sources=served.sources, readiness=lambda: [])
    line = str(caught.value)
    assert line.startswith(f"--admin: cannot listen on {endpoint}: Address already in use; stop what listens there")
    assert "\n" not in line


async def test_an_address_of_another_machine_is_one_clear_line(served: Served) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0: .*; give an address of this machine"):
        await serve_admin(TcpEndpoint("192.0.2.1", 0), sources=served.sources, readiness=lambda: [])


async def test_a_name_without_an_address_is_one_clear_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unresolvable(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Unresolvable())
    with pytest.raises(ConfigError, match="the name cannot be resolved"):
        await serve_admin(TcpEndpoint("no.such.name", 0), sources=served.sources, readiness=lambda: [])


async def test_ending_closes_listener_and_connections() -> None:
    served = Served(FixedSources())
    async with trio.open_nursery() as serving:
        (served.address,) = await serving.start(
            lambda task_status: serve_admin(
                TcpEndpoint("127.0.0.1", 0),
                sources=served.sources,
                readiness=lambda: served.reasons,
                task_status=task_status,
            )
        )
        peer = await served.connect()
        assert (await peer.ask("/healthz")).status == 200
        serving.cancel_scope.cancel()
    async with peer:
        assert await peer.closed()
    with pytest.raises(OSError):
        await served.connect()
