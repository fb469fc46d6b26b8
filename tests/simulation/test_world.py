"""What a world as a whole must not depend on, and who is in it."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.faults import Fault, Faults
from tests.simulation.world import run


def test_the_wall_clock_decides_nothing() -> None:
    """Wall clocks that jump by years between any two starts change no decision, nor its time."""
    first, second = run(3, wall_seed=1), run(3, wall_seed=2)
    assert first.faults[Fault.CRASH] + first.faults[Fault.REBOOT] > 0
    assert first.decisions == second.decisions
    assert first.digest != second.digest  # but people are shown other dates


def test_strangers_come_to_every_port() -> None:
    """What no one should send is sent, and met by the seeds' own checks."""
    kinds = {kind for kind, fault in run(6).coverage if fault is Fault.STRANGER}
    assert {"unreadable", "accept", "report", "start_request", "cancel"} <= kinds


@pytest.mark.parametrize("seed", range(1, 7))
def test_two_managers_of_one_number_never_both_serve(seed: int) -> None:
    """Whoever starts a manager twice loses one of the two, and no device notices."""
    faults = Faults.drawn(Random(seed))
    faults.nemesis[Fault.TWIN] = 2.0
    assert run(seed, faults=faults).faults[Fault.TWIN] > 0
