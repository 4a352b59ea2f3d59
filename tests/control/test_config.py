import argparse
import dataclasses
import re
from pathlib import Path

import pytest

from slotproxy.control.addresses import AddressMap, TcpEndpoint, UnixEndpoint
from slotproxy.control.config import (
    SETTINGS,
    Config,
    ConfigError,
    OneLineParser,
    add_arguments,
    from_arguments,
    settings_table,
)
from slotproxy.control.secrets import ClientAuth

NEEDED = ("--cluster", "10.0.0.1:7001")


def parser() -> OneLineParser:
    made = OneLineParser(prog="slotproxy serve")
    add_arguments(made)
    return made


def configured(*flags: str, **variables: str) -> Config:
    return from_arguments(parser().parse_args(flags), variables)


def complaint(*flags: str, **variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configured(*flags, **variables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_those_promised() -> None:
    assert configured(*NEEDED) == Config(
        listen=(TcpEndpoint("127.0.0.1", 6380),),
        cluster=(("10.0.0.1", 7001),),
        cluster_user=None,
        cluster_password=None,
        cluster_password_file=None,
        client_auth=ClientAuth(),
        address_map=AddressMap(),
        connections_per_node=2,
        connect_timeout=5.0,
        refresh_interval=30.0,
        park_timeout=30.0,
        drain_timeout=10.0,
        admin=TcpEndpoint("127.0.0.1", 9180),
        log_level="info",
        log_format="text",
        max_clients=10_000,
        max_arguments=1_048_576,
        max_inline=65_536,
        max_bulk=512 * 1024**2,
        max_request=1024**3,
        max_in_flight=1024,
        max_output=16 * 1024**2,
        script_cache=8 * 1024**2,
        max_exclusive=10_000,
        cross_slot_transactions="reject",
        allow_admin=False,
    )


def test_a_namespace_without_flags_is_configured_by_variables_alone() -> None:
    config = from_arguments(argparse.Namespace(), {"SLOTPROXY_CLUSTER": "a:1,b:2"})
    assert config.cluster == (("a", 1), ("b", 2))


def test_a_switch_needs_no_value() -> None:
    assert configured(*NEEDED, "--allow-admin").allow_admin is True
    assert configured(*NEEDED, "--allow-admin", "no").allow_admin is False


def test_every_setting_has_a_flag_a_variable_and_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert {setting.name for setting in SETTINGS} == fields - {"cluster_password"}
    for flag, variable, default, meaning in settings_table():
        assert variable == "SLOTPROXY_" + flag[2:].upper().replace("-", "_")
        assert default
        assert meaning


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_flag_and_every_variable_is_heard_and_a_wrong_value_named(
    setting: argparse.Namespace, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("pw")
    good = {
        "listen": "[::1]:1",
        "cluster": "b:2",
        "cluster_user": "joe",
        "cluster_password_file": str(file),
        "address_map": "a=b",
        "admin": "off",
        "client_auth": "passthrough",
        "log_level": "debug",
        "log_format": "json",
        "allow_admin": "yes",
        "cross_slot_transactions": "per-slot",
    }.get(setting.name, "7")
    field = setting.name.removesuffix("_file")
    files = {"SLOTPROXY_CLUSTER_PASSWORD_FILE": str(file)} if setting.name == "cluster_user" else {}
    base = getattr(configured(*NEEDED), field)
    by_flag = getattr(configured(*NEEDED, setting.flag, good, **files), field)
    needed = {} if setting.name == "cluster" else {"SLOTPROXY_CLUSTER": NEEDED[1]}
    by_variable = getattr(configured(**{**needed, setting.variable: good}, **files), field)
    assert by_flag != base
    assert by_variable == (by_flag if setting.name != "cluster" else (("b", 2),))

    wrong = "no such\nthing"
    assert complaint(*NEEDED, setting.flag, wrong).startswith(f"{setting.flag}: 'no such\\nthing': expected ")
    assert complaint(**{**needed, setting.variable: wrong}).startswith(
        f"{setting.variable}: 'no such\\nthing': expected "
    )


def test_a_flag_beats_the_variable_and_the_variable_the_default() -> None:
    assert configured(*NEEDED, SLOTPROXY_MAX_CLIENTS="5").max_clients == 5
    assert configured(*NEEDED, "--max-clients", "6", SLOTPROXY_MAX_CLIENTS="5").max_clients == 6
    # What is overruled is not read, so it cannot be wrong either.
    assert configured(*NEEDED, "--max-clients", "6", SLOTPROXY_MAX_CLIENTS="x").max_clients == 6


def test_an_empty_variable_is_not_set_and_an_empty_flag_is_wrong() -> None:
    assert configured(*NEEDED, SLOTPROXY_MAX_CLIENTS="").max_clients == 10_000
    assert complaint(*NEEDED, "--max-clients", "") == "--max-clients: '': expected a value"


def test_lists_come_from_repeated_flags_and_from_commas() -> None:
    config = configured(
        "--cluster",
        "a:1",
        "--cluster",
        "b:2, a:1",
        "--listen",
        "unix:/run/x.sock",
        "--listen",
        "[::]:6380,h:0",
    )
    assert config.cluster == (("a", 1), ("b", 2))
    assert config.listen == (UnixEndpoint("/run/x.sock"), TcpEndpoint("::", 6380), TcpEndpoint("h", 0))
    assert list(map(str, config.listen)) == ["unix:/run/x.sock", "[::]:6380", "h:0"]
    assert configured(SLOTPROXY_CLUSTER="a:1,b:2").cluster == (("a", 1), ("b", 2))


def test_of_several_addresses_the_wrong_one_is_named() -> None:
    assert complaint("--cluster", "a:1,b:x").startswith("--cluster: 'b:x': expected HOST:PORT")
    assert complaint("--cluster", "a:1,").startswith("--cluster: '': expected HOST:PORT")
    assert "stands there twice" in complaint(*NEEDED, "--listen", "a:1,b:2,a:1")


def test_a_cluster_is_needed() -> None:
    assert complaint().startswith("--cluster (or SLOTPROXY_CLUSTER) is missing: ")


@pytest.mark.parametrize("text", ["0", "65", "-1", "+1", "1_0", " 1", "٣", "1.0", "x", "9" * 5000])
def test_numbers_that_are_none(text: str) -> None:
    line = complaint(*NEEDED, f"--connections-per-node={text}")
    assert line.endswith(": expected a whole number from 1 to 64")
    assert len(line) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("64K", 65536), ("64k", 65536), ("16M", 16 << 20), ("1G", 1 << 30), ("0064K", 65536)],
)
def test_sizes(text: str, value: int) -> None:
    assert configured(*NEEDED, "--max-bulk", text).max_bulk == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5M", "64KB", "K", "1 K", "1_000", "٣", "9" * 30, "2000G"])
def test_sizes_that_are_none(text: str) -> None:
    assert complaint(*NEEDED, f"--max-bulk={text}").startswith(f"--max-bulk: {text!r}: expected a size ")


@pytest.mark.parametrize(
    ("text", "value"), [("30", 30.0), ("30s", 30.0), ("500ms", 0.5), ("0.5", 0.5), ("2m", 120.0), ("0", 0.0)]
)
def test_times(text: str, value: float) -> None:
    assert configured(*NEEDED, "--park-timeout", text).park_timeout == pytest.approx(value)


@pytest.mark.parametrize("text", ["-1", "1e9", "nan", "inf", "5 s", "5d", ".5", "s", "25h"])
def test_times_that_are_none(text: str) -> None:
    assert complaint(*NEEDED, f"--park-timeout={text}").startswith(f"--park-timeout: {text!r}: expected a time ")


def test_a_refresh_interval_of_nothing_would_be_a_loop() -> None:
    assert "0.1s" in complaint(*NEEDED, "--refresh-interval", "0")


@pytest.mark.parametrize(
    "text",
    ["6380", ":6380", "h:", "h:65536", "h:-1", "h:+1", "h: 1", "::1:6380", "[::1]", "[h]:1", "[::g]:1",
     "300.1.1.1:1", "1.2.3:1", "a b:1", "redis://h:1", "h/x:1", "-h:1", "*:1", "unix:", "unix:" + "x" * 108,
     "h:1:2", "hé:1"],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    assert complaint(*NEEDED, f"--listen={text}").startswith(f"--listen: {text!r}"[:100])


def test_a_seed_has_a_port_that_can_be_dialled() -> None:
    assert "port 1 to 65535" in complaint("--cluster", "h:0")
    assert configured("--cluster", "[2001:db8:0::1]:7000").cluster == (("2001:db8::1", 7000),)


def test_admin_can_be_off() -> None:
    assert configured(*NEEDED, "--admin", "OFF").admin is None
    assert complaint(*NEEDED, "--admin", "9180").endswith(", or off")


def test_the_address_map_takes_one_step_and_prefers_the_port() -> None:
    rules = "10.0.0.1:7001=h:1,10.0.0.1=nat,nat=nowhere,[2001:db8::1]:7=h:7,2001:DB8::2=h2"
    address_map = configured(*NEEDED, "--address-map", rules).address_map
    assert address_map.apply(("10.0.0.1", 7001)) == ("h", 1)
    assert address_map.apply(("10.0.0.1", 7002)) == ("nat", 7002)
    assert address_map.apply(("10.0.0.2", 7001)) == ("10.0.0.2", 7001)
    assert address_map.apply(("2001:db8::1", 7)) == ("h", 7)
    assert address_map.apply(("2001:db8::2", 9)) == ("h2", 9)
    assert str(address_map).startswith("10.0.0.1:7001=h:1,[2001:db8::1]:7=h:7,")


@pytest.mark.parametrize("text", ["a", "a=", "=b", "a:1=b", "a=b:1", "a:1=b:0", "a=b=c", "a:x=b:1"])
def test_address_maps_that_are_none(text: str) -> None:
    assert complaint(*NEEDED, "--address-map", f"h=g,{text}") == (
        f"--address-map: {text!r}: expected FROM=TO, both HOST:PORT or both HOST"
    )


def test_an_address_has_one_target() -> None:
    assert "a has two" in complaint(*NEEDED, "--address-map", "a=b,a=c")
    assert "a:1 has two" in complaint(*NEEDED, "--address-map", "a:1=b:1", "--address-map", "a:1=b:2")


def test_the_password_comes_from_the_file_and_shows_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "password"
    for content in (b"s3cr\xffet word", b"s3cr\xffet word\n", b"s3cr\xffet word\r\n"):
        file.write_bytes(content)
        config = configured(*NEEDED, "--cluster-user", "joe", SLOTPROXY_CLUSTER_PASSWORD_FILE=str(file))
        assert config.cluster_password == b"s3cr\xffet word"
        assert config.cluster_user == "joe"
        assert "s3cr" not in repr(config)


@pytest.mark.parametrize("content", [b"", b"\n", b"s3cret\nmore\n", b"s" * 70_000])
def test_a_password_file_with_anything_else_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    line = complaint(*NEEDED, "--cluster-password-file", str(file))
    assert "the password as its only line" in line
    assert "s3c" not in line


def test_a_password_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    assert "No such file" in complaint(*NEEDED, "--cluster-password-file", str(tmp_path / "none"))
    assert "directory" in complaint(*NEEDED, "--cluster-password-file", str(tmp_path))


def test_a_user_needs_a_password_file() -> None:
    assert complaint(*NEEDED, "--cluster-user", "joe").startswith("--cluster-user 'joe': expected --cluster-pass")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--listen"], "--listen: expected one argument"),
        (["--max-client", "5"], "unrecognized arguments"),  # abbreviations are not taken
        (["a\nb"], "unrecognized arguments: a b"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"slotproxy serve: {said}")
    assert "usage" not in err


def test_help_names_every_flag_with_its_default_and_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = re.sub(r"\s+", " ", parser().format_help()).partition("options:")[2]
    for flag, variable, default, meaning in settings_table():
        told = "(required)" if default == "required" else f"(default: {default})"
        entry = text[text.index(f" {flag} ") :]
        entry = entry[: entry.index(f" [{variable}]")]
        assert entry.count("[SLOTPROXY_") == 0  # the variable is this flag's, not a later one's
        assert meaning in entry
        assert entry.endswith(told)


def test_request_limits_are_handed_to_the_framing() -> None:
    limits = configured(
        *NEEDED, "--max-arguments", "1", "--max-inline", "2", "--max-bulk", "3", "--max-request", "4"
    ).request_limits()
    assert (limits.arguments, limits.inline, limits.bulk, limits.request) == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["user a on s3cret", "s3cret", "user a on >s3cret\nuser a on >s3cret"])
def test_a_file_of_users_that_is_wrong_is_named_with_its_line_and_no_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users"
    file.write_text(text)
    said = complaint(*NEEDED, "--client-auth", str(file))
    assert said.startswith(f"--client-auth: '{file}': expected a file of users: line ") and "s3cret" not in said


def test_ways_in_which_clients_log_in(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("user a on >s3cret")
    assert configured(*NEEDED, "--client-auth", "PassThrough").client_auth == ClientAuth("passthrough")
    auth = configured(*NEEDED, "--client-auth", str(file)).client_auth
    assert (auth.mode, auth.path) == ("file", str(file)) and auth.users is not None
    assert auth.users.check(b"a", b"s3cret") is not None and "s3cret" not in repr(configured(*NEEDED))
    assert "readable file" in complaint(*NEEDED, "--client-auth", str(tmp_path / "none-there"))
