"""What happens in the job manager because time passed: leases, deadlines, silence, forgetting.

A tick does at most :data:`WORK_MAX` of each kind, so that a mass expiry cannot hold up the loop;
``due_ns`` then says that more is due at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daemons.job_manager.backoff import time_over
from daemons.job_manager.book import CLOCK_IDLE_NS, Book
from daemons.job_manager.rounds import deadline_round, end_job, expire_lease, purge_job
from propius.core import SECOND_NS

WORK_MAX: Final = 2_000


class Timers:
    """The timers of one book."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def due_ns(self) -> int | None:
        """When ``tick`` has something to do."""
        book = self._book
        judged = (book.lease_due.next_ns(), book.silence_due.next_ns())
        times = [max(due, book.not_before_ns) for due in judged if due is not None]
        times += [
            due
            for due in (
                book.round_due.next_ns(),
                book.backoff_due.next_ns(),
                book.device_answers.due_ns(),
                self._purge_ns(),
            )
            if due is not None
        ]
        if book.live_jobs:
            times.append(book.clock.saved_ns + CLOCK_IDLE_NS)
        return min(times, default=None)

    def tick(self, now_ns: int, count: Callable[[str], None]) -> None:
        """Do what is due."""
        book = self._book
        for _ in range(WORK_MAX):
            ref = book.round_due.pop(now_ns)
            if ref is None:
                break
            deadline_round(book, now_ns, book.rounds[ref])
            count("rounds_at_deadline")
        for _ in range(WORK_MAX):
            job = book.backoff_due.pop(now_ns)
            if job is None:
                break
            time_over(book, now_ns, book.jobs[job])
        if now_ns >= book.not_before_ns:
            self._judge(now_ns, count)
        self._purge(now_ns, count)
        due_ns = book.device_answers.due_ns()
        if due_ns is not None and due_ns <= now_ns:
            book.device_answers.sweep(now_ns, WORK_MAX)
        if book.live_jobs:
            book.save_clock(now_ns, CLOCK_IDLE_NS)

    def _judge(self, now_ns: int, count: Callable[[str], None]) -> None:
        """Declare dead whoever has been silent for too long."""
        book = self._book
        for _ in range(WORK_MAX):
            number = book.lease_due.pop(now_ns)
            if number is None:
                break
            expire_lease(book, now_ns, book.leases[number])
            count("leases_expired")
        for _ in range(WORK_MAX):
            job = book.silence_due.pop(now_ns)
            if job is None:
                break
            heard_again_by_ns = book.heard_ns[job] + book.silence_ns()
            if heard_again_by_ns > now_ns:
                book.silence_due.set(job, heard_again_by_ns)
                continue
            silence_s = (now_ns - book.heard_ns[job]) / SECOND_NS
            reason = f"the job server was silent for {silence_s:.0f} s"
            end_job(book, now_ns, book.jobs[job], "silence", reason)
            count("jobs_expired")

    def _purge_ns(self) -> int | None:
        book = self._book
        if not book.finished:
            return None
        oldest_ns = next(iter(book.finished.values()))
        if len(book.finished) > book.settings.keep_finished_max:
            return oldest_ns
        return oldest_ns + int(book.settings.keep_finished_s * SECOND_NS)

    def _purge(self, now_ns: int, count: Callable[[str], None]) -> None:
        book = self._book
        work = 0
        while work < WORK_MAX:
            due_ns = self._purge_ns()
            if due_ns is None or due_ns > now_ns:
                return
            job = next(iter(book.finished))
            work += 1 + len(book.rounds_of[job])
            purge_job(book, now_ns, book.jobs[job])
            count("jobs_purged")
