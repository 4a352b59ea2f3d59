"""The router: the one redirect loop, and the ordering contract.

Duty: send each request to the node that serves its slot, in an order that keeps every client's commands of one key in
the order they were sent, and turn whatever comes back (a reply, a redirect, a refusal, a lost connection) into a reply
for the client, another attempt, or an error that says what failed.

The contract's means (names in `flows`):
- One view per slot in flight. Before a slot's owner changes, whatever of it is in flight is written into flows; a flow
  sends to a new node only when nothing is outstanding at the old one.
- Barriers. Behind a request that can be refused although a later one would be accepted, its flow sends nothing.
- Probe, then release. A refused request goes back into its flow and, once nothing is outstanding, the oldest goes alone;
  when it was accepted the rest follows. A slot whose owner refuses everything has one probe for all clients.
- A slot that is known to migrate has one command per client in flight.
- Fence. What a lost connection may still run is killed on the new connection before anything newer is sent (the
  dialler does that; a lane is not `ready` before).
The plain path (no gate, no flow: `routes[slot]`) lives in `Client` and knows nothing of all this.
"""

import random
from typing import TYPE_CHECKING, Final, Protocol

from mypy_extensions import i64

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Topology
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.flows import Flow, Gate
from slotproxy.dataplane.lanes import Dialler, Lane, Node
from slotproxy.dataplane.reactor import Reactor, Timer
from slotproxy.dataplane.requests import Request, Split
from slotproxy.protocol.redirects import Redirect, Refusal, error_code, parse_redirect, refusal_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import SLOTS
from slotproxy.protocol.splitting import Part, split_by_key

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client

KEYLESS: Final = 64  # pseudo slots for commands without keys; each has a primary as its owner while that lives
MIGRATION_MEMORY: Final = 60.0  # seconds after its last ASK or TRYAGAIN that a slot counts as migrating
_BACKOFF_FIRST: Final = 0.001
_BACKOFF_MOST: Final = 0.1
_REFUSED_FIRST: Final = 0.02
_REFUSED_MOST: Final = 0.5
_SWEEP: Final = 0.1  # how often deadlines of waiting requests are looked at


