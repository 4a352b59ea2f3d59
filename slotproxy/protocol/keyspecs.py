"""Key specs: where COMMAND of Redis 7 says that a command's keys are.

One duty: read the key specs (begin_search, find_keys) and the first/last/step of a COMMAND entry, and find
keys by them. Source: "Command key specifications" of Redis 7.0, `getKeysUsingKeySpecs` in db.c of 7.0.15.

Invariants: a spec that is unknown or incomplete adds what it can and never raises for that; whether something
may be missing is for `uncertain` to say.

It must not know about particular commands (`keyfinders` does), about slots, or about the reply around the
entry.
"""

from __future__ import annotations

from typing import Final

from slotproxy.protocol.keyfinders import (
    INVALID_ARGUMENTS,
    KeyFinder,
    KeysError,
    RangeFinder,
    leading_number,
    same_word,
)

# begin_search and find_keys types of a key spec.
BEGIN_INDEX: Final = 0
BEGIN_KEYWORD: Final = 1
FIND_RANGE: Final = 0
FIND_KEYNUM: Final = 1
UNKNOWN: Final = 2


class KeySpec:
    """One key spec of COMMAND's ninth element (7.0): begin_search and find_keys with their numbers.

    `begin`: BEGIN_INDEX (`start` = index), BEGIN_KEYWORD (`keyword`, `start` = startfrom, negative: searched
    backwards from the end) or UNKNOWN. `find`: FIND_RANGE (`last` = lastkey, relative to the first key or
    negative, `step`, `limit`), FIND_KEYNUM (`numidx`, `firstkey` and `step`, relative to where the search
    began) or UNKNOWN. `incomplete` and `not_key` are the flags of that name.
    """

    def __init__(self) -> None:
        self.begin: int = UNKNOWN
        self.start: int = 0
        self.keyword: bytes = b""
        self.find: int = UNKNOWN
        self.last: int = 0
        self.step: int = 1
        self.limit: int = 0
        self.numidx: int = 0
        self.firstkey: int = 0
        self.incomplete: bool = False
        self.not_key: bool = False
        self.variable_flags: bool = False

    @property
    def known(self) -> bool:
        """Whether the spec finds its keys by itself, and all of them."""
        return self.begin != UNKNOWN and self.find != UNKNOWN and not self.incomplete

    def begins_at(self, args: list[bytes]) -> int:
        """Where the search begins; 0 for a keyword that is not there."""
        if self.begin == BEGIN_INDEX:
            return self.start
        argc = len(args)
        if self.start > 0:
            at = self.start
            while at < argc - 1:  # a keyword in the last place has nothing behind it
                if same_word(args[at], self.keyword):
                    return at + 1
                at += 1
        else:
            at = argc + self.start
            while 1 < at < argc:
                if same_word(args[at], self.keyword):
                    return at + 1
                at -= 1
        return 0

    def append_to(self, found: list[int], args: list[bytes], optional: bool) -> None:
        """Append the positions of this spec's keys; raises KeysError where they are out of bounds.

        `optional`: a key count of 0 is no error (the command's flag no_mandatory_keys).
        """
        if self.begin == UNKNOWN or self.find == UNKNOWN:
            return
        argc = len(args)
        first = self.begins_at(args)
        if first == 0:
            return
        if self.find == FIND_KEYNUM:
            at = first + self.numidx
            if at >= argc:
                raise KeysError(INVALID_ARGUMENTS)
            count = leading_number(args[at])
            if count == 0 and optional and args[at] == b"0":
                return
            if count < 1:
                raise KeysError(INVALID_ARGUMENTS)
            first += self.firstkey
            last = first + (count - 1) * self.step
        elif self.last >= 0:
            last = first + self.last
        elif self.limit > 1:
            last = first + (argc - first) // self.limit + self.last
        else:
            last = argc + self.last
        if last >= argc or last < first:
            raise KeysError(INVALID_ARGUMENTS)
        while first <= last:
            found.append(first)
            first += self.step


