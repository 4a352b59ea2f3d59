"""Commands that run alone for their client: nothing of it is in flight before, nothing is sent before they answered.

Duty: send a command to all primaries or nodes, or a SCAN to the one at which its cursor stands, and have the replies
merged. Because they run alone, a DBSIZE counts what the same client has written before it in its pipeline and not what
comes behind, whatever way those commands take.

Invariants: a part is addressed to a seat, so it waits, is sent again and fails as any other request does (a part of a
primary that is replaced goes to its successor); a cluster that is not known yet is waited for, up to the park timeout,
and a refresh that a redirect has made necessary for a second: a failover shows first in one slot.
What only a node with a free connection can answer (SCRIPT KILL) is asked aside.
"""

import random
from typing import TYPE_CHECKING, Final

from mypy_extensions import i64

from slotproxy.cluster.shards import NODE_CURSORS, Shard, Shards
from slotproxy.dataplane import errors
from slotproxy.dataplane.receivers import PubsubMerging
from slotproxy.dataplane.requests import Request, Split
from slotproxy.dataplane.scripts import Scripts
from slotproxy.dataplane.selfinfo import about_itself
from slotproxy.dataplane.solitary import Solitary
from slotproxy.dataplane.territory import Seat
from slotproxy.protocol.commands import Command
from slotproxy.protocol.decisions import Decision, OverNodes, Scan
from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.info import merge_info
from slotproxy.protocol.merging import merge_over_nodes
from slotproxy.protocol.replies import aggregate, elements_of, is_null, items_of
from slotproxy.protocol.resp import EMPTY_ARRAY, array, bulk, command, error, verbatim
from slotproxy.protocol.slots import SLOTS
from slotproxy.protocol.splitting import Merging

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_DBSIZE: Final = command([b"DBSIZE"])
_WHOLE_WITHIN: Final = 1.0  # seconds that a refresh may take which a redirect has made necessary
_CONNECTS_WITHIN: Final = 1.0  # seconds that INFO waits for a node's first connection in the client's protocol
_AGAIN: Final = 0.05  # seconds between two looks whether the cluster is known


