"""Who trains: this process, or a broker with workers that a run starts and ends.

Not here: the executor itself (:mod:`evaluation.executor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.executor.handle import Executor, InProcessExecutor
from evaluation.harness.config import RunConfig
from evaluation.results.writer import PolicyWriter

__all__ = ["RunExecutor", "open_executor"]


@dataclass(frozen=True)
class RunExecutor:
    """The handle of this process, and where others find the executor ("": they cannot)."""

    handle: Executor
    endpoint: str = ""


@contextmanager
def open_executor(
    config: RunConfig, logs: Path, writer: PolicyWriter, *, in_process: bool
) -> Iterator[RunExecutor]:
    """Start what trains, and end it afterwards."""
    handle = InProcessExecutor()
    try:
        yield RunExecutor(handle)
    finally:
        handle.close()
