"""One side's clients in the differential test: what was sent, and the frames that came back.

Invariants: sockets here block, because Hypothesis drives plain functions; a reply is never decoded before it is known
to differ.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from typing import Final

from slotproxy.demo.connection import pack
from slotproxy.protocol.replies import ReplyScanner
from tests.integration.differential_cases import Words

HOST: Final = "127.0.0.1"
PATIENCE: Final = 45.0
"""Seconds for one reply: more than the proxy's park timeout, so that its own error is seen."""
CLOSED: Final = b"<closed>"
NO_REPLY: Final = b"<no reply>"
_MARK: Final = b"~end of the replies~"
_MARK_REPLY: Final = b"$%d\r\n%b\r\n" % (len(_MARK), _MARK)


class Client:
    """One connection that speaks `protocol`."""

    def __init__(self, port: int, protocol: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=PATIENCE)
        self._scanner = ReplyScanner()
        if protocol != 2:
            self.send([(b"HELLO", b"%d" % protocol)])
            greeting = self.frame()
            assert greeting[:1] == b"%", greeting

    def send(self, requests: Sequence[Words]) -> None:
        """In one piece. That the other side has gone shows at the next `frame`."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._socket.settimeout(PATIENCE)
            self._socket.sendall(b"".join(pack(*words) for words in requests))

    def frame(self, patience: float = PATIENCE) -> bytes:
        """The next reply; CLOSED when the connection ended instead, NO_REPLY when none came within so many seconds."""
        scanner = self._scanner
        try:
            while not scanner.scan():
                self._socket.settimeout(patience)
                data = self._socket.recv(65_536)
                if not data:
                    return CLOSED
                scanner.feed(data)
        except ConnectionError:
            return CLOSED
        except (TimeoutError, BlockingIOError):
            return NO_REPLY
        return scanner.buffer[scanner.start : scanner.end]

    def close(self) -> None:
        self._socket.close()


class Peer:
    """A client on one side, reconnecting when it was hung up on."""

    def __init__(self, port: int, protocol: int = 2) -> None:
        self.port = port
        self.protocol = protocol
        self._client: Client | None = None

    def replies(self, requests: Sequence[Words], *, inside: bool = False) -> list[bytes]:
        """Every reply to these requests, pipelined; the last is CLOSED when the connection ended behind them.

        `inside`: they end between MULTI and EXEC, where a mark behind them would become part of the transaction. So
        one reply is awaited to each.
        """
        if self._client is None:
            self._client = Client(self.port, self.protocol)
        self._client.send(requests if inside else [*requests, (b"ECHO", _MARK)])
        found: list[bytes] = []
        while not inside or len(found) < len(requests):
            frame = self._client.frame()
            if frame == _MARK_REPLY:
                break
            found.append(frame)
            if frame in (CLOSED, NO_REPLY):
                self.close()
                return found if frame == CLOSED else [*found, CLOSED]
        return found

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def shown(words: Words) -> str:
    """A command, for reading."""
    return " ".join(word.decode() if re.fullmatch(rb"[!#-&(-~]+", word) else repr(word)[1:] for word in words)


def content(bulk: bytes) -> bytes:
    """What a bulk or verbatim string holds."""
    head, _, held = bulk.partition(b"\r\n")
    return held[:-2].removeprefix(b"txt:") if head[:1] == b"=" else held[:-2]
