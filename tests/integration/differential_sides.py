"""Both sides of the differential test: a plain server and a proxy before three primaries; slots that move; replies.

Invariants: sockets here block and the slots' mover has a thread of its own, because Hypothesis drives plain functions;
a reply is never decoded before it is known to differ. What is asked, and which differences are meant, stands elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

import hiredis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import move_slot
from slotproxy.demo.servers import server_version
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.slots import key_slot
from tests.integration.differential_blocks import Blocks, agree
from tests.integration.differential_cases import Words
from tests.integration.differential_peers import CLOSED, PATIENCE, Peer, content, shown
from tests.integration.differential_rules import Call, Rules
from tests.integration.load import ORDERS
from tests.servers import standalone_server

CHUNK: Final = 150


class Divergence(NamedTuple):
    """One reply that differs, and everything that was sent since both sides were empty."""

    call: Call
    expected: bytes
    said: bytes
    sequence: list[Words]

    def __str__(self) -> str:
        asked = "\n".join("    " + shown(words) for words in self.sequence[-60:])
        return (
            f"{shown(self.call.words)}\n  server: {self.expected[:400]!r}\n  proxy:  {self.said[:400]!r}\n"
            f"  sequence ({len(self.sequence)}):\n{asked}"
        )


class Walk(NamedTuple):
    """What a SCAN returned, key by key; the largest cursor; whether it came to an end."""

    found: list[bytes]
    largest: int
    ended: bool


class Sides:
    """Both sides and how to compare them.

    `other`: slotproxy's port, or that of another plain server (`twin`), which shows that the comparison is right.
    `nodes`: where the other side's data is. `per_slot`: slotproxy runs transactions slot by slot. `protocol`: the
    clients' RESP version.
    """

    def __init__(
        self,
        plain: int,
        other: int,
        nodes: Sequence[int],
        version: tuple[int, ...],
        *,
        per_slot: bool = False,
        twin: bool = False,
        protocol: int = 2,
    ) -> None:
        self.version = version
        self.plain, self.other = Peer(plain, protocol), Peer(other, protocol)
        self.direct = [Peer(port) for port in (plain, *nodes)]
        self._twin = twin
        self._blocks = Blocks()
        table = _table_of(plain)
        self._rules = {
            moving: Rules(table, version, moving=moving, per_slot=per_slot, protocol=protocol)
            for moving in (False, True)
        }
        self.rules = self._rules[False]
        self._still = threading.Lock()  # held while a slot moves
        self._mover: Mover | None = None

    def close(self) -> None:
        for peer in (self.plain, self.other, *self.direct):
            peer.close()

    @contextmanager
    def moving(self, cluster: EmbeddedCluster, tags: Sequence[bytes]) -> Iterator[Mover]:
        """The slots of these tags move while the block runs."""
        self.rules = self._rules[True]
        try:
            with Mover(cluster, tags, self._still) as self._mover:
                yield self._mover
        finally:
            self.rules = self._rules[False]
            self._mover = None

    @property
    def in_motion(self) -> bool:
        """Whether slots move."""
        return self.rules is self._rules[True]

    def await_moves(self) -> None:
        """Returns when every slot that moves has done so once more; at once where none does."""
        if self._mover is not None:
            self._mover.await_moves()

    def knows(self, name: bytes) -> bool:
        """Whether these servers have the command."""
        return self.rules.table.get(name) is not None

    def reset(self) -> None:
        """No keys, no scripts, no functions, on either side; new connections of the clients."""
        # What slotproxy keeps of scripts is known to it alone.
        self.other.replies([(b"SCRIPT", b"FLUSH")])
        self.plain.close()
        self.other.close()
        self._blocks.forget()
        clear: list[Words] = [(b"SCRIPT", b"FLUSH"), (b"FLUSHALL",)]
        if self.version >= (7,):
            clear.insert(0, (b"FUNCTION", b"FLUSH"))
        # A key on its way could survive nodes that are flushed one by one.
        with self._still:
            for peer in self.direct:
                peer.replies(clear)

    def tick_fast(self) -> None:
        """A server notices the end of a timeout at its next tick: let it tick a hundred times a second."""
        for peer in self.direct:
            peer.replies([(b"CONFIG", b"SET", b"hz", b"100")])

    def keys(self) -> list[bytes]:
        """The names of all keys on the plain server and, while nothing moves, at the nodes."""
        peers = self.direct[:1] if self.in_motion else self.direct
        listed = [key for peer in peers for key in elements_of(peer.replies([(b"KEYS", b"*")])[0]) or []]
        return sorted(set(map(content, listed)))

    def blocked_at_nodes(self) -> int:
        """How many clients wait at the other side's servers."""
        told = [peer.replies([(b"INFO", b"clients")])[0] for peer in self.direct[1:]]
        return sum(int(text.partition(b"blocked_clients:")[2].split()[0]) for text in told)

    def waiting_at_nodes(self, calls: Sequence[Call]) -> int | None:
        """How many of these, who all wait, do so there; None when it is not said."""
        if self._twin:
            return len(calls)
        if self.in_motion or any(call.name == "wait" for call in calls):
            return None
        return sum(len(self.rules.slots([call])) == 1 for call in calls)

    def seconds(self, words: Words) -> float:
        """How long the other side takes to answer."""
        started = time.monotonic()
        self.other.replies([words])
        return time.monotonic() - started

    def walks(self, options: Words, most: int) -> tuple[Walk, Walk]:
        """SCAN to the end, the plain server's and slotproxy's; at most `most` calls."""
        return _walk(self.plain, options, most), _walk(self.other, options, most)

    def plain_bulk(self, words: Words) -> bytes:
        """The plain server's reply, which is a bulk string."""
        return content(self.plain.replies([words])[0])

    def run(self, sequence: Sequence[Words], sizes: Sequence[int] = ()) -> list[Divergence]:
        """Send it to both sides, in pipelines of these sizes and then of CHUNK; what differs, in order."""
        found: list[Divergence] = []
        done = 0
        for size in (*sizes, *[CHUNK] * (len(sequence) // CHUNK + 1)):
            chunk = sequence[done : done + size]
            if chunk and not self._compare(chunk, sequence[:done], found):
                break
            done += len(chunk)
        return found

    def _compare(self, chunk: Sequence[Words], before: Sequence[Words], found: list[Divergence]) -> bool:
        """Append what differs to `found`. False: what follows cannot be compared."""
        asked = [self._blocks.ask(self.rules, words) for words in chunk]
        if self._twin:
            asked = [one.without_own() for one in asked if one.plain is not None]
        to_plain = [one.plain for one in asked if one.plain is not None]
        to_other = to_plain if self._twin else chunk
        inside = self._blocks.inside
        expected = iter(plain := self.plain.replies(to_plain, inside=inside))
        said = self.other.replies(to_other, inside=inside)
        if CLOSED in (*plain[-1:], *said[-1:]):
            self._blocks.forget()
        if len(said) - len(to_other) != len(plain) - len(to_plain):
            whole = Call("(the whole pipeline)", (b"pipeline",))
            found.append(Divergence(whole, b"".join(plain), b"".join(said), [*before, *chunk]))
            return False
        # Where CLIENT REPLY has swallowed some, the calls are not those of the replies; they only name them.
        for number, (one, reply) in enumerate(zip(asked, said, strict=False)):
            wanted = b"" if one.plain is None else next(expected, b"")
            if not agree(self.rules, one, wanted, reply):
                wanted = wanted if one.own is None else one.own.pattern
                found.append(Divergence(one.call, wanted, reply, [*before, *chunk[: number + 1]]))
        return True

    def shrunk(self, divergence: Divergence) -> Divergence:
        """The same command still differing, behind as few others as possible."""
        best = divergence
        step = max(1, len(best.sequence) // 2)
        while step:
            start = 0
            while start < len(best.sequence) - 1:
                shorter = [*best.sequence[:start], *best.sequence[start + step : -1], best.sequence[-1]]
                self.reset()
                again = [one for one in self.run(shorter) if one.call == best.call]
                if again and len(again[0].sequence) < len(best.sequence):
                    best = again[0]
                else:
                    start += step
            step //= 2
        return best


def _walk(peer: Peer, options: Words, most: int) -> Walk:
    found: list[bytes] = []
    cursor, largest = b"0", 0
    for _ in range(most):
        reply = peer.replies([(b"SCAN", cursor, *options)])[0]
        parts = elements_of(reply)
        if parts is None:
            raise AssertionError(f"SCAN {cursor!r} {options}: {reply!r}")
        cursor = content(parts[0])
        found += map(content, elements_of(parts[1]) or [])
        largest = max(largest, int(cursor))
        if cursor == b"0":
            return Walk(found, largest, True)
    return Walk(found, largest, False)


def _table_of(port: int) -> CommandTable:
    peer = Peer(port)
    reader = hiredis.Reader()
    reader.feed(peer.replies([(b"COMMAND",)])[0])
    peer.close()
    return CommandTable.from_reply(cast(list[object], reader.gets()))


# ---- servers


@contextmanager
def sides_of(
    cluster: EmbeddedCluster, guard: Guard, *, per_slot: bool = False, protocol: int = 2
) -> Iterator[Sides]:
    """A plain server of the cluster's version and a proxy in front of the cluster, for as long as the block runs."""
    flags = ("--cross-slot-transactions", "per-slot") if per_slot else ()
    proxy = ProxyProcess(cluster.seeds, guard=guard, flags=flags)
    with standalone_server(cluster.server, guard) as plain:
        try:
            trio.run(proxy.start)
            nodes = [node.port for node in cluster.nodes]
            version = server_version(cluster.server)
            sides = Sides(plain, proxy.port, nodes, version, per_slot=per_slot, protocol=protocol)
            sides.tick_fast()
            yield sides
            sides.close()
            assert trio.run(proxy.stop) == 0, proxy.stderr
            assert "Traceback" not in proxy.stderr, proxy.stderr
        finally:
            proxy.kill()


@contextmanager
def twins_of(server: str, guard: Guard) -> Iterator[Sides]:
    """Two plain servers: whatever differs between them says nothing about slotproxy."""
    with standalone_server(server, guard) as plain, standalone_server(server, guard) as other:
        sides = Sides(plain, other, [other], server_version(server), twin=True)
        sides.tick_fast()
        yield sides
        sides.close()


class Mover:
    """Moves the slots of some tags around the cluster, in a thread, while the block runs; back home at its end.

    It holds `still` during a move.
    A slot comes back at the earliest a tenth of a second after it left: that it comes back while a window of commands
    from before is on its way is what the ordering contract excludes.
    """

    def __init__(self, cluster: EmbeddedCluster, tags: Sequence[bytes], still: threading.Lock) -> None:
        self.moves = 0
        self._moved = threading.Condition()
        self._cluster = cluster
        self._still = still
        self._slots = [int(key_slot(tag)) for tag in tags]
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._cluster.disconnect()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def await_moves(self) -> None:
        """Returns when every slot has moved once more, wholly after now."""
        goal = self.moves + len(self._slots) + 1
        with self._moved:
            assert self._moved.wait_for(lambda: self.moves >= goal, PATIENCE), "nothing moves any more"

    async def _run(self) -> None:
        try:
            homes = {slot: await self._cluster.owner(slot) for slot in self._slots}
            nodes = self._cluster.nodes
            round_ = 0
            while not (self._stop.is_set() and round_ % 2 == 0):
                rested = trio.current_time() + 0.1
                for slot, home in homes.items():
                    away = nodes[(nodes.index(home) + 1 + round_ // 2 % 2) % len(nodes)]
                    ends = (home, away) if round_ % 2 == 0 else (away, home)
                    with self._still:
                        await move_slot(self._cluster, slot, *ends, batch=1, order=ORDERS[round_ // 4 % 2])
                    with self._moved:
                        self.moves += 1
                        self._moved.notify_all()
                round_ += 1
                await trio.sleep_until(rested)
        except BaseException as error:
            self._error = error
        finally:
            self._cluster.disconnect()
