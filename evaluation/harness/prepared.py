"""What all policies of one seed have in common: jobs, clients, data, and weights to begin with.

Everything that can be wrong with a run is found here, before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.clients.behaviour import SimulatedClient, TaskCost
from evaluation.data.images import ImageData
from evaluation.harness.experiment import Experiment, PlannedJob
from evaluation.harness.models import PreparedModel, prepare_models
from evaluation.jobs.learning import LearningJob
from evaluation.jobs.profiles import MODEL_SIZE_KBIT

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """One seed. ``models`` is None if nothing is trained."""

    seed: int
    jobs: list[PlannedJob]
    clients: list[SimulatedClient]
    models: list[PreparedModel] | None
    costs: list[TaskCost]

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
    clients = experiment.behaviour(seed).draw()
    experiment.check_served(jobs, clients)
    models = None
    if config.trains:
        models = prepare_models(experiment, jobs, seed, loaded)
    costs = []
    for place, job in enumerate(jobs):
        own = models[place].kbit if models else MODEL_SIZE_KBIT
        kbit = job.profile.model_size or own
        costs.append(TaskCost.of(job.profile, kbit, analytics=config.is_FA))
    return Prepared(seed, jobs, clients, models, costs)
