"""CLIENT's subcommands about the proxy's own clients, held against a standalone server of the same binary.

The same clients stand on both sides: those of the server, and what its CLIENT LIST says of them, described. `execute`
does with a request what the data plane does. The wording is that of 7.0: where an older server has another one, both
only have to be errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from slotproxy.dataplane.clientlist import (
    Described,
    flags_of,
    is_listed,
    is_meant,
    kind_of,
    line_of,
    lines_of,
)
from slotproxy.demo.connection import pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.servers import server_version
from slotproxy.protocol.clientfilters import (
    ClientRequest,
    DescribeMe,
    DescribeTracking,
    GetRedirection,
    KillClients,
    ListClients,
    SetCaching,
    SetReplyMode,
    UnblockClient,
    parse_client,
    paused_as_write,
)
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.resp import OK, bulk, integer
from slotproxy.protocol.tracking import caching_of, tracking_info
from tests.integration.wire import Wire, dial
from tests.servers import standalone_server


@pytest.fixture(scope="module")
def plain_server(redis_server: str) -> Iterator[int]:
    """The port of a standalone server, one for all tests here."""
    guard = Guard("slotproxy-test-")
    try:
        with standalone_server(redis_server, guard) as port:
            yield port
    finally:
        guard.close()


def described(line: bytes) -> Described:
    field = dict(word.partition(b"=")[::2] for word in line.split(b" "))
    command = field[b"cmd"].decode()
    return Described(
        id=int(field[b"id"]),
        addr=field[b"addr"],
        laddr=field[b"laddr"],
        fd=int(field[b"fd"]),
        name=field[b"name"],
        age=float(field[b"age"]),
        idle=float(field[b"idle"]),
        flags=field[b"flags"].decode().replace("N", ""),
        query_buffer=0,
        unsent=0,
        unsent_frames=0,
        reading=b"r" in field[b"events"],
        command="" if command == "NULL" else command,
        user=field[b"user"],
        resp=2,
        multi=int(field[b"multi"]),
        subscribed=(int(field[b"sub"]), int(field[b"psub"]), int(field.get(b"ssub", 0))),  # 6.2 has no ssub
    )


class Crowd:
    """Clients of a server: `me` asks, `normal` and `pubsub` are asked about, `beside` sees it from outside."""

    def __init__(self, me: Wire, normal: Wire, pubsub: Wire, beside: Wire) -> None:
        self.beside = beside
        self.wires = {"me": me, "normal": normal, "pubsub": pubsub}
        self.ids: dict[str, int] = {}
        self.words: dict[str, str] = {}

    async def lines(self) -> list[bytes]:
        reply = await self.beside.ask(pack("CLIENT", "LIST"))
        return reply.partition(b"\r\n")[2].splitlines()[:-1]

    async def clients(self) -> list[Described]:
        return [client for client in map(described, await self.lines()) if client.id in self.ids.values()]

    def filled(self, words: Sequence[str | bytes]) -> list[bytes]:
        """Arguments, in which `{me}` is that client's ID, `{me.addr}` its address, and so on."""
        replaced = [self.words.get(word, word) if isinstance(word, str) else word for word in words]
        return [word if isinstance(word, bytes) else word.encode() for word in replaced]


@asynccontextmanager
async def crowd(port: int) -> AsyncIterator[Crowd]:
    async with await dial(port) as me, await dial(port) as normal, await dial(port) as pubsub, await dial(port) as side:
        found = Crowd(me, normal, pubsub, side)
        for name, wire in found.wires.items():
            found.ids[name] = int((await wire.ask(pack("CLIENT", "ID")))[1:-2])
            await wire.ask(pack("CLIENT", "SETNAME", name))
        await pubsub.send(pack("SUBSCRIBE", "channel"))
        await pubsub.read(len(b"*3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n"))
        names = {id: name for name, id in found.ids.items()}
        for client in await found.clients():
            name = names[client.id]
            found.words[f"{{{name}}}"] = str(client.id)
            found.words[f"{{{name}.addr}}"] = client.addr.decode()
            found.words[f"{{{name}.laddr}}"] = client.laddr.decode()
        yield found


