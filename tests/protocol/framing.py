"""Reads frames out of chunks, and holds every frame against the ways in which bytes can arrive.

`each_way` is the one function through which the framing tests go: whole, byte by byte, cut in two at every
position, behind another frame, and with trailing data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner
from slotproxy.protocol.requests import RequestLimits, RequestScanner


class Request(NamedTuple):
    """One framed request: everything that the scanner says about it."""

    raw: bytes
    argc: int
    name: bytes
    key: bytes
    irregular: bool
    arguments: list[bytes] | None


class Outcome(NamedTuple):
    """What came of a stream: its frames, the error that ended it, and the bytes that make no frame yet."""

    frames: list[Request] | list[bytes]
    error: str | None
    left: int


Read = Callable[[Iterable[bytes]], Outcome]


def read_requests(chunks: Iterable[bytes], limits: RequestLimits | None = None) -> Outcome:
    scanner = RequestScanner(limits or RequestLimits())
    frames: list[Request] = []
    try:
        for chunk in chunks:
            scanner.feed(chunk)
            while scanner.scan():
                frames.append(_request(scanner))
    except ProtocolError as error:
        return Outcome(frames, str(error), 0)
    return Outcome(frames, None, int(scanner.buffered()))


def _request(scanner: RequestScanner) -> Request:
    raw = scanner.buffer[scanner.start : scanner.end]
    if scanner.arguments is not None:
        return Request(raw, int(scanner.argc), b"", b"", scanner.irregular, scanner.arguments)
    assert 0 <= scanner.start < scanner.name_start <= scanner.name_end < scanner.end <= scanner.size
    if scanner.argc > 1:
        assert scanner.name_end < scanner.key_start <= scanner.key_end < scanner.end
    else:
        assert scanner.key_start == scanner.key_end == 0
    name = scanner.buffer[scanner.name_start : scanner.name_end]
    key = scanner.buffer[scanner.key_start : scanner.key_end]
    return Request(raw, int(scanner.argc), name, key, scanner.irregular, None)


def read_replies(chunks: Iterable[bytes]) -> Outcome:
    scanner = ReplyScanner()
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            scanner.feed(chunk)
            while scanner.scan():
                assert 0 <= scanner.start < scanner.end <= scanner.size
                assert scanner.kind == scanner.buffer[scanner.start]
                frames.append(scanner.buffer[scanner.start : scanner.end])
    except ProtocolError as error:
        # The text ends with an excerpt of what was received until then, which is the chunks' affair.
        return Outcome(frames, str(error).partition(" at '")[0], 0)
    return Outcome(frames, None, int(scanner.buffered()))


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def each_way(read: Read, data: bytes, *, first: bytes, trailing: bytes) -> Outcome:
    """Read `data` in all ways; they must agree. The outcome of the whole.

    `first` is one complete frame to stand before it, `trailing` the beginning of another to come after it.
    """
    outcome = read([data])
    assert read(byte_by_byte(data)) == outcome
    before = read([first]).frames
    assert len(before) == 1
    for cut in range(1, len(data)):
        assert read([data[:cut], data[cut:]]) == outcome, f"cut at {cut}"
        assert read([first + data[:cut], data[cut:]]).frames == before + outcome.frames
    assert read([first, data]) == outcome._replace(frames=before + outcome.frames)  # type: ignore[operator]
    if outcome.error is None and outcome.left == 0:
        followed = outcome._replace(left=len(trailing))
        assert read([data + trailing]) == followed
        assert read([data, trailing]) == followed
        assert read(byte_by_byte(data + trailing)) == followed
    return outcome


def cuts(data: bytes, positions: Iterable[int]) -> list[bytes]:
    """`data` cut at the positions (modulo its length), in pieces that are not empty."""
    at = sorted({position % len(data) for position in positions}) if data else []
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True) if a < b]


cut_positions = st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=12)
