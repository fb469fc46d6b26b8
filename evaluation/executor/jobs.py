"""What an executor is told of a job, and how a round's clients are divided into stacks.

A worker makes data and partition itself from what is said here: the same seed gives every worker
the same samples, so samples never travel. Not here: training, and how this is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, TypeAlias

from evaluation.data.images import ImageData
from evaluation.data.partition import (
    Partition,
    by_client_map,
    by_label_counts,
    by_owner,
    dirichlet_by_class,
    dirichlet_by_client,
    iid,
    load_client_map,
    load_label_counts,
)
from evaluation.executor.arrays import FRAME_BYTES_MAX
from evaluation.training.specs import ModelSpec
from propius.errors import PropiusError

__all__ = ["STACK_CLIENTS", "ExecutorError", "JobModel", "MemoryShortError", "PartitionKind",
           "PartitionSpec", "check_clients", "partition_of", "stacks_of"]  # fmt: skip

PartitionKind: TypeAlias = Literal[
    "iid", "dirichlet_by_class", "dirichlet_by_client", "label_counts", "client_map", "owner"
]

STACK_CLIENTS: Final = 16
"""Of one stack, at most: enough to be quick, few enough to share out a round over workers."""


class ExecutorError(PropiusError):
    """A job cannot be trained as asked; one line."""


class MemoryShortError(ExecutorError):
    """The device has too little memory for these clients at once."""


@dataclass(frozen=True)
class PartitionSpec:
    """Who has which samples; see :mod:`evaluation.data.partition`. ``file`` where one is read."""

    kind: PartitionKind
    clients: int
    alpha: float = 0.5
    file: Path | None = None


@dataclass(frozen=True)
class JobModel:
    """A job as a worker needs to know it. ``folder`` has the files of data sets that have files."""

    job: int
    spec: ModelSpec
    dataset: str
    folder: Path | None = None
    partition: PartitionSpec = field(default_factory=lambda: PartitionSpec("iid", 1))
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0


def partition_of(data: ImageData, spec: PartitionSpec, seed: int) -> Partition:
    """Who has which samples; the same for the same arguments, on every machine.

    Raises DataError.
    """
    match spec.kind:
        case "iid":
            return iid(data.labels, spec.clients, seed)
        case "dirichlet_by_class":
            return dirichlet_by_class(data.labels, spec.clients, seed, alpha=spec.alpha)
        case "dirichlet_by_client":
            return dirichlet_by_client(data.labels, spec.clients, seed, alpha=spec.alpha)
        case "owner":
            if data.clients is None:
                raise ExecutorError(f"{data.name}: no sample has an owner; choose a partition")
            return by_owner(data.clients, spec.clients)
    if spec.file is None:
        raise ExecutorError(f"partition {spec.kind} needs a file")
    if spec.kind == "label_counts":
        return by_label_counts(data.labels, load_label_counts(spec.file), spec.clients, seed)
    return by_client_map(load_client_map(spec.file), len(data.labels), spec.clients)


def stacks_of(
    clients: Sequence[int], most: int = STACK_CLIENTS, *, model_bytes: int = 0
) -> list[tuple[int, ...]]:
    """Divide clients into stacks that are trained at once, of about equal sizes.

    A stack has at most ``most`` clients, and no more than one message carries of a model's size.

    It depends on nothing but these: not on the workers, their number, or the time. So a run
    that is repeated trains the same stacks and gets the same bits.

    >>> stacks_of([5, 6, 7, 8, 9], most=2)
    [(5,), (6, 7), (8, 9)]
    """
    if model_bytes:
        most = max(1, min(most, FRAME_BYTES_MAX // model_bytes))
    parts = -(-len(clients) // most)
    bounds = [len(clients) * part // parts for part in range(parts + 1)] if parts else []
    return [tuple(clients[first:last]) for first, last in pairwise(bounds)]


def check_clients(
    job: int, clients: Sequence[int], steps: Sequence[int] | None = None, most: int = 0
) -> None:
    """Raise :class:`ExecutorError` if a client is there twice, or nobody is.

    Or if there are ``steps`` that are not one number, from 1 to ``most``, for each client.
    """
    if not clients:
        raise ExecutorError(f"job {job}: no clients to train")
    if len(set(clients)) < len(clients):
        raise ExecutorError(f"job {job}: a client is there twice")
    if steps is not None and not (
        len(steps) == len(clients) and min(steps) >= 1 and max(steps) <= most
    ):
        raise ExecutorError(f"job {job}: steps must be 1 to {most}, one number for each client")
