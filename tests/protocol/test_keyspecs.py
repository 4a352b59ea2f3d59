"""Each kind of key spec, by hand; that real servers agree is for test_keys_of_servers."""

from __future__ import annotations

import pytest

from slotproxy.protocol.keyfinders import KeysError, RangeFinder
from slotproxy.protocol.keyspecs import SpecsFinder, read_spec, table_finder, uncertain


def spec(begin: list[object], find: list[object], *flags: bytes) -> list[object]:
    """A key spec as COMMAND sends it on RESP2."""
    return [b"notes", b"n", b"flags", list(flags), b"begin_search", begin, b"find_keys", find]


def index(at: int) -> list[object]:
    return [b"type", b"index", b"spec", [b"index", at]]


def keyword(word: bytes, startfrom: int) -> list[object]:
    return [b"type", b"keyword", b"spec", [b"keyword", word, b"startfrom", startfrom]]


def key_range(last: int, step: int = 1, limit: int = 0) -> list[object]:
    return [b"type", b"range", b"spec", [b"lastkey", last, b"keystep", step, b"limit", limit]]


def keynum(numidx: int, firstkey: int, step: int = 1) -> list[object]:
    numbers: list[object] = [b"keynumidx", numidx, b"firstkey", firstkey, b"keystep", step]
    return [b"type", b"keynum", b"spec", numbers]


UNKNOWN: list[object] = [b"type", b"unknown", b"spec", []]


def find(specs: list[list[object]], line: bytes, optional: bool = False) -> list[int]:
    return SpecsFinder([read_spec(one) for one in specs], optional).positions(line.split())


@pytest.mark.parametrize(
    ("found", "line", "positions"),
    [
        (key_range(0), b"X a b c", [1]),
        (key_range(1), b"X a b c", [1, 2]),
        (key_range(-1), b"X a b c", [1, 2, 3]),
        (key_range(-2), b"X a b c", [1, 2]),
        (key_range(-1, step=2), b"X a 1 b 2", [1, 3]),
        (key_range(-1, step=2), b"X a 1 b", [1, 3]),
        (key_range(-1, limit=1), b"X a b c d", [1, 2, 3, 4]),
        (key_range(-1, limit=2), b"X a b 0 0", [1, 2]),
        (key_range(-1, limit=3), b"X a b 0 0 0 0", [1, 2]),
        (keynum(0, 1), b"X 2 a b c", [2, 3]),
        (keynum(0, 2), b"X 2 opt a b c", [3, 4]),
        (keynum(1, 2), b"X dest 1 a b", [3]),
        (keynum(0, 1, step=2), b"X 2 a 1 b 2", [2, 4]),
        (UNKNOWN, b"X a b", []),
    ],
)
def test_find_keys_from_an_index(found: list[object], line: bytes, positions: list[int]) -> None:
    assert find([spec(index(1), found)], line) == positions


@pytest.mark.parametrize(
    ("startfrom", "line", "positions"),
    [
        (1, b"X STORE a", [2]),
        (1, b"X store a", [2]),
        (1, b"X STORE", []),
        (1, b"X a STORE", []),
        (2, b"X STORE a STORE b", [4]),
        (9, b"X STORE a", []),
        (1, b"X STOREX a STOR b", []),
        (1, b"X STORE STORE STORE b", [2]),
        (-2, b"X a STORE b", [3]),
        (-2, b"X STORE a STORE b c", [4]),
        (-2, b"X STORE b", []),  # 7.0 stops before argument 1 when it searches backwards
        (-1, b"X a STORE", "error"),
        (-9, b"X STORE a", []),
        (0, b"X STORE a", []),
    ],
)
def test_begin_search_by_a_keyword(startfrom: int, line: bytes, positions: object) -> None:
    specs = [spec(keyword(b"store", startfrom), key_range(0))]
    if positions == "error":
        with pytest.raises(KeysError, match=r"^Invalid arguments specified for command$"):
            find(specs, line)
    else:
        assert find(specs, line) == positions


def test_an_unknown_search_finds_nothing_and_leaves_the_other_specs_alone() -> None:
    assert find([spec(index(1), key_range(0)), spec(UNKNOWN, UNKNOWN)], b"X a b") == [1]
    assert find([spec(UNKNOWN, key_range(0))], b"X a b") == []


def test_the_keys_of_several_specs_are_in_argument_order() -> None:
    specs = [spec(keyword(b"TO", 1), key_range(0)), spec(index(1), key_range(0))]
    assert find(specs, b"X a TO b") == [1, 3]


