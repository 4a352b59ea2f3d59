"""All blocked clients of this proxy, by slot, and what they have to be told about slots.

Duty: find the ones concerned when a slot gets into trouble or out of it; count them. What each then does is its own
business (`blocked`).
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from slotproxy.dataplane.blocked import Blocked


class BlockedClients:
    """`count`: how many clients are in a blocking command."""

    def __init__(self) -> None:
        self.count: int = 0
        self._by_slot: Final[dict[int, dict[Blocked, None]]] = {}

    def enter(self, blocked: "Blocked", slot: int) -> None:
        """A client waits, for keys of this slot only; -1: of several."""
        self.count += 1
        if slot >= 0:
            self._by_slot.setdefault(slot, {})[blocked] = None

    def leave(self, blocked: "Blocked", slot: int) -> None:
        """It waits no more."""
        self.count -= 1
        there = self._by_slot.get(slot)
        if there is not None:
            there.pop(blocked, None)
            if not there:
                del self._by_slot[slot]

    def trouble(self, slots: set[int]) -> None:
        """These slots have got into trouble, or have another owner."""
        for slot in slots:
            for blocked in list(self._by_slot.get(slot, ())):
                blocked.trouble()

    def calm(self, slots: set[int]) -> None:
        """These slots are out of trouble."""
        for slot in slots:
            for blocked in list(self._by_slot.get(slot, ())):
                blocked.calm()
