"""`slotproxy demo`: a cluster, the proxy, clients that check every reply, and slots that move all the time.

    nodes  <-- slots moved key by key (reshard) --  mover
      ^
    proxy (a child process)  <-- /metrics --  show, every second
      ^
    clients (plain RESP2)

Ends after `--seconds`, on Ctrl-C or SIGTERM, or when the proxy or a migration fails; always with a summary
once the clients have run, and with nothing left behind. A second Ctrl-C skips the orderly end.
The exit status is 1 if a client saw an error or a wrong value, or if something of the demo failed.
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TextIO

import trio

from slotproxy.demo.clients import Client, make_clients
from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.connection import ErrorReply
from slotproxy.demo.guard import Guard
from slotproxy.demo.node import Node, StartFailed
from slotproxy.demo.proxy import SERVE_COMMAND, ProxyFailed, ProxyProcess
from slotproxy.demo.reshard import move_slot
from slotproxy.demo.screen import Absorbed, Screen, Snapshot, summary
from slotproxy.demo.servers import ServerNotFound, find_redis_server, server_version
from slotproxy.demo.tally import Tally

DEFAULT_PRIMARIES = 3
DEFAULT_CLIENTS = 10
# Each tag is one slot. Enough that every node has some, few enough that each is moved again and again.
TAGS = [str(number) for number in range(12)]
FILLERS = 8
STEP_PAUSE = 0.004
PROXY_GRACE = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `slotproxy demo`; `run` takes what they parse to."""
    parser.add_argument(
        "--seconds", type=_positive_number, metavar="N", help="end after N seconds (default: on Ctrl-C)"
    )
    parser.add_argument(
        "--primaries",
        type=_positive,
        default=DEFAULT_PRIMARIES,
        metavar="N",
        help="nodes (default: %(default)s)",
    )
    parser.add_argument(
        "--clients",
        type=_positive,
        default=DEFAULT_CLIENTS,
        metavar="N",
        help="clients (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, metavar="PORT", help="the proxy's port (default: a free one)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Exit status of `slotproxy demo`."""

    async def main() -> int:
        return await run_demo(
            seconds=arguments.seconds,
            primaries=arguments.primaries,
            clients=arguments.clients,
            port=arguments.port,
        )

    return trio.run(main)


async def run_demo(
    *,
    seconds: float | None = None,
    primaries: int = DEFAULT_PRIMARIES,
    clients: int = DEFAULT_CLIENTS,
    port: int | None = None,
    server: str | None = None,
    proxy_command: Sequence[str] = SERVE_COMMAND,
    out: TextIO | None = None,
) -> int:
    """The whole demo; its exit status. Must run in the main thread (it listens for signals)."""
    screen = Screen(out or sys.stdout)
    try:
        server = server or find_redis_server()
    except ServerNotFound as error:
        screen.say(str(error))
        return 1
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        guard = Guard()
        cluster = EmbeddedCluster(primaries=primaries, server=server, guard=guard)
        proxy = ProxyProcess([], guard=guard, port=port, command=proxy_command)
        demo = Demo(cluster, proxy, screen, seconds=seconds, clients=clients)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, signals, demo, nursery.cancel_scope)
                try:
                    await demo.prepare()
                    await demo.run()
                except (StartFailed, ProxyFailed, ErrorReply, OSError, trio.TooSlowError) as error:
                    demo.fail(f"the demo failed: {error}")
                nursery.cancel_scope.cancel()
            return demo.conclude()
        finally:
            proxy.kill()
            cluster.close()
            guard.close()


async def _end_on_signal(signals: AsyncIterator[int], demo: Demo, scope: trio.CancelScope) -> None:
    async for _ in signals:
        if not demo.running or demo.ending.is_set():
            demo.fail("interrupted before the end")
            scope.cancel()
        demo.ending.set()


