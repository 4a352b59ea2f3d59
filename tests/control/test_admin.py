import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from slotproxy.control import admin
from slotproxy.control.addresses import TcpEndpoint
from slotproxy.control.admin import IDLE_TIMEOUT, MAX_CONNECTIONS, REQUEST_TIMEOUT, AdminServer, serve_admin
from slotproxy.control.config import ConfigError
from tests.control.sources import IDS, FixedSources, three_nodes


@dataclass
class Served:
    """An endpoint on a free port, and what it shows."""

    sources: FixedSources
    reasons: list[str] = field(default_factory=list)
    address: tuple[str, int] = ("", 0)

    async def connect(self) -> "Peer":
        return Peer(await trio.open_tcp_stream(*self.address))

    async def get(self, path: str, method: str = "GET", *headers: str) -> "Reply":
        """One request on a connection of its own."""
        async with await self.connect() as peer:
            return await peer.ask(path, method, *headers)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Peer:
    """One connection, read by what its Content-Length says."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._received = b""

    async def __aenter__(self) -> "Peer":
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, path: str, method: str = "GET", *headers: str) -> Reply:
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *headers))
        await self.send(f"{head}\r\n".encode())
        return await self.reply(bodyless=method == "HEAD")

    async def reply(self, bodyless: bool = False) -> Reply:
        with trio.fail_after(60):
            while b"\r\n\r\n" not in self._received:
                await self._more()
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = 0 if bodyless else int(headers["content-length"])
            while len(self._received) < size:
                await self._more()
        body, self._received = self._received[:size], self._received[size:]
        return Reply(int(first.split()[1]), headers, body)

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, f"closed after {self._received!r}"
        self._received += data

    async def closed(self) -> bool:
        """Waits for the other side to close without another byte."""
        with trio.fail_after(600):
            try:
                return await self.stream.receive_some(1) == b"" and not self._received
            except trio.BrokenResourceError:
                return True


@pytest.fixture
async def served(nursery: trio.Nursery) -> AsyncIterator[Served]:
    made = Served(FixedSources())
    made.sources.slot_map = three_nodes()

    async def serve(*, task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        await serve_admin(
            TcpEndpoint("127.0.0.1", 0),
            sources=made.sources,
            readiness=lambda: made.reasons,
            task_status=task_status,
        )

    (made.address,) = await nursery.start(serve)
    yield made


Connect = Callable[[], Awaitable[Peer]]


@pytest.fixture
async def in_memory(nursery: trio.Nursery, served: Served) -> Connect:
    """Connections without a kernel between, for tests that own the clock."""
    server = AdminServer(served.sources, lambda: served.reasons)

    async def connect() -> Peer:
        near, far = memory_stream_pair()
        nursery.start_soon(server.serve_connection, far)
        return Peer(near)

    return connect


# What the pages say


async def test_metrics_are_prometheus_text(served: Served) -> None:
    served.sources.counters.tryagain = 7
    reply = await served.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {s.name: s.value for f in text_string_to_metric_families(reply.text) for s in f.samples}
    assert values["slotproxy_tryagain_total"] == 7


async def test_metrics_are_openmetrics_for_who_asks_for_it(served: Served) -> None:
    accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    reply = await served.get("/metrics", "GET", accept)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = parse_openmetrics(reply.text)  # type: ignore[no-untyped-call]
    assert "slotproxy_slots_covered" in {family.name for family in families}


@pytest.mark.parametrize(
    "version", ["x", "1.x", "2.\N{LATIN SMALL LETTER E WITH ACUTE}", "9" * 5000, "", "1.0.0, ,;;=,"]
)
async def test_a_hostile_accept_header_still_gets_metrics(served: Served, version: str) -> None:
    async with await served.connect() as peer:
        accept = f"application/openmetrics-text;version={version}".encode("latin-1")
        await peer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + accept + b"\r\n\r\n")
        reply = await peer.reply()
    assert reply.status == 200
    assert "slotproxy_slots_covered" in reply.text


async def test_healthz_does_not_depend_on_readiness(served: Served) -> None:
    served.reasons = ["not yet"]
    reply = await served.get("/healthz")
    assert (reply.status, reply.text) == (200, "ok\n")


async def test_readyz_says_why_until_nothing_is_left(served: Served) -> None:
    served.reasons = ["12 of 16384 slots have an owner", "primary 10.0.0.1:7001 is not connected"]
    reply = await served.get("/readyz")
    assert reply.status == 503
    assert reply.text.splitlines() == served.reasons
    assert reply.headers["content-type"].startswith("text/plain")
    served.reasons = []
    reply = await served.get("/readyz")
    assert (reply.status, reply.text) == (200, "ready\n")


async def test_slots_shows_the_map(served: Served) -> None:
    served.sources.migrating = [9, 5]
    reply = await served.get("/slots")
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body) == {
        "version": served.sources.slot_map.version,
        "covered": 16383,
        "migrating": [5, 9],
        "ranges": [
            {"first": 0, "last": 8191, "node": "10.0.0.1:7001", "id": IDS[0]},
            {"first": 8192, "last": 16382, "node": "10.0.0.1:7002", "id": IDS[1]},
            {"first": 16383, "last": 16383, "node": None, "id": None},
        ],
    }


async def test_the_index_leads_to_every_page(served: Served) -> None:
    reply = await served.get("/")
    links = re.findall(r'href="([^"]+)"', reply.text)
    assert links == ["/metrics", "/healthz", "/readyz", "/slots"]
    for link in links:
        assert (await served.get(link)).status == 200


async def test_a_query_is_no_part_of_the_path(served: Served) -> None:
    assert (await served.get("/healthz?x=/y")).status == 200
    assert (await served.get("http://x/healthz")).status == 200


async def test_head_has_the_headers_of_get_and_no_body(served: Served) -> None:
    async with await served.connect() as peer:
        head = await peer.ask("/slots", "HEAD")
        assert head.body == b""
        get = await peer.ask("/slots")  # nothing of a body stands in its way
    assert get.status == head.status == 200
    assert int(head.headers["content-length"]) == len(get.body)
    assert head.headers.keys() == get.headers.keys()


# Wrong requests


async def test_unknown_paths_are_404(served: Served) -> None:
    for path in ("/nope", "/metrics/", "/../metrics", "//metrics"):
        reply = await served.get(path)
        assert reply.status == 404
        assert "/readyz" in reply.text
    assert (await served.get("http://[x/")).status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods_are_405_and_told_which_are_allowed(served: Served, method: str) -> None:
    async with await served.connect() as peer:
        reply = await peer.ask("/metrics", method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert (await peer.ask("/healthz")).status == 200


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_a_body_is_not_read_and_ends_the_connection(served: Served, framing: str) -> None:
    async with await served.connect() as peer:
        reply = await peer.ask("/healthz", "GET", framing)
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await peer.closed()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\r\n\r\nnonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"*1\r\n$4\r\nPING\r\n\r\n", 400),  # Redis
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 30_000 + b"\r\n\r\n", 431),
        (b"G" * 20_000, 431),
    ],
)
async def test_what_is_no_request_gets_an_error_and_a_close(served: Served, request_bytes: bytes, status: int) -> None:
    async with await served.connect() as peer:
        await peer.send(request_bytes)
        reply = await peer.reply()
        assert reply.status == status
        assert reply.headers["connection"] == "close"
        assert reply.text.count("\n") == 1
        assert await peer.closed()
    assert (await served.get("/healthz")).status == 200


async def test_an_error_reaches_a_peer_that_is_still_sending(served: Served) -> None:
    async with await served.connect() as peer:
        for _ in range(4):
            await peer.send(b"x" * 20_000)
        assert (await peer.reply()).status == 431


async def test_after_an_error_the_peer_is_listened_to_until_it_leaves_or_goes_on_too_long(
    in_memory: Connect, autojump_clock: MockClock
) -> None:
    peer = await in_memory()
    await peer.send(b"nonsense\r\n\r\n")
    assert (await peer.reply()).status == 400
    await wait_all_tasks_blocked()
    await peer.send(b"more")  # closed at once, a kernel would answer this with a reset that can cost the reply
    with pytest.raises(trio.BrokenResourceError):
        for _ in range(100):
            await peer.send(b"x" * 10_000)
            await wait_all_tasks_blocked()


async def test_half_a_request_and_a_close_disturb_nobody(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "slotproxy")
    for data in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        async with await served.connect() as peer:
            await peer.send(data)
    assert (await served.get("/healthz")).status == 200
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_page_that_fails_is_a_500_a_log_line_and_nothing_more(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[int]:
        raise RuntimeError("broken figures")

    served.sources.migrating_slots = fail  # type: ignore[method-assign]
    async with await served.connect() as peer:
        assert (await peer.ask("/slots")).status == 500
        assert (await peer.ask("/metrics")).status == 500
        assert (await peer.ask("/healthz")).status == 200
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    assert "broken figures" in caplog.text


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
