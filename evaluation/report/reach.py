"""Time to accuracy: when each policy brings a job to the accuracy that all policies reach.

Without a target of the user's, a job's target is the best accuracy that it reaches in *every* run,
which is the fairest that can be compared. Not here: the curves (:mod:`evaluation.report.curves`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.report.curves import JobCurve, time_to
from evaluation.report.summary import Spread

__all__ = ["Reach", "reach"]


@dataclass(frozen=True)
class Reach:
    """How long jobs took to their targets, by label.

    ``times_s`` are over ``compared`` jobs (each seed's counts as one): those that reach their
    target with every policy. ``reached`` counts all that do, with this policy, of ``tested``.
    """

    target: float | None
    compared: int
    tested: int
    targets: Spread | None
    times_s: dict[str, Spread | None]
    reached: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def reach(curves: Mapping[str, Sequence[JobCurve]], target: float | None) -> Reach:
    """Compare the curves of each label; ``target`` None: the best that all reach, by job."""
    jobs = {
        label: {(curve.job, curve.seed): curve for curve in its} for label, its in curves.items()
    }
    tested = sorted({key for its in jobs.values() for key in its})
    aims: list[float] = []
    times: dict[str, list[float]] = {label: [] for label in jobs}
    reached = dict.fromkeys(jobs, 0)
    for key in tested:
        row = [its[key] for its in jobs.values() if key in its]
        aim = min(float(curve.accuracies.max()) for curve in row) if target is None else target
        found = {
            label: time_to(its[key], aim) if key in its else None for label, its in jobs.items()
        }
        for label, when in found.items():
            reached[label] += when is not None
        known = {label: when for label, when in found.items() if when is not None}
        if len(known) == len(jobs):
            aims.append(aim)
            for label, when in known.items():
                times[label].append(when)
    return Reach(
        target,
        len(aims),
        len(tested),
        Spread.of(aims),
        {label: Spread.of(values) for label, values in times.items()},
        reached,
    )
