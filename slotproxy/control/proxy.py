"""One proxy: the two planes put together, started, and ended.

Duty: own the nursery in which everything that waits runs (listeners, dialling, the refresher, the admin endpoint,
signals), run the reactor's ticks, and be what the data plane asks for (`Control`).

Invariants: everything that touches the data plane runs in this one thread, between ticks. What a task of the control
plane fails with ends the proxy, except where a failure is expected and named. SIGTERM: not ready, no new clients, what
is in flight is finished within the drain time, exit 0.
"""

import contextlib
import logging
import signal
from collections.abc import Callable

import trio

from slotproxy.build import flavour
from slotproxy.cluster.refresher import QueryFailed, Refresher
from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address, Topology, TopologyError
from slotproxy.control.admin import serve_admin
from slotproxy.control.config import Config
from slotproxy.control.confirming import is_genuine
from slotproxy.control.connection import Credentials, ErrorReply, NodeConnection, NodeUnavailable, connect
from slotproxy.control.descriptors import room
from slotproxy.control.dialling import open_stream
from slotproxy.control.identities import Identities
from slotproxy.control.listeners import listen_all, serve_listeners
from slotproxy.control.querying import ask_aside, ask_commands, ask_topology, ask_version
from slotproxy.control.rereading import reread
from slotproxy.control.supplying import Functions
from slotproxy.dataplane.accounts import PASSTHROUGH, Grant
from slotproxy.dataplane.counters import Counters
from slotproxy.dataplane.exclusives import Exclusive
from slotproxy.dataplane.lanes import Node
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
from slotproxy.dataplane.plane import Plane, PlaneLimits
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.protocol.redirects import Refusal
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import error

_log = logging.getLogger("slotproxy")

_STAY = 0.005  # seconds of ticks between two turns of the control plane
_ERRANDS = 32  # connections of each kind for what clients ask aside or what has to be found out for them
_LINGER = 0.001  # how long a tick waits for the next input before the reactor goes back to sleep


