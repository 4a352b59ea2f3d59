"""Connecting the data plane's streams to nodes: dial, log in, fence, hand over.

Duty: for each stream that asks, connect to its node's present address until it succeeds or the stream is retired, and
prepare the connection so that nothing sent on it can be overtaken by what the lost one left behind. An identity that
ACLs deny MULTI is found out here, before a block's commands could run one by one.

A connection for a client's identity is greeted as the proxy's own user and then logs in as the client's.

The fence (design, ordering contract): commands in a dead connection's socket buffer can still run at the node after
newer ones on a new connection. So the lost connection is killed by its CLIENT ID before the stream is ready. Ids start
anew with each server process, hence the run_id: a restarted server has no old commands, and the id may be another's.
Best effort where ACLs deny CLIENT ID, CLIENT KILL or INFO: said once per stream in the log.
"""

import logging
import random
from typing import Protocol

import trio

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import AddressMap
from slotproxy.control.connection import Credentials, ErrorReply, LoginRefused, NodeConnection, NodeUnavailable, connect
from slotproxy.dataplane.nodestreams import REFUSES, Greeting, Identity, NodeStream
from slotproxy.dataplane.plane import Plane
from slotproxy.dataplane.transport import Transport

_log = logging.getLogger("slotproxy.nodes")

_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 2.0


class Clients(Protocol):
    """The identities of clients."""

    def credentials(self, identity: Identity) -> Credentials | None:
        """How to log in as one; None: nobody does any more."""

    def refused(self) -> None:
        """A node does not accept one's credentials."""


async def open_stream(
    stream: NodeStream,
    plane: Plane,
    own: Credentials,
    address_map: AddressMap,
    connect_timeout: float,
    clients: Clients | None = None,
) -> None:
    """Connect `stream`, however long it takes; returns when it is attached, or retired.

    `own`: the proxy's credentials; `clients` has those of the other identities.
    """
    backoff = _BACKOFF_FIRST
    while not stream.retired:
        address = address_map.apply((stream.node.info.host, stream.node.info.port))
        try:
            with trio.fail_after(connect_timeout):
                connection = await connect(address, own)
                greeting = await _greet(connection, stream, clients)
        except (NodeUnavailable, trio.TooSlowError) as problem:
            why = str(problem) if isinstance(problem, NodeUnavailable) else f"no answer within {connect_timeout:g} s"
            if stream.why != why:
                _log.warning("cannot connect to node %s: %s", _shown(stream, address), why)
            if clients is not None and isinstance(problem, LoginRefused) and stream.key.identity.name:
                clients.refused()
            plane.unreachable(stream, why)
            if not stream.is_wanted():  # a leased one is tried once: whoever wants it may go elsewhere
                return
            await trio.sleep(backoff * (0.5 + random.random()))
            backoff = min(backoff * 2, _BACKOFF_MOST)
            continue
        if address != address_map.apply((stream.node.info.host, stream.node.info.port)):
            connection.close()  # meanwhile the node got another address; who has this one now may be another node
            continue
        plane.attach(stream, Transport(connection.detach()), greeting)
        _log.debug("connected to node %s", _shown(stream, address))
        return


async def _greet(connection: NodeConnection, stream: NodeStream, clients: Clients | None) -> Greeting:
    """Name the connection, learn its id and what its user may do, kill what the lost connection may still run.

    All but what its user may do is asked as the proxy's own user, for others may not be allowed to.
    """
    node = stream.node.name
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
        _log.warning("node %s denies CLIENT ID, no fence for lost connections: %s", node, client_id)
        client_id = 0
    elif stream.fences and not run:
        # Without the run_id the number may by now be another connection's: ids start anew with each server process.
        _log.warning("node %s denies INFO: a lost connection is not fenced", node)
    fences = dict(stream.fences)
    lost = [id for id, server_run in fences.items() if client_id and run and server_run == run]
    for killed in await connection.commands(*[("CLIENT", "KILL", "ID", id) for id in lost]):
        if isinstance(killed, ErrorReply):
            _log.warning("node %s denies CLIENT KILL: a lost connection is not fenced: %s", node, killed)
    if clients is not None and stream.key.identity.name:
        await _become(connection, clients.credentials(stream.key.identity))
    denied = await _denied(connection, stream)
    if stream.key.protocol != 2:
        (reply,) = await connection.commands(("HELLO", stream.key.protocol))
        if isinstance(reply, ErrorReply):
            connection.close()
            raise NodeUnavailable(f"the node does not speak RESP{stream.key.protocol} (HELLO): {reply}")
    prepare = stream.preparation()
    if prepare is None:
        connection.close()
        raise NodeUnavailable("the connection that hears for this one is not there yet")
    for command in prepare:
        refusal = await connection.last_command(command)
        if refusal:
            connection.close()
            raise NodeUnavailable(f"{REFUSES}{b' '.join(command[:2]).decode()}: {refusal}")
    return Greeting(int(client_id), run, denied, list(fences))


async def _become(connection: NodeConnection, credentials: Credentials | None) -> None:
    """Log in as a user of a client's. Raises LoginRefused."""
    if credentials is None:
        connection.close()
        raise NodeUnavailable("its clients have left")
    (reply,) = await connection.commands(credentials.command() or ("RESET",))
    if not isinstance(reply, ErrorReply) and credentials.command() is None:
        (reply,) = await connection.commands(("PING",))
    if isinstance(reply, ErrorReply) and str(reply).startswith(("WRONGPASS", "NOAUTH")):
        connection.close()
        raise LoginRefused(f"login refused: {reply}")
    if isinstance(reply, ErrorReply) and credentials.command() is not None:
        connection.close()
        raise NodeUnavailable(f"login not accepted: {reply}")


async def _denied(connection: NodeConnection, stream: NodeStream) -> bytes:
    """The error frame with which the node denies the connection's user MULTI; b"" when it does not.

    Then the commands of a block would run one by one. EXEC needs no look: where that is denied the block is discarded.
    """
    opened, _ = await connection.commands(("MULTI",), ("DISCARD",))
    if not isinstance(opened, ErrorReply) or not str(opened).startswith("NOPERM"):
        return b""
    if not stream.key.identity.denied:
        _log.warning("node %s denies transactions: %s", stream.node.name, opened)
    return f"-{opened}\r\n".encode()


def _shown(stream: NodeStream, address: Address) -> str:
    announced = stream.node.name
    dialled = f"{address[0]}:{address[1]}"
    return announced if announced == dialled else f"{announced} (dialled {dialled})"
