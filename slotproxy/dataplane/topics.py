"""A topic: a channel, a pattern or a shard channel that clients of one identity want, and where it is subscribed.

Duty: hold who wants it and at which nodes it is; say whether it is subscribed wherever it has to be. Choosing the nodes
is the hub's part, telling them the feeds'.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.protocol.pubsub import SHARDS, Kind, is_everywhere
from slotproxy.protocol.slots import key_slot

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.feeds import Feed
    from slotproxy.dataplane.hub import Hub
    from slotproxy.dataplane.lanes import Node
    from slotproxy.dataplane.subscribing import Subscribe


class Topic:
    """Something that can be subscribed to. `feeds`: where it is, or is about to be; the first says where it belongs."""

    def __init__(self, hub: "Hub", kind: Kind, name: bytes) -> None:
        self.hub: Final = hub
        self.kind: Final = kind
        self.name: Final = name
        self.slot: Final = int(key_slot(name)) if kind is SHARDS else -1
        self.everywhere: Final = is_everywhere(kind, name)
        self.subscribers: Final[dict[Client, None]] = {}
        self.waiting: Final[dict[Subscribe, None]] = {}  # who subscribes, until all that it wants is confirmed
        self.feeds: list[Feed] = []
        self.whole: bool = False  # it has been subscribed wherever it has to be since the last gap
        self.named: Node | None = None  # a MOVED named this node, and the map has not changed since
        self.ended_by: Node | None = None  # the last node that has ended its subscription unasked
        self.tried: list[Node] = []  # nodes that have refused it since it last waited

    def is_confirmed(self) -> bool:
        """Whether it is subscribed wherever it has to be; of several nodes, those that can be reached."""
        confirmed = [feed for feed in self.feeds if feed.has_confirmed(self)]
        if not self.everywhere:
            return len(self.feeds) > 0 and self.feeds[0] in confirmed
        return len(confirmed) > 0 and all([feed.failed or feed in confirmed for feed in self.feeds])

    def may_end_at(self, feed: "Feed") -> bool:
        """Whether a former owner's subscription may be left to end by itself.

        What a node accepts again, after it has ended it, it may accept as a replica.
        """
        return feed.has_confirmed(self) and feed.node.info.primary and feed.node is not self.ended_by
