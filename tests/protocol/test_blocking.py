"""Blocking commands taken apart: a Wait says, byte for byte, what one server would, when that would wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from slotproxy.demo.guard import Guard
from slotproxy.demo.servers import server_version
from slotproxy.protocol.blocking import Wait, last_id, read_wait
from slotproxy.protocol.commands import CommandTable
from slotproxy.protocol.decisions import Answer, MayWait, decide
from slotproxy.protocol.replies import elements_of
from slotproxy.protocol.requests import arguments_of
from slotproxy.protocol.resp import NULL, NULL_ARRAY, array, bulk, command
from slotproxy.protocol.slots import key_slot
from tests.protocol.live import LiveServer
from tests.servers import standalone_server

TABLE = CommandTable.snapshot()
LISTS = (b"la", b"lb{x}", b"lc")
SETS = (b"za", b"zb{x}", b"zc")
STREAMS = (b"sa", b"sb{x}", b"sc")


@pytest.fixture(scope="module")
def server(redis_server: str) -> Iterator[LiveServer]:
    if server_version(redis_server) < (7,):
        pytest.skip("BLMPOP and BZMPOP come with 7.0")
    guard = Guard("slotproxy-test-")
    try:
        with standalone_server(redis_server, guard) as port:
            yield LiveServer(port)
    finally:
        guard.close()


def words(line: str) -> list[bytes]:
    return [b"" if word == "''" else word.encode() for word in line.split()]


def wait_of(arguments: list[bytes]) -> Wait | None:
    """As the proxy reads it; None also when it never gets that far."""
    decision = decide(TABLE, arguments)
    return read_wait(decision.command.name, arguments, decision.keys) if isinstance(decision, MayWait) else None


def wait_for(line: str) -> Wait:
    wait = wait_of(words(line))
    assert wait is not None
    return wait


# What it waits for


@pytest.mark.parametrize(
    ("line", "keys", "timeout", "kind", "reads"),
    [
        ("BLPOP b a b 5", "b a", 5, "list", False),
        ("brpop a 0.25", "a", 0.25, "list", False),
        ("BLMOVE a b LEFT right 1e1", "a", 10, "list", False),
        ("BRPOPLPUSH a b 0", "a", 0, "list", False),
        ("BZPOPMIN a b 1", "a b", 1, "zset", False),
        ("BZPOPMAX a b .5", "a b", 0.5, "zset", False),
        ("BLMPOP 3 2 a b LEFT COUNT 2", "a b", 3, "list", False),
        ("BZMPOP 0 1 a max", "a", 0, "zset", False),
        ("XREAD BLOCK 1500 COUNT 1 STREAMS a b 0 $", "a b", 1.5, "stream", True),
        ("XREADGROUP GROUP g c NOACK BLOCK 0 STREAMS a >", "a", 0, "stream", True),
    ],
)
def test_what_is_read_from_it(line: str, keys: str, timeout: float, kind: str, reads: bool) -> None:
    wait = wait_for(line)
    assert (wait.keys, wait.timeout, wait.kind, wait.reads) == (words(keys), timeout, kind, reads)
    all_keys = {int(key_slot(key)) for key in words(keys)} | ({int(key_slot(b"b"))} if "MOVE" in line else set())
    assert wait.slots == sorted(all_keys if "BRPOPLPUSH" not in line else {int(key_slot(b"a")), int(key_slot(b"b"))})


# The time that is left

COMMANDS = [
    "BLPOP a b 5", "BRPOP a 0", "BLMOVE a b LEFT RIGHT 7", "BRPOPLPUSH a b 7", "BZPOPMIN a 7", "BZPOPMAX a 7",
    "BLMPOP 7 2 a b LEFT COUNT 3", "BZMPOP 7 1 a MIN", "XREAD COUNT 2 BLOCK 700 STREAMS a b 0 $",
    "XREADGROUP GROUP g c BLOCK 700 NOACK STREAMS a >",
]  # fmt: skip


def timeout_at(line: str) -> int:
    name = line.split()[0]
    if name in ("BLMPOP", "BZMPOP"):
        return 1
    return words(line).index(b"BLOCK") + 1 if name.startswith("XREAD") else len(line.split()) - 1


@pytest.mark.parametrize("line", COMMANDS)
@settings(max_examples=200)
@given(left=st.floats(min_value=0, max_value=1e10, exclude_min=True))
@example(left=5e-324)
@example(left=0.0004999)
@example(left=0.001)
@example(left=1e10)
def test_the_time_that_is_left_is_never_for_ever_and_never_longer(line: str, left: float) -> None:
    sent = arguments_of(wait_for(line).request(left))
    at = timeout_at(line)
    milliseconds = float(sent[at]) if line.startswith("XREAD") else float(sent[at]) * 1000
    assert milliseconds >= 2 - 1e-9  # 6.2 takes less for 0
    assert milliseconds <= max(left * 1000 * (1 + 1e-12), 2)
    assert milliseconds > left * 1000 * (1 - 1e-12) - 1
    assert len(sent[at]) <= 20
    del sent[at]
    expected = words(line)
    del expected[at]
    assert sent == expected


@pytest.mark.parametrize("line", COMMANDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=st.floats(min_value=0, max_value=1e9, exclude_min=True))
def test_the_server_takes_what_is_sent_again(server: LiveServer, line: str, left: float) -> None:
    wait = wait_for(line)
    group = command([b"XGROUP", b"CREATE", b"a", b"g", b"$", b"MKSTREAM"]) if "GROUP" in line else b""
    replies = server.answers(command([b"FLUSHALL"]) + group + wait.request(left))
    assert replies[1 + bool(group) :] in ([], [NULL_ARRAY])
    again = wait_of(arguments_of(wait.request(left)))
    assert again is not None
    assert again.keys == wait.keys


@pytest.mark.parametrize("line", COMMANDS)
def test_with_nothing_left_to_say_it_is_the_command_as_it_was(line: str) -> None:
    assert arguments_of(wait_for(line).request(0.0)) == words(line)


# What is found


class Case(NamedTuple):
    setup: list[list[bytes]]
    blocking: list[bytes]


elements = st.sampled_from([b"", b"1", b"two", b"\r\n$3", b"x" * 70])
scores = st.sampled_from([b"0", b"1", b"-1.5", b"3.0", b"inf", b"1e100", b"0.1"])
count = st.sampled_from([b"1", b"2", b"10"])
timeouts = st.sampled_from([b"0", b"1", b"0.5", b"1e1"])


def cased(word: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([word, word.lower(), word.title()])


@st.composite
def filled(draw: st.DrawFn, names: tuple[bytes, ...], kind: str) -> list[list[bytes]]:
    """Commands that put something into some of the keys, at least into one."""
    commands = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, unique=True)):
        if kind == "list":
            commands.append([b"RPUSH", name, *draw(st.lists(elements, min_size=1, max_size=4))])
        elif kind == "zset":
            members = draw(st.lists(elements, min_size=1, max_size=4, unique=True))
            commands.append([b"ZADD", name, *(word for member in members for word in (draw(scores), member))])
        else:
            for number in range(1, draw(st.integers(1, 3)) + 1):
                commands.append([b"XADD", name, b"%d-1" % number, b"field", draw(elements)])
    return commands


@st.composite
def pops(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(["BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BZPOPMIN", "BZPOPMAX", "BLMPOP", "BZMPOP"]))
    kind = "zset" if name.startswith("BZ") else "list"
    names = SETS if kind == "zset" else LISTS
    setup = draw(filled(names, kind))
    keys = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    word = draw(cased(name.encode()))
    timeout = draw(timeouts)
    sides = [draw(cased(side)) for side in draw(st.lists(st.sampled_from([b"LEFT", b"RIGHT"]), min_size=2, max_size=2))]
    if name in ("BLMOVE", "BRPOPLPUSH"):
        target = draw(st.sampled_from(names))
        return Case(setup, [word, keys[0], target, *(sides if name == "BLMOVE" else []), timeout])
    if name in ("BLMPOP", "BZMPOP"):
        side = sides[0] if kind == "list" else draw(cased(draw(st.sampled_from([b"MIN", b"MAX"]))))
        options = [draw(cased(b"COUNT")), draw(count)] if draw(st.booleans()) else []
        return Case(setup, [word, timeout, b"%d" % len(keys), *keys, side, *options])
    return Case(setup, [word, *keys, timeout])


@st.composite
def reads(draw: st.DrawFn) -> Case:
    group = draw(st.booleans())
    setup = draw(filled(STREAMS, "stream"))
    keys = draw(st.lists(st.sampled_from(STREAMS), min_size=1, unique=True))
    ids = st.sampled_from([b">", b"0", b"1-1"] if group else [b"0", b"1", b"1-1", b"0-0", b"2", b"$"])
    options: list[list[bytes]] = [[draw(cased(b"BLOCK")), draw(st.sampled_from([b"0", b"1000"]))]]
    if draw(st.booleans()):
        options.append([draw(cased(b"COUNT")), draw(st.sampled_from([b"1", b"2", b"0"]))])
    if group:
        setup += [[b"XGROUP", b"CREATE", key, b"g", b"0", b"MKSTREAM"] for key in STREAMS]
        setup += [[b"XREADGROUP", b"GROUP", b"g", b"me", b"COUNT", b"1", b"STREAMS", key, b">"] for key in STREAMS[:1]]
        options.append([draw(cased(b"GROUP")), b"g", b"me"])
        if draw(st.booleans()):
            options.append([draw(cased(b"NOACK"))])
    options = draw(st.permutations(options))
    words = [word for option in options for word in option]
    return Case(
        setup, [b"XREADGROUP" if group else b"XREAD", *words, b"STREAMS", *keys, *[draw(ids) for _ in keys]]
    )


def state() -> bytes:
    """Commands that show all that the keys hold."""
    commands: list[list[bytes]] = [[b"LRANGE", key, b"0", b"-1"] for key in LISTS]
    commands += [[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"] for key in SETS]
    for key in STREAMS:
        commands += [[b"XRANGE", key, b"-", b"+"], [b"XPENDING", key, b"g"], [b"XINFO", b"GROUPS", key]]
    return b"".join(map(command, commands))


def prepare(case: Case) -> bytes:
    return command([b"FLUSHALL"]) + b"".join(map(command, case.setup))


def answer_of(server: LiveServer, case: Case) -> tuple[bytes | None, list[bytes]]:
    """The server's answer to the blocking command, None when it waits, and the state after it."""
    replies = server.answers(prepare(case) + command(case.blocking))[1 + len(case.setup) :]
    return (replies[0] if replies else None), server.answers(state())


