"""Publish/subscribe of scripted nodes: who has subscribed at which, and what they are told (pubsub.c, 7.0.15).

What is published reaches every node of the cluster at once; on a shard channel only the node that owns its slot.
Subscribers speak RESP3. Of patterns only a `*` at the end means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.scripted_frames import bulk

if TYPE_CHECKING:
    from tests.scripted_node import NodeLink, ScriptedNode

SHARDED: Final = {b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"SPUBLISH"}
COMMANDS: Final = SHARDED | {b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"PUBLISH"}


def run(link: NodeLink, name: bytes, words: list[bytes]) -> bytes:
    """One of COMMANDS; what it says to the connection on which it came."""
    if name in (b"PUBLISH", b"SPUBLISH"):
        nodes = [link.node] if name == b"SPUBLISH" else link.node.cluster.nodes
        counts = {node.name: tell(node, words[1], words[2], sharded=name == b"SPUBLISH") for node in nodes}
        return b":%d\r\n" % counts[link.node.name]
    kind = name[: name.index(b"SUB")].removesuffix(b"UN")
    reply = b""
    for topic in words[1:]:
        link.topics.pop((kind, topic), None)
        if b"UNSUB" not in name:
            link.topics[kind, topic] = None
        reply += _push(name.lower(), topic, _count(link, kind))
    return reply


def tell(node: ScriptedNode, channel: bytes, text: bytes, *, sharded: bool = False) -> int:
    """A message to the subscribers of one node; how many got it."""
    count = 0
    for link in node.open_links():
        for kind, name in link.topics:
            if kind == b"P" and not sharded:
                alike = channel.startswith(name[:-1]) if name.endswith(b"*") else channel == name
                told = _push(b"pmessage", name, channel, text) if alike else b""
            else:
                alike = name == channel and (kind == b"S") == sharded
                told = _push(b"smessage" if sharded else b"message", channel, text) if alike else b""
            link.outbox += told
            count += bool(told)
    return count


def take_away(node: ScriptedNode, gone: Callable[[bytes], bool]) -> None:
    """The node does not own the slot of these shard channels any more: their subscribers are told so."""
    for link in node.open_links():
        for kind, name in [topic for topic in link.topics if topic[0] == b"S" and gone(topic[1])]:
            del link.topics[kind, name]
            link.outbox += _push(b"sunsubscribe", name, _count(link, kind))


def _count(link: NodeLink, kind: bytes) -> int:
    return sum((other == b"S") == (kind == b"S") for other, _ in link.topics)


def _push(*parts: bytes | int) -> bytes:
    frames = [b":%d\r\n" % part if isinstance(part, int) else bulk(part) for part in parts]
    return b">%d\r\n" % len(parts) + b"".join(frames)
