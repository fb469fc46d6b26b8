"""The process of one job of a live run: its parameter server.

``python -m evaluation.jobs.job_server SETTINGS``, with :class:`JobServerSettings` as JSON. It talks
to Propius through the public SDK, to the simulated clients over :mod:`evaluation.jobs.link`, has
their training done by the executor, and aggregates (:mod:`evaluation.jobs.learning`). It prints
lines of :mod:`evaluation.jobs.told`, and begins when a line with the start (nanoseconds of the
monotonic clock) comes on its standard input.

An attempt at a round ends as the job manager says: filled, and with enough reports. If it is not
filled ``sched_timeout`` after it was opened, or has too few reports ``exec_timeout`` after it was
filled, the server ends it with ``end_request``, and the round is tried again, unless enough devices
have reported by then (:mod:`evaluation.jobs.phases`). A client that took a
slot and never shows up costs its slot until its lease ends, and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from evaluation.aggregators import Update
from evaluation.children import complain, tell
from evaluation.clients.behaviour import TaskCost
from evaluation.executor.handle import Executor
from evaluation.executor.messages import Register
from evaluation.executor.remote import RemoteExecutor
from evaluation.jobs.attempt import Attempt
from evaluation.jobs.learning import LearningJob
from evaluation.jobs.link import Answer, Ask, Here, JobLink
from evaluation.jobs.phases import Phases, outcome
from evaluation.jobs.profiles import JobProfile
from evaluation.jobs.told import Attempted, Happened, JobOver, Ready, Scored
from evaluation.results.rows import JobRow, RoundRow, ScoreRow
from propius import AsyncJob
from propius.errors import PropiusError
from propius.messages import RoundStatus

__all__ = ["JobServer", "JobServerSettings", "main"]

SDK_TIMEOUT_S: Final = 60.0
LEASE_SLACK_S: Final = 30.0
"""Real time that a lease lasts beyond the phases of its round."""
TOGETHER_MAX: Final = 64
"""Clients of one call to the executor."""
WARM_UP_CLIENTS: Final = 64
"""Several stacks, so that several workers warm up."""
WATCH_MAX_S: Final = 5.0
WATCH_LATE_S: Final = 0.5
REPORT_S: Final = 2.0
"""Real time for the report of a device that had to wait for its training until it was too late."""
PACE_S: Final = 0.2
"""A result that was waited for longer than this (real time) says that training set the pace."""
UNDER_WAY: Final = frozenset({"open", "filled"})

Respond = Callable[[Answer], None]


class JobServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent tells a job server. Without ``executor`` nothing is trained."""

    job: int
    profile_no: int
    profile: dict[str, Any]
    at_s: float
    samples: float
    kbit: float
    steps: int = 0
    speed_up: float
    job_manager: str
    executor: str = ""
    model: Register | None = None
    weights: str = ""
    eval_interval: int = 10


@dataclass
class _Figures:
    """What the job's row is made of."""

    delays_s: list[float] = field(default_factory=list)
    responses_s: list[float] = field(default_factory=list)
    scheduling_timeouts: int = 0
    response_timeouts: int = 0


