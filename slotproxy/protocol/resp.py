"""Frames that the proxy itself writes: replies to clients and commands to nodes.

Only what slotproxy says on its own behalf is built here; what it forwards is never written anew. What differs between
the protocols takes the client's: 2 or 3 (RESP specification, antirez/RESP3; words of networking.c, 7.0.15).
"""

from typing import Final

OK: Final = b"+OK\r\n"
PONG: Final = b"+PONG\r\n"
NULL: Final = b"$-1\r\n"
NULL_ARRAY: Final = b"*-1\r\n"
NULL3: Final = b"_\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"


def null(protocol: int) -> bytes:
    """Null, in the place of a string."""
    return NULL3 if protocol == 3 else NULL


def null_array(protocol: int) -> bytes:
    """Null, in the place of an array."""
    return NULL3 if protocol == 3 else NULL_ARRAY


def mapping(protocol: int, frames: list[bytes]) -> bytes:
    """A map of names and values in turn; before RESP3 an array."""
    return b"%%%d\r\n" % (len(frames) // 2) + b"".join(frames) if protocol == 3 else array(frames)


def collection(protocol: int, frames: list[bytes]) -> bytes:
    """A set; before RESP3 an array."""
    return b"~%d\r\n" % len(frames) + b"".join(frames) if protocol == 3 else array(frames)


def verbatim(protocol: int, text: bytes) -> bytes:
    """Text to be shown as it is; before RESP3 a bulk string."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


def simple(text: bytes) -> bytes:
    """A simple string; `text` holds neither CR nor LF."""
    return b"+" + text + b"\r\n"


def error(text: str) -> bytes:
    """An error; its first word is the code. Line ends, which would break the frame, become spaces."""
    return b"-" + text.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace") + b"\r\n"


def integer(value: int) -> bytes:
    """A signed 64-bit integer."""
    return b":%d\r\n" % value


def bulk(data: bytes) -> bytes:
    """A bulk string of any bytes."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def array(frames: list[bytes]) -> bytes:
    """An array of frames that are complete already."""
    return b"*%d\r\n" % len(frames) + b"".join(frames)


def encode(value: object) -> bytes:
    """RESP2 of a decoded RESP2 value: None, int, bytes, str (a simple string) or a list of such.

    Raises TypeError for anything else.
    """
    if value is None:
        return NULL
    if isinstance(value, bytes):
        return bulk(value)
    if isinstance(value, str):
        return simple(value.encode())
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, list):
        return array([encode(item) for item in value])
    raise TypeError("no RESP2 type for " + type(value).__name__)


def command(arguments: list[bytes]) -> bytes:
    """A request in multibulk form."""
    return array([bulk(argument) for argument in arguments])
