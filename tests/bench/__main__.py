"""Starts three primaries, a redis-server alone and the proxy, and prints what each costs.

    python -m tests.bench [--rounds 5] [--tests get:1,set:16] [NAME=PORT:PID ...]

A test is COMMAND:PIPELINE[:CLIENTS[:BYTES]]. Other proxies that run already join as NAME=PORT:PID.
`redis-server` is one server without cluster or proxy; the ratios refer to it, or to `--baseline`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import trio

from slotproxy.build import flavour
from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply, connect
from slotproxy.demo.guard import Guard
from slotproxy.demo.proxy import ProxyFailed, ProxyProcess
from slotproxy.demo.servers import ServerNotFound, find_redis_server, free_port, server_version
from tests.bench import measure
from tests.bench.measure import Target, Workload

DEFAULT_TESTS = "get:1,set:1,get:16,set:16,lrange_100:1,lrange_600:1,get:1:1"
START_TIMEOUT = 15.0
EXPECTED = (
    measure.BenchmarkMissing,
    measure.NoFigures,
    ErrorReply,
    OSError,
    ProxyFailed,
    ServerNotFound,
    trio.TooSlowError,
)


async def start_alone(server: str, guard: Guard) -> Target:
    """A redis-server without a cluster, for as long as the guard stands. Raises OSError when it fails."""
    port = free_port()
    process = spawn_alone(server, port, guard)
    with trio.fail_after(START_TIMEOUT):
        while True:
            try:
                (await connect("127.0.0.1", port)).close()
                return Target("redis-server", port, process.pid)
            except OSError:
                if guard.has_ended(process):
                    raise
                await trio.sleep(0.02)


def spawn_alone(server: str, port: int, guard: Guard) -> subprocess.Popen[bytes]:
    settings = {"--port": str(port), "--bind": "127.0.0.1", "--save": "", "--dir": str(guard.folder)}
    command = [server, *(word for pair in settings.items() for word in pair)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    guard.watch(process.pid)
    return process


async def compare_speed(targets: list[Target], arguments: argparse.Namespace) -> None:
    benchmark = measure.find_benchmark()
    width = max(len(target.name) for target in targets)
    columns = f"{'cpu us/req':>10} {'ratio':>6} {'req/s':>9} {'p50 ms':>7} {'p99 ms':>7}"
    print(f"{'test':14} {'server':{width}} {columns}")
    for workload in arguments.tests:
        got: dict[str, list[measure.Figures]] = {target.name: [] for target in targets}
        for target in targets:
            await measure.prepare(target, workload)
        for _ in range(arguments.rounds):
            for target in targets:
                got[target.name].append(await measure.measure(benchmark, target, workload, arguments.scale))
        for name, figures in got.items():
            mid, ratio = measure.median(figures), measure.cpu_ratio(figures, got[arguments.baseline])
            print(
                f"{workload.text:14} {name:{width}} {mid.cpu:10.2f} {ratio:6.2f} {mid.rate:9.0f}"
                f" {mid.p50:7.3f} {mid.p99:7.3f}",
                flush=True,
            )


async def compare_memory(targets: list[Target], clients: int) -> None:
    width = max(len(target.name) for target in targets)
    print(f"\n{'memory':{width}} {'RSS MiB':>8}   + {clients} idle clients")
    for target in targets:
        idle, loaded = await measure.idle_clients_kib(target, clients)
        added = f"{(loaded - idle) / 1024:.1f} MiB, {(loaded - idle) / clients:.1f} KiB each"
        print(f"{target.name:{width}} {idle / 1024:8.1f}   {added}")


async def bench(arguments: argparse.Namespace) -> None:
    server = find_redis_server()
    version = ".".join(map(str, server_version(server)))
    print(f"slotproxy {flavour()}, redis-server {version}, {os.cpu_count()} CPUs, {arguments.rounds} rounds")
    guard = Guard("slotproxy-bench-")
    try:
        async with EmbeddedCluster(primaries=3, server=server, guard=guard) as cluster:
            alone = await start_alone(server, guard)
            process = ProxyProcess(cluster.seeds, guard=guard)
            await process.start()
            proxy = Target("slotproxy", process.port, process.pid)
            # Memory first, while the proxy is fresh: what a benchmark has used is not given back.
            await compare_memory([proxy, *arguments.servers], arguments.idle_clients)
            print()
            await compare_speed([alone, proxy, *arguments.servers], arguments)
    finally:
        guard.close()


def workloads(text: str) -> list[Workload]:
    return [Workload.parse(part) for part in text.split(",")]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("servers", nargs="*", type=Target.parse, metavar="NAME=PORT:PID")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each test on each server")
    parser.add_argument("--tests", type=workloads, default=DEFAULT_TESTS, help="default: %(default)s")
    parser.add_argument("--baseline", default="redis-server", metavar="NAME", help="whose CPU time is 1.00")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the requests of each run")
    parser.add_argument("--idle-clients", type=int, default=1000, metavar="N")
    arguments = parser.parse_args(argv)
    names = ["redis-server", "slotproxy", *(target.name for target in arguments.servers)]
    if arguments.baseline not in names or len(set(names)) < len(names):
        parser.error(f"server names must differ and --baseline be one of them: {', '.join(names)}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    try:
        measure.find_benchmark()
        trio.run(bench, arguments)
    except EXPECTED as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
