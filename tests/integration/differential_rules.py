"""How the replies of one plain server and of slotproxy are compared, and where slotproxy means to differ.

`EXCEPTIONS` is the whole list of what is not compared byte for byte on a cluster whose slots rest; the README shows it.
`WHILE_SLOTS_MOVE` is what comes on top while they move. A reply without an order of its own (the command table's
nondeterministic_output_order, and UNORDERED) is compared as a multiset: that is no exception.

Knows replies and command names only: no server, no socket.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from slotproxy.protocol.blocking import read_wait
from slotproxy.protocol.commands import CommandTable, KeysError
from slotproxy.protocol.replies import items_of
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.splitting import SPLITTABLE
from slotproxy.protocol.treatments import NODES, PRIMARIES, treatment_of


class Call(NamedTuple):
    """One command. `name` as the table has it (`config|get`), in lower case; `words` as they are sent."""

    name: str
    words: tuple[bytes, ...]


Tree = bytes | list["Tree"]
Compare = Callable[[bytes, bytes], bool]
"""The server's reply, slotproxy's reply, whole frames: whether they say the same."""


def tree(frame: bytes) -> Tree:
    """A reply as nested lists of frames; a map as its names and values in turn."""
    elements = items_of(frame)
    return frame if elements is None else [tree(element) for element in elements]


# ---- ways to compare


def same(expected: bytes, said: bytes) -> bool:
    return expected == said


def in_any_order(expected: bytes, said: bytes) -> bool:
    """Equal once every array, at any depth, is sorted."""
    return expected[:1] == said[:1] and _sorted(tree(expected)) == _sorted(tree(said))


def pairs_in_any_order(expected: bytes, said: bytes) -> bool:
    """Flat arrays of names and values, also behind a cursor."""
    ours, theirs = tree(said), tree(expected)
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) == len(theirs) == 2 and isinstance(ours[1], list) and isinstance(theirs[1], list):
            return ours[0] == theirs[0] and _pairs(ours[1]) == _pairs(theirs[1])
        return _pairs(ours) == _pairs(theirs)
    return expected == said


def within(difference: int) -> Compare:
    """Equal but for integers, which may differ by that much: what depends on the time of asking."""

    def compare(expected: bytes, said: bytes) -> bool:
        return _close(tree(expected), tree(said), difference)

    return compare


def same_shape(expected: bytes, said: bytes) -> bool:
    """The same types and lengths of arrays; errors and nulls equal."""
    return _shape(tree(expected)) == _shape(tree(said))


def same_kind(expected: bytes, said: bytes) -> bool:
    """The same type at the top; errors equal."""
    return expected == said if expected[:1] == b"-" else expected[:1] == said[:1]


def same_dump(expected: bytes, said: bytes) -> bool:
    """Serialized values: hash tables are written in an order of their own, streams with the time of reading."""
    types = {frame.partition(b"\r\n")[2][:1] for frame in (expected, said)}
    return len(expected) == len(said) and len(types) == 1 and types <= _DUMPED_WITH_CHANCE


def same_fields(expected: bytes, said: bytes) -> bool:
    """Flat maps: the same names with values of the same type."""
    ours, theirs = tree(said), tree(expected)
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return same_kind(expected, said)
    kinds = [[(name, _shape(value)[:1]) for name, value in zip(x[::2], x[1::2], strict=False)] for x in (ours, theirs)]
    return len(ours) == len(theirs) and sorted(map(repr, kinds[0])) == sorted(map(repr, kinds[1]))


def same_names(expected: bytes, said: bytes) -> bool:
    """Texts of `name=value` or `name:value`: every name of the server's, in its order; ours may have more lines."""
    if expected[:1] not in (b"$", b"=") or said[:1] != expected[:1]:
        return expected == said
    texts = [frame.replace(b"\r\ntxt:", b"\r\n", 1) for frame in (expected, said)]
    names = [re.findall(rb"(?:^|[ \r\n])(# \w+|[\w.-]+(?=[=:]))", text) for text in texts]
    rest = iter(dict.fromkeys(names[1]))
    return all(name in rest for name in dict.fromkeys(names[0]) if not name.startswith(_COUNTED))


