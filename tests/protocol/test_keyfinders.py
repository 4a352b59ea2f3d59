"""Hand-written key extraction; that real servers agree is for test_keys_of_servers."""

from __future__ import annotations

import pytest

from slotproxy.protocol.keyfinders import (
    KeysError,
    RangeFinder,
    built_in_finder,
    leading_number,
    same_word,
)


def keys(line: bytes, before_7: bool = False) -> list[bytes]:
    """The keys of a line; `""` stands for an empty argument."""
    args = [b"" if word == b'""' else word for word in line.split()]
    finder = built_in_finder(args[0].decode().lower(), before_7)
    assert finder is not None
    return [args[at] for at in finder.positions(args)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"SORT k", b"k"),
        (b"SORT k BY w_* GET o_* STORE d", b"k d"),
        (b"SORT k STORE d STORE e", b"k e"),
        (b"SORT k STORE", b"k"),
        (b"SORT k BY STORE d", b"k"),
        (b"SORT k LIMIT STORE STORE sToRe d", b"k d"),
        (b"SORT k STORE STORE d", b"k d"),
        (b"SORT k LIMIT 1 STORE d", b"k"),
        (b"SORT_RO k STORE d", b"k"),
        (b"GEORADIUS k 1 2 3 m", b"k"),
        (b"GEORADIUS k 1 2 3 m STORE d", b"k d"),
        (b"GEORADIUS k 1 2 3 m STORE d STOREDIST e", b"k e"),
        (b"GEORADIUS k 1 2 3 m STORE STORE STORE d", b"k d"),
        (b"GEORADIUSBYMEMBER k m 3 m storedist d", b"k d"),
        (b"GEORADIUSBYMEMBER k m 3 m STORE", b"k"),
        (b"XREAD STREAMS a b 1 2", b"a b"),
        (b"XREAD COUNT STREAMS BLOCK 0 streams STREAMS 1", b"STREAMS"),
        (b"XREADGROUP GROUP STREAMS STREAMS NOACK COUNT 1 STREAMS a b > >", b"a b"),
        (b"MIGRATE h 1 k 0 9", b"k"),
        (b"MIGRATE h 1 k 0 9 COPY AUTH keys", b"k"),
        (b'MIGRATE h 1 "" 0 9 REPLACE AUTH2 keys keys KEYS a b', b"a b"),
    ],
)
def test_keys_of_movable_commands(line: bytes, expected: bytes) -> None:
    assert keys(line) == expected.split()
    assert keys(line.lower()) == expected.lower().split()


@pytest.mark.parametrize(
    "line",
    [
        b"XREAD STREAMS a b 1",
        b"XREAD STREAMS",
        b"XREAD COUNT 1 BLOCK",
        b"XREAD COUNT 1 NONSENSE STREAMS a 1",
        b"XREADGROUP GROUP g STREAMS a >",
        b"MIGRATE h 1 k 0 9 KEYS a b",
        b'MIGRATE h 1 "" 0 9 KEYS',
    ],
)
def test_nonsense_has_no_keys(line: bytes) -> None:
    with pytest.raises(KeysError, match=r"^Invalid arguments specified for command$"):
        keys(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"MIGRATE h 1 k 0 9 KEYS a b", b"k"),
        (b'MIGRATE h 1 "" 0 9 AUTH keys KEYS a', b"KEYS a"),
        (b"STRALGO LCS KEYS a b", b"a b"),
        (b"STRALGO LCS IDX keys a b KEYS c d", b"a b"),
        (b"STRALGO LCS STRINGS KEYS a b", b""),
        (b"STRALGO LCS KEYS a", b""),
        (b"MEMORY USAGE k SAMPLES 5", b"k"),
        (b"MEMORY STATS k", b""),
        (b"MEMORY USAGE", b""),
    ],
)
def test_what_6_2_finds_otherwise(line: bytes, expected: bytes) -> None:
    assert keys(line, before_7=True) == expected.split()


def test_nothing_is_hand_written_where_the_server_tells_all() -> None:
    for name in ("get", "eval", "zunionstore", "object", "memory", "stralgo", "lmpop", "pfmerge"):
        assert built_in_finder(name, False) is None


def test_a_range_past_the_end_has_no_keys() -> None:
    assert RangeFinder(2, 2, 1).positions([b"OBJECT", b"HELP"]) == []
    assert RangeFinder(1, 2, 1).positions([b"X", b"a"]) == []
    assert RangeFinder(1, -1, 1).positions([b"SUNSUBSCRIBE"]) == []
    assert RangeFinder(1, -2, 1).positions([b"BLPOP", b"a", b"b", b"0"]) == [1, 2]
    assert RangeFinder(1, -1, 2).positions([b"MSET", b"a", b"1", b"b"]) == [1, 3]


@pytest.mark.parametrize(
    ("arg", "same"),
    [
        (b"STORE", True),
        (b"sToRe", True),
        (b"store\x00dist", True),
        (b"STOREDIST", False),
        (b"STOR", False),
        (b"", False),
        (b"\x00STORE", False),
    ],
)
def test_words_compare_as_strcasecmp_does(arg: bytes, same: bool) -> None:
    assert same_word(arg, b"STORE") is same


@pytest.mark.parametrize(
    ("arg", "number"),
    [
        (b"0", 0),
        (b"12", 12),
        (b"012", 12),
        (b"+1", 1),
        (b"-3", -3),
        (b" \t2", 2),
        (b"1x", 1),
        (b"x1", 0),
        (b"", 0),
        (b"-", 0),
        (b"+-1", 0),
        (b"1\x002", 1),
        (b"999999999", 999999999),
        (b"00000000000000000001", 1),
        (b"4294967297", -1),
        (b"9" * 5000, -1),
    ],
)
def test_numbers_read_as_atoi_reads_them(arg: bytes, number: int) -> None:
    assert leading_number(arg) == number
