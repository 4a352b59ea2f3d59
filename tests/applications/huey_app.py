"""A Huey application: priorities, results, retries, a pipeline, a chord, a delayed and a periodic task, and a lock.

HUEY_CLASS says which of Huey's queues it uses; with HUEY_NOTIFY results are waited for with BLPOP, not polled for.
"""

from __future__ import annotations

import os
from typing import Any

import huey as package
from huey import chord, crontab

from tests.applications.client import WITHIN
from tests.applications.counting import append, count

PRIORITIES = (1, 3, 0, 2, 0, 1, 2, 3)
NOTIFY = bool(os.environ.get("HUEY_NOTIFY"))

huey: Any = getattr(package, os.environ["HUEY_CLASS"])(
    "shop", url=os.environ["APPLICATION_URL"], notify_result=NOTIFY, store_intermediate_errors=False
)
ordered: bool = huey.storage.priority


@huey.task()
def plus(name: str, amount: int, value: int) -> int:
    count(name)
    return value + amount


@huey.task()
def total(name: str, parts: list[int]) -> int:
    count(name)
    return sum(parts)


@huey.task(retries=3)
def stubborn(name: str) -> int:
    runs = count(name)
    if runs < 3:
        raise RuntimeError(f"run {runs} of {name}")
    return runs


@huey.task()
def note(place: int) -> int:
    count(f"note:{place}")
    append("note", place)
    return place


@huey.periodic_task(crontab())
def tick() -> None:
    count("tick")


_early: list[Any] = []


def result_of(result: Any) -> Any:
    return result.get(blocking=True, timeout=WITHIN)


def prepare() -> list[int]:
    for place, priority in enumerate(PRIORITIES):
        _early.append(note(place, priority=priority) if ordered else note(place))
    _early.append(plus.schedule(("later", 1, 20), delay=1))
    return list(PRIORITIES) if ordered else []


def perform(number: int) -> list[Any]:
    sums = [plus(f"{number}:plus:{place}", place, number) for place in range(4)]
    retried = stubborn(f"{number}:stubborn")
    piped = huey.enqueue(plus.s(f"{number}:pipe:0", 10, number).then(plus, f"{number}:pipe:1", 100))
    header = [plus.s(f"{number}:header:{place}", place, number) for place in range(5)]
    joined = huey.enqueue(chord(header, total.s(f"{number}:total")))
    with huey.lock_task("round"):
        return [
            [result_of(result) for result in sums],
            result_of(retried),
            [result_of(result) for result in piped],
            [result_of(result) for result in joined.results],
            result_of(joined),
        ]


def finish() -> list[int]:
    return [result_of(result) for result in _early]
