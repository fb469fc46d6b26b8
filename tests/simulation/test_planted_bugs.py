"""The harness can fail: every planted bug is found, by the check that is there for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import planted_back_off, planted_job_manager, planted_others
from tests.simulation.planted import BUGS, SEEDS_MAX, table
from tests.simulation.world import SeedError, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing.md"
MODULES = (planted_job_manager, planted_others, planted_back_off)  # importing them fills the table


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that is named for this bug sees it within the number of seeds that is promised."""
    bug = BUGS[name]
    bug.plant(monkeypatch)
    seen: list[str] = []
    for seed in bug.seeds():
        try:
            run(seed)
        except SeedError as found:
            if bug.found_by in found.why:
                return
            seen.append(found.why)
    pytest.fail(f"not found within {SEEDS_MAX} seeds by “{bug.found_by}”, but {seen}")


def test_there_are_many_planted_bugs() -> None:
    """At least as many as the harness was asked for."""
    assert len(BUGS) >= 24


def test_the_page_lists_the_planted_bugs() -> None:
    """``docs/testing.md`` has the table of these bugs."""
    assert table() in PAGE.read_text(), f"replace the table of the page by:\n{table()}"
