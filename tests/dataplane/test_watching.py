"""WATCH: a connection until EXEC; whatever moves, is refused or lost in between makes EXEC nil, never a replay."""

from __future__ import annotations

import pytest

from tests.dataplane.asking import do, ran, send_at_once, send_block
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import error
from tests.scripted_node import ScriptedNode, slot_of

F = slot_of(b"{f}")
NIL = b"*-1\r\n"


def watching(rig: Rig, *keys: str) -> ScriptedClient:
    """A client that watches {f}, or these keys; its replies so far are forgotten."""
    client = rig.client()
    client.send("WATCH", *(keys or ("{f}",)))
    rig.run()
    assert client.replies.pop() == b"OK"
    client.raw = b""
    return client


def execute(client: ScriptedClient, rig: Rig, *commands: str) -> bytes:
    """What EXEC answers."""
    client.raw = b""
    send_block(client, *commands)
    rig.advance(1, step=0.1)
    return client.raw.removeprefix(b"+OK\r\n" + b"+QUEUED\r\n" * len(commands))


def sent_on(rig: Rig, node: ScriptedNode) -> list[str]:
    """What came on the only leased connection."""
    (link,) = rig.exclusive_links(node)
    return [b" ".join(words).decode() for words in link.received]


# One slot that stays


def test_what_is_watched_and_not_touched_is_executed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig, "{f}", "other{f}", "{f}")
    do(rig, "GET", "{f}")
    do(rig, "SET", "another{f}", "1")
    expected = b"*4\r\n:1\r\n+PONG\r\n$1\r\n1\r\n:2\r\n"
    assert execute(client, rig, "INCR {f}", "PING", "GET {f}", "COMMAND COUNT") == expected
    assert rig.left_over() == []


def test_the_block_carries_a_look_at_all_watched_keys_that_the_client_does_not_see(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig, "{f}")
    client.send("WATCH", "other{f}", "{f}")
    rig.run()
    assert execute(client, rig, "INCR {f}").endswith(b"*1\r\n:1\r\n")
    assert sent_on(rig, rig.nodes[0]) == [
        "WATCH {f}",
        "WATCH other{f} {f}",
        "MULTI",
        "EXISTS {f} other{f}",
        "INCR {f}",
        "EXEC",
    ]


@pytest.mark.parametrize("command", ["SET {f} 1", "INCR {f}", "SET other{f} 1", "FLUSHALL"])
@pytest.mark.parametrize("own", [False, True])
def test_what_is_touched_is_not_executed(make_rig: MakeRig, command: str, own: bool) -> None:
    rig = make_rig()
    do(rig, "SET", "{f}", "0")
    client = watching(rig, "{f}", "other{f}")
    if own:
        client.send(*command.split())
        rig.run()
    else:
        do(rig, *command.split())
    assert execute(client, rig, "INCR n{f}") == NIL
    assert execute(client, rig, "INCR n{f}") == b"*1\r\n:1\r\n"
    assert rig.left_over() == []


@pytest.mark.parametrize("touched", [False, True])
def test_an_empty_block_tells_whether_something_was_touched(make_rig: MakeRig, touched: bool) -> None:
    rig = make_rig()
    client = watching(rig)
    if touched:
        do(rig, "SET", "{f}", "1")
    assert execute(client, rig) == (NIL if touched else b"*0\r\n")


@pytest.mark.parametrize("touched", [False, True])
def test_a_block_without_keys_runs_where_the_keys_are_watched(make_rig: MakeRig, touched: bool) -> None:
    rig = make_rig()
    client = watching(rig)
    if touched:
        do(rig, "SET", "{f}", "1")
    assert execute(client, rig, "COMMAND COUNT") == (NIL if touched else b"*1\r\n:2\r\n")
    assert execute(client, rig, "PING") == b"*1\r\n+PONG\r\n"


@pytest.mark.parametrize("end", ["UNWATCH", "DISCARD", "EXEC", "EXECABORT", "RESET"])
def test_the_watch_ends_and_its_connection_is_given_back_clean(make_rig: MakeRig, end: str) -> None:
    rig = make_rig()
    client = watching(rig)
    assert rig.plane.exclusives.leased() == 1
    if end == "UNWATCH":
        client.send("UNWATCH")
    elif end == "RESET":
        client.send("RESET")
    elif end == "DISCARD":
        send_at_once(client, "MULTI", "DISCARD")
    else:
        send_at_once(client, "MULTI", "NOSUCH" if end == "EXECABORT" else "PING", "EXEC")
    rig.run()
    assert rig.plane.exclusives.leased() == 0
    do(rig, "SET", "{f}", "1")
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:2\r\n"
    (link,) = rig.exclusive_links(rig.nodes[0])
    assert not link.memory.watched
    assert not link.memory.dirty
    assert rig.left_over() == []


