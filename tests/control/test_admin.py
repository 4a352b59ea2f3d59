import json
import logging
import re

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.control.serving import Connect, Served
from tests.control.sources import IDS

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
