"""How the tasks of all applications leave a trace: a counter per task, and lists of what came in which order.

Runs inside the applications' processes. The keys have no common tag: they spread over the whole cluster.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from redis import Redis


@functools.cache
def _redis() -> Any:
    return Redis.from_url(os.environ["APPLICATION_URL"])


def count(name: str) -> int:
    """One more run of this task; how many it has had, this one included."""
    return int(_redis().incr(f"ran:{name}"))


def runs(name: str) -> int:
    """How many runs it has had."""
    return int(_redis().get(f"ran:{name}") or 0)


def append(name: str, value: str | int) -> None:
    """Write down that this came next."""
    _redis().rpush(f"order:{name}", value)
