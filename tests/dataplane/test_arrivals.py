"""Clients that wait for keys of several slots: every element is found at once, once, in order, and at little cost."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.dataplane.asking import do, outside
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import pack
from tests.scripted_node import ScriptedNode, slot_of

F, A = slot_of(b"{f}"), slot_of(b"{a}")  # the first is node A's, the second node B's
KEYS = [f"q{{{tag}}}" for tag in "fabcdegh"]


def waiter(rig: Rig, *command: str) -> ScriptedClient:
    """A client that waits for q{f} and q{a}, or with another command."""
    client = rig.client()
    client.send(*(command or ("BLPOP", "q{f}", "q{a}", "0")))
    rig.run()
    assert client.replies == []
    return client


def node_of(rig: Rig, key: str) -> ScriptedNode:
    node = rig.nodes[0].owner(slot_of(key.encode()))
    assert node is not None
    return node


def asked(rig: Rig) -> Counter[str]:
    """How often each command has come to the nodes."""
    return Counter(words[0].decode() for node in rig.nodes for words in node.received())


def assert_idle(cost: Counter[str], keys: int, seconds: float) -> None:
    """Nothing was asked but that each key's promise was renewed, every five seconds or so."""
    assert set(cost) <= {"EXISTS"}
    assert cost["EXISTS"] <= keys * (seconds / 5 + 1)


# Finding


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("command", ["BLPOP", "BRPOP"])
def test_an_element_is_found_at_once_wherever_it_is(make_rig: MakeRig, command: str, key: str) -> None:
    rig = make_rig()
    client = waiter(rig, command, *KEYS, "0")
    do(rig, "RPUSH", key, "1", "2")
    assert client.replies == [[key.encode(), b"1" if command == "BLPOP" else b"2"]]
    assert do(rig, "LLEN", key) == 1
    assert rig.left_over() == []


def test_what_is_there_already_is_taken_in_the_order_of_the_keys(make_rig: MakeRig) -> None:
    rig = make_rig()
    for key in KEYS[2:]:
        do(rig, "RPUSH", key, "x")
    client = rig.client()
    for _ in KEYS[2:]:
        client.send("BLPOP", *KEYS, "0")
    rig.run()
    assert client.replies == [[key.encode(), b"x"] for key in KEYS[2:]]


def test_a_key_that_is_named_twice_is_waited_for_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig, "BLPOP", "q{f}", "q{a}", "q{f}", "0")
    do(rig, "RPUSH", "q{f}", "x", "y")
    assert client.replies == [[b"q{f}", b"x"]]


def test_a_value_of_another_kind_is_an_error_only_when_it_is_there_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    do(rig, "SET", "s{a}", "1")
    client = rig.client()
    client.send("BLPOP", "q{f}", "s{a}", "0")
    rig.run()
    assert client.errors() == ["WRONGTYPE Operation against a key holding the wrong kind of value"]
    later = waiter(rig, "BLPOP", "q{f}", "q{a}", "0")
    do(rig, "SET", "q{a}", "1")
    rig.advance(20)
    assert later.replies == []
    do(rig, "DEL", "q{a}")
    do(rig, "RPUSH", "q{a}", "x")
    rig.run()
    assert later.replies == [[b"q{a}", b"x"]]


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_comes_between_a_try_and_the_promise_is_missed(make_rig: MakeRig, seed: int) -> None:
    """The element comes between any two steps of the wait's beginning, from outside of the proxy."""
    rig = make_rig()
    chance = random.Random(seed)
    rig.dialling = False
    client = rig.client()
    client.send("BLPOP", "q{f}", "q{a}", "0")
    key = chance.choice(["q{f}", "q{a}"])
    node = node_of(rig, key)
    before = chance.randrange(20)
    for number in range(60):
        if number == before:
            outside(node, "RPUSH", key, "x")
        if rig.control.dials and chance.random() < 0.3:
            rig.connect_lane(rig.control.dials.pop(0))
        rig.run_proxy(1)
        links = [link for one in rig.nodes for link in one.open_links()]
        link = chance.choice(links)
        link.receive()
        if link.can_execute() and chance.random() < 0.8:
            link.execute()
        chance.choice(links).send()
    rig.dialling = True
    rig.run()
    assert client.replies == [[key.encode(), b"x"]]  # no time has passed
    rig.advance(10)
    assert rig.left_over() == []


