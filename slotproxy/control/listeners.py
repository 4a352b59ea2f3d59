"""Where clients connect: opening the listening sockets and accepting.

Duty: bind what was asked for, accept, and hand each connected socket to the data plane. Out of descriptors
(EMFILE, ENFILE) is no reason to stop: accepting pauses and goes on, those connected are served meanwhile.
"""

import contextlib
import errno
import logging
import math
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any

import trio

from slotproxy.control.addresses import Endpoint, UnixEndpoint
from slotproxy.control.config import ConfigError
from slotproxy.dataplane.plane import Plane
from slotproxy.dataplane.transport import Transport

_log = logging.getLogger("slotproxy.clients")

#: accept(2): errors of the one connection that was to be accepted, not of the listening socket.
_CLIENTS_FAULT = frozenset(
    [
        errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
        errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH,
    ]
)  # fmt: skip
_BACKLOG = 4096  # the kernel caps it at net.core.somaxconn
_BATCH = 64  # connections accepted in one turn: under load a turn comes only every few milliseconds
_COMPLAIN = 10.0  # seconds between two words about it
_PAUSE = 0.1  # seconds without accepting when descriptors are used up


async def listen(endpoint: Endpoint) -> socket.socket:
    """A listening socket. Raises ConfigError, which says what is in the way."""
    try:
        if isinstance(endpoint, UnixEndpoint):
            _remove_stale(endpoint.path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = endpoint.path
        else:
            found = await trio.socket.getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = found[0]
            sock = socket.socket(family, kind, protocol)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return sock
    except OSError as problem:
        raise ConfigError(
            f"--listen {endpoint}: cannot listen there: {problem.strerror or problem};"
            " choose a free address of this machine"
        ) from problem


async def listen_all(endpoints: Sequence[Endpoint]) -> list[socket.socket]:
    """A listening socket for each. Raises ConfigError, and then none of them is left behind."""
    opened: list[socket.socket] = []
    try:
        for endpoint in endpoints:
            opened.append(await listen(endpoint))
    except BaseException:
        for listener in opened:
            _close(listener)
        raise
    return opened


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more; anything else is left alone and makes bind fail."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


async def serve_listeners(listeners: Sequence[socket.socket], plane: Plane, accepting: trio.CancelScope) -> None:
    """Accept on all listeners until `accepting` is cancelled, then close them."""
    with accepting:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(_serve_listener, listener, plane)


async def _serve_listener(listener: socket.socket, plane: Plane) -> None:
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(_close, listener)
        complained = -math.inf
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(_BATCH):
                    _accept_one(listener, plane)
            except BlockingIOError:
                continue
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                if trio.current_time() - complained > _COMPLAIN:
                    complained = trio.current_time()
                    _log.warning("cannot accept: %s; raise the limit of open files", problem.strerror)
                await trio.sleep(_PAUSE)


def _close(listener: socket.socket) -> None:
    if listener.family == socket.AF_UNIX:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(listener.getsockname())
    listener.close()


def _accept_one(listener: socket.socket, plane: Plane) -> None:
    try:
        sock, address = listener.accept()
    except OSError as problem:
        if problem.errno in _CLIENTS_FAULT:
            return
        raise
    sock.setblocking(False)
    unix = listener.family == socket.AF_UNIX
    if not unix:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plane.accept(Transport(sock), f"{listener.getsockname()}:0" if unix else _shown(address))


def _shown(address: tuple[str, int]) -> str:
    """As CLIENT LIST writes it."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
