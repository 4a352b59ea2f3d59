"""CLIENT TRACKING: options, errors and replies as a server words them, and what is asked of a node for a client.

Duty: read the options, say whether they fit what the client has turned on before, and write invalidations. Nothing here
knows a connection.

Source: tracking.c and networking.c, 7.0.15, each error tried on a server.
"""

from typing import Final

from slotproxy.protocol.commands import Command, KeysError
from slotproxy.protocol.decisions import error_of_bytes
from slotproxy.protocol.resp import NULL, NULL3, array, bulk, collection, command, error, integer, mapping

#: The channel on which a RESP2 client is told.
CHANNEL: Final = b"__redis__:invalidate"
#: "Drop everything", as after FLUSHALL.
FLUSHED: Final = b">2\r\n$10\r\ninvalidate\r\n_\r\n"
#: What stands in front of a command, by `Request.prelude`: nothing, CLIENT CACHING YES, CLIENT CACHING NO.
PRELUDES: Final = [b"", command([b"CLIENT", b"CACHING", b"YES"]), command([b"CLIENT", b"CACHING", b"NO"])]
CACHED: Final = 1
UNCACHED: Final = 2

_SYNTAX: Final = error("ERR syntax error")
_NO_TARGET: Final = error("ERR The client ID you want redirect to does not exist")
_NOT_A_NUMBER: Final = error("ERR value is not an integer or out of range")
_ONE_TARGET: Final = error("ERR A client can only redirect to a single other client")
_PREFIX_ALONE: Final = error("ERR PREFIX option requires BCAST mode to be enabled")
_SWITCHED: Final = error(
    "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a"
    " different mode."
)
_INCOMPATIBLE: Final = error("ERR OPTIN and OPTOUT are not compatible with BCAST")
_BOTH: Final = error("ERR You can't specify both OPTIN mode and OPTOUT mode")
_SWITCHED_OPT: Final = error(
    "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a"
    " different mode."
)
_NOT_CACHING: Final = error(
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
)
_YES_WITHOUT: Final = error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
_NO_WITHOUT: Final = error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")


class TrackingOptions:
    """What a client has turned on. `redirect`: the id of the client that is told, 0 for none."""

    def __init__(self) -> None:
        self.redirect: int = 0
        self.bcast: bool = False
        self.optin: bool = False
        self.optout: bool = False
        self.noloop: bool = False
        self.prefixes: list[bytes] = []

    def upstream(self) -> list[bytes]:
        """The command with which a node is asked to track for a connection."""
        words = [b"CLIENT", b"TRACKING", b"ON"]
        for word, meant in ((b"BCAST", self.bcast), (b"OPTIN", self.optin), (b"OPTOUT", self.optout),
                            (b"NOLOOP", self.noloop)):  # fmt: skip
            if meant:
                words.append(word)
        for prefix in self.prefixes:
            words += [b"PREFIX", prefix]
        return words


def parse_tracking(arguments: list[bytes], now: TrackingOptions | None, clients: set[int]) -> TrackingOptions | bytes:
    """What CLIENT TRACKING ON asks for of a client that has `now`; bytes are the error. `clients`: ids that exist.

    An OFF whose options are well-formed gives options, too; see `turns_on`.
    """
    wanted = TrackingOptions()
    wrong = _read_options(wanted, arguments, clients)
    if wrong is None and arguments[2].lower() not in (b"on", b"off"):
        wrong = _SYNTAX
    if wrong is None and turns_on(arguments):
        wrong = _misfit(wanted, now)
        if wrong is None and wanted.bcast:
            prefixes = dict.fromkeys(wanted.prefixes or [b""])
            prefixes.update(dict.fromkeys(now.prefixes if now is not None else []))
            wanted.prefixes = sorted(prefixes)
    return wanted if wrong is None else wrong


def turns_on(arguments: list[bytes]) -> bool:
    """Whether it is CLIENT TRACKING ON."""
    return arguments[2].lower() == b"on"


