"""What a node's error reply asks of the proxy: MOVED, ASK, TRYAGAIN and the states in which a node refuses.

Duty: read such a reply and validate each field. A redirect is input from the network, and a script can forge
one, so nothing here is trusted beyond its form: whether the address is known, and whether the redirect may be
followed, is for the router to say.

Source: Redis Cluster specification, "Redirection and resharding"; texts of cluster.c, Redis 6.2 and 7.0.
"""

from enum import IntEnum
from typing import Final

from slotproxy.protocol.slots import SLOTS


class Refusal(IntEnum):
    """Why a node did not execute a command. Every kind means: it did not run.

    The last two are found by the whole text of the reply, for only some commands can get them.
    """

    MOVED = 1  # another node owns the slot
    ASK = 2  # the key is elsewhere, for this request only
    TRYAGAIN = 3  # several keys, not all of them here while the slot migrates
    CLUSTERDOWN = 4  # the node thinks that the cluster, or the slot, is not served
    LOADING = 5  # the node reads its data set
    MASTERDOWN = 6  # a replica that has lost its primary
    READONLY = 7  # a replica, asked to write: it was a primary until now
    NOSCRIPT = 8  # EVALSHA: the node has no such script
    NOFUNCTION = 9  # FCALL: the node has no such function


class Redirect:
    """Where a MOVED or ASK points. `host` is "" for "the host that answered" and None for "unknown"."""

    def __init__(self, slot: int, host: str | None, port: int) -> None:
        self.slot: Final = slot
        self.host: Final = host
        self.port: Final = port


_KINDS: Final[dict[bytes, Refusal]] = {
    b"MOVED": Refusal.MOVED,
    b"ASK": Refusal.ASK,
    b"TRYAGAIN": Refusal.TRYAGAIN,
    b"CLUSTERDOWN": Refusal.CLUSTERDOWN,
    b"LOADING": Refusal.LOADING,
    b"MASTERDOWN": Refusal.MASTERDOWN,
    b"READONLY": Refusal.READONLY,
}


def refusal_of(reply: bytes) -> Refusal | None:
    """The kind of refusal that `reply` (one whole frame) is; None for all other replies and errors."""
    if not reply or reply[0] != 0x2D:  # '-'
        return None
    return _KINDS.get(reply[1:14].partition(b" ")[0])


def error_code(reply: bytes) -> str:
    """The first word of an error frame, for counting: "WRONGTYPE", "ERR", …; "" where it is no code."""
    word = reply[1:40].partition(b" ")[0].rstrip(b"\r\n")
    if word.isalpha() and word.isupper() and word.isascii():
        return word.decode("ascii")
    return ""


def parse_redirect(reply: bytes) -> Redirect | None:
    """The target of a `-MOVED` or `-ASK` frame; None when a field is missing, extra or out of range.

    Address forms: `1.2.3.4:6379`, a bare IPv6 (the last colon splits), a hostname, `:6379` (the host that
    answered; cluster-preferred-endpoint-type unknown-endpoint) and `?:6379` (hostname not set; Redis 7.0).
    """
    if not 3 <= len(reply) <= 512 or not reply.endswith(b"\r\n"):
        return None
    try:
        words = reply[1:-2].decode("ascii").split(" ")
    except UnicodeDecodeError:
        return None
    if len(words) != 3:
        return None
    slot = bounded(words[1], SLOTS - 1)
    address = parse_endpoint(words[2])
    if slot is None or address is None:
        return None
    host, port = address
    return Redirect(slot, None if host == "?" else host, port)


def parse_endpoint(text: str) -> tuple[str, int] | None:
    """Split `host:port` at the last colon. Host may be "" or "?"; port is 1 to 65535. None when malformed."""
    host, colon, digits = text.rpartition(":")
    port = bounded(digits, 65535)
    if not colon or not port or len(host) > 253:
        return None
    if host == "?":
        return host, port
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not host:
            return None
    for char in host:
        if not (char.isalnum() or char in ".-_:%"):
            return None
    return host, port


def bounded(digits: str, most: int) -> int | None:
    """The number that up to five ASCII digits say; None when it is no number or above `most`."""
    if not digits.isdigit() or not digits.isascii() or len(digits) > 5:
        return None
    value = int(digits)
    return value if value <= most else None
