"""A data plane between scripted clients and scripted nodes, with a clock that only a test moves.

Duty: put a `Plane` and a `ScriptedCluster` together, be its control plane (dialling, refreshes and confirmations happen
when the test says so, or at once), and run both until nothing moves any more. Everything goes through `Plane` and its
`Control`; the few looks inside are the properties at the end of `Rig`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hiredis

from slotproxy.cluster.topology import Topology
from slotproxy.dataplane.accounts import NONE, Grant
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import Greeting, NodeStream, StreamKey
from slotproxy.dataplane.plane import Plane, PlaneLimits
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.dataplane.transport import Transport
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import RequestLimits
from slotproxy.protocol.users import parse_users
from tests.scripted_frames import pack
from tests.scripted_node import NodeLink, ScriptedCluster, ScriptedNode
from tests.watched_socket import WatchedSocket, socket_pair

TABLE = CommandTable.snapshot()


class ManualClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


class ScriptedControl:
    """The control plane: it notes what it is asked, and answers when told (`Rig`)."""

    def __init__(self) -> None:
        self.dials: list[NodeStream] = []
        self.refreshes: list[str] = []
        self.confirmations: list[tuple[Request, Node, Refusal, bytes]] = []
        self.asides: list[tuple[Request, Node]] = []
        self.supplies: list[tuple[bytes, Node, Asked]] = []
        self.logins: list[Login] = []  # not judged yet
        self.forgotten: list[Grant] = []
        self.table_reads = 0  # asked for, and not answered yet
        self.table_reads_in_all = 0

    def dial_nowait(self, stream: NodeStream) -> None:
        self.dials.append(stream)

    def refresh_nowait(self, why: str) -> None:
        self.refreshes.append(why)

    def confirm_nowait(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        self.confirmations.append((request, node, refusal, reply))

    def supply_nowait(self, name: bytes, node: Node, asked: Asked) -> None:
        self.supplies.append((name, node, asked))

    def ask_aside_nowait(self, request: Request, node: Node, key: StreamKey) -> None:
        self.asides.append((request, node))

    def check_login_nowait(self, login: Login) -> None:
        self.logins.append(login)

    def forget_login_nowait(self, grant: Grant) -> None:
        self.forgotten.append(grant)

    def read_table_nowait(self) -> None:
        self.table_reads += 1
        self.table_reads_in_all += 1


class ScriptedClient:
    """A plain client. `replies` is what it got so far, decoded; errors are hiredis.ReplyError."""

    def __init__(self, sock: socket.socket, proxy_end: WatchedSocket) -> None:
        self.proxy_end = proxy_end
        self.raw = b""
        self.replies: list[Any] = []
        self.closed = False  # by the proxy
        self._unsent = b""
        self._socket = sock
        self._reader = hiredis.Reader()

    def send(self, *words: bytes | str | int) -> None:
        """One command; it travels with the next `pump`."""
        self.send_bytes(pack(*words))

    def send_bytes(self, data: bytes) -> None:
        self._unsent += data
        self.pump()

    def pump(self) -> int:
        """Send and receive what the sockets take and have; how many bytes moved."""
        if self._socket.fileno() < 0:
            return 0
        moved = 0
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
                moved += sent
            except BlockingIOError:
                pass
            except OSError:
                self._unsent = b""
        return moved

    def read(self) -> int:
        """Take what has arrived; how many bytes."""
        moved = 0
        while self._socket.fileno() >= 0 and not self.closed:
            try:
                data = self._socket.recv(65_536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            moved += len(data)
            self.raw += data
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self.replies.append(reply)
        return moved

    def finish(self) -> None:
        """Half-close: nothing more will be sent, replies are still read."""
        self._socket.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        self._socket.close()

    def errors(self) -> list[str]:
        return [str(reply) for reply in self.replies if isinstance(reply, hiredis.ReplyError)]


class Rig:
    """`Rig(nodes)`: a connected plane. `close` at the end; the `make_rig` fixture does it."""

    def __init__(
        self,
        nodes: int = 2,
        *,
        owning: int | None = None,
        lanes: int = 1,
        park_timeout: float = 30.0,
        max_clients: int = 100,
        max_in_flight: int = 1024,
        max_output: int = 16_777_216,
        max_exclusive: int = 100,
        per_slot: bool = False,
        client_auth: str = NONE,
        users: str | None = None,
        table: CommandTable = TABLE,
    ) -> None:
        self.clock = ManualClock()
        self.cluster = ScriptedCluster(nodes, owning)
        self.cluster.clock = self.clock
        self.control = ScriptedControl()
        limits = PlaneLimits(
            RequestLimits(),
            max_clients,
            max_in_flight,
            max_output,
            park_timeout,
            lanes,
            max_exclusive=max_exclusive,
            per_slot=per_slot,
            client_auth=client_auth,
            users=None if users is None else parse_users(users.encode()),
        )
        self.denied = b""  # what nodes answer to MULTI and EXEC
        self.plane = Plane(self.control, limits, self.clock, "0.0.0")
        self.plane.table = table
        self.clients: list[ScriptedClient] = []
        self.sockets: list[WatchedSocket] = []  # the proxy's ends
        self._ends: dict[tuple[str, int], WatchedSocket] = {}
        self.passwords: dict[bytes, bytes] = {}  # of the cluster's users
        self.grants: dict[tuple[bytes, bytes], Grant] = {}  # by user and password
        self.judging = True  # whether `run` has nodes judge logins by itself
        self.dialling = True  # whether `run` connects lanes by itself
        self.reading = True  # whether clients read by themselves
        self.next_table: CommandTable | None = None  # what the nodes' table is when it is read again
        self.table_is_read = True  # whether `run` reads it by itself
        self.plane.apply(self.cluster.nodes[0].topology(), 0)
        self.connect()
        self.run()

    @property
    def nodes(self) -> list[ScriptedNode]:
        return self.cluster.nodes

    def client(self, *, room: int | None = None) -> ScriptedClient:
        """A client that has connected."""
        watched, theirs = socket_pair()
        client = ScriptedClient(theirs, watched)
        watched.room = room
        self.sockets.append(watched)
        self.clients.append(client)
        self.plane.accept(Transport(watched), f"client {len(self.clients)}")
        return client

    # The control plane

    def connect(self) -> int:
        """Connect every lane that asked for it, as the dialler does; how many."""
        lanes, self.control.dials = self.control.dials, []
        for lane in lanes:
            self.connect_lane(lane)
        return len(lanes)

    def connect_lane(self, lane: NodeStream) -> None:
        """Connect one lane, its lost predecessor killed first (the fence)."""
        node = self.cluster.by_port(lane.node.info.port)
        for link in node.links:
            if link.id in lane.fences:
                link.drop()
        sock = node.connect()
        node.links[-1].protocol = lane.key.protocol
        node.links[-1].user = lane.key.identity.name
        prepare = lane.preparation()
        if prepare is None:
            node.links[-1].drop()
            sock.close()
            self.plane.unreachable(lane, "not yet")
            self.control.dials.append(lane)
            return
        for command in prepare:
            node.run(node.links[-1], command, asking=False)
        self.sockets.append(sock)
        self._ends[(node.name, node.last_id)] = sock
        self.plane.attach(lane, Transport(sock), Greeting(node.last_id, node.name, self.denied, list(lane.fences)))

    def refuse_dials(self, why: str = "connection refused") -> None:
        """Every lane that asked is told that its node cannot be reached; it goes on asking."""
        for lane in self.control.dials:
            self.plane.unreachable(lane, why)

    def refresh(self, node: ScriptedNode | None = None, topology: Topology | None = None) -> None:
        """A refresh that starts and ends now, answered by `node` (the first one if None)."""
        started = self.plane.router.slot_map.version
        self.plane.apply(topology or (node or self.nodes[0]).topology(), started)
        self.plane.refreshed()

    def confirm(self, genuine: bool) -> None:
        """Answer the oldest question about a script's refusal."""
        request, node, refusal, reply = self.control.confirmations.pop(0)
        self.plane.confirmed(request, node, refusal, reply, genuine)

    def judge(self) -> None:
        """A node judges the oldest login, by `passwords`."""
        login = self.control.logins.pop(0)
        given = login.given
        if given is None:
            return
        user = given.user or b"default"
        if self.passwords.get(user) != given.password:
            self.plane.login_judged(login, None, b"-WRONGPASS no such pair\r\n")
            return
        grant = self.grants.get((user, given.password))
        if grant is None or grant in self.control.forgotten:
            grant = self.plane.accounts.grant(user, b"%d" % (len(self.grants) + 1))
            self.grants[(user, given.password)] = grant
        self.plane.login_judged(login, grant, b"")

    def supply(self, *, found: bool = True) -> None:
        """The oldest function that was asked for is brought to its node, unless nobody has it."""
        name, node, asked = self.control.supplies.pop(0)
        if found:
            self.cluster.by_port(node.info.port).functions.add(name.lower())
        self.plane.supplied(asked)

    def read_table(self) -> None:
        """The command table that was asked for is read."""
        self.control.table_reads = 0
        if self.next_table is not None:
            self.plane.use_table(self.next_table, "7.0.15")
        self.plane.table_read()

    # Time

    def tick(self) -> int:
        return self.plane.tick(0)

    def _moved(self) -> int:
        return sum(sock.moved for sock in self.sockets)

    def run(self, limit: int = 10_000) -> None:
        """Go on until nothing moves; no time passes."""
        for _ in range(limit):
            before = self._moved()
            moved = 0
            for client in self.clients:
                moved += client.pump()
            self.tick()
            moved += self.cluster.serve()
            if self.dialling:
                moved += self.connect()
            if self.judging and self.control.logins:
                moved += 1
                self.judge()
            if self.table_is_read and self.control.table_reads:
                moved += 1
                self.read_table()
            if self.reading:
                for client in self.clients:
                    moved += client.read()
            if moved == 0 and self._moved() == before:
                return
        raise AssertionError("it does not come to rest")

    def run_proxy(self, ticks: int = 3) -> None:
        """Only the proxy runs: clients' bytes go to the nodes' sockets, and nothing is executed."""
        for _ in range(ticks):
            for client in self.clients:
                client.pump()
            self.tick()

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, timer by timer (`step` seconds apart at most), running all that moves."""
        self.run()
        end = self.clock.now + seconds
        while True:
            due = self.plane.reactor.next_due()
            self.clock.now = max(self.clock.now, min(due, end, self.clock.now + step))
            self.run()
            if self.clock.now >= end and self.plane.reactor.next_due() > end:
                return

    # Looks inside

    @property
    def moved(self) -> int:
        """MOVED replies counted, all nodes together."""
        return sum(self.plane.counters.moved.values())

    @property
    def ask(self) -> int:
        """ASK replies counted, all nodes together."""
        return sum(self.plane.counters.ask.values())

    def owner(self, slot: int) -> str:
        """The name of the node that owns the slot in the proxy's map; "" for none."""
        info = self.plane.router.slot_map.owners[slot]
        return "" if info is None else self.cluster.by_id(info.id).name

    def node_end(self, node: ScriptedNode) -> WatchedSocket:
        """The proxy's end of its newest connection to `node`."""
        return self._ends[(node.name, node.last_id)]

    def link_of(self, lane: NodeStream) -> NodeLink:
        """The node's end of a lane's connection."""
        node = self.cluster.by_port(lane.node.info.port)
        return next(link for link in node.links if link.id == lane.client_id)

    def exclusive_links(self, node: ScriptedNode) -> list[NodeLink]:
        """The node's ends of the connections that are, or were, leased."""
        shared = {lane.client_id for lane in self.plane.router.territory.nodes[node.id].lanes}
        return [link for link in node.open_links() if link.id not in shared]

    def tracking_link(self, node: ScriptedNode) -> NodeLink:
        """The node's end of the connection on which it tells of changed keys."""
        return self.link_of(self.plane.router.territory.nodes[node.id].lanes[-1])

    def link_used_by(self, client: ScriptedClient, node: ScriptedNode) -> NodeLink:
        """The node's end of the connection that carries a client's commands."""
        return self.link_of(self.plane.router.territory.nodes[node.id].lanes[self.client_lane(client)])

    def client_lane(self, client: ScriptedClient) -> int:
        """The index of the lanes that a client uses."""
        return self.plane.clients[self.clients.index(client) + 1].lane

    def in_flight(self, slot: int) -> bool:
        """Whether commands of `slot` are on their way, wherever."""
        lanes = [lane for node in self.plane.router.territory.nodes.values() for lane in node.lanes]
        return any(request.slot == slot for lane in lanes for request in lane.fifo.all())

    def streams_to(self, node: ScriptedNode, slot: int | None = None) -> bool:
        """Whether commands (of `slot`) are on their way to `node` that do not wait for one another's replies."""
        router = self.plane.router
        for entry in router.territory.nodes.values():
            if entry.info.id != node.id:
                continue
            for request in [request for lane in entry.lanes for request in lane.fifo.all()]:
                gate = router.order.gates.get(request.slot)
                alone = request.flow is not None and request.flow.outstanding == 1 and not request.flow.bounced
                if slot in (None, request.slot) and (gate is None or gate.quiet() or not alone):
                    return True
        return False

    def left_over(self) -> list[str]:
        """State that a quiet plane must not have: flows, gates, parked requests, requests in flight."""
        found = [
            f"gate of slot {slot}: refusing {gate.refusing}, flows {len(gate.flows)}"
            for slot, gate in self.plane.router.order.gates.items()
            if not gate.unproven or gate.flows or gate.refusing  # the next command proves the new owner
        ]
        for client in self.plane.clients.values():
            found += [f"flow of client {client.id}, slot {slot}" for slot in client.flows]
            if client.detours != (client.private is not None) + (client.monitor is not None):
                found.append(f"client {client.id} counts {client.detours} detours")
            if client.queue.size:
                found.append(f"client {client.id} waits for {client.queue.size} replies")
        if self.plane.parked():
            found.append(f"{self.plane.parked()} parked")
        if self.plane.in_flight():
            found.append(f"{self.plane.in_flight()} in flight")
        found += [f"flow of the proxy's own, slot {slot}" for slot in self.plane.arrivals.flows]
        if self.plane.blocked.count:
            found.append(f"{self.plane.blocked.count} blocked clients")
        if self.plane.exclusives.leased():
            found.append(f"{self.plane.exclusives.leased()} connections leased")
        return found

    def close(self) -> None:
        self.plane.close()
        for node in self.nodes:
            node.drop_links()
        for client in self.clients:
            client.vanish()
        for sock in self.sockets:
            sock.close()


@contextmanager
def rig_of(nodes: int = 2, **settings: Any) -> Iterator[Rig]:
    """A rig for as long as the block lasts."""
    rig = Rig(nodes, **settings)
    try:
        yield rig
    finally:
        rig.close()