def same_client(expected: bytes, said: bytes) -> bool:
    """CLIENT INFO, CLIENT LIST: the same fields; where both show one client, in the same state."""
    states = [re.findall(rb" ((?:name|flags|db|sub|psub|multi|cmd|resp)=\S*)", text) for text in (expected, said)]
    alone = expected.count(b" addr=") == said.count(b" addr=") == 1
    return same_names(expected, said) and (not alone or states[0] == states[1])


def same_settings(expected: bytes, said: bytes) -> bool:
    """CONFIG GET: equal but for what one process has for itself."""
    kept = [
        sorted((name, value) for name, value in zip(x[::2], x[1::2], strict=False) if not _OF_ONE_NODE.match(str(name)))
        if isinstance(x := tree(frame), list) else frame
        for frame in (expected, said)
    ]  # fmt: skip
    return kept[0] == kept[1]


def same_code(expected: bytes, said: bytes) -> bool:
    """Both are errors, of the same first word."""
    return expected[:1] == said[:1] == b"-" and expected.partition(b" ")[0] == said.partition(b" ")[0]


def _sorted(value: Tree) -> object:
    return sorted(repr(_sorted(part)) for part in value) if isinstance(value, list) else value


def _pairs(flat: list[Tree]) -> list[str]:
    return [*sorted(repr(pair) for pair in zip(flat[::2], flat[1::2], strict=False)), str(len(flat))]


def _close(expected: Tree, said: Tree, difference: int) -> bool:
    if isinstance(expected, list) and isinstance(said, list):
        return len(expected) == len(said) and all(
            _close(one, other, difference) for one, other in zip(expected, said, strict=True)
        )
    if isinstance(expected, bytes) and isinstance(said, bytes) and expected[:1] == said[:1] == b":":
        first, second = int(expected[1:-2]), int(said[1:-2])
        # A key without a time to live (-1) or that is missing (-2) is no moment near another.
        return first == second or (min(first, second) >= 0 and abs(first - second) <= difference)
    return expected == said


def _shape(value: Tree) -> list[object]:
    if isinstance(value, list):
        return ["array", *map(_shape, value)]
    return [value if value[:1] in (b"-", b"_") or value[1:3] == b"-1" else value[:1]]


def _asks_other_keys(words: tuple[bytes, ...]) -> bool:
    options = [word.upper() for word in words]
    return any(
        option == b"GET" or (option == b"BY" and b"*" in pattern)
        for option, pattern in zip(options[2:], words[3:], strict=False)
    )


# ---- what is compared how


class Rule(NamedTuple):
    """One row of exceptions: which commands, how their replies are compared, and why."""

    commands: str
    how: str
    compare: Compare
    why: str


EXCEPTIONS: Final[list[Rule]] = [
    Rule("ttl pttl expiretime pexpiretime object|idletime", "within 5 s", within(5_000), "depends on when it is asked"),
    Rule("xpending xinfo|consumers xinfo|stream", "times within 5 s", within(5_000), "depends on when it is asked"),
    Rule("time lastsave", "both are times", same_shape, "depends on when it is asked"),
    Rule("spop srandmember hrandfield zrandmember randomkey acl|genpass", "type and length", same_shape, "random"),
    Rule("dump", "sets, hash tables and streams: length", same_dump, "random order, times of reading"),
    Rule("object|encoding", "type", same_kind, "a server's memory, not its data: see the key's history"),
    Rule("memory|usage", "type", same_kind, "a server's memory"),
    Rule("memory|stats function|stats", "names of fields", same_fields, "the nodes' figures"),
    Rule("memory|doctor memory|malloc-stats latency|doctor lolwut", "type", same_kind, "the nodes' own words"),
    Rule("slowlog|get slowlog|len latency|latest latency|history latency|histogram acl|log", "type", same_kind,
         "what the nodes measured, and they measure the proxy's own commands, too"),
    Rule("scan", "type", same_kind, "cursors are slotproxy's own; whole walks are compared"),
    Rule("config|get", "names; values but of port, dir and cluster-*", same_settings, "the nodes' own"),
    Rule("info", "names of sections and fields", same_names, "figures differ"),
    Rule("client|list client|info", "names of fields; of one client also its state", same_client, "figures differ"),
    Rule("role", "type and length", same_shape, "the node's replication offset"),
    Rule("client|id hello", "type", same_shape, "every server has its own numbers"),
]  # fmt: skip

