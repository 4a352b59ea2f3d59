"""A client's transaction: the commands held since MULTI, and into which blocks they go at EXEC.

Duty: say what is wrong with a command before it is queued, as the server does; group what was queued by slot, each
group one block; put the groups' replies back into the order of the commands. What runs where is for the data plane to
do.

Invariants: commands of one slot keep their order and stay together. What a node cannot run in a block (what concerns
all nodes, what the proxy answers) has its place in EXEC's array all the same.
"""

from typing import Final

from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import (
    CROSSSLOT,
    Answer,
    AnswerLocally,
    AwaitReplicas,
    Decision,
    Forward,
    ForwardKeyless,
    MayWait,
    OverNodes,
    Scan,
    SplitUp,
    Subscription,
    Unknown,
    unknown_subcommand,
)
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.splitting import KeyMerging

#: 7.0.15's refusal of commands with the flag no_multi; 6.2 has neither flag nor refusal.
NOT_ALLOWED: Final = error("ERR Command not allowed inside a transaction")
#: EXEC's reply when a command could not be queued.
DISCARDED: Final = error("EXECABORT Transaction discarded because of previous errors.")
#: EXEC's reply when the commands' keys lie in several slots.
SEVERAL_SLOTS: Final = error(
    "CROSSSLOT Keys in this transaction don't hash to the same slot; discarded. Give them a common {tag}, or let"
    " slotproxy run it slot by slot (--cross-slot-transactions per-slot)"
)
#: WATCH's.
SEVERAL_SLOTS_WATCHED: Final = error(
    "CROSSSLOT Watched keys don't hash to the same slot. Give them a common {tag}, or let slotproxy watch them slot by"
    " slot (--cross-slot-transactions per-slot)"
)
#: What EXEC is when all that it runs may run twice.
READS: Final = Command("exec", 1, frozenset({"readonly"}), [], None, None)
_NOT_AT_ONCE: Final = frozenset(["client|unblock", "client|tracking", "client|no-touch"])
KEYLESS: Final = -1  # the slot of a group without keys


class Queued:
    """One command of a transaction: what was decided of it, its arguments and bytes (`raw`)."""

    def __init__(self, command: Command | None, decision: Decision, arguments: list[bytes], raw: bytes) -> None:
        self.command: Final = command
        self.decision: Final = decision
        self.arguments: Final = arguments
        self.raw: Final = raw


class Group:
    """The commands that go to one slot as one block; `slot` is KEYLESS when none has a key."""

    def __init__(self, slot: int) -> None:
        self.slot: Final = slot
        self.requests: Final[list[bytes]] = []
        self.keyless: bool = False  # holds commands without keys
        self.repeatable: bool = True  # to run it twice is to run it once


class Piece:
    """Where the reply to a command, or to a part of one, is to be found: in `group`, at `index`."""

    def __init__(self, group: Group, index: int) -> None:
        self.group: Final = group
        self.index: Final = index


class Plan:
    """What EXEC has to do. `pieces[i]`: where the reply to command i is; empty for what is run outside of blocks."""

    def __init__(self, queued: list[Queued]) -> None:
        self.queued: Final = queued
        self.groups: Final[list[Group]] = []
        self.pieces: Final[list[list[Piece]]] = []
        by_slot: dict[int, Group] = {}
        keyless: list[Queued] = []
        for one in queued:
            for slot, _ in _places(one):
                if slot == KEYLESS:
                    keyless.append(one)
                elif slot not in by_slot:
                    by_slot[slot] = Group(slot)
        if keyless and not by_slot:
            by_slot[KEYLESS] = Group(KEYLESS)
        self.groups.extend(by_slot.values())
        for one in queued:
            pieces: list[Piece] = []
            for slot, raw in _places(one):
                group = by_slot[slot] if slot in by_slot else self.groups[0]
                group.keyless = group.keyless or slot == KEYLESS
                group.repeatable = group.repeatable and one.command is not None and one.command.repeatable
                pieces.append(Piece(group, len(group.requests)))
                group.requests.append(raw)
            self.pieces.append(pieces)

    def over_nodes(self) -> list[int]:
        """The commands that concern several nodes and cannot be part of a block."""
        return [
            index for index, one in enumerate(self.queued) if isinstance(one.decision, (OverNodes, Scan))
        ]

    def is_one_block(self) -> bool:
        """Whether EXEC's reply is that of one block, as it is."""
        return len(self.groups) == 1 and all([len(pieces) == 1 for pieces in self.pieces])

    def reply_to(self, index: int, replies: dict[Group, list[bytes]]) -> bytes | None:
        """The reply to command `index` from those of the groups' commands; None when it is run outside of blocks."""
        pieces = self.pieces[index]
        if not pieces:
            return None
        found = [replies[piece.group][piece.index] for piece in pieces]
        decision = self.queued[index].decision
        if isinstance(decision, SplitUp):
            return KeyMerging(decision.command.name, decision.parts).merge(found)
        return found[0]


def _places(one: Queued) -> list[tuple[int, bytes]]:
    """The slots to which a command goes, and with what."""
    decision = one.decision
    if isinstance(decision, Forward):
        return [(decision.slot, one.raw)]
    if isinstance(decision, MayWait):
        return [(int(key_slot(decision.keys[0])) if decision.keys else KEYLESS, one.raw)]
    if isinstance(decision, SplitUp):
        return [(part.slot, part.raw) for part in decision.parts]
    if isinstance(decision, ForwardKeyless):
        return [(KEYLESS, one.raw)]
    return []


def refusal_to_queue(command: Command | None, decision: Decision, arguments: list[bytes]) -> bytes | None:
    """The error for which a command cannot be queued, and EXEC will be EXECABORT; None when it can."""
    if command is not None and command.name == "client" and isinstance(decision, AnswerLocally):
        return unknown_subcommand(arguments)
    if isinstance(decision, Unknown):
        return decision.frame
    if isinstance(decision, Answer):
        return decision.frame if decision.early else None
    if command is not None and "no_multi" in command.flags:
        return NOT_ALLOWED
    if isinstance(decision, MayWait) and len({int(key_slot(key)) for key in decision.keys}) > 1:
        return CROSSSLOT
    waits = isinstance(decision, (AwaitReplicas, Subscription))
    if waits or (command is not None and command.name in _NOT_AT_ONCE):
        name = "CLIENT UNBLOCK" if command is None else command.name.upper().replace("|", " ")
        return error(
            f"ERR slotproxy: {name} inside a transaction is refused: its reply is not known at once; send it by itself"
        )
    return None


def answered_by_proxy(one: Queued) -> bool:
    """Whether the proxy answers the command itself."""
    return isinstance(one.decision, (Answer, AnswerLocally))


def not_in_one_block(one: Queued) -> bytes:
    """EXEC's reply when a command concerns all nodes and others stand beside it."""
    name = "it" if one.command is None else one.command.name.upper().replace("|", " ")
    return error(
        f"EXECABORT Transaction discarded because of: slotproxy: {name} concerns all nodes and cannot be part of one"
        " block; send it by itself, or let slotproxy run it behind the others (--cross-slot-transactions per-slot)"
    )
