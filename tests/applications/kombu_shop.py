"""What the two sides of the kombu application share: its exchanges and queues, and how they connect.

BROKER_PREFIX puts all keys of the broker into one slot when it has a hash tag.
"""

from __future__ import annotations

import os
from typing import Any

import kombu as package

kombu: Any = package  # has types, but not of what it exports
DIRECT = kombu.Exchange("shop", "direct")
TOPIC = kombu.Exchange("letters", "topic")
NEWS = kombu.Exchange("news", "fanout")
QUEUES = [
    kombu.Queue("fast", DIRECT, routing_key="fast"),
    kombu.Queue("ordered", DIRECT, routing_key="ordered"),
    kombu.Queue("german", TOPIC, routing_key="*.de"),
    kombu.Queue("letters", TOPIC, routing_key="#"),
]


def connect() -> Any:
    prefix = os.environ.get("BROKER_PREFIX", "")
    # redis-py 8 gives up a command after five seconds and sends it again.
    options = {"socket_timeout": 60} | ({"global_keyprefix": prefix} if prefix else {})
    return kombu.Connection(os.environ["APPLICATION_URL"].partition("?")[0], transport_options=options)
