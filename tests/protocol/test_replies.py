"""Framing of replies: every type of RESP2 and RESP3, at any nesting, in any chunking."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.frames import ProtocolError
from slotproxy.protocol.replies import ReplyScanner, elements_of
from slotproxy.protocol.resp import array, bulk, integer
from tests.protocol.framing import Outcome, byte_by_byte, cut_positions, cuts, each_way, read_replies

OK = b"+OK\r\n"


def framed(data: bytes) -> list[bytes]:
    """The replies in `data`, fed in all ways; it holds nothing else."""
    outcome = each_way(read_replies, data, first=OK, trailing=b"*2\r\n:1\r\n$3\r\nab")
    assert outcome.error is None and outcome.left == 0
    return outcome.frames  # type: ignore[return-value]


def refused(data: bytes) -> str:
    outcome = each_way(read_replies, data, first=OK, trailing=b"")
    assert outcome.error is not None, outcome
    return outcome.error


def unfinished(data: bytes) -> None:
    assert each_way(read_replies, data, first=OK, trailing=b"") == Outcome([], None, len(data))


# ---- types

SCALARS = [
    b"+OK\r\n",
    b"+\r\n",
    b"-ERR no\r\n",
    b"-MOVED 1 127.0.0.1:7000\r\n",
    b":0\r\n",
    b":-9223372036854775808\r\n",
    b"$0\r\n\r\n",
    b"$3\r\na\r\n\r\n",
    b"$10\r\n0123456789\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#f\r\n",
    b",3.14\r\n",
    b",inf\r\n",
    b",nan\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"!0\r\n\r\n",
    b"=15\r\ntxt:Some string\r\n",
]
EMPTY = [b"*0\r\n", b"%0\r\n", b"~0\r\n", b">0\r\n"]
NESTED = [
    b"*3\r\n:1\r\n$1\r\na\r\n+b\r\n",
    b"*2\r\n*2\r\n:1\r\n*0\r\n*-1\r\n",
    b"%2\r\n+a\r\n:1\r\n+a\r\n%1\r\n*1\r\n:1\r\n~1\r\n_\r\n",
    b"~2\r\n#t\r\n~0\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"*1\r\n!3\r\nERR\r\n",
    b"*1\r\n-ERR inside\r\n",
]
ATTRIBUTED = [
    b"|0\r\n+OK\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
    b"|1\r\n$1\r\na\r\n%1\r\n:1\r\n*0\r\n*2\r\n:1\r\n:2\r\n",
    b"|1\r\n+a\r\n:1\r\n|1\r\n+b\r\n:2\r\n:3\r\n",
    b"*3\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n:2\r\n:3\r\n",
    b"%1\r\n|1\r\n+a\r\n:1\r\n+key\r\n|1\r\n+b\r\n|1\r\n+c\r\n:1\r\n:2\r\n$-1\r\n",
    b"|1\r\n|1\r\n+x\r\n:0\r\n+a\r\n:1\r\n-ERR no\r\n",
]


@pytest.mark.parametrize("reply", SCALARS + EMPTY + NESTED + ATTRIBUTED)
def test_a_reply_leaves_as_it_came(reply: bytes) -> None:
    assert framed(reply) == [reply]


@pytest.mark.parametrize("reply", ATTRIBUTED)
def test_an_attribute_is_no_reply_of_its_own(reply: bytes) -> None:
    assert framed(OK + reply + reply + OK) == [OK, reply, reply, OK]


def test_replies_of_all_types_follow_one_another() -> None:
    replies = SCALARS + EMPTY + NESTED + ATTRIBUTED
    assert read_replies([b"".join(replies)]) == Outcome(replies, None, 0)


def test_the_kind_is_the_first_byte() -> None:
    for reply in SCALARS + EMPTY + NESTED + ATTRIBUTED:
        scanner = ReplyScanner()
        scanner.feed(reply)
        assert scanner.scan()
        assert scanner.kind == reply[0]


def test_deep_nesting_is_no_recursion() -> None:
    depth = 3 * sys.getrecursionlimit()
    data = b"*1\r\n" * depth + b"|1\r\n+a\r\n" * depth + b"_\r\n" * (depth + 1)
    assert read_replies([data, OK]) == Outcome([data, OK], None, 0)


# ---- any reply, any chunks


def lines(kinds: str) -> st.SearchStrategy[bytes]:
    text = st.binary(max_size=12).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
    return st.builds(lambda kind, line: kind.encode() + line + b"\r\n", st.sampled_from(kinds), text)


def aggregates(element: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    elements = st.lists(element, max_size=5)
    pairs = st.lists(st.tuples(element, element).map(b"".join), max_size=3)
    return (
        st.builds(
            lambda kind, all: kind + b"%d\r\n" % len(all) + b"".join(all),
            st.sampled_from([b"*", b"~", b">"]),
            elements,
        )
        | pairs.map(lambda all: b"%%%d\r\n" % len(all) + b"".join(all))
        | st.tuples(pairs, element).map(lambda both: b"|%d\r\n" % len(both[0]) + b"".join(both[0]) + both[1])
    )


BLOBS = st.builds(
    lambda kind, data: kind + b"%d\r\n" % len(data) + data + b"\r\n",
    st.sampled_from([b"$", b"!", b"="]),
    st.binary(max_size=40),
)
REPLIES = st.recursive(
    lines("+-:_,#(") | BLOBS | st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]), aggregates, max_leaves=20
)


@given(st.lists(REPLIES, min_size=1, max_size=6), cut_positions)
def test_any_split_of_any_replies_gives_the_same_replies(replies: list[bytes], positions: list[int]) -> None:
    data = b"".join(replies)
    assert read_replies(cuts(data, positions)) == Outcome(replies, None, 0)
    assert read_replies(byte_by_byte(data)) == Outcome(replies, None, 0)


@given(REPLIES)
def test_nothing_but_its_last_byte_completes_a_reply(reply: bytes) -> None:
    assert read_replies([reply[:-1]]) == Outcome([], None, len(reply) - 1)


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([bytes([kind]) for kind in b"+-:_,#($!=*~>%|?"]),
        st.sampled_from([b"\r\n", b"\r", b"\n", b"-1", b"0", b"1", b"\x00"]),
        st.integers(min_value=-(2**66), max_value=2**66).map(lambda number: b"%d\r\n" % number),
        REPLIES,
        st.binary(max_size=4),
    ),
    max_size=12,
).map(b"".join)


@given(HOSTILE, cut_positions)
def test_hostile_bytes_raise_nothing_but_protocol_error(data: bytes, positions: list[int]) -> None:
    whole = read_replies([data])
    for other in (read_replies(cuts(data, positions)), read_replies(byte_by_byte(data))):
        assert other.frames == whole.frames
        assert (other.error is None) == (whole.error is None)
        assert other.left == whole.left
    if whole.error is None:
        assert sum(map(len, whole.frames)) + whole.left == len(data)


# ---- what breaks the protocol


@pytest.mark.parametrize("kind", [b"$", b"*", b"!", b"=", b"~", b">", b"%", b"|"])
@pytest.mark.parametrize(
    "length", [b"", b"x", b"+1", b"01", b"-0", b"-2", b"-", b"1 ", b"?", b"10000000000", b"-9999999999"]
)
def test_a_length_that_is_no_length_is_refused(kind: bytes, length: bytes) -> None:
    assert "bad reply length" in refused(kind + length + b"\r\n")


@pytest.mark.parametrize("kind", [b"!", b"=", b"~", b">", b"%", b"|"])
def test_only_bulks_and_arrays_are_null_by_length(kind: bytes) -> None:
    assert "bad reply length" in refused(kind + b"-1\r\n")


@pytest.mark.parametrize("number", [2**31, 2**32 + 1, 2**33])
@pytest.mark.parametrize("kind", [b"$", b"*", b"!", b"=", b"~", b">", b"%", b"|"])
def test_a_huge_length_is_waited_for_and_reserves_nothing(kind: bytes, number: int) -> None:
    unfinished(kind + b"%d\r\n" % number)
    unfinished((kind + b"%d\r\n" % number) * (4 if kind in b"*~>%|" else 1))


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64, 2**64 + 1, 2**64 - 1, 10**30])
@pytest.mark.parametrize("kind", [b"$", b"*", b"!", b"=", b"~", b">", b"%", b"|"])
def test_no_length_wraps_into_the_allowed_range(kind: bytes, number: int) -> None:
    assert "bad reply length" in refused(kind + b"%d\r\n" % number)
    assert "bad reply length" in refused(kind + b"-%d\r\n" % number)


@pytest.mark.parametrize(
    "data",
    [
        b"+OK\rX",
        b"$1\rX",
        b"*1\rX",
        b"%1\rX",
        b"!1\rX",
        b"$1\r\nabc",
        b"$1\r\na\rX",
        b"!1\r\nab\n",
        b"=1\r\na\rX",
    ],
)
def test_a_frame_without_crlf_is_refused(data: bytes) -> None:
    assert "bad reply" in refused(data + b"zz")


@pytest.mark.parametrize(
    "data", [b"x", b"\r\n", b"\n", b"\x00", b"?1\r\n", b";4\r\n", b".\r\n", b"&", b"PING\r\n"]
)
def test_an_unknown_type_is_refused_wherever_it_stands(data: bytes) -> None:
    for before in (b"", b"*1\r\n", b"|1\r\n+a\r\n"):
        assert "bad reply type" in refused(before + data)


def test_a_length_line_without_end_is_refused_early() -> None:
    for kind in (b"$", b"*", b"%"):
        unfinished(kind + b"x" * 31)
        assert "bad reply length" in refused(kind + b"x" * 32)


def test_a_line_without_end_is_refused_at_one_mebibyte() -> None:
    for kind in (b"+", b"-", b":", b"("):
        # The interpreted scanner looks at each byte again with each chunk: few chunks.
        line = kind + b"1" * ((1 << 20) - 1)
        assert read_replies([line[:500_000], line[500_000:]]) == Outcome([], None, len(line))
        assert read_replies([line + b"\r\n"]) == Outcome([line + b"\r\n"], None, 0)
        assert read_replies([line + b"1"]).error is not None


def test_the_replies_before_the_error_are_delivered() -> None:
    outcome = each_way(read_replies, OK + b":1\r\n?", first=OK, trailing=b"")
    assert outcome.frames == [OK, b":1\r\n"]
    assert outcome.error == "Protocol error: bad reply type"


def test_the_error_shows_where_the_reply_breaks() -> None:
    scanner = ReplyScanner()
    scanner.feed(OK + b"*2\r\n:1\r\n?what\x00is this that comes")
    assert scanner.scan()
    with pytest.raises(ProtocolError, match=r"^Protocol error: bad reply type at '\?what\\x00is this th'$"):
        scanner.scan()


# ---- work and memory


def read_counted(chunks: Iterable[bytes]) -> tuple[list[bytes], int]:
    """The replies, and how many bytes were copied into new buffers for them."""
    scanner = ReplyScanner()
    frames: list[bytes] = []
    copied = 0
    for chunk in chunks:
        before = scanner.buffer
        scanner.feed(chunk)
        if scanner.buffer is not before and scanner.buffer is not chunk:
            copied += len(scanner.buffer)
        while True:
            before = scanner.buffer
            framed = scanner.scan()
            if scanner.buffer is not before:
                copied += len(scanner.buffer)
            if not framed:
                break
            frames.append(scanner.buffer[scanner.start : scanner.end])
    return frames, copied


def test_a_bulk_that_comes_in_pieces_is_joined_once() -> None:
    data = bulk(bytes(1 << 20))
    frames, copied = read_counted(data[at : at + 1024] for at in range(0, len(data), 1024))
    assert frames == [data]
    assert copied <= len(data) + 2048


@pytest.mark.parametrize("element", [b"$10\r\n0123456789\r\n", b":1\r\n", b"%1\r\n+a\r\n~1\r\n_\r\n"])
def test_a_large_array_in_chunks_is_copied_a_bounded_number_of_times(element: bytes) -> None:
    data = array([element] * 100_000)
    frames, copied = read_counted(data[at : at + 8192] for at in range(0, len(data), 8192))
    assert frames == [data]
    assert copied <= 5 * len(data)


def test_large_bulks_inside_an_array_are_copied_a_bounded_number_of_times() -> None:
    data = array([bulk(bytes(100_000))] * 50)
    frames, copied = read_counted(data[at : at + 16384] for at in range(0, len(data), 16384))
    assert frames == [data]
    assert copied <= 4 * len(data)


def test_a_bulk_that_trickles_in_costs_about_its_size() -> None:
    data = bulk(b"x" * 100_000)
    scanner = ReplyScanner()
    for byte in byte_by_byte(data[:-1]):
        scanner.feed(byte)
        assert not scanner.scan()
    assert sum(sys.getsizeof(piece) for piece in scanner._pieces) < 2 * len(data)
    scanner.feed(data[-1:])
    assert scanner.scan()
    assert scanner.buffer[scanner.start : scanner.end] == data


def test_all_bytes_received_are_known_and_what_a_bulk_lacks() -> None:
    lines = array([b"+line\r\n"] * 9000)
    data = lines + bulk(b"x" * 100)
    scanner = ReplyScanner()
    for at in range(0, len(lines) - 1000, 1000):
        scanner.feed(data[at : at + 1000])
        assert not scanner.scan()
        assert (scanner.buffered(), scanner.wanted()) == (at + 1000, 0)
    scanner.feed(data[at + 1000 : -3])
    assert scanner.scan() and not scanner.scan()
    assert (scanner.buffered(), scanner.wanted()) == (105, 3)
    scanner.feed(data[-3:-1])
    assert (scanner.buffered(), scanner.wanted()) == (107, 1)
    assert not scanner.scan()
    scanner.feed(data[-1:])
    assert scanner.wanted() == 0
    assert scanner.scan()
    assert scanner.buffered() == 0


@given(st.lists(st.integers(min_value=0, max_value=30_000), max_size=30))
def test_pieces_of_all_sizes_are_put_together_in_order(sizes: list[int]) -> None:
    replies = [
        array([integer(n) for n in range(6000)]),
        array([bulk(bytes(n % 251 for n in range(20_000)))] * 3),
        OK,
        b"|1\r\n+a\r\n" + array([b"$1\r\nx\r\n"] * 4000) + b"%1\r\n+k\r\n+v\r\n",
    ]
    data = b"".join(replies)
    chunks: list[bytes] = []
    at = 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    chunks.append(data[at:])
    assert read_replies(chunks) == Outcome(replies, None, 0)


# ---- elements


@given(st.lists(REPLIES, max_size=6), st.sampled_from([b"*", b"~", b">"]))
def test_the_elements_of_an_aggregate_are_the_frames_it_was_made_of(
    elements: list[bytes], kind: bytes
) -> None:
    assert elements_of(kind + b"%d\r\n" % len(elements) + b"".join(elements)) == elements


@pytest.mark.parametrize(
    "reply", [b"", *SCALARS, b"%0\r\n", b"%1\r\n+a\r\n+b\r\n", b"|0\r\n*0\r\n", b"*x\r\n", b"*1"]
)
def test_what_is_no_array_set_or_push_has_no_elements(reply: bytes) -> None:
    assert elements_of(reply) is None


@pytest.mark.parametrize(
    "reply",
    [b"*1\r\n", b"*2\r\n:1\r\n", b"*0\r\n:1\r\n", b"*1\r\n:1\r\n:2\r\n", b"*1\r\n:1\r\n:", b"*1\r\n?\r\n"],
)
def test_frames_that_do_not_fill_the_array_exactly_are_refused(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        elements_of(reply)
