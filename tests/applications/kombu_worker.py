"""Consumes what kombu_app publishes, one message at a time, until SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from tests.applications.counting import append, count
from tests.applications.kombu_shop import QUEUES, connect

_stopped: list[int] = []


def stop(number: int, frame: FrameType | None) -> None:
    _stopped.append(number)


def handle(body: Any, message: Any) -> None:
    queue = message.delivery_info["routing_key"]
    runs = count(f"{body['name']}:{queue}" if "letter" in body["name"] else body["name"])
    if queue == "ordered":
        append("note", body["place"])
    if runs < body.get("runs", 1):
        message.requeue()
        return
    if "reply_to" in body:
        with message.channel.connection.client.SimpleQueue(body["reply_to"]) as replies:
            replies.put([body["name"], runs])
    message.ack()


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    with connect() as connection, connection.Consumer(QUEUES, callbacks=[handle], prefetch_count=1):
        while not _stopped:
            try:
                connection.drain_events(timeout=0.5)
            except TimeoutError:
                continue


if __name__ == "__main__":
    main()
