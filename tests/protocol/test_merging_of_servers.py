"""Replies of three real nodes, merged: of the shape that one node gives, and true of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hiredis
import pytest

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply, pack
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.protocol.commands import Command, CommandTable
from slotproxy.protocol.merging import MERGED_BY_HAND, merge_over_nodes
from slotproxy.protocol.nodereplies import is_error
from slotproxy.protocol.resp import OK, error, integer
from tests.protocol.live import LiveServer

#: Names of fields, which have to stand in the merged reply where they stand in one node's. All else is a value.
FIELDS = frozenset(
    b"count reason context object username age-seconds client-info library_name engine functions name description "
    b"flags library_code running_script command duration_ms engines LUA libraries_count functions_count calls".split()
)

COMMANDS = [
    *("ACL LOG", "ACL LOG 1", "FUNCTION DUMP", "FUNCTION LIST", "FUNCTION LIST WITHCODE", "FUNCTION STATS", "LASTSAVE"),
    *("LATENCY DOCTOR", "LATENCY GRAPH command", "LATENCY HISTOGRAM", "LATENCY HISTOGRAM eval", "LATENCY LATEST"),
    *("LATENCY HISTORY command", "LATENCY HISTORY none", "MEMORY DOCTOR", "MEMORY MALLOC-STATS", "MEMORY STATS"),
    *("MODULE LIST", "PUBSUB CHANNELS", "PUBSUB NUMPAT", "PUBSUB NUMSUB", "PUBSUB NUMSUB a b a"),
    *("PUBSUB SHARDCHANNELS", "PUBSUB SHARDNUMSUB a a", "SLOWLOG GET", "SLOWLOG GET -1", "SLOWLOG GET 1"),
    *("KEYS *", "DBSIZE", "SLOWLOG LEN", "LATENCY RESET", "SCRIPT EXISTS a b", "FLUSHALL", "ACL LOG RESET"),
    "ACL DELUSER nosuch",
]


LIBRARY = """#!lua name=lib
redis.register_function('one', function() return 1 end)
redis.register_function('spin', function() while true do end end)"""


def outline(frame: Any, named: bool) -> Any:
    """Types and nesting; names of fields as they are (`named`: whatever stands before a value is one)."""
    if not isinstance(frame, list):
        return frame if frame in FIELDS else type(frame).__name__
    inside = [outline(item, named) for item in frame]
    return [frame[at] if named and at % 2 == 0 else item for at, item in enumerate(inside)]


def rows(frame: Any) -> Iterator[str]:
    """The outlines of a list's rows; lists in them (a command's arguments) may differ in length."""
    for row in outline(frame, False):
        parts = row if isinstance(row, list) else [row]
        yield repr([sorted({repr(item) for item in part}) if isinstance(part, list) else part for part in parts])


def decoded(frame: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(frame)
    return reader.gets()


def command_of(line: str) -> Command:
    command = CommandTable.snapshot().resolve([word.encode() for word in line.split()])
    assert command is not None
    return command


def ask(nodes: list[Node], line: str) -> tuple[bytes, list[bytes]]:
    """The merged reply, and those it was made of."""
    words = line.split()
    command = command_of(line)
    replies = [LiveServer(node.port).answers(pack(*words))[0] for node in nodes]
    arguments = [word.encode() for word in words]
    names = [node.address for node in nodes]
    return merge_over_nodes(command.name, command.response_policy, arguments, names, replies), replies


async def give_each_something_to_say(nodes: list[Node]) -> None:
    for node in nodes:
        server = LiveServer(node.port)
        await node.pipeline(["SLOWLOG", "RESET"], ["LATENCY", "RESET"])
        await node.command("CONFIG", "SET", "latency-monitor-threshold", "1")
        await node.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
        for _ in range(3):
            await node.command("EVAL", "local n = 0 for i = 1, 2000000 do n = n + 1 end return n", 0)
            assert server.answers(pack("AUTH", "nobody", "wrong"))[0].startswith(b"-WRONGPASS")
        server.answers(b"".join(pack("SET", f"key-{n}", "v", "EX", "1000") for n in range(30)))
        server.answers(pack("FUNCTION", "LOAD", LIBRARY))


async def test_merged_replies_have_the_shape_that_one_node_gives(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    assert {command_of(line).name for line in COMMANDS} >= MERGED_BY_HAND
    await give_each_something_to_say(nodes)
    for line in COMMANDS:
        frame, replies = ask(nodes, line)
        if is_error(replies[0]):  # 6.2 does not have it
            assert frame == replies[0], line
            continue
        reply, given = decoded(frame), [decoded(each) for each in replies]
        assert frame[:1] == replies[0][:1], line
        if line in ("MEMORY STATS", "FUNCTION STATS"):
            assert {repr(outline(each, True)) for each in given} == {repr(outline(reply, True))}, line
        elif line.startswith("LATENCY HISTOGRAM"):
            for name, (calls, total, usec, buckets) in zip(reply[::2], reply[1::2], strict=True):
                own = [dict(zip(each[::2], each[1::2], strict=True)).get(name) for each in given]
                assert (calls, usec) == (b"calls", b"histogram_usec") and buckets[-1] == total
                assert total == sum(each[1] for each in own if each), line
                assert buckets[::2] == sorted({bound for each in own if each for bound in each[3][::2]})
        elif isinstance(reply, list):
            assert {*rows(reply)} <= {row for each in given for row in rows(each)}, line
            assert bool(reply) == any(given), line
        else:
            assert type(reply) in {type(each) for each in given}, line
    if not is_error(LiveServer(nodes[0].port).answers(pack("FUNCTION", "FLUSH"))[0]):
        await nodes[1].command("FUNCTION", "FLUSH")
        await nodes[2].command("FUNCTION", "FLUSH")


async def test_merged_replies_of_real_nodes_say_what_is_true_of_all_of_them(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    await give_each_something_to_say(nodes)
    keys = {f"key-{n}".encode() for n in range(30)}
    assert ask(nodes, "DBSIZE")[0] == integer(30)
    assert {*decoded(ask(nodes, "KEYS *")[0])} == keys
    stats = decoded(ask(nodes, "MEMORY STATS")[0])
    assert stats[stats.index(b"keys.count") + 1] == 30
    log = decoded(ask(nodes, "SLOWLOG GET -1")[0])
    assert [row[1] for row in log] == sorted([row[1] for row in log], reverse=True)
    again = decoded(ask(nodes[::-1], "SLOWLOG GET -1")[0])
    assert {row[0] for row in log} < {row[0] for row in again}  # the same entries by the same ids, and newer ones
    assert len(decoded(ask(nodes, "SLOWLOG GET 2")[0])) == 2
    assert [row[0] for row in decoded(ask(nodes, "LATENCY LATEST")[0])].count(b"command") == 1
    assert ask(nodes, "LATENCY GRAPH nothing")[0] == error("ERR No samples available for event 'nothing'")
    assert ask(nodes, "SLOWLOG GET x")[0] == ask(nodes[:1], "SLOWLOG GET x")[0]
    assert ask(nodes, "LATENCY RESET nothing")[0] == integer(0)
    reset, replies = ask(nodes, "LATENCY RESET")
    assert reset == integer(sum(decoded(reply) for reply in replies)) and decoded(reset) >= 3


async def test_subscribers_of_all_real_nodes_are_counted(cluster: EmbeddedCluster) -> None:
    nodes = cluster.nodes
    async with await nodes[0].connect() as one, await nodes[1].connect() as other:
        for connection in (one, other):
            assert await connection.command("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
        assert await other.command("PSUBSCRIBE", "b*") == [b"psubscribe", b"b*", 2]
        assert decoded(ask(nodes, "PUBSUB NUMSUB a c a")[0]) == [b"a", 2, b"c", 0, b"a", 2]
        assert decoded(ask(nodes, "PUBSUB CHANNELS")[0]) == [b"a"]
        assert ask(nodes, "PUBSUB NUMPAT")[0] == integer(1)


@pytest.mark.parametrize(("spin", "kill"), [("EVAL", "SCRIPT KILL"), ("FCALL", "FUNCTION KILL")])
async def test_code_that_keeps_one_node_busy_is_named_and_can_be_killed(
    cluster: EmbeddedCluster, spin: str, kill: str
) -> None:
    nodes = cluster.nodes
    names = [node.address for node in nodes]
    for node in nodes:
        await node.command("CONFIG", "SET", "lua-time-limit", "5")
    has_functions = not is_error(LiveServer(nodes[1].port).answers(pack("FUNCTION", "LOAD", "REPLACE", LIBRARY))[0])
    if spin == "FCALL" and not has_functions:
        pytest.skip("functions came with 7.0")
    assert ask(nodes, kill)[0] == b"-NOTBUSY No scripts in execution right now.\r\n"
    async with await nodes[1].connect() as connection:
        await connection.send(pack(spin, "spin" if spin == "FCALL" else "while true do end", 0))

        async def refused() -> bool:
            return ask(nodes, "DBSIZE")[0].startswith(b"-")

        await until(refused, within=10)
        reply = ask(nodes, "DBSIZE")[0].decode()
        assert reply.startswith(f"-ERR slotproxy: incomplete: DBSIZE failed on node {names[1]} (BUSY Redis is busy ")
        assert reply.endswith(f"; it succeeded on nodes {names[0]}, {names[2]}\r\n")
        if spin == "FCALL":
            stats, replies = ask(nodes, "FUNCTION STATS")
            assert outline(decoded(stats), True) == outline(decoded(replies[1]), True)
            assert decoded(stats)[1][:4] == [b"name", b"spin", b"command", [b"FCALL", b"spin", b"0"]]
        assert ask(nodes, kill)[0] == OK
        assert isinstance(await connection.receive(), ErrorReply)
    if has_functions:
        await nodes[1].command("FUNCTION", "FLUSH")
