"""A client with connections of its own to the nodes that it talks to: CLIENT TRACKING and CLIENT NO-TOUCH.

Duty: hold what the client has turned on, give it lanes whose nodes do the same for it, and bring what they tell (keys
that have changed) to the client, or to the one that REDIRECT names.

What is promised: a cache that a client keeps by this is never stale longer than a round trip. When a write has been
answered, PING is answered to the tracking client only behind the invalidation. By what means:
- A node tells on the connection on which it answers, in order, and what it tells is written right behind the reply that
  came before it, also where that one waits for others (`RequestQueue.push_behind`).
- PING goes to all nodes that have something to tell (`Echo`). A node that does not answer for a second counts as lost.
- A lost connection, a slot in which the client has read and that migrates or changes its owner, and a primary that is
  connected anew in BCAST mode: the client is told to drop everything, and once more behind what is in flight.
- What is read where no node can be asked to tell of it (on a leased connection: EXEC after WATCH, XREAD BLOCK; by ASK
  with CACHING YES) is invalidated right behind its reply.
Not seen: keys read as missing that somebody creates at a slot's new node, past this proxy, before it hears of the move.

A RESP2 client is told nothing itself, as on one server; with REDIRECT its lanes have an ear each (`privatelanes`).
"""

from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.dataplane.echoing import Echo
from slotproxy.dataplane.lanes import Lane
from slotproxy.dataplane.nodestreams import NodeStream, StreamKey
from slotproxy.dataplane.ownlanes import Connecting, OwnLanes, room_for
from slotproxy.dataplane.privatelanes import LaneUser, PrivateLane
from slotproxy.dataplane.requests import Request
from slotproxy.protocol.commands import Command
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.pubsub import CHANNELS
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import NULL3, OK
from slotproxy.protocol.slots import SLOTS
from slotproxy.protocol.tracking import (
    CACHED,
    CHANNEL,
    FLUSHED,
    UNCACHED,
    TrackingOptions,
    keys_of,
    names_of,
    published,
    pushed,
    redirection_broken,
)

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_NO_TOUCH: Final = [b"CLIENT", b"NO-TOUCH", b"ON"]


