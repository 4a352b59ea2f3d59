"""Both sides of the differential test: a plain server and a proxy before three primaries; slots that move; replies.

Invariants: sockets here block and the slots' mover has a thread of its own, because Hypothesis drives plain functions;
a reply is never decoded before it is known to differ. What is asked, and which differences are meant, stands elsewhere.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

import hiredis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.reshard import move_slot
from slotproxy.demo.servers import server_version
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.replies import ReplyScanner, elements_of
from slotproxy.protocol.slots import key_slot
from tests.integration.differential_cases import Words
from tests.integration.differential_rules import Call, Rules
from tests.integration.load import ORDERS
from tests.servers import standalone_server

HOST: Final = "127.0.0.1"
PATIENCE: Final = 45.0
"""Seconds for one reply: more than the proxy's park timeout, so that its own error is seen."""
CHUNK: Final = 150
CLOSED: Final = b"<closed>"
_MARK: Final = b"~end of the replies~"
_MARK_REPLY: Final = b"$%d\r\n%b\r\n" % (len(_MARK), _MARK)


class Peer:
    """A client on one side, reconnecting when it was hung up on."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket: socket.socket | None = None
        self._scanner = ReplyScanner()

    def replies(self, requests: Sequence[Words]) -> list[bytes]:
        """Every reply to these requests, pipelined; the last is CLOSED when the connection ended behind them."""
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self.port), timeout=PATIENCE)
            self._scanner = ReplyScanner()
        found: list[bytes] = []
        scanner = self._scanner
        try:
            self._socket.sendall(b"".join(pack(*words) for words in requests) + pack("ECHO", _MARK))
            while True:
                while scanner.scan():
                    frame = scanner.buffer[scanner.start : scanner.end]
                    if frame == _MARK_REPLY:
                        return found
                    found.append(frame)
                data = self._socket.recv(65_536)
                if not data:
                    break
                scanner.feed(data)
        except ConnectionError:
            pass
        except TimeoutError:
            found.append(b"<no reply>")
        self.close()
        return [*found, CLOSED]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


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


def shown(words: Words) -> str:
    return " ".join(word.decode() if re.fullmatch(rb"[!#-&(-~]+", word) else repr(word)[1:] for word in words)


class Walk(NamedTuple):
    """What a SCAN returned, key by key; the largest cursor; whether it came to an end."""

    found: list[bytes]
    largest: int
    ended: bool


class Sides:
    """Both sides and how to compare them."""

    def __init__(self, plain: int, proxy: int, nodes: Sequence[int], version: tuple[int, ...]) -> None:
        self.version = version
        self._plain, self._proxy = Peer(plain), Peer(proxy)
        self._direct = [Peer(port) for port in (plain, *nodes)]
        table = _table_of(plain)
        self.rules = Rules(table, version)
        self._rules = {False: self.rules, True: Rules(table, version, moving=True)}
        self._still = threading.Lock()  # held while a slot moves

    def close(self) -> None:
        for peer in (self._plain, self._proxy, *self._direct):
            peer.close()

    @contextmanager
    def moving(self, cluster: EmbeddedCluster, tags: Sequence[bytes]) -> Iterator[Mover]:
        """The slots of these tags move while the block runs."""
        self.rules = self._rules[True]
        try:
            with Mover(cluster, tags, self._still) as mover:
                yield mover
        finally:
            self.rules = self._rules[False]

    @property
    def in_motion(self) -> bool:
        """Whether slots move."""
        return self.rules is self._rules[True]

    def knows(self, name: bytes) -> bool:
        """Whether these servers have the command."""
        return self.rules.table.get(name) is not None

    def reset(self) -> None:
        """No keys, no scripts, no functions, on either side; new connections of the clients."""
        # What slotproxy keeps of scripts is known to it alone.
        self._proxy.replies([(b"SCRIPT", b"FLUSH")])
        self._plain.close()
        self._proxy.close()
        clear: list[Words] = [(b"SCRIPT", b"FLUSH"), (b"FLUSHALL",)]
        if self.version >= (7,):
            clear.insert(0, (b"FUNCTION", b"FLUSH"))
        # A key on its way could survive nodes that are flushed one by one.
        with self._still:
            for peer in self._direct:
                peer.replies(clear)

    def keys(self) -> list[bytes]:
        """The names of all keys on the plain server and, while nothing moves, at the nodes."""
        peers = self._direct[:1] if self.in_motion else self._direct
        listed = [key for peer in peers for key in elements_of(peer.replies([(b"KEYS", b"*")])[0]) or []]
        return sorted(set(map(_content, listed)))

    def walks(self, options: Words, most: int) -> tuple[Walk, Walk]:
        """SCAN to the end, the plain server's and slotproxy's; at most `most` calls."""
        return _walk(self._plain, options, most), _walk(self._proxy, options, most)

    def plain_bulk(self, words: Words) -> bytes:
        """The plain server's reply, which is a bulk string."""
        return _content(self._plain.replies([words])[0])

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
        calls = [self.rules.call(words) for words in chunk]
        own = [self.rules.own_answer(call) for call in calls]
        asked = [call.words for call, pattern in zip(calls, own, strict=True) if pattern is None]
        expected = iter(plain := self._plain.replies(asked))
        said = self._proxy.replies(chunk)
        if len(said) - len(chunk) != len(plain) - len(asked):
            whole = Call("(the whole pipeline)", (b"pipeline",))
            found.append(Divergence(whole, b"".join(plain), b"".join(said), [*before, *chunk]))
            return False
        # Where CLIENT REPLY has swallowed some, the calls are not those of the replies; they only name them.
        for number, (call, pattern, reply) in enumerate(zip(calls, own, said, strict=False)):
            if pattern is not None:
                wanted, agreed = pattern.pattern, bool(pattern.fullmatch(reply))
            else:
                wanted = next(expected)
                agreed = self.rules.agree(call, wanted, reply)
            if not agreed:
                found.append(Divergence(call, wanted, reply, [*before, *chunk[: number + 1]]))
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


