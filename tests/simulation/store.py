"""The virtual store: commits take time, are applied whole and in order, and die with a crash.

A commit has two instants, as a real one has: when it is durable, and a little later when the
daemon hears of it. A crash between the two loses nothing but the news.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from propius.core import Commit, Put
from tests.simulation.clock import MILLISECOND_NS, SECOND_NS, Clock
from tests.simulation.faults import Fault, Faults

Tables = dict[str, dict[str, bytes]]


class VirtualStore:
    """What is durable, and the commits under way."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.tables: Tables = {}
        self.commits = 0
        self.slow = False
        self.failing = False
        self.committed: Callable[[int], None] = lambda _number: None
        self.failed: Callable[[int, str], None] = lambda _number, _reason: None
        self.applied: Callable[[Commit], None] = lambda _commit: None
        self._clock, self._faults = clock, faults
        self._random: Random = faults.random
        self._queue: deque[Commit] = deque()
        self._told_ns = 0
        self._life = 0  # grows with each crash, so that what belongs to the last life is ignored

    def load(self) -> Tables:
        """A copy of all that is durable."""
        return {table: dict(rows) for table, rows in self.tables.items()}

    def commit(self, commit: Commit) -> None:
        """Take a commit; it will be applied after those before it."""
        self._queue.append(commit)
        if len(self._queue) == 1:
            self._clock.after(self._latency_ns(), self._apply, self._life)

    def crash(self) -> None:
        """The daemon died: commits that are not durable yet are lost."""
        self._queue.clear()
        self._life += 1

    def _latency_ns(self) -> int:
        latency_ns = int(self._random.random() ** 2 * 4 * MILLISECOND_NS)
        if self.slow and self._faults.active:
            self._faults.struck(Fault.SLOW_COMMIT)
            latency_ns += int(self._random.random() * SECOND_NS)
        return latency_ns

    def _apply(self, life: int) -> None:
        if life != self._life:
            return
        commit = self._queue[0]
        if self.failing:
            self._faults.struck(Fault.FAILED_COMMIT)
            self.failed(commit.number, "no space left on device (simulated)")
            self._clock.after(SECOND_NS, self._apply, life)
            return
        self._queue.popleft()
        for change in commit.changes:
            rows = self.tables.setdefault(change.table, {})
            if isinstance(change, Put):
                rows[change.key] = change.value
            else:
                rows.pop(change.key, None)
        self.commits += 1
        told_ns = self._clock.now_ns + int(self._random.random() * MILLISECOND_NS)
        self._told_ns = max(self._told_ns, told_ns)
        self._clock.at(self._told_ns, self._tell, life, commit)
        if self._queue:
            self._clock.after(self._latency_ns(), self._apply, life)
        self.applied(commit)

    def _tell(self, life: int, commit: Commit) -> None:
        if life == self._life:
            self.committed(commit.number)
