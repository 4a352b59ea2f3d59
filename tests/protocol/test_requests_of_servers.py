"""Framing of requests, held against real servers: the same commands, the same errors, and never looser.

What a request framed as regular may not do is break the protocol at the node: it travels on a connection that
other clients share.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotproxy.protocol.requests import arguments_of, split_words
from slotproxy.protocol.resp import array, bulk, command
from tests.protocol.framing import Request, cuts, read_requests
from tests.protocol.live import LiveServer, live_server


@pytest.fixture(scope="module")
def server(redis_server: str) -> Iterator[LiveServer]:
    with live_server(redis_server) as server:
        yield server


def expected_answer(words: list[bytes]) -> bytes:
    """What a server answers to ECHO of anything, and the beginning of what it answers to no command."""
    name = words[0].lower()
    if name != b"echo":
        return b"-ERR unknown command"
    return bulk(words[1]) if len(words) == 2 else b"-ERR wrong number of arguments for 'echo' command"


def words_of(frame: Request) -> list[bytes]:
    return arguments_of(frame.raw) if frame.arguments is None else frame.arguments


def assert_same_verdict(server: LiveServer, data: bytes) -> None:
    """The server executes what is framed here in order, refuses what is refused here in the same words."""
    outcome = read_requests([data])
    answers = server.answers(data)
    expected = [expected_answer(words_of(frame)) for frame in outcome.frames if isinstance(frame, Request)]
    if outcome.error is not None:
        # ProtocolError holds a byte as the character of its number; line ends in an error become spaces.
        text = outcome.error.replace("\r", " ").replace("\n", " ")
        expected.append(b"-ERR " + text.encode("latin-1") + b"\r\n")
    assert len(answers) == len(expected), (answers, expected)
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer == wanted or (wanted.startswith(b"-ERR ") and answer.startswith(wanted)), data


ECHO = command([b"ECHO", b"x"])


@pytest.mark.parametrize(
    "data",
    [
        b"*x\r\n",
        b"*\r\n",
        b"*+1\r\n",
        b"*01\r\n",
        b"*-0\r\n",
        b"*-\r\n",
        b"*1 \r\n",
        b"*2147483648\r\n",
        b"*4294967297\r\n",
        b"*18446744073709551617\r\n",
        b"*9223372036854775807\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*-2147483649\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$\r\n",
        b"*1\r\n$01\r\n",
        b"*1\r\n$-0\r\n",
        b"*1\r\n$536870912\r\n",
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$4294967296\r\n",
        b"*1\r\n$18446744073709551620\r\n",
        b"*1\r\nx\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\n\r\n",
        b"*1\r\n\n\r\n",
        b"*1\r\n\xff\r\n",
        b"*1\r\n+OK\r",
        b"*1\r\n+OK",
        b"*1\rX$4\rXNONEXX",
        b"*2\r\n$4\r\nECHO\n\n$1\r\nx\r\r",
        b"*2\r\n$4\r\nECHO\r\n$1\n\r\n",
        b"*2\n$4\nECHO\n$1\nx\n",
        b"*0\r\n" + ECHO + b"*-1\r\n" + ECHO,
        b"\r\n\n \r\n" + ECHO,
        b"\r\r\n" + ECHO,
        ECHO + b"ECHO y\r\n" + ECHO + b"*1\r\n$x\r\n" + ECHO,
        b"*" + b"1" * 65_535,
        b"*" + b"1" * 65_536,
        b"*1\r\n$" + b"1" * 65_535,
        b"*1\r\n$" + b"1" * 65_536,
        b"*1\r\n+" + b"1" * 65_536,
        b"x" * 65_536,
        b"x" * 65_537,
        b"ECHO 'x\r\n",
        b'ECHO "x"y\r\n',
        b"ECHO x\x00\r\n" + ECHO,
        b"\x00\r\n" + ECHO,
    ],
)
def test_hostile_bytes_get_the_servers_own_words(server: LiveServer, data: bytes) -> None:
    assert_same_verdict(server, data)
    assert_same_verdict(server, ECHO + data)


@pytest.mark.parametrize(
    "data",
    [
        b"*-99999999999\r\n",  # no request for a server
        b"*1\x00\r\n",  # a line that never ends for a server
        b"*1\r\n$1\x00\r\n",
        b"*1\r\n\x00\r\n",
    ],
)
def test_where_we_refuse_what_a_server_lets_pass_in_silence(server: LiveServer, data: bytes) -> None:
    assert server.answers(data) == []
    assert read_requests([data]).error is not None


def mostly(usual: bytes, *others: bytes) -> st.SearchStrategy[bytes]:
    """`usual` nine times in ten."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(others) if n == 9 else st.just(usual))


