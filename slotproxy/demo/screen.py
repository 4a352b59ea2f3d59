"""The demo's figures as text: a frame that is redrawn in a terminal, one line per second elsewhere.

Formatting only. Sees no node, no proxy and no client, only a `Snapshot`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Absorbed:
    """What the proxy says it absorbed, since it started. None: its metrics could not be read."""

    moved: int | None = None
    ask: int | None = None
    tryagain: int | None = None
    topology_updates: int | None = None

    @classmethod
    def from_metrics(cls, totals: dict[str, float]) -> Absorbed:
        """From sums over labels, by sample name."""

        def count(name: str) -> int | None:
            return int(totals[name]) if name in totals else None

        return cls(
            moved=count("slotproxy_moved_total"),
            ask=count("slotproxy_ask_total"),
            tryagain=count("slotproxy_tryagain_total"),
            topology_updates=count("slotproxy_topology_updates_total"),
        )


@dataclass(frozen=True)
class Snapshot:
    """One moment of the demo; `rate`, `p50` and `p99` (seconds) are of the last interval."""

    title: str
    port: int
    admin_port: int
    elapsed: float
    seconds: float | None
    clients: int
    requests: int
    rate: float
    p50: float | None
    p99: float | None
    absorbed: Absorbed
    slots_moved: int
    keys_moved: int
    errors: int
    wrong: int


def frame(now: Snapshot) -> list[str]:
    """The lines of the live view."""
    clock = _clock(now.elapsed) + (f" of {_clock(now.seconds)}" if now.seconds is not None else "")
    return [
        f"{now.title}   {clock}",
        "",
        f"  requests       {now.rate:>10,.0f} /s   {now.requests:,} in all, {now.clients} clients",
        f"  latency        p50 {_ms(now.p50)}   p99 {_ms(now.p99)}   (one request at a time)",
        f"  slots moved    {now.slots_moved:>10,}      {now.keys_moved:,} keys, one by one, under this load",
        f"  absorbed       {_absorbed(now.absorbed)}",
        f"  client errors  {now.errors:>10,}",
        f"  wrong values   {now.wrong:>10,}",
        "",
        f"  Try it:  redis-cli -p {now.port}      metrics: http://127.0.0.1:{now.admin_port}/metrics",
        "  Ctrl-C ends the demo; nothing is left behind.",
    ]


def line(now: Snapshot) -> str:
    """The same in one line, for logs and pipes."""
    return (
        f"{_clock(now.elapsed)}  {now.rate:,.0f} requests/s  p50 {_ms(now.p50)}  p99 {_ms(now.p99)}  "
        f"{_absorbed(now.absorbed)}  slots moved {now.slots_moved:,}  "
        f"errors {now.errors:,}  wrong {now.wrong:,}"
    )


def summary(now: Snapshot) -> list[str]:
    """The last words; `rate`, `p50` and `p99` are those of the whole run here."""
    return [
        f"{now.requests:,} requests in {now.elapsed:.1f} s ({now.rate:,.0f}/s, "
        f"p50 {_ms(now.p50)}, p99 {_ms(now.p99)}) from {now.clients} clients",
        f"{now.slots_moved:,} slots moved with {now.keys_moved:,} keys; absorbed: {_absorbed(now.absorbed)}",
        f"client errors: {now.errors:,}, wrong values: {now.wrong:,}",
    ]


class Screen:
    """Where the demo talks to whoever watches it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._drawn = 0

    def say(self, *lines: str) -> None:
        """Lines that stay, below the live frame if there is one."""
        self._drawn = 0
        self._write("".join(f"{text}\n" for text in lines))

    def show(self, now: Snapshot) -> None:
        """Draw the frame over the one before, or print the line."""
        if not self._live:
            self.say(line(now))
            return
        # A wrapped line would count double on the way back up.
        width = shutil.get_terminal_size().columns - 1
        lines = [text[:width] for text in frame(now)]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._write(up + "".join(f"\x1b[2K{text}\n" for text in lines))
        self._drawn = len(lines)

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:
            # `slotproxy demo | head`: nobody listens any more, which is no reason to end without a summary.
            self._live = False


def _absorbed(now: Absorbed) -> str:
    return (
        f"MOVED {_count(now.moved)}  ASK {_count(now.ask)}  TRYAGAIN {_count(now.tryagain)}  "
        f"topology updates {_count(now.topology_updates)}"
    )


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
