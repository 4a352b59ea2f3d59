"""Blocks: what the node's replies to MULTI, each command and EXEC mean together, held against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.blocks import EXEC, LOOSE, MULTI, NOT_RUN, QUEUED, RUN, aborted, block_of, judge
from slotproxy.protocol.redirects import refusal_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import NULL_ARRAY, OK, command
from tests.protocol.framing import read_requests
from tests.protocol.live import LiveServer, live_server

MOVED = b"-MOVED 5 127.0.0.1:7002\r\n"
ASK = b"-ASK 5 127.0.0.1:7002\r\n"
AGAIN = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
DOWN = b"-CLUSTERDOWN The cluster is down\r\n"
READONLY = b"-READONLY You can't write against a read only replica.\r\n"
NOPERM = b"-NOPERM this user has no permissions to run the 'incr' command\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
REFUSALS = [MOVED, ASK, AGAIN, DOWN, READONLY]


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=5))
def test_a_block_is_its_commands_between_multi_and_exec(commands: list[list[bytes]]) -> None:
    raw = block_of([command(words) for words in commands])
    frames = read_requests([raw]).frames
    assert raw.startswith(MULTI)
    assert raw.endswith(EXEC)
    found = [arguments_of(frame if isinstance(frame, bytes) else frame.raw) for frame in frames]
    assert found == [[b"MULTI"], *commands, [b"EXEC"]]


@pytest.mark.parametrize("executed", [b"*0\r\n", b"*1\r\n:1\r\n", NULL_ARRAY, b"*1\r\n" + MOVED])
def test_an_array_or_nil_has_run(executed: bytes) -> None:
    verdict = judge([OK, QUEUED], executed)
    assert (verdict.outcome, verdict.reply) == (RUN, executed)


@pytest.mark.parametrize("refusal", [*REFUSALS, NOPERM])
@pytest.mark.parametrize("at", range(3))
def test_an_error_at_queueing_is_why_it_did_not_run(refusal: bytes, at: int) -> None:
    before = [OK, QUEUED, QUEUED, QUEUED]
    before[1 + at] = refusal
    verdict = judge(before, ABORTED)
    assert (verdict.outcome, verdict.reply) == (NOT_RUN, refusal)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_at_exec_is_why_it_did_not_run(refusal: bytes) -> None:
    verdict = judge([OK, QUEUED], refusal)
    assert (verdict.outcome, verdict.reply) == (NOT_RUN, refusal)


@pytest.mark.parametrize("refusal", [READONLY, b"-NOREPLICAS Not enough good replicas\r\n", b"-MASTERDOWN\r\n"])
def test_a_refusal_in_the_text_of_an_abort_is_found(refusal: bytes) -> None:
    verdict = judge([OK, QUEUED], b"-EXECABORT Transaction discarded because of: " + refusal[1:])
    assert (verdict.outcome, verdict.reply) == (NOT_RUN, refusal)


@given(st.permutations([ASK, NOPERM, MOVED, QUEUED]))
def test_of_several_errors_the_one_that_will_not_pass_comes_first(errors: list[bytes]) -> None:
    assert judge([OK, *errors], ABORTED).reply == NOPERM


@given(st.permutations([ASK, MOVED, QUEUED, AGAIN]))
def test_of_several_that_pass_the_first_one_counts(errors: list[bytes]) -> None:
    first = next(reply for reply in errors if reply != QUEUED)
    assert judge([OK, *errors], ABORTED).reply == first


@pytest.mark.parametrize("opened", [NOPERM.replace(b"incr", b"multi"), b"-ERR\r\n"])
def test_without_multi_the_commands_ran_one_by_one(opened: bytes) -> None:
    assert judge([opened, b":1\r\n", MOVED], b"-ERR EXEC without MULTI\r\n").outcome == LOOSE


@given(
    st.lists(st.sampled_from([QUEUED, *REFUSALS, NOPERM]), max_size=4),
    st.sampled_from([b"*1\r\n:1\r\n", NULL_ARRAY, ABORTED, *REFUSALS]),
)
def test_nothing_that_ran_is_ever_said_not_to_have_run(before: list[bytes], executed: bytes) -> None:
    """An array after an error at queueing is nothing that a server says; all else is one way or the other."""
    verdict = judge([OK, *before], executed)
    if executed[:1] == b"*" and all(reply == QUEUED for reply in before):
        assert verdict.outcome == RUN
    elif executed[:1] == b"-":
        assert verdict.outcome == NOT_RUN
        assert verdict.reply[:1] == b"-"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (NOPERM, b"-EXECABORT Transaction discarded because of: " + NOPERM[1:]),
        (b"-ERR what\r\n", b"-EXECABORT Transaction discarded because of: what\r\n"),
        (ABORTED, ABORTED),
    ],
)
def test_an_abort_names_its_reason(reason: bytes, expected: bytes) -> None:
    assert aborted(reason) == expected
    assert refusal_of(expected) is None


PLAYS: list[tuple[list[list[bytes]], int]] = [
    ([[b"PING"], [b"ECHO", b"x"]], RUN),
    ([], RUN),
    ([[b"EVAL", b"return redis.error_reply('MOVED 1 10.9.9.9:1')", b"0"]], RUN),
    ([[b"EVAL", b"return redis.error_reply('EXECABORT Transaction discarded because of: x')", b"0"]], RUN),
    ([[b"PING"], [b"NOSUCH"]], NOT_RUN),
    ([[b"GET"]], NOT_RUN),
    ([[b"SET", b"x", b"1"]], NOT_RUN),  # the server has no slots
    ([[b"PING"], [b"SET", b"x", b"1"], [b"PING"]], NOT_RUN),
]


@pytest.fixture(scope="module")
def server(redis_server: str) -> Iterator[LiveServer]:
    with live_server(redis_server) as server:
        yield server


@pytest.mark.parametrize(("requests", "outcome"), PLAYS)
def test_what_a_real_server_says(server: LiveServer, requests: list[list[bytes]], outcome: int) -> None:
    *before, executed = server.answers(block_of([command(words) for words in requests]))
    assert len(before) == len(requests) + 1
    verdict = judge(before, executed)
    assert verdict.outcome == outcome
    assert (verdict.reply == executed) == (outcome == RUN)


@pytest.mark.parametrize(("denied", "outcome"), [(b"-multi", LOOSE), (b"-exec", NOT_RUN), (b"-ping", NOT_RUN)])
def test_what_a_real_server_says_to_a_user_who_may_not(server: LiveServer, denied: bytes, outcome: int) -> None:
    server.answers(command([b"ACL", b"SETUSER", b"limited", b"reset", b"on", b">x", b"+@all", denied]))
    login = command([b"AUTH", b"limited", b"x"])
    block = block_of([command([b"PING"]), command([b"ECHO", b"x"])])
    _, *before, executed, after = server.answers(login + block + command([b"ECHO", b"y"]))
    assert after == b"$1\r\ny\r\n"  # the block has ended, whatever was denied
    verdict = judge(before, executed)
    assert verdict.outcome == outcome
    if outcome == NOT_RUN:
        assert verdict.reply.startswith(b"-NOPERM this user has no permissions to run the ")
