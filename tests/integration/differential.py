"""The same commands to one plain server and to slotproxy over three primaries of the same version: do they differ?

    python -m tests.integration.differential --seconds 600 [--server PATH] [--plain]

goes through every example with all its variants, alone and in a transaction, through every written sequence and every
conversation of several clients; then, until the time is over, through generated sequences, with slots at rest and with
slots that move, with transactions in one slot and over slots. `test_differential` and `test_differential_sessions` do a
part of the same. `--plain` compares two plain servers instead: what differs then is wrong with the comparison.

Both sides start empty for every sequence: the nodes are flushed directly, not through the proxy. What is compared how
stands in `differential_rules`; what is asked in `differential_cases` (commands with keys), `differential_keyless`,
`differential_transactions`, `differential_blocking` and `differential_conversations`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence

import trio
from hypothesis import HealthCheck, Phase, given, settings

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from slotproxy.demo.servers import find_redis_server
from tests.conftest import NODE_TIMEOUT_MS
from tests.integration.differential_blocking import TIMEOUT, blocking, timed
from tests.integration.differential_cases import (
    TAGS,
    Example,
    Words,
    examples,
    making,
    pipelines,
    populated,
    spell,
    variants,
)
from tests.integration.differential_conversations import conversations, conversations_while_moving
from tests.integration.differential_keyless import of_containers, sequences
from tests.integration.differential_parties import Conversation
from tests.integration.differential_peers import shown
from tests.integration.differential_rules import Call
from tests.integration.differential_sides import Divergence, Sides, sides_of, twins_of
from tests.integration.differential_transactions import transactions

# ---- what is made of the examples


def check_example(
    sides: Sides, number: int, example: Example, every: int = 1, inside: bool = False
) -> list[Divergence]:
    """One of the examples and every `every`-th of its variants, each on keys freshly made; shrunk.

    `inside`: each in a transaction of its own.
    """
    if not sides.knows(spell(example[0], b"")):
        return []
    tag = b"example%d" % number
    sides.reset()
    sequence: list[Words] = []
    for place, (kinds, words) in enumerate(variants(example, tag)):
        if place == 0 or (number + place) % every == 0:
            sequence += one_case(sides, kinds, words, tag, inside)
    found: dict[str, Divergence] = {}
    for divergence in sides.run(sequence):
        # One for each kind of difference: its variants often all fail alike.
        found.setdefault(f"{divergence.call.name} {divergence.expected[:12]!r} {divergence.said[:12]!r}", divergence)
    return [sides.shrunk(divergence) for divergence in found.values()]


def one_case(sides: Sides, kinds: list[str], words: Words, tag: bytes, inside: bool) -> list[Words]:
    """Make the keys, run the command, look at what it left."""
    run: list[Words] = [(b"MULTI",), words, (b"EXEC",)] if inside else [words]
    before = [command for kind in kinds for command in making(kind, tag)]
    command = sides.rules.table.resolve(list(words))
    if command is None or not (command.write or command.script):
        return [*before, *run]
    after = [look for kind in kinds for look in looks(sides, spell("@" + kind, tag))]
    return [*before, *run, *after]


def looks(sides: Sides, key: bytes) -> list[Words]:
    """Commands whose replies tell all that a key holds."""
    found: list[Words] = [(b"DUMP", key), (b"PTTL", key), (b"SMEMBERS", key)]
    return [*found, (b"XINFO", b"STREAM", key, b"FULL")] if key.endswith(b"}stream") else found


def look_at_all(sides: Sides) -> list[Divergence]:
    """Every key that either side has, whole."""
    keys = sides.keys()
    return sides.run([look for key in keys for look in (*looks(sides, key), (b"TYPE", key))])


# ---- the server as a whole


def check_sequence(sides: Sides, sequence: list[Words]) -> list[Divergence]:
    """In one pipeline and, unless replies are switched off meanwhile, one by one."""
    found: dict[Call, Divergence] = {}
    silent = any(words[1:2] == (b"REPLY",) for words in sequence)
    for sizes in ([],) if silent else ([], [1] * len(sequence)):
        sides.reset()
        for divergence in sides.run(sequence, sizes):
            found.setdefault(divergence.call, divergence)
    return list(found.values())


WALKS: list[tuple[bytes, ...]] = [
    (), (b"COUNT", b"1"), (b"COUNT", b"7"), (b"COUNT", b"1000"), (b"MATCH", b"*1*"), (b"TYPE", b"list"),
    (b"TYPE", b"nosuch"), (b"match", b"k2*", b"count", b"50", b"type", b"string"), (b"MATCH", b"nosuch"),
]  # fmt: skip
"""Options of SCAN."""
_LARGEST_CURSOR = 2**53
_STEPS = 2_000


def check_walks(sides: Sides) -> list[str]:
    """SCAN over some hundred keys, to the end, with all options: what is wrong with it."""
    sides.reset()
    keys = [b"k%d" % number for number in range(300)]
    filled = [(b"RPUSH" if number % 3 == 0 else b"SET", key, b"v") for number, key in enumerate(keys)]
    wrong = [str(one) for one in sides.run(filled)]
    for options in WALKS:
        expected, said = sides.walks(options, most=_STEPS)
        if sorted(expected.found) != sorted(said.found):
            wrong.append(f"SCAN {options}: {len(expected.found)} keys, through slotproxy {len(said.found)}")
        if said.largest >= _LARGEST_CURSOR or not said.ended:
            wrong.append(f"SCAN {options}: cursor {said.largest}, ended: {said.ended}")
    return wrong


def check_restored_functions(sides: Sides) -> list[Divergence]:
    """A plain server's FUNCTION DUMP, restored on both sides with each policy."""
    code = b"#!lua name=lib\nredis.register_function('f', function(keys, args) return #keys + #args end)"
    sides.reset()
    sides.run([(b"FUNCTION", b"LOAD", code)])
    payload = sides.plain_bulk((b"FUNCTION", b"DUMP"))
    sides.reset()
    call: list[Words] = [(b"FCALL", b"f", b"1", key, b"x") for key in TAGS]
    restore = (b"FUNCTION", b"RESTORE", payload)
    again = [(*restore, policy) for policy in (b"APPEND", b"REPLACE", b"FLUSH", b"foo")]
    return sides.run([*call, restore, *call, *again, *call, (b"FUNCTION", b"LIST", b"WITHCODE")])


