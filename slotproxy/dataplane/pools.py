"""Lanes by number: which lanes every node has, what they speak and as whom, and which clients share them.

Duty: give out numbers. A lane has the same number at every node, so that a client needs one number only; `Territory`
sees to it that each node has a lane for each. A pool is the lanes that the clients of one identity share, so many for
each protocol.

Invariants: clients that differ in protocol or identity never share a lane. A number that was given back is given out
again only with new lanes behind it. Lanes are connected when somebody needs them; only those of a pool's protocol that
some client speaks are connected before.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.nodestreams import Identity, StreamKey

if TYPE_CHECKING:
    from slotproxy.dataplane.territory import Territory


class LaneNumbers:
    """`keys`: of each number what its lanes speak and as whom. `eager`: whether they are connected before use."""

    def __init__(self) -> None:
        self.keys: Final[list[StreamKey]] = []
        self.eager: Final[list[bool]] = []
        self._free: Final[dict[int, list[int]]] = {}  # by size of the block: first numbers

    def take(self, keys: list[StreamKey]) -> int:
        """As many numbers in a row. Returns the first; it is less than `len(keys)` before where it was in use once."""
        free = self._free.get(len(keys))
        if free:
            first = free.pop()
            for index, key in enumerate(keys):
                self.keys[first + index] = key
            return first
        first = len(self.keys)
        self.keys.extend(keys)
        self.eager.extend([False] * len(keys))
        return first

    def give_back(self, first: int, count: int) -> None:
        """Nobody uses these any more; they were taken together."""
        for number in range(first, first + count):
            self.eager[number] = False
        free = self._free.setdefault(count, [])
        assert first not in free, "twice: two pools would get the same lanes"
        free.append(first)


class Pool:
    """The lanes that clients of one identity share."""

    def __init__(self, territory: "Territory", identity: Identity, shared: int) -> None:
        resp2, resp3 = StreamKey(2, identity), StreamKey(3, identity)
        self.identity: Final = identity
        self._territory: Final = territory
        self._shared: Final = shared  # so many for each protocol
        self._first: Final = territory.add_lanes([*[resp2] * shared, *[resp3] * shared])
        self._connects: Final[set[int]] = set()  # protocols

    def lane_of(self, client_id: int, protocol: int) -> int:
        """The number of the lane that a client uses. From the first one on, its protocol's lanes are connected."""
        first = self._first if protocol == 2 else self._first + self._shared
        if protocol not in self._connects:
            self._connects.add(protocol)
            self._territory.connect_lanes(first, self._shared)
        return first + client_id % self._shared

    def retire(self) -> None:
        """No client sends here any more; what was sent is still answered."""
        self._territory.retire_lanes(self._first, 2 * self._shared)

    def close(self) -> None:
        """Nothing is left that could be sent here."""
        self._territory.drop_lanes(self._first, 2 * self._shared)
