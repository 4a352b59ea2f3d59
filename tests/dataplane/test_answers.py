"""What the proxy answers itself: as one plain server without cluster support would."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from tests.dataplane.conftest import MakeRig


def shown(reply: Any) -> Any:
    return f"-{reply}" if isinstance(reply, hiredis.ReplyError) else reply


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("PING", b"PONG"),
        ("PING hello", b"hello"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("ECHO x", b"x"),
        ("ECHO", "-ERR wrong number of arguments for 'echo' command"),
        ("SELECT 0", b"OK"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode"),
        ("CLUSTER SLOTS", "-ERR This instance has cluster support disabled"),
        ("CLUSTER", "-ERR wrong number of arguments for 'cluster' command"),
        ("ASKING", "-ERR This instance has cluster support disabled"),
        ("READONLY", "-ERR This instance has cluster support disabled"),
        ("CLIENT GETNAME", None),
        ("CLIENT SETNAME me", b"OK"),
        ("CLIENT SETINFO lib-name x", b"OK"),
        ("MGET {a} {b}x {f", [None, None, None]),
        ("RENAME {a} {b}", "-CROSSSLOT Keys in request don't hash to the same slot"),
        ("BLMOVE {a} {b}x LEFT LEFT 0", "-CROSSSLOT Keys in request don't hash to the same slot"),
        ("EXEC", "-ERR EXEC without MULTI"),
        ("DISCARD", "-ERR DISCARD without MULTI"),
        ("UNWATCH", b"OK"),
        ("HELLO 1", "-NOPROTO unsupported protocol version"),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("NOSUCH a", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' "),
    ],
)
def test_the_answer_to(make_rig: MakeRig, command: str, reply: Any) -> None:
    rig = make_rig()
    client = rig.client()
    client.send(*command.split())
    client.send("INCR", "{f}")
    rig.run()
    assert list(map(shown, client.replies)) == [reply, 1]


def test_hello_tells_of_a_standalone_primary(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("HELLO", "2", "SETNAME", "me")
    client.send("CLIENT", "GETNAME")
    client.send("CLIENT", "ID")
    rig.run()
    fields = dict(zip(client.replies[0][::2], client.replies[0][1::2], strict=True))
    assert fields[b"mode"] == b"standalone"
    assert fields[b"role"] == b"master"
    assert fields[b"proto"] == 2
    assert client.replies[1:] == [b"me", fields[b"id"]]
