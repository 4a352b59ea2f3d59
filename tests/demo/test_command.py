"""`slotproxy demo` ends by itself, on a signal and on failure, with the right status and nothing left behind.

Run against a stand-in (sequential_proxy): a correct one must pass, and each way of being wrong must be seen.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from slotproxy.demo.command import add_arguments, run_demo
from slotproxy.demo.proxy import SERVE_COMMAND
from slotproxy.demo.screen import Absorbed, Screen, Snapshot, frame, summary
from slotproxy.demo.tally import Reservoir, Tally
from tests.demo.test_cluster import exists

STAND_IN = (sys.executable, "-m", "tests.demo.sequential_proxy")

SNAPSHOT = Snapshot(
    title="slotproxy",
    port=7000,
    admin_port=9000,
    elapsed=12.3,
    seconds=30,
    clients=10,
    requests=123_456,
    rate=10_288.0,
    p50=0.0011,
    p99=None,
    absorbed=Absorbed(moved=83, ask=1201, tryagain=14),
    slots_moved=83,
    keys_moved=1020,
    errors=0,
    wrong=0,
)


async def demo(
    server: str, fault: str | None = None, seconds: float = 1.5, command: Sequence[str] = STAND_IN
) -> tuple[int, str]:
    out = io.StringIO()
    command = [*command, *(["--fault", fault] if fault else [])]
    with trio.fail_after(60):
        status = await run_demo(seconds=seconds, server=server, proxy_command=command, out=out)
    return status, out.getvalue()


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("command", [STAND_IN, SERVE_COMMAND], ids=["stand-in", "slotproxy"])
async def test_a_correct_proxy_passes(redis_server: str, command: Sequence[str]) -> None:
    status, text = await demo(redis_server, seconds=3, command=command)
    assert status == 0, text
    last = text[text.index("requests in") :]
    assert "client errors: 0, wrong values: 0" in last
    # Several moves per second, each with keys that are asked for meanwhile: redirects in the hundreds.
    assert number(r"([\d,]+) slots moved", last) >= 6
    assert number(r"with ([\d,]+) keys", last) >= 50
    assert number(r"MOVED ([\d,]+)", last) >= 10
    assert number(r"ASK ([\d,]+)", last) >= 50
    assert number(r"TRYAGAIN ([\d,]+)", last) >= 1


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("error", r"client errors: [1-9].*ERR on purpose"),
        ("value", r"wrong values: [1-9].*INCR .*expected \d+, got \d+"),
        ("swap", r"wrong values: [1-9].*streamer-\d+: INCR .*expected \d+, got \d+"),
        ("die", r"the proxy ended with status 1:.*dying on purpose"),
        ("unready", r"the demo failed: the proxy ended with status 1:\nnot today"),
    ],
)
async def test_a_wrong_proxy_is_noticed(any_server: str, fault: str, complaint: str) -> None:
    status, text = await demo(any_server, fault)
    assert status == 1
    assert re.search(complaint, text, re.DOTALL), text


RUNNER = """
import sys, trio
from functools import partial
from slotproxy.demo.command import run_demo
sys.exit(trio.run(partial(run_demo, server=sys.argv[1], proxy_command=sys.argv[2:])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_the_summary_and_nothing_behind(
    any_server: str, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", RUNNER, any_server, *STAND_IN], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        text = ""
        children: list[int] = []
        with trio.fail_after(60):
            async for chunk in process.stdout:
                text += chunk.decode()
                if not children and "requests/s" in text:
                    children = descendants(process.pid)
                    process.send_signal(number)
            status = await process.wait()
    finally:
        process.kill()
    assert status == 0, text
    assert "client errors: 0, wrong values: 0" in text
    assert len(children) >= 5  # three nodes, the proxy, the guard
    assert not any(map(exists, children))
    assert os.listdir(tmp_path) == []


def descendants(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    return [child for child, parent in pairs if parent == pid]


@pytest.mark.parametrize(
    "words", [["--seconds", "0"], ["--seconds", "nan"], ["--primaries", "0"], ["--clients", "x"]]
)
def test_what_makes_no_sense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert words[0] in capsys.readouterr().err


def test_the_frame_shows_every_figure() -> None:
    text = "\n".join(frame(SNAPSHOT))
    for shown in ("0:12 of 0:30", "10,288 /s", "123,456", "1.10 ms", "MOVED 83", "ASK 1,201", "TRYAGAIN 14"):
        assert shown in text
    assert "topology updates -" in text
    assert "redis-cli -p 7000" in text


def test_the_summary_tells_errors_and_wrong_values() -> None:
    assert summary(SNAPSHOT)[-1] == "client errors: 0, wrong values: 0"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_redrawn_in_place() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.show(SNAPSHOT)
    first = out.getvalue()
    screen.show(SNAPSHOT)
    second = out.getvalue()[len(first) :]
    assert second == f"\x1b[{first.count(chr(10))}A{first}"
    screen.say("done")
    screen.show(SNAPSHOT)
    assert out.getvalue().endswith(f"done\n{first}")


def test_a_reservoir_keeps_an_even_sample_in_bounds() -> None:
    sample = Reservoir(size=500)
    assert sample.quantile(0.5) is None
    for value in range(20_000):
        sample.add(float(value))
    median = sample.quantile(0.5)
    # Standard deviation of the median of 500 evenly spread values: 450; ten of them are not chance.
    assert median is not None and 5_500 < median < 14_500
    sample.clear()
    assert sample.quantile(0.5) is None


def test_a_tally_is_clean_until_something_is_wrong() -> None:
    tally = Tally()
    assert tally.expect("a", "GET k", b"1", b"1") and tally.clean
    assert not tally.expect("a", "GET k", b"1", None) and not tally.clean
    for _ in range(100):
        tally.error("b", "ERR")
    assert (tally.wrong, tally.errors) == (1, 100)
    assert len(tally.complaints) == 10
