"""The hub: what the clients of one identity have subscribed to, at which nodes, and who gets which message.

Duty: for each topic (a channel, a pattern or a shard channel that somebody wants) choose the nodes, have their feeds
subscribe, hand each message to the topic's subscribers, and subscribe again when a node is lost or a slot has moved.

    channels, patterns                  at one node, the home: the cluster carries what is published to every node.
                                        One for all topics, so messages of a publisher arrive in the order of one server
    what means `__keyspace@…` and so    at every primary, for each tells of its own keys only; from others than the home
                                        only such messages are taken
    shard channels                      at the owner of their slot. Where the slot has moved away the former owner's
                                        subscription is left to end by itself: no message is published at both. Not
                                        where that is a replica by now: it is sent all that its primary publishes

Invariants: a client gets messages of a topic from its confirmation on, which comes when the node has confirmed, and
none behind its unsubscription. Whenever a topic that clients had was not subscribed for a while, each of them counts as
a gap: something may have been published meanwhile. A message is copied once for each protocol, not for each client.
"""

import random
from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.feeds import Feed
from slotproxy.dataplane.lanes import LEFT, READDRESSED
from slotproxy.dataplane.nodestreams import Identity, StreamKey
from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.topics import Topic
from slotproxy.protocol.pubsub import (
    CHANNELS,
    KINDS,
    PATTERNS,
    SHARDS,
    Kind,
    Push,
    as_array,
    is_node_local,
    matches,
)
from slotproxy.protocol.redirects import Refusal, parse_redirect, refusal_of

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.plane import Plane
    from slotproxy.dataplane.subscribing import Subscribe

_AGAIN: Final = 0.1  # seconds after which a node that refused is asked again
_IDLE: Final = 10.0  # seconds after which a connection without subscriptions is closed


