"""Whether what a client saw can be true: held against a Redis that runs its commands in order.

A `History` belongs to one client and to keys that nobody else writes. `violations` runs the commands one after
the other on a model; each reply must be the model's. A command whose outcome is in doubt may have run, once, at
its place in the order, or not at all: the model then goes on with both possibilities, and every later reply
narrows them down.

So a swap, a loss and a doubling all show as a reply (or, when the nodes are read at the end, a value) that no
possibility gives. Keys that no command joins are checked apart, or the possibilities would multiply.

Invariants: it never calls a possible history wrong; it knows only the commands below and refuses all others; it
looks at replies alone, never at what the proxy says about itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from slotproxy.demo.connection import ErrorReply

Command = tuple[str | int, ...]
State = dict[str, "bytes | frozenset[str]"]
Kind = Literal["ahead", "behind", "wrong", "error"]

IN_DOUBT_TEXT: Final = "ERR slotproxy: in doubt:"
# A read that was lost with its connection and may not be repeated: it changed nothing, and counts as in doubt.
UNREAD_TEXT: Final = "ERR slotproxy: no answer:"


class _InDoubt:
    def __repr__(self) -> str:
        return "in doubt"


IN_DOUBT: Final = _InDoubt()


def outcome_of(reply: object) -> object:
    """The reply as a history keeps it: errors that leave the outcome open become IN_DOUBT."""
    if isinstance(reply, ErrorReply) and str(reply).startswith((IN_DOUBT_TEXT, UNREAD_TEXT)):
        return IN_DOUBT
    return reply


@dataclass(frozen=True)
class Event:
    """A command and what became of it."""

    command: Command
    outcome: object


@dataclass(frozen=True)
class Violation:
    """`ahead`: INCR gave more than possible (something ran twice, or overtook); `behind`: less (something was
    lost, or overtaken); `error`: an error reply that a single Redis would not give; `wrong`: any other reply."""

    kind: Kind
    place: int
    text: str

    def __str__(self) -> str:
        return f"#{self.place} {self.kind}: {self.text}"


class History:
    """The commands of one client, in the order in which it sent them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []

    def record(self, command: Command, reply: object) -> None:
        """Append a command and its reply (an ErrorReply is a reply)."""
        self.events.append(Event(command, outcome_of(reply)))

    @property
    def in_doubt(self) -> int:
        return sum(event.outcome is IN_DOUBT for event in self.events)

    @property
    def answered(self) -> int:
        return len(self.events) - self.in_doubt

    def keys(self) -> list[str]:
        """All keys named, in the order of their first use."""
        return list(dict.fromkeys(key for event in self.events for key in keys_of(event.command)))

    def keys_that(self, name: str) -> list[str]:
        """Keys that a command of this name was used on, such as INCR."""
        named = (event.command for event in self.events if event.command[0] == name)
        return list(dict.fromkeys(key for command in named for key in keys_of(command)))

    def increments(self, key: str) -> tuple[int, int]:
        """How many INCR of a key were acknowledged, and how many are in doubt."""
        outcomes = [event.outcome for event in self.events if event.command == ("INCR", key)]
        doubtful = sum(outcome is IN_DOUBT for outcome in outcomes)
        return sum(isinstance(outcome, int) for outcome in outcomes), doubtful

    def violations(self, most: int = 5) -> list[Violation]:
        """What cannot be true, at most so many; nothing when all can."""
        found: list[Violation] = []
        for places in _apart(self.events):
            states: list[State] = [{}]
            for place in places:
                states, violation = _step(states, self.events[place], place)
                if violation is not None:
                    found.append(violation)
        return sorted(found, key=lambda violation: violation.place)[:most]

    def assert_possible(self) -> None:
        """Raises AssertionError, with the first violations and what surrounds the very first."""
        found = self.violations()
        if found:
            first = found[0].place
            start = max(0, first - 5)
            near = [f"    {start + index} {event}" for index, event in enumerate(self.events[start : first + 4])]
            raise AssertionError("\n".join([f"{self.name}:", *map(str, found), *near]))


def keys_of(command: Command) -> list[str]:
    """The keys of a command of the model."""
    name, *rest = map(str, command)
    if name == "MSET":
        return rest[::2]
    return rest if name in _MANY else rest[:1]


_MANY: Final = frozenset(["MGET", "DEL", "UNLINK", "EXISTS", "TOUCH", "RENAME", "SINTER"])
_READS: Final = frozenset(["GET", "MGET", "EXISTS", "TOUCH", "SINTER"])


