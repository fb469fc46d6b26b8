"""Real processes under fifteen faults: every promise is kept, and in the end all is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.nemesis import KINDS, Fault, draw
from tests.campaign.run import SERVED_BETWEEN, Campaign

SEED = 3
FAULTS = 15


def test_a_seed_always_draws_the_same_faults() -> None:
    """And each kind at least once."""
    assert draw(SEED, FAULTS) == draw(SEED, FAULTS)
    assert draw(SEED, FAULTS) != draw(SEED + 1, FAULTS)
    assert {fault.kind for fault in draw(SEED, FAULTS)} == set(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_acknowledged_is_lost_or_given_twice(tmp_path: Path) -> None:
    """Four jobs and 300 devices go through fifteen faults of every kind, and their histories hold.

    What holds is in the checker; beside that no process and no port is left, no program has a
    traceback, and the event logs show no violation.
    """
    outcome = Campaign(tmp_path / "campaign", seed=SEED, faults=FAULTS).run()
    assert outcome.violations == []
    assert len(outcome.struck) == FAULTS
    assert len(outcome.kinds) >= 5
    acknowledged = outcome.acknowledged
    assert acknowledged["register"] == acknowledged["complete_job"] == 4
    assert acknowledged["report"] >= FAULTS * 20
    assert acknowledged["start_request"] >= 10
    # A job manager that cannot write closes its log until its next start, which may never come.
    logged = [struck.fault.kind for struck in outcome.struck].index("file-limit")
    assert outcome.log_counts["leases granted"] >= logged * SERVED_BETWEEN > 0


# Read by Python at its start, before the program that it is: only the job manager gets the bug.
PLANTED = """
import sys
if any("propius-controller-job-manager" in word for word in sys.orig_argv):
    from daemons.job_manager.book import Book
    honest = Book.take_slot

    def take_slot(self, round_):
        same = round_.next_slot and not round_.allocated % 5
        return round_.next_slot - 1 if same else honest(self, round_)

    Book.take_slot = take_slot
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job manager that gives one slot to two devices, in a real process, is found out."""
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    plan = [Fault("kill", "job_manager", 1.0)]
    outcome = Campaign(tmp_path / "campaign", seed=SEED, plan=plan, clients=100, jobs=2).run()
    assert any(line.startswith("no_slot_is_given_twice: ") for line in outcome.violations)
