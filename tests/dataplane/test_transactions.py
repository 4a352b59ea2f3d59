"""Transactions on the connections that clients share: one unit, whatever the node answers, never half of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.dataplane.asking import block, names, ran, send_block, step
from tests.dataplane.conftest import MakeRig
from tests.scripted_frames import error, pack
from tests.scripted_node import ScriptedNode, slot_of

F = slot_of(b"{f}")
QUEUED = b"QUEUED"
NOPERM_MULTI = error("NOPERM this user has no permissions to run the 'multi' command")


def units(node: ScriptedNode) -> list[list[list[bytes]]]:
    """What came between each MULTI and its EXEC, connection by connection. Fails on anything half."""
    found: list[list[list[bytes]]] = []
    for link in node.links:
        inside: list[list[bytes]] | None = None
        for words in link.received:
            if words[0] == b"MULTI":
                assert inside is None, "MULTI inside a block"
                inside = []
            elif words[0] == b"EXEC":
                assert inside is not None, "EXEC without MULTI"
                found.append(inside)
                inside = None
            elif inside is not None:
                inside.append(words)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_nothing_of_other_clients_stands_between_multi_and_exec(make_rig: MakeRig, seed: int) -> None:
    rig = make_rig(2)
    chance = random.Random(seed)
    talkers = [rig.client() for _ in range(5)]
    streams = []
    for number, _ in enumerate(talkers):
        data = b""
        for serial in range(20):
            key = f"{number}:{{f}}"
            data += pack("INCR", key) if chance.random() < 0.5 else block(f"INCR {key}", f"SET s{key} {serial}")
        streams.append(data)
    while any(streams):
        number = chance.choice([number for number, data in enumerate(streams) if data])
        size = chance.randint(1, 200)
        talkers[number].send_bytes(streams[number][:size])
        streams[number] = streams[number][size:]
        if chance.random() < 0.5:
            rig.run_proxy(1)
    rig.run()
    for number, client in enumerate(talkers):
        counted = [reply if isinstance(reply, int) else reply[0] for reply in client.replies if not is_word(reply)]
        assert counted == list(range(1, 21))
        assert client.errors() == []
        mine = [unit for unit in units(rig.nodes[0]) if unit[0][1] == f"{number}:{{f}}".encode()]
        assert len(mine) == client.replies.count(b"OK")
    for unit in units(rig.nodes[0]):
        assert [words[0] for words in unit] == [b"INCR", b"SET"]
        assert unit[1][1] == b"s" + unit[0][1]
    assert rig.left_over() == []


def is_word(reply: Any) -> bool:
    return isinstance(reply, bytes)


def test_large_blocks_are_one_unit_over_many_sends(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second = rig.client(), rig.client()
    end = rig.node_end(rig.nodes[0])
    end.room = 1000
    value = "x" * 100_000
    send_block(first, f"SET 1{{f}} {value}", f"SET 2{{f}} {value}", f"SET 3{{f}} {value}")
    rig.run_proxy()
    second.send("INCR", "{f}")
    for _ in range(20):
        rig.run()
        end.room = 50_000
    assert first.replies[-1] == [b"OK"] * 3
    assert second.replies == [1]
    assert len(units(rig.nodes[0])) == 1


# Redirects


def test_a_block_follows_ask_as_a_whole(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.migration(F, a, b)
    client = rig.client()
    client.send("INCR", "{f}")
    send_block(client, "INCR {f}", "INCR {f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies == [1, b"OK", QUEUED, QUEUED, [2, 3], 4]
    assert ran(a) == []
    assert ran(b) == ["INCR {f}"] * 4
    received = [words[0] for words in b.received()]
    assert received[2:7] == [b"ASKING", b"MULTI", b"INCR", b"INCR", b"EXEC"]
    assert rig.owner(F) == "A"


def test_a_block_follows_moved_at_queueing(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.own(F, b)
    client = rig.client()
    send_block(client, "INCR {f}", "INCR 2{f}")
    client.send("INCR", "{f}")
    rig.run()
    assert client.replies[-2:] == [[1, 1], 2]
    assert ran(a) == []
    assert rig.owner(F) == "B"


@pytest.mark.parametrize("how", ["ask", "moved"])
def test_a_block_whose_keys_leave_between_queueing_and_exec_is_replayed(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys[b"{f}"] = b"5"
    client = rig.client()
    migration = rig.cluster.migration(F, a, b)
    send_block(client, "INCR {f}", "INCR {f}")
    client.send("INCR", "{f}")
    rig.run_proxy()
    step(rig.link_used_by(client, a), 3)  # MULTI and both commands
    migration.move()
    if how == "moved":
        migration.finish()
    rig.run()
    assert client.replies == [b"OK", QUEUED, QUEUED, [6, 7], 8]
    assert ran(a) == []
    assert (rig.ask > 0, rig.moved > 0) == (how == "ask", how == "moved")


@pytest.mark.parametrize("order", ["ask", "tryagain"])
def test_a_block_whose_keys_are_parted_backs_off_until_they_are_together(make_rig: MakeRig, order: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys.update({b"1{f}": b"1", b"2{f}": b"1"})
    migration = rig.cluster.migration(F, a, b)
    migration.move(b"2{f}" if order == "ask" else b"1{f}")
    client = rig.client()
    send_block(client, "INCR 1{f}", "INCR 2{f}")
    client.send("INCR", "1{f}")
    rig.advance(0.5)
    assert client.replies == [b"OK", QUEUED, QUEUED]
    assert ran(a) == ran(b) == []
    migration.move()
    rig.advance(0.5)
    assert client.replies[3:] == [[2, 2], 3]
    assert ran(b) == ["INCR 1{f}", "INCR 2{f}", "INCR 1{f}"]
    assert 1 <= rig.plane.counters.tryagain < 60


def test_a_block_that_is_never_together_ends_at_the_deadline(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=5.0)
    a, b = rig.nodes
    a.keys[b"1{f}"] = b"1"
    rig.cluster.migration(F, a, b)
    client = rig.client()
    send_block(client, "INCR 1{f}", "INCR none{f}")
    rig.advance(6)
    (message,) = client.errors()
    assert message.startswith(f"ERR slotproxy: not served: slot {F} ")
    assert ran(a) == ran(b) == []


@pytest.mark.parametrize("state", ["down", "loading"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_block_that_is_refused_for_a_while_runs_once(make_rig: MakeRig, state: str, at: int) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {f}")
    client.send("INCR", "{f}")
    rig.run_proxy()
    step(rig.link_used_by(client, a), at)
    setattr(a, state, True)
    rig.advance(0.5)
    assert client.replies == [b"OK", QUEUED, QUEUED]
    setattr(a, state, False)
    rig.advance(2)
    assert client.replies[3:] == [[1, 2], 3]
    assert ran(a) == ["INCR {f}"] * 3
    assert rig.left_over() == []


@pytest.mark.parametrize(
    "refusal", ["READONLY You can't write against a read only replica.", "MASTERDOWN Link with MASTER is down"]
)
def test_what_exec_is_refused_for_in_the_text_of_an_abort_passes_too(make_rig: MakeRig, refusal: str) -> None:
    rig = make_rig()
    client = rig.client()
    rig.nodes[0].answer("EXEC", error(f"EXECABORT Transaction discarded because of: {refusal}"))
    send_block(client, "INCR {f}")
    client.send("INCR", "{f}")
    rig.advance(2)
    assert client.replies[2:] == [[1], 2]


def test_what_will_not_pass_is_an_abort_with_its_reason(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    denied = error("NOPERM this user has no permissions to run the 'incr' command")
    rig.nodes[0].answer("INCR", denied)
    send_block(client, "SET {f} 1", "INCR {f}")
    client.send("GET", "{f}")
    rig.run()
    assert client.errors() == [f"EXECABORT Transaction discarded because of: {denied[1:-2].decode()}"]
    assert client.replies[-1] is None


# Order


@pytest.mark.parametrize("refuse", ["ask", "moved", "tryagain", "down"])
def test_nothing_of_its_slot_overtakes_a_block(make_rig: MakeRig, refuse: str) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    if refuse == "moved":
        rig.cluster.own(F, b)
    elif refuse == "down":
        a.down = True
    else:
        a.keys[b"m{f}"] = b"0"
        migration = rig.cluster.migration(F, a, b)
    data = b""
    for _ in range(5):
        both = "INCR m{f}" if refuse == "tryagain" else "INCR n{f}"
        data += pack("INCR", "n{f}") + block("INCR n{f}", both) + pack("INCR", "n{f}")
    client.send_bytes(data)
    rig.advance(0.3)
    if refuse == "down":
        a.down = False
    elif refuse == "tryagain":
        migration.finish()
    rig.advance(5)
    counted: list[int] = []
    for reply in client.replies:
        if isinstance(reply, int):
            counted.append(reply)
        elif isinstance(reply, list):
            counted += reply[:1] if refuse == "tryagain" else reply
    assert counted == list(range(1, 16 if refuse == "tryagain" else 21))
    assert client.errors() == []


def test_another_slots_commands_do_not_wait_for_a_block(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.stopped = True
    client = rig.client()
    send_block(client, "INCR {f}")
    client.send("INCR", "{a}")
    rig.run()
    assert ran(b) == ["INCR {a}"]
    assert client.replies == [b"OK", QUEUED]
    a.stopped = False
    rig.run()
    assert client.replies[2:] == [[1], 1]


# Lost connections


def test_a_block_whose_exec_was_not_sent_whole_is_sent_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    raw = block("INCR {f}", "INCR {f}")
    for missing in (1, len(pack("EXEC")), len(raw) - 1, len(raw)):
        a.keys.clear()
        rig.node_end(a).room = len(raw) - missing
        client.send_bytes(raw)
        rig.run_proxy()
        a.drop_links()
        rig.advance(1)
        assert client.replies[-1] == [1, 2], missing
    assert rig.plane.counters.in_doubt == 0
    assert rig.left_over() == []


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("at", ["MULTI", "INCR", "EXEC"])
def test_a_block_that_was_sent_whole_is_in_doubt(make_rig: MakeRig, at: str, runs: bool) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    client = rig.client()
    a.drop_at(at, runs=runs)
    send_block(client, "INCR {f}")
    client.send("INCR", "{f}")
    rig.advance(1)
    (message, *_) = client.errors()
    assert message.startswith("ERR slotproxy: in doubt: EXEC ")
    ran_once = at == "EXEC" and runs
    assert a.keys.get(b"{f}") in ((b"1", b"2") if ran_once else (None, b"1"))
    assert rig.plane.counters.in_doubt == len(client.errors())
    assert rig.left_over() == []


def test_a_client_that_leaves_after_exec_has_run_its_block(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {f}")
    rig.run_proxy()
    client.vanish()
    rig.run()
    assert ran(rig.nodes[0]) == ["INCR {f}"] * 2
    assert rig.left_over() == []


# Permissions


def test_where_multi_is_denied_it_is_said_at_multi_and_commands_run_singly(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.denied = NOPERM_MULTI
    for node in rig.nodes:
        node.drop_links()
    rig.advance(1)
    client = rig.client()
    send_block(client, "INCR {f}")
    rig.run()
    assert client.errors() == [NOPERM_MULTI[1:-2].decode(), "ERR EXEC without MULTI"]
    assert client.replies[1] == 1
    assert "MULTI" not in names(rig.nodes[0])


def test_a_node_that_denies_multi_of_a_sudden_leaves_the_block_in_doubt(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    a.answer("MULTI", NOPERM_MULTI)
    client = rig.client()
    send_block(client, "INCR {f}", "INCR {f}")
    client.send("INCR", "{f}")
    rig.run()
    (message,) = client.errors()
    assert message.startswith(f"ERR slotproxy: in doubt: node {a.address} did not run the commands as one transaction")
    assert NOPERM_MULTI[1:-2].decode() in message.replace("\\'", "'")
    assert client.replies[-1] == 3


def test_blocks_of_many_clients_on_several_connections_each_count_once(make_rig: MakeRig) -> None:
    rig = make_rig(2, lanes=2)
    clients = [rig.client() for _ in range(4)]
    for number, client in enumerate(clients):
        for _ in range(10):
            send_block(client, f"INCR {number}{{f}}", "INCR all{f}")
    rig.run()
    totals = [reply[1] for client in clients for reply in client.replies if isinstance(reply, list)]
    assert sorted(totals) == list(range(1, 41))
    for client in clients:
        assert [reply[0] for reply in client.replies if isinstance(reply, list)] == list(range(1, 11))