class Proxy:
    """The proxy that `config` describes. `run` is its whole life."""

    def __init__(self, config: Config, version: str) -> None:
        self._config = config
        self._version = version
        self._credentials = Credentials(config.cluster_user, config.cluster_password)
        self._draining = False
        self._drained = trio.Event()
        self._changed = trio.Event()  # something that readiness depends on may have changed
        self._table_loaded = False
        self._nursery: trio.Nursery
        self._sleep: trio.CancelScope | None = None
        max_clients, max_exclusive = room(config.max_clients, config.max_exclusive)
        if max_clients < config.max_clients:
            _log.warning(
                "the limit of open files leaves room for %d clients (--max-clients %d); raise it: ulimit -n",
                max_clients,
                config.max_clients,
            )
        if max_exclusive < config.max_exclusive:
            _log.debug(
                "the limit of open files leaves room for %d blocked or watching clients (--max-exclusive %d)",
                max_exclusive,
                config.max_exclusive,
            )
        limits = PlaneLimits(
            config.request_limits(),
            max_clients,
            config.max_in_flight,
            config.max_output,
            config.park_timeout,
            config.connections_per_node,
            config.script_cache,
            config.allow_admin,
            max_exclusive,
            config.cross_slot_transactions == "per-slot",
            config.client_auth.mode,
            config.client_auth.users,
        )
        clock: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self.plane = Plane(self, limits, clock, version)
        self.plane.on_entry = self._look_again
        self._functions = Functions(self.slot_map, self._credentials, config.address_map, self._count_functions)
        # What clients ask for opens connections: not so many at once that none are left for anything else.
        self._confirming = trio.CapacityLimiter(_ERRANDS)
        self._asking_aside = trio.CapacityLimiter(_ERRANDS)
        self._leasing: dict[str, trio.CapacityLimiter] = {}  # by node, so that a silent one holds up no other
        self._identities = Identities(
            self.plane, config.cluster, config.address_map, config.refresh_interval, config.connect_timeout
        )
        self._refresher = Refresher(
            self.slot_map,
            config.cluster,
            self._query,
            self.plane.apply,
            self._refreshed,
            config.refresh_interval,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until a signal; returns when drained. Raises ConfigError where an address cannot be used."""
        config = self._config
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._config.admin is not None:
                    await nursery.start(self._serve_admin)
                listeners = await listen_all(self._config.listen)
                nursery.start_soon(self._run_reactor)
                nursery.start_soon(self._refresher.run)
                if config.client_auth.mode == PASSTHROUGH:
                    nursery.start_soon(self._identities.run)
                accepting = trio.CancelScope()
                nursery.start_soon(serve_listeners, listeners, self.plane, accepting)
                addresses = ", ".join(map(str, self._config.listen))
                _log.info("slotproxy %s (%s) listens on %s", self._version, flavour(), addresses)
                nursery.start_soon(self._report_ready)
                task_status.started()
                async for number in signals:
                    if number == signal.SIGHUP:
                        reread(config, self._credentials, self.plane)
                        continue
                    _log.info("%s: draining", signal.Signals(number).name)
                    break
                self._draining = True
                accepting.cancel()
                nursery.start_soon(self._drain)
                async for number in signals:
                    if number == signal.SIGHUP:
                        continue
                    _log.info("%s again: ending at once", signal.Signals(number).name)
                    nursery.cancel_scope.cancel()
                    break
        self.plane.close()

    # What the data plane asks for

    def dial_nowait(self, stream: NodeStream) -> None:
        """Connect a stream to its node; those that clients lease not all at once."""
        limiter = None
        if isinstance(stream, Exclusive):
            limiter = self._leasing.setdefault(stream.node.info.id, trio.CapacityLimiter(_ERRANDS))
        self._nursery.start_soon(self._dial, stream, limiter)

    async def _dial(self, stream: NodeStream, limiter: trio.CapacityLimiter | None) -> None:
        async with limiter or contextlib.nullcontext():
            await open_stream(
                stream,
                self.plane,
                self._credentials,
                self._config.address_map,
                self._config.connect_timeout,
                self._identities,
            )

    def check_login_nowait(self, login: Login) -> None:
        """Have a node judge the credentials of an AUTH."""
        self._nursery.start_soon(self._identities.judge, login)

    def forget_login_nowait(self, grant: Grant) -> None:
        """Forget credentials."""
        self._identities.forget(grant)

    def refresh_nowait(self, why: str) -> None:
        """Refresh the topology soon."""
        _log.debug("topology refresh wanted: %s", why)
        self._refresher.request_nowait()

    def confirm_nowait(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        """Find out whether a script's refusal is the node's own."""
        self._nursery.start_soon(self._confirm, request, node, refusal, reply)

    async def _confirm(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> None:
        async with self._confirming:
            genuine = await self._is_genuine(request, node, refusal, reply)
        self.plane.confirmed(request, node, refusal, reply, genuine)

    async def _is_genuine(self, request: Request, node: Node, refusal: Refusal, reply: bytes) -> bool:
        address = (node.info.host, node.info.port)
        address_map = self._config.address_map
        if refusal == Refusal.NOFUNCTION:
            name = arguments_of(request.raw)[1]
            return await self._functions.supply(name, address, request.raw, request.started)
        return await is_genuine(refusal, reply, request.slot, address, self._credentials, address_map)

    def supply_nowait(self, name: bytes, node: Node, asked: Asked) -> None:
        """See to it that a node has a function."""
        self._nursery.start_soon(self._supply, name, (node.info.host, node.info.port), asked)

    async def _supply(self, name: bytes, address: Address, asked: Asked) -> None:
        async with self._confirming:
            await self._functions.bring(name, address)
        self.plane.supplied(asked)

    def _count_functions(self) -> None:
        self.counters.functions_supplied += 1

    def ask_aside_nowait(self, request: Request, node: Node, key: StreamKey) -> None:
        """Send a request on a connection of its own."""
        self._nursery.start_soon(self._ask_aside, request, node, key)

    async def _ask_aside(self, request: Request, node: Node, key: StreamKey) -> None:
        credentials = self._identities.credentials(key.identity) if key.identity.name else self._credentials
        if credentials is None:
            self.plane.answered_aside(request, error("ERR slotproxy: no answer: its user may not log in any more"))
            return
        address = (node.info.host, node.info.port)
        # A node that is busy with a script may not answer before its busy-reply-threshold, 5 s if nobody has set it.
        within = max(self._config.park_timeout, self._config.connect_timeout)
        async with self._asking_aside:
            reply = await ask_aside(request.raw, key.protocol, address, credentials, self._config.address_map, within)
        self.plane.answered_aside(request, reply)

    def read_table_nowait(self) -> None:
        """Have the command table read again."""
        self._nursery.start_soon(self._read_table)

    async def _read_table(self) -> None:
        before = self.plane.table
        self._table_loaded = False
        await self._refresher.refresh()
        if self.plane.table is not before:
            _log.info("the command table was read again, for a command that it did not have")
        self.plane.table_read()

    # Loops

    async def _run_reactor(self) -> None:
        plane = self.plane
        reactor = plane.reactor
        descriptor = reactor.fileno()
        while True:
            with trio.CancelScope(deadline=reactor.next_due()) as self._sleep:
                await trio.lowlevel.wait_readable(descriptor)
            self._sleep = None
            # Each wake-up through trio costs as much as ten requests: stay while there is work.
            while plane.run_ticks(_LINGER, _STAY):
                await trio.lowlevel.checkpoint()

    def _look_again(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if self._sleep is not None:
            self._sleep.deadline = min(self._sleep.deadline, self.plane.reactor.next_due())

    def _refreshed(self) -> None:
        self.plane.refreshed()
        self._identities.look_again_nowait()

    async def _query(self, address: Address) -> Topology:
        dialled = self._config.address_map.apply(address)
        try:
            async with await connect(dialled, self._credentials) as connection:
                topology = await ask_topology(connection, address)
                if not self._table_loaded:
                    await self._load_table(connection)
                return topology
        except (NodeUnavailable, ErrorReply, TopologyError) as problem:
            hint = " (--cluster has to name nodes of a cluster)" if "cluster support disabled" in str(problem) else ""
            raise QueryFailed(f"{problem}{hint}") from problem

    async def _load_table(self, connection: NodeConnection) -> None:
        version = self.plane.server_version
        try:
            version = await ask_version(connection)
        except ErrorReply as problem:
            _log.warning("the nodes are taken for Redis %s, for one does not tell its version: %s", version, problem)
        try:
            self.plane.use_table(await ask_commands(connection, version), version)
        except (ErrorReply, ValueError) as problem:
            _log.warning("the packaged command table is used: the node does not tell its own: %s", problem)
        self._table_loaded = True

    async def _report_ready(self) -> None:
        if reasons := self.readiness():
            _log.info("not ready yet: %s", "; ".join(reasons))
        while self.readiness():
            await self._changed.wait()
        _log.info("ready: %d slots covered", self.slot_map.covered())

    async def _serve_admin(self, *, task_status: trio.TaskStatus[list[Address]]) -> None:
        assert self._config.admin is not None
        await serve_admin(self._config.admin, sources=self, readiness=self.readiness, task_status=task_status)

    async def _drain(self) -> None:
        with trio.move_on_after(self._config.drain_timeout) as patience:
            if self.plane.finish_clients(self._drained.set):
                await self._drained.wait()
        if patience.cancelled_caught:
            left = self.client_connections()
            _log.warning("%d clients were not drained within %g s", left, self._config.drain_timeout)
        self._nursery.cancel_scope.cancel()

    # What the admin endpoint shows

    @property
    def counters(self) -> Counters:
        """The data plane's counts."""
        return self.plane.counters

    @property
    def slot_map(self) -> SlotMap:
        """Who owns which slot."""
        return self.plane.router.slot_map

    def readiness(self) -> list[str]:
        """Why clients cannot be served fully; nothing when they can."""
        if self._draining:
            return ["draining"]
        covered, slots = self.slot_map.covered(), len(self.slot_map.owners)
        reasons = []
        if covered < slots:
            serves = "the cluster serves no more" if covered else "the cluster has not been formed yet"
            why = self._refresher.last_error or serves
            reasons.append(f"{covered} of {slots} slots have an owner ({why})")
        for info in {info.id: info for info in self.slot_map.owners if info is not None}.values():
            node = self.plane.router.territory.nodes.get(info.id)
            if node is None or node.connected() == 0:
                why = node.lanes[0].why if node is not None else "unknown"
                reasons.append(f"primary {info.name} is not connected ({why})")
        return reasons

    def command_calls(self) -> dict[str, int]:
        """Calls by command name, those without a call left out."""
        return {command.name: int(command.calls) for command in self.plane.table.commands() if command.calls > 0}

    def client_connections(self) -> int:
        """Connected clients."""
        return self.plane.client_count()

    def node_connections(self) -> dict[str, int]:
        """Multiplexed connections that are ready, by node."""
        nodes = self.plane.router.territory.nodes.values()
        return {node.name: node.connected() for node in nodes if node.info.primary or node.connected()}

    def in_flight(self) -> int:
        """Requests sent to nodes and not answered."""
        return self.plane.in_flight()

    def subscribed_clients(self) -> int:
        """Clients with subscriptions."""
        return self.plane.subscribed_clients()

    def subscription_connections(self) -> int:
        """Connections to nodes for them."""
        return self.plane.hubs.connections()

    def parked(self) -> int:
        """Requests waiting for their slot."""
        return self.plane.parked()

    def exclusive_connections(self) -> int:
        """Connections to nodes that are leased to one client."""
        return self.plane.exclusives.leased()

    def blocked_clients(self) -> int:
        """Clients in a blocking command."""
        return self.plane.blocked.count

    def private_clients(self) -> int:
        """Clients with connections to nodes of their own."""
        return self.plane.private_clients()

    def migrating_slots(self) -> list[int]:
        """Slots that count as migrating."""
        return self.plane.migrating_slots()

    def script_cache_bytes(self) -> int:
        """Texts of scripts remembered, in bytes."""
        return self.plane.router.scripts.size

    def refresh_failures(self) -> int:
        """Refreshes that no node answered."""
        return self._refresher.failures

    def version(self) -> str:
        """This package's version."""
        return self._version

    def flavour(self) -> str:
        """compiled or interpreted."""
        return flavour()
