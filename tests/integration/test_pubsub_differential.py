"""Publish/subscribe answers as one plain server of the same version, byte for byte, in RESP2 and RESP3.

A conversation is played to a plain server first. What is published last is published where no later one subscribes, for
a message on its way reaches who subscribes meanwhile. Then slotproxy has to say the same to each client at each step:
messages may take a moment longer to come, for they travel through the cluster, but nothing may come besides.
"""

from __future__ import annotations

import itertools
import shlex
from typing import Final

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import pack
from slotproxy.demo.servers import server_version
from tests.conftest import ProxyFactory
from tests.integration.wire import Wire, dial

PATIENCE: Final = 20.0
_ANSWER: Final = b"$6\r\n~mark~\r\n"
_SUBSCRIBED: Final = b"*2\r\n$4\r\npong\r\n"

_CONVERSATIONS: Final = r"""
A SUBSCRIBE a b | A SUBSCRIBE a | A SUBSCRIBE c c | A PSUBSCRIBE x* | B PUBLISH a hi | B PUBLISH xa hi | B PUBLISH no x
A GET k | A PING | A PING text | A PING a b | A UNSUBSCRIBE a | B PUBLISH a hi | A UNSUBSCRIBE nope | A UNSUBSCRIBE b
A UNSUBSCRIBE c c | A PUNSUBSCRIBE | A UNSUBSCRIBE | A PUNSUBSCRIBE y | A GET k | A PING | A PING text

A SUBSCRIBE r | A SUBSCRIBE | A PSUBSCRIBE | A NOSUCH x | A CLIENT NO-EVICT on | A CLIENT
A MULTI ; SET k v ; EXEC | A WATCH k | A UNWATCH | A MGET k l | A BLPOP k 0.01 | A SELECT 0 | A ECHO x | A DBSIZE
A PUBLISH no x | A RESET
A GET k | A PING | B PUBLISH r x

A SUBSCRIBE a | B SUBSCRIBE a b | C PUBLISH a 1 | C PUBLISH b 2 | C PUBSUB NUMSUB a b c | C PUBSUB NUMSUB
A PSUBSCRIBE a* | B PSUBSCRIBE a* b? | C PUBSUB NUMPAT | C PUBLISH a 3 | C PUBLISH b1 4 | B UNSUBSCRIBE a
C PUBLISH a 5 | C PUBSUB CHANNELS a* | C PUBSUB CHANNELS x | A RESET
C PUBSUB CHANNELS | C PUBSUB NUMSUB a b | C PUBSUB NUMPAT
C PUBSUB NOSUCH | C PUBSUB NUMPAT x | C PUBLISH a | C PUBLISH a b c

A PSUBSCRIBE '*' | B PUBLISH a 1 | B PUBLISH '' 2 | B PUBLISH a '' | B PUBLISH '*' '' | A RESET
A PSUBSCRIBE 'h[ae]llo' 'x\\?llo' '[^x]y' | B PUBLISH hello 1 | B PUBLISH hillo 1 | B PUBLISH x?llo 1
B PUBLISH xallo 1 | B PUBLISH ay 1 | B PUBLISH xy 1

A SUBSCRIBE a | A QUIT

A SUBSCRIBE q | B CLIENT KILL TYPE normal SKIPME yes | B PUBLISH q 1 | B CLIENT KILL TYPE pubsub | B PUBLISH q 1

A CLIENT REPLY OFF | A SUBSCRIBE a | A UNSUBSCRIBE a | A CLIENT REPLY ON | A PING | B PUBLISH no 1

A CLIENT REPLY SKIP ; SUBSCRIBE a | B PUBLISH a 1 | A PING | A UNSUBSCRIBE

A SUBSCRIBE a | A HELLO 2 | B PUBLISH a 1 | A HELLO 3 | A GET k | B PUBLISH a 2 | A UNSUBSCRIBE a | A HELLO 2

B CONFIG SET notify-keyspace-events KEA | A PSUBSCRIBE '__key*__:*' | B SET k 1 | B INCR k | B DEL k | B LPUSH l a b
B RENAME l{l} l | B RPOP l | B RPOP l | B GET l | B SET k 1 EX 1000 | A PUNSUBSCRIBE | A SUBSCRIBE __keyevent@0__:del
B DEL k | B MULTI ; SET k 1 ; DEL k ; EXEC | B CONFIG SET notify-keyspace-events '' | B DEL k
"""

