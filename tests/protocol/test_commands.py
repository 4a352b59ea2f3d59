"""The command table: from the packaged snapshot, from entries of 7.0 and from shorter ones."""

from __future__ import annotations

import pytest

from slotproxy.protocol.commands import SPELLINGS, Command, CommandTable, KeysError

TABLE = CommandTable.snapshot()


def resolved(line: bytes, table: CommandTable = TABLE) -> Command:
    command = table.resolve(line.split())
    assert command is not None
    return command


def entry_of_6(name: bytes, arity: int, flags: bytes, first: int = 0, last: int = 0, step: int = 0) -> object:
    return [name, arity, flags.split(), first, last, step, [b"@slow"]]


def entry_of_7(
    name: bytes, flags: bytes, *, tips: bytes = b"", subcommands: list[object] | None = None
) -> object:
    return [name, -2, flags.split(), 0, 0, 0, [b"@slow"], tips.split(), [], subcommands or []]


OLD = CommandTable.from_reply(
    [
        entry_of_6(b"get", 2, b"readonly fast", 1, 1, 1),
        entry_of_6(b"mget", -2, b"readonly fast", 1, -1, 1),
        entry_of_6(b"expire", 3, b"write fast", 1, 1, 1),
        entry_of_6(b"save", 1, b"admin noscript"),
        entry_of_6(b"config", -2, b"admin noscript loading stale"),
        entry_of_6(b"object", -2, b"readonly random", 2, 2, 1),
        entry_of_6(b"memory", -2, b"readonly random movablekeys"),
        entry_of_6(b"eval", -3, b"noscript skip_monitor may_replicate movablekeys"),
        entry_of_6(b"zunionstore", -4, b"write denyoom movablekeys", 1, 1, 1),
        entry_of_6(b"xread", -4, b"readonly movablekeys"),
        entry_of_6(b"stralgo", -2, b"readonly movablekeys"),
        entry_of_6(b"BF.ADD", 3, b"write denyoom", 1, 1, 1),
        entry_of_6(b"json.mget", -3, b"readonly movablekeys", 1, 1, 1),
    ],
    "6.2.14",
)


@pytest.mark.parametrize(
    "line",
    [
        b"GET k",
        b"SET k v EX 1",
        b"INCR k",
        b"LRANGE k 0 1",
        b"HSET k f v",
        b"TYPE k",
        b"EXPIRE k 1",
        b"ZADD k 1 a",
    ],
)
def test_plain_commands_take_the_fast_path(line: bytes) -> None:
    command = resolved(line)
    assert command.single_key
    assert not command.no_key
    assert command.keys(line.split()) == [b"k"]
    assert command.key_positions(line.split()) == [1]


@pytest.mark.parametrize(
    "line",
    [
        *(b"MGET k", b"DEL k", b"RENAME k k", b"SORT k", b"SORT_RO k", b"OBJECT ENCODING k", b"EVAL s 1 k"),
        *(b"SPUBLISH k m", b"XREAD STREAMS k 0", b"WATCH k", b"PING", b"GEORADIUS k 1 2 3 m", b"BLPOP k 0"),
    ],
)
def test_other_commands_do_not(line: bytes) -> None:
    assert not resolved(line).single_key


def test_no_command_with_movable_keys_takes_the_fast_path() -> None:
    for table in (TABLE, OLD):
        assert not [c.name for c in table.commands() if c.single_key and "movablekeys" in c.flags]


def test_a_key_that_may_be_missing_or_a_subcommand_keeps_off_the_fast_path() -> None:
    def keyed(name: bytes, arity: int, subcommands: list[object]) -> object:
        return [name, arity, [b"module"], 1, 1, 1, [], [], [], subcommands]

    sub = keyed(b"contains|sub", -2, [])
    reply = [keyed(b"plain", -2, []), keyed(b"optional", -1, []), keyed(b"contains", -2, [sub])]
    table = CommandTable.from_reply(reply)
    fast = [command.name for command in table.commands() if command.single_key and "|" not in command.name]
    assert fast == ["plain"]