def _read_options(wanted: TrackingOptions, arguments: list[bytes], clients: set[int]) -> bytes | None:
    position = 3
    while position < len(arguments):
        word = arguments[position].lower()
        more = position + 1 < len(arguments)
        if word == b"redirect" and more:
            if wanted.redirect != 0:
                return _ONE_TARGET
            target = _number(arguments[position + 1])
            if target is None:
                return _NOT_A_NUMBER
            if target not in clients:
                return _NO_TARGET
            wanted.redirect = target
            position += 1
        elif word == b"prefix" and more:
            wanted.prefixes.append(arguments[position + 1])
            position += 1
        elif word == b"bcast":
            wanted.bcast = True
        elif word == b"optin":
            wanted.optin = True
        elif word == b"optout":
            wanted.optout = True
        elif word == b"noloop":
            wanted.noloop = True
        else:
            return _SYNTAX
        position += 1
    return None


def _misfit(wanted: TrackingOptions, now: TrackingOptions | None) -> bytes | None:
    """Why these options cannot be turned on, by a client that has `now`."""
    if wanted.prefixes and not wanted.bcast:
        return _PREFIX_ALONE
    if now is not None and now.bcast != wanted.bcast:
        return _SWITCHED
    if wanted.bcast and (wanted.optin or wanted.optout):
        return _INCOMPATIBLE
    if wanted.optin and wanted.optout:
        return _BOTH
    if now is not None and ((wanted.optin and now.optout) or (wanted.optout and now.optin)):
        return _SWITCHED_OPT
    existing = now.prefixes if now is not None else []
    for index, prefix in enumerate(wanted.prefixes):
        for other in existing:
            if _overlap(prefix, other):
                return _overlapping(prefix, b"an existing", other)
        for other in wanted.prefixes[index + 1 :]:
            if _overlap(prefix, other):
                return _overlapping(prefix, b"another provided", other)
    return None


def _overlap(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def _overlapping(prefix: bytes, which: bytes, other: bytes) -> bytes:
    return error_of_bytes(
        b"ERR Prefix '%b' overlaps with %b prefix '%b'. Prefixes for a single client must not overlap."
        % (prefix.partition(b"\0")[0], which, other.partition(b"\0")[0])
    )


def _number(text: bytes) -> int | None:
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 19 or (digits.startswith(b"0") and text != b"0"):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def caching_of(argument: bytes, now: TrackingOptions | None) -> int | bytes:
    """CACHED or UNCACHED as CLIENT CACHING says it; bytes are the error."""
    if now is None:
        return _NOT_CACHING
    word = argument.partition(b"\0")[0].lower()
    if word == b"yes":
        return CACHED if now.optin else _YES_WITHOUT
    if word == b"no":
        return UNCACHED if now.optout else _NO_WITHOUT
    return _SYNTAX


def tracking_info(protocol: int, now: TrackingOptions | None, caching: int, broken: bool) -> bytes:
    """CLIENT TRACKINGINFO's reply."""
    flags = [b"off" if now is None else b"on"]
    prefixes: list[bytes] = []
    if now is not None:
        for word, meant in (
            (b"bcast", now.bcast), (b"optin", now.optin), (b"caching-yes", now.optin and caching == CACHED),
            (b"optout", now.optout), (b"caching-no", now.optout and caching == UNCACHED), (b"noloop", now.noloop),
            (b"broken_redirect", broken),
        ):  # fmt: skip
            if meant:
                flags.append(word)
        prefixes = now.prefixes
    return mapping(
        protocol,
        [
            bulk(b"flags"), collection(protocol, [bulk(flag) for flag in flags]),
            bulk(b"redirect"), integer(-1 if now is None else now.redirect),
            bulk(b"prefixes"), array([bulk(prefix) for prefix in prefixes]),
        ],
    )  # fmt: skip


def names_of(keys: list[bytes]) -> bytes:
    """The keys as an invalidation has them."""
    return array([bulk(key) for key in keys])


def pushed(keys_frame: bytes) -> bytes:
    """The push to a RESP3 client; `keys_frame` is an array of keys, or null for all."""
    return b">2\r\n$10\r\ninvalidate\r\n" + keys_frame


def published(keys_frame: bytes) -> bytes:
    """The same as a RESP2 client is told that has subscribed to CHANNEL."""
    return b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n" + (NULL if keys_frame == NULL3 else keys_frame)


def redirection_broken(redirect: int) -> bytes:
    """What a RESP3 client is told in place of an invalidation whose receiver has left."""
    return b">2\r\n$21\r\ntracking-redir-broken\r\n:%d\r\n" % redirect


def keys_of(called: Command | None, arguments: list[bytes]) -> list[bytes]:
    """The keys of a command; none where they cannot be told."""
    if called is None:
        return []
    try:
        return called.keys(arguments)
    except KeysError:
        return []