class Solo(Solitary):
    """One such command of one client. `start` sends it; its reply is delivered, or `joined` to something else."""

    def __init__(
        self,
        client: "Client",
        plane: "Plane",
        command: Command,
        decision: Decision,
        arguments: list[bytes],
        raw: bytes,
        joined: Split | None = None,
    ) -> None:
        super().__init__()
        self._client: Final = client
        self._plane: Final = plane
        self._command: Final = command
        self._decision: Final = decision
        self._arguments: Final = arguments
        self._owner: Final = Request(client, command, 0, raw, plane.reactor.now, False, joined)

    def start(self) -> None:
        """Send it, or begin to wait for the cluster. Nothing of the client may be in flight."""
        if self._owner.split is None:
            self._client.queue.push(self._owner)
        self.fire()

    def fire(self) -> None:
        """Send it, if the cluster is known."""
        if self._client.transport is None and self._owner.split is None:  # a transaction that has begun goes on
            return
        plane = self._plane
        now: float = plane.reactor.now
        decision = self._decision
        impatient = self._command.name in ("info", "config|get")  # not worth waiting for
        patient = isinstance(decision, OverNodes) and not impatient
        if patient and not plane.router.is_whole() and now - self._owner.started < _WHOLE_WITHIN:
            plane.reactor.call_at(now + _AGAIN, self)
            return
        formed = impatient or plane.router.slot_map.covered() > 0  # else it may be one lone node that answers
        if isinstance(decision, Scan):
            if formed and plane.shards.known():
                self._scan(decision.cursor)
                return
        elif isinstance(decision, OverNodes) and formed:
            territory = plane.router.territory
            seats = territory.seats(territory.keyless_slot(self._client.id), decision.replicas)
            away: list[str] = []
            if impatient and now - self._owner.started < _CONNECTS_WITHIN and any([self._connects(s) for s in seats]):
                plane.reactor.call_at(now + _AGAIN, self)
                return
            if impatient:
                away = [self._name(seat) for seat in seats if not self._connected(seat)]
                seats = [seat for seat in seats if self._connected(seat)]
            if seats:
                self._send(seats, away)
                return
        park_timeout = plane.router.order.park_timeout
        if now - self._owner.started >= park_timeout:
            plane.counters.parked_expired += 1
            plane.router.finish(self._owner, errors.not_served(SLOTS, park_timeout, "no node is known yet"))
            return
        plane.reactor.call_at(now + _AGAIN, self)

    def _connected(self, seat: Seat) -> bool:
        node = self._plane.router.territory.owner(seat.slot)
        return node is not None and node.lanes[self._client.lane].ready

    def _connects(self, seat: Seat) -> bool:
        """Whether the node can be reached, and the first connections of the client's protocol are just being made."""
        node = self._plane.router.territory.owner(seat.slot)
        return node is not None and node.connected() > 0 and not node.lanes[self._client.lane].ready

    def _name(self, seat: Seat) -> str:
        node = self._plane.router.territory.owner(seat.slot)
        return node.name if node is not None else seat.id

    def _send(self, seats: list[Seat], away: list[str]) -> None:
        names = [self._name(seat) for seat in seats]
        name = self._command.name
        if name == "randomkey":
            self._send_randomkey(seats, names)
            return
        merging: Merging
        if name == "config|get":
            merging = ConfigMerging()
            seats = seats[:1]
        elif name == "info":
            merging = InfoMerging(self._plane, self._client, self._arguments, names, away)
        elif name.startswith("pubsub|"):
            nodes = NodeMerging(self._command, self._arguments, names)
            merging = PubsubMerging(self._plane, name, self._arguments, nodes)
        elif name.startswith("script|"):
            merging = ScriptMerging(self._plane.router.scripts, self._command, self._arguments, names)
        else:
            merging = NodeMerging(self._command, self._arguments, names)
        split = Split(self._owner, merging, len(seats))
        for index, seat in enumerate(seats):
            self._submit(split, index, seat, self._owner.raw)

    def _send_randomkey(self, seats: list[Seat], names: list[str]) -> None:
        """Each node is asked for a key and for how many it has."""
        split = Split(self._owner, RandomKeyMerging(self._command, self._arguments, names), 2 * len(seats))
        for index, seat in enumerate(seats):
            self._submit(split, index, seat, self._owner.raw)
            self._submit(split, len(seats) + index, seat, _DBSIZE)

    def _submit(self, split: Split, index: i64, seat: Seat, raw: bytes) -> None:
        router = self._plane.router
        part = Request(self._client, self._command, seat.slot, raw, self._owner.started, False, split, index)
        if "allow_busy" in self._command.flags:
            node = router.territory.owner(seat.slot)
            if node is not None:
                self._plane.control.ask_aside_nowait(part, node, self._client.key)
                return
        router.submit(part)

    def _scan(self, cursor: int) -> None:
        shards = self._plane.shards
        shard, inner = shards.find(cursor)
        if shard is None:  # behind the last node
            self._plane.router.finish(self._owner, array([bulk(b"0"), EMPTY_ARRAY]))
            return
        request = command([self._arguments[0], b"%d" % inner, *self._arguments[2:]])
        split = Split(self._owner, ScanMerging(shards, shard), 1)
        self._submit(split, 0, self._plane.router.territory.seat(shard.node), request)


class NodeMerging(Merging):
    """Of the replies of several nodes to the same command."""

    def __init__(self, command: Command, arguments: list[bytes], nodes: list[str]) -> None:
        super().__init__()
        self._command: Final = command
        self._arguments: Final = arguments
        self._nodes: Final = nodes

    def merge(self, replies: list[bytes]) -> bytes:
        """By the command's response policy, or by hand; a failure is named."""
        command = self._command
        return merge_over_nodes(command.name, command.response_policy, self._arguments, self._nodes, replies)


