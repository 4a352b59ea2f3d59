"""Hash slots agree with binascii's CRC and with the servers' CLUSTER KEYSLOT."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotproxy.protocol.resp import command
from slotproxy.protocol.slots import SLOTS, key_slot, slot_at
from tests.protocol.live import LiveServer, live_server

# Braces often enough that tags of all kinds come up, and bytes that are negative as a C char.
KEYS = st.lists(
    st.sampled_from([b"{", b"}", b"{}", b"a", b"key", b"\x00", b"\xff", b"\x80\r\n"]), max_size=8
).map(b"".join) | st.binary(max_size=64)


def hashed_part(key: bytes) -> bytes:
    """The specification's words, "Hash tags", as slowly as they can be put."""
    open_brace = key.find(b"{")
    if open_brace >= 0:
        close_brace = key.find(b"}", open_brace + 1)
        if close_brace > open_brace + 1:
            return key[open_brace + 1 : close_brace]
    return key


@given(KEYS)
def test_the_slot_is_crc16_of_the_tag_or_key(key: bytes) -> None:
    assert key_slot(key) == crc_hqx(hashed_part(key), 0) % SLOTS


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"", b""),
        (b"123456789", b"123456789"),
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"}foo{bar}", b"bar"),
        (b"foo{bar", b"foo{bar"),
        (b"foo}bar{", b"foo}bar{"),
        (b"{}", b"{}"),
        (b"{", b"{"),
        (b"{a}", b"a"),
    ],
)
def test_only_the_first_tag_counts_and_only_if_it_is_closed_and_not_empty(key: bytes, hashed: bytes) -> None:
    assert key_slot(key) == crc_hqx(hashed, 0) % SLOTS


def test_the_specifications_example() -> None:
    assert crc_hqx(b"123456789", 0) == 0x31C3
    assert key_slot(b"123456789") == 0x31C3 % SLOTS == 12739


@given(KEYS, KEYS, KEYS)
def test_bytes_around_a_key_do_not_matter(before: bytes, key: bytes, after: bytes) -> None:
    buffer = before + key + after
    assert slot_at(buffer, len(before), len(before) + len(key)) == key_slot(key)


@pytest.fixture(scope="module")
def server(redis_server: str) -> Iterator[LiveServer]:
    with live_server(redis_server) as server:
        yield server


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(KEYS, min_size=10, max_size=60))
def test_slots_are_the_servers(server: LiveServer, keys: list[bytes]) -> None:
    answers = server.answers(b"".join(command([b"CLUSTER", b"KEYSLOT", key]) for key in keys))
    assert [int(answer[1:-2]) for answer in answers] == [key_slot(key) for key in keys]
