"""Whole systems under faults, one a seed: what must hold does, and all comes to rest."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.faults import Faults
from tests.simulation.world import run

SEEDS = 50


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_a_system_under_faults_keeps_its_promises(seed: int) -> None:
    """Faults rain, nothing acknowledged is lost or given twice, and when they end all finishes."""
    done = run(seed)
    assert done.delivered > 1_000
    assert done.rounds > 0
    assert done.faults.total() > 0


def test_the_same_seed_is_the_same_run() -> None:
    """Every message, fault and decision repeats."""
    assert run(5).digest == run(5).digest


def test_a_perfect_world_has_no_faults() -> None:
    """The harness itself disturbs nothing."""
    done = run(1, faults=Faults.none(Random(0)))
    assert not done.faults
    assert done.rounds > 0
