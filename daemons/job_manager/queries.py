"""What the job manager tells people and job servers about jobs and rounds; changes nothing."""

from __future__ import annotations

from bisect import bisect_right

from daemons.job_manager.backoff import SLOTS_UNLIMITED, slots_allowed
from daemons.job_manager.book import Book
from daemons.job_manager.records import NEVER, Job, Round
from daemons.job_manager.states import JOB_LIVE, ROUND_LIVE, BackOff, RoundState
from propius.core import SECOND_NS
from propius.messages import JobHistory, JobList, JobState, JobStatus, ListJobs, RoundStatus


def round_status(book: Book, now_ns: int, round_: Round) -> RoundStatus:
    """A round as a job server may watch it."""
    job = book.jobs[round_.job]
    live = round_.state in ROUND_LIVE
    return RoundStatus(
        job=round_.job,
        round=round_.round,
        version=round_.version,
        state=round_.state,
        demand=round_.demand,
        allocated=round_.allocated,
        held=len(book.held[round_.job, round_.round]),
        completed=round_.completed,
        failed=round_.failed,
        expired=round_.expired,
        reports_min=round_.reports_min,
        filled_after_s=_since_s(round_.opened_ns, round_.filled_ns),
        ended_after_s=_since_s(round_.opened_ns, round_.ended_ns),
        lost=list(round_.lost),
        backoff=job.backoff if live else BackOff.NONE,
        backoff_s=_backoff_s(job, now_ns) if live else 0.0,
        reason=_reason(book, job, round_) if live else "",
    )


def job_status(book: Book, now_ns: int, job: Job) -> JobStatus:
    """A job as ``show`` and ``list_jobs`` tell it."""
    round_ = book.rounds.get((job.job, job.round))
    live = job.state in JOB_LIVE
    is_open = round_ is not None and round_.state is RoundState.OPEN
    return JobStatus(
        job=job.job,
        name=job.name,
        state="paused" if job.paused and live else job.state,
        reason=_reason(book, job, round_) if round_ else job.reason,
        requirement=book.requirements[job.requirement_id].vector,
        requirement_id=job.requirement_id,
        demand=job.demand,
        rounds=job.rounds,
        rounds_done=job.rounds_done,
        round=job.round,
        round_state=round_.state if round_ else "",
        allocated=round_.allocated if round_ else 0,
        round_demand=round_.demand if round_ else 0,
        devices_completed=job.devices_completed,
        devices_failed=job.devices_failed,
        devices_expired=job.devices_expired,
        registered_at_s=job.registered_at_s,
        age_s=_span_s(job.registered_ns, now_ns),
        waiting_s=_span_s(round_.opened_ns, now_ns) if round_ and is_open else 0.0,
        mean_scheduling_delay_s=_mean_s(job.delay_sum_ns, job.filled_rounds),
        mean_response_s=_mean_s(job.response_sum_ns, job.answered_rounds),
        jct_s=-1.0 if live else _span_s(job.registered_ns, job.finished_ns),
        backoff=job.backoff if live else BackOff.NONE,
        backoff_s=_backoff_s(job, now_ns) if live else 0.0,
        backoffs=job.backoffs if live else 0,
    )


def list_jobs(book: Book, now_ns: int, asked: ListJobs) -> JobList:
    """One page of jobs in order of id."""
    ids = list(book.jobs)
    found: list[JobStatus] = []
    for number in ids[bisect_right(ids, asked.after) :]:
        job = book.jobs[number]
        if asked.active_only and job.state not in JOB_LIVE:
            continue
        if len(found) == asked.limit:
            return JobList(jobs=found, more=True)
        found.append(job_status(book, now_ns, job))
    return JobList(jobs=found, more=False)


def offered_state(book: Book, job: Job) -> JobState:
    """A live job as the scheduler sees it; its round only while live and not paused.

    A round in back-off is not there at all; while its job is probing it wants a few devices.
    """
    round_ = book.rounds.get((job.job, job.round))
    hidden = job.paused or job.backoff is BackOff.WAITING
    shown = round_ if round_ and round_.state in ROUND_LIVE and not hidden else None
    demand = shown.demand if shown else 0
    allowed = slots_allowed(book, job)
    if shown and allowed < SLOTS_UNLIMITED:
        demand = min(demand, shown.allocated + allowed)
    return JobState(
        job=job.job,
        requirement_id=job.requirement_id,
        requirement=book.requirements[job.requirement_id].vector,
        private_constraint=job.private_constraint,
        # After a reboot a time of before it may be negative, which the wire does not know.
        registered_ns=max(0, job.registered_ns),
        demand_estimate=job.demand,
        rounds_estimate=job.rounds,
        round=shown.round if shown else -1,
        demand=demand,
        allocated=shown.allocated if shown else 0,
        opened_ns=max(0, shown.opened_ns) if shown else 0,
        history=JobHistory(
            rounds_succeeded=job.rounds_succeeded,
            devices_served=job.devices_served,
            last_scheduling_ns=job.last_delay_ns,
            last_response_ns=job.last_response_ns,
            rounds_ns=job.rounds_sum_ns,
        ),
    )


def _reason(book: Book, job: Job, round_: Round) -> str:
    """Why the job does not get on: all that stands in its way."""
    return "; ".join(filter(None, (job.reason, _lacks(book, round_))))


def _lacks(book: Book, round_: Round) -> str:
    """Whom an open round needs, once a device came that served it already."""
    served = book.served.count((round_.job, round_.round))
    if not (served and round_.runs_short) or round_.state is not RoundState.OPEN:
        return ""
    return (
        f"{round_.allocated} of {round_.demand} slots; needs other devices than the {served} that"
        " served this round"
    )


def _backoff_s(job: Job, now_ns: int) -> float:
    """How long nobody will be sent to the job."""
    waits = job.backoff is BackOff.WAITING
    return _span_s(now_ns, job.backoff_until_ns) if waits else 0.0


def _since_s(start_ns: int, end_ns: int) -> float:
    return -1.0 if end_ns == NEVER else _span_s(start_ns, end_ns)


def _span_s(start_ns: int, end_ns: int) -> float:
    """Never negative: between two boots only the wall clock tells, and that may have been set."""
    return max(0, end_ns - start_ns) / SECOND_NS


def _mean_s(sum_ns: int, number: int) -> float:
    return max(0, sum_ns) / number / SECOND_NS if number else -1.0
