"""What each seed draws: the same for all policies, and what the printed interval covers."""

from __future__ import annotations

import csv
from array import array
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from evaluation.simulator import grid as grid_module
from evaluation.simulator.draws import drawn_jobs, drawn_trace
from evaluation.simulator.grid import Grid, run_grid
from evaluation.simulator.workloads import SimulatedJob, load_jobs
from propius.engine import Trace, TraceError
from propius.errors import PropiusError

DAY = 86_400.0
STARTS = [10.0, DAY - 5, DAY + 20, 2 * DAY + 30, 2 * DAY + 40]
"""Of three days; the second session crosses midnight."""
ENDS = [20.0, DAY + 500, DAY + 900, 2 * DAY + 800, 2 * DAY + 900]


def a_trace(starts: list[float] = STARTS, ends: list[float] = ENDS) -> Trace:
    """A session has its number as its speed."""
    numbers = array("d", [1.0 + row for row in range(len(starts))])
    classes = array("H", [0b11110] * len(starts))
    return Trace.from_columns(array("d", starts), array("d", ends), numbers, numbers, classes)


def rows_of(trace: Trace, path: Path) -> list[tuple[float, float, int]]:
    """(start, end, number) of each session."""
    trace.save_csv(path)
    with path.open() as file:
        return [
            (float(row["start"]), float(row["end"]), int(float(row["computation"])))
            for row in csv.DictReader(file)
        ]


def asked(job: SimulatedJob) -> tuple[Any, ...]:
    return (job.participants, job.rounds, job.deadline_s)


def test_drawn_jobs_ask_for_what_some_job_of_the_list_asks_for() -> None:
    """With replacement; the place keeps its arrival and requirement."""
    jobs = load_jobs("even")
    drawn = drawn_jobs(jobs, 1, ["jobs"])
    assert [(job.start_s, job.requirement) for job in drawn] == [
        (job.start_s, job.requirement) for job in jobs
    ]
    known = {asked(job) for job in jobs}
    assert {asked(job) for job in drawn} < known  # some twice, so that some are missing
    assert drawn == drawn_jobs(jobs, 1, ["jobs"]) != drawn_jobs(jobs, 2, ["jobs"])


def test_over_the_seeds_each_job_of_the_list_is_drawn_equally_often() -> None:
    """No place of the list is out of reach."""
    jobs = [
        SimulatedJob(start_s=i, participants=i + 1, rounds=1, deadline_s=9, requirement=1)
        for i in range(5)
    ]
    drawn = [job.participants for seed in range(1_000) for job in drawn_jobs(jobs, seed, ["jobs"])]
    assert np.bincount(drawn)[1:] == pytest.approx([1_000] * 5, rel=0.15)


def test_drawn_gaps_are_exponential_with_the_mean_of_the_list() -> None:
    """The first arrival and the order of the jobs stay, also of a list that is not sorted."""
    jobs = list(reversed(load_jobs("even")))
    old = np.array([job.start_s for job in jobs])
    lists = [drawn_jobs(jobs, seed, ["arrivals"]) for seed in range(200)]
    assert [asked(job) for job in lists[0]] == [asked(job) for job in jobs]
    starts = np.array([[job.start_s for job in drawn] for drawn in lists])
    assert (starts.min(axis=1) == old.min()).all()
    assert (np.argsort(starts[7]) == np.argsort(old, kind="stable")).all()
    gaps = np.diff(np.sort(starts, axis=1))
    mean = np.diff(np.sort(old)).mean()
    assert gaps.mean() == pytest.approx(mean, rel=0.05)
    assert gaps.std() == pytest.approx(mean, rel=0.1)  # as of no other gaps of this mean
    assert np.quantile(gaps, 0.5) == pytest.approx(mean * np.log(2), rel=0.1)


