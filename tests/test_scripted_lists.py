"""Lists, streams, and commands that wait, watch or are told: scripted nodes and real servers play the same playbooks.

A playbook's line is `connection: command; command -> reply; reply`, the commands in one write; a connection is called
by its node and a number. `->` without anything: it waits, and what it gets comes later: `connection <- reply`.
`{a1}` is the CLIENT ID of connection a1, `{a}` and `{b}` are the nodes' addresses, `{slot}` is that of the tag `f` and
belongs to a. TRACKED switches a connection to CLIENT TRACKING (RESP3).
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection
from slotproxy.demo.polling import until
from slotproxy.demo.servers import server_version
from tests.scripted_frames import decode, pack
from tests.scripted_node import NodeLink, ScriptedCluster, ScriptedNode, slot_of
from tests.test_scripted_node import Place, shown

SLOT = slot_of(b"{f}")
CONNECTIONS = ("a1", "a2", "a3", "b1", "b2")

IMPORTING = "b2: CLUSTER SETSLOT {slot} IMPORTING {a.id} -> OK"
MIGRATING = "a2: CLUSTER SETSLOT {slot} MIGRATING {b.id} -> OK"
MOVE = "a2: MIGRATE {host} {b.port} '' 0 5000 KEYS "
AGAIN = "-TRYAGAIN Multiple keys request during rehashing of slot"
ABORT = "-EXECABORT Transaction discarded because of previous errors."
WRONG = "-WRONGTYPE Operation against a key holding the wrong kind of value"

PLAYBOOKS = {
    "lists": f"""
        a1: RPUSH q{{f}} 1 2; LPUSH q{{f}} 4 3; LLEN q{{f}}; LPOP q{{f}}; RPOP q{{f}} -> 2; 4; 4; 3; 2
        a1: LPOP q{{f}}; LPOP q{{f}}; LPOP q{{f}}; EXISTS q{{f}} -> 4; 1; nil; 0
        a1: SET s{{f}} 1; LPOP s{{f}}; RPUSH s{{f}} x; BLPOP s{{f}} 0 -> OK; {WRONG}; {WRONG}; {WRONG}
        a1: RPUSH q{{f}} 1; GET q{{f}}; INCR q{{f}} -> 1; {WRONG}; {WRONG}
        a1: LMOVE q{{f}} r{{f}} LEFT RIGHT; LPOP r{{f}}; LMOVE q{{f}} r{{f}} LEFT RIGHT -> 1; 1; nil
    """,
    "who waits longest is served first": """
        a1: BLPOP p{f} q{f} 0 ->
        a2: BRPOP q{f} 0 ->
        a3: RPUSH q{f} 1 2 3 -> 3
        a1 <- [q{f} 1]
        a2 <- [q{f} 3]
        a3: BLPOP p{f} q{f} 0; EXISTS q{f} -> [q{f} 2]; 0
        a1: BLMOVE q{f} r{f} LEFT LEFT 0 ->
        a2: BLPOP r{f} 0 ->
        a3: RPUSH q{f} 1 -> 1
        a1 <- 1
        a2 <- [r{f} 1]
    """,
    "later commands wait": """
        a1: BLPOP q{f} 0; LLEN q{f} ->
        a2: RPUSH q{f} 1 2 -> 2
        a1 <- [q{f} 1]; 1
    """,
    "inside a transaction nothing waits": """
        a1: MULTI; BLPOP q{f} 0; RPUSH q{f} 1; BLPOP q{f} 0; EXEC -> OK; QUEUED; QUEUED; QUEUED; [nil 1 [q{f} 1]]
        a1: BLPOP q{f} 0 ->
        a2: MULTI; RPUSH q{f} 1; LPOP q{f}; EXEC -> OK; QUEUED; QUEUED; [1 1]
        a2: MULTI; RPUSH q{f} 1; RPUSH q{f} 2; EXEC -> OK; QUEUED; QUEUED; [1 2]
        a1 <- [q{f} 1]
    """,
    "the timeout": """
        a1: BLPOP q{f} 0.01 -> nil
        a1: BLMOVE q{f} r{f} LEFT LEFT 0.01 -> nil
        a1: XREAD BLOCK 10 STREAMS s{f} 0 -> nil
    """,
    "unblocked from outside": """
        a1: BLPOP q{f} 0 ->
        a2: CLIENT UNBLOCK {a1}; CLIENT UNBLOCK {a1} ERROR; CLIENT UNBLOCK 999999 -> 1; 0; 0
        a1 <- nil
        a1: BLPOP q{f} 0 ->
        a2: CLIENT UNBLOCK {a1} ERROR -> 1
        a1 <- -UNBLOCKED client unblocked via CLIENT UNBLOCK
        a1: BLPOP q{f} 0 ->
        a2: CLIENT KILL ID {a1}; RPUSH q{f} 1; LPOP q{f}; CLIENT KILL ID {a1} -> 1; 1; 1; 0
    """,
    "streams": """
        a1: XADD s{f} 1-1 x 1; XADD s{f} 1-2 x 2; XREAD STREAMS s{f} 1-1 -> 1-1; 1-2; [[s{f} [[1-2 [x 2]]]]]
        a1: XREVRANGE s{f} + - COUNT 1; XREVRANGE t{f} + - COUNT 1 -> [[1-2 [x 2]]]; []
        a1: XREAD BLOCK 0 STREAMS s{f} t{f} $ 0 ->
        a3: XREAD BLOCK 0 STREAMS s{f} $ ->
        a2: XADD s{f} 3-1 x 3 -> 3-1
        a1 <- [[s{f} [[3-1 [x 3]]]]]
        a3 <- [[s{f} [[3-1 [x 3]]]]]
        a1: XREAD STREAMS s{f} 3-1 -> nil
    """,
    "a blocked one does not hear of a migration before its end": f"""
        a1: BLPOP q{{f}} 0 ->
        {IMPORTING}
        {MIGRATING}
        a2: RPUSH q{{f}} 1 -> -ASK {{slot}} {{b}}
        b1: ASKING; RPUSH q{{f}} 1 -> OK; 1
        b2: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a2: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a1 <- -MOVED {{slot}} {{b}}
    """,
    "the target may be waited at, and served by MIGRATE": f"""
        {IMPORTING}
        {MIGRATING}
        b1: BLPOP q{{f}} 0; ASKING; BLPOP q{{f}} 0 -> -MOVED {{slot}} {{a}}; OK
        a2: BLPOP q{{f}} 0; BLPOP q{{f}} r{{f}} 0 -> -ASK {{slot}} {{b}}; -ASK {{slot}} {{b}}
        b2: ASKING; BLPOP q{{f}} r{{f}} 0 -> OK; {AGAIN}
        a2: CLUSTER SETSLOT {{slot}} STABLE; RPUSH q{{f}} 1; CLUSTER SETSLOT {{slot}} MIGRATING {{b.id}} -> OK; 1; OK
        {MOVE} q{{f}} -> OK
        b1 <- [q{{f}} 1]
    """,
    "watched keys": """
        a1: WATCH k{f} l{f}; MULTI; INCR k{f}; EXEC; MULTI; EXEC -> OK; OK; QUEUED; [1]; OK; []
        a1: WATCH k{f} -> OK
        a2: SET k{f} 1 -> OK
        a1: MULTI; INCR k{f}; EXEC; MULTI; INCR k{f}; EXEC -> OK; QUEUED; nil; OK; QUEUED; [2]
        a1: WATCH k{f} -> OK
        a2: GET k{f}; DEL none{f}; LPOP none{f} -> 2; 0; nil
        a1: MULTI; GET k{f}; EXEC -> OK; QUEUED; [2]
        a1: WATCH k{f}; INCR k{f}; MULTI; EXEC -> OK; 3; OK; nil
        a1: WATCH k{f}; INCR k{f}; UNWATCH; MULTI; EXEC -> OK; 4; OK; OK; []
        a1: WATCH k{f} none{f} -> OK
        a2: FLUSHALL -> OK
        a1: MULTI; EXEC -> OK; nil
        a1: WATCH none{f} -> OK
        a2: FLUSHALL; LPUSH q{f} 1 -> OK; 1
        a1: MULTI; EXEC; WATCH q{f} -> OK; []; OK
        a2: LPOP q{f} -> 1
        a1: MULTI; EXEC -> OK; nil
    """,
    "watched keys that move": f"""
        b1: WATCH k{{f}} -> -MOVED {{slot}} {{a}}
        a1: SET k{{f}} 1; WATCH k{{f}} -> OK; OK
        {IMPORTING}
        {MIGRATING}
        a3: WATCH new{{f}} -> -ASK {{slot}} {{b}}
        b1: ASKING; WATCH new{{f}}; MULTI; INCR new{{f}}; EXEC -> OK; OK; OK; -MOVED {{slot}} {{a}}; {ABORT}
        b1: ASKING; WATCH new{{f}}; ASKING; MULTI; INCR new{{f}}; EXEC -> OK; OK; OK; OK; QUEUED; [1]
        b1: ASKING; WATCH k{{f}} -> OK; OK
        {MOVE} k{{f}} -> OK
        a1: MULTI; PING; EXEC -> OK; QUEUED; nil
        b1: ASKING; MULTI; EXISTS k{{f}}; EXEC -> OK; OK; QUEUED; nil
    """,
    "at EXEC the keys of all commands are looked at together": f"""
        {IMPORTING}
        b1: ASKING; MULTI; SET k{{f}} 1; SET l{{f}} 1; EXEC -> OK; OK; QUEUED; QUEUED; {AGAIN}
        a1: SET k{{f}} 1 -> OK
        {MIGRATING}
        a1: MULTI; INCR k{{f}} -> OK; QUEUED
        {MOVE} k{{f}} -> OK
        a1: EXEC -> -ASK {{slot}} {{b}}
        b2: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a1: SET other{{c}} 1; MULTI; GET other{{c}} -> *; OK; *
        a2: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a1: EXEC -> *
        b1: MULTI; INCR k{{f}}; EXEC -> OK; QUEUED; [2]
    """,
    "an error at queueing comes behind a redirect at EXEC": f"""
        a1: SET k{{f}} 1; MULTI; GET k{{f}}; NOSUCH -> OK; OK; QUEUED; *
        {IMPORTING}
        {MIGRATING}
        {MOVE} k{{f}} -> OK
        a1: EXEC; EXEC -> -ASK {{slot}} {{b}}; -ERR EXEC without MULTI
    """,
    "tracked keys": """
        a1: TRACKED -> OK
        a1: EXISTS k{f} q{f} -> 0
        a2: RPUSH q{f} 1; RPUSH q{f} 2 -> 1; 2
        a1 <- [invalidate [q{f}]]
        a1: EXISTS q{f}; EXISTS q{f} -> 1; 1
        a2: GET k{f}; LPOP q{f}; DEL none{f}; LPOP none{f} -> nil; 1; 0; nil
        a1 <- [invalidate [q{f}]]
        a1: EXISTS k{f} -> 0
        a2: FLUSHALL -> OK
        a1 <- [invalidate nil]
        a1: EXISTS k{f} -> 0
        a2: SET k{f} 1 -> OK
        a1 <- [invalidate [k{f}]]
    """,
    "tracked keys that move": f"""
        a1: TRACKED -> OK
        b1: TRACKED -> OK
        a2: RPUSH q{{f}} 1 -> 1
        a1: EXISTS q{{f}} -> 1
        {IMPORTING}
        {MIGRATING}
        b1: ASKING; EXISTS q{{f}} -> OK; 0
        {MOVE} q{{f}} -> OK
        a1 <- [invalidate [q{{f}}]]
        b1 <- [invalidate [q{{f}}]]
    """,
}


Say = Callable[[str, bytes], Awaitable[None]]
Hear = Callable[[str, int], Awaitable[list[Any]]]


async def play(playbook: str, names: dict[str, Any], say: Say, hear: Hear) -> None:
    """Raises AssertionError with the line and the replies where they differ."""
    for line in filter(None, map(str.strip, playbook.splitlines())):
        text = line.replace("{f}", "{{f}}").replace("{c}", "{{c}}").format(slot=SLOT, host="127.0.0.1", **names)
        if " <- " in text:
            connection, _, right = text.partition(" <- ")
        else:
            connection, _, rest = text.partition(": ")
            left, _, right = rest.rpartition(" ->")
            await say(connection, b"".join(pack(*shlex.split(command)) for command in left.split("; ")))
        expected = right.strip().split("; ") if right.strip() else []
        replies = [shown(reply) for reply in await hear(connection, len(expected))]
        seen = ["*" if want == "*" else reply for want, reply in zip(expected, replies, strict=True)]
        assert seen == expected, line


@pytest.mark.parametrize("name", PLAYBOOKS)
async def test_the_scripted_node_answers_by_the_playbook(name: str) -> None:
    cluster = ScriptedCluster(2)
    now = 0.0
    cluster.clock = lambda: now
    nodes: dict[str, ScriptedNode] = dict(zip("ab", cluster.nodes, strict=True))
    links: dict[str, NodeLink] = {}
    sockets = {}
    for connection in CONNECTIONS:
        sockets[connection] = nodes[connection[0]].connect()
        links[connection] = nodes[connection[0]].links[-1]
    names: dict[str, Any] = {key: Place(node.address, node.id, node.port) for key, node in nodes.items()}
    names.update({connection: link.id for connection, link in links.items()})

    async def say(connection: str, data: bytes) -> None:
        sockets[connection].send(data.replace(pack("TRACKED"), pack("CLIENT", "TRACKING", "ON")))
        cluster.serve()

    async def hear(connection: str, count: int) -> list[Any]:
        nonlocal now
        if not count:
            return []
        if links[connection].memory.waits is not None:
            now += 0.02
        while cluster.serve():
            pass
        return decode(sockets[connection].recv(65_536))

    try:
        await play(PLAYBOOKS[name], names, say, hear)
    finally:
        for sock in sockets.values():
            sock.close()
        cluster.serve()
    assert not any(node.waiting or node.open_links() for node in cluster.nodes)


@pytest.mark.parametrize("name", PLAYBOOKS)
async def test_real_servers_answer_by_the_playbook(cluster: EmbeddedCluster, redis_server: str, name: str) -> None:
    if server_version(redis_server) < (7,):
        pytest.skip("what is waited for with several keys is told apart as 7.0 does")
    nodes = dict(zip("ab", cluster.nodes, strict=False))
    connections: dict[str, Connection] = {key: await nodes[key[0]].connect() for key in CONNECTIONS}
    watchers = {key: await node.connect() for key, node in nodes.items()}
    names: dict[str, Any] = {key: Place(node.address, node.id, node.port) for key, node in nodes.items()}
    for key, connection in connections.items():
        names[key] = await connection.command("CLIENT", "ID")
    waiting: set[str] = set()

    async def say(key: str, data: bytes) -> None:
        if data == pack("TRACKED"):
            await connections[key].pipeline(("HELLO", "3"))
            data = pack("CLIENT", "TRACKING", "ON")
        await connections[key].send(data)

    async def hear(key: str, count: int) -> list[Any]:
        if count:
            waiting.discard(key)
            with trio.fail_after(5):
                return [await connections[key].receive() for _ in range(count)]
        waiting.add(key)
        mine = sum(other[0] == key[0] for other in waiting)

        async def is_blocked() -> bool:
            info = await watchers[key[0]].command("INFO", "clients")
            return f"blocked_clients:{mine}\r" in info.decode()

        await until(is_blocked, within=5)
        return []

    try:
        await play(PLAYBOOKS[name], names, say, hear)
    finally:
        for connection in [*connections.values(), *watchers.values()]:
            connection.close()
