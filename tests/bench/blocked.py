"""What clients that wait in blocking commands cost, and how soon they hear of an element.

    python -m tests.bench.blocked [--clients 5000] [--seconds 10] [--pushes 500]

Two kinds in turn, in front of three primaries: clients whose keys lie in one slot (they block at the node), and clients
with two keys in each of several slots (slotproxy waits for them). Each client waits at keys of its own. Printed: memory
and CPU time of the proxy while all of them idle, connections to nodes, commands per second and waiter that the nodes
run meanwhile, and the time from sending a push to the element's arrival at the client.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
from collections.abc import Sequence

import trio

from slotproxy.build import flavour
from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import Connection, connect, pack
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyProcess
from tests.bench import measure

SETTLE = 1.0  # seconds that nothing is measured for after the last client has begun to wait


def keys_at_node(client: int) -> list[str]:
    return [f"{{one:{client}}}:a"]


def keys_over_slots(client: int) -> list[str]:
    return [f"several:{client}:{queue}" for queue in range(4)]


async def executed(cluster: EmbeddedCluster) -> int:
    """Commands that the nodes have run in all."""
    return sum([int((await node.info("stats"))["total_commands_processed"]) for node in cluster.nodes])


async def blocked(cluster: EmbeddedCluster, proxy: ProxyProcess, count: int, at_nodes: int) -> None:
    """Returns when so many clients are in a blocking command, so many of them at the nodes."""
    async with await connect("127.0.0.1", proxy.port) as client:
        while True:
            text = (await client.command("INFO", "clients")).decode()
            there = sum([int((await node.info("clients"))["blocked_clients"]) for node in cluster.nodes])
            if f"blocked_clients:{count}\r\n" in text and there == at_nodes:
                return
            await trio.sleep(0.1)


async def wait_and_measure(
    cluster: EmbeddedCluster, proxy: ProxyProcess, arguments: argparse.Namespace, keys: Sequence[list[str]]
) -> None:
    at_nodes = len(keys) if len(keys[0]) == 1 else 0
    kind = "one slot each" if at_nodes else f"{len(keys[0])} keys in several slots"
    before_kib = measure.resident_kib(proxy.pid)
    clients: list[Connection] = []
    for _ in keys:
        clients.append(await connect("127.0.0.1", proxy.port))
    connected_kib = measure.resident_kib(proxy.pid)
    cpu = measure.cpu_seconds(proxy.pid)
    for client, its in zip(clients, keys, strict=True):
        await client.send(pack("BLPOP", *its, 0))
    await blocked(cluster, proxy, len(keys), at_nodes)
    await trio.sleep(SETTLE)
    began = measure.cpu_seconds(proxy.pid) - cpu
    sockets = len(os.listdir(f"/proc/{proxy.pid}/fd")) - len(keys)
    kib, cpu, ran = measure.resident_kib(proxy.pid), measure.cpu_seconds(proxy.pid), await executed(cluster)
    await trio.sleep(arguments.seconds)
    cpu, ran = measure.cpu_seconds(proxy.pid) - cpu, await executed(cluster) - ran
    print(f"{kind}: {len(keys)} clients")
    connected, waiting = (connected_kib - before_kib) / len(keys), (kib - connected_kib) / len(keys)
    print(f"  resident: {kib / 1024:.1f} MiB; KiB for each client: {connected:.1f}, when blocked {waiting:.1f} more")
    print(f"  descriptors besides the clients': {sockets}")
    print(f"  CPU: {began / len(keys) * 1e6:.0f} us for each to begin; {cpu / arguments.seconds:.1%} of one all idle")
    print(f"  commands at the nodes: {ran / arguments.seconds / len(keys):.2f} per second and waiter")
    times: list[float] = []
    async with await connect("127.0.0.1", proxy.port) as producer:
        for client, its in list(zip(clients, keys, strict=True))[: arguments.pushes]:
            start = trio.current_time()
            with trio.fail_after(10):
                await producer.command("LPUSH", its[-1], "x")
                element = await client.receive()
            times.append((trio.current_time() - start) * 1000)
            assert element == [its[-1].encode(), b"x"], element
            await client.send(pack("BLPOP", *its, 0))
    times.sort()
    print(f"  push to arrival: p50 {statistics.median(times):.2f} ms, p99 {times[int(len(times) * 0.99)]:.2f} ms\n")
    for client in clients:
        client.close()
    await blocked(cluster, proxy, 0, 0)


async def bench(arguments: argparse.Namespace) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    guard = Guard("slotproxy-bench-")
    try:
        async with EmbeddedCluster(primaries=3, guard=guard) as cluster:
            proxy = ProxyProcess(cluster.seeds, guard=guard)
            await proxy.start()
            print(f"slotproxy {flavour()}, {os.cpu_count()} CPUs\n")
            for keys_of in (keys_at_node, keys_over_slots):
                keys = [keys_of(client) for client in range(arguments.clients)]
                await wait_and_measure(cluster, proxy, arguments, keys)
            await proxy.stop()
    finally:
        guard.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.blocked", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clients", type=int, default=5000, metavar="N")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the idle ones are watched")
    parser.add_argument("--pushes", type=int, default=500, metavar="N")
    trio.run(bench, parser.parse_args())
    return 0


if __name__ == "__main__":
    sys.exit(main())
