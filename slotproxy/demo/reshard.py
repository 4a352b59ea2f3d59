"""Moves one slot between two primaries, step by step, as redis-cli and operators do.

    target  SETSLOT n IMPORTING source      the target serves the slot after ASKING
    source  SETSLOT n MIGRATING target      the source answers ASK for keys that it has not
    source  GETKEYSINSLOT, MIGRATE ...      key by key; repeated until the slot is empty
    target  SETSLOT n NODE target           (redis-cli 7.0's order; `source-first` is what others do)
    source  SETSLOT n NODE target
    others  SETSLOT n NODE target

A primary that gives its last slot away becomes the target's replica: that is Redis, not us.

`Migration` holds a slot in any of these states; `move_slot` goes through all of them. Neither retries: an
error reply of a node is raised, and the slot stays as it is, to be finished or aborted by the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.node import Node

Order = Literal["target-first", "source-first"]
Step = Literal["importing", "migrating", "keys", "target-node", "source-node", "others-node"]
StepCallback = Callable[[Step], Awaitable[object]]

MIGRATE_TIMEOUT_MS = 20_000


class Migration:
    """One slot on its way from `source` to `target`.

    `step` is awaited after each step, with its name: "importing", "migrating", "keys" (after each batch),
    "target-node", "source-node", "others-node". Afterwards `moved` is the number of keys that went over.
    """

    def __init__(
        self,
        cluster: EmbeddedCluster,
        slot: int,
        source: Node,
        target: Node,
        *,
        order: Order = "target-first",
        step: StepCallback | None = None,
    ) -> None:
        self.cluster = cluster
        self.slot = slot
        self.source = source
        self.target = target
        self.order: Order = order
        self.moved = 0
        self._step = step

    async def open(self) -> None:
        """IMPORTING at the target, then MIGRATING at the source. No key has moved yet."""
        await self._set_slot(self.target, "IMPORTING", self.source.id)
        await self._done("importing")
        await self._set_slot(self.source, "MIGRATING", self.target.id)
        await self._done("migrating")

    async def move_keys(self, count: int | None = None, *, batch: int = 10) -> int:
        """Move up to `count` keys (None: all), `batch` per MIGRATE. How many went; 0 when none is left."""
        moved = 0
        while count is None or moved < count:
            size = batch if count is None else min(batch, count - moved)
            keys = await self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, size)
            if not keys:
                break
            await self.move(*keys)
            moved += len(keys)
        return moved

    async def move(self, *keys: str | bytes) -> None:
        """Move these keys, in one MIGRATE. Keys that do not exist (any more) are not an error."""
        await self.source.command(
            "MIGRATE", self.target.host, self.target.port, "", 0, MIGRATE_TIMEOUT_MS, "KEYS", *keys
        )
        self.moved += len(keys)
        await self._done("keys")

    async def finish(self, *, batch: int = 10) -> None:
        """Move the keys that are left and make the target the owner, in this migration's order.

        Returns when the nodes know enough for the next move. Only one migration of a cluster does this at a
        time, the others wait: do not finish one from within a `step` of another.
        """
        # A source that still holds keys refuses to give the slot away.
        await self.move_keys(batch=batch)
        async with self.cluster.handover:
            await self._hand_over()
            await self.cluster.epochs_known()

    async def abort(self) -> None:
        """SETSLOT STABLE on both ends: the source keeps the slot.

        Keys that were moved stay at the target, where nobody finds them: as in Redis, abort before the first.
        """
        await self._set_slot(self.source, "STABLE")
        await self._set_slot(self.target, "STABLE")

    async def _hand_over(self) -> None:
        ends: list[tuple[Node, Step]] = [(self.target, "target-node"), (self.source, "source-node")]
        if self.order == "source-first":
            ends.reverse()
        for node, name in ends:
            try:
                await self._set_slot(node, "NODE", self.target.id)
            except ErrorReply:
                # A source that lost its last slot and heard so from the target has become its replica
                # (cluster-allow-replica-migration); redis-cli ignores this error as well.
                if node is self.target or (await node.myself()).is_primary:
                    raise
            await self._done(name)
        for node in await self.cluster.primaries():
            if node is not self.source and node is not self.target:
                await self._set_slot(node, "NODE", self.target.id)
        await self._done("others-node")

    async def _set_slot(self, node: Node, *what: str) -> None:
        await node.command("CLUSTER", "SETSLOT", self.slot, *what)

    async def _done(self, name: Step) -> None:
        if self._step is not None:
            await self._step(name)


async def move_slot(
    cluster: EmbeddedCluster,
    slot: int,
    source: Node,
    target: Node,
    *,
    batch: int = 10,
    pause: float = 0.0,
    order: Order = "target-first",
    step: StepCallback | None = None,
) -> int:
    """The whole migration; how many keys moved. `pause` seconds pass after each step, `step` or not."""

    async def after(name: Step) -> None:
        if step is not None:
            await step(name)
        if pause:
            await trio.sleep(pause)

    migration = Migration(cluster, slot, source, target, order=order, step=after)
    await migration.open()
    await migration.finish(batch=batch)
    return migration.moved
