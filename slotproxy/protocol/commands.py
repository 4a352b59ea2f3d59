"""What the server says about its commands: arity, flags, keys, how a cluster client should spread them.

One duty: turn a COMMAND reply into a table that the data plane looks commands up in.

Invariants:

- The table is the server's. What an entry of 7.0 says (flags, key specs, tips, subcommands) is taken as it
  is. Servers before 7.0 send seven elements; there the packaged snapshot (7.0.15) adds the flags they do not
  report yet, key specs with a key count, tips and subcommands, and only for commands that the server has.
  Arity and write/readonly stay the server's own, a subcommand's arity is its container's (such servers check
  no other).
- Looking a command up never lets a client grow the table without bound.

It must not know about slots, nodes, connections or replies; which commands the proxy answers itself is
decided elsewhere.
"""

from __future__ import annotations

import json
from pkgutil import get_data
from typing import Final, final

from mypy_extensions import i64

from slotproxy.protocol.keyfinders import (
    INVALID_NUMBER,
    KeyFinder,
    KeysError,
    RangeFinder,
    built_in_finder,
)
from slotproxy.protocol.keyspecs import (
    as_int,
    as_list,
    as_text,
    as_texts,
    read_spec,
    table_finder,
    uncertain,
)

__all__ = ["Command", "CommandTable", "KeysError"]

# Spellings remembered beyond the ones the table starts with. `georadiusbymember_ro` alone has 2**19.
SPELLINGS: Final = 2048
_LONGEST_SUBCOMMAND: Final = 64

_SCRIPTS: Final = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
# Flags that servers before 7.0 act on, or that describe their behaviour, but do not report.
_FLAGS_SINCE_7: Final = frozenset({"no_multi", "blocking", "no_mandatory_keys", "allow_busy"})
# Neither flagged readonly nor write: they change nothing, or nothing that a second time would change again.
_TELLING: Final = frozenset(
    [
        "acl|cat", "acl|dryrun", "acl|genpass", "acl|getuser", "acl|list", "acl|users", "acl|whoami", "command",
        "command|count", "command|docs", "command|getkeys", "command|getkeysandflags", "command|info", "command|list",
        "config|get", "function|dump", "function|list", "function|stats", "info", "lastsave", "latency|doctor",
        "latency|graph", "latency|histogram", "latency|history", "latency|latest", "memory|doctor",
        "memory|malloc-stats", "memory|purge", "memory|stats", "module|list", "pubsub|channels", "pubsub|numpat",
        "pubsub|numsub", "pubsub|shardchannels", "pubsub|shardnumsub", "role", "script|exists", "script|load",
        "slowlog|get", "slowlog|len", "time",
    ]
)  # fmt: skip
# A command that may wait, or that speaks for another node, is not sent without a look at it.
_NEVER_PLAIN: Final = frozenset({"blocking", "asking"})
# Built-in commands of 6.2 that 7.0 no longer has; any other unknown name there is a module's (or renamed).
_GONE_IN_7: Final = frozenset({"stralgo", "host:", "post"})