def test_a_commands_attributes_are_the_servers() -> None:
    get, config_set, mget = resolved(b"GET"), resolved(b"config set"), resolved(b"MGET")
    assert (get.name, get.arity, get.readonly, get.write, get.module) == ("get", 2, True, False, False)
    assert "fast" in get.flags
    assert (get.request_policy, get.response_policy) == ("", "")
    assert config_set.name == "config|set"
    assert (config_set.request_policy, config_set.response_policy) == ("all_nodes", "all_succeeded")
    assert (mget.request_policy, mget.response_policy) == ("multi_shard", "")
    assert resolved(b"SHUTDOWN").flags >= {"no_multi", "admin"}
    assert "blocking" in resolved(b"BLPOP").flags
    assert get.calls == 0


def test_scripts_are_those_that_run_code_of_the_client() -> None:
    scripts = {command.name for command in TABLE.commands() if command.script}
    assert scripts == {"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"}


def test_arity_counts_the_name_and_may_be_a_minimum() -> None:
    get, config_get = resolved(b"GET"), resolved(b"CONFIG GET")
    assert [get.check_arity(argc) for argc in (1, 2, 3)] == [False, True, False]
    assert [config_get.check_arity(argc) for argc in (2, 3, 9)] == [False, True, True]


def test_a_wrong_number_of_arguments_names_no_keys() -> None:
    for line in (b"GET", b"GET a b", b"EVAL s", b"OBJECT ENCODING", b"BITOP AND d"):
        with pytest.raises(KeysError, match=r"^Invalid number of arguments specified for command$"):
            resolved(line).keys(line.split())


def test_duplicate_keys_are_all_listed() -> None:
    assert resolved(b"MGET").keys([b"MGET", b"a", b"b", b"a"]) == [b"a", b"b", b"a"]
    assert resolved(b"RENAME").key_positions([b"RENAME", b"a", b"a"]) == [1, 2]


def test_commands_without_keys_say_so() -> None:
    for line in (b"PING", b"CONFIG", b"CONFIG GET", b"OBJECT HELP", b"FLUSHALL", b"PUBLISH"):
        assert resolved(line).no_key, line
        assert resolved(line).keys([b"a", b"b", b"c"]) == []
    for line in (b"GET", b"EVAL", b"OBJECT", b"OBJECT FREQ", b"SPUBLISH", b"XREAD", b"SORT_RO"):
        assert not resolved(line).no_key, line


def test_shard_channels_route_but_are_no_keys() -> None:
    marked = {command.name for command in TABLE.commands() if command.not_key_routed}
    assert marked == {"spublish", "ssubscribe", "sunsubscribe"}
    assert resolved(b"SSUBSCRIBE").keys([b"SSUBSCRIBE", b"a", b"b"]) == [b"a", b"b"]
    assert resolved(b"SUNSUBSCRIBE").keys([b"SUNSUBSCRIBE"]) == []


def test_subcommands_resolve_in_any_letter_case() -> None:
    assert resolved(b"CONFIG GET x").name == "config|get"
    assert resolved(b"cOnFiG gEt x").name == "config|get"
    assert resolved(b"CONFIG").name == "config"
    assert resolved(b"CONFIG NONSENSE").name == "config"
    assert resolved(b"CONFIG " + b"x" * 100_000).name == "config"
    assert resolved(b"GET GET").name == "get"
    assert TABLE.resolve([b"nonsense", b"get"]) is None
    assert set(resolved(b"OBJECT").subcommands) == {b"ENCODING", b"FREQ", b"HELP", b"IDLETIME", b"REFCOUNT"}


def test_a_containers_keys_are_its_subcommands() -> None:
    container = TABLE.get(b"object")
    assert container is not None
    assert container.keys([b"OBJECT", b"freq", b"k"]) == [b"k"]
    assert container.keys([b"OBJECT", b"NONSENSE", b"k"]) == []