def execute(request: ClientRequest | bytes | None, clients: list[Described], me: int) -> tuple[bytes, set[int]]:
    """The reply, and which clients are ended."""
    if isinstance(request, bytes):
        return request, set()
    if isinstance(request, ListClients):
        by_id = {client.id: client for client in clients}
        chosen = [client for client in clients if is_listed(request, client)]
        if request.ids is not None:
            chosen = [by_id[id] for id in request.ids if id in by_id]
        return bulk(lines_of(chosen)), set()
    if isinstance(request, DescribeMe):
        return bulk(lines_of([client for client in clients if client.id == me])), set()
    if isinstance(request, GetRedirection):
        return integer(-1), set()
    if isinstance(request, SetCaching):
        refusal = caching_of(request.word, None)
        assert isinstance(refusal, bytes)
        return refusal, set()
    if isinstance(request, DescribeTracking):
        return tracking_info(2, None, 0, False), set()
    if isinstance(request, KillClients):
        meant = {client.id for client in clients if is_meant(request, client, me)}
        return request.reply(len(meant)), meant
    if isinstance(request, UnblockClient):
        return integer(0), set()
    if isinstance(request, SetReplyMode):
        return OK if request.mode == "on" else b"", set()
    return OK, set()


# ---- the same replies

SAME: list[tuple[str | bytes, ...]] = [
    ("LIST", "x"), ("LIST", "TYPE"), ("LIST", "TYPE", "foo"), ("LIST", "TYPE", ""), ("LIST", "TYPE", "master"),
    ("LIST", "TYPE", "NORMAL", "x"), ("LIST", "TYPE", "slave"), ("LIST", "type", "rEplica"),
    ("LIST", "TYPE", b"f\0oo"), ("LIST", "TYPE", b"f\r\n\xff"), ("LIST", "TYPE", "x" * 300), ("LIST", "ID"),
    ("LIST", "ID", "x"), ("LIST", "ID", ""), ("LIST", "ID", "01"), ("LIST", "ID", "0"), ("LIST", "ID", "-1"),
    ("LIST", "ID", "1", "x"), ("LIST", "ID", "99999999999999999999"), ("LIST", "ID", "9223372036854775807"),
    ("LIST", "ID", "1", "TYPE", "normal"), ("LIST", "TYPE", "normal", "ID", "1"),
    ("KILL", "x"), ("KILL", ""), ("KILL", "127.0.0.1:1"), ("KILL", "ID"), ("KILL", "{me}"), ("KILL", "{me.laddr}"),
    ("KILL", "ID", "999999"), ("KILL", "id", "9223372036854775807"), ("KILL", "ID", "999999", "TYPE"),
    ("KILL", "TYPE", "foo"), ("KILL", "TYPE", ""), ("KILL", "TYPE", b"fo\0o"), ("KILL", "TYPE", "replica"),
    ("KILL", "TYPE", "MASTER"), ("KILL", "USER", "foo"), ("KILL", "USER", ""), ("KILL", "USER", "DEFAULT"),
    ("KILL", "USER", b"default\0x"), ("KILL", "USER", b"a\r\nb"), ("KILL", "USER", "default", "ID", "999999"),
    ("KILL", "ADDR", "1.1.1.1:1"), ("KILL", "LADDR", "1.1.1.1:1"), ("KILL", "SKIPME", "maybe"),
    ("KILL", "SKIPME", ""), ("KILL", "ID", "999999", "SKIPME", "NO"), ("KILL", "FOO", "bar"),
    ("KILL", "ADDR", "1.1.1.1:1", "x"), ("KILL", "TYPE", "foo", "ID", "x"), ("KILL", "ID", "1", "FOO", "bar"),
    ("KILL", "USER", "foo", "TYPE", "foo"), ("KILL", "SKIPME", "no", "ADDR"),
    ("GETREDIR",), ("getredir",), ("TRACKINGINFO",), ("CACHING", "yes"), ("CACHING", "no"), ("CACHING", "foo"),
    ("UNBLOCK", "foo"), ("UNBLOCK", ""), ("UNBLOCK", " 1"), ("UNBLOCK", "01"), ("UNBLOCK", b"1\0"), ("UNBLOCK", "0"),
    ("UNBLOCK", "-1"), ("UNBLOCK", "{me}"), ("UNBLOCK", "{normal}", "error"), ("UNBLOCK", "999999", "timeout"),
    ("UNBLOCK", "999999", "foo"), ("UNBLOCK", "foo", "foo"), ("UNBLOCK", "1", ""),
    ("UNBLOCK", "99999999999999999999"), ("UNBLOCK", "-9223372036854775808"), ("UNBLOCK", "-9223372036854775809"),
    ("UNBLOCK", "9" * 5000),
    ("PAUSE", "-1"), ("PAUSE", "foo"), ("PAUSE", ""), ("PAUSE", "1.5"), ("PAUSE", "+1"), ("PAUSE", "01"),
    ("PAUSE", "99999999999999999999"), ("PAUSE", "9223372036854775808"), ("PAUSE", "9223372036854775807"),
    ("PAUSE", "1", "foo"), ("PAUSE", "foo", "foo"), ("PAUSE", "-1", "foo"), ("PAUSE", "0"), ("PAUSE", "0", "write"),
    ("PAUSE", "0", b"All\0x"), ("PAUSE", "1", ""), ("UNPAUSE",), ("unpause",),
    ("REPLY", "ON"), ("REPLY", "foo"), ("REPLY", ""), ("REPLY", "OFF"), ("REPLY", "skip"), ("REPLY", b"off\0x"),
    ("SETNAME", "x"), ("SETNAME", ""), ("SETNAME", "a b"), ("SETNAME", b"a\0"), ("SETNAME", "a\x7f"),
    ("SETNAME", "~!"), ("SETNAME", b"\xff"),
]  # fmt: skip

