"""Commands over all nodes on real clusters: each with a node that is silent, one that is dead, one that is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Argument, Connection, ErrorReply, pack
from slotproxy.demo.node import Node
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from slotproxy.demo.servers import server_version
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.treatments import NODES, PRIMARIES, treatment_of
from tests.conftest import ClusterFactory, ProxyFactory
from tests.integration.load import tags_of
from tests.integration.observing import at_least, by_node

WITHIN = 40.0
LIBRARY = "#!lua name=lib\nredis.register_function('one', function() return 1 end)"
SPINNING = """#!lua name=spinning
redis.register_function{function_name='spin', callback=function() while true do end end, flags={'no-writes'}}"""
OURS = "ERR slotproxy: "

#: A call of each command over all nodes; of those with subcommands not known to the server none is made.
CALLS: dict[str, str] = {
    "acl|deluser": "ACL DELUSER nobody",
    "acl|load": "ACL LOAD",
    "acl|log": "ACL LOG",
    "acl|save": "ACL SAVE",
    "acl|setuser": "ACL SETUSER somebody",
    "bgrewriteaof": "BGREWRITEAOF",
    "bgsave": "BGSAVE SCHEDULE",
    "config|resetstat": "CONFIG RESETSTAT",
    "config|rewrite": "CONFIG REWRITE",
    "config|set": "CONFIG SET maxmemory-samples 6",
    "dbsize": "DBSIZE",
    "flushall": "FLUSHALL",
    "flushdb": "FLUSHDB ASYNC",
    "function|delete": "FUNCTION DELETE old",
    "function|dump": "FUNCTION DUMP",
    "function|flush": "FUNCTION FLUSH",
    "function|kill": "FUNCTION KILL",
    "function|list": "FUNCTION LIST",
    "function|load": "FUNCTION LOAD REPLACE {library}",
    "function|restore": "FUNCTION RESTORE {dump} REPLACE",
    "function|stats": "FUNCTION STATS",
    "info": "INFO",
    "keys": "KEYS *",
    "lastsave": "LASTSAVE",
    "latency|doctor": "LATENCY DOCTOR",
    "latency|graph": "LATENCY GRAPH command",
    "latency|histogram": "LATENCY HISTOGRAM",
    "latency|history": "LATENCY HISTORY command",
    "latency|latest": "LATENCY LATEST",
    "latency|reset": "LATENCY RESET",
    "memory|doctor": "MEMORY DOCTOR",
    "memory|malloc-stats": "MEMORY MALLOC-STATS",
    "memory|purge": "MEMORY PURGE",
    "memory|stats": "MEMORY STATS",
    "module|list": "MODULE LIST",
    "module|load": "MODULE LOAD /no/such/module.so",
    "module|loadex": "MODULE LOADEX /no/such/module.so",
    "module|unload": "MODULE UNLOAD nosuch",
    "pubsub|channels": "PUBSUB CHANNELS",
    "pubsub|numpat": "PUBSUB NUMPAT",
    "pubsub|numsub": "PUBSUB NUMSUB c",
    "pubsub|shardchannels": "PUBSUB SHARDCHANNELS",
    "pubsub|shardnumsub": "PUBSUB SHARDNUMSUB c",
    "randomkey": "RANDOMKEY",
    "save": "SAVE",
    "scan": "SCAN 0",
    "script|exists": "SCRIPT EXISTS 0000000000000000000000000000000000000000",
    "script|flush": "SCRIPT FLUSH",
    "script|kill": "SCRIPT KILL",
    "script|load": "SCRIPT LOAD {script}",
    "slowlog|get": "SLOWLOG GET",
    "slowlog|len": "SLOWLOG LEN",
    "slowlog|reset": "SLOWLOG RESET",
}
#: What healthy nodes refuse, without an ACL file, a configuration file, such a module, such a library, a script to
#: kill, samples; or because another of these calls is saving just now.
REFUSED_BY_NODES = {
    "acl|load", "acl|save", "config|rewrite", "module|load", "module|loadex", "module|unload", "function|delete",
    "script|kill", "function|kill", "latency|graph", "save", "bgsave", "bgrewriteaof",
}  # fmt: skip
#: Asked on connections of their own, which does not wait for a node to come back.
ASIDE = {"script|kill", "function|kill", "function|stats"}


async def calls_of(node: Node, server: str) -> dict[str, Sequence[Argument]]:
    """The commands over all nodes that the server has, each with its call."""
    version = ".".join(map(str, server_version(server)))
    table = CommandTable.from_reply(await node.command("COMMAND"), version)
    commands = {one.name: one for command in table.commands() for one in (command, *command.subcommands.values())}
    names = {name for name, one in commands.items() if treatment_of(one, True) in (PRIMARIES, NODES)}
    assert names <= CALLS.keys(), names - CALLS.keys()
    has_functions = server_version(server) >= (7,)
    words: dict[str, Argument] = {"{library}": LIBRARY, "{script}": "return 1", "{dump}": b""}
    if has_functions:
        words["{dump}"] = await node.command("FUNCTION", "DUMP")
    calls = {name: [words.get(word, word) for word in CALLS[name].split()] for name in sorted(names)}
    # Before 7.0 the table is filled up with subcommands of later servers.
    answered = await node.pipeline(*calls.values())
    return {
        name: call
        for (name, call), reply in zip(calls.items(), answered, strict=True)
        if not (isinstance(reply, ErrorReply) and "nknown subcommand" in str(reply))
    }


async def answers(
    front: ProxyProcess, calls: dict[str, Sequence[Argument]], meanwhile: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Each call on a connection of its own, all at once; `meanwhile` runs when all were sent. Errors are values."""
    replies: dict[str, Any] = {}
    clients: dict[str, Connection] = {name: await front.connect() for name in calls}

    async def ask(name: str) -> None:
        replies[name] = (await clients[name].pipeline(calls[name], ("PING",)))[0]

    try:
        async with trio.open_nursery() as nursery:
            for name in calls:
                nursery.start_soon(ask, name)
            await meanwhile(replies)
    finally:
        for client in clients.values():
            client.close()
    return replies


