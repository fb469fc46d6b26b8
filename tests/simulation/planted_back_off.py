"""Planted bugs of back-offs: never over, not ended, forgotten, not kept, not grown."""

from __future__ import annotations

from typing import Any

import pytest

from daemons.job_manager import backoff, claims, core, pauses, recovery, rounds, timers
from daemons.job_manager.book import Book
from daemons.job_manager.records import NEVER, Job
from daemons.job_manager.states import BackOff
from propius.core import SECOND_NS
from propius.messages import Outcome
from tests.simulation.planted import bug


@bug(found_by="not finished", seed=9)
def back_off_that_never_ends(plant: pytest.MonkeyPatch) -> None:
    """When a back-off is over, it is put off by as much again."""

    def time_over(book: Book, now_ns: int, job: Job) -> None:
        job.backoff_until_ns = now_ns + SECOND_NS
        book.backoff_due.set(job.job, job.backoff_until_ns)
        book.changes.put(job)

    plant.setattr(timers, "time_over", time_over)


@bug(found_by="failures in a row", seed=9)
def completion_that_does_not_count(plant: pytest.MonkeyPatch) -> None:
    """Failures before a completed task count on after it."""

    def judge(book: Book, now_ns: int, job: Job, *lease: Any) -> None:
        failures = job.failures
        backoff.judge(book, now_ns, job, *lease)
        if lease[-1] is Outcome.COMPLETED and job.backoff is BackOff.NONE:
            job.failures = failures

    plant.setattr(rounds, "judge", judge)


@bug(found_by="a lease while the job backs off", seed=3)
def back_off_forgotten_by_a_restart(plant: pytest.MonkeyPatch) -> None:
    """A job manager that starts again sends devices to jobs that were backing off."""
    right = recovery.recover

    def recover(*args: Any, **fields: Any) -> Book:
        book = right(*args, **fields)
        for number in list(book.heard_ns):
            job = book.jobs[number]
            job.backoff, job.backoff_until_ns, job.backoffs = BackOff.NONE, NEVER, 0
            book.backoff_due.drop(number)
            book.changes.put(job)
        return book

    plant.setattr(core, "recover", recover)


@bug(found_by="a lease while the job backs off", seed=18)
def claim_granted_in_a_back_off(plant: pytest.MonkeyPatch) -> None:
    """Claims that were under way when the back-off began get their slots."""
    plant.setattr(claims, "slots_allowed", lambda *_: 1)


@bug(found_by="a back-off of another length", seed=7)
def back_off_that_does_not_grow(plant: pytest.MonkeyPatch) -> None:
    """Each back-off is as short as the first one."""
    right = backoff._enter

    def enter(
        book: Book, job: Job, event: str, until_ns: int, reason: str, wait_s: float = 0.0
    ) -> None:
        first_s = book.settings.backoff_first_s
        if wait_s:
            until_ns += int((first_s - wait_s) * SECOND_NS)
        right(book, job, event, until_ns, reason, first_s if wait_s else 0.0)

    plant.setattr(backoff, "_enter", enter)


@bug(found_by="sent again at once", seed=1)
def device_sent_again_to_what_failed_it(plant: pytest.MonkeyPatch) -> None:
    """Failures of a device are not remembered."""
    plant.setattr(pauses.Pauses, "failed", lambda *_: None)