def found_by(server: LiveServer, case: Case) -> tuple[bytes | None, list[bytes]]:
    """The same, by attempts at one key after the other, as a client that waits in the proxy goes about it."""
    wait = wait_of(case.blocking)
    assert wait is not None, case.blocking
    server.answers(prepare(case))
    for key in wait.from_now_on():
        (reply,) = server.answers(command([b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1"]))
        id = last_id(reply)
        assert id is not None
        wait.read_from(key, id)
    assert wait.from_now_on() == []
    read: list[bytes] = []
    for key in wait.keys:
        (reply,) = server.answers(wait.attempt(key))
        found = wait.found(key, reply)
        if found is not None and not wait.reads:
            return found, server.answers(state())
        read += (elements_of(found) or []) if found is not None else []
    return (array(read) if read else None), server.answers(state())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(case=pops())
def test_a_pop_finds_what_the_server_would_have_answered(server: LiveServer, case: Case) -> None:
    assert found_by(server, case) == answer_of(server, case)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(case=reads())
def test_a_read_finds_what_the_server_would_have_answered(server: LiveServer, case: Case) -> None:
    assert found_by(server, case) == answer_of(server, case)


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.parametrize("nothing", [NULL, NULL_ARRAY])
def test_nothing_is_found_in_a_null(line: str, nothing: bytes) -> None:
    assert wait_for(line).found(b"a", nothing) is None


def test_no_member_is_nothing_and_what_is_no_array_is_passed_on() -> None:
    wait = wait_for("BZPOPMIN a 0")
    assert wait.found(b"a", b"*0\r\n") is None
    assert wait.found(b"a", b"+QUEUED\r\n") == b"+QUEUED\r\n"
    assert wait.found(b"a", array([bulk(b"x"), bulk(b"1")])) == array([bulk(b"a"), bulk(b"x"), bulk(b"1")])


@pytest.mark.parametrize(
    ("reply", "id"),
    [
        (b"*0\r\n", b"0-0"),
        (array([array([bulk(b"5-1"), array([bulk(b"a"), bulk(b"b")])])]), b"5-1"),
        (b"-WRONGTYPE\r\n", None),
        (b"*-1\r\n", None),
        (b"+OK\r\n", None),
    ],
)
def test_the_last_id_of_a_stream(reply: bytes, id: bytes | None) -> None:
    assert last_id(reply) == id


# What is no such command

NUMBERS = [
    b"0", b"1", b"-1", b"1.5", b".5", b"5.", b"+1", b"-0", b"-0.0", b"00", b"1e1", b"1E-3", b"1e400", b"1e-400",
    b"inf", b"nan", b" 1", b"1 ", b"", b"x", b"1x", b"1_0", b"9" * 18, b"9" * 19, b"9" * 25, b"0." + b"0" * 30, b"1e9",
    b"0x10", b"1e16", b"9223372036854775", b"9223372036854776",
    b"9223372036854775807", b"9223372036854775808", b"\xd9\xa1",
]  # fmt: skip
WORDS = [
    b"a", b"b", b"c", b"LEFT", b"right", b"MIN", b"max", b"COUNT", b"count", b"BLOCK", b"STREAMS", b"streams", b"GROUP",
    b"g", b"NOACK", b"$", b">", b"0-0", b"0-1", b"1-", b"-1", b"1-x", b"+", b"-", b"2", b"3",
    b"18446744073709551615", b"18446744073709551616", b"1-18446744073709551615",
]  # fmt: skip


@st.composite
def perhaps_wrong(draw: st.DrawFn) -> list[bytes]:
    """A blocking command, or nearly one."""
    arguments = words(draw(st.sampled_from([*COMMANDS, "XREAD BLOCK 5 STREAMS a b c 0 0 0"])))
    if draw(st.booleans()):
        arguments[timeout_at(b" ".join(arguments).decode())] = draw(st.sampled_from(NUMBERS))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(1, len(arguments) - 1)) if len(arguments) > 1 else 1
        word = draw(st.one_of(st.sampled_from(WORDS), st.sampled_from(NUMBERS)))
        how = draw(st.sampled_from(["insert", "replace", "delete"]))
        arguments[at : at if how == "insert" else at + 1] = [] if how == "delete" else [word]
    return arguments


def is_for_the_server_alone(arguments: list[bytes], keys: list[bytes]) -> bool:
    """What it takes and nobody here reads: numbers of the C library's, a stream or BLOCK named twice."""
    exotic = any(word.startswith((b"0x", b"inf", b"INF", b"+", b" ")) or len(word) > 15 for word in arguments)
    twice = [word.upper() for word in arguments].count(b"BLOCK") > 1
    return exotic or twice or (arguments[0].startswith(b"XREAD") and len(set(keys)) < len(keys))


@pytest.mark.parametrize("number", ["2x", "+2", "02", "2e0", " 2"])
@pytest.mark.parametrize("line", ["BLMPOP 0 {} a b LEFT", "BZMPOP 0 {} a b MIN", "BLMPOP 0 2 a b LEFT COUNT {}"])
def test_a_number_that_only_atoi_reads_is_the_servers_to_refuse(line: str, number: str) -> None:
    assert wait_of([word.replace(b"{}", number.encode()) for word in words(line)]) is None


@settings(max_examples=700, suppress_health_check=list(HealthCheck), deadline=None)
@given(arguments=perhaps_wrong())
@example(arguments=words("XREAD BLOCK 5 COUNT BLOCK STREAMS a 0"))
@example(arguments=words("XREADGROUP GROUP STREAMS BLOCK BLOCK 5 STREAMS a >"))
@example(arguments=words("XREADGROUP BLOCK 5 COUNT 1 STREAMS a b > >"))
def test_it_is_read_exactly_when_the_server_finds_no_fault_with_it(server: LiveServer, arguments: list[bytes]) -> None:
    groups = b"".join(
        command([b"XGROUP", b"CREATE", key, group, b"$", b"MKSTREAM"])
        for key in (b"a", b"b", b"c")
        for group in (b"g", b"c", b"STREAMS", b"BLOCK", b"GROUP", b"COUNT")
    )
    grouped = arguments[0] == b"XREADGROUP"
    before = 19 if grouped else 1
    replies = server.answers(command([b"FLUSHALL"]) + (groups if grouped else b"") + command(arguments))[before:]
    decision = decide(TABLE, arguments)
    if not replies:
        assert isinstance(decision, MayWait), "it blocks a connection that others share"
    if not isinstance(decision, MayWait):
        if isinstance(decision, Answer):
            assert replies == [decision.frame]
        return
    wait = read_wait(decision.command.name, arguments, decision.keys)
    if replies and replies[0].startswith(b"-NOGROUP"):
        return  # what the keys hold is found fault with before the rest is read
    if replies and replies[0].startswith(b"-"):
        assert wait is None, replies
    elif not is_for_the_server_alone(arguments, decision.keys):
        assert wait is not None
