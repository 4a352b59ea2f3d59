"""Split commands: parts cover the command once, and merged replies are what one server would have said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import NULL, OK, array, bulk, error, integer
from slotproxy.protocol.slots import key_slot
from slotproxy.protocol.splitting import SPLITTABLE, KeyMerging, Part, split_by_key, split_by_slot

KEYS = st.lists(
    st.sampled_from([b"a", b"b", b"{a}1", b"{a}2", b"{b}1", b"", b"\r\n", b"c"]), min_size=1, max_size=9
)
COUNTING = ["del", "unlink", "exists", "touch"]


class OneServer:
    """Strings in a dictionary: what one Redis, holding all keys, does with the splittable commands."""

    def __init__(self, held: dict[bytes, bytes]) -> None:
        self.held = dict(held)

    def answer(self, raw: bytes) -> bytes:
        name, *words = arguments_of(raw)
        command = name.decode().lower()
        if command == "mset":
            self.held.update(zip(words[::2], words[1::2], strict=True))
            return OK
        if command == "mget":
            return array([bulk(self.held[key]) if key in self.held else NULL for key in words])
        found = 0
        for key in words:
            found += key in self.held
            if command in ("del", "unlink"):
                self.held.pop(key, None)
        return integer(found)


def raw_of(words: list[bytes]) -> bytes:
    return array([bulk(word) for word in words])


HELD = st.dictionaries(st.sampled_from([b"a", b"{a}1", b"{b}1", b"", b"c"]), st.binary(max_size=4))


@pytest.mark.parametrize("name", ["mget", *COUNTING])
@pytest.mark.parametrize("split", [split_by_slot, split_by_key])
@given(keys=KEYS, held=HELD)
def test_the_merged_reply_is_the_one_servers(
    name: str, split: Callable[[str, list[bytes]], list[Part]], keys: list[bytes], held: dict[bytes, bytes]
) -> None:
    words = [name.upper().encode(), *keys]
    parts = split(name, words)
    if not parts:
        assert split is split_by_key and len(set(keys)) == 1
        return
    whole, in_parts = OneServer(held), OneServer(held)
    replies = [in_parts.answer(part.raw) for part in parts]
    assert KeyMerging(name, parts).merge(replies) == whole.answer(raw_of(words))
    assert in_parts.held == whole.held


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"{a}1", b"c"]), st.binary(max_size=4)), min_size=1, max_size=8
    )
)
def test_a_split_mset_sets_what_the_whole_sets_the_last_value_of_a_key_included(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    words = [b"MSET", *(word for pair in pairs for word in pair)]
    parts = split_by_slot("mset", words)
    whole, in_parts = OneServer({}), OneServer({})
    assert KeyMerging("mset", parts).merge([in_parts.answer(part.raw) for part in parts]) == whole.answer(raw_of(words))
    assert in_parts.held == whole.held


@pytest.mark.parametrize("name", sorted(SPLITTABLE))
@given(keys=KEYS)
def test_parts_cover_every_key_once_one_slot_each_in_the_commands_order(name: str, keys: list[bytes]) -> None:
    width = SPLITTABLE[name][1]
    words = [name.encode(), *(word for key in keys for word in [key, b"v"][:width])]
    parts = split_by_slot(name, words)
    assert sorted(position for part in parts for position in part.positions) == list(range(len(keys)))
    assert len({part.slot for part in parts}) == len(parts)
    assert [part.positions[0] for part in parts] == sorted(part.positions[0] for part in parts)
    for part in parts:
        inside = arguments_of(part.raw)
        assert inside[0] == name.encode()
        assert inside[1::width] == [keys[position] for position in part.positions]
        assert part.positions == sorted(part.positions)
        assert {int(key_slot(key)) for key in inside[1::width]} == {part.slot}
        assert part.distinct == len(set(inside[1::width]))


@given(keys=KEYS)
def test_a_part_of_one_key_can_not_be_told_to_try_again(keys: list[bytes]) -> None:
    for part in split_by_key("mget", [b"MGET", *keys]):
        assert part.distinct == 1
        assert len(set(arguments_of(part.raw)[1:])) == 1


@pytest.mark.parametrize("name", ["mset", "get", "rename", ""])
def test_what_is_atomic_or_unknown_is_not_cut_inside_a_slot(name: str) -> None:
    assert split_by_key(name, [name.encode(), b"{a}1", b"v", b"{a}2", b"v"]) == []


def test_one_key_named_twice_is_not_cut() -> None:
    assert split_by_key("exists", [b"EXISTS", b"a", b"a"]) == []
    assert split_by_key("exists", [b"EXISTS"]) == []


@pytest.mark.parametrize(
    "words", [[b"MSET", b"a"], [b"MSET", b"a", b"1", b"b"], [b"MSET", b"a", b"1", b"b", b"2", b"c"]]
)
def test_an_mset_that_lacks_a_value_is_not_cut_for_no_part_of_it_may_run(words: list[bytes]) -> None:
    assert split_by_slot("mset", words) == []


def test_the_name_is_sent_as_the_client_wrote_it() -> None:
    (part,) = split_by_slot("mget", [b"mGeT", b"a"])
    assert arguments_of(part.raw) == [b"mGeT", b"a"]


# ---- merging


def parts_of(name: str, *keys: bytes) -> list[Part]:
    width = SPLITTABLE[name][1]
    return split_by_slot(name, [name.encode(), *(word for key in keys for word in [key, b"v"][:width])])


GOOD = {
    "mget": array([bulk(b"v")]),
    "mset": OK,
    "del": b":1\r\n",
    "unlink": b":1\r\n",
    "exists": b":1\r\n",
    "touch": b":1\r\n",
}


@pytest.mark.parametrize("name", sorted(SPLITTABLE))
@pytest.mark.parametrize(
    "failed",
    [b"-OOM command not allowed\r\n", b"-MOVED 1 h:1\r\n", b"!3\r\nERR\r\n", error("ERR slotproxy: x")],
)
def test_a_failed_part_is_the_reply(name: str, failed: bytes) -> None:
    parts = parts_of(name, b"a", b"b", b"c")
    for at in range(3):
        replies = [GOOD[name]] * 3
        replies[at] = failed
        assert KeyMerging(name, parts).merge(replies) == failed


@pytest.mark.parametrize("name", sorted(SPLITTABLE))
@pytest.mark.parametrize(
    "odd",
    [
        *(
            b"+QUEUED\r\n",
            b"$2\r\nOK\r\n",
            b":\r\n",
            b":x\r\n",
            b":1_0\r\n",
            b": 1\r\n",
            b":-1\r\n",
            b"_\r\n",
        ),
        *(
            b":%d\r\n" % 2**80,
            b":" + b"9" * 5000 + b"\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*2\r\n:1\r\n:2\r\n",
            b"%0\r\n",
        ),
        *(b"*1\r\n", b"*1\r\n?\r\n", b"|1\r\n+a\r\n:1\r\n+OK\r\n", b"*1\r\n:1\r\n:2\r\n"),
    ],
)
def test_a_part_answered_with_something_else_is_an_error_and_never_a_whole_reply(
    name: str, odd: bytes
) -> None:
    parts = parts_of(name, b"a", b"b", b"c")
    for at in range(3):
        replies = [GOOD[name]] * 3
        replies[at] = odd
        merged = KeyMerging(name, parts).merge(replies)
        assert merged.startswith(b"-ERR slotproxy: a part of " + name.upper().encode() + b" was answered '")
        assert merged.endswith(b"'\r\n") and merged.count(b"\r\n") == 1


def test_resp3_nulls_and_attributes_of_elements_are_kept() -> None:
    parts = parts_of("mget", b"a", b"b", b"a")
    assert [part.positions for part in parts] == [[0, 2], [1]]
    one, two, three = b"_\r\n", b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n", b"$1\r\ny\r\n"
    assert KeyMerging("mget", parts).merge([array([one, three]), array([two])]) == array([one, two, three])


def test_sums_do_not_wrap() -> None:
    parts = parts_of("del", b"a", b"b")
    most = b":9223372036854775807\r\n"
    assert KeyMerging("del", parts).merge([most, most]) == b":18446744073709551614\r\n"
