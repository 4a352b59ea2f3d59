"""What a CLIENT subcommand asks for, read from its arguments: a value, or the reply that needs nothing else.

Duty: arity, options and error texts of the subcommands that concern the proxy's own clients, as 7.0.15 has them (6.2
words some of them differently). Two are of later servers, because libraries and operators use them: SETINFO (7.2) and
the filter MAXAGE (7.4). Whoever executes a value knows the clients; nothing here does.

Rules of the server that hold throughout: a word ends at its first NUL, and so does what an error repeats. Of KILL's
filters the first wrong one is the error, and of one that is given twice the last counts.
"""

from typing import Final

from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import error_of_bytes, wrong_arity
from slotproxy.protocol.resp import OK, error, integer

BAD_NAME: Final = error("ERR Client names cannot contain spaces, newlines or special characters.")
_SYNTAX: Final = error("ERR syntax error")
_NO_SUCH_CLIENT: Final = error("ERR No such client")

#: As COMMAND says it (7.0.15, SETINFO 7.2.0), the two words counted: a server before 7.0 tells no subcommand's arity.
_ARITY: Final = {
    b"caching": 3, b"getname": 2, b"getredir": 2, b"id": 2, b"info": 2, b"kill": -3, b"list": -2, b"no-evict": 3,
    b"no-touch": 3, b"pause": -3, b"reply": 3, b"setinfo": 4, b"setname": 3, b"tracking": -3, b"trackinginfo": 2,
    b"unblock": -3, b"unpause": 2,
}  # fmt: skip
_KINDS: Final = {b"normal": "normal", b"master": "master", b"slave": "slave", b"replica": "slave", b"pubsub": "pubsub"}
_REPLY_MODES: Final = {b"on": "on", b"off": "off", b"skip": "skip"}
#: Paused by CLIENT PAUSE WRITE without the `write` flag: the server's `may_replicate`, which COMMAND does not show.
_MAY_REPLICATE: Final = frozenset(["eval", "evalsha", "fcall", "pfcount", "publish", "spublish"])


class ClientRequest:
    """One of the classes below."""


class DescribeMe(ClientRequest):
    """CLIENT INFO."""


class DescribeTracking(ClientRequest):
    """CLIENT TRACKINGINFO."""


class GetRedirection(ClientRequest):
    """CLIENT GETREDIR."""


class SetCaching(ClientRequest):
    """CLIENT CACHING; what `word` may be depends on what the client tracks."""

    def __init__(self, word: bytes) -> None:
        self.word: Final = word


class SetTracking(ClientRequest):
    """CLIENT TRACKING; its options are read by `tracking`."""


class SetNoTouch(ClientRequest):
    """CLIENT NO-TOUCH (7.2)."""

    def __init__(self, on: bool) -> None:
        self.on: Final = on


class GetId(ClientRequest):
    """CLIENT ID."""


class GetName(ClientRequest):
    """CLIENT GETNAME."""


