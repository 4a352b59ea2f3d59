"""How a wait in a blocking command ends from outside: CLIENT UNBLOCK, a client that leaves, a proxy that drains.

A blocked client is in one of these states, and each end is tried in each of them: `leasing` (its connection is being
made), `node` (it waits at its node), `trying` (here, and a pop is on its way), `here` (and nothing is on its way).
"""

from __future__ import annotations

import pytest

from tests.dataplane.asking import do, outside, ran, send_at_once
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import error, pack
from tests.scripted_node import ScriptedNode, slot_of

F = slot_of(b"{f}")
STATES = ("leasing", "node", "trying", "here")
UNBLOCKED = "UNBLOCKED client unblocked via CLIENT UNBLOCK"


class Waiting:
    """A client that waits for q{f} (or, when not at the node, for it and q{a}) in the given state."""

    def __init__(self, rig: Rig, state: str, behind: str = "") -> None:
        self.rig = rig
        self.state = state
        self.other = rig.client()
        self.client = rig.client()
        self.id = len(rig.clients)
        if state == "leasing":
            rig.dialling = False
        command = "BLPOP q{f} 0" if state in ("leasing", "node") else "BLPOP q{f} q{a} 0"
        send_at_once(self.client, command, *([behind] if behind else []))
        rig.run()
        if state == "trying":
            self._have_it_try(rig.nodes[1])
        assert self.client.replies == []

    def _have_it_try(self, node: ScriptedNode) -> None:
        """There is an element; until the pop comes to the node, somebody else has taken it."""
        node.stopped = True
        outside(node, "RPUSH", "q{a}", "x")
        link = self.rig.tracking_link(node)
        for _ in range(3):  # told, looked at
            link.receive()
            while link.can_execute():
                link.execute()
            link.send()
            self.rig.run()
        outside(node, "LPOP", "q{a}")
        lane = self.rig.plane.router.territory.nodes[node.id].lanes[0]
        assert [request.raw for request in lane.fifo.all()] == [pack("LPOP", "q{a}")]

    def go_on(self) -> None:
        """What was held up happens."""
        self.rig.nodes[1].stopped = False
        self.rig.dialling = True
        self.rig.run()

    def unblock(self, *how: str) -> ScriptedClient:
        client = self.rig.client()
        client.send("CLIENT", "UNBLOCK", self.id, *how)
        self.rig.run()
        return client

    def nobody_waits(self) -> bool:
        return not any(node.waiting for node in self.rig.nodes)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["", "TIMEOUT", "ERROR"])
