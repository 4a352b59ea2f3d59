"""AUTH, and AUTH within HELLO: what is given, and the reply.

Duty: say to AUTH what one server with these users would say (7.0.15): by the file of users; under passthrough only
what a node has accepted just before (`logins`).
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.accounts import NONE, PASSTHROUGH
from slotproxy.protocol.clientfilters import integer_of
from slotproxy.protocol.resp import OK, error
from slotproxy.protocol.users import DEFAULT

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_WRONGPASS: Final = error("WRONGPASS invalid username-password pair or user is disabled.")
_WITHOUT_PASSWORD: Final = error(
    "ERR AUTH <password> called without any password configured for the default user."
    " Are you sure your configuration is correct?"
)
_SYNTAX: Final = error("ERR syntax error")


class Credentials:
    """What AUTH gave. `user` None: AUTH with one argument, which means the default user."""

    def __init__(self, user: bytes | None, password: bytes) -> None:
        self.user: Final = user
        self.password: Final = password

    def is_same(self, other: "Credentials") -> bool:
        """Whether both are the same."""
        return self.user == other.user and self.password == other.password


def credentials_of(name: str, arguments: list[bytes]) -> Credentials | None:
    """The (first) credentials in an AUTH or HELLO that may take effect; None where there are none."""
    if name == "auth":
        if len(arguments) == 2:
            return Credentials(None, arguments[1])
        return Credentials(arguments[1], arguments[2]) if len(arguments) == 3 else None
    if name == "hello" and len(arguments) > 1 and integer_of(arguments[1]) in (2, 3):
        position = 2
        while position < len(arguments):
            word = arguments[position].upper()
            if word == b"AUTH" and len(arguments) - position > 2:
                return Credentials(arguments[position + 1], arguments[position + 2])
            if word != b"SETNAME":
                return None
            position += 2
    return None


def authenticate(client: "Client", plane: "Plane", words: list[bytes]) -> bytes:
    """The reply to AUTH with these arguments; the client has logged in when it is OK."""
    accounts = plane.accounts
    if len(words) > 2:
        return _SYNTAX
    user = words[0] if len(words) == 2 else DEFAULT
    if accounts.mode == PASSTHROUGH:
        given = Credentials(words[0] if len(words) == 2 else None, words[len(words) - 1])
        return OK if client.accepted is not None and client.accepted.is_same(given) else _WRONGPASS
    users = accounts.users
    if len(words) == 1 and (users is None or not users.needs_login()):
        return _WITHOUT_PASSWORD
    if accounts.mode == NONE or users is None:
        if user == DEFAULT:
            return OK
    else:
        proof = users.check(user, words[len(words) - 1])
        if proof is not None:
            client.work_as(accounts.grant(user, proof), client.protocol)
            return OK
    plane.counters.auth_failures += 1
    return _WRONGPASS
