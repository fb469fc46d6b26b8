"""The rules of rounds: who fills, empties and ends them, and what the end of a job does to one.

**Invariant:** allocated = leases held + completed, and 0 ≤ allocated ≤ demand, after each function.

Not here: whether a caller has the right to it (``verbs.py``, ``claims.py``).
"""

from __future__ import annotations

from typing import Final

from daemons.job_manager.backoff import count_grant, judge
from daemons.job_manager.book import Book
from daemons.job_manager.records import NEVER, Job, Lease, Round
from daemons.job_manager.states import JOB, ROUND, ROUND_LIVE, JobState, RoundState, step
from propius.core import SECOND_NS
from propius.messages import (
    JobChanged,
    LeaseEnded,
    LeaseGranted,
    Outcome,
    RoundChanged,
    RoundOpened,
    StartRequest,
)

LOST_MAX: Final = 1_000  # lost leases that a round lists, newest


def open_round(book: Book, now_ns: int, job: Job, asked: StartRequest) -> Round:
    """The job's next round; raises IllegalTransitionError while one is under way."""
    job.state = step(JOB, job.state, "start_request", who=f"job {job.job}")
    job.round += 1
    round_ = Round(
        job=job.job,
        round=job.round,
        demand=asked.demand,
        reports_min=asked.reports_min or asked.demand,
        lease_s=asked.lease_s or book.settings.lease_default_s,
        opened_ns=now_ns,
        deadline_ns=now_ns + int(asked.deadline_s * SECOND_NS) if asked.deadline_s else NEVER,
        once_per_device=asked.once_per_device,
    )
    book.add_round(round_)
    book.trim_rounds(job)
    book.changes.put(round_)
    book.changes.put(job)
    book.offer_changed(job.job)
    book.events.append(
        RoundOpened(
            job=job.job,
            round=job.round,
            demand=round_.demand,
            reports_min=round_.reports_min,
            once_per_device=round_.once_per_device,
        )
    )
    return round_


def grant(book: Book, now_ns: int, round_: Round, device_id: str, manager: int) -> Lease:
    """Give the device a slot of an open round; it must hold no lease."""
    lease = Lease(
        lease=book.new_lease_number(),
        job=round_.job,
        round=round_.round,
        slot=book.take_slot(round_),
        device_id=device_id,
        lease_s=round_.lease_s,
        deadline_ns=now_ns + int(round_.lease_s * SECOND_NS),
    )
    book.add_lease(lease)
    book.changes.put(lease)
    count_grant(book, book.jobs[round_.job])
    round_.allocated += 1
    book.round_changed(round_)
    book.offer_changed(round_.job)
    book.events.append(
        LeaseGranted(
            job=lease.job,
            round=lease.round,
            slot=lease.slot,
            lease=lease.lease,
            device_id=device_id,
            manager=manager,
            allocated=round_.allocated,
        )
    )
    if round_.allocated == round_.demand:
        _fill(book, now_ns, round_)
    return lease


def release(book: Book, now_ns: int, lease: Lease, outcome: Outcome) -> None:
    """The lease ends: reported, expired, or lapsed after its round was over."""
    job, round_ = book.jobs[lease.job], book.rounds[lease.job, lease.round]
    book.remove_lease(lease)
    if round_.once_per_device and round_.state in ROUND_LIVE:
        book.served.add(lease)
    if outcome is Outcome.COMPLETED:
        round_.completed += 1
        job.devices_completed += 1
    else:
        _lose(book, job, round_, lease, outcome)
    book.round_changed(round_)
    book.changes.put(job)
    book.events.append(
        LeaseEnded(
            job=lease.job,
            round=lease.round,
            lease=lease.lease,
            device_id=lease.device_id,
            outcome=outcome,
            allocated=round_.allocated,
        )
    )
    judge(book, now_ns, job, round_, lease, outcome)
    if outcome is Outcome.COMPLETED:
        _look_for_enough(book, now_ns, job, round_)
    elif round_.state is RoundState.FILLED:
        _enter(book, round_, "lose_slot")


def expire_lease(book: Book, now_ns: int, lease: Lease) -> None:
    """Nobody reported in time."""
    over = book.rounds[lease.job, lease.round].state not in ROUND_LIVE
    release(book, now_ns, lease, Outcome.CANCELLED if over else Outcome.EXPIRED)


