"""Commands that the proxy answers itself, from what it knows of the client and of itself.

Duty: the reply to PING, ECHO, QUIT, SELECT, HELLO, AUTH, CLIENT and RESET as one plain server would give it (7.0.15).
A client must take the proxy for a server without cluster support: otherwise it would start to route by itself.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.authenticating import authenticate
from slotproxy.dataplane.clientcommands import answer_client
from slotproxy.dataplane.monitoring import monitor
from slotproxy.dataplane.private import turn_off
from slotproxy.protocol.clientfilters import BAD_NAME, integer_of, valid_name
from slotproxy.protocol.decisions import error_of_bytes, wrong_arity
from slotproxy.protocol.pubsub import pong
from slotproxy.protocol.resp import EMPTY_ARRAY, OK, PONG, bulk, error, integer, mapping, simple

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_NOAUTH: Final = error(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option"
    " can be used to authenticate the client and select the RESP protocol version at the same time"
)
_NOT_INSIDE: Final = error("ERR slotproxy: HELLO with another protocol inside a transaction is refused; send it before")


def answer_locally(name: str, client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    """The reply to the command `name` (its first word, lower case; its arity has been checked); b"" for none."""
    if name == "ping":
        if len(arguments) > 2:
            return wrong_arity("ping")
        if client.confined:
            return pong(arguments[1] if len(arguments) == 2 else b"")
        return bulk(arguments[1]) if len(arguments) == 2 else PONG
    if name == "echo":
        return bulk(arguments[1])
    if name == "quit":
        client.leaving = True
        return OK
    if name == "select":
        return _select(arguments[1])
    if name == "hello":
        return _hello(client, plane, arguments)
    if name == "auth":
        return authenticate(client, plane, arguments[1:])
    if name == "reset":
        return _reset(client, plane)
    if name == "whoami":
        return bulk(client.grant.account.name)
    if name == "monitor":
        called = plane.table.resolve(arguments)
        assert called is not None, "it has been found"
        return monitor(client, plane, called, b"")
    return answer_client(client, plane, arguments)


def runs_alone(arguments: list[bytes]) -> bool:
    """Whether the command changes what becomes of replies: those of earlier commands must have been written."""
    first = arguments[0].lower()
    if first == b"client":
        return len(arguments) > 1 and arguments[1].lower() in (b"reply", b"tracking", b"no-touch")
    return first in (b"reset", b"hello", b"auth", b"monitor")


def _reset(client: "Client", plane: "Plane") -> bytes:
    client.name = b""
    client.transaction = None
    client.watching.end()
    client.set_reply_mode("reset")
    client.unsubscribe_all()
    client.stop_monitor()
    turn_off(client)
    client.work_as(plane.accounts.first(), 2)
    return simple(b"RESET")


def _select(index: bytes) -> bytes:
    number = integer_of(index)
    if number is None:
        return error("ERR value is not an integer or out of range")
    return OK if number == 0 else error("ERR SELECT is not allowed in cluster mode")


def _hello(client: "Client", plane: "Plane", arguments: list[bytes]) -> bytes:
    options = arguments[1:]
    protocol = client.protocol
    if options:
        version = integer_of(options[0])
        if version is None:
            return error("ERR Protocol version is not an integer or out of range")
        if version != 2 and version != 3:
            return error("NOPROTO unsupported protocol version")
        protocol = version
    if protocol != client.protocol and client.transaction is not None:
        return _NOT_INSIDE
    position = 1
    while position < len(options):
        word = options[position].upper()
        left = len(options) - position - 1
        if word == b"AUTH" and left >= 2:
            reply = authenticate(client, plane, options[position + 1 : position + 3])
            if reply != OK:
                return reply
            position += 3
        elif word == b"SETNAME" and left >= 1:
            if not valid_name(options[position + 1]):
                return BAD_NAME
            client.name = options[position + 1]  # stays, as on Redis, when a later option is wrong
            position += 2
        else:
            return error_of_bytes(b"ERR Syntax error in HELLO option '" + options[position] + b"'")
    if not client.grant.account.enters:
        return _NOAUTH
    client.speak(protocol)
    return mapping(
        protocol,
        [
            bulk(b"server"), bulk(b"redis"), bulk(b"version"), bulk(plane.server_version.encode()),
            bulk(b"proto"), integer(protocol), bulk(b"id"), integer(client.id), bulk(b"mode"), bulk(b"standalone"),
            bulk(b"role"), bulk(b"master"), bulk(b"modules"), EMPTY_ARRAY,
        ],
    )  # fmt: skip