@pytest.mark.parametrize(
    "count", [b"-1", b"x", b"", b"4", b"99", b"4294967297", b"18446744073709551617", b"0"]
)
def test_a_key_count_that_is_none_is_an_error(count: bytes) -> None:
    finder = SpecsFinder([read_spec(spec(index(1), keynum(0, 1)))], False)
    with pytest.raises(KeysError, match=r"^Invalid arguments specified for command$"):
        finder.positions([b"X", count, b"a", b"b", b"c"])


def test_a_key_count_behind_the_end_is_an_error() -> None:
    with pytest.raises(KeysError):
        find([spec(index(1), keynum(5, 6))], b"X 1 a")


def test_no_keys_are_right_where_keys_are_not_mandatory() -> None:
    eval_like = [spec(index(2), keynum(0, 1))]
    assert find(eval_like, b"X script 0 arg", optional=True) == []
    for count in (b"x", b"-1", b"9"):
        with pytest.raises(KeysError):
            find(eval_like, b"X script " + count + b" arg", optional=True)


def test_a_range_out_of_bounds_is_an_error() -> None:
    for found in (key_range(2), key_range(-4)):
        with pytest.raises(KeysError):
            find([spec(index(1), found)], b"X a b")
    with pytest.raises(KeysError):
        find([spec(index(3), key_range(0))], b"X a b")


def entry(first: int, last: int, step: int) -> list[object]:
    return [b"x", -2, [], first, last, step]


def test_the_range_is_used_unless_it_leaves_keys_out() -> None:
    specs = [read_spec(spec(index(1), key_range(0))), read_spec(spec(index(2), keynum(0, 1)))]
    assert isinstance(table_finder(entry(1, -1, 1), frozenset(), specs), RangeFinder)
    assert isinstance(table_finder(entry(1, 1, 1), frozenset({"movablekeys"}), specs), SpecsFinder)
    assert isinstance(table_finder(entry(1, 1, 1), frozenset({"movablekeys"}), []), RangeFinder)
    assert isinstance(table_finder(entry(0, 0, 0), frozenset(), specs), SpecsFinder)
    assert table_finder(entry(0, 0, 0), frozenset(), []) is None


def test_a_limited_spec_is_not_replaced_by_its_range() -> None:
    specs = [read_spec(spec(index(1), key_range(-1, limit=2)))]
    finder = table_finder(entry(1, -1, 1), frozenset(), specs)
    assert finder is not None
    assert finder.positions(b"X a b 0 0".split()) == [1, 2]


def test_keys_are_uncertain_where_no_spec_can_tell() -> None:
    plain, movable = frozenset({"module"}), frozenset({"module", "movablekeys"})
    whole = read_spec(spec(index(1), key_range(0), b"RW"))
    varying = read_spec(spec(index(1), key_range(0), b"RW", b"variable_flags"))
    incomplete = read_spec(spec(index(1), key_range(0), b"RW", b"incomplete"))
    assert not uncertain(plain, [whole])
    assert not uncertain(plain, [])
    assert not uncertain(plain, [varying])
    assert not uncertain(movable, [whole])
    assert uncertain(movable, [varying])
    assert uncertain(movable, [])
    assert uncertain(plain, [incomplete])
    assert uncertain(plain, [read_spec(spec(UNKNOWN, key_range(0)))])
    assert uncertain(plain, [read_spec(spec(index(1), UNKNOWN))])


@pytest.mark.parametrize(
    "broken",
    [
        spec([b"type", b"index", b"spec", []], key_range(0)),
        spec([b"type", b"index", b"spec", [b"index", -1]], key_range(0)),
        spec([b"type", b"index", b"spec", [b"index", b"1"]], key_range(0)),
        spec([b"type", b"index", b"spec", b"1"], key_range(0)),
        spec([*keyword(b"X", 1)[:3], [b"keyword", 7, b"startfrom", 1]], key_range(0)),
        spec(index(1), [b"type", b"range", b"spec", [b"lastkey", 0]]),
        [7, 7],
    ],
)
def test_a_spec_that_is_none_is_a_value_error(broken: list[object]) -> None:
    with pytest.raises(ValueError, match="COMMAND: "):
        read_spec(broken)


def test_a_step_of_nothing_ends() -> None:
    assert find([spec(index(1), key_range(-1, step=0))], b"X a b") == [1, 2]
