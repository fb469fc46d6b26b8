"""Accuracy and loss over time: a curve for each job, and a policy's mean over its jobs.

A job's time begins when it arrives. Between two tests a curve is a straight line; a job that has
been tested for the last time keeps its score, so that the mean is always over the same jobs.

Not here: drawing (:mod:`evaluation.report.charts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evaluation.report.summary import JobSummary, Variant

__all__ = ["JobCurve", "MeanCurve", "job_curves", "mean_curve", "time_to"]

Numbers: TypeAlias = NDArray[np.float64]

POINTS: Final = 200
"""Of a mean curve."""


@dataclass(frozen=True)
class JobCurve:
    """A job's tests by its own time (s), in one run."""

    job: int
    seed: int
    times_s: Numbers
    accuracies: Numbers
    losses: Numbers

    def values(self, what: str) -> Numbers:
        """``accuracy`` or ``loss``."""
        return self.accuracies if what == "accuracy" else self.losses


@dataclass(frozen=True)
class MeanCurve:
    """The mean over jobs, then over seeds; ``lows`` and ``highs`` are over the seeds' means."""

    times_s: Numbers
    means: Numbers
    lows: Numbers
    highs: Numbers


def job_curves(variant: Variant, jobs: Sequence[JobSummary]) -> list[JobCurve]:
    """The curves of all jobs that were tested at all."""
    arrived = {(job.seed, job.job): job.arrived_s for job in jobs}
    curves = []
    for result in variant.results:
        for number in sorted({row.job for row in result.scores}):
            rows = [row for row in result.scores if row.job == number]
            curves.append(
                JobCurve(
                    number,
                    result.seed,
                    np.array([row.time_s for row in rows]) - arrived[result.seed, number],
                    np.array([row.accuracy for row in rows]),
                    np.array([row.test_loss for row in rows]),
                )
            )
    return curves


def mean_curve(curves: Sequence[JobCurve], what: str, end_s: float) -> MeanCurve | None:
    """The mean of the curves from 0 to ``end_s``; None without curves."""
    if not curves:
        return None
    times = np.linspace(0.0, max(end_s, 1e-9), POINTS)
    by_seed: dict[int, list[Numbers]] = {}
    for curve in curves:
        values = np.interp(times, curve.times_s, curve.values(what))
        by_seed.setdefault(curve.seed, []).append(values)
    means = np.array([np.mean(values, axis=0) for values in by_seed.values()])
    return MeanCurve(times, means.mean(axis=0), means.min(axis=0), means.max(axis=0))


def time_to(curve: JobCurve, accuracy: float) -> float | None:
    """When the curve first reaches an accuracy, on the line between two tests; None if never.

    >>> line = np.array([0.0, 10.0]), np.array([0.0, 1.0])
    >>> time_to(JobCurve(0, 0, line[0], line[1], line[1]), 0.25)
    2.5
    """
    reached = np.flatnonzero(curve.accuracies >= accuracy)
    if not len(reached):
        return None
    place = int(reached[0])
    if place == 0:
        return float(curve.times_s[0])
    ends = slice(place - 1, place + 1)
    return float(np.interp(accuracy, curve.accuracies[ends], curve.times_s[ends]))