def test_unwatch_inside_a_block_is_queued_and_answered(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    do(rig, "SET", "{f}", "1")
    assert execute(client, rig, "UNWATCH") == NIL
    client = watching(rig)
    assert execute(client, rig, "UNWATCH", "INCR {f}") == b"*2\r\n+OK\r\n:2\r\n"


def test_watch_waits_for_what_was_sent_before_and_what_comes_behind_waits_for_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    send_at_once(client, "SET {f} 1", "WATCH {f}", "MULTI", "INCR {f}", "EXEC", "GET {f}", "WATCH {f}", "SET {f} 7")
    send_at_once(client, "MULTI", "INCR {f}", "EXEC", "GET {f}")
    rig.run()
    assert client.replies[4] == [2]
    assert client.replies[-2:] == [None, b"7"]


def test_a_watched_connection_is_kept_however_long_it_takes(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    rig.advance(600, step=30.0)
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:1\r\n"


def test_a_client_that_leaves_has_its_connection_closed_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    (link,) = rig.exclusive_links(rig.nodes[0])
    client.vanish()
    rig.tick()
    link.receive()
    assert link.closed
    assert rig.plane.exclusives.total == 0


def test_beyond_the_bound_watch_is_an_error(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=1)
    watching(rig)
    client = rig.client()
    client.send("WATCH", "{f}")
    send_block(client, "INCR {f}")
    rig.run()
    (message,) = client.errors()
    assert message.startswith("ERR slotproxy: too many connections: WATCH ")
    assert client.replies[-1] == [1]


def test_what_the_node_says_of_watch_is_passed_on(make_rig: MakeRig) -> None:
    rig = make_rig()
    denied = error("NOPERM this user has no permissions to run the 'watch' command")
    rig.nodes[0].answer("WATCH", denied)
    client = rig.client()
    client.send("WATCH", "{f}")
    rig.run()
    assert client.raw == denied
    assert rig.left_over() == []


def test_several_slots_are_refused_at_watch(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    client.send("WATCH", "{f}", "{a}")
    client.send("WATCH", "{f}")
    client.send("WATCH", "{a}")
    rig.run()
    first, second, third = client.replies
    assert second == b"OK"
    for refusal in (first, third):
        assert str(refusal).startswith("CROSSSLOT ")
        assert "--cross-slot-transactions" in str(refusal)
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:1\r\n"  # as on Redis, a refused WATCH leaves the others alone


def test_a_block_of_another_slot_than_the_watched_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = watching(rig)
    assert execute(client, rig, "INCR {a}").startswith(b"-CROSSSLOT ")
    assert ran(rig.nodes[1]) == []
    assert execute(client, rig, "INCR {a}") == b"*1\r\n:1\r\n"
    assert rig.left_over() == []


# Where to watch


def test_watch_follows_moved(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.own(F, b)
    client = rig.client()
    client.send("WATCH", "{f}")
    rig.advance(1, step=0.05)
    assert client.replies == [b"OK"]
    do(rig, "SET", "{f}", "1")
    assert execute(client, rig, "INCR {f}") == NIL
    assert ran(a) == []


@pytest.mark.parametrize("touched", [False, True])
def test_watch_follows_ask_and_says_asking_each_time(make_rig: MakeRig, touched: bool) -> None:
    rig = make_rig()
    a, b = rig.nodes
    rig.cluster.migration(F, a, b)
    client = rig.client()
    client.send("WATCH", "{f}")
    rig.run()
    client.send("WATCH", "{f}")
    rig.run()
    assert client.replies == [b"OK", b"OK"]
    if touched:
        do(rig, "SET", "{f}", "1")
    assert execute(client, rig, "INCR {f}") == (NIL if touched else b"*1\r\n:1\r\n")
    assert sent_on(rig, b) == [
        "ASKING", "WATCH {f}", "ASKING", "WATCH {f}", "ASKING", "MULTI", "EXISTS {f}", "INCR {f}", "EXEC",
    ]  # fmt: skip
    assert rig.owner(F) == "A"
    assert len(rig.exclusive_links(a)) == 1  # the one that was redirected is given back


@pytest.mark.parametrize("state", ["down", "loading"])
def test_watch_waits_for_a_slot_that_is_not_served(make_rig: MakeRig, state: str) -> None:
    rig = make_rig()
    a, _ = rig.nodes
    setattr(a, state, True)
    client = rig.client()
    client.send("WATCH", "{f}")
    rig.advance(2, step=0.1)
    assert client.replies == []
    setattr(a, state, False)
    rig.advance(2, step=0.1)
    assert client.replies == [b"OK"]
    assert execute(client, rig, "INCR {f}") == b"*1\r\n:1\r\n"


@pytest.mark.parametrize("why", ["down", "refused"])
def test_watch_gives_up_at_the_deadline(make_rig: MakeRig, why: str) -> None:
    rig = make_rig(2, park_timeout=3.0)
    a, _ = rig.nodes
    client = rig.client()
    if why == "down":
        a.down = True
    else:
        rig.dialling = False
    client.send("WATCH", "{f}")
    for _ in range(50):
        rig.advance(0.1, step=0.1)
        if why == "refused":
            rig.refuse_dials()
            rig.control.dials.clear()
    (message,) = client.errors()
    assert message.startswith(f"ERR slotproxy: not served: slot {F} was not served within 3 s")
    assert rig.plane.exclusives.leased() == 0


def test_watch_that_is_tried_for_long_is_not_a_tight_loop(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.keys[b"1{f}"] = b"1"
    rig.cluster.migration(F, a, b)
    client = rig.client()
    client.send("WATCH", "1{f}", "2{f}")  # TRYAGAIN
    rig.advance(10, step=0.05)
    assert len([words for words in a.received() if words[0] == b"WATCH"]) < 120
    client.vanish()
    rig.advance(1, step=0.05)
    assert rig.plane.exclusives.leased() == 0
    rig.advance(70)
    assert rig.left_over() == []