WORDED_AS_7: list[tuple[str | bytes, ...]] = [
    ("KILL",), ("KILL", "ID", "x"), ("KILL", "ID", ""), ("KILL", "ID", "01"), ("KILL", "ID", "99999999999999999999"),
    ("KILL", "ID", "x", "TYPE", "foo"), ("INFO", "x"), ("GETREDIR", "x"), ("TRACKINGINFO", "x"), ("CACHING",),
    ("CACHING", "yes", "x"), ("UNBLOCK",), ("UNBLOCK", "1", "ERROR", "x"), ("UNBLOCK", "x", "foo", "x"), ("PAUSE",),
    ("pAuse", "0", "ALL", "x"), ("UNPAUSE", "x"), ("REPLY",), ("REPLY", "OFF", "x"), ("SETNAME",),
    ("SETNAME", "a", "b"), ("GETNAME", "x"), ("ID", "x"),
]  # fmt: skip

#: 6.2 has no NO-EVICT, and kills nobody where 7.0 refuses the ID.
SINCE_7: list[tuple[str | bytes, ...]] = [
    ("NO-EVICT", "on"), ("NO-EVICT", "OFF"), ("NO-EVICT", b"on\0x"), ("NO-EVICT", "foo"), ("NO-EVICT", ""),
    ("NO-EVICT",), ("NO-EVICT", "on", "x"), ("KILL", "ID", "0"), ("KILL", "ID", "-1"),
]  # fmt: skip


async def test_replies_are_those_of_a_plain_server(redis_server: str, plain_server: int) -> None:
    old = server_version(redis_server) < (7,)
    differences = []
    with trio.fail_after(60):
        async with crowd(plain_server) as people:
            clients = await people.clients()
            for words in SAME + WORDED_AS_7 + ([] if old else SINCE_7):
                arguments = people.filled(("CLIENT", *words))
                async with await dial(plain_server) as asking:
                    # One reply or none, then that of REPLY ON, which is answered in every mode.
                    expected = await asking.ask(pack(*arguments) + pack("CLIENT", "REPLY", "ON"))
                assert expected.endswith(OK)
                expected = expected.removesuffix(OK)
                said = execute(parse_client(arguments), clients, -1)[0]
                if old and words in WORDED_AS_7:
                    expected, said = expected[:1], said[:1]
                if said != expected:
                    differences.append(f"{words}\n  server: {expected!r}\n  here:   {said!r}")
    assert not differences, "\n".join(differences)


# ---- who is killed

KILLS: list[tuple[str, ...]] = [
    ("{normal.addr}",), ("{me.addr}",), ("{pubsub.addr}",), ("ID", "{normal}"), ("ID", "{me}"),
    ("ID", "{me}", "SKIPME", "no"), ("ID", "{me}", "SKIPME", "YES"), ("TYPE", "pubsub"), ("type", "PubSub"),
    ("ADDR", "{normal.addr}"), ("ADDR", "{me.addr}", "skipme", "NO"), ("ADDR", "{normal.addr}", "ID", "{normal}"),
    ("ADDR", "{normal.addr}", "ID", "{pubsub}"), ("TYPE", "normal", "ID", "{pubsub}"),
    ("TYPE", "pubsub", "ID", "{pubsub}"), ("USER", "default", "ID", "{normal}"), ("ID", "{normal}", "ID", "{pubsub}"),
    ("LADDR", "{me.laddr}", "ID", "{pubsub}"), ("LADDR", "{me.addr}"), ("LADDR", "{me.laddr}", "TYPE", "pubsub"),
    ("TYPE", "normal", "ADDR", "{normal.addr}", "LADDR", "{me.laddr}", "USER", "default", "SKIPME", "no"),
    ("SKIPME", "no", "SKIPME", "yes", "ID", "{me}"), ("TYPE", "pubsub", "TYPE", "normal", "ID", "{normal}"),
]  # fmt: skip


