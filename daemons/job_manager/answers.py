"""What was answered to whom, so that a request that comes twice has the effect of once.

Job servers: the last :data:`ANSWERS_PER_SESSION` answers of the last :data:`SESSIONS_PER_JOB`
sessions of each job. Devices: the answer of the last accept or report, for the horizon in which a
device repeats itself. Both are stored with what they answered, so they are true after a restart.

Not here: requests that change nothing (show, list_jobs, watch_round, heartbeat); a repeat of such a
one is simply handled again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from daemons.job_manager.records import Changes, DeviceAnswer, JobAnswer, Session
from daemons.job_manager.refusal import Refusal
from propius.core import SECOND_NS
from propius.messages import ErrorCode, Header, Message, decode_payload, encode_payload

ANSWERS_PER_SESSION: Final = 64
SESSIONS_PER_JOB: Final = 4
REFUSED_SESSIONS_MAX: Final = 256  # sessions whose register was refused: they have no job
NO_JOB: Final = 0
SWEEP_NS: Final = 5 * SECOND_NS  # device answers are forgotten in batches this far apart

SessionId = tuple[str, int]


def digest_of(kind: str, payload: bytes) -> bytes:
    """What tells two bodies of one request number apart."""
    return hashlib.blake2b(payload, digest_size=16, person=kind.encode()[:16]).digest()


@dataclass(slots=True)
class SessionMemory:
    """One session and its remembered answers by request number."""

    record: Session
    answers: dict[int, JobAnswer] = field(default_factory=dict)

    def recall(self, request: int, digest: bytes) -> Message | None:
        """The answer this request already got; None if it is new. Refuses what cannot be either."""
        known = self.answers.get(request)
        if known is None:
            if request > self.record.floor:
                return None
            text = f"request {request} is too old: up to {self.record.floor} are forgotten"
            raise Refusal(ErrorCode.STALE_REQUEST, text)
        if known.digest != digest:
            text = f"request {request} was used before with another body; use a new number"
            raise Refusal(ErrorCode.CONFLICT, text)
        return decode_payload(known.kind, known.payload)


class Sessions:
    """The sessions of all jobs."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._by_id: dict[SessionId, SessionMemory] = {}
        self._by_job: dict[int, dict[SessionId, None]] = {}  # in order of opening

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, header: Header) -> SessionMemory | None:
        """The session that this header belongs to, if it is open."""
        return self._by_id.get((header.sender, header.session))

    def open(self, header: Header, job: int, ordinal: int) -> SessionMemory:
        """A session begins with this request; the oldest of too many is forgotten."""
        memory = SessionMemory(
            Session(
                sender=header.sender,
                session=header.session,
                job=job,
                ordinal=ordinal,
                floor=header.request - 1,
            )
        )
        self._add(memory)
        self._changes.put(memory.record)
        return memory

    def rebind(self, memory: SessionMemory, job: int) -> None:
        """A session whose register had been refused speaks for this job now."""
        record = memory.record
        self._by_job[record.job].pop((record.sender, record.session))
        record.job = job
        self._add(memory)
        self._changes.put(record)

    def remember(
        self, memory: SessionMemory, request: int, digest: bytes, message: Message
    ) -> None:
        """This is what the request was answered."""
        record = memory.record
        answer = JobAnswer(
            sender=record.sender,
            session=record.session,
            request=request,
            digest=digest,
            kind=message.kind,
            payload=encode_payload(message),
        )
        memory.answers[request] = answer
        self._changes.put(answer)
        if len(memory.answers) > ANSWERS_PER_SESSION:
            oldest = min(memory.answers)
            self._changes.drop(memory.answers.pop(oldest))
            record.floor = oldest
            self._changes.put(record)

    def forget_job(self, job: int) -> None:
        """The job is purged, and with it who spoke for it."""
        for session in list(self._by_job.get(job, ())):
            self._forget(session)
        self._by_job.pop(job, None)

    def restore(self, sessions: list[Session], answers: list[JobAnswer]) -> None:
        """Take back what was stored."""
        for record in sorted(sessions, key=lambda record: record.ordinal):
            self._add(SessionMemory(record))
        for answer in answers:
            memory = self._by_id.get((answer.sender, answer.session))
            if memory is not None:
                memory.answers[answer.request] = answer

    def check(self, jobs: set[int]) -> None:
        """Every session is under its job, and every table within its bound."""
        for job, sessions in self._by_job.items():
            most = REFUSED_SESSIONS_MAX if job == NO_JOB else SESSIONS_PER_JOB
            assert len(sessions) <= most, f"job {job} has {len(sessions)} sessions"
            assert job == NO_JOB or job in jobs, f"sessions of job {job}, which is unknown"
            for session in sessions:
                assert self._by_id[session].record.job == job, f"session {session} of job {job}"
        for session, memory in self._by_id.items():
            assert session in self._by_job[memory.record.job], f"session {session} has no owner"
            assert len(memory.answers) <= ANSWERS_PER_SESSION, f"answers of session {session}"
            low = min(memory.answers, default=memory.record.floor + 1)
            assert low > memory.record.floor, f"session {session} remembers below its floor"

    def _add(self, memory: SessionMemory) -> None:
        job, session = memory.record.job, (memory.record.sender, memory.record.session)
        self._by_id[session] = memory
        of_job = self._by_job.setdefault(job, {})
        of_job[session] = None
        if len(of_job) > (REFUSED_SESSIONS_MAX if job == NO_JOB else SESSIONS_PER_JOB):
            self._forget(next(iter(of_job)))

    def _forget(self, session: SessionId) -> None:
        memory = self._by_id.pop(session)
        self._by_job[memory.record.job].pop(session)
        self._changes.drop(memory.record)
        for answer in memory.answers.values():
            self._changes.drop(answer)


