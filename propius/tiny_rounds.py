"""The rounds of :class:`propius.testing.TinyPropius`: who fills, empties and ends one.

The rules are the job manager's, slot by slot; the same conversations are played with both
(``tests/golden/rounds``). Times are seconds of the caller's clock.

Not here: messages, and who may ask for what (:mod:`propius.tiny_propius`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from propius.messages import RoundStatus
from propius.tokens import Lease

UNDER_WAY: Final = frozenset({"open", "filled"})
LOST_MAX: Final = 1_000
LEASE_S: Final = 600.0
"""How long a lease lasts if its round does not say."""


@dataclass
class TinyHistory:
    """What the rounds of a job came to: sums and last values in seconds."""

    rounds_done: int = 0
    rounds_succeeded: int = 0
    devices_served: int = 0  # held or completed when a round ended
    devices_completed: int = 0
    devices_failed: int = 0
    devices_expired: int = 0
    filled_rounds: int = 0
    delays_s: float = 0.0
    answered_rounds: int = 0
    responses_s: float = 0.0
    last_delay_s: float = 0.0
    last_response_s: float = 0.0
    rounds_s: float = 0.0  # of those that succeeded


@dataclass
class TinyRound:
    """A round of :class:`~propius.testing.TinyPropius`."""

    job: int
    number: int
    demand: int
    reports_min: int
    opened_s: float
    requirement: list[float]
    private_constraint: Mapping[str, float]
    lease_s: float = LEASE_S
    deadline_s: float = math.inf  # a time, not a duration
    history: TinyHistory = field(default_factory=TinyHistory)
    state: str = "open"
    version: int = 1
    held: dict[int, Lease] = field(default_factory=dict)  # by number
    completed: int = 0
    failed: int = 0
    expired: int = 0
    lost: list[int] = field(default_factory=list)
    once_per_device: bool = True
    filled_after_s: float = -1.0  # for the first time
    enough_after_s: float = -1.0
    ended_after_s: float = -1.0
    _taken: set[int] = field(default_factory=set)  # slots held or completed
    _due_s: dict[int, float] = field(default_factory=dict)  # lease -> its end
    _served: set[str] = field(default_factory=set)  # devices whose leases ended

    @property
    def allocated(self) -> int:
        """Slots held or completed."""
        return len(self.held) + self.completed

    def has_served(self, device_id: str) -> bool:
        """Whether the device had its one slot of the round."""
        return self.once_per_device and device_id in self._served

    def status(self) -> RoundStatus:
        """The round as a job server sees it."""
        return RoundStatus(
            job=self.job, round=self.number, version=self.version, state=self.state,
            demand=self.demand, allocated=self.allocated, held=len(self.held),
            completed=self.completed, failed=self.failed, expired=self.expired,
            reports_min=self.reports_min, filled_after_s=self.filled_after_s,
            ended_after_s=self.ended_after_s, lost=list(self.lost),
        )  # fmt: skip

    def grant(self, now_s: float, number: int, device_id: str) -> Lease:
        """Give the device the lowest free slot of an open round."""
        slot = next(slot for slot in count() if slot not in self._taken)
        lease = Lease(job=self.job, round=self.number, slot=slot, lease=number, device_id=device_id)
        self._taken.add(slot)
        self.held[number], self._due_s[number] = lease, now_s + self.lease_s
        self.version += 1
        if self.allocated == self.demand:
            self._fill(now_s)
        return lease

    def report(self, now_s: float, number: int) -> None:
        """The lease ends with a result, which counts whether or not the round is over."""
        self._served.add(self.held.pop(number).device_id)
        del self._due_s[number]
        self.completed += 1
        self.history.devices_completed += 1
        self.version += 1
        self._look_for_enough(now_s)

    def lose(self, number: int, *, expired: bool = False) -> None:
        """The lease ends without a result: while the round is open, its slot is offered again."""
        lease = self.held.pop(number)
        del self._due_s[number]
        self._served.add(lease.device_id)
        self._taken.discard(lease.slot)
        self.failed += not expired
        self.expired += expired
        self.history.devices_failed += not expired
        self.history.devices_expired += expired
        self.lost.append(number)
        del self.lost[:-LOST_MAX]
        self.version += 1
        if self.state == "filled":
            self.state = "open"

    def end(self, now_s: float, state: str) -> None:
        """The round is over; nothing happens if it was so before. Held leases stay."""
        if self.state not in UNDER_WAY:
            return
        self.state, self.ended_after_s = state, now_s - self.opened_s
        self.version += 1
        history = self.history
        history.rounds_done += state != "failed"
        history.devices_served += self.allocated
        if self.completed < self.reports_min:
            return
        history.rounds_succeeded += 1
        history.rounds_s += self.ended_after_s
        if self.filled_after_s >= 0:
            history.last_delay_s = self.filled_after_s
            history.last_response_s = self.ended_after_s - self.filled_after_s

    def due_s(self) -> float:
        """When its deadline or the end of a lease comes next; infinite: never."""
        deadline_s = self.deadline_s if self.state in UNDER_WAY else math.inf
        return min(deadline_s, *self._due_s.values(), math.inf)

    def tick(self, now_s: float) -> None:
        """Judge the round at its deadline, and end leases that nobody reported on in time."""
        if now_s >= self.deadline_s:
            self.end(now_s, "closed" if self.completed >= self.reports_min else "failed")
        for number in [number for number, due_s in self._due_s.items() if due_s <= now_s]:
            self.lose(number, expired=True)

    def _fill(self, now_s: float) -> None:
        if self.filled_after_s < 0:
            self.filled_after_s = now_s - self.opened_s
            self.history.filled_rounds += 1
            self.history.delays_s += self.filled_after_s
        self.state = "filled"
        self._look_for_enough(now_s)

    def _look_for_enough(self, now_s: float) -> None:
        """A round that was filled once is done when enough devices reported."""
        if self.filled_after_s < 0 or self.completed < self.reports_min or self.state == "failed":
            return
        if self.enough_after_s < 0:
            self.enough_after_s = now_s - self.opened_s
            self.history.answered_rounds += 1
            self.history.responses_s += self.enough_after_s - self.filled_after_s
        self.end(now_s, "completed")
