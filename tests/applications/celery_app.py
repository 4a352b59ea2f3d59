"""A Celery application: three queues with priorities, results, retries, a chain, a chord and a countdown.

What it takes to run behind the proxy stands in `configuration`; the tasks and their use are any application's.
`BROKER_PREFIX` puts all keys of the broker into one slot when it has a hash tag.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain, chord, signals

from tests.applications.client import WITHIN, until
from tests.applications.counting import append, count, runs

PREFIX = os.environ.get("BROKER_PREFIX", "")
PRIORITIES = (9, 3, 0, 6, 0, 9, 6, 3)

# Binds the queues of its replies by scripts over two keys, which have to lie in one slot.
REMOTE_CONTROL = bool(PREFIX)

configuration = {
    "worker_enable_remote_control": REMOTE_CONTROL,
    # A chord's script has six keys.
    "result_backend_transport_options": {"global_keyprefix": "{celery}"},
    # redis-py 8 gives up a command after five seconds and sends it again; the result backend has two minutes.
    "broker_transport_options": {"socket_timeout": 60} | ({"global_keyprefix": PREFIX} if PREFIX else {}),
}
URL = os.environ["APPLICATION_URL"].partition("?")[0]  # kombu takes no options in it

app = Celery("shop", broker=URL, backend=URL)
app.conf.update(
    task_default_queue="fast",
    # One message is taken at a time, so the order of the pops is the order of the priorities.
    worker_prefetch_multiplier=1,
    **configuration,
)


@app.task
def plus(value: int, name: str, amount: int) -> int:
    count(name)
    return value + amount


@app.task(queue="slow")
def total(parts: list[int], name: str) -> int:
    count(name)
    return sum(parts)


@app.task(bind=True, max_retries=3)
def stubborn(self: Any, name: str) -> None:
    if count(name) < 3:
        raise self.retry(countdown=0)


@app.task(queue="ordered")
def note(place: int) -> int:
    count(f"note:{place}")
    return place


@signals.task_received.connect
def received(request: Any, **_: object) -> None:
    # In the worker's main process, so in the order in which the messages were popped.
    if request.name == note.name:
        append("note", request.args[0])


def result_of(result: Any) -> Any:
    """Waits with SUBSCRIBE."""
    return result.get(timeout=WITHIN)


_early: list[Any] = []


def prepare() -> list[int]:
    _early.extend(note.apply_async((place,), priority=priority) for place, priority in enumerate(PRIORITIES))
    _early.append(plus.apply_async((20, "later", 1), countdown=1))
    return list(PRIORITIES)


def perform(number: int) -> list[Any]:
    sums = [
        plus.apply_async((number, f"{number}:plus:{place}", place), priority=3 * place, queue=queue)
        for place, queue in enumerate(("fast", "slow", "fast", "slow"))
    ]
    retried = f"{number}:stubborn"
    stubborn.delay(retried)
    chained = chain(plus.s(number, f"{number}:chain:0", 10), plus.s(f"{number}:chain:1", 100))()
    header = [plus.s(number, f"{number}:header:{place}", place) for place in range(5)]
    joined = chord(header)(total.s(f"{number}:total"))
    # Not its result: that can be overwritten, for Celery publishes a retry before it stores that there will be one.
    until(lambda: runs(retried) == 3)
    if REMOTE_CONTROL:
        until(lambda: bool(app.control.ping(timeout=1, limit=1)))
    return [[result_of(result) for result in sums], result_of(chained), result_of(joined)]


def finish() -> list[int]:
    results = [result_of(result) for result in _early]
    # Their last wish is to unsubscribe, which needs an interpreter that is not ending yet.
    _early.clear()
    return results
