"""The admin endpoint: a small HTTP/1.1 server for scrapers, probes and curious operators.

    /metrics   Prometheus or OpenMetrics text, as the Accept header asks
    /healthz   200 while the process runs
    /readyz    200, or 503 with one reason per line
    /slots     the slot map as JSON
    /          what there is

h11 reads and writes the protocol; this file moves the bytes and bounds what one peer may cost: size of a
request's head, time per request, number of connections (a new one closes the one that has been quiet longest,
so that hung peers cannot lock a probe out).

Invariants: read only; a peer's failure ends that peer's connection, is logged at debug and touches nothing
else. Must not know what readiness consists of, nor where the figures come from.
"""

import email.utils
import errno
import json
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import h11
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import TcpEndpoint, shown_address
from slotproxy.control.config import ConfigError
from slotproxy.control.logs import log
from slotproxy.control.metrics import Sources, build_registry

REQUEST_TIMEOUT: Final = 10.0
"""Seconds from a request's first byte (from the connection's start, for the first one) to the end of the
answer."""
IDLE_TIMEOUT: Final = 120.0
"""Seconds that a kept connection may be quiet: longer than the usual scrape intervals."""
MAX_CONNECTIONS: Final = 64
MAX_HEAD: Final = 16 * 1024
_RECEIVE: Final = 4096
_LINGER: Final = 256 * 1024  # bytes of an unread request that are thrown away so that its error arrives
_BACKLOG: Final = 128

_TEXT: Final = "text/plain; charset=utf-8"
_INDEX: Final = """<!DOCTYPE html>
<html lang="en"><title>slotproxy</title><h1>slotproxy</h1><ul>
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/healthz">/healthz</a>: the process runs
<li><a href="/readyz">/readyz</a>: it can serve; if not, why
<li><a href="/slots">/slots</a>: who owns which slots, as JSON
</ul></html>
"""

_logger = logging.getLogger(__name__)

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type and body."""


async def serve_admin(
    address: TcpEndpoint,
    *,
    sources: Sources,
    readiness: Callable[[], list[str]],
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `task_status` gets the addresses bound.

    `readiness` returns why the proxy cannot serve; nothing means it can. Raises ConfigError when `address`
    cannot be bound.
    """
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"--admin: cannot listen on {address}: {_explain(error)}") from error
    server = AdminServer(sources, readiness)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve_connection, listeners)
        bound = [listener.socket.getsockname()[:2] for listener in listeners]
        log(_logger, logging.INFO, "admin endpoint open", address=[shown_address(one) for one in bound])
        task_status.started(bound)


