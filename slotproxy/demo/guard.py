"""Leaves nothing behind: a folder and some processes that end with this process, however it ends.

A small child (this file, run as a script) holds the read end of a pipe. It is told which processes run.
When the pipe closes, because `Guard.close` was called or because we were killed with -9, it kills those that
are left and removes the folder. It sits in a session of its own, so Ctrl-C does not reach it.

Why not PR_SET_PDEATHSIG: it needs code between fork and exec, which is unsafe beside threads, and it
follows the thread that started the child, not the process.

Invariant: a process is released where it is reaped, so no number is watched that can belong to somebody else.
Must not import anything but the standard library: the script starts without site-packages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


class Guard:
    """Owns a temporary folder and watches processes. Synchronous: it works with and without an event loop."""

    def __init__(self, prefix: str = "slotproxy-demo-") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            # -I and -S: nothing of the environment, no site-packages; it starts in some 10 ms.
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._closed = False

    def watch(self, pid: int) -> None:
        """From now on `pid` is killed when we go."""
        self._tell(f"+{pid}\n")

    def has_ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has ended. If so it is released: asking reaped it."""
        if process.poll() is None:
            return False
        self._tell(f"-{process.pid}\n")
        return True

    def kill(self, process: subprocess.Popen[bytes]) -> int:
        """kill -9 if it still runs, reap, release. Its exit status."""
        process.kill()
        status = process.wait()
        self._tell(f"-{process.pid}\n")
        return status

    def close(self) -> None:
        """Kill what is still watched, remove the folder. Blocks for milliseconds; may be called twice."""
        if self._closed:
            return
        self._closed = True
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()
        # The watcher did this already, unless somebody killed it.
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, line: str) -> None:
        if self._closed:
            return
        assert self._watcher.stdin is not None
        try:
            # Unbuffered, so that a kill -9 of this process loses nothing.
            os.write(self._watcher.stdin.fileno(), line.encode())
        except BrokenPipeError as error:
            raise RuntimeError(f"the guard of {self.folder} is gone") from error


def _watch_until_end_of_input(folder: str) -> None:
    watched: set[int] = set()
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            watched.add(pid)
        else:
            watched.discard(pid)
    for pid in watched:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    # A server that is being killed can still write its nodes.conf: once more if the folder was not empty.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            break


if __name__ == "__main__":
    _watch_until_end_of_input(sys.argv[1])
