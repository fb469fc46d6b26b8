"""The job manager's memory: jobs, rounds, leases and their indexes, and what a batch did to them.

Every method leaves record and indexes in step and marks what must be stored. Whether something may
be done is decided by the callers (``verbs.py``, ``claims.py``, ``rounds.py``); what holds at every
instant is in ``invariants.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from itertools import islice
from typing import Final

from daemons.job_manager.answers import DeviceAnswers, Sessions
from daemons.job_manager.deadlines import Deadlines
from daemons.job_manager.records import (
    NEVER,
    Changes,
    Clock,
    FreeSlot,
    Job,
    Lease,
    Meta,
    Requirement,
    Round,
)
from daemons.job_manager.served import Served
from daemons.job_manager.settings import JobManagerSettings
from daemons.job_manager.states import JOB_LIVE, ROUND_LIVE
from propius import tokens
from propius.core import SECOND_NS
from propius.messages import Message, RoundRef

CLOCK_IDLE_NS: Final = 30 * SECOND_NS  # how much time a reboot may give back to a deadline
CLOCK_BUSY_NS: Final = SECOND_NS


class Book:
    """Everything the job manager knows."""

    def __init__(
        self, settings: JobManagerSettings, meta: Meta, now_ns: int, wall_s: float
    ) -> None:
        self.settings = settings
        self.meta = meta
        self.changes = Changes()
        self.operator_key = tokens.operator_key(meta.master_key)
        self.jobs: dict[int, Job] = {}  # in order of id
        self.secrets: dict[int, bytes] = {}
        self.heard_ns: dict[int, int] = {}  # live jobs: the last request
        self.live_jobs = 0
        self.finished: OrderedDict[int, int] = OrderedDict()  # job -> when it finished, in order
        self.requirements: dict[int, Requirement] = {}
        self.rounds: dict[RoundRef, Round] = {}
        self.rounds_of: dict[int, dict[int, None]] = {}  # job -> rounds that are kept, in order
        self.free: dict[RoundRef, list[int]] = {}  # heap of the slots that came back
        self.held: dict[RoundRef, set[int]] = {}  # round -> leases
        self.leases: dict[int, Lease] = {}
        self.lease_of: dict[str, int] = {}  # device -> lease
        self.served = Served(self.changes, settings.served_max)
        self.lease_due: Deadlines[int] = Deadlines()
        self.round_due: Deadlines[RoundRef] = Deadlines()
        self.silence_due: Deadlines[int] = Deadlines()
        self.backoff_due: Deadlines[int] = Deadlines()  # live jobs whose back-off is not none
        self.completed_ns = -1  # when a device last completed a task, of whatever job; not stored
        self.sessions = Sessions(self.changes)
        self.device_answers = DeviceAnswers(
            self.changes, int(settings.answer_horizon_s * SECOND_NS), settings.device_answers_max
        )
        self.not_before_ns = now_ns  # leases and jobs are declared dead from here on
        self.clock = Clock(saved_ns=now_ns)
        self._requirement_ids: dict[tuple[float, ...], int] = {}
        self._requirement_jobs: dict[int, int] = {}
        self._started_ns, self._started_at_s = now_ns, wall_s
        # What the batch did, for the scheduler, for watchers and for the event log.
        self.changed_jobs: dict[int, None] = {}
        self.changed_rounds: dict[RoundRef, None] = {}
        self.purged_jobs: list[int] = []
        self.events: list[Message] = []

    # --- jobs --------------------------------------------------------------------------------

    def add_job(self, job: Job, now_ns: int) -> None:
        """The job exists (registered now, or restored)."""
        self.jobs[job.job] = job
        self.secrets[job.job] = tokens.job_secret(self.meta.master_key, job.job)
        self.rounds_of[job.job] = {}
        self._requirement_jobs[job.requirement_id] += 1
        if job.state in JOB_LIVE:
            self.live_jobs += 1
            self.heard_ns[job.job] = now_ns
            self.silence_due.set(job.job, now_ns + self.silence_ns())
            if job.backoff_until_ns != NEVER:
                self.backoff_due.set(job.job, job.backoff_until_ns)
        else:
            self.finished[job.job] = job.finished_ns

    def job_finished(self, job: Job, now_ns: int) -> None:
        """The job left its live states."""
        job.finished_ns = now_ns
        self.live_jobs -= 1
        self.heard_ns.pop(job.job)
        self.silence_due.drop(job.job)
        self.backoff_due.drop(job.job)
        self.finished[job.job] = now_ns
        self.changes.put(job)
        self.offer_changed(job.job)

    def offer_changed(self, job: int) -> None:
        """What the scheduler sees of this job is not what it was."""
        self.changed_jobs[job] = None

    def heard(self, job: int, now_ns: int) -> None:
        """The job server said something."""
        if job in self.heard_ns:
            self.heard_ns[job] = now_ns

    def silence_ns(self) -> int:
        """How long a job may be silent."""
        return int(self.settings.job_silence_max_s * SECOND_NS)

    def remove_job(self, job: Job) -> None:
        """Forget a finished job whose leases have ended, with all that belongs to it."""
        for number in list(self.rounds_of[job.job]):
            self.remove_round(self.rounds[job.job, number])
        del self.jobs[job.job], self.secrets[job.job], self.rounds_of[job.job]
        del self.finished[job.job]
        self.sessions.forget_job(job.job)
        self._release_requirement(job.requirement_id)
        self.changes.drop(job)
        self.purged_jobs.append(job.job)

    # --- requirements ------------------------------------------------------------------------

    def requirement_id(self, vector: list[float]) -> int:
        """The id of this vector; a vector that no job has gets a new one."""
        known = self._requirement_ids.get(tuple(vector))
        if known is not None:
            return known
        requirement = Requirement(requirement_id=self.meta.next_requirement, vector=vector)
        self.meta.next_requirement += 1
        self.changes.put(self.meta)
        self.changes.put(requirement)
        self.add_requirement(requirement)
        return requirement.requirement_id

    def add_requirement(self, requirement: Requirement) -> None:
        """The requirement is known; no job has it yet."""
        self.requirements[requirement.requirement_id] = requirement
        self._requirement_ids[tuple(requirement.vector)] = requirement.requirement_id
        self._requirement_jobs[requirement.requirement_id] = 0

    def _release_requirement(self, requirement_id: int) -> None:
        self._requirement_jobs[requirement_id] -= 1
        if self._requirement_jobs[requirement_id] == 0:
            requirement = self.requirements.pop(requirement_id)
            del self._requirement_ids[tuple(requirement.vector)]
            del self._requirement_jobs[requirement_id]
            self.changes.drop(requirement)

    # --- rounds and slots --------------------------------------------------------------------

    def add_round(self, round_: Round) -> None:
        """The round exists (opened now, or restored)."""
        ref = (round_.job, round_.round)
        self.rounds[ref] = round_
        self.rounds_of[round_.job][round_.round] = None
        self.held[ref] = set()
        if round_.state in ROUND_LIVE:
            self.free[ref] = []
            if round_.deadline_ns != NEVER:
                self.round_due.set(ref, round_.deadline_ns)

    def round_changed(self, round_: Round) -> None:
        """Store the round and wake who watches it."""
        round_.version += 1
        self.changes.put(round_)
        self.changed_rounds[round_.job, round_.round] = None

    def round_over(self, round_: Round, now_ns: int) -> None:
        """The round left its live states: nobody gets a slot of it any more."""
        ref = (round_.job, round_.round)
        round_.ended_ns = now_ns
        self.round_due.drop(ref)
        self.served.forget(ref)
        for slot in self.free.pop(ref):
            self.changes.drop(FreeSlot(job=round_.job, round=round_.round, slot=slot))
        self.round_changed(round_)
        self.offer_changed(round_.job)

    def trim_rounds(self, job: Job) -> None:
        """Forget the job's oldest rounds above the limit that nobody holds a lease of."""
        kept = self.rounds_of[job.job]
        excess = len(kept) - self.settings.rounds_kept_max
        if excess <= 0:
            return
        idle = (n for n in kept if n != job.round and not self.held[job.job, n])
        for number in list(islice(idle, excess)):
            self.remove_round(self.rounds[job.job, number])

    def remove_round(self, round_: Round) -> None:
        """Forget a round that is over and has no leases."""
        ref = (round_.job, round_.round)
        del self.rounds[ref], self.held[ref], self.rounds_of[round_.job][round_.round]
        self.changes.drop(round_)

    def take_slot(self, round_: Round) -> int:
        """The lowest slot that is free; the round must have one."""
        free = self.free[round_.job, round_.round]
        if free:
            slot = heappop(free)
            self.changes.drop(FreeSlot(job=round_.job, round=round_.round, slot=slot))
            return slot
        slot = round_.next_slot
        round_.next_slot += 1
        return slot

    def return_slot(self, round_: Round, slot: int) -> None:
        """The slot of a live round is free again."""
        heappush(self.free[round_.job, round_.round], slot)
        self.changes.put(FreeSlot(job=round_.job, round=round_.round, slot=slot))

    # --- leases ------------------------------------------------------------------------------

    def add_lease(self, lease: Lease) -> None:
        """The lease is held (granted now, or restored)."""
        self.leases[lease.lease] = lease
        self.lease_of[lease.device_id] = lease.lease
        self.held[lease.job, lease.round].add(lease.lease)
        self.lease_due.set(lease.lease, lease.deadline_ns)

    def remove_lease(self, lease: Lease) -> None:
        """The lease ended."""
        del self.leases[lease.lease], self.lease_of[lease.device_id]
        self.held[lease.job, lease.round].discard(lease.lease)
        self.lease_due.drop(lease.lease)
        self.changes.drop(lease)

    # --- numbers and time --------------------------------------------------------------------

    def new_lease_number(self) -> int:
        """The next fencing number."""
        number = self.meta.next_lease
        self.meta.next_lease += 1
        self.changes.put(self.meta)
        return number

    def new_session_ordinal(self) -> int:
        """The next number in the order of sessions."""
        ordinal = self.meta.next_session
        self.meta.next_session += 1
        self.changes.put(self.meta)
        return ordinal

    def wall_s(self, now_ns: int) -> float:
        """What the wall clock showed at the start, plus what has passed since: for people only."""
        return self._started_at_s + (now_ns - self._started_ns) / SECOND_NS

    def save_clock(self, now_ns: int, unless_saved_within_ns: int) -> None:
        """Note how far the clock has come, if that is not known well enough."""
        if now_ns - self.clock.saved_ns >= unless_saved_within_ns:
            self.clock.saved_ns = now_ns
            self.changes.put(self.clock)
