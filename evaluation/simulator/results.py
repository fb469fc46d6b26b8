"""What came of the runs: means over seeds, and improvements with their confidence intervals.

The improvement of a policy over a base policy is the ratio of their average JCTs **seed by seed**:
both saw the same draws, so what one seed does to both cancels. Its interval is Student's, at 95 %,
over the seeds; with one seed there is none.

Not here: the runs (:mod:`evaluation.simulator.grid`) and how they are shown
(:mod:`evaluation.simulator.tables`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Final

__all__ = [
    "CONFIDENCE",
    "PARTS",
    "Estimate",
    "PolicySummary",
    "estimate",
    "mean_parts_s",
    "summarize",
]

CONFIDENCE: Final = 0.95
MEANS: Final = (
    "avg_jct_s",
    "median_jct_s",
    "p95_jct_s",
    "scheduling_delay_s",
    "response_time_s",
    "makespan_s",
    "rounds",
    "aborts",
    "wasted",
    "ineligible",
    "fair_share",
    "jain_index",
    "p95_slow_down",
    "worst_slow_down",
)
"""The figures of a run that are averaged over seeds."""

PARTS: Final = ("scheduling", "response", "unfilled", "aborted", "buffer")
"""Where the time of a job goes, attempt by attempt; see ``docs/simulator.md``."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % confidence interval, None with one seed."""

    mean: float
    half_width: float | None


@dataclass(frozen=True)
class PolicySummary:
    """One policy over all seeds. ``improvement`` is None if a job was not finished in some run.

    ``parts_s`` is the mean time of each part over the jobs that finished, in all runs; their sum is
    the mean JCT of these jobs. None if no job finished.
    """

    policy: str
    seeds: int
    finished: int
    jobs: int
    means: dict[str, float | None]
    parts_s: dict[str, float] | None
    improvement: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with its interval.

    >>> estimate([2.0])
    Estimate(mean=2.0, half_width=None)
    >>> round(estimate([1.0, 2.0, 3.0]).half_width, 3)
    2.484
    """
    if len(values) < 2:
        return Estimate(fmean(values), None)
    from scipy.stats import t  # slow to import, and only needed here

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return Estimate(fmean(values), quantile * stdev(values) / math.sqrt(len(values)))


def summarize(runs: Sequence[dict[str, Any]], base: str) -> list[PolicySummary]:
    """One summary for each policy, in the order of the runs.

    ``base`` is the policy that the others are compared with; it is among the runs.
    """
    of_policy: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        of_policy.setdefault(run["policy"], []).append(run)
    bases = {run["seed"]: run for run in of_policy[base]}
    return [_summary(policy, mine, bases) for policy, mine in of_policy.items()]


def _summary(
    policy: str, runs: list[dict[str, Any]], bases: dict[int, dict[str, Any]]
) -> PolicySummary:
    pairs = [(bases[run["seed"]], run) for run in runs]
    complete = all(run["finished"] == run["jobs"] for pair in pairs for run in pair)
    ratios = [base["avg_jct_s"] / run["avg_jct_s"] for base, run in pairs] if complete else []
    return PolicySummary(
        policy=policy,
        seeds=len(runs),
        finished=sum(run["finished"] for run in runs),
        jobs=sum(run["jobs"] for run in runs),
        means={name: _mean([run[name] for run in runs]) for name in MEANS},
        parts_s=mean_parts_s(runs),
        improvement=estimate(ratios) if ratios else None,
    )


def mean_parts_s(runs: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """The mean time of each part, in seconds, over the jobs that finished.

    Raises AssertionError if the parts of a job do not sum to its JCT, to the nanosecond.
    """
    jobs = [job for run in runs for job in run["per_job"] if job["jct_ns"] is not None]
    for job in jobs:
        total_ns = sum(job["parts_ns"][name] for name in PARTS)
        if total_ns != job["jct_ns"]:
            raise AssertionError(f"a job took {job['jct_ns']} ns, its parts {job['parts_ns']}")
    if not jobs:
        return None
    return {name: sum(job["parts_ns"][name] for job in jobs) / len(jobs) / 1e9 for name in PARTS}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