@pytest.mark.parametrize("words", KILLS, ids=" ".join)
async def test_the_same_clients_are_killed(plain_server: int, words: tuple[str, ...]) -> None:
    with trio.fail_after(20):
        async with crowd(plain_server) as people:
            before, me = await people.clients(), people.ids["me"]
            arguments = people.filled(("CLIENT", "KILL", *words))
            frame, ended = execute(parse_client(arguments), before, me)
            said = await people.wires["me"].ask(pack(*arguments))
            assert said == frame + (b"<closed>" if me in ended else b"")

            async def gone() -> bool:
                return {client.id for client in await people.clients()} == set(people.ids.values()) - ended

            await until(gone, within=10)


async def test_all_but_oneself_are_killed_unless_one_says_so(plain_server: int) -> None:
    with trio.fail_after(20):
        for words in [("SKIPME", "yes"), ("USER", "default"), ("TYPE", "normal"), ("SKIPME", "no")]:
            async with crowd(plain_server) as people:
                everyone = [described(line) for line in await people.lines()]
                arguments = people.filled(("CLIENT", "KILL", *words))
                frame, ended = execute(parse_client(arguments), everyone, people.ids["me"])
                assert people.ids["normal"] in ended
                closed = b"<closed>" if people.ids["me"] in ended else b""
                assert await people.wires["me"].ask(pack(*arguments)) == frame + closed


def a_client(**changes: object) -> Described:
    values: dict[str, object] = dict(
        id=5, addr=b"127.0.0.1:99", laddr=b"[::1]:6379", fd=8, name=b"me", age=61.9, idle=0.99, flags="",
        query_buffer=10, unsent=0, unsent_frames=0, reading=True, command="", user=b"default", resp=2, multi=-1,
        subscribed=(2, 1, 3),
    )  # fmt: skip
    return Described(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("age", "meant"), [(59.9, False), (60.0, True), (1000.0, True)])
def test_max_age_counts_whole_seconds(age: float, meant: bool) -> None:
    request = parse_client([b"CLIENT", b"KILL", b"MAXAGE", b"60"])
    assert isinstance(request, KillClients)
    assert is_meant(request, a_client(age=age), 1) is meant
    assert not is_meant(request, a_client(age=1000.0), 5)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [("", "normal"), ("bce", "normal"), ("O", "normal"), ("P", "pubsub"), ("S", "slave"), ("M", "master")],
)
def test_the_kind_of_a_client(flags: str, kind: str) -> None:
    assert kind_of(a_client(flags=flags)) == kind


# ---- who is listed, and how

#: What a line says of a client that does not depend on the server's buffers or on when it was asked.
STEADY = {b"id", b"addr", b"laddr", b"fd", b"name", b"db", b"psub", b"ssub", b"multi", b"user", b"redir", b"resp"}


def steady(reply: bytes) -> list[dict[bytes, bytes]]:
    lines = reply.partition(b"\r\n")[2].removesuffix(b"\r\n").splitlines()
    fields = [dict(word.partition(b"=")[::2] for word in line.split(b" ")) for line in lines]
    return [{name: value for name, value in field.items() if name in STEADY} for field in fields]


@pytest.mark.parametrize(
    "words",
    [
        ("LIST", "ID", "{me}"), ("LIST", "id", "{normal}", "{me}", "999999", "{normal}", "-1"),
        ("LIST", "TYPE", "pubsub"), ("LIST", "ID", "{pubsub}", "{me}"), ("INFO",), ("info",),
    ],
    ids=" ".join,
)  # fmt: skip
async def test_the_same_clients_are_listed(redis_server: str, plain_server: int, words: tuple[str, ...]) -> None:
    with trio.fail_after(20):
        async with crowd(plain_server) as people:
            arguments = people.filled(("CLIENT", *words))
            said, _ = execute(parse_client(arguments), await people.clients(), people.ids["me"])
            expected = steady(await people.wires["me"].ask(pack(*arguments)))
            assert expected
            known = expected[0].keys()  # 6.2 has no ssub and resp
            assert [{name: line[name] for name in known} for line in steady(said)] == expected
            assert known == STEADY or server_version(redis_server) < (7,)


