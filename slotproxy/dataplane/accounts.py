"""As whom clients work: the users of the proxy or of the cluster, and what their clients have in common.

Duty: which account a client has when it connects, after AUTH and after RESET; the lanes of an account, its pause, and
when it ends. Whether a password is right is said by the file of users here, and by a node (`logins`) otherwise.

    none          one account for all, on the proxy's own connections
    file          an account for each user of the file, on the proxy's own connections
    passthrough   an account for each user of the cluster, on connections of its own, which log in as that user

Invariants: clients of different accounts know nothing of each other, and under passthrough share no connection. A
client without a login has the account `nobody`, which sends nothing to nodes (`dispatching` lets nothing pass). A
secret is not here but with the control plane, which forgets it when told that a grant has ended: at the latest some
seconds after the last client has left. Lanes' numbers are given back when nothing is left that could be sent on them.
"""

from typing import TYPE_CHECKING, Final

from slotproxy.dataplane.nodestreams import Identity
from slotproxy.dataplane.pausing import Pause
from slotproxy.dataplane.pools import Pool
from slotproxy.dataplane.reactor import Reactor, Timer
from slotproxy.protocol.users import DEFAULT, WITHOUT_PASSWORD, Users

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

NONE: Final = "none"
FILE: Final = "file"
PASSTHROUGH: Final = "passthrough"

_KEEP: Final = 10.0  # seconds that an account without clients keeps its connections
_LEFT: Final = 64
_LOOK: Final = 1.0  # seconds between two looks whether what clients have left behind is done


class Grant:
    """What lets clients work as an account: one password, or none. `proof`: what tells it from the account's others."""

    def __init__(self, account: "Account", proof: bytes) -> None:
        self.account: Final = account
        self.proof: Final = proof
        self.clients: Final[dict[int, Client]] = {}


class Account(Timer):
    """One user. `enters`: whether its clients may run commands."""

    def __init__(self, accounts: "Accounts", reactor: Reactor, name: bytes, pool: Pool, enters: bool) -> None:
        super().__init__()
        self.name: Final = name
        self.pool: Final = pool
        self.enters: Final = enters
        self.grants: Final[list[Grant]] = []
        self.pause: Final = Pause(reactor, self)
        self._left: list[Client] = []  # have closed, and may still have commands on their way
        self._most_left: int = _LEFT  # so many, before those that have none any more are forgotten
        self.ended: bool = False
        self._accounts: Final = accounts

    def clients(self) -> "list[Client]":
        """All that work as it, the oldest first."""
        found: list[Client] = []
        for grant in self.grants:
            found.extend(grant.clients.values())
        return sorted(found, key=_id_of)

    def grant(self, proof: bytes) -> Grant:
        """That with this proof."""
        for grant in self.grants:
            if grant.proof == proof:
                return grant
        grant = Grant(self, proof)
        self.grants.append(grant)
        return grant

    def left_by(self, client: "Client") -> None:
        """A client has closed. What it had asked may still be sent, on the account's lanes."""
        if client.flows or client.queue.size > 0:
            self._left.append(client)
            if len(self._left) >= self._most_left:
                self.has_left_over()
                self._most_left = max(_LEFT, 2 * len(self._left))

    def has_left_over(self) -> bool:
        """Whether clients that have closed may still have commands on their way."""
        self._left = [client for client in self._left if client.flows or client.queue.size > 0]
        return len(self._left) > 0

    def fire(self) -> None:
        """It has had no clients for a while, or has ended and what they left may be done by now."""
        self._accounts.look_at(self)


def _id_of(client: "Client") -> int:
    return client.id


