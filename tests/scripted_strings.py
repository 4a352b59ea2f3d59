"""Commands of a scripted node on strings and on all of its keys: which keys, and what they do to the data.

Sources: t_string.c, db.c and eval.c of Redis 7.0. Lists and streams: `tests/scripted_lists.py`.
"""

from __future__ import annotations

import zlib
from typing import Final

from tests.scripted_frames import OK, array, bulk, error
from tests.scripted_lists import COMMANDS as OTHERS
from tests.scripted_lists import READS as OTHER_READS
from tests.scripted_lists import Body, Data, Keys

_BUCKETS: Final = 64  # of SCAN's table


def _one(words: list[bytes]) -> list[bytes]:
    return words[1:2]


def _all(words: list[bytes]) -> list[bytes]:
    return words[1:]


def _pairs(words: list[bytes]) -> list[bytes]:
    return words[1::2]


def _counted(words: list[bytes]) -> list[bytes]:
    return words[3 : 3 + int(words[2])]


def _none(words: list[bytes]) -> list[bytes]:
    return []


def _get(data: Data, words: list[bytes]) -> bytes:
    return bulk(data.get(words[1]))


def _set(data: Data, words: list[bytes]) -> bytes:
    data[words[1]] = words[2]
    return OK


def _incr(data: Data, words: list[bytes]) -> bytes:
    try:
        value = int(data.get(words[1], b"0")) + 1
    except ValueError:
        return error("ERR value is not an integer or out of range")
    data[words[1]] = b"%d" % value
    return b":%d\r\n" % value


def _append(data: Data, words: list[bytes]) -> bytes:
    data[words[1]] = data.get(words[1], b"") + words[2]
    return b":%d\r\n" % len(data[words[1]])


def _mget(data: Data, words: list[bytes]) -> bytes:
    return array([bulk(data.get(key)) for key in words[1:]])


def _mset(data: Data, words: list[bytes]) -> bytes:
    data.update(zip(words[1::2], words[2::2], strict=True))
    return OK


def _del(data: Data, words: list[bytes]) -> bytes:
    return b":%d\r\n" % sum(data.pop(key, None) is not None for key in words[1:])


def _exists(data: Data, words: list[bytes]) -> bytes:
    return b":%d\r\n" % sum(key in data for key in words[1:])


def _rename(data: Data, words: list[bytes]) -> bytes:
    if words[1] not in data:
        return error("ERR no such key")
    data[words[2]] = data.pop(words[1])
    return OK


def _eval(data: Data, words: list[bytes]) -> bytes:
    """One script is understood, with any comment behind it: `SCRIPT`."""
    assert words[1].decode().startswith(SCRIPT)
    return _call(data, words)


def _call(data: Data, words: list[bytes]) -> bytes:
    reply = b"$-1\r\n"
    for key in _counted(words):
        reply = _incr(data, [b"INCR", key])
    arguments = words[3 + int(words[2]) :]
    return error(arguments[0].decode()) if arguments else reply


def _script(data: Data, words: list[bytes]) -> bytes:
    """SCRIPT FLUSH; the node itself has done it."""
    assert words[1].upper() == b"FLUSH"
    return OK


def _command(data: Data, words: list[bytes]) -> bytes:
    return b":2\r\n"


def _ping(data: Data, words: list[bytes]) -> bytes:
    return bulk(words[1]) if len(words) > 1 else b"+PONG\r\n"


def _dbsize(data: Data, words: list[bytes]) -> bytes:
    return b":%d\r\n" % len(data)


def _keys(data: Data, words: list[bytes]) -> bytes:
    """Every key; only the pattern * is known."""
    assert words[1] == b"*", words
    return array([bulk(key) for key in sorted(data)])


def _flushall(data: Data, words: list[bytes]) -> bytes:
    data.clear()
    return OK


def _scan(data: Data, words: list[bytes]) -> bytes:
    """The cursor counts buckets of a table that never grows, COUNT (10) of them at a time; no other option."""
    first = int(words[1])
    after = first + (int(words[3]) if len(words) > 2 else 10)
    found = [key for key in sorted(data) if first <= zlib.crc32(key) % _BUCKETS < after]
    return array([bulk(b"%d" % (after if after < _BUCKETS else 0)), array([bulk(key) for key in found])])


def _config(data: Data, words: list[bytes]) -> bytes:
    """CONFIG SET, which is remembered nowhere."""
    assert words[1].upper() == b"SET", words
    return OK


SCRIPT: Final = (
    "local n = false for _, key in ipairs(KEYS) do n = redis.call('incr', key) end"
    " if ARGV[1] then return redis.error_reply(ARGV[1]) end return n"
)
"""Counts its keys up, then answers with its first argument as an error if there is one."""

COMMANDS: Final[dict[bytes, tuple[Keys, Body]]] = {
    b"GET": (_one, _get),
    b"SET": (_one, _set),
    b"INCR": (_one, _incr),
    b"APPEND": (_one, _append),
    b"MGET": (_all, _mget),
    b"MSET": (_pairs, _mset),
    b"DEL": (_all, _del),
    b"UNLINK": (_all, _del),
    b"EXISTS": (_all, _exists),
    b"TOUCH": (_all, _exists),
    b"RENAME": (_all, _rename),
    b"EVAL": (_counted, _eval),
    b"EVALSHA": (_counted, _call),
    b"FCALL": (_counted, _call),
    b"SCRIPT": (_none, _script),
    b"COMMAND": (_none, _command),
    b"PING": (_none, _ping),
    b"DBSIZE": (_none, _dbsize),
    b"KEYS": (_none, _keys),
    b"FLUSHALL": (_none, _flushall),
    b"SCAN": (_none, _scan),
    b"CONFIG": (_none, _config),
    b"MODULE.APPEND": (_one, _append),
    b"WATCH": (_all, _ping),  # the node itself has done it
    b"UNWATCH": (_none, _ping),
    **OTHERS,
}
READS: Final = frozenset([b"GET", b"MGET", b"EXISTS", b"TOUCH", *OTHER_READS])
OF_STRINGS: Final = frozenset([b"GET", b"INCR", b"APPEND"])
SCRIPTS: Final = frozenset([b"EVAL", b"EVALSHA", b"FCALL"])  # may fail after they have written


def run_on(data: dict[bytes, bytes], words: list[bytes]) -> bytes:
    """What a lone server holding `data` answers."""
    return COMMANDS[words[0].upper()][1](data, words)
