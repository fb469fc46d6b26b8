"""The two phases of a round, each with its own time-out, as a job server judges them.

Until all slots were held once, and from there until enough devices reported. A device that is lost
and replaced gives neither of them more time. Whoever has enough reports when a phase is over has
succeeded (docs/design.md, "What does a deadline decide?").

>>> Phases(scheduling_s=30.0, response_s=50.0).due_after_s(filled_after_s=-1.0)
30.0
>>> Phases(scheduling_s=30.0, response_s=50.0).due_after_s(filled_after_s=12.0)
62.0
"""

from __future__ import annotations

from dataclasses import dataclass

from propius.messages import RoundStatus

__all__ = ["Phases", "outcome"]


@dataclass(frozen=True)
class Phases:
    """How long each may take, in seconds."""

    scheduling_s: float
    response_s: float

    def due_after_s(self, filled_after_s: float) -> float:
        """When the round is judged, in seconds since it was opened; below 0: not filled yet."""
        return self.scheduling_s if filled_after_s < 0 else filled_after_s + self.response_s


def outcome(status: RoundStatus) -> str:
    """What came of a round that is over: completed, or the phase that took too long."""
    if status.completed >= status.reports_min:
        return "completed"
    return "timed_out_response" if status.filled_after_s >= 0 else "timed_out_scheduling"
