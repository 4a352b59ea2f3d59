"""Several clients at once in the differential test: who waits, who wakes whom, and with what.

A conversation is a list of steps, one client's command each, its letter first. A step is over when every client has its
replies or waits for another. `A ...`: A is answered although nobody does anything, since its time is over, or a key's.
`A !`: A leaves. `$A` stands for A's CLIENT ID. The plain server goes first; then slotproxy has to give the same clients
the same replies, and to let the same ones wait. Where slots move, they do so while clients wait.

Invariant: nothing is a matter of time. Who waits is read from CLIENT LIST, and before the next step the nodes have
executed what slotproxy has sent them.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.integration.differential_cases import Words
from tests.integration.differential_peers import CLOSED, NO_REPLY, PATIENCE, Client, Peer, content
from tests.integration.differential_rules import Call
from tests.integration.differential_sides import Divergence, Sides

_LATER: Final[Words] = (b"...",)
_LEAVES: Final[Words] = (b"!",)
_INTERVAL: Final = 0.005


class Party:
    """One client on one side."""

    def __init__(self, port: int, protocol: int) -> None:
        self.asked: deque[Words] = deque()  # not answered yet
        self._client = Client(port, protocol)
        self._client.send([(b"CLIENT", b"ID")])
        self.id = self._client.frame()[1:-2]

    def send(self, words: Words) -> None:
        self.asked.append(words)
        self._client.send([words])

    def reply(self, patience: float) -> bytes:
        """To the oldest command that is not answered; NO_REPLY if that one has none yet."""
        frame = self._client.frame(patience)
        if frame == CLOSED:
            self.asked.clear()
        elif frame != NO_REPLY:
            self.asked.popleft()
        return frame

    def leave(self) -> None:
        self.asked.clear()
        self._client.close()


class Answer(NamedTuple):
    """`reply` to the command `words` of the client `who`."""

    who: bytes
    words: Words
    reply: bytes


class Side:
    """The clients of one side, and an observer who takes no part."""

    def __init__(self, observer: Peer, who: Sequence[bytes]) -> None:
        self.observer = observer
        self.parties = {letter: Party(observer.port, observer.protocol) for letter in who}

    def do(self, who: bytes, words: Words) -> None:
        if words == _LEAVES:
            self.parties[who].leave()
        elif words != _LATER:
            ids = {b"$" + letter: party.id for letter, party in self.parties.items()}
            self.parties[who].send(tuple(ids.get(word, word) for word in words))

    def awaited(self) -> set[bytes]:
        """Those who have not had all their replies."""
        return {letter for letter, party in self.parties.items() if party.asked}

    def waiting(self) -> set[bytes]:
        """Those who wait for another client, as the server says. Who is awaited and does not wait will be answered."""
        listed = content(self.observer.replies([(b"CLIENT", b"LIST")])[0])
        blocked = set(re.findall(rb"(?m)^id=(\d+) .* flags=\w*b", listed))
        # Replies from before that moment are there when the next one is.
        self.observer.replies([(b"PING",)])
        return {letter for letter, party in self.parties.items() if party.id in blocked}

    def answers(self) -> list[Answer]:
        """Those that are there."""
        found: list[Answer] = []
        for letter, party in self.parties.items():
            while party.asked:
                words = party.asked[0]
                if (reply := party.reply(0.0)) == NO_REPLY:
                    break
                found.append(Answer(letter, words, reply))
        return found

    def leave(self) -> None:
        for party in self.parties.values():
            party.leave()


class Conversation:
    """One conversation on both sides. `rests`: how often slots that move are waited for, while a client waits."""

    def __init__(self, sides: Sides, sequence: Sequence[Words], rests: int) -> None:
        self._sides = sides
        self._rests = rests
        self._sequence = list(sequence)
        who = sorted({words[0] for words in sequence})
        self._plain, self._other = Side(sides.plain, who), Side(sides.other, who)

    def run(self) -> list[Divergence]:
        """The first difference, if there is one."""
        try:
            for number in range(len(self._sequence)):
                found = self._take(number)
                if found is not None:
                    return [found]
                self._rest()
            return []
        finally:
            for side in (self._plain, self._other):
                side.leave()
            self._await_calm()

    def _rest(self) -> None:
        """Let slots move, if they do: some times while somebody waits, and always until it is known what `$` is."""
        if self._plain.awaited() and (self._rests or self._from_now_on()):
            self._rests = max(0, self._rests - 1)
            self._sides.await_moves()

    def _from_now_on(self) -> int:
        """How many streams somebody waits at from `$` on: what that is, slotproxy asks their nodes one by one."""
        return sum(words.count(b"$") for party in self._plain.parties.values() for words in party.asked)

    def _take(self, number: int) -> Divergence | None:
        who, *words = self._sequence[number]
        expected = self._settled(who, tuple(words))
        self._other.do(who, tuple(words))
        for letter, asked, reply in expected:
            said = self._other.parties[letter].reply(PATIENCE)
            call = self._sides.rules.call(asked)
            if not self._sides.rules.agree(call, reply, said):
                return self._differs(number, call, reply, said)
        end = time.monotonic() + PATIENCE
        while True:
            waiting = self._other.waiting()
            for letter, asked, said in self._other.answers():
                return self._differs(number, self._sides.rules.call(asked), letter + b" waits", said)
            if waiting == self._plain.awaited() and self._known_to_nodes():
                return None
            if time.monotonic() > end:
                call = Call("(who waits)", (who, *words))
                return self._differs(number, call, b"%r" % sorted(self._plain.awaited()), b"%r" % sorted(waiting))
            time.sleep(_INTERVAL)

    def _settled(self, who: bytes, words: Words) -> list[Answer]:
        """The plain server's answers to a step, once all others wait."""
        plain = self._plain
        plain.do(who, words)
        found: list[Answer] = []
        if words == _LATER:
            asked = plain.parties[who].asked[0]
            found.append(Answer(who, asked, plain.parties[who].reply(PATIENCE)))
        while True:
            waiting = plain.waiting()
            found += plain.answers()
            if plain.awaited() == waiting:
                return found
            time.sleep(_INTERVAL)

    def _known_to_nodes(self) -> bool:
        """Whether those wait at the nodes who can; asking makes sure that the nodes have executed what came before."""
        blocked = self._sides.blocked_at_nodes()
        for _ in range(self._from_now_on()):
            self._other.observer.replies([(b"PING",)])
            blocked = self._sides.blocked_at_nodes()
        waiting = [self._sides.rules.call(self._plain.parties[letter].asked[0]) for letter in self._plain.awaited()]
        expected = self._sides.waiting_at_nodes(waiting)
        return expected is None or blocked == expected

    def _await_calm(self) -> None:
        """Returns when nobody waits at a node any more: nothing of the next conversation is for one of this."""
        end = time.monotonic() + PATIENCE
        while self._sides.blocked_at_nodes():
            assert time.monotonic() < end, "clients that have left still wait at a node"
            time.sleep(_INTERVAL)

    def _differs(self, number: int, call: Call, expected: bytes, said: bytes) -> Divergence:
        return Divergence(call, expected, said, self._sequence[: number + 1])
