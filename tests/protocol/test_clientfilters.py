"""CLIENT's arguments read as values; tests/dataplane/test_clientlist.py holds the errors against a real server."""

from __future__ import annotations

import pytest

from slotproxy.protocol.clientfilters import (
    ClientRequest,
    KillClients,
    PauseClients,
    SetName,
    SetNoEvict,
    SetReplyMode,
    UnblockClient,
    parse_client,
)


def test_texts_of_later_servers() -> None:
    """7.4.1 (source): what 7.0.15 calls a syntax error; and SETINFO as 7.2 has it."""
    table: list[tuple[tuple[str, ...], bytes]] = [
        (("KILL", "MAXAGE", "x"), b"-ERR maxage is not an integer or out of range\r\n"),
        (("KILL", "MAXAGE", "0"), b"-ERR maxage should be greater than 0\r\n"),
        (("KILL", "MAXAGE", "-1"), b"-ERR maxage should be greater than 0\r\n"),
        (("KILL", "ID", "1", "MAXAGE"), b"-ERR syntax error\r\n"),
        (("SETINFO", "lib-name", "x"), b"+OK\r\n"),
        (("SETINFO", "LIB-VER", "1"), b"+OK\r\n"),
        (("SETINFO", "x", "y"), b"-ERR Unrecognized option 'x'\r\n"),
        (("SETINFO", "x"), b"-ERR wrong number of arguments for 'client|setinfo' command\r\n"),
    ]
    for words, frame in table:
        assert parse_client([b"CLIENT", *(word.encode() for word in words)]) == frame, words


@pytest.mark.parametrize("word", ["HELP", "nosuch", b"list\0x"])
def test_what_is_not_treated_here(word: str | bytes) -> None:
    assert parse_client([b"CLIENT", word if isinstance(word, bytes) else word.encode(), b"x"]) is None


def test_the_values_of_requests() -> None:
    def parsed(*words: str) -> ClientRequest | bytes | None:
        return parse_client([b"client", *(word.encode() for word in words)])

    pauses = [parsed("pause", "15"), parsed("PAUSE", "0", "all"), parsed("PAUSE", "9223372036854775807", "Write")]
    assert [(pause.milliseconds, pause.writes_only) for pause in pauses if isinstance(pause, PauseClients)] == [
        (15, False),
        (0, False),
        (9223372036854775807, True),
    ]
    unblocks = [parsed("UNBLOCK", "7"), parsed("UNBLOCK", "-8", "timeout"), parsed("UNBLOCK", "9", "ERROR")]
    assert [(unblock.id, unblock.with_error) for unblock in unblocks if isinstance(unblock, UnblockClient)] == [
        (7, False),
        (-8, False),
        (9, True),
    ]
    modes = [parsed("REPLY", "On"), parsed("REPLY", "OFF"), parsed("REPLY", "skip")]
    assert [mode.mode for mode in modes if isinstance(mode, SetReplyMode)] == ["on", "off", "skip"]
    protections = [parsed("NO-EVICT", "ON"), parsed("no-evict", "off")]
    assert [protection.on for protection in protections if isinstance(protection, SetNoEvict)] == [True, False]
    names = [parsed("SETNAME", "x"), parsed("SETNAME", "")]
    assert [name.name for name in names if isinstance(name, SetName)] == [b"x", b""]
    kill = parsed("KILL", "id", "4", "ID", "5", "type", "Replica", "maxage", "60", "SKIPME", "No", "LADDR", "a:1")
    assert isinstance(kill, KillClients)
    assert (kill.id, kill.kind, kill.max_age, kill.skip_me) == (5, "slave", 60, False)
    assert (kill.addr, kill.laddr, kill.user, kill.address_only) == (None, b"a:1", None, False)
