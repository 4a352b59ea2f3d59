"""Clients that read streams of several slots: everything once, in one reply, and readers are all woken."""

from __future__ import annotations

import random

import pytest

from tests.dataplane.asking import do, outside, ran, send_at_once
from tests.dataplane.conftest import MakeRig
from tests.dataplane.test_arrivals import waiter


def test_streams_of_several_slots_are_read_together(make_rig: MakeRig) -> None:
    rig = make_rig()
    do(rig, "XADD", "s{f}", "1-1", "k", "1")
    do(rig, "XADD", "s{a}", "1-1", "k", "2")
    client = rig.client()
    client.send("XREAD", "BLOCK", "0", "STREAMS", "s{f}", "s{b}", "s{a}", "0", "0", "0")
    rig.run()
    assert client.replies == [[[b"s{f}", [[b"1-1", [b"k", b"1"]]]], [b"s{a}", [[b"1-1", [b"k", b"2"]]]]]]


@pytest.mark.parametrize("seed", range(10))
def test_what_comes_from_now_on_is_read_once_wherever_it_comes(make_rig: MakeRig, seed: int) -> None:
    rig = make_rig()
    chance = random.Random(seed)
    for tag in "fa":
        do(rig, "XADD", f"s{{{tag}}}", "1-1", "k", "old")
    rig.dialling = False
    client = rig.client()
    client.send("XREAD", "BLOCK", "0", "STREAMS", "s{f}", "s{a}", "$", "$")
    rig.run_proxy()
    before = chance.randrange(10, 30)
    for number in range(60):
        if number == before:
            outside(rig.nodes[1], "XADD", "s{a}", "2-1", "k", "new")
        if rig.control.dials and chance.random() < 0.3:
            rig.connect_lane(rig.control.dials.pop(0))
        rig.run_proxy(1)
        links = [link for one in rig.nodes for link in one.open_links()]
        link = chance.choice(links)
        link.receive()
        if link.can_execute():
            link.execute()
        chance.choice(links).send()
    rig.dialling = True
    rig.run()
    looked = [entry for entry in rig.nodes[1].executed if entry.words[0] == b"XREVRANGE"]
    if b"2-1" in looked[0].reply:  # it came before the wait began
        assert client.replies == []
        outside(rig.nodes[1], "XADD", "s{a}", "3-1", "k", "newer")
        rig.run()
    ((name, entries),) = client.replies[0]
    assert name == b"s{a}"
    assert [id for id, _ in entries] == ([b"3-1"] if b"2-1" in looked[0].reply else [b"2-1"])


def test_readers_of_streams_are_all_woken(make_rig: MakeRig) -> None:
    rig = make_rig()
    command = ("XREAD", "BLOCK", "0", "STREAMS", "s{f}", "s{a}", "$", "$")
    clients = [waiter(rig, *command) for _ in range(4)]
    do(rig, "XADD", "s{a}", "1-1", "k", "v")
    for client in clients:
        assert client.replies == [[[b"s{a}", [[b"1-1", [b"k", b"v"]]]]]]
    assert rig.left_over() == []


def test_streams_of_several_slots_without_block_are_read_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    do(rig, "XADD", "s{a}", "1-1", "k", "v")
    client = rig.client()
    send_at_once(client, "XREAD STREAMS s{f} s{a} 0 0", "XREAD STREAMS s{f} s{b} 0 0", "PING")
    rig.run()
    assert client.replies == [[[b"s{a}", [[b"1-1", [b"k", b"v"]]]]], None, b"PONG"]
    assert len(ran(rig.nodes[0]) + ran(rig.nodes[1])) <= 6
    assert rig.left_over() == []
