"""What a change of the map may let loose: nothing, before the new owner has shown that it is one."""

from __future__ import annotations

from tests.dataplane.conftest import MakeRig
from tests.scripted_node import slot_of

F = slot_of(b"{f}")


def test_an_owner_named_by_a_refresh_gets_one_command_until_it_has_accepted_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = rig.client()
    a.owners[F] = b  # the source is finalised first; the target does not know yet and answers MOVED
    rig.refresh(a)
    for _ in range(3):
        client.send("INCR", "{f}")
    rig.run_proxy()
    assert rig.plane.in_flight() == 1
    b.owners[F] = b
    rig.advance(2)
    assert client.replies == [1, 2, 3]
    assert rig.left_over() == []


def test_the_first_view_of_all_holds_nobody_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    for _ in range(3):
        client.send("INCR", "{f}")
    rig.run_proxy()
    assert rig.plane.in_flight() == 3
