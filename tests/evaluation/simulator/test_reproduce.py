"""The paper's nine workloads: agreement with the published reference, and IRS against random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from evaluation.simulator.generate import PRESETS, generate, write_csv
from evaluation.simulator.grid import Grid, run_grid
from evaluation.simulator.reproduce import (
    AGREEMENT_MAX,
    POLICIES_COMPARED,
    Agreement,
    load_expected,
    reference_grid,
    reproduce,
)
from evaluation.simulator.workloads import WORKLOADS, load_jobs
from propius.engine import Trace

SharedData: TypeAlias = Callable[[str], Path]


@pytest.fixture(scope="module")
def reference_trace(shared_data: SharedData) -> Trace:
    """The trace that the reference's figures are for."""
    return Trace.load_csv(shared_data("venn_small_clients.csv.gz"))


@pytest.fixture(scope="module")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What `propius trace generate --preset small` writes."""
    path = tmp_path_factory.mktemp("trace") / "clients.csv.gz"
    write_csv(generate(PRESETS["small"], seed=0), path)
    return Trace.load_csv(path)


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_reference_semantics_agree_with_the_reference(
    reference_trace: Trace, shared_data: SharedData, workload: str
) -> None:
    """The mean of avg_jct_s over five seeds: 1.5 % for fifo, srsf and irs, 4 % for random."""
    expected = load_expected(shared_data("venn_small_expected.json"))
    [rows] = reproduce(reference_trace, expected, workloads=[workload], seeds=range(1, 6))
    assert [row.policy for row in rows] == list(POLICIES_COMPARED)
    for row in rows:
        assert row.agrees, f"{row.policy}: {row.deviation:+.2%}"


def test_with_a_rule_of_ours_the_figures_are_not_the_references(
    reference_trace: Trace, shared_data: SharedData
) -> None:
    """The margins are narrow enough to see one rule: sessions of their exact length."""
    expected = load_expected(shared_data("venn_small_expected.json"))["low"]
    for policy, margin in AGREEMENT_MAX.items():
        [run] = run_grid(reference_trace, reference_grid("low", [policy], [1], ["exact_sessions"]))
        assert abs(run["avg_jct_s"] / expected[policy] - 1) > 1.5 * margin


def test_agreement_is_as_close_as_it_is_asked_to_be() -> None:
    """1.5 % and 4 %, to either side; without the reference's figure nothing is claimed."""
    assert AGREEMENT_MAX == {"random": 0.04, "fifo": 0.015, "srsf": 0.015, "irs": 0.015}

    def row(policy: str, ours: float, expected: float | None) -> Agreement:
        return Agreement("even", policy, ours, expected, 1.0, None, None)

    for policy, most in AGREEMENT_MAX.items():
        for sign in (1, -1):
            assert row(policy, 1 + sign * most * 0.99, 1).agrees is True
            assert row(policy, 1 + sign * most * 1.01, 1).agrees is False
    assert row("irs", 1, None).agrees is None


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_workloads_are_those_that_the_figures_are_for(
    shared_data: SharedData, workload: str
) -> None:
    """Both scales, arrivals to the millisecond."""
    lists = json.loads(shared_data("venn_workloads.json").read_text())[workload]
    for scale in ("small", "full"):
        ours: list[Any] = load_jobs(workload, scale)
        theirs = lists[f"{scale}_scale_jobs"]
        for job, other in zip(ours, theirs, strict=True):
            assert job.start_s == pytest.approx(other["start_s"], abs=1e-3)
            for name in ("participants", "rounds", "deadline_s", "requirement"):
                assert getattr(job, name) == other[name]


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_irs_is_never_worse_than_random(small_trace: Trace, workload: str) -> None:
    """Mean JCT in the daemons' engine, one task a session, on a synthetic trace, seed by seed."""
    grid = Grid(jobs=load_jobs(workload), policies=["random", "irs"], seeds=[1, 2])
    runs = run_grid(small_trace, grid)
    assert all(run["finished"] == run["jobs"] for run in runs)
    jct_s = {(run["policy"], run["seed"]): run["avg_jct_s"] for run in runs}
    for seed in grid.seeds:
        assert jct_s["irs", seed] <= jct_s["random", seed]
