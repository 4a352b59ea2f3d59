"""The router: the one redirect loop, and the ordering contract.

Duty: send each request to the node that serves its slot, in an order that keeps every client's commands of one key in
the order they were sent, and turn whatever comes back (a reply, a redirect, a refusal, a lost connection) into a reply
for the client, another attempt, or an error that says what failed.

The contract's means (names in `flows`):
- One view per slot in flight. Before a slot's owner changes, whatever of it is in flight is written into flows; a flow
  sends to a new node only when nothing is outstanding at the old one.
- Barriers. Behind a request that can be refused although a later one would be accepted, its flow sends nothing.
- Probe, then release. A refused request goes back into its flow; once nothing is outstanding, the oldest goes alone;
  when it was accepted the rest follows. A slot whose owner refuses everything has one probe for all clients.
- A slot that is known to migrate has one command per client in flight. So has one whose owner changed, until the new
  owner has accepted a command and for a second more: whoever named it may be ahead of it, or take it back.
- Whether a script's reply is a refusal is found out first (`doubts`).
- An ASK is followed in the tick in which it came, or dropped: later it could point to a node that the slot has left.
- Fence. What a lost connection may still run is killed on the new connection before anything newer is sent (the
  dialler does that; a lane is not `ready` before).
The plain path (no gate, no flow: `routes[slot]`) lives in `Client` and knows nothing of all this.
"""

from typing import Final

from mypy_extensions import i64

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Topology
from slotproxy.dataplane import errors
from slotproxy.dataplane.controlplane import Control
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.doubts import Doubts
from slotproxy.dataplane.fencing import Fencing
from slotproxy.dataplane.flows import Flow, Gate
from slotproxy.dataplane.lanes import Lane, Node
from slotproxy.dataplane.losses import Losses
from slotproxy.dataplane.mapchanges import MapChanges
from slotproxy.dataplane.order import Order
from slotproxy.dataplane.reactor import Reactor
from slotproxy.dataplane.requests import Request, parts_of
from slotproxy.dataplane.scripts import Scripts
from slotproxy.dataplane.territory import Territory
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import Redirect, Refusal, error_code, parse_redirect, refusal_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.splitting import split_by_key


