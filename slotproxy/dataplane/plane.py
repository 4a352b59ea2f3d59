"""The data plane as the control plane sees it: one object, whose methods never wait.

Duty: hold the parts together (reactor, router, clients, command table), run ticks, and take what the control plane
brings: accepted and dialled sockets, topologies, the server's command table.

Invariant: whatever a method set in motion has been sent, as far as sockets take it, when the method returns; so the
control plane never has to know about flushing. Timers may have been set: `on_entry` tells the loop to look again.
"""

import os
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64

from slotproxy.cluster.shards import Shards
from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Topology
from slotproxy.dataplane.accounts import NONE, Accounts, Grant
from slotproxy.dataplane.arrivals import Arrivals
from slotproxy.dataplane.clients import Client
from slotproxy.dataplane.controlplane import Control
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.exclusives import Exclusive, Exclusives
from slotproxy.dataplane.fencing import Fencing
from slotproxy.dataplane.hubs import Hubs
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import Greeting, NodeStream
from slotproxy.dataplane.private import Private
from slotproxy.dataplane.reactor import Reactor, TickListener
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.router import Router
from slotproxy.dataplane.scripts import Scripts
from slotproxy.dataplane.senders import Sender
from slotproxy.dataplane.solitary import Asked, Solitary
from slotproxy.dataplane.transport import Transport
from slotproxy.dataplane.turns import Turns
from slotproxy.dataplane.waiting import BlockedClients
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import RequestLimits
from slotproxy.protocol.resp import command as packed
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import SLOTS
from slotproxy.protocol.users import Users

_TABLE_AGE: Final = 60.0  # seconds after which an unknown command has the nodes' table read again


class PlaneLimits:
    """Bounds of the data plane. `max_in_flight` requests, `max_output` bytes, both per client; seconds else.

    `script_cache`: bytes of scripts that are remembered. `allow_admin`: commands for operators are not refused.
    `max_exclusive`: connections to nodes that are leased to one client each. `per_slot`: transactions over several
    slots are run slot by slot. `client_auth`: the mode of `Accounts`, with its `users`.
    """

    def __init__(
        self,
        request: RequestLimits,
        max_clients: int = 10_000,
        max_in_flight: int = 1024,
        max_output: int = 16_777_216,
        park_timeout: float = 30.0,
        lanes_per_node: int = 2,
        script_cache: int = 8_388_608,
        allow_admin: bool = False,
        max_exclusive: int = 10_000,
        per_slot: bool = False,
        client_auth: str = NONE,
        users: Users | None = None,
    ) -> None:
        self.request: Final = request
        self.max_clients: Final = max_clients
        self.max_in_flight: Final = max_in_flight
        self.max_output: Final = max_output
        self.park_timeout: Final = park_timeout
        self.lanes_per_node: Final = lanes_per_node
        self.script_cache: Final = script_cache
        self.allow_admin: Final = allow_admin
        self.max_exclusive: Final = max_exclusive
        self.per_slot: Final = per_slot
        self.client_auth: Final = client_auth
        self.users: Final = users


