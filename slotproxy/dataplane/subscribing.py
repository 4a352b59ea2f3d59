"""Subscribing, as one client sees it.

Duty: SUBSCRIBE and its like, confirmed when the nodes have confirmed and numbered by what this client has; and their
opposites. Where the topics are subscribed is the hub's part.

Invariants: subscribing runs alone for its client, so confirmations have their place among the replies. It is all or
nothing: when a node refuses one of the names, none is subscribed. What is pushed goes out whatever CLIENT REPLY says.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Solitary
from slotproxy.protocol.commands import Command
from slotproxy.protocol.pubsub import CHANNELS, KINDS, PATTERNS, SHARDS, Kind, confirmation

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane
    from slotproxy.dataplane.topics import Topic


class Subscriptions:
    """What one client has subscribed to."""

    def __init__(self) -> None:
        self._topics: Final[list[dict[bytes, Topic]]] = [{} for _ in KINDS]

    def has(self, kind: Kind, name: bytes) -> bool:
        """Whether it has subscribed to that."""
        return name in self._topics[kind.index]

    def names(self, kind: Kind) -> list[bytes]:
        """What it has subscribed to, first come first."""
        return list(self._topics[kind.index])

    def count(self, kind: Kind) -> int:
        """Of one kind."""
        return len(self._topics[kind.index])

    def total(self) -> int:
        """Of all kinds."""
        return sum([len(topics) for topics in self._topics])

    def counted(self, kind: Kind) -> int:
        """What a confirmation says: channels and patterns are counted together, shard channels apart (7.0.15)."""
        return self.count(SHARDS) if kind is SHARDS else self.count(CHANNELS) + self.count(PATTERNS)

    def add(self, topic: "Topic", client: "Client") -> None:
        """The client gets the topic's messages from now on."""
        topics = self._topics[topic.kind.index]
        if topic.name not in topics:
            topics[topic.name] = topic
            topic.subscribers[client] = None

    def remove(self, kind: Kind, name: bytes, client: "Client") -> None:
        """It gets no more of them."""
        topic = self._topics[kind.index].pop(name, None)
        if topic is not None:
            topic.subscribers.pop(client, None)
            topic.hub.forget(topic)

    def clear(self, client: "Client") -> None:
        """It gets none any more."""
        for kind in KINDS:
            for name in self.names(kind):
                self.remove(kind, name, client)


class Subscribe(Solitary):
    """SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE of one client, until the nodes have confirmed every name."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, kind: Kind, arguments: list[bytes]) -> None:
        super().__init__()
        self._client: Final = client
        self._plane: Final = plane
        self._kind: Final = kind
        self._names: Final = arguments[1:]
        self._hub: Final = plane.hubs.of(client.pool.identity)
        self._owner: Final = Request(client, called, 0, b"", plane.reactor.now)
        self._wanted: Final[dict[bytes, Topic]] = {}
        self._missing: dict[Topic, None] = {}  # not confirmed yet
        self._over: bool = False

    def start(self) -> None:
        client = self._client
        client.queue.push(self._owner)
        have = client.subscriptions
        for name in self._names:
            if name not in self._wanted and not (have is not None and have.has(self._kind, name)):
                self._wanted[name] = self._hub.want(self._kind, name, self)
        if not self._look():
            self._plane.reactor.call_at(self._plane.reactor.now + self._plane.router.order.park_timeout, self)

    def confirmed(self, topic: "Topic") -> None:
        """One of the topics is subscribed wherever it has to be."""
        self._missing.pop(topic, None)
        if not self._missing:
            self._look()

    def _look(self) -> bool:
        """Whether all topics are confirmed now: those that were may have been lost again. Then it is over."""
        for topic in self._wanted.values():
            if not topic.is_confirmed():
                self._missing[topic] = None
        if not self._missing:
            self._finish()
        return not self._missing

    def refused(self, reply: bytes) -> None:
        """A node has refused one of the topics."""
        self._fail(reply)

    def fire(self) -> None:
        """They have not been confirmed in time."""
        self._plane.counters.parked_expired += 1
        waiting = list(self._missing)
        why = waiting[0].feeds[0].why if waiting and waiting[0].feeds else "no node is known for it"
        self._fail(errors.not_subscribed(self._kind.subscribe, self._plane.router.order.park_timeout, why))

    def abandon(self) -> None:
        """The client has left."""
        self._over = True
        self.due = 0.0
        for topic in self._wanted.values():
            topic.waiting.pop(self, None)
            self._hub.forget(topic)

    def _fail(self, reply: bytes) -> None:
        if not self._over:
            self.abandon()
            self._plane.router.finish(self._owner, reply)

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self.due = 0.0
        client = self._client
        have = client.subscriptions
        if have is None:
            have = client.subscriptions = Subscriptions()
        frames: list[bytes] = []
        for name in self._names:
            topic = self._wanted.get(name)
            if topic is not None:
                topic.waiting.pop(self, None)
                have.add(topic, client)
            frames.append(confirmation(client.protocol, self._kind.subscribe, name, have.counted(self._kind)))
        client.confine()
        confirm(client, b"".join(frames), self._owner)


def unsubscribe(client: "Client", kind: Kind, arguments: list[bytes]) -> None:
    """UNSUBSCRIBE, PUNSUBSCRIBE or SUNSUBSCRIBE: from the names, or from all there are."""
    have = client.subscriptions or Subscriptions()
    frames: list[bytes] = []
    for name in arguments[1:] or have.names(kind):
        have.remove(kind, name, client)
        frames.append(confirmation(client.protocol, kind.unsubscribe, name, have.counted(kind)))
    if not frames:
        frames.append(confirmation(client.protocol, kind.unsubscribe, None, have.counted(kind)))
    client.confine()
    confirm(client, b"".join(frames), client.expect_answer())


def confirm(client: "Client", frames: bytes, request: Request) -> None:
    """Confirmations in the place of a reply; they are pushed, so CLIENT REPLY does not hold them back."""
    if client.silent:
        client.push(frames)
    client.deliver(request, frames)
