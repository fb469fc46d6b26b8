"""All of a report in one object, made from run folders: what is shown, printed, and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.report.curves import JobCurve, job_curves
from evaluation.report.reach import Reach, reach
from evaluation.report.summary import (
    JobSummary,
    PolicySummary,
    Variant,
    speed_ups,
    summarize,
    variants,
)
from evaluation.results.reader import RunReader
from evaluation.results.rows import ResultsError
from evaluation.simulator.results import Estimate

__all__ = ["Report", "RunInfo", "make_report"]


@dataclass(frozen=True)
class RunInfo:
    """One run folder that was read."""

    name: str
    state: str
    clock: str
    seeds: list[int]
    origin: dict[str, Any]
    """Versions, commit, command, hardware, data and profiles, as ``run.json`` has them."""
    config: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """Figures of everything that is compared; mappings are by label, in the order of the runs."""

    runs: list[RunInfo]
    variants: list[Variant]
    policies: list[PolicySummary]
    jobs: dict[str, list[JobSummary]]
    curves: dict[str, list[JobCurve]]
    reach: Reach
    base: str
    speed_ups: dict[str, Estimate]

    @property
    def going(self) -> bool:
        """Whether a run may still add to it."""
        return any(run.state == "running" for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN; the same run folders give the same bytes."""
        found: dict[str, Any] = _finite(self._figures())
        return found

    def _figures(self) -> dict[str, Any]:
        return {
            "runs": [asdict(run) for run in self.runs],
            "base": self.base,
            "faster_than_base": {label: asdict(ratio) for label, ratio in self.speed_ups.items()},
            "time_to_accuracy": self.reach.as_dict(),
            "policies": [policy.as_dict() for policy in self.policies],
            "jobs": {label: [asdict(job) for job in jobs] for label, jobs in self.jobs.items()},
        }


def _finite(value: Any) -> Any:
    """The same, with None for every number that is none."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_report(folders: Sequence[Path], *, target: float | None = None) -> Report:
    """Read the run folders; raises ResultsError for one that holds no run, or nothing yet."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ResultsError("a run folder is named twice")
    runs = [RunReader(folder) for folder in folders]
    compared = variants(runs)
    if not any(result.rounds or result.jobs for each in compared for result in each.results):
        names = ", ".join(str(folder) for folder in folders)
        raise ResultsError(f"{names}: no round has ended yet, so there is nothing to report")
    policies, jobs, curves = [], {}, {}
    for variant in compared:
        summary, its = summarize(variant)
        policies.append(summary)
        jobs[variant.label] = its
        curves[variant.label] = job_curves(variant, its)
    base, ratios = speed_ups(compared)
    tested = {label: its for label, its in curves.items() if its}
    return Report(
        runs=[
            RunInfo(str(run.folder), run.state, run.clock, run.seeds, run.origin, run.config)
            for run in runs
        ],
        variants=compared,
        policies=policies,
        jobs=jobs,
        curves=curves,
        reach=reach(tested, target),
        base=base,
        speed_ups=ratios,
    )
