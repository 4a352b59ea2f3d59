"""Frames as scripted nodes write them and as tests read them; deliberately not the proxy's own."""

from __future__ import annotations

from typing import Any, Final

import hiredis

OK: Final = b"+OK\r\n"
NIL: Final = b"$-1\r\n"
NO_ARRAY: Final = b"*-1\r\n"


def pack(*words: bytes | str | int) -> bytes:
    """A command as a client sends it."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def bulk(value: bytes | None) -> bytes:
    return NIL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(frames: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(frames) + b"".join(frames)


def error(text: str) -> bytes:
    return b"-" + text.encode() + b"\r\n"


def decode(data: bytes) -> list[Any]:
    """Frames as hiredis decodes them; error replies as hiredis.ReplyError, pushes as hiredis.PushNotification."""
    reader = hiredis.Reader()
    reader.feed(data)
    out = []
    while (reply := reader.gets()) is not False:
        out.append(reply)
    return out
