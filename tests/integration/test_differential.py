"""slotproxy over three primaries answers what one plain server of the same version answers, byte for byte, in RESP2 and
RESP3.

Where it means to differ, a row of `differential_rules.EXCEPTIONS` says how and why. The long form of these tests is
`python -m tests.integration.differential`. Transactions and blocking commands: `test_differential_sessions`.
"""

from __future__ import annotations

from slotproxy.demo.cluster import EmbeddedCluster
from tests.integration.differential import (
    check_example,
    check_restored_functions,
    check_sequence,
    check_walks,
    search,
    told,
)
from tests.integration.differential_blocking import blocking
from tests.integration.differential_cases import TAGS, examples, spelled
from tests.integration.differential_keyless import NOT_COMPARED, of_containers, sequences
from tests.integration.differential_sides import Sides
from tests.integration.differential_transactions import transactions

EXAMPLES = 80
EXAMPLES_WHILE_MOVING = 60


def test_every_command_with_keys_answers_as_one_server_would(sides: Sides) -> None:
    found = [one for number, example in enumerate(examples()) for one in check_example(sides, number, example)]
    assert not found, told(found)


def test_commands_about_the_server_answer_as_one_server_would(sides: Sides) -> None:
    asked = [*sequences(), *of_containers(sides.rules.table)]
    found = [one for sequence in asked for one in check_sequence(sides, sequence)]
    assert not found, told(found)


def test_scan_returns_every_key_once(sides: Sides) -> None:
    assert check_walks(sides) == []


def test_dumped_functions_are_restored_as_by_one_server(sides: Sides) -> None:
    if not sides.knows(b"FUNCTION"):
        return
    found = check_restored_functions(sides)
    assert not found, told(found)


def test_no_command_of_the_server_is_forgotten(sides: Sides) -> None:
    table = sides.rules.table
    written = [*sequences(), *transactions(), *blocking()]
    asked = [*(words for sequence in written for words in sequence), *(spelled(one, b"t") for one in examples())]
    names = {sides.rules.call(words).name for words in [*asked, *(words for x in of_containers(table) for words in x)]}
    names |= {name for row in NOT_COMPARED for name in row.split()}
    missing = [command.name for command in table.commands() if command.name not in names and command.info is not None]
    # A server without cluster support answers all of CLUSTER alike; 6.2 lists two words that it hangs up on.
    assert [name for name in missing if not name.startswith(("cluster|", "host:", "post"))] == []


def test_any_sequence_is_answered_as_by_one_server(sides: Sides) -> None:
    search(sides, EXAMPLES)


def test_any_sequence_is_answered_as_by_one_server_while_slots_move(
    sides: Sides, running_cluster: EmbeddedCluster
) -> None:
    with sides.moving(running_cluster, TAGS) as mover:
        search(sides, EXAMPLES_WHILE_MOVING)
    assert mover.moves > 20


# What a fan-out over keys says while they move is what each node had when it was asked.
_NOT_WHILE_MOVING = {b"DBSIZE", b"SCAN"}


def test_commands_about_the_server_answer_as_one_server_would_while_slots_move(
    sides: Sides, running_cluster: EmbeddedCluster
) -> None:
    asked = [sequence for sequence in sequences() if not _NOT_WHILE_MOVING & {words[0] for words in sequence}]
    with sides.moving(running_cluster, [*TAGS, b"d"]) as mover:
        found = [one for sequence in asked for one in check_sequence(sides, sequence)]
    assert not found, told(found)
    assert mover.moves > 4
