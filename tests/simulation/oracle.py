"""Judges what job servers and devices are answered, against what is durable and what is possible.

Everything a process was told (acknowledged) must be true of the durable state at that moment, and
:class:`tests.simulation.durable.Durable` sees to it that it stays so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.records import Job
from daemons.job_manager.settings import JobManagerSettings
from daemons.job_manager.watches import Watch
from propius import messages, tokens
from propius.core import Frames
from propius.job_session import JobTerms
from propius.messages import (
    Assignment,
    Header,
    JobStatus,
    LeaseEnded,
    LeaseGranted,
    Message,
    Outcome,
    RoundOpened,
    RoundStatus,
    Schema,
    Task,
    decode_payload,
)
from tests.simulation.clock import SECOND_NS, Clock
from tests.simulation.durable import LIVE_JOB_STATES, LIVE_ROUND_STATES, Durable, RoundRef, check
from tests.simulation.patience import Patience

__all__ = ["LIVE_ROUND_STATES", "Oracle"]

SLACK_NS: Final = SECOND_NS // 10  # how late something that is due may be


@dataclass
class Oracle:
    """One run's memory of what was acknowledged."""

    clock: Clock
    durable: Durable
    schema: Schema
    master_key: bytes
    job_silence_max_s: float
    lease_grace_s: float
    rounds_finished: set[RoundRef] = field(default_factory=set)
    offers: int = 0
    assignments: int = 0
    reports: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    jobs_known: dict[int, None] = field(default_factory=dict)  # whose registration was acknowledged
    cancelling: dict[int, None] = field(default_factory=dict)  # jobs that an operator may cancel
    # Whose frames strangers sent under a false body, or again: they may be refused what is theirs.
    impersonated: dict[str, None] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    _meddled: dict[int, None] = field(default_factory=dict)  # jobs whose pause may come late
    _deadlines: dict[RoundRef, float] = field(default_factory=dict)
    _opened_ns: dict[RoundRef, int] = field(default_factory=dict)  # in this boot
    _lease_ends: Counter[int] = field(default_factory=Counter)  # by lease, as the event log says
    _leases: dict[int, tokens.Lease] = field(default_factory=dict)
    _lengths: dict[int, float] = field(default_factory=dict)  # lease -> seconds, as acknowledged
    _completing: dict[int, RoundRef] = field(default_factory=dict)  # leases reported completed
    _completed: dict[int, RoundRef] = field(default_factory=dict)  # … and acknowledged
    _settled: set[int] = field(default_factory=set)  # leases that a report may have ended
    _versions: dict[RoundRef, RoundStatus] = field(default_factory=dict)
    # What was asked for so many times may have happened so many times, and no more.
    _registers_asked: Counter[str] = field(default_factory=Counter)  # by name
    _starts_asked: Counter[int] = field(default_factory=Counter)  # by job
    _once: set[tuple[int, int]] = field(default_factory=set)  # rounds that a device serves once
    _served: set[tuple[int, int, str]] = field(default_factory=set)  # job, round, device
    _granted_ns: dict[int, int] = field(default_factory=dict)  # by lease, as the event log says
    _started_ns: int = 0  # the job manager
    _last_round: dict[int, int] = field(default_factory=dict)
    _heard_ns: dict[int, int] = field(default_factory=dict)

    # --- job servers -----------------------------------------------------------------------------

    def registering(self, name: str) -> None:
        """A session is about to register a job."""
        self._registers_asked[name] += 1

    def starting(self, job: int) -> None:
        """A start_request is about to be sent."""
        self._starts_asked[job] += 1

    def registered(self, job: int, secret: bytes, terms: JobTerms) -> None:
        """A registration was acknowledged."""
        check(job in self.durable.jobs, "acknowledged, but not durable", f"job {job}")
        record = self.durable.jobs[job]
        check(record.name == terms.name, "another job under this id", record)
        check(secret == tokens.job_secret(self.master_key, job), "wrong secret", job)
        vector = [terms.requirement.get(name, 0.0) for name, _ in self.schema.attributes]
        check(self._requirement(job) == vector, f"requirement is not {vector}", record)
        self.jobs_known[job] = None
        self._heard(job)

    def request_started(self, job: int, number: int, demand: int, deadline_s: float) -> None:
        """A start_request was acknowledged."""
        self._deadlines[job, number] = deadline_s
        round_ = self.durable.rounds.get((job, number))
        check(round_ is not None, "acknowledged, but not durable", f"round {job}/{number}")
        check(round_ is None or round_.demand == demand, f"demand is not {demand}", round_)
        check(number >= self._last_round.get(job, -1), "rounds went backwards", (job, number))
        self._last_round[job] = number
        self._heard(job)

    def request_ended(self, job: int, number: int) -> None:
        """An end_request was acknowledged."""
        check((job, number) in self.durable.rounds_over, "ended, but not durably", (job, number))
        self._heard(job)

    def job_completed(self, job: int) -> None:
        """A complete_job was acknowledged."""
        record = self.durable.jobs[job]
        check(record.state == "completed", "completed, but not durably", record)

    def job_cancelled(self, job: int) -> None:
        """A cancel was acknowledged."""
        record = self.durable.jobs[job]
        check(record.state == "cancelled", "cancelled, but not durably", record)

    def paused(self, job: int, paused: bool) -> None:
        """A pause or resume was acknowledged."""
        record = self.durable.jobs[job]
        if job not in self._meddled and "back-offs in a row" not in record.reason:
            check(record.paused is paused, f"paused is not {paused}", record)
        self._heard(job)

    def job_shown(self, status: JobStatus) -> None:
        """The state of a job was shown."""
        last = self._last_round.get(status.job, -1)
        check(status.round >= last, f"round {last} was acknowledged and is gone", status)
        if status.state == "expired":
            silent_s = (self.clock.now_ns - self._heard_ns[status.job]) / SECOND_NS
            # What was heard may have been answered late, or not at all.
            check(silent_s >= self.job_silence_max_s / 2, f"expired after {silent_s} s", status)
        elif status.state in LIVE_JOB_STATES:
            self._heard(status.job)

    def acknowledged(self, job: int, number: int) -> int:
        """How many reports of completion of this round were acknowledged so far."""
        return sum(1 for ref in self._completed.values() if ref == (job, number))

    def round_shown(self, status: RoundStatus, acknowledged: int) -> None:
        """The state of a round was shown: it never goes backwards.

        ``acknowledged`` reports were known of when it was asked for; those since may be missing.
        """
        ref = (status.job, status.round)
        check(0 <= status.allocated <= status.demand, "allocated is out of bounds", status)
        check(status.allocated == status.held + status.completed, "slots do not add up", status)
        check(status.completed >= acknowledged, f"{acknowledged} reports acknowledged", status)
        if (was := self._versions.get(ref)) is not None:
            check(status.version >= was.version, f"version {was.version} was seen", status)
            if status.version == was.version:
                same = (was.state, was.allocated, was.completed, was.failed, was.expired)
                now = (
                    status.state, status.allocated, status.completed, status.failed, status.expired
                )  # fmt: skip
                check(same == now, f"version {was.version} was another before: {was}", status)
        self._versions[ref] = status
        if str(status.state) not in LIVE_ROUND_STATES:
            check(ref in self.durable.rounds_over, "over, but not durably", status)
            self.rounds_finished.add(ref)
        if status.state == "completed":
            check(status.completed >= status.reports_min, "completed with too few", status)
        self._heard(status.job)

    # --- devices ---------------------------------------------------------------------------------

    def offered(self, device: str, spec: Mapping[str, float], task: Task) -> None:
        """A task was offered."""
        self.offers += 1
        check((task.job, task.round) in self.durable.rounds, "no such round was opened", task)
        for (name, most), least in zip(
            self.schema.attributes, self._requirement(task.job), strict=True
        ):
            value = min(spec.get(name, 0.0), most)
            check(value >= least, f"{device} has {name} {value}, not {least}", task)
        expected = self.durable.jobs[task.job].private_constraint
        check(task.private_constraint == expected, f"constraint is not {expected}", task)

    def assigned(self, device: str, task: Assignment) -> None:
        """An accept was acknowledged with a lease."""
        self.assignments += 1
        lease = tokens.verify(tokens.job_secret(self.master_key, task.job), task.token)
        check(lease.device_id == device, f"the token is not {device}'s", lease)
        check((lease.job, lease.round) == (task.job, task.round), "another round's token", lease)
        known = self._leases.setdefault(lease.lease, lease)
        check(known == lease, f"lease number given twice: {known}", lease)
        record = self.durable.leases.get(lease.lease) or self.durable.ended.get(lease.lease)
        check(record is not None, "assigned, but not durable", lease)
        assert record is not None
        same = (record.job, record.round, record.slot, record.device_id)
        check(same == (lease.job, lease.round, lease.slot, device), f"durable: {record}", lease)
        self._lengths[lease.lease] = task.lease_s

    def assigned_again(self, device: str, first: Assignment, second: Assignment) -> None:
        """A device that had a task was given one more for the same offer."""
        same = first.token == second.token
        lapsed = _lease_of(first) not in self.durable.leases
        check(same or lapsed, f"{device} has {first} and got", second)

    def reporting(self, device: str, task: Assignment, outcome: Outcome) -> None:
        """A report is about to be sent."""
        if outcome is Outcome.COMPLETED:
            self._completing[_lease_of(task)] = (task.job, task.round)

    def reported(self, device: str, task: Assignment, outcome: Outcome) -> None:
        """A report was acknowledged."""
        self.reports += 1
        number, ref = _lease_of(task), (task.job, task.round)
        check(number in self.durable.ended, f"reported by {device}, but not durably", task)
        check(number not in self._settled, f"{device}'s report counted twice", task)
        self._settled.add(number)
        if outcome is Outcome.COMPLETED:
            self._completed[number] = ref
            acknowledged = self.acknowledged(*ref)
            completed = self.durable.rounds[ref].completed
            check(completed >= acknowledged, f"{acknowledged} reports acknowledged", completed)

    def report_refused(self, device: str, task: Assignment, passed_ns: int, *, first: bool) -> None:
        """A report got stale_token: right only if the lease had run out, or was ended before."""
        self.refusals["stale_token"] += 1
        number = _lease_of(task)
        check(number not in self.durable.leases, f"{device}'s token is good", task)
        if device in self.impersonated:  # what it was answered first may be forgotten for that
            return
        in_time = passed_ns < task.lease_s * SECOND_NS
        check(not (in_time and first), f"{device} lost its lease before its time", task)

    # --- strangers -------------------------------------------------------------------------------

    def replayed(self, header: Header, frames: Frames) -> None:
        """A stranger sends what another one has sent; as a new request that may be right."""
        self.impersonated[header.sender] = None
        match decode_payload(header.kind, frames[1]):
            case messages.Register(name=name):  # of a session that is forgotten: another job
                self.registering(name)
            case messages.Pause(job=job) | messages.Resume(job=job):  # one that was given up
                self._meddled[job] = None
            case _:
                pass

    # --- the job manager's event log -------------------------------------------------------------

    def job_manager_started(self, settings: JobManagerSettings) -> None:
        """A new process has the store."""
        self.patience.started(self.durable.jobs.values(), settings)
        self._started_ns = self.clock.now_ns

    def rebooted(self) -> None:
        """The machine's clock began anew: what was opened before has its deadline moved."""
        self._opened_ns.clear()

    def job_manager_stepped(self, core: JobManagerCore, now_ns: int) -> None:
        """Nothing is overdue, and nobody waits for what has come already."""
        for watch in _held(core):
            ref = (watch.asked.job, watch.asked.round)
            version = core.book.rounds[ref].version
            check(watch.asked.seen == version, f"version {version} is not told to", watch)
        up_ns = self.clock.now_ns - self._started_ns
        if up_ns < SLACK_NS or core._closed():
            return
        self.patience.stepped(core, now_ns)
        for ref in core.book.free:
            deadline_s = self._deadlines.get(ref, 0.0)
            if deadline_s and ref in self._opened_ns:
                open_ns = self.clock.now_ns - self._opened_ns[ref]
                check(open_ns < deadline_s * SECOND_NS + SLACK_NS, "past its deadline", ref)

    def logged(self, time_ns: int, event: Message) -> None:
        """The job manager wrote an event about what happened at this (virtual) time."""
        self.patience.logged(event)
        if isinstance(event, LeaseEnded):
            self._lease_ends[event.lease] += 1
            check(self._lease_ends[event.lease] == 1, "a lease ended twice", event)
        match event:
            case RoundOpened(job=job, round=number):
                self._opened_ns[job, number] = time_ns
                if event.once_per_device:
                    self._once.add((job, number))
            case LeaseGranted(lease=number):
                who = (event.job, event.round, event.device_id)
                if who[:2] in self._once:
                    check(who not in self._served, "a device serves a round twice", event)
                self._served.add(who)
                self._granted_ns.setdefault(number, time_ns)
            case LeaseEnded(lease=number, outcome=Outcome.EXPIRED):
                grace_s = (time_ns - self._started_ns) / SECOND_NS
                check(grace_s >= self.lease_grace_s, f"{grace_s} s after a restart", event)
                if number in self._granted_ns:
                    held_s = (time_ns - self._granted_ns[number]) / SECOND_NS
                    lease = self.durable.ended[number]
                    check(held_s >= lease.lease_s, f"expired after {held_s} s", lease)
            case _:
                pass

    # --- the end ---------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything is over: the sums must be right."""
        check(not self.durable.leases, "leases left", self.durable.leases)
        attempted = Counter(self._completing.values())
        acknowledged = Counter(self._completed.values())
        for ref, round_ in self.durable.rounds.items():
            check(str(round_.state) not in LIVE_ROUND_STATES, "a round never ended", round_)
            low, high = acknowledged[ref], attempted[ref]
            check(low <= round_.completed <= high, f"not between {low} and {high}", round_)
        names = Counter(job.name for job in self.durable.jobs.values())
        for name, number in names.items():
            asked = self._registers_asked[name]
            check(number <= asked, f"{name} was registered {number} times, asked {asked}", names)
        for job in self.durable.jobs.values():
            asked = self._starts_asked[job.job]
            check(job.round < asked, f"more rounds than the {asked} asked for", job)
            check(str(job.state) not in LIVE_JOB_STATES, "a job never ended", job)
            self._check_sums(job)

    def _check_sums(self, job: Job) -> None:
        """What a job counts is what its rounds count."""
        rounds = [round_ for ref, round_ in self.durable.rounds.items() if ref[0] == job.job]
        counted = (job.devices_completed, job.devices_failed, job.devices_expired, job.rounds_done)
        summed = (
            sum(round_.completed for round_ in rounds),
            sum(round_.failed for round_ in rounds),
            sum(round_.expired for round_ in rounds),
            sum(str(round_.state) != "failed" for round_ in rounds),
        )
        check(counted == summed, f"job {job.job} counts {counted}, its rounds", summed)

    def _requirement(self, job: int) -> list[float]:
        check(job in self.durable.jobs, "no such job is durable", job)
        return self.durable.requirements[self.durable.jobs[job].requirement_id].vector

    def _heard(self, job: int) -> None:
        self._heard_ns[job] = self.clock.now_ns


def _lease_of(task: Assignment) -> int:
    """The lease number in a token, read without its key."""
    return msgspec.msgpack.decode(task.token[: -tokens.TAG_BYTES], type=tokens.Lease).lease


def _held(core: JobManagerCore) -> list[Watch]:
    return [watch for of_job in core.watches._by_job.values() for watch in of_job.values()]
