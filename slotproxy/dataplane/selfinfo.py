"""What INFO says of the proxy itself: the fields in which it stands for the server, and its own section.

Duty: values only; `protocol.info` puts them into the nodes' text.
"""

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from slotproxy.dataplane.clients import Client
    from slotproxy.dataplane.plane import Plane

_ALL: Final = frozenset([b"default", b"all", b"everything"])
_DAY: Final = 86_400


def about_itself(
    plane: "Plane", client: "Client", sections: list[bytes], left_out: list[str]
) -> dict[str, dict[str, str]]:
    """Section -> field -> value; the section slotproxy where `sections` (lower case, none: default) ask for it.

    And always where nodes are `left_out`, for the figures are not the whole then.
    """
    uptime = int(plane.uptime())
    counters = plane.counters
    own = {
        "server": {
            "run_id": plane.run_id,
            "process_id": str(os.getpid()),
            "tcp_port": client.local_address().rpartition(":")[2] or "0",
            "uptime_in_seconds": str(uptime),
            "uptime_in_days": str(uptime // _DAY),
        },
        "clients": {
            "connected_clients": str(plane.client_count()),
            "cluster_connections": "0",
            "blocked_clients": str(plane.blocked.count),
            "maxclients": str(plane.max_clients),
        },
        "stats": {
            "total_connections_received": str(int(counters.clients_total)),
            "rejected_connections": str(int(counters.clients_refused)),
        },
    }
    if not sections or left_out or b"slotproxy" in sections or not _ALL.isdisjoint(sections):
        territory = plane.router.territory
        owners = {info.id: info for info in plane.router.slot_map.owners if info is not None}
        connected = {id for id in owners if id in territory.nodes and territory.nodes[id].connected() > 0}
        away = [info.name for id, info in owners.items() if id not in connected]
        own["slotproxy"] = {
            "slotproxy_version": plane.version,
            "slots_covered": str(plane.router.slot_map.covered()),
            "primaries_connected": str(len(connected)),
            "primaries_not_connected": ",".join(away),
            "nodes_left_out": ",".join(left_out),
            "requests_in_flight": str(plane.in_flight()),
            "requests_parked": str(plane.parked()),
            "total_moved": str(sum(counters.moved.values())),
            "total_ask": str(sum(counters.ask.values())),
            "total_tryagain": str(int(counters.tryagain)),
            "total_in_doubt": str(int(counters.in_doubt)),
        }
    return own