class AdminServer:
    """What all connections share: the answers, and who is connected."""

    def __init__(self, sources: Sources, readiness: Callable[[], list[str]]) -> None:
        self._sources = sources
        self._readiness = readiness
        self._registry: CollectorRegistry = build_registry(sources)
        self._open: dict[trio.CancelScope, None] = {}  # the one that has been quiet longest comes first

    async def serve_connection(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Answer one peer's requests until it leaves, misbehaves or has to make room. Closes `stream`."""
        with trio.CancelScope() as scope:
            self._open[scope] = None
            if len(self._open) > MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                oldest.cancel()
            try:
                await self._serve_requests(stream, scope)
            except trio.BrokenResourceError as error:
                log(_logger, logging.DEBUG, "admin peer lost", reason=error)
            except Exception:
                # Its own fault, whatever it is, must not end the process that serves the clients.
                log(_logger, logging.ERROR, "admin connection failed", exc_info=True)
            finally:
                self._open.pop(scope, None)
                await trio.aclose_forcefully(stream)
        if scope.cancelled_caught:
            log(_logger, logging.DEBUG, "admin connection closed for a newer one")

    async def _serve_requests(self, stream: trio.abc.HalfCloseableStream, scope: trio.CancelScope) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        while True:
            with trio.move_on_after(REQUEST_TIMEOUT) as limit:
                keep = await self._serve_request(connection, stream)
            if limit.cancelled_caught:
                log(_logger, logging.DEBUG, "admin request took too long", seconds=REQUEST_TIMEOUT)
                return
            if not keep:
                return
            # Still among the living: others make room first.
            self._open.pop(scope, None)
            self._open[scope] = None
            connection.start_next_cycle()
            if not connection.trailing_data[0]:
                with trio.move_on_after(IDLE_TIMEOUT) as limit:
                    data = await stream.receive_some(_RECEIVE)
                    if not data:
                        return
                    connection.receive_data(bytes(data))
                if limit.cancelled_caught:
                    return

    async def _serve_request(self, connection: h11.Connection, stream: trio.abc.HalfCloseableStream) -> bool:
        """Read one request and answer it. True when another one may follow on the connection."""
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_RECEIVE)))
            if not isinstance(event, h11.Request):  # it left without asking for anything
                return False
            headers = [("Connection", "close")] if _has_body(event) else []
            answer, extra = self._answer(event)
            await self._send(connection, stream, answer, headers + extra, head_only=event.method == b"HEAD")
            if not headers:
                connection.next_event()  # the end of a request without a body
        except h11.RemoteProtocolError as error:
            log(_logger, logging.DEBUG, "admin request is not HTTP", reason=error)
            if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return False
            status = HTTPStatus(error.error_status_hint or 400)
            answer = (status, _TEXT, f"{status.phrase}: {error}\n".encode())
            await self._send(connection, stream, answer, [("Connection", "close")])
        if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            return True
        await _linger(stream)
        return False

    async def _send(
        self,
        connection: h11.Connection,
        stream: trio.abc.HalfCloseableStream,
        answer: Answer,
        headers: list[tuple[str, str]],
        head_only: bool = False,
    ) -> None:
        status, content_type, body = answer
        response = h11.Response(
            status_code=status,
            reason=status.phrase.encode(),
            headers=[
                ("Date", email.utils.formatdate(usegmt=True)),
                ("Content-Type", content_type),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                *headers,
            ],
        )
        out = connection.send(response) or b""
        if not head_only:
            out += connection.send(h11.Data(data=body)) or b""
        await stream.send_all(out + (connection.send(h11.EndOfMessage()) or b""))

    def _answer(self, request: h11.Request) -> tuple[Answer, list[tuple[str, str]]]:
        """The answer to `request`, and headers beyond the usual."""
        pages: dict[str, Callable[[h11.Request], Answer]] = {
            "/": lambda _: (HTTPStatus.OK, "text/html; charset=utf-8", _INDEX.encode()),
            "/metrics": self._metrics,
            "/healthz": lambda _: (HTTPStatus.OK, _TEXT, b"ok\n"),
            "/readyz": self._readyz,
            "/slots": self._slots,
        }
        try:
            path = urlsplit(request.target.decode("ascii", "replace")).path
        except ValueError:  # brackets that hold no address
            return (HTTPStatus.BAD_REQUEST, _TEXT, b"Bad Request: the target is no URL\n"), []
        page = pages.get(path)
        if page is None:
            return (HTTPStatus.NOT_FOUND, _TEXT, f"Not Found; there is {' '.join(pages)}\n".encode()), []
        if request.method not in (b"GET", b"HEAD"):
            return (HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"Method Not Allowed\n"), [("Allow", "GET, HEAD")]
        try:
            return page(request), []
        except Exception:
            log(_logger, logging.ERROR, "admin page failed", path=path, exc_info=True)
            return (HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"Internal Server Error: see the log\n"), []

    def _metrics(self, request: h11.Request) -> Answer:
        accept = b",".join(value for name, value in request.headers if name == b"accept").decode("ascii", "ignore")
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        return HTTPStatus.OK, content_type, encode(self._registry)

    def _readyz(self, _: h11.Request) -> Answer:
        reasons = self._readiness()
        if not reasons:
            return HTTPStatus.OK, _TEXT, b"ready\n"
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "".join(f"{reason}\n" for reason in reasons).encode()

    def _slots(self, _: h11.Request) -> Answer:
        slot_map = self._sources.slot_map
        ranges = [
            {"first": first, "last": last, "node": owner and owner.name, "id": owner and owner.id}
            for first, last, owner in slot_map.ranges()
        ]
        view = {
            "version": slot_map.version,
            "covered": slot_map.covered(),
            "migrating": sorted(self._sources.migrating_slots()),
            "ranges": ranges,
        }
        return HTTPStatus.OK, "application/json", json.dumps(view).encode() + b"\n"


def _has_body(request: h11.Request) -> bool:
    """Nothing here takes a body: it stays unread, and the connection ends."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in request.headers
    )


async def _linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Wait for the peer to close, discarding what it still sends: closing first could cost it the answer."""
    await stream.send_eof()
    discarded = 0
    while discarded < _LINGER and (data := await stream.receive_some(_RECEIVE)):
        discarded += len(data)


def _explain(error: OSError) -> str:
    """What went wrong with binding, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror}); give an address of this machine"
    hints = {
        errno.EADDRINUSE: "stop what listens there, or choose another port (or --admin off)",
        errno.EADDRNOTAVAIL: "give an address of this machine; 0.0.0.0 or [::] are all of them",
        errno.EACCES: "choose a port above 1023",
    }
    text = error.strerror or str(error)
    return f"{text}; {hints[error.errno]}" if error.errno in hints else text
