"""The order: opening and closing flows and gates, backing off, and giving up at the deadline.

Duty: the bookkeeping of `flows`. When a slot gets into trouble, everything of it that is in flight is written into
flows before anything changes; when the trouble is over, flows and gates go and the slot is back on the plain path.
What to send next is the router's (`pump`).

Invariants are those of `flows`. `parked` holds exactly the flows in which requests wait; their deadlines are looked at
ten times a second, and only while there are any.
"""

import random
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.flows import Flow, Gate
from slotproxy.dataplane.lanes import Lane, Node
from slotproxy.dataplane.reactor import Reactor, Timer
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.territory import Territory

if TYPE_CHECKING:
    from slotproxy.dataplane.router import Router
    from slotproxy.dataplane.senders import Sender

MIGRATION_MEMORY: Final = 60.0  # seconds after its last ASK or TRYAGAIN that a slot counts as migrating
SETTLING: Final = 1.0  # seconds after a change of its owner that a slot is watched
_BACKOFF_FIRST: Final = 0.001
_BACKOFF_MOST: Final = 0.1
_REFUSED_FIRST: Final = 0.02
_REFUSED_MOST: Final = 0.5
_SWEEP: Final = 0.1


class _Sweep(Timer):
    def __init__(self, order: "Order") -> None:
        super().__init__()
        self._order: Final = order

    def fire(self) -> None:
        self._order.sweep()


