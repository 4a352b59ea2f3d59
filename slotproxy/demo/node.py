"""One redis-server process in cluster mode, and what it says about the cluster.

Processes are handled synchronously and only waiting is async, so that a cluster can outlive the trio run
that formed it (the tests keep one for the whole session). A kept connection cannot: `disconnect` ends it.

The decoding of CLUSTER NODES here is deliberately not the proxy's: this is what the proxy is tested against.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from slotproxy.demo.connection import Argument, Connection, ErrorReply, connect
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.servers import free_node_port

COMMAND_TIMEOUT = 30.0
START_TIMEOUT = 15.0
START_ATTEMPTS = 5


class StartFailed(Exception):
    """A server did not come up; the text holds the end of its log."""


@dataclass(frozen=True)
class Member:
    """One line of CLUSTER NODES: a node as another one (or itself) sees it."""

    id: str
    host: str
    port: int
    flags: frozenset[str]
    primary: str | None
    epoch: int
    linked: bool
    ranges: tuple[tuple[int, int], ...]
    migrating: Mapping[int, str] = field(default_factory=dict)
    importing: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_primary(self) -> bool:
        return "master" in self.flags

    @property
    def slots(self) -> frozenset[int]:
        return frozenset(slot for first, last in self.ranges for slot in range(first, last + 1))


def parse_member(line: str) -> Member:
    """`id host:port@bus[,name] flags primary ping pong epoch link slot...` (6.2 and later)."""
    node_id, address, flags, primary, _ping, _pong, epoch, link, *slots = line.split()
    host, _, port = address.partition("@")[0].rpartition(":")
    ranges: list[tuple[int, int]] = []
    migrating: dict[int, str] = {}
    importing: dict[int, str] = {}
    for word in slots:
        if "->-" in word:
            slot, _, other = word.strip("[]").partition("->-")
            migrating[int(slot)] = other
        elif "-<-" in word:
            slot, _, other = word.strip("[]").partition("-<-")
            importing[int(slot)] = other
        else:
            first, _, last = word.partition("-")
            ranges.append((int(first), int(last or first)))
    return Member(
        id=node_id,
        host=host,
        port=int(port),
        flags=frozenset(flags.split(",")),
        primary=None if primary == "-" else primary,
        epoch=int(epoch),
        linked=link == "connected",
        ranges=tuple(sorted(ranges)),
        migrating=migrating,
        importing=importing,
    )


class Node:
    """A server of ours. `id` and `port` are known once `start` returned."""

    host = "127.0.0.1"

    def __init__(self, server: str, name: str, guard: Guard, settings: Mapping[str, str]) -> None:
        self.name = name
        self.id = ""
        self.port = 0
        self._server = server
        self._guard = guard
        self._settings = dict(settings)
        self._folder = guard.folder / name
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._connection: Connection | None = None
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        return f"<{self.name} {self.address} {self.id[:8]}>"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def pid(self) -> int:
        """Raises RuntimeError when the process is not running."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """False also after a crash that nobody here asked for."""
        return self._process is not None and not self._guard.has_ended(self._process)

    @property
    def paused(self) -> bool:
        return self._paused

    # ---- the process

    def spawn(self) -> None:
        """Start the process on a free port, without waiting for it. `start` is the whole of it."""
        assert self._process is None, f"{self.name} is running"
        self._folder.mkdir(exist_ok=True)
        if not self.port:
            self.port = free_node_port()
        settings = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(self._folder),
            "logfile": "redis.log",
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            **self._settings,
        }
        # A session of its own: Ctrl-C in the terminal is for the demo, which then ends its servers itself.
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [self._server, *(word for key, value in settings.items() for word in (f"--{key}", value))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard.watch(self._process.pid)

    async def start(self) -> None:
        """Start if `spawn` did not, and wait until it answers. Raises StartFailed.

        The first time it takes another port when somebody else was faster; later the port is its address.
        """
        for _ in range(START_ATTEMPTS):
            if self._process is None:
                self.spawn()
            if await self._listening():
                self.id = (await self.command("CLUSTER", "MYID")).decode()
                return
            self._forget_process()
            if self.id or "in use" not in self._log_tail():
                break
            self.port = 0
        raise StartFailed(f"{self._server} did not start on {self.address}:\n{self._log_tail()}")

    def kill(self) -> None:
        """kill -9, and reaped. Does nothing when it is not running."""
        self.disconnect()
        self._forget_process()

    async def terminate(self, grace: float = 10.0) -> None:
        """SIGTERM, as a service manager stops it; kill -9 after `grace` seconds."""
        self.disconnect()
        if self._process is None:
            return
        self._process.terminate()
        self.resume()
        with contextlib.suppress(trio.TooSlowError):
            await until(lambda: not self.running, within=grace)
        self.kill()

    async def restart(self) -> None:
        """Killed if it runs, then started with the same port, id and configuration, and no data."""
        self.kill()
        await self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self._paused = False

    # ---- commands

    async def command(self, *args: Argument) -> Any:
        """One command on this node's own connection, opened as needed.

        Raises ErrorReply, OSError, and trio.TooSlowError after COMMAND_TIMEOUT.
        """
        (reply,) = await self.pipeline(args)
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    async def pipeline(self, *commands: Sequence[Argument]) -> list[Any]:
        """Commands in one write, adjacent on the connection (ASKING and its command). Errors are values."""
        async with self._lock:
            try:
                with trio.fail_after(COMMAND_TIMEOUT):
                    if self._connection is None:
                        self._connection = await self.connect()
                    return await self._connection.pipeline(*commands)
            except BaseException:
                # Out of step: a reply may still be under way.
                self.disconnect()
                raise

    async def connect(self) -> Connection:
        """A connection of the caller's own, for what must not sit on the shared one (MULTI, BLPOP, ...)."""
        return await connect(self.host, self.port)

    def disconnect(self) -> None:
        """Close the kept connection. Necessary before the trio run that opened it ends."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def members(self) -> list[Member]:
        """CLUSTER NODES, decoded."""
        text: bytes = await self.command("CLUSTER", "NODES")
        return [parse_member(line) for line in text.decode().splitlines() if line]

    async def myself(self) -> Member:
        return next(member for member in await self.members() if "myself" in member.flags)

    async def cluster_info(self) -> dict[str, str]:
        return _fields(await self.command("CLUSTER", "INFO"))

    async def info(self, section: str = "default") -> dict[str, str]:
        return _fields(await self.command("INFO", section))

    # ---- within

    async def _listening(self) -> bool:
        """True when *our* process answers; False when it ended (another one took the port)."""
        with contextlib.suppress(trio.TooSlowError):
            await until(self._answers_or_ended, within=START_TIMEOUT)
        return self.running

    async def _answers_or_ended(self) -> bool:
        if not self.running:
            return True
        try:
            return (await self.info("server")).get("process_id") == str(self.pid)
        except (OSError, ErrorReply):
            return False
        finally:
            # It can be somebody else's server on that port.
            self.disconnect()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _forget_process(self) -> None:
        process, self._process = self._process, None
        self._paused = False
        if process is not None:
            self._guard.kill(process)

    def _log_tail(self) -> str:
        lines: list[str] = []
        for name in ("output", "redis.log"):
            path = self._folder / name
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-8:])


def _fields(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