def test_a_kind_of_draw_does_not_depend_on_the_others() -> None:
    """Jobs drawn with or without arrivals are the same jobs."""
    jobs = load_jobs("even")
    both = drawn_jobs(jobs, 3, ["jobs", "arrivals"])
    assert [asked(job) for job in both] == [asked(job) for job in drawn_jobs(jobs, 3, ["jobs"])]
    alone = drawn_jobs(jobs, 3, ["arrivals"])
    assert [job.start_s for job in both] == [job.start_s for job in alone]
    assert drawn_jobs(jobs, 3, ["latencies"]) == jobs


def test_days_go_whole_and_a_session_goes_with_its_start(tmp_path: Path) -> None:
    """Day 2, then 0, then 1; the one that crosses midnight still ends on the day after its own."""
    moved = a_trace().with_days([2, 0, 1])
    assert rows_of(moved, tmp_path / "moved.csv") == [
        (30, 800, 4),
        (40, 900, 5),
        (DAY + 10, DAY + 20, 1),
        (2 * DAY - 5, 2 * DAY + 500, 2),
        (2 * DAY + 20, 2 * DAY + 900, 3),
    ]
    assert moved.with_days([1, 2, 0]).period_s == 3 * DAY
    assert rows_of(moved.with_days([1, 2, 0]), tmp_path / "back.csv") == [
        (start, end, number)
        for number, (start, end) in enumerate(zip(STARTS, ENDS, strict=True), 1)
    ]


def test_an_empty_day_at_the_end_still_counts_as_a_day() -> None:
    """Else the trace would begin again a day too early."""
    trace = a_trace([5.0, 2 * DAY + 5], [9.0, 2 * DAY + 9])
    assert trace.with_days([0, 2, 1]).period_s == trace.period_s == 3 * DAY


@pytest.mark.parametrize("order", [[], [0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 3]])
def test_an_order_that_is_none_of_the_days_is_refused(order: list[int]) -> None:
    """Each day once."""
    with pytest.raises(TraceError, match="each of the 3 days once"):
        a_trace().with_days(order)


def test_what_has_nothing_to_draw_from_is_refused() -> None:
    """One day, one job, one arrival: the interval would claim what was not drawn."""
    [job] = load_jobs("even")[:1]
    with pytest.raises(PropiusError, match="--draw days: the trace is of 1 day"):
        drawn_trace(a_trace([5.0], [9.0]), 1, ["days"])
    with pytest.raises(PropiusError, match="--draw jobs: "):
        drawn_jobs([job], 1, ["jobs"])
    with pytest.raises(PropiusError, match="--draw arrivals: "):
        drawn_jobs([job, job], 1, ["arrivals"])


def test_all_policies_of_a_seed_see_the_same_draw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ratios are paired by seed; another seed has another list and another order of days."""
    seen: dict[tuple[str, int], Any] = {}

    def simulate(trace: Trace, jobs: Any, *, policy: str, seed: int, **_: Any) -> dict[str, Any]:
        path = tmp_path / f"{policy}-{seed}.csv"
        seen[policy, seed] = (msgspec.json.encode(jobs), rows_of(trace, path))
        return {"policy": policy, "seed": seed}

    monkeypatch.setattr(grid_module, "simulate", simulate)
    days = [float(day) * DAY + second for day in range(9) for second in (5, 50)]
    trace = a_trace(days, [start + 9 for start in days])
    draws = ("latencies", "jobs", "arrivals", "days")
    grid = Grid(jobs=load_jobs("even"), policies=["fifo", "irs"], seeds=[1, 2], draws=draws)
    runs = run_grid(trace, grid, threads=3)
    assert [(run["policy"], run["seed"]) for run in runs] == grid.runs()
    assert seen["fifo", 1] == seen["irs", 1]
    assert seen["fifo", 2] == seen["irs", 2]
    for one, two in zip(seen["fifo", 1], seen["fifo", 2], strict=True):
        assert one != two
    assert grid.rounds == 2 * sum(
        job["rounds"] for seed in (1, 2) for job in msgspec.json.decode(seen["irs", seed][0])
    )
