"""All hubs of one proxy: one for each identity whose clients have subscribed.

Duty: find a hub, tell all of them what has happened to the cluster, and end one whose identity has no rights any more.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.hub import Hub
from slotproxy.dataplane.nodestreams import Identity

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane


class Hubs:
    """`of` makes a hub when it is needed first."""

    def __init__(self, plane: "Plane") -> None:
        self._plane: Final = plane
        self._by_identity: Final[dict[Identity, Hub]] = {}

    def of(self, identity: Identity) -> Hub:
        """Where clients of this identity subscribe."""
        hub = self._by_identity.get(identity)
        if hub is None:
            hub = self._by_identity[identity] = Hub(self._plane, identity)
        return hub

    def all(self) -> list[Hub]:
        """Every one."""
        return list(self._by_identity.values())

    def has_subscribers(self, identity: Identity) -> bool:
        """Whether anybody has subscribed with this identity's rights."""
        hub = self._by_identity.get(identity)
        return hub is not None and len(hub.subscribers()) > 0

    def drop(self, identity: Identity) -> None:
        """The identity has no rights any more: who has subscribed with them is closed, as a server does."""
        hub = self._by_identity.pop(identity, None)
        if hub is not None:
            for client in hub.subscribers():
                client.close()
            hub.close("nobody logs in as its user any more")

    def moved(self, slots: set[int]) -> None:
        """These slots may have another owner."""
        for hub in self._by_identity.values():
            hub.moved(slots)

    def follow(self) -> None:
        """The cluster has other nodes, or other primaries."""
        for hub in self._by_identity.values():
            hub.follow()

    def connections(self) -> int:
        """Connections to nodes on which the proxy has subscribed for its clients."""
        return sum([hub.connections() for hub in self._by_identity.values()])

    def close(self) -> None:
        """The proxy ends."""
        for hub in self._by_identity.values():
            hub.close("the proxy ends")
