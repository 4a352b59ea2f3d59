"""Whether a refusal that a script or a module returned is the node's own.

A script can return any error text after its writes ran, for example a MOVED to anywhere. Such a refusal is believed
only when the node's own state says the same, asked on a connection of the proxy's: then the command did not run and may
be sent again. Otherwise the text is the script's reply and goes to the client as it is.
"""

import logging

import trio

from slotproxy.cluster.topology import Address, Topology, TopologyError
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, NodeUnavailable, connect
from slotproxy.control.querying import ask_topology
from slotproxy.protocol.redirects import Redirect, Refusal, parse_redirect

_log = logging.getLogger("slotproxy.nodes")

_ANSWER = 2.0  # seconds that the node may take to tell its state


async def is_genuine(
    refusal: Refusal, reply: bytes, slot: int, address: Address, credentials: Credentials, address_map: AddressMap
) -> bool:
    """Ask the node at the announced `address` that gave `reply`. False also when it cannot be asked."""
    redirect = parse_redirect(reply) if refusal in (Refusal.MOVED, Refusal.ASK) else None
    if refusal in (Refusal.MOVED, Refusal.ASK) and (redirect is None or redirect.slot != slot):
        return False
    try:
        with trio.fail_after(_ANSWER):
            dialled = address_map.apply(address)
            async with await connect(dialled, credentials) as connection:
                topology = await ask_topology(connection, address)
                if redirect is not None or refusal == Refusal.TRYAGAIN:
                    return _says_the_same(refusal, redirect, slot, address, topology)
                info = await connection.commands(("CLUSTER", "INFO"), ("INFO", "persistence"), ("INFO", "replication"))
                return _in_that_state(refusal, b"\n".join(part for part in info if isinstance(part, bytes)))
    except (NodeUnavailable, ErrorReply, TopologyError, trio.TooSlowError) as problem:
        _log.warning("cannot confirm %s from node %s:%d: %s", refusal.name, *address, problem)
        return False


def _says_the_same(
    refusal: Refusal, redirect: Redirect | None, slot: int, address: Address, topology: Topology
) -> bool:
    owner = next((id for first, last, id in topology.ranges if first <= slot <= last), None)
    migrates_to = topology.migrating.get(slot)
    mine = next((info.id for info in topology.nodes.values() if address in info.addresses), None)
    if redirect is None:
        # Several keys, some elsewhere: only while the slot migrates, here or towards here.
        return migrates_to is not None or owner != mine
    claimed = {owner} if refusal == Refusal.MOVED else {migrates_to, owner}
    host = address[0] if redirect.host == "" else redirect.host
    for info in topology.nodes.values():
        matches = any(port == redirect.port and host in (name, None) for name, port in info.addresses)
        if matches and info.id in claimed and info.id != mine:
            return True
    return False


def _in_that_state(refusal: Refusal, info: bytes) -> bool:
    if refusal == Refusal.LOADING:
        return b"\nloading:1" in info
    if refusal == Refusal.CLUSTERDOWN:
        return b"cluster_state:fail" in info
    return b"\nrole:slave" in info  # READONLY, MASTERDOWN
