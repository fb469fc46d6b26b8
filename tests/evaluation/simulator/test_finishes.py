"""Every policy finishes every workload that comes with Propius, in less than it takes to notice."""

from __future__ import annotations

from array import array
from functools import cache

import pytest
from msgspec import to_builtins

from evaluation.simulator.generate import TraceSettings, generate
from evaluation.simulator.workloads import WORKLOADS, load_jobs
from propius.engine import POLICIES, Trace, simulate

FEWER_DEVICES, FEWER_ROUNDS = 20, 10
"""What the small scale is divided by, so that a trace of some thousand sessions is enough."""


@cache
def small_trace() -> Trace:
    """A generated one, of five days."""
    columns = generate(TraceSettings(checkins=40_000), seed=1)
    classes = [sum(1 << int(digit) for digit in text) for text in columns.signatures]
    return Trace.from_columns(
        array("d", columns.start_s.astype(float)),
        array("d", columns.end_s.astype(float)),
        array("d", columns.computation_ms),
        array("d", columns.communication_kbps),
        array("H", [classes[index] for index in columns.signature]),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_finishes_every_packaged_workload(policy: str) -> None:
    """Within the five days of the trace, played once: a run in which nothing ends is bounded."""
    for workload in WORKLOADS:
        jobs = [
            to_builtins(job)
            | {
                "participants": max(1, job.participants // FEWER_DEVICES),
                "rounds": max(1, job.rounds // FEWER_ROUNDS),
            }
            for job in load_jobs(workload, "small")
        ]
        result = simulate(small_trace(), jobs, policy=policy, repeat=1)
        assert (result["finished"], result["ineligible"]) == (len(jobs), 0), workload
