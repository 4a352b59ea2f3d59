"""What tests ask in one write, and what the scripted nodes were asked, and ran."""

from __future__ import annotations

from typing import Any

from slotproxy.cluster.topology import NodeInfo, Topology
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import pack
from tests.scripted_node import HOST, NodeLink, ScriptedNode


def send_at_once(client: ScriptedClient, *commands: str) -> None:
    """In one write."""
    client.send_bytes(b"".join(pack(*command.split()) for command in commands))


def block(*commands: str) -> bytes:
    """MULTI, the commands, EXEC."""
    return b"".join(pack(*command.split()) for command in ("MULTI", *commands, "EXEC"))


def send_block(client: ScriptedClient, *commands: str) -> None:
    client.send_bytes(block(*commands))


def ran(node: ScriptedNode) -> list[str]:
    """The commands that ran, in that order."""
    return [b" ".join(entry.words).decode() for entry in node.executed]


def step(link: NodeLink, commands: int) -> None:
    """The node executes so many commands of a connection, and sends what it answers."""
    link.receive()
    for _ in range(commands):
        link.execute()
    link.send()


def do(rig: Rig, *command: str) -> Any:
    """What somebody else is answered, who then leaves."""
    client = rig.client()
    client.send(*command)
    rig.run()
    (reply,) = client.replies
    client.vanish()
    rig.run()
    return reply


def blocked_at(rig: Rig, node: ScriptedNode, *command: str) -> ScriptedClient:
    """A client that waits at a node."""
    client = rig.client()
    client.send(*(command or ("BLPOP", "q{f}", "0")))
    rig.run()
    assert len(node.waiting) == 1
    assert client.replies == []
    return client


def outside(node: ScriptedNode, *command: str | int) -> bytes:
    """A node executes what did not come through the proxy; what it then has to say to others is not sent yet."""
    sock = node.connect()
    sock.send(pack(*command))
    link = node.links[-1]
    step(link, 1)
    reply = sock.recv(65_536)
    sock.close()
    link.receive()
    return reply


def names(node: ScriptedNode) -> list[str]:
    """The commands that came in, refused ones too."""
    return [words[0].decode() for words in node.received()]


def replica_of(rig: Rig, owners: tuple[int, int], *, failing: bool = False) -> Topology:
    """A view of three nodes: two share the slots, the third replicates the first of them, or has failed."""
    spare = ({0, 1, 2} - set(owners)).pop()
    infos = {}
    for number, node in enumerate(rig.nodes):
        primary = number != spare or failing
        replicates = "" if primary else rig.nodes[owners[0]].id
        address = frozenset({(HOST, node.port)})
        infos[node.id] = NodeInfo(node.id, HOST, node.port, primary, number == spare and failing, address, replicates)
    first, second = (rig.nodes[number].id for number in owners)
    return Topology(infos, [(0, 8191, first), (8192, 16383, second)], {}, "test")


def rig_with_replica(make_rig: MakeRig) -> Rig:
    """A and B share the slots, C replicates A."""
    rig = make_rig(3, owning=2)
    rig.refresh(topology=replica_of(rig, (0, 1)))
    rig.run()
    return rig


def take_over(rig: Rig, *, killed: bool = False) -> None:
    """C has A's place; A replicates it, or is dead."""
    rig.refresh(topology=replica_of(rig, (2, 1), failing=killed))
