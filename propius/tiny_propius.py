"""A Propius in one small object, for the tests of programs that use the SDK.

Not here: the sockets around it (:class:`propius.testing.FakeServer`), what becomes of a round and
its slots (:mod:`propius.tiny_rounds`), and all that makes the real one worth having: plans,
policies, a store.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from propius import messages
from propius.messages import Error, ErrorCode, Header, Message, Offer, Ok, Task
from propius.tiny_rounds import LEASE_S, UNDER_WAY, TinyHistory, TinyRound
from propius.tokens import job_secret, operator_key, sign

Answers: TypeAlias = Iterable[tuple[Header, Message]]
"""Replies, each with the header of the request that it answers."""

REQUESTS_MAX: Final = 10_000
"""Requests that are remembered, to be looked at and answered later."""
ATTRIBUTES: Final = {"cpu_f": 24.8, "ram": 16.0, "fp16_mem": 2800.0, "android_os": 15.0}


@dataclass
class TinyJob:
    """A job of :class:`TinyPropius`."""

    number: int
    terms: messages.Register
    registered_s: float
    final: str = ""  # "completed" or "cancelled"
    reason: str = ""
    finished_s: float = 0.0
    rounds: list[TinyRound] = field(default_factory=list)
    history: TinyHistory = field(default_factory=TinyHistory)

    @property
    def state(self) -> str:
        """As the job manager names it."""
        under_way = self.rounds and self.rounds[-1].state in UNDER_WAY
        return self.final or ("requesting" if under_way else "idle")


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
    first; a repeated request gets its first answer again. Deadlines and leases end when ``receive``
    or ``tick`` tells it the time.
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
            return self._new_round(time.monotonic(), job, messages.StartRequest(
                job=job.number, secret=self._secret(job.number), demand=demand
            ))  # fmt: skip

    def receive(self, now_s: float, header: Header, message: Message) -> Answers:
        """See :class:`propius.testing.Script`."""
        with self._lock:
            key = (header.session, header.request)
            self._judge(now_s)
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
            self._judge(now_s)
            answers: list[tuple[Header, Message]] = []
            for key, held in list(self._held.items()):
                reply = self._news(held.header, held.message, over=now_s >= held.until_s)
                if reply is not None:
                    del self._held[key]
                    self._answers[key] = reply
                    answers.append((held.header, reply))
            return answers

    def due_s(self) -> float:
        """When a deadline or the end of a lease comes next; infinite: never."""
        with self._lock:
            return min((each.due_s() for each in self.rounds), default=math.inf)

    def _judge(self, now_s: float) -> None:
        for each in self.rounds:
            if each.due_s() <= now_s:
                each.tick(now_s)

    def _handle(self, now_s: float, header: Header, message: Message) -> Message | None:
        """The answer, or None to hold the request."""
        match message:
            case messages.GetSchema():
                return self.schema
            case messages.Register():
                self._check_schema(message.schema)
                self._check_requirement(message.requirement)
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
                if job.state != "idle":
                    raise _RefusalError(ErrorCode.WRONG_STATE, f"job {number} is {job.state}")
                if message.reports_min > message.demand:
                    raise _RefusalError(ErrorCode.INVALID, "reports_min is more than the demand")
                started = self._new_round(now_s, job, message)
                return messages.RequestStarted(job=number, round=started.number)
            case messages.EndRequest():
                self._round(number, message.round).end(now_s, "ended")
            case messages.CompleteJob():
                self._finish(now_s, job, "completed", "")
            case messages.Cancel():
                if job.final != "cancelled":
                    self._finish(now_s, job, "cancelled", message.reason)
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

    def _finish(self, now_s: float, job: TinyJob, state: str, reason: str) -> None:
        if job.final:
            raise _RefusalError(ErrorCode.WRONG_STATE, f"job {job.number} is {job.final}")
        job.final, job.reason, job.finished_s = state, reason, now_s
        if job.rounds:
            job.rounds[-1].end(now_s, "ended")

    def _new_round(self, now_s: float, job: TinyJob, asked: messages.StartRequest) -> TinyRound:
        terms = job.terms
        started = TinyRound(
            job.number, len(job.rounds), asked.demand, asked.reports_min or asked.demand, now_s,
            terms.requirement, terms.private_constraint,
            lease_s=asked.lease_s or LEASE_S,
            deadline_s=now_s + asked.deadline_s if asked.deadline_s else math.inf,
            history=job.history, once_per_device=asked.once_per_device,
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

    def _check_requirement(self, requirement: list[float]) -> None:
        for value, (name, maximum) in zip(requirement, self.schema.attributes, strict=False):
            if value > maximum:
                text = f"requirement: {name} is {value:g}, above the maximum of {maximum:g}"
                raise _RefusalError(ErrorCode.INVALID, text)

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
            and not each.has_served(header.sender)
            and all(have >= want for have, want in zip(message.spec, each.requirement, strict=True))
            and (header.sender, each.job, each.number) not in self.declined
        ]
        if tasks or over:
            return Offer(tasks=tasks, plan_version=len(self.rounds), retry_after_s=0.1)
        return None

    def _accept(self, now_s: float, device_id: str, message: messages.Accept) -> Message:
        wanted = self._round(message.job, message.round)
        if wanted.state == "filled":
            raise _RefusalError(ErrorCode.ROUND_FULL, "the round takes no more devices")
        if wanted.state != "open":
            raise _RefusalError(ErrorCode.ROUND_CLOSED, "the round is over")
        if wanted.has_served(device_id):
            raise _RefusalError(ErrorCode.ALREADY_SERVED, "this device served this round")
        if any(self._lease(each, device_id) is not None for each in self.rounds):
            raise _RefusalError(ErrorCode.DEVICE_BUSY, "this device holds a lease")
        self._leases += 1
        lease = wanted.grant(now_s, self._leases, device_id)
        return messages.Assignment(
            job=wanted.job, round=wanted.number, endpoint=self.jobs[wanted.job].terms.endpoint,
            lease_s=wanted.lease_s, token=sign(self._secret(wanted.job), lease),
        )  # fmt: skip

    def _report(self, now_s: float, device_id: str, message: messages.Report) -> Message:
        told = self._round(message.job, message.round)
        lease = self._lease(told, device_id)
        if lease is None:
            raise _RefusalError(ErrorCode.STALE_TOKEN, "this device holds no lease of the round")
        if message.outcome is messages.Outcome.COMPLETED:
            told.report(now_s, lease)
        else:
            told.lose(lease)
        return Ok()

    @staticmethod
    def _lease(of: TinyRound, device_id: str) -> int | None:
        """The lease that the device holds, if it does."""
        held = of.held.values()
        return next((lease.lease for lease in held if lease.device_id == device_id), None)

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
        history = job.history
        is_open = last is not None and last.state == "open"
        values: dict[str, Any] = {
            "job": job.number, "name": job.terms.name, "state": job.state, "reason": job.reason,
            "requirement": job.terms.requirement, "requirement_id": 0,
            "demand": job.terms.demand, "rounds": job.terms.rounds,
            "rounds_done": history.rounds_done,
            "round": last.number if last else -1, "round_state": last.state if last else "",
            "allocated": last.allocated if last else 0, "round_demand": last.demand if last else 0,
            "devices_completed": history.devices_completed,
            "devices_failed": history.devices_failed, "devices_expired": history.devices_expired,
            "registered_at_s": 0.0, "age_s": now_s - job.registered_s,
            "waiting_s": now_s - last.opened_s if last and is_open else 0.0,
            "mean_scheduling_delay_s": _mean(history.delays_s, history.filled_rounds),
            "mean_response_s": _mean(history.responses_s, history.answered_rounds),
            "jct_s": job.finished_s - job.registered_s if job.final else -1.0,
        }  # fmt: skip
        return messages.JobStatus(**values)


def _mean(total_s: float, number: int) -> float:
    return total_s / number if number else -1.0
