"""A job's learning, without a clock, a socket or torch: the same in virtual and in real time.

A round's clients are trained from one version of the global weights; what they return moves the
weights by the job's rule, and the version grows by one. A failed attempt at a round changes
nothing. A round uses the first ``demand`` results and no more, whoever else reported meanwhile.

A client that diverged has worked and reported, but there is nothing to use: it is dropped from
these results and counted. If too few are left (:meth:`JobProfile.usable_min`), the round is over
all the same, and the weights stay as they are.

Not here: who takes part (daemons or simulator), and the training (:mod:`evaluation.executor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from numpy.typing import NDArray

from evaluation.aggregators import Update, Weights
from evaluation.executor.handle import Executor
from evaluation.jobs.profiles import JobProfile
from evaluation.training.specs import Hyper
from propius.errors import PropiusError

__all__ = ["LearningError", "LearningJob", "Task"]


class LearningError(PropiusError):
    """A job's learning cannot go on; one line."""


@dataclass(frozen=True)
class Task:
    """Train these clients from this version of a job's weights; ``steps``: each for so many."""

    job: int
    round: int
    version: int
    clients: tuple[int, ...]
    hyper: Hyper
    steps: tuple[int, ...] | None = None

    def given_to(self, executor: Executor) -> Future[list[Update]]:
        """Ask for it; see :meth:`evaluation.executor.handle.Executor.train`."""
        return executor.train(
            self.job, self.round, self.version, self.clients, self.hyper, self.steps
        )


class LearningJob:
    """One job. ``weights`` of version 0 are the initial ones."""

    def __init__(
        self, job: int, profile: JobProfile, weights: Weights, *, eval_interval: int = 10
    ) -> None:
        self.job, self.profile = job, profile
        self.weights: dict[str, NDArray[Any]] = dict(weights)
        self.version = 0
        self.moving_loss: float | None = None
        """The mean over the clients of the last round; None before the first."""
        self.trained_samples = 0
        """Of the clients that the last round used."""
        self.diverged: tuple[int, ...] = ()
        """Clients of the last round that were dropped."""
        self._eval_interval = profile.eval_interval or eval_interval
        self._aggregator = profile.aggregator()

    @property
    def is_done(self) -> bool:
        """Whether all rounds succeeded."""
        return self.version >= self.profile.total_round

    @property
    def wants_score(self) -> bool:
        """Whether this version is to be tested: the first, every so many, and the last."""
        return self.is_done or self.version % self._eval_interval == 0

    def hyper(self) -> Hyper:
        """The hyper-parameters of the current round."""
        profile = self.profile
        return Hyper(
            steps=profile.local_steps,
            batch_size=profile.batch_size,
            learning_rate=profile.learning_rate_of(self.version),
            momentum=profile.momentum,
            weight_decay=profile.weight_decay,
            prox_mu=profile.prox_mu,
            loss_decay=profile.loss_decay,
            start_loss=self._aggregator.wants_start_loss,
        )

    def task_of(
        self, round_no: int, clients: Sequence[int], steps: Sequence[int] | None = None
    ) -> Task:
        """What is to be trained; raises :class:`LearningError` if it is not this round's turn.

        ``steps``: how many each client does; None: all do those of the profile.
        """
        self._expect(round_no)
        own = None if steps is None else tuple(steps)
        return Task(self.job, round_no, self.version, tuple(clients), self.hyper(), own)

    def finish(self, round_no: int, updates: Sequence[Update]) -> None:
        """The round succeeded with these results, in the order in which they came.

        Raises :class:`LearningError` if it is not this round's turn, and AggregationError for
        results that cannot be used; both leave everything as it was.
        """
        self._expect(round_no)
        first = updates[: self.profile.demand]
        used = [update for update in first if not update.has_diverged]
        if len(used) == len(first) or len(used) >= self.profile.usable_min(len(first)):
            rate = self.profile.learning_rate_of(self.version)
            self.weights = self._aggregator.step(self.weights, used, learning_rate=rate)
            self.moving_loss = fmean(update.loss for update in used)
        else:
            used = []
        self.trained_samples = sum(update.samples for update in used)
        self.diverged = tuple(update.client for update in first if update.has_diverged)
        self.version += 1

    def skip(self, round_no: int) -> None:
        """The round succeeded, and nothing is trained: analytics, or a run for its times only."""
        self._expect(round_no)
        self.version += 1

    def _expect(self, round_no: int) -> None:
        if round_no != self.version or self.is_done:
            raise LearningError(
                f"job {self.job}: round {round_no} is not its turn, {self.version} of "
                f"{self.profile.total_round} are done"
            )
