"""Users of the cluster behind one proxy (`--client-auth passthrough`), and the proxy's own (`--client-auth FILE`)."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, ErrorReply, pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory
from tests.integration.load import (
    Ride,
    Stream,
    answered,
    check_against_nodes,
    counting,
    running,
    shuttle,
    tags_of,
)
from tests.integration.test_clients import redis_py
from tests.integration.wire import dial
from tests.servers import standalone_server

WITHIN = 30.0
SECRETS = {"alice": "alice-s3cret", "bob": "bob-s3cret", "proxied": "proxied-s3cret"}
NEWER = "newer-s3cret"
REFUSED = "NOAUTH Authentication required."
RIGHTS = {"alice": ("~a:*", "resetchannels", "&a:*"), "bob": ("~b:*", "resetchannels", "&b:*")}


async def set_user(cluster: EmbeddedCluster, name: str, *rules: str) -> None:
    for node in cluster.nodes:
        await node.command("ACL", "SETUSER", name, *rules)


@pytest.fixture
async def users(cluster: EmbeddedCluster) -> AsyncIterator[EmbeddedCluster]:
    """Two users with rights to keys of their own."""
    for name, rights in RIGHTS.items():
        await set_user(cluster, name, "reset", "on", f">{SECRETS[name]}", "+@all", *rights)
    yield cluster
    for node in cluster.nodes:
        await node.command("ACL", "DELUSER", *SECRETS)


@pytest.fixture
async def locked(users: EmbeddedCluster, guard: Guard) -> AsyncIterator[tuple[EmbeddedCluster, list[str]]]:
    """A cluster whose default user may not log in, and the flags with which a proxy may."""
    password = guard.folder / "password"
    password.write_text(SECRETS["proxied"] + "\n")
    await set_user(users, "proxied", "reset", "on", f">{SECRETS['proxied']}", "~*", "+@all")
    connections = [await node.connect() for node in users.nodes]  # stay logged in
    for connection in connections:
        await connection.command("CONFIG", "SET", "requirepass", "nobody-knows")
    try:
        yield users, ["--cluster-user", "proxied", "--cluster-password-file", str(password)]
    finally:
        for connection in connections:
            await connection.command("CONFIG", "SET", "requirepass", "")
            connection.close()


Login = Callable[..., Awaitable[Connection]]


async def logged_in(front: ProxyProcess, user: str, protocol: int = 2) -> Connection:
    client = await front.connect()
    reply = await client.command("HELLO", protocol, "AUTH", user, SECRETS[user])
    assert reply, reply
    return client


async def said(client: Connection, *commands: str) -> list[str]:
    """The replies to commands in one write; errors by their text."""
    replies = await client.pipeline(*[command.split() for command in commands])
    return [reply.decode() if isinstance(reply, bytes) else str(reply) for reply in replies]


async def closed(client: Connection) -> bool:
    try:
        await client.command("PING")
    except ConnectionError:
        return True
    return False


def assert_no_secret(front: ProxyProcess, *texts: str) -> None:
    for secret in (*SECRETS.values(), NEWER):
        assert secret not in front.stderr and not any(secret in text for text in texts)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_two_users_never_see_each_others_data(
    users: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(WITHIN))
        front = await proxy("--client-auth", "passthrough", "--log-level", "debug")
        alice = await stack.enter_async_context(await logged_in(front, "alice", protocol))
        bob = await stack.enter_async_context(await logged_in(front, "bob", protocol))
        for client, mine, other in ((alice, "a", "b"), (bob, "b", "a")):
            commands = [f"SET {key} 1" for n in range(20) for key in (f"{mine}:{n}", f"{other}:{n}")]
            replies = await said(client, *commands)
            assert replies[::2] == ["OK"] * 20 and all("NOPERM" in reply for reply in replies[1::2])
            attempts = (
                f"GET {other}:1", f"MGET {mine}:1 {other}:1 {other}:2", f"BLPOP {other}:q 0", f"WATCH {other}:1",
                f"BLPOP {other}:q {other}:r 0", f"EVAL return(redis.call('get',KEYS[1])) 1 {other}:1",
                f"EXISTS {mine}:1 {other}:1", f"XREAD BLOCK 9000 STREAMS {other}:s 0",
            )  # fmt: skip
            assert [reply for reply in await said(client, *attempts) if "NOPERM" not in reply] == []
            shared = f"SET {mine}:{{t}} 2", f"GET {other}:{{t}}"
            queued = await said(client, "MULTI", *shared, "EXEC", f"GET {mine}:{{t}}")
            assert "EXECABORT" in queued[3] and queued[4] == "None"
        assert await alice.command("ACL", "WHOAMI") == b"alice"
        assert await bob.command("ACL", "WHOAMI") == b"bob"
        assert [line.split(b" user=")[1].split()[0] for line in (await alice.command("CLIENT", "LIST")).splitlines()
                if b"txt:" not in line] == [b"alice"]  # fmt: skip
        bobs = int(await bob.command("CLIENT", "ID"))
        assert await alice.command("CLIENT", "KILL", "ID", bobs) == 0
        assert await alice.command("CLIENT", "UNBLOCK", bobs) == 0
        for node in users.nodes:
            lines = (await node.command("CLIENT", "LIST")).decode().splitlines()
            assert {line.split(" user=")[1].split()[0] for line in lines} >= {"alice", "bob", "default"}
        for status, body in (await front.get("/metrics"), await front.get("/slots")):
            assert status == 200
            assert_no_secret(front, body)


async def test_a_client_that_switches_users_has_the_rights_of_the_last_one(
    users: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough")
        async with await front.connect() as client:
            rounds = []
            for _ in range(5):
                rounds += [f"AUTH alice {SECRETS['alice']}", "INCR a:n", "INCR b:n", "AUTH bob wrong", "INCR a:n"]
                rounds += [f"HELLO 3 AUTH bob {SECRETS['bob']}", "INCR b:n", "INCR a:n", "RESET", "INCR plain"]
            replies = await said(client, *rounds)
            for number in range(5):
                first = 10 * number
                ok, mine, denied, wrong, still, hello, his, not_his, reset, plain = replies[first : first + 10]
                assert (ok, mine, still, his, reset, plain) == (
                    "OK", str(2 * number + 1), str(2 * number + 2), str(number + 1), "RESET", str(number + 1)
                )  # fmt: skip
                assert "NOPERM" in denied and "NOPERM" in not_his and "WRONGPASS" in wrong and "standalone" in hello
        assert (await front.metrics())["slotproxy_auth_failures_total"] == 5


async def test_blocked_and_watching_clients_of_one_user_are_nobody_elses(
    users: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough")
        async with await logged_in(front, "alice") as alice, await logged_in(front, "bob") as bob:
            await bob.send(pack("BLPOP", "b:q", "0"))

            async def blocked() -> bool:
                return (await front.metrics())["slotproxy_blocked_clients"] == 1

            await until(blocked, within=WITHIN)
            everybody = await said(alice, "CLIENT UNBLOCK 2", "CLIENT KILL SKIPME no TYPE pubsub", "CLIENT PAUSE 60000")
            assert everybody == ["0", "0", "OK"]
            async with await logged_in(front, "bob") as other:
                assert await said(other, "WATCH b:w", "RPUSH b:q x", "MULTI", "SET b:w 1", "EXEC") == [
                    "OK", "1", "OK", "QUEUED", "[b'OK']"
                ]  # fmt: skip
                assert await bob.receive() == [b"b:q", b"x"]
            async with await logged_in(front, "alice") as another:
                with trio.move_on_after(0.3) as waited:
                    await another.command("GET", "a:1")
                assert waited.cancelled_caught


@pytest.mark.parametrize("how", ["deleted", "off", "resetpass"])
async def test_a_user_that_is_taken_away_loses_access_within_the_interval(
    users: EmbeddedCluster, proxy: ProxyFactory, how: str
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough", "--refresh-interval", "2")
        async with await logged_in(front, "alice") as alice, await logged_in(front, "bob") as bob:
            assert await said(alice, "SET a:1 1") == ["OK"]
            for node in users.nodes:
                if how == "deleted":
                    await node.command("ACL", "DELUSER", "alice")
                else:
                    await node.command("ACL", "SETUSER", "alice", how)
            started = trio.current_time()

            async def lost() -> bool:
                return "clients closed" in front.stderr

            await until(lost, within=WITHIN)
            assert trio.current_time() - started < 2 + 2
            assert await closed(alice)
            assert await said(bob, "SET b:1 1") == ["OK"]
            async with await front.connect() as again:
                assert "WRONGPASS" in (await said(again, f"AUTH alice {SECRETS['alice']}"))[0]
        assert "user 'alice'" in front.stderr
        assert_no_secret(front)


async def test_of_two_passwords_the_revoked_ones_clients_are_closed(
    users: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough", "--refresh-interval", "1")
        await set_user(users, "alice", f">{NEWER}")
        async with await logged_in(front, "alice") as old, await front.connect() as new:
            assert await said(new, f"AUTH alice {NEWER}", "INCR a:n") == ["OK", "1"]
            await set_user(users, "alice", f"<{SECRETS['alice']}")

            async def old_closed() -> bool:
                return await closed(old)

            await until(old_closed, within=WITHIN)
            assert await said(new, "INCR a:n") == ["2"]


async def test_without_a_login_the_cluster_decides(
    locked: tuple[EmbeddedCluster, list[str]], proxy: ProxyFactory
) -> None:
    cluster, flags = locked
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough", "--log-level", "debug", *flags, cluster=cluster)
        async with await front.connect() as client:
            assert await said(client, "GET a:1", "AUTH alice wrong", f"AUTH alice {SECRETS['alice']}", "SET a:1 1") == [
                REFUSED, "WRONGPASS invalid username-password pair or user is disabled.", "OK", "OK"
            ]  # fmt: skip
            assert await said(client, "RESET", "GET a:1", "AUTH nobody-knows", "GET a:1", "ACL WHOAMI") == [
                "RESET", REFUSED, "OK", "1", "default"
            ]  # fmt: skip
        assert_no_secret(front)
        assert "nobody-knows" not in front.stderr


async def test_what_is_said_before_a_login_is_what_one_server_says(
    locked: tuple[EmbeddedCluster, list[str]], proxy: ProxyFactory, redis_server: str, guard: Guard
) -> None:
    cluster, flags = locked
    lines = [
        "GET a", "NOSUCH a", "GET", "HELLO", "HELLO 3", "HELLO 9", "HELLO 3 FOO", "HELLO 3 AUTH default bad",
        "AUTH a b c", "AUTH bad", "RESET", "MULTI", "EXEC", "DISCARD", "CLIENT ID", "CLIENT FOO", "PING", "ECHO",
        "SUBSCRIBE x", "QUIT", "ACL WHOAMI", "DBSIZE", "MGET a b", "CLUSTER INFO", "HELLO 2 SETNAME a AUTH nobody x",
        "EXEC x",
    ]  # fmt: skip
    raws = [
        b"*11\r\n", b"*10\r\n$16385\r\n", b"*2147483648\r\n", b"*1\r\n$600000000\r\n", b"GET a\r\n", b"*2\r\nGET\r\n",
    ]  # fmt: skip
    with trio.fail_after(WITHIN), standalone_server(redis_server, guard) as port:
        async with await dial(port) as plain:
            version = (await plain.ask(pack("INFO", "server"))).partition(b"redis_version:")[2][:1]
            await plain.ask(pack("CONFIG", "SET", "requirepass", "nobody-knows"))
        if version != b"7":
            pytest.skip("errors are worded as 7.0.15 words them")
        front = await proxy("--client-auth", "passthrough", *flags, cluster=cluster)
        for data in [pack(*line.split()) for line in lines] + raws:
            answers = []
            for target in (port, front.port):
                async with await dial(target) as wire:
                    await wire.send(data)
                    wire.finish_sending()
                    answers.append(await wire.read_to_end())
            assert answers[0] == answers[1], data
            assert answers[0]


# ---- the proxy's own users


async def test_users_of_a_file_and_what_sighup_does(
    cluster: EmbeddedCluster, proxy: ProxyFactory, guard: Guard
) -> None:
    file = guard.folder / "users"
    file.write_text(f"user alice on >{SECRETS['alice']} >{NEWER}\nuser bob on >{SECRETS['bob']}\n")
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", str(file), "--log-level", "debug")

        async def reread(text: str, expected: str) -> None:
            before = front.stderr.count(expected)
            file.write_text(text)
            front.signal(signal.SIGHUP)
            await until(lambda: front.stderr.count(expected) > before, within=WITHIN)

        async with await logged_in(front, "alice", 3) as alice, await logged_in(front, "bob") as bob, \
                await front.connect() as new:  # fmt: skip
            assert await said(new, "GET a", f"AUTH alice {NEWER}", "SET a 1", "ACL WHOAMI") == [
                REFUSED, "OK", "OK", "alice"
            ]  # fmt: skip
            assert await said(bob, "GET a", "ACL WHOAMI") == ["1", "bob"]  # no rights of their own at the nodes
            await reread(f"user alice on {SECRETS['alice']}\n", "line 1: word 4 of user 'alice' is not")
            assert await said(alice, "GET a") == ["1"]
            await reread(f"user alice on >{NEWER}\n", "was read again; 2 clients closed")
            assert await closed(alice) and await closed(bob)
            assert await said(new, "GET a") == ["1"]
            async with await front.connect() as again:
                assert [reply.split()[0] for reply in await said(
                    again, f"AUTH bob {SECRETS['bob']}", f"AUTH alice {SECRETS['alice']}", f"AUTH alice {NEWER}"
                )] == ["WRONGPASS", "WRONGPASS", "OK"]  # fmt: skip
        assert_no_secret(front, (await front.get("/metrics"))[1])


async def test_sighup_without_files_is_nothing_to_die_of(cluster: EmbeddedCluster, proxy: ProxyFactory) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy()
        async with await front.connect() as client:
            front.signal(signal.SIGHUP)
            await until(lambda: "SIGHUP: there is no file" in front.stderr, within=WITHIN)
            assert await said(client, "SET a 1") == ["OK"]


async def test_the_nodes_password_is_read_again_for_new_connections(
    locked: tuple[EmbeddedCluster, list[str]], proxy: ProxyFactory
) -> None:
    cluster, flags = locked
    with trio.fail_after(WITHIN):
        front = await proxy(*flags, "--refresh-interval", "1", cluster=cluster)
        async with await front.connect() as client:
            assert await said(client, "SET a 1") == ["OK"]
            for node in cluster.nodes:
                async with await node.connect() as fresh:
                    await fresh.command("AUTH", "proxied", SECRETS["proxied"])
                    await fresh.command("ACL", "SETUSER", "proxied", f">{NEWER}", f"<{SECRETS['proxied']}")
            await until(lambda: "login refused" in front.stderr, within=WITHIN)
            await trio.Path(flags[-1]).write_text(NEWER)
            front.signal(signal.SIGHUP)
            await until(lambda: "was read again" in front.stderr, within=WITHIN)
            for node in cluster.nodes:
                async with await node.connect() as fresh:
                    await fresh.command("AUTH", "proxied", NEWER)
                    await fresh.command("CLIENT", "KILL", "USER", "proxied", "SKIPME", "yes")
            assert await said(client, "GET a") == ["1"]
        assert_no_secret(front)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("mode", ["passthrough", pytest.param("file", marks=pytest.mark.extended)])
async def test_redis_py_with_a_user_and_a_password(
    users: EmbeddedCluster, proxy: ProxyFactory, guard: Guard, mode: str, protocol: int
) -> None:
    file = guard.folder / "users"
    file.write_text("".join(f"user {name} on >{SECRETS[name]}\n" for name in RIGHTS))
    front = await proxy("--client-auth", "passthrough" if mode == "passthrough" else str(file))

    def work(name: str) -> Any:
        with redis_py(front, protocol, username=name, password=SECRETS[name]) as client:
            with client.pipeline(transaction=True) as block:
                block.set(f"{name[0]}:{{1}}", 1).incr(f"{name[0]}:{{1}}")
                assert block.execute() == [True, 2]
            return client.acl_whoami()

    with trio.fail_after(WITHIN):
        for name in RIGHTS:
            assert await trio.to_thread.run_sync(work, name) == name.encode() or work(name) == name

        def wrong() -> None:
            with redis_py(front, protocol, username="alice", password="x") as client:
                client.ping()

        with pytest.raises(redis.AuthenticationError):
            await trio.to_thread.run_sync(wrong)


@pytest.mark.extended  # ten seconds are ten seconds
async def test_who_does_not_log_in_is_closed_and_makes_room(
    cluster: EmbeddedCluster, proxy: ProxyFactory, guard: Guard
) -> None:
    file = guard.folder / "users"
    file.write_text(f"user alice on >{SECRETS['alice']}\n")
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", str(file), "--max-clients", "1")
        async with await front.connect() as idle:
            async with await front.connect() as refused:
                with pytest.raises(ErrorReply, match="max number of clients"):
                    await refused.command("PING")
            with pytest.raises(ConnectionError):
                await idle.receive()
        async with await logged_in(front, "alice") as alice:
            assert await said(alice, "SET a 1") == ["OK"]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_streams_of_two_restricted_users_keep_their_order_while_slots_move(
    users: EmbeddedCluster, proxy: ProxyFactory, protocol: int
) -> None:
    cluster = users
    for name in RIGHTS:
        await set_user(cluster, name, "resetkeys", f"~*:{name}*", "-@dangerous", "-@admin")
    front = await proxy("--client-auth", "passthrough", "--refresh-interval", "1")
    here, there = cluster.nodes[:2]
    tags = await tags_of(cluster, here, 3)
    rides = [Ride(slot, here, there) for slot in tags.values()]
    streams = {name: [Stream(f"{name}{n}", counting(f"{name}{n}", list(tags)), window=30) for n in range(3)]
               for name in RIGHTS}  # fmt: skip
    everybody = [stream for of_one in streams.values() for stream in of_one]
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            for name, of_one in streams.items():

                async def login(name: str = name) -> Connection:
                    return await logged_in(front, name, protocol)

                await stack.enter_async_context(running(of_one, login))
            await answered(everybody, 20)
            await shuttle(cluster, rides, 4)
            await answered(everybody, 5)
        await check_against_nodes(cluster, everybody)
    metrics = await front.metrics()
    assert metrics["slotproxy_moved_total"] > 10 and metrics["slotproxy_ask_total"] > 10
    assert all(stream.history.in_doubt == 0 for stream in everybody)
    assert "clients closed" not in front.stderr


async def test_a_node_that_cannot_be_reached_has_refused_nobody(users: EmbeddedCluster, proxy: ProxyFactory) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough", "--refresh-interval", "0.5", "--log-level", "debug")
        async with await logged_in(front, "alice") as alice:
            here = await users.owner(await users.slot_of("a:1"))
            other = next(node for node in users.nodes if node is not here)
            other.pause()
            try:
                await until(lambda: f"node {other.address} was not asked about users" in front.stderr, within=WITHIN)
                assert await said(alice, "SET a:1 1") == ["OK"]
                async with await logged_in(front, "bob") as bob:  # judged by one that answers
                    assert await said(bob, "PING") == ["PONG"]
            finally:
                other.resume()
            assert await said(alice, "GET a:1") == ["1"]


async def test_what_is_asked_on_a_connection_of_its_own_is_asked_as_the_clients_user(
    users: EmbeddedCluster, proxy: ProxyFactory
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough")
        await set_user(users, "alice", "-script")
        async with await logged_in(front, "alice") as alice, await logged_in(front, "bob") as bob:
            assert "NOPERM" in (await said(alice, "SCRIPT KILL"))[0]
            assert "NOTBUSY" in (await said(bob, "SCRIPT KILL"))[0]


@pytest.mark.parametrize("how", ["off", "resetpass"])
async def test_subscriptions_have_the_rights_of_their_user_and_end_with_it(
    users: EmbeddedCluster, proxy: ProxyFactory, how: str
) -> None:
    with trio.fail_after(WITHIN):
        front = await proxy("--client-auth", "passthrough", "--refresh-interval", "1")
        async with await logged_in(front, "alice") as alice, await logged_in(front, "bob") as bob, \
                await logged_in(front, "bob") as publisher:  # fmt: skip
            assert "NOPERM" in (await said(alice, "SUBSCRIBE b:news"))[0]
            assert "NOPERM" in (await said(publisher, "PUBLISH a:news x"))[0]
            assert await said(alice, "SUBSCRIBE a:news") == ["[b'subscribe', b'a:news', 1]"]
            assert await said(bob, "SUBSCRIBE b:news") == ["[b'subscribe', b'b:news', 1]"]
            assert await said(publisher, "PUBLISH b:news hello") == ["1"]
            assert await bob.receive() == [b"message", b"b:news", b"hello"]
            await set_user(users, "alice", how)
            with pytest.raises(ConnectionError):
                await alice.receive()
            assert await said(publisher, "PUBLISH b:news again") == ["1"]
            assert await bob.receive() == [b"message", b"b:news", b"again"]
