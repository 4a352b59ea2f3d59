"""The keys found here are those of real servers, for every command each of them has.

Two witnesses: COMMAND GETKEYS, and the node's own routing. For the second a cluster node serves the slot of
`{t}` and no other; inside MULTI it only routes and queues. A command whose words are all of `{t}` passes, and
one word moved to `{u}` is refused exactly if that word is a key.
"""

from __future__ import annotations

import binascii
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotproxy.protocol.commands import Command, CommandTable, KeysError

Args = list[bytes]

QUICK = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# -- servers


class KeyServer:
    """A cluster node of its own process that serves the slot of `{t}` only, and one connection to it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = hiredis.Reader()
        info = self.ask([b"INFO", b"server"])
        self.version = next(
            line[14:] for line in info.decode().splitlines() if line.startswith("redis_version:")
        )
        self.before_7 = int(self.version.split(".")[0]) < 7
        self.table = CommandTable.from_reply(self.ask([b"COMMAND"]), self.version)
        assert self.ask([b"CLUSTER", b"ADDSLOTS", str(binascii.crc_hqx(b"t", 0) % 16384)]) == b"OK"

    def ask(self, args: list[Any]) -> Any:
        return self.ask_all([args])[0]

    def ask_all(self, commands: list[Any]) -> list[Any]:
        """The replies (errors as ReplyError values) to pipelined commands, sent in batches."""
        replies: list[Any] = []
        for start in range(0, len(commands), 256):
            batch = commands[start : start + 256]
            self._sock.sendall(b"".join(hiredis.pack_command(tuple(args)) for args in batch))
            for _ in batch:
                while (reply := self._reader.gets()) is False:
                    data = self._sock.recv(1 << 16)
                    assert data, "the server closed the connection"
                    self._reader.feed(data)
                replies.append(reply)
        return replies

    def getkeys(self, commands: list[Args]) -> list[Args | None]:
        """What COMMAND GETKEYS says of each; None for an error."""
        replies = self.ask_all([[b"COMMAND", b"GETKEYS", *args] for args in commands])
        return [None if isinstance(reply, Exception) else reply for reply in replies]

    def refuses(self, commands: list[Args]) -> list[bool]:
        """Whether the node's routing refuses each, because one of its keys is not of `{t}`."""
        replies = self.ask_all([[b"MULTI"], *commands, [b"DISCARD"]])
        assert (replies[0], replies[-1]) == (b"OK", b"OK")
        return [str(r).startswith(("CROSSSLOT ", "CLUSTERDOWN Hash slot not served")) for r in replies[1:-1]]


def free_port() -> int:
    """A port that is free together with the cluster bus's, 10,000 above."""
    for port in range(30000 + os.getpid() % 5000, 55535):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port
    raise OSError("no free port")