def test_unblocked_by_another_client(make_rig: MakeRig, state: str, how: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state, behind="INCR n{c}")
    unblocker = waiting.unblock(*([how] if how else []))
    if state == "trying":
        assert unblocker.replies == []  # nobody knows yet
        waiting.go_on()
    rig.run()
    assert unblocker.replies == [1]
    if how == "ERROR":
        assert waiting.client.errors() == [UNBLOCKED]
    else:
        assert waiting.client.raw.startswith(b"*-1\r\n")
    assert waiting.client.replies[1:] == [1]
    waiting.go_on()
    assert waiting.nobody_waits()
    assert do(rig, "RPUSH", "q{f}", "y") == 1
    assert do(rig, "RPUSH", "q{a}", "z") == 1
    rig.advance(3)
    assert len(waiting.client.replies) == 2
    assert do(rig, "LLEN", "q{f}") == do(rig, "LLEN", "q{a}") == 1
    assert rig.left_over() == []


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
def test_what_arrived_before_it_was_unblocked_at_the_node_is_delivered(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    waiting = Waiting(rig, "node")
    a.holding = True
    waiting.other.send("RPUSH", "q{f}", "x")
    rig.run()
    unblocker = waiting.unblock(how)
    a.holding = False
    rig.run()
    assert waiting.client.replies == [[b"q{f}", b"x"]]
    assert unblocker.replies == [0]
    assert rig.left_over() == []


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
def test_what_a_try_found_while_it_was_unblocked_is_delivered(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    b = rig.nodes[1]
    waiting = Waiting(rig, "here")
    b.holding = True
    waiting.other.send("RPUSH", "q{a}", "x")
    rig.advance(0.06, step=0.01)  # the invalidation, or the try without one
    for link in b.open_links():
        if link is rig.tracking_link(b):
            link.send()
    rig.advance(0.06, step=0.01)
    unblocker = waiting.unblock(how)
    b.holding = False
    rig.advance(0.1, step=0.01)
    if [command for command in ran(b) if command == "LPOP q{a}"] and waiting.client.replies == [[b"q{a}", b"x"]]:
        assert unblocker.replies == [0]
    else:
        assert unblocker.replies == [1]
        assert do(rig, "LLEN", "q{a}") == 1


@pytest.mark.parametrize("state", STATES)
def test_the_second_one_who_unblocks_is_told_that_there_is_nothing_to_unblock(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state)
    first, second = rig.client(), rig.client()
    for client in (first, second):
        client.send("CLIENT", "UNBLOCK", waiting.id)
    waiting.go_on()
    rig.advance(1, step=0.1)
    assert (first.replies, second.replies) == ([1], [0])
    assert waiting.client.raw == b"*-1\r\n"
    assert do(rig, "CLIENT", "UNBLOCK", str(waiting.id)) == 0
    assert do(rig, "CLIENT", "UNBLOCK", "999") == 0


def test_unblocking_twice_in_one_write(make_rig: MakeRig) -> None:
    rig = make_rig()
    waiting = Waiting(rig, "here")
    unblocker = rig.client()
    send_at_once(unblocker, f"CLIENT UNBLOCK {waiting.id}", f"CLIENT UNBLOCK {waiting.id}")
    rig.run()
    assert unblocker.replies == [1, 0]


def test_unblocking_a_command_that_the_node_has_not_read_yet(make_rig: MakeRig) -> None:
    """The two travel on different connections: the node may read CLIENT UNBLOCK first, and says that nothing blocks."""
    rig = make_rig()
    a, _ = rig.nodes
    waiting = Waiting(rig, "node")
    do(rig, "RPUSH", "q{f}", "x")  # its connection stays
    assert waiting.client.replies == [[b"q{f}", b"x"]]
    waiting.client.send("BLPOP", "q{f}", "0")
    rig.run_proxy()
    unblocker = rig.client()
    unblocker.send("CLIENT", "UNBLOCK", waiting.id)
    rig.run_proxy()
    exclusive = set(rig.exclusive_links(a))
    for link in a.open_links():  # the shared connections first
        if link not in exclusive:
            link.receive()
            while link.can_execute():
                link.execute()
            link.send()
    rig.advance(1, step=0.1)
    assert unblocker.replies == [1]
    assert waiting.client.replies[1:] == [None]
    assert waiting.nobody_waits()


def test_trouble_with_a_command_that_the_node_has_not_read_yet(make_rig: MakeRig) -> None:
    """As above: it must not be left waiting at a node that its slot is leaving."""
    rig = make_rig()
    a, b = rig.nodes
    waiting = Waiting(rig, "node")
    do(rig, "RPUSH", "q{f}", "x")
    waiting.client.send("BLPOP", "q{f}", "0")
    rig.run_proxy()
    (late,) = rig.exclusive_links(a)

    def serve_shared() -> None:
        for link in a.open_links():
            if link is not late:
                link.receive()
                while link.can_execute():
                    link.execute()
                link.send()

    late.receive()
    held = list(late.inbox)
    late.inbox.clear()
    rig.cluster.migration(F, a, b)
    waiting.other.send("INCR", "n{f}")
    for _ in range(5):
        rig.run_proxy()
        serve_shared()  # ASK, then CLIENT UNBLOCK
    rig.cluster.own(F, a)  # the command comes to the source just before the slot migrates
    late.inbox.extend(held)
    late.execute()
    rig.cluster.migration(F, a, b)
    rig.run()
    assert do(rig, "RPUSH", "q{f}", "y") == 1
    rig.advance(1, step=0.1)
    assert waiting.client.replies[1:] == [[b"q{f}", b"y"]]


@pytest.mark.parametrize("state", STATES)
def test_a_client_that_leaves_takes_nothing_any_more(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state)
    waiting.client.vanish()
    rig.tick()  # at once
    assert rig.plane.blocked.count == 0
    assert rig.plane.exclusives.leased() == 0
    rig.run()
    assert waiting.nobody_waits()
    waiting.go_on()
    assert do(rig, "RPUSH", "q{f}", "y") == 1
    assert do(rig, "RPUSH", "q{a}", "z") == 1
    rig.advance(3)
    assert do(rig, "LLEN", "q{f}") == do(rig, "LLEN", "q{a}") == 1
    rig.advance(20)
    assert rig.left_over() == []


def test_its_connection_is_closed_in_the_tick_in_which_the_client_leaves(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    waiting = Waiting(rig, "node")
    (link,) = a.waiting
    waiting.client.vanish()
    rig.tick()
    link.receive()
    assert link.closed
    assert a.waiting == []


@pytest.mark.parametrize("state", STATES)
def test_a_client_that_closes_its_sending_side_has_left(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state)
    waiting.client.finish()
    rig.run()
    waiting.go_on()
    assert waiting.client.closed
    assert waiting.nobody_waits()
    rig.advance(20)
    assert rig.left_over() == []


@pytest.mark.parametrize("state", STATES)
def test_a_killed_client_takes_nothing_any_more(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state)
    assert do(rig, "CLIENT", "KILL", "ID", str(waiting.id)) == 1
    waiting.go_on()
    assert waiting.client.closed
    assert waiting.nobody_waits()
    assert do(rig, "RPUSH", "q{f}", "y") == 1
    rig.advance(20)
    assert do(rig, "LLEN", "q{f}") == 1
    assert rig.left_over() == []


def test_what_a_client_sent_behind_a_wait_is_not_run_when_it_leaves(make_rig: MakeRig) -> None:
    rig = make_rig()
    waiting = Waiting(rig, "node", behind="INCR n{f}")
    waiting.client.vanish()
    rig.run()
    assert do(rig, "GET", "n{f}") is None


@pytest.mark.parametrize("state", STATES)
def test_a_proxy_that_drains_ends_the_wait(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    waiting = Waiting(rig, state)
    finished: list[bool] = []
    rig.plane.finish_clients(lambda: finished.append(True))
    waiting.go_on()
    rig.run()
    assert finished == [True]
    assert waiting.client.closed
    assert waiting.client.replies == []
    assert waiting.nobody_waits()
    assert rig.plane.client_count() == 0
    assert rig.plane.exclusives.leased() == 0


def test_what_arrives_while_the_proxy_drains_is_delivered(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    waiting = Waiting(rig, "node")
    a.holding = True
    waiting.other.send("RPUSH", "q{f}", "x")
    rig.run()
    rig.plane.finish_clients(lambda: None)
    a.holding = False
    rig.run()
    assert waiting.client.replies == [[b"q{f}", b"x"]]
    assert waiting.client.closed


def test_a_drain_ends_what_its_node_alone_can_read(make_rig: MakeRig) -> None:
    rig = make_rig()
    waits_on_unknown_terms(rig, rig.nodes[0])
    finished: list[bool] = []
    rig.plane.finish_clients(lambda: finished.append(True))
    rig.run()
    assert finished == [True]


def waits_on_unknown_terms(rig: Rig, node: ScriptedNode) -> ScriptedClient:
    """A client whose command only its node understands, and waits with."""
    client = rig.client()
    client.send("BLPOP", "q{f}", "0x10")  # a number to strtold
    rig.run()
    return client


@pytest.mark.parametrize("refusal", ["TRYAGAIN Multiple keys", "CLUSTERDOWN The cluster is down", "MOVED"])
def test_what_is_refused_when_its_client_has_left_is_not_tried_again(make_rig: MakeRig, refusal: str) -> None:
    """Else the element that comes later would be popped for nobody."""
    rig = make_rig()
    a, b = rig.nodes
    waiting = Waiting(rig, "trying")
    if refusal == "MOVED":
        migration = rig.cluster.migration(slot_of(b"{a}"), b, a)
        migration.move()
        migration.finish()
    else:
        b.answer("LPOP", error(refusal))
    waiting.client.vanish()
    rig.tick()
    waiting.go_on()
    assert do(rig, "RPUSH", "q{a}", "element") == 1
    rig.advance(5)
    assert do(rig, "LLEN", "q{a}") == 1
    rig.advance(20)
    assert rig.left_over() == []
