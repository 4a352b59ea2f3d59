"""Blocking commands, taken apart: what they wait for, and the commands that try the same without waiting.

Duty: read a blocking command's timeout and keys; write it again with the time that is left; for each key give the
command that pops (or reads) there at once, and turn its reply into the blocking command's. With these a wait can be
carried on wherever the keys lie. Where the server would find fault with the arguments, nothing is read from them: then
only the server itself can say so.

Sources: t_list.c, t_zset.c, t_stream.c and blocked.c of Redis 6.2 and 7.0.
"""

from typing import Final

from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import elements_of, is_null
from slotproxy.protocol.resp import array, bulk, command
from slotproxy.protocol.slots import key_slot

LAST: Final = 0  # the timeout, in seconds, is the last argument
FIRST: Final = 1  # the first
BLOCK: Final = 2  # milliseconds behind the word BLOCK

#: name -> where the timeout is, the command that does not wait, and what kind of key it waits for
_FORMS: Final[dict[str, tuple[int, bytes, str]]] = {
    "blpop": (LAST, b"LPOP", "list"),
    "brpop": (LAST, b"RPOP", "list"),
    "blmove": (LAST, b"LMOVE", "list"),
    "brpoplpush": (LAST, b"RPOPLPUSH", "list"),
    "bzpopmin": (LAST, b"ZPOPMIN", "zset"),
    "bzpopmax": (LAST, b"ZPOPMAX", "zset"),
    "blmpop": (FIRST, b"LMPOP", "list"),
    "bzmpop": (FIRST, b"ZMPOP", "zset"),
    "xread": (BLOCK, b"XREAD", "stream"),
    "xreadgroup": (BLOCK, b"XREADGROUP", "stream"),
}
_MOVES: Final = frozenset(["blmove", "brpoplpush"])
_POPS: Final = frozenset(["blpop", "brpop"])
_ZPOPS: Final = frozenset(["bzpopmin", "bzpopmax"])
_MOST: Final = 1e10  # seconds; beyond, the server's arithmetic may overflow, and it says so


