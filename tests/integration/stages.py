"""Where a load is played: a plain server, or the proxy in front of a cluster that is quiet, reshards or fails over.

What the proxy promises is what one server does. So every load is played to one server too, which shows that the
load itself asks for nothing more; and where something happens to the cluster, it lasts until that is over.

Invariant: on each stage with a proxy nothing of the clients is left there when they have gone; the fixture looks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal
from weakref import WeakKeyDictionary

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, connect
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.servers import server_version
from tests.conftest import NODE_TIMEOUT_MS
from tests.integration.load import LONGER, Ride, shuttle, tags_of

Kind = Literal["plain", "quiet", "resharding", "failing over"]
IN_RESP3: Final = " in RESP3"
STAGES: Final = ("plain", "quiet", "resharding", "resharding" + IN_RESP3, "failing over")

TAGS: Final = 8
# Both finalisation orders, there and back.
ROUNDS: Final = 4 * max(1, int(LONGER / 5))
STEP_PAUSE: Final = 0.01
FAILOVERS: Final = 2 * max(1, int(LONGER / 10))
PATIENCE: Final = 20.0
VOTES_LAST: Final = 4.5 * NODE_TIMEOUT_MS / 1000


class Stage:
    """`tags`: hash tags of different slots, over all primaries; `rides`: a way for each of them to another primary.

    `front` and `cluster`: None on a plain server. `protocol`: the clients' RESP version. `partial`: transactions that a
    test has seen to be executed in part.
    """

    def __init__(
        self,
        kind: Kind,
        server: str,
        port: int,
        tags: Sequence[str],
        *,
        front: ProxyProcess | None = None,
        cluster: EmbeddedCluster | None = None,
        rides: Sequence[Ride] = (),
        protocol: int = 2,
    ) -> None:
        self.kind = kind
        self.protocol = protocol
        self.port = port
        self.tags = list(tags)
        self.front = front
        self.cluster = cluster
        self.has_lmpop = server_version(server) >= (7,)
        self.rides = list(rides)
        self.partial = 0
        self._over = False

    @property
    def behind(self) -> EmbeddedCluster:
        """The cluster, for a test that is played on no plain server."""
        assert self.cluster is not None, "a plain server"
        return self.cluster

    async def connect(self) -> Connection:
        """A client's connection."""
        connection = await connect("127.0.0.1", self.port)
        if self.protocol != 2:
            await connection.command("HELLO", self.protocol)
        return connection

    # ---- while a load is played

    def rounds(self, least: int) -> Iterator[int]:
        """0, 1, 2, … for a client's loop: `least` rounds, and as many as there are until the trouble is over."""
        for number in itertools.count():
            if number >= least and self._over:
                return
            yield number

    async def act(self) -> None:
        """What is to happen while the load is played. Ends the `rounds`."""
        if self.cluster is not None and self.kind == "resharding":
            await shuttle(self.cluster, self.rides, ROUNDS, pause=STEP_PAUSE)
        elif self.cluster is not None and self.kind == "failing over":
            for _ in range(FAILOVERS):
                await fail_over(self.cluster, await self.cluster.owner(await self.cluster.slot_of(self.tags[0])))
        self._over = True

    async def blocked(self, count: int) -> None:
        """Wait until so many clients are blocked, all of this server's or this proxy's."""
        async with await self.connect() as client:
            wanted = b"\r\nblocked_clients:%d\r\n" % count

            async def are() -> bool:
                return wanted in await client.command("INFO", "clients")

            await until(are, within=PATIENCE)

    # ---- afterwards

    async def assert_trouble_met(self) -> None:
        """The load met what happened: a run in which nobody was redirected proves nothing."""
        if self.front is None or self.kind == "quiet":
            return
        async with await self.connect() as client:
            # Not from the metrics: they forget a node that is demoted, and what it answered.
            text: bytes = await client.command("INFO", "slotproxy")
        moved, ask = (int(text.partition(b"total_%b:" % name)[2].split()[0]) for name in (b"moved", b"ask"))
        if self.kind == "resharding":
            assert moved + ask >= len(self.rides), (moved, ask)
        else:
            assert moved >= FAILOVERS, (moved, text)

    async def assert_nothing_left(self) -> None:
        """The clients have gone, and with them all that was held for them; and `partial` transactions were counted."""
        front = self.front
        if front is None:
            return
        names = ("client_connections", "blocked_clients", "exclusive_connections", "requests_in_flight")

        async def left() -> bool:
            figures = await front.metrics()
            return not any(figures[f"slotproxy_{name}"] for name in names)

        await until(left, within=5)
        assert (await front.metrics())["slotproxy_transactions_partial_total"] == self.partial


async def spread_tags(cluster: EmbeddedCluster) -> tuple[list[str], list[Ride]]:
    """Hash tags of different slots, shared evenly by the primaries, and for each slot a way to the next primary.

    The first one's primary can be failed over at once, if any can.
    """
    primaries = await cluster.primaries()
    if cluster.replicas_wanted:
        rests = {node: _rest_of(await replica_of(cluster, node)) for node in primaries}
        primaries.sort(key=lambda node: rests[node])
    found: list[tuple[str, Ride]] = []
    each = -(-TAGS // len(primaries))
    for here, there in zip(primaries, [*primaries[1:], primaries[0]], strict=True):
        tags = await tags_of(cluster, here, each)
        found += [(tag, Ride(slot, here, there)) for tag, slot in tags.items()]
    # Neighbours in the list are on different nodes.
    found = [pair for start in range(each) for pair in found[start::each]][:TAGS]
    return [tag for tag, _ in found], [ride for _, ride in found]


async def replica_of(cluster: EmbeddedCluster, primary: Node) -> Node:
    """Its only replica. Raises ValueError when it has none."""
    (replica,) = [node for node in cluster.nodes if (await node.myself()).primary == primary.id]
    return replica


# When a node took over last, by `time.monotonic`.
_took_over: WeakKeyDictionary[Node, float] = WeakKeyDictionary()


def _rest_of(replica: Node) -> float:
    """How many seconds it must wait for its next failover.

    For four node timeouts a replica counts the votes of its last election for the next one (7.0.15): it takes over
    without a new epoch, is put down again, and what was written to it is lost.
    """
    return max(0.0, _took_over.get(replica, -VOTES_LAST) + VOTES_LAST - time.monotonic())


async def fail_over(cluster: EmbeddedCluster, primary: Node) -> Node:
    """A planned failover to its only replica, which is returned: when all nodes agree, so that the next can follow."""
    replica = await replica_of(cluster, primary)
    await trio.sleep(_rest_of(replica))
    _took_over[replica] = time.monotonic()
    await replica.command("CLUSTER", "FAILOVER")

    async def took_over() -> bool:
        return bool((await replica.myself()).slots)

    await until(took_over, within=PATIENCE)
    # A primary that does not know its replica yet ignores that one's CLUSTER FAILOVER.
    await cluster.converged()
    assert (await replica.myself()).is_primary, "it has been put down again"
    return replica


async def blocked_at(node: Node, count: int = 1) -> None:
    """Wait until the node itself has so many blocked clients."""

    async def are() -> bool:
        return (await node.info("clients"))["blocked_clients"] == str(count)

    await until(are, within=PATIENCE)
