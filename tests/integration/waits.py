"""Every blocking command: how a client waits with it, what ends the wait, and what was taken.

A `Waiter` is one client in one blocking command. Tests have one for every `Form` wait at once, under one key, under
two keys of one slot, and in several slots, each at keys of its own: what is true of one has to be true of all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import trio

from slotproxy.demo.connection import Argument, Connection, ErrorReply, pack
from tests.integration.stages import Stage

Words = Sequence[Argument]
Kind = Literal["one key", "two keys of a slot", "several slots"]
KINDS: Final[Sequence[Kind]] = ("one key", "two keys of a slot", "several slots")
FOR_EVER: Final = 0.0


@dataclass(frozen=True)
class Form:
    """A blocking command.

    `wait(keys, seconds)` is the command, `arrive(key, value)` what ends it, `taken(reply)` what it then has, as
    (key, value); of a command that does not say the key, an empty one. `pops`: nobody else gets the same.
    """

    name: str
    wait: Callable[[list[str], float], Words]
    arrive: Callable[[str, str], Words]
    taken: Callable[[Any], list[tuple[bytes, bytes]]]
    prepare: Callable[[str], Words] | None = None
    several: bool = True
    pops: bool = True
    since_7: bool = False

    @property
    def moves(self) -> bool:
        """It has two keys, which no node serves together while only one of them is there."""
        return not self.several

    @property
    def empties(self) -> bool:
        """A key from which all was taken is gone: true of all but streams."""
        return self.arrive is not _append


def _push(key: str, value: str) -> Words:
    return "RPUSH", key, value


def _score(key: str, value: str) -> Words:
    return "ZADD", key, 1, value


def _append(key: str, value: str) -> Words:
    return "XADD", key, "*", "field", value


def _group(key: str) -> Words:
    return "XGROUP", "CREATE", key, "group", "$", "MKSTREAM"


def _entries(reply: Any) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, entries in reply for _id, (_field, value) in entries]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


FORMS: Final[Sequence[Form]] = (
    Form("BLPOP", lambda keys, seconds: ("BLPOP", *keys, seconds), _push, lambda reply: [(reply[0], reply[1])]),
    Form("BRPOP", lambda keys, seconds: ("BRPOP", *keys, seconds), _push, lambda reply: [(reply[0], reply[1])]),
    Form("BLMOVE", lambda keys, seconds: ("BLMOVE", keys[0], f"{keys[0]}:to", "LEFT", "RIGHT", seconds), _push,
         lambda reply: [(b"", reply)], several=False),
    Form("BRPOPLPUSH", lambda keys, seconds: ("BRPOPLPUSH", keys[0], f"{keys[0]}:to", seconds), _push,
         lambda reply: [(b"", reply)], several=False),
    Form("BZPOPMIN", lambda keys, seconds: ("BZPOPMIN", *keys, seconds), _score, lambda reply: [(reply[0], reply[1])]),
    Form("BZPOPMAX", lambda keys, seconds: ("BZPOPMAX", *keys, seconds), _score, lambda reply: [(reply[0], reply[1])]),
    Form("BLMPOP", lambda keys, seconds: ("BLMPOP", seconds, len(keys), *keys, "LEFT", "COUNT", 3), _push,
         lambda reply: [(reply[0], value) for value in reply[1]], since_7=True),
    Form("BZMPOP", lambda keys, seconds: ("BZMPOP", seconds, len(keys), *keys, "MIN"), _score,
         lambda reply: [(reply[0], value) for value, _ in reply[1]], since_7=True),
    Form("XREAD", lambda keys, seconds: ("XREAD", "BLOCK", _milliseconds(seconds), "STREAMS", *keys,
                                         *["$"] * len(keys)), _append, _entries, pops=False),
    Form("XREADGROUP", lambda keys, seconds: ("XREADGROUP", "GROUP", "group", "consumer", "BLOCK",
                                              _milliseconds(seconds), "STREAMS", *keys, *[">"] * len(keys)),
         _append, _entries, _group),
)  # fmt: skip


class _Nothing:
    def __repr__(self) -> str:
        return "no reply yet"


NOTHING: Final = _Nothing()


class Waiter:
    """One client in one blocking command. `key` is where something shall arrive; `waited`: seconds, in the end."""

    def __init__(self, stage: Stage, form: Form, kind: Kind, seconds: float) -> None:
        self.form = form
        self.kind = kind
        self.keys, self.key = keys_of(stage, kind, form.name)
        self.seconds = seconds
        self.client_id = 0
        self.reply: object = NOTHING
        self.waited = 0.0
        self._client: Connection | None = None

    def __repr__(self) -> str:
        return f"<{' '.join(map(str, self.form.wait(self.keys, self.seconds)))} -> {self.reply!r}>"

    async def run(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Wait, and say PING behind it: afterwards the connection is as good as before."""
        async with await connect() as client:
            self._client = client
            self.client_id = await client.command("CLIENT", "ID")
            since = trio.current_time()
            await client.send(pack(*self.form.wait(self.keys, self.seconds)))
            try:
                self.reply = await client.receive()
            except ConnectionError:
                if self._client is not None:
                    raise
                return
            self.waited = trio.current_time() - since
            assert await client.command("PING") == b"PONG"

    def vanish(self) -> None:
        """Close the connection, without a goodbye."""
        assert self._client is not None and self.reply is NOTHING, self
        client, self._client = self._client, None
        client.close()

    def has(self, value: str) -> bool:
        """Whether it was given this value, of its key."""
        if self.reply is NOTHING or self.reply is None or isinstance(self.reply, ErrorReply):
            return False
        ((key, got),) = self.form.taken(self.reply)
        return got == value.encode() and key in (b"", self.key.encode())


