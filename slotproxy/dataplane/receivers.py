"""How many subscribers there are: the counts in PUBLISH's, SPUBLISH's and PUBSUB's replies.

Duty: a node counts a hub's connection as one subscriber, whoever stands behind it; put this proxy's clients in its
place. So with one proxy the counts are those of one server. What stands behind other proxies is not known: each of them
is one subscriber, and at PUBLISH only those at the node that was asked are counted.
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.requests import Request, Split
from slotproxy.protocol.commands import Command
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.pubsub import CHANNELS, PATTERNS, SHARDS, Kind, matches
from slotproxy.protocol.replies import aggregate, elements_of
from slotproxy.protocol.resp import bulk, integer
from slotproxy.protocol.splitting import Merging

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.hub import Hub
    from slotproxy.dataplane.plane import Plane


class Receivers(Merging):
    """PUBLISH and SPUBLISH: how many have got the message, as far as anybody here knows."""

    def __init__(self, plane: "Plane", kind: Kind, channel: bytes, slot: i64) -> None:
        super().__init__()
        self._plane: Final = plane
        self._kind: Final = kind
        self._channel: Final = channel
        self._slot: Final[i64] = slot

    def merge(self, replies: list[bytes]) -> bytes:
        """The node's count, with this proxy's clients in the place of its connections."""
        reply = replies[0]
        digits = reply[1:-2]
        if reply[0] != 0x3A or not digits.isdigit() or len(digits) > 18:
            return reply
        plane = self._plane
        count = int(digits)
        node = plane.router.territory.owner(self._slot)
        hubs = plane.hubs.all()
        if node is not None:
            count -= sum([hub.counted_at(node, self._kind, self._channel) for hub in hubs])
        own = sum([hub.receivers(self._kind, self._channel) for hub in hubs])
        return integer(max(count, 0) + own)


def publish(client: "Client", plane: "Plane", called: Command, kind: Kind, slot: i64, raw: bytes, to: bytes) -> None:
    """Send PUBLISH or SPUBLISH; where nobody here has subscribed to anything, as any other command."""
    if not plane.hubs.all():
        client.forward(called, int(slot), raw, False)
        return
    client.count(called)
    owner = Request(client, called, slot, raw, plane.reactor.now)
    client.queue.push(owner)
    split = Split(owner, Receivers(plane, kind, to, slot), 1)
    plane.router.submit(Request(client, called, slot, raw, plane.reactor.now, False, split, 0))


class PubsubMerging(Merging):
    """Of the nodes' replies to PUBSUB: what `merging` makes of them, with this proxy's clients in the place of its
    connections."""

    def __init__(self, plane: "Plane", name: str, arguments: list[bytes], merging: Merging) -> None:
        super().__init__()
        self._plane: Final = plane
        self._name: Final = name
        self._arguments: Final = arguments
        self._merging: Final = merging

    def merge(self, replies: list[bytes]) -> bytes:
        """As one server that has all the clients."""
        reply = self._merging.merge(replies)
        hubs = self._plane.hubs.all()
        if reply[0] == 0x2D or not hubs:
            return reply
        name = self._name
        try:
            if name == "pubsub|numpat":
                here = {topic.name for hub in hubs for topic in hub.subscribed(PATTERNS)}
                seen = sum([hub.counted(PATTERNS, pattern) for hub in hubs for pattern in here])
                return integer(max(int(reply[1:-2]) - seen, 0) + len(here))
            kind = SHARDS if name.startswith("pubsub|shard") else CHANNELS
            if name == "pubsub|channels" or name == "pubsub|shardchannels":
                return _channels(hubs, kind, reply, self._arguments)
            return _numbers(hubs, kind, reply, self._arguments[2:])
        except (ProtocolError, ValueError):
            return reply


def _channels(hubs: list["Hub"], kind: Kind, reply: bytes, arguments: list[bytes]) -> bytes:
    found = dict.fromkeys(elements_of(reply) or [])
    for hub in hubs:
        for topic in hub.subscribed(kind):
            if len(arguments) < 3 or matches(arguments[2], topic.name):
                found[bulk(topic.name)] = None
    return aggregate(reply, list(found))


def _numbers(hubs: list["Hub"], kind: Kind, reply: bytes, names: list[bytes]) -> bytes:
    frames = elements_of(reply) or []
    for index, name in enumerate(names):
        at = 2 * index + 1
        if at < len(frames):
            count = int(frames[at][1:-2]) - sum([hub.counted(kind, name) for hub in hubs])
            for hub in hubs:
                topic = hub.find(kind, name)
                count += 0 if topic is None else len(topic.subscribers)
            frames[at] = integer(max(count, 0))
    return aggregate(reply, frames)
