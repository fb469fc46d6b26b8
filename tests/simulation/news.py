"""What the job manager told the scheduler, event by event, and whether the scheduler has it so.

The scheduler's jobs as of an event must be the job manager's as of that event: nothing missed,
nothing twice, whatever the network did to the news.
"""

from __future__ import annotations

from daemons.scheduler.jobs import JobTable
from propius.core import Send
from propius.messages import JobEvents, JobState, Snapshot, decode_header, decode_payload
from tests.simulation.durable import check

_KINDS = frozenset({Snapshot.kind, JobEvents.kind})


class News:
    """The live jobs and their open rounds, by job manager's incarnation and event number."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], dict[int, int]] = {}
        self._jobs: dict[int, int] = {}  # job -> its open round, -1 if it has none

    def sent(self, send: Send) -> None:
        """The job manager says something."""
        if send.link != "scheduler":
            return
        header = decode_header(send.frames[0])
        if header.kind not in _KINDS:
            return
        match decode_payload(header.kind, send.frames[1]):
            case Snapshot(seq=seq, jobs=jobs):
                self._jobs = {}
                self._put(jobs)
            case JobEvents(seq=seq, changed=changed, removed=removed):
                for job in removed:
                    self._jobs.pop(job, None)
                self._put(changed)
            case _:
                return
        self._told[header.session, seq] = dict(self._jobs)

    def compare(self, table: JobTable) -> None:
        """Raise if the scheduler, as of the event it has come to, knows anything else."""
        told = self._told.get((table.incarnation, table.seq))
        if told is None:
            check(not table.known, f"event {table.seq} was never sent", table.incarnation)
            return
        check(set(table.constraints) == set(told), f"jobs of event {table.seq}", told)
        rounds = {job: number for job, number in told.items() if number >= 0}
        check(table._open == rounds, f"open rounds {table._open} at {table.seq}", rounds)

    def _put(self, jobs: list[JobState]) -> None:
        self._jobs.update((state.job, state.round) for state in jobs)
