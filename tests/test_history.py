"""The checker catches what it is for, and lets everything pass that a correct server may answer."""

from __future__ import annotations

import random

import pytest

from slotproxy.demo.connection import ErrorReply
from tests.history import IN_DOUBT, Command, History, keys_of

DOUBT = ErrorReply("ERR slotproxy: in doubt: INCR may or may not have run: …")


def counted(*replies: object) -> History:
    """INCRs of one counter with these replies."""
    history = History("test")
    for reply in replies:
        history.record(("INCR", "c"), reply)
    return history


def kinds(history: History) -> list[str]:
    return [violation.kind for violation in history.violations()]


def test_counting_is_possible() -> None:
    history = counted(1, 2, 3)
    history.record(("GET", "c"), b"3")
    assert history.violations() == []
    history.assert_possible()


def test_a_swap_is_caught() -> None:
    assert kinds(counted(1, 3, 2, 4)) == ["ahead", "behind", "ahead"]


def test_a_swap_of_the_first_and_last_is_caught() -> None:
    assert kinds(counted(2, 1)) == ["ahead", "behind"]


def test_a_lost_increment_is_caught() -> None:
    assert kinds(counted(1, 2, 2)) == ["behind"]
    history = counted(1, 2, 3)
    history.record(("GET", "c"), b"2")
    assert kinds(history) == ["behind"]


def test_a_lost_key_is_caught() -> None:
    history = counted(1, 2)
    history.record(("GET", "c"), None)
    assert kinds(history) == ["wrong"]


def test_a_doubled_increment_is_caught() -> None:
    assert kinds(counted(1, 3)) == ["ahead"]
    history = counted(1, 2)
    history.record(("GET", "c"), b"3")
    assert kinds(history) == ["ahead"]


def test_what_is_in_doubt_may_have_run_or_not() -> None:
    for after in (2, 3, 4):
        assert counted(1, DOUBT, DOUBT, after, after + 1).violations() == []
    assert kinds(counted(1, DOUBT, DOUBT, 5)) == ["ahead"]
    assert kinds(counted(1, DOUBT, DOUBT, 1)) == ["behind"]


def test_what_is_in_doubt_does_not_run_later() -> None:
    # Acknowledged as 2: the doubtful one had not run; so it must not run between 2 and 3 either.
    assert kinds(counted(1, DOUBT, 2, 4)) == ["ahead"]


def test_the_last_value_lies_between_acknowledged_and_in_doubt() -> None:
    for value, found in ((b"1", []), (b"2", []), (b"3", ["ahead"]), (b"0", ["behind"])):
        history = counted(1, DOUBT)
        history.record(("GET", "c"), value)
        assert kinds(history) == found
        assert history.increments("c") == (1, 1)
        assert (history.in_doubt, history.answered) == (1, 2)


def test_an_error_is_never_possible() -> None:
    history = counted(1, ErrorReply("MOVED 42 127.0.0.1:1"), 2)
    assert kinds(history)[0] == "error"
    with pytest.raises(AssertionError, match="MOVED 42"):
        history.assert_possible()


def test_an_error_that_redis_gives_is_possible() -> None:
    history = History("test")
    history.record(("RENAME", "a", "b"), ErrorReply("ERR no such key"))
    assert history.violations() == []


def test_values_prove_the_order_around_a_barrier() -> None:
    right: list[tuple[Command, object]] = [
        (("MSET", "a", 7, "b", 7), b"OK"),
        (("INCR", "a"), 8),
        (("RENAME", "a", "z"), b"OK"),
        (("SET", "a", 1), b"OK"),
        (("MGET", "a", "b", "z"), [b"1", b"7", b"8"]),
    ]
    history = History("test")
    for command, reply in right:
        history.record(command, reply)
    assert history.violations() == []
    # INCR before MSET, SET before RENAME: what a proxy without barriers answers.
    for place, reply in ((1, 1), (4, [None, b"7", b"1"])):
        history = History("test")
        for index, (command, expected) in enumerate(right):
            history.record(command, reply if index == place else expected)
        assert history.violations()[0].place == place


def test_doubt_about_a_rename_is_carried_on() -> None:
    def renamed(reply: object) -> History:
        history = History("test")
        history.record(("SET", "a", 1), b"OK")
        history.record(("RENAME", "a", "z"), DOUBT)
        history.record(("MGET", "a", "z"), reply)
        return history

    assert not renamed([b"1", None]).violations()
    assert not renamed([None, b"1"]).violations()
    assert kinds(renamed([b"1", b"1"])) == ["wrong"]
    assert kinds(renamed([None, None])) == ["wrong"]


def test_a_lost_read_changes_nothing() -> None:
    history = counted(1)
    history.record(("GET", "c"), ErrorReply("ERR slotproxy: no answer: GET was lost …"))
    history.record(("INCR", "c"), 2)
    assert history.violations() == [] and history.in_doubt == 1


def test_hundreds_in_doubt_do_not_take_for_ever() -> None:
    history = History("test")
    for number in range(300):
        history.record(("INCR", f"c{number % 2}"), DOUBT)
        history.record(("MSET", "a", number, "b", number), DOUBT)
    history.record(("GET", "c0"), b"150")
    history.record(("MGET", "a", "b"), [b"17", b"17"])
    assert history.violations() == []
    history.record(("MGET", "a", "b"), [b"17", b"18"])
    assert kinds(history) == ["wrong"]


def test_any_order_but_the_right_one_is_caught() -> None:
    for seed in range(50):
        replies: list[object] = list(range(1, 30))
        random.Random(seed).shuffle(replies)
        assert counted(*replies).violations()


def test_keys() -> None:
    assert keys_of(("MSET", "a", 1, "b", 2)) == ["a", "b"]
    assert keys_of(("SADD", "a", "m", "n")) == ["a"]
    assert keys_of(("RENAME", "a", "b")) == ["a", "b"]
    history = counted(1, IN_DOUBT)
    history.record(("SINTER", "s", "t"), [])
    assert history.keys() == ["c", "s", "t"] and history.keys_that("INCR") == ["c"]


def test_sets_are_compared_without_order() -> None:
    history = History("test")
    history.record(("SADD", "s", "m", "n", "o"), 3)
    history.record(("SADD", "t", "o", "n"), 2)
    history.record(("SINTER", "s", "t"), [b"o", b"n"])
    assert history.violations() == []
    history.record(("SINTER", "s", "t"), [b"o"])
    assert kinds(history) == ["wrong"]