class Plane(TickListener):
    """The data plane of one proxy."""

    def __init__(self, control: Control, limits: PlaneLimits, clock: Callable[[], float], version: str) -> None:
        self.version: Final = version
        self.run_id: Final = os.urandom(20).hex()  # as a server names its process
        self.control: Final = control
        self.server_version: str = "7.0.15"  # of the nodes, once one has told
        self.counters: Final = Counters()
        self.reactor: Final = Reactor(clock)
        self.table: CommandTable = CommandTable.snapshot()
        self.request_limits: Final = limits.request
        self.limits_before_login: Final = limits.request.before_login()
        self.max_in_flight: i64 = limits.max_in_flight
        self.max_output: i64 = limits.max_output
        self.router: Final = Router(
            self.reactor,
            SlotMap(),
            self.counters,
            control,
            Scripts(limits.script_cache),
            limits.lanes_per_node,
            limits.park_timeout,
        )
        self.shards: Final = Shards()
        self.accounts: Final = Accounts(self, limits.client_auth, limits.users, limits.lanes_per_node)
        self.allow_admin: Final = limits.allow_admin
        self.max_clients: Final = limits.max_clients
        self.clients: dict[int, Client] = {}
        self.resuming: list[Turns] = []
        self.answered: list[Asked] = []  # and not handed over yet
        self.per_slot: Final = limits.per_slot
        self.blocked: Final = BlockedClients()
        self.exclusives: Final = Exclusives(self.reactor, self.counters, control, limits.max_exclusive)
        self.arrivals: Final = Arrivals(self)
        self.hubs: Final = Hubs(self)
        self.private: Final[dict[int, Private]] = {}  # by client id
        self.targets: set[int] = set()  # ids of clients that REDIRECT names
        self.fencing: Final = Fencing(self)
        self.router.fencing = self.fencing
        self.on_entry: Callable[[], None] | None = None
        self._on_finished: Callable[[], None] | None = None
        self._last_client: int = 0
        self._table_read_at: float = float("-inf")
        self._awaiting_table: list[Client] = []
        self._started: Final = self.reactor.now
        self.reactor.listener = self

    # The loop

    def tick(self, timeout: float) -> int:
        """One tick, waiting at most `timeout` seconds for the first ready stream. Returns how many were ready."""
        count = self.reactor.poll(timeout)
        self.reactor.run_timers()
        self.reactor.flush()
        return count

    def run_ticks(self, linger: float, stay: float) -> bool:
        """Ticks, each waiting `linger` seconds for input. True after `stay` seconds; False when nothing more came."""
        if self.tick(linger) == 0:
            return False
        until: float = self.reactor.now + stay
        while self.tick(linger) > 0:
            if self.reactor.now > until:
                return True
        return False

    def after_input(self) -> None:
        """What came back is handed to those who asked; clients that have room again go on with what they had sent."""
        order = self.router.order
        while self.answered or order.troubled or order.calmed:
            answered = self.answered
            self.answered = []
            for asked in answered:
                asked.hand_over()
            if order.troubled:
                slots = order.troubled
                order.troubled = set()
                self.blocked.trouble(slots)
                self.arrivals.doubt(slots)
                self.hubs.moved(slots)
                for private in list(self.private.values()):
                    private.doubt(slots)
            if order.calmed:
                slots = order.calmed
                order.calmed = set()
                self.blocked.calm(slots)
        while self.resuming:
            clients = self.resuming
            self.resuming = []
            for client in clients:
                client.resume()

    def _enter(self) -> None:
        self.reactor.now = self.reactor.clock()

    def _leave(self) -> None:
        self.reactor.flush()
        if self.on_entry is not None:
            self.on_entry()

    # Clients

    def accept(self, transport: Transport, address: str) -> None:
        """Serve a client that has connected."""
        if self._on_finished is not None:  # draining
            transport.close()
            return
        self._enter()
        self.counters.clients_total += 1
        if len(self.clients) >= self.max_clients:
            self.counters.clients_refused += 1
            transport.send(error("ERR max number of clients reached"))
            transport.close()
            return
        self._last_client += 1
        client = Client(self, transport, self._last_client, address)
        self.clients[client.id] = client
        self._leave()  # there may be a time by which it has to log in

    def client_closed(self, client: Client) -> None:
        """A client has closed its transport."""
        self.accounts.leave(client, True)
        self.clients.pop(client.id, None)
        if self.private.pop(client.id, None) is not None:
            self.note_targets()
        if self._on_finished is not None and not self.clients:
            self._on_finished()

    def note_targets(self) -> None:
        """A client has changed what it tracks."""
        found: set[int] = set()
        for private in self.private.values():
            if private.options is not None:
                found.add(private.options.redirect)
        self.targets = found

    def finish_clients(self, finished: Callable[[], None]) -> int:
        """Let every client finish what it has asked for, and take nothing more.

        Returns how many are left; `finished` is called when the last of them has been closed.
        """
        self._enter()
        self._on_finished = finished
        for client in list(self.clients.values()):
            client.finish()
            task = client.task
            if task is not None:
                task.depart()
        self._leave()
        return len(self.clients)

    def unblock(self, exclusive: Exclusive, client: Sender, taker: Solitary, how: bytes = b"ERROR") -> bool:
        """Have the node end what blocks on a connection; `taker` is told the reply (index -1). False: nobody can.

        Not when the node is another process by now: ids start anew with each.
        """
        run = exclusive.server_run
        own = self.router.territory.own.identity  # it is the proxy's command, whatever the client's user may do
        for lane in exclusive.node.lanes:
            if lane.key.identity is not own or not lane.key.shared:
                continue
            if lane.ready and exclusive.client_id and (run == "" or lane.server_run == run):
                arrivals = self.arrivals
                asked = Asked(self, arrivals.owner, taker, -1, patient=False)
                raw = packed([b"CLIENT", b"UNBLOCK", b"%d" % exclusive.client_id, how])
                lane.enqueue(Request(arrivals, arrivals.exists, SLOTS, raw, self.reactor.now, False, asked))
                return True
        return False

    def close(self) -> None:
        """Close every connection at once."""
        for client in list(self.clients.values()):
            client.close()
        self.exclusives.close()
        self.hubs.close()
        for node in self.router.territory.nodes.values():
            for lane in node.lanes:
                lane.retired = True
                lane.close("the proxy ends")
        self.reactor.close()

    # Nodes

    def use_table(self, table: CommandTable, server_version: str) -> None:
        """Look commands up in the nodes' own table from now on; what was counted so far stays counted."""
        calls = {command.name: int(command.calls) for command in self.table.commands()}
        for command in table.commands():
            command.calls += calls.get(command.name, 0)
        self.table = table
        self.server_version = server_version

    def table_may_be_old(self) -> bool:
        """Whether a command that the table lacks may be one that a node has learnt (a module was loaded)."""
        return self.reactor.now - self._table_read_at >= _TABLE_AGE

    def await_table(self, client: Client) -> None:
        """Hold a client until the nodes' table has been read again."""
        client.hold()
        if not self._awaiting_table:
            self.control.read_table_nowait()
        self._awaiting_table.append(client)

    def table_read(self) -> None:
        """The nodes' table has been read, or could not be."""
        self._enter()
        self._table_read_at = self.reactor.now
        waiting = self._awaiting_table
        self._awaiting_table = []
        for client in waiting:
            client.release()
        self._leave()

    def login_judged(self, login: Login, grant: Grant | None, reply: bytes) -> None:
        """A node has said whether the credentials of an AUTH are right (`grant`); `reply`: what the client gets."""
        self._enter()
        login.judged(grant, reply)
        self._leave()

    def decide_default(self, grant: Grant | None) -> None:
        """What clients have that have not logged in; None: they have to."""
        self._enter()
        self.accounts.decide(grant)
        self._leave()

    def revoke(self, grant: Grant) -> int:
        """The cluster does not accept its credentials any more. Returns how many clients had to be closed."""
        self._enter()
        closed = self.accounts.revoke(grant)
        self._leave()
        return closed

    def use_users(self, users: Users) -> list[bytes]:
        """The file of users has been read anew; see `Accounts.use_users`."""
        self._enter()
        closed = self.accounts.use_users(users)
        self._leave()
        return closed

    def supplied(self, asked: Asked) -> None:
        """A function is where it was wanted, or nobody has it."""
        self._enter()
        self.answered.append(asked)
        self._leave()

    def answered_aside(self, request: Request, reply: bytes) -> None:
        """What was asked on a connection of its own has been answered."""
        self._enter()
        self.router.finish(request, reply)
        self._leave()

    def attach(self, stream: NodeStream, transport: Transport, greeting: Greeting) -> None:
        """Give a stream to a node its connection; one that was retired meanwhile has no use for it."""
        if stream.retired:
            transport.close()
            return
        self._enter()
        stream.attach(transport, greeting)
        stream.on_attached()
        self._leave()

    def unreachable(self, stream: NodeStream, why: str) -> None:
        """An attempt to connect a stream to a node failed."""
        self._enter()
        stream.on_unreachable(why)
        self._leave()

    def apply(self, topology: Topology, started: int) -> int:
        """Take a refreshed topology; `started` is the map's version when the refresh began."""
        self._enter()
        changed = self.router.apply(topology, started)
        self.shards.follow(self.router.slot_map)
        self.hubs.follow()
        self._leave()
        return changed

    def refreshed(self) -> None:
        """A refresh has ended."""
        self._enter()
        self.router.refreshed()
        self._leave()

    def confirmed(self, request: Request, node: Node, refusal: Refusal, reply: bytes, genuine: bool) -> None:
        """A script's or module's refusal has been looked into."""
        self._enter()
        self.router.doubts.confirmed(request, node, refusal, reply, genuine)
        self._leave()

    # What there is

    def subscribed_clients(self) -> int:
        """Clients that have subscribed to something."""
        have = [client.subscriptions for client in self.clients.values()]
        return sum([1 for one in have if one is not None and one.total() > 0])

    def client_count(self) -> int:
        """Connected clients."""
        return len(self.clients)

    def private_clients(self) -> int:
        """Clients with lanes of their own."""
        return len(self.private) + sum(1 for client in self.clients.values() if client.monitor is not None)

    def uptime(self) -> float:
        """Seconds since start."""
        return self.reactor.now - self._started

    def in_flight(self) -> int:
        """Requests sent to nodes and not answered."""
        return sum(node.in_flight() for node in self.router.territory.nodes.values())

    def parked(self) -> int:
        """Requests that wait for their slot."""
        return sum(len(flow.waiting) + len(flow.bounced) for flow in self.router.order.parked)

    def migrating_slots(self) -> list[int]:
        """Slots that count as migrating."""
        return sorted(slot for slot, gate in self.router.order.gates.items() if gate.migrating_at > 0.0)