@pytest.mark.parametrize("seed", range(10))
def test_each_element_is_taken_once_and_in_order_with_one_pop_under_way(make_rig: MakeRig, seed: int) -> None:
    rig = make_rig()
    chance = random.Random(seed)
    rig.dialling = False
    clients = [rig.client() for _ in range(6)]
    for client in clients:
        for _ in range(10):
            client.send("BLPOP", *chance.sample(KEYS[:4], chance.randint(2, 4)), "0")
    pushed: dict[str, int] = dict.fromkeys(KEYS[:4], 0)
    for _ in range(1500):
        rig.clock.now += chance.choice([0.0, 0.0, 0.002, 0.02])
        key = chance.choice(KEYS[:4])
        if chance.random() < 0.05 and sum(pushed.values()) < 60:
            pushed[key] += 1
            outside(node_of(rig, key), "RPUSH", key, pushed[key])
        if rig.control.dials:
            rig.connect_lane(rig.control.dials.pop(0))
        rig.run_proxy(1)
        under_way = [
            (request.client.id if request.split is None else request.split.owner.client.id, request.raw)
            for node in rig.plane.router.territory.nodes.values()
            for lane in node.lanes
            for request in lane.fifo.all()
            if b"LPOP" in request.raw
        ]
        assert len({client for client, _ in under_way}) == len(under_way)
        assert len({raw for _, raw in under_way}) == len(under_way)
        link = chance.choice([link for one in rig.nodes for link in one.open_links()])
        link.receive()
        while link.can_execute() and chance.random() < 0.7:
            link.execute()
        link.send()
        for client in clients:
            client.read()
    rig.dialling = True
    for key in KEYS[:4]:
        while pushed[key] < 60:
            pushed[key] += 1
            outside(node_of(rig, key), "RPUSH", key, pushed[key])
            rig.run()
    popped = [entry for node in rig.nodes for entry in node.executed if entry.words[0] in (b"LPOP", b"BLPOP")]
    assert all(len(client.replies) == 10 for client in clients)
    got = Counter((key, element) for client in clients for key, element in client.replies)
    assert set(got.values()) == {1}
    for key in KEYS[:4]:
        taken = [entry.reply for entry in popped if entry.words[1] == key.encode() and entry.reply[:1] != b"*"]
        numbers = [int(reply.split(b"\r\n")[1]) for reply in taken if reply != b"$-1\r\n"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) == sum(1 for name, _ in got if name == key.encode())


def test_who_waits_longest_is_served_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    clients = [waiter(rig) for _ in range(5)]
    for number, client in enumerate(clients):
        do(rig, "RPUSH", "q{a}" if number % 2 else "q{f}", str(number))
        assert [element for _, element in client.replies] == [str(number).encode()]
    clients = [waiter(rig) for _ in range(5)]
    do(rig, "RPUSH", "q{a}", *"01234")
    assert [client.replies for client in clients] == [[[b"q{a}", str(n).encode()]] for n in range(5)]


def test_a_waiter_that_leaves_does_not_hold_up_those_behind_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second = waiter(rig), waiter(rig)
    b = rig.nodes[1]
    outside(b, "RPUSH", "q{a}", "x")
    b.stopped = True
    link = rig.tracking_link(b)
    for _ in range(3):
        link.receive()
        while link.can_execute():
            link.execute()
        link.send()
        rig.run()
    first.vanish()  # its pop is sent, not executed: what it takes is lost, as with one server
    rig.run()
    b.stopped = False
    rig.run()
    outside(b, "RPUSH", "q{a}", "y")
    rig.run()
    assert [element for _, element in second.replies] in ([b"x"], [b"y"])
    rig.advance(10)
    assert rig.left_over() == []


# Cost


def test_an_idle_waiter_costs_a_request_per_key_and_five_seconds(make_rig: MakeRig) -> None:
    rig = make_rig()
    waiter(rig, "BLPOP", *KEYS, "0")
    rig.advance(5)
    before = asked(rig)
    rig.advance(60)
    cost = asked(rig) - before
    assert_idle(cost, len(KEYS), 60)
    assert cost["EXISTS"] >= 11 * len(KEYS)


@pytest.mark.parametrize("keys", [2, 3, 8])
def test_few_keys_cost_no_more_each_than_many(make_rig: MakeRig, keys: int) -> None:
    rig = make_rig()
    waiter(rig, "BLPOP", *KEYS[:keys], "0")
    rig.advance(10)
    before = asked(rig)
    rig.advance(60)
    assert_idle(asked(rig) - before, keys, 60)


def test_many_waiters_at_one_key_cost_no_more_than_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    for _ in range(50):
        waiter(rig, "BLPOP", *KEYS, "0")
    rig.advance(5)
    before = asked(rig)
    rig.advance(60)
    assert 0 < (asked(rig) - before).total() <= 13 * len(KEYS)
    before = asked(rig)
    do(rig, "RPUSH", "q{a}", "x")
    cost = asked(rig) - before
    assert cost["LPOP"] <= 3  # not one for each waiter
    assert cost["EXISTS"] <= 4


def test_a_key_that_changes_without_an_element_for_anybody_is_not_asked_again_and_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    waiter(rig)
    do(rig, "SET", "q{f}", "x")
    rig.advance(1)
    before = asked(rig)
    rig.advance(60)
    assert (asked(rig) - before).total() <= 2 * 13 * 2


def test_when_nobody_waits_any_more_nothing_is_asked(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig)
    client.vanish()
    rig.advance(10)
    before = asked(rig)
    rig.advance(60)
    assert asked(rig) == before


# Promises that end


