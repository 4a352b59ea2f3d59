"""Numbered shards, and SCAN's cursor over them.

Duty: give every shard (a primary and those that take over from it) a number that only grows, so that one SCAN can walk
them in that order, and pack shard and node cursor into the one number that the client holds.

Invariants:
- A walk goes from lower numbers to higher ones and a shard that appears gets the highest: every walk ends, whatever
  comes and goes meanwhile. A shard that has gone is passed over.
- A number is not given twice: a cursor of the shard that had it would skip keys of the other.
- A replica that takes over has its primary's number, and another generation: its hash table has an order of its own,
  so a cursor of the old primary would skip keys. The shard is begun anew; keys may be returned twice, as SCAN allows.
- A primary whose replica has taken its slots is no shard, also while nodes still show it as a primary: it has the same
  keys. (One that was emptied slot by slot remains one: a walk can stand in it.)
- A cursor is below 2**53 (what a JavaScript or Lua number holds), and 0 only at the beginning and at the end.

Numbers are this process's own, by lowest slot at first. Must not know of connections.
"""

from typing import Final

from slotproxy.cluster.slotmap import SlotMap

_NODE_BITS: Final = 39  # of the node's own cursor: 2**39 hash buckets, or 2**25 in each slot (7.4 puts the slot below)
_GENERATION_BITS: Final = 4
_GENERATIONS: Final = (1 << _GENERATION_BITS) - 1  # 1 to 15, never 0, so that no cursor but the first and last is 0
_MOST_SHARDS: Final = 1 << (53 - _NODE_BITS - _GENERATION_BITS)
NODE_CURSORS: Final = 1 << _NODE_BITS


class Shard:
    """`node` is the id of its primary; `generation` counts who that was."""

    def __init__(self, number: int, node: str) -> None:
        self.number: int = number
        self.node: str = node
        self.generation: int = 1
        self.replicas: set[str] = set()
        self.former: str = ""  # the primary before, until it has slots again

    def cursor(self, inner: int) -> int:
        """The client's cursor for the node's own."""
        return ((self.number << _GENERATION_BITS) + self.generation << _NODE_BITS) + inner


class Shards:
    """The shards of one cluster, as the slot map showed them so far."""

    def __init__(self) -> None:
        self._shards: list[Shard] = []  # by number
        self._next_number: int = 0

    def known(self) -> bool:
        """Whether there are any."""
        return bool(self._shards)

    def follow(self, slot_map: SlotMap) -> None:
        """Take a refreshed map."""
        lowest: dict[str, int] = {}
        for first, _, owner in slot_map.ranges():
            if owner is not None:
                lowest.setdefault(owner.id, first)
        demoted = self._demoted(slot_map, lowest)
        acting: set[str] = set()
        for id, info in slot_map.nodes.items():
            # A redirect can be ahead of the view: what replicates an owner of slots has no keys of its own.
            owns = id in lowest and (info.primary or info.replicates not in lowest)
            if owns or (info.primary and not info.failing and id not in demoted):
                acting.add(id)
        unnumbered = dict.fromkeys(sorted(acting, key=lambda id: (lowest.get(id, 1 << 14), id)))
        kept: list[Shard] = []
        unnumbered = dict.fromkeys(sorted(acting, key=lambda id: (lowest.get(id, 1 << 14), id)))
        for shard in self._shards:
            if shard.node in acting:
                unnumbered.pop(shard.node, None)
                kept.append(shard)
        for shard in self._shards:
            if shard.node not in acting:
                heirs = [id for id in unnumbered if id in shard.replicas]
                if heirs:
                    shard.former = shard.node
                    shard.node = heirs[0]
                    shard.generation = shard.generation % _GENERATIONS + 1
                    del unnumbered[heirs[0]]
                    kept.append(shard)
        kept.sort(key=lambda shard: shard.number)
        for id in unnumbered:
            kept.append(Shard(self._next_number, id))
            self._next_number += 1
        if self._next_number > _MOST_SHARDS:  # a thousand were replaced: walks that run now may miss or repeat one
            for number, shard in enumerate(kept):
                shard.number = number
            self._next_number = len(kept)
        by_node = {shard.node: shard for shard in kept}
        for id, info in slot_map.nodes.items():
            if info.replicates in by_node:
                by_node[info.replicates].replicas.add(id)
        for shard in kept:
            shard.replicas &= slot_map.nodes.keys()
        self._shards = kept

    def _demoted(self, slot_map: SlotMap, lowest: dict[str, int]) -> set[str]:
        """Nodes without slots of which a replica has those that they had. `lowest`: the owners of slots."""
        demoted: set[str] = set()
        for shard in self._shards:
            if shard.former in lowest or shard.node not in lowest:
                shard.former = ""
            elif shard.former:
                # Also when it was shown as a replica once: of the nodes that are asked one lags behind another.
                demoted.add(shard.former)
            if shard.node not in lowest and any([id in lowest for id in shard.replicas]):
                demoted.add(shard.node)
        return demoted

    def find(self, cursor: int) -> tuple[Shard | None, int]:
        """The shard at which a client's cursor stands, and the cursor of its node; None: behind the last one."""
        prefix = cursor >> _NODE_BITS
        number = prefix >> _GENERATION_BITS
        for shard in self._shards:
            if shard.number >= number:
                same = shard.number == number and shard.generation == prefix & _GENERATIONS
                return shard, cursor % NODE_CURSORS if same else 0
        return None, 0

    def after(self, number: int) -> Shard | None:
        """The next shard behind the one with this number."""
        for shard in self._shards:
            if shard.number > number:
                return shard
        return None
