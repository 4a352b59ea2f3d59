"""What `slotproxy serve` can be told: one list of settings, from which everything else follows.

SETTINGS gives the flags, the SLOTPROXY_ variables, the defaults, --help, the README's table and the fields of
`Config`. A flag beats its variable, the variable beats the default; a variable that is empty counts as not
set (that is how container files write "nothing").

Invariants: whatever is wrong becomes one ConfigError of one line that names the flag or variable, the value
and what is expected, and secrets are in no such line, no repr and no flag. Defaults go through the same
parsers as what the operator writes. Opens no socket and knows nothing of what the settings are used for.
"""

import argparse
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from slotproxy.cluster.topology import Address
from slotproxy.control.addresses import (
    AddressMap,
    Endpoint,
    TcpEndpoint,
    parse_address_map,
    parse_endpoint,
    parse_seed,
    parse_tcp,
)
from slotproxy.control.secrets import ClientAuth, read_client_auth, read_password
from slotproxy.control.values import choice, number, seconds, size
from slotproxy.protocol.requests import RequestLimits

_DAY: Final = 86400.0
_TERABYTE: Final = 1 << 40


class ConfigError(Exception):
    """The operator has to change something; `str()` is one line that says what, where and to what."""


@dataclass(frozen=True)
class Config:
    """The settings as values; times are in seconds, sizes in bytes. `SETTINGS` says what each one means."""

    listen: tuple[Endpoint, ...]
    cluster: tuple[Address, ...]
    cluster_user: str | None
    cluster_password: bytes | None = field(repr=False)
    cluster_password_file: str | None
    client_auth: ClientAuth
    address_map: AddressMap
    connections_per_node: int
    connect_timeout: float
    refresh_interval: float
    park_timeout: float
    drain_timeout: float
    admin: TcpEndpoint | None
    log_level: str
    log_format: str
    max_clients: int
    max_arguments: int
    max_inline: int
    max_bulk: int
    max_request: int
    max_in_flight: int
    max_output: int
    script_cache: int
    max_exclusive: int
    cross_slot_transactions: str
    allow_admin: bool

    def request_limits(self) -> RequestLimits:
        """The limits on one request, as the framing takes them."""
        return RequestLimits(
            arguments=self.max_arguments,
            inline=self.max_inline,
            bulk=self.max_bulk,
            request=self.max_request,
        )


@dataclass(frozen=True)
class Setting:
    """One line of the table. `parse` takes all texts given (one, unless `repeatable`) and raises
    ValueError."""

    group: str
    flag: str
    metavar: str
    default: str
    parse: Callable[[list[str]], Any]
    meaning: str
    repeatable: bool = False
    switch: bool = False  # without a value it means yes

    @property
    def name(self) -> str:
        """Attribute of the argparse namespace."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that says the same."""
        return f"SLOTPROXY_{self.name.upper()}"

    @property
    def shown_default(self) -> str:
        """What holds when nobody says anything."""
        return self.default or ("required" if self.flag == "--cluster" else "none")


def _one(parse: Callable[[str], Any]) -> Callable[[list[str]], Any]:
    return lambda texts: parse(texts[-1])


def _yes_or_no(text: str) -> bool:
    return choice("yes", "no")(text) == "yes"


def _listen(texts: list[str]) -> tuple[Endpoint, ...]:
    found = tuple(parse_endpoint(text) for text in texts)
    if any(found.count(one) > 1 for one in found if not isinstance(one, TcpEndpoint) or one.port):
        raise ValueError("different addresses, but one stands there twice")
    return found


def _seeds(texts: list[str]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(parse_seed(text) for text in texts))


def _admin(text: str) -> TcpEndpoint | None:
    if text.lower() == "off":
        return None
    try:
        return parse_tcp(text)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None


def _user(text: str) -> str | None:
    if text and (not text.isprintable() or any(letter.isspace() for letter in text)):
        raise ValueError("an ACL user name without spaces")
    return text or None


_CLIENTS: Final = "clients"
_CLUSTER: Final = "cluster"
_TIMES: Final = "times"
_LIMITS: Final = "limits"
_OPERATION: Final = "operation"
_GROUPS: Final = {
    _CLIENTS: "",
    _CLUSTER: "",
    _TIMES: "In seconds, or with a unit: 500ms, 30s, 5m, 1h.",
    _LIMITS: "Sizes are in bytes, or with K, M or G (1024 each). A request that is larger gets\n"
    "Redis's error for it, and its client is closed.",
    _OPERATION: "",
}

