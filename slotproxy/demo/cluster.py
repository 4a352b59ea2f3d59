"""A real cluster of redis-server processes on loopback, formed in about two seconds.

    async with EmbeddedCluster(primaries=3) as cluster:
        await cluster.nodes[0].command("SET", "k", "v")

`start` is async, `close` is not: it kills, waits and removes the folder, and so works in any `finally`, under
cancellation, and in another trio run than the one that started the cluster.

Two seconds is Redis's own floor: a fresh node refuses to call the cluster healthy before that.
Nothing is persisted: a node that is restarted comes back with its id and its slots and without its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import trio

from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.guard import Guard
from slotproxy.demo.node import Member, Node
from slotproxy.demo.polling import until
from slotproxy.demo.servers import find_redis_server

SLOTS = 16_384
STOCK_NODE_TIMEOUT_MS = 15_000
CONVERGE_TIMEOUT = 30.0
# Forming a new cluster takes two seconds: waiting longer for the old one is a loss.
RESTORE_TIMEOUT = 3.0

# CONFIG GET shows these differently without anybody having set them.
_VOLATILE_SETTINGS = frozenset({b"maxclients", b"dir", b"rdb-version-check", b"port", b"bind"})


def even_split(primaries: int) -> list[range]:
    """The slots of each of `primaries` nodes: contiguous, sizes equal to within one."""
    edges = [SLOTS * index // primaries for index in range(primaries + 1)]
    return [range(first, after) for first, after in itertools.pairwise(edges)]


class EmbeddedCluster:
    """`primaries` nodes that share the slots evenly, each with `replicas` replicas.

    `nodes`: the primaries first, then the replicas in rounds, then what `add_node` added.
    `settings`: further redis.conf settings for every node.
    `handover`: held while a slot changes its owner (see `epochs_known`).
    `guard`: whoever has one already lends it; otherwise the cluster makes and closes its own.
    """

    def __init__(
        self,
        *,
        primaries: int = 3,
        replicas: int = 0,
        node_timeout_ms: int = STOCK_NODE_TIMEOUT_MS,
        server: str | None = None,
        settings: Mapping[str, str] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.server = server or find_redis_server()
        self.primaries_wanted = primaries
        self.replicas_wanted = replicas
        self.nodes: list[Node] = []
        self._settings = {
            "cluster-node-timeout": str(node_timeout_ms),
            # 7.0 would wait five seconds for more replicas before it syncs the first one.
            "repl-diskless-sync-delay": "0",
            **(settings or {}),
        }
        self._lent_guard = guard
        self._guard: Guard | None = None
        self.handover = trio.Lock()
        self._names = 0
        self._initial_pids: list[int] = []
        self._initial_owner: dict[int, Node] = {}
        self._initial_config: dict[Node, dict[bytes, bytes]] = {}

    # ---- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def start(self) -> None:
        """Start and form the cluster; returns when every node says cluster_state:ok.

        Raises StartFailed, ErrorReply or trio.TooSlowError, and then nothing is left running.
        """
        try:
            await self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill all nodes, remove the folder. Not an error when it was done before."""
        for node in self.nodes:
            node.kill()
        self.nodes.clear()
        guard, self._guard = self._guard, None
        if guard is not None and guard is not self._lent_guard:
            guard.close()

    def disconnect(self) -> None:
        """Close the nodes' kept connections: before a trio run ends and the cluster goes on."""
        for node in self.nodes:
            node.disconnect()

    # ---- what there is

    @property
    def seeds(self) -> list[str]:
        """`host:port` of every running node."""
        return [node.address for node in self._reachable()]

    @property
    def initial_primaries(self) -> Sequence[Node]:
        return self.nodes[: self.primaries_wanted]

    def node(self, node_id: str) -> Node:
        """Raises KeyError."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    async def primaries(self) -> list[Node]:
        """The reachable nodes that call themselves primaries, also those without slots."""
        return [node for node in self._reachable() if (await node.myself()).is_primary]

    async def slots_of(self, node: Node) -> frozenset[int]:
        """The slots that the node itself claims."""
        return (await node.myself()).slots

    async def owner(self, slot: int) -> Node:
        """The primary that claims the slot, the newest claim if two do. Raises LookupError if none does."""
        claims: list[tuple[int, Node]] = []
        for node in self._reachable():
            me = await node.myself()
            if me.is_primary and slot in me.slots:
                claims.append((me.epoch, node))
        if not claims:
            raise LookupError(f"no reachable node claims slot {slot}")
        return max(claims, key=lambda claim: claim[0])[1]

    async def slot_of(self, key: str | bytes) -> int:
        return int(await self._reachable()[0].command("CLUSTER", "KEYSLOT", key))

    async def key_in_slot(self, slot: int, prefix: str = "key") -> str:
        """Some key of that slot: `prefix:{n}`."""
        node = self._reachable()[0]
        for start in range(0, 64 * SLOTS, 512):
            keys = [f"{prefix}:{{{number}}}" for number in range(start, start + 512)]
            found = await node.pipeline(*(("CLUSTER", "KEYSLOT", key) for key in keys))
            if slot in found:
                return keys[found.index(slot)]
        raise LookupError(f"no key found for slot {slot}")

    # ---- changes

    async def add_node(self) -> Node:
        """A primary without slots: all nodes know it (CLUSTER NODES), no client does (CLUSTER SLOTS)."""
        known = self._reachable()[0]
        node = self._new_node()
        await node.start()
        await known.command("CLUSTER", "MEET", node.host, node.port)
        await self.converged()
        return node

    async def remove_node(self, node: Node) -> None:
        """Forgotten by all others, then stopped. Move its slots away first (else ValueError)."""
        if owned := await self.slots_of(node):
            raise ValueError(f"{node} still owns {len(owned)} slots")
        others = [other for other in self._reachable() if other is not node]
        # Stopped first: a node that still talks introduces itself again through those not yet told.
        await node.terminate()
        self.nodes.remove(node)
        for other in others:
            await other.command("CLUSTER", "FORGET", node.id)

    async def converged(self, within: float = CONVERGE_TIMEOUT) -> None:
        """Every reachable node is healthy, linked to all others and sees the same owners and replicas.

        Raises trio.TooSlowError after `within` seconds.
        """
        await until(self._agreed, within=within)

    async def epochs_known(self, within: float = CONVERGE_TIMEOUT) -> None:
        """Every reachable node knows every other one's newest epoch: the least that a next move needs.

        The importing end of a slot takes an epoch one above those it has heard of, and only a newer epoch
        wins. Two moves of a slot faster than the gossip leave two claims of one age, and no owner in the end.
        Raises trio.TooSlowError after `within` seconds.
        """
        await until(self._epochs_agreed, within=within)

    async def assign(self, slot: int, owner: Node, former: Node, within: float = CONVERGE_TIMEOUT) -> None:
        """Make `owner`, which does not own the slot, its owner, whoever claims it, as an operator mends a cluster.

        Keys stay where they are. `former`: another primary. Raises trio.TooSlowError after `within` seconds.
        """
        # Importing makes `owner` take a newer epoch at SETSLOT NODE; without it the old claim would win.
        await owner.command("CLUSTER", "SETSLOT", slot, "IMPORTING", former.id)
        for node in _first(owner, await self.primaries()):
            await node.command("CLUSTER", "SETSLOT", slot, "NODE", owner.id)
        await self.epochs_known(within)

    async def reset(self) -> None:
        """As after `start`: no keys, the initial layout and configuration; in milliseconds if it can.

        What moved slots, wrote keys, paused nodes or changed settings did is undone in place. After anything
        else (nodes killed, added, failed over) the cluster is formed anew, with other ports.
        """
        if self._same_processes():
            try:
                await self._restore()
                return
            except (ErrorReply, OSError, trio.TooSlowError):
                pass
        self.close()
        await self.start()

    # ---- within

    async def _start(self) -> None:
        self._guard = self._lent_guard or Guard()
        nodes = [self._new_node() for _ in range(self.primaries_wanted * (1 + self.replicas_wanted))]
        for node in nodes:
            node.spawn()
        for node in nodes:
            await node.start()
        primaries, replicas = nodes[: self.primaries_wanted], nodes[self.primaries_wanted :]
        self._initial_owner = {}
        for number, (node, slots) in enumerate(zip(primaries, even_split(len(primaries)), strict=True)):
            await node.command("CLUSTER", "ADDSLOTS", *slots)
            self._initial_owner |= dict.fromkeys(slots, node)
            # Distinct epochs from the start, or the nodes spend their first seconds settling collisions.
            await node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            await nodes[0].command("CLUSTER", "MEET", node.host, node.port)
        if replicas:
            await until(self._all_know_each_other, within=CONVERGE_TIMEOUT)
            for index, node in enumerate(replicas):
                await node.command("CLUSTER", "REPLICATE", primaries[index % len(primaries)].id)
        await self.converged()
        self._initial_pids = [node.pid for node in nodes]
        self._initial_config = {node: await _configuration(node) for node in nodes}

    def _new_node(self) -> Node:
        assert self._guard is not None, "the cluster is not started"
        self._names += 1
        node = Node(self.server, f"node-{self._names}", self._guard, self._settings)
        self.nodes.append(node)
        return node

    def _reachable(self) -> list[Node]:
        return [node for node in self.nodes if node.running and not node.paused]

    async def _all_know_each_other(self) -> bool:
        ids = {node.id for node in self.nodes}
        for node in self.nodes:
            if not _linked_to_all(await node.members(), ids):
                return False
        return True

    async def _agreed(self) -> bool:
        nodes = self._reachable()
        ids = {node.id for node in nodes}
        views = set()
        for node in nodes:
            members = await node.members()
            if not _linked_to_all(members, ids):
                return False
            # Roles too: a primary that does not know its replica yet ignores that one's CLUSTER FAILOVER.
            views.add(frozenset((m.id, m.primary, m.ranges) for m in members if m.ranges or m.id in ids))
            if (await node.cluster_info())["cluster_state"] != "ok":
                return False
            # Only replicas have the field.
            if (await node.info("replication")).get("master_link_status", "up") != "up":
                return False
        return len(views) == 1 and await self._epochs_agreed()

    async def _epochs_agreed(self) -> bool:
        nodes = self._reachable()
        ids = {node.id for node in nodes}
        views = set()
        for node in nodes:
            members = await node.members()
            views.add(frozenset((m.id, m.epoch) for m in members if m.is_primary and m.id in ids))
        return len(views) == 1

    def _same_processes(self) -> bool:
        for node in self.nodes:
            if node.paused:
                node.resume()
        return (
            bool(self.nodes)
            and all(node.running for node in self.nodes)
            and [node.pid for node in self.nodes] == self._initial_pids
        )

    async def _restore(self) -> None:
        for node in self.nodes:
            # What a test did to the kept connection (AUTH, MULTI) is undone with it.
            node.disconnect()
            await self._restore_node(node)
        await self.epochs_known(RESTORE_TIMEOUT)
        strayed: dict[int, Node] = {}
        for node in self.initial_primaries:
            for slot in await self.slots_of(node):
                if self._initial_owner[slot] is not node:
                    strayed[slot] = node
        for slot, owner in strayed.items():
            await self.assign(slot, self._initial_owner[slot], owner, RESTORE_TIMEOUT)
        await self.converged(RESTORE_TIMEOUT)

    async def _restore_node(self, node: Node) -> None:
        me = await node.myself()
        if me.is_primary != (node in self.initial_primaries):
            raise ErrorReply(f"ERR {node} changed its role")
        for slot in (*me.migrating, *me.importing):
            await node.command("CLUSTER", "SETSLOT", slot, "STABLE")
        for name, value in (await _configuration(node)).items():
            if self._initial_config[node].get(name, value) != value:
                await node.command("CONFIG", "SET", name, self._initial_config[node][name])
        extra_users = [user for user in await node.command("ACL", "USERS") if user != b"default"]
        if extra_users:
            await node.command("ACL", "DELUSER", *extra_users)
        await node.command("SCRIPT", "FLUSH")
        if me.is_primary:
            await node.command("FLUSHALL")
            # Functions came with 7.0; before, this is an error reply like any other.
            await node.pipeline(("FUNCTION", "FLUSH"))


def _first(node: Node, nodes: Iterable[Node]) -> list[Node]:
    return [node, *(other for other in nodes if other is not node)]


def _linked_to_all(members: Iterable[Member], ids: set[str]) -> bool:
    linked = {
        member.id
        for member in members
        if (member.linked or "myself" in member.flags) and not member.flags & {"handshake", "fail", "fail?"}
    }
    return ids <= linked


async def _configuration(node: Node) -> dict[bytes, bytes]:
    flat: list[bytes] = await node.command("CONFIG", "GET", "*")
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {name: value for name, value in pairs if name not in _VOLATILE_SETTINGS}
