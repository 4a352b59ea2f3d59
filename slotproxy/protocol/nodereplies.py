"""One node's reply to a command that several nodes were asked, read strictly.

Duty: take raw frames apart for the merging modules. Whatever is not of the type that they expect, or does not
fill its frame, is an UnexpectedReply that names the node: garbage becomes an error reply, not a crash further up.

Invariants: frames are sliced, never decoded and written anew; linear; no recursion into a reply. It must not know
commands. Names of fields are compared as frames (`bulk(b"calls")`): every server sends them as bulk strings.
"""

from typing import Final

from slotproxy.protocol.frames import ProtocolError, read_length
from slotproxy.protocol.replies import aggregate, is_null, items_of
from slotproxy.protocol.resp import integer

MAX_INTEGER: Final = 2**63 - 1


class UnexpectedReply(Exception):
    """A node's reply is none that the command can have. `str()` names the node and shows the reply's beginning."""


class NodeReply:
    """`frame`: the whole reply of the node `node` ("host:port"). What the methods take are frames inside it, or it."""

    def __init__(self, node: str, frame: bytes) -> None:
        self.node: Final = node
        self.frame: Final = frame

    def unexpected(self) -> UnexpectedReply:
        return UnexpectedReply("node " + self.node + " answered " + ascii(self.frame[:32])[1:])

    def items(self, frame: bytes) -> list[bytes]:
        """The frames in an array, set or push; of a map its names and values in turn. Raises UnexpectedReply."""
        try:
            found = items_of(frame)
        except ProtocolError:
            found = None
        if found is None:
            raise self.unexpected()
        return found

    def fields(self, frame: bytes) -> dict[bytes, bytes]:
        """Name frame -> value frame, of a map or of an array of names and values in turn. Raises UnexpectedReply."""
        items = self.items(frame)
        if len(items) % 2:
            raise self.unexpected()
        return dict(zip(items[::2], items[1::2], strict=True))

    def field(self, frame: bytes, name: bytes) -> bytes:
        """The value of one field, by the name's frame. Raises UnexpectedReply."""
        value = self.fields(frame).get(name)
        if value is None:
            raise self.unexpected()
        return value

    def number(self, frame: bytes) -> int:
        """A signed 64-bit integer. Raises UnexpectedReply."""
        if frame[:1] != b":" or not frame.endswith(b"\r\n"):
            raise self.unexpected()
        negative = frame[1:2] == b"-"
        digits = frame[2:].removesuffix(b"\r\n") if negative else frame[1:].removesuffix(b"\r\n")
        if not digits.isdigit() or len(digits) > 19:
            raise self.unexpected()
        value = int(digits)
        if value > MAX_INTEGER:
            raise self.unexpected()
        return -value if negative else value

    def data(self, frame: bytes) -> bytes:
        """The payload of a bulk string, or of a verbatim one without its format. Raises UnexpectedReply."""
        if frame[:1] != b"$" and frame[:1] != b"=":
            raise self.unexpected()
        size, pos = read_length(frame, 1, len(frame))
        if pos < 0 or size < 0 or pos + size + 2 != len(frame):
            raise self.unexpected()
        return frame[pos + 4 : -2] if frame[:1] == b"=" and size >= 4 else frame[pos:-2]

    def real(self, frame: bytes) -> float:
        """A floating point number: a double, or a bulk string that holds one (RESP2). Raises UnexpectedReply."""
        text = frame[1:].removesuffix(b"\r\n") if frame[:1] == b"," else self.data(frame)
        try:
            return float(text)
        except ValueError:
            raise self.unexpected() from None


def is_error(frame: bytes) -> bool:
    return frame[:1] == b"-" or frame[:1] == b"!"


def is_aggregate(frame: bytes) -> bool:
    """Whether it is an array, set, push or map, and not null."""
    return frame[:1] in (b"*", b"~", b">", b"%") and not is_null(frame)


def total(numbers: list[int]) -> bytes:
    """The sum, held inside the integers that RESP knows."""
    return integer(max(-MAX_INTEGER, min(MAX_INTEGER, sum(numbers))))


def merged_numbers(replies: list[NodeReply], frames: list[bytes], largest: bool) -> bytes:
    """One map of the nodes' maps `frames`: integers are added up, or the `largest` taken; other values: the first.

    A field that only some have is kept. Names keep the order of the first map, then of the next. Raises
    UnexpectedReply.
    """
    numbers: dict[bytes, list[int]] = {}
    first: dict[bytes, bytes] = {}
    for reply, frame in zip(replies, frames, strict=True):
        for name, value in reply.fields(frame).items():
            first.setdefault(name, value)
            if value[:1] == b":":
                numbers.setdefault(name, []).append(reply.number(value))
    items: list[bytes] = []
    for name, value in first.items():
        found = numbers.get(name)
        items.append(name)
        if found is None:
            items.append(value)
        else:
            items.append(integer(max(found)) if largest else total(found))
    return aggregate(frames[0], items)
