"""cachelib's cache, and limits' three strategies. LIMITS_PREFIX begins the keys of the limits."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from cachelib import RedisCache
from limits import RateLimitItemPerHour, storage, strategies

PREFIX = os.environ["LIMITS_PREFIX"]
MANY = 1_000_000
_address = urlsplit(os.environ["APPLICATION_URL"])
_cache: Any = RedisCache(host=_address.hostname, port=_address.port, key_prefix="cachelib:")
_storage: Any = storage.storage_from_string(os.environ["APPLICATION_URL"], key_prefix=PREFIX)
_limiters = {
    kind.__name__: kind(_storage)
    for kind in (
        strategies.FixedWindowRateLimiter,
        strategies.MovingWindowRateLimiter,
        strategies.SlidingWindowCounterRateLimiter,
    )
}


def prepare() -> dict[str, str]:
    return {name: version(name) for name in ("cachelib", "limits")}


def perform(number: int) -> dict[str, list[int]]:
    cached(number)
    return {name: limited(name, number) for name in _limiters}


def cached(number: int) -> None:
    value = {"round": number, "list": [1, 2.5, None, "text"]}
    assert _cache.set("value", value, timeout=100) and _cache.get("value") == value and _cache.has("value")
    assert not _cache.add("value", 1) and _cache.delete("value") and _cache.add("value", 1)
    assert _cache.inc("counted", 2) == 2 * number + 2 and _cache.dec("uncounted") == -number - 1
    many = {f"many:{place}": [place, number] for place in range(6)}
    assert sorted(_cache.set_many(many, timeout=100)) == sorted(many)
    assert _cache.get_dict(*many, "none") == {**many, "none": None}
    assert sorted(_cache.delete_many(*many)) == sorted(many) and _cache.get_many(*many) == [None] * 6


def limited(name: str, number: int) -> list[int]:
    """How many of seven were let through, and how many of `MANY` have been counted by now."""
    limiter, few, many = _limiters[name], RateLimitItemPerHour(5), RateLimitItemPerHour(MANY)
    passed = sum(limiter.hit(few, name, str(number)) for _ in range(7))
    assert not limiter.test(few, name, str(number)) and limiter.get_window_stats(few, name, str(number)).remaining == 0
    limiter.clear(few, name, str(number))
    assert limiter.test(few, name, str(number))
    for _ in range(4):
        assert limiter.hit(many, name, "all", cost=2)
    return [passed, MANY - limiter.get_window_stats(many, name, "all").remaining]


def finish() -> int:
    """How many keys of the limits there were. Their script looks for them by a pattern, on one node."""
    assert _cache.clear() and _cache.get("counted") is None
    return int(_storage.reset()) if "{" in PREFIX else 0
