"""What request and reply framing share: the buffer of a byte stream that is cut into frames, and length lines.

Duty: keep what was received until it has been framed, with work and memory linear in the bytes received: a bulk that is
still coming in is kept in pieces until its last byte is there, complete parts of a frame that is not complete are put
aside and joined once, and a large buffer is let go when nothing of it is left. What a frame is, subclasses know.
"""

from typing import Final

from mypy_extensions import i64

ASIDE: Final = 16_384  # complete parts of an unfinished frame are put aside from this many bytes on
SMALL: Final = 512  # what is received in less than this is merged into pieces of at least PIECE bytes
PIECE: Final = 4_096


class ProtocolError(Exception):
    """The other side broke the protocol. `str()` is Redis's wording, without the `-ERR ` in front."""


class FrameBuffer:
    """A byte stream's received part. The last frame is `buffer[start:end]`; `size` is the buffer's length.

    For subclasses: `_cursor` is the next byte to look at; `_awaited` the buffer size below which looking is in vain;
    while `_pieces` holds anything, or `_aside_size` is not 0, the frame that begins at `end` is not complete.
    """

    def __init__(self) -> None:
        self.buffer: bytes = b""
        self.size: i64 = 0
        self.start: i64 = 0
        self.end: i64 = 0
        self._cursor: i64 = 0
        self._awaited: i64 = 0
        self._pieces: list[bytes] = []  # received, not joined to the buffer yet
        self._pieces_size: i64 = 0
        self._aside: list[bytes] = []  # the unfinished frame's beginning, taken out of the buffer
        self._aside_size: i64 = 0

    def feed(self, data: bytes) -> None:
        """Take what was received; bytes of finished frames are let go."""
        if self.end >= self.size and self._aside_size == 0 and not self._pieces:
            self.buffer = data
            self.size = len(data)
            self.start = self.end = self._cursor = 0
            self._awaited = 0
            return
        if self._pieces and len(data) < SMALL and len(self._pieces[-1]) < PIECE:
            self._pieces[-1] += data
        else:
            self._pieces.append(data)
        self._pieces_size += len(data)
        if self.size + self._pieces_size < self._awaited:
            return
        drop: i64 = self.end
        if drop > 0:
            self.shifted(drop)
        if self._cursor - drop >= ASIDE:
            self._aside.append(self.buffer[drop : self._cursor])
            self._aside_size += self._cursor - drop
            drop = self._cursor
        self._pieces.insert(0, self.buffer[drop:] if drop else self.buffer)
        self.buffer = b"".join(self._pieces)
        self._pieces.clear()
        self._pieces_size = 0
        self.size = len(self.buffer)
        self.start = self.end = 0
        self._cursor -= drop
        self._awaited = 0

    def shifted(self, drop: i64) -> None:
        """The unfinished frame's positions count from `drop` bytes later on; for subclasses that note any."""

    def buffered(self) -> i64:
        """Bytes received that belong to no finished frame."""
        return self.size - self.end + self._pieces_size + self._aside_size

    def wanted(self) -> i64:
        """Bytes known to be missing from the bulk that is coming in; 0 when that is not known."""
        missing: i64 = self._awaited - self.size - self._pieces_size
        return missing if missing > 0 else 0

    def release(self) -> None:
        """Nothing is left: let go of the buffer if it is large, for the connection may be idle from now on."""
        if self.size >= PIECE:
            self.buffer = b""
            self.size = self.start = self.end = self._cursor = 0

    def rejoin(self) -> i64:
        """The frame is complete: put its beginning back in front. Returns the position behind it."""
        self._aside.append(self.buffer)
        self.buffer = b"".join(self._aside)
        self._aside.clear()
        self.size += self._aside_size
        self._cursor += self._aside_size
        self._aside_size = 0
        return self._cursor


def read_length(buffer: bytes, pos: i64, end: i64) -> tuple[i64, i64]:
    """Read the integer that starts at `pos` and ends in CR and one more byte.

    Returns `(value, position after the line)`; `(0, -1)` when the line is not complete and `(0, -2)` when it
    is no number as Redis's string2ll takes it: no sign but one minus, no leading zero, at most ten digits
    here.
    """
    negative: bool = False
    first: i64 = pos
    value: i64 = 0
    if pos < end and buffer[pos] == 0x2D:  # '-'
        negative = True
        pos += 1
        first = pos
    while pos < end:
        byte: i64 = buffer[pos]
        if byte == 0x0D:
            break
        if byte < 0x30 or byte > 0x39 or pos - first >= 10:
            return _bad_length(buffer, pos, end)
        value = value * 10 + (byte - 0x30)
        pos += 1
    if pos + 1 >= end:
        return 0, -1
    digits: i64 = pos - first
    if digits == 0 or (buffer[first] == 0x30 and (digits > 1 or negative)):
        return 0, -2
    return -value if negative else value, pos + 2


def _bad_length(buffer: bytes, pos: i64, end: i64) -> tuple[i64, i64]:
    # Redis looks for the CR first and judges the digits afterwards: a bad digit alone is no answer yet.
    cr: i64 = buffer.find(b"\r", pos, end)
    if cr < 0 or cr + 1 >= end:
        return 0, -1
    return 0, -2
