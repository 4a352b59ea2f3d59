"""Framing of requests: where each command begins and ends in the bytes that a client sent.

Duty: find frame boundaries, the command's name and its first argument, for multibulk and inline requests, in
any chunking. The bytes themselves are neither decoded nor rebuilt; a request leaves as one slice.

Invariants:
- Never looser than a server. A request that is framed here must not be a protocol error there, because it
  travels on a connection that other clients share. What Redis lets pass silently (any byte after a CR, a bulk
  that does not end in CRLF) is marked `irregular`; the caller packs such a request anew.
- Work is linear in the bytes received: a request that is not complete is resumed, not scanned again; a bulk
  that is still coming in is kept in pieces until its last byte is there, and the arguments in front of it are
  put aside, to be joined once. (Lines can be fed byte by byte and are joined each time: 64 KiB bound that.)
- Digits are bounded before they are converted (compiled, integers wrap silently).

Wording and limits follow networking.c of Redis 7.0 (processMultibulkBuffer, processInlineBuffer).
"""

from typing import Final

from mypy_extensions import i64

from slotproxy.protocol.frames import FrameBuffer, ProtocolError, read_length

_INT_MAX: Final = 2147483647
_MOST_BULK: Final = 536_870_912  # proto-max-bulk-len: what is longer is wrong whoever sends it
_MAX_LENGTH_LINE: Final = 65536  # PROTO_INLINE_MAX_SIZE also bounds a line that holds a length


class RequestLimits:
    """What one request may measure. Shapes: `arguments` a count; `inline`, `bulk` and `request` in bytes.

    `unauthenticated`: they hold for who has not logged in, and the errors say so.
    """

    def __init__(
        self,
        arguments: i64 = 1_048_576,
        inline: i64 = 65_536,
        bulk: i64 = 536_870_912,
        request: i64 = 1_073_741_824,
    ) -> None:
        self.arguments: i64 = arguments
        self.inline: i64 = inline
        self.bulk: i64 = bulk
        self.request: i64 = request
        self.unauthenticated: bool = False

    def before_login(self) -> "RequestLimits":
        """What holds for who has not logged in: Redis's limits, or these where they are narrower."""
        limits = RequestLimits(
            _at_most(self.arguments, 10), self.inline, _at_most(self.bulk, 16_384), _at_most(self.request, 262_144)
        )
        limits.unauthenticated = True
        return limits


def _at_most(limit: i64, most: i64) -> i64:
    return limit if limit < most else most