def _content(bulk: bytes) -> bytes:
    return bulk.split(b"\r\n", 1)[1][:-2]


def _walk(peer: Peer, options: Words, most: int) -> Walk:
    found: list[bytes] = []
    cursor, largest = b"0", 0
    for _ in range(most):
        reply = peer.replies([(b"SCAN", cursor, *options)])[0]
        parts = elements_of(reply)
        if parts is None:
            raise AssertionError(f"SCAN {cursor!r} {options}: {reply!r}")
        cursor = _content(parts[0])
        found += map(_content, elements_of(parts[1]) or [])
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
def sides_of(cluster: EmbeddedCluster, guard: Guard) -> Iterator[Sides]:
    """A plain server of the cluster's version and a proxy in front of the cluster, for as long as the block runs."""
    proxy = ProxyProcess(cluster.seeds, guard=guard)
    with standalone_server(cluster.server, guard) as plain:
        try:
            trio.run(proxy.start)
            sides = Sides(plain, proxy.port, [node.port for node in cluster.nodes], server_version(cluster.server))
            yield sides
            sides.close()
            assert trio.run(proxy.stop) == 0, proxy.stderr
            assert "Traceback" not in proxy.stderr, proxy.stderr
        finally:
            proxy.kill()


class Mover:
    """Moves the slots of some tags around the cluster, in a thread, while the block runs; back home at its end.

    It holds `still` during a move.
    A slot comes back at the earliest a tenth of a second after it left: that it comes back while a window of commands
    from before is on its way is what the ordering contract excludes.
    """

    def __init__(self, cluster: EmbeddedCluster, tags: Sequence[bytes], still: threading.Lock) -> None:
        self.moves = 0
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
                    self.moves += 1
                round_ += 1
                await trio.sleep_until(rested)
        except BaseException as error:
            self._error = error
        finally:
            self._cluster.disconnect()