async def test_a_line_has_the_fields_of_7_in_their_order(redis_server: str, plain_server: int) -> None:
    with trio.fail_after(20):
        async with crowd(plain_server) as people:
            (line,) = [line for line in await people.lines() if b" name=normal " in line]
            expected, ours = line.split(b" "), line_of(described(line)).split(b" ")
            if server_version(redis_server) < (7,):  # it has not all of them yet
                known = {word.partition(b"=")[0] for word in expected}
                ours = [word for word in ours if word.partition(b"=")[0] in known]
            assert [word.partition(b"=")[0] for word in ours] == [word.partition(b"=")[0] for word in expected]
            # This client is at rest: only what the server has allocated for it differs.
            allocated = (b"qbuf-free=", b"rbs=", b"rbp=", b"tot-mem=")
            assert [word for word in ours if not word.startswith(allocated)] == [
                word for word in expected if not word.startswith(allocated)
            ]


def test_a_line_says_what_the_proxy_knows() -> None:
    flags = flags_of(True, True, True, True, True, True)
    said = line_of(a_client(flags=flags, unsent=300, unsent_frames=2, reading=False, command="client|list"))
    assert said == (
        b"id=5 addr=127.0.0.1:99 laddr=[::1]:6379 fd=8 name=me age=61 idle=0 flags=PxbcUe db=0 sub=2 psub=1 ssub=3"
        b" multi=-1 qbuf=10 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=2 omem=300 tot-mem=310"
        b" events=w cmd=client|list user=default redir=-1 resp=2"
    )
    assert b" flags=N " in line_of(a_client(flags=flags_of(False, False, False, False, False, False)))
    assert b" cmd=NULL " in line_of(a_client())
    assert b" events=r " in line_of(a_client())


# ---- what CLIENT PAUSE WRITE holds back

COMMANDS: list[tuple[str, ...]] = [
    ("SET", "k", "1"), ("EXPIRE", "k", "9"), ("PFADD", "pf", "a"), ("PFCOUNT", "pf"), ("PUBLISH", "a", "b"),
    ("EVAL", "return 1", "0"), ("EVALSHA", "0" * 40, "0"), ("SORT", "k"), ("GEORADIUS", "k", "1", "1", "1", "m"),
    ("BLPOP", "k", "1"), ("FLUSHALL",), ("GET", "k"), ("TOUCH", "k"), ("GEORADIUS_RO", "k", "1", "1", "1", "m"),
    ("DUMP", "k"), ("SUBSCRIBE", "a"), ("PING",), ("CONFIG", "GET", "maxmemory"), ("WAIT", "0", "0"), ("MULTI",),
    ("WATCH", "k"), ("OBJECT", "ENCODING", "k"), ("RESET",), ("CLIENT", "KILL", "ID", "999999"), ("INFO", "nosuch"),
    ("SCAN", "0"), ("DBSIZE",), ("QUIT",),
]  # fmt: skip

COMMANDS_SINCE_7: list[tuple[str, ...]] = [
    ("SPUBLISH", "a", "b"), ("FCALL", "f", "0"), ("FCALL_RO", "f", "0"), ("EVAL_RO", "return 1", "0"),
    ("EVALSHA_RO", "0" * 40, "0"), ("FUNCTION", "FLUSH"), ("FUNCTION", "LIST"), ("SORT_RO", "k"),
    ("SCRIPT", "LOAD", "return 1"), ("SCRIPT", "FLUSH"),  # 6.2 holds these back
]  # fmt: skip


async def test_a_pause_of_writes_holds_the_same_commands(redis_server: str, plain_server: int) -> None:
    table = CommandTable.snapshot()
    with trio.fail_after(60):
        async with await dial(plain_server) as beside:
            assert await beside.ask(pack("CLIENT", "PAUSE", "60000", "WRITE")) == OK
            try:
                for words in COMMANDS + (COMMANDS_SINCE_7 if server_version(redis_server) >= (7,) else []):
                    command = table.resolve([word.encode() for word in words])
                    assert command is not None
                    assert await _is_held(plain_server, beside, words) == paused_as_write(command), words
            finally:
                await beside.ask(pack("CLIENT", "UNPAUSE"))


async def _is_held(port: int, beside: Wire, words: tuple[str, ...]) -> bool:
    """Whether it waits: the server says so of its client, or answers."""
    async with await dial(port) as wire:
        id = (await wire.ask(pack("CLIENT", "ID")))[1:-2]
        answered = trio.Event()

        async def read() -> None:
            await wire.read(1)
            answered.set()

        async def blocked() -> bool:
            return b" flags=b " in await beside.ask(pack("CLIENT", "LIST", "ID", id))

        async def seen() -> bool:
            return answered.is_set() or await blocked()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wire.send(pack(*words))
            await until(seen, within=10)
            nursery.cancel_scope.cancel()
        return not answered.is_set()
