"""What all policies of one seed have in common: jobs, clients, data, and weights to begin with.

Everything that can be wrong with a run is found here, before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.clients.behaviour import SimulatedClient, TaskCost, with_samples
from evaluation.data.images import ImageData
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.harness.job_data import kbit_of, know_data
from evaluation.harness.models import PreparedModel, prepare_models
from evaluation.jobs.learning import LearningJob

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """One seed. ``models`` is None if nothing is trained.

    ``sizes``: by data set, how many samples each client has.
    """

    seed: int
    jobs: list[PlannedJob]
    clients: list[SimulatedClient]
    models: list[PreparedModel] | None
    costs: list[TaskCost]
    sizes: dict[str, NDArray[np.int64]]

    def learning(self, eval_interval: int) -> list[LearningJob] | None:
        """Every job at its beginning."""
        if self.models is None:
            return None
        return [
            LearningJob(job.job, job.profile, model.weights, eval_interval=eval_interval)
            for job, model in zip(self.jobs, self.models, strict=True)
        ]


def prepare(experiment: Experiment, seed: int, loaded: dict[str, ImageData]) -> Prepared:
    """Read data, build models, draw clients; raises PropiusError with one line.

    ``loaded`` keeps the data sets, which all seeds have in common, from one call to the next.
    """
    config = experiment.config
    jobs = experiment.jobs(seed)
    data = know_data(experiment, jobs, seed, loaded)
    sizes = {name: known.sizes for name, known in data.items()}
    clients = with_samples(experiment.behaviour(seed).draw(), sizes)
    experiment.check_served(jobs, clients)
    costs = [
        TaskCost.of(job.profile, kbit_of(job, data, config.dtype), analytics=config.is_FA)
        for job in jobs
    ]
    models = prepare_models(experiment, jobs, seed, data) if config.trains else None
    return Prepared(seed, jobs, clients, models, costs, sizes)