def _apart(events: list[Event]) -> Iterable[list[int]]:
    """Places of the events, in groups that share no key."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for event in events:
        first, *others = keys_of(event.command)
        for other in others:
            leader[find(other)] = find(first)
        find(first)
    groups: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        groups.setdefault(find(keys_of(event.command)[0]), []).append(place)
    return groups.values()


def _step(states: list[State], event: Event, place: int) -> tuple[list[State], Violation | None]:
    """The states possible after an event, given those possible before."""
    name = str(event.command[0])
    run = _MODEL[name]
    words = [str(word) for word in event.command[1:]]
    if event.outcome is IN_DOUBT:
        if name in _READS:
            return states, None
        ran = [dict(state) for state in states]
        for state in ran:
            run(state, words)
        return _distinct(states + ran), None
    expected: list[object] = []
    possible: list[State] = []
    for state in states:
        reply = run(state, words)
        if reply == _comparable(name, event.outcome):
            possible.append(state)
        else:
            expected.append(reply)
    if possible:
        return possible if len(possible) == 1 else _distinct(possible), None
    # Go on from what the server said, so that one fault is not reported again with every later reply.
    survivor = states[-1]
    if name in ("INCR", "GET") and isinstance(event.outcome, int | bytes):
        survivor[words[0]] = event.outcome if isinstance(event.outcome, bytes) else b"%d" % event.outcome
    return [survivor], Violation(_kind(event.outcome, expected), place, _text(event, expected))


def _distinct(states: list[State]) -> list[State]:
    return list({frozenset(state.items()): state for state in states}.values())


def _comparable(name: str, outcome: object) -> object:
    if isinstance(outcome, ErrorReply):
        return str(outcome)
    if name == "SINTER" and isinstance(outcome, list):
        return sorted(outcome)
    return outcome


def _kind(outcome: object, expected: list[object]) -> Kind:
    if isinstance(outcome, ErrorReply):
        return "error"
    number, numbers = _number(outcome), [_number(one) for one in expected]
    known = [one for one in numbers if one is not None]
    if number is None or len(known) < len(numbers):
        return "wrong"
    return "ahead" if number > max(known) else "behind" if number < min(known) else "wrong"


def _number(value: object) -> int | None:
    if isinstance(value, bytes) and value.isdigit():
        return int(value)
    return value if isinstance(value, int) else None


def _text(event: Event, expected: list[object]) -> str:
    shown = " or ".join(repr(one) for one in expected[:4]) + (" or …" if len(expected) > 4 else "")
    return f"{' '.join(map(str, event.command))[:120]} -> {event.outcome!r}, possible: {shown}"


# The model: each function changes the state and returns the reply.


def _get(state: State, words: list[str]) -> object:
    return state.get(words[0])


def _set(state: State, words: list[str]) -> object:
    state[words[0]] = words[1].encode()
    return b"OK"


def _append(state: State, words: list[str]) -> object:
    value = state.get(words[0], b"")
    assert isinstance(value, bytes)
    state[words[0]] = value + words[1].encode()
    return len(value) + len(words[1])


def _incr(state: State, words: list[str]) -> object:
    value = state.get(words[0], b"0")
    assert isinstance(value, bytes)
    state[words[0]] = b"%d" % (int(value) + 1)
    return int(value) + 1


def _mset(state: State, words: list[str]) -> object:
    for key, value in zip(words[::2], words[1::2], strict=True):
        state[key] = value.encode()
    return b"OK"


def _mget(state: State, words: list[str]) -> object:
    return [state.get(key) for key in words]


def _delete(state: State, words: list[str]) -> object:
    return sum(state.pop(key, None) is not None for key in words)


def _exists(state: State, words: list[str]) -> object:
    return sum(key in state for key in words)


def _rename(state: State, words: list[str]) -> object:
    source, target = words
    if source not in state:
        return "ERR no such key"
    state[target] = state.pop(source)
    return b"OK"


def _sadd(state: State, words: list[str]) -> object:
    before = state.get(words[0], frozenset())
    assert isinstance(before, frozenset)
    state[words[0]] = before | frozenset(words[1:])
    return len(before | frozenset(words[1:])) - len(before)


def _sinter(state: State, words: list[str]) -> object:
    sets: list[Any] = [state.get(key, frozenset()) for key in words]
    return sorted(member.encode() for member in frozenset.intersection(*sets))


_MODEL: Final[dict[str, Callable[[State, list[str]], object]]] = {
    "GET": _get,
    "SET": _set,
    "APPEND": _append,
    "INCR": _incr,
    "MSET": _mset,
    "MGET": _mget,
    "DEL": _delete,
    "UNLINK": _delete,
    "EXISTS": _exists,
    "TOUCH": _exists,
    "RENAME": _rename,
    "SADD": _sadd,
    "SINTER": _sinter,
}