# ---- several clients


def check_conversation(sides: Sides, conversation: list[Words], rests: int = 1) -> list[Divergence]:
    """The first reply that differs, or that came to one side's client alone; else what the keys hold afterwards.

    While slots move, all of them do so once more `rests` times, each time with somebody waiting.
    """
    if not all(sides.knows(words[1]) for words in conversation if len(words) > 2):
        return []
    sides.reset()
    return Conversation(sides, conversation, rests).run() or look_at_all(sides)


_SLACK = 0.25
_ATTEMPTS = 3


def check_timeouts(sides: Sides) -> list[str]:
    """Clients that wait for nothing do so as long as they said, and hardly longer: those that do not."""
    sides.reset()
    wrong: list[str] = []
    for words in filter(lambda words: sides.knows(words[0]), timed()):
        took = sorted(sides.seconds(words) for _ in range(_ATTEMPTS))
        # A busy machine may make one of them late, but nothing makes one early.
        if took[0] < TIMEOUT or took[_ATTEMPTS // 2] > TIMEOUT + _SLACK:
            wrong.append(f"{shown(words)} took {', '.join(f'{seconds:.3f}' for seconds in took)} s")
    return wrong


# ---- generated sequences


def check_pipelines(sides: Sides, pipelines: list[list[Words]]) -> list[Divergence]:
    """Send them to keys of every kind; then look at every key."""
    sides.reset()
    start = populated()
    sequence = [*start, *(words for pipeline in pipelines for words in pipeline if sides.knows(words[0]))]
    sizes = [len([words for words in pipeline if sides.knows(words[0])]) for pipeline in pipelines]
    return sides.run(sequence, [len(start), *sizes]) or look_at_all(sides)


def search(sides: Sides, count: int) -> None:
    """`count` generated sequences. Raises AssertionError that shows the shortest one which differs.

    While slots move nothing is tried twice, so all that differ are shown as they are.
    """
    kept: list[Divergence] = []

    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(pipelines(over_slots=sides.rules.per_slot, watching=not sides.in_motion))
    def check(sequence: list[list[Words]]) -> None:
        found = check_pipelines(sides, sequence)
        if sides.in_motion:
            kept.extend(found)
        else:
            assert not found, told(found)

    check()
    assert not kept, told(kept)


def told(found: Sequence[Divergence]) -> str:
    """The divergences, for reading."""
    return f"{len(found)} replies differ\n\n" + "\n\n".join(map(str, found[:10]))


# ---- the long form


class Report:
    """Shows what differs as soon as it is known, and counts it."""

    def __init__(self) -> None:
        self.failures = 0

    def add(self, found: Iterable[object]) -> None:
        for one in found:
            self.failures += 1
            print(one, end="\n\n", flush=True)

    def search(self, sides: Sides, count: int) -> None:
        try:
            search(sides, count)
        except AssertionError as error:
            self.add([error])


def main() -> int:
    """Returns 1 when anything differed."""
    parser = argparse.ArgumentParser(description="Compare slotproxy over three primaries with one plain server.")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--server", default=None, help="path of a redis-server; default: the first one found")
    parser.add_argument("--plain", action="store_true", help="compare two plain servers")
    options = parser.parse_args()
    guard = Guard("slotproxy-test-")
    server = options.server or find_redis_server()
    end = time.monotonic() + options.seconds
    report = Report()
    try:
        if options.plain:
            with twins_of(server, guard) as sides:
                _ask_everything(report, sides)
                while time.monotonic() < end:
                    report.search(sides, 100)
        else:
            _compare_until(end, report, server, guard)
    finally:
        guard.close()
    print(f"{report.failures} failures")
    return 1 if report.failures else 0


def _compare_until(end: float, report: Report, server: str, guard: Guard) -> None:
    cluster = EmbeddedCluster(server=server, node_timeout_ms=NODE_TIMEOUT_MS, guard=guard)
    try:
        trio.run(_form, cluster)
        with sides_of(cluster, guard) as sides, sides_of(cluster, guard, per_slot=True) as by_slot:
            _ask_everything(report, sides)
            for sequence in transactions():
                report.add(check_sequence(by_slot, sequence))
            while time.monotonic() < end:
                for one in (sides, by_slot):
                    report.search(one, 50)
                    with one.moving(cluster, TAGS):
                        report.search(one, 20)
                with sides.moving(cluster, TAGS):
                    for conversation in itertools.chain(*conversations_while_moving()):
                        report.add(check_conversation(sides, conversation, rests=len(conversation)))
    finally:
        cluster.close()


async def _form(cluster: EmbeddedCluster) -> None:
    await cluster.start()
    cluster.disconnect()


def _ask_everything(report: Report, sides: Sides) -> None:
    """All that is written down, while slots rest."""
    for number, example in enumerate(examples()):
        report.add(check_example(sides, number, example))
        report.add(check_example(sides, number, example, inside=True))
    for sequence in [*sequences(), *of_containers(sides.rules.table), *transactions(), *blocking()]:
        report.add(check_sequence(sides, sequence))
    for conversation in conversations(sides.version):
        report.add(check_conversation(sides, conversation))
    report.add(check_timeouts(sides))


if __name__ == "__main__":
    sys.exit(main())
