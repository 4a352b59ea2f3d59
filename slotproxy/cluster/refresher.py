"""The refresher: keeps the slot map fresh without ever making a request wait for it.

Duty: ask a node for the topology at start, when somebody requests it, and every `interval` seconds; hand the answer on.
Which node: those of the last topology in random order, then the seeds, whose names are resolved again each time.

Invariants: one refresh at a time (requests that come meanwhile cause exactly one more, which starts after them); at
least 100 ms apart, with jitter, and with backoff while nobody answers; a node that does not answer in time is passed
over. A view that covers fewer slots than the map did is taken only when no other node knows better: a node that was
restarted empty knows nothing, and says so with confidence.
Must not know how nodes are asked (`query` does) nor who waits for the result.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import Address, Topology

_log = logging.getLogger("slotproxy.cluster")

GAP = 0.1  # seconds between two refreshes at least
_GAP_AFTER_FAILURE = 5.0  # at most
_ANSWER = 2.0  # seconds that one node may take
_OTHERS = 3  # further nodes asked when one knows of fewer slots than the map has


class QueryFailed(Exception):
    """A node did not give its view; `str()` says why."""


class Refresher:
    """`query(address)` returns a Topology or raises QueryFailed; `take(topology, started)` applies it to the map.

    `ended` is called after each refresh, whether it succeeded or not.
    """

    def __init__(
        self,
        slot_map: SlotMap,
        seeds: Sequence[Address],
        query: Callable[[Address], Awaitable[Topology]],
        take: Callable[[Topology, int], int],
        ended: Callable[[], None],
        interval: float,
    ) -> None:
        self.failures = 0
        self.last_error = "no refresh yet"
        self.succeeded = trio.Event()
        self._slot_map = slot_map
        self._seeds = list(seeds)
        self._query = query
        self._take = take
        self._ended = ended
        self._interval = interval
        self._requested = trio.Event()
        self._next_ended = trio.Event()  # of the refresh that starts next

    def request_nowait(self) -> None:
        """Have a refresh start soon, after now."""
        self._requested.set()

    async def refresh(self) -> None:
        """Wait for the end of a refresh that starts after now, whether it succeeds or not."""
        self._requested.set()
        await self._next_ended.wait()

    async def run(self) -> None:
        """Refresh for ever."""
        gap = GAP
        while True:
            self._requested = trio.Event()
            ended, self._next_ended = self._next_ended, trio.Event()
            if await self._refresh():
                gap = GAP
                self.succeeded.set()
            else:
                gap = min(gap * 2, _GAP_AFTER_FAILURE)
                self.failures += 1
                _log.warning("topology refresh failed: %s", self.last_error)
                self._requested.set()  # nobody has to ask for another attempt
            self._ended()
            ended.set()
            await trio.sleep(gap * (1 + random.random() / 2))
            with trio.move_on_after(self._interval):
                await self._requested.wait()

    async def _refresh(self) -> bool:
        started = self._slot_map.version
        best: Topology | None = None
        tries_left = _OTHERS
        problems: list[str] = []
        for address in self._candidates():
            try:
                with trio.fail_after(_ANSWER):
                    topology = await self._query(address)
            except (QueryFailed, trio.TooSlowError) as problem:
                reason = "no answer in time" if isinstance(problem, trio.TooSlowError) else str(problem)
                problems.append(f"{address[0]}:{address[1]}: {reason}")
                continue
            if best is None or topology.covered() > best.covered():
                best = topology
            if best.covered() >= self._slot_map.covered() and best.covered() > 0:
                break
            tries_left -= 1
            if tries_left <= 0:
                break
        if best is None:
            self.last_error = "; ".join(problems) or "no node to ask"
            return False
        changed = self._take(best, started)
        if changed:
            covered = best.covered()
            _log.info("topology from %s: %d slots have another owner, %d covered", best.answered_by, changed, covered)
        self.last_error = ""
        return True

    def _candidates(self) -> list[Address]:
        nodes = [info for info in self._slot_map.nodes.values() if not info.failing]
        random.shuffle(nodes)
        nodes.sort(key=lambda info: not info.primary)
        known = [(info.host, info.port) for info in nodes]
        return known + [seed for seed in self._seeds if seed not in known]
