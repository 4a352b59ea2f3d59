"""kombu without Celery: direct, topic and fanout exchanges, priorities, messages given back, replies by SimpleQueue."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import Any

from tests.applications.client import WITHIN, until
from tests.applications.kombu_shop import DIRECT, NEWS, QUEUES, TOPIC, connect, kombu

PRIORITIES = (9, 3, 0, 6, 0, 9, 6, 3)
REPLIES = "replies"
PROBE = -1

_connection = connect()
_producer: Any = _connection.Producer()


def publish(body: dict[str, Any], exchange: Any, key: str, **options: Any) -> None:
    _producer.publish(body, exchange=exchange, routing_key=key, declare=QUEUES, **options)


def prepare() -> list[int]:
    for place, priority in enumerate(PRIORITIES):
        publish({"name": f"note:{place}", "place": place}, DIRECT, "ordered", priority=priority)
    return list(PRIORITIES)


def perform(number: int) -> list[Any]:
    names = [f"{number}:{place}" for place in range(4)]
    for name in names:
        publish({"name": name, "reply_to": REPLIES}, DIRECT, "fast")
    publish({"name": f"{number}:stubborn", "reply_to": REPLIES, "runs": 3}, DIRECT, "fast")
    # One of them to one queue, one to two.
    publish({"name": f"{number}:letter", "reply_to": REPLIES}, TOPIC, "hello.en")
    publish({"name": f"{number}:letter", "reply_to": REPLIES}, TOPIC, "hello.de")
    if "APPLICATION_SUBSCRIBES" in os.environ:
        broadcast(number)
    with _connection.SimpleQueue(REPLIES) as queue:
        return sorted(reply(queue) for _ in range(8))


def reply(queue: Any) -> Any:
    message = queue.get(timeout=WITHIN)
    message.ack()
    return message.payload


def broadcast(number: int) -> None:
    """To two listeners, each with a queue of its own."""
    heard: list[list[int]] = [[], []]
    listeners = [connect() for _ in heard]
    for place, listener in enumerate(listeners):
        queue = kombu.Queue(f"listener:{place}", NEWS, exclusive=True)
        listener.Consumer([queue], callbacks=[partial(hear, heard[place])], no_ack=True).consume()
    # Nothing says when a subscription is in force but a message.
    until(lambda: all([heard_a_probe(*both) for both in zip(listeners, heard, strict=True)]))
    for place in range(3):
        announce(number + place)
    for listener, bodies in zip(listeners, heard, strict=True):
        while number + 2 not in bodies:
            listener.drain_events(timeout=WITHIN)
        listener.close()
    assert [[body for body in bodies if body != PROBE] for bodies in heard] == [[number, number + 1, number + 2]] * 2


def hear(bodies: list[int], body: int, message: object) -> None:
    bodies.append(body)


def announce(body: int) -> None:
    _producer.publish(body, exchange=NEWS, declare=[NEWS])


def heard_a_probe(listener: Any, bodies: list[int]) -> bool:
    announce(PROBE)
    with suppress(TimeoutError):
        listener.drain_events(timeout=0.1)
    return bool(bodies)


def finish() -> None:
    _connection.close()
