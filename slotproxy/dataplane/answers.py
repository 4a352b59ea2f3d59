"""Commands that the proxy answers itself, from what it knows of the client and of itself.

Duty: the reply to PING, ECHO, QUIT, SELECT, HELLO, AUTH, CLIENT and RESET as one plain server would give it (7.0.15).
A client must take the proxy for a server without cluster support: otherwise it would start to route by itself.
"""

from typing import TYPE_CHECKING

from slotproxy.protocol.decisions import error_of_bytes, not_supported, unknown_subcommand, wrong_arity
from slotproxy.protocol.resp import EMPTY_ARRAY, NULL, OK, PONG, array, bulk, error, integer, simple

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane


def answer_locally(name: str, client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    """The reply to the command `name` (its first word, lower case; its arity has been checked)."""
    if name == "ping":
        if len(arguments) > 2:
            return wrong_arity("ping")
        return bulk(arguments[1]) if len(arguments) == 2 else PONG
    if name == "echo":
        return bulk(arguments[1])
    if name == "quit":
        return OK  # the client closes itself behind it
    if name == "select":
        return _select(arguments[1])
    if name == "hello":
        return _hello(client, plane, arguments)
    if name == "auth":
        return _auth(arguments[1:])
    if name == "reset":
        return _reset(client)
    return _client(client, plane, arguments)


def runs_alone(arguments: list[bytes]) -> bool:
    """Whether the command changes what becomes of replies: those of earlier commands must have been written."""
    first = arguments[0].lower()
    return first == b"reset" or (first == b"client" and len(arguments) > 1 and arguments[1].lower() == b"reply")


def _reset(client: "Client") -> bytes:
    client.name = b""
    client.silent = False
    client.skip = False
    return simple(b"RESET")


def _select(index: bytes) -> bytes:
    number = _integer(index)
    if number is None:
        return error("ERR value is not an integer or out of range")
    return OK if number == 0 else error("ERR SELECT is not allowed in cluster mode")


def _integer(text: bytes) -> int | None:
    """The number, written as Redis's string2ll takes it: no sign but one minus, no space, no leading zero."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19 or (digits.startswith(b"0") and text != b"0"):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def _auth(credentials: list[bytes]) -> bytes:
    """As a server whose default user has no password."""
    if len(credentials) > 2:
        return error("ERR syntax error")
    if len(credentials) == 1:
        return error(
            "ERR AUTH <password> called without any password configured for the default user."
            " Are you sure your configuration is correct?"
        )
    if credentials[0] == b"default":
        return OK
    return error("WRONGPASS invalid username-password pair or user is disabled.")


def _hello(client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    options = arguments[1:]
    if options:
        version = _integer(options[0])
        if version is None:
            return error("ERR Protocol version is not an integer or out of range")
        if version != 2:
            return error("NOPROTO unsupported protocol version")
    position = 1
    while position < len(options):
        word = options[position].upper()
        left = len(options) - position - 1
        if word == b"AUTH" and left >= 2:
            reply = _auth(options[position + 1 : position + 3])
            if reply != OK:
                return reply
            position += 3
        elif word == b"SETNAME" and left >= 1:
            if not _valid_name(options[position + 1]):
                return _BAD_NAME
            client.name = options[position + 1]  # stays, as on Redis, when a later option is wrong
            position += 2
        else:
            return error_of_bytes(b"ERR Syntax error in HELLO option '" + options[position] + b"'")
    return array(
        [
            bulk(b"server"), bulk(b"redis"), bulk(b"version"), bulk(plane.server_version.encode()),
            bulk(b"proto"), integer(2), bulk(b"id"), integer(client.id), bulk(b"mode"), bulk(b"standalone"),
            bulk(b"role"), bulk(b"master"), bulk(b"modules"), EMPTY_ARRAY,
        ]
    )  # fmt: skip


_BAD_NAME = error("ERR Client names cannot contain spaces, newlines or special characters.")


def _valid_name(name: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in name)


def _client(client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    word = arguments[1].lower()
    if word == b"id" and len(arguments) == 2:
        return integer(client.id)
    if word == b"getname" and len(arguments) == 2:
        return bulk(client.name) if client.name else NULL
    if word == b"setname" and len(arguments) == 3:
        if not _valid_name(arguments[2]):
            return _BAD_NAME
        client.name = arguments[2]
        return OK
    if word == b"setinfo":  # since 7.2; libraries send it unasked and what they say is kept nowhere
        if len(arguments) != 4:
            return wrong_arity("client|setinfo")
        if arguments[2].lower() not in (b"lib-name", b"lib-ver"):
            return error_of_bytes(b"ERR Unrecognized option '" + arguments[2] + b"'")
        return OK
    known = plane.table.resolve(arguments)
    if known is None or "|" not in known.name:
        return unknown_subcommand(arguments)
    if word in (b"id", b"getname", b"setname"):  # before 7.0 the table does not know their arity
        return wrong_arity(known.name)
    return not_supported(known.name)