def test_names_are_looked_up_in_any_letter_case() -> None:
    for spelling in (b"get", b"GET", b"gEt", b"gEt", b"GeT"):
        assert TABLE.get(spelling) is TABLE.get(b"get")
    for spelling in (b"", b"got", b"get ", b"get\x00", b"config|get", b"\xff\xfe", b"x" * 1_000_000):
        assert TABLE.get(spelling) is None


def spellings(word: bytes, number: int) -> list[bytes]:
    """That many spellings of a word, each another pattern of upper-case letters."""
    letters = [at for at in range(len(word)) if word[at : at + 1].isalpha()]
    return [
        bytes(
            c - 32 if at in letters and pattern >> letters.index(at) & 1 else c for at, c in enumerate(word)
        )
        for pattern in range(number)
    ]


def test_hostile_spellings_do_not_grow_the_table() -> None:
    table = CommandTable.snapshot()
    many = spellings(b"georadiusbymember_ro", SPELLINGS + 500)
    assert len(set(many)) == SPELLINGS + 500
    remembered = 0
    for spelling in many:
        assert table.get(spelling) is table.get(b"georadiusbymember_ro")
        remembered = table.remembered()
    assert remembered == SPELLINGS
    assert table.get(b"gEt") is table.get(b"GET")
    assert table.get(b"nonsense") is None


def test_tables_count_calls_apart() -> None:
    one, other = CommandTable.snapshot(), CommandTable.snapshot()
    command = one.get(b"GET")
    twin = other.get(b"GET")
    assert command is not None and twin is not None
    command.calls += 3
    assert (command.calls, twin.calls) == (3, 0)


def test_the_snapshot_is_that_of_7_0() -> None:
    assert TABLE.version == "snapshot"
    names = TABLE.names()
    assert len(names) == len(set(names)) == 366
    assert {"get", "config", "config|get", "client|no-evict", "fcall_ro", "xgroup|create"} <= set(names)
    assert "client|no-touch" not in names
    assert not [command.name for command in TABLE.commands() if command.keys_need_server or command.module]


def test_info_is_the_entry_as_hiredis_gives_it() -> None:
    info = resolved(b"GET").info
    assert isinstance(info, list)
    assert info[:6] == [b"get", 2, [b"readonly", b"fast"], 1, 1, 1]
    assert len(info) == 10
    assert info[8][0][:2] == [b"flags", [b"RO", b"access"]]
    entries = [command.info for command in TABLE.commands() if "|" not in command.name]
    again = CommandTable.from_reply(entries, "7.0.15")
    assert again.version == "7.0.15"
    assert again.names() == TABLE.names()


# -- servers before 7.0


def test_an_old_entry_keeps_its_arity_and_flags() -> None:
    assert OLD.version == "6.2.14"
    assert resolved(b"EXPIRE", OLD).arity == 3
    assert resolved(b"EXPIRE", TABLE).arity == -3
    assert resolved(b"GET", OLD).flags == {"readonly", "fast"}
    assert resolved(b"GET", OLD).single_key
    assert resolved(b"GET", OLD).info == entry_of_6(b"get", 2, b"readonly fast", 1, 1, 1)


def test_an_old_entry_gains_flags_and_tips() -> None:
    assert "no_multi" in resolved(b"SAVE", OLD).flags
    assert "blocking" in resolved(b"XREAD", OLD).flags
    assert resolved(b"MGET", OLD).request_policy == "multi_shard"
    assert resolved(b"CONFIG SET", OLD).response_policy == "all_succeeded"


def test_an_old_table_has_no_command_of_7_0() -> None:
    assert OLD.get(b"LMPOP") is None
    assert OLD.get(b"SET") is None