class JobServer:
    """One job, from its arrival to its last round. All in one asyncio loop."""

    def __init__(self, settings: JobServerSettings, executor: Executor | None) -> None:
        self.settings = settings
        self.profile = JobProfile.model_validate(settings.profile)
        self.executor = executor
        weights = _load(Path(settings.weights)) if executor else {}
        self.learning = LearningJob(
            settings.job, self.profile, weights, eval_interval=settings.eval_interval
        )
        self.attempt: Attempt | None = None
        self.start_ns = 0
        self.tries = 0
        self.rounds_done = 0
        self.figures = _Figures()
        self._job: AsyncJob | None = None
        self._opening = False
        self._early: list[tuple[Ask, Respond]] = []
        self._pending: list[int] = []
        self._waiting: dict[int, tuple[Ask, Respond]] = {}
        self._due_ns = self._reports_until_ns = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._training: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    # --- the job's life --------------------------------------------------------------------------

    async def warm_up(self) -> None:
        """Have the workers load model and data, and test the initial weights, before the start.

        A step of training, whose result nobody uses, makes them load the rest of torch.
        """
        model, job = self.settings.model, self.settings.job
        if self.executor and model:
            self.executor.register(model.job_model())
            self._set_weights()
            clients = range(min(model.partition_clients, WARM_UP_CLIENTS))
            hyper = replace(self.learning.hyper(), steps=1)
            await asyncio.wrap_future(self.executor.train(job, 0, 0, clients, hyper))
            await self._tell_score(0, self.settings.at_s)

    async def run(self, start_ns: int) -> None:
        """Arrive, train all rounds, complete."""
        self.start_ns = start_ns
        link = JobLink(self.take)
        profile, settings = self.profile, self.settings
        try:
            await asyncio.sleep((settings.at_s - self.now_s()) / settings.speed_up)
            async with AsyncJob(
                settings.job_manager,
                name=f"job-{settings.job}",
                requirement=profile.public_constraint,
                private_constraint=profile.private_bounds,
                demand=profile.devices,
                rounds=profile.total_round,
                server_endpoint=link.endpoint,
                timeout_s=SDK_TIMEOUT_S,
            ) as job:
                self._job = job
                while self.rounds_done < profile.total_round:
                    await self._round(job)
                await job.complete_job()
                tell(JobOver(self._job_row()))
            while self._tasks:
                await asyncio.wait(self._tasks)
            self._check()
        finally:
            await link.close()

    async def _round(self, job: AsyncJob) -> None:
        """One attempt."""
        profile, speed_up = self.profile, self.settings.speed_up
        phases_s = (profile.sched_timeout + profile.exec_timeout) / speed_up
        opened_s = self.now_s()
        self._opening = True
        number = await job.start_request(
            profile.devices, reports_min=profile.demand, lease_s=phases_s + LEASE_SLACK_S
        )
        self._open(number)
        status = await self._watch(job, number)
        state = outcome(status)
        ended_s = opened_s + (status.ended_after_s * speed_up if status.ended_after_s >= 0 else 0.0)
        attempt = self._close()
        succeeded = state == "completed"
        if succeeded:
            if self.executor:
                self.learning.finish(self.rounds_done, attempt.updates)
                self._set_weights()
            else:
                self.learning.skip(self.rounds_done)
        self._tell_round(attempt, status, state, opened_s, ended_s)
        if not succeeded:
            self.tries += 1
            return
        self.rounds_done, self.tries = self.rounds_done + 1, 0
        if self.executor and self.learning.wants_score:
            self._spawn(self._tell_score(self.learning.version, ended_s))  # nobody waits for it

    async def _watch(self, job: AsyncJob, number: int) -> RoundStatus:
        """Wait for the attempt's end, and end it when a phase takes too long."""
        profile, speed_up = self.profile, self.settings.speed_up
        phases = Phases(profile.sched_timeout / speed_up, profile.exec_timeout / speed_up)
        began_ns = monotonic_ns()
        seen, filled_after_s = 0, -1.0
        while True:
            filled = filled_after_s >= 0
            self._due_ns = began_ns + int(phases.due_after_s(filled_after_s) * 1e9)
            left_s = (self._due_ns - monotonic_ns()) / 1e9
            if left_s <= 0 and not (filled and self._waits_for_training()):
                await job.end_request(number)
                return await job.watch_round(number, seen=0, wait_s=0.0)
            status = await job.watch_round(
                number, seen=seen, wait_s=min(left_s, WATCH_MAX_S) if left_s > 0 else WATCH_LATE_S
            )
            self._check()
            if status.state not in UNDER_WAY:
                return status
            seen, filled_after_s = status.version, status.filled_after_s

    def _waits_for_training(self) -> bool:
        """Whether devices are done and only training is not: their attempt is not timed out.

        Nor is it while the reports of those who waited are on their way.
        """
        return bool(self._waiting) or monotonic_ns() < self._reports_until_ns

    # --- clients ---------------------------------------------------------------------------------

    def take(self, ask: Ask, respond: Respond) -> None:
        """A client's request; see :class:`evaluation.jobs.link.JobLink`."""
        attempt = self.attempt
        if self._opening:
            self._early.append(
                (ask, respond)
            )  # a device may be faster than the job manager's reply
            return
        if attempt is None or self._job is None or ask.round != attempt.number:
            respond(Answer(ask.request, f"round {ask.round} is over"))
            return
        try:
            lease = self._job.admit(ask.token)
        except PropiusError as error:
            respond(Answer(ask.request, str(error)))
            return
        if lease.round != attempt.number:
            respond(Answer(ask.request, f"round {ask.round} is over"))
        elif ask.verb == "start":
            cost = self._cost_for(ask.here)
            if attempt.start(ask.client, cost.steps):
                if ask.client not in self._pending:
                    self._pending.append(ask.client)
                self._train_next()
            respond(Answer(ask.request, "", cost.samples, cost.kbit))
        else:
            counts = attempt.hand_in(ask.client, self.now_s())
            if counts is None:
                self._waiting[ask.client] = (ask, respond)
            else:
                respond(Answer(ask.request, "" if counts else "it never started"))

    def _cost_for(self, here: Here | None) -> TaskCost:
        """Of as much of a task as the device can do."""
        settings = self.settings
        cost = TaskCost(settings.samples, settings.kbit, settings.steps)
        return cost if here is None else cost.within(here.left_s, here.speed_ms, here.kbps)

    def _open(self, number: int) -> None:
        self.attempt = Attempt(number, trains=self.executor is not None)
        self._opening = False
        early, self._early = self._early, []
        for ask, respond in early:
            self.take(ask, respond)

    def _close(self) -> Attempt:
        """The attempt is over: whoever waits is told so, and nobody is trained for it any more."""
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        if self._training is not None:
            self._training.cancel()
            self._training = None
        self._pending.clear()
        for ask, respond in self._waiting.values():
            respond(Answer(ask.request, f"round {ask.round} is over"))
        self._waiting.clear()
        self._reports_until_ns = 0
        return attempt

    # --- training --------------------------------------------------------------------------------

    def _train_next(self) -> None:
        """Hand all that have started to the executor, unless it trains some of ours already."""
        if self._pending and self._training is None:
            self._training = self._spawn(self._train())

    async def _train(self) -> None:
        """Train those that have started, together, until nobody is left."""
        try:
            while self._pending and (attempt := self.attempt) is not None:
                clients = self._pending[:TOGETHER_MAX]
                del self._pending[:TOGETHER_MAX]
                steps = [attempt.steps[client] for client in clients]
                task = self.learning.task_of(
                    self.rounds_done, clients, steps if self.settings.steps else None
                )
                assert self.executor is not None
                updates = await asyncio.wrap_future(task.given_to(self.executor))
                if attempt is self.attempt:
                    asked = dict(zip(clients, steps, strict=True))
                    self._trained(
                        attempt,
                        [it for it in updates if attempt.steps[it.client] == asked[it.client]],
                    )
        finally:
            if self._training is asyncio.current_task():
                self._training = None

    def _trained(self, attempt: Attempt, updates: Sequence[Update]) -> None:
        """Answer those who waited; if it is late, they have some time to report."""
        for client in attempt.trained(updates, self.now_s()):
            ask, respond = self._waiting.pop(client)
            respond(Answer(ask.request))
            if monotonic_ns() >= self._due_ns:
                self._reports_until_ns = monotonic_ns() + int(REPORT_S * 1e9)

    def _set_weights(self) -> None:
        if self.executor:
            self.executor.set_weights(
                self.settings.job, self.learning.version, self.learning.weights
            )

    async def _tell_score(self, version: int, time_s: float) -> None:
        assert self.executor is not None
        score = await asyncio.wrap_future(self.executor.score(self.settings.job, version))
        tell(Scored(ScoreRow.of(self.settings.job, version, time_s, score)))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    def _check(self) -> None:
        """Raise what ended a task of ours."""
        if self._failure is not None:
            raise self._failure

    # --- rows ------------------------------------------------------------------------------------

    def _tell_round(
        self, attempt: Attempt, status: RoundStatus, state: str, opened_s: float, ended_s: float
    ) -> None:
        speed_up, figures = self.settings.speed_up, self.figures
        filled_s = None
        if status.filled_after_s >= 0:
            filled_s = opened_s + status.filled_after_s * speed_up
        used = attempt.clients[: self.profile.demand]
        wait_s = max((attempt.waits_s[client] for client in used), default=0.0)
        if state == "completed" and filled_s is not None:
            figures.delays_s.append(filled_s - opened_s)
            figures.responses_s.append(ended_s - filled_s)
        figures.scheduling_timeouts += state == "timed_out_scheduling"
        figures.response_timeouts += state == "timed_out_response"
        row = RoundRow(
            job=self.settings.job,
            round=self.rounds_done,
            attempt=self.tries,
            state=state,
            opened_s=opened_s,
            filled_s=filled_s,
            ended_s=ended_s,
            demand=status.demand,
            allocated=status.allocated + status.failed + status.expired,
            completed=len(used),
            failed=status.failed + status.expired,
            version=self.learning.version,
            moving_loss=self.learning.moving_loss,
            training_wait_s=wait_s,
            trained_samples=self.learning.trained_samples if state == "completed" else 0,
            diverged=len(self.learning.diverged) if state == "completed" else 0,
        )
        tell(Attempted(row))
        if wait_s > PACE_S * speed_up:
            tell(
                Happened(
                    "training_set_the_pace",
                    {"job": row.job, "round": row.round, "attempt": row.attempt, "wait_s": wait_s},
                )
            )

    def _job_row(self) -> JobRow:
        figures = self.figures
        return JobRow.of(
            self.settings.job,
            self.settings.profile_no,
            arrived_s=self.settings.at_s,
            finished_s=self.now_s(),
            rounds=self.rounds_done,
            delays_s=figures.delays_s,
            responses_s=figures.responses_s,
            scheduling_timeouts=figures.scheduling_timeouts,
            response_timeouts=figures.response_timeouts,
        )

    def now_s(self) -> float:
        """Seconds of the devices' time since the run's start."""
        return (monotonic_ns() - self.start_ns) / 1e9 * self.settings.speed_up


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


async def _serve(server: JobServer) -> None:
    await server.warm_up()
    tell(Ready())
    await server.run(int(await asyncio.to_thread(sys.stdin.readline)))


def main() -> None:
    """Run the job to its end; what ends it early is one line and exit code 1."""
    settings = msgspec.json.decode(sys.argv[1], type=JobServerSettings)
    executor: Executor | None = None
    if settings.executor:
        executor = RemoteExecutor(settings.executor, name=f"job {settings.job}")
    try:
        asyncio.run(_serve(JobServer(settings, executor)))
    except PropiusError as error:
        complain(f"job {settings.job}: {error}")
        sys.exit(1)
    finally:
        if executor is not None:
            executor.close()


if __name__ == "__main__":
    main()
