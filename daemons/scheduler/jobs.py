"""The scheduler's picture of the jobs: kept from a snapshot and numbered events.

The job manager numbers every change. A snapshot says all as of a number; events carry whole job
states, so what was already known may be said again. What does not follow is a gap: the picture is
kept, marked as behind, and a snapshot asked for.

Not here: the messages to the job manager (:mod:`daemons.scheduler.core`), what a planner is told of
a job (:mod:`propius.driver`) and what that means to a policy (:mod:`propius.engine`).
"""

from __future__ import annotations

from propius.driver import JobFeed
from propius.engine import EngineError, Planner
from propius.messages import JobEvents, JobState, PrivateConstraint, Snapshot


class JobTable:
    """The jobs as of event ``seq`` of job manager ``incarnation``, as the planner knows them."""

    def __init__(self, planner: Planner) -> None:
        self.seq = -1  # -1: nothing is known yet
        self.incarnation = -1  # of the job manager that numbered it
        self.behind = True  # something is missing: a snapshot is needed
        self.constraints: dict[int, PrivateConstraint] = {}
        self.refused: list[str] = []  # what the planner would not take, since last asked
        self._planner = planner
        self._feed = JobFeed(planner)

    def __len__(self) -> int:
        return len(self.constraints)

    @property
    def known(self) -> bool:
        """There was a snapshot, ever."""
        return self.seq >= 0

    @property
    def open_rounds(self) -> dict[int, int]:
        """Job → its open round."""
        return self._feed.open

    def take_snapshot(self, incarnation: int, snapshot: Snapshot) -> bool:
        """Replace everything; False: it is older than what is known, and nothing changed."""
        known_well = not self.behind and snapshot.seq == self.seq
        if incarnation == self.incarnation and (known_well or snapshot.seq < self.seq):
            return False
        self._feed.reset()
        self.constraints = {}
        for state in snapshot.jobs:
            self._put(state)
        self.incarnation, self.seq, self.behind = incarnation, snapshot.seq, False
        return True

    def take_events(self, incarnation: int, events: JobEvents) -> bool:
        """Apply what follows; False: nothing changed. A gap sets ``behind``."""
        if incarnation != self.incarnation or events.first_seq > self.seq + 1:
            self.behind = True
            return False
        if events.seq <= self.seq:
            return False
        for job in events.removed:
            self._remove(job)
        for state in events.changed:
            self._put(state)
        self.seq = events.seq
        return True

    def heard_of(self, incarnation: int, seq: int) -> None:
        """The job manager says that its last event is ``seq``."""
        if incarnation != self.incarnation or seq > self.seq:
            self.behind = True

    def check(self) -> None:
        """Open rounds belong to known jobs; raises AssertionError where not."""
        assert self.open_rounds.keys() <= self.constraints.keys(), "an open round of an unknown job"
        assert self._planner.counts()["jobs"] == len(self.constraints), "the planner's jobs differ"

    def _put(self, state: JobState) -> None:
        try:
            self._feed.put(state)
            self.constraints[state.job] = state.private_constraint
        except EngineError as error:
            self.refused.append(f"job {state.job}: {error}")
            self.constraints.pop(state.job, None)

    def _remove(self, job: int) -> None:
        self.constraints.pop(job, None)
        self._feed.remove(job)
