"""Figures of runs: means, paired improvements, intervals."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.simulator.results import MEANS, PARTS, estimate, mean_parts_s, summarize


def job(jct_s: float, **parts_ns: int) -> dict[str, Any]:
    """A job that took so long, all of it aborted attempts unless other parts are named."""
    jct_ns = round(jct_s * 1e9)
    parts_ns = parts_ns or {"aborted": jct_ns}
    return {"jct_ns": jct_ns, "parts_ns": dict.fromkeys(PARTS, 0) | parts_ns}


def run(policy: str, seed: int, jct: float, *, finished: int = 2) -> dict[str, Any]:
    figures = dict.fromkeys(MEANS, 1.0)
    return figures | {
        "policy": policy, "seed": seed, "avg_jct_s": jct, "finished": finished, "jobs": 2,
        "per_job": [job(jct) for _ in range(finished)],
    }  # fmt: skip


def test_the_improvement_is_the_mean_of_ratios_seed_by_seed() -> None:
    """Paired, not the ratio of the means."""
    runs = [run("random", 1, 30), run("random", 2, 10), run("irs", 2, 10), run("irs", 1, 10)]
    _random, irs = summarize(runs, "random")
    assert irs.improvement is not None
    assert irs.improvement.mean == pytest.approx(2.0)  # (3 + 1) / 2; of means it would be 2.0 too
    skewed = [run("random", 1, 30), run("random", 2, 10), run("irs", 1, 10), run("irs", 2, 2)]
    assert summarize(skewed, "random")[1].improvement.mean == pytest.approx(4.0)  # type: ignore[union-attr]


def test_the_interval_is_students_at_95_per_cent() -> None:
    """Against a value from a printed table: t(0.975, 4) = 2.776."""
    got = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert got.mean == 3.0
    assert got.half_width == pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3)


def test_one_seed_has_no_interval_and_unfinished_jobs_give_no_improvement() -> None:
    """Nothing is claimed that the runs do not show."""
    one = summarize([run("random", 1, 30), run("irs", 1, 10)], "random")[1]
    assert one.improvement is not None
    assert one.improvement.half_width is None
    unfinished = summarize([run("random", 1, 30), run("irs", 1, 10, finished=1)], "random")[1]
    assert unfinished.improvement is None
    assert (unfinished.finished, unfinished.jobs) == (1, 2)


def test_a_figure_that_no_run_has_stays_unknown() -> None:
    """None, never zero."""
    runs = [run("irs", seed, 1.0) | {"scheduling_delay_s": None} for seed in (1, 2)]
    assert summarize(runs, "irs")[0].means["scheduling_delay_s"] is None


def test_the_parts_are_means_over_the_jobs_that_finished() -> None:
    """Jobs of 4 s and 2 s in different runs, and one that did not finish."""
    long = job(4.0, scheduling=1_000_000_000, response=3_000_000_000)
    unfinished = job(9.0) | {"jct_ns": None}
    runs = [{"per_job": [long, unfinished]}, {"per_job": [job(2.0)]}]
    assert mean_parts_s(runs) == {
        "scheduling": 0.5, "response": 1.5, "unfilled": 0.0, "aborted": 1.0, "buffer": 0.0
    }  # fmt: skip
    assert mean_parts_s([{"per_job": [unfinished]}]) is None


def test_a_nanosecond_that_is_in_no_part_is_an_error() -> None:
    """Nothing is summed up that does not sum up."""
    runs = [{"per_job": [job(1.0, scheduling=999_999_999)]}]
    with pytest.raises(AssertionError, match="a job took 1000000000 ns"):
        mean_parts_s(runs)
