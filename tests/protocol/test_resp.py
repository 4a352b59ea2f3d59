"""What the proxy writes itself is framed as one reply, and means what it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.replies import ReplyScanner
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import (
    EMPTY_ARRAY,
    NULL,
    OK,
    PONG,
    array,
    bulk,
    collection,
    command,
    encode,
    error,
    integer,
    mapping,
    null,
    null_array,
    simple,
    verbatim,
)
from tests.protocol.framing import Outcome, Request, read_replies, read_requests

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def decoded(frame: bytes) -> Any:
    assert read_replies([frame]) == Outcome([frame], None, 0)
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


@given(VALUES)
def test_a_value_is_decoded_to_what_it_was(value: Any) -> None:
    assert decoded(encode([value])) == [value]


def test_constants_are_frames() -> None:
    assert decoded(OK) == b"OK"
    assert decoded(PONG) == b"PONG"
    assert decoded(NULL) is None
    assert decoded(EMPTY_ARRAY) == []


def test_text_is_a_simple_string_and_bytes_are_a_bulk() -> None:
    assert encode("OK") == simple(b"OK") == OK
    assert encode(b"OK") == bulk(b"OK") == b"$2\r\nOK\r\n"
    assert encode(-5) == integer(-5) == b":-5\r\n"
    assert encode([]) == array([]) == EMPTY_ARRAY


@pytest.mark.parametrize("value", [1.5, {}, (1,), object(), [[1.5]]])
def test_what_resp2_has_no_type_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no RESP2 type for"):
        encode(value)


@given(st.text())
def test_no_text_breaks_an_errors_frame(text: str) -> None:
    frame = error(text)
    assert read_replies([frame, OK]) == Outcome([frame, OK], None, 0)
    assert frame.startswith(b"-")


def test_an_errors_line_ends_become_spaces_and_lone_surrogates_are_written_out() -> None:
    assert error("ERR a\r\nb\nc") == b"-ERR a  b c\r\n"
    assert error("ERR \udc80") == b"-ERR \\udc80\r\n"
    assert error("ERR \u00fc") == "-ERR \u00fc\r\n".encode()


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6))
def test_a_command_is_one_regular_request(words: list[bytes]) -> None:
    raw = command(words)
    (frame,) = read_requests([raw]).frames
    assert isinstance(frame, Request)
    assert frame.raw == raw and not frame.irregular
    assert arguments_of(raw) == words
    assert raw == hiredis.pack_command(cast(Any, tuple(words)))


@pytest.mark.parametrize(
    ("build", "resp2", "resp3"),
    [
        (null, b"$-1\r\n", b"_\r\n"),
        (null_array, b"*-1\r\n", b"_\r\n"),
        (lambda protocol: mapping(protocol, [b":1\r\n", b":2\r\n"]), b"*2\r\n:1\r\n:2\r\n", b"%1\r\n:1\r\n:2\r\n"),
        (lambda protocol: collection(protocol, [b":1\r\n"]), b"*1\r\n:1\r\n", b"~1\r\n:1\r\n"),
        (lambda protocol: verbatim(protocol, b"a\nb"), b"$3\r\na\nb\r\n", b"=7\r\ntxt:a\nb\r\n"),
    ],
)
def test_what_differs_between_the_protocols(build: Callable[[int], bytes], resp2: bytes, resp3: bytes) -> None:
    assert (build(2), build(3)) == (resp2, resp3)
    for protocol in (2, 3):
        scanner = ReplyScanner()
        scanner.feed(build(protocol))
        assert scanner.scan() and scanner.buffered() == 0