class SpecsFinder(KeyFinder):
    """The keys that a command's key specs name, all specs together (`getKeysUsingKeySpecs`)."""

    def __init__(self, specs: list[KeySpec], optional: bool) -> None:
        self.specs: Final = specs
        self.optional: Final = optional

    def positions(self, args: list[bytes]) -> list[int]:
        found: list[int] = []
        for spec in self.specs:
            spec.append_to(found, args, self.optional)
        if len(self.specs) > 1:
            found.sort()
        return found


def read_spec(fields: list[object]) -> KeySpec:
    """A key spec: a flattened map of flags, begin_search, find_keys (and notes)."""
    spec = KeySpec()
    top = pairs(fields)
    flags = as_texts(top.get(b"flags", []))
    spec.incomplete = "incomplete" in flags
    spec.not_key = "not_key" in flags
    spec.variable_flags = "variable_flags" in flags
    begin = pairs(as_list(top.get(b"begin_search", [])))
    numbers = pairs(as_list(begin.get(b"spec", [])))
    if begin.get(b"type") == b"index":
        spec.begin = BEGIN_INDEX
        spec.start = as_natural(numbers.get(b"index"))
    elif begin.get(b"type") == b"keyword":
        spec.begin = BEGIN_KEYWORD
        spec.keyword = as_bytes(numbers.get(b"keyword")).upper()
        spec.start = as_int(numbers.get(b"startfrom"))
    find = pairs(as_list(top.get(b"find_keys", [])))
    numbers = pairs(as_list(find.get(b"spec", [])))
    if find.get(b"type") == b"range":
        spec.find = FIND_RANGE
        spec.last = as_int(numbers.get(b"lastkey"))
        spec.step = max(1, as_int(numbers.get(b"keystep")))
        spec.limit = as_int(numbers.get(b"limit"))
    elif find.get(b"type") == b"keynum":
        spec.find = FIND_KEYNUM
        spec.numidx = as_natural(numbers.get(b"keynumidx"))
        spec.firstkey = as_natural(numbers.get(b"firstkey"))
        spec.step = max(1, as_int(numbers.get(b"keystep")))
    return spec


def table_finder(fields: list[object], flags: frozenset[str], specs: list[KeySpec]) -> KeyFinder | None:
    """Range or specs, whichever a node routes by: the range unless it leaves keys out (flag movablekeys)."""
    first, last, step = as_int(fields[3]), as_int(fields[4]), as_int(fields[5])
    limited = any([spec.limit > 1 for spec in specs])
    if first > 0 and step > 0 and not limited and (not specs or "movablekeys" not in flags):
        return RangeFinder(first, last, step)
    if specs:
        return SpecsFinder(specs, "no_mandatory_keys" in flags)
    return None


def uncertain(flags: frozenset[str], specs: list[KeySpec]) -> bool:
    """Whether there may be keys that neither range nor specs name.

    So where a spec is unknown or incomplete, and where a module answers for its keys itself (getkeys-api: the
    flag movablekeys, with specs of variable_flags or none).
    """
    if any([not spec.known for spec in specs]):
        return True
    if "movablekeys" not in flags:
        return False
    return not specs or ("module" in flags and any([spec.variable_flags for spec in specs]))


def as_list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"COMMAND: {value!r:.60} where a list was expected")
    return value


def as_int(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"COMMAND: {value!r:.60} where a number was expected")
    return value


def as_natural(value: object) -> int:
    number = as_int(value)
    if number < 0:
        raise ValueError(f"COMMAND: {number} where a position was expected")
    return number


def as_bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"COMMAND: {value!r:.60} where a string was expected")
    return value


def as_text(value: object) -> str:
    return as_bytes(value).decode("utf-8", "surrogateescape")


def as_texts(value: object) -> list[str]:
    return [as_text(part) for part in as_list(value)]


def pairs(flat: list[object]) -> dict[bytes, object]:
    return {as_bytes(flat[at]): flat[at + 1] for at in range(0, len(flat) - 1, 2)}
