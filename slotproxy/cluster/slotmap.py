"""The slot map: which node owns each slot, shared by all clients.

Duty: hold the owners, take one slot's change from a MOVED (`patch`) and a whole view from a refresh
(`apply`), and say what changed. Knows nothing of connections or of who asked.

Invariant: a refresh that started before a patch does not undo it. Each patch is stamped with the map's
version; a refresh carries the version at which it started and leaves younger slots alone. (A refresh that
started after a patch can still come from a node that lags behind; the next MOVED settles that.)
"""

from slotproxy.cluster.topology import Address, NodeInfo, Topology
from slotproxy.protocol.slots import SLOTS


class SlotMap:
    """Owners of all slots and all nodes known, replicas and empty primaries included."""

    def __init__(self) -> None:
        self.owners: list[NodeInfo | None] = [None] * SLOTS
        self.nodes: dict[str, NodeInfo] = {}
        self.version: int = 0
        self._patched: list[int] = [0] * SLOTS
        self._by_address: dict[Address, NodeInfo] = {}
        self._covered: int = 0

    def find(self, host: str, port: int) -> NodeInfo | None:
        """The node that is called `host:port` by any of its addresses."""
        return self._by_address.get((host, port))

    def find_by_port(self, port: int) -> NodeInfo | None:
        """The only node that listens on `port`; None when there is none, or more than one."""
        found = {info.id: info for (_, p), info in self._by_address.items() if p == port}
        return next(iter(found.values())) if len(found) == 1 else None

    def covered(self) -> int:
        """How many slots have an owner."""
        return self._covered

    def patch(self, slot: int, owner: NodeInfo) -> bool:
        """One slot's owner, as a MOVED said. True when that is news."""
        before = self.owners[slot]
        self.version += 1
        self._patched[slot] = self.version
        if before is owner:
            return False
        if before is None:
            self._covered += 1
        self.owners[slot] = owner
        return True

    def apply(self, topology: Topology, started: int) -> list[int]:
        """Take a refresh's view, begun when the map's version was `started`. Returns the slots that changed.

        A node that kept its id and its addresses keeps its NodeInfo object.
        """
        before = self.nodes
        self.nodes = {}
        for id, info in topology.nodes.items():
            old = before.get(id)
            same = old is not None and (
                (old.host, old.port, old.primary, old.failing, old.addresses, old.replicates)
                == (info.host, info.port, info.primary, info.failing, info.addresses, info.replicates)
            )  # fmt: skip
            self.nodes[id] = old if old is not None and same else info
        # A node that lost its id (a new one at the same address) stands there twice: the failing one yields.
        by_worth = sorted(self.nodes.values(), key=lambda info: (not info.failing, info.primary, info.id))
        self._by_address = {address: info for info in by_worth for address in info.addresses}
        view: list[NodeInfo | None] = [None] * SLOTS
        for first, last, id in topology.ranges:
            view[first : last + 1] = [self.nodes[id]] * (last - first + 1)
        changed: list[int] = []
        covered = 0
        for slot in range(SLOTS):
            old = self.owners[slot]
            new = view[slot]
            if self._patched[slot] > started:
                # Younger than the view: the owner stays, but as the object that stands for it now.
                new = self.nodes.get(old.id, old) if old is not None else None
            if new is not None:
                covered += 1
            if old is not new:
                self.owners[slot] = new
                if old is None or new is None or old.id != new.id:
                    changed.append(slot)
        self._covered = covered
        if changed:
            self.version += 1
        return changed

    def ranges(self) -> list[tuple[int, int, NodeInfo | None]]:
        """The map as (first slot, last slot, owner), both ends included, in slot order."""
        out: list[tuple[int, int, NodeInfo | None]] = []
        first = 0
        for slot in range(1, SLOTS + 1):
            if slot == SLOTS or self.owners[slot] is not self.owners[first]:
                out.append((first, slot - 1, self.owners[first]))
                first = slot
        return out
