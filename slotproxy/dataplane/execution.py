"""EXEC, where it is more than one block passed on: watched keys, several slots, commands that no block can hold.

Duty: run what a client has queued, in this order, each step when the one before has answered, and put EXEC's array
together:

    0. functions that are called are brought to nodes that lack them
       with several blocks: is a watched slot touched already (CLIENT INFO)? then nothing runs: nil
    1. watched slots without commands: have they been touched?    \\  on the connections on which they are watched;
    2. blocks of watched slots, one after another                 /   any touched one ends it: nil
    3. all other blocks, one after another, by the router: an application may rely on the order of its commands
    4. commands that concern all nodes, one after another
    5. what the proxy answers itself

Invariants: nothing is run again here; a redirect on a watched connection is nil. Each block on one carries an EXISTS of
its watched keys, stripped from the reply, so that the node checks that it still has them. When a block has failed,
nothing more is run: if others have run before, the array says at each command's place what became of it, and it is
counted. What has begun to run goes on when the client leaves, as on one server.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane import errors
from slotproxy.dataplane.answers import answer_locally
from slotproxy.dataplane.exclusives import Exclusive, Holder
from slotproxy.dataplane.lanes import ASKING
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Asked
from slotproxy.dataplane.solo import Solo
from slotproxy.dataplane.watching import WatchedSlot
from slotproxy.protocol.blocks import LOOSE, NOT_RUN, aborted, block_of, judge
from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import Answer, AnswerLocally, Forward
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.redirects import refusal_of
from slotproxy.protocol.replies import elements_of, is_null
from slotproxy.protocol.resp import OK, array, command, error, null_array
from slotproxy.protocol.transactions import KEYLESS, READS, SEVERAL_SLOTS, Group, Plan, Queued, not_in_one_block

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_PARTIAL: Final = error(
    "EXECABORT slotproxy: a watched key of this command's slot was touched after commands of other slots had run;"
    " not executed"
)
_LEFT_OUT: Final = error(
    "EXECABORT slotproxy: a block of this transaction that comes before failed, after commands of other slots had run;"
    " not executed"
)
_FUNCTION: Final = -1
_CLIENT_INFO: Final = command([b"CLIENT", b"INFO"])


def is_touched(info: bytes) -> bool:
    """Whether CLIENT INFO says that a watched key has changed (networking.c, flag d)."""
    flags = info.partition(b" flags=")[2].partition(b" ")[0]
    return b"d" in flags


def calls_function(command: Command | None) -> bool:
    """Whether it needs a function library at its node."""
    return command is not None and command.name.startswith("fcall")


class Execution(Holder):
    """One EXEC of one client; it runs alone. Until it ends the client is in its transaction, as CLIENT INFO tells."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, raw: bytes, plan: Plan) -> None:
        super().__init__()
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = called
        self._plan: Final = plan
        self._owner: Final = Request(client, called, 0, raw, plane.reactor.now)
        self._replies: Final[dict[Group, list[bytes]]] = {}  # of the groups that have ended: one for each command
        self._failed: Final[list[bytes]] = []  # the errors of those that have not run,
        self._doubtful: Final[list[bytes]] = []  # and of those that may have
        self._outside: Final[dict[int, bytes]] = {}  # replies of commands that no block holds
        self._watched: list[tuple[WatchedSlot, Group | None]] = []  # still to be run
        self._unchecked: list[WatchedSlot] = []  # before any block runs
        self._exclusive: Exclusive | None = None
        self._group: Group | None = None  # which is run on it
        self._before: list[bytes] = []  # replies there
        self._skip: bool = False  # the next one is the one to ASKING
        self._functions: list[Queued] = []  # calls of functions that have to be there first
        self._begun: bool = False  # a block has been sent
        self._ran: bool = False  # a block certainly has run
        self._over: bool = False

    def start(self) -> None:
        plan = self._plan
        self._client.queue.push(self._owner)
        watched = dict(self._client.watching.slots)
        self._client.watching.slots.clear()
        groups: dict[int, Group] = {group.slot: group for group in plan.groups}
        if KEYLESS in groups and watched:
            groups = {next(iter(watched)): groups[KEYLESS]}
        self._watched = [(slot, None) for number, slot in watched.items() if number not in groups]
        self._watched += [(watched[number], group) for number, group in groups.items() if number in watched]
        over_nodes = plan.over_nodes()
        if not self._plane.per_slot:
            if len({*watched, *groups}) > 1:
                self._abort(SEVERAL_SLOTS)
                return
            if over_nodes and (watched or len(plan.queued) > 1):
                self._abort(not_in_one_block(plan.queued[over_nodes[0]]))
                return
        for one in plan.queued:
            if calls_function(one.command):
                self._functions.append(one)
        self._next_function()

    def abandon(self) -> None:
        """The client has left: nothing is begun for it."""
        if self._begun:
            return
        self._over = True
        exclusive = self._exclusive
        if exclusive is not None:
            self._exclusive = None
            exclusive.finish("its client has left")
        self._give_back()

    def _next_function(self) -> None:
        """See to it that functions are where they will be called: their absence would show when half has run."""
        while self._functions:
            one = self._functions.pop(0)
            slot = one.decision.slot if isinstance(one.decision, Forward) else self._plan.groups[0].slot
            if slot == KEYLESS:
                slot = self._plane.router.territory.keyless_slot(self._client.id)
            node = self._plane.router.territory.owner(slot)
            if node is not None:
                asked = Asked(self._plane, self._owner, self, _FUNCTION)
                self._plane.control.supply_nowait(one.arguments[1], node, asked)
                return
        if any([slot.touched for slot, _ in self._watched]):
            self._abort(null_array(self._client.protocol))
            return
        if len(self._watched) > 1 or (self._watched and len(self._plan.groups) > 1):
            self._unchecked = [slot for slot, group in self._watched if group is not None]
        self._next_check()

    # Watched slots

    def _next_check(self) -> None:
        """Before any of several blocks runs: is a watched slot touched already? EXEC itself would end its WATCH."""
        if not self._unchecked:
            self._next_watched()
            return
        watched = self._unchecked[-1]
        exclusive = watched.exclusive
        if exclusive is None or watched.touched:
            self._abort(null_array(self._client.protocol))
            return
        self._exclusive = exclusive
        watched.exclusive = None
        exclusive.holder = self
        self._before = []
        exists = command([b"EXISTS", *watched.keys])
        asking = watched.asking
        exclusive.ask(_CLIENT_INFO + (ASKING + exists if asking else exists), 3 if asking else 2)

    def _checked(self, exclusive: Exclusive) -> None:
        watched = self._unchecked.pop()
        watched.keep(exclusive, watched.asking)
        self._exclusive = None
        if is_touched(self._before[0]) or refusal_of(self._before[-1]) is not None:
            watched.touched = True
            self._abort(null_array(self._client.protocol))
        else:
            self._next_check()

    def _next_watched(self) -> None:
        while not self._over:
            if not self._watched or self._has_failed():
                self._give_back()
                self._next_group()
                return
            watched, group = self._watched.pop(0)
            exclusive = watched.exclusive
            if exclusive is not None and not watched.touched:
                self._ask(watched, exclusive, group)
                return
            self._was_touched(group)

    def _ask(self, watched: WatchedSlot, exclusive: Exclusive, group: Group | None) -> None:
        requests = [] if group is None else group.requests
        self._begun = self._begun or group is not None
        self._group = group
        self._before = []
        self._skip = watched.asking
        self._exclusive = exclusive
        watched.exclusive = None
        exclusive.holder = self
        block = block_of([command([b"EXISTS", *watched.keys]), *requests])
        exclusive.ask(ASKING + block if watched.asking else block, len(requests) + (4 if watched.asking else 3))

    def replied(self, exclusive: Exclusive, reply: bytes) -> None:
        if self._unchecked:
            self._before.append(reply)
            if exclusive.awaited == 0:
                self._checked(exclusive)
            return
        if self._skip:
            self._skip = False
            return
        if exclusive.awaited > 0:
            self._before.append(reply)
            return
        self._exclusive = None
        verdict = judge(self._before, reply)
        if verdict.outcome == LOOSE:
            exclusive.finish("the node denies MULTI: it still watches")
        else:
            self._plane.exclusives.release(exclusive)
        group = self._group
        if verdict.outcome == LOOSE:
            self._end_group(group, errors.loose(exclusive.node.name, self._before[0]))
        elif verdict.outcome == NOT_RUN and refusal_of(verdict.reply) is None:
            self._end_group(group, aborted(verdict.reply))
        elif verdict.outcome == NOT_RUN or is_null(verdict.reply):
            self._was_touched(group)
        else:
            self._end_group(group, verdict.reply, 1)
        self._next_watched()

    def lease_lost(self, exclusive: Exclusive, whole: bool, why: str) -> None:
        self._exclusive = None
        if self._unchecked:
            self._abort(null_array(self._client.protocol))
            return
        group = self._group
        if group is None or not whole:
            self._was_touched(group)
        else:
            self._plane.fencing.forget(exclusive, self._client.lane)
            self._plane.counters.in_doubt += 1
            self._end_group(group, errors.in_doubt(self._command, exclusive.node.name, why))
        self._next_watched()

    def _was_touched(self, group: Group | None) -> None:
        """A watched key has changed, or nobody can tell. Without anything run, that is nil."""
        if not self._ran and not self._doubtful:
            self._abort(null_array(self._client.protocol))
        else:
            self._end_group(group, _PARTIAL)

    def _has_failed(self) -> bool:
        """Whether a block has not run, or may not have."""
        return len(self._failed) + len(self._doubtful) > 0

    # All other blocks

    def _next_group(self) -> None:
        plane = self._plane
        left = [group for group in self._plan.groups if group not in self._replies]
        if not left or self._has_failed():
            for group in left:
                self._replies[group] = [_LEFT_OUT] * len(group.requests)
            self._next_outside()
            return
        self._begun = True
        group = left[0]
        slot = plane.router.territory.keyless_slot(self._client.id) if group.slot == KEYLESS else group.slot
        asked = Asked(plane, self._owner, self, self._plan.groups.index(group))
        called = READS if group.repeatable else self._command
        request = Request(self._client, called, slot, block_of(group.requests), plane.reactor.now, True, asked)
        request.commands = len(group.requests)
        self._client.stamp(request)
        plane.router.submit(request)

    def take(self, index: int, reply: bytes) -> None:
        if self._over:
            return
        if index == _FUNCTION:
            self._next_function()
        elif index < len(self._plan.groups):
            self._end_group(self._plan.groups[index], reply)
            self._next_group()
        else:
            self._outside[index - len(self._plan.groups)] = reply
            self._next_outside()

    def _end_group(self, group: Group | None, reply: bytes, strip: int = 0) -> None:
        """A block has been answered; `strip`: how many replies in front are not the client's."""
        if group is None:  # a look at watched keys, which comes before anything has run
            if reply[0] == 0x2D:
                self._abort(reply)
            return
        try:
            elements = elements_of(reply)
        except ProtocolError:
            elements = None
        count = len(group.requests)
        if elements is not None and len(elements) == count + strip:
            self._ran = True
            self._replies[group] = elements[strip:]
            return
        if reply[0] != 0x2D:
            reply = error("ERR slotproxy: EXEC was answered " + ascii(reply[:32])[1:])
        (self._doubtful if reply.startswith(errors.IN_DOUBT) else self._failed).append(reply)
        self._replies[group] = [reply] * count

    # What no block holds

    def _next_outside(self) -> None:
        plan = self._plan
        if plan.groups and not self._ran:
            self._abort([*self._doubtful, *self._failed][0])
            return
        for index in plan.over_nodes():
            if self._has_failed():
                self._outside[index] = _LEFT_OUT
            elif index not in self._outside:
                one = plan.queued[index]
                assert one.command is not None, "it concerns all nodes"
                asked = Asked(self._plane, self._owner, self, len(plan.groups) + index)
                Solo(self._client, self._plane, one.command, one.decision, one.arguments, one.raw, asked).start()
                return
        frames: list[bytes] = []
        for index, one in enumerate(plan.queued):
            frame = plan.reply_to(index, self._replies)
            if frame is None:
                frame = self._outside.get(index)
            frames.append(self._answer(one) if frame is None else frame)
        if self._has_failed():
            self._plane.counters.transactions_partial += 1
        self._finish(array(frames))

    def _answer(self, one: Queued) -> bytes:
        decision = one.decision
        if isinstance(decision, Answer):
            return decision.frame
        if isinstance(decision, AnswerLocally):
            return answer_locally(decision.name, self._client, self._plane, one.arguments) or OK
        return OK  # UNWATCH

    # The end

    def _abort(self, reply: bytes) -> None:
        """Nothing has run."""
        self._unchecked = []
        self._give_back()
        self._finish(reply)

    def _give_back(self) -> None:
        left = self._watched
        self._watched = []
        for watched, _ in left:
            self._client.watching.slots[watched.slot] = watched
        self._client.watching.end()

    def _finish(self, reply: bytes) -> None:
        self._over = True
        self._client.transaction = None
        self._plane.router.finish(self._owner, reply)
        if self._client.leaving:
            self._client.finish()
