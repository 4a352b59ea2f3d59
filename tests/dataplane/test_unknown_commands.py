"""A command that the table lacks: the table is read again, not too often, and nothing overtakes it."""

from __future__ import annotations

from slotproxy.protocol.commands import CommandTable
from tests.dataplane.asking import send_at_once
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import TABLE


def table_with_more() -> CommandTable:
    """The usual table, and the command of a module."""
    entry = [b"module.append", 3, [b"write", b"module"], 1, 1, 1, [], [], [], []]
    entries = [command.info for command in TABLE.commands() if isinstance(command.info, list)]
    return CommandTable.from_reply([*entries, entry], "7.0.15")


def test_a_command_that_the_nodes_have_learnt_works_once_the_table_is_read(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.next_table = table_with_more()
    client = rig.client()
    send_at_once(client, "INCR {f}", "MODULE.APPEND {f} x", "GET {f}", "DBSIZE")
    rig.run()
    assert client.replies == [1, 2, b"1x", 1]
    assert rig.control.table_reads_in_all == 1
    assert rig.left_over() == []


def test_the_table_is_read_once_a_minute_at_most_and_once_for_all_who_wait(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.table_is_read = False
    clients = [rig.client() for _ in range(3)]
    for client in clients:
        send_at_once(client, "PING", "NOSUCH", "PING")
    rig.run()
    assert [client.replies for client in clients] == [[b"PONG"]] * 3
    assert rig.control.table_reads_in_all == 1
    rig.read_table()
    rig.run()
    for client in clients:
        assert "unknown command 'NOSUCH'" in client.errors()[0] and client.replies[2] == b"PONG"
    rig.table_is_read = True
    for seconds, reads in ((0, 1), (59, 1), (2, 2), (1, 2)):
        rig.advance(seconds)
        clients[0].send("NOSUCH")
        rig.run()
        assert rig.control.table_reads_in_all == reads
    assert len(clients[0].errors()) == 5
    assert rig.left_over() == []


def test_who_waits_for_the_table_can_be_killed_and_paused_and_drained(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.table_is_read = False
    killed, paused, left, master = (rig.client() for _ in range(4))
    for client in (killed, paused, left):
        send_at_once(client, "NOSUCH", "INCR {f}")
    rig.run()
    send_at_once(master, "CLIENT KILL ID 1", "CLIENT PAUSE 1000 ALL")
    rig.run()
    left.vanish()
    rig.read_table()
    rig.run()
    assert killed.closed and paused.replies == []
    rig.advance(2)
    assert "unknown command" in paused.errors()[0] and paused.replies[1:] in ([1], [2])
    assert rig.left_over() == []


def test_an_unknown_command_behind_others_waits_its_turn(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.nodes[0].stopped = True
    client = rig.client()
    send_at_once(client, "INCR {f}", "NOSUCH", "DBSIZE")
    rig.run()
    assert client.replies == [] and rig.control.table_reads_in_all == 0
    rig.nodes[0].stopped = False
    rig.run()
    assert client.replies[0] == 1 and "unknown command" in client.errors()[0] and client.replies[2] == 1
