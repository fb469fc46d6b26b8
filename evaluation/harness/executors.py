"""Who trains in a run: this process, a broker with workers of the run's own, or one that is there.

Not here: the executor itself (:mod:`evaluation.executor`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from evaluation.executor.handle import Executor, InProcessExecutor
from evaluation.executor.local import LocalExecutor
from evaluation.executor.messages import Fact
from evaluation.executor.remote import RemoteExecutor
from evaluation.harness.config import RunConfig
from evaluation.results.writer import PolicyWriter

__all__ = ["RunExecutor", "open_executor"]

Told: TypeAlias = Callable[[str], object]


class RunExecutor(Protocol):
    """What trains, for the whole run. ``endpoint`` is where other processes find it, or ""."""

    endpoint: str

    def handle(self, writer: PolicyWriter, told: Told) -> AbstractContextManager[Executor]:
        """For one policy; what befalls the executor meanwhile goes to its events.

        What costs the run time or may end it, ``told`` hears as a line for people.
        """


class _Here:
    """This process trains, on a GPU if there is one."""

    endpoint = ""

    @contextmanager
    def handle(self, writer: PolicyWriter, told: Told) -> Iterator[Executor]:
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
    def handle(self, writer: PolicyWriter, told: Told) -> Iterator[Executor]:
        def happened(what: str, facts: dict[str, Fact]) -> None:
            writer.event(what, **facts)
            if line := _line(what, facts):
                told(line)

        executor = RemoteExecutor(self.endpoint, name="eval run", on_event=happened)
        try:
            yield executor
        finally:
            executor.close()


def _line(what: str, facts: Mapping[str, Fact]) -> str:
    """For people; "" for what is only for the record."""
    match what:
        case "worker_lost":
            return f"{facts['name']} was lost ({facts['why']}); others get its tasks"
        case "out_of_memory":
            return f"{facts['name']} has too little memory for clients of job {facts['job']}"
        case "no_workers":
            return f"no workers are left; {facts['waiting']} tasks wait for one"
        case _:
            return ""


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
