"""Trying keys by commands that do not wait: how the proxy itself waits for what a blocking command wants.

Duty: from the moment it is told to (`seek`), try the keys in order whenever something may have arrived, until something
was found, or the deadline is there. When to do this and when to wait at a node, and what else ends a wait, is the
subclass's part (`blocked`).

Invariants: one attempt at a time is on its way, sent like any other command, so redirects, refusals and order are the
router's. One that only waits for its slot is taken back after a while, so that other keys have their turn and the
deadline is kept; one that was sent is waited for.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.arrivals import Waiter, Watched
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.protocol.blocking import Wait
from slotproxy.protocol.commands import Command
from slotproxy.protocol.replies import aggregate, items_of
from slotproxy.protocol.slots import key_slot

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

LEASING: Final = 0  # a connection to the node is being made
AT_NODE: Final = 1  # the node has the command
TRYING: Final = 2  # here, and a command that does not wait is on its way
WAITING: Final = 3  # here
DONE: Final = 4
FOR_EVER: Final = float("inf")
FIRST_LOOK: Final = 1.0  # seconds for which a first attempt at each key is made, whatever the timeout
PATIENCE: Final = 0.1  # seconds after which an attempt that only waits for its slot is taken back


class Seeker(Waiter):
    """Somebody who wants what a blocking command waits for. `state` is one of the five above."""

    def __init__(
        self, client: "Client", plane: "Plane", called: Command, raw: bytes, keys: list[bytes], wait: Wait | None
    ) -> None:
        super().__init__()
        now: float = plane.reactor.now
        self.client: Final = client
        self.plane: Final = plane
        self.command: Final = called
        self.owner: Final = Request(client, called, 0, raw, now)
        self.keys: Final = keys
        self.wait: Final = wait
        self.deadline: float = now + wait.timeout if wait is not None and wait.timeout != 0.0 else FOR_EVER
        self.state: int = WAITING
        self.hasty: bool = False  # nobody waits for it any more: what is there now, or nothing
        self.watched: list[Watched] = []
        self.seen: set[int] = set()  # keys that were tried once
        self._unread: list[int] = []  # streams, or in haste keys, to be tried
        self._read: dict[int, list[bytes]] = {}  # what was found in streams,
        self._like: bytes = b""  # in an aggregate like this
        self._held_up: bool = False  # somebody tries a key that comes before what it could try
        self._stalled: set[int] = set()  # keys whose slot was not served when they were tried last
        self._attempt: Request | None = None  # on its way
        self._index: int = -1  # of its key

    # What the subclass makes of it

    def found(self, frame: bytes) -> None:
        """The blocking command's reply."""
        raise AssertionError("a seeker without found()")

    def nothing(self) -> None:
        """Nothing is there, and no key is left to be tried now."""
        raise AssertionError("a seeker without nothing()")

    def answered(self, index: int, reply: bytes) -> None:
        """Something else that was asked (`index` below 0) has been answered."""
        raise AssertionError("a seeker without answered()")

    # Seeking

    def seek(self) -> None:
        """Wait here: try now, and again whenever something arrives."""
        wait = self.wait
        assert wait is not None, "what nobody here can read is not waited for here"
        self.state = WAITING
        if not self.watched:
            self._unread = list(range(len(self.keys)))
            if wait.timeout >= 0.0 and not self.hasty:
                self.watched = [self.plane.arrivals.join(self, key, wait.kind) for key in self.keys]
        self._try_next()

    def until(self) -> float:
        """When to give up: the deadline; but what is there already is found however short the timeout, as on one
        server, also when its slot is not served at this moment."""
        if len(self.seen) < len(self.keys):
            return max(self.deadline, self.owner.started + FIRST_LOOK)
        return self.deadline

    def leave(self) -> None:
        """Wait here no more."""
        watched = self.watched
        self.watched = []
        for one in watched:
            one.leave(self)

    def has_stalled(self) -> bool:
        """Whether a key's slot was not served when it was tried last."""
        return len(self._stalled) > 0

    def seek_again(self) -> None:
        """Keys whose slot was not served have their turn again."""
        self._stalled.clear()
        self._try_next()

    def is_idle(self) -> bool:
        return self.state == WAITING and not self._held_up and len(self.watched) > 0

    def wake(self, watched: Watched) -> None:
        if watched not in self.watched:
            return
        index = self.watched.index(watched)
        if watched.kind == "stream" and index not in self._unread and index not in self._read:
            self._unread.append(index)
        if self.state == WAITING:
            self._try_next()

    def _try_next(self) -> None:
        """Try the first key where something may be."""
        wait = self.wait
        assert wait is not None
        self.state = WAITING
        self._held_up = False
        index = self._next_key(wait)
        if index >= 0:
            slot, called = int(key_slot(self.keys[index])), self.command
            self.ask(wait.attempt(self.keys[index]), slot, called, index, wait.moves)
            return
        if self._read:
            self.found(aggregate(self._like, [frame for index in sorted(self._read) for frame in self._read[index]]))
        else:
            self.nothing()

    def _next_key(self, wait: Wait) -> int:
        """The first key, in order, that is to be tried now; -1: none."""
        if wait.reads or not self.watched:
            for index in sorted(self._unread):
                if index not in self._stalled:
                    self._unread.remove(index)
                    return index
            return -1
        for index, watched in enumerate(self.watched):
            if not watched.ready:
                self.seen.add(index)
            if not watched.ready or index in self._stalled:
                continue
            # One who has waited longer comes first; and a later key is not for this one while there may be this.
            self._held_up = True
            watched.offer(self)
            if watched.is_taken():
                watched.hold_up(self)
                return -1
            self._held_up = False
            watched.taken_by(self)
            return index
        return -1

    def ask(self, raw: bytes, slot: int, called: Command, index: int, barrier: bool = False) -> None:
        """Send a command that does not wait: an attempt at the key `index`, or below 0 something else."""
        plane = self.plane
        asked = Asked(plane, self.owner, self, index)
        request = Request(self.client, called, slot, raw, plane.reactor.now, barrier, asked)
        self._attempt = request
        self._index = index
        self.state = TRYING
        self._be_patient()
        plane.router.submit(request)

    def _be_patient(self) -> None:
        self.plane.reactor.call_at(min(self.until(), self.plane.reactor.now + PATIENCE), self)

    def withdraw(self) -> bool:
        """Take back what was asked, if it has not been sent. False when it may have run, or may run."""
        attempt = self._attempt
        if attempt is None or not self.plane.router.withdraw(attempt):
            return False
        self._attempt = None
        return True

    def want_no_more(self) -> None:
        """Nobody is there to be given anything: what was asked is taken back, or at least not sent again."""
        if self._attempt is not None and not self.withdraw():
            self._attempt.unwanted = True

    def give_up_attempt(self) -> None:
        """An attempt takes long: if it only waits for its slot, other keys are tried, and this one later."""
        if self._attempt is None:
            return
        late = self.plane.reactor.now >= self.until()
        if (self._index < 0 and not late) or not self.withdraw():
            self.plane.reactor.call_at(self.plane.reactor.now + PATIENCE, self)
            return
        index = self._index
        wait = self.wait
        if index < 0 or wait is None:
            self.state = WAITING
            self.nothing()
            return
        self._stalled.add(index)
        if wait.reads or not self.watched:
            self._unread.append(index)
        else:
            self.watched[index].tried(True)
            self.watched[index].go_on()
        self._try_next()

    def take(self, index: int, reply: bytes) -> None:
        """An attempt, or something else, has been answered."""
        self._attempt = None
        if self.state == DONE:
            return
        self.due = 0.0
        if index < 0:
            self.state = WAITING
            self.answered(index, reply)
        else:
            self._tried(index, reply)

    def _tried(self, index: int, reply: bytes) -> None:
        wait = self.wait
        assert wait is not None
        first = index not in self.seen
        self.seen.add(index)
        # Redis, too, minds a wrong type only when it is there from the first; a blocked client takes no notice of it.
        failed = reply[0] == 0x2D and (first or not reply.startswith(b"-WRONGTYPE"))
        frame = None if reply[0] == 0x2D else wait.found(self.keys[index], reply)
        watched = None if wait.reads or not self.watched else self.watched[index]
        if watched is not None:
            watched.tried(frame is not None or failed)
        if failed and not self._read:
            self.found(reply)
        elif frame is None:
            self._try_next()
            if watched is not None:
                watched.go_on()
        elif wait.reads:
            self._like = frame
            self._read[index] = items_of(frame) or []
            if index in self._unread:  # woken meanwhile: what there was is read
                self._unread.remove(index)
            self._try_next()
        else:
            self.found(frame)