def end_round(book: Book, now_ns: int, round_: Round, event: str) -> None:
    """The round reaches a final state; leases that are held stay."""
    job = book.jobs[round_.job]
    _enter(book, round_, event)
    book.round_over(round_, now_ns)
    if round_.state is not RoundState.FAILED:
        job.rounds_done += 1
    _remember(job, round_)
    if job.state is JobState.REQUESTING:
        job.state = step(JOB, job.state, "round_over", who=f"job {job.job}")
    book.changes.put(job)


def deadline_round(book: Book, now_ns: int, round_: Round) -> None:
    """The round's deadline came."""
    enough = round_.completed >= round_.reports_min
    end_round(book, now_ns, round_, "deadline_with_enough" if enough else "deadline_with_too_few")


def end_job(book: Book, now_ns: int, job: Job, event: str, reason: str) -> None:
    """The job reaches a final state, and its round with it; raises IllegalTransitionError."""
    job.state = step(JOB, job.state, event, who=f"job {job.job}")
    job.reason = reason
    round_ = book.rounds.get((job.job, job.round))
    if round_ is not None and round_.state in ROUND_LIVE:
        end_round(book, now_ns, round_, "end_request")
    book.job_finished(job, now_ns)
    book.events.append(JobChanged(job=job.job, state=job.state, reason=reason))


def purge_job(book: Book, now_ns: int, job: Job) -> None:
    """Forget a finished job; whoever still holds a lease of it is free for others."""
    for number in book.rounds_of[job.job]:
        for lease in sorted(book.held[job.job, number]):
            release(book, now_ns, book.leases[lease], Outcome.CANCELLED)
    book.remove_job(job)


def _fill(book: Book, now_ns: int, round_: Round) -> None:
    job = book.jobs[round_.job]
    if round_.filled_ns == NEVER:
        round_.filled_ns = now_ns
        job.filled_rounds += 1
        job.delay_sum_ns += now_ns - round_.opened_ns
        book.changes.put(job)
    _enter(book, round_, "fill")
    _look_for_enough(book, now_ns, job, round_)


def _lose(book: Book, job: Job, round_: Round, lease: Lease, outcome: Outcome) -> None:
    round_.allocated -= 1
    if outcome in {Outcome.FAILED, Outcome.DROPPED}:
        round_.failed += 1
        job.devices_failed += 1
    else:
        round_.expired += 1
        job.devices_expired += 1
    round_.lost.append(lease.lease)
    del round_.lost[:-LOST_MAX]
    if round_.state in ROUND_LIVE:
        book.return_slot(round_, lease.slot)
        book.offer_changed(job.job)


def _look_for_enough(book: Book, now_ns: int, job: Job, round_: Round) -> None:
    """A round that was filled is done when enough devices reported, unless it has failed."""
    if round_.filled_ns == NEVER or round_.completed < round_.reports_min:
        return
    if round_.state is RoundState.FAILED:
        return  # It was judged; those who come later do not make a response of its time-out.
    if round_.enough_ns == NEVER:
        round_.enough_ns = now_ns
        job.answered_rounds += 1
        job.response_sum_ns += now_ns - round_.filled_ns
    if round_.state in ROUND_LIVE:
        end_round(book, now_ns, round_, "enough_reports")


def _remember(job: Job, round_: Round) -> None:
    """What the round that just ended adds to the job's history."""
    job.devices_served += round_.allocated
    if round_.completed < round_.reports_min:
        return
    job.rounds_succeeded += 1
    # A reboot sets the clock back: no time is better than a negative one.
    job.rounds_sum_ns += max(0, round_.ended_ns - round_.opened_ns)
    if round_.filled_ns != NEVER:  # else it had enough at its deadline without ever being full
        job.last_delay_ns = max(0, round_.filled_ns - round_.opened_ns)
        job.last_response_ns = max(0, round_.ended_ns - round_.filled_ns)


def _enter(book: Book, round_: Round, event: str) -> None:
    who = f"round {round_.round} of job {round_.job}"
    round_.state = step(ROUND, round_.state, event, who)
    book.events.append(
        RoundChanged(
            job=round_.job,
            round=round_.round,
            state=round_.state,
            allocated=round_.allocated,
            completed=round_.completed,
        )
    )
