"""How each command of the table is treated: the one list that routing and the README's table are made from.

Duty: name the treatment of a command from what the server says of it (keys, flags, request policy), and by hand only
where those say nothing or mislead. What is then done with a call is `decisions`' part.

Invariants: every command of any table has exactly one treatment; a command that nobody has heard of (a module's) gets
one from its entry alone.
"""

from typing import Final

from slotproxy.protocol.commands import Command
from slotproxy.protocol.splitting import SPLITTABLE

ROUTED: Final = "routed"  # to the owner of its keys' slot
SPLIT: Final = "split"  # routed, and cut per slot where the keys lie in several
PRIMARIES: Final = "all primaries"  # replies merged into one
NODES: Final = "all nodes"  # the same, replicas included
ONE_NODE: Final = "one node"  # the client's own, while it lives
PROXY: Final = "proxy"  # answered without a node
BLOCKING: Final = "blocking"  # may wait at a node
TRANSACTION: Final = "transaction"
REPLICAS: Final = "replicas"  # waits for them, at all primaries
SUBSCRIPTION: Final = "subscription"
PRIVATE: Final = "private"  # needs connections that the client has for itself
REFUSED: Final = "refused"  # would act on one node behind the cluster's back

MEANINGS: Final[dict[str, str]] = {
    ROUTED: "to the node that owns the slot of its keys; scripts and functions without keys as one node; "
    "XREAD and XREADGROUP with BLOCK as blocking",
    SPLIT: "like routed; keys of several slots: in parts, one per slot, merged",
    PRIMARIES: "to every primary, replies merged into one",
    NODES: "to every primary and replica, replies merged into one",
    ONE_NODE: "has no key: to one primary, for one client always the same while it lives",
    PROXY: "answered by slotproxy, about its own clients or as a server without cluster support",
    BLOCKING: "on a connection of its own to the node of its keys' slot; keys of several slots, and those of a slot "
    "in trouble: tried one after another whenever something arrives",
    TRANSACTION: "held by slotproxy from MULTI on, sent as one block at EXEC; WATCH on a connection of its own",
    REPLICAS: "to every primary on connections of its own; the least number is the reply",
    SUBSCRIPTION: "by slotproxy: a few connections to nodes serve all subscribers",
    PRIVATE: "by slotproxy; gives the client connections of its own to the nodes (see Client-side caching and MONITOR)",
    REFUSED: "refused by name, unless `--allow-admin` opens it",
}

#: What `--allow-admin` opens, and how it is treated then.
ADMIN: Final[dict[str, str]] = {
    "save": PRIMARIES,
    "bgsave": PRIMARIES,
    "bgrewriteaof": PRIMARIES,
    "module|load": NODES,
    "module|loadex": NODES,
    "module|unload": NODES,
}

#: Containers whose subcommands are all treated alike.
_CONTAINERS: Final[dict[str, str]] = {"client": PROXY, "pubsub": PRIMARIES}
_HELP: Final = "|help"  # the servers' own texts

_BY_HAND: Final[dict[str, str]] = {
    # The connection is the proxy's.
    **dict.fromkeys(["ping", "echo", "quit", "select", "hello", "auth", "reset"], PROXY),
    # A server without cluster support knows nothing of these.
    **dict.fromkeys(["asking", "readonly", "readwrite"], PROXY),
    # 7.0 gives no request policy for what has to reach every node, because replicas get no copy of it.
    **dict.fromkeys(["acl|setuser", "acl|deluser", "acl|load", "acl|save", "acl|log"], NODES),
    **dict.fromkeys(["config|resetstat", "config|rewrite"], NODES),
    # Nor for these.
    **dict.fromkeys(["function|list", "function|dump", "lastsave", "module|list"], PRIMARIES),
    # The policy says all nodes; what the proxy's clients did stands in the primaries' logs.
    **dict.fromkeys(["slowlog|get", "slowlog|len", "latency|doctor", "latency|graph", "latency|histogram"], PRIMARIES),
    **dict.fromkeys(["latency|history", "latency|latest"], PRIMARIES),
    # The proxy supplies scripts to a replica that takes over, and does not wait for one that is away.
    **dict.fromkeys(["script|load", "script|flush"], PRIMARIES),
    **dict.fromkeys(["wait", "waitaof"], REPLICAS),
    **dict.fromkeys(["multi", "exec", "discard", "watch", "unwatch"], TRANSACTION),
    **dict.fromkeys(["client|tracking", "client|caching", "client|no-touch", "monitor"], PRIVATE),
    **dict.fromkeys(["subscribe", "psubscribe", "ssubscribe"], SUBSCRIPTION),
    **dict.fromkeys(["unsubscribe", "punsubscribe", "sunsubscribe"], SUBSCRIPTION),
    **dict.fromkeys(["debug", "script|debug", "shutdown", "failover", "replicaof", "slaveof"], REFUSED),
    **dict.fromkeys(["sync", "psync", "replconf", "migrate", "restore-asking"], REFUSED),
}


def treatment_of(command: Command, allow_admin: bool = False) -> str:
    """The treatment of a command or subcommand (of a container: that of a call without a known subcommand)."""
    name = command.name
    if name in ADMIN:
        return ADMIN[name] if allow_admin else REFUSED
    container = name.partition("|")[0]
    if container == "cluster":
        return PROXY  # its HELP, too: a server without cluster support refuses it
    by_hand = _BY_HAND.get(name)
    if by_hand is None and not name.endswith(_HELP) and (not command.subcommands or container == "client"):
        by_hand = _CONTAINERS.get(container)
    if by_hand is not None:
        return by_hand
    if name in SPLITTABLE:
        return SPLIT
    if command.finder is not None:  # before 7.0 also a container's
        # XREAD and XREADGROUP block only when they are told to.
        blocks = "blocking" in command.flags and name not in ("xread", "xreadgroup")
        return BLOCKING if blocks else ROUTED
    if command.subcommands:
        return ONE_NODE
    if command.request_policy == "all_nodes":
        return NODES
    if command.request_policy in ("all_shards", "special"):
        return PRIMARIES
    return ONE_NODE
