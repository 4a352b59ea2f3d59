"""Runs one command and leaves no process of it behind: `reap.py COMMAND [ARGUMENT ...]`.

Orphans of the command become children of this process (Linux: PR_SET_CHILD_SUBREAPER), also those that made a
session of their own. Whatever still lives when the command has ended is killed and named, and is a failure:
exit status 70 if the command itself succeeded. A signal to this process ends everything below it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

PR_SET_CHILD_SUBREAPER = 36
LEFT_BEHIND = 70
GRACE = 2.0  # seconds for what is already on its way out (a server told to stop by its dying parent)


def children(pid: int) -> list[int]:
    try:
        lists = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # ended meanwhile
        return []
    return [int(child) for text in lists for child in text.split()]


def collect_zombies() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def kill_descendants() -> list[str]:
    """Kills until nothing is left below this process; the command lines of what was killed."""
    killed: dict[int, str] = {}
    while True:
        collect_zombies()
        alive = children(os.getpid())
        if not alive:
            return [f"{pid}: {line}" for pid, line in killed.items()]
        for pid in alive:  # its own children come to us next
            killed.setdefault(pid, command_line(pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def stop(signum: int, _: FrameType | None) -> NoReturn:
    kill_descendants()
    os._exit(128 + signum)


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    status = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL).returncode
    deadline = time.monotonic() + GRACE
    while children(os.getpid()) and time.monotonic() < deadline:
        collect_zombies()
        time.sleep(0.01)
    left = kill_descendants()
    if left:
        print("left behind by", " ".join(sys.argv[1:]), *left, sep="\n  ", file=sys.stderr)
    if status < 0:
        return 128 - status
    return status or (LEFT_BEHIND if left else 0)


if __name__ == "__main__":
    sys.exit(main())