def test_while_the_node_promises_nothing_it_is_tried_twenty_times_a_second(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig)
    rig.dialling = False
    for node in rig.nodes:
        rig.tracking_link(node).drop()
    rig.run()
    before = asked(rig)["LPOP"]
    rig.advance(10, step=0.01)
    assert 2 * 10 / 0.05 * 0.8 <= asked(rig)["LPOP"] - before <= 2 * 10 / 0.05 * 1.1
    outside(rig.nodes[1], "RPUSH", "q{a}", "x")
    rig.advance(0.05, step=0.01)
    assert client.replies == [[b"q{a}", b"x"]]
    rig.dialling = True
    rig.advance(10)
    assert rig.left_over() == []


def test_with_a_new_connection_the_node_promises_anew(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig)
    rig.tracking_link(rig.nodes[1]).drop()
    rig.run()
    before = asked(rig)
    rig.advance(2)
    assert_idle(asked(rig) - before, 2, 2)
    outside(rig.nodes[1], "RPUSH", "q{a}", "x")
    rig.run()
    assert client.replies == [[b"q{a}", b"x"]]


def test_what_comes_while_the_promise_is_lost_with_its_connection_is_found(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig)
    b = rig.nodes[1]
    rig.tracking_link(b).drop()
    outside(b, "RPUSH", "q{a}", "x")
    rig.run()
    assert client.replies == [[b"q{a}", b"x"]]


def test_a_silent_loss_of_a_promise_is_noticed_within_five_seconds(make_rig: MakeRig) -> None:
    """Nodes may forget what they track (tracking-table-max-keys)."""
    rig = make_rig()
    client = waiter(rig)
    rig.tracking_link(rig.nodes[1]).memory.tracked.clear()
    outside(rig.nodes[1], "RPUSH", "q{a}", "x")
    rig.advance(5.1)
    assert client.replies == [[b"q{a}", b"x"]]


def test_flushall_asks_for_all_promises_anew(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig, "BLPOP", *KEYS, "0")
    do(rig, "SET", "x{f}", "1")
    do(rig, "FLUSHALL")
    rig.run()
    before = asked(rig)
    rig.advance(3)
    assert_idle(asked(rig) - before, len(KEYS), 3)
    outside(node_of(rig, KEYS[5]), "RPUSH", KEYS[5], "x")
    rig.run()
    assert client.replies == [[KEYS[5].encode(), b"x"]]


# Slots that move


def test_an_element_at_the_target_of_a_migration_is_found_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = waiter(rig)
    rig.cluster.migration(F, a, b)
    do(rig, "RPUSH", "q{f}", "x")  # ASK
    assert client.replies == [[b"q{f}", b"x"]]


def test_an_element_that_another_proxy_pushed_to_the_target_is_found_within_five_seconds(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = waiter(rig)
    rig.cluster.migration(F, a, b)
    sock = b.connect()
    sock.send(pack("ASKING") + pack("RPUSH", "q{f}", "x"))
    rig.advance(5.1)
    sock.close()
    assert client.replies == [[b"q{f}", b"x"]]


def test_an_element_that_is_moved_before_it_was_seen_is_found(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = waiter(rig)
    migration = rig.cluster.migration(F, a, b)
    rig.tracking_link(a).memory.tracked.clear()
    a.migrating.clear()
    outside(a, "RPUSH", "q{f}", "x")
    a.migrating[F] = b
    migration.finish()
    rig.advance(5.1)
    assert client.replies == [[b"q{f}", b"x"]]


@pytest.mark.parametrize("source_first", [False, True])
def test_elements_are_found_before_during_and_after_a_migration(make_rig: MakeRig, source_first: bool) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    for _ in range(5):
        client.send("BLPOP", "q{f}", "q{a}", "0")
    do(rig, "RPUSH", "q{f}", "1")
    migration = rig.cluster.migration(F, a, b)
    do(rig, "RPUSH", "q{f}", "2")
    do(rig, "RPUSH", "q{f}", "3")
    migration.finish(source_first)
    do(rig, "RPUSH", "q{f}", "4")
    rig.advance(5)
    do(rig, "RPUSH", "q{f}", "5")
    rig.run()
    assert [element for _, element in client.replies] == [b"1", b"2", b"3", b"4", b"5"]
    rig.advance(70)
    assert rig.left_over() == []


def test_a_slot_that_is_not_served_does_not_keep_the_others_elements_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = waiter(rig)
    a.down = True
    do(rig, "PING")
    outside(a, "PING")
    rig.advance(6)  # its promise is asked for again, and refused
    do(rig, "RPUSH", "q{a}", "x")
    rig.advance(1, step=0.05)
    assert client.replies == [[b"q{a}", b"x"]]


def test_a_slot_that_is_not_served_does_not_make_the_wait_longer(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].down = True
    client = rig.client()
    client.send("BLPOP", "q{f}", "q{a}", "2")
    rig.advance(3, step=0.05)
    assert len(client.replies) == 1


def test_a_wait_is_over_in_time(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = waiter(rig, "BLPOP", "q{f}", "q{a}", "1.5")
    rig.advance(1.4, step=0.05)
    assert client.replies == []
    rig.advance(0.11, step=0.05)
    assert client.raw == b"*-1\r\n"
    assert rig.left_over() == []
