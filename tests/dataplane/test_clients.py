"""Clients: replies in order, limits, slow readers, and the ways in which a client can end."""

from __future__ import annotations

import pytest

from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import pack


def test_replies_leave_in_the_order_of_the_commands(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    a, b = rig.nodes
    a.stopped = True
    client = rig.client()
    client.send("SET", "{f}", "slow")
    client.send("PING")
    client.send("INCR", "{a}")
    client.send("MGET", "{f}", "{a}")
    client.send("NOSUCH")
    rig.run()
    assert b.executed
    assert client.replies == []
    a.stopped = False
    rig.run()
    assert client.replies[:4] == [b"OK", b"PONG", 1, [b"slow", b"1"]]
    assert "unknown command" in client.errors()[0]
    assert rig.left_over() == []


@pytest.mark.parametrize("chunk", [1, 2, 5, 33])
def test_requests_in_any_pieces_are_the_same(make_rig: MakeRig, chunk: int) -> None:
    rig = make_rig()
    client = rig.client()
    client.proxy_end.chunk = chunk
    client.send_bytes(b"PING\r\n" + pack("SET", "{f}", b"\r\n$3\r\n") + b"  get   {f} \r\n\r\n*0\r\n")
    client.send("PING", "x")
    rig.run()
    assert client.replies == [b"PONG", b"OK", b"\r\n$3\r\n", b"x"]


def test_an_irregular_request_is_packed_anew_before_others_share_its_connection(make_rig: MakeRig) -> None:
    """Redis reads any byte after the CR; a neighbour's scanner need not."""
    rig = make_rig()
    client = rig.client()
    client.send_bytes(b"*2\rX$4\rXINCR\rX$3\rX{f}XX")
    client.send_bytes(b"incr '{f}'\n")
    rig.run()
    assert client.replies == [1, 2]
    assert rig.nodes[0].received() == [[b"INCR", b"{f}"], [b"incr", b"{f}"]]


def test_a_protocol_error_is_answered_behind_the_replies_and_closes_that_client_only(make_rig: MakeRig) -> None:
    rig = make_rig()
    bad, good = rig.client(), rig.client()
    bad.send("INCR", "{f}")
    bad.send_bytes(b"*1\r\n:5\r\n" + pack("INCR", "{f}"))
    good.send("INCR", "{a}")
    rig.run()
    assert bad.replies[0] == 1
    assert bad.errors() == ["ERR Protocol error: expected '$', got ':'"]
    assert bad.closed
    assert good.replies == [1]
    assert not good.closed
    assert rig.nodes[0].keys == {b"{f}": b"1"}


def test_half_close_still_gets_its_replies(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    for _ in range(100):
        client.send("INCR", "{f}")
    client.finish()
    rig.run()
    assert client.replies == list(range(1, 101))
    assert client.closed
    assert rig.plane.client_count() == 0


def test_what_a_client_sent_before_it_left_is_executed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    for _ in range(10):
        client.send("INCR", "{f}")
    client.vanish()
    rig.run()
    assert rig.nodes[0].keys == {b"{f}": b"10"}
    assert rig.plane.client_count() == 0
    assert rig.plane.in_flight() == 0


def test_half_a_command_is_never_sent(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send_bytes(pack("SET", "{f}", "x")[:-1])
    client.vanish()
    rig.run()
    assert rig.nodes[0].received() == []


def test_quit_is_answered_last_and_what_follows_is_not_read(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("QUIT")
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1, b"OK"]
    assert client.closed
    assert rig.nodes[0].keys == {b"{f}": b"1"}


def test_a_client_with_its_fill_in_flight_is_not_read_until_half_of_it_is_answered(make_rig: MakeRig) -> None:
    rig = make_rig(max_in_flight=10)
    a, _ = rig.nodes
    a.holding = True
    client, other = rig.client(), rig.client()
    for _ in range(100):
        client.send("INCR", "{f}")
    rig.run()
    assert len(a.executed) == 10
    other.send("INCR", "{a}")
    rig.run()
    assert other.replies == [1]
    (link,) = a.open_links()
    link.send(len(b":1\r\n") * 4)
    rig.run()
    assert len(a.executed) == 10
    link.send(len(b":1\r\n"))
    rig.run()
    assert len(a.executed) == 15
    a.holding = False
    rig.run()
    assert client.replies == list(range(1, 101))


def test_local_answers_count_as_output_too(make_rig: MakeRig) -> None:
    rig = make_rig(max_output=10_000)
    rig.reading = False
    client = rig.client(room=0)
    for _ in range(1000):
        client.send("ECHO", "x" * 1000)
    for _ in range(2000):
        client.pump()
        rig.tick()
    stream = rig.plane.clients[1]
    assert 10_000 < stream.unsent() < 30_000
    client.proxy_end.room = None
    rig.reading = True
    rig.run()
    assert client.replies == [b"x" * 1000] * 1000


def test_a_client_that_does_not_read_is_not_read_from(make_rig: MakeRig) -> None:
    rig = make_rig(max_output=100_000)
    rig.nodes[0].keys[b"{f}"] = b"x" * 10_000
    rig.reading = False
    slow, other = rig.client(room=0), rig.client()
    for _ in range(200):
        slow.send("GET", "{f}")
    for _ in range(50):
        slow.pump()
        rig.tick()
        rig.cluster.serve()
    read = len(rig.nodes[0].executed)
    for _ in range(1000):
        slow.send("GET", "{f}")
    other.send("INCR", "{a}")
    for _ in range(100):
        slow.pump()
        rig.tick()
        rig.cluster.serve()
        other.read()
    assert other.replies == [1]
    assert len(rig.nodes[0].executed) == read
    slow.proxy_end.room = None
    rig.reading = True
    rig.run()
    assert slow.replies == [b"x" * 10_000] * 1200


@pytest.mark.parametrize("room", [1, 7, 100_000])
def test_partial_sends_lose_and_repeat_nothing(make_rig: MakeRig, room: int) -> None:
    rig = make_rig()
    client = rig.client(room=0)
    values = [bytes([65 + number % 26]) * (number * 997 % 3000) for number in range(20)] + [b"y" * 400_000]
    for number, value in enumerate(values[: 3 if room == 1 else None]):
        client.send("SET", f"{number}{{f}}", value)
        client.send("GET", f"{number}{{f}}")
    for _ in range(3000):
        client.proxy_end.room = room
        rig.run_proxy(1)
        rig.cluster.serve()
        client.read()
    client.proxy_end.room = None
    rig.run()
    assert client.replies[1::2] == values[: 3 if room == 1 else None]


def test_more_clients_than_allowed_are_refused_with_a_word(make_rig: MakeRig) -> None:
    rig = make_rig(max_clients=2)
    first, second, third = rig.client(), rig.client(), rig.client()
    first.send("PING")
    rig.run()
    assert third.errors() == ["ERR max number of clients reached"]
    assert third.closed
    assert first.replies == [b"PONG"]
    second.vanish()
    rig.run()
    fourth = rig.client()
    fourth.send("PING")
    rig.run()
    assert fourth.replies == [b"PONG"]
    assert (rig.plane.counters.clients_total, rig.plane.counters.clients_refused) == (4, 1)


def test_calls_are_counted_by_command(make_rig: MakeRig) -> None:
    rig = make_rig()
    calls = {command.name: int(command.calls) for command in rig.plane.table.commands()}
    client = rig.client()
    client.send("get", "{f}")
    client.send("GeT", "{f}")
    client.send("MGET", "{f}", "{a}")
    client.send("PING")
    client.send("NOSUCH")
    rig.run()
    after = {command.name: int(command.calls) for command in rig.plane.table.commands()}
    assert {name: after[name] - calls[name] for name in after if after[name] != calls[name]} == {
        "get": 2,
        "mget": 1,
        "ping": 1,
    }
