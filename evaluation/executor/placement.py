"""Which worker does what next: fair over jobs, by free memory and measured speed. No I/O, no clock.

A request's clients are divided into units (stacks) when it comes; a unit goes to one worker, and
back to the front of its job's queue if that worker is lost.

* **Fair over jobs.** The job that has had least of the workers' time goes first, what is running
  counted as if done. A job that had nothing to do for a while starts level with the others. So one
  slow job takes its share and blocks nobody.
* **Memory.** A unit that needs more than a worker has free goes elsewhere, or is halved where no
  worker has enough. What a worker could not hold, it is not given again.
* **Speed.** Idle workers are served fastest first; a slow one is left idle while faster ones would
  finish all that waits before it could. While tasks are short, a worker gets the next one before it
  has done the last, so that it need not wait for the way there and back.

Not here: messages (:mod:`evaluation.executor.broker`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from evaluation.training.specs import COPIES
from propius.core import SECOND_NS

__all__ = ["Job", "Placed", "Placement", "Request", "RequestKey", "Unit", "Worker"]

SMOOTHING: Final = 0.3
"""Of the newest measurement in a moving mean."""
SLOWNESS_MIN: Final = 0.05
SLOWNESS_MAX: Final = 20.0
AHEAD_S: Final = 0.5
"""A worker with a task shorter than this may be given the next one, as short, before it is done."""
TRIES_MAX: Final = 5
"""A unit that so many workers were lost with, or failed at, is not tried again."""

RequestKey: TypeAlias = tuple[bytes, int]
"""Whose (a peer), and its number."""


@dataclass(eq=False)
class Request:
    """Clients to train, or, without clients, a score."""

    key: RequestKey
    job: int
    version: int
    round: int = 0
    work: float = 1.0  # of one client: steps times batch size
    left: set[int] = field(default_factory=set)  # clients whose updates are not there yet
    steps: dict[int, int] = field(default_factory=dict)  # by client, where they differ
    wanted: bool = True  # somebody waits for it

    @property
    def is_score(self) -> bool:
        """Whether it is a score."""
        return self.work == 0


@dataclass(eq=False)
class Unit:
    """What one worker does at once."""

    request: Request
    clients: tuple[int, ...]
    tries: int = 0
    failed_at: set[bytes] = field(default_factory=set)  # workers

    @property
    def work(self) -> float:
        """How much, in no unit: to be compared within its job only."""
        return 1.0 if self.request.is_score else self.request.work * len(self.clients)

    def halves(self) -> list[Unit]:
        """Two units that need half the memory."""
        middle = len(self.clients) // 2
        return [
            Unit(self.request, part, self.tries)
            for part in (self.clients[:middle], self.clients[middle:])
        ]


@dataclass(eq=False)
class Job:
    """A job's queue, and what it had of the workers."""

    number: int
    model_bytes: int = 0
    waiting: deque[Unit] = field(default_factory=deque)
    running: int = 0
    used_s: float = 0.0
    unit_s: float = 0.0  # what a unit takes, as measured
    pace_s: dict[bool, float] = field(default_factory=dict)  # seconds a work; by: is it a score

    def memory_bytes(self, unit: Unit) -> int:
        """What a unit needs, at least."""
        return COPIES * self.model_bytes * max(1, len(unit.clients))


@dataclass(eq=False)
class Placed:
    """A unit that a worker has."""

    job: Job
    unit: Unit
    since_ns: int
    expected_s: float


@dataclass(eq=False)
class Worker:
    """What is known of a worker."""

    key: bytes
    name: str
    memory_free_bytes: int = 0  # 0: it does not know
    slowness: float = 1.0  # how long it takes, compared with the others
    has: dict[int, Placed] = field(default_factory=dict)  # by task
    unfit: set[int] = field(default_factory=set)  # jobs that it cannot do at all
    most: dict[int, int] = field(default_factory=dict)  # job → clients at once, where too many were
    busy_s: float = 0.0
    done: int = 0