def test_an_old_containers_subcommands_are_known_but_checked_as_it_checks_them() -> None:
    config_get = resolved(b"CONFIG GET", OLD)
    assert (config_get.name, config_get.arity, config_get.info) == ("config|get", -2, None)
    assert config_get.no_key
    assert resolved(b"OBJECT HELP", OLD).keys([b"OBJECT", b"HELP"]) == []
    assert resolved(b"OBJECT HELP k", OLD).keys([b"OBJECT", b"HELP", b"k"]) == [b"k"]
    assert resolved(b"OBJECT FREQ k", OLD).keys([b"OBJECT", b"FREQ", b"k"]) == [b"k"]
    assert resolved(b"MEMORY USAGE k", OLD).keys([b"MEMORY", b"USAGE", b"k"]) == [b"k"]
    assert resolved(b"MEMORY STATS", OLD).no_key


def test_an_old_servers_movable_keys_are_found() -> None:
    for line, keys in (
        (b"EVAL s 2 a b c", [b"a", b"b"]),
        (b"EVAL s 0 a", []),
        (b"ZUNIONSTORE d 2 a b WEIGHTS 1 2", [b"d", b"a", b"b"]),
        (b"XREAD COUNT 1 STREAMS a b 0 0", [b"a", b"b"]),
        (b"STRALGO LCS KEYS a b", [b"a", b"b"]),
    ):
        command = resolved(line, OLD)
        assert command.keys(line.split()) == keys
        assert not command.keys_need_server
        assert not command.module


def test_an_old_servers_module_is_taken_at_its_word() -> None:
    add, mget = resolved(b"bf.add k v", OLD), resolved(b"JSON.MGET", OLD)
    assert (add.name, add.module, add.single_key, add.keys_need_server) == ("bf.add", True, True, False)
    assert add.keys([b"BF.ADD", b"k", b"v"]) == [b"k"]
    assert (mget.module, mget.single_key, mget.keys_need_server) == (True, False, True)
    assert mget.keys([b"JSON.MGET", b"k", b"p"]) == [b"k"]


# -- modules and newer servers


def test_a_module_command_named_like_ours_is_not_ours() -> None:
    table = CommandTable.from_reply([entry_of_7(b"sort", b"module readonly")])
    command = resolved(b"SORT k", table)
    assert command.module and command.no_key and not command.keys_need_server


def test_an_unknown_command_brings_its_own_tips_and_subcommands() -> None:
    tips = b"request_policy:all_shards nondeterministic_output response_policy:agg_max"
    sub = entry_of_7(b"FT.NEW|Do", b"readonly module")
    table = CommandTable.from_reply([entry_of_7(b"FT.NEW", b"module", tips=tips, subcommands=[sub])])
    assert table.names() == ["ft.new", "ft.new|do"]
    container = resolved(b"ft.new", table)
    assert (container.request_policy, container.response_policy) == ("all_shards", "agg_max")
    assert resolved(b"ft.new dO", table).readonly


@pytest.mark.parametrize(
    "reply",
    [
        [None],
        [[b"get"]],
        [7],
        [[b"get", b"two", [], 0, 0, 0, []]],
        [[b"get", 2, [], 0, 0, 0, [], [], [7], []]],
        [["get", 2, [], 0, 0, 0, [], [], [], []]],
    ],
)
def test_what_is_no_reply_of_command_is_a_value_error(reply: list[object]) -> None:
    with pytest.raises(ValueError, match="COMMAND: "):
        CommandTable.from_reply(reply)


def test_an_empty_table_knows_nothing() -> None:
    table = CommandTable.from_reply([])
    assert table.names() == []
    assert table.get(b"get") is None


@pytest.mark.parametrize(
    "reply", [5, b"x", None, [5], [[]], [[b"get"]], [[b"get", 2]], [[b"get", b"2", [], 1, 1, 1, [], [], [], []]],
              [[b"get", 2, [], 1, 1, 1, [], [], [b"x"], []]], [[b"get", 2, [], 1, 1, 1, [], [], [], [[]]]]],
)  # fmt: skip
def test_a_reply_that_is_no_table_is_a_value_error(reply: object) -> None:
    with pytest.raises(ValueError):
        CommandTable.from_reply(reply)