@final
class Command:
    """One command or subcommand of the server. Nothing changes after it is built, except `calls`.

    `info` is COMMAND's entry as it was decoded (lists, bytes, ints); None for a subcommand that the server
    itself does not report (before 7.0). `keys_need_server` says that the positions found here may be
    incomplete, because only the module (or the server's own code) knows them: ask COMMAND GETKEYS.
    `repeatable` says that to run it twice is to run it once.
    `not_key_routed` says that the positions are shard channels: routing needs them, COMMAND GETKEYS answers
    `The command has no key arguments`.
    """

    def __init__(
        self,
        name: str,
        arity: int,
        flags: frozenset[str],
        tips: list[str],
        finder: KeyFinder | None,
        info: object,
    ) -> None:
        self.name: Final = name
        self.arity: Final = arity
        self.flags: Final = flags
        self.tips: Final = tips
        self.info: Final = info
        self.finder: Final = finder
        self.readonly: Final = "readonly" in flags
        self.write: Final = "write" in flags
        self.repeatable: Final = self.readonly or name in _TELLING or name.endswith("|help")
        self.module: Final = "module" in flags
        self.script: Final = name in _SCRIPTS
        self.request_policy: Final = _tip(tips, "request_policy:")
        self.response_policy: Final = _tip(tips, "response_policy:")
        self.keys_need_server = False
        self.not_key_routed = False
        self.single_key = False
        self.no_key = finder is None
        self.subcommands: dict[bytes, Command] = {}
        self.calls: i64 = 0

    def check_arity(self, argc: int) -> bool:
        """Whether the server accepts that many arguments, the command name counted."""
        return argc == self.arity if self.arity >= 0 else argc >= -self.arity

    def key_positions(self, args: list[bytes]) -> list[int]:
        """Indexes into `args` (whose first is the command name) of the keys, ascending; [] for none.

        Equal keys are all listed. A container's are its subcommand's. Raises KeysError (text as COMMAND
        GETKEYS, without `ERR `) where the number of arguments is wrong, or a key count is no number or out of
        range, or the options do not parse: no server executes such a command, each node answers its error.
        """
        if self.subcommands and len(args) > 1:
            subcommand = self.subcommand(args[1])
            if subcommand is not None:
                return subcommand.key_positions(args)
        if self.finder is None:
            return []
        if not self.check_arity(len(args)):
            raise KeysError(INVALID_NUMBER)
        return self.finder.positions(args)

    def keys(self, args: list[bytes]) -> list[bytes]:
        """The keys themselves, in argument order, duplicates included; see `key_positions`."""
        if self.single_key and len(args) > 1 and self.check_arity(len(args)):
            return [args[1]]
        return [args[at] for at in self.key_positions(args)]

    def subcommand(self, name: bytes) -> Command | None:
        """The subcommand of that name in any letter case, None where there is none."""
        if len(name) > _LONGEST_SUBCOMMAND:
            return None
        return self.subcommands.get(name.upper())

    def __repr__(self) -> str:
        return f"<Command {self.name} {self.arity}>"


@final
class CommandTable:
    """The commands of one server, by name.

    `version` is the server's redis_version as given to `from_reply`, or "snapshot".
    """

    def __init__(self, commands: list[Command], version: str) -> None:
        self.version: Final = version
        self._commands: Final[dict[bytes, Command]] = {}
        self._spellings: Final[dict[bytes, Command]] = {}
        for command in commands:
            name = command.name.encode("utf-8", "surrogateescape")
            self._commands[name] = command
            self._spellings[name] = command
            self._spellings[name.upper()] = command
        self._canonical: Final = len(self._spellings)
        self._longest: Final = max([len(name) for name in self._commands], default=0)

    def get(self, name: bytes) -> Command | None:
        """The command of that name in any letter case, None where there is none; subcommands: `resolve`."""
        command = self._spellings.get(name)
        if command is not None or len(name) > self._longest:
            return command
        command = self._commands.get(name.lower())
        if command is not None and self.remembered() < SPELLINGS:
            self._spellings[name] = command
        return command

    def remembered(self) -> int:
        """How many spellings other than `get` and `GET` are remembered: at most SPELLINGS."""
        return len(self._spellings) - self._canonical

    def resolve(self, args: list[bytes]) -> Command | None:
        """The command that `args` call: CONFIG GET is `config|get`.

        CONFIG alone, or with a subcommand that the server does not have, is the container; None where the
        server has no such command. `args` must not be empty.
        """
        command = self.get(args[0])
        if command is not None and command.subcommands and len(args) > 1:
            subcommand = command.subcommand(args[1])
            if subcommand is not None:
                return subcommand
        return command

    def commands(self) -> list[Command]:
        """Every command, containers followed by their subcommands."""
        found: list[Command] = []
        for command in self._commands.values():
            found.append(command)
            found.extend(command.subcommands.values())
        return found

    def names(self) -> list[str]:
        """Every command's name in lower case, subcommands as `config|get`."""
        return [command.name for command in self.commands()]

    @staticmethod
    def from_reply(reply: object, version: str = "") -> CommandTable:
        """The table of a COMMAND reply as hiredis decodes it on a RESP2 connection (bytes, no decoding).

        Entries of ten elements (7.0 and later) stand for themselves, shorter ones are completed from the
        snapshot. Raises ValueError where the reply is none of COMMAND's; `snapshot()` is the fallback.
        """
        known: dict[str, Command] | None = None
        commands: list[Command] = []
        try:
            for entry in as_list(reply):
                fields = as_list(entry)
                if len(fields) >= 10:
                    commands.append(_command(fields))
                    continue
                if known is None:
                    known = {command.name: command for command in CommandTable.snapshot().commands()}
                commands.append(_command_before_7(fields, known))
        except (IndexError, TypeError) as problem:
            raise ValueError(f"COMMAND: an entry that is cut short ({problem})") from problem
        return CommandTable(commands, version)

    @staticmethod
    def snapshot() -> CommandTable:
        """The table of a 7.0.15 server, from snapshot.json (made by tests/tools/command_snapshot.py).

        For servers before 7.0, and for users whom ACLs deny COMMAND. Each call builds a table of its own.
        """
        # pkgutil, because importlib.resources costs 7 ms at its first import and this 1 ms.
        text = get_data("slotproxy.protocol", "snapshot.json")
        assert text is not None
        reply = as_list(_encoded(json.loads(text)))
        return CommandTable([_command(as_list(entry)) for entry in reply], "snapshot")