class DeviceAnswers:
    """The last answer of each device that said something within the horizon."""

    def __init__(self, changes: Changes, horizon_ns: int, answers_max: int) -> None:
        self._changes = changes
        self._horizon_ns = horizon_ns
        self._max = answers_max
        self._answers: OrderedDict[str, tuple[int, DeviceAnswer]] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._answers)

    def recall(self, asked: DeviceAnswer) -> tuple[DeviceAnswer | None, str]:
        """(the answer that this very request got, "") or (None, why not, "" if it is new)."""
        _, known = self._answers.get(asked.device_id, (0, None))
        if known is None or known.session != asked.session or known.request < asked.request:
            return None, ""
        if known.request > asked.request:
            return None, ErrorCode.STALE_REQUEST
        if known.digest != asked.digest or known.kind != asked.kind:
            return None, ErrorCode.CONFLICT
        return known, ""

    def remember(self, now_ns: int, answer: DeviceAnswer) -> None:
        """This is what the device's last request was answered."""
        self._answers[answer.device_id] = (now_ns, answer)
        self._answers.move_to_end(answer.device_id)
        self._changes.put(answer)
        while len(self._answers) > self._max:
            self._forget_oldest()

    def restore(self, now_ns: int, answers: list[DeviceAnswer]) -> None:
        """Take back what was stored; the horizon begins anew, which is only ever longer."""
        for answer in answers:
            self._answers[answer.device_id] = (now_ns, answer)
        while len(self._answers) > self._max:  # the operator lowered it
            self._forget_oldest()

    def due_ns(self) -> int | None:
        """When ``sweep`` has something to do."""
        if not self._answers:
            return None
        return next(iter(self._answers.values()))[0] + self._horizon_ns + SWEEP_NS

    def sweep(self, now_ns: int, most: int) -> None:
        """Forget ``most`` of those older than the horizon: after a restart all are of one age."""
        for _ in range(min(most, len(self._answers))):
            if next(iter(self._answers.values()))[0] + self._horizon_ns > now_ns:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, (_, answer) = self._answers.popitem(last=False)
        self._changes.drop(answer)
