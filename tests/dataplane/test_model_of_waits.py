"""Random worlds in which clients wait in blocking pops: nothing is lost, taken twice, out of order, or stuck.

Seeds as in `test_model`.
"""

from __future__ import annotations

import pytest

from tests.dataplane.test_model import play, seeds
from tests.dataplane.world import Chaos


@pytest.mark.parametrize("seed", seeds())
def test_waits_do_not_notice_moving_slots_and_refusals(seed: int) -> None:
    play(seed, Chaos(queues=True, refusals=seed % 2 == 0))


@pytest.mark.parametrize("seed", seeds())
def test_waits_lose_nothing_but_what_is_in_doubt_when_connections_drop(seed: int) -> None:
    play(seed, Chaos(queues=True, drops=True))


@pytest.mark.parametrize("seed", seeds())
def test_waiting_clients_that_vanish_take_nothing_along(seed: int) -> None:
    play(seed, Chaos(queues=True, drops=seed % 2 == 0, vanishing=True))
