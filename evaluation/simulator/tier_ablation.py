"""When do tiers pay? ``venn`` against ``irs`` over the number of classes, the load and the tasks.

Every seed draws its own jobs and its own run; ``irs`` and ``venn`` see the same. The jobs ask for
5 to 20 devices a round and arrive in the first hour; more of them at the same time are a greater
load. Tasks of ``workload`` 30 take as long as in the paper's workloads, mostly to transfer; longer
ones mostly compute, which is what a speed tells. Called by ``scripts/tier_ablation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.simulator.grid import Grid, run_grid
from evaluation.simulator.results import Estimate, estimate
from evaluation.simulator.workloads import SimulatedJob
from propius.engine import Trace

__all__ = ["Cell", "Load", "measure", "table"]

DEMANDS = (5, 10, 20)
CLASSES = 4
ARRIVE_WITHIN_S = 3_600.0
DEADLINE_PER_UNIT_S = 20.0
"""Of a round, for each unit of workload: about nine times what a device of median speed takes."""


@dataclass(frozen=True)
class Load:
    """Jobs at the same time, the rounds of each, and the units of computation of a task."""

    jobs: int
    rounds: int
    workload: float

    def draw(self, seed: int) -> list[SimulatedJob]:
        """The job list of this seed."""
        random = np.random.default_rng([seed, self.jobs, int(self.workload)])
        return [
            SimulatedJob(
                start_s=float(start_s),
                participants=int(random.choice(DEMANDS)),
                rounds=self.rounds,
                requirement=int(random.integers(1, CLASSES + 1)),
                deadline_s=max(600.0, DEADLINE_PER_UNIT_S * self.workload),
                workload=self.workload,
            )
            for start_s in sorted(random.uniform(0.0, ARRIVE_WITHIN_S, self.jobs))
        ]


@dataclass(frozen=True)
class Cell:
    """One load with V classes: average JCT of ``irs`` over that of ``venn``, and what was seen.

    ``ratio`` is None if a job was not finished. The other figures are means over the seeds: the
    share of rounds with a tier, and under each policy scheduling delay and response time.
    """

    load: Load
    classes: int
    ratio: Estimate | None
    tiered: float
    delay_s: tuple[float, float]
    response_s: tuple[float, float]


def measure(
    trace: Trace, load: Load, classes: Sequence[int], seeds: Sequence[int], threads: int | None
) -> list[Cell]:
    """One cell for each number of classes."""

    def run(policy: str, seed: int, **options: float) -> dict[str, float]:
        grid = Grid(load.draw(seed), [policy], [seed], policy_options=options)
        return run_grid(trace, grid, threads=threads)[0]

    base = [run("irs", seed) for seed in seeds]
    return [_cell(load, v, base, [run("venn", seed, tiers=v) for seed in seeds]) for v in classes]


def _cell(
    load: Load, classes: int, base: list[dict[str, float]], runs: list[dict[str, float]]
) -> Cell:
    complete = all(run["finished"] == run["jobs"] for run in base + runs)
    ratios = [irs["avg_jct_s"] / venn["avg_jct_s"] for irs, venn in zip(base, runs, strict=True)]

    def both(what: str) -> tuple[float, float]:
        irs, venn = ([run[what] for run in each] for each in (base, runs))
        return float(np.mean(irs)), float(np.mean(venn))

    return Cell(
        load,
        classes,
        estimate(ratios) if complete else None,
        float(np.mean([run["rounds_tiered"] / run["rounds"] for run in runs])),
        both("scheduling_delay_s"),
        both("response_time_s"),
    )


def table(cells: Sequence[Cell]) -> str:
    """The cells as a table in Markdown."""
    lines = [
        "| jobs | workload | V | irs / venn | tiered | delay, s | response, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        ratio, (d0, d1), (r0, r1) = cell.ratio, cell.delay_s, cell.response_s
        said = "-" if ratio is None else f"{ratio.mean:.3f} ± {ratio.half_width or 0:.3f}"
        lines.append(
            f"| {cell.load.jobs} | {cell.load.workload:g} | {cell.classes} | {said} "
            f"| {cell.tiered:.0%} | {d0:.0f} → {d1:.0f} | {r0:.0f} → {r1:.0f} |"
        )
    return "\n".join(lines)
