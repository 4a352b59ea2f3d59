"""Who waits for what at which keys, and how the proxy hears of it without taking anything.

Duty: for each key at which somebody waits here (not at a node), have its node tell when the key changes (CLIENT
TRACKING on a connection of the proxy's own, the key read with EXISTS), and wake the waiters in the order in which
they came.

Invariants: a key is tried again after its node has promised to tell of changes, so nothing that comes before the
promise is missed. Of those who pop from a key one at a time tries, the one that has waited longest; when it got
something, the next one tries. A promise ends with its connection, when the slot moves, or unheard of: so each key is
looked at again every few seconds, and tried twenty times a second while there is no promise.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.exclusives import Holder
from slotproxy.dataplane.nodestreams import NodeStream, PushListener, StreamKey
from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.senders import Sender
from slotproxy.dataplane.solitary import Asked, Solitary
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.resp import command
from slotproxy.protocol.slots import key_slot

if TYPE_CHECKING:
    from slotproxy.dataplane.plane import Plane

_LOOK_AGAIN: Final = 5.0  # seconds after which a node's promise is asked for anew
_SHARE: Final = 0.25  # seconds between two shares of that, where it would be a burst otherwise
_AT_ONCE: Final = 100  # at least so many are a share
_WITHOUT_PROMISE: Final = 0.05  # seconds between two tries while there is none
_THERE: Final = b":1\r\n"


class Waiter(Holder):
    """Somebody who waits at keys, here or at a node."""

    def is_idle(self) -> bool:
        """Whether it could try now."""
        raise AssertionError("a waiter without is_idle()")

    def wake(self, watched: "Watched") -> None:
        """There may be something at the key."""
        raise AssertionError("a waiter without wake()")


class Watched(Solitary):
    """One key and those who wait for one kind of value there, first come first."""

    def __init__(self, arrivals: "Arrivals", key: bytes, kind: str) -> None:
        super().__init__()
        self.key: Final = key
        self.kind: Final = kind
        self.slot: Final = int(key_slot(key))
        self.waiters: Final[dict[Waiter, None]] = {}
        self.promised_at: float = 0.0  # when the node promised to tell; 0.0: it has not
        self.tried_at: float = arrivals.reactor.now
        self.ready: bool = True  # there may be something to pop
        self.news: bool = False  # something may have come since the last one tried
        self.taker: Waiter | None = None  # who tries to pop
        self._held_up: dict[Waiter, None] = {}  # who would try a later key if there were nothing here
        self.asking: bool = False
        self._again: bool = False
        self._arrivals: Final = arrivals

    def doubt(self) -> None:
        """The key has changed, or the promise is worth nothing any more: have the node promise again."""
        self.promised_at = 0.0
        if self.asking:
            self._again = True
        else:
            self.ask()

    def ask(self) -> None:
        """Have the node promise to tell of changes."""
        self.asking = True
        self._arrivals.look_at(self)
        if self.promised_at == 0.0:
            self._arrivals.look_soon(self)

    def take(self, index: int, reply: bytes) -> None:
        """EXISTS has been answered."""
        self.asking = False
        if self._again:
            self._again = False
            self.ask()
            return
        if reply[0] == 0x2D:
            self.promised_at = 0.0
            self._arrivals.look_soon(self)
            return
        self.promised_at = self._arrivals.reactor.now
        self._arrivals.promised(self)
        if reply == _THERE:
            self.note()
        elif self.taker is None and not self.news:
            self.ready = False

    def note(self) -> None:
        """There may be something: wake who may want it."""
        self.tried_at = self._arrivals.reactor.now
        self.ready = True
        self.news = True
        if self.kind == "stream":
            for waiter in list(self.waiters):
                waiter.wake(self)
        else:
            self.offer()

    def offer(self, before: Waiter | None = None) -> None:
        """Let the first one who can try to pop; only those who have waited longer than `before`."""
        if self.ready and self.taker is None:
            for waiter in list(self.waiters):
                if waiter is before:
                    return
                if waiter.is_idle():
                    waiter.wake(self)
                    if self.is_taken():
                        return

    def is_taken(self) -> bool:
        """Whether somebody tries."""
        return self.taker is not None

    def taken_by(self, waiter: Waiter) -> None:
        """It tries to pop."""
        self.taker = waiter
        self.news = False
        self.tried_at = self._arrivals.reactor.now

    def hold_up(self, waiter: Waiter) -> None:
        """It must not go on to a later key before it is known whether there is something for it here."""
        self._held_up[waiter] = None

    def tried(self, found: bool) -> None:
        """The one who tried has got something, or nothing."""
        self.taker = None
        self.ready = found or self.news

    def go_on(self) -> None:
        """After `tried`: the others have their turn, here or at their next keys."""
        self.offer()
        if not self.is_taken() and self._held_up:
            waiters = self._held_up
            self._held_up = {}
            for waiter in waiters:
                waiter.wake(self)

    def leave(self, waiter: Waiter) -> None:
        """Somebody waits here no more."""
        self.waiters.pop(waiter, None)
        self._held_up.pop(waiter, None)
        if self.taker is waiter:  # nobody knows what came of it
            self.tried(True)
        if self.waiters:
            self.go_on()
        else:
            self._arrivals.forget(self)


class Arrivals(Sender, PushListener):
    """All that is waited for in this proxy. Sends on a lane of its own, where nodes tell of changes."""

    def __init__(self, plane: "Plane") -> None:
        super().__init__(plane.reactor, 0, 0)
        territory = plane.router.territory
        key = StreamKey(3, territory.own.identity, [[b"CLIENT", b"TRACKING", b"ON"]], self)
        self.lane = territory.add_lanes([key])
        self._plane: Final = plane
        self._keys: Final[dict[bytes, list[Watched]]] = {}
        self._timer: Final = _Looks(self)
        self._without: Final[dict[Watched, None]] = {}  # keys of which no node has promised to tell
        self._promises: Final[deque[tuple[float, Watched]]] = deque()  # when each was given, the oldest first
        exists = plane.table.get(b"EXISTS")
        assert exists is not None, "every server has EXISTS"
        self.exists: Final = exists
        self.owner: Final = Request(self, exists, 0, b"", plane.reactor.now)

    def join(self, waiter: Waiter, key: bytes, kind: str) -> Watched:
        """Somebody waits at a key, behind those who do already."""
        entries = self._keys.setdefault(key, [])
        watched = None
        for entry in entries:
            if entry.kind == kind:
                watched = entry
        if watched is None:
            watched = Watched(self, key, kind)
            entries.append(watched)
            watched.ask()
        else:  # what has just come may not have been told yet; who has waited longest looks
            watched.ready = True
        watched.waiters[waiter] = None
        return watched

    def forget(self, watched: Watched) -> None:
        """Nobody waits there any more."""
        entries = self._keys.get(watched.key)
        if entries is not None and watched in entries:
            entries.remove(watched)
            if not entries:
                del self._keys[watched.key]

    def look_at(self, watched: Watched) -> None:
        """Read a key, so that its node tells when it changes."""
        asked = Asked(self._plane, self.owner, watched, 0)
        raw = command([b"EXISTS", watched.key])
        self._plane.router.submit(Request(self, self.exists, watched.slot, raw, self.reactor.now, False, asked))

    def deaf(self, stream: NodeStream) -> None:
        """A node has forgotten what it promised."""
        self.doubt(None)

    def told(self, stream: NodeStream, frame: bytes) -> None:
        """A node tells of changed keys, or that all have changed. Raises ProtocolError."""
        elements = elements_of(frame)
        if elements is None or len(elements) != 2 or not elements[0].endswith(b"\r\ninvalidate\r\n"):
            return
        names = elements_of(elements[1])
        if names is None:
            self.doubt(None)
            return
        for name in names:
            for watched in self._keys.get(name.partition(b"\r\n")[2][:-2], [])[:]:
                watched.doubt()

    def doubt(self, slots: set[int] | None) -> None:
        """Promises for keys of these slots, or all promises, may be worth nothing any more."""
        for entries in list(self._keys.values()):
            for watched in entries[:]:
                if slots is None or watched.slot in slots:
                    watched.doubt()

    def look_soon(self, watched: Watched) -> None:
        """A key is without a promise."""
        self._without[watched] = None
        self._look_by(self.reactor.now + _WITHOUT_PROMISE)

    def promised(self, watched: Watched) -> None:
        """A node has promised to tell of a key."""
        self._promises.append((watched.promised_at, watched))
        self._look_by(watched.promised_at + _LOOK_AGAIN)

    def _look_by(self, when: float) -> None:
        if self._timer.due == 0.0 or self._timer.due > when:
            self.reactor.call_at(when, self._timer)

    def look_again(self) -> None:
        """Try where there is no promise; renew promises that are old, but not too many at once."""
        now: float = self.reactor.now
        for watched in list(self._without):
            if watched.promised_at > 0.0 or not watched.waiters:
                del self._without[watched]
                continue
            if not watched.asking:
                watched.ask()
            if now - watched.tried_at >= _WITHOUT_PROMISE / 2:
                watched.note()
        left = max(_AT_ONCE, len(self._promises) // 20)
        while self._promises and left > 0 and now - self._promises[0][0] >= _LOOK_AGAIN:
            when, watched = self._promises.popleft()
            if watched.promised_at == when and watched.waiters and not watched.asking:
                watched.ask()
                left -= 1
        if self._without:
            self._look_by(now + _WITHOUT_PROMISE)
        elif self._promises:
            self._look_by(max(self._promises[0][0] + _LOOK_AGAIN, now + _SHARE))


class _Looks(Timer):
    def __init__(self, arrivals: Arrivals) -> None:
        super().__init__()
        self._arrivals: Final = arrivals

    def fire(self) -> None:
        self._arrivals.look_again()
