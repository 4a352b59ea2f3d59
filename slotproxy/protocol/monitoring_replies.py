"""What several nodes say about themselves (SLOWLOG, LATENCY, MEMORY, ACL LOG), as one server would say it.

Duty: one function per command, from the nodes' replies (none an error, the client's own node first) and the arguments
to the merged frame. All raise UnexpectedReply. Shapes as 6.2.14 and 7.0.15 give them; a field that a later version adds
passes.
"""

from binascii import crc32
from typing import Final

from slotproxy.protocol.nodereplies import NodeReply, is_aggregate, merged_numbers, total
from slotproxy.protocol.replies import aggregate
from slotproxy.protocol.resp import array, bulk, integer, verbatim

#: A merged entry's id is the node's own id times this, plus the node's mark. Ids below 2**31 stay below 2**53.
MARKS: Final = 2**22
_DEFAULT_COUNT: Final = 10  # of SLOWLOG GET and ACL LOG

_AGE: Final = bulk(b"age-seconds")
_CALLS: Final = bulk(b"calls")
_HISTOGRAM: Final = bulk(b"histogram_usec")

#: How a node begins to say that it has nothing to say.
_NOTHING_TO_SAY: Final = (
    b"Dave, no latency spike was observed",
    b"Hi Sam, this instance is empty or is using very little memory",
    b"Hi Sam, I can't find any memory issue",
)