class Accounts:
    """All accounts of one proxy. `mode`: NONE, FILE (with `users`) or PASSTHROUGH."""

    def __init__(self, plane: "Plane", mode: str, users: Users | None, lanes: int) -> None:
        self.mode: Final = mode
        self.users: Users | None = users
        self._plane: Final = plane
        self._lanes: Final = lanes
        self._own: Final = plane.router.territory.own
        self._by_name: Final[dict[bytes, Account]] = {}
        self._nobody: Final = Account(self, plane.reactor, DEFAULT, self._own, False)
        self._without: Grant | None = None  # of clients that need not log in
        self._undecided: bool = mode == PASSTHROUGH  # no node has said yet whether there are such
        self._waiting: list[Client] = []  # for that
        if mode == NONE or (users is not None and not users.needs_login()):
            self._without = self.grant(DEFAULT, WITHOUT_PASSWORD)

    def first(self) -> Grant:
        """Of a client that has not logged in."""
        return self._nobody.grant(WITHOUT_PASSWORD) if self._without is None else self._without

    def grant(self, name: bytes, proof: bytes) -> Grant:
        """The grant of a user that has been accepted."""
        account = self._by_name.get(name)
        if account is None:
            pool = self._own
            if self.mode == PASSTHROUGH:
                pool = Pool(self._plane.router.territory, Identity(ascii(name)), self._lanes)
            account = Account(self, self._plane.reactor, name, pool, True)
            self._by_name[name] = account
        return account.grant(proof)

    # Who need not log in, under passthrough

    def undecided(self) -> bool:
        """Whether no node has said yet if clients may work without a login."""
        return self._undecided

    def await_word(self, client: "Client") -> None:
        """Hold a client until a node has said so."""
        client.hold()
        self._waiting.append(client)

    def decide(self, grant: Grant | None) -> None:
        """What the cluster says of its default user without a password: clients without a login have this grant."""
        before = self._without
        self._undecided = False
        self._without = grant
        if before is not None and before is not grant:
            self.revoke(before)
        waiting = self._waiting
        self._waiting = []
        for client in waiting:
            if client.transport is not None:
                client.release()

    # Coming and going

    def enter(self, client: "Client") -> None:
        """The client has `client.grant` from now on."""
        grant = client.grant
        grant.clients[client.id] = client
        grant.account.pause.meet(client)

    def leave(self, client: "Client", closed: bool) -> None:
        """The client has closed, or gets another grant."""
        grant = client.grant
        account = grant.account
        if grant.clients.pop(client.id, None) is None:
            return
        if not closed:
            account.pause.part(client)
        if account.pool is self._own:
            return
        if closed:
            account.left_by(client)
        if account.ended or grant.clients:
            return
        if grant is not self._without and len(account.grants) > 1:
            self._end_grant(grant)
        if not account.clients() and self._without not in account.grants:
            reactor = self._plane.reactor
            reactor.call_at(reactor.now + _KEEP, account)

    def revoke(self, grant: Grant) -> int:
        """It does not let anybody in any more: its clients are closed. Returns how many."""
        account = grant.account
        clients = list(grant.clients.values())
        if grant is self._without:
            self._without = None
        self._end_grant(grant)
        if not account.grants:
            self._end(account)
        for client in clients:
            client.close()
        return len(clients)

    def use_users(self, users: Users) -> list[bytes]:
        """The file has been read anew. Returns the name of its user for each client that had to be closed."""
        self.users = users
        self._without = None
        if not users.needs_login():
            self._without = self.grant(DEFAULT, WITHOUT_PASSWORD)
        closed: list[bytes] = []
        for account in list(self._by_name.values()):
            for grant in account.grants[:]:
                if not users.still_admits(account.name, grant.proof):
                    closed += [account.name] * self.revoke(grant)
        return closed

    def look_at(self, account: Account) -> None:
        """Its timer has fired."""
        if not account.ended:
            if account.clients() or self._without in account.grants:
                return
            if self._plane.hubs.has_subscribers(account.pool.identity):  # somebody who works as another user by now
                self._plane.reactor.call_at(self._plane.reactor.now + _KEEP, account)
                return
            for grant in account.grants[:]:
                self._end_grant(grant)
            self._end(account)
            return
        reactor = self._plane.reactor
        if account.has_left_over():
            reactor.call_at(reactor.now + _LOOK, account)
        else:
            account.pool.close()

    def _end_grant(self, grant: Grant) -> None:
        if grant in grant.account.grants:
            grant.account.grants.remove(grant)
            self._plane.control.forget_login_nowait(grant)

    def _end(self, account: Account) -> None:
        """Nobody gets in as it any more."""
        account.ended = True
        self._by_name.pop(account.name, None)
        if account.pool is not self._own:
            account.pool.retire()
            self._plane.hubs.drop(account.pool.identity)
            self._plane.exclusives.forget_identity(account.pool.identity)
            reactor = self._plane.reactor
            reactor.call_at(reactor.now + _LOOK, account)
