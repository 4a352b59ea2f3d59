"""A feed: one connection to a node on which the proxy subscribes for all its clients of one identity.

Duty: tell the node what is wanted, keep account of what it has confirmed, and hand on what it pushes. Which node a
topic is wanted at, and whose the messages are, is the hub's part.

Invariants: each command names one topic and has a PING behind it, so an error belongs to the command at the head, and a
push that nobody has asked for (a slot has moved away) is never taken for an answer. What a node has not confirmed since
it was last told to subscribe is not subscribed there. Shard channels have WAIT in the place of PING, and are confirmed
with its answer: a node that has just become a replica would take them, too, and tell what its primary tells as well.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
from slotproxy.dataplane.reactor import Reactor
from slotproxy.protocol.pubsub import KINDS, SHARDS, SUBSCRIBING, UNSUBSCRIBING, Push, read_push
from slotproxy.protocol.replies import ReplyScanner
from slotproxy.protocol.resp import command

if TYPE_CHECKING:
    from slotproxy.dataplane.hub import Hub
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.topics import Topic

_PING: Final = command([b"PING"])
#: Answered with an error by a replica, which also takes shard channels of its primary's slots (7.0.15).
_AT_PRIMARY: Final = command([b"WAIT", b"0", b"0"])
_IS_REPLICA: Final = b"-ERR WAIT cannot be used with replica"
_WRONG_PLACE: Final = b"-READONLY it is a replica\r\n"


class Told:
    """One command: to subscribe to a topic, or to do so no longer. `confirmed` only of the former."""

    def __init__(self, topic: "Topic", subscribes: bool) -> None:
        self.topic: Final = topic
        self.subscribes: Final = subscribes
        self.answered: bool = False
        self.confirmed: bool = False


class Feed(NodeStream):
    """The subscriptions at one node. `topics`: what is subscribed there, or is about to be."""

    def __init__(self, hub: "Hub", reactor: Reactor, counters: Counters, node: "Node", key: StreamKey) -> None:
        super().__init__(reactor, counters, node, key)
        self.topics: Final[dict[Topic, Told]] = {}
        self.failed: bool = False  # connecting it has failed, and it is not connected
        self.idle_since: float = reactor.now  # when it had no topic any more
        self._address: tuple[str, int] = ("", 0)  # to which it is connected
        self._hub: Final = hub
        self._told: deque[Told] = deque()  # and not answered to the end

    def subscribe(self, topic: "Topic") -> None:
        """Have a topic subscribed here, now or as soon as there is a connection."""
        told = self.topics[topic] = Told(topic, True)
        if self.ready:
            self._tell(told)

    def unsubscribe(self, topic: "Topic") -> None:
        """A topic is not wanted here any more."""
        if self.topics.pop(topic, None) is not None and self.ready:
            self._tell(Told(topic, False))
        self.idle_since = self.reactor.now

    def has_confirmed(self, topic: "Topic") -> bool:
        """Whether the node has confirmed that a topic is subscribed."""
        told = self.topics.get(topic)
        return told is not None and told.confirmed

    def _tell(self, told: Told) -> None:
        topic = told.topic
        self._told.append(told)
        behind = _AT_PRIMARY if told.subscribes and topic.kind is SHARDS else _PING
        data = command([topic.kind.subscribe if told.subscribes else topic.kind.unsubscribe, topic.name]) + behind
        self.out.append(data)
        self.out_size += len(data)
        if not self.touched:
            self.touched = True
            self.reactor.nodes_touched.append(self)

    def take_replies(self, scanner: ReplyScanner) -> None:
        while scanner.scan():
            frame = scanner.buffer[scanner.start : scanner.end]
            if scanner.kind != 0x3E:
                self._answered(frame)
                if self.transport is None:
                    return
                continue
            push = read_push(frame)
            if not push.names:
                continue  # something that no client of ours has asked for
            if push.word == b"message" or push.word == b"pmessage" or push.word == b"smessage":
                self._hub.message(self, push, frame)
            else:
                self._changed(push)

    def _answered(self, frame: bytes) -> None:
        """An error, or the PONG behind a command that has been confirmed."""
        if not self._told:
            return  # of a command that a push had confirmed that nobody had asked for
        told = self._told[0]
        if told.answered:
            self._told.popleft()
            if told.subscribes and told.topic.kind is SHARDS and self.topics.get(told.topic) is told:
                if frame.startswith(_IS_REPLICA):
                    self.unsubscribe(told.topic)
                    self._hub.refused(self, told.topic, _WRONG_PLACE)
                else:
                    self._confirm(told)
        elif frame[0] == 0x2D:
            told.answered = True
            if told.subscribes and self.topics.get(told.topic) is told:
                del self.topics[told.topic]
                self._hub.refused(self, told.topic, frame)

    def _confirm(self, told: Told) -> None:
        told.confirmed = True
        self._hub.confirmed(told.topic)

    def _changed(self, push: Push) -> None:
        """A topic has been subscribed here, or is not any more; asked or not."""
        word = push.word.decode("ascii", "replace")
        told = self._told[0] if self._told else None
        kind = SUBSCRIBING.get(word) or UNSUBSCRIBING.get(word)
        if kind is None:
            return
        subscribes = word in SUBSCRIBING
        if told is not None and not told.answered and told.subscribes == subscribes:
            topic = told.topic
            if topic.kind is kind and topic.name == push.names[0]:
                told.answered = True
                if subscribes and kind is not SHARDS and self.topics.get(topic) is told:
                    self._confirm(told)
                return
        gone = self._hub.find(kind, push.names[0])
        ended = None if subscribes or gone is None else self.topics.get(gone)
        if gone is not None and ended is not None and ended.answered:
            del self.topics[gone]
            if ended.confirmed:
                self._hub.taken_away(self, gone)
            else:
                self._hub.refused(self, gone, _WRONG_PLACE)

    def is_elsewhere(self) -> bool:
        """Whether it is connected to an address that its node had before: nothing may come from there any more."""
        return self.ready and self._address != (self.node.info.host, self.node.info.port)

    def on_attached(self) -> None:
        self.failed = False
        self._address = (self.node.info.host, self.node.info.port)
        self._told.clear()
        for kind in KINDS:
            for topic in [topic for topic in self.topics if topic.kind is kind]:
                self.subscribe(topic)

    def on_unreachable(self, why: str) -> None:
        self.why = why
        self.failed = True
        self._hub.unreachable(self)

    def on_lost(self, why: str) -> None:
        had = [topic for topic, told in self.topics.items() if told.confirmed]
        self.close(why)
        self._told.clear()
        for topic in self.topics:
            self.topics[topic] = Told(topic, True)
        self._hub.lost(self, had)

    def retire(self, why: str) -> None:
        """Nothing is to be subscribed here any more."""
        self.retired = True
        self.topics.clear()
        self.close(why)
