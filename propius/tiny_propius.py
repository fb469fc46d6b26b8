"""A Propius in one small object, for the tests of programs that use the SDK.

Not here: the sockets around it (:class:`propius.testing.FakeServer`), and all that makes the real
one worth having: leases that expire, plans, policies, a store.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from propius import messages
from propius.messages import Error, ErrorCode, Header, Message, Offer, Ok, RoundStatus, Task
from propius.tokens import Lease, job_secret, operator_key, sign

Answers: TypeAlias = Iterable[tuple[Header, Message]]
"""Replies, each with the header of the request that it answers."""

REQUESTS_MAX: Final = 10_000
"""Requests that are remembered, to be looked at and answered later."""
ATTRIBUTES: Final = {"cpu_f": 24.8, "ram": 16.0, "fp16_mem": 2800.0, "android_os": 15.0}


@dataclass
class TinyRound:
    """A round of :class:`TinyPropius`."""

    job: int
    number: int
    demand: int
    reports_min: int
    opened_s: float
    requirement: list[float]
    private_constraint: Mapping[str, float]
    state: str = "open"
    version: int = 1
    held: dict[int, str] = field(default_factory=dict)  # lease -> device_id
    completed: int = 0
    failed: int = 0
    lost: list[int] = field(default_factory=list)
    filled_after_s: float = -1.0
    ended_after_s: float = -1.0

    @property
    def allocated(self) -> int:
        """Slots given."""
        return len(self.held) + self.completed

    def status(self) -> RoundStatus:
        """The round as a job server sees it."""
        return RoundStatus(
            job=self.job, round=self.number, version=self.version, state=self.state,
            demand=self.demand, allocated=self.allocated, held=len(self.held),
            completed=self.completed, failed=self.failed, expired=0,
            reports_min=self.reports_min, filled_after_s=self.filled_after_s,
            ended_after_s=self.ended_after_s, lost=self.lost[-1_000:],
        )  # fmt: skip


@dataclass
class TinyJob:
    """A job of :class:`TinyPropius`."""

    number: int
    terms: messages.Register
    registered_s: float
    state: str = "idle"
    reason: str = ""
    rounds: list[TinyRound] = field(default_factory=list)


class _RefusalError(Exception):
    """A request is answered by this error."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.reply = Error(code=code, text=text)


@dataclass
class _Held:
    """A request that waits for something to happen."""

    header: Header
    message: messages.CheckIn | messages.WatchRound
    until_s: float


