"""One command, asked of several nodes: the reply that one server, holding everything, would have given.

Duty: merge whole raw reply frames by the command table's response policy, or by hand where the policy is `special`,
missing or misleading. What failed on some nodes is never shown as a whole reply: the error says where, and where it did
happen. One reply alone is passed on as it is.

Invariants: linear in the bytes of the replies (times log for what is sorted); elements are raw slices. It must not know
which nodes are asked, nor when.

Source: `response_policy` tips, redis.io/docs/reference/command-tips (7.0).
"""

from collections.abc import Callable
from typing import Final

from slotproxy.protocol.monitoring_replies import (
    acl_log,
    latency_histogram,
    latency_history,
    latency_latest,
    memory_stats,
    slowlog_get,
    texts,
)
from slotproxy.protocol.nodereplies import (
    NodeReply,
    UnexpectedReply,
    is_aggregate,
    is_error,
    merged_numbers,
    total,
)
from slotproxy.protocol.replies import aggregate, is_null
from slotproxy.protocol.resp import bulk, error, integer

_OURS: Final = "ERR slotproxy: "
_ERRORS_SHOWN: Final = 3  # nodes whose error is quoted; the others are counted
_NODES_SHOWN: Final = 8  # nodes named where it succeeded
_TEXT_SHOWN: Final = 200  # characters of a quoted error

_NO_SAMPLES: Final = b"-ERR No samples available"  # LATENCY GRAPH of an event that the node has not seen
_NOT_BUSY: Final = b"-NOTBUSY"
_RUNNING: Final = bulk(b"running_script")
_ENGINES: Final = bulk(b"engines")


def merge_over_nodes(
    name: str, response_policy: str, arguments: list[bytes], nodes: list[str], replies: list[bytes]
) -> bytes:
    """The one reply to the keyless command `name` ("dbsize", "slowlog|get").

    `response_policy`: the table's tip, "" for none. `arguments`: all of the command, its name first. `nodes`
    ("host:port") and `replies` (whole frames) belong together in order, the client's own node first; at least one.
    A reply that the command cannot have becomes an error that names the node; nothing is raised.
    """
    if len(replies) == 1:
        return replies[0]
    if response_policy == "one_succeeded":
        return _one_succeeded(replies)
    if name == "latency|graph":
        nodes, replies = _with_samples(nodes, replies)
    failed = [at for at, reply in enumerate(replies) if is_error(reply)]
    if failed:
        if len(failed) == len(replies) and len(set(replies)) == 1:
            return replies[0]
        return _incomplete(name, nodes, replies, failed)
    merging = _BY_HAND.get(name) or _BY_POLICY.get(response_policy)
    if merging is None:
        return error(_OURS + _shown(name) + " over several nodes is not supported")
    try:
        return merging([NodeReply(node, reply) for node, reply in zip(nodes, replies, strict=True)], arguments)
    except UnexpectedReply as unexpected:
        return error(_OURS + _shown(name) + ": " + str(unexpected))


def _shown(name: str) -> str:
    return name.upper().replace("|", " ")


# ---- errors


def _one_succeeded(replies: list[bytes]) -> bytes:
    """The first success, else the first error that is more than "nothing to kill here"."""
    telling = b""
    for reply in replies:
        if not is_error(reply):
            return reply
        if not telling and not reply.startswith(_NOT_BUSY):
            telling = reply
    return telling or replies[0]


def _with_samples(nodes: list[str], replies: list[bytes]) -> tuple[list[str], list[bytes]]:
    kept = [at for at, reply in enumerate(replies) if not reply.startswith(_NO_SAMPLES)]
    if not kept:
        return nodes, replies
    return [nodes[at] for at in kept], [replies[at] for at in kept]


def _incomplete(name: str, nodes: list[str], replies: list[bytes], failed: list[int]) -> bytes:
    parts = ["on node " + nodes[at] + " (" + _text_of(replies[at]) + ")" for at in failed[:_ERRORS_SHOWN]]
    if len(failed) > _ERRORS_SHOWN:
        parts.append("on " + str(len(failed) - _ERRORS_SHOWN) + " more")
    text = _OURS + "incomplete: " + _shown(name) + " failed " + "; ".join(parts) + "; it succeeded on "
    done = [node for node, reply in zip(nodes, replies, strict=True) if not is_error(reply)]
    if not done:
        return error(text + "no other node")
    text += ("node " if len(done) == 1 else "nodes ") + ", ".join(done[:_NODES_SHOWN])
    if len(done) > _NODES_SHOWN:
        text += " and " + str(len(done) - _NODES_SHOWN) + " more"
    return error(text)


def _text_of(frame: bytes) -> str:
    """An error's text, cut to what a message that quotes several can hold; ours without the prefix."""
    body = frame[1:].partition(b"\r\n")[2] if frame[:1] == b"!" else frame[1:]
    text = body.removesuffix(b"\r\n").decode("utf-8", "backslashreplace").removeprefix(_OURS)
    return text if len(text) <= _TEXT_SHOWN else text[:_TEXT_SHOWN] + "…"


# ---- by policy


