"""Connecting lanes: dial, log in, fence, hand over.

Duty: for each lane that asks, connect to its node's present address until it succeeds or the node has left, and prepare
the connection so that nothing sent on it can be overtaken by what the lost one left behind.

The fence (design, ordering contract): commands in a dead connection's socket buffer can still run at the node after
newer ones on a new connection. So the lost connection is killed by its CLIENT ID before the lane is ready. Ids start
anew with each server process, hence the run_id: a restarted server has no old commands, and the id may be another's.
Best effort where ACLs deny CLIENT ID, CLIENT KILL or INFO: said once per lane in the log.
"""

import logging
import random
from collections.abc import Mapping

import trio

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, NodeConnection, NodeUnavailable, connect
from slotproxy.dataplane.lanes import Lane
from slotproxy.dataplane.plane import Plane
from slotproxy.dataplane.transport import Transport

_log = logging.getLogger("slotproxy.nodes")

_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 2.0


async def open_lane(
    lane: Lane,
    plane: Plane,
    identities: Mapping[str, Credentials],
    address_map: AddressMap,
    connect_timeout: float,
) -> None:
    """Connect `lane`, however long it takes; returns when it is attached or its node has left.

    `identities` has the credentials that the lane's key names.
    """
    backoff = _BACKOFF_FIRST
    while not lane.retired:
        address = address_map.apply((lane.node.info.host, lane.node.info.port))
        try:
            with trio.fail_after(connect_timeout):
                connection = await connect(address, identities[lane.key.identity])
                client_id, server_run = await _greet(connection, lane)
        except (NodeUnavailable, trio.TooSlowError) as problem:
            why = str(problem) if isinstance(problem, NodeUnavailable) else f"no answer within {connect_timeout:g} s"
            if lane.why != why:
                _log.warning("cannot connect to node %s: %s", _shown(lane, address), why)
            plane.unreachable(lane, why)
            await trio.sleep(backoff * (0.5 + random.random()))
            backoff = min(backoff * 2, _BACKOFF_MOST)
            continue
        if address != address_map.apply((lane.node.info.host, lane.node.info.port)):
            connection.close()  # meanwhile the node got another address; who has this one now may be another node
            continue
        plane.attach(lane, Transport(connection.detach()), client_id, server_run)
        _log.debug("connected to node %s", _shown(lane, address))
        return


async def _greet(connection: NodeConnection, lane: Lane) -> tuple[int, str]:
    """Name the connection, learn its id, kill what the lane's lost connection may still run."""
    _, client_id, server = await connection.commands(
        ("CLIENT", "SETNAME", "slotproxy"), ("CLIENT", "ID"), ("INFO", "server")
    )
    run = ""
    if isinstance(server, bytes):
        for line in server.decode("utf-8", "replace").splitlines():
            if line.startswith("run_id:"):
                run = line.removeprefix("run_id:")
    if isinstance(client_id, ErrorReply):
        if "NOAUTH" in str(client_id):
            connection.close()
            raise NodeUnavailable(f"the node wants a login (--cluster-password-file): {client_id}")
        _log.warning("node %s denies CLIENT ID, no fence for lost connections: %s", lane.node.name, client_id)
        return 0, run
    if lane.fence and not run:
        # Without the run_id the number may by now be another connection's: ids start anew with each server process.
        _log.warning("node %s denies INFO: a lost connection is not fenced", lane.node.name)
    elif lane.fence and run == lane.server_run:
        (killed,) = await connection.commands(("CLIENT", "KILL", "ID", lane.fence))
        if isinstance(killed, ErrorReply):
            _log.warning("node %s denies CLIENT KILL: a lost connection is not fenced: %s", lane.node.name, killed)
    return int(client_id), run


def _shown(lane: Lane, address: Address) -> str:
    announced = lane.node.name
    dialled = f"{address[0]}:{address[1]}"
    return announced if announced == dialled else f"{announced} (dialled {dialled})"
