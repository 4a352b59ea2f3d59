"""An RQ application: queues, results, failures, retries, dependencies, unique and scheduled jobs, rate limits.

RQ_QUEUES names its queues, RQ_LIMITS says whether it has rate limits, RQ_COMMANDS whether its worker can stop jobs. RQ
itself reads RQ_KEY_PREFIX.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from redis import Redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError
from rq.rate_limit import RateLimit

from tests.applications.client import WITHIN, until
from tests.applications.counting import append, count, runs

QUEUES = os.environ["RQ_QUEUES"].split()
LIMITS = "RQ_LIMITS" in os.environ
COMMANDS = "RQ_COMMANDS" in os.environ


def plus(value: int, name: str, amount: int) -> int:
    count(name)
    return value + amount


def note(place: int) -> None:
    count(f"note:{place}")
    append("note", place)


def stubborn(name: str) -> int:
    runs = count(name)
    if runs < 3:
        raise RuntimeError(f"run {runs} of {name}")
    return runs


def hopeless(name: str) -> None:
    count(name)
    raise ValueError(name)


def endless(name: str) -> None:
    count(name)
    time.sleep(1000)


_redis: Any = Redis.from_url(os.environ["APPLICATION_URL"])
_queues = [Queue(name, connection=_redis) for name in QUEUES]
_early: list[Any] = []


def result_of(job: Any) -> Any:
    """Waits with XREAD BLOCK."""
    result = job.latest_result(timeout=int(WITHIN))
    assert result is not None, f"{job} has no result"
    assert result.type == result.Type.SUCCESSFUL, result.exc_string
    return result.return_value


def prepare() -> list[str]:
    places = [_queues[-1 - place % len(_queues)].enqueue(note, place).origin for place in range(6)]
    _early.append(_queues[0].enqueue_in(timedelta(seconds=1), plus, 20, "later", 1))
    return places


def perform(number: int) -> list[Any]:
    first, last = _queues[0], _queues[-1]
    jobs = [
        (first, last)[place % 2].enqueue(plus, number, f"{number}:plus:{place}", place) for place in range(4)
    ]
    failing = first.enqueue(hopeless, f"{number}:hopeless")
    retried = last.enqueue(stubborn, f"{number}:stubborn", retry=Retry(max=2))
    dependent = first.enqueue(plus, number, f"{number}:dependent", 1000, depends_on=jobs[:2])
    limited = limited_jobs(number) if LIMITS else []
    sums = [result_of(job) for job in (*jobs, dependent, unique_job(number), *limited)]
    until(lambda: bool(failing.is_failed))
    until(lambda: bool(retried.is_finished))
    if COMMANDS:
        stop_one(number)
    return [sums, last_line(failing), retried.return_value()]


def stop_one(number: int) -> None:
    """The worker is told by PUBLISH."""
    job = _queues[0].enqueue(endless, f"{number}:endless")
    until(lambda: runs(f"{number}:endless") == 1)
    send_stop_job_command(_redis, job.id)
    until(lambda: bool(job.is_stopped))


def unique_job(number: int) -> Any:
    """A second one is refused."""
    options: Any = {"job_id": f"unique-{number}", "unique": True}
    job = _queues[0].enqueue(plus, number, f"{number}:unique", 7, **options)
    try:
        _queues[0].enqueue(plus, number, f"{number}:unique", 7, **options)
    except DuplicateJobError:
        return job
    raise AssertionError("enqueued twice")


def limited_jobs(number: int) -> list[Any]:
    """Of which one is in the queue at a time."""
    limit = RateLimit("one", 1)
    return [
        _queues[0].enqueue(plus, number, f"{number}:limited:{place}", place, rate_limit=limit) for place in range(3)
    ]


def last_line(job: Any) -> str:
    return str(job.latest_result().exc_string.splitlines()[-1])


def finish() -> list[int]:
    return [result_of(job) for job in _early]
