"""The hub: where topics are subscribed, who gets which message, and what becomes of them when the cluster changes."""

from __future__ import annotations

import random
from typing import Any

import hiredis
import pytest

from slotproxy.cluster.topology import NodeInfo, Topology
from slotproxy.dataplane.lanes import Node
from slotproxy.protocol.pubsub import PATTERNS
from tests import scripted_pubsub
from tests.dataplane.asking import do, replica_of, rig_with_replica, send_at_once, take_over
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.dataplane.test_lanes import without
from tests.dataplane.test_protocols import resp3_client
from tests.scripted_frames import error
from tests.scripted_node import NodeLink, ScriptedNode, slot_of

F = slot_of(b"{f}")  # node A's


def subscriber(rig: Rig, *commands: str, protocol: int = 2) -> ScriptedClient:
    """A client that has subscribed, and forgotten what was confirmed."""
    client = resp3_client(rig) if protocol == 3 else rig.client()
    send_at_once(client, *commands)
    rig.run()
    assert client.replies
    client.replies.clear()
    client.raw = b""
    return client


def min_by_name(nodes: list[Node]) -> Node:
    """Instead of any of them."""
    return min(nodes, key=lambda node: node.name)


def subscribed(node: ScriptedNode) -> list[str]:
    """What is subscribed at a node, `kind name` each, on whatever connection."""
    return [f"{kind.decode()} {name.decode()}".strip() for link in node.open_links() for kind, name in link.topics]


def link_of(node: ScriptedNode) -> NodeLink:
    """The node's end of the connection with subscriptions."""
    (link,) = [link for link in node.open_links() if link.topics]
    return link


def home_of(rig: Rig, topic: str = "news") -> ScriptedNode:
    """The only node at which a topic is subscribed."""
    (node,) = [node for node in rig.nodes if topic in subscribed(node)]
    return node


def publish(rig: Rig, channel: str, text: str, command: str = "PUBLISH") -> Any:
    return do(rig, command, channel, text)


def gaps(rig: Rig) -> int:
    return int(rig.plane.counters.subscription_gaps)


def lost(rig: Rig, node: ScriptedNode) -> None:
    """A node's subscriptions break."""
    link_of(node).drop()
    rig.run()


# Messages


