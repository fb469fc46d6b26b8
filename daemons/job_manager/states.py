"""The states of a job and of a round, and every transition that is allowed: the one table.

A handler asks :func:`step` before it changes anything; what is not in the table raises
:class:`IllegalTransitionError` there and nowhere else. ``docs/states.md`` is made from this file by
``scripts/make_state_diagrams.py``. Whether a job is paused is a flag beside its state: a paused job
keeps its round, which is offered to nobody. So is its back-off, which has a machine of its own.

>>> step(ROUND, RoundState.OPEN, "fill", "round 0 of job 7")
<RoundState.FILLED: 'filled'>
>>> step(JOB, JobState.COMPLETED, "start_request", "job 7")
Traceback (most recent call last):
daemons.job_manager.states.IllegalTransitionError: job 7 is completed: start_request is not possible
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from propius.errors import PropiusError


class JobState(enum.StrEnum):
    """Where a job is in its life."""

    IDLE = "idle"  # registered, no round under way
    REQUESTING = "requesting"  # its current round is open or filled
    COMPLETED = "completed"  # the job server said that it has trained enough
    CANCELLED = "cancelled"  # stopped by the job server or the operator
    EXPIRED = "expired"  # silent for too long


class RoundState(enum.StrEnum):
    """Where a round is in its life."""

    OPEN = "open"  # allocated < demand: offered to devices
    FILLED = "filled"  # allocated = demand: waits for reports
    COMPLETED = "completed"  # was filled, and enough devices reported
    ENDED = "ended"  # end_request, or the job itself ended
    CLOSED = "closed"  # its deadline came, with enough reports
    FAILED = "failed"  # its deadline came, with too few reports


class BackOff(enum.StrEnum):
    """Whether devices are sent to a live job, by what became of the last ones (``backoff.py``)."""

    NONE = "none"  # as many as its round wants
    WAITING = "waiting"  # nobody, until a time is over: all failed
    PROBING = "probing"  # a few, to see whether one completes


StateT = TypeVar("StateT", JobState, RoundState, BackOff)


@dataclass(frozen=True)
class Machine(Generic[StateT]):
    """States and the allowed (state, event) → state."""

    name: str
    first: StateT
    table: Mapping[tuple[StateT, str], StateT]


JOB: Final = Machine(
    "job",
    JobState.IDLE,
    {
        (JobState.IDLE, "start_request"): JobState.REQUESTING,
        (JobState.REQUESTING, "round_over"): JobState.IDLE,
        (JobState.IDLE, "complete_job"): JobState.COMPLETED,
        (JobState.REQUESTING, "complete_job"): JobState.COMPLETED,
        (JobState.IDLE, "cancel"): JobState.CANCELLED,
        (JobState.REQUESTING, "cancel"): JobState.CANCELLED,
        (JobState.IDLE, "silence"): JobState.EXPIRED,
        (JobState.REQUESTING, "silence"): JobState.EXPIRED,
    },
)

ROUND: Final = Machine(
    "round",
    RoundState.OPEN,
    {
        (RoundState.OPEN, "fill"): RoundState.FILLED,
        (RoundState.FILLED, "lose_slot"): RoundState.OPEN,
        (RoundState.OPEN, "enough_reports"): RoundState.COMPLETED,
        (RoundState.FILLED, "enough_reports"): RoundState.COMPLETED,
        (RoundState.OPEN, "end_request"): RoundState.ENDED,
        (RoundState.FILLED, "end_request"): RoundState.ENDED,
        (RoundState.OPEN, "deadline_with_enough"): RoundState.CLOSED,
        (RoundState.FILLED, "deadline_with_enough"): RoundState.CLOSED,
        (RoundState.OPEN, "deadline_with_too_few"): RoundState.FAILED,
        (RoundState.FILLED, "deadline_with_too_few"): RoundState.FAILED,
    },
)

BACK_OFF: Final = Machine(
    "back-off",
    BackOff.NONE,
    {
        (BackOff.NONE, "all_failed"): BackOff.WAITING,
        (BackOff.WAITING, "time_over"): BackOff.PROBING,
        (BackOff.PROBING, "time_over"): BackOff.PROBING,  # those sent are silent: a few more
        (BackOff.PROBING, "all_failed"): BackOff.WAITING,
        (BackOff.PROBING, "give_up"): BackOff.NONE,  # the job is paused
        (BackOff.WAITING, "completed"): BackOff.NONE,
        (BackOff.PROBING, "completed"): BackOff.NONE,
        (BackOff.WAITING, "resume"): BackOff.NONE,
        (BackOff.PROBING, "resume"): BackOff.NONE,
    },
)

JOB_LIVE: Final = frozenset({JobState.IDLE, JobState.REQUESTING})
ROUND_LIVE: Final = frozenset({RoundState.OPEN, RoundState.FILLED})


class IllegalTransitionError(PropiusError):
    """The event does not fit the state; carries who, state and event."""

    def __init__(self, who: str, state: str, event: str) -> None:
        super().__init__(f"{who} is {state}: {event} is not possible")
        self.who = who
        self.state = state
        self.event = event


def step(machine: Machine[StateT], state: StateT, event: str, who: str) -> StateT:
    """The state after the event; raises IllegalTransitionError if the table has no such pair."""
    after = machine.table.get((state, event))
    if after is None:
        raise IllegalTransitionError(who, state, event)
    return after
