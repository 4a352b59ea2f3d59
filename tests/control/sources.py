"""Figures for the collector and the admin endpoint, without a proxy behind them."""

from slotproxy.cluster.slotmap import SlotMap
from slotproxy.cluster.topology import NodeInfo, Topology
from slotproxy.dataplane.counters import Counters

IDS = ("a" * 40, "b" * 40, "c" * 40)
PORTS = (7001, 7002, 7003)


def three_nodes() -> SlotMap:
    """Two primaries that share all slots but the last, and a replica."""
    infos = {
        id: NodeInfo(id, "10.0.0.1", port, port != 7003, False, frozenset({("10.0.0.1", port)}))
        for id, port in zip(IDS, PORTS, strict=True)
    }
    slot_map = SlotMap()
    slot_map.apply(Topology(infos, [(0, 8191, IDS[0]), (8192, 16382, IDS[1])], {}, "10.0.0.1:7001"), 0)
    return slot_map


class FixedSources:
    """Sources whose figures are attributes; a test sets those it looks at."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.slot_map = SlotMap()
        self.calls: dict[str, int] = {}
        self.connections: dict[str, int] = {}
        self.clients = 0
        self.waiting = (0, 0)  # in flight, parked
        self.migrating: list[int] = []
        self.failures = 0

    def command_calls(self) -> dict[str, int]:
        return self.calls

    def client_connections(self) -> int:
        return self.clients

    def node_connections(self) -> dict[str, int]:
        return self.connections

    def in_flight(self) -> int:
        return self.waiting[0]

    def parked(self) -> int:
        return self.waiting[1]

    def migrating_slots(self) -> list[int]:
        return self.migrating

    def exclusive_connections(self) -> int:
        return 4

    def private_clients(self) -> int:
        return 2

    def blocked_clients(self) -> int:
        return 3

    def subscribed_clients(self) -> int:
        return 6

    def subscription_connections(self) -> int:
        return 2

    def script_cache_bytes(self) -> int:
        return 1234

    def refresh_failures(self) -> int:
        return self.failures

    def version(self) -> str:
        return "1.2.3"

    def flavour(self) -> str:
        return "compiled"