def _sum(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _combined(replies, total)


def _minimum(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _combined(replies, _least)


def _maximum(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _combined(replies, _greatest)


def _logical_and(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _combined(replies, _all_true)


def _logical_or(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _combined(replies, _any_true)


def _least(numbers: list[int]) -> bytes:
    return integer(min(numbers))


def _greatest(numbers: list[int]) -> bytes:
    return integer(max(numbers))


def _all_true(numbers: list[int]) -> bytes:
    return integer(int(all(numbers)))


def _any_true(numbers: list[int]) -> bytes:
    return integer(int(any(numbers)))


def _combined(replies: list[NodeReply], combine: Callable[[list[int]], bytes]) -> bytes:
    """Of integers one integer; of arrays of integers (SCRIPT EXISTS) an array, element by element."""
    if not is_aggregate(replies[0].frame):
        return combine([reply.number(reply.frame) for reply in replies])
    columns: list[list[int]] = [[] for _ in replies[0].items(replies[0].frame)]
    for reply in replies:
        row = reply.items(reply.frame)
        if len(row) != len(columns):
            raise reply.unexpected()
        for column, frame in zip(columns, row, strict=True):
            column.append(reply.number(frame))
    return aggregate(replies[0].frame, [combine(column) for column in columns])


def _all_succeeded(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """The first reply; of counts that differ (ACL DELUSER) the largest: that much was there to be done."""
    if replies[0].frame[:1] != b":":
        return replies[0].frame
    return _maximum(replies, arguments)


def _union(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """Elements of arrays and sets, each once (a key that is being migrated is on two nodes); of maps the fields.

    Null counts as empty; where the first reply is neither, the first reply.
    """
    first = replies[0].frame
    for reply in replies:
        if is_aggregate(reply.frame):
            first = reply.frame
            break
    if not is_aggregate(first):
        return first
    having = [reply for reply in replies if not is_null(reply.frame)]
    if first[:1] == b"%":
        fields: dict[bytes, bytes] = {}
        for reply in having:
            for field, value in reply.fields(reply.frame).items():
                fields.setdefault(field, value)
        return aggregate(first, [frame for pair in fields.items() for frame in pair])
    elements: dict[bytes, None] = {}
    for reply in having:
        elements.update(dict.fromkeys(reply.items(reply.frame)))
    return aggregate(first, list(elements))


# ---- by hand


def _subscribers(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """PUBSUB NUMSUB: channel and count for each argument in turn, an argument named twice included."""
    names = replies[0].items(replies[0].frame)[::2]
    counts: list[list[int]] = [[] for _ in names]
    for reply in replies:
        items = reply.items(reply.frame)
        if len(items) % 2 or items[::2] != names:
            raise reply.unexpected()
        for count, frame in zip(counts, items[1::2], strict=True):
            count.append(reply.number(frame))
    merged: list[bytes] = []
    for name, count in zip(names, counts, strict=True):
        merged += [name, total(count)]
    return aggregate(replies[0].frame, merged)


def _libraries(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _once_by(bulk(b"library_name"), replies)


def _modules(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    return _once_by(bulk(b"name"), replies)


def _once_by(field: bytes, replies: list[NodeReply]) -> bytes:
    """The entries of all nodes; of those with the same value in `field`, the first."""
    entries: dict[bytes, bytes] = {}
    for reply in replies:
        for entry in reply.items(reply.frame):
            entries.setdefault(reply.field(entry, field), entry)
    return aggregate(replies[0].frame, list(entries.values()))


def _longest(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """FUNCTION DUMP: the node that has the most; libraries are the same on all but for a LOAD under way."""
    longest = replies[0].frame
    for reply in replies:
        reply.data(reply.frame)
        if len(reply.frame) > len(longest):
            longest = reply.frame
    return longest


def _function_stats(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """`running_script` of the first node that runs one, else null; per engine the greatest of the counts."""
    running = replies[0].field(replies[0].frame, _RUNNING)
    owners: dict[bytes, list[NodeReply]] = {}
    counts: dict[bytes, list[bytes]] = {}
    for reply in replies:
        script = reply.field(reply.frame, _RUNNING)
        if is_null(running):
            running = script
        for engine, frame in reply.fields(reply.field(reply.frame, _ENGINES)).items():
            owners.setdefault(engine, []).append(reply)
            counts.setdefault(engine, []).append(frame)
    engines: list[bytes] = []
    for engine, frames in counts.items():
        engines += [engine, merged_numbers(owners[engine], frames, True)]
    like = replies[0].frame
    return aggregate(like, [_RUNNING, running, _ENGINES, aggregate(like, engines)])


_Merging = Callable[[list[NodeReply], list[bytes]], bytes]

_BY_POLICY: Final[dict[str, _Merging]] = {
    "": _union,
    "agg_sum": _sum,
    "agg_min": _minimum,
    "agg_max": _maximum,
    "agg_logical_and": _logical_and,
    "agg_logical_or": _logical_or,
    "all_succeeded": _all_succeeded,
}
_BY_HAND: Final[dict[str, _Merging]] = {
    "acl|deluser": _all_succeeded,  # has no policy in the table
    "acl|log": acl_log,
    "function|dump": _longest,
    "function|list": _libraries,
    "function|stats": _function_stats,
    "lastsave": _minimum,
    "latency|doctor": texts,
    "latency|graph": texts,
    "latency|histogram": latency_histogram,
    "latency|history": latency_history,
    "latency|latest": latency_latest,
    "latency|reset": _sum,
    "memory|doctor": texts,
    "memory|malloc-stats": texts,
    "memory|stats": memory_stats,
    "module|list": _modules,
    "pubsub|channels": _union,
    "pubsub|numpat": _sum,
    "pubsub|numsub": _subscribers,
    "pubsub|shardchannels": _union,
    "pubsub|shardnumsub": _subscribers,
    "slowlog|get": slowlog_get,
}
#: The commands whose replies are merged here by what they mean, whatever policy the table gives.
MERGED_BY_HAND: Final = frozenset(_BY_HAND)