class TinyPropius:
    """Jobs, rounds and devices in one small object: enough for a program's own tests.

    Deterministic, sans-I/O. Offers every open round whose requirement the device meets, oldest
    first; leases never expire; a repeated request gets its first answer again.
    """

    def __init__(self, attributes: Mapping[str, float] | None = None) -> None:
        attributes = attributes or ATTRIBUTES
        self.schema = messages.Schema(schema="tiny", attributes=list(attributes.items()))
        self.master = b"tiny" * 8
        self.operator_key = operator_key(self.master)
        self.jobs: dict[int, TinyJob] = {}
        self.declined: set[tuple[str, int, int]] = set()
        self._answers: OrderedDict[tuple[int, int], Message] = OrderedDict()
        self._held: dict[tuple[int, int], _Held] = {}
        self._leases = 0
        self._lock = threading.RLock()

    @property
    def rounds(self) -> list[TinyRound]:
        """All rounds of all jobs, in order of job and round."""
        with self._lock:
            return [each for job in self.jobs.values() for each in job.rounds]

    def open_round(
        self,
        demand: int = 1,
        *,
        requirement: Mapping[str, float] | None = None,
        private_constraint: Mapping[str, float] | None = None,
        server_endpoint: str = "tcp://127.0.0.1:9",
    ) -> TinyRound:
        """Make a job with one open round, for the test of a device."""
        wanted = requirement or {}
        with self._lock:
            terms = messages.Register(
                name="test", schema=self.schema.schema,
                requirement=[wanted.get(name, 0.0) for name, _ in self.schema.attributes],
                private_constraint=dict(private_constraint or {}),
                demand=demand, rounds=0, endpoint=server_endpoint,
            )  # fmt: skip
            job = self._new_job(time.monotonic(), terms)
            return self._new_round(time.monotonic(), job, demand, demand)

    def receive(self, now_s: float, header: Header, message: Message) -> Answers:
        """See :class:`propius.testing.Script`."""
        with self._lock:
            key = (header.session, header.request)
            reply = self._answers.get(key)
            if reply is None:
                try:
                    reply = self._handle(now_s, header, message)
                except _RefusalError as refusal:
                    reply = refusal.reply
            if reply is None:
                assert isinstance(message, messages.CheckIn | messages.WatchRound)
                assert len(self._held) < REQUESTS_MAX, "more held requests than a test needs"
                self._held[key] = _Held(header, message, now_s + message.wait_s)
                return self.tick(now_s)
            self._answers[key] = reply
            while len(self._answers) > REQUESTS_MAX:
                self._answers.popitem(last=False)
            return [(header, reply), *self.tick(now_s)]

    def tick(self, now_s: float) -> Answers:
        """See :class:`propius.testing.Script`."""
        with self._lock:
            answers: list[tuple[Header, Message]] = []
            for key, held in list(self._held.items()):
                reply = self._news(held.header, held.message, over=now_s >= held.until_s)
                if reply is not None:
                    del self._held[key]
                    self._answers[key] = reply
                    answers.append((held.header, reply))
            return answers

    def _handle(self, now_s: float, header: Header, message: Message) -> Message | None:
        """The answer, or None to hold the request."""
        match message:
            case messages.GetSchema():
                return self.schema
            case messages.Register():
                self._check_schema(message.schema)
                job = self._new_job(now_s, message)
                return messages.Registered(job=job.number, secret=self._secret(job.number))
            case messages.ListJobs():
                return self._list_jobs(now_s, message)
            case messages.CheckIn():
                self._check_schema(message.schema)
                return None
            case messages.Accept():
                return self._accept(now_s, header.sender, message)
            case messages.Decline():
                self.declined |= {(header.sender, *each) for each in message.rounds}
                return Ok()
            case messages.Report():
                return self._report(now_s, header.sender, message)
            case _:
                return self._job_verb(now_s, message)

    def _job_verb(self, now_s: float, message: Message) -> Message | None:
        number: int = getattr(message, "job", 0)
        job = self.jobs.get(number)
        if job is None:
            raise _RefusalError(ErrorCode.UNKNOWN_JOB, f"no job {number}")
        secret: bytes = getattr(message, "secret", b"")
        if secret not in {self._secret(number), self.operator_key}:
            raise _RefusalError(ErrorCode.WRONG_SECRET, f"wrong secret for job {number}")
        match message:
            case messages.StartRequest():
                if job.rounds and job.rounds[-1].state in {"open", "filled"}:
                    raise _RefusalError(ErrorCode.WRONG_STATE, "a round is under way")
                least = message.reports_min or message.demand
                started = self._new_round(now_s, job, message.demand, least)
                return messages.RequestStarted(job=number, round=started.number)
            case messages.EndRequest():
                self._end(now_s, self._round(number, message.round), "ended")
            case messages.CompleteJob():
                job.state = "completed"
            case messages.Cancel():
                job.state, job.reason = "cancelled", message.reason
            case messages.Show():
                return self._job_status(now_s, job)
            case messages.WatchRound():
                self._round(number, message.round)
                return None
        return Ok()

    def _new_job(self, now_s: float, terms: messages.Register) -> TinyJob:
        job = TinyJob(len(self.jobs) + 1, terms, now_s)
        self.jobs[job.number] = job
        return job

    def _new_round(self, now_s: float, job: TinyJob, demand: int, least: int) -> TinyRound:
        terms = job.terms
        started = TinyRound(
            job.number, len(job.rounds), demand, least, now_s,
            terms.requirement, terms.private_constraint,
        )  # fmt: skip
        job.rounds.append(started)
        return started

    def _round(self, job: int, number: int) -> TinyRound:
        rounds = self.jobs[job].rounds if job in self.jobs else []
        if number >= len(rounds):
            raise _RefusalError(ErrorCode.UNKNOWN_JOB, f"no round {number} of job {job}")
        return rounds[number]

    def _secret(self, job: int) -> bytes:
        return job_secret(self.master, job)

    def _check_schema(self, schema: str) -> None:
        if schema != self.schema.schema:
            text = f"the attribute schema is {self.schema.schema}"
            raise _RefusalError(ErrorCode.SCHEMA_CHANGED, text)

    def _news(
        self, header: Header, message: messages.CheckIn | messages.WatchRound, *, over: bool
    ) -> Message | None:
        """What a held request has waited for, or its last answer when its time is over."""
        if isinstance(message, messages.WatchRound):
            status = self._round(message.job, message.round).status()
            return status if over or status.version != message.seen else None
        tasks = [
            Task(each.job, each.number, dict(each.private_constraint))
            for each in self.rounds
            if each.state == "open"
            and all(have >= want for have, want in zip(message.spec, each.requirement, strict=True))
            and (header.sender, each.job, each.number) not in self.declined
        ]
        if tasks or over:
            return Offer(tasks=tasks, plan_version=len(self.rounds), retry_after_s=0.1)
        return None

    def _accept(self, now_s: float, device_id: str, message: messages.Accept) -> Message:
        wanted = self._round(message.job, message.round)
        if wanted.state != "open":
            raise _RefusalError(ErrorCode.ROUND_FULL, "the round takes no more devices")
        if any(device_id in each.held.values() for each in self.rounds):
            raise _RefusalError(ErrorCode.DEVICE_BUSY, "this device holds a lease")
        self._leases += 1
        lease = Lease(
            job=wanted.job, round=wanted.number, slot=wanted.allocated,
            lease=self._leases, device_id=device_id,
        )  # fmt: skip
        wanted.held[self._leases] = device_id
        wanted.version += 1
        if wanted.allocated >= wanted.demand:
            wanted.state, wanted.filled_after_s = "filled", now_s - wanted.opened_s
        return messages.Assignment(
            job=wanted.job, round=wanted.number, endpoint=self.jobs[wanted.job].terms.endpoint,
            lease_s=600.0, token=sign(self._secret(wanted.job), lease),
        )  # fmt: skip

    def _report(self, now_s: float, device_id: str, message: messages.Report) -> Message:
        told = self._round(message.job, message.round)
        lease = next((number for number, holder in told.held.items() if holder == device_id), None)
        if lease is None:
            raise _RefusalError(ErrorCode.STALE_TOKEN, "this device holds no lease of the round")
        del told.held[lease]
        told.version += 1
        if message.outcome is messages.Outcome.COMPLETED:
            told.completed += 1
            if told.completed >= told.reports_min and told.state == "filled":
                self._end(now_s, told, "completed")
        else:
            told.failed += 1
            told.lost.append(lease)
            if told.state == "filled":
                told.state = "open"
        return Ok()

    def _end(self, now_s: float, ended: TinyRound, state: str) -> None:
        if ended.state in {"open", "filled"}:
            ended.state, ended.ended_after_s = state, now_s - ended.opened_s
            ended.version += 1

    def _list_jobs(self, now_s: float, message: messages.ListJobs) -> Message:
        if message.secret != self.operator_key:
            raise _RefusalError(ErrorCode.WRONG_SECRET, "wrong operator key")
        found = [
            self._job_status(now_s, job)
            for job in self.jobs.values()
            if job.number > message.after
            and not (message.active_only and job.state in {"completed", "cancelled"})
        ]
        page = found[: message.limit]
        return messages.JobList(jobs=page, more=len(found) > len(page))

    def _job_status(self, now_s: float, job: TinyJob) -> messages.JobStatus:
        last = job.rounds[-1] if job.rounds else None
        over = job.state in {"completed", "cancelled"}
        values: dict[str, Any] = {
            "job": job.number, "name": job.terms.name, "state": job.state, "reason": job.reason,
            "requirement": job.terms.requirement, "requirement_id": 0,
            "demand": job.terms.demand, "rounds": job.terms.rounds,
            "rounds_done": sum(each.state == "completed" for each in job.rounds),
            "round": last.number if last else -1, "round_state": last.state if last else "",
            "allocated": last.allocated if last else 0, "round_demand": last.demand if last else 0,
            "devices_completed": sum(each.completed for each in job.rounds),
            "devices_failed": sum(each.failed for each in job.rounds), "devices_expired": 0,
            "registered_at_s": 0.0, "age_s": now_s - job.registered_s, "waiting_s": 0.0,
            "mean_scheduling_delay_s": -1.0, "mean_response_s": -1.0,
            "jct_s": now_s - job.registered_s if over else -1.0,
        }  # fmt: skip
        return messages.JobStatus(**values)
