"""Publish/subscribe on the wire: confirmations, messages, patterns, and what counts as a subscriber.

Duty: write what a server confirms, read what a node pushes, and say which channels a pattern means. Who has subscribed
to what is not known here.

Source: pubsub.c and util.c (stringmatchlen), Redis 7.0.15; RESP3 pushes differ from RESP2's arrays in the first byte.
"""

from typing import Final

from mypy_extensions import i64

from slotproxy.protocol.decisions import error_of_bytes
from slotproxy.protocol.frames import read_length
from slotproxy.protocol.resp import bulk, integer, null


class Kind:
    """What can be subscribed to: channels, patterns of channels, shard channels.

    `message`: the first word of what a node pushes for it.
    """

    def __init__(self, index: int, letter: str, message: bytes) -> None:
        self.index: Final = index
        self.subscribe: Final = letter.encode() + b"subscribe"
        self.unsubscribe: Final = letter.encode() + b"unsubscribe"
        self.message: Final = message


CHANNELS: Final = Kind(0, "", b"message")
PATTERNS: Final = Kind(1, "p", b"pmessage")
SHARDS: Final = Kind(2, "s", b"smessage")
KINDS: Final = (CHANNELS, PATTERNS, SHARDS)
SUBSCRIBING: Final[dict[str, Kind]] = {kind.subscribe.decode(): kind for kind in KINDS}
UNSUBSCRIBING: Final[dict[str, Kind]] = {kind.unsubscribe.decode(): kind for kind in KINDS}
#: What a RESP2 client that has subscribed may still say.
ALLOWED: Final = frozenset([*SUBSCRIBING, *UNSUBSCRIBING, "ping", "quit", "reset"])
#: How the channels begin on which each node tells of its own keys only (notify.c).
_NODE_LOCAL: Final = (b"__keyspace@", b"__keyevent@")


class Push:
    """Something that a node has pushed: its first word, and the names behind it (at most two)."""

    def __init__(self, word: bytes, names: list[bytes]) -> None:
        self.word: Final = word
        self.names: Final = names


def read_push(frame: bytes) -> Push:
    """Read a push's strings up to the first thing that is none; a message's text is not looked at.

    Of `message` and `smessage` the name is the channel, of `pmessage` the names are the pattern and the channel.
    """
    size: i64 = len(frame)
    words: list[bytes] = []
    wanted: i64 = 3
    _, pos = read_length(frame, 1, size)
    while pos > 0 and len(words) < wanted and pos < size and frame[pos] == 0x24:
        length, start = read_length(frame, pos + 1, size)
        if start < 0 or length < 0:
            break
        words.append(frame[start : start + length])
        pos = start + length + 2
        if len(words) == 1 and words[0] != PATTERNS.message:
            wanted = 2
    return Push(words[0] if words else b"", words[1:])


def as_array(push: bytes) -> bytes:
    """A push as RESP2 has it."""
    return b"*" + push[1:]


def confirmation(protocol: int, word: bytes, name: bytes | None, count: int) -> bytes:
    """What a server answers to (un)subscribing to one name; `name` None: there was none to unsubscribe from."""
    named = null(protocol) if name is None else bulk(name)
    return (b">3\r\n" if protocol == 3 else b"*3\r\n") + bulk(word) + named + integer(count)


def pong(text: bytes) -> bytes:
    """PING's answer to a RESP2 client that has subscribed."""
    return b"*2\r\n$4\r\npong\r\n" + bulk(text)


def not_while_subscribed(name: str) -> bytes:
    """The refusal of anything else that such a client says."""
    return error_of_bytes(
        b"ERR Can't execute '" + name.encode() + b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
        b" are allowed in this context"
    )


def is_node_local(channel: bytes) -> bool:
    """Whether it is a channel on which each node tells of its own keys only."""
    return channel.startswith(_NODE_LOCAL[0]) or channel.startswith(_NODE_LOCAL[1])


def is_everywhere(kind: Kind, name: bytes) -> bool:
    """Whether subscribing to it at one node would miss what other nodes tell of their keys."""
    if kind is CHANNELS:
        return is_node_local(name)
    return kind is PATTERNS and any([_may_begin(name, prefix) for prefix in _NODE_LOCAL])


def matches(pattern: bytes, text: bytes) -> bool:
    """Whether a pattern means a channel: `*`, `?`, `[a-z]`, `[^a]` and backslash, as Redis takes them.

    No pattern but the empty one means the empty name.
    """
    if not text:
        return not pattern
    at: i64 = 0
    pos: i64 = 0
    star: i64 = -1  # behind the last `*`, and the text that it has taken so far
    taken: i64 = 0
    end: i64 = len(pattern)
    size: i64 = len(text)
    while pos < size:
        after: i64 = -1
        if at < end:
            if pattern[at] == 0x2A:
                at += 1
                star, taken = at, pos
                continue
            after = _match_one(pattern, at, text[pos])
        if after >= 0:
            at = after
            pos += 1
        elif star >= 0:
            taken += 1
            at, pos = star, taken
        else:
            return False
    while at < end and pattern[at] == 0x2A:
        at += 1
    return at == end


def _may_begin(pattern: bytes, prefix: bytes) -> bool:
    """Whether the pattern means some text that begins with `prefix`."""
    at: i64 = 0
    for byte in prefix:
        if at >= len(pattern):
            return False
        if pattern[at] == 0x2A:
            return True
        at = _match_one(pattern, at, byte)
        if at < 0:
            return False
    return True


def _match_one(pattern: bytes, at: i64, byte: i64) -> i64:
    """The place behind what stands at `at` (no `*`), if it means this byte; else -1."""
    end: i64 = len(pattern)
    here: i64 = pattern[at]
    if here == 0x3F:  # '?'
        return at + 1
    if here == 0x5B:  # '['
        return _match_class(pattern, at + 1, byte)
    if here == 0x5C and at + 1 < end:  # backslash
        at += 1
        here = pattern[at]
    return at + 1 if here == byte else -1


def _match_class(pattern: bytes, at: i64, byte: i64) -> i64:
    end: i64 = len(pattern)
    inverse: bool = at < end and pattern[at] == 0x5E  # '^'
    found: bool = False
    if inverse:
        at += 1
    while True:
        if at >= end:  # no `]`: the class ends with the pattern
            return end if found != inverse else -1
        here: i64 = pattern[at]
        if here == 0x5C and at + 1 < end:
            at += 1
            found = found or pattern[at] == byte
        elif here == 0x5D:
            return at + 1 if found != inverse else -1
        elif at + 2 < end and pattern[at + 1] == 0x2D:  # a range, in either direction
            other: i64 = pattern[at + 2]
            found = found or (here <= byte <= other or other <= byte <= here)
            at += 2
        else:
            found = found or here == byte
        at += 1
