"""The verbs of a job: one handler each, behind the memory of what was answered before.

A handler refuses (``Refusal``, ``IllegalTransitionError``) before it changes anything. Not here:
``watch_round`` (``watches.py``), which may have to wait.
"""

from __future__ import annotations

import math
from typing import Final

from daemons.job_manager.answers import NO_JOB, SessionMemory, digest_of
from daemons.job_manager.backoff import resume
from daemons.job_manager.book import Book
from daemons.job_manager.queries import job_status, list_jobs
from daemons.job_manager.records import Job
from daemons.job_manager.refusal import Refusal
from daemons.job_manager.rounds import end_job, end_round, open_round
from daemons.job_manager.states import JOB_LIVE, ROUND_LIVE, IllegalTransitionError, JobState
from propius import tokens
from propius.core import SECOND_NS
from propius.messages import (
    Attach,
    Cancel,
    CompleteJob,
    EndRequest,
    Error,
    ErrorCode,
    Header,
    Heartbeat,
    JobRegistered,
    ListJobs,
    Message,
    Ok,
    Pause,
    Register,
    Registered,
    RequestStarted,
    Resume,
    Show,
    StartRequest,
    WatchRound,
)

JobVerb = (
    Attach | StartRequest | EndRequest | CompleteJob | Cancel | Pause | Resume | Heartbeat | Show
    | WatchRound
)  # fmt: skip
ChangingVerb = Register | Attach | StartRequest | EndRequest | CompleteJob | Cancel | Pause | Resume
CHANGING: Final = (
    Register, Attach, StartRequest, EndRequest, CompleteJob, Cancel, Pause, Resume,
)  # fmt: skip
OPERATORS: Final = (Cancel, Pause, Resume)  # what the operator's key may ask, too


def answer_query(book: Book, now_ns: int, message: Heartbeat | Show | ListJobs) -> Message:
    """Answer what changes nothing; raises Refusal."""
    match message:
        case ListJobs():
            if not tokens.matches(book.operator_key, message.secret):
                raise Refusal(
                    ErrorCode.WRONG_SECRET, "list_jobs needs the operator's key", "secret"
                )
            return list_jobs(book, now_ns, message)
        case Show():
            return job_status(book, now_ns, admitted(book, now_ns, message, operator=True))
        case Heartbeat():
            job = admitted(book, now_ns, message)
            if job.state not in JOB_LIVE:
                raise Refusal(ErrorCode.WRONG_STATE, f"job {job.job} is {job.state}")
            return Ok()


def answer_change(
    book: Book, now_ns: int, header: Header, payload: bytes, message: ChangingVerb
) -> Message:
    """Do what was asked, once: a repeat gets the first answer. Raises Refusal."""
    memory = book.sessions.find(header)
    digest = digest_of(message.kind, payload)
    if memory is not None:
        known = memory.recall(header.request, digest)
        if known is not None:
            book.heard(memory.record.job, now_ns)
            return known
    if isinstance(message, Register):
        memory, answer = _registered(book, now_ns, header, memory, message)
    elif isinstance(message, Attach):
        memory, answer = _attached(book, now_ns, header, memory, message)
    else:
        job = admitted(book, now_ns, message, operator=isinstance(message, OPERATORS))
        if memory is not None and memory.record.job != job.job:
            memory = None
        if memory is None and not _needs_no_memory(book, message):
            text = f"no session is open for job {job.job}: attach first"
            raise Refusal(ErrorCode.UNKNOWN_SESSION, text)
        answer = _changed(book, now_ns, job, message)
    if memory is not None:
        book.sessions.remember(memory, header.request, digest, answer)
    return answer


def _needs_no_memory(book: Book, message: JobVerb) -> bool:
    """What operators ask: done twice it has the effect of once. A cancel is that of anybody."""
    by_operator = tokens.matches(book.operator_key, message.secret)
    return isinstance(message, Cancel) or (isinstance(message, OPERATORS) and by_operator)


def admitted(book: Book, now_ns: int, message: JobVerb, *, operator: bool = False) -> Job:
    """The job that the message is about, if its secret is right; the job is heard of thereby."""
    job = book.jobs.get(message.job)
    if job is None:
        raise Refusal(ErrorCode.UNKNOWN_JOB, f"no job {message.job}, or it was purged", "job")
    if tokens.matches(book.secrets[job.job], message.secret):
        book.heard(job.job, now_ns)
    elif not operator or not tokens.matches(book.operator_key, message.secret):
        raise Refusal(ErrorCode.WRONG_SECRET, f"wrong secret for job {message.job}", "secret")
    return job


# --- sessions --------------------------------------------------------------------------------


def _registered(
    book: Book, now_ns: int, header: Header, memory: SessionMemory | None, asked: Register
) -> tuple[SessionMemory, Message]:
    if memory is not None and memory.record.job != NO_JOB:
        text = f"this session speaks for job {memory.record.job}; register in a new one"
        raise Refusal(ErrorCode.WRONG_STATE, text)
    requirement = _checked_requirement(book, asked)
    full = book.live_jobs >= book.settings.jobs_max
    number = NO_JOB if full else book.meta.next_job
    answer: Message
    if full:
        text = f"there are {book.live_jobs} live jobs already, as many as the operator allows"
        answer = Error(code=ErrorCode.LIMIT, text=text)
    else:
        _add_job(book, now_ns, asked, requirement)
        answer = Registered(job=number, secret=book.secrets[number])
    return _bound(book, header, memory, number), answer


