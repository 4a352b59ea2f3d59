"""slotproxy over three primaries answers what one plain server of the same version answers, byte for byte.

Where it means to differ, a row of `differential_rules.EXCEPTIONS` says how and why. The long form of these tests is
`python -m tests.integration.differential`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from slotproxy.demo.cluster import EmbeddedCluster
from slotproxy.demo.guard import Guard
from tests.integration.differential import check_example, search, told
from tests.integration.differential_cases import TAGS, examples
from tests.integration.differential_sides import Mover, Sides, sides_of

EXAMPLES = 80
EXAMPLES_WHILE_MOVING = 60


@pytest.fixture(scope="module")
def sides(running_cluster: EmbeddedCluster) -> Iterator[Sides]:
    async def reset() -> None:
        await running_cluster.reset()
        running_cluster.disconnect()

    trio.run(reset)
    guard = Guard("slotproxy-test-")
    try:
        with sides_of(running_cluster, guard) as both:
            yield both
    finally:
        guard.close()


def test_every_command_with_keys_answers_as_one_server_would(sides: Sides) -> None:
    found = [one for number, example in enumerate(examples()) for one in check_example(sides, number, example)]
    assert not found, told(found)


def test_any_sequence_is_answered_as_by_one_server(sides: Sides) -> None:
    search(sides, EXAMPLES)


def test_any_sequence_is_answered_as_by_one_server_while_slots_move(
    sides: Sides, running_cluster: EmbeddedCluster
) -> None:
    with sides.moving(), Mover(running_cluster, TAGS) as mover:
        # Not scripts: their confirmed refusals reach the client when the slot has moved on in between.
        search(sides, EXAMPLES_WHILE_MOVING, scripts=False)
    assert mover.moves > 20