# No NUL in a line (see above), no count between the limits of 6.2 and 7.0.
NUMBERS = (
    *(b"", b"-1", b"-0", b"0", b"00", b"1", b"2", b"3", b"4", b"04", b"+4", b"x", b"4x", b" 4"),
    *(b"2147483648", b"4294967298", b"9999999999", b"18446744073709551618", b"18446744073709551620"),
)
ENDS = (b"\r\r", b"\n\n", b"\rX", b"XY", b"\n", b"\r", b"")


@st.composite
def arguments(draw: st.DrawFn, word: bytes) -> bytes:
    number = draw(mostly(b"%d" % len(word), *NUMBERS))
    begin = draw(mostly(b"$", b"*", b"+", b"", b"\xfe", b"\n"))
    line_end, end = draw(mostly(b"\r\n", *ENDS)), draw(mostly(b"\r\n", *ENDS))
    return begin + number + line_end + word + end


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """An ECHO, rarely damaged in one place or more."""
    words = draw(mostly(b"ECHO x", b"echo", b"ECHO x y", b"EcHo x")).split()
    if len(words) == 2:
        words[1] = draw(st.binary(max_size=12) | st.sampled_from([b"*1\r\n$4\r\nNONE\r\n", b"\r\n", b"$"]))
    if draw(st.integers(0, 4)) == 0 and not any(byte in b"\x00\n" for word in words for byte in word):
        return b" ".join(words) + draw(mostly(b"\r\n", b"\n", b"\r\r\n"))
    count = draw(mostly(b"%d" % len(words), *NUMBERS))
    line_end = draw(mostly(b"\r\n", *ENDS))
    return b"*" + count + line_end + b"".join(draw(arguments(word)) for word in words)


STREAMS = st.lists(requests(), min_size=1, max_size=6).map(b"".join).filter(lambda data: b"\x00" not in data)


@settings(max_examples=200, deadline=None)
@given(data=STREAMS)
def test_damaged_streams_mean_to_servers_what_they_mean_here(server: LiveServer, data: bytes) -> None:
    assert_same_verdict(server, data)


@settings(max_examples=100, deadline=None)
@given(streams=st.lists(st.lists(requests(), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_regular_request_is_never_a_protocol_error_at_a_server(
    server: LiveServer, streams: list[list[bytes]]
) -> None:
    """Regular requests of many clients on one connection: each gets one answer, and so does the last."""
    regular = [
        frame
        for stream in streams
        for frame in read_requests([b"".join(stream)]).frames
        if isinstance(frame, Request) and not frame.irregular
    ]
    answers = server.answers(b"".join(frame.raw for frame in regular) + command([b"ECHO", b"the last"]))
    assert answers[-1] == bulk(b"the last")
    for frame, answer in zip(regular, answers[:-1], strict=True):
        wanted = expected_answer(words_of(frame))
        assert answer == wanted or (wanted.startswith(b"-ERR") and answer.startswith(wanted))


ANY_BYTES = st.lists(
    st.sampled_from(
        [b"*1\r\n", b"*2\r\n", b"*3\r\n", b"$1\r\n", b"$4\r\n", b"\r\n", b"A", b"\x00", b"\xff", b"ECHO"]
    )
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(data=ANY_BYTES, cut=st.lists(st.integers(0, 200), max_size=5))
def test_nor_is_one_out_of_arbitrary_bytes(server: LiveServer, data: bytes, cut: list[int]) -> None:
    regular = [
        frame
        for frame in read_requests(cuts(data, cut)).frames
        if isinstance(frame, Request) and not frame.irregular
    ]
    answers = server.answers(b"".join(frame.raw for frame in regular) + command([b"ECHO", b"the last"]))
    assert len(answers) == len(regular) + 1
    assert answers[-1] == bulk(b"the last")


INLINE = st.lists(
    st.sampled_from(
        [b'"', b"'", b"\\", b" ", b"\t", b"\v", b"\f", b"\r", b"\\x", b"\\x4", b"\\x41", b"\\n", b"\\'"]
    )
    | st.sampled_from([bytes([byte]) for byte in string.printable.encode() if byte != 0x0A])
    | st.sampled_from([b"\x80", b"\xa0", b"\xff", b"\x01", b'\\"', b'" ', b"' ", b' "', b" '"]),
    max_size=16,
).map(b"".join)


@settings(max_examples=600, deadline=None)
@given(line=INLINE)
def test_inline_words_are_the_servers(server: LiveServer, line: bytes) -> None:
    """EVAL gives back what the server took for its arguments."""
    request = b'EVAL "return ARGV" 0 ' + line + b"\r\n"
    (answer,) = server.answers(request)
    words = split_words(line + b"\r" if line.endswith(b"\r") else line)
    if words is None:
        assert answer == b"-ERR Protocol error: unbalanced quotes in request\r\n"
    else:
        assert answer == array([bulk(word) for word in words])
        (frame,) = read_requests([request]).frames
        assert isinstance(frame, Request) and frame.arguments == [b"EVAL", b"return ARGV", b"0", *words]