class Wait:
    """A well-formed blocking command.

    `keys` are those at which something may arrive, in order, each once; `slots` has all keys' slots. `timeout`:
    seconds; 0.0 means for ever, less that it does not wait. `kind`: list, zset or stream. `reads`: it reads all of
    its streams, instead of popping from the first key that has something.
    """

    def __init__(self, name: str, arguments: list[bytes], keys: list[bytes], at: int, timeout: float) -> None:
        form, self._word, self.kind = _FORMS[name]
        self.name: Final = name
        self.timeout: Final = timeout
        self.reads: Final = self.kind == "stream"
        self.moves: Final = name in _MOVES
        self.slots: Final = sorted({int(key_slot(key)) for key in keys})
        self.keys: Final = keys[:1] if name in _MOVES else list(dict.fromkeys(keys))
        self._form: Final = form
        self._arguments: Final = arguments[:]
        self._at: Final = at
        self._keys_at: Final = len(arguments) - 2 * len(keys)  # of streams

    def request(self, left: float) -> bytes:
        """The command with `left` seconds to wait (0.0: for ever); never so few that they are rounded to 0, which would
        mean for ever: 6.2.14 does that to less than 2 ms."""
        words = self._arguments[:]
        if left > 0.0:
            milliseconds = max(2, int(left * 1000))
            words[self._at] = b"%d" % milliseconds if self._form == BLOCK else b"%d.%03d" % divmod(milliseconds, 1000)
        return command(words)

    def attempt(self, key: bytes) -> bytes:
        """The command that does the same at `key` at once, or is answered that there is nothing."""
        words = self._arguments
        if self.reads:
            options = words[1 : self._keys_at - 1]
            if self._at:
                options = words[1 : self._at - 1] + words[self._at + 1 : self._keys_at - 1]
            index = self._keys_at
            while words[index] != key:
                index += 1
            return command([self._word, *options, b"STREAMS", key, words[index + (len(words) - self._keys_at) // 2]])
        if self._form == FIRST:
            behind = 3 + int(words[2])
            return command([self._word, b"1", key, *words[behind:]])
        if self.moves:
            return command([self._word, *words[1 : len(words) - 1]])
        return command([self._word, key])

    def found(self, key: bytes, reply: bytes) -> bytes | None:
        """The blocking command's reply, from that to its attempt at `key`; None when there was nothing."""
        if is_null(reply):
            return None
        if self.name in _POPS:
            return array([bulk(key), reply])
        if self.name in _ZPOPS:
            try:
                elements = elements_of(reply)
            except ProtocolError:
                elements = None
            if elements is None:
                return reply
            return array([bulk(key), *elements]) if elements else None
        return reply

    # Streams

    def from_now_on(self) -> list[bytes]:
        """The streams of which only what comes from now on is wanted (`$`)."""
        ids = self._arguments[len(self._arguments) - (len(self._arguments) - self._keys_at) // 2 :]
        return [key for key, id in zip(self._stream_keys(), ids, strict=True) if id == b"$"] if self.reads else []

    def read_from(self, key: bytes, id: bytes) -> None:
        """What comes behind `id` is wanted of `key`: now it can be said again later."""
        half = (len(self._arguments) - self._keys_at) // 2
        for index, stream in enumerate(self._stream_keys()):
            if stream == key and self._arguments[self._keys_at + half + index] == b"$":
                self._arguments[self._keys_at + half + index] = id

    def _stream_keys(self) -> list[bytes]:
        half = (len(self._arguments) - self._keys_at) // 2
        return self._arguments[self._keys_at : self._keys_at + half]


def read_wait(name: str, arguments: list[bytes], keys: list[bytes]) -> Wait | None:
    """A blocking command taken apart; None when the server might find fault with it, or when nobody here knows it."""
    form = _FORMS.get(name)
    if form is None or not keys:
        return None
    if form[0] == BLOCK:
        return _read_streams(name, arguments, keys)
    at = 1 if form[0] == FIRST else len(arguments) - 1
    timeout = _seconds(arguments[at])
    if timeout is None:
        return None
    if form[0] == FIRST and (arguments[2] != b"%d" % len(keys) or not _is_count(arguments, 3 + len(keys))):
        return None
    if name == "blmove" and not all([word.lower() in (b"left", b"right") for word in arguments[3:5]]):
        return None
    return Wait(name, arguments, keys, at, timeout)


def _is_count(arguments: list[bytes], behind: int) -> bool:
    """Whether BLMPOP's or BZMPOP's words behind the keys are in order."""
    words = [word.lower() for word in arguments[behind:]]
    if arguments[0].lower() == b"blmpop":
        right = words[:1] in ([b"left"], [b"right"])
    else:
        right = words[:1] in ([b"min"], [b"max"])
    if len(words) == 1:
        return right
    return right and len(words) == 3 and words[1] == b"count" and _is_integer(words[2]) and int(words[2]) > 0


def _read_streams(name: str, arguments: list[bytes], keys: list[bytes]) -> Wait | None:
    group = name == "xreadgroup"
    grouped = False
    at = 0
    position = 1
    while position < len(arguments):
        option = arguments[position].upper()
        if option == b"STREAMS":
            break
        if option == b"BLOCK" and at == 0 and position + 1 < len(arguments):
            at = position + 1
            position += 2
        elif option == b"COUNT" and position + 1 < len(arguments) and _is_integer(arguments[position + 1]):
            position += 2
        elif option == b"GROUP" and group and position + 2 < len(arguments):
            grouped = True
            position += 3
        elif option == b"NOACK" and group:
            position += 1
        else:
            return None
    ids = arguments[position + 1 + len(keys) :]
    if group != grouped or len(ids) != len(keys) or len(set(keys)) != len(keys):
        return None
    if at and (not _is_integer(arguments[at]) or arguments[at][:1] == b"-"):
        return None
    for id in ids:
        number, _, rest = id.partition(b"-")
        special = id == (b">" if group else b"$")
        if not special and not (_is_natural(number) and (not rest or _is_natural(rest)) and not id.endswith(b"-")):
            return None
    return Wait(name, arguments, keys, at, int(arguments[at]) / 1000 if at else -1.0)


def _is_natural(word: bytes) -> bool:
    return word.isdigit() and len(word) <= 20 and int(word) < 1 << 64


def _is_integer(word: bytes) -> bool:
    digits = word.removeprefix(b"-")
    return digits.isdigit() and len(digits) <= 18 and (len(digits) == 1 or digits[:1] != b"0") and word != b"-0"


def _seconds(word: bytes) -> float | None:
    if not word or len(word) > 20 or word.strip(b"0123456789.eE+-"):
        return None
    try:
        value = float(word)
    except ValueError:
        return None
    return value if 0.0 <= value < _MOST else None


def last_id(reply: bytes) -> bytes | None:
    """The ID in a reply to `XREVRANGE key + - COUNT 1`, of an empty or missing stream 0-0; None for another reply."""
    try:
        entries = elements_of(reply)
        if entries is None:
            return None
        if not entries:
            return b"0-0"
        entry = elements_of(entries[0])
    except ProtocolError:
        return None
    return entry[0].split(b"\r\n")[1] if entry else None
