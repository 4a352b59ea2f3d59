"""RESP3: slotproxy over three primaries answers what one plain server of the same version answers, byte for byte.

The same as `test_differential` and `test_differential_sessions` ask in RESP2, and the same differences are meant.
"""

from __future__ import annotations

from slotproxy.demo.cluster import EmbeddedCluster
from tests.integration.differential import check_conversation, check_example, check_sequence, search, told
from tests.integration.differential_blocking import blocking
from tests.integration.differential_cases import TAGS, examples
from tests.integration.differential_conversations import conversations
from tests.integration.differential_keyless import of_containers, sequences
from tests.integration.differential_sides import Sides
from tests.integration.differential_transactions import transactions

EVERY = 6  # variant of an example in a transaction
EXAMPLES = 40
EXAMPLES_WHILE_MOVING = 30


def test_every_command_with_keys_answers_as_one_server_would(sides_in_resp3: Sides) -> None:
    found = [one for number, example in enumerate(examples()) for one in check_example(sides_in_resp3, number, example)]
    assert not found, told(found)


def test_every_command_with_keys_answers_in_a_transaction_as_one_server_would(sides_in_resp3: Sides) -> None:
    found = [
        one
        for number, example in enumerate(examples())
        for one in check_example(sides_in_resp3, number, example, EVERY, True)
    ]
    assert not found, told(found)


def test_commands_about_the_server_answer_as_one_server_would(sides_in_resp3: Sides) -> None:
    asked = [*sequences(), *of_containers(sides_in_resp3.rules.table)]
    found = [one for sequence in asked for one in check_sequence(sides_in_resp3, sequence)]
    assert not found, told(found)


def test_transactions_are_answered_as_by_one_server(sides_in_resp3: Sides) -> None:
    found = [one for sequence in transactions() for one in check_sequence(sides_in_resp3, sequence)]
    assert not found, told(found)


def test_blocking_commands_of_one_client_are_answered_as_by_one_server(sides_in_resp3: Sides) -> None:
    found = [one for sequence in blocking() for one in check_sequence(sides_in_resp3, sequence)]
    assert not found, told(found)


def test_clients_wait_and_wake_each_other_as_on_one_server(sides_in_resp3: Sides) -> None:
    asked = conversations(sides_in_resp3.version)
    found = [one for conversation in asked for one in check_conversation(sides_in_resp3, conversation)]
    assert not found, told(found)


def test_any_sequence_is_answered_as_by_one_server(sides_in_resp3: Sides) -> None:
    search(sides_in_resp3, EXAMPLES)


def test_any_sequence_is_answered_as_by_one_server_while_slots_move(
    sides_in_resp3: Sides, running_cluster: EmbeddedCluster
) -> None:
    with sides_in_resp3.moving(running_cluster, TAGS) as mover:
        search(sides_in_resp3, EXAMPLES_WHILE_MOVING)
    assert mover.moves > 20
