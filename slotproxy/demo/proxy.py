"""`slotproxy serve` as a child process: started as a user starts it, ready when /readyz says so.

Shared by the demo and by the tests. Knows the proxy only by its command line, its admin port and its signals.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families

from slotproxy.demo.connection import Connection, connect
from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from slotproxy.demo.servers import free_port

SERVE_COMMAND = (sys.executable, "-m", "slotproxy", "serve")
READY_TIMEOUT = 20.0
STOP_TIMEOUT = 15.0


class ProxyFailed(Exception):
    """The proxy ended or did not get ready; the text holds what it wrote to stderr."""


class ProxyProcess:
    """One proxy in front of `seeds`. Its output goes to files in the guard's folder."""

    host = "127.0.0.1"

    def __init__(
        self,
        seeds: Sequence[str],
        *,
        guard: Guard,
        flags: Sequence[str] = (),
        port: int | None = None,
        command: Sequence[str] = SERVE_COMMAND,
    ) -> None:
        self.port = port or free_port()
        self.admin_port = free_port()
        self.status: int | None = None
        self.seeds = list(seeds)
        self._command = list(command)
        self._flags = list(flags)
        self._guard = guard
        self._stderr_path: Path = guard.folder / f"proxy-{self.port}.stderr"
        self._stdout_path: Path = guard.folder / f"proxy-{self.port}.stdout"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError("the proxy is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """False also when it ended by itself; `status` says how."""
        if self._process is not None and self._guard.has_ended(self._process):
            self.status, self._process = self._process.returncode, None
        return self._process is not None

    @property
    def stderr(self) -> str:
        """All that it wrote so far."""
        return self._stderr_path.read_text(errors="replace") if self._stderr_path.exists() else ""

    @property
    def stdout(self) -> str:
        return self._stdout_path.read_text(errors="replace") if self._stdout_path.exists() else ""

    async def start(self, within: float = READY_TIMEOUT) -> None:
        """Returns when /readyz answers 200. Raises ProxyFailed, and then it is not running."""
        self.spawn()
        try:
            await until(self._ready_or_ended, within=within)
            if not self.running:
                raise ProxyFailed(f"the proxy ended with status {self.status}:\n{self.stderr}")
        except BaseException as error:
            self.kill()
            if isinstance(error, trio.TooSlowError):
                raise ProxyFailed(f"the proxy was not ready after {within:g} s:\n{self.stderr}") from None
            raise

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        assert self._process is None, "the proxy is running"
        self.status = None
        with self._stderr_path.open("wb") as stderr, self._stdout_path.open("wb") as stdout:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    *("--listen", f"{self.host}:{self.port}"),
                    *("--cluster", ",".join(self.seeds)),
                    *("--admin", f"{self.host}:{self.admin_port}"),
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                # Ctrl-C is for whoever started the proxy: it has clients to end first.
                start_new_session=True,
            )
        self._guard.watch(self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def wait(self, within: float = STOP_TIMEOUT) -> int:
        """Its exit status, when it has ended by itself. Raises trio.TooSlowError."""
        await until(lambda: not self.running, within=within)
        assert self.status is not None, "the proxy was never started"
        return self.status

    async def stop(self, grace: float = STOP_TIMEOUT) -> int:
        """SIGTERM and wait; its exit status (-9 when it had to be killed after `grace` seconds)."""
        self.signal(signal.SIGTERM)
        try:
            return await self.wait(grace)
        except trio.TooSlowError:
            return -signal.SIGKILL
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9, and reaped. Does nothing when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            self.status = self._guard.kill(process)

    async def connect(self) -> Connection:
        """A client's connection."""
        return await connect(self.host, self.port)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP GET on the admin port. Raises OSError."""
        return await http_get(self.host, self.admin_port, path)

    async def ready(self) -> bool:
        try:
            status, _ = await self.get("/readyz")
        except OSError:
            return False
        return status == 200

    async def _ready_or_ended(self) -> bool:
        return not self.running or await self.ready()

    async def metrics(self) -> dict[str, float]:
        """/metrics, each sample's values summed over its labels: `{"slotproxy_ask_total": 12.0, ...}`."""
        status, body = await self.get("/metrics")
        if status != 200:
            raise OSError(f"/metrics answered {status}")
        return sum_over_labels(body)


def sum_over_labels(exposition: str) -> dict[str, float]:
    """Prometheus text format to one number per sample name."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


async def http_get(host: str, port: int, path: str) -> tuple[int, str]:
    """A GET as HTTP/1.0 on a connection of its own. Raises OSError."""
    sock = trio.socket.socket()
    with sock:
        await sock.connect((host, port))
        stream = trio.SocketStream(sock)
        try:
            await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
            answer = b"".join([bytes(chunk) async for chunk in stream])
        except trio.BrokenResourceError as error:
            raise ConnectionError(f"{host}:{port}: connection lost") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError(f"{host}:{port} does not speak HTTP")
    return int(words[1]), body.decode(errors="replace")
