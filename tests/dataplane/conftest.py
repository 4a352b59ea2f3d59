"""Fixture: rigs that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.dataplane.rig import Rig, rig_of

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """`make_rig(nodes, **settings)`: a connected plane between scripted nodes and clients."""
    with ExitStack() as rigs:
        yield lambda *nodes, **settings: rigs.enter_context(rig_of(*nodes, **settings))
