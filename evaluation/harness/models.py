"""Models, data and initial weights of a run's jobs, checked before anything is trained.

Every process that trains makes data and partition itself from what is said here; samples never
travel. Not here: training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.aggregators import Weights
from evaluation.executor.jobs import JobModel
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.harness.job_data import JobData, partition_spec, spec_of
from evaluation.jobs.yaml_file import SettingsError
from evaluation.training.sizes import model_bytes
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
    experiment: Experiment, jobs: Sequence[PlannedJob], seed: int, data: Mapping[str, JobData]
) -> list[PreparedModel]:
    """One for each job, in their order; ``data`` has the data sets of all.

    Raises SettingsError, one line, for a model that does not fit its data, or that is not as large
    as the run's times take it to be.
    """
    config = experiment.config
    prepared = []
    for job in jobs:
        spec = spec_of(job, data[job.profile.dataset])
        model = JobModel(
            job=job.job,
            spec=spec,
            dataset=job.profile.dataset,
            folder=experiment.path(config.data_dir),
            partition=partition_spec(experiment),
            dtype=config.dtype,
            seed=seed,
        )
        made = PreparedModel(model, _weights(job, spec, config.dtype, seed))
        counted = model_bytes(spec, config.dtype) * 8 / 1000
        if made.kbit != counted:
            raise SettingsError(
                f"profile {job.profile_no}: model {spec.name} has {made.kbit:g} kbit, and "
                f"{counted:g} by evaluation/training/sizes.py, which runs without training go by"
            )
        prepared.append(made)
    return prepared


def _weights(job: PlannedJob, spec: ModelSpec, dtype: str, seed: int) -> Weights:
    from evaluation.training.initial import initial_weights  # loads torch

    try:
        return initial_weights(spec, seed=SEED_STEP * seed + job.job, dtype=dtype)
    except ModelError as error:
        where = f"profile {job.profile_no} (data set {job.profile.dataset})"
        raise SettingsError(f"{where}: {error}") from error