class Control(Dialler, Protocol):
    """What the router asks of the control plane; none of these waits."""

    def refresh_nowait(self, why: str) -> None:
        """Have the slot map refreshed soon; `Router.refreshed` is called after the next refresh that starts."""

    def confirm_nowait(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        """Find out whether a script's or module's refusal is the node's own, then call `Router.confirmed`."""


class _Sweep(Timer):
    def __init__(self, router: "Router") -> None:
        super().__init__()
        self._router: Final = router

    def fire(self) -> None:
        self._router.sweep()


class Router:
    """Slots, nodes, flows and gates of one proxy."""

    def __init__(
        self, reactor: Reactor, slot_map: SlotMap, counters: Counters, control: Control, lanes: int, park_timeout: float
    ) -> None:
        self.routes: list[Node | None] = [None] * (SLOTS + KEYLESS)  # the plain path; None: ask `submit`
        self.nodes: dict[str, Node] = {}
        self.gates: dict[int, Gate] = {}
        self.parked: dict[Flow, None] = {}  # flows in which requests wait
        self.slot_map: Final = slot_map
        self._reactor: Final = reactor
        self._counters: Final = counters
        self._control: Final = control
        self._lanes: Final = lanes
        self._park_timeout: Final = park_timeout
        self._homes: list[Node | None] = [None] * KEYLESS
        self._awaiting_refresh: list[Flow] = []
        self._sweep: Final = _Sweep(self)

    # Sending

    def keyless_slot(self, client_id: int) -> int:
        """The pseudo slot by which a client's commands without keys are routed."""
        return SLOTS + client_id % KEYLESS

    def submit(self, request: Request) -> None:
        """Send a request that the plain path could not take, or let it wait its turn."""
        client = request.client
        slot: i64 = request.slot
        flow = client.flows.get(slot)
        gate = self.gates.get(slot)
        if not request.barrier and (gate is None or gate.quiet()):
            node = self._owner(slot)
            if node is not None and (flow is None or _settled(flow, node)):
                lane = node.lanes[client.lane]
                if lane.ready:
                    lane.enqueue(request)
                    return
        if flow is None:
            flow = self._open_flow(client, slot)
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
            self.parked[flow] = None
            if self._sweep.due == 0.0:
                self._reactor.call_at(self._reactor.now + _SWEEP, self._sweep)
        else:
            self.parked.pop(flow, None)
            if flow.idle():
                self._close_flow(flow)

    def _send_next(self, flow: Flow) -> bool:
        """Send the oldest waiting request of a flow. False when it must go on waiting."""
        if flow.due > 0.0 or flow.held or flow.barrier is not None:
            return False
        gate = self.gates.get(flow.slot)
        if gate is not None:
            gate.flows[flow] = None
        if flow.outstanding > 0 and (flow.probing or (gate is not None and not gate.quiet())):
            return False
        if gate is not None and gate.refusing:
            if gate.due > 0.0 or (gate.probe is not None and gate.probe is not flow):
                return False
            gate.probe = flow
        request = flow.waiting[0]
        node = self._target(request)
        if node is None:
            flow.why = "no node is known to own it"
            self._refuse(self._open_gate(flow.slot), flow)
            return False
        if flow.outstanding > 0 and flow.node is not node:
            return False
        lane = node.lanes[flow.client.lane]
        if not lane.ready:
            flow.lane = lane
            flow.why = f"node {node.name}: {lane.why}"
            lane.waiters[flow] = None
            self._dial(lane)
            return False
        flow.waiting.popleft()
        flow.node = node
        flow.lane = None
        flow.outstanding += 1
        request.flow = flow
        if request.barrier:
            flow.barrier = request
        if flow.probing:
            flow.probe = request
        if request.asked is not None:
            request.asked = None
            lane.enqueue_asking(request)
        else:
            lane.enqueue(request)
        return True

    def _target(self, request: Request) -> Node | None:
        if request.asked_at is not None:
            # The node was not known when the ASK came; a refresh has been made since, or has failed.
            host, port = request.asked_at
            request.asked_at = None
            request.asked = self._find(host, port)
        return request.asked if request.asked is not None else self._owner(request.slot)

    # What comes back

    def settle(self, request: Request, node: Node, reply: bytes) -> None:
        """Take a reply that the plain path could not: an error, a part, or one of a flow."""
        refusal = refusal_of(reply)
        if refusal is None:
            self._accepted(request, reply)
        elif request.command.script or request.command.module:
            # A script can return any text, after its writes ran. Nothing newer of the slot goes out until it is known.
            flow = request.flow or self._adopt(request, node)
            flow.barrier = request
            self._control.confirm_nowait(request, node, refusal, reply)
        else:
            self._refused(request, node, refusal, reply)

    def confirmed(self, request: Request, node: Node, refusal: Refusal, reply: bytes, genuine: bool) -> None:
        """The control plane has found out whether a script's or module's refusal was the node's own."""
        if genuine:
            self._refused(request, node, refusal, reply)
        else:
            self._accepted(request, reply)

    def _accepted(self, request: Request, reply: bytes) -> None:
        flow = request.flow
        if flow is None:
            self.finish(request, reply)
            return
        self._returned(request, flow)
        if flow.probe is request:
            flow.probe = None
            flow.probing = False
            flow.delay = 0.0
            gate = self.gates.get(flow.slot)
            if gate is not None and gate.refusing and gate.probe is flow:
                self._released(gate)
        self.finish(request, reply)
        self._advance(flow)

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

    def _refused(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        slot = request.slot
        redirect: Redirect | None = None
        if refusal == Refusal.MOVED or refusal == Refusal.ASK:
            self._count_redirect(refusal, node)
            redirect = parse_redirect(reply)
            if redirect is None or redirect.slot != slot:
                self._accepted(request, _invalid_redirect(slot, node, reply))
                return
        flow = request.flow
        if flow is None:
            flow = self._adopt(request, node)
            self._adopt_in_flight(slot)
        gate = self._open_gate(slot)
        gate.flows[flow] = None
        self._returned(request, flow)
        # Before anything that may pump flows: while `bounced` holds it, nothing newer of its flow is sent.
        flow.bounced.append(request)
        flow.probing = True
        if flow.probe is request:
            flow.probe = None
        request.retries += 1
        flow.why = f"node {node.name} answered {reply[1:100].decode('utf-8', 'replace').strip()}"
        if redirect is not None:
            self._redirected(request, flow, gate, node, refusal, redirect)
        elif refusal == Refusal.TRYAGAIN:
            self._counters.tryagain += 1
            self._migrates(gate)
            request.tried = None
            parts = split_by_key(request.command.name, arguments_of(request.raw))
            if parts:
                flow.bounced.pop()
                flow.bounced += self.parts_of(request, parts)
            else:
                self._back_off(flow)
        else:
            if refusal == Refusal.CLUSTERDOWN:
                self._counters.clusterdown += 1
            request.tried = None
            self._refuse(gate, flow)
            self._control.refresh_nowait(refusal.name)
        self._advance(flow)

    def parts_of(self, owner: Request, parts: list[Part]) -> list[Request]:
        """The requests into which `owner` is cut."""
        split = Split(owner, parts)
        return [
            Request(owner.client, owner.command, part.slot, part.raw, owner.started, part.distinct > 1, split, index)
            for index, part in enumerate(parts)
        ]

    def _redirected(
        self, request: Request, flow: Flow, gate: Gate, node: Node, refusal: Refusal, redirect: Redirect
    ) -> None:
        host = node.info.host if redirect.host == "" else redirect.host
        target = self._find(host, redirect.port)
        if refusal == Refusal.ASK:
            self._migrates(gate)
            request.asked = target
        if target is None:
            # Dialled only when a refresh says that there is such a node.
            if refusal == Refusal.ASK and host is not None:
                request.asked_at = (host, redirect.port)
            self._hold_for_refresh(flow)
        tried = request.tried
        if tried is None:
            tried = request.tried = []
        tried.append(node)
        if target is None or target in tried:
            request.tried = None
            self._back_off(flow)
        if refusal == Refusal.MOVED:
            if target is not None and self._owner(request.slot) is not target:
                self._patch(gate, target)
            self._control.refresh_nowait("MOVED")

    def _advance(self, flow: Flow) -> None:
        """A request of the flow has come back: when it was the last one out, the refused ones stand first again."""
        if flow.bounced and flow.outstanding == 0:
            flow.waiting.extendleft(reversed(flow.bounced))
            flow.bounced = []
        self.pump(flow)

    def _returned(self, request: Request, flow: Flow) -> None:
        flow.outstanding -= 1
        request.flow = None
        if flow.barrier is request:
            flow.barrier = None

    def _count_redirect(self, refusal: Refusal, node: Node) -> None:
        by_node = self._counters.moved if refusal == Refusal.MOVED else self._counters.ask
        by_node[node.name] = by_node.get(node.name, 0) + 1

    # Flows and gates

    def _open_flow(self, client: "Client", slot: i64) -> Flow:
        flow = Flow(self, client, slot)
        client.flows[slot] = flow
        client.flow_count += 1
        return flow

    def _close_flow(self, flow: Flow) -> None:
        client = flow.client
        if client.flows.get(flow.slot) is not flow:
            return
        del client.flows[flow.slot]
        client.flow_count -= 1
        flow.due = 0.0
        if flow.lane is not None:
            flow.lane.waiters.pop(flow, None)
        gate = self.gates.get(flow.slot)
        if gate is None:
            return
        gate.flows.pop(flow, None)
        if gate.probe is flow:
            gate.probe = None
            if gate.refusing and gate.due == 0.0:
                self.reopen(gate)
                return
        self._close_if_idle(gate)

    def _adopt(self, request: Request, node: Node) -> Flow:
        """Write a request that is in flight at `node`, or has just come back from there, into its client's flow."""
        flow = request.client.flows.get(request.slot)
        if flow is None:
            flow = self._open_flow(request.client, request.slot)
        request.flow = flow
        flow.outstanding += 1
        flow.node = node
        if request.barrier:
            flow.barrier = request
        return flow

    def _adopt_in_flight(self, slot: i64) -> None:
        """Write what is in flight of `slot` on the plain path into flows, before anything changes for the slot."""
        owner = self._owner(slot)
        if owner is None:
            return
        for lane in owner.lanes:
            for request in lane.fifo.all():
                if request.slot == slot:
                    if request.flow is None:
                        self._adopt(request, owner)
                    flow = request.flow
                    gate = self.gates.get(slot)
                    if gate is not None and flow is not None:
                        gate.flows[flow] = None

    def _open_gate(self, slot: i64) -> Gate:
        gate = self.gates.get(slot)
        if gate is None:
            gate = Gate(self, slot)
            self.gates[int(slot)] = gate
            self.routes[slot] = None
            self._adopt_in_flight(slot)
        return gate

    def _close_if_idle(self, gate: Gate) -> None:
        if gate.quiet() and not gate.flows and self.gates.get(gate.slot) is gate:
            gate.due = 0.0
            del self.gates[int(gate.slot)]
            self.routes[gate.slot] = self._owner(gate.slot)

    def _migrates(self, gate: Gate) -> None:
        if gate.quiet():
            self._adopt_in_flight(gate.slot)
        gate.migrating_at = self._reactor.now
        if self._sweep.due == 0.0:
            self._reactor.call_at(self._reactor.now + _SWEEP, self._sweep)

    def _refuse(self, gate: Gate, flow: Flow) -> None:
        """The slot's owner refuses, or there is none: one probe at a time, with backoff."""
        if gate.quiet():
            self._adopt_in_flight(gate.slot)
        gate.refusing = True
        gate.flows[flow] = None
        if gate.probe is flow:
            gate.probe = None
        if gate.due == 0.0:
            gate.delay = min(max(gate.delay * 2, _REFUSED_FIRST), _REFUSED_MOST)
            self._reactor.call_at(self._reactor.now + gate.delay * (0.5 + random.random()), gate)

    def _released(self, gate: Gate) -> None:
        gate.refusing = False
        gate.probe = None
        gate.delay = 0.0
        for other in list(gate.flows):
            self.pump(other)

    def reopen(self, gate: Gate) -> None:
        """A refusing slot is tried again: the first flow that has something to send becomes the probe."""
        gate.probe = None
        for flow in list(gate.flows):
            self.pump(flow)
            if gate.probe is not None:
                return
        if gate.due == 0.0 and not gate.flows:
            gate.refusing = False
            self._close_if_idle(gate)

    def _back_off(self, flow: Flow) -> None:
        flow.delay = min(max(flow.delay * 2, _BACKOFF_FIRST), _BACKOFF_MOST)
        self._reactor.call_at(self._reactor.now + flow.delay * (0.5 + random.random()), flow)

    def _hold_for_refresh(self, flow: Flow) -> None:
        flow.held = True
        if flow not in self._awaiting_refresh:
            self._awaiting_refresh.append(flow)
        self._control.refresh_nowait("unknown node in a redirect")

    def sweep(self) -> None:
        """Fail what has waited too long; forget migrations that have been quiet for a minute."""
        now = self._reactor.now
        for flow in list(self.parked):
            expired = False
            while flow.waiting and now - flow.waiting[0].started >= self._park_timeout:
                expired = True
                self._counters.parked_expired += 1
                self.finish(flow.waiting.popleft(), self._not_served(flow))
            if expired:
                self.pump(flow)
        migrating = False
        for gate in list(self.gates.values()):
            if gate.migrating_at > 0.0:
                if now - gate.migrating_at >= MIGRATION_MEMORY:
                    gate.migrating_at = 0.0
                    for flow in list(gate.flows):
                        self.pump(flow)
                    self._close_if_idle(gate)
                else:
                    migrating = True
        if self.parked or migrating:
            self._reactor.call_at(now + _SWEEP, self._sweep)

    def _not_served(self, flow: Flow) -> bytes:
        what = f"slot {flow.slot}" if flow.slot < SLOTS else "a command without keys"
        return error(
            f"ERR slotproxy: not served: {what} was not served within {self._park_timeout:g} s (--park-timeout);"
            f" not executed; last: {flow.why}"
        )

    # Changes of the map

    def _owner(self, slot: i64) -> Node | None:
        if slot >= SLOTS:
            return self._homes[slot - SLOTS]
        info = self.slot_map.owners[slot]
        return self.nodes.get(info.id) if info is not None else None

    def _find(self, host: str | None, port: int) -> Node | None:
        info = self.slot_map.find_by_port(port) if host is None else self.slot_map.find(host, port)
        if info is None:
            return None
        node = self.nodes.get(info.id)
        if node is None:  # a replica until now: no lanes were needed
            node = self.nodes[info.id] = Node(self._reactor, self, self._counters, info, self._lanes)
        return node

    def _patch(self, gate: Gate, target: Node) -> None:
        """A MOVED named another owner. What is in flight at the old one is in flows: the gate is open."""
        self._adopt_in_flight(gate.slot)
        before = self._owner(gate.slot)
        if self.slot_map.patch(int(gate.slot), target.info):
            self._counters.topology_updates += 1
        self._owner_changed(gate, before)

    def _owner_changed(self, gate: Gate, before: Node | None) -> None:
        gate.migrating_at = 0.0
        if gate.refusing:
            gate.due = 0.0
            gate.probe = None
            gate.refusing = False
            gate.delay = 0.0
        for flow in list(gate.flows):
            self.pump(flow)
        if before is not None:
            for lane in before.lanes:
                self._wake(lane)
        self._close_if_idle(gate)

    def apply(self, topology: Topology, started: int) -> bool:
        """Take a refresh's view of the cluster, begun at the map's version `started`. True when owners changed."""
        owned: set[int] = set()
        in_flight: list[tuple[Request, Node]] = []
        for node in self.nodes.values():
            for lane in node.lanes:
                in_flight += [(request, node) for request in lane.fifo.all()]
        before: dict[int, Node | None] = {int(request.slot): self._owner(request.slot) for request, _ in in_flight}
        changed = set(self.slot_map.apply(topology, started))
        self._renew_nodes()
        for request, node in in_flight:
            if request.slot in changed and request.flow is None:
                self._adopt(request, node)
            if request.slot in changed:
                owned.add(int(request.slot))
        for slot in changed:
            gate = self.gates.get(slot)
            if gate is None and slot in owned:
                gate = Gate(self, slot)
                self.gates[slot] = gate
            if gate is None:
                self.routes[slot] = self._owner(slot)
                continue
            self.routes[slot] = None
        for request, _ in in_flight:
            flow = request.flow
            gate = self.gates.get(request.slot)
            if flow is not None and gate is not None:
                gate.flows[flow] = None
        for slot in changed:
            gate = self.gates.get(slot)
            if gate is not None:
                self._owner_changed(gate, before.get(slot))
        for node in list(self.nodes.values()):
            for lane in node.lanes:
                self._wake(lane)
        if changed:
            self._counters.topology_updates += 1
        return bool(changed)

    def refreshed(self) -> None:
        """A refresh has ended, whether it succeeded or not."""
        flows = self._awaiting_refresh
        self._awaiting_refresh = []
        for flow in flows:
            self.pump(flow)

    def _renew_nodes(self) -> None:
        infos = self.slot_map.nodes
        for id in list(self.nodes):
            node = self.nodes[id]
            info = infos.get(id)
            if info is None:
                del self.nodes[id]
                self._retire(node)
            elif info is not node.info:
                moved = (info.host, info.port) != (node.info.host, node.info.port)
                node.info = info
                if moved:
                    for lane in node.lanes:
                        self.lane_lost(lane, "the node has another address now")
        for id, info in infos.items():
            if info.primary:
                node = self.nodes.get(id) or Node(self._reactor, self, self._counters, info, self._lanes)
                self.nodes[id] = node
                for lane in node.lanes:
                    self._dial(lane)
        self._choose_homes()

    def _choose_homes(self) -> None:
        """Give each pseudo slot a primary; one that has a living one keeps it."""
        primaries = [self.nodes[id] for id, info in sorted(self.slot_map.nodes.items()) if info.primary]
        primaries = [n for n in primaries if not n.unreachable and not n.info.failing] or primaries
        for index in range(KEYLESS):
            home = self._homes[index]
            if home is None or home.unreachable or home not in primaries:
                new = primaries[index % len(primaries)] if primaries else None
                self._homes[index] = new
                slot = SLOTS + index
                gate = self.gates.get(slot)
                if gate is not None:
                    self._owner_changed(gate, home)
                else:
                    self.routes[slot] = new

    # Connections

    def _dial(self, lane: Lane) -> None:
        if not lane.ready and not lane.dialling and not lane.retired:
            lane.dialling = True
            self._control.dial_nowait(lane)

    def _retire(self, node: Node) -> None:
        for lane in node.lanes:
            lane.retired = True
            lane.ready = False
            lane.why = "the node left the cluster"
            if lane.fifo.size == 0:
                lane.close(lane.why)
            self._wake(lane)

    def attached(self, lane: Lane) -> None:
        """A lane is connected: what waited for it goes on."""
        lane.node.unreachable = False
        self._wake(lane)

    def unreachable(self, lane: Lane, why: str) -> None:
        """Connecting a lane failed; the dialler goes on trying. Commands without keys go elsewhere meanwhile."""
        lane.why = why
        if lane.node.connected() == 0 and not lane.node.unreachable:
            lane.node.unreachable = True
            self._choose_homes()

    def _wake(self, lane: Lane) -> None:
        waiters = lane.waiters
        if waiters:
            lane.waiters = {}
            for flow in waiters:
                flow.lane = None
                self.pump(flow)

    def lane_lost(self, lane: Lane, why: str) -> None:
        """A connection broke. Unsent requests and reads are sent again in order; writes that may have run end in doubt."""
        sent, unsent = lane.take_unanswered()
        lane.close(why)
        node = lane.node
        flows: dict[Flow, None] = {}
        for request in sent + unsent:
            flows[request.flow or self._adopt(request, node)] = None
        # A read that an in-doubt write of the same client and slot follows must not be repeated behind that write.
        doubtful: set[Flow] = set()
        again: set[Request] = set(unsent)
        for request in reversed(sent):
            flow = request.flow
            assert flow is not None
            if not request.command.readonly:
                doubtful.add(flow)
            elif flow not in doubtful:
                again.add(request)
        for request in sent + unsent:
            flow = request.flow
            assert flow is not None
            self._returned(request, flow)
            flow.probing = True
            if flow.probe is request:
                flow.probe = None
            flow.why = f"node {node.name}: {why}"
            if request in again:
                request.retries += 1
                flow.bounced.append(request)
            else:
                self.finish(request, self._unanswered(request, node, why))
        if lane.retired:
            self._control.refresh_nowait("connection lost")
        else:
            self._dial(lane)
            self._control.refresh_nowait("connection lost")
        for flow in flows:
            gate = self.gates.get(flow.slot)
            if gate is not None and gate.probe is flow and flow.outstanding == 0:
                gate.probe = None
            self._advance(flow)

    def _unanswered(self, request: Request, node: Node, why: str) -> bytes:
        name = request.command.name.upper().replace("|", " ")
        if request.command.readonly:
            return error(
                f"ERR slotproxy: no answer: {name} was lost with its connection to node {node.name} ({why}); not sent"
                " again because a write that may have run follows it"
            )
        self._counters.in_doubt += 1
        return error(
            f"ERR slotproxy: in doubt: {name} may or may not have run: the connection to node {node.name} was lost"
            f" before it answered ({why}); not sent again"
        )


def _settled(flow: Flow, node: Node) -> bool:
    """Whether newer commands may pass a flow: all it has is in flight, at the slot's present owner."""
    return (
        not flow.waiting
        and not flow.bounced
        and not flow.probing
        and flow.barrier is None
        and (flow.outstanding == 0 or flow.node is node)
    )


def _invalid_redirect(slot: i64, node: Node, reply: bytes) -> bytes:
    shown = ascii(reply[1:100].rstrip(b"\r\n"))[2:-1]
    return error(f"ERR slotproxy: node {node.name} answered slot {slot} with an invalid redirect: {shown}")
