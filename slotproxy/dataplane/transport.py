"""A connected byte stream that never blocks: the seam between plain TCP, Unix sockets and TLS.

`receive` and `send` translate the operating system's exceptions once, so that nothing above this module knows errno.
A TLS transport says in `pending` that decrypted bytes wait where epoll cannot see them.
"""

import contextlib
import socket


class Transport:
    """A non-blocking plain stream socket. Owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket: socket.socket = sock
        self.fd: int = sock.fileno()

    def receive(self, size: int) -> bytes | None:
        """Up to `size` bytes; b"" when the other side has finished or broken the stream, None: nothing there yet."""
        try:
            return self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken, 0 when the buffers are full; -1: the stream is broken."""
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return -1

    def local_address(self) -> str:
        """`host:port` of this end, `path:0` of a Unix socket, as CLIENT LIST writes them; "" when it has none."""
        try:
            name = self._socket.getsockname()
        except OSError:
            return ""
        if not isinstance(name, tuple):
            return f"{name}:0"
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def end_output(self) -> None:
        """Tell the other side that nothing more is sent; what it has to say can still be received."""
        with contextlib.suppress(OSError):  # it is gone altogether, and receiving will tell
            self._socket.shutdown(socket.SHUT_WR)

    def pending(self) -> bool:
        """Whether received bytes wait inside the transport."""
        return False

    def close(self) -> None:
        """Close the socket; what is unsent is lost."""
        self._socket.close()