async def lost(front: ProxyProcess, node: Node) -> bool:
    """Whether the proxy has noticed that it has no connection to the node."""
    return node.address not in await by_node(front, "slotproxy_backend_connections")


async def test_each_command_waits_for_a_node_that_stops_for_a_moment(
    cluster: EmbeddedCluster, proxy: ProxyFactory, redis_server: str
) -> None:
    front = await proxy("--allow-admin")
    silent = cluster.nodes[0]
    calls = await calls_of(silent, redis_server)
    tag, *_ = await tags_of(cluster, cluster.nodes[1], 1)

    async def stopped(replies: dict[str, Any]) -> None:
        # All that uses the shared connections has arrived there.
        waiting = len(calls.keys() - ASIDE)
        await until(lambda: at_least(front, "slotproxy_requests_in_flight", waiting), within=10)
        async with await front.connect() as other:
            for number in range(1, 20):
                assert await other.command("INCR", f"{{{tag}}}:n{silent.port}") in (number, 1)
        assert not replies.keys() & calls.keys() - ASIDE, replies
        silent.resume()

    with trio.fail_after(WITHIN):
        silent.pause()
        try:
            replies = await answers(front, calls, stopped)
        finally:
            silent.resume()
    errors = {name: str(reply) for name, reply in replies.items() if isinstance(reply, ErrorReply)}
    assert errors.keys() <= REFUSED_BY_NODES, errors
    assert not [error for error in errors.values() if "in doubt" in error or "no answer" in error], errors


async def test_each_command_names_the_dead_node_and_those_that_did_it(
    cluster: EmbeddedCluster, proxy: ProxyFactory, redis_server: str
) -> None:
    front = await proxy("--park-timeout", "1", "--allow-admin")
    dead, *others = cluster.nodes
    calls = await calls_of(dead, redis_server)

    async def nothing(replies: dict[str, Any]) -> None:
        """All are on their way."""

    with trio.fail_after(WITHIN):
        dead.kill()
        await until(lambda: lost(front, dead), within=10)
        async with await front.connect() as client:
            with trio.fail_after(0.9):
                information = await client.command("INFO")
        assert dead.address.encode() in information
        replies = await answers(front, calls, nothing)
    for name, reply in replies.items():
        if name == "info":
            assert dead.address.encode() in reply
            continue
        shown = name.upper().replace("|", " ")
        assert isinstance(reply, ErrorReply), (name, reply)
        text = str(reply)
        assert text.startswith(OURS), (name, text)
        if name in ("script|kill", "function|kill"):
            assert text.startswith(f"{OURS}no answer: "), text
            continue
        assert dead.address in text, (name, text)
        if name in ("scan", "latency|graph"):  # asks one node; the others have no samples
            assert text.startswith(f"{OURS}not served: "), text
            continue
        assert text.startswith(f"{OURS}incomplete: {shown} failed on node "), text
        if name not in REFUSED_BY_NODES:
            assert text.startswith(f"{OURS}incomplete: {shown} failed on node {dead.address} ("), text
            done = text.partition("; it succeeded on nodes ")[2]
            assert sorted(done.split(", ")) == sorted(node.address for node in others), text


