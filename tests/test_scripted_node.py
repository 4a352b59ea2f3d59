"""The scripted node tells the truth: one playbook, played to it and to a cluster of real servers.

A playbook's line is `node: command; command -> reply; reply`: the commands go out in one write on one connection.
`{slot}` is that of the tag `f` and belongs to `a` at first; `{a}` is its address, `{a.id}` and `{a.port}` the rest.
`{parted}` is what a migrating source says when it has some of the keys: TRYAGAIN, and before 7.0 ASK.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import pytest

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.servers import server_version
from slotproxy.protocol.slots import key_slot
from tests.scripted_frames import decode, pack
from tests.scripted_node import ScriptedCluster, ScriptedNode, slot_of
from tests.scripted_strings import SCRIPT

SLOT = slot_of(b"{f}")

Send = Callable[[str, list[list[str]]], Awaitable[list[Any]]]

IMPORTING = "b: CLUSTER SETSLOT {slot} IMPORTING {a.id} -> OK"
MIGRATING = "a: CLUSTER SETSLOT {slot} MIGRATING {b.id} -> OK"
MOVE = "a: MIGRATE {host} {b.port} '' 0 5000 KEYS "
AGAIN = "-TRYAGAIN Multiple keys request during rehashing of slot"
KEPT = "-ERR Can't assign hashslot {slot} to a different node while I still hold keys for this hash slot."

ABORT = "-EXECABORT Transaction discarded because of previous errors."
PLAYBOOKS = {
    "data": """
        a: SET k{f} 1; INCR k{f}; GET k{f}; APPEND k{f} x -> OK; 2; 2; 2
        a: INCR k{f} -> -ERR value is not an integer or out of range
        a: MSET k{f} 1 l{f} 2; MGET k{f} m{f} l{f}; EXISTS k{f} k{f} m{f}; DEL k{f} m{f} -> OK; [1 nil 2]; 2; 1
        a: RENAME m{f} k{f}; RENAME l{f} k{f}; GET k{f}; TOUCH k{f} l{f}; UNLINK k{f} -> -ERR no such key; OK; 2; 1; 1
        a: EVAL "%s" 1 k{f}; GET k{f} -> 1; 1
        a: CLUSTER GETKEYSINSLOT {slot} 10 -> [k{f}]
        a: PING; PING x; DBSIZE; KEYS *; SCAN 0 COUNT 100 -> PONG; x; 1; [k{f}]; [0 [k{f}]]
        a: CONFIG SET maxmemory 0; FLUSHALL; DBSIZE; GET k{f}; SCAN 0 COUNT 100 -> OK; OK; 0; nil; [0 []]
    """.replace("%s", SCRIPT),
    "another node's slot": """
        b: GET k{f}; SET k{f} 1 -> -MOVED {slot} {a}; -MOVED {slot} {a}
        b: ASKING; GET k{f}; MGET k{f} l{f} -> OK; -MOVED {slot} {a}; -MOVED {slot} {a}
        a: MGET k{f} k{c} -> -CROSSSLOT Keys in request don't hash to the same slot
        a: EVAL "%s" 2 k{f} k{c} -> -CROSSSLOT Keys in request don't hash to the same slot
    """.replace("%s", SCRIPT),
    "asking lasts for one command": f"""
        {IMPORTING}
        b: GET k{{f}}; ASKING; GET k{{f}}; GET k{{f}} -> -MOVED {{slot}} {{a}}; OK; nil; -MOVED {{slot}} {{a}}
        b: ASKING; COMMAND COUNT; GET k{{f}} -> OK; *; -MOVED {{slot}} {{a}}
        b: ASKING; ASKING; INCR k{{f}}; INCR k{{f}} -> OK; OK; 1; -MOVED {{slot}} {{a}}
        b: ASKING; MGET k{{f}} l{{f}}; MGET k{{f}} l{{f}} -> OK; {AGAIN}; -MOVED {{slot}} {{a}}
        b: ASKING; MGET k{{f}} k{{f}} -> OK; [1 1]
        b: ASKING; MGET l{{f}} l{{f}} -> OK; [nil nil]
    """,
    "the source serves what it has": f"""
        a: MSET k{{f}} 1 l{{f}} 1 -> OK
        {IMPORTING}
        {MIGRATING}
        a: INCR k{{f}}; INCR new{{f}}; MGET k{{f}} l{{f}}; GET k{{f}} -> 2; -ASK {{slot}} {{b}}; [2 1]; 2
        a: MGET k{{f}} new{{f}}; MSET k{{f}} 1 new{{f}} 1; GET k{{f}} -> {{parted}}; {{parted}}; 2
        a: MGET new{{f}} newer{{f}}; MSET new{{f}} 1 newer{{f}} 1 -> -ASK {{slot}} {{b}}; -ASK {{slot}} {{b}}
        {MOVE} k{{f}} -> OK
        {MOVE} k{{f}} -> NOKEY
        a: GET k{{f}}; GET l{{f}}; RENAME l{{f}} k{{f}} -> -ASK {{slot}} {{b}}; 1; {{parted}}
        b: ASKING; GET k{{f}}; ASKING; MSET k{{f}} 2 l{{f}} 2 -> OK; 2; OK; {AGAIN}
        b: ASKING; RENAME k{{f}} k{{f}} -> OK; OK
        a: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> {KEPT}
    """,
    "finished at the target first": f"""
        a: SET k{{f}} 1 -> OK
        {IMPORTING}
        {MIGRATING}
        {MOVE} k{{f}} -> OK
        b: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        b: INCR k{{f}}; MGET k{{f}} none{{f}} -> 2; [2 nil]
        a: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a: INCR k{{f}}; ASKING; GET k{{f}} -> -MOVED {{slot}} {{b}}; OK; -MOVED {{slot}} {{b}}
    """,
    "finished at the source first": f"""
        a: SET k{{f}} 1 -> OK
        {IMPORTING}
        {MIGRATING}
        {MOVE} k{{f}} -> OK
        a: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        a: INCR k{{f}} -> -MOVED {{slot}} {{b}}
        b: CLUSTER SETSLOT {{slot}} NODE {{b.id}} -> OK
        b: INCR k{{f}} -> 2
    """,
    "two nodes point at each other": f"""
        {IMPORTING}
        {MIGRATING}
        a: CLUSTER SETSLOT {{slot}} NODE {{b.id}}; GET k{{f}} -> OK; -MOVED {{slot}} {{b}}
        b: GET k{{f}}; ASKING; GET k{{f}} -> -MOVED {{slot}} {{a}}; OK; nil
    """,
    "given up": f"""
        a: SET k{{f}} 1 -> OK
        {IMPORTING}
        {MIGRATING}
        a: CLUSTER SETSLOT {{slot}} STABLE; GET none{{f}} -> OK; nil
        b: CLUSTER SETSLOT {{slot}} STABLE; ASKING; GET k{{f}} -> OK; OK; -MOVED {{slot}} {{a}}
        a: CLUSTER SETSLOT {{slot}} IMPORTING {{b.id}} -> -ERR I'm already the owner of hash slot {{slot}}
        b: CLUSTER SETSLOT {{slot}} MIGRATING {{a.id}} -> -ERR I'm not the owner of hash slot {{slot}}
    """,
    "a script in a block of its own": f"""
        a: MULTI; EVAL "{SCRIPT}" 1 k{{f}} "MOVED {{slot}} 10.9.9.9:1"; EXEC -> OK; QUEUED; [-MOVED {{slot}} 10.9.9.9:1]
        b: MULTI; EVAL "{SCRIPT}" 1 k{{f}}; EXEC -> OK; -MOVED {{slot}} {{a}}; {ABORT}
        {IMPORTING}
        {MIGRATING}
        a: MULTI; EVAL "{SCRIPT}" 1 new{{f}}; EXEC; GET k{{f}} -> OK; -ASK {{slot}} {{b}}; {ABORT}; 1
        b: ASKING; MULTI; EVAL "{SCRIPT}" 1 new{{f}}; EXEC; GET new{{f}} -> OK; OK; QUEUED; [1]; -MOVED {{slot}} {{a}}
        b: ASKING; MULTI; EVAL "{SCRIPT}" 2 k{{f}} new{{f}}; EXEC -> OK; OK; {AGAIN}; {ABORT}
        b: ASKING; MULTI; NOSUCH; EXEC; EXEC -> OK; OK; *; {ABORT}; -ERR EXEC without MULTI
    """,
    "a script forges a redirect after it wrote": f"""
        a: EVAL "{SCRIPT}" 1 k{{f}} "MOVED {{slot}} 10.9.9.9:1"; GET k{{f}} -> -MOVED {{slot}} 10.9.9.9:1; 1
    """,
}


class Place:
    """A node as a playbook names it."""

    def __init__(self, address: str, id: str, port: int) -> None:
        self.address, self.id, self.port = address, id, port

    def __format__(self, spec: str) -> str:
        return self.address


def shown(reply: Any) -> str:
    if reply is None:
        return "nil"
    if isinstance(reply, hiredis.ReplyError | ErrorReply):
        return f"-{reply}"
    if isinstance(reply, list):
        return f"[{' '.join(map(shown, reply))}]"
    return reply.decode() if isinstance(reply, bytes) else str(reply)


async def play(playbook: str, places: dict[str, Place], send: Send, before_7: bool) -> None:
    """Raises AssertionError with the line and the replies where they differ."""
    for line in filter(None, map(str.strip, playbook.splitlines())):
        text = line.replace("{f}", "{{f}}").replace("{c}", "{{c}}")
        parted = f"-ASK {SLOT} {places['b']}" if before_7 else AGAIN
        text = text.format(slot=SLOT, host="127.0.0.1", parted=parted, **places)
        name, _, rest = text.partition(": ")
        left, _, right = rest.rpartition(" -> ")
        commands = [shlex.split(command) for command in left.split("; ")]
        replies = list(map(shown, await send(name, commands)))
        expected = right.split("; ")
        seen = ["*" if want == "*" else reply for want, reply in zip(expected, replies, strict=True)]
        assert seen == expected, line


@pytest.mark.parametrize("before_7", [False, True])
@pytest.mark.parametrize("name", PLAYBOOKS)
async def test_the_scripted_node_answers_by_the_playbook(name: str, before_7: bool) -> None:
    cluster = ScriptedCluster(3)
    cluster.before_7 = before_7
    sockets = {letter: node.connect() for letter, node in zip("abc", cluster.nodes, strict=True)}
    places = {key: Place(node.address, node.id, node.port) for key, node in zip("abc", cluster.nodes, strict=True)}

    async def send(node: str, commands: list[list[str]]) -> list[Any]:
        sockets[node].send(b"".join(pack(*words) for words in commands))
        cluster.serve()
        return decode(sockets[node].recv(65_536))

    await play(PLAYBOOKS[name], places, send, before_7)
    for sock in sockets.values():
        sock.close()
    cluster.serve()


@pytest.mark.parametrize("name", PLAYBOOKS)
async def test_real_servers_answer_by_the_playbook(cluster: EmbeddedCluster, redis_server: str, name: str) -> None:
    nodes = dict(zip("abc", cluster.nodes, strict=True))
    places = {key: Place(node.address, node.id, node.port) for key, node in nodes.items()}
    connections = {key: await node.connect() for key, node in nodes.items()}

    async def send(node: str, commands: list[list[str]]) -> list[Any]:
        return await connections[node].pipeline(*commands)

    try:
        await play(PLAYBOOKS[name], places, send, server_version(redis_server) < (7,))
    finally:
        for connection in connections.values():
            connection.close()


def node_and_socket() -> tuple[ScriptedNode, Any]:
    node = ScriptedCluster(1).nodes[0]
    return node, node.connect()


@pytest.mark.parametrize("key", [b"", b"a", b"{a}b", b"x{a}y", b"{}a", b"{{a}}", b"a{b", b"{a}{b}", b"\xff\r\n"])
def test_slots_are_those_of_the_proxy(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_nothing_happens_before_it_is_told_to() -> None:
    node, sock = node_and_socket()
    sock.send(pack("INCR", "a") + pack("INCR", "a")[:-3])
    (link,) = node.links
    assert not node.executed
    assert link.receive() == 1
    assert not node.executed
    link.execute()
    assert node.keys == {b"a": b"1"}
    assert [entry.words for entry in node.executed] == [(b"INCR", b"a")]
    assert link.send(2) == 2
    assert sock.recv(100) == b":1"
    assert link.send() == 2
    sock.close()
    node.serve()
    assert link.closed


def test_what_is_refused_was_not_executed() -> None:
    node, sock = node_and_socket()
    sock.send(pack("SET", "a", "1"))
    node.down = True
    node.serve()
    node.down, node.loading = False, True
    sock.send(pack("SET", "a", "1"))
    node.serve()
    node.loading = False
    node.owners[slot_of(b"a")] = None
    sock.send(pack("SET", "a", "1"))
    node.serve()
    assert sock.recv(1000).split(b"\r\n") == [
        b"-CLUSTERDOWN The cluster is down",
        b"-LOADING Redis is loading the dataset in memory",
        b"-CLUSTERDOWN Hash slot not served",
        b"",
    ]
    assert not node.executed
    assert not node.keys
    sock.close()
    node.drop_links()


@pytest.mark.parametrize("runs", [False, True])
def test_a_connection_drops_before_or_after_its_command_ran(runs: bool) -> None:
    node, sock = node_and_socket()
    node.drop_at("incr", runs=runs)
    sock.send(pack("GET", "a") + pack("INCR", "a") + pack("SET", "a", 9))
    node.serve()
    assert node.keys == ({b"a": b"1"} if runs else {})
    assert sock.recv(100) == b""  # the reply to GET was not sent yet
    sock.close()


def test_given_answers_are_given_as_often_as_asked_for() -> None:
    node, sock = node_and_socket()
    node.answer("INCR", b"-OOM\r\n", times=2)
    node.answer("INCR", b"+done\r\n", runs=True)
    sock.send(pack("INCR", "a") * 4)
    node.serve()
    assert sock.recv(100) == b"-OOM\r\n-OOM\r\n+done\r\n:2\r\n"
    sock.close()
    node.drop_links()


def test_held_replies_are_executed_and_not_sent() -> None:
    node, sock = node_and_socket()
    node.holding = True
    sock.send(pack("INCR", "a"))
    node.serve()
    assert node.keys == {b"a": b"1"}
    with pytest.raises(BlockingIOError):
        sock.recv(100)
    node.holding = False
    node.serve()
    assert sock.recv(100) == b":1\r\n"
    sock.close()
    node.drop_links()


def test_a_scan_comes_to_every_key_once_and_ends() -> None:
    node, sock = node_and_socket()
    node.keys = {b"k%d" % number: b"" for number in range(100)}
    cursor, found, calls = b"0", [], 0
    while calls == 0 or cursor != b"0":
        sock.send(pack("SCAN", cursor, "COUNT", "7"))
        node.serve()
        ((cursor, keys),) = decode(sock.recv(65_536))
        found += keys
        calls += 1
    assert sorted(found) == sorted(node.keys)
    assert calls == 10
    sock.close()
    node.drop_links()


def test_a_node_tells_its_own_view_of_the_cluster() -> None:
    cluster = ScriptedCluster(3, owning=2)
    a, b, c = cluster.nodes
    migration = cluster.migration(SLOT, a, c)
    migration.finish_target()
    assert [(first, last) for first, last, owner in c.topology().ranges if owner == c.id] == [(SLOT, SLOT)]
    assert b.topology().ranges == [(0, 8191, a.id), (8192, 16383, b.id)] == a.topology().ranges
    assert a.topology().migrating == {SLOT: c.id}
    assert set(b.topology().nodes) == {a.id, b.id, c.id}
    migration.finish_source()
    assert a.topology().ranges == c.topology().ranges