def slowlog_get(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """Newest first, by time and then by id, as many as were asked for; a negative count is all (6.2: any).

    Ids count per node, so merged ones are `id * MARKS + mark`, with the mark a hash of the node's address: unique, and
    the same at every call and for every client as long as the nodes are the same (nodes whose hashes collide are told
    apart by the order of their names).
    """
    marks = node_marks([reply.node for reply in replies])
    entries: list[tuple[int, int, bytes]] = []
    for reply in replies:
        for frame in reply.items(reply.frame):
            fields = reply.items(frame)
            if len(fields) < 2:
                raise reply.unexpected()
            number = reply.number(fields[0])
            if number < 0 or number >= 2**63 // MARKS:
                raise reply.unexpected()
            number = number * MARKS + marks[reply.node]
            fields[0] = integer(number)
            entries.append((reply.number(fields[1]), number, aggregate(frame, fields)))
    entries.sort(reverse=True)
    count = _count(arguments)
    frames = [entry[2] for entry in entries]
    return array(frames if count < 0 else frames[:count])


def node_marks(nodes: list[str]) -> dict[str, int]:
    """A number below MARKS for each node, different ones, whatever the order of `nodes`."""
    marks: dict[str, int] = {}
    taken: set[int] = set()
    for node in sorted(set(nodes)):
        mark = crc32(node.encode("utf-8", "backslashreplace")) % MARKS
        while mark in taken:
            mark = (mark + 1) % MARKS
        taken.add(mark)
        marks[node] = mark
    return marks


def _count(arguments: list[bytes]) -> int:
    if len(arguments) < 3:
        return _DEFAULT_COUNT
    try:
        return int(arguments[2])
    except ValueError:  # no node accepted that
        return _DEFAULT_COUNT


def acl_log(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """ACL LOG: youngest first, as many as were asked for (none of a negative count); ACL LOG RESET: the first reply."""
    if not is_aggregate(replies[0].frame):
        return replies[0].frame
    entries: list[tuple[float, int, bytes]] = []
    for reply in replies:
        for frame in reply.items(reply.frame):
            entries.append((reply.real(reply.field(frame, _AGE)), len(entries), frame))
    entries.sort()
    return array([entry[2] for entry in entries[: max(0, _count(arguments))]])


def latency_latest(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """One row per event: name, time of its latest spike on any node, that spike's latency, the greatest of all (ms)."""
    latest: dict[bytes, tuple[int, int]] = {}
    greatest: dict[bytes, int] = {}
    rows: dict[bytes, list[bytes]] = {}
    for reply in replies:
        for frame in reply.items(reply.frame):
            row = reply.items(frame)
            if len(row) < 4:
                raise reply.unexpected()
            event = row[0]
            spike = (reply.number(row[1]), reply.number(row[2]))
            greatest[event] = max(greatest.get(event, 0), reply.number(row[3]))
            if event not in latest or spike > latest[event]:
                latest[event] = spike
                rows[event] = row
    return array([array([*row[:3], integer(greatest[event]), *row[4:]]) for event, row in rows.items()])


def latency_history(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """Time and latency of each sample by time; one per second, the greatest, as a server itself keeps them.

    A server remembers 160 samples per event; those of several nodes are all shown.
    """
    greatest: dict[int, int] = {}
    for reply in replies:
        for frame in reply.items(reply.frame):
            row = reply.items(frame)
            if len(row) != 2:
                raise reply.unexpected()
            when = reply.number(row[0])
            greatest[when] = max(greatest.get(when, 0), reply.number(row[1]))
    return array([array([integer(when), integer(greatest[when])]) for when in sorted(greatest)])


def latency_histogram(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """Per command: `calls` added up, and `histogram_usec`, whose counts are cumulative: bound (µs), calls up to it.

    Nodes have different bounds (each its own greatest value), so the calls between two bounds are added up and
    then counted through again.
    """
    calls: dict[bytes, list[int]] = {}
    between: dict[bytes, dict[int, int]] = {}
    shape = b""
    for reply in replies:
        for command, frame in reply.fields(reply.frame).items():
            fields = reply.fields(frame)
            if _CALLS not in fields or _HISTOGRAM not in fields:
                raise reply.unexpected()
            shape = shape or frame
            calls.setdefault(command, []).append(reply.number(fields[_CALLS]))
            added = between.setdefault(command, {})
            before = 0
            for bound, upto in reply.fields(fields[_HISTOGRAM]).items():
                count = reply.number(upto)
                at = reply.number(bound)
                added[at] = added.get(at, 0) + count - before
                before = count
    items: list[bytes] = []
    for command, added in between.items():
        buckets: list[bytes] = []
        count = 0
        for at in sorted(added):
            count += added[at]
            buckets += [integer(at), integer(count)]
        items.append(command)
        items.append(aggregate(shape, [_CALLS, total(calls[command]), _HISTOGRAM, aggregate(shape, buckets)]))
    return aggregate(replies[0].frame, items)


def texts(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """LATENCY GRAPH, LATENCY DOCTOR, MEMORY DOCTOR, MEMORY MALLOC-STATS: each node's text under a line with its name.

    Just the text where all nodes say the same, or only one has anything to report.
    """
    by_node: list[tuple[str, bytes]] = []
    for reply in replies:
        by_node.append((reply.node, reply.data(reply.frame)))
    different = len({text for _, text in by_node}) > 1
    if different:
        by_node = [said for said in by_node if not said[1].startswith(_NOTHING_TO_SAY)] or by_node[:1]
    if not different or len(by_node) == 1:
        return _text(replies[0].frame, by_node[0][1])
    parts: list[bytes] = []
    for node, text in by_node:
        parts.append(b"# " + node.encode("utf-8", "backslashreplace") + b"\n" + text.rstrip(b"\n") + b"\n")
    return _text(replies[0].frame, b"\n".join(parts))


def _text(like: bytes, text: bytes) -> bytes:
    return verbatim(3 if like[:1] == b"=" else 2, text)


def memory_stats(replies: list[NodeReply], arguments: list[bytes]) -> bytes:
    """Counts and bytes added up, also those of `db.0`; ratios and percentages computed from the sums.

    Fields stand in the order of the node that has most of them: `db.0` is missing where there is no key. The peak is
    the sum of the nodes' peaks, which need not have been at one time. A ratio that is not known here: the greatest.
    """
    every: list[dict[bytes, bytes]] = []
    longest: dict[bytes, bytes] = {}
    for reply in replies:
        found = reply.fields(reply.frame)
        every.append(found)
        if len(found) > len(longest):
            longest = found
    names = dict.fromkeys(longest)
    for found in every:
        names.update(dict.fromkeys(found))
    sums: dict[bytes, int] = {}
    merged: dict[bytes, bytes] = {}
    for name in names:
        having = [at for at in range(len(every)) if name in every[at]]
        nodes = [replies[at] for at in having]
        frames = [every[at][name] for at in having]
        if is_aggregate(frames[0]):
            merged[name] = merged_numbers(nodes, frames, False)
        elif frames[0][:1] == b":":
            numbers = [node.number(frame) for node, frame in zip(nodes, frames, strict=True)]
            sums[name] = sum(numbers)
            merged[name] = total(numbers)
        else:
            greatest = max([node.real(frame) for node, frame in zip(nodes, frames, strict=True)])
            merged[name] = _real(frames[0], greatest)
    _recompute(sums, merged)
    items: list[bytes] = []
    for name, frame in merged.items():
        items += [name, frame]
    return aggregate(replies[0].frame, items)


def _recompute(sums: dict[bytes, int], merged: dict[bytes, bytes]) -> None:
    """Put ratios of sums in the place of the greatest ratios, as getMemoryOverheadData (object.c, 7.0) does."""
    used = _sum(sums, b"total.allocated")
    net = max(1, used - _sum(sums, b"startup.allocated"))
    allocated = _sum(sums, b"allocator.allocated")
    active = _sum(sums, b"allocator.active")
    resident = _sum(sums, b"allocator.resident")
    process = resident + _sum(sums, b"rss-overhead.bytes")
    _ratio(merged, b"dataset.percentage", 100 * _sum(sums, b"dataset.bytes"), net)
    _ratio(merged, b"peak.percentage", 100 * used, _sum(sums, b"peak.allocated"))
    _ratio(merged, b"allocator-fragmentation.ratio", active, allocated)
    _ratio(merged, b"allocator-rss.ratio", resident, active)
    _ratio(merged, b"rss-overhead.ratio", process, resident)
    # What the server holds against `process` here is a sample of its memory, which stands in no other field.
    _ratio(merged, b"fragmentation", process, process - _sum(sums, b"fragmentation.bytes"))
    each = bulk(b"keys.bytes-per-key")
    if each in sums:
        keys = _sum(sums, b"keys.count")
        merged[each] = integer(net // keys if keys > 0 else 0)


def _sum(sums: dict[bytes, int], name: bytes) -> int:
    return sums.get(bulk(name), 0)


def _ratio(merged: dict[bytes, bytes], name: bytes, above: int, below: int) -> None:
    frame = bulk(name)
    if frame in merged and above > 0 and below > 0:
        merged[frame] = _real(merged[frame], above / below)


def _real(like: bytes, value: float) -> bytes:
    text = format(value, ".17g").encode()
    return b"," + text + b"\r\n" if like[:1] == b"," else bulk(text)
