"""The plane's doors: what the control plane brings has been acted upon when the method returns."""

from __future__ import annotations

from slotproxy.protocol.commands import CommandTable
from tests.dataplane.conftest import MakeRig


def test_what_a_method_set_in_motion_is_sent_when_it_returns(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    rig.dialling = False
    client = rig.client()
    a.drop_links()
    client.send("INCR", "{f}")
    rig.run()
    rig.connect()  # no tick
    (link,) = a.open_links()
    assert link.receive() == 1


def test_the_loop_is_told_to_look_again_after_each_entry(make_rig: MakeRig) -> None:
    rig = make_rig()
    calls: list[int] = []
    rig.plane.on_entry = lambda: calls.append(1)
    rig.refresh()
    assert len(calls) == 2  # applied, ended


def test_draining_finishes_what_was_asked_and_takes_nothing_more(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].stopped = True
    busy, idle = rig.client(), rig.client()
    busy.send("INCR", "{f}")
    rig.run()
    finished: list[bool] = []
    assert rig.plane.finish_clients(lambda: finished.append(True)) == 1
    rig.run()
    assert idle.closed
    assert not busy.closed
    busy.send("INCR", "{f}")
    rig.nodes[0].stopped = False
    rig.run()
    assert busy.replies == [1]
    assert busy.closed
    assert finished == [True]
    assert rig.nodes[0].keys == {b"{f}": b"1"}


def test_a_client_that_comes_while_draining_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plane.finish_clients(lambda: None)
    late = rig.client()
    rig.run()
    assert late.closed
    assert rig.plane.client_count() == 0


def test_a_new_command_table_keeps_the_counts(make_rig: MakeRig) -> None:
    rig = make_rig(table=CommandTable.snapshot())
    client = rig.client()
    client.send("GET", "{f}")
    rig.run()
    rig.plane.use_table(CommandTable.snapshot(), "7.2.0")
    client.send("GET", "{f}")
    rig.run()
    get = rig.plane.table.get(b"get")
    assert get is not None
    assert get.calls == 2
    assert rig.plane.server_version == "7.2.0"


def test_figures_of_what_is_parked_and_in_flight(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.dialling = False
    a.drop_links()
    b.stopped = True
    client = rig.client()
    client.send("INCR", "{f}")
    client.send("INCR", "{f}")
    client.send("INCR", "{a}")
    rig.run()
    assert (rig.plane.parked(), rig.plane.in_flight(), rig.plane.client_count()) == (2, 1, 1)
    rig.dialling, b.stopped = True, False
    rig.run()
    assert (rig.plane.parked(), rig.plane.in_flight(), rig.plane.client_count()) == (0, 0, 1)


def test_closing_closes_every_connection(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("INCR", "{f}")
    rig.run_proxy()
    rig.plane.close()
    rig.cluster.serve()
    client.read()
    assert client.closed
    assert [link for node in rig.nodes for link in node.open_links()] == []
    assert all(sock.fileno() < 0 for sock in rig.sockets)
