"""What one node says about the cluster, decoded: CLUSTER SLOTS and CLUSTER NODES.

Duty: turn the two replies (hiredis, RESP2, bytes) into one `Topology`. SLOTS gives the endpoints that clients
shall use, NODES gives what SLOTS leaves out: primaries without slots (the target that a scale-out fills),
other addresses of the same node, and which slots the answering node is migrating.

Invariants: a node is its id; an address is only a way to reach it. A reply that is not what the specification
says raises TopologyError as a whole, for half a map is worse than yesterday's.

Address forms (Redis 6.2.14 and 7.0.15): an IP or a hostname; NULL (unknown-endpoint) and "" (a node that
never met another) mean the host that answered; "?" (hostname not set) leaves the real IP in the metadata or
in CLUSTER NODES.
"""

from typing import Final

from slotproxy.protocol.redirects import bounded
from slotproxy.protocol.slots import SLOTS

Address = tuple[str, int]


class TopologyError(Exception):
    """A node's description of the cluster cannot be read; `str()` says what is wrong with it."""


class NodeInfo:
    """One node as the cluster announces it.

    `addresses` holds every (host, port) by which redirects may call it; `failing` is the answering node's
    opinion; `replicates` the id of a replica's primary.
    """

    def __init__(
        self,
        id: str,
        host: str,
        port: int,
        primary: bool,
        failing: bool,
        addresses: frozenset[Address],
        replicates: str = "",
    ) -> None:
        self.id: Final = id
        self.host: Final = host
        self.port: Final = port
        self.primary: Final = primary
        self.failing: Final = failing
        self.addresses: Final = addresses
        self.replicates: Final = replicates

    @property
    def name(self) -> str:
        """`host:port`, as errors, metrics and logs call it."""
        return f"{self.host}:{self.port}"


class Topology:
    """One node's view. `ranges` are (first slot, last slot, node id), both ends included."""

    def __init__(
        self,
        nodes: dict[str, NodeInfo],
        ranges: list[tuple[int, int, str]],
        migrating: dict[int, str],
        answered_by: str,
    ) -> None:
        self.nodes: Final = nodes
        self.ranges: Final = ranges
        self.migrating: Final = migrating  # slot -> importing node, for slots of the answering node
        self.answered_by: Final = answered_by

    def covered(self) -> int:
        """How many slots have an owner."""
        return sum(last - first + 1 for first, last, _ in self.ranges)


def decode_topology(slots: object, nodes: object, answered: Address) -> Topology:
    """Decode the replies to CLUSTER SLOTS and CLUSTER NODES that the node at `answered` gave.

    Raises TopologyError.
    """
    known: dict[str, _Line] = {line.id: line for line in _decode_nodes(nodes, answered)}
    ranges: list[tuple[int, int, str]] = []
    endpoints: dict[str, Address] = {}
    if not isinstance(slots, list):
        raise TopologyError(f"CLUSTER SLOTS answered {_shown(slots)}")
    for row in slots:
        if not isinstance(row, list) or len(row) < 3:
            raise TopologyError(f"CLUSTER SLOTS holds the row {_shown(row)}")
        first, last = row[0], row[1]
        if not isinstance(first, int) or not isinstance(last, int) or not 0 <= first <= last < SLOTS:
            raise TopologyError(f"CLUSTER SLOTS holds the range {_shown(row[:2])}")
        ids = [_decode_endpoint(entry, answered, known, endpoints) for entry in row[2:]]
        ranges.append((first, last, ids[0]))
    infos: dict[str, NodeInfo] = {}
    for id in known.keys() | endpoints.keys():
        line = known.get(id)
        host, port = endpoints.get(id) or ((line.host, line.port) if line is not None else answered)
        addresses = {(host, port)}
        if line is not None:
            addresses |= {(name, line.port) for name in (line.host, line.hostname) if name}
        primary = line.primary if line is not None else any(owner == id for _, _, owner in ranges)
        failing = line is not None and line.failing
        replicates = line.replicates if line is not None else ""
        infos[id] = NodeInfo(id, host, port, primary, failing, frozenset(addresses), replicates)
    migrating = {slot: target for line in known.values() for slot, target in line.migrating.items()}
    return Topology(infos, ranges, migrating, f"{answered[0]}:{answered[1]}")


class _Line:
    def __init__(self, id: str, host: str, port: int, hostname: str, flags: set[str], primary: str) -> None:
        self.id = id
        self.host = host
        self.port = port
        self.hostname = hostname
        self.primary = "master" in flags
        self.failing = "fail" in flags
        self.replicates = "" if primary == "-" else primary
        self.migrating: dict[int, str] = {}


def _decode_nodes(reply: object, answered: Address) -> list[_Line]:
    if not isinstance(reply, bytes):
        raise TopologyError(f"CLUSTER NODES answered {_shown(reply)}")
    lines = []
    for text in reply.decode("utf-8", "replace").splitlines():
        words = text.split(" ")
        if len(words) < 8:
            raise TopologyError(f"CLUSTER NODES holds the line {text[:100]!r}")
        flags = set(words[2].split(","))
        if flags & {"noaddr", "handshake"}:
            continue
        address, _, names = words[1].partition(",")
        host, _, port = address.partition("@")[0].rpartition(":")
        number = bounded(port, 65535)
        if not number:
            if "fail" in flags:
                continue
            raise TopologyError(f"CLUSTER NODES holds the address {words[1][:100]!r}")
        hostname = names.partition(",")[0]
        line = _Line(words[0], host or answered[0], number, "" if "=" in hostname else hostname, flags, words[3])
        for word in words[8:]:
            if word.startswith("[") and "->-" in word:
                digits, _, target = word[1:-1].partition("->-")
                slot = bounded(digits, SLOTS - 1)
                if slot is not None:
                    line.migrating[slot] = target
        lines.append(line)
    return lines


def _decode_endpoint(
    entry: object, answered: Address, known: dict[str, _Line], endpoints: dict[str, Address]
) -> str:
    """Note the endpoint of one node entry of CLUSTER SLOTS; returns the node's id."""
    if not isinstance(entry, list) or len(entry) < 2:
        raise TopologyError(f"CLUSTER SLOTS holds the node {_shown(entry)}")
    name, port = entry[0], entry[1]
    if not isinstance(port, int) or not 0 < port < 65536 or not (name is None or isinstance(name, bytes)):
        raise TopologyError(f"CLUSTER SLOTS holds the node {_shown(entry)}")
    host = "" if name is None else name.decode("utf-8", "replace")
    id = entry[2].decode("ascii", "replace") if len(entry) > 2 and isinstance(entry[2], bytes) else ""
    if host == "?":
        host = _metadata_ip(entry)
        if not host and id in known:
            host = known[id].host
    host = host or answered[0]
    id = id or f"{host}:{port}"
    endpoints[id] = (host, port)
    return id


def _metadata_ip(entry: list[object]) -> str:
    if len(entry) > 3 and isinstance(entry[3], list):
        pairs = entry[3]
        for name, value in zip(pairs[::2], pairs[1::2], strict=False):
            if name == b"ip" and isinstance(value, bytes):
                return value.decode("utf-8", "replace")
    return ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
