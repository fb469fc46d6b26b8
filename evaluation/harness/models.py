"""Models, data and initial weights of a run's jobs, checked before anything is trained.

Every process that trains makes data and partition itself from what is said here; samples never
travel. Not here: training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.aggregators import Weights
from evaluation.data.images import ImageData
from evaluation.data.sources import load
from evaluation.executor.jobs import JobModel, PartitionSpec, partition_of
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.harness.inputs import check_data
from evaluation.jobs.yaml_file import SettingsError
from evaluation.training.specs import ModelError, ModelSpec

__all__ = ["PreparedModel", "prepare_models"]

SEED_STEP: Final = 1_000_003


@dataclass(frozen=True)
class PreparedModel:
    """One job's model as the executor hears of it, and its weights of version 0."""

    model: JobModel
    weights: Weights

    @property
    def kbit(self) -> float:
        """What it takes to send the weights."""
        return sum(value.nbytes for value in self.weights.values()) * 8 / 1000


def prepare_models(
    experiment: Experiment,
    jobs: Sequence[PlannedJob],
    seed: int,
    loaded: dict[str, ImageData],
) -> list[PreparedModel]:
    """One for each job, in their order; a data set that is not in ``loaded`` is put there.

    Raises DataError for data that is missing, SettingsError for a model that does not fit it or for
    clients without data; one line each.
    """
    config = experiment.config
    folder = experiment.path(config.data_dir)
    partition = PartitionSpec(
        kind=config.partition.kind,
        clients=config.client_num,
        alpha=config.partition.alpha,
        file=experiment.path(config.partition.file),
    )
    prepared = []
    divided: set[str] = set()
    for job in jobs:
        name = job.profile.dataset
        if name not in loaded:
            loaded[name] = load(name, folder)
            check_data(experiment, loaded[name])
        if name not in divided:
            divided.add(name)
            partition_of(loaded[name], partition, seed)  # raises if it cannot be made
        spec = _spec(job, loaded[name])
        model = JobModel(
            job=job.job,
            spec=spec,
            dataset=name,
            folder=folder,
            partition=partition,
            dtype=config.dtype,
            seed=seed,
        )
        prepared.append(PreparedModel(model, _weights(job, spec, config.dtype, seed)))
    return prepared


def _spec(job: PlannedJob, data: ImageData) -> ModelSpec:
    profile = job.profile
    return ModelSpec(profile.model, data.shape, data.classes, profile.model_norm)


def _weights(job: PlannedJob, spec: ModelSpec, dtype: str, seed: int) -> Weights:
    from evaluation.training.initial import initial_weights  # loads torch

    try:
        return initial_weights(spec, seed=SEED_STEP * seed + job.job, dtype=dtype)
    except ModelError as error:
        where = f"profile {job.profile_no} (data set {job.profile.dataset})"
        raise SettingsError(f"{where}: {error}") from error
