"""What the proxy answers itself is what a plain server of that version answers, byte for byte in RESP2.

Each request is sent to the proxy and to a standalone server of the same binary. Where the proxy means to differ, the
table says why. Its own wording is that of 7.0: against an older server those replies only have to be errors there too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Argument, Connection, ErrorReply, connect, pack
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.servers import server_version
from tests.conftest import ProxyFactory
from tests.integration.wire import HOST, dial, packed

Requests = Sequence[bytes | tuple[Argument, ...]]


async def replies(port: int, requests: Requests) -> bytes:
    """All that comes back on a connection of its own; what differs by nature is made equal."""
    async with await dial(port) as client:
        said = await client.ask(packed(requests))
    return re.sub(rb"(\$2\r\nid\r\n):\d+", rb"\1:<id>", said)


# ---- as a plain server

SAME: list[Requests] = [
    [("PING",)], [("PING", "x")], [("PING", "")], [("PING", "a", "b")], [("ping",)], [("PiNg", b"\0\r\n\xff")],
    [("ECHO", "x")], [("ECHO", "")], [("ECHO",)], [("ECHO", "a", "b")],
    [("QUIT",)], [("quit", "x")], [("PING", "1"), ("QUIT",), ("PING", "2"), ("SET", "after-quit", "1")],
    [("SELECT", "0")], [("SELECT",)], [("SELECT", "0", "1")], [("SELECT", "x")], [("SELECT", "")],
    [("SELECT", "00")], [("SELECT", " 0")], [("SELECT", "+0")], [("SELECT", "-0")], [("SELECT", "0_0")],
    [("SELECT", "99999999999999999999")], [("SELECT", "\u0660")],
    [("HELLO",)], [("HELLO", "2")], [("HELLO", "1")], [("HELLO", "4")], [("HELLO", "-1")], [("HELLO", "02")],
    [("HELLO", "x")], [("HELLO", "")], [("HELLO", "99999999999999999999")],
    [("HELLO", "3")], [("HELLO", "3"), ("HELLO",)], [("HELLO", "3", "SETNAME", "me"), ("CLIENT", "GETNAME")],
    [("HELLO", "3"), ("CLIENT", "GETNAME"), ("GET", "none"), ("BLPOP", "none", "0.1"), ("HELLO", "2"), ("GET", "none")],
    [("HELLO", "3"), ("CLIENT", "TRACKINGINFO"), ("CONFIG", "GET", "save"), ("RESET",), ("CONFIG", "GET", "save")],
    [("GET", "none"), ("HELLO", "3"), ("GET", "none"), ("HELLO", "4"), ("GET", "none"), ("HELLO", "3", "FOO")],
    [("HELLO", "3", "AUTH", "nobody", "x"), ("GET", "none"), ("HELLO", "2", "FOO"), ("MGET", "none", "a")],
    [("HELLO", "2", "AUTH", "default", "any")], [("HELLO", "2", "AUTH", "nobody", "x")],
    [("HELLO", "2", "AUTH", "default")], [("HELLO", "2", "auth", "default", "", "setname", "both")],
    [("HELLO", "2", "SETNAME", "me"), ("CLIENT", "GETNAME")], [("HELLO", "2", "SETNAME")],
    [("HELLO", "2", "SETNAME", "a b"), ("CLIENT", "GETNAME")], [("HELLO", "2", "FOO")], [("HELLO", "2", "FOO", "x")],
    [("HELLO", "2", b"\xff\r\nx")], [("HELLO", "2", "SETNAME", "me", "FOO"), ("CLIENT", "GETNAME")],
    [("HELLO", "2", "SETNAME", "me", "AUTH", "nobody", "x"), ("CLIENT", "GETNAME")],
    [("AUTH",)], [("AUTH", "x")], [("AUTH", "default", "x")], [("AUTH", "nobody", "x")], [("AUTH", "a", "b", "c")],
    [("CLIENT",)], [("CLIENT", "GETNAME")], [("client", "getname")],
    [("CLIENT", "SETNAME", "a b"), ("CLIENT", "GETNAME")],
    [("CLIENT", "SETNAME", "a\nb")], [("CLIENT", "SETNAME", b"\xff")],
    [("CLIENT", "SETNAME", "x"), ("CLIENT", "GETNAME"), ("CLIENT", "SETNAME", ""), ("CLIENT", "GETNAME")],
    [("CLIENT", "SETNAME", "mine"), ("HELLO", "2", "SETNAME", ""), ("CLIENT", "GETNAME")],
    [("COMMAND", "COUNT")], [("COMMAND", "GETKEYS", "SET", "a", "b")], [("COMMAND", "GETKEYS", "PING")],
    [("COMMAND", "GETKEYS")], [("COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2")], [("COMMAND", "INFO", "nosuch")],
    [("COMMAND", "HELP")], [("CLUSTER",)], [("CLUSTER", "INFO")], [("CLUSTER", "SLOTS")], [("cluster", "nodes")],
    [("CLUSTER", "HELP")], [("CLUSTER", "KEYSLOT", "a")], [("ASKING",)], [("ASKING", "x")], [("READONLY",)],
    [("READONLY", "x")], [("READWRITE", "x")], [("INFO", "nosuch")], [("INFO", "cluster")],
    [("CONFIG",)], [("CONFIG", "GET", "maxmemory-policy")], [("CONFIG", "GET", "nosuch")], [("CONFIG", "GET")],
    [("config", "get", "save")],
    [("GET",)], [("GET", "a", "b")], [("SET", "a")], [("MGET",)], [("MSET",)], [("MSET", "a")], [("DEL",)],
    [("EXISTS",)], [("RENAME", "a")], [("EVAL", "x")], [("EVAL", "return 1", "x")], [("EVAL", "return 1", "-1")],
    [("EVAL", "return 1", "5", "a")], [("EVAL", "return 1", "1")], [("ZUNIONSTORE", "d", "x", "a")],
    [("ZUNIONSTORE", "d", "9", "a")], [("ZADD", "z")], [("OBJECT",)], [("OBJECT", "FOO", "a")],
    [("OBJECT", "ENCODING", "nokey")], [("XGROUP", "FOO", "a")], [("XGROUP", "CREATE", "a")],
    [("XREAD", "STREAMS", "a")], [("XREAD", "COUNT")], [("SORT",)], [("BITOP", "AND")], [("MSETNX", "a")],
    [("WATCH",)], [("MIGRATE",)], [("MULTI", "x")],
    # Inline
    [b"PING\r\n"], [b"PING\n"], [b"\r\n"], [b"   \r\n"], [b"\n"], [b"ECHO 'a b'\r\n"], [b'ECHO "a\\x41\\n\\"b"\r\n'],
    [b'ECHO ""\r\n'], [b"ECHO 'a\\'b'\r\n"], [b"PING x\r\nPING y\r\n"], [b"ECHO\r\n"], [b"  ECHO   x  \r\n"],
    [b"SET inline 'a b'\r\nGET inline\r\n", ("GET", "inline")], [b"GET\r\n"], [b"QUIT\r\nPING\r\n"],
    [b"ECHO 'a\r\n"], [b'ECHO "a"b\r\n'], [b"MSET in:a 1 in:b 2\r\nMGET in:b in:a\r\n"],
    # Framing
    [b"*0\r\n"], [b"*-1\r\n"], [b"*-10\r\n"], [b"*x\r\n"], [b"*\r\n"], [b"*2147483648\r\n"], [b"*01\r\n$4\r\nPING\r\n"],
    [b"*1\r\n:4\r\n"], [b"*1\r\nPING\r\n"], [b"*1\r\n$-1\r\n"], [b"*1\r\n$x\r\n"], [b"*1\r\n$04\r\nPING\r\n"],
    [b"*1\r\n$536870913\r\n"], [b"*1\r\n$99999999999999999999\r\n"], [b"*1\r\n$4\r\nPINGxx"],
    [b"*1\rx$4\rxPING\r\n"], [b"*3\r\n$3\r\nSET\r\n$3\r\nirr\r\n$1\r\n1xx*2\r\n$3\r\nGET\r\n$3\r\nirr\r\n"],
    [("SET", "framed", ""), ("GET", "framed"), ("SET", "", "empty"), ("GET", "")],
    [b"*" + b"1" * 70_000], [b"*1\r\n$" + b"1" * 70_000],
    # What a browser can be made to send: nothing behind it is run
    [("POST", "x")], [("host:", "x"), ("SET", "browser", "1")],
    [b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET browser 1\r\n"],
    [("GET", "browser")], [("GET", "after-quit")],
]  # fmt: skip

WORDED_AS_7: list[Requests] = [
    [("NOSUCH",)], [("NOSUCH", "a", "b")], [("NoSuch", "a" * 200, "b")], [("NOSUCH", "a" * 100, "b" * 100, "c")],
    [("x" * 300,)], [(b"\xff\xfe", b"\xc3\xa9" * 80, "x")], [("a\r\nb", "c\r\nd")], [("a\0b", "c\0d", "e")], [("",)],
    [("", "x")], [("GET\0",)], [("NOSUCH", *["\xe9" * 10] * 20)], [("NOSUCH", *["aa"] * 60)], [b"NOSUCH x\r\n"],
    [("CLIENT", "ID", "x")], [("CLIENT", "GETNAME", "x")], [("CLIENT", "SETNAME")], [("CLIENT", "FOO")],
    [("CLIENT", b"\xff\xfe")], [("CLIENT", "F\r\n")], [("CONFIG", "FOO")], [("CLUSTER", "FOO")],
    [("CLUSTER", "INFO", "x")], [("CLUSTER", "KEYSLOT")], [("COMMAND", "FOO")], [("COMMAND", "COUNT", "x")],
    [("MSET", "a", "1", "b")], [("MSET", "a", "1", "b", "2", "c")], [("MEMORY", "FOO")],
    [("ZUNIONSTORE", "d", "0", "a")],
]  # fmt: skip

_DATABASES = "a cluster has one database; which others the application meant cannot be served"
_SETINFO = "libraries send it unasked, and 7.2 takes it"
_DIFFERENT: list[tuple[str, Requests, bytes]] = [
    (_DATABASES, [("SELECT", "1")], b"-ERR SELECT is not allowed in cluster mode\r\n"),
    (_DATABASES, [("SELECT", "16")], b"-ERR SELECT is not allowed in cluster mode\r\n"),
    (_DATABASES, [("SELECT", "-1")], b"-ERR SELECT is not allowed in cluster mode\r\n"),
    (_DATABASES, [("MOVE", "a", "1")], b"-ERR MOVE is not allowed in cluster mode\r\n"),
    (_SETINFO, [("CLIENT", "SETINFO", "lib-name", "x")], b"+OK\r\n"),
    (_SETINFO, [("CLIENT", "SETINFO", "LIB-VER", "1.0")], b"+OK\r\n"),
    (_SETINFO, [("CLIENT", "SETINFO", "x", "y")], b"-ERR Unrecognized option 'x'\r\n"),
    (_SETINFO, [("CLIENT", "SETINFO", "x")], b"-ERR wrong number of arguments for 'client|setinfo' command\r\n"),
    (
        "it is asked in a cluster only, where 7.0 disables it, too",
        [("READWRITE",)],
        b"-ERR This instance has cluster support disabled\r\n",
    ),
    (
        "keys of two slots are seen before the node could look at the options",
        [("BITOP", "XX", "d", "a")],
        b"-CROSSSLOT Keys in request don't hash to the same slot\r\n",
    ),
    (
        "the limit holds however the line was cut into packets",
        [b"PING " + b"x" * 70_000 + b"\r\n"],
        b"-ERR Protocol error: too big inline request\r\n<closed>",
    ),
    (
        "an error's text is UTF-8",
        [b"*1\r\n\xff\r\n"],
        b"-ERR Protocol error: expected '$', got '\xc3\xbf'\r\n<closed>",
    ),
    (
        "a reply already given is not lost with the connection",
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
        b"-ERR wrong number of arguments for 'get' command\r\n<closed>",
    ),
]


async def test_answers_are_those_of_a_plain_server(
    redis_server: str, plain_server: int, cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    target = await proxy()
    differences: list[str] = []
    with trio.fail_after(60):
        for requests in SAME:
            expected, said = await replies(plain_server, requests), await replies(target.port, requests)
            if said != expected:
                differences.append(f"{str(requests)[:200]}\n  server: {expected[:300]!r}\n  proxy:  {said[:300]!r}")
        for requests in WORDED_AS_7:
            expected, said = await replies(plain_server, requests), await replies(target.port, requests)
            if server_version(redis_server) < (7,):
                expected, said = expected.partition(b" ")[0], said.partition(b" ")[0]
            if said != expected:
                differences.append(f"{str(requests)[:200]}\n  server: {expected[:300]!r}\n  proxy:  {said[:300]!r}")
    assert not differences, "\n".join(differences)


async def test_answers_that_differ_by_intention(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()
    with trio.fail_after(30):
        for reason, requests, expected in _DIFFERENT:
            assert await replies(target.port, requests) == expected, (reason, str(requests)[:200])


async def test_inline_requests_are_answered_like_multibulk(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    target = await proxy()
    asked = 0
    with trio.fail_after(60):
        for requests in [*SAME, *WORDED_AS_7]:
            words = [
                [word if isinstance(word, bytes) else str(word).encode() for word in request]
                for request in requests
                if not isinstance(request, bytes)
            ]
            if len(words) < len(requests) or not all(request[0] for request in words):
                continue
            lines = [b" ".join(map(_quoted, request)) + b"\r\n" for request in words]
            assert await replies(target.port, lines) == await replies(target.port, requests), lines
            asked += 1
    assert asked > 100


def _quoted(word: bytes) -> bytes:
    return b'"' + b"".join(b"\\x%02x" % byte for byte in word) + b'"'


# ---- replies without an order of their own


def _unordered(value: object) -> object:
    return sorted(map(repr, map(_unordered, value))) if isinstance(value, list) else value


@pytest.mark.parametrize(
    "request_",
    [
        ("COMMAND",),
        ("COMMAND", "INFO", "get", "MSET", "nosuch", "xgroup"),
        ("COMMAND", "DOCS", "get", "nosuch", "config"),
        ("COMMAND", "LIST", "FILTERBY", "PATTERN", "x*"),
        ("COMMAND", "GETKEYSANDFLAGS", "LMOVE", "a", "b", "LEFT", "LEFT"),
        ("CONFIG", "GET", "maxmemory*"),
        ("CONFIG", "GET", "list-*"),
        ("CONFIG", "GET", "cluster-enabled"),
        ("CONFIG", "GET", "CLUSTER-enabled"),
    ],
    ids=lambda words: "-".join(words[:3]),
)
async def test_descriptions_are_the_servers(
    redis_server: str, plain_server: int, proxy: ProxyFactory, request_: tuple[str, ...]
) -> None:
    target = await proxy()
    with trio.fail_after(30):
        async with await connect(HOST, plain_server) as plain, await target.connect() as client:
            (expected,), (said,) = await plain.pipeline(request_), await client.pipeline(request_)
    if isinstance(expected, ErrorReply):
        assert server_version(redis_server) < (7,)
        assert isinstance(said, ErrorReply)
    else:
        assert expected
        assert _unordered(said) == _unordered(expected)


async def test_info_says_what_a_plain_server_would(redis_server: str, plain_server: int, proxy: ProxyFactory) -> None:
    target = await proxy()
    old = server_version(redis_server) < (7,)  # takes one section at most
    with trio.fail_after(30):
        async with await target.connect() as client, await connect(HOST, plain_server) as plain:
            for line in ("", "all", "everything", "default", "server", "CPU", "nosuch", "memory cpu"):
                words = line.split()
                if old and len(words) > 1:
                    continue
                expected, said = await _info(plain, *words), await _info(client, *words)
                own = said.pop("slotproxy", None)
                assert (own is not None) == (not words or words[0] in ("all", "everything", "default"))
                # Which commands and errors there were is each server's own history.
                assert list(said) == list(expected), words
                for title in said.keys() - {"Commandstats", "Latencystats", "Errorstats", "Keyspace"}:
                    assert list(said[title]) == list(expected[title]), title
            everything = await _info(client)
            assert everything["Server"]["redis_version"] == ".".join(map(str, server_version(redis_server)))
            assert everything["Server"]["redis_mode"] == "standalone"
            assert everything["Server"]["tcp_port"] == str(target.port)
            assert everything["Replication"]["role"] == "master"
            assert everything["Cluster"] == {"cluster_enabled": "0"}
            assert everything["Clients"]["connected_clients"] == "1"
            assert everything["slotproxy"]["primaries_connected"] == "3"
            assert everything["slotproxy"]["primaries_not_connected"] == ""
            await client.pipeline(*[("SET", f"k{number}", "v") for number in range(30)])
            assert (await _info(client, "keyspace"))["Keyspace"] == {"db0": "keys=30,expires=0,avg_ttl=0"}


async def _info(client: Connection, *sections: str) -> dict[str, dict[str, str]]:
    text: str = (await client.command("INFO", *sections)).decode()
    found: dict[str, dict[str, str]] = {}
    for block in filter(None, text.split("# ")):
        title, *lines = block.split("\r\n")
        found[title] = dict(line.split(":", 1) for line in lines if line)
    return found


async def test_client_ids_are_distinct_and_stay(proxy: ProxyFactory) -> None:
    target = await proxy()
    with trio.fail_after(30):
        async with await target.connect() as one, await target.connect() as two:
            first = [await client.command("CLIENT", "ID") for client in (one, two)]
            assert first[0] != first[1]
            assert [await client.command("CLIENT", "ID") for client in (one, two)] == first
            hello = await two.command("HELLO", "2")
            assert hello[hello.index(b"id") + 1] == first[1]
            await one.command("CLIENT", "SETNAME", "one")
            assert await two.command("CLIENT", "GETNAME") is None


# ---- refused without a node

CROSS_SLOT: list[tuple[Argument, ...]] = [
    ("RENAME", "a", "b"), ("MSETNX", "a", "1", "b", "2"), ("SUNION", "a", "b"), ("SMOVE", "a", "b", "m"),
    ("LMOVE", "a", "b", "LEFT", "LEFT"), ("RPOPLPUSH", "a", "b"), ("BITOP", "AND", "a", "b"), ("COPY", "a", "b"),
    ("PFMERGE", "a", "b"), ("PFCOUNT", "a", "b"), ("ZUNIONSTORE", "a", "1", "b"), ("ZDIFF", "2", "a", "b"),
    ("EVAL", "return 1", "2", "a", "b"), ("BLMOVE", "a", "b", "LEFT", "LEFT", "0"), ("SORT", "a", "STORE", "b"),
    ("GEOSEARCHSTORE", "a", "b", "FROMLONLAT", "1", "1", "BYRADIUS", "1", "m"), ("SDIFFSTORE", "{x}a", "{x}b", "{y}c"),
    ("GEORADIUS", "a", "1", "1", "1", "m", "STORE", "b"), ("STRALGO", "LCS", "KEYS", "a", "b"), ("LCS", "a", "b"),
]  # fmt: skip

REFUSED: list[tuple[str, tuple[Argument, ...]]] = [
    ("SHUTDOWN", ("NOSAVE",)), ("REPLICAOF", ("NO", "ONE")), ("SLAVEOF", ("NO", "ONE")), ("FAILOVER", ()), ("SYNC", ()),
    ("PSYNC", ("?", "-1")), ("REPLCONF", ("ack", "1")), ("MIGRATE", (HOST, "1", "a", "0", "10")),
    ("RESTORE-ASKING", ("a", "0", "x")), ("DEBUG SLEEP", ("0",)), ("DEBUG JMAP", ()), ("SAVE", ()), ("BGSAVE", ()),
    ("BGREWRITEAOF", ()), ("MODULE LOAD", ("x",)), ("MODULE UNLOAD", ("x",)), ("SCRIPT DEBUG", ("YES",)),
]  # fmt: skip


@pytest.fixture
def stats_of(cluster: EmbeddedCluster) -> Iterator[StatsOf]:
    yield StatsOf(cluster)


class StatsOf:
    """How often the nodes ran each command, without those that the proxy and the test themselves send."""

    _OURS = re.compile("info|cluster|client|command|replconf|ping|psync|select|config[|]get")

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster

    async def calls(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in self._cluster.nodes:
            for name, fields in (await node.info("commandstats")).items():
                command = name.removeprefix("cmdstat_")
                if not self._OURS.match(command):
                    found[command] += int(fields.split(",")[0].removeprefix("calls="))
        return found


async def test_cross_slot_needs_no_node(
    redis_server: str, cluster: EmbeddedCluster, proxy: ProxyFactory, stats_of: StatsOf
) -> None:
    target = await proxy()
    with trio.fail_after(30):
        known = {bytes(entry[0]) for entry in await cluster.nodes[0].command("COMMAND")}
        before = await stats_of.calls()
        for request in CROSS_SLOT:
            if str(request[0]).lower().encode() in known:
                said = await replies(target.port, [request])
                assert said == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", request
        assert await stats_of.calls() == before
        # The same figures do move for what reaches a node.
        await replies(target.port, [("RENAME", "{a}1", "{a}2")])
        assert await stats_of.calls() == before + Counter(["rename"])


async def test_what_is_meant_for_one_server_is_refused_by_name_and_needs_no_node(
    cluster: EmbeddedCluster, proxy: ProxyFactory, stats_of: StatsOf
) -> None:
    target = await proxy()
    with trio.fail_after(30):
        known = {bytes(entry[0]) for entry in await cluster.nodes[0].command("COMMAND")}
        before = await stats_of.calls()
        async with await dial(target.port) as client:
            for name, rest in REFUSED:
                if name.split()[0].lower().encode() in known:
                    said = await client.ask(pack(*name.split(), *rest))
                    assert said.startswith(b"-ERR slotproxy: %b is refused: " % name.encode()), said
        assert await stats_of.calls() == before


# ---- order


async def test_own_answers_wait_for_those_of_nodes(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """In one pipeline, with a node that is slow: replies in the order of the requests, errors and all."""
    target = await proxy()
    slow, quick = cluster.nodes[0], cluster.nodes[1]
    held = await cluster.key_in_slot(min(await cluster.slots_of(slow)))
    other = await cluster.key_in_slot(min(await cluster.slots_of(quick)))
    with trio.fail_after(30):
        async with await dial(target.port) as client, await dial(target.port) as beside:
            slow.pause()
            try:
                await client.send(
                    packed([("PING", "first"), ("SET", held, "1"), ("PING",), ("SET", other, "2"), ("NOSUCH",)])
                    + packed([b"ECHO x\r\n", ("MGET", held, other), ("RENAME", held, other), ("GET",), ("EXEC",)])
                    + packed([("CLIENT", "SETNAME", "n"), ("GET", other), ("CLIENT", "GETNAME"), ("INCR", held)])
                    + packed([("QUIT",), ("SET", other, "never")])
                )
                assert await client.read(11) == b"$5\r\nfirst\r\n"
                await until(lambda: _written(beside, other), within=10)
                assert client.received == b""
            finally:
                slow.resume()
            assert await client.read_to_end() == (
                b"+OK\r\n+PONG\r\n+OK\r\n-ERR unknown command 'NOSUCH', with args beginning with: \r\n$1\r\nx\r\n"
                b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n-CROSSSLOT Keys in request don't hash to the same slot\r\n"
                b"-ERR wrong number of arguments for 'get' command\r\n-ERR EXEC without MULTI\r\n"
                b"+OK\r\n$1\r\n2\r\n$1\r\nn\r\n:2\r\n+OK\r\n"
            )
            assert await beside.ask(pack("GET", other)) == b"$1\r\n2\r\n"


async def _written(beside: Any, key: str) -> bool:
    return bool(await beside.ask(pack("GET", key)) == b"$1\r\n2\r\n")


async def test_own_answers_do_not_wait_without_reason(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    """Another client's, while a node is silent, and what this client asked before."""
    target: ProxyProcess = await proxy()
    held = await cluster.key_in_slot(min(await cluster.slots_of(cluster.nodes[0])))
    with trio.fail_after(30):
        async with await dial(target.port) as client, await dial(target.port) as beside:
            cluster.nodes[0].pause()
            try:
                await client.send(packed([("PING", "x"), ("CLIENT", "GETNAME"), ("GET", held), ("PING",)]))
                assert await client.read(12) == b"$1\r\nx\r\n$-1\r\n"
                assert await beside.ask(pack("PING") + pack("ECHO", "y")) == b"+PONG\r\n$1\r\ny\r\n"
            finally:
                cluster.nodes[0].resume()
            assert await client.read(12) == b"$-1\r\n+PONG\r\n"