WHILE_SLOTS_MOVE: Final[list[Rule]] = [
    Rule("object|encoding object|idletime object|freq memory|usage dump xinfo|stream", "type", same_kind,
         "MIGRATE builds a key anew: it is packed and as if just used"),
]  # fmt: skip

UNORDERED: Final = "command command|info command|docs command|list sscan pubsub|channels acl|cat"
PAIRED: Final = "hgetall hscan zscan"

# INFO's fields for each command that was called, and a cluster's own.
_COUNTED: Final = (b"cmdstat_", b"errorstat_", b"latency_percentiles_")
_DUMPED_WITH_CHANCE: Final = {b"\x02", b"\x04", b"\x0f", b"\x13", b"\x15"}  # rdb.h: RDB_TYPE_*
_OF_ONE_NODE = re.compile(r"b'\$\d+\\r\\n(port|dir|bind|logfile|pidfile|cluster-|repl-diskless-sync-delay)")
_ONE_DATABASE = b" is not allowed in cluster mode\r\n"
_SORT_DENIED = re.compile(rb"-ERR ((BY|GET) option of SORT denied in (?i:cluster) mode\.|syntax error)\r\n")
_OWN_ERRORS = re.compile(rb"-ERR (unknown (sub)?command|wrong number of arguments) ", re.IGNORECASE)

NOT_SERVED: Final = frozenset(
    [
        "debug", "shutdown", "replicaof", "slaveof", "sync", "psync", "replconf", "failover", "migrate", "save",
        "bgsave", "bgrewriteaof", "module|load", "module|loadex", "module|unload", "script|debug",
    ]
)  # fmt: skip
"""What slotproxy refuses by name."""
NOT_INSIDE: Final = frozenset(["wait", "waitaof", "client|unblock"])
"""What slotproxy refuses between MULTI and EXEC."""
SPANNING: Final = frozenset(["blpop", "brpop", "bzpopmin", "bzpopmax", "blmpop", "bzmpop", "xread", "xreadgroup"])
"""What may have keys in several slots, other than commands that are split; not between MULTI and EXEC."""
_NAMES_THE_FLAG = re.compile(rb"-CROSSSLOT .*--cross-slot-transactions.*\r\n")
_CANNOT_BE_HELD = re.compile(rb"-EXECABORT .*--cross-slot-transactions.*\r\n")


class Own(NamedTuple):
    """What slotproxy answers where it means to differ. `at_once`: between MULTI and EXEC, instead of queueing."""

    pattern: re.Pattern[bytes]
    at_once: bool = False


