"""Models, data and initial weights of a run's jobs, checked before anything is trained.

Every process that trains makes data and partition itself from what is said here; samples never
travel. Not here: training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.data.images import ImageData
from evaluation.data.sources import load
from evaluation.executor.handle import JobModel
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.jobs.yaml_file import SettingsError
from evaluation.training.initial import initial_weights
from evaluation.training.local import Arrays
from evaluation.training.models import ModelError, ModelSpec

__all__ = ["PreparedModel", "prepare_models"]

WEIGHTS_STREAM: Final = 1_000_003


@dataclass(frozen=True)
class PreparedModel:
    """One job's model as the executor hears of it, and its weights of version 0."""

    model: JobModel
    weights: Arrays

    @property
    def kbit(self) -> float:
        """What it takes to send the weights."""
        return sum(value.nbytes for value in self.weights.values()) * 8 / 1000


def prepare_models(
    experiment: Experiment, jobs: Sequence[PlannedJob], seed: int
) -> list[PreparedModel]:
    """One for each job, in their order.

    Raises DataError for data that is missing, SettingsError for a model that does not fit it or for
    clients without data; one line each.
    """
    loaded: dict[str, ImageData] = {}
    prepared = []
    for job in jobs:
        name = job.profile.dataset
        if name not in loaded:
            loaded[name] = load(name, experiment.path(experiment.config.data_dir))
            _check_partition(experiment, loaded[name], seed)
        prepared.append(_prepare(experiment, job, loaded[name], seed))
    return prepared


def _prepare(
    experiment: Experiment, job: PlannedJob, data: ImageData, seed: int
) -> PreparedModel:
    profile, config = job.profile, experiment.config
    spec = ModelSpec(profile.model, data.shape, data.classes, profile.model_norm)
    try:
        weights = initial_weights(spec, seed=WEIGHTS_STREAM * seed + job.job, dtype=config.dtype)
    except ModelError as error:
        raise SettingsError(
            f"profile {job.profile_no}: {error} (data set {profile.dataset})"
        ) from error
    return PreparedModel(
        JobModel(
            job=job.job,
            spec=spec,
            dataset=profile.dataset,
            folder=experiment.path(config.data_dir),
            partition=experiment.partition(),
            dtype=config.dtype,
            seed=seed,
        ),
        weights,
    )
