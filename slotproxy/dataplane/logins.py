"""Clients' logins that a node has to judge, and what is served before a login.

Duty: under passthrough, let AUTH and HELLO AUTH wait for a node's verdict, and have the client work as that user then;
keep out who has not logged in, with the errors of one server (7.0.15).

Invariants: nothing of the client is in flight when its account changes (AUTH runs alone). No AUTH is answered from
memory under passthrough: each one is checked by a node. The password is in no log, no error and no attribute that
outlives the check.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.accounts import PASSTHROUGH, Grant
from slotproxy.dataplane.answers import answer_locally
from slotproxy.dataplane.authenticating import Credentials, credentials_of
from slotproxy.dataplane.reactor import Timer
from slotproxy.dataplane.requests import Request
from slotproxy.dataplane.solitary import Solitary
from slotproxy.protocol.blocks import aborted
from slotproxy.protocol.clientfilters import integer_of
from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import Answer, AnswerLocally, Decision, Hangup, Unknown, unknown_subcommand
from slotproxy.protocol.resp import error

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

#: Bytes of replies that who has not logged in may leave unread: then no more of it is read.
OUTPUT_BEFORE_LOGIN: Final = 65_536
#: Seconds after which who has not logged in is closed.
LOGIN_WITHIN: Final = 10.0
NOAUTH: Final = error("NOAUTH Authentication required.")
NOT_INSIDE: Final = error("ERR slotproxy: a login inside a transaction is refused; send it before MULTI")
_NO_COMMAND: Final = (b"-ERR unknown command", b"-ERR unknown subcommand", b"-ERR wrong number of arguments")
_ALWAYS: Final = frozenset(["auth", "quit", "reset"])


class LoginDeadline(Timer):
    """By then a client must have logged in."""

    def __init__(self, client: "Client") -> None:
        super().__init__()
        self._client: Final = client

    def set(self) -> None:
        """It counts from now on."""
        reactor = self._client.reactor
        reactor.call_at(reactor.now + LOGIN_WITHIN, self)

    def fire(self) -> None:
        """It has not."""
        self._client.close()


class Login(Solitary):
    """An AUTH or HELLO whose credentials a node has to judge. `over`: nobody waits for it any more."""

    def __init__(
        self, client: "Client", plane: "Plane", called: Command, name: str, arguments: list[bytes], given: Credentials
    ) -> None:
        super().__init__()
        self.over: bool = False
        self.given: Credentials | None = given
        self._name: Final = name
        self._arguments: list[bytes] = arguments
        self._client: Final = client
        self._plane: Final = plane
        self._owner: Final = Request(client, called, 0, b"", plane.reactor.now)

    def start(self) -> None:
        self._client.queue.push(self._owner)
        self._plane.control.check_login_nowait(self)

    def abandon(self) -> None:
        """The client has left."""
        self._end()

    def judged(self, grant: Grant | None, reply: bytes) -> None:
        """A node has accepted the credentials, or has not; `reply` is what AUTH is answered then."""
        if self.over:
            return
        client = self._client
        if grant is None:
            if reply.startswith(b"-WRONGPASS"):
                self._plane.counters.auth_failures += 1
        else:
            before = client.protocol
            wanted = integer_of(self._arguments[1]) if self._name == "hello" else None
            client.work_as(grant, before if wanted is None else wanted)
            client.accepted = self.given
            reply = answer_locally(self._name, client, self._plane, self._arguments)
            client.accepted = None
            if reply[0] == 0x2D:
                client.speak(before)
        self._end()
        self._plane.router.finish(self._owner, reply)

    def _end(self) -> None:
        self.over = True
        self.given = None
        self._arguments = []


def must_be_judged(plane: "Plane", name: str, arguments: list[bytes]) -> Credentials | None:
    """The credentials that a node has to judge before the command can be answered."""
    return credentials_of(name, arguments) if plane.accounts.mode == PASSTHROUGH else None


def is_kept_out(
    client: "Client", plane: "Plane", decision: Decision, arguments: list[bytes], raw: bytes
) -> bool:
    """For who has not logged in: whether the command is not run; then it has been answered, or waits."""
    name = decision.name if isinstance(decision, AnswerLocally) else ""
    if isinstance(decision, Hangup) or name in _ALWAYS or credentials_of(name, arguments) is not None:
        return False
    accounts = plane.accounts
    first = accounts.first()
    if first.account.enters:  # since a moment ago
        client.work_as(first, client.protocol)
        return False
    if accounts.undecided():
        if client.alone(raw):
            client.next = raw
            accounts.await_word(client)
        return True
    if name == "hello":
        return False
    reply = NOAUTH
    if isinstance(decision, (Answer, Unknown)) and decision.frame.startswith(_NO_COMMAND):
        reply = decision.frame
    elif name == "client" and "|" not in _name_of(plane, arguments):
        reply = unknown_subcommand(arguments)
    client.answer(aborted(reply) if arguments[0].lower() == b"exec" else reply)
    return True


def _name_of(plane: "Plane", arguments: list[bytes]) -> str:
    called = plane.table.resolve(arguments)
    return "" if called is None else called.name