class Rules:
    """The rules for servers of one version; `moving`: also those for slots that move.

    `per_slot`: slotproxy runs transactions over several slots, slot by slot. `protocol`: the clients' RESP version.
    """

    def __init__(
        self,
        table: CommandTable,
        version: tuple[int, ...],
        *,
        moving: bool = False,
        per_slot: bool = False,
        protocol: int = 2,
    ) -> None:
        self.table = table
        self.per_slot = per_slot
        self._version = version
        self._other_protocol = b"2" if protocol == 3 else b"3"
        self._by_name: dict[str, Compare] = {}
        for command in table.commands():
            if "nondeterministic_output_order" in command.tips:
                self._by_name[command.name] = in_any_order
        self._by_name |= dict.fromkeys(UNORDERED.split(), in_any_order)
        self._by_name |= dict.fromkeys(PAIRED.split(), pairs_in_any_order)
        for rule in [*EXCEPTIONS, *(WHILE_SLOTS_MOVE if moving else [])]:
            self._by_name |= dict.fromkeys(rule.commands.split(), rule.compare)

    def call(self, words: Iterable[bytes]) -> Call:
        """The command that these words are."""
        taken = tuple(words)
        command = self.table.resolve(list(taken)) if taken else None
        return Call(command.name if command else taken[0].lower().decode("latin-1"), taken)

    def agree(self, call: Call, expected: bytes, said: bytes) -> bool:
        """Whether slotproxy may answer `said` where a plain server answers `expected`."""
        if expected == said:
            return True
        if self._version < (7,) and _OWN_ERRORS.match(said) and same_code(expected, said):
            return True  # slotproxy has the words of 7.0 also in front of older servers
        if self._version < (7,) and call.name.startswith("client|"):
            return True  # CLIENT is about slotproxy's own clients, and as in 7.0
        return self._by_name.get(call.name, same)(expected, said)

    def is_accepted(self, call: Call) -> bool:
        """Whether a server of this version would queue the command, going by the command table."""
        command = self.table.resolve(list(call.words)) if call.words else None
        known = command is not None and not (command.subcommands and len(call.words) > 1 and self._version >= (7,))
        return known and self._has_right_arity(call) and (command is None or "no_multi" not in command.flags)

    def own_answer(self, call: Call, watched: Sequence[Call] = (), *, inside: bool = False) -> Own | None:
        """What slotproxy answers instead of doing what a plain server would; None where it means to do the same.

        `inside`: between MULTI and EXEC. `watched`: what the client watches.
        """
        words = call.words
        name = call.name.partition("|")[0]
        if name == "select" and len(words) == 2 and re.fullmatch(rb"-?[1-9]\d{0,8}", words[1]):
            return Own(re.compile(rb"-ERR SELECT" + _ONE_DATABASE))
        if name in ("move", "swapdb") and len(words) == 3:
            return Own(re.compile(rb"-ERR " + name.upper().encode() + _ONE_DATABASE))
        if name == "copy" and b"DB" in map(bytes.upper, words[3:]):
            return Own(re.compile(rb"-ERR .*\r\n"))
        if name in ("sort", "sort_ro") and _asks_other_keys(words):
            return Own(_SORT_DENIED)
        if not self._has_right_arity(call):
            return None
        if call.name in NOT_SERVED:
            return Own(re.compile(rb"-(ERR|NOPERM) slotproxy: .*\r\n"), at_once=True)
        if inside and call.name in NOT_INSIDE:
            return Own(re.compile(rb"-ERR slotproxy: .* inside a transaction is refused.*\r\n"), at_once=True)
        if inside and name == "hello" and words[1:2] == (self._other_protocol,):
            return Own(re.compile(rb"-ERR slotproxy: HELLO with another protocol inside a transaction .*\r\n"))
        if inside and call.name == "client" and self._version < (7,):
            return Own(re.compile(rb"-ERR unknown subcommand .*\r\n"), at_once=True)
        if call.name == "watch":
            over = not (inside or self.per_slot) and len(self.slots([*watched, call])) > 1
            return Own(_NAMES_THE_FLAG) if over else None
        spans = call.name in SPLITTABLE or (call.name in SPANNING and not inside and self._is_well_formed(call))
        if not spans and len(self.slots([call])) > 1:
            return Own(re.compile(rb"-CROSSSLOT Keys in request don't hash to the same slot\r\n"), at_once=True)
        return None

    def own_end(self, queued: Sequence[Call], watched: Sequence[Call]) -> re.Pattern[bytes] | None:
        """What slotproxy answers to EXEC instead of running these commands; None where it means to run them."""
        if self.per_slot:
            return None
        if len(self.slots([*queued, *watched])) > 1:
            return _NAMES_THE_FLAG
        beside = len(queued) > 1 or bool(watched)
        return _CANNOT_BE_HELD if beside and any(map(self._concerns_all_nodes, queued)) else None

    def _has_right_arity(self, call: Call) -> bool:
        command = self.table.resolve(list(call.words))
        return command is not None and command.check_arity(len(call.words))

    def _is_well_formed(self, call: Call) -> bool:
        """Whether slotproxy can read it; what it cannot, only a node could refuse, and none has all the slots."""
        command = self.table.resolve(list(call.words))
        if command is None:
            return False
        with contextlib.suppress(KeysError):
            return read_wait(call.name, list(call.words), command.keys(list(call.words))) is not None
        return False

    def _concerns_all_nodes(self, call: Call) -> bool:
        command = self.table.resolve(list(call.words))
        if command is None or (call.name == "scan" and not re.fullmatch(rb"[+-]?\d{0,20}", call.words[1])):
            return False
        return call.name == "config|get" or treatment_of(command) in (PRIMARIES, NODES)

    def slots(self, calls: Sequence[Call]) -> set[int]:
        """Where their keys lie."""
        found: set[int] = set()
        for call in calls:
            command = self.table.resolve(list(call.words))
            if command is not None and command.check_arity(len(call.words)):
                with contextlib.suppress(KeysError):
                    found |= {int(key_slot(key)) for key in command.keys(list(call.words))}
        return found