class RequestScanner(FrameBuffer):
    """Cuts one client's byte stream into requests.

    `feed` what was received, then call `scan` until it says False. After True the request is
    `buffer[start:end]`, with `argc` arguments, its name at `name_start:name_end` and its first argument at
    `key_start:key_end` (both 0 where there is none); for an inline request these are unset and `arguments`
    holds the decoded words.
    """

    def __init__(self, limits: RequestLimits) -> None:
        super().__init__()
        self.limits: RequestLimits = limits
        self.argc: i64 = 0
        self.name_start: i64 = 0
        self.name_end: i64 = 0
        self.key_start: i64 = 0
        self.key_end: i64 = 0
        self.irregular: bool = False
        self.arguments: list[bytes] | None = None
        self._seen: i64 = 0  # complete arguments of the request that is not complete yet

    def shifted(self, drop: i64) -> None:
        if self._seen > 0:
            self.name_start -= drop
            self.name_end -= drop
        if self._seen > 1:
            self.key_start -= drop
            self.key_end -= drop

    def scan(self) -> bool:
        """Frame the next request. True: it is there; False: feed more.

        Raises ProtocolError; the stream cannot be read any further then.
        """
        if self._pieces:
            return False
        while self._cursor == self.end and self._seen == 0:  # at a request's first byte
            if self._cursor >= self.size:
                self.release()
                return False
            self.start = self.end
            if self.buffer[self._cursor] != 0x2A:  # '*'
                if not self._scan_inline():
                    return False
                if self.argc > 0:
                    return True
            else:
                if not self._scan_count():
                    return False
                if self.argc <= 0:  # an empty request is no request: Redis skips it without an answer
                    self.end = self._cursor
        return self._scan_arguments()

    def _scan_count(self) -> bool:
        count, after = read_length(self.buffer, self._cursor + 1, self.size)
        if after < 0:
            if after == -1:
                if self.size - self._cursor > _MAX_LENGTH_LINE:
                    raise ProtocolError("Protocol error: too big mbulk count string")
                return False
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > _INT_MAX or count > self.limits.arguments:
            if count <= _INT_MAX and self.limits.unauthenticated:
                raise ProtocolError("Protocol error: unauthenticated multibulk length")
            raise ProtocolError("Protocol error: invalid multibulk length")
        self.irregular = self.buffer[after - 1] != 0x0A
        self.arguments = None
        self.argc = count
        self.key_start = 0
        self.key_end = 0
        self._cursor = after
        return True

    def _scan_arguments(self) -> bool:
        buffer: bytes = self.buffer
        size: i64 = self.size
        pos: i64 = self._cursor
        seen: i64 = self._seen
        argc: i64 = self.argc
        bulk_limit: i64 = self.limits.bulk
        while seen < argc:
            if pos >= size:
                break
            if buffer[pos] != 0x24:  # '$'
                # Redis judges the type only once the whole line is there.
                cr: i64 = buffer.find(b"\r", pos, size)
                if cr >= 0 and cr + 1 < size:
                    raise ProtocolError("Protocol error: expected '$', got '" + _shown(buffer[pos]) + "'")
                if size - pos > _MAX_LENGTH_LINE:
                    raise ProtocolError("Protocol error: too big bulk count string")
                break
            length, after = read_length(buffer, pos + 1, size)
            if after < 0:
                if after == -1:
                    if size - pos > _MAX_LENGTH_LINE:
                        raise ProtocolError("Protocol error: too big bulk count string")
                    break
                raise ProtocolError("Protocol error: invalid bulk length")
            if length < 0 or length > bulk_limit:
                if self.limits.unauthenticated and 0 <= length <= _MOST_BULK:
                    raise ProtocolError("Protocol error: unauthenticated bulk length")
                raise ProtocolError("Protocol error: invalid bulk length")
            stop: i64 = after + length
            if stop + 2 - self.end + self._aside_size > self.limits.request:
                most = str(self.limits.request)
                raise ProtocolError("Protocol error: request larger than " + most + " bytes")
            if stop + 2 > size:
                self._awaited = stop + 2
                break
            if buffer[stop] != 0x0D or buffer[stop + 1] != 0x0A or buffer[after - 1] != 0x0A:
                self.irregular = True
            if seen == 0:
                self.name_start = after
                self.name_end = stop
            elif seen == 1:
                self.key_start = after + self._aside_size
                self.key_end = stop + self._aside_size
            pos = stop + 2
            seen += 1
        self._cursor = pos
        if seen < argc:
            self._seen = seen
            return False
        self._seen = 0
        if self._aside_size > 0:
            pos = self.rejoin()
        self.end = pos
        return True

    def _scan_inline(self) -> bool:
        newline: i64 = self.buffer.find(b"\n", self._cursor, self.size)
        # Redis looks for the line's end with strchr: a NUL hides it for good.
        if newline >= 0 and self.buffer.find(b"\x00", self._cursor, newline) >= 0:
            newline = -1
        if (self.size if newline < 0 else newline) - self._cursor > self.limits.inline:
            raise ProtocolError("Protocol error: too big inline request")
        if newline < 0:
            return False
        line = self.buffer[self._cursor : newline]
        if line.endswith(b"\r"):
            line = line[:-1]
        words = split_words(line)
        if words is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        self.arguments = words
        self.argc = len(words)
        self.irregular = True
        self.end = self._cursor = newline + 1
        return True


def _shown(byte: i64) -> str:
    return chr(byte)


def arguments_of(raw: bytes) -> list[bytes]:
    """The arguments of one complete, regular multibulk request, the command's name first."""
    size: i64 = len(raw)
    count, pos = read_length(raw, 1, size)
    out: list[bytes] = []
    while count > 0:
        length, after = read_length(raw, pos + 1, size)
        out.append(raw[after : after + length])
        pos = after + length + 2
        count -= 1
    return out


_ESCAPES: Final = {0x6E: 0x0A, 0x72: 0x0D, 0x74: 0x09, 0x62: 0x08, 0x61: 0x07}
_HEX: Final = b"0123456789abcdefABCDEF"
_SPACE: Final = b" \n\r\t\v\f"  # stands between words
_WORD_END: Final = b" \n\r\t"  # ends a word without quotes: Redis leaves out two


def split_words(line: bytes) -> list[bytes] | None:
    """An inline request's words, with Redis's quoting (sds.c, sdssplitargs). None when a quote is not closed.

    `line` holds no NUL byte.
    """
    words: list[bytes] = []
    pos = 0
    size = len(line)
    while True:
        while pos < size and line[pos] in _SPACE:
            pos += 1
        if pos >= size:
            return words
        word = bytearray()
        while pos < size and line[pos] not in _WORD_END:
            quote = line[pos]
            if quote != 0x22 and quote != 0x27:
                word.append(quote)
                pos += 1
                continue
            pos += 1
            while True:
                if pos >= size:
                    return None
                byte = line[pos]
                if byte == quote:
                    pos += 1
                    break
                if byte == 0x5C and quote == 0x27 and line[pos + 1 : pos + 2] == b"'":
                    word.append(0x27)
                    pos += 2
                elif byte == 0x5C and quote == 0x22 and pos + 1 < size:
                    pos = _unescape(line, pos + 1, size, word)
                else:
                    word.append(byte)
                    pos += 1
            if pos < size and line[pos] not in _SPACE:
                return None
            break
        words.append(bytes(word))


def _unescape(line: bytes, pos: int, size: int, word: bytearray) -> int:
    byte = line[pos]
    if byte == 0x78 and pos + 2 < size and line[pos + 1] in _HEX and line[pos + 2] in _HEX:
        word.append(int(line[pos + 1 : pos + 3], 16))
        return pos + 3
    word.append(_ESCAPES.get(byte, byte))
    return pos + 1
