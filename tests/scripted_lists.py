"""What a scripted node knows beyond strings: lists, streams, commands that wait, watched keys and tracked keys.

Duty: the values and commands, and what a node remembers of a connection between two of its commands: what it waits
for, what it watches, of which keys it is told when they change. When something becomes of that is the node's business
(`tests/scripted_node.py`). Sources: t_list.c, t_stream.c, blocked.c, multi.c and tracking.c of Redis 7.0.

Only what the proxy uses: no LPOP with COUNT, no consumer groups, tracking without BCAST, OPTIN or NOLOOP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.scripted_frames import NIL, NO_ARRAY, array, bulk, error

Data = dict[bytes, bytes]
Body = Callable[[Data, list[bytes]], bytes]
Keys = Callable[[list[bytes]], list[bytes]]

WRONG_TYPE: Final = error("WRONGTYPE Operation against a key holding the wrong kind of value")
UNBLOCKED: Final = error("UNBLOCKED client unblocked via CLIENT UNBLOCK")
DEMOTED: Final = error(
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
)


class ListValue(bytes):
    """A list among a node's keys: as bytes the array of its elements, so that it moves like any other value."""

    elements: tuple[bytes, ...]

    @classmethod
    def of(cls, *elements: bytes) -> ListValue:
        value = cls(array([bulk(element) for element in elements]))
        value.elements = elements
        return value


class StreamValue(bytes):
    """A stream: `entries` are (ID, field, value)."""

    entries: tuple[tuple[bytes, bytes, bytes], ...]

    @classmethod
    def of(cls, *entries: tuple[bytes, bytes, bytes]) -> StreamValue:
        value = cls(array([bulk(id) for id, _, _ in entries]))
        value.entries = entries
        return value


class Waits(NamedTuple):
    """What a blocked connection waits for: its command, and until when (None: for ever)."""

    words: list[bytes]
    keys: list[bytes]
    deadline: float | None


class Remembered:
    """What a node remembers of one connection. `dirty`: a watched key has changed. `tracked`: keys it has read."""

    def __init__(self) -> None:
        self.waits: Waits | None = None
        self.watched: set[bytes] = set()
        self.dirty = False
        self.tracking = False
        self.tracked: set[bytes] = set()
        self.modes: set[bytes] = set()  # BCAST, OPTIN, OPTOUT, NOLOOP
        self.prefixes: list[bytes] = []
        self.redirect = 0  # CLIENT ID of the connection that is told in its place
        self.caching = b""  # YES or NO, for the next command
        self.monitors = False

    def track(self, words: list[bytes]) -> None:
        """CLIENT TRACKING."""
        options = [word.upper() for word in words[3:]]
        self.tracking = words[2].upper() == b"ON"
        self.modes = set(options) & {b"BCAST", b"OPTIN", b"OPTOUT", b"NOLOOP"}
        self.prefixes = [words[place + 4] for place, option in enumerate(options) if option == b"PREFIX"]
        self.redirect = int(words[options.index(b"REDIRECT") + 4]) if b"REDIRECT" in options else 0

    def reads(self) -> bool:
        """Whether what is read now is tracked."""
        if not self.tracking or b"BCAST" in self.modes:
            return False
        return self.caching == b"YES" if b"OPTIN" in self.modes else self.caching != b"NO"

    def unwatch(self) -> None:
        self.watched.clear()
        self.dirty = False

    def changed(self, key: bytes, by: Remembered | None) -> bytes:
        """A key has changed, by a command on the connection `by`; what is told of it."""
        self.dirty = self.dirty or key in self.watched
        if b"BCAST" in self.modes and self.tracking:
            if not any(key.startswith(prefix) for prefix in self.prefixes or [b""]):
                return b""
        elif key not in self.tracked:
            return b""
        self.tracked.discard(key)
        if b"NOLOOP" in self.modes and by is self:
            return b""
        return b">2\r\n$10\r\ninvalidate\r\n" + array([bulk(key)])

    def flushed(self, keys: list[bytes]) -> bytes:
        """All keys are gone."""
        self.dirty = self.dirty or bool(self.watched.intersection(keys))
        self.tracked.clear()
        return b">2\r\n$10\r\ninvalidate\r\n_\r\n" if self.tracking else b""


# Lists


def _elements(data: Data, key: bytes) -> list[bytes] | None:
    """None for another kind of value."""
    value = data.get(key)
    if value is None:
        return []
    return list(value.elements) if isinstance(value, ListValue) else None


def _keep(data: Data, key: bytes, elements: list[bytes]) -> None:
    if elements:
        data[key] = ListValue.of(*elements)
    else:
        data.pop(key, None)


def _push(left: bool) -> Body:
    def push(data: Data, words: list[bytes]) -> bytes:
        elements = _elements(data, words[1])
        if elements is None:
            return WRONG_TYPE
        elements = [*reversed(words[2:]), *elements] if left else [*elements, *words[2:]]
        _keep(data, words[1], elements)
        return b":%d\r\n" % len(elements)

    return push


def _take(data: Data, key: bytes, left: bool) -> bytes | None:
    """One element; None when there is none. Only of a list."""
    elements = _elements(data, key)
    if not elements:
        return None
    element = elements.pop(0 if left else -1)
    _keep(data, key, elements)
    return element