def connect(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    """A connection to a server that is starting."""
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            assert process.poll() is None, "the server ended at its start"
            time.sleep(0.01)
    raise TimeoutError("the server does not listen")


@pytest.fixture(scope="module")
def key_server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyServer]:
    port = free_port()
    options = f"--port {port} --bind 127.0.0.1 --cluster-enabled yes --appendonly no --daemonize no"
    home = tmp_path_factory.mktemp("key-server")
    command = [redis_server, *options.split(), "--save", "", "--dir", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with connect(port, process) as sock:
            yield KeyServer(sock)
    finally:
        process.kill()
        process.wait()


# -- arguments

NAMES = [b"{t}a", b"{t}b", b"{t}c"]
COUNTS = [b"0", b"1", b"2", b"3", b"12", b"-1", b"x", b"1x", b"+1", b" 2", b"", b"99999999999999999999"]
KEYWORDS = [
    *(
        b"STORE",
        b"store",
        b"StoreDist",
        b"store\x00d",
        b"KEYS",
        b"keys",
        b"STREAMS",
        b"Streams",
        b"COUNT",
        b"block",
    ),
    *(b"GROUP", b"NOACK", b"by", b"GET", b"limit", b"AUTH", b"auth2", b"COPY", b"strings", b"USAGE"),
]
name = st.sampled_from(NAMES)
count = st.sampled_from(COUNTS)
words = st.lists(st.sampled_from(NAMES * 4 + COUNTS + KEYWORDS), max_size=10)


def spelled(*choices: bytes) -> st.SearchStrategy[bytes]:
    """A keyword in some letter case."""
    return st.sampled_from([form for word in choices for form in (word, word.lower(), word.title())])


def group(*parts: bytes | st.SearchStrategy[bytes]) -> st.SearchStrategy[Args]:
    return st.tuples(*[st.just(part) if isinstance(part, bytes) else part for part in parts]).map(list)


def joined(*parts: st.SearchStrategy[Args]) -> st.SearchStrategy[Args]:
    return st.tuples(*parts).map(lambda lists: [word for part in lists for word in part])


def some(*groups: st.SearchStrategy[Args]) -> st.SearchStrategy[Args]:
    """Options in any order and number."""
    return st.lists(st.one_of(*groups), max_size=5).map(
        lambda lists: [word for part in lists for word in part]
    )


names = st.lists(name, min_size=1, max_size=4)
store = group(spelled(b"STORE", b"STOREDIST"), name)
sort = joined(
    group(spelled(b"SORT", b"SORT_RO"), name),
    some(
        store,
        group(spelled(b"BY", b"GET"), name),
        group(spelled(b"LIMIT"), b"0", b"1"),
        group(b"ALPHA"),
        words,
    ),
)
migrate = joined(
    group(spelled(b"MIGRATE"), b"h", b"1", st.sampled_from([b"", b"", b"{t}a"]), b"0", b"9"),
    some(group(b"COPY"), group(spelled(b"AUTH"), name), group(spelled(b"AUTH2"), name, spelled(b"KEYS"))),
    st.one_of(st.just([]), joined(group(spelled(b"KEYS")), names)),
)
georadius = joined(
    st.one_of(
        group(spelled(b"GEORADIUS"), name, b"1", b"2", b"3", b"m"),
        group(spelled(b"GEORADIUSBYMEMBER"), name, b"x", b"3", b"m"),
    ),
    some(store, group(b"ASC"), group(spelled(b"COUNT"), b"1"), words),
)
streams = joined(group(spelled(b"STREAMS")), names.map(lambda keys: keys + [b"0"] * len(keys)))
reading = some(group(spelled(b"COUNT"), b"1"), group(spelled(b"BLOCK"), b"1"), group(spelled(b"NOACK")))
xread = joined(
    st.one_of(
        group(spelled(b"XREAD")),
        joined(
            group(spelled(b"XREADGROUP")), reading, group(spelled(b"GROUP"), st.sampled_from(KEYWORDS), name)
        ),
    ),
    reading,
    streams,
)
counted = joined(
    st.one_of(
        group(spelled(b"EVAL", b"EVALSHA", b"EVAL_RO", b"FCALL", b"BLMPOP", b"BZMPOP", b"ZUNIONSTORE"), name),
        group(spelled(b"ZUNION", b"ZINTER", b"ZDIFF", b"SINTERCARD", b"LMPOP", b"ZMPOP", b"ZINTERCARD")),
    ),
    group(count),
    names,
    words,
)
contained = joined(
    st.one_of(
        group(spelled(b"OBJECT"), spelled(b"ENCODING", b"FREQ", b"HELP", b"FOO")),
        group(spelled(b"MEMORY"), spelled(b"USAGE", b"STATS", b"DOCTOR")),
        group(spelled(b"XGROUP"), spelled(b"CREATE", b"DESTROY", b"HELP")),
        group(spelled(b"XINFO"), spelled(b"STREAM", b"GROUPS")),
        group(spelled(b"STRALGO"), b"LCS", spelled(b"KEYS", b"STRINGS")),
    ),
    words,
)
sentences = st.one_of(sort, migrate, georadius, xread, counted, contained)


def fitted(args: Args, arity: int) -> Args:
    """`args` with words added or left out until their number is what the arity asks for."""
    wanted = abs(arity)
    if arity > 0:
        args = args[:wanted]
    return args + [NAMES[at % 3] for at in range(wanted - len(args))]


def of_every_command(table: CommandTable, sentence: Args) -> list[Args]:
    """The sentence as arguments of each command and subcommand, as it is and with the right arity."""
    found = []
    for command in table.commands():
        args = [*command.name.upper().encode().split(b"|"), *sentence]
        found += [args, fitted(args, command.arity)]
    return found


# -- witnesses


def our_keys(table: CommandTable, args: Args) -> tuple[Command | None, Args]:
    command = table.resolve(args)
    try:
        return command, [] if command is None else command.keys(args)
    except KeysError:
        return command, []


def getkeys_is_off(args: Args, ours: Args) -> bool:
    """Where COMMAND GETKEYS of 7.0 is not what the node routes by (the tests below prove each of them)."""
    command = args[0].upper()
    upper = [arg.split(b"\0")[0].upper() for arg in args]
    if command in (b"GEORADIUS", b"GEORADIUSBYMEMBER"):
        # 7.0 takes the first of each, the node the last of both; GEORADIUS searches from 6, the node from 5.
        stores = [[b"STORE"], [b"STOREDIST"]]
        return sum([word] in stores for word in upper[5:]) > 1 or upper[5:6] in stores
    if command in (b"XREAD", b"XREADGROUP"):
        # 7.0 looks for the first STREAMS, in XREADGROUP from argument 4 on, and does not mind odd numbers.
        return not ours or upper.count(b"STREAMS") > 1 or (len(command) > 5 and b"STREAMS" in upper[:4])
    if command == b"MIGRATE":
        return upper[-1] == b"KEYS"
    return command == b"PFMERGE" and len(args) == 2


def check_getkeys(server: KeyServer, commands: list[Args]) -> None:
    for args, theirs in zip(commands, server.getkeys(commands), strict=True):
        command, ours = our_keys(server.table, args)
        if command is None or command.not_key_routed:
            assert not theirs, args
            continue
        if command.single_key and command.check_arity(len(args)):
            assert theirs == [args[1]], args
        if theirs and not command.check_arity(len(args)):
            raise AssertionError(f"{args}: GETKEYS accepts their number")
        if not server.before_7 and getkeys_is_off(args, ours):
            continue
        if command.no_key:
            assert not theirs, args
        assert sorted(ours) == sorted(theirs or []), args


def check_routing(server: KeyServer, commands: list[Args]) -> None:
    asked: list[Args] = []
    expected: list[bool] = []
    for args in commands:
        command = server.table.resolve(args)
        if command is None or command.no_key or not command.check_arity(len(args)):
            continue
        try:
            keys = command.key_positions(args)
        except KeysError:
            keys = []
        assert keys == sorted(keys)
        elsewhere = any(not args[at].startswith(b"{t}") for at in keys)
        asked.append(args)
        expected.append(elsewhere)
        if elsewhere:
            continue
        for at, arg in enumerate(args):
            if arg.startswith(b"{t}"):
                asked.append([*args[:at], b"{u}" + arg[3:], *args[at + 1 :]])
                expected.append(at in keys)
    wrong = [
        (args, "is refused" if refused else "is accepted")
        for args, refused, wanted in zip(asked, server.refuses(asked), expected, strict=True)
        if refused != wanted
    ]
    assert not wrong


# -- tests


@QUICK
@given(sentence=words)
def test_every_command_has_the_keys_that_getkeys_names(key_server: KeyServer, sentence: Args) -> None:
    check_getkeys(key_server, of_every_command(key_server.table, sentence))


@QUICK
@given(sentence=words)
def test_every_command_is_routed_as_the_node_routes_it(key_server: KeyServer, sentence: Args) -> None:
    check_routing(key_server, of_every_command(key_server.table, sentence))


@settings(QUICK, max_examples=120)
@given(commands=st.lists(sentences, min_size=20, max_size=30))
def test_options_and_counts_have_the_keys_that_getkeys_names(
    key_server: KeyServer, commands: list[Args]
) -> None:
    check_getkeys(key_server, commands)


@settings(QUICK, max_examples=120)
@given(commands=st.lists(sentences, min_size=20, max_size=30))
def test_options_and_counts_are_routed_as_the_node_routes_them(
    key_server: KeyServer, commands: list[Args]
) -> None:
    check_routing(key_server, commands)


def test_the_witness_tells_keys_from_other_arguments(key_server: KeyServer) -> None:
    commands = [b"SET {t}a {u}v", b"SET {u}a {t}v", b"MGET {t}a {u}b", b"PING {u}a", b"DEL {t}a {t}b"]
    assert key_server.refuses([line.split() for line in commands]) == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (b"PFMERGE {t}a", [b"{t}a"]),
        (b"GEORADIUS {t}a 1 2 3 m STORE {t}b STOREDIST {t}c", [b"{t}a", b"{t}c"]),
        (b"GEORADIUS {t}a 1 2 3 m STORE {t}b STORE {t}c", [b"{t}a", b"{t}c"]),
        (b"XREADGROUP COUNT 1 GROUP STREAMS STREAMS STREAMS {t}a >", [b"{t}a"]),
        (b"SPUBLISH {t}a message", [b"{t}a"]),
        (b"SSUBSCRIBE {t}a {t}b", [b"{t}a", b"{t}b"]),
    ],
)
def test_where_getkeys_of_7_0_is_off_the_node_is_followed(
    key_server: KeyServer, line: bytes, keys: Args
) -> None:
    args = line.split()
    if key_server.before_7:
        pytest.skip("7.0 came with this way of finding keys")
    assert our_keys(key_server.table, args)[1] == keys
    assert key_server.getkeys([args]) != [keys]
    check_routing(key_server, [args])


def test_the_servers_table_is_whole(key_server: KeyServer) -> None:
    table = key_server.table
    assert table.version == key_server.version
    names = {command.name for command in table.commands() if "|" not in command.name}
    assert len(names) == key_server.ask([b"COMMAND", b"COUNT"])
    assert not [command.name for command in table.commands() if command.keys_need_server or command.module]


def test_the_snapshot_has_the_keys_of_each_server(key_server: KeyServer) -> None:
    """A user whom ACLs deny COMMAND works from the snapshot: what both know must agree."""
    snapshot = CommandTable.snapshot()
    for command in key_server.table.commands():
        other = snapshot.resolve([part.encode() for part in command.name.split("|")])
        if other is None:
            assert command.name in ("stralgo", "host:", "post")
            continue
        assert (command.single_key, command.script) == (other.single_key, other.script), command.name
        assert (command.request_policy, command.response_policy) == (
            other.request_policy,
            other.response_policy,
        )
        assert "no_multi" in command.flags or "no_multi" not in other.flags
        if "|" not in command.name and not command.subcommands:
            assert (command.readonly, command.write, command.no_key) == (
                other.readonly,
                other.write,
                other.no_key,
            )
