"""What to do with a command that is not plain: a decision as a value, taken without side effects.

Duty: from the command table and the arguments, say where a command goes, how it is cut, or the answer that needs no
node. `Client` executes the decision. Wording of errors is Redis's (7.0.15) where Redis has the error.
"""

from typing import Final

from slotproxy.protocol.commands import Command, CommandTable, KeysError
from slotproxy.protocol.merging import MERGED_BY_HAND
from slotproxy.protocol.resp import error
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.splitting import SPLITTABLE, Part, split_by_slot
from slotproxy.protocol.treatments import (
    ADMIN,
    BLOCKING,
    NODES,
    ONE_NODE,
    PRIVATE,
    PROXY,
    REFUSED,
    REPLICAS,
    ROUTED,
    SPLIT,
    SUBSCRIPTION,
    TRANSACTION,
    treatment_of,
)

CROSSSLOT: Final = error("CROSSSLOT Keys in request don't hash to the same slot")
CLUSTER_DISABLED: Final = error("ERR This instance has cluster support disabled")


class Decision:
    """One of the classes below."""


class Forward(Decision):
    """To the owner of `slot`, as it is. `barrier`: it could be refused although a later command would be accepted."""

    def __init__(self, command: Command, slot: int, barrier: bool) -> None:
        self.command: Final = command
        self.slot: Final = slot
        self.barrier: Final = barrier


class ForwardKeyless(Decision):
    """To the client's own node. `barrier` as above."""

    def __init__(self, command: Command, barrier: bool = False) -> None:
        self.command: Final = command
        self.barrier: Final = barrier


class SplitUp(Decision):
    """In parts, one per slot."""

    def __init__(self, command: Command, parts: list[Part]) -> None:
        self.command: Final = command
        self.parts: Final = parts


class OverNodes(Decision):
    """To every primary, with `replicas` to every replica as well; the replies are merged."""

    def __init__(self, command: Command, replicas: bool) -> None:
        self.command: Final = command
        self.replicas: Final = replicas


class Scan(Decision):
    """SCAN: to the node that `cursor` (as the client gave it) stands for."""

    def __init__(self, command: Command, cursor: int) -> None:
        self.command: Final = command
        self.cursor: Final = cursor


class Unknown(Decision):
    """The table has no such command; `frame` is the answer unless the table turns out to be out of date."""

    def __init__(self, frame: bytes) -> None:
        self.frame: Final = frame


class Answer(Decision):
    """At once, with this frame. `early`: one server, too, gives this error before a transaction would hold the command,
    or slotproxy refuses the command in whatever place."""

    def __init__(self, frame: bytes, early: bool = True) -> None:
        self.frame: Final = frame
        self.early: Final = early


class MayWait(Decision):
    """To a node, on a connection of its own, for it may wait there. `keys`: where something may arrive; none when the
    arguments are wrong, or only the server knows. Inside a transaction it never waits."""

    def __init__(self, command: Command, keys: list[bytes]) -> None:
        self.command: Final = command
        self.keys: Final = keys


class Subscription(Decision):
    """The client subscribes to the names `arguments[1:]`, or does so no longer."""

    def __init__(self, command: Command, arguments: list[bytes]) -> None:
        self.command: Final = command
        self.arguments: Final = arguments


class Transact(Decision):
    """MULTI, EXEC, DISCARD, WATCH or UNWATCH."""

    def __init__(self, command: Command) -> None:
        self.command: Final = command


class AwaitReplicas(Decision):
    """WAIT, WAITAOF: to every primary, on connections of their own."""

    def __init__(self, command: Command) -> None:
        self.command: Final = command


class Hangup(Decision):
    """Close the connection, without an answer and without a look at what follows."""


class AnswerLocally(Decision):
    """By the proxy, from the client's state: `name` is the command's first word in lower case."""

    def __init__(self, name: str) -> None:
        self.name: Final = name


#: What a web browser's request looks like when a page sends it here: what follows would run as inline commands.
_NOT_REDIS: Final = frozenset([b"post", b"host:"])
_OPTION_WIDTH: Final = {b"GROUP": 3, b"COUNT": 2}  # of XREAD and XREADGROUP, the option's name included
_CLUSTER_ONLY: Final = frozenset(["cluster", "asking", "readonly", "readwrite"])


def decide(table: CommandTable, arguments: list[bytes], allow_admin: bool = False) -> Decision:
    """What to do with a command; `arguments[0]` is its name, in any case."""
    command = table.get(arguments[0])
    first = arguments[0].lower().decode("ascii", "replace")
    if arguments[0].lower() in _NOT_REDIS:
        return Hangup()
    if first == "quit":  # before 7.0 it does not stand in the server's table
        return AnswerLocally(first)
    if command is None:
        return Unknown(unknown_command(arguments))
    resolved = table.resolve(arguments) or command
    if _says_all_subcommands(resolved) and len(arguments) > 1 and first != "client":
        return Answer(unknown_subcommand(arguments))
    if not resolved.check_arity(len(arguments)):
        return Answer(wrong_arity(resolved.name))
    treatment = treatment_of(resolved, allow_admin)
    if treatment in (ROUTED, SPLIT):
        return _by_keys(resolved, first, arguments)
    if treatment == PROXY:
        return Answer(CLUSTER_DISABLED, early=False) if first in _CLUSTER_ONLY else AnswerLocally(first)
    if treatment == PRIVATE:
        return AnswerLocally(first)
    if treatment == REFUSED:
        return Answer(refused(resolved, arguments))
    if treatment == BLOCKING:
        return MayWait(resolved, _keys_of(resolved, arguments))
    if treatment == TRANSACTION:
        return Transact(resolved)
    if treatment == REPLICAS:
        return AwaitReplicas(resolved)
    if treatment == SUBSCRIPTION:
        return Subscription(resolved, arguments)
    if treatment == ONE_NODE:
        # What a node says of its configuration is not passed on as it is.
        return OverNodes(resolved, False) if resolved.name == "config|get" else ForwardKeyless(resolved)
    if first == "scan":
        cursor = _cursor(arguments[1])
        return ForwardKeyless(resolved) if cursor is None else Scan(resolved, cursor)  # any node says what is wrong
    if resolved.response_policy == "special" and resolved.name not in MERGED_BY_HAND and first != "info":
        return Answer(not_supported(resolved.name))  # a module's: nobody here knows how to merge what it says
    return OverNodes(resolved, treatment == NODES)