def _pop(left: bool) -> Body:
    def pop(data: Data, words: list[bytes]) -> bytes:
        return WRONG_TYPE if _elements(data, words[1]) is None else bulk(_take(data, words[1], left))

    return pop


def _first_pop(left: bool) -> Body:
    def pop(data: Data, words: list[bytes]) -> bytes:
        for key in words[1:-1]:
            if _elements(data, key) is None:
                return WRONG_TYPE
            element = _take(data, key, left)
            if element is not None:
                return array([bulk(key), bulk(element)])
        return NO_ARRAY

    return pop


def _move(data: Data, words: list[bytes]) -> bytes:
    if _elements(data, words[1]) is None:
        return WRONG_TYPE
    if _elements(data, words[1]) and _elements(data, words[2]) is None:
        return WRONG_TYPE
    element = _take(data, words[1], words[3].upper() == b"LEFT")
    if element is None:
        return NIL
    _push(words[4].upper() == b"LEFT")(data, [b"PUSH", words[2], element])
    return bulk(element)


def _length(data: Data, words: list[bytes]) -> bytes:
    elements = _elements(data, words[1])
    return WRONG_TYPE if elements is None else b":%d\r\n" % len(elements)


# Streams


def _number(id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = id.partition(b"-")
    return int(milliseconds), int(sequence or b"0")


def _entries(data: Data, key: bytes) -> tuple[tuple[bytes, bytes, bytes], ...] | None:
    value = data.get(key)
    if value is None:
        return ()
    return value.entries if isinstance(value, StreamValue) else None


def _xadd(data: Data, words: list[bytes]) -> bytes:
    """XADD key ID field value, with an ID that is not *."""
    entries = _entries(data, words[1])
    if entries is None:
        return WRONG_TYPE
    data[words[1]] = StreamValue.of(*entries, (words[2], words[3], words[4]))
    return bulk(words[2])


def _entry(id: bytes, field: bytes, value: bytes) -> bytes:
    return array([bulk(id), array([bulk(field), bulk(value)])])


def _xrevrange(data: Data, words: list[bytes]) -> bytes:
    """XREVRANGE key + - COUNT n."""
    entries = _entries(data, words[1])
    if entries is None:
        return WRONG_TYPE
    return array([_entry(*entry) for entry in reversed(entries)][: int(words[5])])


def _streams(words: list[bytes]) -> dict[bytes, bytes]:
    """The IDs behind which XREAD wants to read, by key."""
    rest = words[[word.upper() for word in words].index(b"STREAMS") + 1 :]
    return dict(zip(rest[: len(rest) // 2], rest[len(rest) // 2 :], strict=True))


def _xread(data: Data, words: list[bytes]) -> bytes:
    found = []
    for key, id in _streams(words).items():
        entries = _entries(data, key)
        if entries is None:
            return WRONG_TYPE
        new = [_entry(*entry) for entry in entries if id != b"$" and _number(entry[0]) > _number(id)]
        if new:
            found.append(array([bulk(key), array(new)]))
    return array(found) if found else NO_ARRAY


def fixed(data: Data, words: list[bytes]) -> list[bytes]:
    """A command that is about to wait, `$` replaced by what it stands for now."""
    if words[0].upper() != b"XREAD":
        return words
    ids = []
    for key, id in _streams(words).items():
        entries = _entries(data, key) or ((b"0-0", b"", b""),)
        ids.append(entries[-1][0] if id == b"$" else id)
    return [*words[: len(words) - len(ids)], *ids]


# What waits


def patience(words: list[bytes]) -> float | None:
    """How many seconds the command may wait, 0.0 for ever; None: it does not wait."""
    name = words[0].upper()
    if name in (b"BLPOP", b"BRPOP", b"BLMOVE"):
        return float.fromhex(words[-1].decode()) if b"x" in words[-1] else float(words[-1])
    if name == b"XREAD":
        upper = [word.upper() for word in words]
        before = upper[: upper.index(b"STREAMS")]
        if b"BLOCK" in before:
            return int(words[before.index(b"BLOCK") + 1]) / 1000
    return None


def _one(words: list[bytes]) -> list[bytes]:
    return words[1:2]


def _two(words: list[bytes]) -> list[bytes]:
    return words[1:3]


def _but_last(words: list[bytes]) -> list[bytes]:
    return words[1:-1]


def _of_streams(words: list[bytes]) -> list[bytes]:
    return list(_streams(words))


COMMANDS: Final[dict[bytes, tuple[Keys, Body]]] = {
    b"LPUSH": (_one, _push(True)),
    b"RPUSH": (_one, _push(False)),
    b"LPOP": (_one, _pop(True)),
    b"RPOP": (_one, _pop(False)),
    b"LLEN": (_one, _length),
    b"LMOVE": (_two, _move),
    b"BLPOP": (_but_last, _first_pop(True)),
    b"BRPOP": (_but_last, _first_pop(False)),
    b"BLMOVE": (_two, _move),
    b"XADD": (_one, _xadd),
    b"XREVRANGE": (_one, _xrevrange),
    b"XREAD": (_of_streams, _xread),
}
"""Commands that wait do, here, what they do in a transaction: they answer at once."""

READS: Final = frozenset([b"LLEN", b"XREVRANGE", b"XREAD"])
