"""Publish/subscribe on the wire: confirmations, pushes and patterns, compared with a server where it is to be asked."""

from __future__ import annotations

import random

import pytest

from slotproxy.demo.connection import connect
from slotproxy.protocol.pubsub import (
    CHANNELS,
    PATTERNS,
    SHARDS,
    as_array,
    confirmation,
    is_everywhere,
    matches,
    not_while_subscribed,
    pong,
    read_push,
)


@pytest.mark.parametrize(
    ("frame", "word", "names"),
    [
        (b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n", b"message", [b"a"]),
        (b">3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$2\r\nhi\r\n", b"smessage", [b""]),
        (b">4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$2\r\nhi\r\n", b"pmessage", [b"a*", b"ab"]),
        (b">3\r\n$12\r\nsunsubscribe\r\n$3\r\n\r\n\0\r\n:0\r\n", b"sunsubscribe", [b"\r\n\0"]),
        (b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", b"unsubscribe", []),
        (b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n", b"invalidate", []),
        (b">1\r\n:5\r\n", b"", []),
        (b">0\r\n", b"", []),
    ],
)
def test_what_a_push_says(frame: bytes, word: bytes, names: list[bytes]) -> None:
    push = read_push(frame)
    assert (push.word, push.names) == (word, names)


def test_frames_are_those_of_the_protocol() -> None:
    assert confirmation(2, b"subscribe", b"a", 1) == b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    assert confirmation(3, b"subscribe", b"a", 1) == b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    assert confirmation(2, b"unsubscribe", None, 0) == b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
    assert confirmation(3, b"unsubscribe", None, 0) == b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n"
    assert as_array(b">2\r\n:1\r\n:2\r\n") == b"*2\r\n:1\r\n:2\r\n"
    assert pong(b"") == b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
    assert not_while_subscribed("client|list").startswith(b"-ERR Can't execute 'client|list': only (P|S)SUBSCRIBE /")


@pytest.mark.parametrize("name", [b"__keyspace@0__:x", b"__keyevent@0__:expired", b"__keyspace@5__:", b"__keyevent@"])
def test_channels_of_keys_are_subscribed_everywhere(name: bytes) -> None:
    assert is_everywhere(CHANNELS, name)
    assert not is_everywhere(SHARDS, name)


@pytest.mark.parametrize("name", [b"news", b"__keyspac@0__:x", b"__key*__:*", b"*", b"_"])
def test_other_channels_are_subscribed_at_one_node(name: bytes) -> None:
    assert not is_everywhere(CHANNELS, name)


@pytest.mark.parametrize(
    "name",
    [b"*", b"__key*__:*", b"__keyspace@0__:*", b"_*", b"?*", b"__keyevent@?__:del", b"__key[es]*", b"[^a]_key*",
     rb"\_\_keyevent@0__:x", b"?_keyspace@0__:x", b"*x"],
)  # fmt: skip
def test_patterns_that_may_mean_keys_are_subscribed_everywhere(name: bytes) -> None:
    assert is_everywhere(PATTERNS, name)


@pytest.mark.parametrize("name", [b"news.*", b"__keyspace", b"[a-z]*", b"", b"_", b"__keyX*", b"???", b"[_"])
def test_patterns_that_mean_no_keys_are_subscribed_at_one_node(name: bytes) -> None:
    assert not is_everywhere(PATTERNS, name)


async def test_patterns_mean_what_they_mean_to_the_server(plain_server: int) -> None:
    """KEYS has the same patterns. Short texts of few letters, so that something matches."""
    seeded = random.Random(7)
    names = [bytes(seeded.choices(b"abc-]^*\\", k=seeded.randint(0, 4))) for _ in range(300)]
    patterns = [bytes(seeded.choices(b"abc-]^*\\?[[*?", k=seeded.randint(0, 7))) for _ in range(1500)]
    async with await connect("127.0.0.1", plain_server) as connection:
        await connection.pipeline(*[("SET", name, "") for name in names])
        found = await connection.pipeline(*[("KEYS", pattern) for pattern in patterns])
    for pattern, keys in zip(patterns, found, strict=True):
        if pattern != b"*":  # all keys, also the empty one
            assert {name for name in names if matches(pattern, name)} == set(keys), pattern
    assert sum(map(len, found)) > 1000
