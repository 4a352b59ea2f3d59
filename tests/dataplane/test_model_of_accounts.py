"""Whatever happens, a command travels on a connection of the user who has sent it: random conversations.

Each command names in its key the user whom the client had logged in as when it sent it.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.dataplane.conftest import MakeRig
from tests.dataplane.rig import Rig, ScriptedClient
from tests.scripted_frames import pack
from tests.scripted_node import slot_of

RUNS = 30 * max(1, int(float(os.environ.get("SLOTPROXY_TEST_SECONDS", "0"))))
PASSWORDS = {"alice": "a1", "bob": "b1", "carol": "c1"}
TAGS = ["{f}", "{g}", "{h}"]


class Talker:
    """One client and the user that it has been since its last (right) AUTH."""

    def __init__(self, client: ScriptedClient, dice: random.Random) -> None:
        self.client = client
        self.user = ""
        self.wait = False  # something may block
        self._dice = dice

    def login(self) -> bytes:
        self.user = self._dice.choice(list(PASSWORDS))
        name, password = self.user, PASSWORDS[self.user]
        return self._dice.choice(
            [pack("AUTH", name, password), pack("HELLO", "2", "AUTH", name, password),
             pack("HELLO", "3", "AUTH", name, password)]
        )  # fmt: skip

    def command(self) -> bytes:
        key = f"{self._dice.choice(TAGS)}{self.user or 'nobody'}"
        other = f"{self._dice.choice(TAGS)}{self.user or 'nobody'}"
        return self._dice.choice(
            [
                *[pack("INCR", key)] * 4,
                pack("MGET", key, other),
                pack("DEL", key, other),
                pack("MULTI") + pack("INCR", key) + pack("GET", key) + pack("EXEC"),
                pack("WATCH", key) + pack("MULTI") + pack("INCR", key) + pack("EXEC"),
                pack("BLPOP", key + "q", "0.01"),
                pack("BLPOP", key + "q", other + "r", "0.01"),
                pack("RPUSH", key + "q", "x"),
                pack("LPOP", other + "q"),
                pack("AUTH", self._dice.choice(list(PASSWORDS)), "wrong"),
            ]
        )

    def talk(self) -> None:
        data = b""
        for _ in range(self._dice.randrange(1, 6)):
            choice = self._dice.random()
            if choice < 0.25:
                data += self.login()
            elif choice < 0.3:
                data += pack("RESET")
                self.user = ""
            else:
                data += self.command()
        self.client.send_bytes(data)


def trouble(rig: Rig, dice: random.Random) -> None:
    node = dice.choice(rig.nodes)
    what = dice.randrange(7)
    if what == 0:
        node.stopped = not node.stopped
    elif what == 1:
        node.drop_links()
    elif what == 2:
        node.down = not node.down
    elif what == 3:
        slot = slot_of(dice.choice(TAGS).encode())
        rig.cluster.own(slot, dice.choice(rig.nodes))
    elif what == 4:
        rig.advance(dice.choice([0.02, 1.0, 12.0]))
    elif what == 5:
        rig.refresh()
    else:
        user, password = dice.choice(list(PASSWORDS.items()))
        grant = rig.grants.get((user.encode(), password.encode()))
        if grant is not None and grant not in rig.control.forgotten:
            rig.plane.revoke(grant)


def strangers(rig: Rig) -> list[str]:
    """Commands that came on another user's connection."""
    found = []
    for node in rig.nodes:
        for link in node.links:
            user = link.user[2:-1]
            for words in link.received:
                for word in words[1:]:
                    named = next((name for name in (*PASSWORDS, "nobody") if name.encode() in word), None)
                    # The proxy itself looks at keys for which somebody waits.
                    if named is not None and named != user and not (user == "" and words[0].upper() == b"EXISTS"):
                        found.append(f"{words} as {user!r}")
    return found


@pytest.mark.parametrize("seed", range(RUNS))
def test_no_command_travels_as_another_user(make_rig: MakeRig, seed: int) -> None:
    dice = random.Random(seed)
    rig = make_rig(3, client_auth="passthrough", lanes=dice.choice([1, 2]), park_timeout=dice.choice([0.5, 30.0]))
    rig.passwords = {name.encode(): password.encode() for name, password in PASSWORDS.items()}
    rig.plane.decide_default(None)
    talkers = [Talker(rig.client(), dice) for _ in range(4)]
    for _ in range(60):
        talker = dice.choice(talkers)
        if talker.client.closed or dice.random() < 0.03:
            talker.client.vanish()
            talkers.remove(talker)
            talkers.append(Talker(rig.client(), dice))
        talker.talk()
        if dice.random() < 0.4:
            trouble(rig, dice)
        if dice.random() < 0.5:
            rig.run()
        else:
            rig.run_proxy(dice.randrange(1, 4))
            rig.judging = dice.random() < 0.7
    rig.judging = True
    for node in rig.nodes:
        node.stopped = node.down = False
    rig.advance(40)
    assert strangers(rig) == []
    links = [link for node in rig.nodes for link in node.links]
    used = {link.user for link in links if any(words[0] == b"INCR" for words in link.received)}
    assert used and "" not in used