class Hub(Timer):
    """All subscriptions of one identity's clients."""

    def __init__(self, plane: "Plane", identity: Identity) -> None:
        super().__init__()
        self._plane: Final = plane
        self._key: Final = StreamKey(3, identity)
        self._topics: Final[list[dict[bytes, Topic]]] = [{} for _ in KINDS]
        self._by_slot: Final[dict[int, dict[Topic, None]]] = {}
        self._feeds: Final[dict[str, Feed]] = {}  # by node id
        self._home: Feed | None = None
        self._postponed: dict[Topic, None] = {}  # refused, and to be tried again

    # What clients want

    def want(self, kind: Kind, name: bytes, subscribe: "Subscribe") -> Topic:
        """The topic of that name, for somebody who waits until it is confirmed."""
        topics = self._topics[kind.index]
        topic = topics.get(name)
        if topic is None:
            topic = topics[name] = Topic(self, kind, name)
            if kind is SHARDS:
                self._by_slot.setdefault(topic.slot, {})[topic] = None
            self._place(topic)
        topic.waiting[subscribe] = None
        return topic

    def forget(self, topic: Topic) -> None:
        """Somebody does not want the topic any more; if nobody does, it is unsubscribed."""
        if topic.subscribers or topic.waiting or self.find(topic.kind, topic.name) is not topic:
            return
        del self._topics[topic.kind.index][topic.name]
        self._postponed.pop(topic, None)
        if topic.slot >= 0:
            there = self._by_slot[topic.slot]
            del there[topic]
            if not there:
                del self._by_slot[topic.slot]
        for feed in topic.feeds:
            feed.unsubscribe(topic)
        topic.feeds = []
        self._look_soon(_IDLE)

    def find(self, kind: Kind, name: bytes) -> Topic | None:
        """The topic of that name, if anybody wants it."""
        return self._topics[kind.index].get(name)

    # Where

    def _place(self, topic: Topic) -> None:
        """Subscribe where the topic belongs now, and no longer elsewhere."""
        wanted: list[Feed] = []
        if topic.kind is SHARDS:
            owner = topic.named
            if owner is None or owner.left:
                owner = self._plane.router.territory.owner(topic.slot)
            if owner is not None:
                wanted.append(self._feed_to(owner))
        else:
            home = None if topic.everywhere and topic.kind is CHANNELS else self._find_home()
            if home is not None:
                wanted.append(home)
            if topic.everywhere:
                for node in self._primaries():
                    feed = self._feed_to(node)
                    if feed is not home:
                        wanted.append(feed)
        before = topic.feeds
        if topic.kind is SHARDS:
            wanted += [feed for feed in before if feed not in wanted and topic.may_end_at(feed)]
        topic.feeds = wanted
        for feed in before:
            if feed not in wanted:
                feed.unsubscribe(topic)
        for feed in wanted:
            if topic not in feed.topics:
                feed.subscribe(topic)
        if not wanted:
            self._postpone(topic)

    def _find_home(self) -> Feed | None:
        home = self._home
        if home is not None and not home.node.left and not home.node.info.failing and not home.failed:
            return home
        nodes = [node for node in self._primaries() if not node.info.failing]
        reachable = [node for node in nodes if not node.unreachable and not self._has_failed(node)]
        if not reachable and ((home is not None and not home.node.left) or not nodes):
            return home
        self._home = self._feed_to(random.choice(reachable or nodes))
        return self._home

    def _has_failed(self, node: "Node") -> bool:
        feed = self._feeds.get(node.info.id)
        return feed is not None and feed.failed

    def _primaries(self) -> list["Node"]:
        nodes = self._plane.router.territory.nodes
        infos = self._plane.router.slot_map.nodes
        return [nodes[id] for id, info in sorted(infos.items()) if info.primary and id in nodes]

    def _feed_to(self, node: "Node") -> Feed:
        feed = self._feeds.get(node.info.id)
        if feed is None or feed.node is not node:
            if feed is not None:
                feed.retire("the node has left")
            feed = Feed(self, self._plane.reactor, self._plane.counters, node, self._key)
            self._feeds[node.info.id] = feed
            feed.dialling = True
            self._plane.control.dial_nowait(feed)
        return feed

    def follow(self) -> None:
        """The cluster has other nodes, or other primaries: topics move where they belong now."""
        if not self._feeds and not self._postponed:
            return
        for feed in list(self._feeds.values()):
            if feed.node.left:
                self._drop(feed, LEFT)
            elif feed.is_elsewhere():
                feed.on_lost(READDRESSED)
        for topics in self._topics:
            for topic in topics.values():
                self._move(topic)

    def moved(self, slots: set[int]) -> None:
        """These slots may have another owner: shard channels move there."""
        if self._by_slot:
            for slot in slots:
                for topic in list(self._by_slot.get(slot, ())):
                    topic.named = None
                    self._move(topic)

    def _move(self, topic: Topic) -> None:
        """Place a topic anew. Where that adds a node, what was published there before is missing."""
        before = topic.feeds
        self._place(topic)
        if any([feed not in before and not feed.has_confirmed(topic) for feed in topic.feeds]):
            self._note_gap(topic)
        self._tell_waiting(topic)  # what was missing may have been a node that is not asked any more

    def _drop(self, feed: Feed, why: str) -> None:
        """No more of this feed: its topics are elsewhere, or will be."""
        if self._home is feed:
            self._home = None
        for topic in list(feed.topics):
            topic.feeds = [one for one in topic.feeds if one is not feed]
        if self._feeds.get(feed.node.info.id) is feed:
            del self._feeds[feed.node.info.id]
        feed.retire(why)

    # What feeds tell

    def message(self, feed: Feed, push: Push, frame: bytes) -> None:
        """A message: to all who have subscribed to its topic."""
        kind = PATTERNS if push.word == b"pmessage" else SHARDS if push.word == b"smessage" else CHANNELS
        topic = self._topics[kind.index].get(push.names[0])
        if topic is None or feed not in topic.feeds or (kind is SHARDS and not feed.has_confirmed(topic)):
            return
        if topic.everywhere:
            # What clients publish comes from every node, what nodes tell of their own keys from the primaries.
            local = is_node_local(push.names[len(push.names) - 1])
            if not (feed.node.info.primary if local else feed is self._home):
                return
        self._plane.counters.messages += len(topic.subscribers)
        array = b""
        for client in list(topic.subscribers):  # one that does not take its messages is closed
            if client.protocol == 3:
                client.push(frame)
            else:
                array = array or as_array(frame)
                client.push(array)

    def confirmed(self, topic: Topic) -> None:
        """A node has confirmed a topic: who waits for it may have waited long enough."""
        topic.tried = []
        self._tell_waiting(topic)

    def _tell_waiting(self, topic: Topic) -> None:
        if topic.is_confirmed():
            topic.whole = True
            for subscribe in list(topic.waiting):
                subscribe.confirmed(topic)

    def refused(self, feed: Feed, topic: Topic, reply: bytes) -> None:
        """A node did not subscribe to a topic."""
        topic.feeds = [one for one in topic.feeds if one is not feed]
        refusal = refusal_of(reply)
        if refusal is None:
            waiting = list(topic.waiting)
            topic.waiting.clear()
            for subscribe in waiting:
                subscribe.refused(reply)
            for client in list(topic.subscribers):  # its user lost the right: a server closes the connection, too
                client.close()
            self.forget(topic)
            return
        topic.tried.append(feed.node)
        redirect = parse_redirect(reply) if refusal == Refusal.MOVED else None
        target: Node | None = None
        if redirect is not None and redirect.slot == topic.slot:
            host = feed.node.info.host if redirect.host == "" else redirect.host
            target = self._plane.router.territory.find(host, redirect.port)
        self._plane.control.refresh_nowait("SSUBSCRIBE was refused")
        if target is None or target in topic.tried:
            self._postpone(topic)
            return
        topic.named = target
        self._place(topic)

    def taken_away(self, feed: Feed, topic: Topic) -> None:
        """A node has ended a shard channel's subscription by itself: it does not own the slot any more."""
        topic.ended_by = feed.node
        belongs = topic.feeds[0] if topic.feeds else None
        topic.feeds = [one for one in topic.feeds if one is not feed]
        if feed is belongs:  # whoever is asked says where the slot is
            self._note_gap(topic)
            self._place(topic)

    def lost(self, feed: Feed, had: list[Topic]) -> None:
        """A connection has ended, on which these topics had been confirmed. They go elsewhere, or come again."""
        for topic in had:
            self._note_gap(topic)
        if feed.node.left or not feed.topics:
            self._drop(feed, feed.why)
        else:
            feed.failed = True  # until it is connected again: the home is elsewhere meanwhile
            feed.dialling = True
            self._plane.control.dial_nowait(feed)
        self._elsewhere(feed)

    def unreachable(self, feed: Feed) -> None:
        """A node cannot be connected to at the moment."""
        self._elsewhere(feed)

    def _elsewhere(self, feed: Feed) -> None:
        """Topics that need not be at this node go to others; those that are nowhere else are waited for here."""
        for topic in list(feed.topics):
            topic.named = None  # what a MOVED said of a node that is lost is worth nothing
            self._place(topic)
            self._tell_waiting(topic)
        self._look_soon(_IDLE)

    def _note_gap(self, topic: Topic) -> None:
        """Something may be missing from now on, until the topic is whole again."""
        if not topic.whole:
            return
        topic.whole = False
        self._plane.counters.subscription_gaps += len(topic.subscribers)

    # Later

    def _postpone(self, topic: Topic) -> None:
        topic.tried = []
        topic.named = None
        self._postponed[topic] = None
        self._look_soon(_AGAIN)

    def _look_soon(self, seconds: float) -> None:
        when = self._plane.reactor.now + seconds
        if self.due == 0.0 or self.due > when:
            self._plane.reactor.call_at(when, self)

    def fire(self) -> None:
        """Try again what was refused; close connections without subscriptions."""
        now = self._plane.reactor.now
        postponed = self._postponed
        self._postponed = {}
        for topic in postponed:
            self._place(topic)
            self._tell_waiting(topic)
        idle = False
        for feed in list(self._feeds.values()):
            if not feed.topics:
                if now - feed.idle_since >= _IDLE:
                    self._drop(feed, "idle")
                else:
                    idle = True
        if idle:
            self._look_soon(_IDLE)

    def close(self, why: str) -> None:
        """Close all connections."""
        for feed in list(self._feeds.values()):
            self._drop(feed, why)

    # Counts

    def connections(self) -> int:
        """How many feeds are connected."""
        return sum([1 for feed in self._feeds.values() if feed.ready])

    def receivers(self, kind: Kind, channel: bytes) -> int:
        """How many clients get a message that is published there; a client counts once for each of its topics."""
        return sum([len(topic.subscribers) for topic in self._concerned(kind, channel) if topic.whole])

    def counted_at(self, node: "Node", kind: Kind, channel: bytes) -> int:
        """As how many receivers a node counts the hub."""
        feed = self._feeds.get(node.info.id)
        if feed is None:
            return 0
        return sum([1 for topic in self._concerned(kind, channel) if feed.has_confirmed(topic)])

    def counted(self, kind: Kind, name: bytes) -> int:
        """At how many primaries the hub is subscribed to a topic."""
        topic = self.find(kind, name)
        feeds = [feed for feed in self._feeds.values() if feed.node.info.primary]
        return 0 if topic is None else sum([1 for feed in feeds if feed.has_confirmed(topic)])

    def subscribers(self) -> "list[Client]":
        """All clients that have subscribed to anything here."""
        found: dict[Client, None] = {}
        for topics in self._topics:
            for topic in topics.values():
                found.update(topic.subscribers)
        return list(found)

    def subscribed(self, kind: Kind) -> list[Topic]:
        """All topics of this kind that clients have."""
        return [topic for topic in self._topics[kind.index].values() if topic.subscribers]

    def _concerned(self, kind: Kind, channel: bytes) -> list[Topic]:
        found = self.find(kind, channel)
        topics = [] if found is None else [found]
        if kind is CHANNELS:
            topics += [topic for name, topic in self._topics[PATTERNS.index].items() if matches(name, channel)]
        return topics
