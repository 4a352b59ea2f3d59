"""A real non-blocking socket that counts what its owner does with it, and fails where a test wants it to.

The data plane wraps it in its own Transport: the real epoll set and kernel buffers run, and compiled code takes it.
"""

from __future__ import annotations

import socket
from typing import Any


class WatchedSocket(socket.socket):
    """`room`: how many bytes `send` takes before the socket is full; `chunk`: the most that one `recv` gives.

    `cut`: how many bytes `send` takes before the connection breaks. None: no limit.
    """

    sends = 0  # calls that took bytes
    receives = 0
    sent = 0  # bytes
    moved = 0  # anything that happened
    room: int | None = None
    chunk: int | None = None
    cut: int | None = None

    def send(self, data: Any, flags: int = 0) -> int:
        size = len(data)
        if self.cut is not None:
            if self.cut <= 0:
                self.moved += 1
                raise BrokenPipeError
            size = min(size, self.cut)
        if self.room is not None:
            if self.room <= 0:
                raise BlockingIOError
            size = min(size, self.room)
        taken = super().send(data[:size], flags)
        self.sends += 1
        self.sent += taken
        self.moved += 1
        if self.cut is not None:
            self.cut -= taken
        if self.room is not None:
            self.room -= taken
        return taken

    def shutdown(self, how: int) -> None:
        self.moved += 1
        super().shutdown(how)

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size if self.chunk is None else min(size, self.chunk), flags)
        self.receives += 1
        self.moved += 1
        return data


def socket_pair() -> tuple[WatchedSocket, socket.socket]:
    """Two connected ends that never block; the first is watched."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watched = WatchedSocket(ours.family, ours.type, ours.proto, fileno=ours.detach())
    watched.setblocking(False)
    return watched, theirs
