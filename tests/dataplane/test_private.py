"""CLIENT TRACKING, CLIENT NO-TOUCH and MONITOR at the data plane: who is told what, and behind which reply."""

from __future__ import annotations

import hiredis
import pytest

from slotproxy.dataplane.nodestreams import REFUSES
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_node import slot_of

ALL = [b"invalidate", None]


def told(client: ScriptedClient) -> list[object]:
    """What has been pushed to a client, in order."""
    return [list(reply) for reply in client.replies if isinstance(reply, hiredis.PushNotification)]


def answers(client: ScriptedClient) -> list[object]:
    return [reply for reply in client.replies if not isinstance(reply, hiredis.PushNotification)]


def tracking(rig: Rig, *options: str | int, protocol: int = 3) -> ScriptedClient:
    """A client that tracks; what it has been answered so far is forgotten."""
    client = rig.client()
    if protocol == 3:
        client.send("HELLO", 3)
    client.send("CLIENT", "TRACKING", "ON", *options)
    rig.run()
    assert client.replies[-1] == b"OK", client.replies
    client.replies.clear()
    return client


def keys_at(rig: Rig) -> list[bytes]:
    """A key for each node."""
    found = []
    for node in rig.nodes:
        found.append(next(b"k%d" % n for n in range(1000) if node.owner(slot_of(b"k%d" % n)) is node))
    return found


def write(rig: Rig, *words: bytes | str) -> None:
    other = rig.client()
    other.send(*words)
    rig.run()
    assert not other.errors()
    other.finish()
    rig.run()


