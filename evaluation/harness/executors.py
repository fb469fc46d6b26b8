"""Who trains in a run: this process, a broker with workers of the run's own, or one that is there.

Not here: the executor itself (:mod:`evaluation.executor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from evaluation.executor.handle import Executor, InProcessExecutor
from evaluation.executor.local import LocalExecutor
from evaluation.executor.remote import RemoteExecutor
from evaluation.harness.config import RunConfig
from evaluation.results.writer import PolicyWriter

__all__ = ["RunExecutor", "open_executor"]


class RunExecutor(Protocol):
    """What trains, for the whole run. ``endpoint`` is where other processes find it, or ""."""

    endpoint: str

    def handle(self, writer: PolicyWriter) -> AbstractContextManager[Executor]:
        """For one policy; what befalls the executor meanwhile goes to its events."""


class _Here:
    """This process trains, on a GPU if there is one."""

    endpoint = ""

    @contextmanager
    def handle(self, writer: PolicyWriter) -> Iterator[Executor]:
        executor = InProcessExecutor("auto")
        try:
            yield executor
        finally:
            executor.close()


class _Broker:
    """A broker's workers train. A handle that is closed takes its jobs with it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    @contextmanager
    def handle(self, writer: PolicyWriter) -> Iterator[Executor]:
        executor = RemoteExecutor(
            self.endpoint,
            name="eval run",
            on_event=lambda what, facts: writer.event(what, **facts),
        )
        try:
            yield executor
        finally:
            executor.close()


@contextmanager
def open_executor(config: RunConfig, logs: Path) -> Iterator[RunExecutor]:
    """Start what trains, as the configuration says, and end it afterwards."""
    if config.executor:
        yield _Broker(config.executor)
    elif config.workers == 0:
        yield _Here()
    else:
        with LocalExecutor(config.workers, logs) as local:
            yield _Broker(local.endpoint)
