"""Write the COMMAND reply of a running server as JSON: how slotproxy/protocol/snapshot.json is made.

    python tests/tools/command_snapshot.py HOST PORT > slotproxy/protocol/snapshot.json

The server is a plain one of the release that the snapshot stands for (7.0.15), without modules. One command
to a line, sorted, so that two snapshots can be compared.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import hiredis


def call(host: str, port: int, name: str) -> Any:
    """The reply of a command without arguments, as hiredis decodes RESP2."""
    reader = hiredis.Reader()
    with socket.create_connection((host, port), timeout=5) as sock:
        sock.sendall(hiredis.pack_command((name,)))
        while True:
            reply = reader.gets()
            if reply is not False:
                return reply
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the server closed the connection")
            reader.feed(data)


def plain(value: Any) -> Any:
    """The reply with its bytes as text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


def render(reply: list[Any]) -> str:
    """The reply of COMMAND as JSON, one command to a line, commands and subcommands sorted by name."""
    entries = sorted(plain(reply), key=lambda entry: str(entry[0]))
    for entry in entries:
        entry[9].sort(key=lambda sub: str(sub[0]))
    return "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries) + "\n]\n"


if __name__ == "__main__":
    sys.stdout.write(render(call(sys.argv[1], int(sys.argv[2]), "COMMAND")))