def test_one_subscription_serves_all_clients(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    clients = [subscriber(rig, "SUBSCRIBE news", protocol=2 + number % 2) for number in range(6)]
    assert [name for node in rig.nodes for name in subscribed(node)] == ["news"]
    assert publish(rig, "news", "hello") == 6
    for number, client in enumerate(clients):
        assert client.raw == (b">*"[number % 2 == 0 :][:1] + b"3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    assert int(rig.plane.counters.messages) == 6


def test_a_client_gets_what_it_asked_for_and_nothing_else(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    a = subscriber(rig, "SUBSCRIBE a b")
    b = subscriber(rig, "SUBSCRIBE b", "PSUBSCRIBE a*")
    c = subscriber(rig, "SSUBSCRIBE a")
    assert [publish(rig, name, name) for name in ("a", "b", "ab", "c")] == [2, 2, 1, 0]
    assert publish(rig, "a", "s", "SPUBLISH") == 1
    assert a.replies == [[b"message", b"a", b"a"], [b"message", b"b", b"b"]]
    assert b.replies == [[b"pmessage", b"a*", b"a", b"a"], [b"message", b"b", b"b"], [b"pmessage", b"a*", b"ab", b"ab"]]
    assert c.replies == [[b"smessage", b"a", b"s"]]


def test_subscribing_is_confirmed_when_the_node_has_confirmed(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.stopped = b.stopped = True
    client = rig.client()
    send_at_once(client, "SUBSCRIBE x y", "PING")
    rig.run()
    assert client.replies == []
    a.stopped = b.stopped = False
    rig.run()
    assert client.replies == [[b"subscribe", b"x", 1], [b"subscribe", b"y", 2], [b"pong", b""]]


def test_another_client_waits_for_the_same_confirmation(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    a.stopped = b.stopped = True
    clients = [rig.client(), rig.client()]
    for client in clients:
        client.send("SUBSCRIBE", "x")
    rig.run()
    clients[0].vanish()
    rig.run()
    a.stopped = b.stopped = False
    rig.run()
    assert clients[1].replies == [[b"subscribe", b"x", 1]]
    assert publish(rig, "x", "1") == 1


def test_what_one_gives_up_while_another_subscribes_to_it_stays_subscribed(make_rig: MakeRig) -> None:
    """The other one waits for a second channel, and would never hear of the first."""
    rig = make_rig(3)
    first = subscriber(rig, "SUBSCRIBE x")
    second = rig.client()
    for node in rig.nodes:
        node.stopped = True
    second.send("SUBSCRIBE", "x", "y")
    rig.run()
    first.send("UNSUBSCRIBE", "x")
    rig.run()
    for node in rig.nodes:
        node.stopped = False
    rig.run()
    publish(rig, "x", "1")
    assert second.replies == [[b"subscribe", b"x", 1], [b"subscribe", b"y", 2], [b"message", b"x", b"1"]]
    second.vanish()
    rig.run()
    assert not [name for node in rig.nodes for name in subscribed(node)]


def test_what_is_lost_again_before_all_is_confirmed_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    b.stopped = True
    client = rig.client()
    client.send("SSUBSCRIBE", "{f}", "{a}")
    rig.run()
    rig.dialling = False
    lost(rig, a)
    b.stopped = False
    rig.run()
    assert client.replies == [] and subscribed(b) == ["S {a}"]
    rig.dialling = True
    rig.run()
    assert client.replies == [[b"ssubscribe", b"{f}", 1], [b"ssubscribe", b"{a}", 2]]


def test_what_nobody_wants_is_unsubscribed(make_rig: MakeRig) -> None:
    rig = make_rig()
    first = subscriber(rig, "SUBSCRIBE x y", "PSUBSCRIBE p*", "SSUBSCRIBE s")
    second = subscriber(rig, "SUBSCRIBE x")
    first.send("UNSUBSCRIBE")
    first.send("PUNSUBSCRIBE", "p*")
    rig.run()
    assert sorted(name for node in rig.nodes for name in subscribed(node)) == ["S s", "x"]
    first.vanish()
    second.send("RESET")
    rig.run()
    assert not [name for node in rig.nodes for name in subscribed(node)]
    assert rig.plane.hubs.connections() > 0
    rig.advance(25)
    assert rig.plane.hubs.connections() == 0
    subscriber(rig, "SUBSCRIBE x")
    assert publish(rig, "x", "1") == 1


def test_subscribed_again_before_the_node_has_unsubscribed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = subscriber(rig, "SUBSCRIBE x")
    node = home_of(rig, "x")
    node.stopped = True
    send_at_once(client, "UNSUBSCRIBE x", "SUBSCRIBE x", "UNSUBSCRIBE x", "SUBSCRIBE x")
    rig.run()
    assert client.replies == [[b"unsubscribe", b"x", 0]]
    node.stopped = False
    rig.run()
    assert client.replies[1:] == [[b"subscribe", b"x", 1], [b"unsubscribe", b"x", 0], [b"subscribe", b"x", 1]]
    assert publish(rig, "x", "1") == 1
    assert client.replies[4:] == [[b"message", b"x", b"1"]]


def test_a_slow_subscriber_is_cut_off_and_no_other(make_rig: MakeRig) -> None:
    rig = make_rig(max_output=1000)
    slow, quick = rig.client(room=100), rig.client()
    for client in (slow, quick):
        client.send("SUBSCRIBE", "x")
    rig.run()
    for _ in range(30):
        scripted_pubsub.tell(home_of(rig, "x"), b"x", b"." * 100)
        slow.proxy_end.room = 0
        rig.run()
    assert len(quick.replies) == 31
    assert len(rig.plane.clients) == 1
    assert int(rig.plane.counters.clients_cut_off) == 1
    assert publish(rig, "x", "1") == 1


def test_who_reads_is_not_cut_off_by_how_much_comes_at_once(make_rig: MakeRig) -> None:
    rig = make_rig(max_output=1000)
    client = subscriber(rig, "SUBSCRIBE x")
    publish(rig, "x", "." * 5000)
    for _ in range(30):
        scripted_pubsub.tell(home_of(rig, "x"), b"x", b"." * 100)
    rig.run()
    assert len(client.replies) == 31 and not client.closed


def test_a_message_may_close_the_client_that_it_is_for(make_rig: MakeRig) -> None:
    """And those behind it in the list get theirs."""
    rig = make_rig(max_output=1000)
    clients = [rig.client(room=100) for _ in range(3)]
    for client in clients:
        client.send("SUBSCRIBE", "x")
    rig.run()
    for number in range(30):
        if number == 20:
            clients[2].proxy_end.room = None
        for client in clients[:2]:
            client.proxy_end.room = 0
        scripted_pubsub.tell(home_of(rig, "x"), b"x", b"%0100d" % number)
        if number < 5:
            clients[2].proxy_end.room = None
        rig.run()
    assert int(rig.plane.counters.clients_cut_off) == 2
    assert clients[2].replies[-1] == [b"message", b"x", b"%0100d" % 29]


# Keys


def test_what_nodes_tell_of_their_keys_comes_from_every_primary_once(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    channel = subscriber(rig, "SUBSCRIBE __keyevent@0__:set news")
    pattern = subscriber(rig, "PSUBSCRIBE *")
    for node in rig.nodes:
        scripted_pubsub.tell(node, b"__keyevent@0__:set", node.name.encode())
        rig.run()
    publish(rig, "news", "1")
    events = [[b"message", b"__keyevent@0__:set", name] for name in (b"A", b"B", b"C")]
    assert channel.replies == [*events, [b"message", b"news", b"1"]]
    assert pattern.replies == [[b"pmessage", b"*", *said[1:]] for said in channel.replies]


def test_a_primary_that_joins_tells_of_its_keys_and_one_that_is_demoted_does_not(make_rig: MakeRig) -> None:
    rig = make_rig(3, owning=2)
    rig.refresh(topology=replica_of(rig, (0, 1)))
    rig.run()
    client = subscriber(rig, "SUBSCRIBE __keyevent@0__:set")
    a, b, c = rig.nodes
    assert [bool(subscribed(node)) for node in (a, b, c)] == [True, True, False]
    take_over(rig)
    rig.run()
    assert subscribed(b) and subscribed(c)
    for node in (a, b, c):
        scripted_pubsub.tell(node, b"__keyevent@0__:set", node.name.encode())
        rig.run()
    assert client.replies == [[b"message", b"__keyevent@0__:set", name] for name in (b"B", b"C")]


def test_a_node_that_cannot_be_reached_holds_up_no_subscription_to_keys(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    rig.dialling = False
    client = rig.client()
    client.send("SUBSCRIBE", "__keyevent@0__:set")
    rig.run()
    feeds = rig.control.dials[:]
    rig.control.dials.clear()
    rig.connect_lane(feeds[0])
    rig.connect_lane(feeds[1])
    rig.run()
    assert client.replies == []
    rig.plane.unreachable(feeds[2], "connection refused")
    rig.run()
    assert client.replies == [[b"subscribe", b"__keyevent@0__:set", 1]]
    rig.connect_lane(feeds[2])
    rig.run()
    assert all(subscribed(node) for node in rig.nodes)


def test_a_node_that_leaves_holds_up_no_subscription_to_keys(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    silent = rig.nodes[2]
    silent.stopped = True
    client = rig.client()
    client.send("SUBSCRIBE", "__keyevent@0__:set")
    rig.run()
    assert client.replies == []
    rig.refresh(topology=without(rig, silent.name, "A"))
    rig.run()
    assert client.replies == [[b"subscribe", b"__keyevent@0__:set", 1]]


# Nodes that are lost


@pytest.mark.parametrize("topic", ["news", "P n*"])
def test_when_a_node_is_lost_its_topics_are_subscribed_at_another(make_rig: MakeRig, topic: str) -> None:
    rig = make_rig(3)
    clients = [subscriber(rig, f"{topic[:-2].strip()}SUBSCRIBE n*" if " " in topic else "SUBSCRIBE news") for _ in "12"]
    before = home_of(rig, topic)
    lost(rig, before)
    assert home_of(rig, topic) is not before
    assert gaps(rig) == 2
    publish(rig, "news", "1")
    assert [len(client.replies) for client in clients] == [1, 1]


def test_the_only_node_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    client = subscriber(rig, "SUBSCRIBE news")
    rig.dialling = False
    lost(rig, rig.nodes[0])
    assert not subscribed(rig.nodes[0]) and gaps(rig) == 1
    rig.refuse_dials()
    second = rig.client()
    second.send("SUBSCRIBE", "news")
    rig.run()
    assert second.replies == []
    rig.dialling = True
    rig.run()
    assert second.replies == [[b"subscribe", b"news", 1]]
    assert publish(rig, "news", "1") == 2 and len(client.replies) == 1


def test_a_node_that_leaves_the_cluster_has_no_subscriptions(make_rig: MakeRig) -> None:
    """It would hear nothing any more, however well it answers."""
    rig = make_rig(3)
    client = subscriber(rig, "SUBSCRIBE news __keyspace@0__:a")
    left = next(node for node in rig.nodes if "news" in subscribed(node))
    other = next(node for node in rig.nodes if node is not left)
    rig.refresh(topology=without(rig, left.name, other.name))
    rig.run()
    assert not subscribed(left)
    assert gaps(rig) == 1
    publish(rig, "news", "1")
    assert client.replies == [[b"message", b"news", b"1"]]


def test_a_node_with_another_address_is_connected_anew(make_rig: MakeRig) -> None:
    """Where it was, nothing may be there any more that could end the old connection."""
    rig = make_rig(1)
    (node,) = rig.nodes
    client = subscriber(rig, "SUBSCRIBE news", "SSUBSCRIBE {f}")
    before = link_of(node)
    rig.refresh()
    rig.run()
    assert link_of(node) is before
    info = node.info()
    elsewhere = NodeInfo(info.id, "localhost", info.port, True, False, frozenset({("localhost", info.port)}))
    rig.refresh(topology=Topology({info.id: elsewhere}, [(0, 16383, info.id)], {}, "test"))
    rig.run()
    assert link_of(node) is not before
    assert gaps(rig) == 2
    publish(rig, "news", "1")
    assert client.replies == [[b"message", b"news", b"1"]]


def test_a_home_that_becomes_a_replica_stays_the_home(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster carries what is published to replicas, too: nothing is missed."""
    rig = make_rig(3, owning=2)
    rig.refresh(topology=replica_of(rig, (0, 1)))
    monkeypatch.setattr(random, "choice", min_by_name)
    client = subscriber(rig, "SUBSCRIBE news")
    assert home_of(rig) is rig.nodes[0]
    take_over(rig)
    rig.run()
    assert home_of(rig) is rig.nodes[0]
    publish(rig, "news", "1")
    assert client.replies == [[b"message", b"news", b"1"]] and gaps(rig) == 0


def test_what_no_node_confirms_is_an_error_at_the_deadline(make_rig: MakeRig) -> None:
    rig = make_rig(park_timeout=5.0)
    for node in rig.nodes:
        node.stopped = True
    client = rig.client()
    send_at_once(client, "SUBSCRIBE news", "GET none{f}")
    rig.advance(6)
    (refused,) = client.errors()
    assert refused.startswith("ERR slotproxy: not served: SUBSCRIBE was not confirmed within 5 s (--park-timeout)")
    for node in rig.nodes:
        node.stopped = False
    rig.run()
    assert client.replies[1:] == [None]
    assert not [name for node in rig.nodes for name in subscribed(node)]


def test_a_refusal_of_one_name_is_the_reply_and_nothing_is_subscribed(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = rig.client()
    for node in rig.nodes:
        node.answer("SUBSCRIBE", error("NOPERM no channels for you"))
    send_at_once(client, "SUBSCRIBE a b c", "PING")
    rig.run()
    assert isinstance(client.replies[0], hiredis.ReplyError) and client.replies[1:] == [b"PONG"]
    assert not [name for node in rig.nodes for name in subscribed(node)]
    client.send("SUBSCRIBE", "a")
    rig.run()
    assert client.replies[2:] == [[b"subscribe", b"a", 1]]


def test_who_loses_the_right_to_a_channel_is_hung_up_on(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    client, other = subscriber(rig, "SUBSCRIBE a"), subscriber(rig, "SUBSCRIBE b")
    rig.nodes[0].answer("SUBSCRIBE", error("NOPERM no channels for you"))
    lost(rig, rig.nodes[0])
    assert client.closed and not other.closed
    assert publish(rig, "b", "1") == 1


# Shard channels


def shard_channels(rig: Rig) -> list[list[str]]:
    return [[name for name in subscribed(node) if name.startswith("S ")] for node in rig.nodes]


def test_shard_channels_of_several_slots_are_at_their_owners(make_rig: MakeRig) -> None:
    rig = make_rig()
    client = subscriber(rig, "SSUBSCRIBE {f} {a} x{f}", protocol=3)
    assert shard_channels(rig) == [["S {f}", "S x{f}"], ["S {a}"]]
    for channel in ("{f}", "{a}", "x{f}"):
        assert publish(rig, channel, "1", "SPUBLISH") == 1
    assert len(client.replies) == 3


@pytest.mark.parametrize("knows", ["the refresh", "MOVED", "the node"])
def test_when_a_slot_moves_its_shard_channels_follow(make_rig: MakeRig, knows: str) -> None:
    """Whoever tells of it first; the client sees nothing of it, and the possible gap counts once."""
    rig = make_rig()
    a, b = rig.nodes
    client = subscriber(rig, "SSUBSCRIBE {f}", protocol=3)
    migration = rig.cluster.migration(F, a, b)
    migration.finish_target()
    if knows == "the refresh":
        rig.refresh(topology=b.topology())
    elif knows == "MOVED":
        a.answer("GET", error(f"MOVED {F} {b.address}"))
        do(rig, "GET", "{f}")
    rig.run()
    if knows != "the node":
        assert shard_channels(rig) == [["S {f}"], ["S {f}"]]  # the former owner may still be asked to publish
        scripted_pubsub.tell(a, b"{f}", b"late", sharded=True)
    migration.finish_source()
    migration.finish_others()
    rig.run()
    assert shard_channels(rig) == [[], ["S {f}"]]
    assert publish(rig, "{f}", "1", "SPUBLISH") == 1
    assert client.replies == [[b"smessage", b"{f}", b"late"]] * (knows != "the node") + [[b"smessage", b"{f}", b"1"]]
    assert gaps(rig) == 1
    client.send("SUNSUBSCRIBE", "{f}")
    rig.run()
    assert shard_channels(rig) == [[], []]


@pytest.mark.parametrize("knows", ["the refresh", "MOVED"])
def test_a_former_owner_that_replicates_the_new_one_tells_nothing_twice(make_rig: MakeRig, knows: str) -> None:
    """A demoted primary ends shard channels, takes them as a replica, and is sent all that its primary publishes."""
    rig = rig_with_replica(make_rig)
    a, _, c = rig.nodes
    client = subscriber(rig, "SSUBSCRIBE {f}", protocol=3)
    c.owners[F] = c
    scripted_pubsub.take_away(a, lambda name: True)
    rig.run()
    assert shard_channels(rig) == [["S {f}"], [], []]  # nobody has said yet who the owner is
    if knows == "the refresh":
        take_over(rig)
    else:
        a.answer("GET", error(f"MOVED {F} {c.address}"))
        do(rig, "GET", "{f}")
    rig.run()
    for node in (c, a):
        scripted_pubsub.tell(node, b"{f}", b"1", sharded=True)
    rig.run()
    assert client.replies == [[b"smessage", b"{f}", b"1"]]
    assert shard_channels(rig) == [[], [], ["S {f}"]]


def test_two_nodes_that_point_at_each_other_are_asked_now_and_then(make_rig: MakeRig) -> None:
    rig = make_rig()
    a, b = rig.nodes
    client = subscriber(rig, "SSUBSCRIBE {f}", protocol=3)
    rig.cluster.own(F, a)
    a.owners[F], b.owners[F] = b, a
    scripted_pubsub.take_away(a, lambda name: True)
    rig.run()
    before = len(rig.nodes[0].received())
    rig.advance(1.0, step=0.05)
    assert 5 <= len(rig.nodes[0].received()) - before <= 50
    rig.cluster.own(F, b)
    rig.advance(0.2, step=0.05)
    assert shard_channels(rig) == [[], ["S {f}"]]
    assert publish(rig, "{f}", "1", "SPUBLISH") == 1
    assert client.replies == [[b"smessage", b"{f}", b"1"]] and gaps(rig) == 1


def test_an_unasked_end_is_no_answer_to_what_was_asked(make_rig: MakeRig) -> None:
    """The client unsubscribes while the node ends the subscription by itself, and refuses to do so again."""
    rig = make_rig()
    a, b = rig.nodes
    client = subscriber(rig, "SSUBSCRIBE {f} x{f}", "SUBSCRIBE n", protocol=3)
    a.stopped = True
    send_at_once(client, "SUNSUBSCRIBE {f}", "SSUBSCRIBE y{f}")
    rig.run()
    rig.cluster.own(F, b)
    a.stopped = False
    rig.run()
    assert client.replies == [[b"sunsubscribe", b"{f}", 1], [b"ssubscribe", b"y{f}", 2]]
    assert list(map(sorted, shard_channels(rig))) == [[], ["S x{f}", "S y{f}"]]
    assert [publish(rig, name, "1", "SPUBLISH") for name in ("{f}", "x{f}", "y{f}")] == [0, 1, 1]


# Counts


def test_counts_are_those_of_one_server(make_rig: MakeRig) -> None:
    rig = make_rig(3)
    for _ in range(2):
        subscriber(rig, "SUBSCRIBE news", "PSUBSCRIBE n* *", "SSUBSCRIBE {f}", protocol=3)
    hub = rig.plane.hubs.all()[0]
    assert hub.counted(PATTERNS, b"*") == 3
    assert publish(rig, "news", "1") == 6
    assert publish(rig, "x", "1") == 2
    assert publish(rig, "{f}", "1", "SPUBLISH") == 2
    assert publish(rig, "{a}", "1", "SPUBLISH") == 0


def test_what_others_have_subscribed_counts_too(make_rig: MakeRig) -> None:
    rig = make_rig(1)
    sock = rig.nodes[0].connect()
    rig.nodes[0].links[-1].topics[b"", b"news"] = None
    assert publish(rig, "news", "1") == 1
    subscriber(rig, "SUBSCRIBE news")
    subscriber(rig, "SUBSCRIBE news")
    assert publish(rig, "news", "1") == 3
    sock.close()


def test_a_node_that_is_a_replica_by_now_is_not_where_a_shard_channel_belongs(make_rig: MakeRig) -> None:
    """It takes the subscription, and would tell what its primary tells."""
    rig = make_rig()
    a, b = rig.nodes
    client = subscriber(rig, "SSUBSCRIBE {f}", protocol=3)
    a.replica = True
    scripted_pubsub.take_away(a, lambda name: True)
    rig.run()
    assert gaps(rig) == 1
    rig.advance(0.3, step=0.05)
    scripted_pubsub.tell(a, b"{f}", b"as a replica", sharded=True)
    rig.run()
    assert client.replies == [] and gaps(rig) == 1
    rig.cluster.own(F, b)
    rig.refresh()
    rig.advance(0.3, step=0.05)
    assert shard_channels(rig) == [[], ["S {f}"]]
    assert publish(rig, "{f}", "1", "SPUBLISH") == 1
    assert client.replies == [[b"smessage", b"{f}", b"1"]] and gaps(rig) == 1
