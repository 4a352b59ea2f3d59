"""Framing of requests: in any chunking the same, bounded, and never looser than a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.frames import ASIDE, PIECE, SMALL, ProtocolError, read_length
from slotproxy.protocol.requests import RequestLimits, RequestScanner, arguments_of, split_words
from slotproxy.protocol.resp import command
from tests.protocol.framing import (
    Outcome,
    Request,
    byte_by_byte,
    cut_positions,
    cuts,
    each_way,
    read_requests,
)

PING = b"*1\r\n$4\r\nPING\r\n"
ARGUMENTS = st.lists(st.binary(max_size=24), min_size=1, max_size=6)


def framed(data: bytes) -> list[Request]:
    """The requests in `data`, fed in all ways; it holds nothing else."""
    outcome = each_way(read_requests, data, first=PING, trailing=b"*2\r\n$3\r\nGE")
    assert outcome.error is None and outcome.left == 0
    return outcome.frames  # type: ignore[return-value]


def refused(data: bytes) -> str:
    """What `data` is refused with, fed in all ways."""
    error = each_way(read_requests, data, first=PING, trailing=b"").error
    assert error is not None
    return error


def unfinished(data: bytes) -> None:
    outcome = each_way(read_requests, data, first=PING, trailing=b"")
    assert outcome.error is None
    assert outcome.frames == []
    assert outcome.left == len(data)


def limited(**limits: int) -> RequestLimits:
    return RequestLimits(**limits)


# ---- multibulk requests


def test_a_request_leaves_as_it_came() -> None:
    data = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nva\r\nl\r\n"
    assert framed(data) == [Request(data, 3, b"SET", b"key", False, None)]


def test_a_request_without_arguments_has_no_key() -> None:
    assert framed(PING) == [Request(PING, 1, b"PING", b"", False, None)]


def test_empty_arguments_are_arguments() -> None:
    data = b"*3\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n"
    assert framed(data) == [Request(data, 3, b"", b"", False, None)]


def test_a_pipeline_is_cut_into_its_requests() -> None:
    requests = [command([b"SET", b"k%d" % n, b"v" * n]) for n in range(5)]
    frames = framed(b"".join(requests))
    assert [frame.raw for frame in frames] == requests
    assert [frame.key for frame in frames] == [b"k%d" % n for n in range(5)]


def test_bytes_that_look_like_protocol_inside_an_argument_are_data() -> None:
    inner = b"*1\r\n$4\r\nQUIT\r\n"
    data = command([b"SET", inner, b"\r\n$-1\r\n"])
    assert framed(data) == [Request(data, 3, b"SET", inner, False, None)]


@pytest.mark.parametrize("nothing", [b"*0\r\n", b"*-1\r\n", b"*-2147483649\r\n", b"\r\n", b"\n", b" \t\r\n"])
def test_an_empty_request_is_skipped_and_not_part_of_the_next(nothing: bytes) -> None:
    assert [frame.raw for frame in framed(nothing + PING + nothing + nothing + PING)] == [PING, PING]


@given(st.lists(ARGUMENTS, min_size=1, max_size=8), cut_positions)
def test_any_split_of_any_requests_gives_the_same_requests(
    requests: list[list[bytes]], positions: list[int]
) -> None:
    data = b"".join(command(words) for words in requests)
    outcome = read_requests(cuts(data, positions))
    assert outcome == Outcome(
        [
            Request(command(words), len(words), words[0], words[1] if len(words) > 1 else b"", False, None)
            for words in requests
        ],
        None,
        0,
    )


@given(ARGUMENTS)
def test_the_arguments_of_a_request_are_those_that_were_packed(words: list[bytes]) -> None:
    assert arguments_of(command(words)) == words


# ---- what is let pass, marked


@pytest.mark.parametrize(
    "data",
    [
        b"*2\rX$3\r\nGET\r\n$1\r\nk\r\n",
        b"*2\r\n$3\rXGET\r\n$1\r\nk\r\n",
        b"*2\r\n$3\r\nGETXX$1\r\nk\r\n",
        b"*2\r\n$3\r\nGET\n\n$1\r\nk\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\rX",
        b"*2\r\n$3\r\nGET\r\n$1\r\rk\r\n",
    ],
)
def test_what_redis_lets_pass_is_marked_and_can_be_packed_anew(data: bytes) -> None:
    assert framed(data) == [Request(data, 2, b"GET", b"k", True, None)]
    assert arguments_of(data) == [b"GET", b"k"]


def test_a_mark_does_not_stick_to_the_next_request() -> None:
    assert [frame.irregular for frame in framed(b"*1\rX$4\r\nPING\r\n" + PING + b"PING\r\n" + PING)] == [
        True,
        False,
        True,
        False,
    ]


# ---- what is refused


@pytest.mark.parametrize(
    "count", [b"", b"a", b"+1", b"01", b"00", b"-0", b"-", b"--1", b"1 ", b" 1", b"1.0", b"2147483648"]
)
def test_a_count_that_is_no_count_is_refused(count: bytes) -> None:
    assert refused(b"*" + count + b"\r\n") == "Protocol error: invalid multibulk length"


@pytest.mark.parametrize("length", [b"", b"x", b"+1", b"01", b"-0", b"-1", b"-", b"536870913", b"9999999999"])
def test_a_length_that_is_no_length_is_refused(length: bytes) -> None:
    assert refused(b"*1\r\n$" + length + b"\r\n") == "Protocol error: invalid bulk length"


@pytest.mark.parametrize(
    "number", [2**31, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**10, 10**30]
)
def test_no_number_wraps_into_the_allowed_range(number: int) -> None:
    # Compiled, 2**64 + 1 would be 1.
    assert refused(b"*%d\r\n" % number) == "Protocol error: invalid multibulk length"
    assert refused(b"*1\r\n$%d\r\n" % number) == "Protocol error: invalid bulk length"


@given(st.integers(min_value=-(2**70), max_value=2**70), st.sampled_from([b"", b"0", b"+", b" ", b"00"]))
def test_a_length_is_read_exactly_or_not_at_all(number: int, prefix: bytes) -> None:
    line = prefix + b"%d" % number
    value, after = read_length(b"*" + line + b"\r\nmore", 1, len(line) + 7)
    if not prefix and len(b"%d" % abs(number)) <= 10:
        assert (value, after) == (number, len(line) + 3)
    else:
        assert (value, after) == (0, -2)


@pytest.mark.parametrize("byte", [b"*", b"+", b"a", b"\n", b"\r", b" ", b"\x00", b"\xff"])
def test_an_argument_that_is_no_bulk_is_refused_by_its_first_byte(byte: bytes) -> None:
    assert (
        refused(b"*1\r\n" + byte + b"3\r\n")
        == f"Protocol error: expected '$', got '{byte.decode('latin-1')}'"
    )


def test_a_type_is_judged_only_once_its_line_is_there() -> None:
    unfinished(b"*1\r\n+3")
    unfinished(b"*1\r\n+3\r")
    unfinished(b"*1\r\n$x")
    unfinished(b"*x")
    unfinished(b"*x\r")


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"*", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", "Protocol error: too big bulk count string"),
        (b"*1\r\n+", "Protocol error: too big bulk count string"),
        (b"x", "Protocol error: too big inline request"),
        (b"x\x00\n", "Protocol error: too big inline request"),
    ],
)
def test_a_line_without_end_is_refused_at_64_kib(begin: bytes, message: str) -> None:
    before = 4 if begin.startswith(b"*1") else 0
    data = begin + b"1" * (65536 + before - len(begin))
    assert read_requests([data]) == Outcome([], None, len(data))
    assert read_requests([data + b"1"]) == Outcome([], message, 0)
    assert read_requests([data[:40000], data[40000:], b"1"]) == Outcome([], message, 0)


def test_a_complete_request_before_the_error_is_served() -> None:
    outcome = each_way(read_requests, PING + b"*1\r\nx\r\n", first=PING, trailing=b"")
    assert [frame.raw for frame in outcome.frames] == [PING]  # type: ignore[union-attr]
    assert outcome.error == "Protocol error: expected '$', got 'x'"


# ---- limits


def test_as_many_arguments_as_allowed_and_not_one_more() -> None:
    limits = limited(arguments=3)
    fits = command([b"a", b"b", b"c"])
    assert read_requests([fits], limits).error is None
    for chunks in ([b"*4\r\n"], byte_by_byte(b"*4\r\n")):
        assert read_requests(chunks, limits) == Outcome([], "Protocol error: invalid multibulk length", 0)


def test_no_limit_allows_more_arguments_than_an_int_holds() -> None:
    assert read_requests([b"*2147483648\r\n"], limited(arguments=2**40)).error is not None
    assert read_requests([b"*2147483647\r\n"], limited(arguments=2**40)).error is None


def test_the_default_limits_are_those_of_the_strictest_server() -> None:
    assert read_requests([b"*1048576\r\n$536870912\r\n"]).error is None
    assert read_requests([b"*1048577\r\n"]).error == "Protocol error: invalid multibulk length"
    assert read_requests([b"*1\r\n$536870913\r\n"]).error == "Protocol error: invalid bulk length"


def test_a_bulk_as_long_as_allowed_and_not_one_byte_more() -> None:
    limits = limited(bulk=5)
    assert read_requests([command([b"a", b"12345"])], limits).error is None
    assert read_requests([b"*1\r\n$6\r\n"], limits).error == "Protocol error: invalid bulk length"


def test_a_bulk_limit_past_ten_digits_still_never_wraps() -> None:
    assert read_requests([b"*1\r\n$9999999999\r\n"], limited(bulk=2**62, request=2**62)).error is None
    assert read_requests([b"*1\r\n$10000000000\r\n"], limited(bulk=2**62, request=2**62)).error is not None


@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
def test_a_request_as_large_as_allowed_and_not_one_byte_more_in_any_chunks(size: int) -> None:
    data = command([b"SADD", *(b"member-%06d" % n for n in range(5000))])
    assert len(data) > 4 * ASIDE  # so that arguments were put aside when the limit comes
    chunks = [data[at : at + size] for at in range(0, len(data), size)] if size > 1 else byte_by_byte(data)
    assert read_requests([PING, *chunks], limited(request=len(data))).error is None
    error = read_requests([PING, *chunks], limited(request=len(data) - 1)).error
    assert error == f"Protocol error: request larger than {len(data) - 1} bytes"


def test_a_request_past_its_limit_is_refused_before_its_bytes_come() -> None:
    assert read_requests([b"*1\r\n$2000\r\n"], limited(request=1000)).error is not None


def test_inline_requests_are_limited_in_any_chunking() -> None:
    limits = limited(inline=10)
    fits, too_big = b"ECHO 12345\n", b"ECHO 123456\n"
    for line, error in ((fits, None), (too_big, "Protocol error: too big inline request")):
        for chunks in ([line], byte_by_byte(line), [PING, line], [PING + line]):
            assert read_requests(chunks, limits).error == error


# ---- inline requests


def words_of(line: bytes) -> list[list[bytes] | None]:
    frames = framed(line)
    assert all(frame.irregular and frame.argc == len(frame.arguments or []) for frame in frames)
    return [frame.arguments for frame in frames]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"PING\r\n", [b"PING"]),
        (b"PING\n", [b"PING"]),
        (b"  set  a\tb \r\n", [b"set", b"a", b"b"]),
        (b'set k "a b"\r\n', [b"set", b"k", b"a b"]),
        (b"set k ''\r\n", [b"set", b"k", b""]),
        (b'set k "\\x00\\xfF\\n\\r\\t\\b\\a\\q\\"\\\\"\r\n', [b"set", b"k", b'\x00\xff\n\r\t\b\aq"\\']),
        (b"set k '\\n\\'\\x41'\r\n", [b"set", b"k", b"\\n'\\x41"]),
        (b'set k "\\x4"\r\n', [b"set", b"k", b"x4"]),
        (b'a"b c"\r\n', [b"ab c"]),
        (b"a\\nb\r\n", [b"a\\nb"]),
        (b"a\vb \vc\r\n", [b"a\vb", b"c"]),
        (b'"a"\v"b"\r\n', [b"a", b"b"]),
        (b"a\rb\r\r\n", [b"a", b"b"]),
    ],
)
def test_inline_words_are_quoted_as_redis_quotes(line: bytes, words: list[bytes]) -> None:
    assert words_of(line) == [words]


@pytest.mark.parametrize(
    "line", [b'"', b"'", b'"a', b"'a\\'", b'"a\\"', b'"a"b', b"'a'b", b'"a""b"', b'"\\', b"a'"]
)
def test_a_quote_that_is_not_closed_is_refused(line: bytes) -> None:
    assert split_words(line) is None
    assert refused(line + b"\r\n") == "Protocol error: unbalanced quotes in request"


def test_a_nul_hides_the_end_of_an_inline_request_as_it_does_for_redis() -> None:
    unfinished(b"PING\x00\r\n")
    unfinished(b"\x00\nPING\r\n")


def test_inline_and_multibulk_requests_alternate() -> None:
    frames = framed(b"PING\r\n" + PING + b"ECHO x\n" + PING)
    assert [frame.raw for frame in frames] == [b"PING\r\n", PING, b"ECHO x\n", PING]
    assert [frame.arguments for frame in frames] == [[b"PING"], None, [b"ECHO", b"x"], None]


# ---- hostile bytes

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"*",
                b"$",
                b"*1\r\n",
                b"*2\r\n",
                b"$1\r\n",
                b"$3\r\n",
                b"\r\n",
                b"\r",
                b"\n",
                b"\x00",
                b"-",
                b'"',
                b"'",
            ]
        ),
        st.integers(min_value=-(2**66), max_value=2**66).map(lambda number: b"%d" % number),
        ARGUMENTS.map(command),
        st.binary(max_size=6),
    ),
    max_size=12,
).map(b"".join)


@given(HOSTILE, cut_positions)
def test_hostile_bytes_raise_nothing_but_protocol_error_and_chunks_do_not_matter(
    data: bytes, positions: list[int]
) -> None:
    whole = read_requests([data])
    assert read_requests(cuts(data, positions)) == whole
    assert read_requests(byte_by_byte(data)) == whole
    if whole.error is None:
        # Nothing is lost: what is not framed is skipped as an empty request or still there.
        assert sum(
            len(frame.raw) for frame in whole.frames if isinstance(frame, Request)
        ) + whole.left <= len(data)


@given(HOSTILE)
def test_a_regular_request_is_what_packing_its_arguments_gives(data: bytes) -> None:
    """The form that every server takes: a regular frame has no other byte in it than the canonical ones."""
    for frame in read_requests([data]).frames:
        assert isinstance(frame, Request)
        if not frame.irregular:
            words = arguments_of(frame.raw)
            assert command(words) == frame.raw
            assert len(words) == frame.argc
            assert words[:2] == [frame.name, frame.key][: frame.argc]


# ---- work and memory


class CountedScanner:
    """Feeds a scanner and counts the bytes that it copied, seen in the buffers it made."""

    def __init__(self) -> None:
        self.scanner = RequestScanner(RequestLimits())
        self.copied = 0
        self.frames: list[bytes] = []

    def feed(self, chunks: Iterable[bytes]) -> None:
        scanner = self.scanner
        for chunk in chunks:
            before = scanner.buffer
            scanner.feed(chunk)
            if scanner.buffer is not before and scanner.buffer is not chunk:
                self.copied += len(scanner.buffer)
            while True:
                before = scanner.buffer
                framed = scanner.scan()
                if scanner.buffer is not before:
                    self.copied += len(scanner.buffer)
                if not framed:
                    break
                self.frames.append(scanner.buffer[scanner.start : scanner.end])


def test_a_bulk_that_comes_in_pieces_is_joined_once() -> None:
    data = command([b"SET", b"k", bytes(1 << 20)])
    counted = CountedScanner()
    counted.feed(data[at : at + 1024] for at in range(0, len(data), 1024))
    assert counted.frames == [data]
    assert counted.copied <= len(data) + 2048


def test_many_small_arguments_in_chunks_are_copied_a_bounded_number_of_times() -> None:
    data = command([b"SADD", b"k", *(b"member-%06d" % n for n in range(100_000))])
    counted = CountedScanner()
    counted.feed(data[at : at + 16384] for at in range(0, len(data), 16384))
    assert counted.frames == [data]
    assert counted.copied <= 4 * len(data)


def test_one_missing_byte_is_known_and_so_are_all_received() -> None:
    data = command([b"SADD", *(b"member-%06d" % n for n in range(3000)), b"x" * 50_000])
    scanner = RequestScanner(RequestLimits())
    for at in range(0, len(data) - 1, 1000):
        scanner.feed(data[at : min(at + 1000, len(data) - 1)])
        assert not scanner.scan()
        assert scanner.buffered() == min(at + 1000, len(data) - 1)
    assert scanner.wanted() == 1
    scanner.feed(data[-1:])
    assert scanner.wanted() == 0
    assert scanner.scan()
    assert scanner.buffered() == 0
    assert scanner.wanted() == 0


def test_what_is_wanted_is_unknown_between_bulks() -> None:
    scanner = RequestScanner(RequestLimits())
    assert scanner.wanted() == 0
    scanner.feed(b"*2\r\n$3\r\nGET\r\n$1")
    assert not scanner.scan()
    assert scanner.wanted() == 0
    scanner.feed(b"0\r\nabc")
    assert not scanner.scan()
    assert scanner.wanted() == 9


def test_a_bulk_that_trickles_in_costs_about_its_size() -> None:
    data = command([b"SET", b"k", b"x" * 100_000])
    scanner = RequestScanner(RequestLimits())
    for byte in byte_by_byte(data[:-1]):
        scanner.feed(byte)
        assert not scanner.scan()
    held = sum(sys.getsizeof(piece) for piece in scanner._pieces)
    assert held < 2 * len(data)
    scanner.feed(data[-1:])
    assert scanner.scan()
    assert scanner.buffer[scanner.start : scanner.end] == data


@given(st.lists(st.integers(min_value=1, max_value=3 * PIECE), max_size=40), st.integers(SMALL, 60_000))
def test_pieces_of_all_sizes_are_put_together_in_order(sizes: list[int], length: int) -> None:
    payload = bytes(at * 7 % 251 for at in range(length))
    data = command([b"SET", b"k", payload]) + command([b"SADD", *cuts(payload, range(0, length, 50))]) + PING
    chunks: list[bytes] = []
    at = 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    chunks.append(data[at:])
    assert read_requests(filter(None, chunks)) == read_requests([data])


def test_feeding_nothing_changes_nothing() -> None:
    data = command([b"SADD", *(b"member-%06d" % n for n in range(3000))])
    chunks = [b"", PING, b"", *(data[at : at + 5000] for at in range(0, len(data), 5000))]
    interspersed = [piece for chunk in chunks for piece in (chunk, b"", b"")]
    assert read_requests(interspersed) == read_requests([PING + data])


def test_a_scanner_may_be_fed_before_it_is_empty() -> None:
    scanner = RequestScanner(RequestLimits())
    scanner.feed(PING * 2)
    assert scanner.scan()
    scanner.feed(PING)
    scanner.feed(b"")
    for _ in range(2):
        assert scanner.scan()
        assert scanner.buffer[scanner.start : scanner.end] == PING
    assert not scanner.scan()


def test_an_error_says_what_redis_says_without_its_code() -> None:
    scanner = RequestScanner(RequestLimits())
    scanner.feed(b"*x\r\n")
    with pytest.raises(ProtocolError, match=r"^Protocol error: invalid multibulk length$"):
        scanner.scan()
