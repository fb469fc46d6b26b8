"""The figures: what is averaged, over what, and what counts as lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.report.curves import JobCurve, mean_curve
from evaluation.report.document import make_report
from evaluation.report.original_csv import write_original_csv
from evaluation.report.reach import reach
from evaluation.report.summary import Spread, summarize_job
from evaluation.report.tables import headline, notices
from evaluation.results.reader import PolicyResults
from evaluation.results.rows import ClientRow, JobRow, RoundRow, ScoreRow, line
from evaluation.results.writer import RunWriter

DONE = RoundRow(0, 0, 0, "completed", 0.0, 10.0, 30.0, 10, 10, 8, 1, 1, 2.0, 0.0, 80)
ROWS = [
    DONE,
    RoundRow(0, 1, 0, "timed_out_scheduling", 30.0, None, 90.0, 10, 4, 0, 4, 1, None, 0.0),
    RoundRow(0, 1, 1, "timed_out_response", 90.0, 100.0, 137.0, 10, 10, 3, 2, 1, None, 0.0),
    replace(DONE, round=1, attempt=2, opened_s=137.0, filled_s=167.0, ended_s=207.0, version=2),
]
OVER = JobRow(0, "job_0", 0.0, 207.0, 207.0, 2, 20.0, 30.0, 1, 1, "completed")


def test_averages_are_over_completed_rounds() -> None:
    """Fault F14: means were divided by one too many; here by the number of completed rounds."""
    job = summarize_job(0, 0, ROWS, [], OVER)
    assert job.rounds == 2
    assert job.scheduling_delay_s == Spread(20.0, 10.0, 30.0, 2)
    assert job.response_time_s == Spread(30.0, 20.0, 40.0, 2)


def test_time_outs_count_as_long_as_they_took() -> None:
    """Fault F14: a failed attempt is lost time as it was, not the nominal time-out, by kind."""
    job = summarize_job(0, 0, ROWS, [], OVER)
    assert job.failed_s == 60.0 + 47.0
    assert (job.scheduling_timeouts, job.response_timeouts, job.other_failures) == (1, 1, 0)
    assert (job.allocated, job.used) == (34, 16)


def test_failed_attempts_have_rows_in_the_original_csv(tmp_path: Path) -> None:
    """Fault F14: failed attempts had no rows; here each has one, with its times.

    The row -1 has the means over completed rounds, the row -2 the counts of time-outs.
    """
    job = summarize_job(0, 0, ROWS, [], OVER)
    write_original_csv(PolicyResults("irs", 0, ROWS, [], [OVER], [], []), [job], tmp_path)
    assert (tmp_path / "job_0_irs.csv").read_text().splitlines() == [
        "round,round_time,sched_delay,response_collection_time,attempt,state",
        "0,30.0,10.0,20.0,0,completed",
        "1,90.0,60.0,0.0,0,timed_out_scheduling",
        "1,137.0,10.0,37.0,1,timed_out_response",
        "1,207.0,30.0,40.0,2,completed",
        "-1,-1,20.0,30.0,,",
        "-2,-2,1,1,,",
    ]
    assert (tmp_path / "train_0_irs.csv").read_text().splitlines()[1:] == [
        "0,8,16.0,2.0,80",
        "1,8,16.0,2.0,80",
    ]


def write(folder: Path, jcts: dict[str, dict[int, float]]) -> Path:
    with RunWriter(folder, config={}, policies=[*jcts], seeds=[0], clock="virtual") as run:
        for policy, its in jcts.items():
            writer = run.policy(policy, 0)
            writer.round(DONE)
            for job, jct in its.items():
                writer.job(JobRow(job, "", 0.0, jct, jct, 1, None, None, 0, 0, "completed"))
            writer.clients([ClientRow(0, 100.0, 25.0, 4, 3, 1), ClientRow(1, 0.0, 0.0, 0, 0, 0)])
    return folder


def test_policies_are_compared_over_the_same_jobs(tmp_path: Path) -> None:
    """A job that only one policy finished says nothing about which one is faster."""
    folder = write(tmp_path / "run", {"irs": {0: 50.0}, "random": {0: 100.0, 1: 900.0}})
    report = make_report([folder])
    assert report.base == "random"
    assert report.speed_ups["irs"].mean == pytest.approx(2.0)


def test_utilisation_and_waste(tmp_path: Path) -> None:
    """Clients that never were there have no utilisation; waste is slots without a used result."""
    policy = make_report([write(tmp_path / "run", {"irs": {0: 50.0}})]).policies[0]
    assert policy.utilisation == Spread(0.25, 0.25, 0.25, 1)
    assert policy.waste == pytest.approx(0.2)
    assert policy.dropped == pytest.approx(0.25)


def curve(job: int, times: list[float], accuracies: list[float], seed: int = 0) -> JobCurve:
    return JobCurve(job, seed, np.array(times), np.array(accuracies), -np.array(accuracies))


def test_the_mean_curve_is_over_all_jobs_all_the_time() -> None:
    """A job between tests is on the line between them, and one that is over keeps its score."""
    mean = mean_curve(
        [curve(0, [0, 10], [0.0, 1.0]), curve(1, [0, 20], [0.0, 0.5])], "accuracy", 20
    )
    assert mean is not None
    at = np.interp([5.0, 10.0, 20.0], mean.times_s, mean.means)
    assert at == pytest.approx([(0.5 + 0.125) / 2, (1 + 0.25) / 2, (1 + 0.5) / 2], abs=0.01)


def test_the_band_is_over_seeds() -> None:
    """With several seeds the bounds are the seeds' own means, not single jobs."""
    curves = [curve(0, [0, 10], [0, 1]), curve(1, [0, 10], [0, 0]), curve(0, [0, 10], [0, 0.8], 1)]
    mean = mean_curve(curves, "accuracy", 10)
    assert mean is not None
    assert (mean.lows[-1], mean.means[-1], mean.highs[-1]) == pytest.approx((0.5, 0.65, 0.8))


