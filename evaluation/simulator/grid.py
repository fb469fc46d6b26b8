"""Every policy with every seed, side by side on all cores, on one trace that they share.

The simulation is Rust that runs without the interpreter's lock, so threads are enough and the
trace is in memory once. Results come in the order of policies, then seeds, whatever finished first.

Not here: what a run does (``rust_core/src/simulator/``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

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
    stalled_s: float | None = None
    """A run in which no round succeeds for so long, in virtual time, fails; None: never."""
    rules: Sequence[str] = ()
    """Under ``venn-reference``: those of the reference's rules that are replaced by ours."""

    def runs(self) -> list[tuple[str, int]]:
        """(policy, seed) of each run, in the order of the results."""
        return [(policy, seed) for policy in self.policies for seed in self.seeds]

    @property
    def rounds(self) -> int:
        """How many rounds one run wants to finish."""
        return sum(job.rounds for job in self.jobs)


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
    jobs = [msgspec.to_builtins(job) for job in grid.jobs]
    sessions: dict[str, Any] = {}
    if grid.semantics == "propius":
        sessions["tasks_max"] = grid.tasks_per_session or None

    def one(index: int, policy: str, seed: int) -> dict[str, Any]:
        def told(rounds: int) -> bool:
            if progress is not None:
                with lock:
                    progress(index, rounds)
            return not stop.is_set()

        return simulate(
            trace,
            jobs,
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
        futures = [pool.submit(one, i, *which) for i, which in enumerate(grid.runs())]
        try:
            for future in as_completed(futures):
                future.result()  # the first that fails ends the others
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