class SetName(ClientRequest):
    """CLIENT SETNAME; an empty `name` takes the name away. It has been checked."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name


class ListClients(ClientRequest):
    """CLIENT LIST: of a `kind` ("": of any), or one line for each of `ids` that exists, in their order, as often."""

    def __init__(self, kind: str, ids: list[int] | None) -> None:
        self.kind: Final = kind
        self.ids: Final = ids


class KillClients(ClientRequest):
    """CLIENT KILL of the clients that all filters mean. None, "" and 0 stand for a filter that was not given.

    `address_only`: the old form, with a reply of its own. `max_age`: at least that many seconds old.
    The asking client, when it is meant, is closed after the reply, and what it sent behind is not executed.
    """

    def __init__(self) -> None:
        self.address_only = False
        self.id = 0
        self.kind = ""
        self.user: bytes | None = None
        self.addr: bytes | None = None
        self.laddr: bytes | None = None
        self.skip_me = True
        self.max_age = 0

    def reply(self, killed: int) -> bytes:
        """What the asking client is told, when so many were meant (itself included)."""
        if self.address_only:
            return OK if killed else _NO_SUCH_CLIENT
        return integer(killed)


class PauseClients(ClientRequest):
    """CLIENT PAUSE. A pause in force is never shortened or relaxed by another: the later end, the stricter mode.

    Also `0 ALL` makes a pause of writes one of everything. An end beyond 2^63 - 1 ms since 1970 overflows on 7.0.15,
    which then pauses nothing.
    """

    def __init__(self, milliseconds: int, writes_only: bool) -> None:
        self.milliseconds: Final = milliseconds
        self.writes_only: Final = writes_only


class UnpauseClients(ClientRequest):
    """CLIENT UNPAUSE."""


class UnblockClient(ClientRequest):
    """CLIENT UNBLOCK: `:1` when that client was blocked in a command (a paused one is not), else `:0`."""

    def __init__(self, id: int, with_error: bool) -> None:
        self.id: Final = id
        self.with_error: Final = with_error


class SetNoEvict(ClientRequest):
    """CLIENT NO-EVICT."""

    def __init__(self, on: bool) -> None:
        self.on: Final = on


class SetReplyMode(ClientRequest):
    """CLIENT REPLY, `mode` is on, off or skip: only `on` is answered, with OK."""

    def __init__(self, mode: str) -> None:
        self.mode: Final = mode


def parse_client(arguments: list[bytes], user: bytes = b"default") -> ClientRequest | bytes | None:
    """What CLIENT with these arguments (its own name is the first) asks for; bytes are the whole reply.

    None for a subcommand that is not treated here: HELP and those that do not exist. `user`: the only one that exists
    for the client.
    """
    word = arguments[1].lower()
    arity = _ARITY.get(word)
    if arity is None:
        return None
    if len(arguments) != arity if arity > 0 else len(arguments) < -arity:
        return wrong_arity("client|" + word.decode("ascii"))
    if word == b"caching":
        return SetCaching(arguments[2])
    if word == b"getredir":
        return GetRedirection()
    if word == b"trackinginfo":
        return DescribeTracking()
    if word == b"tracking":
        return SetTracking()
    if word == b"setinfo":
        return _set_info(arguments)
    if word == b"id":
        return GetId()
    if word == b"info":
        return DescribeMe()
    if word == b"getname":
        return GetName()
    if word == b"setname":
        return SetName(arguments[2]) if valid_name(arguments[2]) else BAD_NAME
    if word == b"list":
        return _list(arguments)
    if word == b"kill":
        return _kill(arguments, user)
    if word == b"pause":
        return _pause(arguments)
    if word == b"unpause":
        return UnpauseClients()
    if word == b"unblock":
        return _unblock(arguments)
    option = _word(arguments[2])
    if word == b"reply":
        mode = _REPLY_MODES.get(option)
        return SetReplyMode(mode) if mode is not None else _SYNTAX
    if option not in (b"on", b"off"):
        return _SYNTAX
    return SetNoEvict(option == b"on") if word == b"no-evict" else SetNoTouch(option == b"on")


def valid_name(name: bytes) -> bool:
    """Whether a client may be called so: only such names leave the fields of CLIENT LIST apart."""
    return all(0x21 <= byte <= 0x7E for byte in name)


def integer_of(text: bytes) -> int | None:
    """The 64-bit number, written as Redis's string2ll takes it: no sign but one minus, no space, no leading zero."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19 or (digits.startswith(b"0") and text != b"0"):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def paused_as_write(command: Command) -> bool:
    """Whether CLIENT PAUSE WRITE holds the command back (7.0.15). EXEC is held when anything queued would be.

    Not seen here: since 7.0 an EVAL whose script begins with `#!lua flags=no-writes` is not held.
    """
    return command.write or command.name in _MAY_REPLICATE


def _set_info(arguments: list[bytes]) -> bytes:
    if arguments[2].lower() in (b"lib-name", b"lib-ver"):  # libraries send it unasked; it is kept nowhere
        return OK
    return error_of_bytes(b"ERR Unrecognized option '" + _c_string(arguments[2]) + b"'")