def _command(fields: list[object]) -> Command:
    """A command from an entry of 7.0.

    Its elements: name, arity, flags, first key, last key, step, ACL categories, tips, key specs, subcommands.
    """
    name = as_text(fields[0]).lower()
    flags = frozenset(as_texts(fields[2]))
    specs = [read_spec(as_list(spec)) for spec in as_list(fields[8])]
    module = "module" in flags
    finder: KeyFinder | None = None if module else built_in_finder(name, False)
    trusted = finder is not None
    if finder is None:
        finder = table_finder(fields, flags, specs)
    command = Command(name, as_int(fields[1]), flags, as_texts(fields[7]), finder, fields)
    if not trusted:
        command.keys_need_server = uncertain(flags, specs)
    command.not_key_routed = bool(specs) and all([spec.not_key for spec in specs])
    _add_subcommands(command, [_command(as_list(entry)) for entry in as_list(fields[9])])
    _classify(command)
    return command


def _command_before_7(fields: list[object], known: dict[str, Command]) -> Command:
    """A command from an entry of 6.2 (name, arity, flags, first, last, step, categories), completed."""
    if len(fields) < 6:
        raise ValueError(f"COMMAND: entry of {len(fields)} elements")
    name = as_text(fields[0]).lower()
    twin = known.get(name)
    flags = frozenset(as_texts(fields[2]))
    if twin is not None:
        flags |= twin.flags & _FLAGS_SINCE_7
    elif name not in _GONE_IN_7:
        flags |= {"module"}
    finder = None if "module" in flags else built_in_finder(name, True)
    trusted = finder is not None
    if finder is None and "movablekeys" in flags and twin is not None:
        finder = twin.finder
        trusted = not twin.keys_need_server
    if finder is None:
        finder = table_finder(fields, flags, [])
    tips = twin.tips if twin is not None else []
    command = Command(name, as_int(fields[1]), flags, tips, finder, fields)
    if not trusted:
        command.keys_need_server = uncertain(flags, [])
    if twin is not None:
        _add_subcommands(command, [_subcommand_before_7(command, sub) for sub in twin.subcommands.values()])
    _classify(command)
    return command


def _subcommand_before_7(container: Command, twin: Command) -> Command:
    """The snapshot's subcommand for a server that knows the container only: it checks the container's arity,
    and takes the container's keys whatever the subcommand (OBJECT HELP k is routed by k)."""
    finder = container.finder if isinstance(container.finder, RangeFinder) else twin.finder
    command = Command(twin.name, container.arity, twin.flags, twin.tips, finder, None)
    _classify(command)
    return command


def _add_subcommands(command: Command, subcommands: list[Command]) -> None:
    for subcommand in subcommands:
        name = subcommand.name.split("|", 1)[-1]
        command.subcommands[name.upper().encode("utf-8", "surrogateescape")] = subcommand


def _classify(command: Command) -> None:
    """Set what follows from the finder, once the subcommands are known."""
    finder = command.finder
    command.no_key = finder is None and all([sub.no_key for sub in command.subcommands.values()])
    command.single_key = (
        isinstance(finder, RangeFinder)
        and finder.first == 1
        and finder.last == 1
        and not command.subcommands
        and not command.not_key_routed
        and not command.keys_need_server
        and command.flags.isdisjoint(_NEVER_PLAIN)
        and not -2 < command.arity < 2  # the key may be missing
    )


def _tip(tips: list[str], prefix: str) -> str:
    for tip in tips:
        if tip.startswith(prefix):
            return tip[len(prefix) :]
    return ""


def _encoded(value: object) -> object:
    """JSON's strings as the bytes that hiredis gives."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_encoded(part) for part in value]
    return value
