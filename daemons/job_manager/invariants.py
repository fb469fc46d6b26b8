"""What holds in the job manager's memory at every instant; tests ask after each step.

Each failure is an AssertionError that names the job, round, lease or device. :func:`check` costs
time proportional to everything that is kept, :func:`check_live` to what can still change; neither
is ever asked in service.
"""

from __future__ import annotations

from daemons.job_manager.answers import SESSIONS_PER_JOB
from daemons.job_manager.book import Book
from daemons.job_manager.records import NEVER, Job, Round
from daemons.job_manager.states import JOB_LIVE, ROUND_LIVE, BackOff, JobState, RoundState


def check(book: Book) -> None:
    """Raise AssertionError if anything does not hold."""
    for round_ in book.rounds.values():
        _check_round(book, round_)
    for job in book.jobs.values():
        _check_job(book, job)
    _check_leases(book)
    _check_counts(book)
    _check_tables(book)
    book.sessions.check(set(book.jobs))


def check_live(book: Book) -> None:
    """The same of live rounds and jobs and of all leases: all else rests, as ``check`` left it."""
    held = {(lease.job, lease.round): None for lease in book.leases.values()}
    for ref in held | dict.fromkeys(book.free):
        assert ref in book.rounds, f"round {ref}: not there, but has leases or free slots"
        _check_round(book, book.rounds[ref])
    for number in book.heard_ns:
        assert number in book.jobs, f"job {number}: not there, but heard"
        _check_job(book, book.jobs[number])
    _check_leases(book)
    _check_counts(book)


def _check_round(book: Book, round_: Round) -> None:
    ref = (round_.job, round_.round)
    who = f"round {ref}"
    held = book.held[ref]
    assert 0 <= round_.allocated <= round_.demand, f"{who}: {round_.allocated} of {round_.demand}"
    assert round_.allocated == len(held) + round_.completed, f"{who}: held {len(held)}: {round_}"
    live = round_.state in ROUND_LIVE
    assert live == (ref in book.free), f"{who}: {round_.state}, free slots kept: {ref in book.free}"
    if live:
        free = book.free[ref]
        assert len(free) == len(set(free)), f"{who}: a slot is free twice"
        assert all(slot < round_.next_slot for slot in free), f"{who}: free slot was never given"
        assert round_.next_slot - len(free) == round_.allocated, f"{who}: slots do not add up"
        full = round_.allocated == round_.demand
        assert full == (round_.state is RoundState.FILLED), f"{who}: {round_.state}, full: {full}"
        assert (book.round_due.get(ref) is not None) == (round_.deadline_ns != NEVER), (
            f"{who}: timer"
        )
        assert book.jobs[round_.job].round == round_.round, f"{who}: live but not the current one"
        done = round_.filled_ns != NEVER and round_.completed >= round_.reports_min
        assert not done, f"{who}: has enough reports and is not over"
    else:
        assert book.round_due.get(ref) is None, f"{who}: over, with a timer"
    slots = [book.leases[lease].slot for lease in held]
    assert len(slots) == len(set(slots)), f"{who}: two leases hold one slot"
    assert all(slot < round_.next_slot for slot in slots), f"{who}: slot was never given"
    assert not live or not set(slots) & set(book.free[ref]), f"{who}: a held slot is free"


def _check_job(book: Book, job: Job) -> None:
    who = f"job {job.job}"
    live = job.state in JOB_LIVE
    round_ = book.rounds.get((job.job, job.round))
    requesting = round_ is not None and round_.state in ROUND_LIVE
    assert requesting == (job.state is JobState.REQUESTING), f"{who}: {job.state}, {round_}"
    assert live == (job.job in book.heard_ns), f"{who}: {job.state}, heard"
    assert live == (book.silence_due.get(job.job) is not None), f"{who}: {job.state}, silence timer"
    assert live == (job.job not in book.finished), f"{who}: {job.state}, finished"
    if live:
        _check_backoff(book, job, who)
    assert job.requirement_id in book.requirements, f"{who}: requirement {job.requirement_id}"
    assert job.job < book.meta.next_job, f"{who}: number was not given"
    assert job.round == -1 or round_ is not None, f"{who}: round {job.round} is not kept"


def _check_backoff(book: Book, job: Job, who: str) -> None:
    settings, off = book.settings, job.backoff is BackOff.NONE
    due_ns = book.backoff_due.get(job.job)
    assert off == (due_ns is None), f"{who}: back-off {job.backoff}, timer {due_ns}"
    assert due_ns is None or due_ns == job.backoff_until_ns, f"{who}: back-off's timer"
    assert off == (job.backoff_until_ns == NEVER), f"{who}: back-off {job.backoff} until"
    assert off == (job.backoffs == 0), f"{who}: back-off {job.backoff}, {job.backoffs} in a row"
    assert job.backoffs <= settings.backoffs_max, f"{who}: {job.backoffs} back-offs in a row"
    assert job.probes <= settings.backoff_probes, f"{who}: {job.probes} probes"


def _check_leases(book: Book) -> None:
    assert len(book.lease_of) == len(book.leases), "a device holds two leases"
    for lease in book.leases.values():
        who = f"lease {lease.lease} of device {lease.device_id}"
        assert book.lease_of[lease.device_id] == lease.lease, f"{who}: not the device's"
        assert lease.lease in book.held[lease.job, lease.round], f"{who}: not the round's"
        assert lease.lease < book.meta.next_lease, f"{who}: number was not given"
        assert book.lease_due.get(lease.lease) == lease.deadline_ns, f"{who}: timer"


def _check_counts(book: Book) -> None:
    assert len(book.heard_ns) == book.live_jobs, f"{book.live_jobs} live jobs counted"
    assert len(book.rounds) == len(book.held), "held leases of a round that is not there"
    assert len(book.sessions) <= SESSIONS_PER_JOB * len(book.jobs) + 256, "too many sessions"
    assert len(book.leases) <= book.settings.leases_max, "too many leases"
    assert len(book.served) <= book.settings.served_max, "too many devices noted as served"
    assert book.served.rounds <= set(book.free), "noted who served a round that is over"
    for lease in book.leases.values():
        again = book.served.has((lease.job, lease.round), lease.device_id)
        assert not again, f"lease {lease.lease}: {lease.device_id} served this round before"
    assert len(book.device_answers) <= book.settings.device_answers_max, "too many answers"


def _check_tables(book: Book) -> None:
    live = sum(job.state in JOB_LIVE for job in book.jobs.values())
    assert live == book.live_jobs, f"{book.live_jobs} live jobs counted, {live} there"
    assert set(book.rounds) == set(book.held), "held leases of a round that is not there"
    assert sum(map(len, book.held.values())) == len(book.leases), "leases and rounds differ"
    kept = {(job, number) for job, numbers in book.rounds_of.items() for number in numbers}
    assert kept == set(book.rounds), "rounds and their index differ"
    assert set(book.requirements) == {job.requirement_id for job in book.jobs.values()}, (
        "a requirement that no job has"
    )
