"""Nothing outlives its guard, whichever way that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from slotproxy.demo.guard import Guard
from slotproxy.demo.polling import until
from tests.demo.test_cluster import exists

OWNER = """
import os, select, signal, subprocess, sys
from slotproxy.demo.guard import Guard

noticed, wakeup = os.pipe()
os.set_blocking(wakeup, False)
signal.set_wakeup_fd(wakeup)  # waiting for input alone would miss a signal that comes just before
guard = Guard("slotproxy-test-")
(guard.folder / "file").write_text("x")
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
guard.watch(child.pid)
print(child.pid, guard.folder, flush=True)
select.select([noticed, sys.stdin], [], [])
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        yield process
        process.kill()


def test_close_kills_what_is_watched_and_removes_the_folder(sleeper: subprocess.Popen[bytes]) -> None:
    guard = Guard("slotproxy-test-")
    (guard.folder / "below").mkdir()
    (guard.folder / "below" / "file").write_text("x")
    guard.watch(sleeper.pid)
    guard.close()
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    assert not guard.folder.exists()
    guard.close()


def test_close_leaves_alone_what_was_released(sleeper: subprocess.Popen[bytes]) -> None:
    guard = Guard("slotproxy-test-")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    guard.watch(ended.pid)
    guard.kill(ended)
    assert guard.has_ended(ended)
    guard.close()
    assert sleeper.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_ends_when_the_owner_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert exists(int(pid)) and os.path.exists(folder)
        owner.send_signal(number)
        owner.wait(timeout=10)
    # Nobody tells us when an orphan is gone.
    trio.run(partial(until, lambda: not os.path.exists(folder) and not runs(int(pid)), within=10))


def runs(pid: int) -> bool:
    """False for a zombie too: whether anybody reaps orphans is not ours to say."""
    answer = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return bool(answer.stdout.strip()) and not answer.stdout.startswith("Z")
