"""CLIENT TRACKING's options as 7.0.15 reads them. `tests/integration/test_differential_tracking.py` asks a server."""

from __future__ import annotations

import pytest

from slotproxy.protocol.resp import NULL3, array, bulk
from slotproxy.protocol.tracking import (
    CACHED,
    FLUSHED,
    UNCACHED,
    TrackingOptions,
    caching_of,
    parse_tracking,
    published,
    pushed,
    tracking_info,
)


def parsed(line: str, now: TrackingOptions | None = None) -> TrackingOptions | str:
    words = f"CLIENT TRACKING {line}".encode().split()
    found = parse_tracking(words, now, {7})
    return found.decode().strip() if isinstance(found, bytes) else found


def options(line: str, now: TrackingOptions | None = None) -> TrackingOptions:
    found = parsed(line, now)
    assert isinstance(found, TrackingOptions), found
    return found


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("FOO", "syntax error"),
        ("ON FOO", "syntax error"),
        ("ON REDIRECT", "syntax error"),
        ("ON PREFIX", "syntax error"),
        ("ON REDIRECT x", "value is not an integer or out of range"),
        ("ON REDIRECT 8", "The client ID you want redirect to does not exist"),
        ("OFF REDIRECT 8", "The client ID you want redirect to does not exist"),
        ("ON REDIRECT 7 REDIRECT 7", "A client can only redirect to a single other client"),
        ("ON PREFIX a", "PREFIX option requires BCAST mode to be enabled"),
        ("ON OPTIN OPTOUT", "You can't specify both OPTIN mode and OPTOUT mode"),
        ("ON BCAST OPTIN", "OPTIN and OPTOUT are not compatible with BCAST"),
    ],
)
def test_options_that_are_wrong_in_themselves(line: str, error: str) -> None:
    assert parsed(line) == f"-ERR {error}"


def test_modes_are_not_switched_while_tracking() -> None:
    switched = "before disabling tracking for this client, and then re-enabling it with a different mode."
    assert parsed("ON BCAST", options("ON")) == f"-ERR You can't switch BCAST mode on/off {switched}"
    assert parsed("ON OPTOUT", options("ON OPTIN")) == f"-ERR You can't switch OPTIN/OPTOUT mode {switched}"
    assert options("ON", options("ON OPTIN")).optin is False


def test_prefixes_add_up_and_must_not_overlap() -> None:
    first = options("ON BCAST PREFIX b PREFIX a")
    assert options("ON BCAST PREFIX c", first).prefixes == [b"a", b"b", b"c"]
    assert options("ON BCAST").prefixes == [b""]
    end = "Prefixes for a single client must not overlap."
    assert parsed("ON BCAST PREFIX ab", first) == f"-ERR Prefix 'ab' overlaps with an existing prefix 'a'. {end}"
    assert parsed("ON BCAST PREFIX a PREFIX ab") == f"-ERR Prefix 'a' overlaps with another provided prefix 'ab'. {end}"


def test_a_node_is_asked_for_the_same_modes_but_the_redirection() -> None:
    asked = options("ON REDIRECT 7 BCAST NOLOOP PREFIX b PREFIX a").upstream()
    assert asked == b"CLIENT TRACKING ON BCAST NOLOOP PREFIX a PREFIX b".split()


def test_caching_depends_on_the_mode() -> None:
    assert caching_of(b"Yes", options("ON OPTIN")) == CACHED
    assert caching_of(b"no", options("ON OPTOUT")) == UNCACHED
    for word, now in ((b"yes", options("ON")), (b"no", options("ON OPTIN")), (b"x", options("ON")), (b"yes", None)):
        assert isinstance(caching_of(word, now), bytes)


def test_an_invalidation_in_both_protocols() -> None:
    keys = array([bulk(b"k")])
    assert pushed(keys) == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    assert pushed(NULL3) == FLUSHED
    assert published(keys) == b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n"
    assert published(NULL3).endswith(b"invalidate\r\n$-1\r\n")


def test_trackinginfo_tells_the_flags_in_the_servers_order() -> None:
    info = tracking_info(2, options("ON OPTIN NOLOOP REDIRECT 7"), CACHED, True)
    flags = [b"on", b"optin", b"caching-yes", b"noloop", b"broken_redirect"]
    assert info.startswith(b"*6\r\n$5\r\nflags\r\n" + array([bulk(flag) for flag in flags]))
    assert tracking_info(3, None, 0, False).startswith(b"%3\r\n$5\r\nflags\r\n~1\r\n$3\r\noff\r\n$8\r\nredirect\r\n:-1")
