"""Transactions and blocking commands answer as on one plain server of the same version, byte for byte,
in RESP2 and RESP3.

Each reply inside EXEC's array is compared as its command's; of several clients, the same ones are woken by the same
commands with the same replies, and the others wait on. What differs on purpose: `differential_rules`. The long form is
`python -m tests.integration.differential`.
"""

from __future__ import annotations

from slotproxy.demo.cluster import EmbeddedCluster
from tests.integration.differential import (
    check_conversation,
    check_example,
    check_sequence,
    check_timeouts,
    search,
    told,
)
from tests.integration.differential_blocking import blocking
from tests.integration.differential_cases import TAGS, examples
from tests.integration.differential_conversations import conversations, conversations_while_moving
from tests.integration.differential_sides import Divergence, Sides
from tests.integration.differential_transactions import transactions

EVERY = 6  # variant of an example
EXAMPLES = 40
EXAMPLES_WHILE_MOVING = 25


def test_every_command_with_keys_answers_in_a_transaction_as_one_server_would(sides: Sides) -> None:
    found = [
        one for number, example in enumerate(examples()) for one in check_example(sides, number, example, EVERY, True)
    ]
    assert not found, told(found)


def test_transactions_are_answered_as_by_one_server(sides: Sides) -> None:
    found = [one for sequence in transactions() for one in check_sequence(sides, sequence)]
    assert not found, told(found)


def test_blocking_commands_of_one_client_are_answered_as_by_one_server(sides: Sides) -> None:
    found = [one for sequence in blocking() for one in check_sequence(sides, sequence)]
    assert not found, told(found)


def test_clients_wait_and_wake_each_other_as_on_one_server(sides: Sides) -> None:
    found = [one for conversation in conversations(sides.version) for one in check_conversation(sides, conversation)]
    assert not found, told(found)


def test_a_client_that_waits_for_nothing_waits_as_long_as_it_said(sides: Sides) -> None:
    assert check_timeouts(sides) == []


def test_transactions_over_slots_are_answered_as_by_one_server(sides_by_slot: Sides) -> None:
    found = [one for sequence in transactions() for one in check_sequence(sides_by_slot, sequence)]
    assert not found, told(found)


def test_any_sequence_with_transactions_over_slots_is_answered_as_by_one_server(sides_by_slot: Sides) -> None:
    search(sides_by_slot, EXAMPLES)


def test_any_sequence_with_transactions_over_slots_is_answered_as_by_one_server_while_slots_move(
    sides_by_slot: Sides, running_cluster: EmbeddedCluster
) -> None:
    with sides_by_slot.moving(running_cluster, TAGS) as mover:
        search(sides_by_slot, EXAMPLES_WHILE_MOVING)
    assert mover.moves > 20


def test_clients_wake_each_other_as_on_one_server_while_slots_move(
    sides: Sides, running_cluster: EmbeddedCluster
) -> None:
    # The long form has each with its keys in one slot and in three, and a move at every step.
    asked = [spellings[number % 2] for number, spellings in enumerate(conversations_while_moving())]
    with sides.moving(running_cluster, TAGS) as mover:
        found = [one for conversation in asked for one in check_conversation(sides, conversation)]
    found = [one for one in found if not looks_late(one)]
    assert not found, told(found)
    assert mover.moves > 100


def looks_late(one: Divergence) -> bool:
    """Whether a wait minds another type that came before it could look at its key, for the slot was just moving.

    Also one that was told MOVED minds it: whether it had looked and waited there nobody can tell.
    """
    return one.expected.endswith(b" waits") and one.said.startswith(b"-WRONGTYPE")


# A fan-out over keys that move finds what each node has when it is asked; a watched slot that moves makes EXEC nil.
_NOT_WHILE_MOVING = {b"DBSIZE", b"SCAN", b"KEYS", b"RANDOMKEY", b"FLUSHALL", b"FLUSHDB", b"WATCH"}


def test_transactions_are_answered_as_by_one_server_while_slots_move(
    sides: Sides, running_cluster: EmbeddedCluster
) -> None:
    asked = [sequence for sequence in transactions() if not _NOT_WHILE_MOVING & {words[0] for words in sequence}]
    assert len(asked) > 5
    with sides.moving(running_cluster, [*TAGS, b"t"]) as mover:
        found = [one for sequence in asked for one in check_sequence(sides, sequence)]
    assert not found, told(found)
    assert mover.moves > 20
