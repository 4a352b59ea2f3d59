"""Questions to a node: its view of the cluster, its command table, its version; and what a client asks aside."""

import trio

from slotproxy.cluster.topology import Address, Topology, decode_topology
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, NodeConnection, NodeUnavailable, connect
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.resp import error


async def ask_topology(connection: NodeConnection, announced: Address) -> Topology:
    """The node's view of the cluster. `announced` is its own address as the cluster knows it.

    Raises NodeUnavailable, ErrorReply and TopologyError.
    """
    slots, nodes = await connection.commands(("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))
    for reply in (slots, nodes):
        if isinstance(reply, ErrorReply):
            raise reply
    return decode_topology(slots, nodes, announced)


async def ask_version(connection: NodeConnection) -> str:
    """`redis_version` of the node. Raises NodeUnavailable and ErrorReply."""
    reply = await connection.command("INFO", "server")
    for line in reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else ():
        if line.startswith("redis_version:"):
            return str(line.removeprefix("redis_version:"))
    raise ErrorReply("INFO server names no redis_version")


async def ask_commands(connection: NodeConnection, version: str) -> CommandTable:
    """The node's command table. Raises NodeUnavailable, ErrorReply, and ValueError for a reply that is no table."""
    return CommandTable.from_reply(await connection.command("COMMAND"), version)


async def ask_aside(
    request: bytes, protocol: int, address: Address, credentials: Credentials, address_map: AddressMap, within: float
) -> bytes:
    """The reply frame, in the RESP version `protocol`, to a request on a connection of its own.

    An error that says so where there is none in time.
    """
    node = f"node {address[0]}:{address[1]}"
    try:
        with trio.fail_after(within):
            async with await connect(address_map.apply(address), credentials) as connection:
                if protocol != 2:
                    await connection.command("HELLO", protocol)
                return await connection.exchange(request)
    except (NodeUnavailable, ErrorReply) as problem:
        return error(f"ERR slotproxy: no answer: {node}: {problem}")
    except trio.TooSlowError:
        return error(f"ERR slotproxy: no answer: {node}: nothing came within {within:g} s (--park-timeout)")
