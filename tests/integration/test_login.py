"""The proxy's own login at the nodes: `--cluster-user` and `--cluster-password-file`."""

from __future__ import annotations

import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.proxy import ProxyProcess
from tests.conftest import ProxyFactory

WITHIN = 20.0
SECRET = "s3cret-words"


async def add_user(cluster: EmbeddedCluster, *rules: str) -> None:
    for node in cluster.nodes:
        await node.command("ACL", "SETUSER", "proxied", "reset", "on", f">{SECRET}", "~*", "+@all", *rules)


def password_file(guard: Guard, text: str) -> str:
    path = guard.folder / "password"
    path.write_text(text + "\n")
    return str(path)


async def test_the_proxy_logs_in_on_every_connection(
    cluster: EmbeddedCluster, proxy: ProxyFactory, guard: Guard
) -> None:
    with trio.fail_after(WITHIN):
        await add_user(cluster)
        process = await proxy(
            "--cluster-user", "proxied", "--cluster-password-file", password_file(guard, SECRET), "--log-level", "debug"
        )
        async with await process.connect() as client:
            assert [await client.command("SET", f"key{number}", number) for number in range(30)] == [b"OK"] * 30
        for node in cluster.nodes:
            clients = (await node.command("CLIENT", "LIST")).splitlines()
            lanes = [line for line in clients if b" name=slotproxy " in line]
            assert len(lanes) == 2 and all(b" user=proxied" in line for line in lanes)
        assert SECRET not in process.stderr


async def test_a_refused_login_is_said_and_the_password_is_not(cluster: EmbeddedCluster, guard: Guard) -> None:
    await add_user(cluster)
    flags = ["--cluster-user", "proxied", "--cluster-password-file", password_file(guard, "not-" + SECRET)]
    process = ProxyProcess(cluster.seeds, guard=guard, flags=flags)
    process.spawn()

    async def refused() -> bool:
        try:
            status, body = await process.get("/readyz")
        except OSError:
            return False
        return status == 503 and "login refused: WRONGPASS" in body

    try:
        await until(refused, within=WITHIN)
        assert SECRET not in process.stderr
    finally:
        process.kill()


async def test_a_node_that_denies_the_fence_is_served_and_said(
    cluster: EmbeddedCluster, proxy: ProxyFactory, guard: Guard
) -> None:
    with trio.fail_after(WITHIN):
        await add_user(cluster, "-client|id" if await has_subcommand_rules(cluster) else "-client")
        process = await proxy("--cluster-user", "proxied", "--cluster-password-file", password_file(guard, SECRET))
        async with await process.connect() as client:
            assert await client.command("INCR", "key") == 1
        assert "denies CLIENT ID" in process.stderr


async def has_subcommand_rules(cluster: EmbeddedCluster) -> bool:
    """Whether ACLs can deny one subcommand (since 7.0)."""
    return (await cluster.nodes[0].info("server"))["redis_version"] >= "7"
