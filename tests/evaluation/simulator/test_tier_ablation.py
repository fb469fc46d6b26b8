"""Where tiers pay `venn` uses them, and where they do not it is `irs`."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from evaluation.simulator.generate import PRESETS, generate
from evaluation.simulator.results import Estimate
from evaluation.simulator.tier_ablation import Cell, Load, measure, table
from evaluation.simulator.workloads import load_jobs
from propius.engine import Trace, simulate


@pytest.fixture(scope="module")
def fleet() -> Trace:
    """The generated trace of the docs: a tenth of the paper's check-ins."""
    drawn = generate(PRESETS["small"], seed=0)
    masks = np.array([sum(1 << int(digit) for digit in met) for met in drawn.signatures])
    return Trace.from_columns(
        array("d", drawn.start_s),
        array("d", drawn.end_s),
        array("d", drawn.computation_ms),
        array("d", drawn.communication_kbps),
        array("H", masks[drawn.signature]),
    )


def test_tiers_pay_for_long_tasks_where_there_are_devices_to_spare(fleet: Trace) -> None:
    """Two jobs, tasks ten times as long as the paper's: most rounds have a tier."""
    (cell,) = measure(fleet, Load(jobs=2, rounds=30, workload=300), [4], seeds=[1], threads=1)
    assert cell.ratio is not None
    assert cell.ratio.mean > 1.1
    assert cell.tiered > 0.5
    assert cell.response_s[1] < cell.response_s[0]


@pytest.mark.parametrize("workload", ["large", "high"])
def test_venn_is_irs_where_devices_are_contended(fleet: Trace, workload: str) -> None:
    """The paper's workloads with a tenth of the rounds: not worse by half a per cent."""
    listed = load_jobs(workload)
    jobs: list[dict[str, Any]] = [
        msgspec.to_builtins(job) | {"rounds": max(2, job.rounds // 10)} for job in listed
    ]
    irs, venn = (
        simulate(fleet, jobs, policy=policy, seed=1, repeat=None, tasks_max=1)
        for policy in ("irs", "venn")
    )
    assert irs["finished"] == venn["finished"] == len(jobs)
    assert irs["avg_jct_s"] / venn["avg_jct_s"] >= 0.995


def test_the_jobs_of_a_seed_are_its_own() -> None:
    """Each seed draws other jobs, and the same ones again."""
    draw: Callable[[int], object] = Load(jobs=3, rounds=5, workload=30).draw
    assert draw(1) == draw(1) != draw(2)


def test_a_cell_is_a_row() -> None:
    """A row says what was asked and found; jobs that did not finish leave no ratio."""
    load = Load(jobs=2, rounds=5, workload=300)
    cell = Cell(load, 4, Estimate(1.25, 0.015), 0.5, (1.0, 2.0), (300.0, 200.0))
    *_, row = table([cell]).splitlines()
    assert row == "| 2 | 300 | 4 | 1.250 ± 0.015 | 50% | 1 → 2 | 300 → 200 |"
    *_, row = table([replace(cell, ratio=None)]).splitlines()
    assert "| 4 | - |" in row
