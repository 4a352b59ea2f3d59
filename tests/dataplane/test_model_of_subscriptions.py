"""Subscriptions under random trouble: when it is quiet again, each client hears what it has been confirmed, once.

A seeded run subscribes and unsubscribes, breaks connections, silences nodes, refuses dials, moves slots and lets time
pass, one random step after the other. Afterwards nothing is subscribed that nobody wants, nothing wanted is missing,
and nothing is left when the clients have gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests import scripted_pubsub
from tests.dataplane.asking import do
from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.dataplane.test_protocols import resp3_client
from tests.scripted_node import slot_of

EVENTS: Final = "__keyevent@0__:set"
NAMES: Final[dict[str, list[str]]] = {
    "": ["a", "b", "news", EVENTS],
    "P": ["n*", "*", "__key*"],
    "S": ["{f}", "{a}", "x{f}", "q"],
}
EVERYWHERE: Final = {("", EVENTS), ("P", "*"), ("P", "__key*")}
Topic = tuple[str, str]


class Run:
    """One seed."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.random = random.Random(seed)
        self.rig = rig
        self.clients = [self._join() for _ in range(4)]

    def _join(self) -> ScriptedClient:
        return resp3_client(self.rig) if self.random.random() < 0.5 else self.rig.client()

    def play(self, steps: int = 60) -> None:
        actions: list[Callable[[], None]] = [
            self._subscribe, self._subscribe, self._subscribe, self._unsubscribe, self._unsubscribe, self._leave,
            self._drop, self._silence, self._speak, self.rig.run, self._tick, self._wait, self._dial, self._move,
            self._refresh, self._tell,
        ]  # fmt: skip
        for _ in range(steps):
            self.random.choice(actions)()
        self._calm_down()

    def _names(self, least: int, most: int) -> tuple[str, list[str]]:
        kind = self.random.choice(list(NAMES))
        return kind, self.random.sample(NAMES[kind], self.random.randint(least, most))

    def _subscribe(self) -> None:
        kind, names = self._names(1, 3)
        self.random.choice(self.clients).send(f"{kind}SUBSCRIBE", *names)

    def _unsubscribe(self) -> None:
        kind, names = self._names(0, 2)
        self.random.choice(self.clients).send(f"{kind}UNSUBSCRIBE", *names)

    def _leave(self) -> None:
        self.clients.pop(self.random.randrange(len(self.clients))).vanish()
        self.clients.append(self._join() if self.rig.dialling else self.rig.client())

    def _drop(self) -> None:
        links = [link for link in self.random.choice(self.rig.nodes).open_links() if link.topics]
        if links:
            self.random.choice(links).drop()

    def _silence(self) -> None:
        self.random.choice(self.rig.nodes).stopped = True

    def _speak(self) -> None:
        self.random.choice(self.rig.nodes).stopped = False

    def _tick(self) -> None:
        self.rig.tick()

    def _wait(self) -> None:
        self.rig.advance(self.random.choice([0.05, 0.2, 1]))

    def _dial(self) -> None:
        self.rig.dialling = not self.rig.dialling
        if not self.rig.dialling and self.random.random() < 0.5:
            self.rig.refuse_dials()

    def _move(self) -> None:
        slot = slot_of(self.random.choice(NAMES["S"]).encode())
        self.rig.cluster.own(slot, self.random.choice(self.rig.nodes))

    def _refresh(self) -> None:
        self.rig.refresh(self.random.choice(self.rig.nodes))

    def _tell(self) -> None:
        channel = self.random.choice(NAMES[""][:3]).encode()
        for node in self.rig.nodes:
            scripted_pubsub.tell(node, channel, b"meanwhile")

    def _calm_down(self) -> None:
        for node in self.rig.nodes:
            node.stopped = False
        self.rig.dialling = True
        for _ in range(3):
            self.rig.run()
            self.rig.refresh()
            self.rig.advance(1, step=0.1)
        self.rig.advance(6)

    def confirmed(self, client: ScriptedClient) -> set[Topic]:
        """What the client has been told that it has subscribed to."""
        found: set[Topic] = set()
        for reply in client.replies:
            word = reply[0].decode() if isinstance(reply, list) else ""
            if word.endswith("unsubscribe") and reply[1] is not None:
                found.discard((word.removesuffix("unsubscribe").upper(), reply[1].decode()))
            elif word.endswith("subscribe") and reply[1] is not None:
                found.add((word.removesuffix("subscribe").upper(), reply[1].decode()))
        client.replies.clear()
        return found

    def heard(self) -> list[list[Any]]:
        """What each client was told since it was asked last, in whatever order."""
        self.rig.run()
        found = [sorted(client.replies) for client in self.clients]
        for client in self.clients:
            client.replies.clear()
        return found


def at_nodes(rig: Rig) -> list[Topic]:
    links = [link for node in rig.nodes for link in node.open_links()]
    return [(kind.decode(), name.decode()) for link in links for kind, name in link.topics]


def messages(wanted: set[Topic], channel: str) -> list[list[bytes]]:
    """What a client hears when "z" is published."""
    text = channel.encode()
    found = [[b"message", text, b"z"]] if ("", channel) in wanted else []
    for pattern in NAMES["P"]:
        if ("P", pattern) in wanted and (pattern == "*" or channel.startswith(pattern[:-1])):
            found.append([b"pmessage", pattern.encode(), text, b"z"])
    return sorted(found)


@pytest.mark.parametrize("seed", range(60))
def test_each_client_hears_what_it_was_confirmed_once(make_rig: MakeRig, seed: int) -> None:
    rig = make_rig(3, park_timeout=5.0)
    run = Run(rig, seed)
    run.play()
    assert not any(client.closed for client in run.clients)
    wanted = [run.confirmed(client) for client in run.clients]
    all_wanted = set().union(*wanted)
    there = at_nodes(rig)
    assert set(there) == all_wanted
    assert all(there.count(topic) == (3 if topic in EVERYWHERE else 1) for topic in all_wanted), there
    for channel in NAMES[""][:3]:
        do(rig, "PUBLISH", channel, "z")
        assert run.heard() == [messages(one, channel) for one in wanted]
    for channel in NAMES["S"]:
        do(rig, "SPUBLISH", channel, "z")
        assert run.heard() == [
            [[b"smessage", channel.encode(), b"z"]] if ("S", channel) in one else [] for one in wanted
        ]
    for node in rig.nodes:
        scripted_pubsub.tell(node, EVENTS.encode(), node.name.encode())
    assert [len(one) for one in run.heard()] == [3 * len(EVERYWHERE & one) for one in wanted]
    for client in run.clients:
        client.vanish()
    rig.run()
    rig.advance(25)
    assert rig.plane.hubs.connections() == 0 and at_nodes(rig) == []
    assert rig.left_over() == []
