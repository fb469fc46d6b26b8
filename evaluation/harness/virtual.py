"""A run in virtual time: the simulator decides who takes part, the executor trains exactly those.

The simulator runs first and needs no training, because a device's task takes as long as its speed
says. Each job then goes through its attempts in a thread of its own, since a job's rounds depend on
each other and jobs do not; the executor keeps all workers busy. What comes of it is written in the
order of simulated time, so two runs of the same configuration write the same bytes.

Not here: how a round ends (``rust_core/src/simulator/rounds.rs``), and real time
(:mod:`evaluation.harness.live`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from evaluation.executor.handle import Executor
from evaluation.harness.experiment import PlannedJob
from evaluation.harness.rounds import Attempt, VirtualRounds
from evaluation.jobs.learning import LearningJob
from evaluation.results.rows import JobRow, RoundRow, ScoreRow
from evaluation.results.writer import PolicyWriter
from evaluation.training.specs import Score

__all__ = ["job_row", "write_rounds"]

AHEAD_MAX: Final = 64
"""Attempts of one job that may be trained and not yet written."""
POLL_S: Final = 0.2


def write_rounds(
    rounds: VirtualRounds,
    jobs: Sequence[PlannedJob],
    learning: Sequence[LearningJob] | None,
    executor: Executor | None,
    writer: PolicyWriter,
    *,
    told: Callable[[int], None] = lambda _done: None,
) -> None:
    """Train every attempt that succeeded, and write all of it; without ``learning``, only times.

    ``told`` hears how many attempts are written. Raises what training raised.
    """
    if learning is None or executor is None:
        for attempt in rounds.attempts:
            version = attempt.round + (attempt.state == "completed")
            writer.round(_round_row(attempt, _Trained(version, None, 0, None)))
    else:
        with _Chains(rounds, learning, executor) as chains:
            for job in jobs:
                first = chains.next_of(job.job)
                assert first.score is not None
                writer.score(ScoreRow.of(job.job, first.version, job.at_s, first.score))
            for done, attempt in enumerate(rounds.attempts, 1):
                trained = chains.next_of(attempt.job)
                writer.round(_round_row(attempt, trained))
                if trained.score is not None:
                    job_no, at_s = attempt.job, attempt.ended_s
                    writer.score(ScoreRow.of(job_no, trained.version, at_s, trained.score))
                told(done)
    for job in jobs:
        writer.job(job_row(job, rounds))


# --- training, one thread a job ------------------------------------------------------------------


@dataclass(frozen=True)
class _Trained:
    """What came of one attempt, or, first of all, of the initial weights."""

    version: int
    moving_loss: float | None
    samples: int
    score: Score | None
    diverged: int = 0


class _Chains:
    """Every job's attempts, trained one after the other; a context manager."""

    def __init__(
        self, rounds: VirtualRounds, learning: Sequence[LearningJob], executor: Executor
    ) -> None:
        self._executor = executor
        self._stop = threading.Event()
        self._results: dict[int, queue.Queue[_Trained | BaseException]] = {}
        self._threads = []
        for job in learning:
            own = [attempt for attempt in rounds.attempts if attempt.job == job.job]
            self._results[job.job] = queue.Queue(AHEAD_MAX)
            thread = threading.Thread(target=self._run, args=(job, own), name=f"job-{job.job}")
            self._threads.append(thread)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if error is not None:
            self._executor.close()  # what is under way is not waited for
        for thread in self._threads:
            thread.join()

    def next_of(self, job: int) -> _Trained:
        """What came of the job's next attempt; raises what its training raised."""
        result = self._results[job].get()
        if isinstance(result, BaseException):
            raise result
        return result

    def _run(self, job: LearningJob, attempts: Sequence[Attempt]) -> None:
        try:
            self._executor.set_weights(job.job, job.version, job.weights)
            self._put(job.job, self._result(job))
            for attempt in attempts:
                if self._stop.is_set():
                    return
                self._put(job.job, self._train(job, attempt))
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._put(job.job, error)

    def _train(self, job: LearningJob, attempt: Attempt) -> _Trained:
        if attempt.state != "completed":
            return _Trained(job.version, job.moving_loss, 0, None)
        task = job.task_of(attempt.round, attempt.clients, attempt.steps)
        trained = task.given_to(self._executor).result()
        job.finish(attempt.round, trained)
        self._executor.set_weights(job.job, job.version, job.weights)
        return replace(self._result(job), diverged=len(job.diverged))

    def _result(self, job: LearningJob) -> _Trained:
        score = None
        if job.wants_score:
            score = self._executor.score(job.job, job.version).result()
        return _Trained(job.version, job.moving_loss, job.trained_samples, score)

    def _put(self, job: int, result: _Trained | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._results[job].put(result, timeout=POLL_S)
            except queue.Full:
                continue
            return


# --- rows ----------------------------------------------------------------------------------------


def _round_row(attempt: Attempt, trained: _Trained) -> RoundRow:
    return RoundRow(
        job=attempt.job,
        round=attempt.round,
        attempt=attempt.attempt,
        state=attempt.state,
        opened_s=attempt.opened_s,
        filled_s=attempt.filled_s,
        ended_s=attempt.ended_s,
        demand=attempt.demand,
        allocated=attempt.allocated,
        completed=attempt.completed,
        failed=attempt.failed,
        version=trained.version,
        moving_loss=trained.moving_loss,
        training_wait_s=0.0,
        trained_samples=trained.samples,
        diverged=trained.diverged,
    )


def job_row(job: PlannedJob, rounds: VirtualRounds) -> JobRow:
    """One job's figures: its means are over its successful rounds."""
    own = [attempt for attempt in rounds.attempts if attempt.job == job.job]
    done = [attempt for attempt in own if attempt.state == "completed"]
    delays = [it.filled_s - it.opened_s for it in done if it.filled_s is not None]
    responses = [it.ended_s - it.filled_s for it in done if it.filled_s is not None]
    return JobRow.of(
        job.job,
        job.profile_no,
        arrived_s=job.at_s,
        finished_s=rounds.finished_s[job.job],
        rounds=len(done),
        delays_s=delays,
        responses_s=responses,
        scheduling_timeouts=sum(it.state == "timed_out_scheduling" for it in own),
        response_timeouts=sum(it.state == "timed_out_response" for it in own),
    )
