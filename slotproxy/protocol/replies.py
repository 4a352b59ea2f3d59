"""Framing of replies: where each reply begins and ends in the bytes that a node sent.

Duty: find the end of every RESP2 and RESP3 type at any nesting. An attribute travels with the reply it
belongs to. Nothing is decoded: what a parser would lose (`+` against `$`, doubles, verbatim strings,
duplicate map keys) passes.

Invariants: linear in the bytes received, resumable at any byte; a count of frames still missing stands in for
a stack, so nesting costs no memory; lengths are bounded before they are converted. A node that breaks the
protocol raises ProtocolError: the caller closes that connection, for nothing after it can be attributed.

Source: RESP specification (RESP3, antirez/RESP3), replies of Redis 6.2 to 7.x.
"""

from typing import Final

from mypy_extensions import i64

from slotproxy.protocol.frames import FrameBuffer, ProtocolError, read_length
from slotproxy.protocol.resp import NULL, NULL3, NULL_ARRAY

_MAX_LINE: Final = 1_048_576  # a simple string, error or number longer than this is not Redis


class ReplyScanner(FrameBuffer):
    """Cuts one node connection's byte stream into replies.

    `feed` what was received, then call `scan` until it says False. After True the reply is
    `buffer[start:end]` and `kind` its first byte (behind attributes: the attribute's `|`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind: i64 = 0
        self._missing: i64 = 0  # frames that the reply which is not complete still lacks

    def scan(self) -> bool:
        """Frame the next reply. True: it is there; False: feed more. Raises ProtocolError."""
        if self._pieces:
            return False
        buffer: bytes = self.buffer
        size: i64 = self.size
        pos: i64 = self._cursor
        missing: i64 = self._missing
        if missing == 0:
            if pos >= size:
                self.release()
                return False
            self.start = pos
            self.kind = buffer[pos]
            missing = 1
        while missing > 0:
            if pos >= size:
                break
            kind: i64 = buffer[pos]
            if kind == 0x24 or kind == 0x2A:  # '$' '*', the two that matter for speed
                value, after = read_length(buffer, pos + 1, size)
                if after < 0:
                    if after == -1 and size - pos <= 32:
                        break
                    raise ProtocolError(_bad(buffer, pos, "length"))
                if buffer[after - 1] != 0x0A:
                    raise ProtocolError(_bad(buffer, pos, "length"))
                if kind == 0x2A:
                    if value < -1:
                        raise ProtocolError(_bad(buffer, pos, "length"))
                    pos = after
                    missing -= 1
                    if value > 0:
                        missing += value
                    continue
                if value >= 0:
                    after += value + 2
                    if after > size:
                        self._awaited = after
                        break
                    if buffer[after - 2] != 0x0D or buffer[after - 1] != 0x0A:
                        raise ProtocolError(_bad(buffer, pos, "bulk"))
                elif value != -1:
                    raise ProtocolError(_bad(buffer, pos, "length"))
                pos = after
                missing -= 1
                continue
            added, after = self._scan_rare(kind, pos)
            if after < 0:
                break
            pos = after
            missing += added
        self._cursor = pos
        self._missing = missing
        if missing > 0:
            return False
        if self._aside_size > 0:
            pos = self.rejoin()
        self.end = pos
        return True

    def _scan_rare(self, kind: i64, pos: i64) -> tuple[i64, i64]:
        """The other types: `(change of the missing frames, position behind)`; position -1: incomplete."""
        buffer: bytes = self.buffer
        size: i64 = self.size
        # + - :  and  _ , # (  are lines
        line: bool = kind == 0x2B or kind == 0x2D or kind == 0x3A
        if line or kind == 0x5F or kind == 0x2C or kind == 0x23 or kind == 0x28:
            cr: i64 = pos + 1
            while cr < size and buffer[cr] != 0x0D:
                cr += 1
            if cr - pos > _MAX_LINE:
                raise ProtocolError(_bad(buffer, pos, "line"))
            if cr + 1 >= size:
                return 0, -1
            if buffer[cr + 1] != 0x0A:
                raise ProtocolError(_bad(buffer, pos, "line"))
            return -1, cr + 2
        # % map  ~ set  > push  | attribute  ! blob error  = verbatim string
        if not (kind == 0x25 or kind == 0x7E or kind == 0x3E or kind == 0x7C or kind == 0x21 or kind == 0x3D):
            raise ProtocolError(_bad(buffer, pos, "type"))
        value, after = read_length(buffer, pos + 1, size)
        if after < 0:
            if after == -1 and size - pos <= 32:
                return 0, -1
            raise ProtocolError(_bad(buffer, pos, "length"))
        if value < 0 or buffer[after - 1] != 0x0A:
            raise ProtocolError(_bad(buffer, pos, "length"))
        if kind == 0x21 or kind == 0x3D:
            after += value + 2
            if after > size:
                self._awaited = after
                return 0, -1
            if buffer[after - 2] != 0x0D or buffer[after - 1] != 0x0A:
                raise ProtocolError(_bad(buffer, pos, "bulk"))
            return -1, after
        if kind == 0x25:
            return 2 * value - 1, after
        if kind == 0x7C:
            return 2 * value, after  # and the reply it belongs to is still to come
        return value - 1, after


def _bad(buffer: bytes, pos: i64, what: str) -> str:
    return "Protocol error: bad reply " + what + " at " + ascii(buffer[pos : pos + 16])[1:]


def is_null(reply: bytes) -> bool:
    """Whether it is null, in either protocol."""
    return reply in (NULL, NULL_ARRAY, NULL3)


def aggregate(like: bytes, items: list[bytes]) -> bytes:
    """An aggregate of the type that the frame `like` has; of a map `items` are names and values in turn."""
    count = len(items) // 2 if like[:1] == b"%" else len(items)
    return like[:1] + b"%d\r\n" % count + b"".join(items)


def items_of(reply: bytes) -> list[bytes] | None:
    """As `elements_of`; of a map its names and values in turn."""
    if reply[:1] != b"%":
        return elements_of(reply)
    count, pos = read_length(reply, 1, len(reply))
    return None if pos < 0 or count < 0 else elements_of(b"*%d\r\n" % (2 * count) + reply[pos:])


def elements_of(reply: bytes) -> list[bytes] | None:
    """The raw frames of the elements of an array, set or push; None where `reply` is none of these or null.

    Raises ProtocolError where the frames do not fill `reply` exactly.
    """
    if not reply or reply[0] not in b"*~>":
        return None
    count, pos = read_length(reply, 1, len(reply))
    if pos < 0 or count < 0:
        return None
    scanner = ReplyScanner()
    scanner.feed(reply[pos:])
    out: list[bytes] = []
    while scanner.scan():
        out.append(scanner.buffer[scanner.start : scanner.end])
    if len(out) != count or scanner.buffered():
        raise ProtocolError("Protocol error: array of " + str(count) + " holds " + str(len(out)))
    return out
