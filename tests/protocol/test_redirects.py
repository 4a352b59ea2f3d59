"""Redirects are read field by field, and what is not exactly one is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.redirects import (
    Redirect,
    Refusal,
    error_code,
    parse_endpoint,
    parse_redirect,
    refusal_of,
)


def parsed(reply: bytes) -> tuple[int, str | None, int] | None:
    redirect = parse_redirect(reply)
    return None if redirect is None else (redirect.slot, redirect.host, redirect.port)


# ---- kinds


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"-MOVED 3999 127.0.0.1:6381\r\n", Refusal.MOVED),
        (b"-ASK 3999 127.0.0.1:6381\r\n", Refusal.ASK),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", Refusal.TRYAGAIN),
        (b"-CLUSTERDOWN The cluster is down\r\n", Refusal.CLUSTERDOWN),
        (b"-CLUSTERDOWN Hash slot not served\r\n", Refusal.CLUSTERDOWN),
        (b"-LOADING Redis is loading the dataset in memory\r\n", Refusal.LOADING),
        (
            b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
            Refusal.MASTERDOWN,
        ),
        (b"-READONLY You can't write against a read only replica.\r\n", Refusal.READONLY),
    ],
)
def test_a_refusal_is_known_by_its_first_word(reply: bytes, kind: Refusal) -> None:
    assert refusal_of(reply) is kind


@pytest.mark.parametrize(
    "reply",
    [
        *(
            b"",
            b"-",
            b"-\r\n",
            b"+OK\r\n",
            b"+MOVED 1 h:1\r\n",
            b"$5\r\nMOVED\r\n",
            b"*1\r\n-MOVED 1 h:1\r\n",
        ),
        *(b"-ERR no\r\n", b"-MOVEDX 1 h:1\r\n", b"-moved 1 h:1\r\n", b"-ASKING 1\r\n", b"-XMOVED 1 h:1\r\n"),
        *(
            b"- MOVED 1 h:1\r\n",
            b"-EXECABORT Transaction discarded because of: MOVED\r\n",
            b"-CROSSSLOT Keys\r\n",
        ),
        b"!20\r\nMOVED 1 127.0.0.1:1\r\n\r\n",
    ],
)
def test_any_other_reply_is_no_refusal(reply: bytes) -> None:
    assert refusal_of(reply) is None


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"-ERR unknown\r\n", "ERR"),
        (b"-WRONGTYPE Operation against a key\r\n", "WRONGTYPE"),
        (b"-NOAUTH\r\n", "NOAUTH"),
        (b"-Error from a script\r\n", ""),
        (b"-\r\n", ""),
        (b"-ERR1 x\r\n", ""),
        ("-\u00c9RR x\r\n".encode(), ""),
        (b"-" + b"A" * 100 + b"\r\n", "A" * 39),
    ],
)
def test_an_errors_code_is_its_first_word_if_that_is_one(reply: bytes, code: str) -> None:
    assert error_code(reply) == code


# ---- fields


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        (b"127.0.0.1:6381", "127.0.0.1", 6381),
        (b"::1:6381", "::1", 6381),
        (b"2001:db8::7:6381", "2001:db8::7", 6381),
        (b"fe80::1%eth0:7000", "fe80::1%eth0", 7000),
        (b"[::1]:6381", "::1", 6381),
        (b"redis-0.redis_headless.svc.cluster.local:1", "redis-0.redis_headless.svc.cluster.local", 1),
        (b":6381", "", 6381),
        (b"?:6381", None, 6381),
        (b"h:65535", "h", 65535),
    ],
)
def test_every_form_of_an_address_is_read(address: bytes, host: str | None, port: int) -> None:
    assert parsed(b"-MOVED 16383 " + address + b"\r\n") == (16383, host, port)
    assert parsed(b"-ASK 0 " + address + b"\r\n") == (0, host, port)


@pytest.mark.parametrize(
    "reply",
    [
        *(b"", b"-", b"\r\n", b"-MOVED\r\n", b"-MOVED 1\r\n", b"-MOVED 1 \r\n", b"-MOVED  h:1\r\n"),
        *(
            b"-MOVED 1 h:1",
            b"-MOVED 1 h:1\n",
            b"-MOVED 1 h:1 more\r\n",
            b"-MOVED 1 h:1 \r\n",
            b"-MOVED 1  h:1\r\n",
        ),
        *(b"-MOVED 16384 h:1\r\n", b"-MOVED -1 h:1\r\n", b"-MOVED +1 h:1\r\n", b"-MOVED x h:1\r\n"),
        *(
            b"-MOVED 000001 h:1\r\n",
            b"-MOVED 1.0 h:1\r\n",
            b"-MOVED 1_0 h:1\r\n",
            b"-MOVED 18446744073709551617 h:1\r\n",
        ),
        *(
            b"-MOVED 1 h\r\n",
            b"-MOVED 1 h:\r\n",
            b"-MOVED 1 h:0\r\n",
            b"-MOVED 1 h:65536\r\n",
            b"-MOVED 1 h:-1\r\n",
        ),
        *(
            b"-MOVED 1 h:1x\r\n",
            b"-MOVED 1 6381\r\n",
            b"-MOVED 1 :\r\n",
            b"-MOVED 1 h/x:1\r\n",
            b"-MOVED 1 h@x:1\r\n",
        ),
        *(b"-MOVED 1 h\x00:1\r\n", b"-MOVED 1 h\n:1\r\n", b"-MOVED 1 h\xe4:1\r\n", b"-MOVED \xb2 h:1\r\n"),
        *(
            b"-MOVED 1 a?b:1\r\n",
            b"-MOVED 1 ??:1\r\n",
            b"-MOVED 1 [?]:1\r\n",
            b"-MOVED 1 []:1\r\n",
            b"-MOVED 1 [:1\r\n",
        ),
        b"-MOVED 1 " + b"h" * 254 + b":1\r\n",
        b"-MOVED 1 " + b"h" * 600 + b":1\r\n",
    ],
)
def test_a_redirect_with_a_bad_field_is_none(reply: bytes) -> None:
    assert parse_redirect(reply) is None


@pytest.mark.parametrize("digits", ["\u00b2", "\u0661", "1\u0661"])
def test_digits_of_other_scripts_are_no_port(digits: str) -> None:
    assert parse_endpoint("h:" + digits) is None


def test_an_endpoint_is_split_at_the_last_colon() -> None:
    assert parse_endpoint("localhost:6379") == ("localhost", 6379)
    assert parse_endpoint("::1:6379") == ("::1", 6379)
    assert parse_endpoint("?:6379") == ("?", 6379)
    assert parse_endpoint("localhost") is None
    assert parse_endpoint("") is None


FIELD = st.one_of(
    st.sampled_from(
        [b"MOVED", b"ASK", b" ", b":", b"?", b"[", b"]", b"\r\n", b"-", b"127.0.0.1", b"::1", b"16383"]
    ),
    st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number),
    st.binary(max_size=6),
)


@given(st.lists(FIELD, max_size=8).map(b"".join) | st.lists(FIELD, max_size=6).map(b" ".join))
def test_hostile_bytes_are_a_valid_redirect_or_none(data: bytes) -> None:
    for reply in (data, b"-MOVED " + data + b"\r\n"):
        refusal_of(reply)
        assert error_code(reply).isascii()
        redirect = parse_redirect(reply)
        if redirect is not None:
            assert isinstance(redirect, Redirect)
            assert 0 <= redirect.slot < 16384
            assert 0 < redirect.port < 65536
            assert redirect.host is None or not set(redirect.host) & set(" \r\n\x00/?@")