class Private(LaneUser):
    """What one client has turned on, and its lanes. Made with the first of it, and gone with the last."""

    def __init__(self, client: "Client", plane: "Plane") -> None:
        self.options: TrackingOptions | None = None
        self.no_touch: bool = False
        self.broken: bool = False  # the client that REDIRECT names had left when it was to be told
        self.caching: int = 0  # what CLIENT CACHING has said of the next command
        self.lanes: OwnLanes | None = None
        self.connecting: Connecting | None = None
        self._prelude: i64 = 0  # of the command that is taken
        self._taken: bytes = b""
        self._read: bytearray = bytearray(SLOTS // 8)  # slots in which something was read that may be cached
        self._has_read: bool = False
        self._client: Final = client
        self._plane: Final = plane
        self._key: StreamKey | None = None
        self._former: list[OwnLanes] = []

    # Lanes

    def arrange(self) -> int:
        """The number of the lanes on which the client is to send; -1: on its pool's. Nothing of it may be in flight."""
        client = self._client
        options = self.options
        prepare: list[list[bytes]] = [_NO_TOUCH] if self.no_touch else []
        redirects = False
        if options is not None and (client.protocol == 3 or options.redirect != 0):
            prepare = [*prepare, options.upstream()]
            redirects = client.protocol == 2
        if not prepare:
            self._replace(None, None)
            return -1
        key = self._key
        lanes = self.lanes
        identity = client.pool.identity
        if key is not None and lanes is not None and (key.prepare, key.protocol, key.identity, key.redirects) == (
            prepare, client.protocol, identity, redirects
        ):  # fmt: skip
            return lanes.first
        key = StreamKey(client.protocol, identity, prepare, self, redirects)
        lanes = OwnLanes(client, self._plane, [key, StreamKey(3, identity, [], self)] if redirects else [key])
        self._replace(lanes, key)
        return lanes.first

    def lanes_wanted(self, options: TrackingOptions | None) -> int:
        """How many lanes at each node these options take."""
        if self._client.protocol == 2 and options is not None and options.redirect != 0:
            return 2
        return 1

    def _replace(self, lanes: OwnLanes | None, key: StreamKey | None) -> None:
        before = self.lanes
        self.lanes = lanes
        self._key = key
        if before is not None:
            self.forget_all()
            self._former.append(before)

    def drop_former(self) -> None:
        """Nobody sends on the lanes any more that the client had before."""
        former = self._former
        self._former = []
        for lanes in former:
            lanes.drop()

    def close(self) -> None:
        """The client has left."""
        lanes = self.lanes
        self.lanes = None
        self.options = None
        if lanes is not None:
            lanes.give_back()

    # What is sent

    def taken(self, raw: bytes, name: bytes) -> None:
        """The client's next command; the same again when it had to wait."""
        if raw is self._taken:
            return
        self._taken = raw
        if self._client.transaction is None:  # what was said before MULTI holds until EXEC
            self._prelude = self.caching
            if name.lower() != b"client":
                self.caching = 0

    def cache(self, what: int) -> None:
        """CLIENT CACHING. Between MULTI and EXEC the whole block counts as cached."""
        if self._client.transaction is None:
            self.caching = what
        elif what == CACHED:
            self._prelude = what

    def stamp(self, request: Request) -> None:
        """The request is the command's that was taken last."""
        request.prelude = self._prelude

    def sends(self, request: Request) -> None:
        options = self.options
        if options is None or options.bcast or request.slot >= SLOTS or (
            request.command.write and request.commands == 0
        ):
            return
        if (options.optin and request.prelude != CACHED) or (options.optout and request.prelude == UNCACHED):
            return
        slot = int(request.slot)
        self._read[slot >> 3] |= 1 << (slot & 7)
        self._has_read = True

    def untracked(self, request: Request) -> None:
        if request.commands > 0:
            self._tell(_alone(request), NULL3)
        else:
            keys = keys_of(request.command, arguments_of(request.raw))
            if keys:
                self._tell(_alone(request), names_of(keys))

    def reads_untracked(self, keys: list[bytes]) -> None:
        """What runs alone for the client now reads these keys where no node is asked to tell of them."""
        if self.options is not None and not self.options.bcast and keys:
            self._tell(self._all_in_flight(), names_of(keys))

    # What nodes tell

    def told(self, stream: NodeStream, frame: bytes) -> None:
        elements = elements_of(frame) if frame[0] == 0x3E else None
        if elements is None:
            raise ProtocolError("Protocol error: a reply that nothing was asked for")
        if len(elements) == 2 and elements[0].endswith(b"\r\ninvalidate\r\n") and isinstance(stream, PrivateLane):
            self._tell(stream.answered, elements[1])

    def connected(self, stream: NodeStream) -> None:
        lanes = self.lanes
        if lanes is None:
            return
        territory = self._plane.router.territory
        data = stream.node.lanes[lanes.first]
        if data is not stream and not data.ready:  # the ear is there
            territory.dial(data)
        options = self.options
        connecting = self.connecting
        if connecting is not None and not connecting.over:
            connecting.look()
        elif options is not None and options.bcast and data is stream:
            self.forget_all()  # what has changed there before was not told

    def unconnected(self, stream: NodeStream, why: str) -> None:
        if self.connecting is not None:
            self.connecting.look()

    def deaf(self, stream: NodeStream) -> None:
        lanes = self.lanes
        if lanes is None:
            return
        data = stream.node.lanes[lanes.first]
        hears = stream.node.lanes[lanes.last]
        if stream is not data and stream is not hears:  # one that the client had before
            return
        if stream is not data:
            data.renew()  # the node is to be given another ear
            self._plane.router.territory.dial(data)
        self.forget_all()

    def doubt(self, slots: set[int]) -> None:
        """Slots have got into trouble, or another owner: what was read there may not be told any more.

        In BCAST mode it does not matter who read what; but an owner may be new, and not tell anything yet.
        """
        lanes = self.lanes
        if self.options is not None and self.options.bcast and lanes is not None:
            if not lanes.reach(slots):
                self.forget_all()
            return
        if self._has_read and any([self._read[slot >> 3] & (1 << (slot & 7)) for slot in slots if slot < SLOTS]):
            self.forget_all()

    # What clients are told

    def forget_all(self) -> None:
        """Nothing that may be cached is sure any more."""
        options = self.options
        if options is None or not (self._has_read or options.bcast):
            return
        self._has_read = False
        self._read = bytearray(SLOTS // 8)
        self._tell({}, NULL3)
        if self._client.queue.size > 0:
            self._tell(self._all_in_flight(), NULL3)

    def _all_in_flight(self) -> dict[Request, None]:
        """The last command of the client that has not been answered, and so all."""
        queue = self._client.queue
        return {queue.last(): None} if queue.size > 0 else {}

    def forget_written(self, answered: dict[Request, None]) -> None:
        waiting = dict.fromkeys(self._client.queue.all())
        for request in list(answered):
            if request not in waiting:
                del answered[request]

    def _tell(self, behind: dict[Request, None], keys: bytes) -> None:
        """Keys have changed (null: all), and a client is told of it not before the replies to these commands."""
        options = self.options
        if options is None:
            return
        client = self._client
        if options.redirect != 0 and options.redirect != client.id:
            target = self._plane.clients.get(options.redirect)
            if target is not None and target.grant.account is client.grant.account:
                deliver_invalidation(target, keys)
                return
            self.broken = True
            if client.protocol == 3:
                client.push(redirection_broken(options.redirect))
        elif client.protocol == 3:
            client.push_behind(behind, FLUSHED if keys == NULL3 else pushed(keys))
        elif options.redirect != 0:
            deliver_invalidation(client, keys)

    def is_waiting(self) -> bool:
        """Whether there is a primary that could have something to tell, and is not connected."""
        options, lanes = self.options, self.lanes
        return options is not None and options.bcast and lanes is not None and len(lanes.missing()) > 0

    def is_empty(self) -> bool:
        """Whether nothing is turned on."""
        return self.options is None and not self.no_touch

    def tells(self, id: int) -> bool:
        """Whether the client with this id is told, or would be, if it were not this one itself."""
        return self.options is not None and (id == self._client.id or id == self.options.redirect)


def deliver_invalidation(client: "Client", keys: bytes) -> None:
    """Tell a client, whoever's keys they are; `keys` is an array's frame, or null for all."""
    if client.protocol == 3:
        client.push(pushed(keys))
    elif client.subscriptions is not None and client.subscriptions.has(CHANNELS, CHANNEL):
        client.push(published(keys))


def _alone(request: Request) -> dict[Request, None]:
    """The command that the request is a part of."""
    split = request.split
    while split is not None:
        request = split.owner
        split = request.split
    return {request: None}


class TurnOn(Connecting):
    """CLIENT TRACKING ON BCAST: answered when all primaries tell."""

    def __init__(self, client: "Client", plane: "Plane", called: Command, raw: bytes, private: Private) -> None:
        assert private.lanes is not None
        super().__init__(client, plane, called, raw, private.lanes)
        self._private: Final = private
        private.connecting = self

    def fail(self) -> None:
        stop_tracking(self._client)


def track(client: "Client", plane: "Plane", called: Command, raw: bytes, options: TrackingOptions) -> bytes:
    """Turn tracking on, as these options say; nothing of the client may be in flight. b"": answered later."""
    private = client.private
    if private is None or private.lanes is None or private.lanes.count < private.lanes_wanted(options):
        refusal = room_for(plane, called, 2 if client.protocol == 2 else 1)
        if refusal is not None:
            return refusal
    if private is None:
        private = client.go_private()
    private.options = options
    private.broken = False
    private.caching = 0
    client.choose_lane()
    if options.bcast and private.lanes is not None:
        private.lanes.connect()
        client.run(TurnOn(client, plane, called, raw, private))
        return b""
    return OK


def stop_tracking(client: "Client") -> None:
    """CLIENT TRACKING OFF; nothing of the client may be in flight."""
    private = client.private
    if private is not None and private.options is not None:
        private.options = None
        private.caching = 0
        client.choose_lane()


def turn_off(client: "Client") -> None:
    """RESET: everything."""
    if client.private is not None:
        client.private.no_touch = False
        client.private.options = None
        client.choose_lane()


def set_no_touch(client: "Client", plane: "Plane", called: Command, on: bool) -> bytes:
    """CLIENT NO-TOUCH; nothing of the client may be in flight."""
    private = client.private
    if on and private is None:
        refusal = room_for(plane, called, 1)
        if refusal is not None:
            return refusal
        private = client.go_private()
    if private is not None:
        private.no_touch = on
        client.choose_lane()
    return OK


def echo(client: "Client", plane: "Plane", called: Command, frame: bytes) -> bool:
    """Answer PING with `frame` behind what nodes have to tell this client. False when they have nothing to tell it."""
    users = [one for one in plane.private.values() if one.tells(client.id)]
    lanes: list[Lane] = []
    for user in users:
        if user.lanes is not None:
            lanes += user.lanes.ready()
    if not lanes and not any([user.is_waiting() for user in users]):
        return False
    Echo(client, plane, called, frame, users, lanes).start()
    return True
