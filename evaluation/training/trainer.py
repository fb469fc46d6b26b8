"""One device that trains: models, data and partitions of the jobs it knows, kept for the next task.

Every call starts from the weights it is given. Nothing that training changes outlives a call, so
no client sees what another one trained, and a round that failed leaves no trace. Scores are of the
whole test split and of nothing else.

Not here: tasks and versions (:mod:`evaluation.executor.worker`), and the steps of training
(:mod:`evaluation.training.local`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from evaluation.aggregators import Update, Weights
from evaluation.data.images import ImageData
from evaluation.data.partition import Partition
from evaluation.data.sources import load
from evaluation.executor.jobs import ExecutorError, JobModel, MemoryShortError, partition_of
from evaluation.training.local import ClientData, load_arrays, train
from evaluation.training.models import build
from evaluation.training.scoring import score
from evaluation.training.specs import Hyper, ModelError, Score

__all__ = ["Trainer"]

DATASETS_MAX: Final = 8
PARTITIONS_MAX: Final = 64
Key = TypeVar("Key")
Value = TypeVar("Value")
DTYPES: Final = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class _DeviceData:
    """A data set on the device, in one dtype."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class _Job:
    model: JobModel
    network: nn.Module
    data: _DeviceData
    partition: Partition


class Trainer:
    """Trains and scores on one device (``cpu``, ``cuda:0`` …), one call at a time.

    >>> from evaluation.training.initial import initial_weights
    >>> from evaluation.training.specs import ModelSpec
    >>> model = JobModel(1, ModelSpec("softmax", (1, 8, 8), 10), "digits")
    >>> trainer = Trainer()
    >>> trainer.register(model)
    >>> trainer.score(1, initial_weights(model.spec, seed=0)).samples
    364
    """

    def __init__(self, device: str = "cpu", *, stacked: bool | None = None) -> None:
        self.device = torch.device(device)
        self._stacked = stacked
        self._jobs: dict[int, _Job] = {}
        self._loaded: dict[tuple[str, Path | None], ImageData] = {}
        self._moved: dict[tuple[str, Path | None, str], _DeviceData] = {}
        self._partitions: dict[tuple[object, ...], Partition] = {}

    def register(self, model: JobModel) -> None:
        """Load the job's data and build its model.

        Raises DataError, ModelError or ExecutorError with one line if one does not fit the other.
        """
        key = (model.dataset, model.folder)
        if key not in self._loaded:
            _make_room(self._loaded, DATASETS_MAX)
            self._loaded[key] = load(model.dataset, model.folder)
        data = self._loaded[key]
        if data.shape != model.spec.shape or data.classes > model.spec.classes:
            raise ModelError(
                f"job {model.job}: its model is for {model.spec.shape} and {model.spec.classes} "
                f"classes, {model.dataset} has {data.shape} and {data.classes}"
            )
        partition = self._partition(data, model)
        with (
            self._memory(f"job {model.job}: its data and model"),
            torch.random.fork_rng(devices=[]),
        ):
            network = build(model.spec, dtype=DTYPES[model.dtype]).to(self.device)
            self._jobs[model.job] = _Job(model, network, self._on_device(data, model), partition)

    def forget(self, job: int) -> None:
        """Free the job's model."""
        self._jobs.pop(job, None)

    def train(
        self,
        job: int,
        round_no: int,
        weights: Weights,
        clients: Sequence[int],
        hyper: Hyper,
        steps: Sequence[int] | None = None,
    ) -> list[Update]:
        """Train each client from ``weights`` on its own samples; updates in the same order.

        ``steps``: how many each client does; None: all do those of ``hyper``. A client that
        diverges has an update that says so (:attr:`Update.has_diverged`).
        Raises :class:`MemoryShortError` if they do not fit at once, ExecutorError, or ModelError
        for weights that do not fit.
        """
        known = self._job(job)
        with self._memory(f"job {job}: {len(clients)} clients at once"):
            data = [self._client(known, client) for client in clients]
            return train(
                known.network,
                weights,
                data,
                hyper,
                seed=(known.model.seed, job, round_no),
                steps=steps,
                stacked=self._stacked,
            )

    def score(self, job: int, weights: Weights) -> Score:
        """Score the weights on the job's whole test split; raises as :meth:`train`."""
        known = self._job(job)
        with self._memory(f"job {job}: the test split"):
            load_arrays(known.network, weights)
            return score(known.network, known.data.test_images, known.data.test_labels)

    def _job(self, job: int) -> _Job:
        if job not in self._jobs:
            raise ExecutorError(f"job {job} is not registered")
        return self._jobs[job]

    def _client(self, job: _Job, client: int) -> ClientData:
        if not 0 <= client < len(job.partition):
            raise ExecutorError(
                f"job {job.model.job}: client {client} has no data, there are "
                f"{len(job.partition)} clients"
            )
        own = torch.from_numpy(job.partition[client]).to(self.device)
        return ClientData(client, job.data.images[own], job.data.labels[own])

    def _on_device(self, data: ImageData, model: JobModel) -> _DeviceData:
        key = (model.dataset, model.folder, model.dtype)
        if key not in self._moved:
            _make_room(self._moved, DATASETS_MAX)
            dtype = DTYPES[model.dtype]
            self._moved[key] = _DeviceData(
                torch.tensor(data.images, dtype=dtype, device=self.device),
                torch.tensor(data.labels, device=self.device),
                torch.tensor(data.test_images, dtype=dtype, device=self.device),
                torch.tensor(data.test_labels, device=self.device),
            )
        return self._moved[key]

    def _partition(self, data: ImageData, model: JobModel) -> Partition:
        key = (model.dataset, model.folder, model.partition, model.seed)
        if key not in self._partitions:
            _make_room(self._partitions, PARTITIONS_MAX)
            self._partitions[key] = partition_of(data, model.partition, model.seed)
        return self._partitions[key]

    @contextmanager
    def _memory(self, what: str) -> Iterator[None]:
        """Whatever torch says when memory is short becomes one error."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._short(what) from error
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            raise self._short(what) from error

    def _short(self, what: str) -> MemoryShortError:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return MemoryShortError(f"{what} do not fit into the memory of {self.device}")


def _make_room(table: dict[Key, Value], most: int) -> None:
    """Forget the oldest entries of a cache."""
    while len(table) >= most:
        del table[next(iter(table))]
