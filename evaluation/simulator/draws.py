"""What a seed draws beside the latencies of a run: its job list, its arrivals, its order of days.

The figures of one job list on one trace say little of others. Each seed can therefore draw

* ``jobs``: a bootstrap of the list: each position gets, with replacement, what one of the jobs asks
  for (participants, rounds, deadline and all else), and keeps its own arrival and requirement;
* ``arrivals``: exponential gaps with the mean gap of the list; the first arrival and the order of
  the jobs stay;
* ``days``: the days of the trace in another order, a session being of the day on which it starts.

A draw is a function of the seed alone: all policies of a seed see the same, and what one kind draws
does not depend on which others are asked for.

Not here: the draws within a run (``rust_core/src/simulator/driver.rs``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
import numpy as np

from evaluation.simulator.workloads import SimulatedJob
from propius.engine import Trace
from propius.errors import PropiusError

__all__ = ["DRAWS", "LATENCIES", "drawn_jobs", "drawn_trace", "scope"]

LATENCIES: Final = "latencies"
DRAWS: Final = (LATENCIES, "jobs", "arrivals", "days")
"""What can be drawn; latencies always are."""
DAY_S: Final = 86_400.0
DAYS_MAX: Final = 100_000
STREAMS: Final = {"jobs": 0x10B5, "arrivals": 0xA221, "days": 0xDA75}
OTHERS: Final = {"jobs": "job lists", "arrivals": "arrivals", "days": "traces"}


def drawn_jobs(
    jobs: Sequence[SimulatedJob], seed: int, draws: Collection[str]
) -> list[SimulatedJob]:
    """The jobs of a seed. Raises PropiusError for a list from which nothing can be drawn."""
    drawn = list(jobs)
    if "jobs" in draws:
        if len(jobs) < 2:
            raise PropiusError("--draw jobs: the list has one job only")
        rows = _random(seed, "jobs").integers(len(jobs), size=len(jobs))
        drawn = [
            msgspec.structs.replace(jobs[row], start_s=own.start_s, requirement=own.requirement)
            for own, row in zip(jobs, rows.tolist(), strict=True)
        ]
    if "arrivals" in draws:
        starts = _arrivals([job.start_s for job in jobs], seed)
        drawn = [
            msgspec.structs.replace(job, start_s=start)
            for job, start in zip(drawn, starts, strict=True)
        ]
    return drawn


def _arrivals(starts_s: Sequence[float], seed: int) -> list[float]:
    order = np.argsort(starts_s, kind="stable")
    first, last = starts_s[order[0]], starts_s[order[-1]]
    if first == last:
        raise PropiusError("--draw arrivals: the jobs of the list arrive all at once")
    count = len(starts_s) - 1
    gaps = _random(seed, "arrivals").exponential((last - first) / count, count)
    drawn = np.empty(len(starts_s))
    drawn[order] = first + np.concatenate([[0.0], np.cumsum(gaps)])
    return [float(start) for start in drawn]


def drawn_trace(trace: Trace, seed: int, draws: Collection[str]) -> Trace:
    """The trace of a seed. Raises PropiusError for one whose days have no other order."""
    if "days" not in draws:
        return trace
    days = int(trace.period_s // DAY_S)
    if not 2 <= days <= DAYS_MAX:
        raise PropiusError(f"--draw days: the trace is of {days} day(s), not 2 to {DAYS_MAX}")
    return trace.with_days(_random(seed, "days").permutation(days).tolist())


def scope(draws: Collection[str]) -> str:
    """What the interval over the seeds does not cover, for the table.

    >>> scope(["latencies"])
    'Only latencies were drawn: the interval does not cover other jobs or traces.'
    >>> scope(["latencies", "jobs", "arrivals"])
    'The interval covers what was drawn, not other traces.'
    """
    if set(draws) <= {LATENCIES}:
        return "Only latencies were drawn: the interval does not cover other jobs or traces."
    missing = [what for name, what in OTHERS.items() if name not in draws]
    if not missing:
        return "The interval covers what was drawn, not other jobs than the list's, nor devices."
    return f"The interval covers what was drawn, not other {' or '.join(missing)}."


def _random(seed: int, what: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, STREAMS[what]]))
