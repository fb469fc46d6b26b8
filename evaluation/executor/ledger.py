"""What jobs registered, set and asked for, as the broker keeps it. No I/O, no clock.

Whatever a job says that cannot be is answered with why, "" if all is well.

Not here: who does it (:mod:`evaluation.executor.placement`), and what is sent
(:mod:`evaluation.executor.broker`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from evaluation.executor import messages as m
from evaluation.executor.jobs import ExecutorError, check_clients, stacks_of
from evaluation.executor.placement import Request, RequestKey, Unit
from evaluation.executor.versions import keep_last
from propius.core import Frames

__all__ = ["Asked", "Ledger"]

JOBS_MAX: Final = 10_000
REQUESTS_MAX: Final = 100_000

Task: TypeAlias = "m.Train | m.ScoreTask"


@dataclass
class _Job:
    register: m.Register
    owners: set[bytes]  # who registered it and is still there
    weights: dict[int, Frames] = field(default_factory=dict)  # by version, the newest few


@dataclass(frozen=True)
class Asked:
    """A request that somebody waits for. It has its weights: newer ones may come meanwhile."""

    request: Request
    task: Task
    weights: Frames


class Ledger:
    """All jobs and requests."""

    def __init__(self) -> None:
        self.jobs: dict[int, _Job] = {}
        self.asked: dict[RequestKey, Asked] = {}

    def register(self, peer: bytes, register: m.Register) -> str:
        """A job, or another process that works for one."""
        known = self.jobs.get(register.job)
        if known is not None and known.register == register:
            known.owners.add(peer)
        elif known is not None:
            return f"job {register.job} is registered with another model"
        elif len(self.jobs) >= JOBS_MAX:
            return f"{JOBS_MAX} jobs are registered already"
        else:
            self.jobs[register.job] = _Job(register, {peer})
        return ""

    def set_weights(self, weights: m.Weights, frames: Frames) -> str:
        """Keep a newer version; one that was sent twice, or overtaken, is passed over."""
        job = self.jobs.get(weights.job)
        if job is None:
            return f"weights of job {weights.job}, which is not registered"
        if weights.version > max(job.weights, default=-1):
            job.weights[weights.version] = frames
            keep_last(job.weights, sorted(job.weights))
        return ""

    def wrong_with(self, key: RequestKey, task: Task) -> str:
        """Why this cannot be asked."""
        job = self.jobs.get(task.job)
        if job is None:
            return f"job {task.job} is not registered"
        if task.version not in job.weights:
            there = ", ".join(map(str, sorted(job.weights))) or "none"
            return f"job {task.job}: version {task.version} is not there; kept are {there}"
        if isinstance(task, m.Train):
            try:
                check_clients(task.job, task.clients, task.client_steps, task.steps)
            except ExecutorError as error:
                return str(error)
        if key in self.asked or not task.number:
            return f"request {task.number} was used before"
        if len(self.asked) >= REQUESTS_MAX:
            return f"{REQUESTS_MAX} requests are waiting already"
        return ""

    def ask(self, key: RequestKey, task: Task, stack_clients: int) -> list[Unit]:
        """A request, with nothing wrong with it, and the units that it is divided into."""
        weights = self.jobs[task.job].weights[task.version]
        if isinstance(task, m.Train):
            clients = tuple(task.clients)
            work = float(task.steps * task.batch_size)
            steps = dict(zip(clients, task.client_steps or (), strict=bool(task.client_steps)))
            request = Request(key, task.job, task.version, task.round, work, set(clients), steps)
            stacks = stacks_of(clients, stack_clients, model_bytes=len(weights[2]))
        else:
            request = Request(key, task.job, task.version, work=0.0)
            stacks = [()]
        self.asked[key] = Asked(request, task, weights)
        return [Unit(request, own) for own in stacks]

    def requests(self, *, job: int | None = None, peer: bytes | None = None) -> list[Request]:
        """Those of a job, or of a peer."""
        return [
            asked.request
            for asked in self.asked.values()
            if asked.request.job == job or asked.request.key[0] == peer
        ]

    def leave(self, peer: bytes) -> list[int]:
        """A job's process is gone; the jobs that nobody works for any more."""
        orphans = []
        for number, job in self.jobs.items():
            if peer in job.owners:
                job.owners.remove(peer)
                if not job.owners:
                    orphans.append(number)
        return orphans
