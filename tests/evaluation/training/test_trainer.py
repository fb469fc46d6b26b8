"""One device that trains: nothing leaks from client to client, round to round, or test to training.

Most tests name a fault of the original testbed that they would catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from evaluation.aggregators import Update
from evaluation.data.images import DataError, ImageData
from evaluation.data.sources import load
from evaluation.executor.jobs import (
    ExecutorError,
    JobModel,
    MemoryShortError,
    PartitionSpec,
    partition_of,
)
from evaluation.training.initial import initial_weights
from evaluation.training.local import Arrays
from evaluation.training.specs import Hyper, ModelError, ModelSpec
from evaluation.training.trainer import Trainer

SPEC = ModelSpec("softmax", (1, 8, 8), 10)
HYPER = Hyper(steps=4, batch_size=8, learning_rate=0.1)
CLIENTS = 12


def job(
    kind: Literal["iid", "dirichlet_by_class", "owner", "client_map"] = "dirichlet_by_class",
    *,
    spec: ModelSpec = SPEC,
    dataset: str = "digits",
    file: Path | None = None,
) -> JobModel:
    partition = PartitionSpec(kind, CLIENTS, file=file)
    return JobModel(1, spec, dataset, None, partition, "float64", seed=3)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """The data set of most tests."""
    return load("digits")


@pytest.fixture
def weights() -> Arrays:
    """Untrained weights."""
    return initial_weights(SPEC, seed=1, dtype="float64")


@pytest.fixture
def trainer() -> Trainer:
    """A trainer that knows job 1."""
    made = Trainer()
    made.register(job())
    return made


def same(some: Sequence[Update], others: Sequence[Update]) -> None:
    """Two lists of updates are the same, to 1e-9."""
    assert [it.client for it in some] == [it.client for it in others]
    for one, other in zip(some, others, strict=True):
        for name, value in one.weights.items():
            np.testing.assert_allclose(value, other.weights[name], atol=1e-9)


@pytest.mark.parametrize("stacked", [True, False])
def test_each_client_starts_from_the_global_weights(weights: Arrays, stacked: bool) -> None:
    """Fault F1: the clients of a batch started from the weights of the client before."""
    trainer = Trainer(stacked=stacked)
    trainer.register(job())

    together = trainer.train(1, 0, weights, range(CLIENTS), HYPER)
    alone = [trainer.train(1, 0, weights, [client], HYPER)[0] for client in range(CLIENTS)]

    same(together, alone)


def test_a_failed_round_leaves_nothing_behind(trainer: Trainer, weights: Arrays) -> None:
    """Fault F2: a round that failed left the workers' models changed for the next attempt."""
    first = trainer.train(1, 0, weights, [1, 2], HYPER)
    trainer.train(1, 0, first[0].weights, [3], Hyper(steps=20, learning_rate=0.5))

    same(trainer.train(1, 0, weights, [1, 2], HYPER), first)


def test_scores_are_of_the_test_split(trainer: Trainer, weights: Arrays, digits: ImageData) -> None:
    """Fault F3: accuracies were measured on the training data."""
    rows = digits.test_images.reshape(len(digits.test_images), -1).astype(np.float64)
    matrix, bias = (weights[name].astype(np.float64) for name in ("1.weight", "1.bias"))
    logits = rows @ matrix.T + bias
    best = logits.argmax(axis=1)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = -logs[np.arange(len(rows)), digits.test_labels]

    got = trainer.score(1, weights)

    assert got.correct == (best == digits.test_labels).sum()
    assert got.loss_sum == pytest.approx(losses.sum())


def test_every_test_sample_counts_once(
    trainer: Trainer, weights: Arrays, digits: ImageData
) -> None:
    """Fault F4: the last part of the test split was dropped, and its loss divided twice."""
    got = trainer.score(1, weights)

    assert got.samples == len(digits.test_labels)
    assert got.loss == pytest.approx(got.loss_sum / len(digits.test_labels))
    assert 0 <= got.correct <= got.correct_top5 <= got.samples


def test_scoring_does_not_change_what_training_gives(trainer: Trainer, weights: Arrays) -> None:
    """A score between two rounds leaves no trace."""
    first = trainer.train(1, 0, weights, [4], HYPER)
    trainer.score(1, first[0].weights)

    same(trainer.train(1, 0, weights, [4], HYPER), first)


