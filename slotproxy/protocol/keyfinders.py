"""Find the keys in a command's arguments, as a cluster node finds them when it routes.

One duty: from the argument list of one command, say which arguments are keys.

Invariants:

- The answer is what a *node routes by* (`getKeysFromCommand` in the server's `db.c`, 6.2.14 and 7.0.15), in
  argument order, duplicates included. `COMMAND GETKEYS` of 7.0 takes another way through the server and is
  wrong, or refuses, in a few corners: GEORADIUS with STORE and STOREDIST, a consumer group called STREAMS,
  PFMERGE with the destination alone. The tests list them and hold both against real servers.
- SORT's BY and GET patterns are not keys: a cluster refuses those patterns itself.
- A shard channel (SPUBLISH, SSUBSCRIBE, SUNSUBSCRIBE; specs flagged `not_key`) is a position like any other:
  routing needs it.
- Where the arguments are nonsense `KeysError` is raised, and then the node finds no key either: it runs the
  command where it stands and answers with the command's own error.

It must not know about slots, nodes, or where command descriptions come from.
"""

from __future__ import annotations

from typing import Final

INVALID_ARGUMENTS: Final = "Invalid arguments specified for command"
INVALID_NUMBER: Final = "Invalid number of arguments specified for command"

_MAX_DIGITS: Final = 9
_BLANKS: Final = b" \t\n\v\f\r"
_ZERO: Final = 48


class KeysError(ValueError):
    """The arguments name no keys where the command needs some.

    The text is that of COMMAND GETKEYS without its `ERR `. A caller that wants the command's own error
    (`ERR syntax error`, `ERR Number of keys can't be negative`) sends the command to any node.
    """


def same_word(arg: bytes, word: bytes) -> bool:
    """Whether the server takes `arg` for the keyword `word` (given in upper case).

    As `strcasecmp` compares: any letter case, and a NUL byte ends the argument. Looks at no more of a large
    value than the keyword is long.
    """
    size = len(word)
    if len(arg) < size:
        return False
    if len(arg) > size and arg[size] != 0:
        return False
    return arg[:size].upper() == word


def leading_number(arg: bytes) -> int:
    """The number an argument starts with as C's `atoi` reads it, 0 where there is none.

    The server counts keys so (`EVAL s 1x k` routes by `k` before the command itself refuses `1x`). More than
    nine digits give -1: no request has so many keys, and a C int or an `i64` must not wrap.
    """
    at = 0
    size = len(arg)
    while at < size and arg[at] in _BLANKS:
        at += 1
    negative = False
    if at < size and (arg[at] == 43 or arg[at] == 45):
        negative = arg[at] == 45
        at += 1
    value = 0
    digits = 0
    while at < size:
        digit = arg[at] - _ZERO
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit
        if value:
            digits += 1
            if digits > _MAX_DIGITS:
                return -1
        at += 1
    return -value if negative else value


class KeyFinder:
    """How the keys of one command are found: `positions(args)` gives their indexes, ascending."""

    def positions(self, args: list[bytes]) -> list[int]:
        """No keys. Subclasses raise KeysError where the arguments are nonsense."""
        return []


class RangeFinder(KeyFinder):
    """COMMAND's first key, last key (negative: counted from the end) and step.

    Like `getKeysUsingLegacyRangeSpec`: a range that runs past the arguments means no keys at all, without an
    error (OBJECT HELP of 6.2).
    """

    def __init__(self, first: int, last: int, step: int) -> None:
        self.first: Final = first
        self.last: Final = last
        self.step: Final = step

    def positions(self, args: list[bytes]) -> list[int]:
        argc = len(args)
        last = self.last
        if last < 0:
            last += argc
        found: list[int] = []
        at = self.first
        while at <= last:
            if at >= argc:
                return []
            found.append(at)
            at += self.step
        return found


class SortFinder(KeyFinder):
    """SORT key [BY p] [LIMIT n n] [GET p] [STORE key]: the key and the *last* STORE's (`sortGetKeys`)."""

    def positions(self, args: list[bytes]) -> list[int]:
        argc = len(args)
        store = 0
        at = 2
        while at < argc:
            arg = args[at]
            if same_word(arg, b"LIMIT"):
                at += 2
            elif same_word(arg, b"GET") or same_word(arg, b"BY"):
                at += 1
            elif same_word(arg, b"STORE") and at + 1 < argc:
                store = at + 1  # its argument is looked at again, as the server does
            at += 1
        return [1, store] if store else [1]


