"""Every policy with every seed, side by side on all cores, on one trace that they share.

The simulation is Rust that runs without the interpreter's lock, so threads are enough and the
trace is in memory once. Results come in the order of policies, then seeds, whatever finished first.

Not here: what a run does (``rust_core/src/simulator/``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from evaluation.simulator.draws import LATENCIES, drawn_jobs, drawn_trace
from evaluation.simulator.workloads import SimulatedJob
from propius.engine import Trace, simulate

__all__ = ["TASKS_PER_SESSION", "Grid", "Progress", "run_grid"]

TASKS_PER_SESSION: Final = 1
"""The default; see ``docs/simulator.md``."""

Progress = Callable[[int, int], None]
"""Told of (index of the run, rounds done so far), from any thread, one call at a time."""


@dataclass(frozen=True)
class Grid:
    """What is run: each policy with each seed, all else equal."""

    jobs: Sequence[SimulatedJob]
    policies: Sequence[str]
    seeds: Sequence[int]
    semantics: str = "propius"
    repeat: int | None = None
    """How often the trace is replayed, end to end; None: until every job has finished."""
    policy_options: Mapping[str, float] = field(default_factory=dict)
    tasks_per_session: int = TASKS_PER_SESSION
    """Of a device, under ``propius`` semantics; 0: as many as its session has room for."""
    draws: Sequence[str] = (LATENCIES,)
    """What each seed draws; see :mod:`evaluation.simulator.draws`."""
    stalled_s: float | None = None
    """A run in which no round succeeds for so long, in virtual time, fails; None: never."""
    rules: Sequence[str] = ()
    """Under ``venn-reference``: those of the reference's rules that are replaced by ours."""

    def runs(self) -> list[tuple[str, int]]:
        """(policy, seed) of each run, in the order of the results."""
        return [(policy, seed) for policy in self.policies for seed in self.seeds]

    @property
    def rounds(self) -> int:
        """How many rounds all runs together want to finish."""
        lists = (drawn_jobs(self.jobs, seed, self.draws) for seed in self.seeds)
        return len(self.policies) * sum(job.rounds for jobs in lists for job in jobs)


class _Traces:
    """The trace of each seed: made when the first of its runs starts, let go with its last."""

    def __init__(self, trace: Trace, grid: Grid) -> None:
        self._trace = trace
        self._draws = grid.draws
        self._lock = threading.Lock()
        self._made: dict[int, Trace] = {}
        self._left = dict.fromkeys(grid.seeds, len(grid.policies))

    @contextmanager
    def of(self, seed: int) -> Iterator[Trace]:
        """For one run."""
        with self._lock:
            if seed not in self._made:
                self._made[seed] = drawn_trace(self._trace, seed, self._draws)
            trace = self._made[seed]
        yield trace
        with self._lock:
            self._left[seed] -= 1
            if not self._left[seed]:
                del self._made[seed]


def run_grid(
    trace: Trace, grid: Grid, *, progress: Progress | None = None, threads: int | None = None
) -> list[dict[str, Any]]:
    """Run everything; a list of the runs' figures.

    As soon as one run fails, the others are stopped, and it raises what that one raised: an
    :class:`propius.engine.EngineError`. Interrupted by Ctrl-C, it stops all and raises
    KeyboardInterrupt.
    """
    stop = threading.Event()
    lock = threading.Lock()
    traces = _Traces(trace, grid)
    sessions: dict[str, Any] = {}
    if grid.semantics == "propius":
        sessions["tasks_max"] = grid.tasks_per_session or None

    def one(index: int, policy: str, seed: int) -> dict[str, Any]:
        def told(rounds: int) -> bool:
            if progress is not None:
                with lock:
                    progress(index, rounds)
            return not stop.is_set()

        jobs = drawn_jobs(grid.jobs, seed, grid.draws)
        with traces.of(seed) as its_trace:
            return simulate(
                its_trace,
                [msgspec.to_builtins(job) for job in jobs],
                policy=policy,
                policy_options=dict(grid.policy_options),
                seed=seed,
                semantics=grid.semantics,
                repeat=grid.repeat,
                stalled_s=grid.stalled_s,
                progress=told,
                rules=list(grid.rules),
                **sessions,
            )

    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=workers) as pool:
        runs = list(enumerate(grid.runs()))
        # All policies of a seed one after the other: few of the seeds' traces are there at a time.
        started = sorted(runs, key=lambda run: run[0] % len(grid.seeds))
        of_run = {i: pool.submit(one, i, *which) for i, which in started}
        futures = [of_run[i] for i, _which in runs]
        try:
            for future in as_completed(futures):
                future.result()  # the first that fails ends the others
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