def test_time_to_accuracy_compares_what_all_policies_reach() -> None:
    """A job's target is the best that all policies reach; an own target may leave jobs out."""
    curves = {
        "irs": [curve(0, [0, 10], [0.0, 1.0]), curve(1, [0, 10], [0.0, 0.4])],
        "random": [curve(0, [0, 10], [0.0, 0.5]), curve(1, [0, 20], [0.0, 0.8])],
    }
    fair = reach(curves, None)
    assert fair.times_s["irs"] == Spread.of([5.0, 10.0])
    assert fair.times_s["random"] == Spread.of([10.0, 10.0])
    own = reach(curves, 0.5)
    assert (own.compared, own.tested) == (1, 2)
    assert own.reached == {"irs": 1, "random": 2}
    assert own.times_s["irs"] == Spread.of([5.0])


def test_a_job_that_is_not_over_has_no_completion_time() -> None:
    """A running job is shown with what there is of it, since its first sign of life."""
    job = summarize_job(3, 0, ROWS[:2], [ScoreRow(3, 0, 0.0, 0, 2.3, 0.1, 0.5, 10)], None)
    assert (job.state, job.jct_s, job.arrived_s, job.accuracy) == ("running", None, 0.0, 0.1)


def headline_of(folder: Path, ratios: tuple[float, ...]) -> str:
    """Of a run in which `irs` is so many times as fast as `random`, seed by seed."""
    seeds = list(range(len(ratios)))
    with RunWriter(
        folder, config={}, policies=["irs", "random"], seeds=seeds, clock="virtual"
    ) as run:
        for seed, ratio in enumerate(ratios):
            for policy, jct in (("irs", 100.0), ("random", 100.0 * ratio)):
                writer = run.policy(policy, seed)
                writer.round(DONE)
                writer.job(JobRow(0, "", 0.0, jct, jct, 1, None, None, 0, 0, "finished"))
    return headline(make_report([folder]))


def test_a_difference_within_chance_is_called_so(tmp_path: Path) -> None:
    """With enough seeds the headline says when the interval holds no difference at all."""
    sure = headline_of(tmp_path / "sure", (2.0, 2.1, 2.0, 2.1, 2.0))
    assert (
        sure
        == "With irs the average job is done 2.04× ± 0.07 as fast as with random (n = 5 seeds)."
    )
    assert "chance" in headline_of(tmp_path / "chance", (3.0, 0.9, 3.0, 0.9, 0.9))


@pytest.mark.parametrize("ratios", [(2.0,), (2.0, 2.1, 2.0, 2.1)])
def test_few_seeds_are_no_finding(tmp_path: Path, ratios: tuple[float, ...]) -> None:
    """One draw of jobs and clients proves nothing, however large the difference."""
    text = headline_of(tmp_path / "run", ratios)
    assert "no finding yet, which takes at least 5 seeds" in text
    assert f"n = {len(ratios)} seed" in text


def test_a_loss_that_is_no_number_does_not_spoil_the_json(tmp_path: Path) -> None:
    """JSON knows no NaN: the figure is null, and all others are there."""
    folder = write(tmp_path / "run", {"irs": {0: 50.0}})
    with (folder / "irs-0" / "scores.csv").open("a") as file:
        file.write(line(ScoreRow(0, 1, 30.0, 1, float("nan"), 0.1, 0.5, 10)))
    document = make_report([folder]).as_dict()
    assert document["jobs"]["irs"][0]["test_loss"] is None
    assert document["jobs"]["irs"][0]["accuracy"] == 0.1
    json.dumps(document, allow_nan=False)


def test_only_training_that_set_the_pace_is_noticed(tmp_path: Path) -> None:
    """The notice is of the run's own events: a wait that is too short for one is no notice."""
    with RunWriter(
        tmp_path / "run", config={}, policies=["irs", "random"], seeds=[0], clock="live"
    ) as run:
        for policy in ("irs", "random"):
            writer = run.policy(policy, 0)
            writer.round(replace(DONE, training_wait_s=0.5))
            writer.job(OVER)
            if policy == "irs":
                writer.event("training_set_the_pace", job=0, round=0, attempt=0, wait_s=0.5)
    assert notices(make_report([tmp_path / "run"])) == [
        "Training, not the devices, set the pace at times: irs (attempts: 1)."
    ]
