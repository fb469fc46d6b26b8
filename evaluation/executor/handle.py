"""What a job uses to have its clients trained, whoever trains them.

:class:`InProcessExecutor` trains in this process, for tests and small runs;
:class:`RemoteExecutor` asks a broker with workers (:mod:`evaluation.executor.remote`) and never
loads torch. Both divide a round into the same stacks (:func:`evaluation.executor.jobs.stacks_of`),
so that they give the same result.

Not here: what becomes of the updates (:mod:`evaluation.aggregators`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.executor.jobs import (
    STACK_CLIENTS,
    ExecutorError,
    JobModel,
    PartitionSpec,
    check_clients,
    stacks_of,
)
from evaluation.executor.remote import RemoteExecutor
from evaluation.executor.versions import Versions
from evaluation.training.specs import Hyper, Score

if TYPE_CHECKING:
    from evaluation.training.trainer import Trainer

__all__ = ["Executor", "ExecutorError", "InProcessExecutor", "JobModel", "PartitionSpec",
           "RemoteExecutor"]  # fmt: skip

Result = TypeVar("Result")


class Executor(Protocol):
    """Trains and scores for any number of jobs; its methods may be called from any thread."""

    def register(self, job: JobModel) -> None:
        """Make a job known, before anything else of it."""

    def set_weights(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """The job's global weights of this version; versions grow.

        Raises :class:`ExecutorError` if one is not finite.
        """

    def train(
        self,
        job: int,
        round_no: int,
        version: int,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> Future[list[Update]]:
        """Train each client from that version; updates in the order of ``clients``.

        ``steps``: how many each of them does, at most those of ``hyper``; None: all do those.
        The future raises :class:`ExecutorError`, in one line, for what no worker can do.
        Cancelling it ends the work.
        """

    def score(self, job: int, version: int) -> Future[Score]:
        """Score that version on the test split, and on nothing else."""

    def forget(self, job: int) -> None:
        """The job is over."""

    def close(self) -> None:
        """End what is under way; its futures are cancelled or raise."""


class InProcessExecutor:
    """Trains one task after the other in a thread of this process.

    ``device`` as a worker's: ``auto`` takes a GPU if there is one.
    """

    def __init__(self, device: str = "cpu", *, stack_clients: int = STACK_CLIENTS) -> None:
        self._device, self._stack_clients = device, stack_clients
        self._trainer: Trainer | None = None
        self._versions = Versions()
        self._lock: Final = Lock()
        self._thread = ThreadPoolExecutor(1, "executor")

    def register(self, job: JobModel) -> None:
        """See :class:`Executor`; raises what does not fit at once."""
        self._thread.submit(self._registered, job).result()

    def set_weights(self, job: int, version: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """See :class:`Executor`."""
        with self._lock:
            self._versions.set(job, version, weights)

    def train(
        self,
        job: int,
        round_no: int,
        version: int,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> Future[list[Update]]:
        """See :class:`Executor`."""
        own = tuple(clients)
        own_steps = None if steps is None else tuple(steps)

        def work(trainer: Trainer, weights: Mapping[str, NDArray[Any]]) -> list[Update]:
            check_clients(job, own, own_steps, hyper.steps)
            of = None if own_steps is None else dict(zip(own, own_steps, strict=True))
            size = sum(value.nbytes for value in weights.values())
            stacks = stacks_of(own, self._stack_clients, model_bytes=size)
            return [
                update
                for stack in stacks
                for update in trainer.train(
                    job,
                    round_no,
                    weights,
                    stack,
                    hyper,
                    None if of is None else [of[client] for client in stack],
                )
            ]

        return self._submit(job, version, work)

    def score(self, job: int, version: int) -> Future[Score]:
        """See :class:`Executor`."""
        return self._submit(job, version, lambda trainer, weights: trainer.score(job, weights))

    def forget(self, job: int) -> None:
        """See :class:`Executor`."""
        with self._lock:
            self._versions.forget(job)
        self._thread.submit(lambda: self._own().forget(job))

    def close(self) -> None:
        """See :class:`Executor`."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self,
        job: int,
        version: int,
        work: Callable[[Trainer, Mapping[str, NDArray[Any]]], Result],
    ) -> Future[Result]:
        """The weights are looked up now, so newer ones do not take their place."""
        try:
            with self._lock:
                weights = self._versions.get(job, version)
        except ExecutorError as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed
        return self._thread.submit(lambda: work(self._own(), weights))

    def _registered(self, job: JobModel) -> None:
        self._own().register(job)

    def _own(self) -> Trainer:
        if self._trainer is None:
            from evaluation.training.device import Device  # loads torch

            self._trainer = Device(self._device, threads=None).trainer()
        return self._trainer