class Router:
    """Sends the requests of one proxy and takes what comes back."""

    def __init__(
        self, reactor: Reactor, slot_map: SlotMap, counters: Counters, control: Control, scripts: Scripts,
        lanes: int, park_timeout: float,
    ) -> None:  # fmt: skip
        self.slot_map: Final = slot_map
        self.scripts: Final = scripts
        self.territory: Final = Territory(reactor, slot_map, counters, control, lanes)
        self.order: Final = Order(reactor, self.territory, self, park_timeout)
        self.territory.serve(self)
        self.doubts: Final = Doubts(self, self.order, scripts, counters, control)
        self._changes: Final = MapChanges(slot_map, self.territory, self.order, counters)
        self._reactor: Final = reactor
        self._counters: Final = counters
        self._control: Final = control
        self._awaiting_refresh: list[Flow] = []
        self.fencing: Fencing | None = None

    # Sending

    def submit(self, request: Request) -> None:
        """Send a request that the plain path could not take, or let it wait its turn."""
        client = request.client
        slot: i64 = request.slot
        flow = client.flows.get(slot)
        gate = self.order.gates.get(slot)
        if not request.barrier and (gate is None or gate.quiet()):
            node = self.territory.owner(slot)
            if node is not None and (flow is None or flow.may_be_passed(node)):
                lane = node.lanes[client.lane]
                if lane.ready:
                    if flow is not None:
                        flow.passed = True
                    lane.enqueue(request)
                    return
        if flow is None:
            flow = self.order.open_flow(client, slot)
        flow.waiting.append(request)
        self.pump(flow)

    def pump(self, flow: Flow) -> None:
        """Send what may be sent of a flow now; forget the flow when it is idle."""
        flow.held = flow.held and flow in self._awaiting_refresh
        if not flow.bounced:
            while flow.waiting:
                if not self._send_next(flow):
                    break
        if flow.waiting:
            self.order.note_waiting(flow)
        else:
            self.order.note_empty(flow)

    def _send_next(self, flow: Flow) -> bool:
        """Send the oldest waiting request of a flow. False when it must go on waiting."""
        if flow.due > 0.0 or flow.held or flow.barrier is not None:
            return False
        gate = self.order.gates.get(flow.slot)
        if gate is not None:
            gate.flows[flow] = None
        if flow.outstanding > 0 and (flow.probing or flow.wary or (gate is not None and not gate.quiet())):
            return False
        probing = gate is not None and gate.refusing
        if gate is not None and probing and (gate.due > 0.0 or (gate.probe is not None and gate.probe is not flow)):
            return False
        request = flow.waiting[0]
        node = self._target(request)
        if node is None and self.territory.is_vacant(flow.slot):
            flow.waiting.popleft()
            self.finish(request, errors.away(self.territory.why_away(flow.slot)))
            return True
        if node is None:
            flow.why = "no node is known to own it"
            self.order.refuse(self.order.open_gate(flow.slot), flow)
            self._control.refresh_nowait("a slot without an owner")
            return False
        if flow.outstanding > 0 and flow.node is not node:
            return False
        lane = node.lanes[flow.client.lane]
        if not lane.ready:
            flow.lane = lane
            flow.why = f"node {node.name}: {lane.why}"
            lane.waiters[flow] = None
            self.territory.dial(lane)
            return False
        if gate is not None and probing:
            gate.probe = flow
        flow.waiting.popleft()
        flow.node = node
        flow.lane = None
        flow.outstanding += 1
        flow.wary = gate is not None and not gate.quiet()
        request.flow = flow
        if request.barrier:
            flow.barrier = request
        if flow.probing:
            flow.probe = request
        asking = request.asked is not None
        request.asked = None
        if gate is not None and gate.unproven and not asking:
            flow.proof = request
        if request.commands > 0 or (gate is not None and request.command.script):
            lane.enqueue_block(request, asking)
        elif asking:
            lane.enqueue_asking(request)
        else:
            lane.enqueue(request)
        return True

    def _target(self, request: Request) -> Node | None:
        asked = request.asked
        if asked is not None:
            # An ASK is good for this time only. Had the slot moved there, back and off again while the request waited
            # its turn, the node would take it though the key is elsewhere: ask the owner again.
            if request.asked_at == self._reactor.now and not asked.left:
                return asked
            request.asked = None
        return self.territory.owner(request.slot)

    # What comes back

    def settle(self, request: Request, node: Node, reply: bytes) -> None:
        """Take a reply that the plain path could not: an error, a part, or one of a flow."""
        if request.commands > 0:
            self.doubts.settle_block(request, node, reply)
            return
        if request.command.script or request.command.module:
            self.doubts.settle(request, node, reply)
            return
        refusal = refusal_of(reply)
        if refusal is None:
            self.accepted(request, reply)
        else:
            self.refused(request, node, refusal, reply)

    def flow_of(self, request: Request, node: Node) -> Flow:
        """The flow of a request that has come back from `node`, with all that is in flight behind it."""
        flow = request.flow
        if flow is None:
            flow = self.order.adopt(request, node)
            flow.passed = True
        if flow.passed:
            flow.passed = False
            self.order.adopt_in_flight(request.slot)
        return flow

    def accepted(self, request: Request, reply: bytes) -> None:
        """It has been executed, or is wrong in itself: `reply` is the answer."""
        flow = request.flow
        if flow is None:
            self.finish(request, reply)
            return
        probed = flow.probe is request
        proved = flow.proof is request
        self.order.returned(request, flow)
        if probed:
            flow.probing = False
            flow.delay = 0.0
        gate = self.order.gates.get(flow.slot)
        if gate is not None:
            if gate.refusing and gate.probe is flow:
                self.order.release(gate)
            if proved:
                self.order.prove(gate)
        self.finish(request, reply)
        self.advance(flow)

    def finish(self, request: Request, reply: bytes) -> None:
        """Give a request its reply; a part's reply goes to the command it is a part of."""
        split = request.split
        while split is not None:
            owner = split.owner
            owner.retries += request.retries
            if not split.take(request.index, reply):
                return
            reply = split.merged()
            request = owner
            split = request.split
        counters = self._counters
        counters.observe(self._reactor.now - request.started, 1)
        if request.retries > 0:
            counters.observe_retries(request.retries)
        if reply[0] == 0x2D:
            counters.error(error_code(reply))
        request.client.deliver(request, reply)

    def refused(self, request: Request, node: Node, refusal: Refusal, reply: bytes, placed: bool = False) -> None:
        """The node has not executed it. `placed`: it has its place in `bounced` already."""
        slot = request.slot
        if request.unwanted:
            if placed:
                self.flow_of(request, node).bounced.remove(request)
            self.accepted(request, reply)
            return
        redirect: Redirect | None = None
        if refusal == Refusal.MOVED or refusal == Refusal.ASK:
            self._counters.redirect(refusal == Refusal.MOVED, node.name)
            redirect = parse_redirect(reply)
            if redirect is None or redirect.slot != slot:
                if placed:
                    self.flow_of(request, node).bounced.remove(request)
                self.accepted(request, errors.invalid_redirect(slot, node.name, reply))
                return
        flow = self.flow_of(request, node)
        gate = self.order.open_gate(slot)
        gate.flows[flow] = None
        self.order.returned(request, flow)
        # Before anything that may pump flows: while `bounced` holds it, nothing newer of its flow is sent.
        if not placed:
            flow.bounced.append(request)
        flow.probing = True
        request.retries += 1
        flow.why = f"node {node.name} answered {reply[1:100].decode('utf-8', 'replace').strip()}"
        if redirect is not None:
            self._redirected(request, flow, gate, node, refusal, redirect)
        elif refusal == Refusal.TRYAGAIN:
            self._counters.tryagain += 1
            self.order.note_migration(gate, flow)
            request.tried = None
            parts = split_by_key(request.command.name, arguments_of(request.raw))
            if parts:
                place = flow.bounced.index(request)
                flow.bounced[place : place + 1] = parts_of(request, parts)
            else:
                self.order.back_off(flow)
        else:
            if refusal == Refusal.CLUSTERDOWN:
                self._counters.clusterdown += 1
            request.tried = None
            self.order.refuse(gate, flow)
            self._control.refresh_nowait(refusal.name)
        self.advance(flow)

    def _redirected(
        self, request: Request, flow: Flow, gate: Gate, node: Node, refusal: Refusal, redirect: Redirect
    ) -> None:
        host = node.info.host if redirect.host == "" else redirect.host
        target = self.territory.find(host, redirect.port)
        if refusal == Refusal.ASK:
            self.order.note_migration(gate, flow)
            request.asked = target
            request.asked_at = self._reactor.now
        if target is None:
            # Dialled only when a refresh says that there is such a node; then the request goes to the owner again.
            self._hold_for_refresh(flow)
        tried = request.tried
        if tried is None:
            tried = request.tried = []
        tried.append(node)
        if target is None or target in tried:
            request.tried = None
            self.order.back_off(flow)
        if refusal == Refusal.MOVED:
            if target is not None and self.territory.owner(request.slot) is not target:
                self._changes.patch(gate, target)
            self._control.refresh_nowait("MOVED")

    def advance(self, flow: Flow) -> None:
        """A request of the flow has come back: when it was the last one out, the refused ones stand first again."""
        if flow.bounced and flow.outstanding == 0:
            flow.waiting.extendleft(reversed(flow.bounced))
            flow.bounced = []
        self.pump(flow)

    def _hold_for_refresh(self, flow: Flow) -> None:
        flow.held = True
        if flow not in self._awaiting_refresh:
            self._awaiting_refresh.append(flow)
        self._control.refresh_nowait("unknown node in a redirect")

    def withdraw(self, request: Request) -> bool:
        """Nobody wants it any more: if it has not been sent, or was refused, it will not be (again). Says so."""
        flow = request.client.flows.get(request.slot)
        if flow is None:
            return False
        if request in flow.waiting:
            flow.waiting.remove(request)
        elif request in flow.bounced and request.flow is None:
            flow.bounced.remove(request)
        else:
            return False
        self.pump(flow)
        return True

    def expire(self, request: Request, flow: Flow) -> None:
        """A request has waited for its slot until the deadline."""
        self._counters.parked_expired += 1
        self.finish(request, errors.not_served(flow.slot, self.order.park_timeout, flow.why))

    # The map

    def apply(self, topology: Topology, started: int) -> int:
        """Take a refresh's view of the cluster, begun at the map's version `started`. How many slots changed owner."""
        return self._changes.apply(topology, started)

    def is_whole(self) -> bool:
        """Whether the map as a whole is younger than the last redirect that changed it."""
        return self._changes.is_whole()

    def refreshed(self) -> None:
        """A refresh has ended, whether it succeeded or not."""
        flows = self._awaiting_refresh
        self._awaiting_refresh = []
        for flow in flows:
            self.pump(flow)

    # Connections

    def pushed(self, lane: Lane, frame: bytes) -> None:
        """A node has said something unasked. Raises ProtocolError where nothing had to be told."""
        listener = lane.key.listener
        if listener is None:
            raise ProtocolError("Protocol error: a push of the node that nothing was asked for")
        listener.told(lane, frame)

    def attached(self, lane: Lane) -> None:
        """A lane is connected: what waited for it goes on."""
        lane.node.unreachable = False
        if self.fencing is not None:
            self.fencing.attached(lane)
        self.order.wake(lane)

    def drained(self, lane: Lane) -> None:
        """A connection that was given up has answered everything and is closed."""
        self.territory.dial(lane)

    def unreachable(self, lane: Lane, why: str) -> None:
        """Connecting a lane failed; the dialler goes on trying. Commands without keys go elsewhere meanwhile."""
        lane.why = why
        if lane.waiters:
            self._control.refresh_nowait("a node that is waited for cannot be reached")
        if not lane.key.shared or lane.key.identity is not self.territory.own.identity:
            return  # what the node does not let one client, or one user, do says nothing of the node
        alike = [one for one in lane.node.lanes if one.key is lane.key]
        if not any([one.ready for one in alike]) and not lane.node.unreachable:
            lane.node.unreachable = True
            self._changes.rehome(list(self.territory.nodes.values()))
            for waited_for in lane.node.lanes:
                self.order.wake(waited_for)

    def lane_lost(self, lane: Lane, why: str) -> None:
        """A connection broke. Unsent requests and reads go again, in order; writes that may have run are in doubt."""
        sent, unsent = lane.take_unanswered()
        lane.close(why)
        for request in [*sent, *unsent]:
            if request.flow is None:
                self.order.adopt(request, lane.node)
        lost = Losses(sent, unsent)
        for flow in lost.flows:
            flow.probing = True
            flow.why = f"node {lane.node.name}: {why}"
        for request, flow in lost.requests:
            self.order.returned(request, flow)
            if request in lost.repeatable:
                request.retries += 1
                flow.bounced.append(request)
            else:
                self.finish(request, lost.reply_to(request, lane.node.name, why, self._counters))
        self.territory.dial(lane)
        if lane.key.listener is not None:
            lane.key.listener.deaf(lane)
        self._control.refresh_nowait("connection lost")
        for flow in lost.flows:
            self.order.yield_probe(flow)
            self.advance(flow)
        for slot in {int(flow.slot) for flow in lost.flows}:
            self.order.seek_probe(slot)