@pytest.mark.extended
async def test_a_replica_that_takes_over_answers_what_its_primary_was_asked(
    make_cluster: ClusterFactory, proxy: ProxyFactory, redis_server: str
) -> None:
    cluster = await make_cluster(replicas=1)
    front = await proxy(cluster=cluster)
    dead = cluster.nodes[0]
    tags = [tag for node in cluster.initial_primaries for tag in await tags_of(cluster, node, 3)]
    calls: dict[str, Sequence[Argument]] = {
        name: CALLS[name].split()
        for name in ("dbsize", "keys", "scan", "config|set", "pubsub|numpat", "script|flush", "randomkey", "acl|log")
    }
    calls["script|load"] = ("SCRIPT", "LOAD", "return 1")
    if server_version(redis_server) >= (7,):
        calls["function|load"] = ("FUNCTION", "LOAD", LIBRARY)
    arrived: list[str] = []

    async def taken_over(replies: dict[str, Any]) -> None:
        await until(lambda: len(replies) == len(calls), within=30)
        arrived.extend(replies)

    with trio.fail_after(WITHIN + 20):
        async with await front.connect() as client:
            # What must reach replicas does.
            assert await client.command("CONFIG", "SET", "maxmemory-samples", "7") == b"OK"
            assert await client.command("ACL", "SETUSER", "somebody", "on", "nopass") == b"OK"
            for node in cluster.nodes:
                assert await node.command("CONFIG", "GET", "maxmemory-samples") == [b"maxmemory-samples", b"7"]
                assert b"somebody" in await node.command("ACL", "USERS")
            assert await client.command("MSET", *(word for tag in tags for word in (f"{{{tag}}}", "1"))) == b"OK"
            assert await client.command("DBSIZE") == 9
            for node in cluster.initial_primaries:
                # WAIT knows only of writes before a command of its own connection.
                await node.pipeline(("PING",), ("WAIT", 1, 5_000))

            dead.kill()
            await until(lambda: lost(front, dead), within=10)
            replies = await answers(front, calls, taken_over)
            errors = {name: reply for name, reply in replies.items() if isinstance(reply, ErrorReply)}
            assert not errors
            assert replies["dbsize"] == 9
            assert sorted(replies["keys"]) == sorted(f"{{{tag}}}".encode() for tag in tags)
            assert await client.command("FLUSHALL") == b"OK"
            assert await client.command("DBSIZE") == 0
        assert (await front.metrics())["slotproxy_in_doubt_total"] == 0
        for node in await cluster.primaries():
            assert await node.command("CONFIG", "GET", "maxmemory-samples") == [b"maxmemory-samples", b"6"]
            if server_version(redis_server) >= (7,):
                assert len(await node.command("FUNCTION", "LIST")) == 1


async def test_a_flush_that_was_on_its_way_to_a_primary_that_dies_is_in_doubt_there(
    cluster: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    front = await proxy()
    dead, *others = cluster.nodes

    async def die(replies: dict[str, Any]) -> None:
        await until(lambda: at_least(front, "slotproxy_requests_in_flight", 2), within=10)
        dead.kill()

    with trio.fail_after(WITHIN):
        dead.pause()
        calls: dict[str, Sequence[Argument]] = {"flushall": ("FLUSHALL",), "config|set": CALLS["config|set"].split()}
        replies = await answers(front, calls, die)
    for name, reply in replies.items():
        shown = name.upper().replace("|", " ")
        assert str(reply).startswith(f"{OURS}incomplete: {shown} failed on node {dead.address} (in doubt: "), reply
        done = str(reply).partition("; it succeeded on nodes ")[2]
        assert sorted(done.split(", ")) == sorted(node.address for node in others)


# ---- a script that runs for ever

KINDS = {
    "script": (("EVAL", "while true do end", "0"), ("SCRIPT", "KILL")),
    "function": (("FCALL", "spin", "0"), ("FUNCTION", "KILL")),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_script_that_runs_for_ever_is_killed_wherever_it_runs(
    cluster: EmbeddedCluster, proxy: ProxyFactory, redis_server: str, kind: str
) -> None:
    if kind == "function" and server_version(redis_server) < (7,):
        pytest.skip("functions came with 7.0")
    front = await proxy("--connections-per-node", "1")
    endless, kill = KINDS[kind]
    with trio.fail_after(WITHIN):
        async with await front.connect() as victim, await front.connect() as killer, await front.connect() as other:
            assert await killer.command("CONFIG", "SET", "lua-time-limit", "20") == b"OK"
            if kind == "function":
                assert await killer.command("FUNCTION", "LOAD", SPINNING) == b"spinning"
            for _ in range(2):
                (reply,) = await killer.pipeline(kill)
                assert str(reply).startswith("NOTBUSY"), reply
            await victim.send(pack(*endless) + pack("INCR", "behind"))

            async def busy() -> bool:
                replies = [(await node.pipeline(("PING",)))[0] for node in cluster.nodes]
                return any(str(reply).startswith("BUSY") for reply in replies)

            await until(busy, within=10)
            # The script's node reads nothing more from the only connection that the proxy has for all clients.
            await other.send(pack("DBSIZE"))
            if kind == "function":
                running = await killer.command("FUNCTION", "STATS")
                assert running[0] == b"running_script" and running[1][:2] == [b"name", b"spin"]
            assert await killer.command(*kill) == b"OK"
            ended = await victim.receive()
            assert isinstance(ended, ErrorReply) and "killed by user" in str(ended), ended
            assert await victim.receive() == 1
            assert await other.receive() in (0, 1)
            assert await other.command("DBSIZE") == 1