def test_a_client_trains_on_its_own_samples_only(digits: ImageData, weights: Arrays) -> None:
    """Fault F3, of the workers: a client's data is its part of the training split, and no more."""
    parts = partition_of(digits, PartitionSpec("iid", CLIENTS), seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(digits.labels)))
    trainer = Trainer()
    trainer.register(job("iid"))
    (before,) = trainer.train(1, 0, weights, [5], HYPER)
    known = trainer._jobs[1]
    others = np.setdiff1d(np.arange(len(digits.labels)), parts[5])
    known.data.images[torch.from_numpy(others)] = torch.nan
    known.data.test_images.fill_(torch.nan)

    same(trainer.train(1, 0, weights, [5], HYPER), [before])
    assert before.samples == len(parts[5])


def test_clients_and_rounds_draw_different_batches(trainer: Trainer, weights: Arrays) -> None:
    """The draw depends on seed, job, round and client, and on nothing else."""
    (one,) = trainer.train(1, 0, weights, [1], HYPER)
    (other,) = trainer.train(1, 1, weights, [1], HYPER)

    assert not np.array_equal(one.weights["1.weight"], other.weights["1.weight"])


def test_two_trainers_have_the_same_data(trainer: Trainer, weights: Arrays) -> None:
    """Samples never travel: the same seed gives every worker the same clients."""
    other = Trainer()
    other.register(job())

    same(trainer.train(1, 2, weights, [0, 7], HYPER), other.train(1, 2, weights, [0, 7], HYPER))


def test_a_model_for_other_data_is_refused_before_training() -> None:
    """A model that does not fit the data is one line with both shapes."""
    with pytest.raises(ModelError, match=r"job 1: its model is for \(1, 28, 28\).*digits has"):
        Trainer().register(job(spec=ModelSpec("softmax", (1, 28, 28), 10)))


def test_a_data_folder_that_lacks_a_file_is_named(tmp_path: Path) -> None:
    """Missing data is one line with the file."""
    model = JobModel(1, ModelSpec("cnn", (1, 28, 28), 62), "femnist", tmp_path)

    with pytest.raises(DataError, match=str(tmp_path)):
        Trainer().register(model)


def test_a_partition_without_its_file_or_owners_is_refused() -> None:
    """A partition that the data cannot give is one line."""
    with pytest.raises(ExecutorError, match="partition client_map needs a file"):
        Trainer().register(job("client_map"))
    with pytest.raises(ExecutorError, match="digits: no sample has an owner"):
        Trainer().register(job("owner"))


@pytest.mark.parametrize("client", [-1, CLIENTS])
def test_a_client_without_data_is_refused(trainer: Trainer, weights: Arrays, client: int) -> None:
    """Clients are numbered as the partition is."""
    with pytest.raises(ExecutorError, match=f"client {client} has no data"):
        trainer.train(1, 0, weights, [client], HYPER)


def test_weights_with_nan_are_refused_before_training(trainer: Trainer, weights: Arrays) -> None:
    """Weights that are not finite are one line with their name."""
    weights["1.bias"] = np.full(10, np.nan)

    with pytest.raises(ModelError, match=r"weights of 1.bias: not finite"):
        trainer.train(1, 0, weights, [0], HYPER)


def test_training_that_diverges_says_so(trainer: Trainer, weights: Arrays) -> None:
    """A learning rate that leads to infinities is not averaged into a model."""
    [update] = trainer.train(1, 0, weights, [0], Hyper(steps=60, learning_rate=1e30))
    assert update.has_diverged
    assert update.samples > 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_short_memory_is_told_apart(
    trainer: Trainer, weights: Arrays, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However torch says it, too little memory is an error of its own."""

    def short(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("evaluation.training.trainer.train", short)
    with pytest.raises(MemoryShortError, match="2 clients at once do not fit"):
        trainer.train(1, 0, weights, [0, 1], HYPER)


def test_a_forgotten_job_is_not_trained(trainer: Trainer, weights: Arrays) -> None:
    """What is over takes no memory and does no work."""
    trainer.forget(1)

    with pytest.raises(ExecutorError, match="job 1 is not registered"):
        trainer.score(1, weights)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("stacked", [True, False])
def test_a_gpu_trains_as_the_cpu_does(trainer: Trainer, weights: Arrays, stacked: bool) -> None:
    """The device changes nothing, to 1e-9 in float64."""
    other = Trainer("cuda", stacked=stacked)
    other.register(job())

    same(
        other.train(1, 0, weights, range(CLIENTS), HYPER),
        trainer.train(1, 0, weights, range(CLIENTS), HYPER),
    )