class RandomKeyMerging(NodeMerging):
    """Of the nodes' random keys, and behind them their numbers of keys, so that every key is as likely as any other."""

    def merge(self, replies: list[bytes]) -> bytes:
        """One of the keys; null when no node has any."""
        keys, sizes = replies[: len(replies) // 2], replies[len(replies) // 2 :]
        for frames in (keys, sizes):
            if any([frame[0] == 0x2D for frame in frames]):
                return super().merge(frames)
        weights: list[int] = []
        for key, size in zip(keys, sizes, strict=True):
            digits = size[1:-2]
            weights.append(int(digits) if not is_null(key) and digits.isdigit() and len(digits) < 20 else 0)
        if not any(weights):
            found = [key for key in keys if not is_null(key)]
            return found[0] if found else keys[0]  # a key that came just before the last was deleted, or null
        return random.choices(keys, weights)[0]


class ScriptMerging(NodeMerging):
    """The same for SCRIPT LOAD, EXISTS and FLUSH, which also concern the texts that the proxy has."""

    def __init__(self, scripts: Scripts, command: Command, arguments: list[bytes], nodes: list[str]) -> None:
        super().__init__(command, arguments, nodes)
        self._scripts: Final = scripts

    def merge(self, replies: list[bytes]) -> bytes:
        """A script that the proxy can supply exists."""
        reply = super().merge(replies)
        name = self._command.name
        if reply[0] == 0x2D:
            return reply
        if name == "script|load":
            self._scripts.note(self._arguments[2])
        elif name == "script|flush":
            self._scripts.forget_all()
        elif name == "script|exists":
            exist = elements_of(reply) or []
            if len(exist) == len(self._arguments) - 2:
                known = [self._scripts.text_of(sha) is not None for sha in self._arguments[2:]]
                return array([b":1\r\n" if known[index] else element for index, element in enumerate(exist)])
        return reply


class ScanMerging(Merging):
    """Of one node's reply to SCAN: its cursor becomes the client's."""

    def __init__(self, shards: Shards, shard: Shard) -> None:
        super().__init__()
        self._shards: Final = shards
        self._number: Final = shard.number
        self._shard: Final = shard
        self._generation: Final = shard.generation

    def merge(self, replies: list[bytes]) -> bytes:
        """The same keys, with the cursor at which the walk goes on; "0" behind the last node."""
        reply = replies[0]
        if reply[0] == 0x2D:
            return reply
        try:
            elements = elements_of(reply)
            digits = (elements or [b""])[0].split(b"\r\n")[1]
            inner = int(digits) if digits.isdigit() and len(digits) <= 20 else NODE_CURSORS
        except (ProtocolError, IndexError):
            elements = None
            inner = 0
        if elements is None or len(elements) != 2:
            return error("ERR slotproxy: SCAN was answered " + ascii(reply[:32])[1:])
        if inner >= NODE_CURSORS:
            return error("ERR slotproxy: SCAN: a node's cursor is too large to be passed on")
        if self._shard.generation != self._generation:
            cursor = self._shard.cursor(0)  # another node answers for it now, and has an order of its own
        elif inner:
            cursor = self._shard.cursor(inner)
        else:
            following = self._shards.after(self._number)
            cursor = 0 if following is None else following.cursor(0)
        return array([bulk(b"%d" % cursor), elements[1]])


class ConfigMerging(Merging):
    """Of one node's reply to CONFIG GET."""

    def __init__(self) -> None:
        super().__init__()
        self.patient = False

    def merge(self, replies: list[bytes]) -> bytes:
        """As a server without cluster support: clients that look would begin to route by themselves."""
        try:
            frames = items_of(replies[0])
        except ProtocolError:
            frames = None
        if frames is None:
            return replies[0]
        for index in range(1, len(frames), 2):
            if frames[index - 1].lower() == b"$15\r\ncluster-enabled\r\n":  # in the letter case that was asked for
                frames[index] = bulk(b"no")
        return aggregate(replies[0], frames)


class InfoMerging(Merging):
    """Of the nodes' replies to INFO. A node that gives none is left out: the section slotproxy names it."""

    def __init__(
        self, plane: "Plane", client: "Client", arguments: list[bytes], nodes: list[str], away: list[str]
    ) -> None:
        super().__init__()
        self.patient = False
        self._plane: Final = plane
        self._client: Final = client
        self._sections: Final = [argument.lower() for argument in arguments[1:]]
        self._nodes: Final = nodes
        self._away: Final = away

    def merge(self, replies: list[bytes]) -> bytes:
        """As one server would answer."""
        texts: list[str] = []
        left_out = self._away[:]
        for node, reply in zip(self._nodes, replies, strict=True):
            head, _, body = reply.partition(b"\r\n")
            if head[:1] in (b"$", b"=") and body.endswith(b"\r\n"):
                texts.append(body[: len(body) - 2].removeprefix(b"txt:").decode("latin-1"))
            else:
                left_out.append(node)
        if not texts:
            return replies[0]
        own = about_itself(self._plane, self._client, self._sections, left_out)
        return verbatim(self._client.protocol, merge_info(texts, own).encode("latin-1", "replace"))
