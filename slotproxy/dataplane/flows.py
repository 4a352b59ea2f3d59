"""The state that keeps order while a slot is in trouble. Decisions on it are the router's.

A `Flow` is one client's commands of one slot; it exists while a barrier of that client is in flight or the slot needs
watching. A `Gate` is one slot in trouble, for all clients. Without either, commands of a slot take the plain path.

Invariants:
- What is outstanding in a flow is older than what waits in it, and is at one node (`node`): one view per slot.
- `bounced` holds refused requests until nothing of the flow is outstanding; then they stand before `waiting` again, in
  the order they were sent.
- A request in flight of a slot that has no flow (`request.flow is None`) is at the slot's current owner.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.requests import Request

if TYPE_CHECKING:
    from slotproxy.dataplane.lanes import Lane, Node
    from slotproxy.dataplane.order import Order
    from slotproxy.dataplane.router import Router
    from slotproxy.dataplane.senders import Sender


class Flow(Timer):
    """One client's commands of one slot, oldest first: outstanding, then waiting."""

    def __init__(self, router: "Router", client: "Sender", slot: i64) -> None:
        super().__init__()
        self.client: Final = client
        self.slot: i64 = slot
        self.waiting: deque[Request] = deque()
        self.bounced: list[Request] = []
        self.outstanding: i64 = 0
        self.node: Node | None = None  # where the outstanding ones are
        self.barrier: Request | None = None  # outstanding, and nothing newer may be sent before it has answered
        self.probing: bool = False  # the oldest goes alone until one was accepted
        self.probe: Request | None = None
        self.proof: Request | None = None  # outstanding; when the owner accepts it, the owner is proven
        self.wary: bool = False  # what is outstanding was sent in troubled times: it returns before more goes
        self.passed: bool = False  # newer requests are in flight that are not written into it
        self.held: bool = False  # waits for a refresh of the map
        self.lane: Lane | None = None  # waits for this lane to be connected
        self.delay: float = 0.0  # the last backoff, seconds
        self.why: str = ""  # why the oldest waits, for its error
        self._router: Final = router

    def fire(self) -> None:
        """The backoff is over."""
        self._router.pump(self)

    def may_be_passed(self, owner: "Node") -> bool:
        """Whether newer commands may go to the slot's `owner` without waiting: all the flow has is in flight there."""
        return (
            not self.waiting
            and not self.bounced
            and not self.probing
            and not self.wary
            and self.barrier is None
            and (self.outstanding == 0 or self.node is owner)
        )

    def idle(self) -> bool:
        """Nothing outstanding and nothing to send."""
        return self.outstanding == 0 and not self.waiting and not self.bounced


class Gate(Timer):
    """One slot in trouble: it migrates, it is refused by its owner, or its owner has just changed."""

    def __init__(self, order: "Order", slot: i64) -> None:
        super().__init__()
        self.slot: i64 = slot
        self.flows: dict[Flow, None] = {}
        self.migrating_at: float = 0.0  # when an ASK or TRYAGAIN was last seen; 0.0: none since the owner changed
        self.refusing: bool = False  # the owner refuses every command; one probe at a time
        self.unproven: bool = False  # the owner is new and has not accepted a command yet
        self.changed_at: float = 0.0  # when the owner changed; 0.0: long ago
        self.probe: Flow | None = None
        self.delay: float = 0.0
        self._order: Final = order

    def fire(self) -> None:
        """The backoff of a refusing slot is over."""
        self._order.reopen(self)

    def quiet(self) -> bool:
        """Whether commands may be sent without waiting for one another."""
        return not self.refusing and not self.unproven and self.migrating_at == 0.0 and self.changed_at == 0.0

    def probed(self) -> bool:
        """Whether a flow has taken the probe. (The type checker, and so compiled code, remembers a None set before.)"""
        return self.probe is not None
