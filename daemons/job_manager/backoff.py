"""A job that fails all its devices gets none for a while, then a few, and at last is paused.

The evidence is a row of leases that ended without a result while none was completed: at least
``backoff_after`` of them, and at least :data:`WORKING_SHARE` times as many as still work, which
may be about to succeed. (A round of 1,000 loses its hasty devices first, the others need time.)
One completed task, of whichever round, ends the row and the back-off.

Not held against a job:

* a device that comes too late for a round in which others succeeded: it is turned away, often by
  the job itself;
* a lease that ran out, unless somebody completed something (of another job, say) since it was
  granted: if nobody did, it may be the network that is dead, or we were.

After a back-off ``backoff_probes`` devices are sent. If they all fail, the next one is twice as
long; if they say nothing, as many more are sent each ``backoff_max_s``. After ``backoffs_max`` in a
row the job is paused, and its reason says why.

**Invariant:** while a job is waiting it gets no lease; while it is probing, no more than allowed.
All of it is in the job's record, so it is as it was after a restart.

The device of a lease that failed or expired is not sent to the job again at once (``pauses.py``).

Not here: the states and their transitions (``states.py``), refusing a claim (``claims.py``).
"""

from __future__ import annotations

from typing import Final

from daemons.job_manager.book import Book
from daemons.job_manager.records import NEVER, Job, Lease, Round
from daemons.job_manager.states import BACK_OFF, JOB_LIVE, ROUND_LIVE, BackOff, step
from propius.core import SECOND_NS
from propius.messages import DEMAND_MAX, BackOffChanged, JobChanged, Outcome

WORKING_SHARE: Final = 3
"""So many failed for each that still works: of devices that fail before any other is done, 30 %
come to that (with 16 failed) in one of 51,000 rounds by chance, 20 % in one of 20 million."""
SLOTS_UNLIMITED: Final = DEMAND_MAX
_RAN_OUT: Final = frozenset({Outcome.EXPIRED, Outcome.CANCELLED})


def slots_allowed(book: Book, job: Job) -> int:
    """How many more slots the job may get now, whatever its round wants."""
    match job.backoff:
        case BackOff.NONE:
            return SLOTS_UNLIMITED
        case BackOff.WAITING:
            return 0
        case BackOff.PROBING:
            return book.settings.backoff_probes - job.probes


def count_grant(book: Book, job: Job) -> None:
    """The job got a slot."""
    if job.backoff is BackOff.PROBING:
        job.probes += 1
        book.changes.put(job)


def judge(book: Book, now_ns: int, job: Job, round_: Round, lease: Lease, outcome: Outcome) -> None:
    """A lease of the job ended: what follows for the job. The job is stored by the caller."""
    if outcome is Outcome.COMPLETED:
        book.pauses.completed(lease.device_id, job.job)
        book.completed_ns = now_ns
        job.failures = 0
        if job.backoff is not BackOff.NONE:
            _end(book, job, "completed", "a device completed its task")
        return
    if job.state not in JOB_LIVE or _came_late(round_):
        return
    if outcome is not Outcome.CANCELLED:
        book.pauses.failed(now_ns, lease.device_id, job.job)
    if outcome in _RAN_OUT and book.completed_ns < lease.deadline_ns - _ns(lease.lease_s):
        return
    if job.backoff is BackOff.PROBING and lease.lease >= job.probes_from:
        job.failures += 1
        if job.failures >= book.settings.backoff_probes:
            _all_failed(book, now_ns, job, outcome)
    elif job.backoff is BackOff.NONE:
        job.failures += 1
        working = len(book.held[round_.job, round_.round])
        enough = max(book.settings.backoff_after, WORKING_SHARE * working)
        if job.failures >= enough and not job.paused:
            _all_failed(book, now_ns, job, outcome)


def time_over(book: Book, now_ns: int, job: Job) -> None:
    """The back-off's time came: a few devices may try the job."""
    settings = book.settings
    if job.backoff is BackOff.WAITING:
        job.failures = job.probes = 0
        job.probes_from = book.meta.next_lease
    else:  # what was allowed and not used is not added up
        job.probes = max(0, job.probes - settings.backoff_probes)
    _enter(book, job, "time_over", now_ns + _ns(settings.backoff_max_s), job.reason)


def resume(book: Book, job: Job) -> None:
    """Somebody has seen to the job: it begins afresh."""
    job.failures = 0
    if job.backoff is not BackOff.NONE:
        _end(book, job, "resume", "resumed")
    elif job.paused:
        job.reason = ""
    book.changes.put(job)


def _came_late(round_: Round) -> bool:
    """Others were in time."""
    return round_.state not in ROUND_LIVE and round_.completed > 0


def _all_failed(book: Book, now_ns: int, job: Job, outcome: Outcome) -> None:
    settings = book.settings
    why = f"{job.failures} devices in a row got no result (the last: {outcome})"
    if job.backoffs >= settings.backoffs_max:
        reason = (
            f"paused after {job.backoffs} back-offs in a row: {why};"
            " see to the job server, then resume the job"
        )
        _end(book, job, "give_up", reason)
        job.paused, job.reason = True, reason
        book.events.append(JobChanged(job=job.job, state="paused", reason=reason))
        return
    wait_s = min(settings.backoff_first_s * 2.0 ** min(job.backoffs, 64), settings.backoff_max_s)
    job.backoffs += 1
    job.failures = 0
    reason = f"{why}; back-off {job.backoffs} of {settings.backoffs_max}"
    _enter(book, job, "all_failed", now_ns + _ns(wait_s), reason, wait_s)


def _end(book: Book, job: Job, event: str, why: str) -> None:
    """There is no back-off any more."""
    job.backoffs = job.failures = job.probes = 0
    _enter(book, job, event, NEVER, why)
    job.reason = ""


def _enter(
    book: Book, job: Job, event: str, until_ns: int, reason: str, wait_s: float = 0.0
) -> None:
    job.backoff = step(BACK_OFF, job.backoff, event, f"back-off of job {job.job}")
    job.backoff_until_ns, job.reason = until_ns, reason
    if until_ns == NEVER:
        book.backoff_due.drop(job.job)
    else:
        book.backoff_due.set(job.job, until_ns)
    book.changes.put(job)
    book.offer_changed(job.job)
    round_ = book.rounds.get((job.job, job.round))
    if round_ is not None and round_.state in ROUND_LIVE:
        book.round_changed(round_)  # whoever watches it hears why nobody comes
    probing = job.backoff is BackOff.PROBING
    book.events.append(
        BackOffChanged(
            job=job.job,
            state=job.backoff,
            backoffs=job.backoffs,
            wait_s=book.settings.backoff_max_s if probing else wait_s,
            probes=book.settings.backoff_probes if probing else 0,
            reason=reason,
        )
    )


def _ns(seconds: float) -> int:
    return int(seconds * SECOND_NS)