class Demo:
    """`prepare`, `run`, `conclude`. Setting `ending` makes `run` end in order."""

    def __init__(
        self,
        cluster: EmbeddedCluster,
        proxy: ProxyProcess,
        screen: Screen,
        *,
        seconds: float | None,
        clients: int,
    ) -> None:
        self.ending = trio.Event()
        self.running = False
        self.failures: list[str] = []
        self.tally = Tally()
        self._cluster = cluster
        self._proxy = proxy
        self._screen = screen
        version = ".".join(map(str, server_version(cluster.server)))
        self._servers = f"{cluster.primaries_wanted} x redis-server {version}"
        self._seconds = seconds
        self._clients: list[Client] = make_clients(clients, TAGS, proxy.connect, self.tally)
        self._absorbed = Absorbed()
        self._slots_moved = 0
        self._keys_moved = 0
        self._owners: dict[int, Node] = {}
        self._started = trio.current_time()
        self._ended: float | None = None

    async def prepare(self) -> None:
        """Cluster, keys, proxy. Raises what those raise."""
        self._screen.say(f"starting {self._servers} and slotproxy in front of them ...")
        await self._cluster.start()
        self._owners = await self._fill()
        self._proxy.seeds = self._cluster.seeds
        await self._proxy.start()

    async def run(self) -> None:
        """Load, moves and display until `ending`; then every value is read back and the proxy is stopped."""
        self.running = True
        self._started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(client.run)
            nursery.start_soon(self._keep_moving, self._owners)
            nursery.start_soon(self._show_every_second)
            with trio.move_on_after(math.inf if self._seconds is None else self._seconds):
                await self.ending.wait()
            self.ending.set()
            for client in self._clients:
                client.stop()
        self._ended = trio.current_time()
        if self._proxy.running:
            for client in self._clients:
                await client.check()
            await self._scrape()
            status = await self._proxy.stop(PROXY_GRACE)
            if status:
                self.fail(f"the proxy ended with status {status} on SIGTERM:\n{self._proxy.stderr}")

    def conclude(self) -> int:
        """The summary, if the clients ran at all, and what went wrong. The exit status."""
        if self.running:
            self._screen.say("", *summary(self._snapshot(overall=True)))
        self._screen.say(*self.tally.complaints, *self.failures)
        return 0 if self.tally.clean and not self.failures else 1

    def fail(self, why: str) -> None:
        """Something other than a client's request went wrong: the demo ends."""
        self.failures.append(why)
        self.ending.set()

    async def _fill(self) -> dict[int, Node]:
        """Keys that make each slot take a while to move. Returns the slots to be moved, with their owners."""
        owners: dict[int, Node] = {}
        for tag in TAGS:
            slot = await self._cluster.slot_of(f"demo:{{{tag}}}:")
            owners[slot] = await self._cluster.owner(slot)
            for number in range(FILLERS):
                await owners[slot].command("SET", f"demo:{{{tag}}}:filler:{number}", number)
        return owners

    async def _keep_moving(self, owners: dict[int, Node]) -> None:
        """One slot after the other to another primary, one key per MIGRATE, both orders of the last steps."""
        if len(self._cluster.nodes) < 2:
            return
        while not self.ending.is_set():
            slot = random.choice(list(owners))
            source = owners[slot]
            target = random.choice([node for node in self._cluster.nodes if node is not source])
            try:
                self._keys_moved += await move_slot(
                    self._cluster,
                    slot,
                    source,
                    target,
                    batch=1,
                    pause=STEP_PAUSE,
                    order="source-first" if self._slots_moved % 4 == 3 else "target-first",
                )
            except (ErrorReply, OSError, trio.TooSlowError) as error:
                self.fail(f"moving slot {slot} failed: {error!r}")
                return
            owners[slot] = target
            self._slots_moved += 1

    async def _show_every_second(self) -> None:
        requests, shown = 0, trio.current_time()
        while True:
            with trio.move_on_after(1):
                await self.ending.wait()
            if not self._proxy.running:
                self.fail(f"the proxy ended with status {self._proxy.status}:\n{self._proxy.stderr}")
                return
            if self.ending.is_set():
                return
            await self._scrape()
            now = trio.current_time()
            rate = (self.tally.requests - requests) / (now - shown)
            self._screen.show(self._snapshot(rate=rate))
            self.tally.recent.clear()
            requests, shown = self.tally.requests, now

    async def _scrape(self) -> None:
        try:
            with trio.fail_after(5):
                self._absorbed = Absorbed.from_metrics(await self._proxy.metrics())
        except (OSError, ValueError, trio.TooSlowError):
            # Shown as "-": figures that cannot be had are not a fault of the clients' path.
            self._absorbed = Absorbed()

    def _snapshot(self, *, rate: float = 0.0, overall: bool = False) -> Snapshot:
        elapsed = (self._ended or trio.current_time()) - self._started
        sample = self.tally.latencies if overall else self.tally.recent
        return Snapshot(
            title=f"slotproxy on 127.0.0.1:{self._proxy.port} in front of {self._servers}",
            port=self._proxy.port,
            admin_port=self._proxy.admin_port,
            elapsed=elapsed,
            seconds=self._seconds,
            clients=len(self._clients),
            requests=self.tally.requests,
            rate=self.tally.requests / max(elapsed, 0.001) if overall else rate,
            p50=sample.quantile(0.50),
            p99=sample.quantile(0.99),
            absorbed=self._absorbed,
            slots_moved=self._slots_moved,
            keys_moved=self._keys_moved,
            errors=self.tally.errors,
            wrong=self.tally.wrong,
        )