def _list(arguments: list[bytes]) -> ListClients | bytes:
    if len(arguments) == 2:
        return ListClients("", None)
    option = _word(arguments[2])
    if option == b"type" and len(arguments) == 4:
        kind = _KINDS.get(_word(arguments[3]))
        return ListClients(kind, None) if kind is not None else _unknown_type(arguments[3])
    if option != b"id" or len(arguments) == 3:
        return _SYNTAX
    ids: list[int] = []
    for argument in arguments[3:]:
        id = integer_of(argument)
        if id is None:
            return error("ERR Invalid client ID")
        ids.append(id)
    return ListClients("", ids)


def _kill(arguments: list[bytes], user: bytes) -> KillClients | bytes:
    request = KillClients()
    if len(arguments) == 3:  # whatever the word is, also ID
        request.address_only = True
        request.addr = _c_string(arguments[2])
        request.skip_me = False
        return request
    for position in range(2, len(arguments), 2):
        if position + 1 == len(arguments):
            return _SYNTAX
        wrong = _take_filter(request, _word(arguments[position]), arguments[position + 1], user)
        if wrong is not None:
            return wrong
    return request


def _take_filter(request: KillClients, option: bytes, value: bytes, user: bytes) -> bytes | None:
    """Add one filter of CLIENT KILL; the error when there is one."""
    if option == b"id":
        id = integer_of(value)
        if id is None or id < 1:
            return error("ERR client-id should be greater than 0")
        request.id = id
    elif option == b"type":
        kind = _KINDS.get(_word(value))
        if kind is None:
            return _unknown_type(value)
        request.kind = kind
    elif option == b"addr":
        request.addr = _c_string(value)
    elif option == b"laddr":
        request.laddr = _c_string(value)
    elif option == b"user":
        if value != user:
            return error_of_bytes(b"ERR No such user '" + _c_string(value) + b"'")
        request.user = value
    elif option == b"skipme":
        answer = _word(value)
        if answer not in (b"yes", b"no"):
            return _SYNTAX
        request.skip_me = answer == b"yes"
    elif option == b"maxage":
        seconds = integer_of(value)
        if seconds is None:
            return error("ERR maxage is not an integer or out of range")
        if seconds <= 0:
            return error("ERR maxage should be greater than 0")
        request.max_age = seconds
    else:
        return _SYNTAX
    return None


def _pause(arguments: list[bytes]) -> PauseClients | bytes:
    if len(arguments) > 4:
        return _too_many(arguments)
    mode = _word(arguments[3]) if len(arguments) == 4 else b"all"
    if mode not in (b"all", b"write"):
        return error("ERR CLIENT PAUSE mode must be WRITE or ALL")
    milliseconds = integer_of(arguments[2])
    if milliseconds is None:
        return error("ERR timeout is not an integer or out of range")
    if milliseconds < 0:
        return error("ERR timeout is negative")
    return PauseClients(milliseconds, mode == b"write")


def _unblock(arguments: list[bytes]) -> UnblockClient | bytes:
    if len(arguments) > 4:
        return _too_many(arguments)
    reason = _word(arguments[3]) if len(arguments) == 4 else b"timeout"
    if reason not in (b"timeout", b"error"):
        return error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    id = integer_of(arguments[2])
    if id is None:
        return error("ERR value is not an integer or out of range")
    return UnblockClient(id, reason == b"error")


def _unknown_type(name: bytes) -> bytes:
    return error_of_bytes(b"ERR Unknown client type '" + _c_string(name) + b"'")


def _too_many(arguments: list[bytes]) -> bytes:
    """The server's error where the table sets no upper limit and the code does."""
    return error_of_bytes(
        b"ERR unknown subcommand or wrong number of arguments for '" + arguments[1] + b"'. Try CLIENT HELP."
    )


def _c_string(argument: bytes) -> bytes:
    return argument.partition(b"\0")[0]


def _word(argument: bytes) -> bytes:
    return _c_string(argument).lower()