def test_a_key_that_was_read_is_invalidated_when_another_client_writes_it(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, b = keys_at(rig)
    client.send("GET", a)
    client.send("GET", b)
    rig.run()
    write(rig, "SET", a, "1")
    write(rig, "SET", b, "1")
    write(rig, "SET", a, "2")
    assert told(client) == [[b"invalidate", [a]], [b"invalidate", [b]]]


def test_clients_that_do_not_track_share_their_lanes_as_before(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    other = rig.client()
    a, _ = keys_at(rig)
    other.send("GET", a)
    rig.run()
    assert rig.client_lane(other) != rig.client_lane(client)
    write(rig, "SET", a, "1")
    assert told(client) == []


def test_an_invalidation_waits_for_a_reply_of_its_node_that_waits_for_another_nodes(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, b = keys_at(rig)
    client.send("MGET", a, b)
    rig.run()
    client.replies.clear()
    rig.nodes[0].holding = True
    client.send("GET", a)
    client.send("GET", b)  # its reply is there first, and waits
    rig.run()
    write(rig, "SET", b, "new")
    assert client.replies == []
    rig.nodes[0].holding = False
    rig.run()
    assert client.replies == [None, None, [b"invalidate", [b]]]


def test_an_invalidation_waits_for_a_command_of_which_its_node_has_answered_a_part(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, b = keys_at(rig)
    rig.nodes[0].holding = True
    client.send("MGET", a, b)
    rig.run()
    write(rig, "SET", b, "new")
    assert client.replies == []
    rig.nodes[0].holding = False
    rig.run()
    assert client.replies == [[None, None], [b"invalidate", [b]]]


def test_what_is_behind_a_part_of_ping_does_not_wait_for_what_is_not_its_nodes(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, b = keys_at(rig)
    client.send("MGET", a, b)
    rig.run()
    client.replies.clear()
    rig.nodes[0].holding = True
    write_later = rig.client()
    write_later.send("SET", a, "new")
    rig.run()
    client.send("PING")
    client.send("GET", b)
    rig.run()
    assert client.replies == []
    rig.nodes[0].holding = False
    rig.run()
    assert client.replies == [[b"invalidate", [a]], b"PONG", None]


def test_a_node_that_does_not_answer_a_ping_counts_as_lost(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    client.replies.clear()
    rig.nodes[0].stopped = True
    client.send("PING")
    rig.advance(0.9)
    assert client.replies == []
    rig.advance(0.2)
    assert client.replies[0] == ALL and answers(client) == [b"PONG"]
    rig.nodes[0].stopped = False
    rig.run()
    assert rig.left_over() == []


def test_a_lost_connection_invalidates_everything(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    rig.link_used_by(client, rig.nodes[0]).drop()
    rig.run()
    assert told(client) == [ALL]
    client.send("GET", a)
    rig.run()
    write(rig, "SET", a, "1")
    assert told(client) == [ALL, [b"invalidate", [a]]]


def test_a_slot_that_begins_to_migrate_invalidates_what_was_read_as_missing_before_another_key_appears(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    key, _ = keys_at(rig)
    client.send("GET", key)
    rig.run()
    rig.cluster.migration(slot_of(key), rig.nodes[0], rig.nodes[1])
    other = rig.client()
    other.send("SET", key, "new")
    rig.run()
    assert other.replies == [b"OK"]
    assert told(client) == [ALL]


def test_a_read_in_flight_when_its_slot_begins_to_migrate_is_invalidated_behind_its_reply(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    key, _ = keys_at(rig)
    client.send("GET", key)
    rig.run()
    client.replies.clear()
    client.send("GET", key)
    rig.run_proxy()
    link = rig.link_used_by(client, rig.nodes[0])
    link.receive()
    link.execute()  # missing; the reply is not sent yet
    rig.cluster.migration(slot_of(key), rig.nodes[0], rig.nodes[1])
    rig.nodes[0].holding = True
    other = rig.client()
    other.send("SET", key, "new")
    rig.run()
    for one in rig.nodes[0].open_links():
        if one is not link:
            one.send()
    rig.run()
    assert other.replies == [b"OK"] and client.replies == [ALL]
    rig.nodes[0].holding = False
    rig.run()
    assert client.replies == [ALL, None, ALL]


def test_slots_in_which_nothing_was_read_are_of_no_concern(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    key, other_key = keys_at(rig)
    client.send("GET", other_key)
    client.send("SET", key, "1")
    rig.run()
    rig.cluster.migration(slot_of(key), rig.nodes[0], rig.nodes[1])
    other = rig.client()
    other.send("GET", key + b"{" + b"x")
    other.send("SET", key, "new")
    rig.run()
    assert told(client) == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_redirected_invalidations_reach_the_named_client(make_rig: MakeRig, protocol: int) -> None:
    rig = make_rig(2)
    target = rig.client()
    target.send("HELLO", 3)
    target.send("CLIENT", "ID")
    rig.run()
    client = tracking(rig, "REDIRECT", target.replies[-1], protocol=protocol)
    a, b = keys_at(rig)
    client.send("GET", a)
    client.send("GET", b)
    rig.run()
    assert client.replies == [None, None]
    write(rig, "SET", a, "1")
    write(rig, "SET", b, "1")
    assert told(target) == [[b"invalidate", [a]], [b"invalidate", [b]]]
    target.send("PING")
    rig.run()
    assert target.replies[-1] == b"PONG" and told(client) == []


def test_a_lost_ear_is_replaced_before_more_is_read(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    target = rig.client()
    target.send("HELLO", 3)
    target.send("CLIENT", "ID")
    rig.run()
    client = tracking(rig, "REDIRECT", target.replies[-1], protocol=2)
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    node = rig.plane.router.territory.nodes[rig.nodes[0].id]
    ear = rig.link_of(node.lanes[rig.client_lane(client) + 1])
    rig.dialling = False
    ear.drop()
    rig.run()
    assert told(target) == [ALL]
    client.send("GET", a)
    rig.run()
    assert client.replies == [None]
    rig.dialling = True
    rig.run()
    assert client.replies == [None, None]
    write(rig, "SET", a, "1")
    assert told(target) == [ALL, [b"invalidate", [a]]]


def test_the_target_that_has_left_is_reported(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    target = rig.client()
    target.send("CLIENT", "ID")
    rig.run()
    client = tracking(rig, "REDIRECT", target.replies[-1])
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    target.vanish()
    rig.run()
    write(rig, "SET", a, "1")
    client.send("CLIENT", "TRACKINGINFO")
    rig.run()
    assert told(client) == [[b"tracking-redir-broken", target.replies[-1]]]
    assert b"broken_redirect" in client.raw


def test_client_caching_goes_with_the_next_command_in_all_its_parts(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "OPTIN")
    a, b = keys_at(rig)
    client.send("CLIENT", "CACHING", "YES")
    client.send("MGET", a, b)
    rig.run()
    assert client.replies == [b"OK", [None, None]]
    write(rig, "SET", a, "1")
    write(rig, "SET", b, "1")
    assert told(client) == [[b"invalidate", [a]], [b"invalidate", [b]]]
    client.send("GET", a)
    rig.run()
    write(rig, "SET", a, "2")
    assert len(told(client)) == 2


def test_client_caching_is_said_again_to_the_node_that_moved_names(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "OPTIN")
    key, _ = keys_at(rig)
    rig.cluster.own(slot_of(key), rig.nodes[1])
    client.send("CLIENT", "CACHING", "YES")
    client.send("GET", key)
    rig.run()
    assert rig.moved == 1
    client.replies.clear()
    write(rig, "SET", key, "1")
    assert [b"invalidate", [key]] in told(client)


def test_what_is_read_by_ask_with_caching_is_invalidated_behind_its_reply(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "OPTIN")
    key, _ = keys_at(rig)
    rig.cluster.migration(slot_of(key), rig.nodes[0], rig.nodes[1])
    client.send("CLIENT", "CACHING", "YES")
    client.send("GET", key)
    rig.run()
    client.send("CLIENT", "CACHING", "YES")
    client.send("GET", key)
    rig.run()
    assert rig.ask == 2
    assert client.replies[-2:] == [None, [b"invalidate", [key]]]


def test_client_caching_before_multi_holds_for_the_block(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "OPTIN")
    key, _ = keys_at(rig)
    for words in (["CLIENT", "CACHING", "YES"], ["MULTI"], ["GET", key], ["EXEC"], ["GET", key + b"{"]):
        client.send(*words)
    rig.run()
    assert client.replies[3] == [None]
    write(rig, "SET", key, "1")
    assert told(client) == [[b"invalidate", [key]]]


def test_a_transaction_with_watch_invalidates_what_it_has_read(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    key, _ = keys_at(rig)
    for words in (["WATCH", key], ["MULTI"], ["GET", key], ["EXEC"]):
        client.send(*words)
    rig.run()
    assert client.replies == [b"OK", b"OK", b"QUEUED", [None], [b"invalidate", [key]]]


def test_broadcast_is_answered_when_all_primaries_are_connected(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = rig.client()
    client.send("HELLO", 3)
    rig.run()
    client.replies.clear()
    rig.dialling = False
    client.send("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "k")
    rig.run()
    assert client.replies == []
    rig.connect()
    rig.run()
    assert client.replies == [b"OK"]
    a, b = keys_at(rig)
    write(rig, "SET", a, "1")
    write(rig, "SET", b, "1")
    write(rig, "SET", "other", "1")
    assert told(client) == [[b"invalidate", [a]], [b"invalidate", [b]]]


def test_broadcast_that_a_node_refuses_is_answered_with_its_error(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = rig.client()
    client.send("HELLO", 3)
    rig.run()
    client.replies.clear()
    rig.dialling = False
    client.send("CLIENT", "TRACKING", "ON", "BCAST")
    rig.run()
    rig.refuse_dials(f"{REFUSES}CLIENT TRACKING: NOPERM no permissions")
    rig.run()
    assert client.errors() == ["NOPERM no permissions"]
    client.send("CLIENT", "GETREDIR")
    rig.run()
    assert client.replies[-1] == -1
    rig.dialling = True
    client.send("PING")
    rig.run()
    assert client.replies[-1] == b"PONG"


def test_a_primary_connected_anew_invalidates_everything_in_broadcast_mode(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "BCAST")
    rig.dialling = False
    rig.link_used_by(client, rig.nodes[0]).drop()
    rig.run()
    assert told(client) == [ALL]
    client.send("PING")
    rig.run()
    assert answers(client) == []  # the node could have something to tell
    rig.dialling = True
    rig.advance(0.1)
    assert client.replies[:3] == [ALL, ALL, b"PONG"]


def test_tracking_off_goes_back_to_shared_lanes_and_gives_its_own_back(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    link = rig.link_used_by(client, rig.nodes[0])
    lane = rig.client_lane(client)
    client.send("CLIENT", "TRACKING", "OFF")
    client.send("GET", a)
    rig.run()
    assert link.closed and rig.client_lane(client) != lane
    assert rig.plane.private_clients() == 0 and rig.plane.exclusives.reserved == 0
    write(rig, "SET", a, "1")
    assert told(client) == []
    other = tracking(rig)
    assert rig.client_lane(other) == lane


def test_a_client_that_leaves_gives_its_lanes_back_when_nothing_is_on_its_way(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, _ = keys_at(rig)
    rig.nodes[0].stopped = True
    client.send("SET", a, "1")
    rig.run()
    client.vanish()
    rig.run()
    assert rig.plane.exclusives.reserved > 0
    rig.nodes[0].stopped = False
    rig.advance(1.0)
    assert rig.plane.exclusives.reserved == 0 and rig.plane.private_clients() == 0
    assert rig.nodes[0].keys[a] == b"1"


def test_private_connections_count_against_the_limit(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_exclusive=3)
    tracking(rig)
    client = rig.client()
    client.send("MONITOR")
    client.send("PING")
    rig.run()
    assert client.errors()[0].startswith("ERR slotproxy: too many connections: MONITOR")
    assert client.replies[-1] == b"PONG"


def test_a_client_that_does_not_read_what_it_is_told_is_cut_off(make_rig: MakeRig) -> None:
    rig = make_rig(2, max_output=2_000)
    client = tracking(rig, "BCAST")
    other = rig.client()
    a, _ = keys_at(rig)
    client.proxy_end.room = 0
    for _ in range(200):
        other.send("SET", a, "1")
        rig.run()
    assert client.closed or 1 not in rig.plane.clients
    assert len(other.replies) == 200 and not other.errors()
    assert rig.plane.private_clients() == 0


def test_monitor_shows_what_all_primaries_run(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = rig.client()
    client.send("MONITOR")
    rig.run()
    assert client.raw == b"+OK\r\n"
    a, b = keys_at(rig)
    write(rig, "SET", a, "1")
    write(rig, "SET", b, "2")
    assert [line.split(b"] ")[1] for line in client.raw.splitlines()[1:]] == [
        b'"SET" "%b" "1"' % a, b'"SET" "%b" "2"' % b
    ]  # fmt: skip
    client.send("GET", a)
    client.send("MGET", a, b)
    client.send("RESET")
    client.send("GET", a)
    rig.run()
    assert client.errors() == ["ERR Replica can't interact with the keyspace"] * 2
    assert client.replies[-2:] == [b"RESET", b"1"]
    assert rig.left_over() == [] and rig.plane.exclusives.reserved == 0


def test_monitor_goes_on_after_a_connection_was_lost(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = rig.client()
    client.send("MONITOR")
    rig.run()
    for node in rig.nodes:
        for link in node.open_links():
            if link.memory.monitors:
                link.drop()
    rig.run()
    a, _ = keys_at(rig)
    write(rig, "SET", a, "1")
    assert client.raw.count(b'"SET"') == 1


def test_an_owner_that_cannot_tell_yet_is_waited_for_in_broadcast_mode(make_rig: MakeRig) -> None:
    rig = make_rig(2)
    client = tracking(rig, "BCAST")
    a, _ = keys_at(rig)
    link = rig.link_used_by(client, rig.nodes[1])
    rig.dialling = False
    link.drop()
    rig.run()
    client.replies.clear()
    rig.cluster.own(slot_of(a), rig.nodes[1])
    write(rig, "GET", a)
    assert told(client) == [ALL]
    client.send("PING")
    rig.run()
    assert answers(client) == []
    rig.dialling = True
    rig.advance(0.1)
    assert client.replies[1:3] == [ALL, b"PONG"]


@pytest.mark.parametrize("gives_up", ["renew", "retire"])
def test_a_connection_that_is_given_up_in_order_invalidates_everything_too(make_rig: MakeRig, gives_up: str) -> None:
    rig = make_rig(2)
    client = tracking(rig)
    a, _ = keys_at(rig)
    client.send("GET", a)
    rig.run()
    lane = rig.plane.router.territory.nodes[rig.nodes[0].id].lanes[rig.client_lane(client)]
    if gives_up == "renew":  # the node has another address
        lane.renew()
    else:  # it has left the cluster
        lane.retire("left")
    rig.run()
    assert told(client) == [ALL]
