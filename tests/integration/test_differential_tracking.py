"""CLIENT TRACKING answers, and tells, as one plain server of the same version does, byte for byte.

A conversation is steps of clients A, B and C; each step ends with a round trip, so whatever a client has been told by
then stands in front of its end. What differs on purpose: several nodes tell of FLUSHALL, so the same is said several
times in a row, and in no order where they tell of different keys. Who changes what it tracks is told to drop
everything.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import Final

import pytest
import trio

from slotproxy.demo.connection import pack
from slotproxy.demo.polling import until
from tests.conftest import ProxyFactory
from tests.integration.wire import Wire, dial

FLUSHED: Final = re.compile(rb"(>2\r\n\$10\r\ninvalidate\r\n(?:_|\$-1)\r\n)\1+")

#: Steps between bars, `letter command; command; …`; a letter alone looks what it has been told; `!` leaves.
#: `$A` is A's id. With a leading `7:` for servers since 7.0.
CONVERSATIONS: Final = r"""
A HELLO 3 | A CLIENT TRACKING ON | A CLIENT TRACKINGINFO | A GET k1; GET k2; GET k3 | B SET k1 2 | A | B MSET k2 1 k3 2
A | A GET k1; SET k1 5; PING | A MULTI; GET k1; SET k1 3; GET k1; EXEC; PING | A GET k1 | B FLUSHALL | A
A GET k1; FLUSHALL; PING | A CLIENT GETREDIR | A CLIENT TRACKING OFF | A CLIENT TRACKINGINFO | A GET k1 | B SET k1 1 | A

A HELLO 3 | A CLIENT TRACKING ON OPTIN | A CLIENT CACHING YES; MULTI; GET m1; GET m1; EXEC; GET m2 | B SET m1 1 | A
B SET m2 1 | A | A CLIENT CACHING YES; PING; GET m1 | B SET m1 2 | A
A CLIENT CACHING YES; CLIENT GETNAME; GET m1; GET m2
B SET m1 2 | B SET m2 2 | A | A CLIENT CACHING YES; MGET m1 m2 m3; GET m4 | B SET m4 1 | A | B SET m3 1
A CLIENT CACHING YES; CLIENT TRACKINGINFO; GET x; CLIENT TRACKINGINFO | A CLIENT CACHING NO | A CLIENT CACHING maybe
A CLIENT CACHING YES; GET; GET m1 | B SET m1 3 | A

A HELLO 3 | A CLIENT TRACKING ON OPTIN | A MULTI; CLIENT CACHING YES; GET m1; EXEC; GET m2
B SET m1 2 | A | B SET m2 2 | A

A HELLO 3 | A CLIENT TRACKING ON OPTOUT | A CLIENT CACHING NO; GET m1; GET m2 | B SET m1 1 | A | B SET m2 1 | A
A CLIENT CACHING YES | A CLIENT TRACKING ON OPTIN | A CLIENT TRACKING ON BCAST | A CLIENT TRACKINGINFO

A HELLO 3 | A CLIENT TRACKING ON NOLOOP | A GET k; SET k 1; GET k | A | B SET k 2 | A | A MGET a b c | A MSET a 1 b 2
B SET c 1 | A | A GET a | A DEL a | A

A HELLO 3 | A CLIENT TRACKING ON BCAST PREFIX u: PREFIX v: | A CLIENT TRACKINGINFO | B SET u:1 1 | A | B SET v:1 1 | A
B SET w 1 | A | B SET u:1 2 | A | A CLIENT TRACKING ON BCAST PREFIX u:1 | A CLIENT TRACKING ON
A CLIENT TRACKING OFF | B SET u:1 1 | A | A CLIENT TRACKING ON BCAST NOLOOP | A SET q 1 | A | B SET q 2 | A
B FLUSHALL | A

A CLIENT TRACKING ON | A GET k | B SET k 1 | A | A HELLO 3 | A GET k | B SET k 2 | A | A HELLO 2 | A GET k | B SET k 2
A | A CLIENT TRACKINGINFO | A RESET | A CLIENT TRACKINGINFO

C HELLO 3 | A CLIENT TRACKING ON REDIRECT $C | A GET k; GET j | B SET k 1 | C | A | C PING | A CLIENT TRACKINGINFO
A CLIENT GETREDIR | B SET j 1 | C | B FLUSHALL | C

C HELLO 3 | A HELLO 3 | A CLIENT TRACKING ON REDIRECT $C | A GET k | B SET k 2 | C | A | A GET k | C ! | B SET k 3
A | A CLIENT TRACKINGINFO | A CLIENT GETREDIR | B SET k 2 | A

C HELLO 3 | A CLIENT TRACKING ON BCAST REDIRECT $C | B SET k 1 | C | A SET k 2 | C
A CLIENT TRACKING OFF | B SET k 1 | C

A CLIENT TRACKING ON REDIRECT $A | A GET k | B SET k 1 | A | A CLIENT TRACKINGINFO

A HELLO 3 | A CLIENT TRACKING ON REDIRECT $A | A GET k | B SET k 1 | A