class FirstFinder(KeyFinder):
    """Argument 1 and nothing else, although the specs say "unknown" (SORT_RO)."""

    def positions(self, args: list[bytes]) -> list[int]:
        return [1]


class MigrateFinder(KeyFinder):
    """MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH p] [AUTH2 u p] [KEYS key ...].

    7.0 skips the options' arguments and finds no key where both forms are mixed; 6.2 (`plain`) takes the
    first word KEYS for the keyword, if the key argument is empty.
    """

    def __init__(self, plain: bool) -> None:
        self.plain: Final = plain

    def positions(self, args: list[bytes]) -> list[int]:
        argc = len(args)
        at = 6
        while at < argc:
            arg = args[at]
            if same_word(arg, b"KEYS") and not (self.plain and args[3]):
                if args[3]:
                    raise KeysError(INVALID_ARGUMENTS)
                if at + 1 == argc:
                    raise KeysError(INVALID_ARGUMENTS)
                return list(range(at + 1, argc))
            if not self.plain:
                if same_word(arg, b"AUTH"):
                    at += 1
                elif same_word(arg, b"AUTH2"):
                    at += 2
            at += 1
        return [3]


class GeoRadiusFinder(KeyFinder):
    """GEORADIUS and GEORADIUSBYMEMBER: the key and the *last* STORE's or STOREDIST's (`georadiusGetKeys`)."""

    def positions(self, args: list[bytes]) -> list[int]:
        argc = len(args)
        store = 0
        at = 5
        while at + 1 < argc:
            if same_word(args[at], b"STORE") or same_word(args[at], b"STOREDIST"):
                at += 1
                store = at
            at += 1
        return [1, store] if store else [1]


class StreamsFinder(KeyFinder):
    """XREAD, XREADGROUP: the first half of what follows STREAMS, options skipped (`xreadGetKeys`)."""

    def positions(self, args: list[bytes]) -> list[int]:
        argc = len(args)
        at = 1
        while at < argc:
            arg = args[at]
            if same_word(arg, b"STREAMS"):
                rest = argc - at - 1
                if rest == 0 or rest % 2:
                    break
                return list(range(at + 1, at + 1 + rest // 2))
            if same_word(arg, b"BLOCK") or same_word(arg, b"COUNT"):
                at += 1
            elif same_word(arg, b"GROUP"):
                at += 2
            elif not same_word(arg, b"NOACK"):
                break
            at += 1
        raise KeysError(INVALID_ARGUMENTS)


class StralgoFinder(KeyFinder):
    """STRALGO LCS KEYS a b of 6.2 (`lcsGetKeys`; LCS took its place in 7.0)."""

    def positions(self, args: list[bytes]) -> list[int]:
        at = 1
        while at < len(args):
            if same_word(args[at], b"STRINGS"):
                break
            if same_word(args[at], b"KEYS") and at + 2 < len(args):
                return [at + 1, at + 2]
            at += 1
        return []


class MemoryFinder(KeyFinder):
    """MEMORY USAGE key, where MEMORY is one command with no subcommands of its own (6.2)."""

    def positions(self, args: list[bytes]) -> list[int]:
        if len(args) >= 3 and same_word(args[1], b"USAGE"):
            return [2]
        return []


def built_in_finder(name: str, before_7: bool) -> KeyFinder | None:
    """The hand-written finder of a command whose specs are unknown, incomplete or misleading.

    `name` in lower case; `before_7`: the server has no key specs (6.2 and older). None where range or specs
    are enough.
    """
    if name == "sort":
        return SortFinder()
    if name == "sort_ro":
        return FirstFinder()
    if name == "migrate":
        return MigrateFinder(before_7)
    if name in ("georadius", "georadiusbymember"):
        return GeoRadiusFinder()
    if name in ("xread", "xreadgroup"):
        return StreamsFinder()
    if before_7 and name == "stralgo":
        return StralgoFinder()
    if before_7 and name == "memory":
        return MemoryFinder()
    return None
