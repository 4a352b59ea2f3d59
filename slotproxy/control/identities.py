"""Users of the cluster as whom clients work (`--client-auth passthrough`): who may, and with which credentials.

Duty: have a node judge each AUTH; keep the credentials by which connections of a user are made; ask again and again
whether the cluster still accepts them, and whether it asks for a login at all.

Invariants: a password is in no log and no exception, and is forgotten when the data plane says that nobody needs it.
A user that a node refuses (an owner of slots; deleted, disabled, password changed) loses its clients: found out at
each refresh of the topology, at least every refresh interval, and at once when a connection's login is refused. A node
that cannot be reached, or answers anything else, has refused nobody.
"""

import logging
import random
from collections.abc import Sequence

import trio

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, NodeUnavailable, connect
from slotproxy.dataplane.accounts import Grant
from slotproxy.dataplane.logins import Login
from slotproxy.dataplane.nodestreams import Identity
from slotproxy.dataplane.plane import Plane
from slotproxy.protocol.resp import error
from slotproxy.protocol.users import DEFAULT, LONGEST, WITHOUT_PASSWORD

_ACCEPTED = b"+"
_TOO_LONG = error("WRONGPASS invalid username-password pair or user is disabled.")  # no node would read it
_REFUSALS = ("WRONGPASS", "NOAUTH", "NOPERM")
_log = logging.getLogger("slotproxy.identities")

_AT_ONCE = 32  # logins that are judged, or nodes that are asked
_ANSWER = 2.0  # seconds that a node may take
_GAP = 1.0  # seconds between two rounds of questions at least
_GAP_UNDECIDED = 0.1  # while no node has answered


class Identities:
    """All credentials of clients. `seeds`: whom to ask while no node is known."""

    def __init__(
        self, plane: Plane, seeds: Sequence[Address], address_map: AddressMap, interval: float, within: float
    ) -> None:
        self._plane = plane
        self._seeds = seeds
        self._address_map = address_map
        self._interval = interval
        self._within = within  # seconds that judging a login may take
        self._secrets: dict[Grant, Credentials] = {}  # the newest last
        self._judging = trio.CapacityLimiter(_AT_ONCE)
        self._wanted = trio.Event()
        self._granted = 0

    def credentials(self, identity: Identity) -> Credentials | None:
        """How to log in as it; None: nobody does any more."""
        for grant in reversed(self._secrets):
            if grant.account.pool.identity is identity:
                return self._secrets[grant]
        return None

    def forget(self, grant: Grant) -> None:
        """Nobody needs the credentials any more."""
        self._secrets.pop(grant, None)

    def refused(self) -> None:
        """A node does not accept one's credentials: all are asked about soon."""
        self.look_again_nowait()

    def look_again_nowait(self) -> None:
        """Have the cluster asked soon whether all are still accepted."""
        self._wanted.set()

    # One login

    async def judge(self, login: Login) -> None:
        """Have a node say whether the credentials are right, and tell the data plane."""
        async with self._judging:
            given = login.given
            if given is None:  # the client has left
                return
            words = [b"AUTH", given.password] if given.user is None else [b"AUTH", given.user, given.password]
            refusal = _TOO_LONG if max(map(len, words)) > LONGEST else b""
            with trio.move_on_after(self._within):
                refusal = refusal or await self._refusal(words)
            if login.over:
                return
            if refusal == b"":
                refusal = error("ERR slotproxy: no answer: no node could be asked whether the login is right")
            if refusal != _ACCEPTED:
                self._plane.login_judged(login, None, refusal)
                return
            user = DEFAULT if given.user is None else given.user  # b"" is a user like any other (7.0.15)
            self._plane.login_judged(login, self._grant(user, given.password), b"")

    async def _refusal(self, login: list[bytes]) -> bytes:
        """The frame with which a node refuses it; _ACCEPTED when it does not; b"" when none can be asked."""
        addresses = self._owners() or list(self._seeds)
        random.shuffle(addresses)
        for address in addresses:
            try:
                with trio.fail_after(_ANSWER):
                    async with await connect(self._address_map.apply(address), Credentials()) as connection:
                        (reply,) = await connection.commands(login)
            except (NodeUnavailable, trio.TooSlowError):
                continue
            if not isinstance(reply, ErrorReply):
                return _ACCEPTED
            if _code(reply) in _REFUSALS or str(reply).startswith("ERR AUTH "):
                return error(str(reply))
        return b""

    def _grant(self, user: bytes, password: bytes) -> Grant:
        for grant, known in self._secrets.items():
            if grant.account.name == user and known.password == password:
                return grant
        self._granted += 1
        grant = self._plane.accounts.grant(user, b"%d" % self._granted)
        self._secrets[grant] = Credentials(user, password)
        return grant

    # All of them

    async def run(self) -> None:
        """Ask the cluster for ever."""
        while True:
            self._wanted = trio.Event()
            decided = await self._look()
            gap = min(_GAP, self._interval / 2) if decided else _GAP_UNDECIDED
            await trio.sleep(gap)
            with trio.move_on_after(self._interval - gap if decided else 0):
                await self._wanted.wait()

    async def _look(self) -> bool:
        """One round. Whether any node has answered."""
        known = [(grant, secret.password) for grant, secret in self._secrets.items() if secret.password is not None]
        grants = [grant for grant, _ in known]
        logins = [("AUTH", grant.account.name, password) for grant, password in known]  # some may be forgotten soon
        answers: list[tuple[Address, list[object]]] = []
        limiter = trio.CapacityLimiter(_AT_ONCE)

        async def ask(address: Address) -> None:
            async with limiter:
                try:
                    with trio.fail_after(_ANSWER):
                        async with await connect(self._address_map.apply(address), Credentials()) as connection:
                            answers.append((address, await connection.commands(("PING",), *logins)))
                except (NodeUnavailable, trio.TooSlowError) as problem:
                    _log.debug("node %s:%d was not asked about users: %s", *address, problem)

        async with trio.open_nursery() as nursery:
            for address in self._owners():
                nursery.start_soon(ask, address)
        for number, grant in enumerate(grants, 1):
            for address, replies in answers:
                reply = replies[number]
                if isinstance(reply, ErrorReply) and _code(reply) in _REFUSALS and grant in self._secrets:
                    closed = self._plane.revoke(grant)
                    user = ascii(grant.account.name)[1:]
                    _log.warning("node %s:%d refuses the login of user %s: %d clients closed", *address, user, closed)
        words = [_asks_for_login(replies[0]) for _, replies in answers]
        if True in words or False in words:
            self._decide(True in words)
            return True
        return False

    def _decide(self, needs_login: bool) -> None:
        known = [grant for grant, secret in self._secrets.items() if secret.password is None]
        if needs_login:
            if known:
                self.forget(known[0])
                _log.info("the cluster's default user needs a password now: its clients without one are closed")
            if known or self._plane.accounts.undecided():
                self._plane.decide_default(None)
        elif not known:
            grant = self._plane.accounts.grant(DEFAULT, WITHOUT_PASSWORD)
            self._secrets[grant] = Credentials(None, None)
            self._plane.decide_default(grant)

    def _owners(self) -> list[Address]:
        owners = {info.id: info for info in self._plane.router.slot_map.owners if info is not None}
        return [(info.host, info.port) for info in owners.values()]


def _code(reply: ErrorReply) -> str:
    return str(reply).partition(" ")[0]


def _asks_for_login(reply: object) -> bool | None:
    """What the answer to PING without a login says; None: nothing."""
    if not isinstance(reply, ErrorReply):
        return False
    return {"NOAUTH": True, "NOPERM": False}.get(_code(reply))