A HELLO 3 | A CLIENT TRACKING ON | A EVAL 'return redis.call("get",KEYS[1])' 1 k | B SET k 1 | A | A GET l
B EXPIRE l 1 | A
A STRLEN l; TTL l; TYPE l | B SET l 1 | A | A HGET h f; SMEMBERS s; ZRANGE z 0 -1 | B HSET h f 1 | A

A CLIENT TRACKING on REDIRECT 99999 | A CLIENT TRACKING ON OPTIN OPTOUT | A CLIENT TRACKING x
A CLIENT TRACKING ON PREFIX a | A CLIENT TRACKING ON BCAST PREFIX a PREFIX ab | A CLIENT TRACKING ON BCAST OPTIN
A CLIENT TRACKING OFF a | A CLIENT CACHING YES | A CLIENT TRACKING ON REDIRECT x | A CLIENT TRACKING ON REDIRECT
A CLIENT TRACKING ON BCAST PREFIX | A CLIENT TRACKING ON BCAST PREFIX ab PREFIX ab | A CLIENT TRACKING OFF OPTIN OPTOUT
A CLIENT TRACKING ON OPTIN OPTOUT BCAST | A CLIENT TRACKING ON REDIRECT $A REDIRECT $A | A CLIENT TRACKINGINFO

A HELLO 3 | A CLIENT TRACKING ON | A CLIENT INFO | A CLIENT TRACKING OFF | A CLIENT TRACKING ON BCAST | A CLIENT INFO
B CLIENT LIST TYPE normal | A RESET | A CLIENT INFO | A MONITOR x

7: A CLIENT TRACKING | A HELLO 3 | A CLIENT TRACKING ON OPTIN | A CLIENT CACHING YES; NOSUCH; GET m1 | B SET m1 3 | A

7: A MULTI; MONITOR; PING; EXEC | A HELLO 3 | A MULTI; MONITOR; GET k; EXEC
"""


def steps_of(text: str) -> list[tuple[str, list[str]]]:
    """(letter, commands) of each step."""
    steps = []
    for line in text.split("\n"):
        for step in line.split(" | "):
            letter, _, commands = step.strip().partition(" ")
            steps.append((letter, [command for command in commands.split("; ") if command]))
    return steps


def parts() -> list[str]:
    return [text.strip() for text in CONVERSATIONS.strip().split("\n\n")]


async def said(port: int, text: str) -> list[tuple[str, bytes]]:
    """Each step, and what its client was told until its end."""
    async with AsyncExitStack() as stack:
        wires: dict[str, Wire] = {}
        ids: dict[str, bytes] = {}
        for letter in "ABC":
            wires[letter] = await stack.enter_async_context(await dial(port))
            ids[letter] = (await wires[letter].ask(pack("CLIENT", "ID")))[1:-2]
        found = []
        for letter, commands in steps_of(text):
            if commands == ["!"]:
                wires[letter].close()
                await _gone(wires["B"], ids[letter])
                continue
            lines = "".join(f"{command}\r\n" for command in commands).encode()
            for one, id in ids.items():
                lines = lines.replace(b"$" + one.encode(), id)
            reply = await wires[letter].ask(lines)
            found.append((f"{letter} {'; '.join(commands)}", _normal(reply, ids, commands)))
        return found


async def _gone(wire: Wire, id: bytes) -> None:
    async def is_gone() -> bool:
        return b"id=%b " % id not in await wire.ask(pack("CLIENT", "LIST"))

    await until(is_gone, within=20)


def _normal(reply: bytes, ids: dict[str, bytes], commands: list[str]) -> bytes:
    reply = re.sub(rb"([$=]\d+\r\n)?((txt:)?id=\d+ addr.*\n)+\r?\n?", _listed, reply)
    letters = {id: letter.encode() for letter, id in ids.items()}

    def named(match: re.Match[bytes]) -> bytes:
        return match[1] + b":$" + letters.get(match[2], match[2])

    where = rb"redirect\r\n|redir-broken\r\n|id\r\n" + (rb"|^" if commands == ["CLIENT GETREDIR"] else b"")
    reply = re.sub(rb"(" + where + rb"):(\d+)(?=\r\n)", named, reply)
    return FLUSHED.sub(rb"\1", reply)


def _listed(match: re.Match[bytes]) -> bytes:
    """Of each client its flags and whom it redirects to."""
    return b"; ".join(re.findall(rb"flags=\S+|redir=-?0?(?=\s)", match[0]))


@pytest.mark.parametrize("text", parts(), ids=[text[:40] for text in parts()])
async def test_tracking_tells_what_one_server_tells(
    redis_server: str, plain_server: int, proxy: ProxyFactory, text: str
) -> None:
    if text.startswith("7:"):
        async with await dial(plain_server) as wire:
            if b"redis_version:6" in await wire.ask(pack("INFO", "server")):
                pytest.skip("words it differently")
        text = text.removeprefix("7: ")
    front = await proxy()
    with trio.fail_after(30):
        expected = await said(plain_server, text)
        found = await said(front.port, text)
    different = [(*one, other[1]) for one, other in zip(expected, found, strict=True) if one[1] != other[1]]
    shown = [f"{step}\n  one server: {one!r}\n  slotproxy: {other!r}" for step, one, other in different]
    assert not different, "\n".join(shown)
