"""A Django site's caches and sessions: Django's own backend for Redis, and django-redis.

CACHE_PREFIX begins the keys of both. What spreads over keys that may be on their way (SCAN, FLUSHDB) waits for the end.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import django
from django.conf import settings
from django.core.cache import caches
from django.http import HttpRequest, JsonResponse
from django.test import Client
from django.urls import path

THREADS, VISITS = 4, 5
BACKENDS = {
    "django": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
}
settings.configure(
    SECRET_KEY="any",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={
        name: {
            "BACKEND": backend,
            "LOCATION": os.environ["APPLICATION_URL"],
            "KEY_PREFIX": f"{os.environ.get('CACHE_PREFIX', '')}{name}",
        }
        for name, backend in {**BACKENDS, "default": BACKENDS["django"]}.items()
    },
)
django.setup()


def visit(request: HttpRequest) -> JsonResponse:
    session: Any = request.session
    session["visits"] = session.get("visits", 0) + 1
    session.cycle_key()
    return JsonResponse({"visits": session["visits"]})


def leave(request: HttpRequest) -> JsonResponse:
    session: Any = request.session
    session.flush()
    return JsonResponse({"visits": session.get("visits", 0)})


urlpatterns = [path("visit/", visit), path("leave/", leave)]
_visitors = {name: Client() for name in BACKENDS}


def prepare() -> dict[str, str]:
    return {name: version(name) for name in BACKENDS}


def perform(number: int) -> dict[str, Any]:
    return {name: [one_cache(name, number), sessions(name)] for name in BACKENDS}


def one_cache(name: str, number: int) -> int:
    """How often the page was counted so far."""
    cache: Any = caches[name]
    value = {"round": number, "list": [1, 2.5, None, "text"]}
    cache.set("value", value, timeout=100)
    assert cache.get("value") == value and cache.has_key("value") and cache.touch("value", 200)
    assert cache.add("value", "other") is False and cache.get("none", "default") == "default"
    assert cache.incr_version("value") == 2 and cache.get("value") is None and cache.get("value", version=2) == value
    assert cache.get_or_set(f"made:{number}", lambda: number) == number and cache.delete(f"made:{number}")
    many = {f"many:{place}": [place, number] for place in range(6)}
    assert cache.set_many(many, timeout=100) in ([], None)  # django-redis has no result
    assert cache.get_many([*many, "none"]) == many
    cache.delete_many(many)
    assert cache.get_many(many) == {}
    cache.add("visits", 0, timeout=None)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: cache.incr("visits"), range(THREADS * VISITS)))
    if name == "django-redis":
        locked(cache)
    return int(cache.get("visits"))


def locked(cache: Any) -> None:
    with cache.lock("lock", timeout=30):
        assert cache.lock("lock").acquire(blocking=False) is False
        assert 0 < cache.ttl("lock") <= 30
    cache.set("kept", 1, timeout=50)
    assert cache.persist("kept") and cache.ttl("kept") is None and cache.expire("kept", 50)


def sessions(name: str) -> list[int]:
    """What one visitor is told of its visits, and another that leaves."""
    settings.SESSION_CACHE_ALIAS = name
    other = Client()
    asked = [(_visitors[name], "visit"), (other, "visit"), (other, "leave"), (other, "visit"), (other, "leave")]
    return [visitor.get(f"/{page}/").json()["visits"] for visitor, page in asked]


def finish() -> list[str]:
    """The keys as they are called in the cache."""
    cache: Any = caches["django-redis"]
    cache.set_many({f"temporary:{place}": place for place in range(20)})
    assert sorted(cache.iter_keys("temporary:*")) == sorted(f"temporary:{place}" for place in range(20))
    assert cache.delete_pattern("temporary:*") == 20
    names = sorted(key for key in cache.keys("*") if "session" not in key)
    assert caches["django"].clear() and caches["django"].get("visits") is None
    for one in caches.all():
        one.close()
    return names
