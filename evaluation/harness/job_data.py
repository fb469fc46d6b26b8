"""What must be known of the jobs' data before a run, trained or not: shapes, and who has how much.

A private constraint on ``dataset_size`` is about the samples that a device really has of the job's
data, so a run for its times only divides the same data in the same way. Not here: samples
(:mod:`evaluation.training.trainer` divides them again, by the same seed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.data.images import DataError, ImageData
from evaluation.data.sources import load
from evaluation.executor.jobs import PartitionSpec, partition_of
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.harness.inputs import check_data
from evaluation.jobs.yaml_file import SettingsError
from evaluation.training.sizes import model_bytes
from evaluation.training.specs import ModelError, ModelSpec

__all__ = ["JobData", "kbit_of", "know_data", "partition_spec", "spec_of"]


@dataclass(frozen=True)
class JobData:
    """A data set: ``shape`` of a sample, ``classes``, and ``sizes``, each client's samples."""

    shape: tuple[int, int, int]
    classes: int
    sizes: NDArray[np.int64]


def partition_spec(experiment: Experiment) -> PartitionSpec:
    """How every data set of the run is divided."""
    config = experiment.config
    return PartitionSpec(
        kind=config.partition.kind,
        clients=config.client_num,
        alpha=config.partition.alpha,
        file=experiment.path(config.partition.file),
    )


def know_data(
    experiment: Experiment, jobs: Sequence[PlannedJob], seed: int, loaded: dict[str, ImageData]
) -> dict[str, JobData]:
    """The data sets that the jobs need, by name; one that is not in ``loaded`` is put there.

    A run that trains needs all. One that does not needs those of jobs that say no ``model_size``,
    or that ask for a ``dataset_size``. Raises DataError, one line.
    """
    known: dict[str, JobData] = {}
    for job in jobs:
        profile = job.profile
        name = profile.dataset
        is_needed = profile.model_size is None or profile.private_constraint
        if name in known or not (experiment.config.trains or is_needed):
            continue
        if name not in loaded:
            loaded[name] = _load(experiment, name)
            check_data(experiment, loaded[name])
        data = loaded[name]
        parts = partition_of(data, partition_spec(experiment), seed)
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        known[name] = JobData(data.shape, data.classes, sizes)
    return known


def _load(experiment: Experiment, name: str) -> ImageData:
    try:
        return load(name, experiment.path(experiment.config.data_dir))
    except DataError as error:
        if experiment.config.trains:
            raise
        raise DataError(
            f"{error}; a run that does not train needs no data if each profile says its model_size "
            "and none has a private_constraint"
        ) from error


def spec_of(job: PlannedJob, data: JobData) -> ModelSpec:
    """The job's model, for its data."""
    profile = job.profile
    return ModelSpec(profile.model, data.shape, data.classes, profile.model_norm)


def kbit_of(job: PlannedJob, data: dict[str, JobData], dtype: str) -> float:
    """What a device transfers each way, trained or not; raises SettingsError."""
    if job.profile.model_size is not None:
        return job.profile.model_size
    try:
        return model_bytes(spec_of(job, data[job.profile.dataset]), dtype) * 8 / 1000
    except ModelError as error:
        where = f"profile {job.profile_no} (data set {job.profile.dataset})"
        raise SettingsError(f"{where}: {error}") from error