def _cursor(text: bytes) -> int | None:
    """A cursor as the server's strtoul takes it: digits behind a sign, at most 64 bits."""
    if not text:
        return 0
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not digits.isdigit() or len(digits) > 20 or int(digits) >= 1 << 64:
        return None
    return int(digits) if text[:1] != b"-" else -int(digits) & ((1 << 64) - 1)


def _says_all_subcommands(command: Command) -> bool:
    """Whether it is a container and the server itself told what it contains (since 7.0)."""
    for subcommand in command.subcommands.values():
        return subcommand.info is not None
    return False


def _by_keys(command: Command, first: str, arguments: list[bytes]) -> Decision:
    if blocks(command, first, arguments):
        return MayWait(command, _keys_of(command, arguments))
    try:
        keys = command.keys(arguments)
    except KeysError:
        return ForwardKeyless(command)  # no node runs it, and any of them says what is wrong with it
    if not keys:
        if command.keys_need_server:
            return Answer(not_supported(command.name))
        return ForwardKeyless(command, command.script)
    slot = int(key_slot(keys[0]))
    several = False
    for key in keys:
        if key != keys[0]:
            several = True
            if int(key_slot(key)) != slot:
                if first in ("xread", "xreadgroup"):  # does not wait, but asks several nodes like one that does
                    return MayWait(command, keys)
                if first not in SPLITTABLE:
                    return Answer(CROSSSLOT)
                if first == "mset" and len(arguments) % 2 == 0:
                    return Answer(wrong_arity("mset"), early=False)
                return SplitUp(command, split_by_slot(first, arguments))
    return Forward(command, slot, several or command.script)


def _keys_of(command: Command, arguments: list[bytes]) -> list[bytes]:
    try:
        return command.keys(arguments)
    except KeysError:
        return []


def blocks(command: Command, first: str, arguments: list[bytes]) -> bool:
    """Whether the command, with these arguments, may wait at the node and so must not use a shared connection."""
    if "blocking" not in command.flags:
        return False
    if first not in ("xread", "xreadgroup"):
        return True
    position = 1  # as the server reads the options: a group may be called STREAMS
    while position < len(arguments):
        option = arguments[position].upper()
        if option == b"STREAMS":
            return False
        if option == b"BLOCK":
            return True
        position += _OPTION_WIDTH.get(option, 1)
    return False


def wrong_arity(name: str) -> bytes:
    """Redis's error for a wrong number of arguments."""
    return error(f"ERR wrong number of arguments for '{name}' command")


def not_supported(name: str) -> bytes:
    """The answer to what slotproxy cannot do yet."""
    return error(f"ERR slotproxy: {name.upper().replace('|', ' ')} is not supported yet")


def refused(command: Command, arguments: list[bytes]) -> bytes:
    """The answer to what would act on one node behind the cluster's back."""
    shown = command.name.upper().replace("|", " ")
    if command.name == "debug":
        shown += " " + _printed(arguments[1], 32).decode("ascii", "replace").upper()
    how = "--allow-admin opens it" if command.name in ADMIN else "send it to the node itself"
    return error(f"ERR slotproxy: {shown} is refused: it is meant for one server, and here are several; {how}")


def unknown_command(arguments: list[bytes]) -> bytes:
    """Redis's error for a command that is not in the table (server.c, 7.0)."""
    shown = b""
    for argument in arguments[1:]:
        if len(shown) >= 128:
            break
        shown += b"'" + _printed(argument, 128 - len(shown)) + b"' "
    name = _printed(arguments[0], 128)
    return error_of_bytes(b"ERR unknown command '" + name + b"', with args beginning with: " + shown)


def unknown_subcommand(arguments: list[bytes]) -> bytes:
    """Redis's error for a subcommand that its container does not have (server.c, 7.0)."""
    container = arguments[0].upper()
    return error_of_bytes(
        b"ERR unknown subcommand '" + _printed(arguments[1], 128) + b"'. Try " + container + b" HELP."
    )


def error_of_bytes(text: bytes) -> bytes:
    """An error that repeats what a client sent, byte for byte but for line ends, as Redis does."""
    return b"-" + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def _printed(argument: bytes, most: int) -> bytes:
    """An argument as C's `%.*s` prints it: up to its first NUL."""
    return argument[:most].partition(b"\0")[0]