SETTINGS: Final = (
    Setting(_CLIENTS, "--listen", "ADDRESS", "127.0.0.1:6380", _listen,
            "where plain Redis clients connect: HOST:PORT, [IPv6]:PORT or unix:PATH", repeatable=True),
    Setting(_CLIENTS, "--client-auth", "none|passthrough|FILE", "none", _one(read_client_auth),
            "who clients are: nobody is asked; users of the cluster, on connections of their own; or the proxy's own "
            "users, in a file that is read again on SIGHUP"),
    Setting(_CLUSTER, "--cluster", "HOST:PORT", "", _seeds,
            "nodes to ask for the rest of the cluster; names are resolved again at each refresh",
            repeatable=True),
    Setting(_CLUSTER, "--cluster-user", "NAME", "", _one(_user),
            "ACL user to log in to the nodes as; needs a password file"),
    Setting(_CLUSTER, "--cluster-password-file", "PATH", "", _one(read_password),
            "file whose only line is the password for the nodes; read again on SIGHUP"),
    Setting(_CLUSTER, "--address-map", "FROM=TO", "", parse_address_map,
            "dial TO where the cluster announces FROM (NAT): HOST:PORT=HOST:PORT or HOST=HOST",
            repeatable=True),
    Setting(_CLUSTER, "--connections-per-node", "NUMBER", "2", _one(number(1, 64)),
            "connections to each node that all clients share; as many again, for RESP3, from the first client on that"
            " speaks it"),
    Setting(_TIMES, "--connect-timeout", "TIME", "5", _one(seconds(0.01, 3600)),
            "a node that has not accepted and greeted by then is tried again"),
    Setting(_TIMES, "--refresh-interval", "TIME", "30", _one(seconds(0.1, _DAY)),
            "ask for the topology at least this often; redirects ask at once"),
    Setting(_TIMES, "--park-timeout", "TIME", "30", _one(seconds(0, _DAY)),
            "a request whose slot no node serves waits this long, then gets an error; at least twice the "
            "cluster's node timeout outlasts a failover"),
    Setting(_TIMES, "--drain-timeout", "TIME", "10", _one(seconds(0, _DAY)),
            "after SIGTERM, requests in flight may take this long"),
    Setting(_LIMITS, "--max-clients", "NUMBER", "10000", _one(number(1, 1_000_000)),
            "further clients get an error and are closed"),
    Setting(_LIMITS, "--max-arguments", "NUMBER", "1048576", _one(number(1, 2**31 - 1)),
            "arguments of one request"),
    Setting(_LIMITS, "--max-inline", "SIZE", "64K", _one(size(1, _TERABYTE)),
            "one inline request"),
    Setting(_LIMITS, "--max-bulk", "SIZE", "512M", _one(size(1, _TERABYTE)),
            "one argument; the nodes' proto-max-bulk-len holds as well"),
    Setting(_LIMITS, "--max-request", "SIZE", "1G", _one(size(1, _TERABYTE)),
            "one request in all"),
    Setting(_LIMITS, "--max-in-flight", "NUMBER", "1024", _one(number(1, 1_000_000)),
            "requests of one client that await a reply; no more of it is read until some have got theirs"),
    Setting(_LIMITS, "--max-output", "SIZE", "16M", _one(size(1, _TERABYTE)),
            "bytes of replies that one client has not taken; no more of it is read until it has"),
    Setting(_LIMITS, "--script-cache", "SIZE", "8M", _one(size(0, _TERABYTE)),
            "texts of scripts seen, kept for nodes that lack them"),
    Setting(_LIMITS, "--max-exclusive", "NUMBER", "10000", _one(number(1, 1_000_000)),
            "connections to nodes that are for one client each (blocking commands, WATCH, tracking, MONITOR); beyond, "
            "such commands get an error"),
    Setting(_OPERATION, "--cross-slot-transactions", "reject|per-slot", "reject", _one(choice("reject", "per-slot")),
            "what becomes of MULTI ... EXEC and WATCH over several slots: an error, or each slot's commands as a "
            "transaction of their own"),
    Setting(_OPERATION, "--allow-admin", "yes|no", "no", _one(_yes_or_no),
            "send SAVE, BGSAVE, BGREWRITEAOF and MODULE LOAD, LOADEX, UNLOAD to every node instead of refusing them",
            switch=True),
    Setting(_OPERATION, "--admin", "HOST:PORT", "127.0.0.1:9180", _one(_admin),
            "HTTP address of /metrics, /healthz, /readyz and /slots; off for none"),
    Setting(_OPERATION, "--log-level", "LEVEL", "info", _one(choice("debug", "info", "warning", "error")),
            "debug, info, warning or error"),
    Setting(_OPERATION, "--log-format", "FORMAT", "text", _one(choice("text", "json")),
            "text or json, one line per event on stderr"),
)  # fmt: skip
"""All settings in the order of --help. Fields of `Config` carry the flags' names, but for the password
itself."""


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser that answers a wrong command line with one line and exit status 2, without the
    usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", _WideHelp)
        # An abbreviation that is clear today is ambiguous, or another flag, tomorrow.
        super().__init__(*args, **{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Print `message` as one line on stderr and exit with status 2."""
        line = " ".join(message.removeprefix("argument ").split())
        self.exit(2, f"{self.prog}: {line} (try {self.prog} --help)\n")


class _WideHelp(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = max(60, min(shutil.get_terminal_size().columns - 2, 110))
        super().__init__(prog, max_help_position=34, width=width)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags to `parser`, grouped. Values stay texts: `from_arguments` reads them."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for setting in SETTINGS:
        if setting.group not in groups:
            description = _GROUPS[setting.group] or None
            groups[setting.group] = parser.add_argument_group(setting.group, description)
        several = "; repeatable" if setting.repeatable else ""
        text = f"{setting.meaning}{several} (default: {setting.shown_default}) [{setting.variable}]"
        without_value: dict[str, Any] = {"nargs": "?", "const": "yes"} if setting.switch else {}
        groups[setting.group].add_argument(
            setting.flag,
            dest=setting.name,
            metavar=setting.metavar,
            action="append",
            **without_value,
            help=text.replace("%", "%%").replace("(default: required)", "(required)"),
        )


def from_arguments(namespace: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """The configuration that the flags in `namespace` and the variables in `environ` ask for.

    Reads the files of secrets. Raises ConfigError.
    """
    values = {setting.name: _value(setting, namespace, environ) for setting in SETTINGS}
    password = values["cluster_password_file"]
    values["cluster_password"] = None if password is None else password.password
    values["cluster_password_file"] = None if password is None else password.path
    if not values["cluster"]:
        raise ConfigError("--cluster (or SLOTPROXY_CLUSTER) is missing: expected HOST:PORT of one node at least")
    if values["cluster_user"] is not None and values["cluster_password"] is None:
        raise ConfigError(
            f"--cluster-user {_quoted(values['cluster_user'])}: "
            "expected --cluster-password-file (or SLOTPROXY_CLUSTER_PASSWORD_FILE) with it"
        )
    return Config(**values)


def settings_table() -> list[tuple[str, str, str, str]]:
    """All settings as (flag, variable, default, meaning), in the order of --help."""
    return [(one.flag, one.variable, one.shown_default, one.meaning) for one in SETTINGS]


def _value(setting: Setting, namespace: argparse.Namespace, environ: Mapping[str, str]) -> Any:
    given: list[str] | None = getattr(namespace, setting.name, None)
    source = setting.flag
    if given is None:
        text = environ.get(setting.variable, "")
        given = [text or setting.default]
        source = setting.variable if text else setting.flag
        if not given[0]:
            return setting.parse([] if setting.repeatable else [""])
    elif not all(given):
        raise ConfigError(f"{source}: {_quoted('')}: expected a value")
    texts = _items(given) if setting.repeatable else given
    try:
        return setting.parse(texts)
    except ValueError as error:
        raise ConfigError(f"{source}: {_quoted(_culprit(setting, texts))}: expected {error}") from None


def _items(given: Iterable[str]) -> list[str]:
    return [item.strip() for text in given for item in text.split(",")]


def _culprit(setting: Setting, texts: list[str]) -> str:
    """The one text that is wrong by itself, or all of them where only the combination is."""
    for text in texts if setting.repeatable else texts[-1:]:
        try:
            setting.parse([text])
        except ValueError:
            return text
    return ",".join(texts)


def _quoted(text: str) -> str:
    shown = repr(text)  # also keeps a line end from making two lines of it
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
