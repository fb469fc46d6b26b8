from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest

from daemons.job_manager.states import (
    JOB,
    JOB_LIVE,
    ROUND,
    ROUND_LIVE,
    IllegalTransitionError,
    JobState,
    Machine,
    RoundState,
    step,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("machine", [JOB, ROUND], ids=lambda machine: machine.name)
def test_every_pair_is_in_the_table_or_refused(machine: Machine[JobState]) -> None:
    """A pair of state and event that the table lacks raises, with who, state and event."""
    events = {event for _, event in machine.table}
    for state, event in itertools.product(type(machine.first), events):
        if (state, event) in machine.table:
            assert step(machine, state, event, "it") is machine.table[state, event]
            continue
        with pytest.raises(IllegalTransitionError) as caught:
            step(machine, state, event, "it")
        assert (caught.value.who, caught.value.state, caught.value.event) == ("it", state, event)


def test_final_states_are_final() -> None:
    """No event leads out of a state that is not live, and each live state has a way out."""
    assert {state for state, _ in JOB.table} == JOB_LIVE
    assert {state for state, _ in ROUND.table} == ROUND_LIVE


def test_every_state_is_reached() -> None:
    """Each state is the first one or the end of some transition."""
    assert {JOB.first, *JOB.table.values()} == set(JobState)
    assert {ROUND.first, *ROUND.table.values()} == set(RoundState)


def test_the_diagrams_are_current() -> None:
    """docs/states.md is what scripts/make_state_diagrams.py makes of the tables."""
    script = runpy.run_path(str(ROOT / "scripts" / "make_state_diagrams.py"))
    written = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    assert written == script["render"](), "run scripts/make_state_diagrams.py"
