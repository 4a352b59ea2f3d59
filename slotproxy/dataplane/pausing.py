"""CLIENT PAUSE: the clients of one account wait, all of them or those that want to write.

Invariants (7.0.15): a pause in force is never shortened or relaxed by another one; a client that waits gets nothing
else done, and goes on where it was. Nothing is looked at per command while there is no pause: under PAUSE WRITE every
client counts a detour, which takes its requests off the plain path.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.reactor import Reactor, Timer
from slotproxy.protocol.clientfilters import paused_as_write
from slotproxy.protocol.commands import Command

if TYPE_CHECKING:
    from slotproxy.dataplane.accounts import Account
    from slotproxy.dataplane.clients import Client


class Pause(Timer):
    """The pause of one account's clients; none at first."""

    def __init__(self, reactor: Reactor, account: "Account") -> None:
        super().__init__()
        self._reactor: Final = reactor
        self._account: Final = account
        self._writes: bool = False  # writers wait
        self._all: bool = False  # everybody does

    def start(self, seconds: float, writes_only: bool) -> None:
        """Pause for that long, or go on pausing."""
        reactor = self._reactor
        reactor.call_at(max(self.due, reactor.now + seconds), self)
        for client in self._account.clients():
            if not writes_only and not self._all:
                client.hold_for_pause()
            if not self._writes:
                client.detours += 1
        self._writes = True
        self._all = self._all or not writes_only

    def fire(self) -> None:
        """It is over."""
        self.stop()

    def stop(self) -> None:
        """Let everybody go on."""
        self.due = 0.0
        if self._writes:
            self._writes = self._all = False
            for client in self._account.clients():
                client.detours -= 1
                client.release_from_pause()

    def meet(self, client: "Client") -> None:
        """A client has joined the account."""
        if self._writes:
            client.detours += 1
        if self._all:
            client.hold_for_pause()

    def part(self, client: "Client") -> None:
        """A client leaves the account, and goes on."""
        if self._writes:
            client.detours -= 1
            client.release_from_pause()

    def stops(self, command: Command | None) -> bool:
        """Whether a client that wants to run the command has to wait."""
        return self._writes and (self._all or (command is not None and paused_as_write(command)))
