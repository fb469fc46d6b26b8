"""The comparison with the published reference simulator of Venn, and with the paper's tables.

Three figures for each workload and policy: the average JCT of our implementation of the
reference's rules beside that of the reference itself (where its figures for this very trace are
given), and the improvement over random matching beside the paper's. The paper's figures are those
of its Tables 1 and 4, which were made with another trace and at full scale: they are there to be
looked at, not to be met.

Not here: the rules (``rust_core/src/reference/``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import msgspec
from msgspec import Struct

from evaluation.simulator.grid import Grid, Progress, run_grid
from evaluation.simulator.workloads import WORKLOADS, load_jobs
from propius.engine import REFERENCE_RULES, Trace
from propius.errors import PropiusError

__all__ = [
    "AGREEMENT_MAX",
    "PAPER",
    "POLICIES_COMPARED",
    "Agreement",
    "Step",
    "load_expected",
    "reproduce",
    "steps",
]

POLICIES_COMPARED: Final = ("random", "fifo", "srsf", "irs")
AGREEMENT_MAX: Final = {"random": 0.04, "fifo": 0.015, "srsf": 0.015, "irs": 0.015}
"""How far the mean may be from the reference's; random differs that much between seeds."""

COME_BACK: Final = "come_back"

PAPER: Final[dict[str, dict[str, float]]] = {
    "even": {"fifo": 1.38, "srsf": 1.69, "irs": 1.87},
    "small": {"fifo": 1.48, "srsf": 1.68, "irs": 1.78},
    "large": {"fifo": 1.64, "srsf": 1.57, "irs": 1.72},
    "low": {"fifo": 1.55, "srsf": 1.66, "irs": 1.88},
    "high": {"fifo": 1.42, "srsf": 1.41, "irs": 1.63},
    "general": {"fifo": 1.46, "srsf": 1.78, "irs": 1.94},
    "comp_heavy": {"fifo": 1.73, "srsf": 2.08, "irs": 2.23},
    "mem_heavy": {"fifo": 1.68, "srsf": 2.05, "irs": 2.27},
    "res_intensive": {"fifo": 1.65, "srsf": 1.90, "irs": 2.01},
}
"""Improvement of the average JCT over random matching, Tables 1 and 4. The row "Venn" of the
tables stands under ``irs``: the published code makes them without tier matching."""


class _Figures(Struct):
    avg_jct_s: float


class _Expected(Struct):
    workloads: dict[str, dict[str, _Figures]]


@dataclass(frozen=True)
class Agreement:
    """One workload under one policy."""

    workload: str
    policy: str
    avg_jct_s: float
    expected_s: float | None
    improvement: float
    """Over random."""
    expected_improvement: float | None
    paper: float | None

    @property
    def deviation(self) -> float | None:
        """Relative to the reference; None without its figure."""
        return None if self.expected_s is None else self.avg_jct_s / self.expected_s - 1

    @property
    def agrees(self) -> bool | None:
        """Within :data:`AGREEMENT_MAX`; None without the reference's figure."""
        deviation = self.deviation
        return None if deviation is None else abs(deviation) <= AGREEMENT_MAX[self.policy]


def load_expected(path: Path) -> dict[str, dict[str, float]]:
    """Workload → policy → the reference's average JCT in seconds.

    Raises PropiusError for a file of another form.
    """
    try:
        expected = msgspec.json.decode(path.read_bytes(), type=_Expected)
    except (OSError, msgspec.DecodeError) as error:
        raise PropiusError(f"{path}: {error}") from error
    return {
        workload: {policy: figures.avg_jct_s for policy, figures in policies.items()}
        for workload, policies in expected.workloads.items()
    }


def reproduce(
    trace: Trace,
    expected: dict[str, dict[str, float]],
    *,
    workloads: Sequence[str] = WORKLOADS,
    seeds: Sequence[int],
    stalled_s: float | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Agreement]]:
    """For one workload after the other, at small scale, what the reference's rules give."""
    for index, workload in enumerate(workloads):
        grid = reference_grid(workload, POLICIES_COMPARED, seeds, stalled_s=stalled_s)
        runs = run_grid(trace, grid, progress=_shifted(progress, index * len(grid.runs())))
        mean = _means(runs)
        known = expected.get(workload, {})
        yield [
            Agreement(
                workload=workload,
                policy=policy,
                avg_jct_s=mean[policy],
                expected_s=known.get(policy),
                improvement=mean["random"] / mean[policy],
                expected_improvement=(
                    known["random"] / known[policy] if {"random", policy} <= known.keys() else None
                ),
                paper=PAPER[workload].get(policy),
            )
            for policy in POLICIES_COMPARED
        ]


@dataclass(frozen=True)
class Step:
    """The mean JCT once the rules up to this one are ours instead of the reference's."""

    name: str
    what: str
    avg_jct_s: dict[str, float]


def steps(
    trace: Trace,
    workload: str,
    *,
    seeds: Sequence[int],
    policies: Sequence[str],
    stalled_s: float | None = None,
) -> Iterator[Step]:
    """From the reference's rules to ours, one rule at a time, and the real engine at the end.

    The engine is run twice: as it is by default, and with devices that come back for more tasks,
    beside the reference with that rule.
    """
    ours: list[str] = []

    def reference(name: str, what: str) -> Step:
        grid = reference_grid(workload, policies, seeds, ours, stalled_s=stalled_s)
        return Step(name, what, _means(run_grid(trace, grid)))

    def engine(name: str, what: str, tasks: int) -> Step:
        jobs = load_jobs(workload)
        grid = Grid(
            jobs=jobs,
            policies=policies,
            seeds=seeds,
            tasks_per_session=tasks,
            stalled_s=stalled_s,
        )
        return Step(name, what, _means(run_grid(trace, grid)))

    yield reference("venn-reference", "all rules of the reference")
    for name, what in REFERENCE_RULES:
        if name == COME_BACK:
            yield engine("propius", "everything: this is the engine of the daemons", 1)
        ours.append(name)
        yield reference(name, what)
        if name == COME_BACK:
            yield engine("propius, 0 a session", "the same with --tasks-per-session 0", 0)


def reference_grid(
    workload: str,
    policies: Sequence[str],
    seeds: Sequence[int],
    ours: Sequence[str] = (),
    *,
    stalled_s: float | None = None,
) -> Grid:
    """Runs under the reference's rules, but for those that are ``ours``."""
    return Grid(
        jobs=load_jobs(workload),
        policies=policies,
        seeds=seeds,
        semantics="venn-reference",
        stalled_s=stalled_s,
        rules=list(ours),
    )


def _means(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for run in runs:
        if run["finished"] != run["jobs"]:
            raise PropiusError(
                f"{run['policy']}, seed {run['seed']}: {run['finished']} of {run['jobs']} jobs "
                "finished: the trace has too few devices for this workload"
            )
        values.setdefault(run["policy"], []).append(run["avg_jct_s"])
    return {policy: fmean(jcts) for policy, jcts in values.items()}


def _shifted(progress: Progress | None, by: int) -> Progress | None:
    if progress is None:
        return None
    return lambda run, rounds: progress(run + by, rounds)