class Placement:
    """All queues and workers. Whoever changes something calls :meth:`place` afterwards."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.workers: dict[bytes, Worker] = {}
        self._tasks = 0

    @property
    def waiting(self) -> int:
        """Units that nobody does yet."""
        return sum(len(job.waiting) for job in self.jobs.values())

    # --- what comes and goes -----------------------------------------------------------------

    def job(self, number: int) -> Job:
        """The job, new if need be."""
        if number not in self.jobs:
            self.jobs[number] = Job(number)
        return self.jobs[number]

    def add(self, units: list[Unit]) -> None:
        """Queue units of one request."""
        job = self.job(units[0].request.job)
        if not job.waiting and not job.running:
            others = [
                other.used_s + other.running * other.unit_s
                for other in self.jobs.values()
                if other is not job and (other.waiting or other.running)
            ]
            job.used_s = max(job.used_s, min(others, default=0.0))
        job.waiting.extend(units)

    def cancel(self, request: Request) -> None:
        """Forget what nobody has begun; what is running is no longer wanted when it comes."""
        request.wanted = False
        job = self.jobs.get(request.job)
        if job is not None:
            job.waiting = deque(unit for unit in job.waiting if unit.request is not request)

    def forget(self, number: int) -> None:
        """The job is over; its requests were cancelled."""
        self.jobs.pop(number, None)
        for worker in self.workers.values():
            worker.unfit.discard(number)
            worker.most.pop(number, None)

    def lose(self, key: bytes) -> list[Unit]:
        """A worker is gone: what it had waits again, ahead of the rest. What that was."""
        worker = self.workers.pop(key)
        for placed in worker.has.values():
            placed.unit.tries += 1
            _put_back(placed, [placed.unit])
        return [placed.unit for placed in worker.has.values()]

    # --- results -----------------------------------------------------------------------------

    def finish(self, key: bytes, task: int, now_ns: int) -> Unit:
        """A worker did its task; measures it."""
        worker = self.workers[key]
        placed = worker.has.pop(task)
        job, unit = placed.job, placed.unit
        for other in worker.has.values():
            other.since_ns = now_ns  # it begins only now
        took_s = max(1e-9, (now_ns - placed.since_ns) / SECOND_NS)
        is_score = unit.request.is_score
        pace_s = took_s / unit.work
        known_s = job.pace_s.get(is_score, pace_s / worker.slowness)
        slowness = _blend(worker.slowness, pace_s / known_s)
        job.pace_s[is_score] = _blend(known_s, pace_s / worker.slowness)
        worker.slowness = min(SLOWNESS_MAX, max(SLOWNESS_MIN, slowness))
        worker.busy_s += took_s
        worker.done += 1
        job.running -= 1
        job.used_s += took_s
        job.unit_s = _blend(job.unit_s or took_s, took_s)
        return unit

    def fail(self, key: bytes, task: int, *, memory: bool = False, unfit: bool = False) -> str:
        """A worker failed at its task, which waits again, in halves if memory was short.

        Returns why the task can never be done, "" while it can.
        """
        worker = self.workers[key]
        placed = worker.has.pop(task)
        unit, number = placed.unit, placed.job.number
        if memory and len(unit.clients) > 1:
            half = len(unit.clients) // 2
            worker.most[number] = min(half, worker.most.get(number, half))
            _put_back(placed, unit.halves())
            return ""
        if memory or unfit:
            worker.unfit.add(number)
        else:
            unit.tries += 1
            unit.failed_at.add(key)
        _put_back(placed, [unit])
        if unit.tries >= TRIES_MAX:
            return f"{unit.tries} workers failed at it"
        if not all(number in other.unfit for other in self.workers.values()):
            return ""
        what = "has the memory for one client alone" if memory else "can train it"
        return f"none of {len(self.workers)} workers {what}"

    # --- placing -----------------------------------------------------------------------------

    def place(self, now_ns: int) -> list[tuple[Worker, int, Unit]]:
        """Give idle workers something to do: (worker, task, unit), until one side has no more."""
        if not self.waiting:
            return []
        by_speed = sorted(self.workers.values(), key=lambda it: (it.slowness, it.name))
        placed = [self._place_at(worker, now_ns) for worker in by_speed if not worker.has]
        placed += [self._place_at(worker, now_ns) for worker in by_speed if _is_soon_idle(worker)]
        return [each for each in placed if each is not None]

    def _place_at(self, worker: Worker, now_ns: int) -> tuple[Worker, int, Unit] | None:
        unit = self._choose(worker, now_ns)
        if unit is None:
            return None
        job = self.jobs[unit.request.job]
        job.running += 1
        self._tasks += 1
        worker.has[self._tasks] = Placed(job, unit, now_ns, _expected_s(job, unit, worker))
        return worker, self._tasks, unit

    def _choose(self, worker: Worker, now_ns: int) -> Unit | None:
        waiting = [
            job for job in self.jobs.values() if job.waiting and job.number not in worker.unfit
        ]
        waiting.sort(key=lambda job: (job.used_s + job.running * job.unit_s, job.number))
        for job in waiting:
            unit = job.waiting[0]
            if worker.key in unit.failed_at and not self.workers.keys() <= unit.failed_at:
                continue
            clients = self._clients_at_once(job, unit, worker)
            if worker.has and (
                clients < len(unit.clients) or not 0 < _expected_s(job, unit, worker) <= AHEAD_S
            ):
                return None  # it is this job's turn, once the worker is idle
            if clients == 0 or self._faster_ones_suffice(job, unit, worker, now_ns):
                continue
            job.waiting.popleft()
            if clients < len(unit.clients):
                rest = Unit(unit.request, unit.clients[clients:], unit.tries)
                unit = Unit(unit.request, unit.clients[:clients], unit.tries)
                job.waiting.appendleft(rest)
            return unit
        return None

    def _clients_at_once(self, job: Job, unit: Unit, worker: Worker) -> int:
        """How many of the unit's clients this worker should take; 0: another worker should."""
        clients = max(1, len(unit.clients))
        need = job.memory_bytes(unit)
        fits = clients
        if worker.memory_free_bytes and need > worker.memory_free_bytes:
            fits = clients * worker.memory_free_bytes // need
        most = worker.most.get(job.number, clients)
        if fits < clients and self._has_better(job, worker):
            return 0
        return max(1, min(fits, most))

    def _has_better(self, job: Job, worker: Worker) -> bool:
        """Whether another worker has more memory for this job."""
        return any(
            other is not worker
            and job.number not in other.unfit
            and (not other.memory_free_bytes or other.memory_free_bytes > worker.memory_free_bytes)
            for other in self.workers.values()
        )

    def _faster_ones_suffice(self, job: Job, unit: Unit, worker: Worker, now_ns: int) -> bool:
        """Whether busy workers will have done all that waits before this one would be done."""
        own_s = _expected_s(job, unit, worker)
        if own_s == 0:
            return False
        sooner = 0
        for other in self.workers.values():
            if not other.has or job.number in other.unfit or other.slowness >= worker.slowness:
                continue
            left_s = sum(
                max(0.0, placed.expected_s - (now_ns - placed.since_ns) / SECOND_NS)
                for placed in other.has.values()
            )
            sooner += left_s + _expected_s(job, unit, other) < own_s
        return sooner >= self.waiting


def _put_back(placed: Placed, units: list[Unit]) -> None:
    """Let it wait again, before all that its job has, unless nobody wants it any more."""
    placed.job.running -= 1
    if placed.unit.request.wanted:
        placed.job.waiting.extendleft(reversed(units))


def _is_soon_idle(worker: Worker) -> bool:
    """Whether it has one task, and that a short one: the next may be on its way already."""
    return len(worker.has) == 1 and all(0 < it.expected_s <= AHEAD_S for it in worker.has.values())


def _expected_s(job: Job, unit: Unit, worker: Worker) -> float:
    """How long it should take; 0 while nothing was measured."""
    return job.pace_s.get(unit.request.is_score, 0.0) * unit.work * worker.slowness


def _blend(before: float, now: float) -> float:
    return (1 - SMOOTHING) * before + SMOOTHING * now
