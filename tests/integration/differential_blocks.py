"""Transactions in the differential test: which reply belongs to which command, and what is asked where the sides part.

Between MULTI and EXEC a command is answered twice: whether it was queued, and what it did, inside EXEC's array. So each
reply of that array is compared by its own command's rule. Where slotproxy means to differ the plain server is asked
something in the command's place that keeps the two in step: nothing at all outside of transactions; inside, PING for
what is queued, an unknown command for what slotproxy does not queue, and DISCARD for an EXEC that it refuses.

Knows words and frames only: no server, no socket.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from slotproxy.protocol.replies import elements_of
from tests.integration.differential_cases import Words
from tests.integration.differential_rules import Call, Own, Rules

_QUEUED_IN_PLACE: Words = (b"PING",)
_REFUSED_IN_PLACE: Words = (b"refused-by-slotproxy",)
_DISCARDED_IN_PLACE: Words = (b"DISCARD",)


class Asked(NamedTuple):
    """One command. `plain`: what the plain server is asked in its place, None for nothing. `own`: what slotproxy
    answers, where it means to differ. `block`: for EXEC, the commands that were queued, each with slotproxy's own."""

    call: Call
    plain: Words | None
    own: re.Pattern[bytes] | None = None
    block: tuple[tuple[Call, re.Pattern[bytes] | None], ...] = ()

    def without_own(self) -> Asked:
        """The same, for another plain server that is asked what the first one is."""
        return Asked(self.call, self.plain, None, tuple((call, None) for call, _ in self.block))


class Blocks:
    """The transactions of one client on both sides. `ask` gets its commands in the order in which they are sent."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The client's connections are new."""
        self._queued: list[tuple[Call, re.Pattern[bytes] | None]] | None = None
        self._failed = False
        self._watched: list[Call] = []

    @property
    def inside(self) -> bool:
        """Whether the client is between MULTI and EXEC."""
        return self._queued is not None

    def ask(self, rules: Rules, words: Words) -> Asked:
        """What to ask, and what to expect. Whether a command is queued is told from the command table."""
        call = rules.call(words)
        if call.name == "exec":
            return self._execute(rules, call)
        queued = self._queued
        own = rules.own_answer(call, self._watched, inside=queued is not None)
        if queued is not None:
            return self._queue(rules, call, own, queued)
        if own is not None:
            return Asked(call, None, own.pattern)
        if rules.is_accepted(call):
            if call.name == "multi":
                self._queued, self._failed = [], False
            elif call.name == "watch":
                self._watched.append(call)
            elif call.name in ("unwatch", "reset", "quit"):
                self.forget()
        return Asked(call, words)

    def _queue(
        self, rules: Rules, call: Call, own: Own | None, queued: list[tuple[Call, re.Pattern[bytes] | None]]
    ) -> Asked:
        if own is not None and own.at_once:
            self._failed = True
            return Asked(call, _REFUSED_IN_PLACE, own.pattern)
        if not rules.is_accepted(call):
            self._failed = True
        elif call.name in ("discard", "reset", "quit"):
            self.forget()
        elif call.name not in ("multi", "watch"):
            queued.append((call, own.pattern if own else None))
            return Asked(call, _QUEUED_IN_PLACE if own else call.words)
        return Asked(call, call.words)

    def _execute(self, rules: Rules, call: Call) -> Asked:
        block = tuple(self._queued or ())
        runs = self._queued is not None and not self._failed and rules.is_accepted(call)
        own = rules.own_end([queued for queued, _ in block], self._watched) if runs else None
        self.forget()
        return Asked(call, call.words, None, block) if own is None else Asked(call, _DISCARDED_IN_PLACE, own)


def agree(rules: Rules, asked: Asked, expected: bytes, said: bytes) -> bool:
    """Whether slotproxy may answer `said` where the plain server's answer to `asked.plain` is `expected`."""
    if asked.own is not None:
        return bool(asked.own.fullmatch(said))
    if asked.call.name == "exec" and expected[:1] == said[:1] == b"*":
        ours, theirs = elements_of(said), elements_of(expected)
        if ours and theirs and len(ours) == len(theirs) == len(asked.block):
            return all(
                bool(own.fullmatch(one)) if own else rules.agree(call, other, one)
                for (call, own), other, one in zip(asked.block, theirs, ours, strict=True)
            )
    return rules.agree(asked.call, expected, said)
