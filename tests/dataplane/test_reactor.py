"""The reactor: one send for each touched socket and tick, no loops, timers by a clock that is read once a tick."""

from __future__ import annotations

import pytest

from slotproxy.build import flavour
from slotproxy.dataplane.reactor import Reactor, Timer
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import ManualClock
from tests.scripted_frames import pack


def test_a_tick_sends_once_to_each_node_and_client_it_touched(make_rig: MakeRig) -> None:
    rig = make_rig()
    clients = [rig.client() for _ in range(10)]
    for client in clients:
        for number in range(20):
            client.send("INCR", f"{number}{{f}}")
            client.send("INCR", f"{number}{{a}}")
        client.pump()
    before = {sock: sock.sends for sock in rig.sockets}
    rig.tick()
    ends = [rig.node_end(node) for node in rig.nodes]
    assert [end.sends - before[end] for end in ends] == [1, 1]
    rig.cluster.serve()
    rig.tick()
    rig.tick()
    assert [client.proxy_end.sends for client in clients] == [1] * 10
    assert [end.sends - before[end] for end in ends] == [1, 1]


def test_a_tick_reads_each_socket_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.reading = False
    client = rig.client()
    client.proxy_end.chunk = 100
    client.send_bytes(pack("PING") * 1000)
    before = client.proxy_end.receives
    rig.tick()
    assert client.proxy_end.receives == before + 1


def test_a_full_socket_is_not_sent_to_until_it_has_room(make_rig: MakeRig) -> None:
    rig = make_rig()
    end = rig.node_end(rig.nodes[0])
    end.room = 5
    client = rig.client()
    client.send("INCR", "{f}")
    rig.tick()
    sends = end.sends
    client.send("INCR", "{f}")
    rig.run_proxy(20)
    assert end.sends == sends
    end.room = None
    rig.run()
    assert client.replies == [1, 2]


def test_large_output_is_sent_in_few_pieces(make_rig: MakeRig) -> None:
    rig = make_rig()
    value = b"x" * 100_000
    rig.nodes[0].keys[b"{f}"] = value
    client = rig.client()
    for _ in range(20):
        client.send("GET", "{f}")
    rig.run()
    assert client.replies == [value] * 20
    assert client.proxy_end.sends < 120


def test_bytes_are_counted_on_both_sides(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("PING")
    rig.run()
    counters = rig.plane.counters
    command = len(pack("INCR", "{f}"))
    assert counters.client_bytes_in == command + len(pack("PING"))
    assert counters.client_bytes_out == len(b":1\r\n+PONG\r\n")
    assert (counters.node_bytes_out, counters.node_bytes_in) == (command, len(b":1\r\n"))
    assert (counters.requests, sum(counters.durations)) == (1, 1)


interpreted_only = pytest.mark.skipif(flavour() == "compiled", reason="compiled timers have no interpreted subclasses")


class Bell(Timer):
    """Notes when it was fired; sets itself again as often as `again` says."""

    def __init__(self, reactor: Reactor, again: list[float] | None = None) -> None:
        super().__init__()
        self.rung: list[float] = []
        self._reactor = reactor
        self._again = again or []

    def fire(self) -> None:
        self.rung.append(self._reactor.now)
        if self._again:
            self._reactor.call_at(self._again.pop(0), self)


@interpreted_only
def test_timers_fire_once_in_order_and_not_before_their_time() -> None:
    clock = ManualClock()
    reactor = Reactor(clock)
    late, early = Bell(reactor), Bell(reactor)
    reactor.call_at(1002.0, late)
    reactor.call_at(1001.0, early)
    assert reactor.next_due() == 1001.0
    reactor.run_timers()
    assert early.rung == []
    for clock.now in (1001.0, 1001.5, 1002.5, 1003.0):
        reactor.poll(0)
        reactor.run_timers()
    assert (early.rung, late.rung) == ([1001.0], [1002.5])
    assert reactor.next_due() == float("inf")
    reactor.close()


@interpreted_only
def test_setting_a_timer_again_replaces_what_it_was_set_to() -> None:
    clock = ManualClock()
    reactor = Reactor(clock)
    bell, cancelled = Bell(reactor, again=[1006.0]), Bell(reactor)
    reactor.call_at(1001.0, bell)
    reactor.call_at(1005.0, bell)
    reactor.call_at(1002.0, cancelled)
    cancelled.due = 0.0
    assert reactor.next_due() == 1005.0
    for clock.now in (1002.0, 1005.0, 1006.0, 1007.0):
        reactor.poll(0)
        reactor.run_timers()
    assert bell.rung == [1005.0, 1006.0]
    assert cancelled.rung == []
    reactor.close()


def test_the_clock_is_read_once_a_tick(make_rig: MakeRig) -> None:
    rig = make_rig()
    clients = [rig.client() for _ in range(5)]
    for client in clients:
        for _ in range(50):
            client.send("INCR", "{f}")
    readings = rig.clock.readings
    rig.tick()
    assert rig.clock.readings == readings + 1
