"""What the job manager told the scheduler, event by event, and whether the scheduler has it so.

The scheduler's jobs as of an event must be the job manager's as of that event: nothing missed,
nothing twice, whatever the network did to the news. And a plan as of an event has every round that
wanted devices then, however many there are.
"""

from __future__ import annotations

from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.states import JOB_LIVE
from daemons.scheduler.core import SchedulerCore
from daemons.scheduler.jobs import JobTable
from propius.core import Send
from propius.messages import (
    INSIDE_PAYLOAD_BYTES_MAX,
    JobEvents,
    JobState,
    Plan,
    RoundRef,
    Snapshot,
    decode_header,
    decode_payload,
)
from tests.simulation.durable import check

_KINDS = frozenset({Snapshot.kind, JobEvents.kind})


class News:
    """The live jobs and their open rounds, by job manager's incarnation and event number."""

    def __init__(self) -> None:
        self._told: dict[tuple[int, int], dict[int, int]] = {}
        self._jobs: dict[int, int] = {}  # job -> its open round, -1 if it has none
        self._wanting: dict[tuple[int, int], dict[int, RoundRef]] = {}
        self._wants: dict[int, RoundRef] = {}  # job -> its round that is not full

    def sent(self, send: Send) -> None:
        """The job manager says something."""
        if send.link != "scheduler":
            return
        header = decode_header(send.frames[0])
        if header.kind not in _KINDS:
            return
        match decode_payload(header.kind, send.frames[1]):
            case Snapshot(seq=seq, jobs=jobs):
                self._jobs, self._wants = {}, {}
                self._put(jobs)
            case JobEvents(seq=seq, changed=changed, removed=removed):
                for job in removed:
                    self._jobs.pop(job, None)
                    self._wants.pop(job, None)
                self._put(changed)
            case _:
                return
        self._told[header.session, seq] = dict(self._jobs)
        self._wanting[header.session, seq] = dict(self._wants)

    def complete(self, core: JobManagerCore) -> None:
        """Raise if all is said, and what was said is not what the job manager knows."""
        said = core.scheduler.up and not core._snapshot_wanted and not len(core._outbox)
        if said and core._said_seq == core._seq:
            live = {job.job for job in core.book.jobs.values() if job.state in JOB_LIVE}
            check(set(self._jobs) == live, "the scheduler was told of other jobs than", live)

    def planned(self, core: SchedulerCore, send: Send) -> None:
        """The scheduler sends a plan."""
        if decode_header(send.frames[0]).kind != Plan.kind:
            return
        plan = decode_payload(Plan.kind, send.frames[1], bytes_max=INSIDE_PAYLOAD_BYTES_MAX)
        assert isinstance(plan, Plan)
        wanting = self._wanting.get((core.jobs.incarnation, plan.seq), {})
        planned = {(line.job, line.round) for group in plan.groups for line in group.rounds}
        hidden = [ref for ref in wanting.values() if ref not in planned]
        check(not hidden, f"plan {plan.version} hides rounds", hidden)

    def compare(self, table: JobTable) -> None:
        """Raise if the scheduler, as of the event it has come to, knows anything else."""
        told = self._told.get((table.incarnation, table.seq))
        if told is None:
            check(not table.known, f"event {table.seq} was never sent", table.incarnation)
            return
        check(set(table.constraints) == set(told), f"jobs of event {table.seq}", told)
        rounds = {job: number for job, number in told.items() if number >= 0}
        opened = table.open_rounds
        check(opened == rounds, f"open rounds {opened} at {table.seq}", rounds)

    def _put(self, jobs: list[JobState]) -> None:
        for state in jobs:
            self._jobs[state.job] = state.round
            if state.round >= 0 and state.allocated < state.demand:
                self._wants[state.job] = (state.job, state.round)
            else:
                self._wants.pop(state.job, None)