class Order:
    """The flows and gates of one proxy."""

    def __init__(self, reactor: Reactor, territory: Territory, router: "Router", park_timeout: float) -> None:
        self.gates: dict[int, Gate] = {}
        self.parked: dict[Flow, None] = {}
        self.park_timeout: Final = park_timeout
        self.troubled: set[int] = set()  # slots that got into trouble, or another owner, since somebody looked
        self.calmed: set[int] = set()  # slots that got out of it
        self._reactor: Final = reactor
        self._territory: Final = territory
        self._router: Final = router
        self._sweep: Final = _Sweep(self)

    # Flows

    def open_flow(self, client: "Sender", slot: i64) -> Flow:
        """The new flow of a client and slot that have none."""
        flow = Flow(self._router, client, slot)
        client.flows[slot] = flow
        client.detours += 1
        return flow

    def close_flow(self, flow: Flow) -> None:
        """Forget an idle flow, and its gate when that has nothing left to guard."""
        client = flow.client
        if client.flows.get(flow.slot) is not flow:
            return
        del client.flows[flow.slot]
        client.detours -= 1
        flow.due = 0.0
        if flow.lane is not None:
            flow.lane.waiters.pop(flow, None)
        gate = self.gates.get(flow.slot)
        if gate is None:
            return
        gate.flows.pop(flow, None)
        probed = gate.probe is flow
        if probed:
            gate.probe = None
        if gate.refusing and gate.due == 0.0 and (probed or not gate.flows):
            self.reopen(gate)
            return
        self.close_if_idle(gate)

    def adopt(self, request: Request, node: Node) -> Flow:
        """Write a request that is in flight at `node`, or has just come back from there, into its client's flow."""
        flow = request.client.flows.get(request.slot)
        if flow is None:
            flow = self.open_flow(request.client, request.slot)
        request.flow = flow
        flow.outstanding += 1
        flow.node = node
        if request.barrier:
            flow.barrier = request
        return flow

    def adopt_in_flight(self, slot: i64) -> None:
        """Write what is in flight of `slot` on the plain path into flows, before anything changes for the slot."""
        owner = self._territory.owner(slot)
        if owner is None:
            return
        gate = self.gates.get(slot)
        for lane in owner.lanes:
            for request in lane.fifo.all():
                if request.slot == slot:
                    flow = request.flow or self.adopt(request, owner)
                    flow.wary = True
                    if gate is not None:
                        gate.flows[flow] = None

    def returned(self, request: Request, flow: Flow) -> None:
        """A request of the flow is no longer outstanding."""
        flow.outstanding -= 1
        if flow.outstanding == 0:
            flow.wary = False
        request.flow = None
        if flow.barrier is request:
            flow.barrier = None
        if flow.probe is request:
            flow.probe = None
        if flow.proof is request:
            flow.proof = None

    def yield_probe(self, flow: Flow) -> None:
        """The flow's probe of a refusing slot was lost: another flow may try."""
        gate = self.gates.get(flow.slot)
        if gate is not None and gate.probe is flow and flow.outstanding == 0:
            gate.probe = None

    def seek_probe(self, slot: i64) -> None:
        """The probe may have been lost together with the last that its flow had to send: then another flow tries."""
        gate = self.gates.get(slot)
        if gate is not None and gate.refusing and gate.probe is None and gate.due == 0.0:
            self.reopen(gate)

    def note_waiting(self, flow: Flow) -> None:
        """Requests wait in the flow: see to their deadlines."""
        self.parked[flow] = None
        self._sweep_soon()

    def note_empty(self, flow: Flow) -> None:
        """Nothing waits in the flow any more."""
        self.parked.pop(flow, None)
        if flow.idle():
            self.close_flow(flow)

    def back_off(self, flow: Flow) -> None:
        """Send nothing of the flow for a while: 1 ms at first, doubling to 100 ms, with jitter."""
        flow.delay = min(max(flow.delay * 2, _BACKOFF_FIRST), _BACKOFF_MOST)
        self._reactor.call_at(self._reactor.now + flow.delay * (0.5 + random.random()), flow)

    # Gates

    def open_gate(self, slot: i64) -> Gate:
        """The gate of a slot in trouble, opened when there is none."""
        gate = self.gates.get(slot)
        if gate is None:
            gate = self.gate_without_scan(slot)
            self.adopt_in_flight(slot)
        return gate

    def gate_without_scan(self, slot: i64) -> Gate:
        """The same for a caller who writes what is in flight into flows himself."""
        gate = self.gates.get(slot)
        if gate is None:
            gate = self.gates[int(slot)] = Gate(self, slot)
            self.troubled.add(int(slot))
            self._territory.routes[slot] = None
        return gate

    def close_if_idle(self, gate: Gate) -> None:
        """Put the slot back on the plain path, if nothing needs watching."""
        if gate.quiet() and not gate.flows and self.gates.get(gate.slot) is gate:
            gate.due = 0.0
            del self.gates[int(gate.slot)]
            self.calmed.add(int(gate.slot))
            self._territory.routes[gate.slot] = self._territory.owner(gate.slot)

    def note_migration(self, gate: Gate, flow: Flow) -> None:
        """The flow got an ASK or TRYAGAIN: one command per client in flight from now on."""
        if gate.quiet():
            self.adopt_in_flight(gate.slot)
        if gate.migrating_at == 0.0:
            self.troubled.add(int(gate.slot))
        gate.migrating_at = self._reactor.now
        self._sweep_soon()
        if gate.refusing and gate.probe is flow:
            self.release(gate)  # an owner that answers so serves the slot again, though not this command

    def refuse(self, gate: Gate, flow: Flow) -> None:
        """The slot's owner refuses, or there is none: one probe at a time, 20 ms apart at first, then up to 500 ms."""
        if gate.quiet():
            self.adopt_in_flight(gate.slot)
        gate.refusing = True
        gate.flows[flow] = None
        if gate.probe is flow:
            gate.probe = None
        if gate.due == 0.0:
            gate.delay = min(max(gate.delay * 2, _REFUSED_FIRST), _REFUSED_MOST)
            self._reactor.call_at(self._reactor.now + gate.delay * (0.5 + random.random()), gate)

    def release(self, gate: Gate) -> None:
        """The probe was accepted: everybody goes on."""
        gate.refusing = False
        gate.probe = None
        gate.delay = 0.0
        gate.due = 0.0
        self._pump_all(gate)

    def reopen(self, gate: Gate) -> None:
        """A refusing slot is tried again: the first flow that can send becomes the probe."""
        gate.probe = None
        for flow in list(gate.flows):
            self._router.pump(flow)
            if gate.probed():
                return
        if gate.due == 0.0 and not gate.flows:
            gate.refusing = False
            self.close_if_idle(gate)

    def owner_changed(self, gate: Gate) -> None:
        """The slot has another owner; what is in flight at the old one is in flows already.

        Each client has one command in flight until the new owner has accepted one (whoever named it may be ahead of it,
        when the source is finalised first), and for a while after: a slot that is moved back could bounce the head of a
        burst and run its tail.
        """
        self.troubled.add(int(gate.slot))
        gate.unproven = True
        gate.changed_at = self._reactor.now
        for flow in gate.flows:
            flow.proof = None
            flow.wary = flow.outstanding > 0
        self._sweep_soon()
        gate.migrating_at = 0.0
        gate.refusing = False
        gate.probe = None
        gate.delay = 0.0
        gate.due = 0.0
        self._pump_all(gate)
        self.close_if_idle(gate)

    def prove(self, gate: Gate) -> None:
        """The owner has accepted a command that was sent to it as the owner."""
        gate.unproven = False
        self._pump_all(gate)
        self.close_if_idle(gate)

    def wake(self, lane: Lane) -> None:
        """Whatever waits for this lane looks again where to go."""
        waiters = lane.waiters
        if waiters:
            lane.waiters = {}
            for flow in waiters:
                flow.lane = None
                self._router.pump(flow)

    def _pump_all(self, gate: Gate) -> None:
        for flow in list(gate.flows):
            self._router.pump(flow)

    # Time

    def sweep(self) -> None:
        """Fail what has waited too long; forget what happened to slots long enough ago."""
        now = self._reactor.now
        for flow in list(self.parked):
            expired = False
            while flow.waiting and now - flow.waiting[0].started >= self.park_timeout:
                expired = True
                self._router.expire(flow.waiting.popleft(), flow)
            if expired:
                self._router.pump(flow)
        unsettled = False
        for gate in list(self.gates.values()):
            if gate.changed_at > 0.0 and now - gate.changed_at >= SETTLING:
                gate.changed_at = 0.0
            elif gate.migrating_at > 0.0 and now - gate.migrating_at >= MIGRATION_MEMORY:
                gate.migrating_at = 0.0
            else:
                unsettled = unsettled or gate.changed_at > 0.0 or gate.migrating_at > 0.0
                continue
            if gate.quiet():
                self._pump_all(gate)
                self.close_if_idle(gate)
            else:
                unsettled = True
        if self.parked or unsettled:
            self._sweep_soon()

    def _sweep_soon(self) -> None:
        if self._sweep.due == 0.0:
            self._reactor.call_at(self._reactor.now + _SWEEP, self._sweep)