_SINCE_7: Final = r"""
A SSUBSCRIBE a b c | A SSUBSCRIBE a | A SUBSCRIBE a | B SPUBLISH a 1 | B SPUBLISH b 2 | B PUBLISH a 3 | B SPUBLISH x 4
A GET k | A PING | B PUBSUB SHARDNUMSUB a b x | B PUBSUB SHARDCHANNELS b* | B PUBSUB NUMSUB a b | A UNSUBSCRIBE
A SUNSUBSCRIBE nope b | A SUNSUBSCRIBE a | B SPUBLISH a 5 | A SUNSUBSCRIBE c | A SUNSUBSCRIBE | A GET k | B SPUBLISH a
A SSUBSCRIBE | A SSUBSCRIBE a | A RESET | B SPUBLISH a 6
"""


def conversations(version: tuple[int, ...]) -> list[list[tuple[str, list[str]]]]:
    """Steps: who says what."""
    texts = (_CONVERSATIONS + (_SINCE_7 if version >= (7,) else "")).strip().split("\n\n")
    steps = [[shlex.split(step) for step in text.replace("\n", " | ").split(" | ")] for text in texts]
    worded_anew = (["NOSUCH", "x"], ["PUBSUB", "NOSUCH"], ["CLIENT"], ["CLIENT", "NO-EVICT", "on"])
    return [
        [(who, words) for who, *words in one if version >= (7,) or words not in worded_anew] for one in steps
    ]


class Party:
    """One client, on one side."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.silent = False  # CLIENT REPLY OFF: a PING brings nothing back
        self.closed = False

    async def say(self, words: list[str]) -> None:
        """One command, or several with semicolons between them."""
        commands = [list(one) for ends, one in itertools.groupby(words, lambda word: word == ";") if not ends]
        await self.wire.send(b"".join(pack(*command) for command in commands))
        if words[:2] == ["CLIENT", "REPLY"]:
            self.silent = words[2] == "OFF"

    async def heard(self, least: int = 0) -> bytes:
        """What has been said to it: at least so many bytes, and all before a PING's answer."""
        if self.closed:
            return b"<closed>"
        try:
            while len(self.wire.received) < least:
                await self._more()
            if not self.silent:
                await self.wire.send(pack("PING", "~mark~"))
                while not self.wire.received.endswith(_ANSWER):
                    await self._more()
                found = self.wire.received.removesuffix(_ANSWER).removesuffix(_SUBSCRIBED)
                self.wire.received = b""
                return found
        except (OSError, EOFError):
            self.closed = True
            self.wire.received += b"<closed>"
        found, self.wire.received = self.wire.received, b""
        return found

    async def _more(self) -> None:
        data = await self.wire.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self.wire.received += data


async def parties(port: int, protocol: int) -> dict[str, Party]:
    found = {letter: Party(await dial(port)) for letter in "ABC"}
    if protocol == 3:
        for party in found.values():
            await party.wire.ask(pack("HELLO", "3"))
    return found


@pytest.mark.parametrize("protocol", [2, 3])
async def test_subscribers_hear_what_one_server_says(
    cluster: EmbeddedCluster, proxy: ProxyFactory, plain_server: int, protocol: int
) -> None:
    front = await proxy()
    steps = conversations(server_version(cluster.server))
    for number, conversation in enumerate(steps):
        plain, other = await parties(plain_server, protocol), await parties(front.port, protocol)
        try:
            await _play(f"conversation {number}:", conversation, plain, other)
        finally:
            for party in itertools.chain(plain.values(), other.values()):
                party.wire.close()


async def _play(
    said: str, conversation: list[tuple[str, list[str]]], plain: dict[str, Party], other: dict[str, Party]
) -> None:
    for who, words in conversation:
        said += f" | {who} {' '.join(words)}"
        await plain[who].say(words)
        with trio.fail_after(PATIENCE):
            first = await plain[who].heard()  # the step is over
            expected = {letter: first if letter == who else await plain[letter].heard() for letter in plain}
        await other[who].say(words)
        for letter, wanted in expected.items():
            with trio.move_on_after(PATIENCE) as patience:
                heard = await other[letter].heard(len(wanted.removesuffix(b"<closed>")))
            if patience.cancelled_caught:
                heard = other[letter].wire.received + b" and nothing more"
            assert _without_ids(heard) == _without_ids(wanted), f"{said}: {letter} heard {heard!r}, not {wanted!r}"


def _without_ids(data: bytes) -> bytes:
    """HELLO tells the client's number; and 6.2 words a refusal without shard channels, of which it does not know."""
    data = data.replace(b"(P|S)", b"(P)")
    before, id, after = data.partition(b"$2\r\nid\r\n:")
    return before + id + after.partition(b"\r\n")[2] if id else data
