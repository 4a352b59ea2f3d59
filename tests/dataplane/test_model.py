"""Random worlds: whatever happens between any two steps, the ordering and delivery contracts hold.

A failure names its seed; the same seed plays the same world again. SLOTPROXY_TEST_WORLDS=first-last plays others.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.dataplane.world import Chaos, World


def seeds() -> list[int]:
    first, _, last = os.environ.get("SLOTPROXY_TEST_WORLDS", "0-19").partition("-")
    return list(range(int(first), int(last) + 1))


def play(seed: int, chaos: Chaos) -> None:
    random.seed(seed)  # jitter
    world = World(seed, chaos)
    world.play()
    assert world.problems == []


@pytest.mark.parametrize("seed", seeds())
def test_moving_slots_are_not_noticed(seed: int) -> None:
    play(seed, Chaos(refusals=False))


@pytest.mark.parametrize("seed", seeds())
def test_refusals_are_not_noticed(seed: int) -> None:
    play(seed, Chaos())


@pytest.mark.parametrize("seed", seeds())
def test_dropped_connections_leave_nothing_but_doubt(seed: int) -> None:
    play(seed, Chaos(drops=True))


@pytest.mark.parametrize("seed", seeds())
def test_vanishing_clients_disturb_nobody(seed: int) -> None:
    play(seed, Chaos(drops=seed % 2 == 0, vanishing=True))