def forms_of(stage: Stage, kind: Kind) -> list[Form]:
    """The forms that this server has and that can wait so."""
    return [form for form in FORMS if (form.several or kind == "one key") and (stage.has_lmpop or not form.since_7)]


def keys_of(stage: Stage, kind: Kind, name: str) -> tuple[list[str], str]:
    """Keys to wait at, and the one at which something shall arrive: in the slot of the stage's first tag."""
    tag, *others = stage.tags
    name = f"{kind.replace(' ', '-')}:{name}"
    key = f"{{{tag}}}:{name}"
    if kind == "one key":
        return [key], key
    if kind == "two keys of a slot":
        return [f"{key}:first", key], key
    return [f"{{{others[0]}}}:{name}", key, f"{{{others[1]}}}:{name}"], key


def waiters_of(stage: Stage, seconds: float, *, pops: bool = False) -> list[Waiter]:
    """One for each form and kind, each at keys of its own. `pops`: only those that take what others do not get then."""
    return [
        Waiter(stage, form, kind, seconds)
        for kind in KINDS
        for form in forms_of(stage, kind)
        if form.pops or not pops
    ]


async def prepare(stage: Stage, waiters: Sequence[Waiter]) -> None:
    """What has to be there before: consumer groups."""
    async with await stage.connect() as client:
        for waiter in waiters:
            if waiter.form.prepare is not None:
                for key in waiter.keys:
                    await client.command(*waiter.form.prepare(key))


@asynccontextmanager
async def waiting(stage: Stage, waiters: Sequence[Waiter]) -> AsyncIterator[None]:
    """They are blocked when the body begins, and have ended after it."""
    await prepare(stage, waiters)
    async with trio.open_nursery() as nursery:
        for waiter in waiters:
            nursery.start_soon(waiter.run, stage.connect)
        await stage.blocked(len(waiters))
        yield


async def all_served(waiters: Sequence[Waiter], within: float) -> None:
    """Wait until all have their replies, and name those who have not in time."""
    with trio.move_on_after(within):
        while any(waiter.reply is NOTHING for waiter in waiters):  # noqa: ASYNC110
            await trio.sleep(0.005)
    late = [waiter for waiter in waiters if waiter.reply is NOTHING]
    assert not late, late
