"""Judges back-offs, by the event log and by what is durable: begun for a reason, grown, kept, over.

The leases' ends alone say how many devices of a job failed in a row; a job manager that was
started again may have ended leases without a word, so that its own count is believed once, then.
Nor is a device sent at once to what has just failed it.

Not here: what a back-off does to the neighbours (:mod:`tests.simulation.neighbours`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.records import Job
from daemons.job_manager.settings import JobManagerSettings
from propius.messages import (
    BackOffChanged,
    LeaseEnded,
    LeaseGranted,
    Message,
    Outcome,
    RoundChanged,
    RoundOpened,
)
from tests.simulation.clock import SECOND_NS
from tests.simulation.durable import LIVE_ROUND_STATES, RoundRef, check

SLACK_NS = SECOND_NS // 10


class Patience:
    """What is known of each job's back-off."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()  # states that back-offs came to
        self._allowed: dict[int, int] = {}  # job that backs off -> leases that it may still get
        self._backoffs: Counter[int] = Counter()  # in a row
        self._failed: Counter[int] = Counter()  # leases in a row, at most
        self._live: set[RoundRef] = set()  # rounds that were opened in this life and go on
        self._paused_ns: dict[tuple[str, int], int] = {}  # (device, job) -> at least until

    def started(self, jobs: Iterable[Job], settings: JobManagerSettings) -> None:
        """A job manager begins with these records."""
        self.settings = settings
        self._allowed.clear()
        self._backoffs.clear()
        self._live.clear()
        self._paused_ns.clear()
        for job in jobs:
            self._backoffs[job.job] = job.backoffs
            self._failed[job.job] = max(self._failed[job.job], job.failures)
            if job.backoff == "waiting":
                self._allowed[job.job] = 0
            elif job.backoff == "probing":
                self._allowed[job.job] = settings.backoff_probes - job.probes

    def stepped(self, core: JobManagerCore, now_ns: int) -> None:
        """No back-off is longer than it was to be."""
        due_ns = core.book.backoff_due.next_ns()
        if due_ns is not None:
            check(due_ns > now_ns - SLACK_NS, "a back-off does not end", due_ns)

    def logged(self, time_ns: int, event: Message) -> None:
        """The job manager wrote this event about what happened at this (virtual) time."""
        self._devices(time_ns, event)
        match event:
            case LeaseGranted(job=job) if job in self._allowed:
                self._allowed[job] -= 1
                check(self._allowed[job] >= 0, "a lease while the job backs off", event)
            case LeaseEnded(job=job, outcome=Outcome.COMPLETED):
                self._failed[job] = 0
            case LeaseEnded(job=job):
                self._failed[job] += 1
            case BackOffChanged():
                self._changed(event)

    def _devices(self, time_ns: int, event: Message) -> None:
        """No device is sent again at once to a job that failed it in a round that goes on."""
        match event:
            case RoundOpened(job=job, round=number):
                self._live.add((job, number))
            case RoundChanged(job=job, round=number, state=state):
                if state not in LIVE_ROUND_STATES:
                    self._live.discard((job, number))
            case LeaseGranted(device_id=device, job=job):
                until_ns = self._paused_ns.get((device, job), 0)
                check(time_ns >= until_ns, "sent again at once to what failed it", event)
            case LeaseEnded(device_id=device, job=job, round=number, outcome=outcome):
                self._paused_ns.pop((device, job), None)
                if outcome is not Outcome.COMPLETED and (job, number) in self._live:
                    first_ns = int(self.settings.device_pause_first_s * SECOND_NS)
                    self._paused_ns[device, job] = time_ns + first_ns

    def _changed(self, event: BackOffChanged) -> None:
        self.seen[event.state] += 1
        job, before = event.job, self._allowed.pop(event.job, 0)
        match event.state:
            case "waiting":
                self._began(event)
                self._allowed[job] = 0
            case "probing":
                self._allowed[job] = before + event.probes
            case _:
                self._backoffs[job] = 0

    def _began(self, event: BackOffChanged) -> None:
        settings, number = self.settings, self._backoffs[event.job] + 1
        check(event.backoffs == number, f"back-off {number} of the job has another number", event)
        check(number <= settings.backoffs_max, "more back-offs in a row than allowed", event)
        self._backoffs[event.job] = number
        wait_s = min(settings.backoff_first_s * 2 ** (number - 1), settings.backoff_max_s)
        check(event.wait_s == wait_s, f"a back-off of another length than {wait_s} s", event)
        least = settings.backoff_after if number == 1 else settings.backoff_probes
        failed = self._failed[event.job]
        check(failed >= least, f"a back-off after {failed} failures in a row", event)
        self._failed[event.job] = 0