def _attached(
    book: Book, now_ns: int, header: Header, memory: SessionMemory | None, asked: Attach
) -> tuple[SessionMemory, Message]:
    job = admitted(book, now_ns, asked)
    if memory is not None and memory.record.job not in {NO_JOB, job.job}:
        text = f"this session speaks for job {memory.record.job}; attach in a new one"
        raise Refusal(ErrorCode.WRONG_STATE, text)
    return _bound(book, header, memory, job.job), Ok()


def _bound(book: Book, header: Header, memory: SessionMemory | None, job: int) -> SessionMemory:
    """The session, opened if it is new, speaking for this job."""
    if memory is None:
        return book.sessions.open(header, job, book.new_session_ordinal())
    if memory.record.job != job:
        book.sessions.rebind(memory, job)
    return memory


def _checked_requirement(book: Book, asked: Register) -> list[float]:
    """The requirement, if devices can meet it: no spec is above an attribute's maximum."""
    schema = book.settings.schema
    if asked.schema != schema.schema:
        text = f"attribute schema {asked.schema!r} is not the operator's {schema.schema!r}"
        raise Refusal(ErrorCode.SCHEMA_CHANGED, text, "schema")
    if len(asked.requirement) != len(schema.attributes):
        names = ", ".join(name for name, _ in schema.attributes)
        text = (
            f"requirement has {len(asked.requirement)} values,"
            f" the operator has {len(schema.attributes)} attributes: {names}"
        )
        raise Refusal(ErrorCode.INVALID, text, "requirement")
    for field, values in (
        ("requirement", asked.requirement),
        ("private_constraint", asked.private_constraint.values()),
    ):
        if not all(map(math.isfinite, values)):
            raise Refusal(ErrorCode.INVALID, f"{field}: a value is not a number", field)
    for value, (name, maximum) in zip(asked.requirement, schema.attributes, strict=True):
        if value > maximum:
            text = (
                f"requirement: {name} is {value:.10g}, above the operator's maximum of"
                f" {maximum:.10g}; ask for no more than that"
            )
            raise Refusal(ErrorCode.INVALID, text, "requirement")
    return asked.requirement


def _add_job(book: Book, now_ns: int, asked: Register, requirement: list[float]) -> None:
    job = Job(
        job=book.meta.next_job,
        name=asked.name,
        requirement_id=book.requirement_id(requirement),
        private_constraint=asked.private_constraint,
        demand=asked.demand,
        rounds=asked.rounds,
        endpoint=asked.endpoint,
        registered_ns=now_ns,
        registered_at_s=book.wall_s(now_ns),
    )
    book.meta.next_job += 1
    book.changes.put(book.meta)
    book.changes.put(job)
    book.add_job(job, now_ns)
    book.offer_changed(job.job)
    book.events.append(
        JobRegistered(
            job=job.job,
            name=job.name,
            requirement_id=job.requirement_id,
            requirement=requirement,
            demand=job.demand,
            rounds=job.rounds,
        )
    )


# --- changes to a job ------------------------------------------------------------------------


def _changed(book: Book, now_ns: int, job: Job, message: ChangingVerb) -> Message:
    """Run the handler; a refusal that depends on the job's state is an answer like any other."""
    try:
        match message:
            case StartRequest():
                return _start_request(book, now_ns, job, message)
            case EndRequest():
                return _end_request(book, now_ns, job, message)
            case CompleteJob():
                end_job(book, now_ns, job, "complete_job", reason="")
            case Cancel():
                if job.state is not JobState.CANCELLED:
                    end_job(book, now_ns, job, "cancel", message.reason)
            case Pause() | Resume():
                _set_paused(book, job, message.kind)
            case _:
                raise AssertionError(message.kind)
    except IllegalTransitionError as error:
        return Error(code=ErrorCode.WRONG_STATE, text=str(error))
    except Refusal as refusal:
        return refusal.error
    return Ok()


def _start_request(book: Book, now_ns: int, job: Job, asked: StartRequest) -> Message:
    if asked.reports_min > asked.demand:
        text = f"reports_min {asked.reports_min} is more than the demand of {asked.demand} devices"
        raise Refusal(ErrorCode.INVALID, text, "reports_min")
    if asked.lease_s > book.settings.lease_max_s:
        text = f"lease_s {asked.lease_s:g} is more than the {book.settings.lease_max_s:g} s allowed"
        raise Refusal(ErrorCode.INVALID, text, "lease_s")
    for field, seconds in (("lease_s", asked.lease_s), ("deadline_s", asked.deadline_s)):
        # Zero means something else, so that a time of no nanoseconds cannot be asked for.
        if 0 < seconds < 1 / SECOND_NS or math.isnan(seconds):
            raise Refusal(ErrorCode.INVALID, f"{field} {seconds:g} is no length of time", field)
    round_ = open_round(book, now_ns, job, asked)
    return RequestStarted(job=job.job, round=round_.round)


def _end_request(book: Book, now_ns: int, job: Job, asked: EndRequest) -> Message:
    """End the round; one that is over already needs no more ending."""
    if asked.round > job.round:
        text = f"round {asked.round} of job {job.job} was not started yet"
        raise Refusal(ErrorCode.WRONG_STATE, text, "round")
    round_ = book.rounds.get((job.job, asked.round))
    if round_ is not None and round_.state in ROUND_LIVE:
        end_round(book, now_ns, round_, "end_request")
    return Ok()


def _set_paused(book: Book, job: Job, verb: str) -> None:
    if job.state not in JOB_LIVE:
        raise IllegalTransitionError(f"job {job.job}", job.state, verb)
    paused = verb == Pause.kind
    if not paused:
        resume(book, job)
    if paused != job.paused:
        job.paused = paused
        book.changes.put(job)
        book.offer_changed(job.job)
